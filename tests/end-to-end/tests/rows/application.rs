//! The sample application keeps writing, reading and replacing tokens in PostgreSQL while their key is rotated and the rows follow:
//! every row can be read by every instance at every moment, no token is lost, and at last the old key is retired.

use std::cell::Cell;
use std::time::Duration;

use application::{KeyFormat, RecordLoad, RecordReport};
use end_to_end::connections::{Connections, ask, census, rewrap, rows_by_key, rows_unreadable};
use end_to_end::{ADMIN_TOKEN, KEY_FIELD, Plan, Scene, request};
use http::Method;
use rotation::document::FieldName;
use rotation::keyring::Keyring;
use rotation::secret::SecretText;
use sandbox::RotationOutcome;
use serde_json::{Value, json};

use crate::bench::server;
use crate::keys;

const MINUTE: Duration = Duration::from_secs(60);
const ARCHIVE: &str = "shop/production/key-archive";
/// At least a day and a quarter of an hour.
const APART: Duration = Duration::from_secs(25 * 60 * 60);

/// A ring of one key in a JSON secret, two instances whose records are in PostgreSQL, and the function.
async fn scene(format: KeyFormat, change: impl FnOnce(&mut Plan)) -> Scene {
    let connections = Connections::create(server()).await.unwrap();
    let value = json!({ KEY_FIELD: keys::ring(wire(format), &[1]), "port": 8080 }).to_string();
    let mut plan = Plan { database: Some(connections.application()), ..Plan::key_json(&value, format) };
    plan.environment.push(("KEY_ARCHIVE_SECRET", ARCHIVE.to_owned()));
    change(&mut plan);
    // The instances are busy with rows.
    plan.environment.push(("TARGET_TIMEOUT", "8s".to_owned()));
    let scene = Scene::start(plan).await.unwrap().with_operator(&[("TARGET_TIMEOUT", "8s")]).await.unwrap();
    scene.client.create_secret().name(ARCHIVE).send().await.unwrap();
    let executable = end_to_end::program(end_to_end::connections::REENCRYPT).await.unwrap();
    connections.register(&scene, executable, format, &[("REENCRYPT_BATCH_ROWS", "20")]).await.unwrap();
    scene
}

fn wire(format: KeyFormat) -> rotation::keyring::KeyFormat {
    match format {
        KeyFormat::Raw => rotation::keyring::KeyFormat::Raw,
        KeyFormat::Fernet => rotation::keyring::KeyFormat::Fernet,
        KeyFormat::Tink => rotation::keyring::KeyFormat::Tink,
    }
}

async fn ring(scene: &Scene, format: KeyFormat) -> Keyring {
    let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
    let wire = wire(format).wire();
    wire.parse(&wire.document(SecretText::new(value), FieldName::new(KEY_FIELD).as_ref()).unwrap()).unwrap()
}

async fn rotate(scene: &Scene) {
    let outcome = scene.rotate().await.unwrap();
    assert!(matches!(outcome, RotationOutcome::Succeeded { .. }), "{outcome:?}");
}

/// Waits until the load has written so many records more.
async fn more(load: &RecordLoad, records: u64) {
    let target = load.report().written + records;
    let written = async {
        while load.report().written < target {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(MINUTE, written).await.unwrap();
}

fn assert_nothing_wrong(report: &RecordReport) {
    assert_eq!((report.unreadable, report.lost, report.failed), (0, 0, 0), "{report:?}");
    assert!(report.read > 0, "nothing was read");
}

/// Does `work`, while every instance reads every row again and again.
async fn while_everything_is_read<T>(scene: &Scene, work: impl Future<Output = T>) -> T {
    let done = Cell::new(false);
    let reading = async {
        while !done.get() {
            assert_nothing_wrong(&scene.read_everywhere().await.unwrap());
        }
    };
    let working = async {
        let result = work.await;
        done.set(true);
        result
    };
    tokio::join!(reading, working).1
}

async fn refresh(scene: &Scene, instance: usize) {
    let url = format!("http://{}/admin/refresh-secrets", scene.instances[instance].address());
    let (status, answer) = request(Method::POST, &url, ADMIN_TOKEN).await.unwrap();
    assert!(status.is_success(), "{}", String::from_utf8_lossy(&answer));
}

/// The time passes that two censuses have to be apart, and every instance loads its secrets again.
async fn a_day_later(scene: &Scene) {
    scene.sandbox.advance(APART).await.unwrap();
    for instance in 0..scene.instances.len() {
        refresh(scene, instance).await;
    }
}

async fn retire(scene: &Scene, censuses: &[Value; 2]) -> Result<Value, Value> {
    let request = json!({ "action": "retire", "secret_id": scene.secret(), "reason": "a test", "censuses": censuses });
    scene.operate(&request).await.unwrap()
}

/// The old key leaves the ring, which every instance has read, and they read what is stored and what is written from now on.
async fn assert_retired_and_readable(scene: &Scene, format: KeyFormat, censuses: &[Value; 2], load: &RecordLoad) {
    let before = ring(scene, format).await;
    let [old] = before.secondary() else { panic!("not one old key: {before:?}") };
    let answer = while_everything_is_read(scene, retire(scene, censuses)).await.unwrap();
    assert_eq!((&answer["retired"], &answer["kept"]), (&json!([old.id()]), &json!([])), "{answer}");
    for instance in 0..scene.instances.len() {
        refresh(scene, instance).await;
    }
    let left: Vec<_> = ring(scene, format).await.keys().map(|(_, key)| key.id()).collect();
    assert_eq!(left.len(), 2, "the primary and the staged key");
    for health in scene.health().await.unwrap() {
        let held = health["key_ids"].as_array().unwrap();
        assert!(held.len() == left.len() && left.iter().all(|id| held.contains(&json!(id))), "{health}");
    }
    more(load, 20).await;
    assert_nothing_wrong(&scene.read_everywhere().await.unwrap());
}

fn under(census: &Value, ring: &Keyring) -> (u64, u64) {
    assert_eq!(rows_unreadable(census), 0, "{census}");
    let rows = rows_by_key(census);
    let primary = rows[&ring.primary().id().to_string()];
    (primary, rows.values().sum::<u64>() - primary)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_follow_a_key_under_load_and_the_old_one_is_retired() {
    for format in [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink] {
        let scene = scene(format, |_| ()).await;
        let load = scene.records(60, 1);
        more(&load, 40).await;
        // Staged, then promoted: every instance is asked.
        while_everything_is_read(&scene, async {
            rotate(&scene).await;
            rotate(&scene).await;
        })
        .await;
        let ring = ring(&scene, format).await;
        let (_, before) = under(&census(&scene).await.unwrap(), &ring);
        let refreshed = load.report().refreshed;
        let work = async {
            let done = rewrap(&scene, 4).await.unwrap();
            more(&load, 20).await;
            done
        };
        let done = while_everything_is_read(&scene, work).await;
        assert!(load.report().refreshed > refreshed, "no token was replaced meanwhile");
        let first = census(&scene).await.unwrap();
        let (primary, left) = under(&first, &ring);
        println!("{format}: {before} rows under the old key, {primary} and {left} after {done:?}");
        assert!(before > 0 && done.rewrapped > 0 && done.invocations >= 4, "{before} {done:?}");
        assert_eq!(left, 0);
        a_day_later(&scene).await;
        let censuses = [first, census(&scene).await.unwrap()];
        assert_eq!(under(&censuses[1], &ring).1, 0);
        assert_retired_and_readable(&scene, format, &censuses, &load).await;
        let report = load.finish(&scene.addresses()).await;
        assert_nothing_wrong(&report);
        println!("{format}: {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_stays_while_an_old_ring_still_writes_under_it() {
    let format = KeyFormat::Raw;
    // Nobody is asked: each instance learns of a ring when its cache ends.
    let scene = scene(format, |plan| {
        plan.asked = false;
        plan.environment.push(("CONSUMERS_KEYRING_AWARE", "true".to_owned()));
    })
    .await;
    let load = scene.records(60, 2);
    more(&load, 20).await;
    rotate(&scene).await;
    for instance in 0..2 {
        refresh(&scene, instance).await;
    }
    scene.sandbox.advance(61 * MINUTE).await.unwrap();
    // The first request that they make tells the instances what time it is; from then on their hour counts.
    for instance in 0..2 {
        refresh(&scene, instance).await;
    }
    rotate(&scene).await;
    refresh(&scene, 0).await;
    let ring = ring(&scene, format).await;
    let done = while_everything_is_read(&scene, rewrap(&scene, 4)).await.unwrap();
    assert!(done.rewrapped > 0);
    more(&load, 20).await;
    let early = census(&scene).await.unwrap();
    let (_, stale) = under(&early, &ring);
    assert!(stale > 0, "the instance that has not read the ring again writes under the old key");
    assert_nothing_wrong(&scene.read_everywhere().await.unwrap());

    // The hour is over. From now on nobody encrypts with the old key, and the rows can follow to the last.
    scene.sandbox.advance(61 * MINUTE).await.unwrap();
    refresh(&scene, 0).await;
    refresh(&scene, 1).await;
    let done = while_everything_is_read(&scene, rewrap(&scene, 4)).await.unwrap();
    assert!(done.rewrapped >= stale, "{done:?}, {stale}");
    more(&load, 20).await;
    let first = census(&scene).await.unwrap();
    assert_eq!(under(&first, &ring).1, 0);
    let refused = retire(&scene, &[first.clone(), first.clone()]).await.unwrap_err();
    assert_eq!(refused["errorType"], "CensusesTooClose", "{refused}");
    a_day_later(&scene).await;
    let second = census(&scene).await.unwrap();
    let refused = retire(&scene, &[early, second.clone()]).await.unwrap_err();
    assert_eq!(refused["errorType"], "KeysStillNeeded", "{refused}");
    assert_retired_and_readable(&scene, format, &[first, second], &load).await;
    let report = load.finish(&scene.addresses()).await;
    assert_nothing_wrong(&report);
    println!("{stale} rows by the stale instance; {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn database_that_goes_away_is_told_and_its_session_replaced() {
    let connections = Connections::create(server()).await.unwrap();
    let value = json!({ KEY_FIELD: keys::ring(rotation::keyring::KeyFormat::Raw, &[1]) }).to_string();
    let plan = Plan { database: Some(connections.application()), ..Plan::key_json(&value, KeyFormat::Raw) };
    let scene = Scene::start(plan).await.unwrap();
    let load = scene.records(20, 3);
    more(&load, 5).await;
    assert_nothing_wrong(&load.stop().await);
    let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let ended = connections.sql.query(end, &[]).await.unwrap().len();
    assert_eq!(ended, 3, "a session for each instance, and one of the test");
    let url = format!("http://{}/records/{}", scene.instances[0].address(), "no-id");
    // What is no id is answered without the database.
    assert_eq!(request(Method::GET, &url, "").await.unwrap().0, 404);
    let load = scene.records(20, 4);
    more(&load, 5).await;
    assert_nothing_wrong(&load.stop().await);
    connections.sql.batch_execute("ALTER TABLE connections RENAME TO others").await.unwrap();
    let url = format!("http://{}/records", scene.instances[0].address());
    let (status, answer) = request(Method::POST, &url, "").await.unwrap();
    assert_eq!((status.as_u16(), String::from_utf8_lossy(&answer).as_ref()), (503, r#"{"error":"no_database"}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_reads_in_the_log_that_a_key_is_worn() {
    let scene = scene(KeyFormat::Raw, |_| ()).await;
    rotate(&scene).await;
    let doctor = async || {
        let request = json!({ "action": "doctor", "secret_id": scene.secret() });
        let answer = scene.operate(&request).await.unwrap().unwrap();
        let findings = answer["findings"].as_array().unwrap();
        (findings.iter().find(|finding| finding["check"] == "nonces").cloned(), answer["notChecked"].to_string())
    };
    let (finding, not_checked) = doctor().await;
    assert!(
        finding.is_none() && not_checked.contains("how many values the primary key has encrypted"),
        "{not_checked}"
    );
    let counted = census(&scene).await.unwrap();
    let (finding, not_checked) = doctor().await;
    assert_eq!(finding.unwrap()["ok"], true);
    assert!(!not_checked.contains("how many values"), "{not_checked}");
    // A census that goes on: so many rows were counted before.
    let id = ring(&scene, KeyFormat::Raw).await.primary().id().to_string();
    let mut column = counted["columns"][0].clone();
    (column["rows"], column["keys"][&id]) = (json!(1_u64 << 31), json!(1_u64 << 31));
    let from = json!({ "schema": column["schema"], "table": column["table"], "column": column["column"] });
    let (began, version) = (&counted["began"], &counted["version"]);
    let request = json!({ "action": "census", "from": from, "counted": [column], "began": began, "version": version });
    ask(&scene, &request).await.unwrap();
    let finding = doctor().await.0.unwrap();
    assert_eq!(finding["ok"], false);
    let (detail, repair) = (finding["detail"].as_str().unwrap(), finding["repair"].as_str().unwrap());
    assert!(detail.contains(&id) && detail.contains(&(1_u64 << 31).to_string()), "{detail}");
    assert!(repair.contains(&format!("rotate-secret --secret-id {}", scene.secret())), "{repair}");
}
