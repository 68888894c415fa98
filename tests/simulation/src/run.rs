//! One schedule, to the end: the rotation service with its retries, the operators, and their invocations, polled by hand.

mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use operate::actions::abort::DEFAULT_ABORT_AFTER;
use operate::error::OperateError;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::error::RotationError;
use rotation::event::{RotationEvent, Step, VersionId};
use rotation::protocol::Rotator;
use rotation::versions::Stage;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::histories::Event;
use crate::model::keyring::{self, Keyring};
use crate::model::{Model, Refusal, Shape};
use crate::operations::{self, ABORT_AFTER, Operator, TIMEOUT};
use crate::ports::{Caller, SimulatedTarget, Store};
use crate::scenario::{Balancer, RotationService, Scenario, Staleness};
use crate::schedule::{Action, Adversary, Call, Gate, Operation, Script, Side, Task, Until, Work};
use crate::tested::Tested;
use crate::world::{Tags, World};

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

/// What was done, or why not.
type Answered = Result<String, OperateError>;

/// A running invocation.
struct Invocation<M: Model> {
    number: u32,
    task: Task,
    caller: Arc<Caller<M>>,
    /// The gate at which it stands.
    at: Option<Gate>,
    world: Arc<World<M>>,
    future: Pin<Box<dyn Future<Output = Answered>>>,
}

enum Progress {
    At(Gate),
    Ended(Answered),
}

impl<M: Model> Invocation<M> {
    /// Lets it run to its next gate, or to its end. While it sleeps, the clock moves on by itself.
    async fn advance(&mut self) -> Progress {
        let progress = poll_fn(|context| match (self.future.as_mut().poll(context), self.world.arrived()) {
            (Poll::Ready(answer), _) => Poll::Ready(Progress::Ended(answer)),
            (Poll::Pending, Some(gate)) => Poll::Ready(Progress::At(gate)),
            (Poll::Pending, None) => Poll::Pending,
        })
        .await;
        self.at = match progress {
            Progress::At(gate) => Some(gate),
            Progress::Ended(_) => None,
        };
        if let Progress::Ended(answer) = &progress {
            self.world.lock().note(|| match answer {
                Ok(done) => format!("#{} {} ends: {done}", self.number, self.task),
                Err(error) => format!("#{} {} fails: {error}", self.number, self.task),
            });
        }
        progress
    }
}

impl<M: Model> Rotating<M> {
    fn new(version: VersionId, dies_after: Option<usize>) -> Self {
        Self { version, attempt: 0, step: 0, invocation: None, dies_after, takes_a_turn: false }
    }
}

struct HeldUp<M: Model> {
    invocation: Invocation<M>,
    until: Until,
}

/// How an invocation ended for whoever waited for it.
enum Attended {
    Killed,
    /// `faulted` when the schedule let a call fail.
    Ended {
        answer: Answered,
        faulted: bool,
    },
}

/// A rotation that nothing disturbs, as the service runs it gate by gate.
struct Rotating<M: Model> {
    version: VersionId,
    attempt: usize,
    step: usize,
    invocation: Option<Invocation<M>>,
    /// So many gates later it dies, and is not repeated.
    dies_after: Option<usize>,
    /// A step has ended, or a stage was moved in this moment.
    takes_a_turn: bool,
}

/// Why a step did not succeed, as the service sees it.
enum Failed {
    Killed,
    /// With this error, after a call that the schedule let fail.
    Fault(&'static str),
    Error(&'static str),
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
        // An application that is shown the past cannot be rotated by verify=after: what it loads is what was promoted
        // away from.
        let staleness = self.world.lock().scenario.staleness;
        if matches!(staleness, Staleness::LagEverywhere(_)) {
            self.world.end_staleness();
        }
        // Whatever happened, what an operator asked for can be brought to its end, and the secret can be rotated on.
        self.world.lock().tags.clear();
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

    /// The last rotation was refused because keys are missing: an operator puts them back.
    async fn restore_what_is_missed(&mut self) -> Result<(), String> {
        if self.refusals.contains_key("KeysMissing") {
            self.finish(Operation::Restore).await?;
        }
        Ok(())
    }

    /// An instance may hold a value from before a rotation that was cut short, until its cache is too old; and it may be too
    /// early for the next rotation.
    async fn be_patient(&mut self) -> Result<(), String> {
        let patience = self.world.lock().scenario.model.patience();
        self.pass(patience).await;
        self.world.reload();
        self.check_violation()
    }

    /// A rotation that dies in its first attempt, and that nobody repeats.
    async fn stuck_rotation(&mut self, gates: usize) {
        let version = self.world.rotate_secret();
        let mut rotating = Rotating::new(version, Some(gates));
        while self.go_on_rotating(&mut rotating).await.is_none() {}
    }

    /// An operation, with the schedule's interventions; after the last work nobody is held up any longer.
    async fn operation(&mut self, operation: Operation, disturbed: bool, is_last: bool) -> Result<(), String> {
        tokio::time::advance(BETWEEN_ATTEMPTS).await;
        let invocation = self.ask(operation);
        let caller = Arc::clone(&invocation.caller);
        self.alone = self.held_up.is_empty() && self.background.is_empty();
        if let Attended::Ended { answer, .. } = self.attend(invocation, None, disturbed).await? {
            self.answered(&caller, &answer, self.alone);
            self.check_violation()?;
        }
        self.go_on(|until| is_last || until == Until::StepEnds).await;
        self.end_background().await;
        self.check_violation()
    }

    /// What was asked for is asked for once more, by a process that knows nothing of the others, until it is done, or
    /// refused by an honest answer.
    async fn finish(&mut self, operation: Operation) -> Result<Rotated, String> {
        // An answer from the past may lead to a refusal, once.
        let mut stale = matches!(self.world.lock().scenario.staleness, Staleness::Once { .. });
        for _ in 0..4 {
            tokio::time::advance(BETWEEN_ATTEMPTS).await;
            self.refusals.clear();
            let invocation = self.ask(operation);
            let caller = Arc::clone(&invocation.caller);
            self.alone = true;
            let Attended::Ended { answer, .. } = self.attend(invocation, None, false).await? else { continue };
            self.end_background().await;
            self.answered(&caller, &answer, true);
            let Some(intent) = caller.intent() else { return Err(format!("{operation} did not look at the secret")) };
            self.check_violation()?;
            let Err(error) = answer else {
                return if operation == Operation::Rollback {
                    self.require_no_change(operation).await
                } else {
                    Ok(Rotated::Done)
                };
            };
            let of_rotation = match error {
                OperateError::RotationFailed { .. } | OperateError::NotFinished { .. } => self.refusal(),
                _ => Refusal::Wrong,
            };
            let refusal = operations::refusal(&self.world.lock(), &intent, error.name(), self.untold).max(of_rotation);
            match refusal {
                Refusal::Wrong if stale => {
                    stale = false;
                    continue;
                }
                Refusal::Wrong => return Err(format!("nothing stood against {operation}, and it ended with: {error}")),
                Refusal::ForGood => return Ok(Rotated::Refused(error.name())),
                Refusal::ForNow => {}
            }
            match error {
                OperateError::NotFinished { .. } => {
                    self.pass(DEFAULT_ABORT_AFTER).await;
                    self.world.reload();
                }
                OperateError::TooYoungToAbort { .. } => self.pass(ABORT_AFTER).await,
                OperateError::RotationOpen { .. } => {
                    let version = self.world.rotate_secret();
                    if self.rotate_alone(&version).await? != Rotated::Done {
                        self.be_patient().await?;
                    }
                }
                _ => self.be_patient().await?,
            }
        }
        Err(format!("no repetition of {operation} succeeds"))
    }

    /// What is done is not done again.
    async fn require_no_change(&mut self, operation: Operation) -> Result<Rotated, String> {
        let before = self.world.lock().state();
        self.operation(operation, false, true).await?;
        let after = self.world.lock().state();
        // An answer from the past may have led to a version that nobody uses.
        let stale = self.world.lock().scenario.staleness != Staleness::None;
        let same = before == after || (stale && before.holder(&Stage::Current) == after.holder(&Stage::Current));
        if same { Ok(Rotated::Done) } else { Err(format!("{operation} was done, and done again")) }
    }

    /// Judges what an operation has answered; `alone` when nothing else happened meanwhile.
    fn answered(&mut self, caller: &Caller<M>, answer: &Answered, alone: bool) {
        let Some(intent) = caller.intent() else { return };
        let error = answer.as_ref().err().map(OperateError::name);
        self.answers.push((intent.operation, error));
        self.errors.extend(error);
        if answer.is_ok() {
            let mut world = self.world.lock();
            let judged = operations::judge(&mut world, &intent, alone);
            world.found(judged);
        }
    }

    /// Lets an invocation run to its next gate; the rotations that operations have asked for run as the scenario wants it.
    async fn advance(&mut self, invocation: &mut Invocation<M>) -> Progress {
        let looks = invocation.at.is_some_and(|gate| gate.call == Call::Describe && gate.side == Side::Before);
        self.serve(looks, false).await;
        invocation.advance().await
    }

    /// Runs the rotations that operations have asked for: in turns with an operation that `looks` at the secret, or to their ends.
    async fn serve(&mut self, looks: bool, to_their_ends: bool) {
        let (requested, service) = {
            let mut world = self.world.lock();
            (std::mem::take(&mut world.requested), world.scenario.service)
        };
        for version in requested {
            if self.background.iter().all(|rotating| rotating.version != version) {
                let dies_after = match service {
                    RotationService::FirstDies(gates) if !self.first_has_died => Some(gates),
                    _ => None,
                };
                self.first_has_died |= dies_after.is_some();
                self.background.push(Rotating::new(version, dies_after));
            }
        }
        let in_turns = service == RotationService::InTurns && !to_their_ends;
        if in_turns && !looks {
            return;
        }
        for mut rotating in std::mem::take(&mut self.background) {
            let mut ended = self.go_on_rotating(&mut rotating).await;
            while ended.is_none() && !(in_turns && rotating.takes_a_turn) {
                ended = self.go_on_rotating(&mut rotating).await;
            }
            if ended.is_none() {
                self.background.push(rotating);
            }
        }
    }

    async fn end_background(&mut self) {
        self.serve(false, true).await;
    }

    /// Lets a rotation run to its next gate. How it has ended, when it has.
    async fn go_on_rotating(&mut self, rotating: &mut Rotating<M>) -> Option<Rotated> {
        if rotating.dies_after == Some(0) {
            return Some(Rotated::Refused("Killed"));
        }
        let Some(step) = STEPS.get(rotating.step) else {
            if self.world.lock().state().is_at(&rotating.version, &Stage::Current) {
                self.world.rotation_succeeded();
                return Some(Rotated::Done);
            }
            return self.repeat(rotating, "RotationIncomplete").await;
        };
        if rotating.invocation.is_none() {
            tokio::time::advance(BETWEEN_STEPS).await;
        }
        let mut invocation = match rotating.invocation.take() {
            Some(invocation) => invocation,
            None => self.invoke(&rotating.version, *step),
        };
        match invocation.advance().await {
            Progress::At(gate) => {
                rotating.takes_a_turn = gate.call == Call::Move && gate.side == Side::After;
                rotating.dies_after = rotating.dies_after.map(|gates| gates - 1);
                rotating.invocation = Some(invocation);
                None
            }
            Progress::Ended(Ok(_)) => {
                rotating.takes_a_turn = true;
                rotating.step += 1;
                None
            }
            Progress::Ended(Err(error)) => self.repeat(rotating, error.name()).await,
        }
    }

    /// The next attempt of a rotation, if there is one.
    async fn repeat(&mut self, rotating: &mut Rotating<M>, error: &'static str) -> Option<Rotated> {
        self.refused(&rotating.version, error);
        self.errors.insert(error);
        tokio::time::advance(BETWEEN_ATTEMPTS).await;
        rotating.attempt += 1;
        rotating.step = 0;
        (rotating.attempt == ATTEMPTS).then_some(Rotated::Refused(error))
    }

    /// A whole rotation that nothing disturbs.
    async fn rotate_alone(&mut self, version: &VersionId) -> Result<Rotated, String> {
        self.refusals.clear();
        let mut rotating = Rotating::new(version.clone(), None);
        loop {
            let ended = self.go_on_rotating(&mut rotating).await;
            self.check_violation()?;
            if let Some(rotated) = ended {
                return Ok(rotated);
            }
        }
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
                Action::Edit(_) | Action::Reload | Action::ReloadOne(_) | Action::Tag(..) => self.act(action),
            }
            self.check_violation()?;
        }
        Ok(())
    }

    /// Nothing happens for so long.
    async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
        self.world.time_passed();
    }

    /// What to think of the refusal of the last rotation: each of its errors has to be an honest answer. A version that was
    /// given up is unknown afterwards; then the error counts that gave it up.
    fn refusal(&self) -> Refusal {
        let alone = self.refusals.len() == 1;
        let telling = self.refusals.iter().filter(|(name, _)| alone || **name != "UnknownVersion");
        telling.map(|(_, refusal)| *refusal).min().unwrap_or(Refusal::Wrong)
    }

    /// An error that no fault explains, judged when it occurs.
    fn refused(&mut self, version: &VersionId, name: &'static str) {
        let refusal = M::refusal(&self.world.lock(), version, name);
        let strictest = self.refusals.entry(name).or_insert(refusal);
        *strictest = refusal.min(*strictest);
    }

    /// A rotation with the schedule's interventions; after the last one nobody is held up any longer.
    async fn disturbed_rotation(&mut self, last: bool) -> Result<(VersionId, Rotated), String> {
        let version = self.world.rotate_secret();
        let rotated = self.rotate(&version).await?;
        self.go_on(|until| last || until == Until::RotationEnds).await;
        self.check_violation()?;
        // With more of them, the service's attempts may run out.
        let must_be_done = self.world.lock().is_healthy() && !self.disturbed && self.faults + self.duplicates <= 2;
        match rotated {
            Rotated::Done if must_be_done => self.require_in_use(&version)?,
            Rotated::Refused(_) if must_be_done && self.refusal() == Refusal::Wrong => {
                return Err(format!("nothing stood against the rotation, and it ended as {rotated:?}"));
            }
            _ => {}
        }
        Ok((version, rotated))
    }

    /// A whole rotation, repeated with the same token when a step fails.
    async fn rotate(&mut self, version: &VersionId) -> Result<Rotated, String> {
        let mut last = "Killed";
        self.refusals.clear();
        'attempts: for attempt in 0..ATTEMPTS {
            self.world.lock().note(|| format!("{version}, attempt {attempt}"));
            for step in STEPS {
                tokio::time::advance(BETWEEN_STEPS).await;
                let Err(failed) = self.step(version, step).await? else { continue };
                if let Failed::Error(name) = failed {
                    self.refused(version, name);
                }
                if let Failed::Error(name) | Failed::Fault(name) = failed {
                    last = name;
                    self.errors.insert(name);
                }
                tokio::time::advance(BETWEEN_ATTEMPTS).await;
                continue 'attempts;
            }
            if self.world.lock().state().is_at(version, &Stage::Current) {
                self.world.rotation_succeeded();
                return Ok(Rotated::Done);
            }
            last = "RotationIncomplete";
            self.refused(version, last);
        }
        Ok(Rotated::Refused(last))
    }

    fn caller(&mut self, task: Task, version: Option<&VersionId>) -> Arc<Caller<M>> {
        let invocation = self.invocations;
        self.invocations += 1;
        let world = Arc::clone(&self.world);
        let admitted_at = world.lock().writes();
        Arc::new(Caller {
            world,
            invocation,
            task,
            version: version.cloned(),
            admitted_at,
            tags: Mutex::new(Tags::new()),
            intent: Mutex::new(None),
        })
    }

    /// Somebody asks for an operation.
    fn ask(&mut self, operation: Operation) -> Invocation<M> {
        if !self.begun.contains(&operation) {
            self.begun.push(operation);
        }
        let task = Task::Operation(operation);
        let caller = self.caller(task, None);
        let (number, world) = (caller.invocation, Arc::clone(&self.world));
        let model = world.lock().scenario.model;
        let operating = model.operate(Operator { caller: Arc::clone(&caller), operation });
        let future = Box::pin(async { operating.await.map(|()| "done".to_owned()) });
        Invocation { number, task, caller, at: None, world, future }
    }

    fn invoke(&mut self, version: &VersionId, step: Step) -> Invocation<M> {
        let task = Task::Step(step);
        let caller = self.caller(task, Some(version));
        let (number, world, version) = (caller.invocation, Arc::clone(&self.world), version.clone());
        let stepping = Arc::clone(&caller);
        let future = async move {
            let scenario = stepping.world.lock().scenario;
            let deadline = Deadline::after(TIMEOUT);
            let kind = scenario.model.kind(SimulatedTarget::new(&stepping, scenario.model));
            let kind = Tested { kind, model: scenario.model, sabotage: scenario.sabotage };
            let store = Store { caller: stepping, deadline };
            let event = RotationEvent { step, secret_id: "shop/secret".to_owned(), version, rotation_token: None };
            let stack = scenario.stack(&kind)?;
            let mut rng = StdRng::seed_from_u64(u64::from(number));
            let rotator = Rotator { kind: &kind, store: &store, stack: &stack };
            Ok(format!("{:?}", rotator.perform(&event, deadline, &mut rng).await?.outcome))
        };
        Invocation { number, task, caller, at: None, world, future: Box::pin(future) }
    }

    /// One step that the service waits for. The outer error is a broken promise.
    async fn step(&mut self, version: &VersionId, step: Step) -> Result<Result<(), Failed>, String> {
        let main = self.invoke(version, step);
        let (answer, faulted) = match self.attend(main, Some(version), true).await? {
            Attended::Killed => {
                self.go_on(|until| until == Until::StepEnds).await;
                self.check_violation()?;
                return Ok(Err(Failed::Killed));
            }
            Attended::Ended { answer, faulted } => (answer, faulted),
        };
        self.rollback_finished |= matches!(answer, Err(OperateError::Rotation(RotationError::RolledBack { .. })));
        if answer.is_ok() && step == Step::FinishSecret && self.held_up.is_empty() {
            self.require_in_use(version)?;
        }
        self.go_on(|until| until == Until::StepEnds).await;
        self.check_violation()?;
        let failed = if faulted { Failed::Fault } else { Failed::Error };
        Ok(answer.map(drop).map_err(|error| failed(error.name())))
    }

    /// Lets an invocation run to its end, with the schedule's interventions at its gates if it is `disturbed`. The error is a
    /// broken promise.
    async fn attend(
        &mut self,
        mut main: Invocation<M>,
        version: Option<&VersionId>,
        disturbed: bool,
    ) -> Result<Attended, String> {
        let mut faulted = false;
        loop {
            match self.advance(&mut main).await {
                Progress::Ended(answer) => {
                    self.check_violation()?;
                    return Ok(Attended::Ended { answer, faulted });
                }
                Progress::At(gate) if disturbed => {
                    let number = self.gates.len();
                    self.gates.push(gate);
                    let (mut fate, mut fault) = (None, None);
                    let stood_since = Instant::now();
                    for action in self.adversary.at(number, &gate) {
                        self.untold |= gate.task.step().is_some();
                        self.world.lock().note(|| format!("! at gate {number} ({gate}): {action:?}"));
                        self.stragglers += usize::from(matches!(action, Action::Lose(_) | Action::Duplicate { .. }));
                        if matches!(action, Action::Die | Action::Lose(_) | Action::Fail(_)) {
                            self.faults += 1;
                        }
                        match action {
                            Action::Die | Action::Lose(_) => fate = Some(action),
                            Action::Fail(kind) => fault = Some(kind),
                            other => self.intervene(version, other).await,
                        }
                        self.check_violation()?;
                    }
                    match fate {
                        Some(Action::Lose(until)) => {
                            self.held_up.push(HeldUp { invocation: main, until });
                            return Ok(Attended::Killed);
                        }
                        Some(_) => return Ok(Attended::Killed),
                        None => {
                            self.go_on(|until| matches!(until, Until::Gate(at) if at <= number)).await;
                            self.check_violation()?;
                            self.disturbed |= stood_since.elapsed() >= LONG;
                            // Last, so that only the invocation which stands here meets it.
                            if let Some(kind) = fault {
                                self.world.inject(kind);
                                faulted = true;
                            }
                        }
                    }
                }
                Progress::At(_) => {}
            }
            self.check_violation()?;
        }
    }

    async fn intervene(&mut self, version: Option<&VersionId>, action: Action) {
        self.alone &= matches!(action, Action::Wait(_) | Action::Reload | Action::ReloadOne(_));
        match action {
            Action::Wait(time) => {
                self.disturbed = true;
                self.pass(time).await;
            }
            Action::Duplicate { step, gates, until } => {
                // An operator's own request is repeated by asking once more.
                let Some(version) = version else { return };
                self.duplicates += 1;
                let invocation = self.invoke(version, step);
                self.hold_up(invocation, gates, until).await;
            }
            Action::Begin { operation, gates, until } => {
                self.disturbed = true;
                let invocation = self.ask(operation);
                self.hold_up(invocation, gates, until).await;
            }
            Action::Rotate => {
                self.disturbed = true;
                let version = self.world.rotate_secret();
                let mut rotating = Rotating::new(version, None);
                while self.go_on_rotating(&mut rotating).await.is_none() {}
            }
            Action::Die | Action::Lose(_) | Action::Fail(_) => {}
            Action::Tag(..) => {
                // A value that was made before may not be what is asked for now.
                self.disturbed = true;
                self.act(action);
            }
            Action::Edit(_) | Action::Reload | Action::ReloadOne(_) => self.act(action),
        }
    }

    /// Lets an invocation run up to its gate of this number.
    async fn hold_up(&mut self, mut invocation: Invocation<M>, gates: usize, until: Until) {
        for _ in 0..=gates {
            if let Progress::Ended(answer) = self.advance(&mut invocation).await {
                self.duplicate_ended_early = true;
                self.answered(&invocation.caller, &answer, false);
                return;
            }
        }
        self.held_up.push(HeldUp { invocation, until });
    }

    /// What people do, and caches.
    fn act(&mut self, action: Action) {
        match action {
            Action::Edit(edit) => {
                self.edits += 1;
                self.disturbed = true;
                self.untold = true;
                self.world.edit(edit);
            }
            Action::Reload => self.world.reload(),
            Action::ReloadOne(instance) => self.world.reload_one(instance),
            Action::Tag(name, value) => self.world.tag(name, value),
            _ => {}
        }
    }

    /// Lets those that were held up run to their ends, one after another.
    async fn go_on(&mut self, which: impl Fn(Until) -> bool) {
        let (go, stay) = std::mem::take(&mut self.held_up).into_iter().partition(|held_up| which(held_up.until));
        self.held_up = stay;
        let go: Vec<HeldUp<M>> = go;
        for mut held_up in go {
            let answer = loop {
                if let Progress::Ended(answer) = self.advance(&mut held_up.invocation).await {
                    break answer;
                }
            };
            // What an operation does may stand against a rotation.
            self.disturbed |= held_up.invocation.task.step().is_none();
            self.answered(&held_up.invocation.caller, &answer, false);
            // It did not find its version working and put the old one back, whatever a retry may have found meanwhile. It
            // cannot know better: nothing in the secret says that the retry succeeded.
            if let Err(OperateError::Rotation(RotationError::VerificationFailed { .. })) = answer {
                self.disturbed = true;
            }
        }
    }

    fn check_violation(&self) -> Result<(), String> {
        self.world.lock().violation.clone().map_or(Ok(()), Err)
    }

    /// A rotation that succeeded is in use.
    fn require_in_use(&mut self, version: &VersionId) -> Result<(), String> {
        let world = self.world.lock();
        let state = world.state();
        if !state.is_at(version, &Stage::Current) {
            // Somebody stored another value after the promotion.
            return if self.disturbed { Ok(()) } else { Err(format!("{version} succeeded and is not AWSCURRENT")) };
        }
        M::judge_success(&world)?;
        drop(world);
        self.rotations += 1;
        Ok(())
    }

    /// A rotation that a broken application refused has left no trace.
    fn require_put_back(&self, version: &VersionId, rotated: &Rotated) -> Result<(), String> {
        let world = self.world.lock();
        let state = world.state();
        let left = state.stages_of(version);
        if *rotated == Rotated::Done {
            return Err("the rotation succeeded with an application that does not know the new value".to_owned());
        }
        let stands = state.is_at(version, &Stage::Current) && world.scenario.model.may_stand();
        if !stands && state.value_at(&Stage::Current) != world.first.as_ref() {
            return Err("the value from before the rotation is not AWSCURRENT again".to_owned());
        }
        if !world.promises.was_rolled_back(version) {
            return Ok(());
        }
        if left.contains(&Stage::Pending) {
            return Err("AWSPENDING is still on the version that was rolled back".to_owned());
        }
        // The last call of a rollback takes AWSPREVIOUS off the failed version. When that one is lost, the version looks
        // like any other that was replaced, and nobody may touch it.
        if left.contains(&Stage::Previous) && (self.faults == 0 || self.rollback_finished) {
            return Err("AWSPREVIOUS is still on the version that was rolled back".to_owned());
        }
        // In a text secret it is the token of the overlap that is open.
        let in_overlap = world.scenario.model.shape() == Shape::Text && !stands;
        // A straggler that verifies while another one puts the old version back takes the record away.
        let undisturbed = self.edits == 0 && self.stragglers == 0;
        if in_overlap && undisturbed && state.holder(&Stage::Previous) != world.first_previous.as_ref() {
            let holder = state.holder(&Stage::Previous);
            return Err(format!("AWSPREVIOUS is not where it was before the rotation, but on {holder:?}"));
        }
        Ok(())
    }
}
