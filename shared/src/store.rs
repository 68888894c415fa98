//! The port to Secrets Manager: the calls that a rotation makes, and what can go wrong with them.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::SystemTime;

use crate::error::RotationError;
use crate::event::RotationToken;
use crate::schedule::RotationRules;
use crate::secret::SecretText;
use crate::versions::{MAX_STAGES, Stage, VersionId, Versions};

pub use crate::error::{StoreError, StoreErrorKind};

/// What DescribeSecret tells, as far as a rotation needs it.
#[derive(Clone, Debug)]
pub struct Described {
    /// The friendly name.
    pub name: String,
    /// Whether rotation is switched on.
    pub rotation_enabled: bool,
    /// Whether the secret is scheduled for deletion.
    pub deleted: bool,
    /// The Region of the primary, when this one is a replica.
    pub replica_of: Option<String>,
    /// The tags.
    pub tags: BTreeMap<String, String>,
    /// The versions and their stages.
    pub versions: Versions,
    /// When a rotation last succeeded.
    pub last_rotated: Option<SystemTime>,
    /// When the next rotation is due.
    pub next_rotation: Option<SystemTime>,
    /// When the secret, its stages or its metadata last changed.
    pub last_changed: Option<SystemTime>,
    /// The ARN of the rotation function.
    pub rotation_function: Option<String>,
    /// The schedule; empty when there is none.
    pub rotation_rules: RotationRules,
    /// The service's own clock at its answer: the only clock that a rotation reads, so that the times that it
    /// writes and compares come from the same one as the service's.
    pub as_of: SystemTime,
}

impl Described {
    /// Whether there is room for so many more stages, and for `AWSPREVIOUS`, which comes with the next move of `AWSCURRENT`.
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

/// The value of one version.
#[derive(Clone, Debug)]
pub struct VersionValue {
    /// The value as text.
    pub text: SecretText,
    /// When the version was created.
    pub created: SystemTime,
}

/// What became of a PutSecretValue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The value is stored (or was, by an earlier call with the same value).
    Stored,
    /// The version already has another value: an earlier try won.
    Exists,
}

/// Secrets Manager, as a rotation uses it. Implementations retry within their own time limit and classify errors.
pub trait SecretStore: Sync {
    /// DescribeSecret.
    fn describe(&self, secret_id: &str) -> impl Future<Output = Result<Described, StoreError>> + Send;

    /// GetSecretValue by version. `None` means that the service says the version has no value; reads are
    /// eventually consistent, so it may have one in a moment.
    fn get(
        &self,
        secret_id: &str,
        version: &VersionId,
    ) -> impl Future<Output = Result<Option<VersionValue>, StoreError>> + Send;

    /// GetSecretValue of `AWSCURRENT`, of any secret. The service says alike of a secret that does not exist and of one
    /// that has no value: [`StoreErrorKind::SecretNotFound`].
    fn get_current(&self, secret_id: &str) -> impl Future<Output = Result<VersionValue, StoreError>> + Send;

    /// PutSecretValue under `AWSPENDING`, once per version.
    fn put_pending(
        &self,
        secret_id: &str,
        version: &VersionId,
        value: &SecretText,
        rotation_token: Option<&RotationToken>,
    ) -> impl Future<Output = Result<Put, StoreError>> + Send;

    /// PutSecretValue under stages of one's own, which are neither `AWSCURRENT` nor `AWSPENDING`. Whether that takes
    /// `AWSPENDING` off the version of an open rotation is not on record: nobody may depend on either.
    fn put_private(
        &self,
        secret_id: &str,
        version: &VersionId,
        value: &SecretText,
        stages: &[Stage],
    ) -> impl Future<Output = Result<Put, StoreError>> + Send;

    /// UpdateSecretVersionStage: `stage` from the version `from` (if it is attached anywhere) to the version `to`.
    /// A `from` that does not hold the stage is an error of kind [`StoreErrorKind::Conflict`], and nothing moved.
    fn move_stage(
        &self,
        secret_id: &str,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A version that carries a stage, and when it was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionAge {
    /// The version.
    pub version: VersionId,
    /// When it was created; absent when the service does not say.
    pub created: Option<SystemTime>,
}

/// Which secrets are listed: those that every part which is set chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// How their names begin.
    pub prefix: Option<String>,
    /// A tag that they have.
    pub tag_key: Option<String>,
    /// The value of some tag that they have: the service does not look at keys and values together.
    pub tag_value: Option<String>,
}

/// Some secrets, and where the next ones begin.
#[derive(Clone, Debug)]
pub struct Page {
    /// The secrets, as DescribeSecret tells of them.
    pub secrets: Vec<Described>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<String>,
}

/// Secrets Manager, as an operation on a secret uses it beside what a rotation does.
pub trait OperationStore: SecretStore {
    /// ListSecretVersionIds: the versions that carry a stage.
    fn versions(&self, secret_id: &str) -> impl Future<Output = Result<Vec<VersionAge>, StoreError>> + Send;

    /// RotateSecret to `version`. While another rotation is open the service has that one taken up again instead, and says
    /// so by an error of kind [`StoreErrorKind::NotNow`].
    fn start_rotation(
        &self,
        secret_id: &str,
        version: &VersionId,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// ListSecrets: at most 100 of those that `filter` chooses, from `from` on.
    fn list(&self, filter: &ListFilter, from: Option<&str>) -> impl Future<Output = Result<Page, StoreError>> + Send;
}
