//! The families of schedules: each exhaustively for one scenario, and the random search.
//!
//! A search takes one place in eight, and begins elsewhere in each scenario: that finds what the broken variants do, in an eighth of
//! the minutes. The broken variants are searched whole. `FAULTS_SHARE=1` takes every place.

mod operations;

pub use operations::{OperationFamily, explore_operation, script_of};

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rotation::event::Step;
use rotation::store::StoreErrorKind;

use crate::model::Model;
use crate::run::{Ended, Rotated, STEPS, Simulator, Violation};
use crate::scenario::{RotationService, Scenario, Staleness};
use crate::schedule::{Action, Adversary, Call, Gate, Script, Side, Task, Until, Work};

/// A set of schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// The process dies at a gate.
    Death,
    /// A call fails without effect, or its answer is lost.
    LostAnswer,
    /// The service gives an invocation up at a gate and repeats the rotation, and the invocation goes on during the repetition, at
    /// every later gate.
    GivenUp,
    /// An event of the same or an earlier step is delivered again: the first invocation runs up to a gate, the second up
    /// to a gate, the first to its end, the second to its end, at once or when the rotation is over.
    Duplicate,
    /// The same, and the first invocation dies at its gate.
    DuplicateAndDeath,
    /// Somebody stores a value by hand at a gate.
    Edit,
    /// Somebody stores a value by hand at a gate, and the process dies at the same or any later gate.
    EditAndDeath,
    /// Somebody stores a value by hand at a gate while a duplicate stands at any of its gates.
    EditAndDuplicate,
    /// The instances load the secret at a gate because their caches are old.
    Reload,
    /// One read is answered from the past, and the process dies at a gate.
    OneStaleReadAndDeath,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Death,
        Self::LostAnswer,
        Self::GivenUp,
        Self::Duplicate,
        Self::DuplicateAndDeath,
        Self::Edit,
        Self::EditAndDeath,
        Self::EditAndDuplicate,
        Self::Reload,
        Self::OneStaleReadAndDeath,
    ];
}

/// What was explored.
#[derive(Clone, Debug, Default)]
pub struct Explored {
    /// Schedules, by how their rotation ended: `Done`, or the name of the error that it was refused with.
    pub endings: BTreeMap<&'static str, usize>,
    /// Schedules, by the errors that occurred in them.
    pub errors: BTreeMap<&'static str, usize>,
}

impl Explored {
    /// How many schedules.
    #[must_use]
    pub fn schedules(&self) -> usize {
        self.endings.values().sum()
    }

    /// Adds what was explored elsewhere.
    pub fn add(&mut self, other: &Self) {
        for (ending, count) in &other.endings {
            *self.endings.entry(ending).or_default() += count;
        }
        for (error, count) in &other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    fn count(&mut self, ended: &Ended) {
        let ending = match ended.rotation {
            Rotated::Done => "Done",
            Rotated::Refused(name) => name,
        };
        *self.endings.entry(ending).or_default() += 1;
        for error in &ended.errors {
            *self.errors.entry(error).or_default() += 1;
        }
    }
}

/// A schedule in which a promise did not hold.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it ran against.
    pub scenario: String,
    /// What happened at which gate.
    pub script: Script,
    /// The promise, and the trace.
    pub violation: Violation,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\nscenario: {}\nschedule: {}", self.violation.promise, self.scenario, self.script)?;
        self.violation.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Runs the schedules of a family: one in `share` of the places where something happens, and all of them with 1.
///
/// # Errors
/// The first schedule in which a promise did not hold, with its trace.
pub fn explore<M: Model>(
    simulator: &Simulator,
    scenario: &Scenario<M>,
    family: Family,
    share: usize,
) -> Result<Explored, Box<Found>> {
    let mut explorer = Explorer::new(simulator, scenario, Script::new([]), share);
    explorer.family(family)?;
    Ok(explorer.explored)
}

/// Runs one script.
///
/// # Errors
/// The promise that did not hold, with the trace.
pub fn run_script<M: Model>(
    simulator: &Simulator,
    scenario: &Scenario<M>,
    script: &Script,
) -> Result<Ended, Box<Found>> {
    simulator.run(scenario, &mut script.clone(), false).map_err(|_| {
        let violation = match simulator.run(scenario, &mut script.clone(), true) {
            Err(violation) => violation,
            Ok(_) => Violation { promise: "the run is not deterministic".to_owned(), trace: vec![] },
        };
        Box::new(Found { scenario: scenario.to_string(), script: script.clone(), violation })
    })
}

struct Explorer<'a, M> {
    simulator: &'a Simulator,
    scenario: Scenario<M>,
    /// What is disturbed.
    script: Script,
    explored: Explored,
    /// One in so many places is taken.
    share: usize,
    /// How many places there were; it begins elsewhere in each scenario, so that together they take all.
    places: usize,
}

impl<'a, M: Model> Explorer<'a, M> {
    fn new(simulator: &'a Simulator, scenario: &Scenario<M>, script: Script, share: usize) -> Self {
        let places = scenario.to_string().bytes().map(usize::from).sum();
        Self { simulator, scenario: *scenario, script, explored: Explored::default(), share, places }
    }

    /// Whether this place is one of the share.
    fn takes(&mut self) -> bool {
        self.places += 1;
        self.places.is_multiple_of(self.share)
    }

    /// The share of these places.
    fn some<T>(&mut self, places: impl IntoIterator<Item = T>) -> Vec<T> {
        places.into_iter().filter(|_| self.takes()).collect()
    }

    fn run(&mut self, actions: impl Into<Vec<(usize, Action)>>) -> Result<Ended, Box<Found>> {
        let script = Script { actions: actions.into(), ..self.script.clone() };
        let ended = run_script(self.simulator, &self.scenario, &script)?;
        self.explored.count(&ended);
        Ok(ended)
    }

    fn family(&mut self, family: Family) -> Result<(), Box<Found>> {
        let all = self.run([])?.gates;
        let last = all.len();
        let gates = telling(&all);
        match family {
            Family::Death => {
                for (number, _) in self.some(gates) {
                    self.run([(number, Action::Die)])?;
                }
            }
            Family::LostAnswer => {
                for (number, gate) in self.some(gates) {
                    for kind in plausible_failures(&gate) {
                        self.run([(number, Action::Fail(*kind))])?;
                    }
                }
            }
            Family::GivenUp => {
                for (number, _) in &self.some(gates.clone()) {
                    self.run([(*number, Action::Lose(Until::RotationEnds))])?;
                    // The repetition passes about as many gates again.
                    for (more, _) in &gates {
                        self.run([(*number, Action::Lose(Until::Gate(number + 1 + more)))])?;
                    }
                }
            }
            Family::Duplicate => {
                for until in [Until::StepEnds, Until::RotationEnds] {
                    self.duplicates(&gates, until, |number, duplicate| vec![(number, duplicate)])?;
                }
            }
            Family::DuplicateAndDeath => {
                self.duplicates(&gates, Until::RotationEnds, |number, duplicate| {
                    vec![(number, duplicate), (number, Action::Die)]
                })?;
            }
            Family::Edit => {
                for (number, _) in self.some(gates) {
                    for edit in self.scenario.model.edits() {
                        self.run([(number, Action::Edit(*edit))])?;
                    }
                }
            }
            Family::EditAndDeath => {
                for (number, _) in &self.some(gates) {
                    for edit in self.scenario.model.edits() {
                        for later in *number..last {
                            self.run([(*number, Action::Edit(*edit)), (later, Action::Die)])?;
                        }
                    }
                }
            }
            Family::EditAndDuplicate => {
                for edit in self.scenario.model.edits() {
                    self.duplicates(&gates, Until::StepEnds, |number, duplicate| {
                        vec![(number, duplicate), (number, Action::Edit(*edit))]
                    })?;
                }
            }
            Family::Reload => {
                for (number, _) in self.some(gates) {
                    for reload in self.scenario.model.reloads() {
                        self.run([(number, *reload)])?;
                    }
                }
            }
            Family::OneStaleReadAndDeath => {
                let reads = all.iter().filter(|gate| matches!(gate.call, Call::Describe | Call::Get)).count() / 2;
                for read in 0..reads {
                    for back in 1..=2 {
                        self.scenario.staleness = Staleness::Once { read, back };
                        self.run([])?;
                        for (number, _) in &self.some(gates.clone()) {
                            self.run([(*number, Action::Die)])?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// For every gate, a duplicate of the same and of every earlier step, held up at every gate of its own.
    fn duplicates(
        &mut self,
        gates: &[(usize, Gate)],
        until: Until,
        schedule: impl Fn(usize, Action) -> Vec<(usize, Action)>,
    ) -> Result<(), Box<Found>> {
        for (number, gate) in gates {
            for step in self.some(gate.task.step().into_iter().flat_map(not_after)) {
                let begin =
                    gates.iter().find(|(_, gate)| gate.task == Task::Step(step)).map_or(0, |(number, _)| *number);
                for (of_step, _) in gates.iter().filter(|(_, gate)| gate.task == Task::Step(step)) {
                    let duplicate = Action::Duplicate { step, gates: of_step - begin, until };
                    if self.run(schedule(*number, duplicate))?.duplicate_ended_early {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The gates, numbered, less those that are like many before: where an application that does not do what it should is asked
/// again and again, and where a whole attempt goes the way of the one before it.
fn telling(gates: &[Gate]) -> Vec<(usize, Gate)> {
    let what = |gate: &Gate| (gate.task, gate.call, gate.side);
    let mut telling = vec![];
    let mut number = 0;
    let mut previous: &[Gate] = &[];
    let begins = |before: &Gate, gate: &Gate| {
        gate.task == Task::Step(Step::CreateSecret) && before.invocation != gate.invocation
    };
    for attempt in gates.chunk_by(|before, gate| !begins(before, gate)) {
        let seen = attempt.iter().map(what).eq(previous.iter().map(what));
        let mut in_a_row = 0;
        for (position, gate) in attempt.iter().enumerate() {
            let before = position.checked_sub(2).map(|before| attempt[before]);
            in_a_row = if gate.call.to_application() && before == Some(*gate) { in_a_row + 1 } else { 0 };
            if !seen && in_a_row < 6 {
                telling.push((number, *gate));
            }
            number += 1;
        }
        previous = attempt;
    }
    telling
}

fn not_after(last: Step) -> impl Iterator<Item = Step> {
    let position = STEPS.iter().position(|step| *step == last).unwrap_or_default();
    STEPS.into_iter().take(position + 1)
}

/// The errors with which a call can fail without effect, or after an effect that the function does not hear of. The SDK
/// tries again by itself: a move whose answer was lost is refused the second time.
pub(crate) fn plausible_failures(gate: &Gate) -> &'static [StoreErrorKind] {
    use StoreErrorKind::{Conflict, Service, Throttled, Unreachable};
    match (gate.call, gate.side) {
        (Call::Move, Side::After) => &[Unreachable, Service, Throttled, Conflict],
        (call, _) if call.to_application() => &[Unreachable],
        _ => &[Unreachable, Service, Throttled],
    }
}

/// Longer histories, by chance: several rotations in a row, each with several faults, duplicates and edits.
struct Chance<M> {
    rng: StdRng,
    model: M,
    healthy: bool,
    /// Whether operators ask for something.
    operated: bool,
    /// What it did, so that it can be done again.
    script: Script,
}

const MOST_ACTIONS: usize = 8;
/// With a broken application the service's attempts must not run out between a promotion and its rollback.
const MOST_ACTIONS_BESIDE_A_DEFECT: usize = 2;

impl<M: Model> Chance<M> {
    /// With operations among the works, and beside them.
    fn operated(seed: u64, scenario: &Scenario<M>) -> Self {
        let mut chance = Self { operated: true, ..Self::new(seed, scenario) };
        let works = chance.rng.random_range(1..=4);
        chance.script.works = (0..works).map(|_| chance.work()).collect();
        chance
    }

    fn work(&mut self) -> Work {
        match M::OPERATIONS.choose(&mut self.rng) {
            Some(operation) if self.rng.random_bool(0.6) => Work::Operation(*operation),
            _ => Work::Rotation,
        }
    }

    fn new(seed: u64, scenario: &Scenario<M>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (model, healthy) = (scenario.model, scenario.defect.is_none());
        let rotations = if healthy { rng.random_range(1..=model.most_rotations()) } else { 1 };
        Self { rng, model, healthy, operated: false, script: Script::new([]).rotating(rotations) }
    }

    fn until(&mut self, number: usize) -> Until {
        match self.rng.random_range(0..6) {
            0 => Until::StepEnds,
            1 => Until::RotationEnds,
            _ => Until::Gate(number + self.rng.random_range(1..120)),
        }
    }

    fn action(&mut self, number: usize, gate: &Gate) -> Action {
        let beside = self.operated && self.rng.random_bool(0.25);
        if let Some(operation) = M::OPERATIONS.choose(&mut self.rng).filter(|_| beside) {
            let (gates, until) = (self.rng.random_range(0..40), self.until(number));
            return Action::Begin { operation: *operation, gates, until };
        }
        if self.operated && self.rng.random_bool(0.04) {
            return Action::Rotate;
        }
        match self.rng.random_range(0..100) {
            0..15 => Action::Die,
            15..30 => Action::Lose(self.until(number)),
            30..45 => Action::Fail(*plausible_failures(gate).choose(&mut self.rng).unwrap_or(&StoreErrorKind::Service)),
            45..75 => {
                let steps: Vec<Step> = gate.task.step().into_iter().flat_map(not_after).collect();
                let step = *steps.choose(&mut self.rng).unwrap_or(&Step::CreateSecret);
                Action::Duplicate { step, gates: self.rng.random_range(0..24), until: self.until(number) }
            }
            75..80 if gate.call == Call::Describe && gate.side == Side::Before => {
                Action::Wait(self.model.pause(&mut self.rng))
            }
            80..95 if self.healthy => {
                self.model.edits().choose(&mut self.rng).map_or(Action::Reload, |edit| Action::Edit(*edit))
            }
            _ => *self.model.reloads().choose(&mut self.rng).unwrap_or(&Action::Reload),
        }
    }
}

impl<M: Model> Adversary for Chance<M> {
    fn at(&mut self, number: usize, gate: &Gate) -> Vec<Action> {
        let most = if self.healthy { MOST_ACTIONS } else { MOST_ACTIONS_BESIDE_A_DEFECT };
        if self.script.actions.len() >= most || !self.rng.random_bool(0.06) {
            return vec![];
        }
        let action = self.action(number, gate);
        self.script.actions.push((number, action));
        vec![action]
    }

    fn before(&mut self, rotation: usize) -> Vec<Action> {
        let actions = if rotation == 0 || !self.healthy { vec![] } else { self.model.between(&mut self.rng) };
        self.script.between.extend(actions.iter().map(|action| (rotation, *action)));
        actions
    }

    fn works(&self) -> Vec<Work> {
        self.script.works.clone()
    }
}

/// The scenario of a random history, from its seed.
#[must_use]
pub fn random_scenario<M: Model>(seed: u64) -> Scenario<M> {
    let mut rng = StdRng::seed_from_u64(!seed);
    let all = M::scenarios();
    let scenario = *all.choose(&mut rng).unwrap_or(&all[0]);
    let staleness = match rng.random_range(0..4) {
        0 => Staleness::Lag(Duration::from_millis(rng.random_range(1..1500))),
        1 => Staleness::Once { read: rng.random_range(0..30), back: rng.random_range(1..4) },
        _ => scenario.staleness,
    };
    scenario.with_staleness(staleness)
}

/// Runs the random history of a seed.
///
/// # Errors
/// A schedule in which a promise did not hold, made as short as possible, with its trace.
pub fn run_random<M: Model>(simulator: &Simulator, scenario: &Scenario<M>, seed: u64) -> Result<Explored, Box<Found>> {
    run_chance(simulator, scenario, Chance::new(seed, scenario))
}

fn run_chance<M: Model>(
    simulator: &Simulator,
    scenario: &Scenario<M>,
    mut chance: Chance<M>,
) -> Result<Explored, Box<Found>> {
    let mut explored = Explored::default();
    match simulator.run(scenario, &mut chance, false) {
        Ok(ended) => explored.count(&ended),
        Err(_) => return Err(shortest(simulator, scenario, chance.script)),
    }
    Ok(explored)
}

/// The scenario of a random history with operations, from its seed: one of these.
#[must_use]
pub fn random_scenario_operated<M: Model>(seed: u64, all: &[Scenario<M>]) -> Scenario<M> {
    let mut rng = StdRng::seed_from_u64(!seed);
    let scenario = all[rng.random_range(0..all.len())];
    let staleness = match rng.random_range(0..5) {
        0 => Staleness::Lag(Duration::from_millis(rng.random_range(1..1500))),
        _ => scenario.staleness,
    };
    let service = match rng.random_range(0..4) {
        0 => RotationService::InTurns,
        1 => RotationService::FirstDies(rng.random_range(0..40)),
        _ => RotationService::AtOnce,
    };
    let scenario = scenario.with_staleness(staleness).with_service(service);
    if rng.random_bool(0.5) { scenario.leaving_rotations() } else { scenario }
}

/// Runs the random history with operations of a seed.
///
/// # Errors
/// A schedule in which a promise did not hold, made as short as possible, with its trace.
pub fn run_random_operated<M: Model>(
    simulator: &Simulator,
    scenario: &Scenario<M>,
    seed: u64,
) -> Result<Explored, Box<Found>> {
    run_chance(simulator, scenario, Chance::operated(seed, scenario))
}

/// Leaves out of a script what is not needed for a promise to be broken.
fn shortest<M: Model>(simulator: &Simulator, scenario: &Scenario<M>, mut script: Script) -> Box<Found> {
    let fails = |script: &Script| simulator.run(scenario, &mut script.clone(), false).is_err();
    let mut position = 0;
    while position < script.actions.len() + script.between.len() {
        let mut shorter = script.clone();
        match position.checked_sub(script.actions.len()) {
            None => shorter.actions.remove(position),
            Some(position) => shorter.between.remove(position),
        };
        if fails(&shorter) {
            script = shorter;
            position = 0;
        } else {
            position += 1;
        }
    }
    match run_script(simulator, scenario, &script) {
        Err(found) => found,
        Ok(_) => Box::new(Found {
            scenario: scenario.to_string(),
            script,
            violation: Violation { promise: "the run is not deterministic".to_owned(), trace: vec![] },
        }),
    }
}
