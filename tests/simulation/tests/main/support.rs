//! Running families and random histories on all processors.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::Instant;

use simulation::families::{
    Explored, Family, Found, OperationFamily, explore, explore_operation, random_scenario, random_scenario_operated,
    run_random, run_random_operated, run_script,
};
use simulation::model::Model;
use simulation::run::Simulator;
use simulation::scenario::Scenario;
use simulation::schedule::{Call, Operation, Script, Side};

/// Does pieces of work on all processors; the first finding ends it.
pub(crate) fn in_parallel<W: Send, T: Send, E: Send>(
    work: Vec<W>,
    each: impl Fn(&Simulator, &W) -> Result<T, E> + Sync,
) -> Result<Vec<(W, T)>, E> {
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
pub(crate) fn summary(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// One in so many schedules is run, and histories by chance are so many times fewer: `SIMULATION_SHARE=1` runs all.
pub(crate) fn share() -> usize {
    setting("SIMULATION_SHARE").map_or(8, |share| usize::try_from(share).unwrap())
}

fn setting(name: &str) -> Option<u64> {
    #[allow(clippy::disallowed_methods, reason = "for whoever replays or extends the search")]
    let value = std::env::var(name);
    value.ok().map(|value| value.parse().unwrap())
}

/// Fails when there are not so many schedules in all as `all` at least, by the share that was run.
pub(crate) fn at_least(all: usize, run: usize) {
    assert!(run * share() > all, "the families have shrunk: {run} schedules, one in {}", share());
}

/// Runs families, each with its scenario; how many schedules there were.
pub(crate) fn explore_all<M: Model>(work: Vec<(Scenario<M>, Family)>) -> usize {
    let begun = Instant::now();
    let results = in_parallel(work, |simulator, (scenario, family)| explore(simulator, scenario, *family, share()));
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
    total.schedules()
}

/// Runs families for operations, each with its scenario; how many schedules there were.
pub(crate) fn explore_operations<M: Model>(work: Vec<(Scenario<M>, Operation, OperationFamily)>) -> usize {
    let begun = Instant::now();
    let results = in_parallel(work, |simulator, (scenario, operation, family)| {
        explore_operation(simulator, scenario, *operation, *family, share())
    });
    let results = results.unwrap_or_else(|found| panic!("{found}"));
    let mut total = Explored::default();
    let mut families = BTreeMap::<OperationFamily, usize>::new();
    for ((scenario, operation, family), explored) in &results {
        println!(
            "{:>6} schedules: {family:?} of {operation}; {scenario}; {:?}",
            explored.schedules(),
            explored.endings
        );
        *families.entry(*family).or_default() += explored.schedules();
        total.add(explored);
    }
    println!("endings: {:?}; errors on the way: {:?}", total.endings, total.errors);
    summary(&format!("schedules of operations: {} in {:?}: {families:?}", total.schedules(), begun.elapsed()));
    total.schedules()
}

/// Runs random histories, from the seed that the environment names.
pub(crate) fn long_random_histories<M: Model>(rounds: u64) -> Explored {
    random_histories(rounds, |simulator, seed| run_random(simulator, &random_scenario::<M>(seed), seed))
}

/// The same with operations, of these scenarios.
pub(crate) fn long_random_histories_operated<M: Model>(rounds: u64, all: &[Scenario<M>]) -> Explored {
    random_histories(rounds, |simulator, seed| {
        run_random_operated(simulator, &random_scenario_operated(seed, all), seed)
    })
}

/// The seeds of so many histories, unless the environment names others; the first one last.
pub(crate) fn seeds(rounds: u64) -> Vec<u64> {
    let first = setting("SIMULATION_SEED").unwrap_or(1);
    let rounds = setting("SIMULATION_ROUNDS").unwrap_or_else(|| rounds / share() as u64);
    (first..first + rounds).rev().collect()
}

fn random_histories(rounds: u64, run: impl Fn(&Simulator, u64) -> Result<Explored, Box<Found>> + Sync) -> Explored {
    let begun = Instant::now();
    let seeds = seeds(rounds);
    let first = seeds.last().copied().unwrap_or_default();
    let results = in_parallel(seeds, |simulator, seed| {
        run(simulator, *seed)
            .inspect_err(|_| summary(&format!("to replay: SIMULATION_SEED={seed} SIMULATION_ROUNDS=1")))
    });
    let results = results.unwrap_or_else(|found| panic!("{found}"));
    let mut total = Explored::default();
    results.iter().for_each(|(_, explored)| total.add(explored));
    summary(&format!(
        "random histories: {} from seed {first} in {:?}: endings {:?}; errors on the way {:?}",
        total.schedules(),
        begun.elapsed(),
        total.endings,
        total.errors
    ));
    total
}

/// A family in which `sabotaged` breaks a promise, and `sound` does not.
pub(crate) fn finds<M: Model>(sound: Scenario<M>, sabotaged: Scenario<M>, family: Family, promise: &str) {
    let simulator = Simulator::new().unwrap();
    explore(&simulator, &sound, family, 1).unwrap_or_else(|found| panic!("without sabotage: {found}"));
    let found = explore(&simulator, &sabotaged, family, 1).expect_err("the sabotage was not noticed");
    assert!(found.violation.promise.contains(promise), "{found}");
}

/// The number of the gate after the call of this kind, counted from 0 in an undisturbed run.
pub(crate) fn gate_after<M: Model>(simulator: &Simulator, scenario: &Scenario<M>, call: Call, which: usize) -> usize {
    let gates = run_script(simulator, scenario, &Script::new([])).unwrap().gates;
    let mut after = gates.iter().enumerate().filter(|(_, gate)| gate.call == call && gate.side == Side::After);
    after.nth(which).unwrap().0
}

/// A family for an operation in which `sabotaged` breaks a promise, and `sound` does not.
pub(crate) fn finds_of<M: Model>(
    sound: Scenario<M>,
    sabotaged: Scenario<M>,
    (operation, family): (Operation, OperationFamily),
    promise: &str,
) {
    let simulator = Simulator::new().unwrap();
    explore_operation(&simulator, &sound, operation, family, 1)
        .unwrap_or_else(|found| panic!("without sabotage: {found}"));
    let found =
        explore_operation(&simulator, &sabotaged, operation, family, 1).expect_err("the sabotage was not noticed");
    assert!(found.violation.promise.contains(promise), "{found}");
}
