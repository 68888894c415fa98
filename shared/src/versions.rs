//! The versions of a secret, their stages, and the one decision that stands before every step: admission.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::RotationError;
use crate::event::{Step, VersionId, digest};

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

/// What an event may do to a secret in the state that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The version is pending: perform the step.
    Perform(Admitted),
    /// The version is current and the step comes before promotion: there is nothing left to do.
    NothingToDo,
    /// The version is current and the step is the last: do again what follows promotion, which repairs a crash there.
    RepeatAfterPromotion(Admitted),
    /// The version was promoted and a rollback of it died half way: finish that, never promote it again.
    FinishRollback(Admitted),
}

/// The proof that an event was admitted, and what was seen at that time. Only [`Versions::admit`] makes one, so a step
/// that skips the check does not compile:
///
/// ```compile_fail,E0451
/// use rotation::event::VersionId;
/// use rotation::versions::Admitted;
///
/// let forged = Admitted { version: VersionId::new("v".into()), current: None, previous: None };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    version: VersionId,
    current: Option<VersionId>,
    previous: Option<VersionId>,
}

impl Admitted {
    /// The version that this rotation creates.
    #[must_use]
    pub fn version(&self) -> &VersionId {
        &self.version
    }

    /// The version that carried `AWSCURRENT`.
    #[must_use]
    pub fn current(&self) -> Option<&VersionId> {
        self.current.as_ref()
    }

    /// The version that carried `AWSPREVIOUS`.
    #[must_use]
    pub fn previous(&self) -> Option<&VersionId> {
        self.previous.as_ref()
    }
}

impl Versions {
    /// Decides what `step` may do to `version`.
    ///
    /// # Errors
    /// [`RotationError::UnknownVersion`] when the secret has no such version, [`RotationError::NotPending`] when the
    /// version is neither pending nor current: such a version is not this rotation's to touch.
    pub fn admit(&self, version: &VersionId, step: Step) -> Result<Admission, RotationError> {
        let Some(stages) = self.0.get(version) else {
            let holder = self.holder(&Stage::Pending).cloned();
            return Err(RotationError::UnknownVersion { version: version.clone(), holder });
        };
        let admitted = Admitted {
            version: version.clone(),
            current: self.holder(&Stage::Current).cloned(),
            previous: self.holder(&Stage::Previous).cloned(),
        };
        let has = |stage| stages.contains(&stage);
        match (has(Stage::Current), has(Stage::Pending), has(Stage::Previous), step) {
            (true, _, _, Step::FinishSecret) => Ok(Admission::RepeatAfterPromotion(admitted)),
            (true, _, _, _) => Ok(Admission::NothingToDo),
            (false, true, true, _) => Ok(Admission::FinishRollback(admitted)),
            (false, false, true, _) if self.holder(&Stage::restored_after(version)).is_some() => {
                Ok(Admission::FinishRollback(admitted))
            }
            (false, true, false, _) => Ok(Admission::Perform(admitted)),
            (false, false, _, _) => Err(RotationError::NotPending {
                version: version.clone(),
                holder: self.holder(&Stage::Pending).cloned(),
            }),
        }
    }

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
