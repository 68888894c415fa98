//! What a census of all columns tells, over as many invocations as it takes, and the metrics.

use std::time::Duration;

use rotation::keyring::KeyFormat;
use sandbox::{Fault, FaultRule};
use serde_json::{Value, json};

use crate::bench::{Bench, FUNCTION, KEY_SECRET};
use crate::keys::{id, ring, token};
use crate::worker::tokens;

const OLD: u64 = 1;
const NEW: u64 = 2;

/// A bench with a second table of the same tokens, counted by a function that reads one row a batch in a short time.
async fn slow_bench(tokens: &[(i64, Option<String>)]) -> Bench {
    let bench = Bench::with_tokens(&[NEW, OLD], tokens).await;
    bench.run("CREATE TABLE {schema}.others (id uuid PRIMARY KEY, token text)").await;
    bench.run("INSERT INTO {schema}.others SELECT gen_random_uuid(), token FROM {schema}.rows").await;
    bench.grant("others", "token").await;
    let mut others = bench.tokens_column();
    others["table"] = json!("others");
    bench.register_as("slow", json!([bench.tokens_column(), others]), &[("REENCRYPT_BATCH_ROWS", "1")]);
    bench.sandbox.host().set_timeout("slow", Duration::from_millis(1400)).unwrap();
    bench
}

/// The metrics that were published, by the function's name.
fn metrics(bench: &Bench, function: &str) -> Vec<(String, f64)> {
    let data = bench.sandbox.cloudwatch().data().into_iter();
    data.map(|datum| {
        assert_eq!((datum.namespace.as_str(), datum.unit.as_str()), ("SecretRotation", "Count"));
        assert_eq!(datum.dimensions, [("Function".to_owned(), function.to_owned())].into());
        (datum.name, datum.value)
    })
    .collect()
}

async fn rotate(bench: &Bench, seeds: &[u64]) {
    let ring = ring(KeyFormat::Fernet, seeds);
    bench.secrets.put_secret_value().secret_id(KEY_SECRET).secret_string(ring).send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn census_out_of_time_goes_on_and_its_last_answer_is_whole() {
    let mut rows = tokens(OLD, 2000);
    rows[6].1 = Some("not a token".to_owned());
    rows[41].1 = Some(token(99, "text 42", 1));
    rows[70].1 = Some(token(NEW, "text 71", 1));
    rows[80].1 = None;
    let bench = slow_bench(&rows).await;
    let (mut request, mut invocations, mut before, mut began) = (json!({ "action": "census" }), 0, 0, Value::Null);
    let last = loop {
        let answer = bench.invoke_as("slow", &request).await.unwrap();
        invocations += 1;
        let rows: u64 = answer["columns"].as_array().unwrap().iter().map(|one| one["rows"].as_u64().unwrap()).sum();
        // The time may be up just after the last row.
        assert!(rows > before || answer["next"].is_null(), "{answer}");
        before = rows;
        if invocations == 1 {
            began = answer["began"].clone();
        }
        if answer["next"].is_null() {
            break answer;
        }
        assert_eq!((&answer["ended"], &answer["superseded"]), (&Value::Null, &json!(false)));
        assert_eq!(answer["next"]["counted"], answer["columns"]);
        assert_eq!(answer["next"]["version"], answer["version"]);
        assert!(metrics(&bench, "slow").is_empty(), "a part of a census is no metric");
        request = answer["next"].clone();
    };
    println!("{invocations} invocations");
    assert!(invocations > 1);
    for (column, table) in last["columns"].as_array().unwrap().iter().zip(["rows", "others"]) {
        assert_eq!((&column["table"], &column["rows"], &column["nulls"]), (&json!(table), &json!(2000), &json!(1)));
        assert_eq!(column["keys"], json!({ id(NEW): 1, id(OLD): 1996 }));
        assert_eq!((&column["unknown"], &column["damaged"]), (&json!(1), &json!(1)));
        assert_eq!(column["unreadable"].as_array().unwrap().len(), 2);
    }
    assert_eq!(last["columns"].as_array().unwrap().len(), 2);
    assert_eq!((&last["onOldKeys"], &last["unknown"], &last["damaged"]), (&json!(3992), &json!(2), &json!(2)));
    assert_eq!((&last["superseded"], &last["secret"]), (&json!(false), &json!(KEY_SECRET)));
    assert_eq!((&last["primaryKey"], &last["began"]), (&json!(id(NEW)), &began));
    let time = |member: &str| rotation::time::parse_timestamp(last[member].as_str().unwrap()).unwrap();
    assert!(time("began") <= time("ended"));
    let expected = [("RowsOnOldKey", 3992.0), ("RowsUnreadable", 4.0)];
    assert_eq!(metrics(&bench, "slow"), expected.map(|(name, value)| (name.to_owned(), value)));
}

#[tokio::test(flavor = "multi_thread")]
async fn census_ends_when_the_ring_is_replaced_between_invocations() {
    let bench = slow_bench(&tokens(OLD, 2000)).await;
    let first = bench.invoke_as("slow", &json!({ "action": "census" })).await.unwrap();
    assert!(!first["next"].is_null());
    rotate(&bench, &[3, NEW, OLD]).await;
    let last = bench.invoke_as("slow", &first["next"]).await.unwrap();
    assert_eq!((&last["superseded"], &last["next"]), (&json!(true), &Value::Null));
    assert_eq!((&last["version"], &last["columns"]), (&first["version"], &first["columns"]));
    // Nothing that could be taken for a count of zero.
    assert_eq!((&last["onOldKeys"], &last["primaryKey"]), (&Value::Null, &Value::Null));
    assert!(last["ended"].is_string());
    assert!(metrics(&bench, "slow").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn census_of_a_replaced_ring_says_so_and_is_no_metric() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(NEW, 10)).await;
    let mut other = crate::bench::server().connect().await.unwrap();
    let lock = other.transaction().await.unwrap();
    lock.batch_execute(&format!("LOCK TABLE {}.rows IN ACCESS EXCLUSIVE MODE", bench.schema)).await.unwrap();
    let request = json!({ "action": "census" });
    let rotation = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        rotate(&bench, &[3, NEW, OLD]).await;
        lock.rollback().await.unwrap();
    };
    let (answer, ()) = tokio::join!(bench.invoke(&request), rotation);
    let answer = answer.unwrap();
    assert_eq!((&answer["superseded"], &answer["onOldKeys"], &answer["next"]), (&json!(true), &json!(0), &Value::Null));
    assert!(metrics(&bench, FUNCTION).is_empty());
    assert_eq!(bench.census().await["onOldKeys"], 10);
    assert_eq!(metrics(&bench, FUNCTION)[0], ("RowsOnOldKey".to_owned(), 10.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_columns_together_list_twenty_rows() {
    let rows: Vec<_> = (1..=50).map(|id| (id, Some("?".to_owned()))).collect();
    let bench = slow_bench(&rows).await;
    bench.sandbox.host().set_timeout("slow", Duration::from_secs(60)).unwrap();
    let answer = bench.invoke_as("slow", &json!({ "action": "census" })).await.unwrap();
    let listed = answer["columns"].as_array().unwrap().iter().map(|one| one["unreadable"].as_array().unwrap().len());
    assert_eq!((listed.collect::<Vec<_>>(), &answer["damaged"]), (vec![20, 0], &json!(100)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rewrapped_and_what_is_left_are_metrics() {
    let mut rows = tokens(OLD, 50);
    rows[6].1 = Some(token(99, "text 7", 1));
    let bench = Bench::with_tokens(&[NEW, OLD], &rows).await;
    let said = |bench: &Bench| {
        metrics(bench, FUNCTION).iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>()
    };
    bench.ask(json!({ "action": "plan" })).await;
    bench.ask(json!({ "action": "census", "range": bench.all() })).await;
    assert!(said(&bench).is_empty(), "a plan and a part are none");
    bench.census().await;
    bench.slice().await;
    bench.slice().await;
    bench.census().await;
    let expected = [
        "RowsOnOldKey 49",
        "RowsUnreadable 1",
        "RowsRewrapped 49",
        "RowsRewrapped 0",
        "RowsOnOldKey 0",
        "RowsUnreadable 1",
    ];
    assert_eq!(said(&bench), expected);
    assert_eq!(bench.sandbox.cloudwatch().put_calls(), 4, "one call each");
}

#[tokio::test(flavor = "multi_thread")]
async fn unpublished_metrics_fail_nothing_and_cost_two_seconds() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 50)).await;
    for fault in [Fault::Throttle, Fault::Delay { millis: 120_000 }] {
        bench.sandbox.faults().clear();
        bench.sandbox.faults().add(FaultRule::on("PutMetricData", fault).times(100));
        let began = std::time::Instant::now();
        let answer = bench.slice().await;
        assert_eq!(answer["rows"], 50);
        assert_eq!(bench.census().await["onOldKeys"], 0);
        let seconds = began.elapsed().as_secs_f64();
        assert!(seconds < 15.0, "{seconds} s");
    }
    assert!(bench.sandbox.cloudwatch().data().is_empty());
    assert_eq!(bench.log().matches("metrics were not published").count(), 4);
}

/// What an application writes under the old key, and commits late.
async fn uncommitted(end_of_statement: &str, commit: &str) {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(NEW, 10)).await;
    let application = crate::bench::server().connect().await.unwrap();
    application.batch_execute("BEGIN").await.unwrap();
    let insert = format!("INSERT INTO {}.rows VALUES (11, $1)", bench.schema);
    application.execute(&insert, &[&token(OLD, "text 11", 11)]).await.unwrap();
    application.batch_execute(&end_of_statement.replace("{schema}", &bench.schema)).await.unwrap();
    let blind = bench.census().await;
    application.batch_execute(&commit.replace("{schema}", &bench.schema)).await.unwrap();
    let seeing = bench.census().await;
    assert_eq!((&blind["onOldKeys"], &seeing["onOldKeys"]), (&json!(0), &json!(1)), "{commit}");
    assert_eq!(
        (&blind["settled"], &seeing["settled"]),
        (&json!(false), &json!(true)),
        "a count of zero is believed: {commit}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_census_beside_an_open_transaction_says_so() {
    uncommitted("", "COMMIT").await;
    uncommitted("PREPARE TRANSACTION '{schema}'", "COMMIT PREPARED '{schema}'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_census_waits_for_a_short_transaction() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(NEW, 10)).await;
    let application = crate::bench::server().connect().await.unwrap();
    application.batch_execute("BEGIN").await.unwrap();
    let insert = format!("INSERT INTO {}.rows VALUES (11, $1)", bench.schema);
    application.execute(&insert, &[&token(OLD, "text 11", 11)]).await.unwrap();
    let commit = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        application.batch_execute("COMMIT").await.unwrap();
    };
    let (census, ()) = tokio::join!(bench.census(), commit);
    assert_eq!((&census["onOldKeys"], &census["settled"]), (&json!(1), &json!(true)));
}

/// What a census of one row tells, which goes on where so many values were counted.
async fn counted(format: KeyFormat, of_column: &str, values: u64) -> (Value, String) {
    let bench = Bench::new(format, &[NEW, OLD]).await;
    bench.run("CREATE TABLE {schema}.rows (id bigint PRIMARY KEY, token text)").await;
    bench.grant("rows", "token").await;
    let mut column = bench.tokens_column();
    column["format"] = json!(of_column);
    bench.register(json!([column]), &[]);
    let mut counted = bench.all();
    let counts = json!({ "rows": values, "nulls": 0, "keys": { id(NEW): values, id(OLD): 1 }, "unknown": 0, "damaged": 0, "unreadable": [] });
    counted.as_object_mut().unwrap().extend(counts.as_object().unwrap().clone());
    let version = bench.census().await["version"].clone();
    let request = json!({
        "action": "census", "from": bench.all(), "counted": [counted], "began": "2026-11-25T00:00:00Z", "version": version
    });
    (bench.ask(request).await["wornKeys"].clone(), bench.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_half_of_its_nonces_used_is_named() {
    let half = 1_u64 << 31;
    for (format, of_column) in [(KeyFormat::Raw, "aes-gcm"), (KeyFormat::Raw, "aes-gcm-hex"), (KeyFormat::Tink, "tink")]
    {
        let (worn, log) = counted(format, of_column, half).await;
        assert_eq!(worn, json!({ id(NEW): half }), "{of_column}");
        assert!(log.contains("half of the values") && log.contains("WARN"), "{log}");
        // What doctor reads.
        let told = json!(json!({ id(NEW): half }).to_string()).to_string();
        let line = log.lines().rfind(|line| line.contains("all rows are counted")).unwrap();
        assert!(line.contains(&format!("\"worn_keys\":{told}")) && line.contains(KEY_SECRET), "{line}");
    }
    let (worn, log) = counted(KeyFormat::Raw, "aes-gcm", half - 1).await;
    assert!(worn == json!({}) && !log.contains("half of the values"), "{worn}");
    assert_eq!(counted(KeyFormat::Fernet, "fernet", half * 4).await.0, json!({}), "AES-CBC has no such limit");
}
