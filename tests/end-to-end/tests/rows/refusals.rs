//! Requests and configurations that are not as they have to be.

use rotation::keyring::KeyFormat;
use serde_json::{Value, json};

use crate::bench::{Bench, DATABASE_SECRET, KEY_SECRET};
use crate::keys::{ring, token};

/// Stands for what should not have been sent: wherever it is seen, a value would be seen.
const CANARY: &str = "c4naryVALUEc4nary";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_understood_is_refused_without_repeating_it() {
    let bench = Bench::with_tokens(&[2, 1], &[]).await;
    let with = |member: &str, value: Value| {
        let mut range = bench.all();
        range[member] = value;
        range
    };
    let counted = |member: &str, value: Value| {
        let mut counted = bench.all();
        let counts = json!({ "rows": 1, "nulls": 1, "keys": {}, "unknown": 0, "damaged": 0, "unreadable": [] });
        counted.as_object_mut().unwrap().extend(counts.as_object().unwrap().clone());
        counted[member] = value;
        counted
    };
    let resumed = |member: &str, value: Value| {
        let mut request = json!({
            "action": "census", "from": bench.all(), "counted": [counted("rows", json!(1))],
            "began": "2026-11-25T00:00:00Z", "version": "v"
        });
        request[member] = value;
        request
    };
    let requests = [
        (json!(null), "(the event)"),
        (json!([CANARY]), "(the event)"),
        (json!({}), "action"),
        (json!({ "action": CANARY }), "action"),
        (json!({ "action": "PLAN" }), "action"),
        (json!({ "action": "plan", CANARY: 1 }), "(the event)"),
        (json!({ "action": "plan", "slices": 0 }), "slices"),
        (json!({ "action": "plan", "slices": 501 }), "slices"),
        (json!({ "action": "plan", "slices": 1.5 }), "slices"),
        (json!({ "action": "plan", "slices": CANARY }), "slices"),
        (json!({ "action": "plan", "range": bench.all() }), "(the event)"),
        (json!({ "action": "slice" }), "range"),
        (json!({ "action": "slice", "range": CANARY }), "range"),
        (json!({ "action": "slice", "range": {} }), "range"),
        (json!({ "action": "slice", "range": with(CANARY, json!(1)) }), "range"),
        (json!({ "action": "slice", "range": with("after", json!(1)) }), "range"),
        (json!({ "action": "slice", "range": with("after", json!("1\u{0}")) }), "range"),
        (json!({ "action": "slice", "range": with("column", json!(CANARY)) }), "range"),
        (json!({ "action": "slice", "range": with("password", json!(CANARY)) }), "range"),
        (json!({ "action": "slice", "range": bench.all(), "from": bench.all() }), "(the event)"),
        (json!({ "action": "census", "range": bench.all(), "from": bench.all() }), "from"),
        (json!({ "action": "census", "host": CANARY }), "(the event)"),
        (json!({ "action": "census", "from": bench.all() }), "from"),
        (json!({ "action": "census", "counted": [] }), "from"),
        (resumed("from", Value::Null), "from"),
        (resumed("version", json!(1)), "from"),
        (resumed("range", bench.all()), "from"),
        (resumed("began", json!(CANARY)), "began"),
        (resumed("counted", json!(CANARY)), "counted"),
        (resumed("counted", json!([])), "counted"),
        (resumed("counted", json!([counted("table", json!(CANARY))])), "counted"),
        (resumed("counted", json!([counted("rows", json!(-1))])), "counted"),
        (resumed("counted", json!([counted("keys", json!({ CANARY: 1 }))])), "counted"),
        (resumed("counted", json!([counted("rows", json!(1)), counted("rows", json!(1))])), "counted"),
    ];
    for (request, member) in requests {
        let (kind, message) = bench.refusal(request.clone()).await;
        assert_eq!(kind, "InvalidRequest", "{request}");
        assert!(message.starts_with(&format!("event member {member}: ")), "{request}: {message}");
        assert!(!message.contains("c4nary"), "{message}");
    }
    assert!(!bench.log().contains("c4nary"));
}

/// Columns, variables, and a part of the message.
type Broken = (Value, &'static [(&'static str, &'static str)], &'static str);

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_work_is_the_answer_to_every_request() {
    let bench = Bench::with_tokens(&[2, 1], &[]).await;
    let with = |member: &str, value: Value| {
        let mut column = bench.tokens_column();
        column[member] = value;
        json!([column])
    };
    let good = json!([bench.tokens_column()]);
    let one = &good[0];
    let broken: Vec<Broken> = vec![
        (json!([]), &[], "REENCRYPT_COLUMNS"),
        (json!({}), &[], "REENCRYPT_COLUMNS"),
        (json!([one, one]), &[], "stands there twice"),
        (with("format", json!("aes-cbc")), &[], "REENCRYPT_COLUMNS"),
        (with("fromat", json!("fernet")), &[], "unknown field"),
        (with("table", json!("")), &[], "expected names"),
        (with("table", json!("x".repeat(64))), &[], "expected names"),
        (with("aad", json!(["id"])), &[], "Fernet tokens take no associated data"),
        (with("encoding", json!("base64")), &[], "always written in the same way"),
        (json!([one, { "table": "others", "column": "token", "format": "tink" }]), &[], "columns of one keyring"),
        (json!([{ "table": "t", "column": "c", "format": "tink", "aad": ["c"] }]), &[], "named in its own aad"),
        (with("excused", json!("why")), &[], "needs a format, or the reason why it is excused"),
        (json!([{ "table": "t", "column": "c" }]), &[], "needs a format, or the reason why it is excused"),
        (json!([{ "table": "t", "column": "c", "excused": "why" }]), &[], "a column that is not excused"),
        (with("padding", json!(true)), &[], "is not written in base64"),
        (good.clone(), &[("REENCRYPT_KEY_SECRET", "")], "REENCRYPT_KEY_SECRET"),
        (good.clone(), &[("REENCRYPT_BATCHROWS", "1")], "REENCRYPT_BATCHROWS"),
        (good.clone(), &[("REENCRYPT_BATCH_ROWS", "0")], "REENCRYPT_BATCH_ROWS"),
        (good.clone(), &[("REENCRYPT_ROWS_PER_SECOND", "0")], "REENCRYPT_ROWS_PER_SECOND"),
        (good.clone(), &[("REENCRYPT_LOCK_TIMEOUT", "1s")], "REENCRYPT_LOCK_TIMEOUT"),
        (good.clone(), &[("REENCRYPT_STATEMENT_TIMEOUT", "0s")], "REENCRYPT_STATEMENT_TIMEOUT"),
        (good.clone(), &[("DATABASE_HOST", "")], "DATABASE_HOST"),
        (good.clone(), &[("DATABASE_PASSWORD", CANARY)], "DATABASE_PASSWORD"),
        (good.clone(), &[("DATABASE_CA_FILE", "/nowhere.pem")], "DATABASE_CA_FILE"),
        (good.clone(), &[("DATABASE_CA_FILE", "/dev/null")], "DATABASE_CA_FILE"),
        (good.clone(), &[("ROTATION_KEY_FORMAT", "pem")], "ROTATION_KEY_FORMAT"),
    ];
    for (columns, variables, problem) in broken {
        bench.register_as("broken", columns.clone(), variables);
        let (kind, message) = bench.invoke_as("broken", &json!({ "action": "plan" })).await.expect_err(problem);
        assert!(["InvalidConfiguration", "InvalidPolicy"].contains(&kind.as_str()), "{kind}: {message}");
        assert!(message.contains(problem), "{problem}: {message}");
        assert!(!message.contains(CANARY), "{message}");
    }
    // A ring of another kind than the rows, and a secret that this stack may not use.
    bench.register(json!([{ "schema": bench.schema, "table": "rows", "column": "token", "format": "aes-gcm" }]), &[]);
    let (kind, message) = bench.refusal(json!({ "action": "plan" })).await;
    assert_eq!(kind, "InvalidConfiguration");
    assert!(message.contains(KEY_SECRET) && message.contains("rotation:key-format"), "{message}");
    bench.register(good, &[("SECRET_NAME_PREFIX", "other/")]);
    assert_eq!(bench.refusal(json!({ "action": "plan" })).await.0, "NameNotAllowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_wrong_or_may_not_is_named_by_the_databases_reason_and_never_by_the_password() {
    let bench = Bench::with_tokens(&[2, 1], &[(1, Some(token(1, "text 1", 1)))]).await;
    let store = async |value: Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        bench.secrets.put_secret_value().secret_id(DATABASE_SECRET).secret_string(text).send().await.unwrap();
    };
    let plan = || json!({ "action": "plan" });
    for broken in
        [json!(CANARY), json!({ "password": CANARY }), json!({ "username": CANARY, "password": 1 }), json!([CANARY])]
    {
        store(broken).await;
        let (kind, message) = bench.refusal(plan()).await;
        assert_eq!(kind, "DatabaseSecretInvalid");
        assert!(message.contains(DATABASE_SECRET) && !message.contains(CANARY), "{message}");
    }
    store(json!({ "username": bench.schema, "password": CANARY })).await;
    let (kind, message) = bench.refusal(plan()).await;
    assert_eq!(kind, "DatabaseRefused");
    assert!(message.contains("password authentication failed") && !message.contains(CANARY), "{message}");

    store(json!({ "username": bench.schema, "password": end_to_end::postgres::PASSWORD })).await;
    let range = bench.planned().await;
    bench.run("REVOKE UPDATE (token) ON {schema}.rows FROM {schema}").await;
    let (kind, message) = bench.refusal(json!({ "action": "slice", "range": range })).await;
    assert_eq!(kind, "DatabaseRefused");
    assert!(message.contains("permission denied for table rows"), "{message}");
    assert_eq!(bench.census().await["columns"][0]["rows"], 1, "to count, it needs to read only");

    bench.register(json!([bench.tokens_column()]), &[("DATABASE_PORT", "1")]);
    let (kind, message) = bench.refusal(plan()).await;
    assert_eq!(kind, "DatabaseUnavailable");
    assert!(message.contains("127.0.0.1:1") && message.contains("refused"), "{message}");
    bench.register(json!([bench.tokens_column()]), &[("DATABASE_NAME", "nothing")]);
    assert_eq!(bench.refusal(plan()).await.0, "DatabaseRefused");
    bench.secrets.delete_secret().secret_id(DATABASE_SECRET).force_delete_without_recovery(true).send().await.unwrap();
    assert_eq!(bench.refusal(plan()).await.0, "CredentialUnavailable");
    assert!(!bench.log().contains("c4nary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_table_itself_refuses_is_an_error_that_does_not_repeat_it() {
    let bench = Bench::with_tokens(&[2, 1], &[(1, Some(token(1, "text 1", 1)))]).await;
    let range = bench.planned().await;
    let check = format!("ALTER TABLE {{schema}}.rows ADD CHECK (token = '{}')", token(1, "text 1", 1));
    bench.run(&check).await;
    let (kind, message) = bench.refusal(json!({ "action": "slice", "range": range })).await;
    assert_eq!(kind, "DatabaseRefused");
    assert!(message.contains("SQLSTATE 23514") && !message.contains("gAAAA"), "{message}");
    assert!(!bench.log().contains("gAAAA"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_without_a_usable_ring_is_refused_as_a_rotation_refuses_it() {
    let bench = Bench::new(KeyFormat::Fernet, &[2, 1]).await;
    bench.register(json!([bench.tokens_column()]), &[]);
    let twice = format!("{0},{0}", ring(KeyFormat::Fernet, &[1]));
    for (value, kind) in [("not a key", "KeyringInvalid"), (twice.as_str(), "KeyringInvalid")] {
        bench.secrets.put_secret_value().secret_id(KEY_SECRET).secret_string(value).send().await.unwrap();
        assert_eq!(bench.refusal(json!({ "action": "plan" })).await.0, kind);
    }
}
