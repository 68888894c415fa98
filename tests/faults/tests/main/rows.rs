//! Stored rows: no row is ever unreadable, and no key is dropped while it is needed.

use std::collections::BTreeMap;
use std::time::Instant;

use faults::histories::{Found, events_of, run_history, scenario_of};
use faults::model::keyring::rows::Seen;
use faults::model::keyring::{Broken, Keyring};
use faults::run::Simulator;
use faults::scenario::{Sabotage, Scenario};

use crate::support::{in_parallel, seeds, summary};

/// A broken one has to be caught in so many histories.
const MOST_TO_CATCH: u64 = 2_000;

#[test]
fn no_row_is_ever_unreadable_in_long_random_histories() {
    let begun = Instant::now();
    let lived = in_parallel(seeds(2_000), |simulator, seed| {
        let scenario = scenario_of(*seed);
        run_history(simulator, &scenario, &events_of(*seed, &scenario))
            .inspect_err(|_| summary(&format!("to replay: FAULTS_SEED={seed} FAULTS_ROUNDS=1")))
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
    let Seen { rewrapped, overtaken, .. } = seen;
    // Who replays one history does not meet them all.
    assert!(lived.len() < 1_000 || (rewrapped > 1_000 && overtaken > 10), "the histories have become harmless");
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
