//! Why an action was not done: every variant has one stable name, says what to do, and holds no value.

use std::time::SystemTime;

use lambda_runtime::Diagnostic;
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::keyring::KeyId;
use rotation::store::StoreError;
use rotation::time::format_timestamp;

use crate::request::Action;

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
    /// The secret is not rotated by this project's functions.
    #[error("secret {name} is not rotated by a function whose name ends with admin-token or encryption-key{}: start with `aws secretsmanager rotate-secret --secret-id {name} --rotation-lambda-arn …`", .function.as_ref().map_or(String::new(), |function| format!(" but by {function}")))]
    NotManaged {
        /// The secret's name.
        name: String,
        /// The function that rotates it.
        function: Option<String>,
    },
    /// The action makes no sense for this kind of secret.
    #[error("{action} is not for this kind of secret: {instead}")]
    NotForThisKind {
        /// The action.
        action: Action,
        /// What to do instead.
        instead: &'static str,
    },
    /// The secret's name was not confirmed.
    #[error("compromise replaces what applications use at once: confirm it with \"confirm\": \"{name}\"")]
    NotConfirmed {
        /// The secret's name.
        name: String,
    },
    /// A rotation is not complete.
    #[error("a rotation of secret {name} to version {version} is open: wait for its end, or end it with abort")]
    RotationOpen {
        /// The secret's name.
        name: String,
        /// The version with `AWSPENDING`.
        version: VersionId,
    },
    /// There is no value to go back to.
    #[error("secret {name} has no value before the current one to go back to")]
    NothingToGoBackTo {
        /// The secret's name.
        name: String,
    },
    /// What would become current again is known to others.
    #[error("the value before is marked as compromised ({what}): it is never used again; rotate instead")]
    Compromised {
        /// The key or the version.
        what: String,
    },
    /// A rotation is too young to be stuck.
    #[error("the rotation to version {version} began at {}, and may still come to its end: abort it from {} on", format_timestamp(*.began), format_timestamp(*.from))]
    TooYoungToAbort {
        /// The version.
        version: VersionId,
        /// When it was created.
        began: SystemTime,
        /// From when on it can be given up.
        from: SystemTime,
    },
    /// The current value does not work, so nothing is taken away from it.
    #[error("the current value does not verify, so nothing was changed: {0}")]
    CurrentDoesNotVerify(Box<RotationError>),
    /// The value that became current does not work; the one before is back.
    #[error("the new current value did not verify ({reason}); {outcome}")]
    DidNotVerify {
        /// Why.
        reason: Box<RotationError>,
        /// What is current now.
        outcome: String,
    },
    /// The rotation that the action started has not come to its end in time.
    #[error(
        "the rotation to version {version} has not come to its end yet: run the action again, it goes on from here; what keeps it is in the log of {function}"
    )]
    NotFinished {
        /// The version.
        version: VersionId,
        /// The rotation function.
        function: String,
    },
    /// A key is not where it should be.
    #[error("key {0} is not in the keyring any more")]
    KeyGone(KeyId),
    /// What also ends rotations.
    #[error(transparent)]
    Rotation(#[from] RotationError),
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
            Self::InvalidRequest { .. } => "InvalidRequest",
            Self::ActionNotAllowed { .. } => "ActionNotAllowed",
            Self::NotManaged { .. } => "NotManaged",
            Self::NotForThisKind { .. } => "NotForThisKind",
            Self::NotConfirmed { .. } => "NotConfirmed",
            Self::RotationOpen { .. } => "RotationOpen",
            Self::NothingToGoBackTo { .. } => "NothingToGoBackTo",
            Self::Compromised { .. } => "Compromised",
            Self::TooYoungToAbort { .. } => "TooYoungToAbort",
            Self::CurrentDoesNotVerify(_) => "CurrentDoesNotVerify",
            Self::DidNotVerify { .. } => "DidNotVerify",
            Self::NotFinished { .. } => "NotFinished",
            Self::KeyGone(_) => "KeyGone",
            Self::Rotation(error) => error.name(),
        }
    }
}

impl From<OperateError> for Diagnostic {
    fn from(error: OperateError) -> Self {
        Self { error_type: error.name().to_owned(), error_message: error.to_string() }
    }
}
