//! One schedule, from RotateSecret to the end: the rotation service with its retries, and the invocations, polled by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::error::RotationError;
use rotation::event::{RotationEvent, Step, VersionId};
use rotation::protocol::{Report, Rotator};
use rotation::versions::Stage;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::model::{Model, Refusal};
use crate::ports::{Caller, SimulatedTarget, Store};
use crate::scenario::{Balancer, Scenario, Staleness};
use crate::schedule::{Action, Adversary, Gate, Until};
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
/// The function's timeout.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How a schedule ended without a broken promise.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How the rotation ended for the rotation service.
    pub rotation: Rotated,
    /// Every call of the rotation and its retries that took effect, in order.
    pub calls: Vec<Gate>,
    /// The gates that the invocations passed for which the service waited.
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
            let mut service = Service {
                world: Arc::clone(&world),
                adversary,
                invocations: 0,
                gates: vec![],
                held_up: vec![],
                duplicate_ended_early: false,
                disturbed: scenario.staleness != Staleness::None || scenario.balancer == Balancer::InTurn,
                rollback_finished: false,
                faults: 0,
                duplicates: 0,
                rotations: 0,
                refusals: BTreeMap::new(),
                errors: BTreeSet::new(),
            };
            let ended = service.whole_history().await;
            let mut inner = world.lock();
            match (ended, inner.violation.take()) {
                (Ok(rotation), None) => Ok(Ended {
                    rotation,
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

type Answered = Result<Report, RotationError>;

/// A running invocation.
struct Invocation<M: Model> {
    number: u32,
    step: Step,
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
        if let Progress::Ended(answer) = &progress {
            self.world.lock().note(|| match answer {
                Ok(report) => format!("#{} {} ends: {:?}", self.number, self.step, report.outcome),
                Err(error) => format!("#{} {} fails: {error}", self.number, self.step),
            });
        }
        progress
    }
}

struct HeldUp<M: Model> {
    invocation: Invocation<M>,
    until: Until,
}

/// Why a step did not succeed, as the service sees it.
enum Failed {
    Killed,
    /// With this error, after a call that the schedule let fail.
    Fault(&'static str),
    Error(&'static str),
}

/// The rotation service, with the schedule's interventions.
struct Service<'a, M: Model> {
    world: Arc<World<M>>,
    adversary: &'a mut dyn Adversary,
    invocations: u32,
    gates: Vec<Gate>,
    held_up: Vec<HeldUp<M>>,
    duplicate_ended_early: bool,
    /// Something happened after which a refusal is an honest answer.
    disturbed: bool,
    /// An invocation answered that it has finished the rollback of another one.
    rollback_finished: bool,
    /// How often an invocation failed through the schedule.
    faults: usize,
    duplicates: usize,
    rotations: usize,
    /// The errors of the last rotation that no fault explains, and what to think of each, at its strictest.
    refusals: BTreeMap<&'static str, Refusal>,
    errors: BTreeSet<&'static str>,
}

impl<M: Model> Service<'_, M> {
    async fn whole_history(&mut self) -> Result<Rotated, String> {
        let healthy = self.world.lock().is_healthy();
        let rotations = self.adversary.rotations();
        let mut last = None;
        for number in 0..rotations {
            self.before(number).await?;
            last = Some(self.disturbed_rotation(number + 1 == rotations).await?);
        }
        let Some((version, rotated)) = last else { return Err("there was nothing to do".to_owned()) };
        if !healthy {
            self.require_put_back(&version, &rotated)?;
            self.world.heal();
        }
        if healthy && !self.disturbed && rotated == Rotated::Done {
            return Ok(rotated);
        }
        // An application that is shown the past cannot be rotated by verify=after: what it loads is what was promoted
        // away from.
        let staleness = self.world.lock().scenario.staleness;
        if matches!(staleness, Staleness::LagEverywhere(_)) {
            self.world.end_staleness();
        }
        // Whatever happened, the secret can be rotated on.
        self.world.lock().tags.clear();
        for _ in 0..3 {
            let next = self.world.rotate_secret();
            let ended = self.rotate(&next, false).await?;
            self.check_violation()?;
            if ended == Rotated::Done && next != version {
                self.require_in_use(&next)?;
                return self.check_violation().map(|()| rotated);
            }
            if self.refusal() == Refusal::ForGood {
                return Ok(rotated);
            }
            // An instance may hold a value from before a rotation that was cut short, until its cache is too old; and it may
            // be too early for the next rotation.
            let patience = self.world.lock().scenario.model.patience();
            self.pass(patience).await;
            self.world.reload();
            self.check_violation()?;
        }
        Err("no later rotation succeeds".to_owned())
    }

    /// What the schedule lets happen before a rotation.
    async fn before(&mut self, rotation: usize) -> Result<(), String> {
        for action in self.adversary.before(rotation) {
            self.world.lock().note(|| format!("! before rotation {rotation}: {action:?}"));
            match action {
                // A pause between rotations is nothing unusual.
                Action::Wait(time) => self.pass(time).await,
                Action::Die | Action::Lose(_) | Action::Fail(_) | Action::Duplicate { .. } => {}
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
        let rotated = self.rotate(&version, true).await?;
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
    async fn rotate(&mut self, version: &VersionId, disturbed: bool) -> Result<Rotated, String> {
        let mut last = "Killed";
        self.refusals.clear();
        'attempts: for attempt in 0..ATTEMPTS {
            self.world.lock().note(|| format!("{version}, attempt {attempt}"));
            for step in STEPS {
                tokio::time::advance(BETWEEN_STEPS).await;
                let Err(failed) = self.step(version, step, disturbed).await? else { continue };
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

    fn invoke(&mut self, version: &VersionId, step: Step) -> Invocation<M> {
        let number = self.invocations;
        self.invocations += 1;
        let world = Arc::clone(&self.world);
        let version = version.clone();
        let admitted_at = world.lock().writes();
        let caller = Arc::new(Caller {
            world: Arc::clone(&world),
            invocation: number,
            step,
            version: version.clone(),
            admitted_at,
            tags: Mutex::new(Tags::new()),
        });
        let future = async move {
            let scenario = caller.world.lock().scenario;
            let deadline = Deadline::after(TIMEOUT);
            let kind = scenario.model.kind(SimulatedTarget::new(&caller, scenario.model));
            let kind = Tested { kind, model: scenario.model, sabotage: scenario.sabotage };
            let store = Store { caller, deadline };
            let event = RotationEvent { step, secret_id: "shop/secret".to_owned(), version, rotation_token: None };
            let stack = scenario.stack(&kind)?;
            let mut rng = StdRng::seed_from_u64(u64::from(number));
            Rotator { kind: &kind, store: &store, stack: &stack }.perform(&event, deadline, &mut rng).await
        };
        Invocation { number, step, world, future: Box::pin(future) }
    }

    /// One invocation that the service waits for. The outer error is a broken promise.
    async fn step(&mut self, version: &VersionId, step: Step, disturbed: bool) -> Result<Result<(), Failed>, String> {
        let mut main = self.invoke(version, step);
        let mut failed: fn(&'static str) -> Failed = Failed::Error;
        let answer = loop {
            match main.advance().await {
                Progress::Ended(answer) => break answer,
                Progress::At(gate) if disturbed => {
                    let number = self.gates.len();
                    self.gates.push(gate);
                    let (mut fate, mut fault) = (None, None);
                    let stood_since = Instant::now();
                    for action in self.adversary.at(number, &gate) {
                        self.world.lock().note(|| format!("! at gate {number} ({gate}): {action:?}"));
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
                        Some(Action::Lose(until)) => self.held_up.push(HeldUp { invocation: main, until }),
                        Some(_) => {}
                        None => {
                            self.go_on(|until| matches!(until, Until::Gate(at) if at <= number)).await;
                            self.check_violation()?;
                            self.disturbed |= stood_since.elapsed() >= LONG;
                            // Last, so that only the invocation which stands here meets it.
                            if let Some(kind) = fault {
                                self.world.inject(kind);
                                failed = Failed::Fault;
                            }
                            continue;
                        }
                    }
                    self.go_on(|until| until == Until::StepEnds).await;
                    self.check_violation()?;
                    return Ok(Err(Failed::Killed));
                }
                Progress::At(_) => {}
            }
            self.check_violation()?;
        };
        self.check_violation()?;
        self.rollback_finished |= matches!(answer, Err(RotationError::RolledBack { .. }));
        if answer.is_ok() && step == Step::FinishSecret && self.held_up.is_empty() {
            self.require_in_use(version)?;
        }
        self.go_on(|until| until == Until::StepEnds).await;
        self.check_violation()?;
        Ok(answer.map(drop).map_err(|error| failed(error.name())))
    }

    async fn intervene(&mut self, version: &VersionId, action: Action) {
        match action {
            Action::Wait(time) => {
                self.disturbed = true;
                self.pass(time).await;
            }
            Action::Duplicate { step, gates, until } => {
                self.duplicates += 1;
                let mut invocation = self.invoke(version, step);
                for _ in 0..=gates {
                    if let Progress::Ended(_) = invocation.advance().await {
                        self.duplicate_ended_early = true;
                        return;
                    }
                }
                self.held_up.push(HeldUp { invocation, until });
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

    /// What people do, and caches.
    fn act(&mut self, action: Action) {
        match action {
            Action::Edit(edit) => {
                self.disturbed = true;
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
                if let Progress::Ended(answer) = held_up.invocation.advance().await {
                    break answer;
                }
            };
            // It did not find its version working and put the old one back, whatever a retry may have found meanwhile. It
            // cannot know better: nothing in the secret says that the retry succeeded.
            if let Err(RotationError::VerificationFailed { .. }) = answer {
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
        Ok(())
    }
}
