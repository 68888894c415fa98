//! Requests and configurations that are not as they have to be.

use rotation::keyring::KeyFormat;
use serde_json::{Value, json};

use crate::bench::{Bench, DATABASE_SECRET, KEY_SECRET};
use crate::keys::{ring, token};

/// Stands for what should not have been sent: wherever it is seen, a value would be seen.
const CANARY: &str = "c4naryVALUEc4nary";

#[tokio::test(flavor = "multi_thread")]
async fn unknown_request_is_refused_without_repeating_it() {
    let bench = Bench::with_tokens(&[2, 1], &[]).await;
    let mut unknown = bench.all();
    unknown["column"] = json!(CANARY);
    for request in [
        json!({ "action": CANARY }),
        json!({ "action": "slice", "range": unknown }),
        json!({ "action": "census", "from": bench.all(), "counted": CANARY, "began": "2026-11-25T00:00:00Z", "version": "v" }),
    ] {
        let (kind, message) = bench.refusal(request.clone()).await;
        assert_eq!(kind, "InvalidRequest", "{request}");
        assert!(message.starts_with("event member ") && !message.contains("c4nary"), "{message}");
    }
    assert!(!bench.log().contains("c4nary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_configuration_is_the_answer_to_every_request() {
    let bench = Bench::with_tokens(&[2, 1], &[]).await;
    let good = json!([bench.tokens_column()]);
    bench.register_as("broken", good.clone(), &[("DATABASE_PASSWORD", CANARY)]);
    for request in [json!({ "action": "plan" }), json!({ "action": "census" })] {
        let (kind, message) = bench.invoke_as("broken", &request).await.unwrap_err();
        assert_eq!(kind, "InvalidConfiguration");
        assert!(message.contains("DATABASE_PASSWORD") && !message.contains(CANARY), "{message}");
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
async fn wrong_user_is_named_by_the_databases_reason_not_the_password() {
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
async fn row_refused_by_its_table_is_an_error_that_does_not_repeat_it() {
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
async fn secret_without_a_usable_ring_is_refused_as_by_a_rotation() {
    let bench = Bench::new(KeyFormat::Fernet, &[2, 1]).await;
    bench.register(json!([bench.tokens_column()]), &[]);
    let twice = format!("{0},{0}", ring(KeyFormat::Fernet, &[1]));
    for (value, kind) in [("not a key", "KeyringInvalid"), (twice.as_str(), "KeyringInvalid")] {
        bench.secrets.put_secret_value().secret_id(KEY_SECRET).secret_string(value).send().await.unwrap();
        assert_eq!(bench.refusal(json!({ "action": "plan" })).await.0, kind);
    }
}
