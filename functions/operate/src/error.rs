//! Why an action was not done: every variant has one stable name, says what to do, and holds no value.

use std::time::SystemTime;

use lambda_runtime::Diagnostic;
use rotation::error::RotationError;
use rotation::event::VersionId;
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
            Self::TooYoungToAbort { .. } => "TooYoungToAbort",
            Self::Rotation(error) => error.name(),
        }
    }
}

impl From<OperateError> for Diagnostic {
    fn from(error: OperateError) -> Self {
        Self { error_type: error.name().to_owned(), error_message: error.to_string() }
    }
}
