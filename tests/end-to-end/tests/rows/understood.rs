//! No row is written before its whole column is understood, and what is written has the form of what was there.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use rotation::keyring::KeyFormat;
use rotation::rows::RowFormat;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::keys::{ring, stored, token};
use crate::worker::{assert_all_under, tokens};

const OLD: u64 = 1;
const NEW: u64 = 2;

/// A bench with a text column of these values in `aes-gcm`, and its configuration.
async fn texts(format: KeyFormat, values: &[String]) -> (Bench, Value) {
    let bench = Bench::new(format, &[NEW, OLD]).await;
    bench.run("CREATE TABLE {schema}.rows (id bigint PRIMARY KEY, token text NOT NULL DEFAULT '')").await;
    bench.fill(&(1..).zip(values.iter().cloned().map(Some)).collect::<Vec<_>>()).await;
    bench.grant("rows", "token").await;
    let mut column = bench.tokens_column();
    column["format"] = json!(if format == KeyFormat::Raw { "aes-gcm" } else { "tink" });
    bench.register(json!([column]), &[]);
    (bench, column)
}

fn sealed(number: u64) -> Vec<u8> {
    STANDARD.decode(stored(RowFormat::AesGcm, OLD, format!("text {number}").as_bytes(), b"", number)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_in_the_wrong_alphabet_stop_the_work() {
    let values: Vec<String> = (1..=2000).map(|number| URL_SAFE.encode(sealed(number))).collect();
    let (bench, mut column) = texts(KeyFormat::Raw, &values).await;
    let before = bench.tokens().await;
    let (kind, message) = bench.refusal(json!({ "action": "plan" })).await;
    assert_eq!(kind, "ColumnNotUnderstood");
    let of_other = values.iter().filter(|value| value.contains(['-', '_'])).count();
    assert!(message.contains(&format!("{of_other} of 2000 values are not aes-gcm")), "{message}");
    assert!(message.split("begin with ").nth(1).unwrap().split(", ").count() == 20, "{message}");
    assert!(!values.iter().any(|value| message.contains(value.as_str())), "{message}");
    assert_eq!(bench.tokens().await, before, "nothing is written");

    column["encoding"] = json!("base64url");
    bench.register(json!([column]), &[]);
    assert_eq!(bench.slice().await["rewrapped"], 2000);
    for (_, value) in bench.tokens().await {
        assert!(URL_SAFE.decode(value.unwrap()).is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_slice_writes_what_no_plan_has_read() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 10)).await;
    let refused = async |range: Value, problem: &str| {
        let (kind, message) = bench.refusal(json!({ "action": "slice", "range": range })).await;
        assert_eq!(kind, "ColumnNotUnderstood", "{message}");
        assert!(message.contains(problem), "{message}");
        assert_all_under(&bench, OLD, 10).await;
    };
    refused(bench.all(), "does not come from a plan").await;
    let mut otherwise = bench.planned().await;
    otherwise["understood"]["format"] = json!("aes-gcm");
    refused(otherwise, "is not the one that the plan read it by").await;
    // What came after the plan.
    let planned = bench.planned().await;
    bench.run("UPDATE {schema}.rows SET token = 'something else' WHERE id = 7").await;
    let (kind, message) = bench.refusal(json!({ "action": "slice", "range": planned })).await;
    assert_eq!(kind, "ColumnNotUnderstood");
    assert!(message.contains("row 7 is not fernet tokens any more") && !message.contains("something"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_left_alone_stop_the_retirement_and_not_the_work() {
    let mut rows = tokens(OLD, 10);
    rows[6].1 = Some("not a token".to_owned());
    let bench = Bench::with_tokens(&[NEW, OLD], &rows).await;
    assert_eq!(bench.refusal(json!({ "action": "plan" })).await.0, "ColumnNotUnderstood");
    let mut column = bench.tokens_column();
    column["leave"] = json!(["7", "9"]);
    bench.register(json!([column]), &[]);
    let answer = bench.slice().await;
    assert_eq!((&answer["rewrapped"], &answer["left"]), (&json!(8), &json!(2)));
    let now = bench.tokens().await;
    assert_eq!((&now[6], &now[8]), (&rows[6], &rows[8]), "as they were");
    let census = bench.census().await;
    assert_eq!((&census["damaged"], &census["onOldKeys"]), (&json!(1), &json!(1)));
    assert_eq!(census["columns"][0]["foreign"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_text_counts_like_null() {
    let bench = Bench::with_tokens(&[NEW, OLD], &[]).await;
    bench.run("ALTER TABLE {schema}.rows ALTER token SET DEFAULT '', ALTER token SET NOT NULL").await;
    bench.fill(&tokens(OLD, 3)).await;
    bench.run("INSERT INTO {schema}.rows (id) VALUES (4), (5)").await;
    let answer = bench.slice().await;
    assert_eq!((&answer["rewrapped"], &answer["nulls"], &answer["damaged"]), (&json!(3), &json!(2), &json!(0)));
    let census = bench.census().await;
    assert_eq!((&census["damaged"], &census["columns"][0]["nulls"]), (&json!(0), &json!(2)));
    assert_eq!(bench.tokens().await[4].1.as_deref(), Some(""));
}

/// The primary key's ciphertexts have a prefix, and those that are stored have none.
#[tokio::test(flavor = "multi_thread")]
async fn padding_comes_from_the_other_rows_or_is_refused() {
    let mixed = ring(KeyFormat::Tink, &[NEW, OLD]);
    let old = format!("\"keyId\":{},\"outputPrefixType\":\"TINK\"", crate::keys::key(OLD).id().number());
    let mixed = mixed.replace(&old, &old.replace("TINK", "RAW"));
    assert!(mixed.contains("RAW"));
    let sealed = |length: usize| {
        let text = "x".repeat(length);
        STANDARD.encode(STANDARD.decode(stored(RowFormat::AesGcm, OLD, text.as_bytes(), b"", 1)).unwrap())
    };
    for (lengths, padding, refused) in
        [(vec![2, 3, 4], None, false), (vec![2, 5, 8], None, true), (vec![2, 5, 8], Some(true), false)]
    {
        let values: Vec<String> = lengths.iter().map(|length| sealed(*length)).collect();
        let (bench, mut column) = texts(KeyFormat::Tink, &values).await;
        let secret = bench.secrets.put_secret_value().secret_id(crate::bench::KEY_SECRET);
        secret.secret_string(&mixed).send().await.unwrap();
        column["padding"] = json!(padding);
        bench.register(json!([column]), &[]);
        let request = json!({ "action": "slice", "range": bench.planned().await });
        if refused {
            let (kind, message) = bench.refusal(request).await;
            assert_eq!(kind, "ColumnNotUnderstood");
            assert!(message.contains("set the column's padding to true or false"), "{message}");
            continue;
        }
        assert_eq!(bench.ask(request).await["rewrapped"], 3);
        for (_, value) in bench.tokens().await {
            assert!(STANDARD.decode(value.as_ref().unwrap()).is_ok(), "{value:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_runs_out_of_time_goes_on_and_has_all_ranges() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 3000)).await;
    bench.register_as("slow", json!([bench.tokens_column()]), &[("REENCRYPT_BATCH_ROWS", "1")]);
    bench.sandbox.host().set_timeout("slow", std::time::Duration::from_millis(1400)).unwrap();
    let (mut request, mut invocations) = (json!({ "action": "plan", "slices": 4 }), 0);
    let last = loop {
        let answer = bench.invoke_as("slow", &request).await.unwrap();
        invocations += 1;
        if answer["next"].is_null() {
            break answer;
        }
        assert_eq!(answer["ranges"], json!([]), "no range before all is read");
        request = answer["next"].clone();
    };
    println!("{invocations} invocations");
    assert!(invocations > 1);
    assert_eq!((&last["rows"], &last["onOldKeys"]), (&json!(3000), &json!(3000)));
    let ranges = last["ranges"].as_array().unwrap();
    assert_eq!(ranges.len(), 4);
    for range in ranges {
        let rows = bench.slice_of(range).await["rewrapped"].as_u64().unwrap();
        assert!((600..=900).contains(&rows), "{rows}");
    }
    assert_all_under(&bench, NEW, 3000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_a_ring_that_was_replaced_says_of_which_it_is() {
    let bench = Bench::with_tokens(&[NEW, OLD], &[(1, Some(token(OLD, "text 1", 1)))]).await;
    let request = json!({
        "action": "plan", "slices": 1, "from": bench.all(), "began": "2026-11-25T00:00:00Z", "version": "another",
        "counted": [{ "schema": bench.schema, "table": "rows", "column": "token", "rows": 0, "nulls": 0, "keys": {},
            "unknown": 0, "damaged": 0, "unreadable": [] }],
        "marks": [{ "rows": 0, "every": 1, "keys": [] }],
    });
    let answer = bench.ask(request).await;
    assert_eq!((&answer["ranges"], &answer["next"]), (&json!([]), &Value::Null));
    assert_eq!((&answer["superseded"], &answer["version"]), (&json!(true), &bench.census().await["version"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_nobody_listed_are_named() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 10)).await;
    bench.run("CREATE TABLE {schema}.audit (id bigint, was text, hash text, note varchar(40), raw bytea)").await;
    bench.run("INSERT INTO {schema}.audit SELECT id, token, encode(sha256(token::bytea), 'base64'), 'a note that is long enough', sha256(token::bytea) FROM {schema}.rows").await;
    bench
        .run("CREATE TABLE {schema}.hidden AS SELECT * FROM {schema}.audit; GRANT SELECT ON {schema}.audit TO {schema}")
        .await;
    let copy = format!("{}.audit.was", bench.schema);
    for request in ["plan", "census"] {
        let answer = bench.ask(json!({ "action": request })).await;
        assert_eq!(answer["unlisted"], json!([copy]), "{request}");
    }
    let excused = json!({ "schema": bench.schema, "table": "audit", "column": "was", "excused": "never decrypted" });
    bench.register(json!([bench.tokens_column(), excused]), &[]);
    let census = bench.census().await;
    assert_eq!((&census["unlisted"], &census["notLookedAt"]), (&json!([]), &json!(0)));
    assert_eq!(census["columns"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_cannot_be_looked_at_is_named_in_the_log() {
    let bench = Bench::with_tokens(&[NEW, OLD], &tokens(OLD, 10)).await;
    bench.run("CREATE TABLE {schema}.audit (was text); GRANT SELECT ON {schema}.audit TO {schema}").await;
    assert_eq!(bench.census().await["notLookedAt"], 0);
    let mut other = crate::bench::server().connect().await.unwrap();
    let lock = other.transaction().await.unwrap();
    lock.batch_execute(&format!("LOCK TABLE {}.audit IN ACCESS EXCLUSIVE MODE", bench.schema)).await.unwrap();
    let census = bench.census().await;
    assert_eq!((&census["unlisted"], &census["notLookedAt"]), (&json!([]), &json!(1)));
    let log = bench.log();
    let line = log.lines().find(|line| line.contains("columns were not looked at")).unwrap();
    assert!(line.contains("WARN") && line.contains(&format!("{}.audit.was", bench.schema)), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_every_format_of_a_ring_are_named() {
    let (bench, _) = texts(KeyFormat::Raw, &[STANDARD.encode(sealed(1))]).await;
    bench.run("CREATE TABLE {schema}.copies (raw bytea, standard text, url text, hex text, other text)").await;
    let nonce_tag_text = format!("{}:{}:{}", "ab".repeat(12), "cd".repeat(16), "ef".repeat(5));
    let insert = format!("INSERT INTO {}.copies VALUES ($1, $2, $3, $4, $5)", bench.schema);
    let (standard, url) = (STANDARD.encode(sealed(2)), URL_SAFE.encode(sealed(3)));
    bench.sql.execute(&insert, &[&sealed(4), &standard, &url, &nonce_tag_text, &"x".repeat(64)]).await.unwrap();
    bench.run("GRANT SELECT ON {schema}.copies TO {schema}").await;
    let named = ["hex", "raw", "standard", "url"].map(|column| format!("{}.copies.{column}", bench.schema));
    assert_eq!(bench.census().await["unlisted"], json!(named));
}
