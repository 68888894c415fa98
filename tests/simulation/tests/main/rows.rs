//! Stored rows: no row is ever unreadable, and no key is dropped while it is needed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rotation::policy::Promotion;
use simulation::histories::{Event, Found, Job, events_of, run_history, scenario_of};
use simulation::model::keyring::rows::Seen;
use simulation::model::keyring::{Application, Broken, Keyring};
use simulation::run::Simulator;
use simulation::scenario::{Sabotage, Scenario};
use simulation::schedule::{Operation, Worker};

use crate::support::{in_parallel, seeds, summary};

/// What a key is that left the ring too early.
const NEEDED: &str = "left the ring, and a row is under it, or somebody writes with it";

/// A broken one has to be caught in so many histories.
const MOST_TO_CATCH: u64 = 1_000;

#[test]
fn no_row_is_ever_unreadable_in_long_random_histories() {
    let begun = Instant::now();
    let lived = in_parallel(seeds(5_000), |simulator, seed| {
        let scenario = scenario_of(*seed);
        run_history(simulator, &scenario, &events_of(*seed, &scenario))
            .inspect_err(|_| summary(&format!("to replay: SIMULATION_SEED={seed} SIMULATION_ROUNDS=1")))
    });
    let lived = lived.unwrap_or_else(|found| panic!("{found}"));
    let (mut answers, mut seen) = (BTreeMap::<String, usize>::new(), Seen::default());
    for (_, lived) in &lived {
        seen.add(lived.seen);
        for (operation, error) in &lived.answers {
            *answers.entry(format!("{operation} {}", error.unwrap_or("Done"))).or_default() += 1;
        }
    }
    summary(&format!("histories of rows: {} in {:?}: {seen:?}; answers {answers:?}", lived.len(), begun.elapsed()));
    let Seen { rewrapped, overtaken, retired, unsettled, restored, undone, .. } = seen;
    let disturbed = [unsettled, restored, undone].into_iter().all(|times| times > 10);
    // Who replays one history does not meet them all.
    assert!(
        lived.len() < 500 || (rewrapped > 1_000 && overtaken > 10 && retired > 1_000 && disturbed),
        "the histories have become harmless"
    );
}

/// Looks for a history in which the broken one breaks the promise. In the same history the sound one keeps it.
fn caught(breaks: impl Fn(Scenario<Keyring>) -> Scenario<Keyring>, promise: &str) {
    let simulator = Simulator::new().unwrap();
    let broken = |seed| {
        let scenario = scenario_of(seed);
        run_history(&simulator, &breaks(scenario), &events_of(seed, &scenario)).err().map(|found| (seed, found))
    };
    let (seed, found): (u64, Box<Found>) = (1..MOST_TO_CATCH).find_map(broken).expect("the sabotage was not noticed");
    summary(&format!("caught in history {seed}: {}; {:?}", found.violation.promise, found.events));
    assert!(found.violation.promise.contains(promise), "{found}");
    run_history(&simulator, &scenario_of(seed), &found.events)
        .unwrap_or_else(|found| panic!("without sabotage: {found}"));
}

#[test]
fn caught_a_rewrap_without_compare_and_swap() {
    caught(|scenario| scenario.sabotaged(Sabotage::RewrapsWhateverIsThere), "has lost what the application wrote last");
}

#[test]
fn caught_a_promotion_before_the_cache_time() {
    caught(|scenario| Keyring::broken(scenario, Broken::IgnoresAge), "an instance does not know it yet");
}

#[test]
fn caught_a_worker_that_outlives_its_timeout() {
    caught(|scenario| scenario.sabotaged(Sabotage::OutlivesItsTimeout), NEEDED);
}

#[test]
fn caught_a_retirement_after_one_census() {
    caught(|scenario| scenario.sabotaged(Sabotage::CountsOnce), NEEDED);
}

#[test]
fn caught_a_retirement_after_censuses_that_are_too_close() {
    caught(|scenario| scenario.sabotaged(Sabotage::CountsTooSoon), NEEDED);
}

#[test]
fn caught_a_retirement_that_ignores_rows_that_cannot_be_opened() {
    caught(|scenario| scenario.sabotaged(Sabotage::IgnoresUnknown), NEEDED);
}

#[test]
fn caught_a_worker_that_ignores_triggers() {
    caught(|scenario| scenario.sabotaged(Sabotage::IgnoresTriggers), "is bound to what does not stand beside it");
}

#[test]
fn caught_a_retirement_that_believes_old_censuses() {
    caught(|scenario| scenario.sabotaged(Sabotage::BelievesOldCensuses), NEEDED);
}

#[test]
fn caught_a_retirement_beside_open_transactions() {
    caught(|scenario| scenario.sabotaged(Sabotage::IgnoresOpenTransactions), NEEDED);
}

#[test]
fn caught_a_key_that_becomes_primary_and_is_in_no_archive() {
    caught(|scenario| scenario.sabotaged(Sabotage::ArchivesNothing), "which is not in the archive");
}

/// A rollback that does not verify is put back: the version that was counted is current again. Meanwhile a worker has taken the ring of
/// the rollback in hand, whose primary key is one that no row needed.
#[test]
fn no_key_is_retired_that_a_rollback_made_primary_briefly() {
    use Event::{Go, Start, Wait, Write};
    let simulator = Simulator::new().unwrap();
    let scenario = Keyring::archived(Keyring::scenario(Promotion::Staged, Application::Told)).leaving_rotations();
    let (hours, all) = (Duration::from_secs(2 * 60 * 60), Go { process: 0, gates: 100 });
    let (rewrap, census) = (Start(Job::Worker(Worker::Rewrap)), Start(Job::Worker(Worker::Census)));
    let history = |moved, asks| {
        let rotated = [Write { instance: 0, row: 1 }, Start(Job::Rotation), all, Wait(hours)];
        let counted = [rewrap, all, census, all, Wait(hours)];
        let rolled_back = [Start(Job::Operation(Operation::Rollback)), Go { process: 0, gates: moved }];
        let in_hand = [rewrap, Go { process: 0, gates: 5 }];
        let put_back = [Go { process: 1, gates: asks }, Wait(Duration::from_secs(10)), Go { process: 1, gates: 100 }];
        let retired = [census, all, Start(Job::Operation(Operation::Retire)), all];
        [&rotated[..], &counted, &rolled_back, &in_hand, &put_back, &retired].concat()
    };
    let (mut put_back, mut caught) = (0, 0);
    for events in (14..24).flat_map(|moved| (0..12).map(move |asks| history(moved, asks))) {
        let lived = run_history(&simulator, &scenario, &events).unwrap_or_else(|found| panic!("{found}"));
        put_back += usize::from(lived.answers.contains(&(Operation::Rollback, Some("DidNotVerify"))));
        let broken = simulator.live(&scenario.sabotaged(Sabotage::ForgetsPutBack), &events, false);
        caught += usize::from(broken.is_err_and(|violation| violation.promise.contains(NEEDED)));
    }
    assert!(put_back > 10 && caught > 0, "{put_back} rollbacks were put back, and {caught} broken retirements caught");
}
