//! What is current after a promotion that did not verify.

use super::store::StoreError;
use crate::versions::VersionId;

/// What became of `AWSCURRENT` after a failed verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The version it replaced is current again.
    Yes(VersionId),
    /// Somebody changed the secret in the meantime: their version stands.
    ChangedSince,
    /// There was no version to put back, or its overlap is over.
    NothingToRestore,
    /// Data may be encrypted already with a key that the replaced version does not hold.
    MustStay,
    /// Putting it back failed as well.
    Failed(StoreError),
}

impl std::fmt::Display for Restored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Yes(version) => write!(f, "version {version} is AWSCURRENT again"),
            Self::ChangedSince => f.write_str("the secret was changed since, and that change stands"),
            Self::NothingToRestore => {
                f.write_str("it is still AWSCURRENT, because there is no previous value that the target would accept")
            }
            Self::MustStay => f.write_str(
                "it is still AWSCURRENT, because data may already be encrypted with its primary key, which the version before does not hold (or cannot be read)",
            ),
            Self::Failed(error) => write!(f, "putting the previous version back FAILED ({error}): do it by hand now"),
        }
    }
}

impl Restored {
    /// Whether the value that did not verify is still the current one.
    pub(super) fn leaves_failed_value(&self) -> bool {
        matches!(self, Self::NothingToRestore | Self::MustStay | Self::Failed(_))
    }
}
