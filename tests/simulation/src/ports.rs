//! The functions' two ports, into the world: every call waits at a gate before it takes effect, and after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use issued_credential::issuer::Issuer;
use operate::marker::Marker;
use rotation::aws::FunctionErrorKind;
use rotation::deadline::Deadline;
use rotation::event::{RotationToken, Step, VersionId};
use rotation::marked_ring;
use rotation::schedule::RotationRules;
use rotation::secret::SecretText;
use rotation::store::{
    Described, ListFilter, OperationStore, Page, Put, SecretStore, StoreError, StoreErrorKind, VersionAge, VersionValue,
};
use rotation::target::{Answer, Operation, Target, TargetSettings, Verdict};
use rotation::testing::{PrivatePut, Refusal};
use rotation::versions::{Stage, Versions};
use serde_json::Value;

use crate::model::{ARCHIVE_SECRET, CREDENTIAL, CREDENTIAL_SECRET, Model};
use crate::operations::{self, Intent};
use crate::scenario::Sabotage;
use crate::schedule::{self, Call, Gate, Side, Task};
use crate::state::{State, Version};
use crate::world::{Actor, Inner, Tags, World};

/// One invocation, as the world sees it.
pub(crate) struct Caller<M: Model> {
    pub(crate) world: Arc<World<M>>,
    pub(crate) invocation: u32,
    pub(crate) task: Task,
    /// The version of the rotation, if it is one.
    pub(crate) version: Option<VersionId>,
    pub(crate) admitted_at: usize,
    /// What the last DescribeSecret told it.
    pub(crate) tags: Mutex<Tags>,
    /// What an operation has to bring about, by what was there when it looked for the first time.
    pub(crate) intent: Mutex<Option<Intent>>,
}

impl<M: Model> Caller<M> {
    async fn gate(&self, call: Call, side: Side) -> Option<StoreErrorKind> {
        let gate = Gate { invocation: self.invocation, task: self.task, call, side };
        self.world.gate(gate).await
    }

    /// An operation looks at the secret.
    fn looks(&self, world: &mut Inner<M>) {
        let mut intent = self.intent.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Task::Operation(operation), None) = (self.task, &*intent) {
            *intent = Some(operations::ask(world, operation));
        }
    }

    pub(crate) fn intent(&self) -> Option<Intent> {
        self.intent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn creates(&self) -> bool {
        self.task == Task::Step(Step::CreateSecret)
    }

    fn actor(&self) -> Actor {
        let tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (self.task, &self.version) {
            (Task::Operation(operation), _) => Actor::Operation { operation, tags },
            (Task::Step(_), Some(version)) => {
                Actor::Function { version: version.clone(), admitted_at: self.admitted_at, tags }
            }
            (Task::Step(_) | Task::Worker(_), _) => Actor::Service,
        }
    }

    fn note(&self, world: &mut Inner<M>, call: Call, result: &str) {
        let gate = Gate { invocation: self.invocation, task: self.task, call, side: Side::After };
        world.calls.push(gate);
        world.note(|| format!("  #{} {} {call:?}: {result}", self.invocation, self.task));
    }
}

/// Secrets Manager.
pub(crate) struct Store<M: Model> {
    pub(crate) caller: Arc<Caller<M>>,
    pub(crate) deadline: Deadline,
}

impl<M: Model> Store<M> {
    pub(crate) async fn call<T: Send>(
        &self,
        call: Call,
        effect: impl FnOnce(&mut Inner<M>) -> Result<T, StoreErrorKind> + Send,
    ) -> Result<T, StoreError> {
        let failed = |kind| StoreError { operation: operation(call), kind, detail: None };
        if let Some(fault) = self.caller.gate(call, Side::Before).await {
            return Err(failed(fault));
        }
        // The adapter's calls end with the invocation.
        if self.deadline.left().is_zero() {
            return Err(failed(StoreErrorKind::Unreachable));
        }
        let result = {
            let mut world = self.caller.world.lock();
            let result = effect(&mut world);
            self.caller.note(&mut world, call, if result.is_ok() { "ok" } else { "refused" });
            result
        };
        match self.caller.gate(call, Side::After).await {
            Some(fault) => Err(failed(fault)),
            None => result.map_err(failed),
        }
    }
}

fn operation(call: Call) -> &'static str {
    match call {
        Call::Describe => "DescribeSecret",
        Call::Get | Call::Credential => "GetSecretValue",
        Call::Put => "PutSecretValue",
        Call::Move => "UpdateSecretVersionStage",
        Call::Versions => "ListSecretVersionIds",
        Call::PutPrivate => "PutSecretValue",
        Call::Rotate => "RotateSecret",
        Call::Refresh => "refresh",
        Call::Verify => "verify",
        Call::Issue => "create",
        Call::Revoke => "revoke",
        Call::ReadRow => "SELECT",
        Call::WriteRow => "UPDATE",
    }
}

impl<M: Model> SecretStore for Store<M> {
    async fn describe(&self, secret_id: &str) -> Result<Described, StoreError> {
        let name = secret_id.to_owned();
        self.call(Call::Describe, move |world| {
            let is_archive = name == ARCHIVE_SECRET;
            let (last_changed, seen) = if is_archive { world.read_archive() } else { world.read() };
            self.caller.looks(world);
            world.tags.clone_into(&mut self.caller.tags.lock().unwrap_or_else(PoisonError::into_inner));
            // The service's clock is the header `Date`, which has whole seconds.
            let since_epoch = world.now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(Described {
                name,
                rotation_enabled: true,
                deleted: false,
                replica_of: None,
                tags: world.tags.clone(),
                versions: listed(&seen, world.scenario.sabotage),
                last_rotated: world.last_rotated(&seen),
                next_rotation: None,
                last_changed: Some(last_changed),
                rotation_rules: RotationRules::default(),
                rotation_function: None,
                as_of: UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs()),
            })
        })
        .await
    }

    async fn get(&self, secret_id: &str, version: &VersionId) -> Result<Option<VersionValue>, StoreError> {
        self.call(Call::Get, |world| {
            let (_, seen) = if secret_id == ARCHIVE_SECRET { world.read_archive() } else { world.read() };
            let Some(found) = seen.versions.get(version) else { return Ok(None) };
            let hidden = world.scenario.sabotage == Sabotage::HidesAges;
            let youngest = seen.versions.values().map(|version| version.created).max();
            let created = youngest.filter(|_| hidden).unwrap_or(found.created);
            let is_old = world.scenario.sabotage == Sabotage::AgesEverything;
            let created = if is_old { created - Duration::from_secs(2 * 86_400) } else { created };
            let is_own = self.caller.version.as_ref() == Some(version);
            if world.scenario.sabotage == Sabotage::IssuesAgain && is_own && self.caller.creates() {
                return Ok(None);
            }
            Ok(found.value.as_ref().map(|value| VersionValue { text: SecretText::new(value.to_string()), created }))
        })
        .await
    }

    async fn get_current(&self, secret_id: &str) -> Result<VersionValue, StoreError> {
        let known = secret_id == CREDENTIAL_SECRET;
        self.call(Call::Credential, move |world| {
            let value = VersionValue { text: SecretText::new(CREDENTIAL.to_owned()), created: world.now() };
            if known { Ok(value) } else { Err(StoreErrorKind::SecretNotFound) }
        })
        .await
    }

    async fn put_pending(
        &self,
        _: &str,
        version: &VersionId,
        value: &SecretText,
        _: Option<&RotationToken>,
    ) -> Result<Put, StoreError> {
        let value: Arc<str> = value.expose().into();
        self.call(Call::Put, |world| {
            let mut state = world.changed();
            if world.scenario.sabotage == Sabotage::PutOverwrites
                && let Some(version) = state.versions.get_mut(version)
            {
                version.value = None;
            }
            match state.put_pending(version, value, world.now()) {
                Ok(()) => {
                    world.commit(&self.caller.actor(), state);
                    Ok(Put::Stored)
                }
                Err(Refusal::TokenUsed) => Ok(Put::Exists),
                Err(_) => Err(StoreErrorKind::Rejected),
            }
        })
        .await
    }

    async fn put_private(
        &self,
        secret_id: &str,
        version: &VersionId,
        value: &SecretText,
        stages: &[Stage],
    ) -> Result<Put, StoreError> {
        let value: Arc<str> = value.expose().into();
        self.call(Call::PutPrivate, |world| {
            if secret_id == ARCHIVE_SECRET {
                let put =
                    |archive: &mut State, now| archive.put_private(version, value, stages, PrivatePut::Leaves, now);
                return match world.change_archive(put) {
                    Ok(()) => Ok(Put::Stored),
                    Err(Refusal::TokenUsed) => Ok(Put::Exists),
                    Err(_) => Err(StoreErrorKind::Rejected),
                };
            }
            let mut state = world.changed();
            let private_put = world.scenario.private_put;
            match state.put_private(version, value, stages, private_put, world.now()) {
                Ok(()) => {
                    world.commit(&self.caller.actor(), state);
                    world.note(|| format!("    {stages:?} on {version:?}"));
                    Ok(Put::Stored)
                }
                Err(Refusal::TokenUsed) => Ok(Put::Exists),
                Err(_) => Err(StoreErrorKind::Rejected),
            }
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
        self.call(Call::Move, |world| {
            if secret_id == ARCHIVE_SECRET {
                let moved = world.change_archive(|archive, _| archive.move_stage(&stage, from, to));
                return moved.map_err(|_| StoreErrorKind::Conflict);
            }
            let mut state = world.changed();
            let rolls_back = stage == Stage::Current && from.is_some() && from == self.caller.version.as_ref();
            let is_there = state.holder(&stage) == from;
            let is_rollback = self.caller.task == Task::Operation(schedule::Operation::Rollback);
            let from = match world.scenario.sabotage {
                Sabotage::LeavesPrevious if stage == Stage::Previous && is_rollback => return Ok(()),
                Sabotage::TakesPreviousBlindly if stage == Stage::Previous && to.is_none() && !is_there => {
                    return Ok(());
                }
                Sabotage::MoveIgnoresOrigin => state.holder(&stage).cloned(),
                Sabotage::RemovesAnyPrevious if stage == Stage::Previous && to.is_none() => {
                    state.holder(&stage).cloned()
                }
                Sabotage::KeepsPending if stage == Stage::Pending => return Ok(()),
                Sabotage::OnlyPretendsToRollBack if rolls_back => return Ok(()),
                Sabotage::ForgetsRevoked if to.is_some_and(|to| is_of_revocation(&stage, to)) => return Ok(()),
                Sabotage::ForgetsPutBack if stage.as_str().starts_with("ROTATION-PUT-BACK-") => return Ok(()),
                Sabotage::KeepsMarks if to.is_none() && is_of_operation(&stage) => return Ok(()),
                Sabotage::ForgetsIssued if to.is_some_and(|to| stage == Stage::issued(to)) => return Ok(()),
                Sabotage::ForgetsAttempt if stage.attempt().is_some() => return Ok(()),
                Sabotage::ForgetsRing if stage == marked_ring::stage() => return Ok(()),
                _ => from.cloned(),
            };
            state.move_stage(&stage, from.as_ref(), to).map_err(|refusal| match refusal {
                Refusal::TooManyStages => StoreErrorKind::Rejected,
                _ => StoreErrorKind::Conflict,
            })?;
            world.commit(&self.caller.actor(), state);
            world.note(|| format!("    {} from {from:?} to {to:?}", stage.as_str()));
            Ok(())
        })
        .await
    }
}

/// The stages that a secret is seen with.
fn listed(seen: &State, sabotage: Sabotage) -> Versions {
    let all = seen.listed();
    if sabotage != Sabotage::ForgetsRollback {
        return all;
    }
    let mut known = BTreeMap::<VersionId, BTreeSet<Stage>>::new();
    let is_forgotten = |version: &VersionId, stage: &Stage| {
        [Marker::RolledBack, Marker::Operation].iter().any(|marker| *stage == marker.on(version))
    };
    for (version, stage) in all.all().filter(|(version, stage)| !is_forgotten(version, stage)) {
        known.entry(version.clone()).or_default().insert(stage.clone());
    }
    known.into_iter().collect()
}

fn is_of_operation(stage: &Stage) -> bool {
    ["ROTATION-OPERATION-", "ROTATION-ROLLBACK-"].iter().any(|mark| stage.as_str().starts_with(mark))
}

fn is_of_revocation(stage: &Stage, version: &VersionId) -> bool {
    [Marker::Revoked, Marker::PreviousRevoked].into_iter().any(|mark| mark.on(version) == *stage)
}

impl<M: Model> OperationStore for Store<M> {
    async fn versions(&self, _: &str) -> Result<Vec<VersionAge>, StoreError> {
        self.call(Call::Versions, |world| {
            let (_, seen) = world.read();
            let staged = seen.versions.iter().filter(|(version, _)| !seen.stages_of(version).is_empty());
            let age = |(version, of): (&VersionId, &Version)| VersionAge {
                version: version.clone(),
                created: Some(of.created),
            };
            Ok(staged.map(age).collect())
        })
        .await
    }

    async fn start_rotation(&self, _: &str, version: &VersionId) -> Result<(), StoreError> {
        self.call(Call::Rotate, |world| {
            let started = world.start_rotation(version);
            world.note(|| format!("    RotateSecret to {version:?}: {started:?}"));
            started
        })
        .await
    }

    async fn tag(&self, _: &str, _: &[(String, String)]) -> Result<(), StoreError> {
        // Nothing that the simulation does is done by hand.
        Err(StoreError { operation: "TagResource", kind: StoreErrorKind::AccessDenied, detail: None })
    }

    async fn list(&self, _: &ListFilter, _: Option<&str>) -> Result<Page, StoreError> {
        // What is done with one secret lists none.
        Err(StoreError { operation: "ListSecrets", kind: StoreErrorKind::AccessDenied, detail: None })
    }
}

/// The application, behind a load balancer that sends every request to the next instance.
pub(crate) struct SimulatedTarget<M: Model> {
    caller: Arc<Caller<M>>,
    settings: TargetSettings,
}

impl<M: Model> SimulatedTarget<M> {
    /// `None` when nobody is asked.
    pub(crate) fn new(caller: &Arc<Caller<M>>, model: M) -> Option<Self> {
        Some(Self { caller: Arc::clone(caller), settings: model.target()? })
    }
}

impl<M: Model> Target for SimulatedTarget<M> {
    async fn ask(&self, operation: Operation, _: &str, token: &SecretText) -> Result<Answer, String> {
        let call = match operation {
            Operation::Refresh => Call::Refresh,
            Operation::Verify | Operation::Keys => Call::Verify,
        };
        let lost = || "connection reset".to_owned();
        if self.caller.gate(call, Side::Before).await.is_some() {
            return Err(lost());
        }
        let answer = {
            let mut world = self.caller.world.lock();
            let instance = world.choose_instance();
            let accepted = world.asks(instance, token.expose());
            if accepted && operation == Operation::Refresh {
                world.load(instance);
            }
            self.caller.note(&mut world, call, if accepted { "accepted" } else { "refused" });
            let verdict = if accepted { Verdict::Accepted } else { Verdict::Refused };
            let asked = accepted && operation == Operation::Keys;
            let keys = asked.then(|| world.scenario.model.reports(&world.instances[instance])).flatten();
            Answer { verdict, instance: self.settings.instances.map(|_| instance.to_string()), keys }
        };
        match self.caller.gate(call, Side::After).await {
            Some(_) => Err(lost()),
            None => Ok(answer),
        }
    }

    fn settings(&self) -> &TargetSettings {
        &self.settings
    }
}

/// Who issues credentials. It lives as long as the invocation, and is asked once.
impl<M: Model> Issuer for SimulatedTarget<M> {
    fn name(&self) -> &str {
        "issuer"
    }

    fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    async fn invoke(&self, payload: &SecretText, deadline: Deadline) -> Result<SecretText, FunctionErrorKind> {
        let request: Value = serde_json::from_str(payload.expose()).map_err(|_| FunctionErrorKind::NotText)?;
        let call = match request["operation"].as_str() {
            Some("create") => Call::Issue,
            Some("verify") => Call::Verify,
            _ => Call::Revoke,
        };
        if self.caller.gate(call, Side::Before).await.is_some() || deadline.left().is_zero() {
            return Err(FunctionErrorKind::TimedOut);
        }
        let answer = {
            let mut world = self.caller.world.lock();
            let (answer, held) = M::issue(&mut world, &request, (self.caller.task, self.caller.admitted_at));
            self.caller.note(&mut world, call, answer.as_deref().unwrap_or("refused"));
            world.found(held);
            world.check_clients();
            answer
        };
        match self.caller.gate(call, Side::After).await {
            Some(_) => Err(FunctionErrorKind::TimedOut),
            None => answer.map(SecretText::new),
        }
    }
}
