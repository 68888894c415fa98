//! Records: what is written and read under a keyring, what is reported of it, and how a cached keyring follows the secret.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its seed")]

#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use application::{
    CacheSettings, Clock, Database, Instance, InstanceSettings, KeyFormat, KeyMode, KeySettings, LoadBalancer,
    PROVIDER_HEADER, Record, RecordLoad, RecordLoadSettings, RecordReport, SecretReference,
};
use axum::http::{Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::keys::{id, ring};
use support::*;

mod load;

const TOKEN: &str = "current-token-Cc4Gq8";
const FORMATS: [KeyFormat; 3] = [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink];

fn keys(format: KeyFormat, database: &Database) -> KeySettings {
    let secret = SecretReference { id: KEYRING.to_owned(), field: Some("KEYS".to_owned()) };
    let mut keys = KeySettings::new(secret, format, database.clone());
    keys.cache = CacheSettings { reload_interval: Duration::from_millis(100), ..CacheSettings::default() };
    keys
}

/// Every key, but no reload for a record that none of them opens.
fn without_reload(database: &Database) -> KeySettings {
    KeySettings { reload_on_unknown_key: false, ..keys(KeyFormat::Raw, database) }
}

fn with_keys(id: &'static str, keys: KeySettings) -> InstanceSettings {
    InstanceSettings { keys: Some(keys), ..text_secret(id) }
}

/// An admin token, and a keyring in the format raw.
async fn fake(ring: &str) -> FakeSecretsManager {
    let fake = FakeSecretsManager::with_current(TOKEN).await;
    fake.keyring().put("k1", ring, &["AWSCURRENT"]);
    fake
}

fn raw(primary: u8, staged: Option<u8>, secondary: &[u8]) -> String {
    ring(KeyFormat::Raw, primary, staged, secondary)
}

async fn written(address: SocketAddr, plaintext: &[u8]) -> String {
    let answer = write_record(address, plaintext).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// Puts a record into the database past the application.
async fn stored(database: &Database, ciphertext: &str) -> String {
    let record = Record { provider: "github".to_owned(), ciphertext: ciphertext.to_owned() };
    database.insert(record).await.unwrap()
}

async fn health(instance: &Instance) -> Value {
    get(instance, "/admin/secrets/health", TOKEN).await.json()
}

#[tokio::test]
async fn what_one_instance_writes_another_reads_in_every_format() {
    for format in FORMATS {
        let fake = fake(&ring(format, 1, None, &[2])).await;
        let database = Database::default();
        let a = fake.instance(with_keys("a", keys(format, &database))).await;
        let b = fake.instance(with_keys("b", keys(format, &database))).await;
        for plaintext in [&b""[..], b"refresh-token-of-a-user", &[0, 255, 128], &[7; 64 * 1024]] {
            let id = written(a.address(), plaintext).await;
            let answer = read_record(b.address(), &id).await;
            assert_eq!(answer.status, 200, "{format}");
            assert_eq!(answer.bytes, plaintext);
            assert_eq!(answer.headers["x-instance-id"], "b");
            let stored = database.get(&id).await.unwrap().unwrap().ciphertext;
            let decoded = STANDARD.decode(&stored).unwrap_or_else(|_| stored.clone().into());
            assert!(plaintext.len() < 4 || !decoded.windows(plaintext.len()).any(|window| window == plaintext));
        }
        assert_eq!(database.ids().await.unwrap().len(), 4);
        let all = RecordLoad::read_all(b.address(), &database).await.unwrap();
        assert_eq!(all, RecordReport { read: 4, ..RecordReport::default() });
    }
}

#[tokio::test]
async fn records_are_answered_with_what_is_wrong_and_who_answers() {
    let fake = fake(&raw(1, None, &[])).await;
    let database = Database::default();
    let instance = fake.instance(with_keys("a", keys(KeyFormat::Raw, &database))).await;
    let address = instance.address();
    let unreadable = stored(&database, "no ciphertext").await;
    for (method, path, body, status, error) in [
        (Method::GET, "/records/none", vec![], 404, "not_found"),
        (Method::GET, &format!("/records/{unreadable}"), vec![], 500, "unreadable"),
        (Method::POST, "/records", vec![7; 64 * 1024 + 1], 413, "too_large"),
        (Method::GET, "/records", vec![], 405, "method_not_allowed"),
        (Method::DELETE, "/records/none", vec![], 405, "method_not_allowed"),
        (Method::GET, "/records/none/more", vec![], 404, "not_found"),
    ] {
        let answer = send_body(address, method.clone(), path, None, &body).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.json(), json!({ "error": error }), "{method} {path}");
        assert_eq!(answer.headers["x-instance-id"], "a", "{method} {path}");
    }
    assert_eq!(database.ids().await.unwrap(), [unreadable]);
}

#[tokio::test]
async fn what_is_in_a_record_is_replaced_and_its_provider_stays() {
    let fake = fake(&raw(1, None, &[])).await;
    let database = Database::default();
    let a = fake.instance(with_keys("a", keys(KeyFormat::Raw, &database))).await;
    let b = fake.instance(with_keys("b", keys(KeyFormat::Raw, &database))).await;
    let id = stored(&database, "under no key").await;
    let path = format!("/records/{id}");
    let answer = send_body(a.address(), Method::PUT, &path, None, b"the next token").await;
    assert_eq!((answer.status, answer.text.as_str()), (204, ""));
    let answer = read_record(b.address(), &id).await;
    assert_eq!(
        (answer.text.as_str(), &answer.headers[PROVIDER_HEADER]),
        ("the next token", &"github".parse().unwrap())
    );
    for (path, body, status, error) in
        [("/records/none", vec![], 404, "not_found"), (&path, vec![7; 64 * 1024 + 1], 413, "too_large")]
    {
        let answer = send_body(a.address(), Method::PUT, path, None, &body).await;
        assert_eq!((answer.status, answer.json()), (status, json!({ "error": error })));
    }
    assert_eq!(read_record(b.address(), &id).await.text, "the next token", "what was refused has replaced nothing");
}

#[tokio::test]
async fn instance_without_a_keyring_starts_and_takes_the_first_value() {
    let fake = FakeSecretsManager::with_current(TOKEN).await;
    let database = Database::default();
    let instance = fake.instance(with_keys("a", keys(KeyFormat::Raw, &database))).await;
    let record = stored(&database, "ciphertext").await;
    for answer in [write_record(instance.address(), b"x").await, read_record(instance.address(), &record).await] {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json(), json!({ "error": "no_keyring" }));
    }
    let empty = health(&instance).await;
    assert_eq!(empty["key_ids"], json!([]));
    assert_eq!(empty["primary_key_ids"], json!([]));
    assert_eq!(empty["keyring"]["loaded_at"], Value::Null);
    assert_eq!(empty["keyring"]["last_error"], "the secret does not exist or has no AWSCURRENT value");

    fake.keyring().put("k1", &raw(1, None, &[]), &["AWSCURRENT"]);
    assert_eq!(refresh(&instance, TOKEN).await.status, 200);
    assert_eq!(write_record(instance.address(), b"x").await.status, 201);
}

#[tokio::test]
async fn health_and_refresh_report_the_key_ids_and_no_key() {
    for format in FORMATS {
        let fake = fake(&ring(format, 1, None, &[2])).await;
        fake.keyring().put("k2", &ring(format, 1, Some(3), &[2]), &["AWSPENDING"]);
        let instance = fake.instance(with_keys("a", keys(format, &Database::default()))).await;
        for answer in [get(&instance, "/admin/secrets/health", TOKEN).await, refresh(&instance, TOKEN).await] {
            assert_eq!(answer.status, 200);
            let body = answer.json();
            assert_eq!(body["key_ids"], json!([id(1), id(2), id(3)]), "{format}");
            assert_eq!(body["primary_key_ids"], json!([id(1)]), "{format}");
            assert_eq!(body["keyring"]["format"], format.to_string());
            assert_eq!(body["keyring"]["mode"], "keyring");
            assert_eq!(body["keyring"]["last_error"], Value::Null);
            let loaded: jiff::Timestamp = body["keyring"]["loaded_at"].as_str().unwrap().parse().unwrap();
            assert!(jiff::Timestamp::now().duration_since(loaded).as_secs().abs() < 60);
            assert_eq!(body["versions"]["current"]["held"], true);
            for number in [1, 2, 3] {
                assert!(!answer.text.contains(&support::keys::raw(number)[..16]), "{}", answer.text);
            }
        }
        let unauthorised = send(instance.address(), Method::GET, "/admin/secrets/health", None).await;
        assert_eq!(unauthorised.text, r#"{"error":"unauthorized"}"#);
    }
}

#[tokio::test]
async fn reader_of_the_name_or_of_no_keys_reports_no_key_ids() {
    let fake = fake(&raw(1, None, &[2])).await;
    fake.keyring().put("k2", &raw(1, Some(3), &[2]), &["AWSPENDING"]);
    let mut name_only = keys(KeyFormat::Raw, &Database::default());
    name_only.mode = KeyMode::NameOnly;
    let name_only = fake.instance(with_keys("a", name_only)).await;
    assert_eq!(fake.keyring().take_calls(), ["AWSCURRENT"]);
    let without = fake.instance(text_secret("b")).await;
    assert!(fake.keyring().take_calls().is_empty());
    for instance in [&name_only, &without] {
        let body = health(instance).await;
        assert_eq!(body.get("key_ids"), None);
        assert_eq!(body.get("primary_key_ids"), None);
    }
    assert_eq!(health(&name_only).await["keyring"]["mode"], "name-only");
    assert_eq!(health(&without).await.get("keyring"), None);
    let record = written(name_only.address(), b"x").await;
    assert_eq!(read_record(name_only.address(), &record).await.text, "x");
    assert_eq!(write_record(without.address(), b"x").await.status, 404);
}

#[tokio::test]
async fn refresh_loads_both_secrets_or_answers_503_and_keeps_both() {
    let fake = fake(&raw(1, None, &[])).await;
    let instance = fake.instance(with_keys("a", without_reload(&Database::default()))).await;
    let record = written(instance.address(), b"x").await;
    fake.take_calls();
    fake.keyring().take_calls();
    assert_eq!(refresh(&instance, TOKEN).await.status, 200);
    assert_eq!(fake.take_calls(), ["AWSPENDING", "AWSCURRENT", "AWSPREVIOUS"]);
    assert_eq!(fake.keyring().take_calls(), ["AWSPENDING", "AWSCURRENT"]);

    // The keyring can't be read; the tokens can.
    let not_a_key = r#"{"KEYS":"c2hvcnQ="}"#;
    fake.keyring().put("k2", not_a_key, &["AWSCURRENT"]);
    fake.put("v2", "pending-token", &["AWSPENDING"]);
    let answer = refresh(&instance, TOKEN).await;
    assert_eq!(answer.status, 503);
    let reason =
        "the AWSCURRENT value can't be used: it holds a key that is not 32 bytes in the encoding of the format";
    assert_eq!(answer.json()["error"], "refresh_failed");
    assert_eq!(answer.json()["reason"], format!("keyring: {reason}"));
    assert_eq!(status(&instance, "pending-token").await, 200);
    let body = health(&instance).await;
    assert_eq!(body["last_error"], Value::Null);
    assert_eq!(body["keyring"]["last_error"], reason);
    assert_eq!(body["key_ids"], json!([id(1)]));
    assert_eq!(read_record(instance.address(), &record).await.text, "x");

    // The tokens can't be read; the keyring can.
    fake.keyring().put("k3", &raw(1, Some(2), &[]), &["AWSCURRENT"]);
    fake.put_binary("v3", &["AWSCURRENT"]);
    let answer = refresh(&instance, TOKEN).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reason"], "the AWSCURRENT value can't be used: it is binary, not text");
    assert_eq!(status(&instance, TOKEN).await, 200);
    assert_eq!(health(&instance).await["key_ids"], json!([id(1), id(2)]));

    // Neither can.
    fake.fail_with(Some((StatusCode::BAD_REQUEST, "AccessDeniedException")));
    assert_eq!(refresh(&instance, TOKEN).await.status, 503);
    assert_eq!(read_record(instance.address(), &record).await.text, "x");
}

#[tokio::test]
async fn a_frozen_instance_loads_neither_secret() {
    let fake = fake(&raw(1, None, &[])).await;
    let database = Database::default();
    let mut keys = keys(KeyFormat::Raw, &database);
    keys.cache = CacheSettings { max_age: Duration::ZERO, reload_interval: Duration::ZERO };
    let instance = fake.instance(with_keys("a", keys)).await;
    let other = fake.instance(with_keys("b", without_reload(&database))).await;
    instance.freeze_refresh(true);
    fake.keyring().put("k2", &raw(2, None, &[1]), &["AWSCURRENT"]);
    assert_eq!(refresh(&other, TOKEN).await.status, 200);
    let record = written(other.address(), b"x").await;
    fake.keyring().take_calls();
    let answer = refresh(&instance, TOKEN).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["key_ids"], json!([id(1)]));
    assert_eq!(read_record(instance.address(), &record).await.status, 500);
    assert_eq!(write_record(instance.address(), b"y").await.status, 201);
    assert!(fake.keyring().take_calls().is_empty());

    instance.freeze_refresh(false);
    assert_eq!(read_record(instance.address(), &record).await.text, "x");
}

#[tokio::test]
async fn unknown_key_makes_an_instance_reload_only_if_it_is_set_to() {
    let fake = fake(&raw(1, None, &[])).await;
    let database = Database::default();
    let reloads = fake.instance(with_keys("a", keys(KeyFormat::Raw, &database))).await;
    let keeps = fake.instance(with_keys("b", without_reload(&database))).await;
    let writer = fake.instance(with_keys("c", without_reload(&database))).await;
    fake.keyring().put("k2", &raw(2, None, &[1]), &["AWSCURRENT"]);
    assert_eq!(refresh(&writer, TOKEN).await.status, 200);
    let record = written(writer.address(), b"x").await;
    fake.keyring().take_calls();

    let refused = read_record(keeps.address(), &record).await;
    assert_eq!((refused.status, refused.text.as_str()), (500, r#"{"error":"unreadable"}"#));
    assert!(fake.keyring().take_calls().is_empty());
    assert_eq!(RecordLoad::read_all(keeps.address(), &database).await.unwrap().unreadable, 1);

    assert_eq!(read_record(reloads.address(), &record).await.text, "x");
    assert_eq!(fake.keyring().take_calls(), ["AWSPENDING", "AWSCURRENT"]);
}

#[tokio::test]
async fn unreadable_records_cost_one_shared_reload_per_interval() {
    let fake = fake(&raw(1, None, &[])).await;
    let database = Database::default();
    let mut keys = keys(KeyFormat::Raw, &database);
    keys.cache.reload_interval = Duration::from_millis(500);
    let instance = fake.instance(with_keys("a", keys)).await;
    let good = written(instance.address(), b"x").await;
    fake.keyring().take_calls();
    let started = std::time::Instant::now();
    let address = instance.address();
    let mut reads = tokio::task::JoinSet::new();
    for number in 0..20 {
        let id = stored(&database, &format!("unreadable {number}")).await;
        reads.spawn(async move { read_record(address, &id).await.status });
    }
    assert_eq!(read_record(address, &good).await.text, "x");
    assert!(reads.join_all().await.iter().all(|status| *status == 500));
    let reloads = fake.keyring().take_calls().iter().filter(|stage| *stage == "AWSCURRENT").count();
    let most = usize::try_from(started.elapsed().as_millis() / 500 + 1).unwrap();
    assert!((1..=most).contains(&reloads), "{reloads} reloads, at most {most} allowed");
}

#[tokio::test]
async fn a_keyring_is_cached_for_its_own_age_and_then_read_again() {
    let fake = fake(&raw(1, None, &[])).await;
    let now = Arc::new(AtomicU64::new(1_800_000_000));
    let clock: Clock = {
        let now = Arc::clone(&now);
        Arc::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(now.load(Ordering::SeqCst)))
    };
    let mut keys = without_reload(&Database::default());
    keys.cache = CacheSettings { max_age: Duration::from_mins(1), reload_interval: Duration::ZERO };
    let instance = fake.instance_at(with_keys("a", keys), clock).await;
    fake.keyring().put("k2", &raw(2, None, &[1]), &["AWSCURRENT"]);
    let primary = async || {
        written(instance.address(), b"x").await;
        health(&instance).await["primary_key_ids"].clone()
    };
    fake.take_calls();
    fake.keyring().take_calls();

    now.fetch_add(59, Ordering::SeqCst);
    assert_eq!(primary().await, json!([id(1)]));
    assert!(fake.keyring().take_calls().is_empty());
    now.fetch_add(1, Ordering::SeqCst);
    assert_eq!(primary().await, json!([id(2)]));
    assert_eq!(fake.keyring().take_calls(), ["AWSPENDING", "AWSCURRENT"]);
    // The tokens have an age of their own.
    assert!(fake.take_calls().is_empty());
}

#[tokio::test]
async fn settings_with_a_database_show_no_record_in_debug() {
    let database = Database::default();
    stored(&database, "ciphertext-of-a-record").await;
    let shown = format!("{:?}", with_keys("a", keys(KeyFormat::Raw, &database)));
    assert!(shown.contains(KEYRING));
    assert!(!shown.contains("ciphertext-of-a-record"), "{shown}");
}
