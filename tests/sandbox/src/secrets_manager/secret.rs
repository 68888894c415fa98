//! One secret: its versions, staging labels and rotation configuration, and the rules by which labels move.
//!
//! The rules are the service's, from the API reference and from answers recorded on AWS:
//!
//! - a staging label is on at most one version; attaching it takes it from where it was;
//! - moving `AWSCURRENT` puts `AWSPREVIOUS` on the version that had it;
//! - a new version, by whomever, takes `AWSPENDING` off every other version: that abandons an open rotation (whether
//!   under any label is not on record, see [`PrivatePut`]);
//! - a version without labels is deprecated: hidden, still readable by its id, and deleted in time.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::error::{ApiError, ApiResult};
use crate::schedule::{RotationRules, Schedule};
use crate::settings::PrivatePut;

pub(crate) const CURRENT: &str = "AWSCURRENT";
pub(crate) const PENDING: &str = "AWSPENDING";
pub(crate) const PREVIOUS: &str = "AWSPREVIOUS";

/// Across all versions of a secret (Secrets Manager quotas).
const MAX_STAGES: usize = 20;
const KEPT_VERSIONS: usize = 100;
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// A secret value; binary as base64. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SecretValue {
    Text(String),
    Binary(String),
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) id: String,
    /// A rotation creates its version before there is a value.
    pub(crate) value: Option<SecretValue>,
    pub(crate) stages: BTreeSet<String>,
    pub(crate) created: SystemTime,
    pub(crate) last_accessed: Option<SystemTime>,
    /// The rotation service created it, so that there is a rotation to take up again.
    pub(crate) by_rotation: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Tag {
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) value: String,
}

/// Rotation configuration, kept when rotation is turned off, as DescribeSecret shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RotationConfig {
    pub(crate) enabled: bool,
    pub(crate) lambda_arn: String,
    pub(crate) rules: RotationRules,
    pub(crate) last_rotated: Option<SystemTime>,
    /// NextRotationDate: the end of the next window. Stays in the past after a failed rotation.
    pub(crate) next: Option<SystemTime>,
    /// When the service will start a rotation by itself.
    pub(crate) due: Option<SystemTime>,
}

impl RotationConfig {
    pub(crate) fn schedule(&self) -> Option<Schedule> {
        Schedule::parse(&self.rules).ok().flatten()
    }

    /// Counts from `reference` to the next rotation.
    pub(crate) fn plan_from(&mut self, reference: SystemTime) {
        let window = self.schedule().and_then(|schedule| schedule.next_window(reference));
        self.next = window.map(|window| window.closes);
        self.due = window.map(|window| window.opens);
    }

    /// Leaves NextRotationDate alone: the rotation that it announced has not happened.
    pub(crate) fn postpone_from(&mut self, now: SystemTime) {
        self.due = self.schedule().and_then(|schedule| schedule.next_window(now)).map(|window| window.opens);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secret {
    pub(crate) arn: String,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) kms_key_id: Option<String>,
    /// `None` until the first tag: DescribeSecret omits the list then, and shows an empty one after the last untag.
    pub(crate) tags: Option<Vec<Tag>>,
    pub(crate) policy: Option<String>,
    pub(crate) created: SystemTime,
    pub(crate) last_changed: SystemTime,
    pub(crate) last_accessed: Option<SystemTime>,
    /// The end of the recovery window, when the secret is deleted.
    pub(crate) deletion: Option<SystemTime>,
    pub(crate) versions: Vec<Version>,
    pub(crate) rotation: Option<RotationConfig>,
}

/// What putting a value did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// The token's version has this very value: nothing was done.
    Unchanged,
    /// A version has been created, or the version that a rotation had opened got its value.
    Written { created: bool },
}

impl Secret {
    pub(crate) fn version(&self, id: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.id == id)
    }

    pub(crate) fn version_mut(&mut self, id: &str) -> Option<&mut Version> {
        self.versions.iter_mut().find(|version| version.id == id)
    }

    pub(crate) fn holder(&self, stage: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.stages.contains(stage))
    }

    pub(crate) fn is_at(&self, id: &str, stage: &str) -> bool {
        self.version(id).is_some_and(|version| version.stages.contains(stage))
    }

    /// The version of a rotation that isn't complete: `AWSPENDING` on a version that is not current.
    pub(crate) fn incomplete_rotation(&self) -> Option<&Version> {
        self.holder(PENDING).filter(|version| !version.stages.contains(CURRENT))
    }

    pub(crate) fn rotation_enabled(&self) -> bool {
        self.rotation.as_ref().is_some_and(|rotation| rotation.enabled)
    }

    pub(crate) fn require_not_deleted(&self) -> ApiResult<()> {
        if self.deletion.is_some() { Err(ApiError::marked_for_deletion()) } else { Ok(()) }
    }

    /// Moves a label to a version, and what the service moves with it. The version must exist.
    fn attach(&mut self, stage: &str, version_id: &str) -> ApiResult<()> {
        let former = self.holder(stage).map(|version| version.id.clone());
        if former.as_deref() == Some(version_id) {
            return Ok(());
        }
        self.detach(stage);
        if let Some(version) = self.version_mut(version_id) {
            version.stages.insert(stage.to_owned());
        }
        if self.versions.iter().map(|version| version.stages.len()).sum::<usize>() > MAX_STAGES {
            return Err(ApiError::limit_exceeded("A secret can have at most 20 staging labels across all versions."));
        }
        match former {
            Some(former) if stage == CURRENT => self.attach(PREVIOUS, &former),
            _ => Ok(()),
        }
    }

    fn detach(&mut self, stage: &str) {
        for version in &mut self.versions {
            version.stages.remove(stage);
        }
    }

    fn push_version(&mut self, id: &str, value: Option<SecretValue>, by_rotation: bool, now: SystemTime) {
        self.versions.push(Version {
            id: id.to_owned(),
            value,
            stages: BTreeSet::new(),
            created: now,
            last_accessed: None,
            by_rotation,
        });
        self.forget_old_versions(now);
    }

    /// PutSecretValue: idempotent by token, never changes a value.
    pub(crate) fn put(
        &mut self,
        token: &str,
        value: SecretValue,
        stages: Option<&[String]>,
        private_put: PrivatePut,
        now: SystemTime,
    ) -> ApiResult<Put> {
        let private = stages.is_some_and(|stages| !stages.iter().any(|stage| stage == CURRENT || stage == PENDING));
        let first = self.versions.is_empty();
        let created = match self.version_mut(token) {
            Some(version) => match &version.value {
                Some(existing) if *existing == value => return Ok(Put::Unchanged),
                Some(_) => return Err(ApiError::token_in_use(token, &self.arn)),
                None => {
                    version.value = Some(value);
                    false
                }
            },
            None => {
                if !private || private_put == PrivatePut::Abandons {
                    self.detach(PENDING);
                }
                self.push_version(token, Some(value), false, now);
                true
            }
        };
        for stage in stages.unwrap_or(&[]) {
            self.attach(stage, token)?;
        }
        // "If this operation creates the first version for the secret, then Secrets Manager automatically attaches
        // the staging label AWSCURRENT to it."
        if stages.is_none() || first {
            self.attach(CURRENT, token)?;
        }
        if created && let Some(rotation) = self.rotation.as_mut().filter(|rotation| rotation.enabled) {
            let current_changed = stages.is_none_or(|stages| stages.iter().any(|stage| stage == CURRENT));
            if current_changed && Schedule::counts_manual_changes(&rotation.rules) {
                rotation.plan_from(now);
            }
        }
        self.last_changed = now;
        Ok(Put::Written { created })
    }

    /// The rotation service's own version: `AWSPENDING`, no value unless one is given.
    pub(crate) fn open_pending(&mut self, token: &str, value: Option<SecretValue>, now: SystemTime) -> ApiResult<()> {
        self.push_version(token, value, true, now);
        self.last_changed = now;
        self.attach(PENDING, token)
    }

    /// Removes the temporary version of a configuration test.
    pub(crate) fn remove_version(&mut self, id: &str, now: SystemTime) {
        self.versions.retain(|version| version.id != id);
        self.last_changed = now;
    }

    /// UpdateSecretVersionStage: a compare-and-swap on where the label is. On an error nothing has moved, because the
    /// caller drops this copy of the secret.
    pub(crate) fn move_stage(
        &mut self,
        stage: &str,
        remove_from: Option<&str>,
        move_to: Option<&str>,
        now: SystemTime,
    ) -> ApiResult<()> {
        let holder = self.holder(stage).map(|version| version.id.clone());
        for id in [move_to, remove_from].into_iter().flatten() {
            if self.version(id).is_none() {
                return Err(ApiError::value_not_found_by_id(id));
            }
        }
        match (holder.as_deref(), remove_from) {
            (Some(holder), Some(from)) if holder != from => return Err(wrong_remove_from(stage, from)),
            (None, Some(from)) => return Err(wrong_remove_from(stage, from)),
            (Some(holder), None) if move_to.is_some_and(|to| to != holder) => {
                return Err(ApiError::invalid_parameter(format!(
                    "The parameter RemoveFromVersionId can't be empty. Staging label {stage} is currently attached to \
                     version {holder}, so you must explicitly reference that version in RemoveFromVersionId."
                )));
            }
            _ => {}
        }
        match move_to {
            Some(to) => self.attach(stage, to)?,
            None if remove_from.is_none() => {
                return Err(ApiError::invalid_parameter(
                    "You must specify MoveToVersionId, RemoveFromVersionId, or both.",
                ));
            }
            None if stage == CURRENT => {
                return Err(ApiError::invalid_parameter(
                    "You can only move staging label AWSCURRENT to a different secret version. It can’t be completely \
                     removed.",
                ));
            }
            None => self.detach(stage),
        }
        self.last_changed = now;
        Ok(())
    }

    /// Deletes deprecated versions: beyond the 100 most recent, and only when older than 24 hours.
    pub(crate) fn forget_old_versions(&mut self, now: SystemTime) {
        let beyond = self.versions.len().saturating_sub(KEPT_VERSIONS);
        let mut index = 0;
        // Versions are in order of creation.
        self.versions.retain(|version| {
            let among_recent = index >= beyond;
            index += 1;
            let young = version.created + KEPT_FOR > now;
            among_recent || young || !version.stages.is_empty()
        });
    }
}

fn wrong_remove_from(stage: &str, version_id: &str) -> ApiError {
    ApiError::invalid_parameter(format!("Version stage {stage} not found in version {version_id}"))
}
