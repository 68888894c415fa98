//! Records: what is written and read under a keyring, what is reported of it, and how a cached keyring follows the secret.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints its seed")]

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

/// A load through a balancer, and its seed in the output.
fn load(address: SocketAddr, seed: u64) -> RecordLoad {
    println!("seed {seed}");
    let workers = NonZeroU32::new(4).unwrap();
    RecordLoad::start(RecordLoadSettings { address, workers, rate: NonZeroU32::new(200).unwrap(), first: 0, seed })
}

/// Waits until the load has written so many more records.
async fn more(load: &RecordLoad, records: u64) {
    let target = load.report().written + records;
    tokio::time::timeout(Duration::from_secs(20), async {
        while load.report().written < target {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn no_record_is_unreadable_while_a_staged_key_becomes_primary() {
    for format in FORMATS {
        let fake = fake(&ring(format, 1, None, &[])).await;
        let database = Database::default();
        let settings = || KeySettings { reload_on_unknown_key: false, ..keys(format, &database) };
        let (a, b) = (fake.instance(with_keys("a", settings())).await, fake.instance(with_keys("b", settings())).await);
        let balancer = LoadBalancer::start(vec![a.address(), b.address()]).await.unwrap();
        let load = load(balancer.address(), rand::random());
        more(&load, 10).await;
        for (version, primary, staged, secondary) in
            [("k2", 1, Some(2), &[][..]), ("k3", 2, None, &[1]), ("k4", 2, Some(3), &[1]), ("k5", 3, None, &[2, 1])]
        {
            let value = ring(format, primary, staged, secondary);
            fake.keyring().put(version, &value, &["AWSPENDING"]);
            for instance in [&a, &b] {
                assert_eq!(refresh(instance, TOKEN).await.status, 200);
                more(&load, 5).await;
            }
            fake.keyring().move_stage("AWSCURRENT", Some(version));
            for instance in [&a, &b] {
                assert_eq!(refresh(instance, TOKEN).await.status, 200);
                more(&load, 5).await;
            }
        }
        let report = load.finish(&[a.address()]).await;
        assert!(report.written >= 90, "{format} {report:?}");
        let wrong = (report.unreadable, report.lost, report.failed);
        assert_eq!((wrong, report.first_failure.as_ref()), ((0, 0, 0), None), "{format}");
        // Each round reads two records and replaces what is in the second, except the first one of each worker. At last every
        // record was read once more.
        assert_eq!(report.refreshed, report.written - 4, "{format}");
        assert_eq!(report.read, 3 * report.written - 4, "{format}");
        for instance in [&a, &b] {
            let all = RecordLoad::read_all(instance.address(), &database).await.unwrap();
            assert_eq!(all, RecordReport { read: report.written, ..RecordReport::default() }, "{format}");
        }
    }
}

#[tokio::test]
async fn load_sees_records_unreadable_when_the_only_key_is_replaced() {
    let fake = fake(&raw(1, None, &[])).await;
    let database = Database::default();
    let settings = || KeySettings { mode: KeyMode::NameOnly, ..without_reload(&database) };
    let (a, b) = (fake.instance(with_keys("a", settings())).await, fake.instance(with_keys("b", settings())).await);
    let balancer = LoadBalancer::start(vec![a.address(), b.address()]).await.unwrap();
    let load = load(balancer.address(), rand::random());
    more(&load, 10).await;
    assert_eq!(load.report().unreadable, 0);
    fake.keyring().put("k2", &raw(2, None, &[1]), &["AWSCURRENT"]);
    assert_eq!(refresh(&a, TOKEN).await.status, 200);
    more(&load, 20).await;
    let report = load.stop().await;
    assert!(report.unreadable > 0, "{report:?}");
    assert_eq!(report.failed, 0, "{report:?}");
    assert!(report.first_failure.as_ref().unwrap().ends_with(": unreadable"), "{report:?}");
    let (all_a, all_b) =
        (RecordLoad::read_all(a.address(), &database).await, RecordLoad::read_all(b.address(), &database).await);
    let (all_a, all_b) = (all_a.unwrap(), all_b.unwrap());
    assert!(all_a.unreadable > 0 && all_b.unreadable > 0, "{all_a:?} {all_b:?}");
    // Each record was written under one of the two keys.
    assert_eq!(all_a.unreadable + all_b.unreadable, report.written);
}

#[tokio::test]
async fn load_counts_other_plaintext_as_unreadable_and_loss_as_failed() {
    use axum::Router;
    use axum::routing::{get, post};

    // An application that mixes its records up, and one that loses them.
    for (answer, unreadable) in [(StatusCode::OK, true), (StatusCode::NOT_FOUND, false)] {
        let application = Router::new()
            .route("/records", post(|| async { (StatusCode::CREATED, r#"{"id":"1"}"#) }))
            .route("/records/1", get(move || async move { (answer, "another record altogether") }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, application).await.unwrap() });
        let load = load(address, 7);
        more(&load, 40).await;
        let report = load.stop().await;
        assert_eq!(report.read, 0, "{report:?}");
        let (counted, other) =
            if unreadable { (report.unreadable, report.failed) } else { (report.failed, report.unreadable) };
        assert_eq!((counted, other), (2 * report.written - 4, 0), "{report:?}");
        assert!(report.first_failure.is_some());
        server.abort();
    }
}

#[tokio::test]
async fn load_counts_a_lost_update_while_it_works_and_at_its_end() {
    use axum::Router;
    use axum::body::Bytes;
    use axum::extract::Path;
    use axum::routing::{get, post};
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    // An application that says it has replaced what is in a record, and has not.
    let records: Arc<Mutex<BTreeMap<usize, Bytes>>> = Arc::default();
    let stored = Arc::clone(&records);
    let write = post(move |body: Bytes| async move {
        let mut stored = stored.lock().unwrap();
        let id = stored.len();
        stored.insert(id, body);
        (StatusCode::CREATED, json!({ "id": id.to_string() }).to_string())
    });
    let read = get(move |Path(id): Path<usize>| async move { records.lock().unwrap()[&id].clone() });
    let application =
        Router::new().route("/records", write).route("/records/{id}", read.put(|| async { StatusCode::NO_CONTENT }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, application).await.unwrap() });
    let load = load(address, 7);
    more(&load, 40).await;
    let before = load.report();
    let report = load.finish(&[address]).await;
    assert!(before.lost > 0 && report.refreshed > 0, "{before:?}");
    assert!(report.lost > before.lost, "{report:?}");
    assert_eq!((report.unreadable, report.failed), (0, 0), "{report:?}");
    assert!(report.first_failure.unwrap().ends_with("a plaintext that was replaced"));
    server.abort();
}

#[tokio::test]
async fn a_load_that_finds_nobody_counts_failures_and_says_the_first() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let load = load(closed, 7);
    tokio::time::timeout(Duration::from_secs(20), async {
        while load.report().failed == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let report = load.stop().await;
    assert_eq!((report.written, report.read, report.unreadable), (0, 0, 0));
    assert!(report.first_failure.is_some());
    let database = Database::default();
    stored(&database, "x").await;
    assert_eq!(RecordLoad::read_all(closed, &database).await.unwrap().failed, 1);
}

#[tokio::test]
async fn settings_with_a_database_show_no_record_in_debug() {
    let database = Database::default();
    stored(&database, "ciphertext-of-a-record").await;
    let shown = format!("{:?}", with_keys("a", keys(KeyFormat::Raw, &database)));
    assert!(shown.contains(KEYRING));
    assert!(!shown.contains("ciphertext-of-a-record"), "{shown}");
}
