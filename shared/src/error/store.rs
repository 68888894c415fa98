//! What can go wrong with a call to Secrets Manager.

/// A failed call to Secrets Manager.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {}{}", .kind.explanation(), .detail.as_ref().map_or(String::new(), |d| format!(" ({d})")))]
pub struct StoreError {
    /// The API operation.
    pub operation: &'static str,
    /// The class, which decides what happens next.
    pub kind: StoreErrorKind,
    /// The error code of the service, or the endpoint that could not be reached; never a value.
    pub detail: Option<String>,
}

/// The classes of a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The secret does not exist.
    SecretNotFound,
    /// The value is a SecretBinary.
    Binary,
    /// A stage is not where the call expected it: nothing was changed.
    Conflict,
    /// The role may not make the call.
    AccessDenied,
    /// KMS refused to encrypt or decrypt.
    Kms,
    /// The service throttled the call, after retries.
    Throttled,
    /// No connection, or no answer in time.
    Unreachable,
    /// The service failed, after retries, or gave an answer that makes no sense.
    Service,
    /// The secret is in a state in which the service does not do that: a rotation that is not complete, for one.
    NotNow,
    /// The service refused the call for another reason.
    Rejected,
}

impl StoreErrorKind {
    fn explanation(self) -> &'static str {
        match self {
            Self::SecretNotFound => "the secret does not exist in this Region and account, or has no value yet",
            Self::Binary => "the value is a SecretBinary",
            Self::Conflict => "the version stage is not where it was expected; nothing was changed",
            Self::AccessDenied => "access denied: give the function's role this action on the secret",
            Self::Kms => {
                "KMS refused: give the function's role kms:Decrypt and kms:GenerateDataKey on the secret's key, and check that the key is enabled"
            }
            Self::Throttled => "throttled, also when tried again: Secrets Manager will repeat the rotation",
            Self::Unreachable => "no answer from the endpoint: VPC endpoint or NAT missing?",
            Self::Service => "the service failed: Secrets Manager will repeat the rotation",
            Self::NotNow => "the service does not do that while the secret is as it is: a rotation may not be complete",
            Self::Rejected => "the service refused the call",
        }
    }
}

impl StoreError {
    /// The stable name, see `RotationError::name`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.kind {
            StoreErrorKind::SecretNotFound => "SecretNotFound",
            StoreErrorKind::Binary => "BinarySecret",
            StoreErrorKind::Conflict => "StageConflict",
            StoreErrorKind::AccessDenied => "AccessDenied",
            StoreErrorKind::Kms => "KmsDenied",
            StoreErrorKind::Throttled => "Throttled",
            StoreErrorKind::Unreachable => "Unreachable",
            StoreErrorKind::Service => "ServiceFailure",
            StoreErrorKind::NotNow | StoreErrorKind::Rejected => "CallRejected",
        }
    }
}
