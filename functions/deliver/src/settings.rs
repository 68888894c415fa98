//! Settings of the function: which consumers each secret has, and the limits of a delivery.
//!
//! The environment names the consumers. A tag of a secret never does: a tag must not say where a value is sent.

mod consumers;
mod entries;

use std::time::Duration;

use rotation::environment::Environment;
use rotation::error::RotationError;

use consumers::invalid;

pub use consumers::{CONSUMERS, Consumer, Consumers};

/// How long a deployment may be in progress before it is told as failed, unless the stack sets `DELIVERY_LIMIT`.
pub const DEFAULT_DELIVERY_LIMIT: Duration = Duration::from_secs(3 * 60 * 60);
/// The bounds of `DELIVERY_LIMIT`. A rolling deployment takes minutes, and an alarm has to ring within days.
const DELIVERY_LIMITS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5 * 60)..=Duration::from_secs(7 * 24 * 60 * 60);

const DELIVERY_LIMIT: &str = "DELIVERY_LIMIT";

/// What the environment says of deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The consumers of every secret (`CONSUMERS`).
    pub consumers: Consumers,
    /// How long a deployment may be in progress (`DELIVERY_LIMIT`, 5 minutes to 7 days).
    pub delivery_limit: Duration,
}

impl Settings {
    /// Reads `CONSUMERS`, `CONSUMED_SECRETS`, `SECRET_NAME_PREFIX` and `DELIVERY_LIMIT`.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] names the variable, and the entry of `CONSUMERS`.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let delivery_limit = environment.duration(DELIVERY_LIMIT)?.unwrap_or(DEFAULT_DELIVERY_LIMIT);
        if !DELIVERY_LIMITS.contains(&delivery_limit) {
            return Err(invalid(DELIVERY_LIMIT, "expected a duration from 5m to 7d"));
        }
        Ok(Self { consumers: Consumers::from_environment(environment)?, delivery_limit })
    }
}
