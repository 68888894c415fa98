//! The rules by which Secrets Manager moves staging labels and accepts values: one rulebook for the fakes of all tests.
//!
//! The rules come from the API reference and from answers recorded on AWS:
//!
//! - A label is on at most one version. To attach it removes it from the version that had it.
//! - A move of `AWSCURRENT` puts `AWSPREVIOUS` on the version that had it.
//! - The first version of a secret becomes current, whatever labels its caller names.
//! - A new version of any writer removes `AWSPENDING` from every other version, and so abandons an open rotation. AWS
//!   does not document whether a version under private labels does so too.
//! - A ClientRequestToken is used once. The same value again is ignored, and another value is refused.
//! - A secret has at most 20 labels, across all versions.
//! - Versions without a label are not listed.
//!
//! This module does no I/O, has no random failures and knows no clock. Each fake adds faults, delays and dates itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::event::VersionId;
use crate::versions::{MAX_STAGES, Stage, Versions};

/// The reason why the service refuses a change. The service has then changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The secret has no such version.
    UnknownVersion(VersionId),
    /// The version from which the label should be removed does not carry it.
    NotThere(VersionId),
    /// The label is on this version, and the call did not name the version.
    Elsewhere(VersionId),
    /// The call names no version.
    NoVersion,
    /// `AWSCURRENT` can be moved, and not removed.
    CurrentStays,
    /// The token was used for another value.
    TokenUsed,
    /// The secret would have more than [`MAX_STAGES`] labels.
    TooManyStages,
}

/// The versions that a secret has before a PutSecretValue, seen from its ClientRequestToken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing<'a, V> {
    /// No version at all: the new version is the first.
    Nothing,
    /// Versions with other tokens only.
    Others,
    /// A version with this token that a rotation has opened, without a value.
    Opened,
    /// A version with this token and this value.
    Value(&'a V),
}

/// The outcome of a PutSecretValue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing changed: the version has this very value.
    Unchanged,
    /// The version that a rotation had opened has the value now.
    Filled,
    /// A new version has the value.
    Created,
}

/// The effect of PutSecretValue on an open rotation, if the new version gets only labels other than `AWSCURRENT` and
/// `AWSPENDING`. AWS does not document the effect, so a function must cope with both.
///
/// The User Guide says of RotationAbandoned: "When you manually create a new version of a secret, you send a message
/// signalling the abandonment of the current ongoing rotation in favor of the new secret version. As a result, Secrets
/// Manager removes the AWSPENDING label". The guide makes no difference between labels, which speaks for
/// [`Abandons`](Self::Abandons). But no consumer reads such a version as current or pending, so there is no new version
/// for which the rotation could be abandoned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrivatePut {
    /// The call removes `AWSPENDING`, as every new version does: the rotation is abandoned.
    #[default]
    Abandons,
    /// The call leaves `AWSPENDING` and the rotation alone.
    Leaves,
}

/// The staging labels of one secret, and the versions that carry them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Stages(BTreeMap<Stage, VersionId>);

impl Stages {
    /// The version that carries the label.
    #[must_use]
    pub fn holder(&self, stage: &Stage) -> Option<&VersionId> {
        self.0.get(stage)
    }

    /// Whether the version carries the label.
    #[must_use]
    pub fn is_at(&self, version: &VersionId, stage: &Stage) -> bool {
        self.holder(stage) == Some(version)
    }

    /// The labels of the version.
    #[must_use]
    pub fn of(&self, version: &VersionId) -> BTreeSet<Stage> {
        self.0.iter().filter(|(_, holder)| *holder == version).map(|(stage, _)| stage.clone()).collect()
    }

    /// Each label with the version that carries it.
    pub fn all(&self) -> impl Iterator<Item = (&Stage, &VersionId)> {
        self.0.iter()
    }

    /// The versions as DescribeSecret lists them: the versions that carry a label.
    #[must_use]
    pub fn listed(&self) -> Versions {
        let holders: BTreeSet<_> = self.0.values().cloned().collect();
        holders.into_iter().map(|version| (version.clone(), self.of(&version))).collect()
    }

    /// RotateSecret: `AWSPENDING` on a new version that has no value.
    ///
    /// # Errors
    /// [`Refusal::TooManyStages`].
    pub fn open_rotation(&mut self, version: &VersionId) -> Result<(), Refusal> {
        self.change(|stages| {
            stages.attach(Stage::Pending, version);
            Ok(())
        })
    }

    /// PutSecretValue under these labels; without any it moves `AWSCURRENT`. The caller stores the value, except after
    /// [`Written::Unchanged`].
    ///
    /// # Errors
    /// [`Refusal::TokenUsed`] and [`Refusal::TooManyStages`].
    pub fn put<V: PartialEq>(
        &mut self,
        token: &VersionId,
        existing: Existing<'_, V>,
        value: &V,
        stages: Option<&[Stage]>,
        private_put: PrivatePut,
    ) -> Result<Written, Refusal> {
        let written = match existing {
            Existing::Value(stored) if stored == value => return Ok(Written::Unchanged),
            Existing::Value(_) => return Err(Refusal::TokenUsed),
            Existing::Opened => Written::Filled,
            Existing::Nothing | Existing::Others => Written::Created,
        };
        let is_first = matches!(existing, Existing::Nothing);
        let is_private =
            stages.is_some_and(|stages| !stages.contains(&Stage::Current) && !stages.contains(&Stage::Pending));
        self.change(|of_secret| {
            if written == Written::Created && !(is_private && private_put == PrivatePut::Leaves) {
                of_secret.0.remove(&Stage::Pending);
            }
            stages.unwrap_or_default().iter().for_each(|stage| of_secret.attach(stage.clone(), token));
            if stages.is_none() || is_first {
                of_secret.attach(Stage::Current, token);
            }
            Ok(written)
        })
    }

    /// UpdateSecretVersionStage: a compare-and-swap on the label's version. `is_known` says whether a version exists.
    ///
    /// # Errors
    /// All except [`Refusal::TokenUsed`].
    pub fn move_stage(
        &mut self,
        stage: &Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
        is_known: impl Fn(&VersionId) -> bool,
    ) -> Result<(), Refusal> {
        if let Some(unknown) = [to, from].into_iter().flatten().find(|version| !is_known(version)) {
            return Err(Refusal::UnknownVersion(unknown.clone()));
        }
        match (self.holder(stage), from) {
            (holder, Some(from)) if holder != Some(from) => return Err(Refusal::NotThere(from.clone())),
            (Some(holder), None) if to.is_some_and(|to| to != holder) => {
                return Err(Refusal::Elsewhere(holder.clone()));
            }
            _ => {}
        }
        self.change(|stages| match to {
            Some(to) => {
                stages.attach(stage.clone(), to);
                Ok(())
            }
            None if from.is_none() => Err(Refusal::NoVersion),
            None if *stage == Stage::Current => Err(Refusal::CurrentStays),
            None => {
                stages.0.remove(stage);
                Ok(())
            }
        })
    }

    /// Removes all labels from a version that is deleted.
    pub fn remove_version(&mut self, version: &VersionId) {
        self.0.retain(|_, holder| holder != version);
    }

    /// Makes a whole change, or nothing of it.
    fn change<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let mut changed = self.clone();
        let result = change(&mut changed)?;
        if changed.0.len() > MAX_STAGES {
            return Err(Refusal::TooManyStages);
        }
        *self = changed;
        Ok(result)
    }

    fn attach(&mut self, stage: Stage, version: &VersionId) {
        let former = self.0.insert(stage.clone(), version.clone()).filter(|former| former != version);
        if let Some(former) = former.filter(|_| stage == Stage::Current) {
            self.0.insert(Stage::Previous, former);
        }
    }
}

impl FromIterator<(Stage, VersionId)> for Stages {
    fn from_iter<I: IntoIterator<Item = (Stage, VersionId)>>(stages: I) -> Self {
        Self(stages.into_iter().collect())
    }
}

impl From<BTreeMap<String, String>> for Stages {
    fn from(stages: BTreeMap<String, String>) -> Self {
        stages.into_iter().map(|(stage, version)| (Stage::from(stage.as_str()), VersionId::new(version))).collect()
    }
}

impl From<Stages> for BTreeMap<String, String> {
    fn from(stages: Stages) -> Self {
        let named = |(stage, version): (Stage, VersionId)| (stage.as_str().to_owned(), version.to_string());
        stages.0.into_iter().map(named).collect()
    }
}
