//! The ports of the function, on the world in memory.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deliver::decision::service::{Deployment, DeploymentStatus};
use deliver::ports::{FunctionProblem, Functions, Notifications, ServiceProblem, ServiceState, Services};
use deliver::report::Event;
use rotation::event::{RotationToken, VersionId};
use rotation::schedule::RotationRules;
use rotation::secret::SecretText;
use rotation::store::{Described, Put, SecretStore, StoreError, StoreErrorKind, VersionValue};
use rotation::testing::{Existing, Refusal, Written};
use rotation::versions::Stage;

use crate::world::{Secret, World};

impl World {
    async fn secrets_manager<T>(
        &self,
        operation: &'static str,
        secret_id: &str,
        call: impl FnOnce(&mut Secret, SystemTime) -> Result<T, StoreErrorKind>,
    ) -> Result<T, StoreError> {
        self.call(operation).await;
        let now = self.now();
        let mut state = self.lock();
        let secret = state.secrets.get_mut(secret_id).ok_or(StoreErrorKind::SecretNotFound);
        let secret = secret.and_then(|secret| secret.refuses.map_or(Ok(secret), Err));
        let result = secret.and_then(|secret| call(secret, now));
        result.map_err(|kind| StoreError { operation, kind, detail: None })
    }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap().as_secs())
}

impl SecretStore for World {
    async fn describe(&self, secret_id: &str) -> Result<Described, StoreError> {
        self.secrets_manager("DescribeSecret", secret_id, |secret, now| {
            Ok(Described {
                name: secret_id.to_owned(),
                rotation_enabled: secret.function.is_some(),
                deleted: secret.deleted,
                replica_of: secret.replica_of.clone(),
                tags: secret.tags.clone(),
                versions: secret.stages.listed(),
                last_rotated: None,
                next_rotation: None,
                last_changed: None,
                rotation_function: secret.function.clone(),
                rotation_rules: RotationRules::default(),
                as_of: whole_seconds(now),
            })
        })
        .await
    }

    async fn get(&self, secret_id: &str, version: &VersionId) -> Result<Option<VersionValue>, StoreError> {
        self.secrets_manager("GetSecretValue", secret_id, |secret, _| {
            if let Some((_, kind)) = secret.unreadable.as_ref().filter(|(unreadable, _)| unreadable == version) {
                return Err(*kind);
            }
            let value = secret.values.get(version);
            Ok(value.map(|(text, created)| VersionValue { text: text.clone(), created: *created }))
        })
        .await
    }

    async fn get_current(&self, _: &str) -> Result<VersionValue, StoreError> {
        // A delivery reads the version that it has described.
        Err(StoreError { operation: "GetSecretValue", kind: StoreErrorKind::AccessDenied, detail: None })
    }

    async fn put_pending(
        &self,
        _: &str,
        _: &VersionId,
        _: &SecretText,
        _: Option<&RotationToken>,
    ) -> Result<Put, StoreError> {
        // A delivery opens no rotation.
        Err(StoreError { operation: "PutSecretValue", kind: StoreErrorKind::AccessDenied, detail: None })
    }

    async fn put_private(
        &self,
        secret_id: &str,
        version: &VersionId,
        value: &SecretText,
        stages: &[Stage],
    ) -> Result<Put, StoreError> {
        let private_put = self.private_put;
        self.secrets_manager("PutSecretValue", secret_id, |secret, now| {
            let existing = match secret.values.get(version) {
                Some((stored, _)) => Existing::Value(stored),
                None => Existing::Others,
            };
            match secret.stages.put(version, existing, value, Some(stages), private_put) {
                Ok(Written::Unchanged) => {}
                Ok(Written::Filled | Written::Created) => {
                    secret.values.insert(version.clone(), (value.clone(), now));
                }
                Err(Refusal::TokenUsed) => return Ok(Put::Exists),
                Err(_) => return Err(StoreErrorKind::Rejected),
            }
            Ok(Put::Stored)
        })
        .await
    }

    async fn move_stage(
        &self,
        secret_id: &str,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> Result<(), StoreError> {
        self.secrets_manager("UpdateSecretVersionStage", secret_id, |secret, _| {
            let Secret { stages, values, .. } = secret;
            let moved = stages.move_stage(&stage, from, to, |version| values.contains_key(version));
            moved.map_err(|_| StoreErrorKind::Conflict)
        })
        .await
    }
}

fn key(cluster: &str, service: &str) -> (String, String) {
    (cluster.to_owned(), service.to_owned())
}

impl Services for World {
    async fn describe(&self, cluster: &str, service: &str) -> Result<ServiceState, ServiceProblem> {
        self.call("DescribeServices").await;
        let state = self.lock();
        let found = state.services.get(&key(cluster, service)).ok_or(ServiceProblem::Missing)?;
        Ok(ServiceState { status: found.status.to_owned(), controller: found.controller.to_owned() })
    }

    async fn deployments(
        &self,
        cluster: &str,
        service: &str,
        after: SystemTime,
    ) -> Result<Vec<Deployment>, ServiceProblem> {
        self.call("ListServiceDeployments").await;
        let now = self.now();
        let state = self.lock();
        let found = state.services.get(&key(cluster, service)).ok_or(ServiceProblem::Missing)?;
        let listed = found.deployments.iter().rev().filter(|one| one.created >= after).map(|one| Deployment {
            created: one.created,
            status: DeploymentStatus::from(one.status(now)),
            reason: Some("tasks failed to start: deployment circuit breaker".to_owned()),
        });
        Ok(listed.collect())
    }

    async fn force_deployment(&self, cluster: &str, service: &str) -> Result<(), ServiceProblem> {
        self.call("UpdateService").await;
        let mut state = self.lock();
        if !state.services.contains_key(&key(cluster, service)) {
            return Err(ServiceProblem::Missing);
        }
        state.deploy(cluster, service);
        let found = state.services.get_mut(&key(cluster, service)).unwrap();
        if found.lost_answers > 0 {
            found.lost_answers -= 1;
            return Err(ServiceProblem::Refused("no answer".to_owned()));
        }
        Ok(())
    }
}

impl Functions for World {
    async fn invoke(&self, function: &str, payload: &str, _: Duration) -> Result<Vec<u8>, FunctionProblem> {
        self.call("Invoke").await;
        let mut state = self.lock();
        state.invoked.push((function.to_owned(), payload.to_owned()));
        let answers = state.functions.get_mut(function).ok_or(FunctionProblem::Missing)?;
        if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
    }
}

impl Notifications for World {
    async fn notify(&self, event: &Event) -> Result<(), String> {
        self.call("Publish").await;
        self.lock().events.push(serde_json::to_value(event).unwrap());
        Ok(())
    }
}
