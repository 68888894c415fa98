//! Admission: the one decision before every step.

use crate::error::RotationError;
use crate::event::Step;
use crate::versions::{Stage, VersionId, Versions};

/// What an event may do to a secret in the described state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The version is pending: perform the step.
    Perform(Admitted),
    /// The version is current and the step comes before promotion: nothing is left to do.
    NothingToDo,
    /// The version is current and the step is the last: repeat the work after the promotion. That repairs a crash after
    /// the promotion.
    RepeatAfterPromotion(Admitted),
    /// The version was promoted, and its rollback died half way: finish the rollback, and never promote the version
    /// again.
    FinishRollback(Admitted),
}

/// The proof that an event was admitted, with the labels of that time. Only [`Versions::admit`] makes one, so a step
/// without the check does not compile:
///
/// ```compile_fail,E0451
/// use rotation::admission::Admitted;
/// use rotation::versions::VersionId;
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
    /// [`RotationError::UnknownVersion`] if the secret has no such version. [`RotationError::NotPending`] if the
    /// version is neither pending nor current: this rotation must not touch such a version.
    pub fn admit(&self, version: &VersionId, step: Step) -> Result<Admission, RotationError> {
        if !self.contains(version) {
            let holder = self.holder(&Stage::Pending).cloned();
            return Err(RotationError::UnknownVersion { version: version.clone(), holder });
        }
        let admitted = Admitted {
            version: version.clone(),
            current: self.holder(&Stage::Current).cloned(),
            previous: self.holder(&Stage::Previous).cloned(),
        };
        let has = |stage| self.stages(version).any(|held| *held == stage);
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
}
