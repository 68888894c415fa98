//! The application writes the same rows at the same time: its values win, it never waits for long, and nothing is done twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::bench::{Bench, assert_adds_up, server};
use crate::keys::{opened, token};
use crate::worker::{assert_all_under, tokens};

const OLD: u64 = 1;
const NEW: u64 = 2;

/// The text of each row, and the seed of its key.
async fn texts(bench: &Bench) -> Vec<(u64, String)> {
    bench.tokens().await.into_iter().map(|(_, token)| opened(&token.unwrap(), &[NEW, OLD]).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn value_written_meanwhile_wins_and_ends_under_the_primary() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 200)).await;
    // The worker waits for the row's lock, and is overtaken when it gets it.
    bench.register(json!([bench.tokens_column()]), &[("REENCRYPT_LOCK_TIMEOUT", "900ms")]);
    let mut application = server().connect().await.unwrap();
    let update = format!("UPDATE {}.rows SET token = $1 WHERE id = $2", bench.schema);
    let transaction = application.transaction().await.unwrap();
    // One application has not loaded the new ring yet.
    transaction.execute(&update, &[&token(OLD, "refreshed", 1), &77_i64]).await.unwrap();
    transaction.execute(&format!("DELETE FROM {}.rows WHERE id = 78", bench.schema), &[]).await.unwrap();
    let commit = async {
        until_waiting(&bench, 1).await;
        transaction.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(bench.slice(), commit);
    assert_eq!(
        (&answer["overtaken"], &answer["deleted"], &answer["busy"]),
        (&json!(2), &json!(1), &json!(0)),
        "{answer}"
    );
    assert_eq!(answer["rewrapped"], 199);
    let now = texts(&bench).await;
    assert_eq!(now[76], (NEW, "refreshed".to_owned()));
    assert!(now.iter().all(|(seed, _)| *seed == NEW));
}

/// Waits until so many connections of the function wait for a lock.
async fn until_waiting(bench: &Bench, connections: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'";
    let began = Instant::now();
    while bench.sql.query_one(waiting, &[&bench.schema]).await.unwrap().get::<_, i64>(0) < connections {
        assert!(began.elapsed() < Duration::from_secs(20), "the function never waited for a lock");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_row_is_left_as_it_is_and_all_others_are_done() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 300)).await;
    bench.register(json!([bench.tokens_column()]), &[("REENCRYPT_LOCK_TIMEOUT", "50ms")]);
    bench.sandbox.host().set_timeout(crate::bench::FUNCTION, Duration::from_secs(4)).unwrap();
    let mut application = server().connect().await.unwrap();
    let transaction = application.transaction().await.unwrap();
    transaction
        .execute(&format!("SELECT 1 FROM {}.rows WHERE id IN (5, 250) FOR UPDATE", bench.schema), &[])
        .await
        .unwrap();
    let answer = bench.slice().await;
    assert_eq!((&answer["busy"], &answer["rewrapped"]), (&json!(2), &json!(298)), "{answer}");
    transaction.rollback().await.unwrap();
    let answer = bench.slice().await;
    assert_eq!((&answer["busy"], &answer["rewrapped"], &answer["underPrimary"]), (&json!(0), &json!(2), &json!(298)));
    assert_all_under(&bench, NEW, 300).await;
}

/// What the database answers to one statement is taken before the answer to the next one can come.
#[tokio::test(flavor = "multi_thread")]
async fn many_overtaken_rows_hold_up_nothing() {
    const ROWS: i64 = 40_000;
    // Long keys make long answers.
    const FIRST: i64 = 1_000_000_000_000_000_000;
    const OVERTAKEN: i64 = FIRST + 10_500;
    let token = token(OLD, "text", 1);
    let rows: Vec<_> = (FIRST..FIRST + ROWS).map(|id| (id, Some(token.clone()))).collect();
    let bench = Bench::with_tokens(&[NEW, OLD], &rows).await;
    // Those rows are another's until the gate is open. They take their time, so that the next batch is on its way meanwhile.
    bench
        .run(&format!(
            "CREATE TABLE {{schema}}.gate (open bool);
             CREATE SEQUENCE {{schema}}.refused;
             CREATE FUNCTION {{schema}}.pass() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                 IF NEW.id >= {OVERTAKEN} OR EXISTS (SELECT FROM {{schema}}.gate) THEN RETURN NEW; END IF;
                 PERFORM pg_catalog.nextval('{{schema}}.refused');
                 IF NEW.id % 3 = 0 THEN PERFORM pg_catalog.pg_sleep(0.001); END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER pass BEFORE UPDATE ON {{schema}}.rows FOR EACH ROW EXECUTE FUNCTION {{schema}}.pass()"
        ))
        .await;
    let pace =
        [("REENCRYPT_BATCH_ROWS", "1000"), ("REENCRYPT_BATCH_TIME", "10s"), ("REENCRYPT_STATEMENT_TIMEOUT", "10s")];
    bench.register(json!([bench.tokens_column()]), &pace);
    bench.sandbox.host().set_timeout(crate::bench::FUNCTION, Duration::from_secs(40)).unwrap();
    let open = async {
        let (began, refused) = (Instant::now(), format!("SELECT last_value FROM {}.refused", bench.schema));
        while bench.sql.query_one(&refused, &[]).await.unwrap().get::<_, i64>(0) < 10_000 {
            assert!(began.elapsed() < Duration::from_secs(20), "the function has not come so far");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.run("INSERT INTO {schema}.gate VALUES (true)").await;
    };
    let (answer, ()) = tokio::join!(bench.slice(), open);
    assert_eq!((&answer["rewrapped"], &answer["busy"]), (&json!(ROWS), &json!(0)), "{answer}");
    assert!(answer["overtaken"].as_i64().unwrap() >= 10_000, "{answer}");
    assert!(answer["durationMs"].as_i64().unwrap() < 30_000, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_deadlock_the_application_never_gives_way() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 100)).await;
    let update = format!("UPDATE {}.rows SET token = $1 WHERE id = $2", bench.schema);
    for round in 0..5 {
        bench.run("UPDATE {schema}.rows SET token = token").await;
        let mut application = server().connect().await.unwrap();
        let transaction = application.transaction().await.unwrap();
        let text = format!("round {round}");
        // The worker locks the rows before 60 and waits for this one; then the application wants one of those.
        transaction.execute(&update, &[&token(OLD, &text, 1), &60_i64]).await.unwrap();
        let deadlock = async {
            until_waiting(&bench, 1).await;
            let began = Instant::now();
            transaction.execute(&update, &[&token(OLD, &text, 2), &10_i64]).await.unwrap();
            transaction.commit().await.unwrap();
            began.elapsed()
        };
        let (answer, waited) = tokio::join!(bench.slice(), deadlock);
        println!("round {round}: the application waited {waited:?}; {answer}");
        assert!(waited < Duration::from_millis(900), "it waited {waited:?}: deadlocks are looked for after a second");
        let now = texts(&bench).await;
        assert_eq!((&now[59].1, &now[9].1), (&text, &text), "the application's values stay");
        // It may have written row 10 after the worker was done with it.
        assert!(now.iter().enumerate().all(|(row, (seed, _))| row == 9 || *seed == NEW));
        bench.slice().await;
        assert!(texts(&bench).await.iter().all(|(seed, _)| *seed == NEW));
        // Back under the old key for the next round.
        bench.run("DELETE FROM {schema}.rows").await;
        bench.fill(&tokens(OLD, 100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_on_one_range_do_nothing_twice() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 3000)).await;
    let variables = [("REENCRYPT_BATCH_ROWS", "50"), ("REENCRYPT_LOCK_TIMEOUT", "900ms")];
    bench.register(json!([bench.tokens_column()]), &variables);
    let range = bench.planned().await;
    // Both begin at the same moment: nobody can read before the table is free.
    let mut gate = server().connect().await.unwrap();
    let gate = gate.transaction().await.unwrap();
    gate.batch_execute(&format!("LOCK TABLE {}.rows IN ACCESS EXCLUSIVE MODE", bench.schema)).await.unwrap();
    let open = async {
        until_waiting(&bench, 2).await;
        gate.rollback().await.unwrap();
    };
    let (one, other, ()) = tokio::join!(bench.slice_of(&range), bench.slice_of(&range), open);
    println!("{one}\n{other}");
    let sum = |member: &str| one[member].as_u64().unwrap() + other[member].as_u64().unwrap();
    assert_eq!((sum("rewrapped"), sum("underPrimary"), sum("busy")), (3000, 3000, 0));
    assert!(sum("overtaken") > 0, "they never met: the test shows nothing");
    assert_all_under(&bench, NEW, 3000).await;
}

const ROWS: i64 = 400;
const WRITERS: i64 = 4;

/// Writes into a writer's own rows until it is told to stop. It returns the last text of each row, the longest wait, and
/// the number of writes.
async fn write(bench: Arc<Bench>, done: Arc<AtomicBool>, writer: i64) -> (Vec<Option<String>>, Duration, u64) {
    let client = server().connect().await.unwrap();
    let seed = if writer % 2 == 0 { OLD } else { NEW };
    let update = format!("UPDATE {}.rows SET token = $1 WHERE id = $2", bench.schema);
    let mut rng = StdRng::seed_from_u64(writer.unsigned_abs());
    let (mut last, mut longest, mut number) = (vec![None; 401], Duration::ZERO, 0_u64);
    while !done.load(Ordering::Relaxed) {
        let id = rng.random_range(0..ROWS / WRITERS) * WRITERS + writer + 1;
        number += 1;
        let text = format!("writer {writer}, {number}");
        let began = Instant::now();
        client.execute(&update, &[&token(seed, &text, number), &id]).await.unwrap();
        longest = longest.max(began.elapsed());
        last[usize::try_from(id).unwrap()] = Some(text);
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    (last, longest, number)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_lost_while_the_application_refreshes_tokens() {
    let bench = Arc::new(Bench::with_tokens(&[NEW, OLD], &tokens(OLD, ROWS)).await);
    bench.register(json!([bench.tokens_column()]), &[("REENCRYPT_BATCH_ROWS", "40")]);
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = vec![];
    for writer in 0..WRITERS {
        // Each has rows of its own, so that it knows what was written last; half of them have not loaded the new ring.
        writers.push(tokio::spawn(write(bench.clone(), done.clone(), writer)));
    }
    let (began, mut overtaken, mut rewrapped, mut rounds) = (Instant::now(), 0, 0, 0);
    while began.elapsed() < Duration::from_secs(4) {
        let answer = bench.slice().await;
        overtaken += answer["overtaken"].as_u64().unwrap();
        rewrapped += answer["rewrapped"].as_u64().unwrap();
        assert_eq!((&answer["unknown"], &answer["damaged"]), (&json!(0), &json!(0)));
        rounds += 1;
    }
    done.store(true, Ordering::Relaxed);
    let mut expected: Vec<String> = (0..=ROWS).map(|id| format!("text {id}")).collect();
    let (mut longest, mut writes) = (Duration::ZERO, 0);
    for writer in writers {
        let (last, waited, number) = writer.await.unwrap();
        longest = longest.max(waited);
        writes += number;
        for (id, text) in last.into_iter().enumerate() {
            expected[id] = text.unwrap_or_else(|| expected[id].clone());
        }
    }
    let answer = bench.slice().await;
    assert_adds_up(&answer);
    println!(
        "{writes} writes of the application, the longest took {longest:?}; {rounds} slices rewrote {rewrapped} rows and were overtaken {overtaken} times"
    );
    let now = texts(&bench).await;
    for (id, (seed, text)) in (1..).zip(now) {
        assert_eq!((seed, &text), (NEW, &expected[id]), "row {id}");
    }
    assert!(overtaken > 0, "no write came in the middle of a batch: the test shows nothing");
    assert!(longest < Duration::from_secs(2), "the application waited {longest:?}");
}

/// Where deadlocks are looked for sooner than after a second, a lock is waited for even less.
#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_deadlock_timeout_is_undercut() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 100)).await;
    bench.run("ALTER ROLE {schema} SET deadlock_timeout = '100ms'").await;
    bench.register(json!([bench.tokens_column()]), &[("REENCRYPT_LOCK_TIMEOUT", "900ms")]);
    let range = bench.planned().await;
    let update = format!("UPDATE {}.rows SET token = $1 WHERE id = $2", bench.schema);
    let mut application = server().connect().await.unwrap();
    application.batch_execute("SET deadlock_timeout = '100ms'").await.unwrap();
    let transaction = application.transaction().await.unwrap();
    transaction.execute(&update, &[&token(OLD, "text 60", 60), &60_i64]).await.unwrap();
    let deadlock = async {
        until_waiting(&bench, 1).await;
        // The worker has looked for a deadlock by now, and found none.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let written = transaction.execute(&update, &[&token(OLD, "text 10", 10), &10_i64]).await;
        assert!(written.is_ok(), "the application had to give way: {written:?}");
        transaction.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(bench.slice_of(&range), deadlock);
    println!("{answer}");
    bench.slice().await;
    assert!(texts(&bench).await.iter().all(|(seed, _)| *seed == NEW));
}
