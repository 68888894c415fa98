//! One secret as Secrets Manager keeps it. The rules by which its version stages move and values are taken are those of
//! [`rotation::testing`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use rotation::event::VersionId;
use rotation::testing::{Existing, PrivatePut, Refusal, Stages, Written};
use rotation::versions::{Stage, Versions};

/// One version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Absent between the opening of a rotation and its createSecret.
    pub(crate) value: Option<Arc<str>>,
    pub(crate) created: SystemTime,
    pub(crate) author: Author,
}

/// Who made a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Author {
    /// It stood there from the beginning.
    Initial,
    /// The rotation service.
    Rotation,
    /// Somebody who stored a value by hand.
    Person,
    /// An operation.
    Operation,
}

/// The versions of the secret and the stages on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub(crate) versions: BTreeMap<VersionId, Version>,
    stages: Stages,
}

impl State {
    pub(crate) fn holder(&self, stage: &Stage) -> Option<&VersionId> {
        self.stages.holder(stage)
    }

    pub(crate) fn is_at(&self, version: &VersionId, stage: &Stage) -> bool {
        self.holder(stage) == Some(version)
    }

    pub(crate) fn value(&self, version: &VersionId) -> Option<&Arc<str>> {
        self.versions.get(version)?.value.as_ref()
    }

    pub(crate) fn value_at(&self, stage: &Stage) -> Option<&Arc<str>> {
        self.value(self.holder(stage)?)
    }

    pub(crate) fn stages_of(&self, version: &VersionId) -> BTreeSet<Stage> {
        self.stages.of(version)
    }

    /// As DescribeSecret lists them: versions without a stage are left out.
    pub(crate) fn listed(&self) -> Versions {
        self.stages.listed()
    }

    /// The version of a rotation that is not complete.
    pub(crate) fn incomplete_rotation(&self) -> Option<&VersionId> {
        let pending = self.holder(&Stage::Pending)?;
        let ours = self.versions.get(pending).is_some_and(|version| version.author == Author::Rotation);
        (ours && !self.is_at(pending, &Stage::Current)).then_some(pending)
    }

    /// The stages of one's own, and the versions that they are on.
    pub(crate) fn marks(&self) -> impl Iterator<Item = (&Stage, &VersionId)> {
        self.stages.all().filter(|(stage, _)| matches!(stage, Stage::Other(_)))
    }

    /// Without the records of where `AWSPREVIOUS` was. Whoever looks at the secret next takes a record away that tells nothing any more.
    pub(crate) fn without_records(&self) -> Self {
        let kept = self.stages.all().filter(|(stage, _)| !stage.is_restored_after_any());
        let stages = kept.map(|(stage, version)| (stage.clone(), version.clone())).collect();
        Self { versions: self.versions.clone(), stages }
    }

    fn put(
        &mut self,
        version: &VersionId,
        value: Arc<str>,
        stages: Option<&[Stage]>,
        author: Author,
        private_put: PrivatePut,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let existing = match self.versions.get(version).map(|version| &version.value) {
            Some(Some(value)) => Existing::Value(value),
            Some(None) => Existing::Opened,
            None if self.versions.is_empty() => Existing::Nothing,
            None => Existing::Others,
        };
        match self.stages.put(version, existing, &value, stages, private_put)? {
            Written::Unchanged => {}
            Written::Filled => {
                if let Some(opened) = self.versions.get_mut(version) {
                    opened.value = Some(value);
                }
            }
            Written::Created => {
                self.versions.insert(version.clone(), Version { value: Some(value), created: now, author });
            }
        }
        Ok(())
    }

    /// RotateSecret: `AWSPENDING` on a version without a value.
    pub(crate) fn open_rotation(&mut self, version: &VersionId, now: SystemTime) -> Result<(), Refusal> {
        self.stages.open_rotation(version)?;
        self.versions.insert(version.clone(), Version { value: None, created: now, author: Author::Rotation });
        Ok(())
    }

    /// PutSecretValue without VersionStages, under a token of its own.
    pub(crate) fn store_by_hand(
        &mut self,
        version: &VersionId,
        value: Arc<str>,
        author: Author,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        self.put(version, value, None, author, PrivatePut::Abandons, now)
    }

    /// PutSecretValue under stages of one's own, which come from wherever they are.
    pub(crate) fn put_private(
        &mut self,
        version: &VersionId,
        value: Arc<str>,
        stages: &[Stage],
        private_put: PrivatePut,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        self.put(version, value, Some(stages), Author::Operation, private_put, now)
    }

    /// PutSecretValue under `AWSPENDING`, with the token of a rotation.
    pub(crate) fn put_pending(&mut self, version: &VersionId, value: Arc<str>, now: SystemTime) -> Result<(), Refusal> {
        self.put(version, value, Some(&[Stage::Pending]), Author::Rotation, PrivatePut::Abandons, now)
    }

    /// UpdateSecretVersionStage.
    pub(crate) fn move_stage(
        &mut self,
        stage: &Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> Result<(), Refusal> {
        self.stages.move_stage(stage, from, to, |version| self.versions.contains_key(version))
    }
}
