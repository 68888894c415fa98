//! Metrics for operators. They never hold a secret value.

use std::time::Duration;

use crate::error::RotationError;
use crate::event::Step;
use crate::report::{Outcome, Report};

/// The CloudWatch namespace of all metrics.
pub const NAMESPACE: &str = "SecretRotation";

/// The longest time to publish metrics. A rotation never fails because of metrics.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

/// The unit of a metric's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Occurrences.
    Count,
    /// Seconds.
    Seconds,
    /// Hours. CloudWatch has no unit for them.
    Hours,
}

/// One value of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Datum {
    /// The metric's name.
    pub name: &'static str,
    /// The metric's dimensions; none for the aggregate over all functions.
    pub dimensions: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
    /// The value's unit.
    pub unit: Unit,
}

/// The metrics of one invocation. A successful step in the middle of a rotation has none.
#[must_use]
pub fn metrics(function: &str, step: Option<Step>, result: &Result<Report, RotationError>) -> Vec<Datum> {
    let function = || ("Function", function.to_owned());
    let count = |name, dimensions| Datum { name, dimensions, value: 1.0, unit: Unit::Count };
    match result {
        Err(error) => {
            let step = step.map_or("none", Step::name).to_owned();
            let dimensions = vec![function(), ("Step", step), ("ErrorType", error.name().to_owned())];
            vec![
                count("RotationFailed", dimensions),
                count("RotationFailed", vec![function()]),
                count("RotationFailed", vec![]),
            ]
        }
        Ok(Report { outcome: Outcome::Promoted(promotion) | Outcome::PromotedEarlier(promotion), .. }) => {
            #[expect(clippy::cast_precision_loss, reason = "a rotation takes less than 2^52 seconds")]
            let seconds = promotion.rotation_seconds as f64;
            let mut data = vec![
                count("RotationSucceeded", vec![function()]),
                count("RotationSucceeded", vec![]),
                Datum { name: "RotationDuration", dimensions: vec![function()], value: seconds, unit: Unit::Seconds },
            ];
            if promotion.overlap_shortened_from.is_some() {
                data.push(count("OverlapShortened", vec![function()]));
            }
            data
        }
        Ok(Report { outcome: Outcome::FirstValue, .. }) => {
            vec![count("RotationSucceeded", vec![function()]), count("RotationSucceeded", vec![])]
        }
        Ok(_) => vec![],
    }
}
