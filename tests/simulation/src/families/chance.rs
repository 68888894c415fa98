//! Longer histories, by chance.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rotation::event::Step;
use rotation::store::StoreErrorKind;

use super::{Explored, Found, not_after, plausible_failures, run_script};
use crate::model::Model;
use crate::run::{Simulator, Violation};
use crate::scenario::{RotationService, Scenario, Staleness};
use crate::schedule::{Action, Adversary, Call, Gate, Script, Side, Until, Work};

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
