//! The promises hold in every schedule, and schedules are known in which a broken protocol is caught.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests; the lint knows only those inside a test function")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use faults::families::{Explored, Family, Found, explore, random_scenario, run_random, run_script, scenarios};
use faults::run::{Rotated, STEPS, Simulator};
use faults::scenario::{Application, Defect, Sabotage, Scenario, Shape, Staleness};
use faults::schedule::{Action, Call, Edit, Script, Side, Until};

/// The answers of reads are so old: as long as the protocol waits for them, longer than its first pauses, and longer than all.
const LAGS: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(700), Duration::from_millis(1500)];

fn work() -> Vec<(Scenario, Family)> {
    use Family::{Death, Duplicate, Edit, EditAndDeath, EditAndDuplicate, LostAnswer};
    let mut work = vec![];
    for scenario in scenarios() {
        // A person's edit beside a broken application leaves nothing to say about either.
        let edited = [Edit, EditAndDeath, EditAndDuplicate];
        // What a broken application refuses does not depend on the shape: the large families run with one.
        let large = [Family::GivenUp, Duplicate, Family::DuplicateAndDeath, Family::OneStaleReadAndDeath];
        let families = Family::ALL.into_iter().filter(|family| match (scenario.defect, scenario.shape) {
            (None, _) => true,
            (Some(_), Shape::Text) => !edited.contains(family),
            (Some(_), Shape::Json) => !edited.contains(family) && !large.contains(family),
        });
        work.extend(families.map(|family| (scenario, family)));
        if scenario.defect.is_some() {
            continue;
        }
        for lag in LAGS {
            let late = scenario.with_staleness(Staleness::Lag(lag));
            work.extend([Death, LostAnswer, Edit].map(|family| (late, family)));
        }
        work.push((scenario.with_staleness(Staleness::Lag(LAGS[1])), Duplicate));
        if matches!(scenario.application, Application::Reloading | Application::CurrentOnly) {
            let late_everywhere = scenario.with_staleness(Staleness::LagEverywhere(LAGS[0]));
            work.extend([Death, LostAnswer].map(|family| (late_everywhere, family)));
        }
        if scenario.application == Application::CurrentOnly {
            work.extend([Death, LostAnswer].map(|family| (scenario.in_turn(), family)));
        }
    }
    work
}

/// Does pieces of work on all processors; the first finding ends it.
fn in_parallel<W: Send, T: Send>(
    work: Vec<W>,
    each: impl Fn(&Simulator, &W) -> Result<T, Box<Found>> + Sync,
) -> Result<Vec<(W, T)>, Box<Found>> {
    let work = Mutex::new(work);
    let done = Mutex::new(Ok(vec![]));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let simulator = Simulator::new().unwrap();
                loop {
                    let Some(piece) = work.lock().unwrap().pop() else { return };
                    let result = each(&simulator, &piece);
                    let mut done = done.lock().unwrap();
                    match (&mut *done, result) {
                        (Ok(results), Ok(result)) => results.push((piece, result)),
                        (Ok(_), Err(found)) => *done = Err(found),
                        (Err(_), _) => return,
                    }
                }
            });
        }
    });
    done.into_inner().unwrap()
}

/// Past the capture of test output: the number of schedules belongs into every log.
fn summary(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn promises_hold_in_every_schedule_with_one_fault_one_duplicate_and_one_edit() {
    let begun = Instant::now();
    let results = in_parallel(work(), |simulator, (scenario, family)| explore(simulator, scenario, *family));
    let results = results.unwrap_or_else(|found| panic!("{found}"));
    let mut total = Explored::default();
    let mut families = BTreeMap::<Family, usize>::new();
    for ((scenario, family), explored) in &results {
        println!("{:>6} schedules: {family:?}; {scenario}; {:?}", explored.schedules(), explored.endings);
        *families.entry(*family).or_default() += explored.schedules();
        total.add(explored);
    }
    println!("endings: {:?}", total.endings);
    summary(&format!("schedules explored: {} in {:?}: {families:?}", total.schedules(), begun.elapsed()));
    assert!(total.schedules() > 100_000, "the families have shrunk to {} schedules", total.schedules());
}

#[test]
fn promises_hold_in_long_random_histories() {
    let setting = |name| {
        #[allow(clippy::disallowed_methods, reason = "for whoever replays or extends the search")]
        let value = std::env::var(name);
        value.ok().map(|value| value.parse::<u64>().unwrap())
    };
    let first = setting("FAULTS_SEED").unwrap_or(1);
    let rounds = setting("FAULTS_ROUNDS").unwrap_or(12_000);
    let begun = Instant::now();
    let seeds: Vec<u64> = (first..first + rounds).rev().collect();
    let results = in_parallel(seeds, |simulator, seed| {
        run_random(simulator, &random_scenario(*seed), *seed)
            .inspect_err(|_| summary(&format!("to replay: FAULTS_SEED={seed} FAULTS_ROUNDS=1")))
    });
    let results = results.unwrap_or_else(|found| panic!("{found}"));
    let mut total = Explored::default();
    results.iter().for_each(|(_, explored)| total.add(explored));
    println!("endings: {:?}", total.endings);
    summary(&format!("random histories: {} from seed {first} in {:?}", total.schedules(), begun.elapsed()));
}

fn finds(sabotage: Sabotage, scenario: Scenario, family: Family, promise: &str) {
    let simulator = Simulator::new().unwrap();
    explore(&simulator, &scenario, family).unwrap_or_else(|found| panic!("without sabotage: {found}"));
    let found = explore(&simulator, &scenario.sabotaged(sabotage), family).expect_err("the sabotage was not noticed");
    assert!(found.violation.promise.contains(promise), "{found}");
}

#[test]
fn caught_a_protocol_that_generates_anew_on_a_retry() {
    let scenario = Scenario::new(Shape::Text, Application::None);
    finds(Sabotage::PutOverwrites, scenario, Family::Death, "a value that was written has changed");
}

#[test]
fn caught_a_promotion_without_compare_and_swap() {
    let scenario = Scenario::new(Shape::Text, Application::None);
    finds(Sabotage::MoveIgnoresOrigin, scenario, Family::Edit, "which a person stored during the rotation");
}

#[test]
fn caught_a_protocol_that_does_not_see_younger_versions() {
    let scenario = Scenario::new(Shape::Text, Application::None);
    finds(Sabotage::HidesAges, scenario, Family::EditAndDeath, "which a person stored during the rotation");
}

#[test]
fn caught_a_kind_that_believes_without_proof() {
    let scenario = Scenario::new(Shape::Text, Application::Told).with_defect(Defect::Frozen);
    finds(Sabotage::BelievesWithoutProof, scenario, Family::Death, "an instance refuses its token");
}

#[test]
fn caught_a_rollback_that_leaves_the_version_pending() {
    let scenario = Scenario::new(Shape::Text, Application::CurrentOnly).with_defect(Defect::Frozen);
    finds(Sabotage::KeepsPending, scenario, Family::Death, "promoted again");
}

#[test]
fn caught_a_rollback_that_only_pretends() {
    let scenario = Scenario::new(Shape::Text, Application::CurrentOnly).with_defect(Defect::Frozen);
    finds(Sabotage::OnlyPretendsToRollBack, scenario, Family::Death, "not AWSCURRENT again");
}

#[test]
fn a_rotation_without_a_target_makes_eleven_calls() {
    let simulator = Simulator::new().unwrap();
    for shape in [Shape::Text, Shape::Json] {
        let ended = run_script(&simulator, &Scenario::new(shape, Application::None), &Script::new([])).unwrap();
        assert_eq!(ended.rotation, Rotated::Done);
        let calls = STEPS.map(|step| {
            let of_step = ended.calls.iter().filter(|gate| gate.step == step);
            of_step.map(|gate| gate.call).collect::<Vec<_>>()
        });
        use Call::{Describe, Get, Move, Put};
        let expected =
            [vec![Describe, Get, Put, Describe], vec![Describe], vec![Describe, Get], vec![Describe, Get, Get, Move]];
        assert_eq!(calls, expected);
        assert_eq!(ended.calls.len(), 11);
    }
}

/// The number of the gate after the call of this kind, counted from 0 in an undisturbed run.
fn gate_after(simulator: &Simulator, scenario: &Scenario, call: Call, which: usize) -> usize {
    let gates = run_script(simulator, scenario, &Script::new([])).unwrap().gates;
    let mut after = gates.iter().enumerate().filter(|(_, gate)| gate.call == call && gate.side == Side::After);
    after.nth(which).unwrap().0
}

#[test]
fn a_rollback_that_died_half_way_is_finished_and_leaves_no_stage_on_the_failed_version() {
    let simulator = Simulator::new().unwrap();
    for shape in [Shape::Text, Shape::Json] {
        let scenario = Scenario::new(shape, Application::Told).with_defect(Defect::DropsPromoted);
        let put_back = gate_after(&simulator, &scenario, Call::Move, 1);
        run_script(&simulator, &scenario, &Script::new([(put_back, Action::Die)]))
            .unwrap_or_else(|found| panic!("{found}"));
    }
}

/// The instance that the first of two tokens always comes to may be the one that knows only the second. The rotation may be
/// refused for that, and is then put back; nothing else may happen.
#[test]
fn instances_that_are_asked_strictly_in_turn_cost_at_most_a_refusal() {
    let simulator = Simulator::new().unwrap();
    let scenario = Scenario::new(Shape::Text, Application::CurrentOnly).in_turn();
    let first_told = gate_after(&simulator, &scenario, Call::Refresh, 0);
    let ended = run_script(&simulator, &scenario, &Script::new([(first_told, Action::Die)]));
    ended.unwrap_or_else(|found| panic!("{found}"));
}

/// The application keeps a value that the next rotation knows nothing of, until its cache is too old.
#[test]
fn an_edit_and_a_death_after_promotion_hold_the_next_rotation_up_for_the_cache_time_at_most() {
    let simulator = Simulator::new().unwrap();
    let scenario = Scenario::new(Shape::Json, Application::CurrentOnly);
    let first_told = gate_after(&simulator, &scenario, Call::Refresh, 0);
    let script = Script::new([(first_told, Action::Edit(Edit::OtherMember)), (first_told, Action::Die)]);
    run_script(&simulator, &scenario, &script).unwrap_or_else(|found| panic!("{found}"));
}

/// PutSecretValue has no compare-and-swap. The rotation that lost the stage is refused, the late one gives it up, and nothing
/// that a person stored is replaced by either.
#[test]
fn a_put_that_comes_after_the_next_rotation_has_begun_costs_that_rotation_and_nothing_else() {
    let simulator = Simulator::new().unwrap();
    for application in [Application::None, Application::Told] {
        let scenario = Scenario::new(Shape::Text, application);
        let put = gate_after(&simulator, &scenario, Call::Put, 0) - 1;
        for later in 1..60 {
            let late_put = Action::Lose(Until::Gate(put + later));
            let script = Script { actions: vec![(put, Action::Edit(Edit::Token)), (put, late_put)], rotations: 2 };
            run_script(&simulator, &scenario, &script).unwrap_or_else(|found| panic!("{found}"));
        }
    }
}
