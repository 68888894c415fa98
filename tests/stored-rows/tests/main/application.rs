//! The sample application keeps writing, reading and replacing tokens in PostgreSQL while their key is rotated and the rows follow:
//! every row can be read by every instance at every moment, no token is lost, and at last the old key is needed by none.

use std::time::Duration;

use application::{KeyFormat, RecordLoad, RecordReport};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use end_to_end::{ADMIN_TOKEN, KEY_FIELD, Plan, Scene, request};
use http::Method;
use rotation::document::FieldName;
use rotation::keyring::Keyring;
use rotation::secret::SecretText;
use sandbox::RotationOutcome;
use serde_json::{Value, json};
use stored_rows::connections::{Connections, census, rewrap, rows_by_key, rows_unreadable};

use crate::bench::server;
use crate::keys;

const MINUTE: Duration = Duration::from_secs(60);

/// A ring of one key in a JSON secret, two instances whose records are in PostgreSQL, and the function.
async fn scene(format: KeyFormat, change: impl FnOnce(&mut Plan)) -> Scene {
    let connections = Connections::create(server()).await.unwrap();
    let value = json!({ KEY_FIELD: keys::ring(wire(format), &[1]), "port": 8080 }).to_string();
    let mut plan = Plan { database: Some(connections.application()), ..Plan::key_json(&value, format) };
    change(&mut plan);
    let scene = Scene::start(plan).await.unwrap();
    let executable = end_to_end::build(stored_rows::connections::REENCRYPT).unwrap();
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
    let mut work = std::pin::pin!(work);
    let reading = async {
        loop {
            assert_nothing_wrong(&scene.read_everywhere().await.unwrap());
        }
    };
    tokio::select! {
        done = &mut work => done,
        () = reading => unreachable!(),
    }
}

async fn refresh(scene: &Scene, instance: usize) {
    let url = format!("http://{}/admin/refresh-secrets", scene.instances[instance].address());
    let (status, answer) = request(Method::POST, &url, ADMIN_TOKEN).await.unwrap();
    assert!(status.is_success(), "{}", String::from_utf8_lossy(&answer));
}

/// A secret with the primary key of this ring and no other, as it is when the others are retired.
fn only_primary(format: KeyFormat, ring: &Keyring) -> String {
    let (key, number) = (ring.primary().material().expose(), ring.primary().id().number());
    let text = match format {
        KeyFormat::Raw => STANDARD.encode(key),
        KeyFormat::Fernet => URL_SAFE.encode(key),
        KeyFormat::Tink => {
            let message = STANDARD.encode([&[0x1a, 32][..], key].concat());
            let data = json!({ "typeUrl": "type.googleapis.com/google.crypto.tink.AesGcmKey", "value": message, "keyMaterialType": "SYMMETRIC" });
            let entry = json!({ "keyData": data, "status": "ENABLED", "keyId": number, "outputPrefixType": "TINK" });
            json!({ "primaryKeyId": number, "key": [entry] }).to_string()
        }
    };
    json!({ KEY_FIELD: text }).to_string()
}

/// The other keys are gone, every instance knows it, and reads what is stored.
async fn assert_readable_without_other_keys(scene: &Scene, format: KeyFormat, load: &RecordLoad) {
    let value = only_primary(format, &ring(scene, format).await);
    scene.client.put_secret_value().secret_id(scene.secret()).secret_string(value).send().await.unwrap();
    for instance in 0..scene.instances.len() {
        refresh(scene, instance).await;
    }
    for health in scene.health().await.unwrap() {
        assert_eq!(health["key_ids"].as_array().map(Vec::len), Some(1), "{health}");
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
async fn rows_follow_a_rotated_key_under_load_and_then_no_instance_needs_the_old_one_in_every_format() {
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
        let (primary, left) = under(&census(&scene).await.unwrap(), &ring);
        println!("{format}: {before} rows under the old key, {primary} and {left} after {done:?}");
        assert!(before > 0 && done.rewrapped > 0 && done.invocations >= 4, "{before} {done:?}");
        assert_eq!(left, 0);
        assert_readable_without_other_keys(&scene, format, &load).await;
        let report = load.finish(&scene.addresses()).await;
        assert_nothing_wrong(&report);
        println!("{format}: {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_with_an_hour_old_ring_writes_under_the_old_key_after_the_rows_and_only_a_later_census_is_of_zero()
{
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
    let (_, stale) = under(&census(&scene).await.unwrap(), &ring);
    assert!(stale > 0, "the instance that has not read the ring again writes under the old key");
    assert_nothing_wrong(&scene.read_everywhere().await.unwrap());

    // The hour is over. From now on nobody encrypts with the old key, and the rows can follow to the last.
    scene.sandbox.advance(61 * MINUTE).await.unwrap();
    refresh(&scene, 0).await;
    refresh(&scene, 1).await;
    let done = while_everything_is_read(&scene, rewrap(&scene, 4)).await.unwrap();
    assert!(done.rewrapped >= stale, "{done:?}, {stale}");
    for _ in 0..2 {
        assert_eq!(under(&census(&scene).await.unwrap(), &ring).1, 0);
        more(&load, 20).await;
    }
    assert_readable_without_other_keys(&scene, format, &load).await;
    let report = load.finish(&scene.addresses()).await;
    assert_nothing_wrong(&report);
    println!("{stale} rows by the stale instance; {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_is_told_and_a_session_that_ended_is_replaced() {
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
