//! One schedule, from RotateSecret to the end: the rotation service with its retries, and the invocations, polled by hand.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use admin_token::AdminToken;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::{Document, FieldName};
use rotation::error::RotationError;
use rotation::event::{RotationEvent, Step, VersionId};
use rotation::kind::{Phase, SecretKind, Subject, Values};
use rotation::protocol::{Report, Rotator};
use rotation::target::Target;
use rotation::versions::Stage;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::ports::{Caller, SimulatedTarget, Store};
use crate::scenario::{Application, Balancer, Sabotage, Scenario, Staleness};
use crate::schedule::{Action, Adversary, Gate, Until};
use crate::world::World;

/// The steps in the order of a rotation.
pub const STEPS: [Step; 4] = [Step::CreateSecret, Step::SetSecret, Step::TestSecret, Step::FinishSecret];

/// How often the service repeats a rotation that fails.
const ATTEMPTS: usize = 5;
const BETWEEN_STEPS: Duration = Duration::from_millis(50);
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(2);
/// How long the application keeps what it has read.
const CACHE_AGE: Duration = Duration::from_secs(60 * 60);
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
    /// How often the application was found using the new token.
    pub rotations: usize,
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
    pub fn run(&self, scenario: &Scenario, adversary: &mut dyn Adversary, traced: bool) -> Result<Ended, Violation> {
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
                }),
                (Err(promise), None) | (_, Some(promise)) => Err(Violation { promise, trace: inner.take_trace() }),
            }
        }))
    }
}

type Answered = Result<Report, RotationError>;

/// A running invocation.
struct Invocation {
    number: u32,
    step: Step,
    world: Arc<World>,
    future: Pin<Box<dyn Future<Output = Answered>>>,
}

enum Progress {
    At(Gate),
    Ended(Answered),
}

impl Invocation {
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

struct HeldUp {
    invocation: Invocation,
    until: Until,
}

/// Why a step did not succeed, as the service sees it.
enum Failed {
    Killed,
    Error(&'static str),
}

/// The rotation service, with the schedule's interventions.
struct Service<'a> {
    world: Arc<World>,
    adversary: &'a mut dyn Adversary,
    invocations: u32,
    gates: Vec<Gate>,
    held_up: Vec<HeldUp>,
    duplicate_ended_early: bool,
    /// Something happened after which a refusal is an honest answer.
    disturbed: bool,
    /// An invocation answered that it has finished the rollback of another one.
    rollback_finished: bool,
    /// How often an invocation failed through the schedule.
    faults: usize,
    duplicates: usize,
    rotations: usize,
}

impl Service<'_> {
    async fn whole_history(&mut self) -> Result<Rotated, String> {
        let healthy = self.world.lock().is_healthy();
        let rotations = self.adversary.rotations();
        let (mut version, mut rotated) = self.disturbed_rotation(rotations == 1).await?;
        for number in 1..rotations {
            (version, rotated) = self.disturbed_rotation(number + 1 == rotations).await?;
        }
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
        for _ in 0..3 {
            let next = self.world.rotate_secret();
            if self.rotate(&next, false).await? == Rotated::Done && next != version {
                self.require_in_use(&next)?;
                return self.check_violation().map(|()| rotated);
            }
            // An instance may hold a value from before a rotation that was cut short, until its cache is too old.
            tokio::time::advance(CACHE_AGE).await;
            self.world.reload();
        }
        Err("no later rotation succeeds".to_owned())
    }

    /// A rotation with the schedule's interventions; after the last one nobody is held up any longer.
    async fn disturbed_rotation(&mut self, last: bool) -> Result<(VersionId, Rotated), String> {
        let version = self.world.rotate_secret();
        let rotated = self.rotate(&version, true).await?;
        self.go_on(|until| last || until == Until::RotationEnds).await;
        self.check_violation()?;
        // With more of them, the service's attempts may run out.
        let must_be_done = self.world.lock().is_healthy() && !self.disturbed && self.faults + self.duplicates <= 2;
        if must_be_done && rotated != Rotated::Done {
            return Err(format!("nothing stood against the rotation, and it ended as {rotated:?}"));
        }
        if must_be_done {
            self.require_in_use(&version)?;
        }
        Ok((version, rotated))
    }

    /// A whole rotation, repeated with the same token when a step fails.
    async fn rotate(&mut self, version: &VersionId, disturbed: bool) -> Result<Rotated, String> {
        let mut last = "Killed";
        'attempts: for attempt in 0..ATTEMPTS {
            self.world.lock().note(|| format!("{version}, attempt {attempt}"));
            for step in STEPS {
                tokio::time::advance(BETWEEN_STEPS).await;
                match self.step(version, step, disturbed).await? {
                    Ok(()) => {}
                    Err(Failed::Killed) => {
                        tokio::time::advance(BETWEEN_ATTEMPTS).await;
                        continue 'attempts;
                    }
                    Err(Failed::Error(name)) => {
                        last = name;
                        tokio::time::advance(BETWEEN_ATTEMPTS).await;
                        continue 'attempts;
                    }
                }
            }
            if self.world.lock().state().is_at(version, &Stage::Current) {
                return Ok(Rotated::Done);
            }
            last = "RotationIncomplete";
        }
        Ok(Rotated::Refused(last))
    }

    fn invoke(&mut self, version: &VersionId, step: Step) -> Invocation {
        let number = self.invocations;
        self.invocations += 1;
        let world = Arc::clone(&self.world);
        let version = version.clone();
        let admitted_at = world.lock().writes();
        let caller =
            Caller { world: Arc::clone(&world), invocation: number, step, version: version.clone(), admitted_at };
        let future = async move {
            let scenario = caller.world.lock().scenario;
            let deadline = Deadline::after(TIMEOUT);
            let kind = TestedKind {
                kind: AdminToken::new(SimulatedTarget::new(&caller, scenario.application)),
                believes: scenario.sabotage == Sabotage::BelievesWithoutProof,
            };
            let store = Store { caller, deadline };
            let event = RotationEvent { step, secret_id: "shop/admin-token".to_owned(), version, rotation_token: None };
            let stack = scenario.stack()?;
            let mut rng = StdRng::seed_from_u64(u64::from(number));
            Rotator { kind: &kind, store: &store, stack: &stack }.perform(&event, deadline, &mut rng).await
        };
        Invocation { number, step, world, future: Box::pin(future) }
    }

    /// One invocation that the service waits for. The outer error is a broken promise.
    async fn step(&mut self, version: &VersionId, step: Step, disturbed: bool) -> Result<Result<(), Failed>, String> {
        let mut main = self.invoke(version, step);
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
        Ok(answer.map(drop).map_err(|error| Failed::Error(error.name())))
    }

    async fn intervene(&mut self, version: &VersionId, action: Action) {
        match action {
            Action::Edit(edit) => {
                self.disturbed = true;
                self.world.edit(edit);
            }
            Action::Reload => self.world.reload(),
            Action::Wait(time) => {
                self.disturbed = true;
                tokio::time::advance(time).await;
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
        }
    }

    /// Lets those that were held up run to their ends, one after another.
    async fn go_on(&mut self, which: impl Fn(Until) -> bool) {
        let (go, stay) = std::mem::take(&mut self.held_up).into_iter().partition(|held_up| which(held_up.until));
        self.held_up = stay;
        let go: Vec<HeldUp> = go;
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

    /// A rotation that succeeded is in use: the application accepts its token, and the one before during the overlap.
    fn require_in_use(&mut self, version: &VersionId) -> Result<(), String> {
        let world = self.world.lock();
        let state = world.state();
        if !state.is_at(version, &Stage::Current) {
            // Somebody stored another value after the promotion.
            return if self.disturbed { Ok(()) } else { Err(format!("{version} succeeded and is not AWSCURRENT")) };
        }
        let token = state.value(version).and_then(|value| crate::application::token(&world.scenario, value));
        // The first value of a secret is made before any application can know it.
        let told = state.holder(&Stage::Previous).is_some() || world.scenario.application == Application::Reloading;
        let accepted = token.is_some_and(|token| world.accepted_everywhere(&token));
        if told && !accepted {
            return Err(format!("{version} succeeded, and an instance refuses its token"));
        }
        drop(world);
        self.rotations += 1;
        Ok(())
    }

    /// A rotation that a broken application refused has left no trace.
    fn require_put_back(&self, version: &VersionId, rotated: &Rotated) -> Result<(), String> {
        let world = self.world.lock();
        let state = world.state();
        let current =
            state.value_at(&Stage::Current).and_then(|value| crate::application::token(&world.scenario, value));
        let left = state.stages_of(version);
        if *rotated == Rotated::Done {
            return Err("the rotation succeeded with an application that does not accept the token".to_owned());
        }
        if current != world.first_token {
            return Err("the token from before the rotation is not AWSCURRENT again".to_owned());
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

/// The real kind; on request one that takes every proof for granted.
struct TestedKind<T> {
    kind: AdminToken<T>,
    believes: bool,
}

impl<T: Target + Send> SecretKind for TestedKind<T> {
    fn has_target(&self) -> bool {
        self.kind.has_target()
    }

    fn settle_time(&self) -> Duration {
        self.kind.settle_time()
    }

    fn first(&self, subject: &Subject<'_>, rng: &mut StdRng) -> Result<Document, RotationError> {
        self.kind.first(subject, rng)
    }

    fn create(&self, subject: &Subject<'_>, current: &Document, rng: &mut StdRng) -> Result<Document, RotationError> {
        self.kind.create(subject, current, rng)
    }

    fn members(&self, field: &FieldName) -> Vec<FieldName> {
        self.kind.members(field)
    }

    fn check_succession(
        &self,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        created: std::time::SystemTime,
    ) -> Result<(), RotationError> {
        self.kind.check_succession(subject, old, new, created)
    }

    fn overlap_end(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        promoted: std::time::SystemTime,
    ) -> Option<std::time::SystemTime> {
        self.kind.overlap_end(subject, current, promoted)
    }

    async fn set(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
    ) -> Result<(), RotationError> {
        self.kind.set(subject, values, phase, deadline).await
    }

    async fn test(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        if self.believes {
            return Ok(());
        }
        self.kind.test(subject, values, phase, deadline, rng).await
    }
}
