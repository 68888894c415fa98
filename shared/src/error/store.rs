//! The errors of calls to Secrets Manager.

/// A failed call to Secrets Manager.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {}{}", .kind.told().1, .detail.as_ref().map_or(String::new(), |d| format!(" ({d})")))]
pub struct StoreError {
    /// The API operation.
    pub operation: &'static str,
    /// The class, which decides how the caller goes on.
    pub kind: StoreErrorKind,
    /// The error code of the service, or the endpoint that did not answer; never a secret value.
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
    /// A staging label is not on the expected version; nothing was changed.
    Conflict,
    /// The role may not make the call.
    AccessDenied,
    /// KMS refused to encrypt or decrypt.
    Kms,
    /// The service throttled the call, after retries.
    Throttled,
    /// There was no connection, or no answer in time.
    Unreachable,
    /// The service failed, after retries, or gave an answer that makes no sense.
    Service,
    /// The service refuses the call in the present state of the secret, for example while a rotation is not complete.
    NotNow,
    /// The service refused the call for another reason.
    Rejected,
}

impl StoreErrorKind {
    /// The stable name, and the class's part of the message.
    fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::SecretNotFound => {
                ("SecretNotFound", "the secret does not exist in this Region and account, or has no value yet")
            }
            Self::Binary => ("BinarySecret", "the value is a SecretBinary"),
            Self::Conflict => ("StageConflict", "the version stage is not where it was expected; nothing was changed"),
            Self::AccessDenied => ("AccessDenied", "access denied: give the function's role this action on the secret"),
            Self::Kms => (
                "KmsDenied",
                "KMS refused: give the function's role kms:Decrypt and kms:GenerateDataKey on the secret's key, and check that the key is enabled",
            ),
            Self::Throttled => {
                ("Throttled", "throttled, also when tried again: Secrets Manager will repeat the rotation")
            }
            Self::Unreachable => ("Unreachable", "no answer from the endpoint: VPC endpoint or NAT missing?"),
            Self::Service => ("ServiceFailure", "the service failed: Secrets Manager will repeat the rotation"),
            Self::NotNow => (
                "CallRejected",
                "the service does not do that while the secret is as it is: a rotation may not be complete",
            ),
            Self::Rejected => ("CallRejected", "the service refused the call"),
        }
    }
}

impl StoreError {
    /// The stable name, see `RotationError::name`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.kind.told().0
    }
}

/// The innermost reason of an error, such as "Connection refused". The layers above only repeat that the call failed.
#[must_use]
pub fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
