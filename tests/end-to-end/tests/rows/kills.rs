//! The worker is killed at any moment, and what it left is taken up.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::bench::{Bench, FUNCTION};
use crate::keys::opened;
use crate::worker::{assert_all_under, tokens};

const OLD: u64 = 1;
const NEW: u64 = 2;
const ROWS: i64 = 200;
const SEEDS: u64 = 100;

/// The rows under each key; every one has to read as it did.
async fn readable(bench: &Bench) -> (usize, usize) {
    let rows = bench.tokens().await;
    assert_eq!(rows.len() as i64, ROWS);
    let under = |(id, token): (i64, Option<String>)| {
        let (seed, text) = opened(&token.unwrap(), &[NEW, OLD]).unwrap_or_else(|| panic!("row {id} cannot be read"));
        assert_eq!(text, format!("text {id}"));
        seed
    };
    let done = rows.into_iter().map(under).filter(|seed| *seed == NEW).count();
    (done, ROWS as usize - done)
}

/// All rows under the old key, and no process that has started already.
async fn start_over(bench: &Bench) {
    bench.run("UPDATE {schema}.rows r SET token = b.token FROM {schema}.before b WHERE b.id = r.id").await;
    // Slow enough that writing takes longer than to start and to connect.
    let pace = [("REENCRYPT_BATCH_ROWS", "5"), ("REENCRYPT_ROWS_PER_SECOND", "600")];
    bench.register(json!([bench.tokens_column()]), &pace);
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_killed_at_any_of_100_moments_loses_nothing() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, ROWS)).await;
    bench.run("CREATE TABLE {schema}.before AS SELECT * FROM {schema}.rows").await;
    let range = bench.planned().await;
    let request = json!({ "action": "slice", "range": range });
    // As long as a whole run of a new process, so that every moment of it is met.
    let mut whole = Duration::MAX;
    for _ in 0..4 {
        start_over(&bench).await;
        let began = Instant::now();
        bench.slice_of(&range).await;
        whole = whole.min(began.elapsed());
    }
    let (mut running, mut before_the_first, mut midway, mut after_the_last) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        start_over(&bench).await;
        let after = whole.mul_f64(StdRng::seed_from_u64(seed).random_range(0.0..1.0));
        let kill = async {
            tokio::time::sleep(after).await;
            bench.sandbox.host().kill_running(FUNCTION)
        };
        let (killed, number) = tokio::join!(bench.invoke(&request), kill);
        running += number;
        let (done, left) = readable(&bench).await;
        match (done, left) {
            (0, _) => before_the_first += 1,
            (_, 0) => after_the_last += 1,
            _ => midway += 1,
        }
        let how = if killed.is_ok() { "it had answered" } else { "killed" };
        println!("seed {seed}: {how} after {after:?}, {done} of {ROWS} rows were written");
        let answer = bench.slice_of(&range).await;
        let count = |member: &str| answer[member].as_u64().unwrap();
        assert_eq!(count("rewrapped") + count("underPrimary"), ROWS.unsigned_abs(), "seed {seed}: {answer}");
        // What a dead worker has sent, the database may still have done after it was looked at.
        assert!(count("underPrimary") >= done as u64, "seed {seed}: {answer}");
        assert_all_under(&bench, NEW, ROWS).await;
    }
    println!(
        "{running} of {SEEDS} were killed while they worked; nothing was written in {before_the_first}, a part in {midway}, all in {after_the_last}"
    );
    assert!(running >= 50 && midway >= 20, "{running} killed, {midway} of them midway: too few");
}
