//! The versions of a secret and their staging labels, as Secrets Manager reports them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The id of a version of a secret: the ClientRequestToken of the call that wrote the version. It is not secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(transparent)]
pub struct VersionId(String);

impl VersionId {
    /// Takes an id that Secrets Manager gave.
    #[must_use]
    pub fn new(id: String) -> Self {
        Self(id)
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first 32 hexadecimal digits of SHA-256 (FIPS 180-4) over the parts, each followed by a zero byte. It is an id
/// for all parts together.
pub fn digest<T: AsRef<str>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_ref());
        hash.update([0]);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A staging label, which Secrets Manager's API calls a version stage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// `AWSCURRENT`
    Current,
    /// `AWSPENDING`
    Pending,
    /// `AWSPREVIOUS`
    Previous,
    /// Any other label.
    Other(String),
}

impl Stage {
    /// The label as Secrets Manager spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Current => "AWSCURRENT",
            Self::Pending => "AWSPENDING",
            Self::Previous => "AWSPREVIOUS",
            Self::Other(name) => name,
        }
    }
}

/// The prefix of the labels that record the former place of `AWSPREVIOUS`.
const RESTORES: &str = "ROTATION-RESTORE-";

impl Stage {
    /// The label on the version that carried `AWSPREVIOUS` before the rotation to `version`. If `version` is rolled
    /// back, that version carries `AWSPREVIOUS` again. Each rotation has a label of its own.
    #[must_use]
    pub fn restored_after(version: &VersionId) -> Self {
        Self::Other(format!("{RESTORES}{}", &digest([version.as_str()])[..8]))
    }

    /// Whether the label is one of [`restored_after`](Self::restored_after).
    #[must_use]
    pub fn is_restored_after_any(&self) -> bool {
        self.as_str().starts_with(RESTORES)
    }
}

/// The label of the version that every consumer has.
pub(crate) const DELIVERED: &str = "ROTATION-DELIVERED";
/// The beginning of the label of a delivery that has begun. The Unix time follows.
pub(crate) const DELIVERING: &str = "ROTATION-DELIVERING-";
/// The beginning of the label of the consumers that have the delivered version. Eight digits of a digest follow.
pub(crate) const DELIVERED_TO: &str = "ROTATION-DELIVERED-TO-";

impl Stage {
    /// Whether the label tells of a delivery, see [`crate::delivery`]. Such a label is only on versions that are or
    /// were current.
    #[must_use]
    pub fn is_of_delivery(&self) -> bool {
        let begins = |label| self.as_str().starts_with(label);
        self.as_str() == DELIVERED || begins(DELIVERING) || begins(DELIVERED_TO)
    }
}

/// The beginning of the label on a version that an operator's action has made, until the action has come to its end.
pub const OPERATION: &str = "ROTATION-OPERATION";
/// The prefix of the labels of versions whose credential was issued, and is not revoked yet.
const ISSUED: &str = "ROTATION-ISSUED-";
/// The prefix of the labels that record an attempt to issue a credential.
const ISSUING: &str = "ROTATION-ISSUING-";

/// An attempt to issue a credential, as its label records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When the attempt began, in whole seconds.
    pub began: SystemTime,
    /// The version for which the credential is.
    pub of: VersionId,
}

impl Stage {
    /// The label on `version` while its credential is not revoked. Each version has a label of its own.
    #[must_use]
    pub fn issued(version: &VersionId) -> Self {
        Self::Other(format!("{ISSUED}{}", &digest([version.as_str()])[..8]))
    }

    /// The label of an attempt. `nonce` tells attempts of the same second apart.
    #[must_use]
    pub fn issuing(attempt: &Attempt, nonce: u32) -> Self {
        let seconds = attempt.began.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self::Other(format!("{ISSUING}{seconds}-{nonce:08x}-{}", attempt.of))
    }

    /// The attempt that the label records, if it is one of [`issuing`](Self::issuing).
    #[must_use]
    pub fn attempt(&self) -> Option<Attempt> {
        let mut parts = self.as_str().strip_prefix(ISSUING)?.splitn(3, '-');
        let seconds = parts.next()?.parse().ok()?;
        let began = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        let of = parts.nth(1)?;
        Some(Attempt { began, of: VersionId::new(of.to_owned()) })
    }

    /// Whether the label says that an action of an operator has made the version, and has not come to its end.
    #[must_use]
    pub fn is_of_operation(&self) -> bool {
        self.as_str().strip_prefix(OPERATION).is_some_and(|rest| rest.starts_with('-'))
    }

    /// Whether the label is one of [`issued`](Self::issued) or [`issuing`](Self::issuing).
    #[must_use]
    pub fn is_of_issuing(&self) -> bool {
        [ISSUED, ISSUING].iter().any(|prefix| self.as_str().starts_with(prefix))
    }
}

impl From<&str> for Stage {
    fn from(name: &str) -> Self {
        match name {
            "AWSCURRENT" => Self::Current,
            "AWSPENDING" => Self::Pending,
            "AWSPREVIOUS" => Self::Previous,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// The versions that carry staging labels, as one DescribeSecret reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(BTreeMap<VersionId, BTreeSet<Stage>>);

impl FromIterator<(VersionId, BTreeSet<Stage>)> for Versions {
    fn from_iter<I: IntoIterator<Item = (VersionId, BTreeSet<Stage>)>>(versions: I) -> Self {
        Self(versions.into_iter().collect())
    }
}

/// The most staging labels across all versions of a secret (Secrets Manager quotas).
pub const MAX_STAGES: usize = 20;

impl Versions {
    /// Whether the version carries any staging label.
    #[must_use]
    pub fn contains(&self, version: &VersionId) -> bool {
        self.0.contains_key(version)
    }

    /// The staging labels of the version.
    pub fn stages(&self, version: &VersionId) -> impl Iterator<Item = &Stage> {
        self.0.get(version).into_iter().flatten()
    }

    /// Every version with each of its staging labels.
    pub fn all(&self) -> impl Iterator<Item = (&VersionId, &Stage)> {
        self.0.iter().flat_map(|(version, stages)| stages.iter().map(move |stage| (version, stage)))
    }

    /// Whether none but `versions` was ever current: no other version carries a label that is not of issuing, and none of
    /// `versions` carries a label besides `AWSCURRENT`, `AWSPENDING`, and those of a delivery and of issuing. Every
    /// replacement of a value leaves `AWSPREVIOUS` on a version.
    #[must_use]
    pub fn only_ever(&self, versions: &[&VersionId]) -> bool {
        let is_new = |stage: &Stage| matches!(stage, Stage::Current | Stage::Pending) || stage.is_of_delivery();
        self.all().all(|(version, stage)| stage.is_of_issuing() || versions.contains(&version) && is_new(stage))
    }

    /// The same with `stage` on the version `holder` alone, or on none.
    #[must_use]
    pub fn with(mut self, stage: Stage, holder: Option<&VersionId>) -> Self {
        for stages in self.0.values_mut() {
            stages.remove(&stage);
        }
        if let Some(holder) = holder {
            self.0.entry(holder.clone()).or_default().insert(stage);
        }
        // A version without a stage is not listed.
        self.0.retain(|_, stages| !stages.is_empty());
        self
    }

    /// The version that carries the label `stage`.
    #[must_use]
    pub fn holder(&self, stage: &Stage) -> Option<&VersionId> {
        self.0.iter().find_map(|(version, stages)| stages.contains(stage).then_some(version))
    }
}
