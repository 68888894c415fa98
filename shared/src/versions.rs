//! The versions of a secret and their stages, as Secrets Manager tells of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The identifier of a version of a secret: the ClientRequestToken with which it was written. Not a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(transparent)]
pub struct VersionId(String);

impl VersionId {
    /// Takes the identifier as Secrets Manager gave it.
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

/// The first 32 hexadecimal digits of SHA-256 (FIPS 180-4) over the parts, each followed by a zero byte: a name for what they
/// tell together.
pub fn digest<T: AsRef<str>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_ref());
        hash.update([0]);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A version stage (staging label).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// `AWSCURRENT`
    Current,
    /// `AWSPENDING`
    Pending,
    /// `AWSPREVIOUS`
    Previous,
    /// Any other.
    Other(String),
}

impl Stage {
    /// The stage as Secrets Manager spells it.
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

/// How the stage begins that tells where `AWSPREVIOUS` was.
const RESTORES: &str = "ROTATION-RESTORE-";

impl Stage {
    /// The stage on the version that carried `AWSPREVIOUS` before the rotation to `version`, and carries it again when that is put
    /// back. Each rotation has one of its own.
    #[must_use]
    pub fn restored_after(version: &VersionId) -> Self {
        Self::Other(format!("{RESTORES}{}", &digest([version.as_str()])[..8]))
    }

    /// Whether it is one of these.
    #[must_use]
    pub fn is_restored_after_any(&self) -> bool {
        self.as_str().starts_with(RESTORES)
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

/// The versions that carry stages, as one DescribeSecret saw them.
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
    /// Whether the version carries any stage.
    #[must_use]
    pub fn contains(&self, version: &VersionId) -> bool {
        self.0.contains_key(version)
    }

    /// The stages that the version carries.
    pub fn stages(&self, version: &VersionId) -> impl Iterator<Item = &Stage> {
        self.0.get(version).into_iter().flatten()
    }

    /// Every version with each stage that it carries.
    pub fn all(&self) -> impl Iterator<Item = (&VersionId, &Stage)> {
        self.0.iter().flat_map(|(version, stages)| stages.iter().map(move |stage| (version, stage)))
    }

    /// Whether no other version than these carries a stage, and no operation has marked one: nothing else was ever current.
    #[must_use]
    pub fn only_ever(&self, versions: &[&VersionId]) -> bool {
        let is_new = |stage: &Stage| matches!(stage, Stage::Current | Stage::Pending);
        self.all().all(|(version, stage)| versions.contains(&version) && is_new(stage))
    }

    /// The version that carries `stage`.
    #[must_use]
    pub fn holder(&self, stage: &Stage) -> Option<&VersionId> {
        self.0.iter().find_map(|(version, stages)| stages.contains(stage).then_some(version))
    }
}
