//! One schedule, to the end: the rotation service with its retries, the operators, and their invocations, polled by hand.

mod gates;
mod invocation;
mod operations;
mod promises;
mod rotations;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rotation::event::{Step, VersionId};
use tokio::runtime::Runtime;

use self::invocation::{HeldUp, Rotating};
use crate::histories::Event;
use crate::model::keyring::{self, Keyring};
use crate::model::{Model, Refusal};
use crate::scenario::{Balancer, Scenario, Staleness};
use crate::schedule::{Action, Adversary, Gate, Operation, Script, Work};
use crate::world::World;

/// The steps in the order of a rotation.
pub const STEPS: [Step; 4] = [Step::CreateSecret, Step::SetSecret, Step::TestSecret, Step::FinishSecret];

/// How often the service repeats a rotation that fails.
const ATTEMPTS: usize = 5;
const BETWEEN_STEPS: Duration = Duration::from_millis(50);
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(2);
/// Who stands still for so long, while others act, may find that its time to verify is up.
const LONG: Duration = Duration::from_secs(1);

/// How a schedule ended without a broken promise.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How the last rotation ended for the rotation service; when there were operations, the first of them at its repetition.
    pub rotation: Rotated,
    /// What the operations answered that somebody waited for, in order: the name of the error, if it was one. Who died answered
    /// nothing.
    pub answers: Vec<(Operation, Option<&'static str>)>,
    /// Every call of the rotation and its retries that took effect, in order.
    pub calls: Vec<Gate>,
    /// The gates that the invocations passed that somebody waited for.
    pub gates: Vec<Gate>,
    /// Whether an invocation that was held up had ended before it came to its gate: a longer hold makes no difference.
    pub duplicate_ended_early: bool,
    /// How often the application was found using the new value.
    pub rotations: usize,
    /// The names of all errors that steps ended with.
    pub errors: BTreeSet<&'static str>,
}

/// How a rotation ended for the rotation service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// Every step succeeded and the version is current.
    Done,
    /// Given up after several tries; the name of the last error.
    Refused(&'static str),
}

/// A promise that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which one.
    pub promise: String,
    /// What happened, line by line, if the run was traced.
    pub trace: Vec<String>,
}

/// How a history of stored rows came to its end without a broken promise.
#[derive(Clone, Debug)]
pub struct Lived {
    /// What the operations answered: the name of the error, if it was one.
    pub answers: Vec<(Operation, Option<&'static str>)>,
    /// The names of all errors that steps and operations ended with.
    pub errors: BTreeSet<&'static str>,
    /// What happened to rows.
    pub seen: keyring::rows::Seen,
}

/// Runs schedules one after another, on one thread, in virtual time.
#[derive(Debug)]
pub struct Simulator {
    runtime: Runtime,
}

impl Simulator {
    /// With a runtime of its own, whose clock stands still while there is something to do.
    ///
    /// # Errors
    /// When the operating system gives no resources for it.
    pub fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        Ok(Self { runtime })
    }

    /// Runs a schedule. Deterministic: the same scenario and adversary give the same run.
    ///
    /// # Errors
    /// The first promise that did not hold.
    pub fn run<M: Model>(
        &self,
        scenario: &Scenario<M>,
        adversary: &mut dyn Adversary,
        traced: bool,
    ) -> Result<Ended, Violation> {
        self.runtime.block_on(tokio::task::unconstrained(async {
            let world = Arc::new(World::new(*scenario, traced));
            let mut service = Service::new(Arc::clone(&world), adversary);
            let ended = service.whole_history().await;
            let mut inner = world.lock();
            match (ended, inner.violation.take()) {
                (Ok(rotation), None) => Ok(Ended {
                    rotation,
                    answers: service.answers,
                    calls: std::mem::take(&mut inner.calls),
                    gates: service.gates,
                    duplicate_ended_early: service.duplicate_ended_early,
                    rotations: service.rotations,
                    errors: service.errors,
                }),
                (Err(promise), None) | (_, Some(promise)) => Err(Violation { promise, trace: inner.take_trace() }),
            }
        }))
    }
}

impl Simulator {
    /// Lets a history of stored rows happen. Deterministic, as schedules are.
    ///
    /// # Errors
    /// The first promise that did not hold.
    pub fn live(&self, scenario: &Scenario<Keyring>, events: &[Event], traced: bool) -> Result<Lived, Violation> {
        self.runtime.block_on(tokio::task::unconstrained(async {
            let world = Arc::new(World::new(*scenario, traced));
            let mut nobody = Script::new([]);
            let mut service = Service::new(Arc::clone(&world), &mut nobody);
            let ended = service.history(events).await;
            let mut inner = world.lock();
            match (ended, inner.violation.take()) {
                (Ok(()), None) => {
                    Ok(Lived { answers: service.answers, errors: service.errors, seen: keyring::rows::seen(&inner) })
                }
                (Err(promise), None) | (_, Some(promise)) => Err(Violation { promise, trace: inner.take_trace() }),
            }
        }))
    }
}

/// The rotation service and the operators, with the schedule's interventions.
struct Service<'a, M: Model> {
    world: Arc<World<M>>,
    adversary: &'a mut dyn Adversary,
    invocations: u32,
    gates: Vec<Gate>,
    held_up: Vec<HeldUp<M>>,
    /// The rotations that operations have asked for, and that have not ended.
    background: Vec<Rotating<M>>,
    /// The rotation has died that was to die, of those that operations asked for.
    first_has_died: bool,
    /// The operations that were asked for, each once.
    begun: Vec<Operation>,
    answers: Vec<(Operation, Option<&'static str>)>,
    /// Nothing else happens beside the invocation that is waited for.
    alone: bool,
    /// Somebody stored a value by hand, or a rotation was disturbed: an application may not know what is current, until its cache
    /// is too old.
    untold: bool,
    duplicate_ended_early: bool,
    /// Something happened after which a refusal is an honest answer.
    disturbed: bool,
    /// An invocation answered that it has finished the rollback of another one.
    rollback_finished: bool,
    /// How often an invocation failed through the schedule.
    faults: usize,
    duplicates: usize,
    edits: usize,
    /// Invocations that run beside the one that the service waits for.
    stragglers: usize,
    rotations: usize,
    /// The errors of the last rotation that no fault explains, and what to think of each, at its strictest.
    refusals: BTreeMap<&'static str, Refusal>,
    errors: BTreeSet<&'static str>,
}

impl<'a, M: Model> Service<'a, M> {
    fn new(world: Arc<World<M>>, adversary: &'a mut dyn Adversary) -> Self {
        let Scenario { staleness, balancer, .. } = world.lock().scenario;
        Self {
            world,
            adversary,
            invocations: 0,
            gates: vec![],
            held_up: vec![],
            background: vec![],
            first_has_died: false,
            begun: vec![],
            answers: vec![],
            alone: true,
            untold: false,
            duplicate_ended_early: false,
            disturbed: staleness != Staleness::None || balancer == Balancer::InTurn,
            rollback_finished: false,
            faults: 0,
            duplicates: 0,
            edits: 0,
            stragglers: 0,
            rotations: 0,
            refusals: BTreeMap::new(),
            errors: BTreeSet::new(),
        }
    }
}

impl<M: Model> Service<'_, M> {
    async fn whole_history(&mut self) -> Result<Rotated, String> {
        let healthy = self.world.lock().is_healthy();
        let (works, prepared) = (self.adversary.works(), self.adversary.prepared());
        let mut last = None;
        for (number, work) in works.iter().enumerate() {
            self.before(number).await?;
            let (disturbed, is_last) = (number >= prepared, number + 1 == works.len());
            match work {
                Work::Rotation if disturbed => last = Some(self.disturbed_rotation(is_last).await?),
                Work::Rotation => {
                    let version = self.world.rotate_secret();
                    self.rotate_alone(&version).await?;
                }
                Work::StuckRotation(gates) => self.stuck_rotation(*gates).await,
                Work::Operation(operation) => self.operation(*operation, disturbed, is_last).await?,
            }
            self.check_violation()?;
        }
        let last = last.filter(|_| self.begun.is_empty());
        if let (false, Some((version, rotated))) = (healthy, &last) {
            self.require_put_back(version, rotated)?;
        }
        if let (true, false, Some((_, Rotated::Done))) = (healthy, self.disturbed, &last) {
            return Ok(Rotated::Done);
        }
        let begun = std::mem::take(&mut self.begun);
        if self.world.lock().scenario.defect.is_some() {
            for operation in &begun {
                // It may find the application as broken as before, and has to say so.
                self.operation(*operation, false, true).await?;
            }
            self.world.heal();
        }
        self.bring_to_end(begun, last).await
    }

    /// Whatever happened, what an operator asked for can be brought to its end, and the secret can be rotated on.
    async fn bring_to_end(
        &mut self,
        begun: Vec<Operation>,
        last: Option<(VersionId, Rotated)>,
    ) -> Result<Rotated, String> {
        // An application that is shown the past cannot be rotated by verify=after: what it loads is what was promoted
        // away from.
        let staleness = self.world.lock().scenario.staleness;
        if matches!(staleness, Staleness::LagEverywhere(_)) {
            self.world.end_staleness();
        }
        self.world.reset_tags();
        let mut finished = vec![];
        for operation in begun {
            finished.push(self.finish(operation).await?);
            self.check_violation()?;
        }
        let ended = finished.into_iter().next().or(last.as_ref().map(|(_, rotated)| rotated.clone()));
        let ended = ended.ok_or_else(|| "there was nothing to do".to_owned())?;
        for _ in 0..3 {
            let next = self.world.rotate_secret();
            let rotated = self.rotate_alone(&next).await?;
            if rotated == Rotated::Done && last.as_ref().is_none_or(|(version, _)| next != *version) {
                self.require_in_use(&next)?;
                return self.check_violation().map(|()| ended);
            }
            if self.refusal() == Refusal::ForGood {
                return Ok(ended);
            }
            self.restore_what_is_missed().await?;
            self.be_patient().await?;
        }
        Err("no later rotation succeeds".to_owned())
    }

    /// The last rotation was refused because keys are missing: an operator puts them back. Or because the provider has no room for
    /// another credential: an operator makes room.
    async fn restore_what_is_missed(&mut self) -> Result<(), String> {
        if self.refusals.contains_key("KeysMissing") {
            self.finish(Operation::Restore).await?;
        }
        if self.refusals.contains_key("IssuerFailed") {
            for operation in [Operation::Abort, Operation::Revoke] {
                self.finish(operation).await?;
            }
        }
        Ok(())
    }

    /// An instance may hold a value from before a rotation that was cut short, until its cache is too old; and it may be too
    /// early for the next rotation.
    pub(super) async fn be_patient(&mut self) -> Result<(), String> {
        let patience = self.world.lock().scenario.model.patience();
        self.pass(patience).await;
        self.world.reload();
        self.check_violation()
    }

    /// What the schedule lets happen before a work.
    async fn before(&mut self, work: usize) -> Result<(), String> {
        for action in self.adversary.before(work) {
            self.world.lock().note(|| format!("! before work {work}: {action:?}"));
            match action {
                // A pause between rotations is nothing unusual.
                Action::Wait(time) => self.pass(time).await,
                Action::Die
                | Action::Lose(_)
                | Action::Fail(_)
                | Action::Duplicate { .. }
                | Action::Begin { .. }
                | Action::Rotate => {}
                Action::Edit(_) | Action::Reload | Action::ReloadOne(_) | Action::Deliver | Action::Tag(..) => {
                    self.act(action);
                }
            }
            self.check_violation()?;
        }
        Ok(())
    }

    /// Nothing happens for so long.
    pub(super) async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
        self.world.time_passed();
    }
}
