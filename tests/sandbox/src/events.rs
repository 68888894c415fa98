//! The events of the sandbox as data: those that CloudTrail records, and finer ones for a live view.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde::Serialize;

/// The steps of a rotation, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Step {
    /// The function stores the pending value.
    #[serde(rename = "createSecret")]
    Create,
    /// The function gives the pending value to the target.
    #[serde(rename = "setSecret")]
    Set,
    /// The function tests the pending value. A test of the configuration runs this step alone.
    #[serde(rename = "testSecret")]
    Test,
    /// The function moves `AWSCURRENT`.
    #[serde(rename = "finishSecret")]
    Finish,
}

impl Step {
    /// All four steps, in the order of Secrets Manager.
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

/// The error of a step. `error_type` is the stable name; `message` is the text of the function or of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepError {
    /// `errorType` of the function's error, or the Lambda error that prevented the invocation.
    pub error_type: String,
    /// `errorMessage`, which may be empty.
    pub message: String,
}

/// One event, in sandbox time.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Sandbox time.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The secret.
    pub secret_arn: String,
    /// The version, by its id. A rotation names it with its ClientRequestToken.
    pub version_id: String,
    /// The kind of the event.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event")]
pub enum EventKind {
    /// A rotation has begun, or a rotation that was given up has been taken up again.
    RotationStarted,
    /// The version of the rotation is current and finishSecret has succeeded.
    RotationSucceeded,
    /// The service has given up the rotation after its last attempt; `AWSPENDING` stays where it is.
    RotationFailed {
        /// The last error.
        error: StepError,
    },
    /// A new version from elsewhere has taken `AWSPENDING` off the rotation's version.
    RotationAbandoned,
    /// The test of a configuration (`RotateImmediately=false`) has begun.
    TestRotationStarted,
    /// The test of the configuration has succeeded.
    TestRotationSucceeded,
    /// The test of the configuration has failed. The configuration stays as it is.
    TestRotationFailed {
        /// The error of the test.
        error: StepError,
    },
    /// An invocation of the function has begun.
    StepStarted {
        /// The attempt at the rotation, counted from 1.
        attempt: u32,
        /// The step.
        step: Step,
    },
    /// An invocation of the function has ended, with an answer or an error.
    StepEnded {
        /// The attempt at the rotation, counted from 1.
        attempt: u32,
        /// The step.
        step: Step,
        /// Whether the host started a process for it; `None` for functions that run elsewhere.
        cold: Option<bool>,
        /// Real time between request and answer.
        #[serde(serialize_with = "millis", rename = "duration_ms")]
        duration: Duration,
        /// `None` on success.
        error: Option<StepError>,
    },
    /// The staging labels of a version have changed.
    StagesChanged {
        /// The labels before.
        from: BTreeSet<String>,
        /// The labels after; empty when the version is deprecated or gone.
        to: BTreeSet<String>,
    },
}

impl EventKind {
    /// Whether CloudTrail records this event of the real service. The other events are the sandbox's own.
    pub fn is_recorded_by_aws(&self) -> bool {
        !matches!(self, Self::StepStarted { .. } | Self::StepEnded { .. } | Self::StagesChanged { .. })
    }
}

/// The end of the last rotation of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RotationOutcome {
    /// The rotation's version is current.
    Succeeded {
        /// The new version.
        version_id: String,
    },
    /// The service has given up the rotation.
    Failed {
        /// The version that the rotation leaves behind, with `AWSPENDING`.
        version_id: String,
        /// The last error.
        error: StepError,
    },
    /// A new version from elsewhere has ended the rotation.
    Abandoned {
        /// The version that lost `AWSPENDING`.
        version_id: String,
    },
    /// CancelRotateSecret, or the deletion of the secret, has ended the rotation.
    Cancelled {
        /// The version that the rotation leaves behind.
        version_id: String,
    },
    /// `RotateImmediately=false`: the function's testSecret succeeded.
    TestSucceeded {
        /// The temporary version, which is gone now.
        version_id: String,
    },
    /// `RotateImmediately=false`: the function's testSecret failed.
    TestFailed {
        /// The temporary version, which is gone now.
        version_id: String,
        /// The error of the test.
        error: StepError,
    },
}

impl RotationOutcome {
    /// Whether the rotation ended with [`Self::Succeeded`].
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
    /// The step.
    pub step: Step,
    /// Whether the host started a process for it; `None` for functions that run elsewhere.
    pub cold: Option<bool>,
    /// Real time between request and answer.
    pub duration: Duration,
    /// `None` on success.
    pub error: Option<StepError>,
}

/// One attempt at a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationAttempt {
    /// The rotation's version.
    pub version_id: String,
    /// The number of the attempt, counted from 1.
    pub attempt: u32,
    /// The steps that have ended, in order.
    pub steps: Vec<StepRun>,
}

/// A `RotationToken` that the sandbox gave to a function.
#[derive(Clone, PartialEq, Eq)]
pub struct RotationTokenSeen {
    /// The secret.
    pub secret_arn: String,
    /// The rotation's version.
    pub version_id: String,
    /// The token itself, so that a test can search for it where it must not be. `Debug` hides it.
    pub token: String,
    /// The number of PutSecretValue calls with this token.
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
