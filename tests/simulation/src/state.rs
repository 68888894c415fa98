//! One secret as Secrets Manager keeps it, and the rules by which its version stages move.
//!
//! The rules are the service's: a stage is on at most one version; moving `AWSCURRENT` moves `AWSPREVIOUS` by itself; a
//! move must name where the stage is; a value is written once per token; a rotation opens its version without a value;
//! a new version by anybody takes `AWSPENDING` off all others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use rotation::event::VersionId;
use rotation::versions::{Stage, Versions};

/// Why the service refuses a change. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The stage is not where the call says, or the version is unknown.
    Conflict,
    /// The token was used for another value.
    Exists,
    /// The secret would have more than 20 stages.
    TooMany,
}

/// Across all versions of a secret (Secrets Manager quotas).
const MOST_STAGES: usize = 20;

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
    stages: BTreeMap<Stage, VersionId>,
}

impl State {
    pub(crate) fn holder(&self, stage: &Stage) -> Option<&VersionId> {
        self.stages.get(stage)
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
        self.stages.iter().filter(|(_, holder)| *holder == version).map(|(stage, _)| stage.clone()).collect()
    }

    /// As DescribeSecret lists them: versions without a stage are left out.
    pub(crate) fn listed(&self) -> Versions {
        let listed = self.versions.keys().map(|version| (version.clone(), self.stages_of(version)));
        listed.filter(|(_, stages)| !stages.is_empty()).collect()
    }

    /// The version of a rotation that is not complete.
    pub(crate) fn incomplete_rotation(&self) -> Option<&VersionId> {
        let pending = self.holder(&Stage::Pending)?;
        let ours = self.versions.get(pending).is_some_and(|version| version.author == Author::Rotation);
        (ours && !self.is_at(pending, &Stage::Current)).then_some(pending)
    }

    /// The stages of one's own, and the versions that they are on.
    pub(crate) fn marks(&self) -> impl Iterator<Item = (&Stage, &VersionId)> {
        self.stages.iter().filter(|(stage, _)| matches!(stage, Stage::Other(_)))
    }

    fn attach(&mut self, stage: Stage, version: &VersionId) {
        let former = self.stages.insert(stage.clone(), version.clone());
        if let Some(former) = former.filter(|former| former != version)
            && stage == Stage::Current
        {
            self.stages.insert(Stage::Previous, former);
        }
    }

    fn add(&mut self, version: &VersionId, value: Option<Arc<str>>, author: Author, now: SystemTime) {
        self.stages.remove(&Stage::Pending);
        self.versions.insert(version.clone(), Version { value, created: now, author });
    }

    /// RotateSecret: `AWSPENDING` on a version without a value.
    pub(crate) fn open_rotation(&mut self, version: &VersionId, now: SystemTime) {
        self.add(version, None, Author::Rotation, now);
        self.attach(Stage::Pending, version);
    }

    /// PutSecretValue without VersionStages, under a token of its own.
    pub(crate) fn store_by_hand(&mut self, version: &VersionId, value: Arc<str>, author: Author, now: SystemTime) {
        self.add(version, Some(value), author, now);
        self.attach(Stage::Current, version);
    }

    /// PutSecretValue under stages of one's own, which come from wherever they are. The first version of a secret is current as well.
    /// Whether that abandons an open rotation is not on record.
    pub(crate) fn put_private(
        &mut self,
        version: &VersionId,
        value: Arc<str>,
        stages: &[Stage],
        abandons: bool,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        if self.versions.is_empty() {
            self.attach(Stage::Current, version);
        }
        match self.value(version) {
            Some(old) if *old == value => {}
            Some(_) => return Err(Refusal::Exists),
            None => {
                if abandons {
                    self.stages.remove(&Stage::Pending);
                }
                let (value, author) = (Some(value), Author::Operation);
                self.versions.insert(version.clone(), Version { value, created: now, author });
            }
        }
        stages.iter().for_each(|stage| self.attach(stage.clone(), version));
        self.require_few_stages()
    }

    /// The quota of the service.
    pub(crate) fn require_few_stages(&self) -> Result<(), Refusal> {
        if self.stages.len() > MOST_STAGES { Err(Refusal::TooMany) } else { Ok(()) }
    }

    /// PutSecretValue under `AWSPENDING`, with the token of a rotation.
    pub(crate) fn put_pending(&mut self, version: &VersionId, value: Arc<str>, now: SystemTime) -> Result<(), Refusal> {
        match self.versions.get_mut(version) {
            Some(Version { value: Some(old), .. }) if *old == value => return Ok(()),
            Some(Version { value: Some(_), .. }) => return Err(Refusal::Exists),
            Some(opened) => opened.value = Some(value),
            None => self.add(version, Some(value), Author::Rotation, now),
        }
        self.attach(Stage::Pending, version);
        self.require_few_stages()
    }

    /// UpdateSecretVersionStage.
    pub(crate) fn move_stage(
        &mut self,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> Result<(), Refusal> {
        let known = [from, to].into_iter().flatten().all(|version| self.versions.contains_key(version));
        let holder = self.holder(&stage);
        let in_place = match (holder, from) {
            (None, None) => true,
            (Some(holder), None) => Some(holder) == to,
            (holder, Some(from)) => holder == Some(from),
        };
        if !known || !in_place {
            return Err(Refusal::Conflict);
        }
        match to {
            Some(to) => self.attach(stage, to),
            None if stage == Stage::Current || from.is_none() => return Err(Refusal::Conflict),
            None => {
                self.stages.remove(&stage);
            }
        }
        self.require_few_stages()
    }
}
