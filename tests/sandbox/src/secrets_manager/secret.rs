//! One secret: its versions, staging labels and rotation configuration. [`rotation::testing`] has the rules for labels
//! and values. A version without labels is deprecated. It is hidden, still readable by its id, and deleted later.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use rotation::event::VersionId;
use rotation::testing::{Existing, PrivatePut, Refusal, Stages, Written};
use rotation::versions::Stage;
use serde::{Deserialize, Serialize};

use super::error::{ApiError, ApiResult};
use crate::schedule::{RotationRules, Schedule};

pub(crate) const CURRENT: &str = "AWSCURRENT";
pub(crate) const PENDING: &str = "AWSPENDING";
pub(crate) const PREVIOUS: &str = "AWSPREVIOUS";

const KEPT_VERSIONS: usize = 100;
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// A secret value; binary as base64. `Debug` hides it.
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
    /// `None` while a rotation has created the version but not its value.
    pub(crate) value: Option<SecretValue>,
    pub(crate) created: SystemTime,
    pub(crate) last_accessed: Option<SystemTime>,
    /// Whether the rotation service created the version, so that a rotation can be taken up again.
    pub(crate) by_rotation: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Tag {
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) value: String,
}

/// Rotation configuration. It stays when rotation is turned off, because DescribeSecret still shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RotationConfig {
    pub(crate) enabled: bool,
    pub(crate) lambda_arn: String,
    pub(crate) rules: RotationRules,
    pub(crate) last_rotated: Option<SystemTime>,
    /// NextRotationDate: the end of the next window. It stays in the past after a failed rotation.
    pub(crate) next: Option<SystemTime>,
    /// When the service starts the next rotation by itself.
    pub(crate) due: Option<SystemTime>,
}

impl RotationConfig {
    pub(crate) fn schedule(&self) -> Option<Schedule> {
        Schedule::parse(&self.rules).ok().flatten()
    }

    /// Plans the next rotation from `reference`.
    pub(crate) fn plan_from(&mut self, reference: SystemTime) {
        let window = self.schedule().and_then(|schedule| schedule.next_window(reference));
        self.next = window.map(|window| window.closes);
        self.due = window.map(|window| window.opens);
    }

    /// Plans the next start, but keeps NextRotationDate: the announced rotation has not happened.
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
    /// `None` until the first tag. DescribeSecret omits the list then, and shows an empty list after the last untag.
    pub(crate) tags: Option<Vec<Tag>>,
    pub(crate) policy: Option<String>,
    pub(crate) created: SystemTime,
    pub(crate) last_changed: SystemTime,
    pub(crate) last_accessed: Option<SystemTime>,
    /// The end of the recovery window of a deleted secret.
    pub(crate) deletion: Option<SystemTime>,
    /// The versions in the order of their creation.
    pub(crate) versions: Vec<Version>,
    pub(crate) stages: Stages,
    pub(crate) rotation: Option<RotationConfig>,
}

impl Secret {
    pub(crate) fn version(&self, id: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.id == id)
    }

    pub(crate) fn version_mut(&mut self, id: &str) -> Option<&mut Version> {
        self.versions.iter_mut().find(|version| version.id == id)
    }

    pub(crate) fn holder(&self, stage: &str) -> Option<&Version> {
        self.version(self.stages.holder(&Stage::from(stage))?.as_str())
    }

    pub(crate) fn is_at(&self, id: &str, stage: &str) -> bool {
        self.stages.is_at(&version_id(id), &Stage::from(stage))
    }

    pub(crate) fn stages_of(&self, id: &str) -> BTreeSet<String> {
        self.stages.of(&version_id(id)).iter().map(|stage| stage.as_str().to_owned()).collect()
    }

    /// The version of an incomplete rotation: `AWSPENDING` on a version that is not current.
    pub(crate) fn incomplete_rotation(&self) -> Option<&Version> {
        self.holder(PENDING).filter(|version| !self.is_at(&version.id, CURRENT))
    }

    pub(crate) fn rotation_enabled(&self) -> bool {
        self.rotation.as_ref().is_some_and(|rotation| rotation.enabled)
    }

    pub(crate) fn require_not_deleted(&self) -> ApiResult<()> {
        if self.deletion.is_some() { Err(ApiError::marked_for_deletion()) } else { Ok(()) }
    }

    fn push_version(&mut self, id: &str, value: Option<SecretValue>, by_rotation: bool, now: SystemTime) {
        self.versions.push(Version { id: id.to_owned(), value, created: now, last_accessed: None, by_rotation });
        self.forget_old_versions(now);
    }

    /// PutSecretValue: idempotent by token, and it never changes a value.
    pub(crate) fn put(
        &mut self,
        token: &str,
        value: SecretValue,
        stages: Option<&[String]>,
        private_put: PrivatePut,
        now: SystemTime,
    ) -> ApiResult<Written> {
        let existing = match self.versions.iter().find(|version| version.id == token).map(|version| &version.value) {
            Some(Some(value)) => Existing::Value(value),
            Some(None) => Existing::Opened,
            None if self.versions.is_empty() => Existing::Nothing,
            None => Existing::Others,
        };
        let labels: Option<Vec<_>> = stages.map(|stages| stages.iter().map(|stage| stage.as_str().into()).collect());
        let put = self.stages.put(&version_id(token), existing, &value, labels.as_deref(), private_put);
        let written = put.map_err(|refusal| match refusal {
            Refusal::TokenUsed => ApiError::token_in_use(token, &self.arn),
            _ => too_many_stages(),
        })?;
        match written {
            Written::Unchanged => return Ok(written),
            Written::Filled => {
                if let Some(version) = self.version_mut(token) {
                    version.value = Some(value);
                }
            }
            Written::Created => self.push_version(token, Some(value), false, now),
        }
        if written == Written::Created
            && let Some(rotation) = self.rotation.as_mut().filter(|rotation| rotation.enabled)
        {
            let current_changed = stages.is_none_or(|stages| stages.iter().any(|stage| stage == CURRENT));
            if current_changed && Schedule::counts_manual_changes(&rotation.rules) {
                rotation.plan_from(now);
            }
        }
        self.last_changed = now;
        Ok(written)
    }

    /// Adds the rotation service's own version: `AWSPENDING`, and no value unless one is given.
    pub(crate) fn open_pending(&mut self, token: &str, value: Option<SecretValue>, now: SystemTime) -> ApiResult<()> {
        self.push_version(token, value, true, now);
        self.last_changed = now;
        self.stages.open_rotation(&version_id(token)).map_err(|_| too_many_stages())
    }

    /// Removes the temporary version of a configuration test.
    pub(crate) fn remove_version(&mut self, id: &str, now: SystemTime) {
        self.versions.retain(|version| version.id != id);
        self.stages.remove_version(&version_id(id));
        self.last_changed = now;
    }

    /// UpdateSecretVersionStage: a compare-and-swap on the place of the label. After an error nothing has moved,
    /// because the caller drops this copy of the secret.
    pub(crate) fn move_stage(
        &mut self,
        stage: &str,
        remove_from: Option<&str>,
        move_to: Option<&str>,
        now: SystemTime,
    ) -> ApiResult<()> {
        let (from, to) = (remove_from.map(version_id), move_to.map(version_id));
        let versions = &self.versions;
        let is_known = |id: &VersionId| versions.iter().any(|version| version.id == id.as_str());
        let moved = self.stages.move_stage(&Stage::from(stage), from.as_ref(), to.as_ref(), is_known);
        moved.map_err(|refusal| not_moved(stage, &refusal))?;
        self.last_changed = now;
        Ok(())
    }

    /// Deletes deprecated versions that are beyond the 100 most recent, and older than 24 hours.
    pub(crate) fn forget_old_versions(&mut self, now: SystemTime) {
        let beyond = self.versions.len().saturating_sub(KEPT_VERSIONS);
        let mut index = 0;
        let stages = &self.stages;
        self.versions.retain(|version| {
            let among_recent = index >= beyond;
            index += 1;
            let young = version.created + KEPT_FOR > now;
            among_recent || young || !stages.of(&version_id(&version.id)).is_empty()
        });
    }
}

fn version_id(id: &str) -> VersionId {
    VersionId::new(id.to_owned())
}

fn too_many_stages() -> ApiError {
    ApiError::limit_exceeded("A secret can have at most 20 staging labels across all versions.")
}

/// The error in the service's words.
fn not_moved(stage: &str, refusal: &Refusal) -> ApiError {
    ApiError::invalid_parameter(match refusal {
        Refusal::UnknownVersion(id) => return ApiError::value_not_found_by_id(id.as_str()),
        Refusal::TooManyStages | Refusal::TokenUsed => return too_many_stages(),
        Refusal::NotThere(version) => format!("Version stage {stage} not found in version {version}"),
        Refusal::Elsewhere(holder) => format!(
            "The parameter RemoveFromVersionId can't be empty. Staging label {stage} is currently attached to version \
             {holder}, so you must explicitly reference that version in RemoveFromVersionId."
        ),
        Refusal::NoVersion => "You must specify MoveToVersionId, RemoveFromVersionId, or both.".to_owned(),
        Refusal::CurrentStays => {
            "You can only move staging label AWSCURRENT to a different secret version. It can’t be \
                                  completely removed."
                .to_owned()
        }
    })
}
