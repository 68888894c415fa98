//! `status`: what is there, without a proof of anything.

use std::collections::BTreeMap;

use rotation::event::VersionId;
use rotation::keyring::KeyId;
use rotation::policy::StackPolicy;
use rotation::store::{Described, OperationStore, VersionAge};
use rotation::time::format_timestamp;
use rotation::versions::Stage;
use serde::Serialize;

use crate::action::Action;
use crate::delivery::DeliveryStatus;
use crate::error::{OperateError, Problem};
use crate::kinds::{Kind, OperatedKind, Summary};
use crate::marker::{open_rotation, unfinished};
use crate::members::{Inquiry, Members};
use crate::services::LastFailure;
use crate::session::Operation;

/// The request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status(pub Inquiry);

impl Status {
    pub(crate) fn parse(members: &mut Members) -> Result<Self, OperateError> {
        members.inquiry().map(Self)
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusAnswer {
    kind: &'static str,
    now: String,
    versions: Vec<VersionStatus>,
    policy: BTreeMap<&'static str, SettingStatus>,
    rotation: RotationStatus,
    /// Whether the consumers have the current value; nothing for a secret without consumers.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<DeliveryStatus>,
    /// What the current value tells of itself.
    #[serde(flatten)]
    summary: Option<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_staged_key: Option<KeyId>,
    /// What is wrong with the policy or the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
    /// What the log of the rotation function says.
    pub(crate) last_failure: Option<LastFailure>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionStatus {
    version: VersionId,
    stages: Vec<String>,
    created: Option<String>,
    age_days: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
struct SettingStatus {
    value: String,
    from: &'static str,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RotationStatus {
    enabled: bool,
    function: Option<String>,
    last: Option<String>,
    next: Option<String>,
    hours_overdue: u64,
    open: Option<VersionId>,
    unfinished: Option<Action>,
}

impl StatusAnswer {
    fn new(kind: Kind, secret: &Described, ages: &[VersionAge], stack: &StackPolicy) -> Self {
        let sources = stack.sources(&secret.tags).into_iter();
        Self {
            kind: kind.name(),
            now: format_timestamp(secret.as_of),
            versions: ages.iter().map(|age| VersionStatus::of(secret, age)).collect(),
            policy: sources
                .map(|(name, value, from)| (name, SettingStatus { value: value.to_owned(), from }))
                .collect(),
            rotation: RotationStatus::of(secret),
            delivery: None,
            summary: None,
            missing_staged_key: None,
            problem: None,
            last_failure: None,
        }
    }

    /// Of a secret whose kind only its own function knows: no value is read. `stack` has the settings that every kind has.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn of_other_kind<S: OperationStore>(
        store: &S,
        secret_id: &str,
        secret: &Described,
        stack: &StackPolicy,
    ) -> Result<Self, OperateError> {
        Ok(Self::new(Kind::Other, secret, &store.versions(secret_id).await?, stack))
    }
}

impl VersionStatus {
    fn of(secret: &Described, age: &VersionAge) -> Self {
        let days = age.created.and_then(|created| secret.as_of.duration_since(created).ok());
        Self {
            version: age.version.clone(),
            stages: secret.versions.stages(&age.version).map(Stage::as_str).map(str::to_owned).collect(),
            created: age.created.map(format_timestamp),
            age_days: days.map(|age| age.as_secs() / 86_400),
        }
    }
}

impl RotationStatus {
    fn of(secret: &Described) -> Self {
        let overdue = secret.next_rotation.and_then(|next| secret.as_of.duration_since(next).ok());
        Self {
            enabled: secret.rotation_enabled,
            function: secret.rotation_function.clone(),
            last: secret.last_rotated.map(format_timestamp),
            next: secret.next_rotation.map(format_timestamp),
            hours_overdue: overdue.map_or(0, |overdue| overdue.as_secs() / 3_600),
            open: open_rotation(secret).cloned(),
            unfinished: unfinished(secret),
        }
    }
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Versions with their stages and ages, the policy and where each setting comes from, the schedule, and what the current
    /// value tells of itself. A value or a policy that is not usable is a `problem` in the answer and no error.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn status(&self, secret: &Described) -> Result<StatusAnswer, OperateError> {
        let ages = self.session.store.versions(self.session.secret_id).await?;
        let mut status = StatusAnswer::new(K::KIND, secret, &ages, self.session.stack);
        if let Err(error) = self.add_value(&mut status, secret).await {
            status.problem = Some(Problem::of(&error));
        }
        Ok(status)
    }

    async fn add_value(&self, status: &mut StatusAnswer, secret: &Described) -> Result<(), OperateError> {
        let snapshot = self.snapshot_of(secret.clone()).await?;
        if self.has_consumers(&snapshot) {
            let undelivered = self.undelivered(&snapshot).await?;
            status.delivery = Some(DeliveryStatus::of(undelivered, &secret.name));
        }
        status.summary = Some(self.session.kind.summary(&snapshot.subject(), &snapshot.current)?);
        status.missing_staged_key = self.require_all_keys(&snapshot).await?.staged;
        Ok(())
    }
}
