//! The main job: ranges are planned, rewritten and counted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use rotation::keyring::KeyFormat;
use rotation::rows::{Form, RowFormat};
use serde_json::{Value, json};

use crate::bench::{Bench, FUNCTION, KEY_SECRET, assert_adds_up};
use crate::keys::{id, key, opened, ring, stored, token};

const OLD: u64 = 1;
const NEW: u64 = 2;

/// Tokens under the key of a seed, numbered from 1.
pub(crate) fn tokens(seed: u64, count: i64) -> Vec<(i64, Option<String>)> {
    (1..=count).map(|id| (id, Some(token(seed, &format!("text {id}"), id.unsigned_abs())))).collect()
}

/// Every row reads as it did, under the key of this seed.
pub(crate) async fn assert_all_under(bench: &Bench, seed: u64, count: i64) {
    let rows = bench.tokens().await;
    assert_eq!(rows.len() as i64, count);
    for (id, token) in rows {
        let token = token.unwrap_or_else(|| panic!("row {id} lost its value"));
        assert_eq!(opened(&token, &[NEW, OLD]), Some((seed, format!("text {id}"))), "row {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_planned_rewritten_slice_by_slice_and_counted() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 1003)).await;
    let before = bench.census().await;
    assert_eq!(before["columns"][0]["keys"], json!({ id(OLD): 1003, id(NEW): 0 }));
    assert_eq!((&before["next"], &before["primaryKey"]), (&Value::Null, &json!(id(NEW))));

    let plan = bench.ask(json!({ "action": "plan", "slices": 4 })).await;
    assert_eq!(plan["rows"], 1003);
    let ranges = plan["ranges"].as_array().unwrap();
    assert_eq!(ranges.len(), 4);
    let mut total = 0;
    for range in ranges {
        let answer = bench.ask(json!({ "action": "slice", "range": range })).await;
        assert_adds_up(&answer);
        assert_eq!(answer["next"], Value::Null);
        let rows = answer["rows"].as_u64().unwrap();
        assert!((249..=252).contains(&rows), "{rows}: ranges of about equal size");
        assert_eq!(answer["keys"], json!({ id(OLD): rows }));
        total += rows;
    }
    assert_eq!(total, 1003, "no row is in two ranges, or in none");
    assert_all_under(&bench, NEW, 1003).await;
    let after = bench.census().await;
    assert_eq!(after["columns"][0]["keys"], json!({ id(OLD): 0, id(NEW): 1003 }));
    assert_eq!(after["columns"][0]["unknown"], 0);
    assert_eq!(after["columns"][0]["damaged"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_writes_nothing() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 300)).await;
    bench.slice().await;
    let written = bench.tokens().await;
    let again = bench.slice().await;
    assert_eq!((&again["underPrimary"], &again["rewrapped"]), (&json!(300), &json!(0)));
    assert_eq!(bench.tokens().await, written, "byte for byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_and_an_empty_table_are_no_work() {
    let bench = Bench::with_tokens(&[NEW, OLD], &[]).await;
    let plan = bench.ask(json!({ "action": "plan" })).await;
    let mut all = bench.all();
    (all["after"], all["through"]) = (Value::Null, Value::Null);
    all["understood"] = json!({ "format": "fernet", "form": Form::default() });
    assert_eq!(plan["ranges"], json!([all]));
    assert_eq!(bench.slice().await["rows"], 0);
    assert_eq!(bench.census().await["columns"][0]["rows"], 0);

    bench.fill(&[(1, None), (2, Some(token(OLD, "text 2", 1))), (3, None)]).await;
    let answer = bench.slice().await;
    assert_eq!((&answer["nulls"], &answer["rewrapped"]), (&json!(2), &json!(1)));
    assert_eq!(bench.tokens().await[0], (1, None));
    let census = bench.census().await;
    assert_eq!((&census["columns"][0]["rows"], &census["columns"][0]["nulls"]), (&json!(3), &json!(2)));
}

/// A token whose signature is right, and whose text is not padded as it must be.
fn damaged(seed: u64) -> String {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let token = URL_SAFE.decode(token(seed, "text", 1)).unwrap();
    let mut signed = token[..token.len() - 32].to_vec();
    *signed.last_mut().unwrap() ^= 1;
    let mac = Hmac::<sha2::Sha256>::new_from_slice(&key(seed).material().expose()[..16]).unwrap();
    let signature = mac.chain_update(&signed).finalize().into_bytes();
    URL_SAFE.encode([&signed[..], &signature].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_unknown_rows_are_listed_stay_and_stop_nothing() {
    let mut rows = tokens(OLD, 100);
    rows[6].1 = Some(damaged(OLD));
    rows[41].1 = Some(token(99, "text 42", 1));
    let bench = Bench::with_tokens(&[NEW, OLD], &rows).await;
    let answer = bench.slice().await;
    let unreadable = json!([{ "key": "7", "state": "damaged" }, { "key": "42", "state": "unknown" }]);
    assert_eq!(answer["unreadable"], unreadable);
    assert_eq!((&answer["unknown"], &answer["damaged"], &answer["rewrapped"]), (&json!(1), &json!(1), &json!(98)));
    assert_eq!(answer["superseded"], false);
    let now = bench.tokens().await;
    assert_eq!((&now[6], &now[41]), (&rows[6], &rows[41]), "as they were");
    assert_eq!(bench.census().await["columns"][0]["unreadable"], unreadable);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_of_unreadable_rows_is_bounded_and_their_count_is_not() {
    let rows: Vec<_> = (1..=500).map(|id| (id, Some("?".to_owned()))).collect();
    let bench = Bench::with_tokens(&[NEW, OLD], &rows).await;
    let column = &bench.census().await["columns"][0];
    assert_eq!((&column["damaged"], &column["foreign"]), (&json!(500), &json!(500)));
    assert_eq!(column["unreadable"].as_array().unwrap().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_in_time_and_says_where_it_stands() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 600)).await;
    // 600 rows at this rate take 3 s, and the invocation has 2.
    let slow = [("REENCRYPT_ROWS_PER_SECOND", "200"), ("REENCRYPT_BATCH_ROWS", "20")];
    bench.register_as("slow", json!([bench.tokens_column()]), &slow);
    bench.sandbox.host().set_timeout("slow", std::time::Duration::from_secs(2)).unwrap();
    let (mut request, mut invocations, mut rewrapped) =
        (json!({ "action": "slice", "range": bench.planned().await }), 0, 0);
    while !request.is_null() {
        let answer = bench.invoke_as("slow", &request).await.unwrap();
        assert_adds_up(&answer);
        rewrapped += answer["rewrapped"].as_u64().unwrap();
        invocations += 1;
        if invocations == 1 {
            let under = bench.tokens().await;
            let reached = under.iter().filter(|(_, token)| opened(token.as_ref().unwrap(), &[NEW]).is_some()).count();
            assert_eq!(rewrapped as usize, reached);
            assert_eq!(answer["next"]["range"]["after"], reached.to_string(), "behind the last row that was written");
        }
        request = answer["next"].clone();
    }
    assert!((3..8).contains(&invocations), "{invocations}");
    assert_eq!(rewrapped, 600, "no row was written twice");
    assert_all_under(&bench, NEW, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_that_was_replaced_meanwhile_is_told() {
    let bench = Bench::with_tokens(&[NEW, OLD], &[(1, Some(token(3, "text 1", 1)))]).await;
    assert_eq!(bench.slice().await["superseded"], false);
    // The rotation comes while the rows are read: the database lets them wait.
    let request = json!({ "action": "slice", "range": bench.planned().await });
    let mut other = crate::bench::server().connect().await.unwrap();
    let lock = other.transaction().await.unwrap();
    lock.batch_execute(&format!("LOCK TABLE {}.rows IN ACCESS EXCLUSIVE MODE", bench.schema)).await.unwrap();
    let rotation = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let ring = ring(KeyFormat::Fernet, &[3, NEW, OLD]);
        bench.secrets.put_secret_value().secret_id(KEY_SECRET).secret_string(ring).send().await.unwrap();
        lock.rollback().await.unwrap();
    };
    let (answer, ()) = tokio::join!(bench.invoke(&request), rotation);
    let answer = answer.unwrap();
    assert_eq!((&answer["unknown"], &answer["superseded"]), (&json!(1), &json!(true)), "{answer}");
    assert_eq!(bench.slice().await["underPrimary"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_the_ring_and_writes_no_secret_and_shows_no_value() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 50)).await;
    bench.sandbox.reset_calls();
    let answers = [bench.ask(json!({ "action": "plan" })).await, bench.slice().await, bench.census().await];
    let calls = bench.sandbox.calls_of(FUNCTION);
    let expected = [("DescribeSecret", 7), ("GetSecretValue", 8)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(
        calls,
        expected.into(),
        "two values and one description in each of four invocations, one more after two plans and a census"
    );
    let shown = format!("{answers:?}{}", bench.log());
    for value in ring(KeyFormat::Fernet, &[NEW, OLD]).split(',').chain([end_to_end::postgres::PASSWORD, "text 1"]) {
        assert!(!shown.contains(value));
    }
    for (_, token) in bench.tokens().await {
        assert!(!shown.contains(&token.unwrap()));
    }
    assert!(shown.contains("\"rewrapped\":50"), "the log tells the counts: {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_analysed_while_empty_is_planned_batch_by_batch() {
    let bench = Bench::with_tokens(&[NEW, OLD], &[]).await;
    bench.run("ALTER TABLE {schema}.rows SET (autovacuum_enabled = off); ANALYZE {schema}.rows").await;
    bench.run("INSERT INTO {schema}.rows SELECT n FROM generate_series(1, 100000) n").await;
    bench.run("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await;
    bench.register(json!([bench.tokens_column()]), &[("REENCRYPT_BATCH_ROWS", "5000")]);
    let plan = bench.ask(json!({ "action": "plan", "slices": 8 })).await;
    assert_eq!(plan["rows"], 100_000);
    let ranges = plan["ranges"].as_array().unwrap();
    assert_eq!(ranges.len(), 8);
    let mut begin = 0;
    for range in ranges {
        assert_eq!(range["after"].as_str().map_or(0, |after| after.parse::<u64>().unwrap()), begin);
        let end = range["through"].as_str().map_or(100_000, |through| through.parse::<u64>().unwrap());
        assert!((12_000..13_000).contains(&(end - begin)), "{begin} to {end}");
        begin = end;
    }
    let pages = "SELECT max((shared_blks_hit + shared_blks_read) / calls) FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = $1 AND query LIKE '%.rows %'";
    let most: i64 = bench.sql.query_one(pages, &[&bench.schema]).await.unwrap().get(0);
    assert!((1..100).contains(&most), "a statement reads {most} pages, and the table has 443");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_do_not_add_up_in_memory() {
    let large = token(OLD, &"x".repeat(1_000_000), 1);
    let bench = Bench::with_tokens(&[NEW, OLD], &[(1, Some(large))]).await;
    bench.run("INSERT INTO {schema}.rows SELECT n, token FROM {schema}.rows, generate_series(2, 24) n").await;
    let request = json!({ "action": "slice", "range": bench.planned().await }).to_string();
    let invocation = bench.sandbox.host().invoke(FUNCTION, request.into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&invocation.payload).unwrap();
    assert_eq!(answer["rewrapped"], 24, "{answer}");
    let memory = invocation.usage.unwrap().max_memory_kb / 1024;
    println!("{memory} MB for 32 MB of rows");
    assert!(memory < 100, "{memory} MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_with_a_null_in_its_associated_data_is_damaged_and_stays() {
    let bench = Bench::new(KeyFormat::Raw, &[NEW, OLD]).await;
    bench.run("CREATE TABLE {schema}.rows (id bigint PRIMARY KEY, tenant text, token text)").await;
    bench.grant("rows", "token").await;
    let sealed = |aad: &str| String::from_utf8(stored(RowFormat::AesGcm, OLD, b"text", aad.as_bytes(), 1)).unwrap();
    let insert = format!("INSERT INTO {}.rows VALUES ($1, $2, $3)", bench.schema);
    bench.sql.execute(&insert, &[&1_i64, &Some("a"), &sealed("1:a,1:1,")]).await.unwrap();
    bench.sql.execute(&insert, &[&2_i64, &None::<&str>, &sealed("0:,1:2,")]).await.unwrap();
    bench.sql.execute(&insert, &[&3_i64, &Some(""), &sealed("0:,1:3,")]).await.unwrap();
    let mut column = bench.tokens_column();
    (column["format"], column["aad"]) = (json!("aes-gcm"), json!(["tenant", "id"]));
    bench.register(json!([column]), &[]);
    let answer = bench.slice().await;
    assert_eq!((&answer["rewrapped"], &answer["damaged"]), (&json!(2), &json!(1)));
    assert_eq!(answer["unreadable"], json!([{ "key": "2", "state": "damaged" }]));
}
