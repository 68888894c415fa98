//! Why an action was not done: every variant has one stable name, says what to do, and holds no value.

use std::time::{Duration, SystemTime};

use lambda_runtime::Diagnostic;
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::store::StoreError;
use rotation::time::format_timestamp;
use serde::Serialize;

use crate::action::Action;

rotation::named_errors! {
    /// Why an action was not done, or not to its end.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    #[non_exhaustive]
    pub enum OperateError {
        /// The event is not a request.
        #[error("event member {member}: {problem}")]
        InvalidRequest {
            /// The member.
            member: String,
            /// What is wrong with it.
            problem: String,
        },
        /// This deployment of the function is not for that.
        #[error(
            "{action} is not among the actions of this function ({allowed}; environment variable ALLOWED_ACTIONS): invoke the one that is for it"
        )]
        ActionNotAllowed {
            /// What was asked for.
            action: Action,
            /// What may be asked for.
            allowed: String,
        },
        /// What the secret holds is not known: no function rotates it, or another one than this project's.
        #[error("{}", not_managed(.name, .function.as_deref()))]
        NotManaged {
            /// The secret's name.
            name: String,
            /// The function that rotates it.
            function: Option<String>,
        },
        /// A rotation is too young to be stuck.
        #[error("the rotation to version {version} began at {}, and the secret was last changed at {}: it may still come to its end; abort it from {} on", format_timestamp(*.began), format_timestamp(*.changed), format_timestamp(*.from))]
        TooYoungToAbort {
            /// The version.
            version: VersionId,
            /// When it was created.
            began: SystemTime,
            /// When the secret was last changed: by a step of it, or by somebody.
            changed: SystemTime,
            /// From when on it can be given up.
            from: SystemTime,
        },
        /// A rotation is not complete.
        #[error(
            "a rotation or rollback of secret {name} to version {version} is open: wait for its end, or give the rotation up with `rotation abort`; `rotation rollback` ends a rollback that died"
        )]
        RotationOpen {
            /// The secret's name.
            name: String,
            /// The version.
            version: VersionId,
        },
        /// There is no previous value.
        #[error(
            "secret {name} has no previous value to go back to: nothing was replaced yet, it was revoked, or its overlap is over; replace the current value with `rotation rotate`, or with `rotation put` where people rotate it"
        )]
        NothingToGoBackTo {
            /// The secret's name.
            name: String,
        },
        /// What would be current again, or is, has leaked.
        #[error(
            "{what} is marked as compromised or revoked, and never becomes current again; if an action was begun, run it again to finish it"
        )]
        Compromised {
            /// A version or a key.
            what: String,
        },
        /// What the action made current, or was about to, did not verify.
        #[error("the value to make current did not verify: {reason}; {outcome}")]
        DidNotVerify {
            /// Why not.
            reason: Box<RotationError>,
            /// What is current now.
            outcome: String,
        },
        /// Nothing is taken away while the current value does not work.
        #[error("the current value does not verify, so nothing was revoked: {0}")]
        CurrentDoesNotVerify(Box<RotationError>),
        /// The action makes no sense for this kind of secret.
        #[error("{action} is not for this kind of secret: {instead}")]
        NotForThisKind {
            /// Which.
            action: Action,
            /// What to do instead.
            instead: &'static str,
        },
        /// The action needs a confirmation.
        #[error(
            "this replaces what is in use of {name} at once, or gives keys up: confirm it with \"confirm\": \"{name}\""
        )]
        NotConfirmed {
            /// The secret's name.
            name: String,
        },
        /// A rotation that the action started has not come to its end in time, or servers have to be restarted.
        #[error("{}", not_finished(.version, .function.as_deref()))]
        NotFinished {
            /// The version.
            version: VersionId,
            /// The rotation function; `None` when the version is current, and servers do not hold it yet.
            function: Option<String>,
        },
        /// A rotation that an action started failed.
        #[error(
            "the rotation to version {version} failed; what was exposed is still accepted: {}; repair it, and run the same request again",
            .reason.clone().unwrap_or_else(|| format!("the reason is in the log of {function}"))
        )]
        RotationFailed {
            /// The version.
            version: VersionId,
            /// The rotation function.
            function: String,
            /// What its log says.
            reason: Option<String>,
        },
        /// The censuses say nothing of the keyring as it is.
        #[error("the censuses are of no use: {problem}")]
        CensusOutdated {
            /// Why not.
            problem: String,
        },
        /// Whoever still encrypts with an older ring may have done so after the second census.
        #[error("the second census has to begin {} minutes after the end of the first: count again from {} on", .apart.as_secs().div_ceil(60), format_timestamp(*.from))]
        CensusesTooClose {
            /// How far apart they have to be.
            apart: Duration,
            /// From when on the second may begin.
            from: SystemTime,
        },
        /// Rows need the keys that might go.
        #[error("no key can be retired: {problem}")]
        KeysStillNeeded {
            /// Which rows.
            problem: String,
        },
        /// A key that left the ring would be lost.
        #[error(
            "there is no archive for the keys of secret {name}: set KEY_ARCHIVE_SECRET for this function and for the one that rotates it; nothing was retired"
        )]
        NoArchive {
            /// The secret's name.
            name: String,
        },
        /// The state machine that re-encrypts rows could not be started.
        #[error("{state_machine} could not be started: {problem}")]
        NotStarted {
            /// Its ARN.
            state_machine: String,
            /// Why.
            problem: String,
        },
        /// What also ends rotations.
        #[error(transparent)]
        Rotation(#[from] RotationError),
    }
}

/// Why a secret is not operated on. No command: which function is right depends on what the secret holds, and the wrong one destroys it.
fn not_managed(name: &str, function: Option<&str>) -> String {
    match function {
        Some(function) => format!(
            "operate has only status, doctor and abort for secret {name}: it is rotated by {function}, and only names that end with admin-token, encryption-key or issued-credential say what a secret holds; ask whoever runs that function, which may rotate it well"
        ),
        None => format!(
            "operate has only put and rollback for secret {name}: no function rotates it; have it rotated by the function for what it holds, a token, a keyring or a credential, as infra/ADOPT.md says under \"Adopt an existing secret\""
        ),
    }
}

/// What an action still waits for.
fn not_finished(version: &VersionId, function: Option<&str>) -> String {
    match function {
        Some(function) => format!(
            "the rotation to version {version} has not ended yet; what was exposed is still accepted: look at the log of {function}, and run the same request again to finish it"
        ),
        None => format!(
            "version {version} has fresh tokens and is current, and servers that were started before refuse them: requests are refused, and what was exposed is accepted, until every server and client is restarted (the function deliver restarts consumers); then run the same request again, or wait for the sweep"
        ),
    }
}

impl From<StoreError> for OperateError {
    fn from(error: StoreError) -> Self {
        Self::Rotation(error.into())
    }
}

impl OperateError {
    /// The stable name: `errorType` of the invocation.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rotation(error) => error.name(),
            own => own.variant(),
        }
    }
}

/// An error, as an answer tells it that is none itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    error: &'static str,
    message: String,
}

impl Problem {
    pub(crate) fn of(error: &OperateError) -> Self {
        Self { error: error.name(), message: error.to_string() }
    }
}

impl From<OperateError> for Diagnostic {
    fn from(error: OperateError) -> Self {
        Self { error_type: error.name().to_owned(), error_message: error.to_string() }
    }
}
