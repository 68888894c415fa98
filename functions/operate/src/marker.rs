//! The staging labels of this function's own, by which an action that died is finished by the next try.
//!
//! Each label begins with a name and ends with a digest of the version. A staging label is on one version only, so an action that attaches
//! a label takes none from another version.
//!
//! `ROTATION-EXPOSED` says nearly the same as `ROTATION-COMPROMISED`, and is needed for text keyrings. A text has no member in which a key
//! could be marked as compromised. `ROTATION-COMPROMISED` goes when the compromise has come to its end, and only this label keeps a later
//! rollback from making the leaked key primary again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rotation::delivery::COMPROMISED;
use rotation::event::{VersionId, digest};
use rotation::store::Described;
use rotation::versions::{OPERATION, Stage, Versions};

use crate::action::Action;

/// What a staging label of this function's own says of its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// An action has stored the version before it moves `AWSCURRENT` there. A rollback leaves the label there until the version is proven.
    Operation,
    /// The last rollback has made the version. While its token, or primary key, is in use, there is nothing to roll back.
    RolledBack,
    /// The version's own token has to be refused. The label stays until that is proven.
    Revoked,
    /// The previous token that the version holds has to be refused. The label stays until that is proven.
    PreviousRevoked,
    /// What was in use in the version has leaked, and so has the previous token that it holds. The label stays until that is replaced, and
    /// the tokens are proven dead.
    Compromised,
    /// The primary key of the version has leaked, in a keyring that has no place to say it, and has been replaced.
    Exposed,
}

impl Marker {
    /// How the label begins.
    fn name(self) -> &'static str {
        match self {
            Self::Operation => OPERATION,
            Self::RolledBack => "ROTATION-ROLLBACK",
            Self::Revoked => "ROTATION-REVOKED",
            Self::PreviousRevoked => "ROTATION-PREVIOUS-REVOKED",
            Self::Compromised => COMPROMISED,
            Self::Exposed => "ROTATION-EXPOSED",
        }
    }

    /// The label that says it of this version.
    #[must_use]
    pub fn on(self, version: &VersionId) -> Stage {
        Stage::Other(format!("{}-{}", self.name(), &digest([version.as_str()])[..8]))
    }

    fn is(self, stage: &Stage) -> bool {
        let rest = stage.as_str().strip_prefix(self.name()).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| rest.len() == 8)
    }

    /// The versions that carry it.
    pub fn holders(self, versions: &Versions) -> impl Iterator<Item = &VersionId> {
        versions.all().filter(move |(_, stage)| self.is(stage)).map(|(version, _)| version)
    }
}

/// How the label begins that tells when a keyring was put back: the Unix time follows. The version that is current again is the same as
/// before, and does not tell that consumers may have loaded another ring meanwhile.
const PUT_BACK: &str = "ROTATION-PUT-BACK-";

/// The label of a keyring that is put back by an action which read the secret at `now`.
pub(crate) fn put_back_stage(now: SystemTime) -> Stage {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Stage::Other(format!("{PUT_BACK}{seconds}"))
}

/// Every time at which a keyring was put back, by the version with that label.
pub(crate) fn put_back_times(versions: &Versions) -> impl Iterator<Item = (&VersionId, &Stage, SystemTime)> {
    versions.all().filter_map(|(version, stage)| {
        let seconds = stage.as_str().strip_prefix(PUT_BACK)?.parse().ok()?;
        Some((version, stage, UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?))
    })
}

/// The action that died half way, by the labels that it left on the secret. A compromise revokes as well.
#[must_use]
pub fn unfinished(secret: &Described) -> Option<Action> {
    let has = |marker: Marker| marker.holders(&secret.versions).next().is_some();
    if has(Marker::Compromised) {
        return Some(Action::Compromise);
    }
    if has(Marker::Revoked) || has(Marker::PreviousRevoked) {
        return Some(Action::Revoke);
    }
    is_half_rolled_back(secret).then_some(Action::Rollback)
}

/// Whether a rollback has made what is current and has not proven it.
pub(crate) fn is_half_rolled_back(secret: &Described) -> bool {
    let current = secret.versions.holder(&Stage::Current);
    let holds = |marker: Marker| marker.holders(&secret.versions).any(|holder| Some(holder) == current);
    holds(Marker::Operation) && holds(Marker::RolledBack)
}

/// The version with `AWSPENDING`, when it is not the current one.
#[must_use]
pub fn open_rotation(secret: &Described) -> Option<&VersionId> {
    let current = secret.versions.holder(&Stage::Current);
    secret.versions.holder(&Stage::Pending).filter(|pending| Some(*pending) != current)
}

/// Whether a version is not in use, by consumers neither: what its labels tell is all that keeps it.
pub(crate) fn is_dead(versions: &Versions, version: &VersionId) -> bool {
    versions.stages(version).all(|stage| matches!(stage, Stage::Other(_)) && !stage.is_of_delivery())
}
