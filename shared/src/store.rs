//! The port to Secrets Manager: the calls of a rotation, and their errors.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::SystemTime;

use crate::error::RotationError;
use crate::event::RotationToken;
use crate::schedule::RotationRules;
use crate::secret::SecretText;
use crate::versions::{MAX_STAGES, Stage, VersionId, Versions};

pub use crate::error::{StoreError, StoreErrorKind};

/// The answer of DescribeSecret, as far as a rotation needs it.
#[derive(Clone, Debug)]
pub struct Described {
    /// The friendly name.
    pub name: String,
    /// Whether rotation is switched on.
    pub rotation_enabled: bool,
    /// Whether the secret is scheduled for deletion.
    pub deleted: bool,
    /// The Region of the primary secret, if this secret is a replica.
    pub replica_of: Option<String>,
    /// The tags.
    pub tags: BTreeMap<String, String>,
    /// The versions and their staging labels.
    pub versions: Versions,
    /// When a rotation last succeeded.
    pub last_rotated: Option<SystemTime>,
    /// When the next rotation is due.
    pub next_rotation: Option<SystemTime>,
    /// When the secret, its staging labels or its metadata last changed.
    pub last_changed: Option<SystemTime>,
    /// The ARN of the rotation function.
    pub rotation_function: Option<String>,
    /// The schedule; empty if there is none.
    pub rotation_rules: RotationRules,
    /// The time of the answer by the service's clock. A rotation reads no other clock. So the times that a rotation
    /// writes and compares come from the clock of the service's own times.
    pub as_of: SystemTime,
}

impl Described {
    /// Refuses a secret that nobody may change: it is scheduled for deletion, or a replica.
    ///
    /// # Errors
    /// [`RotationError::ScheduledForDeletion`], [`RotationError::ReplicaRegion`].
    pub fn require_usable(&self) -> Result<(), RotationError> {
        let name = || self.name.clone();
        if self.deleted {
            return Err(RotationError::ScheduledForDeletion { name: name() });
        }
        match self.replica_of.clone() {
            Some(primary_region) => Err(RotationError::ReplicaRegion { name: name(), primary_region }),
            None => Ok(()),
        }
    }

    /// Whether the rotation function is the one for `kind`: its name is the kind's name, or ends with a hyphen and the
    /// kind's name. The template names functions after the stack and the kind.
    #[must_use]
    pub fn is_rotated_by(&self, kind: &str) -> bool {
        let stack = self.rotation_function.as_deref().and_then(|arn| function_name(arn).strip_suffix(kind));
        stack.is_some_and(|stack| stack.is_empty() || stack.ends_with('-'))
    }

    /// Checks that there is room for `more` staging labels, and for `AWSPREVIOUS`, which the next move of `AWSCURRENT`
    /// adds.
    ///
    /// # Errors
    /// [`RotationError::TooFewStages`].
    pub fn require_stages(&self, more: usize) -> Result<(), RotationError> {
        let used = self.versions.all().count();
        let needed = more + usize::from(self.versions.holder(&Stage::Previous).is_none());
        if used + needed <= MAX_STAGES {
            return Ok(());
        }
        Err(RotationError::TooFewStages { name: self.name.clone(), used, needed })
    }
}

/// The name of a Lambda function in its ARN or name, which a version or an alias may follow.
#[must_use]
pub fn function_name(function: &str) -> &str {
    let name = function.split_once(":function:").map_or(function, |(_, name)| name);
    name.split(':').next().unwrap_or(name)
}

/// The value of one version.
#[derive(Clone, Debug)]
pub struct VersionValue {
    /// The value as text.
    pub text: SecretText,
    /// When the version was created.
    pub created: SystemTime,
}

/// The outcome of a PutSecretValue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The value is stored, by this call or by an earlier call with the same value.
    Stored,
    /// The version already has another value, from an earlier try.
    Exists,
}

/// Secrets Manager, as a rotation uses it. Implementations retry within their own time limit, and classify errors.
pub trait SecretStore: Sync {
    /// DescribeSecret.
    fn describe(&self, secret_id: &str) -> impl Future<Output = Result<Described, StoreError>> + Send;

    /// GetSecretValue by version. `None` means that the service reports no value for the version. Reads are eventually
    /// consistent, so the value may appear a moment later.
    fn get(
        &self,
        secret_id: &str,
        version: &VersionId,
    ) -> impl Future<Output = Result<Option<VersionValue>, StoreError>> + Send;

    /// GetSecretValue of `AWSCURRENT`, of any secret. The service gives one error, [`StoreErrorKind::SecretNotFound`],
    /// for a secret that does not exist and for a secret without a value.
    fn get_current(&self, secret_id: &str) -> impl Future<Output = Result<VersionValue, StoreError>> + Send;

    /// PutSecretValue under `AWSPENDING`, once per version.
    fn put_pending(
        &self,
        secret_id: &str,
        version: &VersionId,
        value: &SecretText,
        rotation_token: Option<&RotationToken>,
    ) -> impl Future<Output = Result<Put, StoreError>> + Send;

    /// PutSecretValue under the staging labels `stages`, never `AWSCURRENT` or `AWSPENDING`. AWS does not document
    /// whether the call removes `AWSPENDING` from the version of an open rotation. No caller may depend on either
    /// behaviour.
    fn put_private(
        &self,
        secret_id: &str,
        version: &VersionId,
        value: &SecretText,
        stages: &[Stage],
    ) -> impl Future<Output = Result<Put, StoreError>> + Send;

    /// UpdateSecretVersionStage: moves `stage` from the version `from` (if a version has it) to the version `to`. If
    /// `from` does not hold the label, the error is [`StoreErrorKind::Conflict`], and nothing moved.
    fn move_stage(
        &self,
        secret_id: &str,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A version that carries a staging label, and when the version was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionAge {
    /// The version.
    pub version: VersionId,
    /// When the version was created; `None` if the service does not say.
    pub created: Option<SystemTime>,
}

/// The secrets of a listing. A secret must match every part that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// The prefix of the names.
    pub prefix: Option<String>,
    /// The key of a tag that the secrets have.
    pub tag_key: Option<String>,
    /// The value of a tag that the secrets have. The service does not compare keys and values together, so the tag may
    /// be any.
    pub tag_value: Option<String>,
}

/// One page of a listing, and where the next page begins.
#[derive(Clone, Debug)]
pub struct Page {
    /// The secrets, as DescribeSecret describes them.
    pub secrets: Vec<Described>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<String>,
}

/// Secrets Manager, as the actions of operators use it in addition to the calls of a rotation.
pub trait OperationStore: SecretStore {
    /// ListSecretVersionIds: the versions that carry a staging label.
    fn versions(&self, secret_id: &str) -> impl Future<Output = Result<Vec<VersionAge>, StoreError>> + Send;

    /// RotateSecret to `version`. While another rotation is open, the service continues that rotation instead. It
    /// reports so by an error of kind [`StoreErrorKind::NotNow`].
    fn start_rotation(
        &self,
        secret_id: &str,
        version: &VersionId,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// TagResource: sets tags, each by its key and its value. The others stay.
    fn tag(&self, secret_id: &str, tags: &[(String, String)]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// ListSecrets: at most 100 of the secrets that match `filter`, beginning at the page `from`.
    fn list(&self, filter: &ListFilter, from: Option<&str>) -> impl Future<Output = Result<Page, StoreError>> + Send;
}
