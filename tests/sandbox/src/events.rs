//! What happened in the sandbox, as data: the events that CloudTrail would record, and finer ones for a live view.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde::Serialize;

/// The steps of a rotation, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Step {
    /// The function puts the pending value.
    #[serde(rename = "createSecret")]
    Create,
    /// The function hands the pending value to the target.
    #[serde(rename = "setSecret")]
    Set,
    /// The function tests the pending value; also run alone, as a test of the configuration.
    #[serde(rename = "testSecret")]
    Test,
    /// The function moves `AWSCURRENT`.
    #[serde(rename = "finishSecret")]
    Finish,
}

impl Step {
    /// All four, in the order in which Secrets Manager runs them.
    pub const ALL: [Self; 4] = [Self::Create, Self::Set, Self::Test, Self::Finish];

    /// The name in the event that the function receives.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "createSecret",
            Self::Set => "setSecret",
            Self::Test => "testSecret",
            Self::Finish => "finishSecret",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a step failed. `error_type` is the stable name; the message is the function's or the host's own text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepError {
    /// `errorType` of the function's error, or the Lambda error that kept it from running.
    pub error_type: String,
    /// `errorMessage`, possibly empty.
    pub message: String,
}

/// One event. Its time is the sandbox's.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Sandbox time.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The secret.
    pub secret_arn: String,
    /// The version, which a rotation names by its ClientRequestToken.
    pub version_id: String,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event")]
pub enum EventKind {
    /// A rotation has begun, or one that had been given up has been taken up again.
    RotationStarted,
    /// The version of the rotation is current and finishSecret has succeeded.
    RotationSucceeded,
    /// The rotation has been given up after its last attempt; `AWSPENDING` is left where it is.
    RotationFailed {
        /// The last error.
        error: StepError,
    },
    /// Somebody else's new version has taken `AWSPENDING` off the rotation's version.
    RotationAbandoned,
    /// The test of a configuration (`RotateImmediately=false`) has begun.
    TestRotationStarted,
    /// The configuration works.
    TestRotationSucceeded,
    /// The configuration doesn't work; it stays as it is.
    TestRotationFailed {
        /// Why.
        error: StepError,
    },
    /// The function is being invoked.
    StepStarted {
        /// 1 is the first attempt at the rotation.
        attempt: u32,
        /// Which step.
        step: Step,
    },
    /// The function has answered, or failed to.
    StepEnded {
        /// 1 is the first attempt at the rotation.
        attempt: u32,
        /// Which step.
        step: Step,
        /// Whether a process was started for it; unknown for functions that run elsewhere.
        cold: Option<bool>,
        /// Real time between request and answer.
        #[serde(serialize_with = "millis", rename = "duration_ms")]
        duration: Duration,
        /// `None` on success.
        error: Option<StepError>,
    },
    /// The labels of a version have changed.
    StagesChanged {
        /// Before.
        from: BTreeSet<String>,
        /// After; empty when the version is deprecated or gone.
        to: BTreeSet<String>,
    },
}

impl EventKind {
    /// Whether CloudTrail records it for the real service (the others are the sandbox's own).
    pub fn is_recorded_by_aws(&self) -> bool {
        !matches!(self, Self::StepStarted { .. } | Self::StepEnded { .. } | Self::StagesChanged { .. })
    }
}

/// How the last rotation of a secret ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RotationOutcome {
    /// The version is current.
    Succeeded {
        /// The new version.
        version_id: String,
    },
    /// Given up.
    Failed {
        /// The version that the rotation leaves behind.
        version_id: String,
        /// The last error.
        error: StepError,
    },
    /// Ended by somebody else's new version.
    Abandoned {
        /// The version that lost `AWSPENDING`.
        version_id: String,
    },
    /// Ended by CancelRotateSecret, or by the deletion of the secret.
    Cancelled {
        /// The version that the rotation leaves behind.
        version_id: String,
    },
    /// `RotateImmediately=false`: the function's testSecret succeeded.
    TestSucceeded {
        /// The temporary version, gone by now.
        version_id: String,
    },
    /// `RotateImmediately=false`: the function's testSecret failed.
    TestFailed {
        /// The temporary version, gone by now.
        version_id: String,
        /// Why.
        error: StepError,
    },
}

impl RotationOutcome {
    /// Whether it is [`Self::Succeeded`].
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Succeeded { .. })
    }

    /// The rotation's version.
    pub fn version_id(&self) -> &str {
        match self {
            Self::Succeeded { version_id }
            | Self::Failed { version_id, .. }
            | Self::Abandoned { version_id }
            | Self::Cancelled { version_id }
            | Self::TestSucceeded { version_id }
            | Self::TestFailed { version_id, .. } => version_id,
        }
    }
}

/// One invocation of the rotation function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRun {
    /// Which step.
    pub step: Step,
    /// Whether a process was started for it; unknown for functions that run elsewhere.
    pub cold: Option<bool>,
    /// Real time between request and answer.
    pub duration: Duration,
    /// `None` on success.
    pub error: Option<StepError>,
}

/// One try at a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationAttempt {
    /// The rotation's version.
    pub version_id: String,
    /// 1 is the first.
    pub attempt: u32,
    /// The steps that have ended, in order.
    pub steps: Vec<StepRun>,
}

/// A `RotationToken` that the sandbox has handed to a function.
#[derive(Clone, PartialEq, Eq)]
pub struct RotationTokenSeen {
    /// The secret.
    pub secret_arn: String,
    /// The rotation's version.
    pub version_id: String,
    /// The token itself, so that a test can look for it where it must not be. Not in `Debug`.
    pub token: String,
    /// How many PutSecretValue calls passed it on.
    pub passed_on: u32,
}

impl std::fmt::Debug for RotationTokenSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RotationTokenSeen")
            .field("secret_arn", &self.secret_arn)
            .field("version_id", &self.version_id)
            .field("passed_on", &self.passed_on)
            .finish_non_exhaustive()
    }
}

pub(crate) fn rfc3339<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    match jiff::Timestamp::try_from(*time) {
        Ok(timestamp) => serializer.serialize_str(&format!("{timestamp:.3}")),
        Err(error) => Err(serde::ser::Error::custom(error)),
    }
}

fn millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3)
}
