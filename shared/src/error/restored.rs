//! What is current after a promotion that failed its verification.

use super::store::StoreError;
use crate::versions::VersionId;

/// The place of `AWSCURRENT` after a failed verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The previous version is current again.
    Yes(VersionId),
    /// Another writer changed the secret in the meantime, and that version stands.
    ChangedSince,
    /// There was no previous version, or its overlap is over.
    NothingToRestore,
    /// Data may already be encrypted with a key that the previous version does not hold.
    MustStay,
    /// The move back failed as well.
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
    /// Whether the value that failed its verification is still current.
    pub(super) fn leaves_failed_value(&self) -> bool {
        matches!(self, Self::NothingToRestore | Self::MustStay | Self::Failed(_))
    }
}
