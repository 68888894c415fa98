//! The families of schedules: each exhaustively for one scenario, and the random search.
//!
//! A search takes one place in eight, and begins elsewhere in each scenario: that finds what the broken variants do, in an eighth of
//! the minutes. The broken variants are searched whole. `SIMULATION_SHARE=1` takes every place.

mod chance;
mod operations;

pub use chance::{random_scenario, random_scenario_operated, run_random, run_random_operated};
pub use operations::{OperationFamily, explore_operation, script_of};

use std::collections::BTreeMap;
use std::fmt;

use rotation::event::Step;
use rotation::store::StoreErrorKind;

use crate::model::Model;
use crate::run::{Ended, Rotated, STEPS, Simulator, Violation};
use crate::scenario::{Scenario, Staleness};
use crate::schedule::{Action, Call, Gate, Script, Side, Task, Until};

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

    /// Runs the schedules that begin at each of these places, of those that the share takes.
    fn each(
        &mut self,
        places: &[(usize, Gate)],
        schedules: impl Fn(usize, &Gate) -> Vec<Vec<(usize, Action)>>,
    ) -> Result<(), Box<Found>> {
        for (number, gate) in self.some(places) {
            for actions in schedules(*number, gate) {
                self.run(actions)?;
            }
        }
        Ok(())
    }

    fn family(&mut self, family: Family) -> Result<(), Box<Found>> {
        let all = self.run([])?.gates;
        let last = all.len();
        let gates = telling(&all);
        let scenario = self.scenario;
        let model = &scenario.model;
        match family {
            Family::Death => self.each(&gates, dies),
            Family::LostAnswer => self.each(&gates, fails),
            Family::GivenUp => self.each(&gates, |number, _| {
                // The repetition passes about as many gates again.
                let later = gates.iter().map(|(more, _)| Until::Gate(number + 1 + more));
                [Until::RotationEnds]
                    .into_iter()
                    .chain(later)
                    .map(|until| vec![(number, Action::Lose(until))])
                    .collect()
            }),
            Family::Duplicate => [Until::StepEnds, Until::RotationEnds]
                .into_iter()
                .try_for_each(|until| self.duplicates(&gates, until, |number, duplicate| vec![(number, duplicate)])),
            Family::DuplicateAndDeath => self.duplicates(&gates, Until::RotationEnds, |number, duplicate| {
                vec![(number, duplicate), (number, Action::Die)]
            }),
            Family::Edit => self.each(&gates, |number, _| edited(model, number)),
            Family::EditAndDeath => self.each(&gates, |number, _| {
                let then_dies =
                    |edit: Vec<_>| (number..last).map(move |later| [&edit[..], &[(later, Action::Die)]].concat());
                edited(model, number).into_iter().flat_map(then_dies).collect()
            }),
            Family::EditAndDuplicate => model.edits().iter().try_for_each(|edit| {
                self.duplicates(&gates, Until::StepEnds, |number, duplicate| {
                    vec![(number, duplicate), (number, Action::Edit(*edit))]
                })
            }),
            Family::Reload => self.each(&gates, |number, _| reloaded(model, number)),
            Family::OneStaleReadAndDeath => {
                let reads = all.iter().filter(|gate| matches!(gate.call, Call::Describe | Call::Get)).count() / 2;
                for (read, back) in (0..reads).flat_map(|read| [(read, 1), (read, 2)]) {
                    self.scenario.staleness = Staleness::Once { read, back };
                    self.run([])?;
                    self.each(&gates, dies)?;
                }
                Ok(())
            }
        }
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

fn dies(number: usize, _: &Gate) -> Vec<Vec<(usize, Action)>> {
    vec![vec![(number, Action::Die)]]
}

fn fails(number: usize, gate: &Gate) -> Vec<Vec<(usize, Action)>> {
    plausible_failures(gate).iter().map(|kind| vec![(number, Action::Fail(*kind))]).collect()
}

fn edited<M: Model>(model: &M, number: usize) -> Vec<Vec<(usize, Action)>> {
    model.edits().iter().map(|edit| vec![(number, Action::Edit(*edit))]).collect()
}

fn reloaded<M: Model>(model: &M, number: usize) -> Vec<Vec<(usize, Action)>> {
    model.reloads().iter().map(|reload| vec![(number, *reload)]).collect()
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
