//! Which action a request about one secret is, by what the secret holds.

use issued_credential::IssuedCredential;
use issued_credential::issuer::Issuer;
use rand::rngs::StdRng;
use rotation::aws::Clients;
use rotation::deadline::Deadline;
use rotation::lambda::{AUDIT, randomness};
use rotation::policy::StackPolicy;
use rotation::session::Session;
use rotation::store::{Described, OperationStore};
use rotation::versions::Stage;

use crate::actions::abort::AbortAnswer;
use crate::actions::doctor::DoctorAnswer;
use crate::actions::status::StatusAnswer;
use crate::error::OperateError;
use crate::findings::Findings;
use crate::kinds::{KeyringKind, Kind, TokenKind};
use crate::marker::open_rotation;
use crate::operator::Operator;
use crate::request::Request;
use crate::response::{Outcome, Response};
use crate::services::LastFailure;
use crate::session::Operation;
use crate::unmanaged::Unmanaged;

/// A request about one secret.
#[derive(Clone, Copy, Debug)]
pub struct SecretRequest<'a> {
    /// What this deployment is.
    pub operator: &'a Operator,
    /// AWS.
    pub clients: &'a Clients,
    /// What is asked for.
    pub request: &'a Request,
    /// The end of the time for the work.
    pub deadline: Deadline,
}

impl SecretRequest<'_> {
    /// Performs the action that the kind of the secret has for the request.
    ///
    /// # Errors
    /// [`OperateError::NotManaged`] and [`OperateError::NotForThisKind`] where it has none, and those of the action.
    pub async fn perform<S: OperationStore>(&self, store: &S) -> Result<Response, OperateError> {
        let mut rng = randomness()?;
        let secret = store.describe(self.request.secret_id()).await?;
        self.operator.stack.check_name(&secret.name)?;
        self.operator.observations.observe(&secret.name);
        let kind = self.operator.kind_of(&secret);
        let stack = self.operator.stack_of(kind.unwrap_or(Kind::Other));
        let outcome = match kind {
            Some(Kind::Token) => {
                self.of_token(&self.operation(&self.operator.token, store, &stack), &secret, &mut rng).await
            }
            Some(Kind::Keyring) => {
                self.of_keyring(&self.operation(self.operator.keyring()?, store, &stack), &secret, &mut rng).await
            }
            Some(Kind::Issued) if let Some(kind) = &self.operator.issued => {
                self.of_issued(&self.operation(kind, store, &stack), &secret, &mut rng).await
            }
            Some(Kind::Issued | Kind::Other) => self.of_other_kind(store, &secret).await,
            None => self.of_unmanaged(store, &secret, &mut rng).await,
        };
        let instances = self.operator.observations.take(&secret.name);
        match outcome {
            Ok(outcome) => {
                Ok(Response { action: self.request.action(), secret: Some(secret.name), instances, outcome })
            }
            Err(error) => {
                // Which of them did not answer as it should.
                let instances = serde_json::to_string(&instances).unwrap_or_default();
                tracing::warn!(target: AUDIT, secret = secret.name, instances, "what the instances answered");
                Err(self.with_reason(&secret, error).await)
            }
        }
    }

    fn operation<'a, K, S>(&'a self, kind: &'a K, store: &'a S, stack: &'a StackPolicy) -> Operation<'a, K, S> {
        Operation::new(Session { kind, store, stack, secret_id: self.request.secret_id(), deadline: self.deadline })
    }

    fn not_for_this_kind(&self, instead: &'static str) -> OperateError {
        OperateError::NotForThisKind { action: self.request.action(), instead }
    }

    async fn of_token<K: TokenKind, S: OperationStore>(
        &self,
        operation: &Operation<'_, K, S>,
        secret: &Described,
        rng: &mut StdRng,
    ) -> Result<Outcome, OperateError> {
        match self.request {
            Request::Rollback(_) => operation.roll_back_token(secret.clone(), rng).await.map(Outcome::Rollback),
            Request::Revoke(_) => operation.revoke(secret.clone(), rng).await.map(Outcome::Revoke),
            Request::Compromise(request) => operation
                .compromise_token(secret.clone(), request.confirm.as_deref(), rng)
                .await
                .map(Outcome::Compromise),
            Request::Retire(_) => {
                Err(self.not_for_this_kind("only a keyring holds old keys; an old token is ended by revoke"))
            }
            Request::Restore(_) | Request::Forget(_) => Err(self
                .not_for_this_kind("only a keyring has keys that can be missing; a token is replaced by a rotation")),
            Request::Put(request) => operation.put(secret.clone(), request, rng).await.map(Outcome::Put),
            Request::Verify(_) => operation.verify_tokens(secret.clone(), rng).await.map(Outcome::Verify),
            Request::Abort(_) => {
                operation.abort(secret.clone(), self.operator.abort_after, rng).await.map(Outcome::Abort)
            }
            Request::Doctor(_) => Ok(self.diagnosis(operation.doctor(secret, rng).await, None, secret).await),
            // A sweep and a report have no secret, and do not come here.
            Request::Status(_) | Request::Sweep(_) | Request::Report(_) => {
                Ok(self.status(operation.status(secret).await?, secret).await)
            }
        }
    }

    async fn of_keyring<K: KeyringKind, S: OperationStore>(
        &self,
        operation: &Operation<'_, K, S>,
        secret: &Described,
        rng: &mut StdRng,
    ) -> Result<Outcome, OperateError> {
        match self.request {
            Request::Rollback(_) => operation.roll_back_keyring(secret.clone(), rng).await.map(Outcome::Rollback),
            Request::Revoke(_) => Err(self.not_for_this_kind(
                "what is encrypted with an old key has to stay readable; after an exposure use compromise",
            )),
            Request::Compromise(request) => operation
                .compromise_keyring(secret.clone(), request.confirm.as_deref(), rng)
                .await
                .map(Outcome::Compromise),
            Request::Retire(request) => operation
                .retire(secret.clone(), &request.censuses, rng)
                .await
                .map(|retired| Outcome::Retire(Box::new(retired))),
            Request::Restore(request) => {
                operation.restore(secret.clone(), request.confirm.as_deref(), rng).await.map(Outcome::Restore)
            }
            Request::Forget(request) => {
                operation.forget(secret.clone(), &request.keys, request.confirm.as_deref()).await.map(Outcome::Forget)
            }
            Request::Put(request) => operation.put(secret.clone(), request, rng).await.map(Outcome::Put),
            Request::Verify(_) => operation.verify_current(secret.clone(), rng).await.map(Outcome::Verify),
            Request::Abort(_) => {
                operation.abort(secret.clone(), self.operator.abort_after, rng).await.map(Outcome::Abort)
            }
            Request::Doctor(_) => {
                let mut findings = operation.doctor(secret, rng).await;
                let unknown = self.operator.services.check_nonces(&mut findings, secret, self.deadline).await;
                Ok(self.diagnosis(findings, unknown, secret).await)
            }
            // A sweep and a report have no secret, and do not come here.
            Request::Status(_) | Request::Sweep(_) | Request::Report(_) => {
                Ok(self.status(operation.status(secret).await?, secret).await)
            }
        }
    }

    async fn of_issued<I: Issuer, S: OperationStore>(
        &self,
        operation: &Operation<'_, IssuedCredential<I>, S>,
        secret: &Described,
        rng: &mut StdRng,
    ) -> Result<Outcome, OperateError> {
        match self.request {
            Request::Rollback(_) => operation.roll_back_issued(secret.clone(), rng).await.map(Outcome::Rollback),
            Request::Revoke(_) => operation.revoke_issued(secret.clone(), rng).await.map(Outcome::Revoke),
            Request::Compromise(request) => operation
                .compromise_issued(secret.clone(), request.confirm.as_deref(), rng)
                .await
                .map(Outcome::Compromise),
            Request::Retire(_) | Request::Restore(_) | Request::Forget(_) => {
                Err(self.not_for_this_kind("only a keyring has keys; a credential is ended by revoke"))
            }
            Request::Put(request) => operation.put(secret.clone(), request, rng).await.map(Outcome::Put),
            Request::Verify(_) => operation.verify_current(secret.clone(), rng).await.map(Outcome::Verify),
            Request::Abort(_) => {
                operation.abort(secret.clone(), self.operator.abort_after, rng).await.map(Outcome::Abort)
            }
            Request::Doctor(_) => Ok(self.diagnosis(operation.doctor(secret, rng).await, None, secret).await),
            // A sweep and a report have no secret, and do not come here.
            Request::Status(_) | Request::Sweep(_) | Request::Report(_) => {
                Ok(self.status(operation.status(secret).await?, secret).await)
            }
        }
    }

    /// What takes no knowledge of the value.
    async fn of_other_kind<S: OperationStore>(&self, store: &S, secret: &Described) -> Result<Outcome, OperateError> {
        let secret_id = self.request.secret_id();
        match self.request {
            Request::Abort(_) => {
                // Only a rotation of this project records where AWSPREVIOUS was.
                let is_recorded = open_rotation(secret)
                    .is_some_and(|version| secret.versions.holder(&Stage::restored_after(version)).is_some());
                let abort_after = self.operator.abort_after;
                let aborted = AbortAnswer::rotation_of(store, secret_id, secret.clone(), abort_after, is_recorded);
                aborted.await.map(|(aborted, _)| Outcome::Abort(aborted))
            }
            Request::Doctor(_) => {
                let mut findings = Findings::of_description(secret);
                let by = rotated_by(secret);
                let detail = format!("only {by} knows what it holds: value, policy and application are not checked");
                findings.good("kind", detail);
                Ok(self.diagnosis(findings, None, secret).await)
            }
            Request::Status(_) | Request::Sweep(_) | Request::Report(_) => {
                let stack = self.operator.stack_of(Kind::Other);
                let status = StatusAnswer::of_other_kind(store, secret_id, secret, &stack).await?;
                Ok(self.status(status, secret).await)
            }
            Request::Verify(_)
            | Request::Rollback(_)
            | Request::Revoke(_)
            | Request::Compromise(_)
            | Request::Retire(_)
            | Request::Restore(_)
            | Request::Forget(_)
            | Request::Put(_) => Err(not_managed(secret)),
        }
    }

    /// Nobody rotates the secret: people store its values.
    async fn of_unmanaged<S: OperationStore>(
        &self,
        store: &S,
        secret: &Described,
        rng: &mut StdRng,
    ) -> Result<Outcome, OperateError> {
        let unmanaged = Unmanaged { store, secret_id: self.request.secret_id(), deadline: self.deadline };
        match self.request {
            Request::Put(request) => unmanaged.put(secret, request, rng).await.map(Outcome::Put),
            Request::Rollback(_) => unmanaged.roll_back(secret, rng).await.map(Outcome::Rollback),
            _ => Err(not_managed(secret)),
        }
    }

    async fn diagnosis(&self, mut findings: Findings, unknown: Option<String>, secret: &Described) -> Outcome {
        self.operator.services.diagnose(&mut findings, secret, self.clients, self.deadline).await;
        Outcome::Doctor(DoctorAnswer::of(findings, unknown, &secret.name))
    }

    async fn status(&self, mut status: StatusAnswer, secret: &Described) -> Outcome {
        status.last_failure = LastFailure::of(self.operator.services.last_failure(secret, self.deadline).await);
        Outcome::Status(Box::new(status))
    }

    /// What the rotation function's log says of a rotation that an action waits for in vain.
    async fn with_reason(&self, secret: &Described, error: OperateError) -> OperateError {
        let (OperateError::NotFinished { version, function: Some(function) }
        | OperateError::RotationFailed { version, function, .. }) = &error
        else {
            return error;
        };
        let failure = self.operator.services.last_failure(secret, self.deadline).await.ok().flatten();
        let Some(failure) = failure.filter(|failure| failure.version.as_deref() == Some(version.as_str())) else {
            return error;
        };
        let reason =
            format!("{}: {}: {}", failure.step.as_deref().unwrap_or("a step"), failure.error_type, failure.message);
        OperateError::RotationFailed { version: version.clone(), function: function.clone(), reason: Some(reason) }
    }
}

fn rotated_by(secret: &Described) -> &str {
    secret.rotation_function.as_deref().unwrap_or("the service that owns it")
}

fn not_managed(secret: &Described) -> OperateError {
    let function = Kind::of(secret).map(|_| rotated_by(secret).to_owned());
    OperateError::NotManaged { name: secret.name.clone(), function }
}
