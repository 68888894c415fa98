//! What the stack declares about the consumers of a keyring.

use std::time::Duration;

use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::policy::MAX_OVERLAP;

/// How long consumers cache a secret, unless the stack sets `CONSUMERS_CACHE_TIME`.
pub const DEFAULT_CACHE_TIME: Duration = Duration::from_secs(60 * 60);

const CACHE_TIME: &str = "CONSUMERS_CACHE_TIME";
pub(crate) const KEYRING_AWARE: &str = "CONSUMERS_KEYRING_AWARE";

/// What the stack declares about the consumers of a keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumers {
    /// The longest time for which a consumer caches a secret (`CONSUMERS_CACHE_TIME`, 0 s to 30 days).
    pub cache_time: Duration,
    /// Whether all consumers read the whole keyring, even if no application reports it (`CONSUMERS_KEYRING_AWARE`).
    pub keyring_aware: bool,
}

impl Default for Consumers {
    fn default() -> Self {
        Self { cache_time: DEFAULT_CACHE_TIME, keyring_aware: false }
    }
}

impl Consumers {
    /// Reads `CONSUMERS_CACHE_TIME` and `CONSUMERS_KEYRING_AWARE`.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`].
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        environment.refuse_unknown("CONSUMERS_", &[CACHE_TIME, KEYRING_AWARE])?;
        let cache_time = environment.duration(CACHE_TIME)?.unwrap_or(DEFAULT_CACHE_TIME);
        if cache_time > MAX_OVERLAP {
            let problem = "expected at most 30d".to_owned();
            return Err(RotationError::InvalidConfiguration { variable: CACHE_TIME.to_owned(), problem });
        }
        let keyring_aware = environment.parse(KEYRING_AWARE, "true or false")?.unwrap_or(false);
        Ok(Self { cache_time, keyring_aware })
    }
}
