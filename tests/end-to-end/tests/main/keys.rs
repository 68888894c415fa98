//! Keyrings through the built function: what becomes of the secret, of the records and of the instances that keep them.

use std::collections::BTreeSet;
use std::time::Duration;

use application::{KeyFormat, KeyMode, RecordReport};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use end_to_end::{ADMIN_TOKEN, KEY_FIELD, KEY_FUNCTION, Plan, SECRET, Scene, request};
use http::{Method, StatusCode};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use rotation::document::FieldName;
use rotation::keyring::Keyring;
use rotation::secret::SecretText;
use sandbox::{ConfigurationTest, Fault, FaultRule, Moment, RotationOutcome, Settings};
use serde_json::{Value, json};

use crate::aws_cli::Cli;
use crate::support::*;

mod configuration;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const FORMATS: [KeyFormat; 3] = [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink];

/// 32 bytes that look random and are the same in every run.
pub(crate) fn key_bytes(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// The ring of one key, as a person would have made it.
pub(crate) fn bare_key(format: KeyFormat, seed: u64) -> String {
    let key = key_bytes(seed);
    match format {
        KeyFormat::Raw => STANDARD.encode(key),
        KeyFormat::Fernet => URL_SAFE.encode(key),
        KeyFormat::Tink => {
            let message = STANDARD.encode([&[0x1a, 32][..], &key].concat());
            let data = json!({ "typeUrl": "type.googleapis.com/google.crypto.tink.AesGcmKey", "value": message, "keyMaterialType": "SYMMETRIC" });
            let key = json!({ "keyData": data, "status": "ENABLED", "keyId": 1_234_567, "outputPrefixType": "TINK" });
            json!({ "primaryKeyId": 1_234_567, "key": [key] }).to_string()
        }
    }
}

/// A JSON secret around a ring, with a layout of its own.
pub(crate) fn key_secret(ring: &str) -> String {
    format!(
        "{{\r\n  \"DATABASE_URL\" : \"postgres:\\/\\/db\",\r\n  \"{KEY_FIELD}\" : {},\r\n  \"pool\": [1.0, 2e3,  null]\r\n}}",
        json!(ring)
    )
}

fn plan(format: KeyFormat) -> Plan {
    let plan = Plan::key_json(&key_secret(&bare_key(format, 1)), format);
    Plan { sandbox: Settings { retry_backoff: Duration::from_millis(20), ..Settings::default() }, ..plan }
}

fn text(format: KeyFormat) -> Plan {
    Plan { sandbox: plan(format).sandbox, ..Plan::key_text(&bare_key(format, 1), format) }
}

/// Nobody is asked: the stack declares that the instances read the whole ring.
pub(crate) fn declared(plan: Plan) -> Plan {
    let environment = vec![("CONSUMERS_KEYRING_AWARE", "true".to_owned())];
    Plan { asked: false, environment, ..plan }
}

pub(crate) fn wire(format: KeyFormat) -> &'static dyn rotation::keyring::WireFormat {
    match format {
        KeyFormat::Raw => rotation::keyring::KeyFormat::Raw.wire(),
        KeyFormat::Fernet => rotation::keyring::KeyFormat::Fernet.wire(),
        KeyFormat::Tink => rotation::keyring::KeyFormat::Tink.wire(),
    }
}

/// The ring in a value, and the value taken apart.
pub(crate) fn parsed(format: KeyFormat, value: &str, json: bool) -> (rotation::document::Document, Keyring) {
    let field = FieldName::new(KEY_FIELD).filter(|_| json);
    let document = wire(format).document(SecretText::new(value.to_owned()), field.as_ref()).unwrap();
    let ring = wire(format).parse(&document).unwrap();
    (document, ring)
}

async fn ring(scene: &Scene, format: KeyFormat) -> Keyring {
    let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
    let json = value.contains(KEY_FIELD);
    parsed(format, &value, json).1
}

fn ids(ring: &Keyring) -> BTreeSet<String> {
    ring.keys().map(|(_, key)| key.id().to_string()).collect()
}

fn reported(health: &Value, member: &str) -> BTreeSet<String> {
    health[member].as_array().into_iter().flatten().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// Every record is readable through every instance.
async fn assert_readable(scene: &Scene) {
    let report = scene.read_everywhere().await.unwrap();
    assert_eq!((report.unreadable, report.failed), (0, 0), "{report:?}");
    assert!(report.read > 0, "there are records to read");
}

fn assert_none_unreadable(report: &RecordReport) {
    assert_eq!((report.unreadable, report.lost, report.failed), (0, 0, 0), "{report:?}");
    assert!(report.written > 10 && report.read > 20, "the load did something: {report:?}");
}

/// One instance loads its secrets again, as at the end of its cache's time; the others don't.
async fn refresh_one(scene: &Scene, instance: usize) {
    let url = format!("http://{}/admin/refresh-secrets", scene.instances[instance].address());
    let (status, answer) = request(Method::POST, &url, ADMIN_TOKEN).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer));
}

/// The caches' hour passes, and requests have every instance load its secrets again before anything else happens. While one
/// does, slowly, it still answers with what it holds: a rotation in that moment would find it with a ring of the last hour,
/// which no clock but this one's jumps can bring about.
async fn caches_end(scene: &Scene, format: KeyFormat) {
    let held = ids(&ring(scene, format).await);
    scene.sandbox.advance(61 * MINUTE).await.unwrap();
    scene.sandbox.faults().add(FaultRule::on("GetSecretValue", Fault::Delay { millis: 300 }).times(1));
    // Its answer tells the instances what time it is.
    scene.client.describe_secret().secret_id(scene.secret()).send().await.unwrap();
    eventually("every instance loads the ring again", || async {
        scene.health().await.unwrap().iter().all(|health| reported(health, "key_ids") == held)
    })
    .await;
}

/// What an operator may be shown of a value: its shape.
fn masked(value: &str) -> String {
    let mut shown = String::new();
    let mut run = 0;
    for c in value.chars() {
        run = if c.is_ascii_alphanumeric() || "+/=-_".contains(c) { run + 1 } else { 0 };
        shown.push(if run > 16 { '*' } else { c });
    }
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_cli_rotation_keeps_every_key_and_every_other_byte() {
    for format in FORMATS {
        let scene = start(Plan { instances: 0, ..declared(plan(format)) }).await;
        let cli = Cli::new(&scene);
        let secret = ["--secret-id", scene.secret()];
        let get = || async { cli.json(&[&["secretsmanager", "get-secret-value"], &secret[..]].concat()).await };
        let before = get().await;
        let arn = scene.function_arn();
        let arguments = ["--rotation-lambda-arn", &arn, "--rotation-rules", "AutomaticallyAfterDays=90"];
        let rotate = [&["secretsmanager", "rotate-secret"], &secret[..], &arguments].concat();
        let first = cli.json(&rotate).await["VersionId"].as_str().unwrap().to_owned();
        assert!(end(&scene).await.is_success(), "{}", log(&scene));
        let staged = get().await;
        assert_eq!(staged["VersionId"], first.as_str());
        let old = ring(&scene, format).await;
        assert!(old.staged().is_some() && old.secondary().is_empty());

        // The next period.
        scene.sandbox.advance(2 * HOUR).await.unwrap();
        let second = cli.json(&rotate).await["VersionId"].as_str().unwrap().to_owned();
        assert!(end(&scene).await.is_success(), "{}", log(&scene));
        let after = get().await;
        let described = cli.json(&[&["secretsmanager", "describe-secret"], &secret[..]].concat()).await;
        assert_eq!(described["VersionIdsToStages"][&first], json!(["AWSPREVIOUS"]));
        assert!(described["VersionIdsToStages"][&second].as_array().unwrap().contains(&json!("AWSCURRENT")));
        let new = ring(&scene, format).await;
        assert_eq!(new.primary().id(), old.staged().unwrap().id());
        assert_eq!(new.secondary()[0].id(), old.primary().id());
        assert!(new.holds_all_of(&old));

        for value in [&before, &staged, &after] {
            let value = value["SecretString"].as_str().unwrap();
            println!("{format}: {}", masked(value));
            assert!(value.starts_with("{\r\n  \"DATABASE_URL\" : \"postgres:\\/\\/db\",\r\n  \""), "{}", masked(value));
            assert!(value.ends_with(",\r\n  \"pool\": [1.0, 2e3,  null]\r\n}"), "{}", masked(value));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_secret_gets_a_new_primary_under_load_and_keeps_the_old() {
    for format in FORMATS {
        let scene = start(text(format)).await;
        let old = ring(&scene, format).await;
        let load = scene.records(60, 1);
        until_written(&load, 20).await;
        for _ in 0..2 {
            rotate(&scene).await;
        }
        let written = load.report().written;
        until_written(&load, written + 20).await;
        assert_none_unreadable(&load.stop().await);
        let new = ring(&scene, format).await;
        assert_eq!(new.secondary().last().unwrap().id(), old.primary().id());
        assert_eq!(new.keys().count(), 3);
        assert_readable(&scene).await;
    }
}

async fn until_written(load: &application::RecordLoad, records: u64) {
    eventually("records are written", || async { load.report().written >= records }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_record_is_unreadable_with_caches_up_to_an_hour_old() {
    for format in FORMATS {
        let scene = start(declared(plan(format))).await;
        let load = scene.records(60, 2);
        until_written(&load, 20).await;
        let mut primaries = BTreeSet::from([ring(&scene, format).await.primary().id()]);
        for number in 0..4 {
            rotate(&scene).await;
            primaries.insert(ring(&scene, format).await.primary().id());
            // One instance learns of it at once, the other within the hour.
            refresh_one(&scene, number % 2).await;
            let written = load.report().written;
            until_written(&load, written + 20).await;
            assert_readable(&scene).await;
            caches_end(&scene, format).await;
        }
        assert_none_unreadable(&load.stop().await);
        assert_readable(&scene).await;
        assert_eq!(primaries.len(), 4, "the first rotation stages, the next three promote");
        let last = ring(&scene, format).await;
        assert!(primaries.iter().all(|id| last.get(*id).is_some()), "no primary was dropped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn young_staged_key_is_not_promoted_and_the_error_says_when() {
    let scene = start(once(declared(plan(KeyFormat::Raw)))).await;
    rotate(&scene).await;
    let before = current(&scene).await;
    scene.sandbox.advance(50 * MINUTE).await.unwrap();
    let error = fail_to_rotate(&scene).await;
    assert_eq!(error.error_type, "StagedTooYoung");
    assert!(error.message.contains("rotate from 20") && error.message.contains("Z on"), "{}", error.message);
    assert_eq!(current(&scene).await, before);
    assert!(scene.value("AWSPENDING").await.unwrap().is_none(), "nothing was written");
    let mut stages = scene.stages().await.unwrap().into_values().flatten();
    assert!(!stages.any(|stage| stage == "AWSPENDING"), "it was given up");
    scene.sandbox.advance(11 * MINUTE).await.unwrap();
    rotate(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_reports_the_new_ring_before_its_promotion() {
    for format in FORMATS {
        let scene = start(plan(format)).await;
        let load = scene.records(60, 3);
        until_written(&load, 20).await;
        for _ in 0..3 {
            rotate(&scene).await;
            let ring = ring(&scene, format).await;
            for health in scene.health().await.unwrap() {
                assert_eq!(reported(&health, "key_ids"), ids(&ring));
                assert_eq!(reported(&health, "primary_key_ids"), BTreeSet::from([ring.primary().id().to_string()]));
            }
        }
        assert_none_unreadable(&load.stop().await);
        assert_readable(&scene).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_without_the_new_ring_holds_its_promotion_back() {
    let mut plan = once(plan(KeyFormat::Raw));
    plan.environment.push(("TARGET_TIMEOUT", "1500ms".to_owned()));
    let scene = start(plan).await;
    rotate(&scene).await;
    let before = current(&scene).await;
    scene.instances[1].freeze_refresh(true);
    let error = fail_to_rotate(&scene).await;
    assert_eq!(error.error_type, "ConsumersUnproven");
    assert!(error.message.contains("instance instance-2 does not report"), "{}", error.message);
    assert_eq!(current(&scene).await, before);
    scene.instances[1].freeze_refresh(false);
    assert!(take_up(&scene).await.is_success(), "{}", log(&scene));
    assert_ne!(current(&scene).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_reads_only_the_one_key_is_never_broken() {
    let mut plan = once(plan(KeyFormat::Raw));
    plan.keys.as_mut().unwrap().mode = KeyMode::NameOnly;
    plan.environment.push(("TARGET_TIMEOUT", "1500ms".to_owned()));
    let scene = start(plan).await;
    let load = scene.records(60, 4);
    until_written(&load, 10).await;
    let first = ring(&scene, KeyFormat::Raw).await.primary().id();
    // It notices nothing of a staged key.
    rotate(&scene).await;
    assert_eq!(ring(&scene, KeyFormat::Raw).await.primary().id(), first);
    for attempt in 0..2 {
        let error = if attempt == 0 { fail_to_rotate(&scene).await } else { failed(take_up(&scene).await) };
        assert_eq!(error.error_type, "ConsumersUnproven", "{}", error.message);
        assert!(error.message.contains("reports no key_ids"), "{}", error.message);
        scene.sandbox.advance(2 * HOUR).await.unwrap();
    }
    assert_eq!(ring(&scene, KeyFormat::Raw).await.primary().id(), first);
    let written = load.report().written;
    until_written(&load, written + 20).await;
    assert_none_unreadable(&load.stop().await);
    assert_readable(&scene).await;
}

pub(crate) fn failed(outcome: sandbox::RotationOutcome) -> sandbox::StepError {
    match outcome {
        sandbox::RotationOutcome::Failed { error, .. } => error,
        outcome => panic!("the rotation ended otherwise: {outcome:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_primary_is_written_without_a_target_or_a_declaration() {
    let scene = start(once(Plan { instances: 0, ..plan(KeyFormat::Raw) })).await;
    rotate(&scene).await;
    scene.sandbox.advance(2 * HOUR).await.unwrap();
    let puts = Counter::of(&scene, "PutSecretValue");
    let error = fail_to_rotate(&scene).await;
    assert_eq!(error.error_type, "ConsumersUnproven");
    assert!(error.message.contains("CONSUMERS_KEYRING_AWARE=true"), "{}", error.message);
    assert_eq!(puts.count(&scene), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn compromise_replaces_primary_and_staged_both_stay_readable() {
    for format in FORMATS {
        let scene = start(plan(format)).await;
        rotate(&scene).await;
        let old = ring(&scene, format).await;
        let load = scene.records(60, 5);
        until_written(&load, 20).await;
        tag(&scene, "rotation:promotion", "immediate").await;
        let version = rotate(&scene).await;
        let written = load.report().written;
        until_written(&load, written + 20).await;
        assert_none_unreadable(&load.stop().await);
        assert_readable(&scene).await;
        let new = ring(&scene, format).await;
        assert!(new.holds_all_of(&old));
        assert!(old.get(new.primary().id()).is_none(), "the primary key is fresh");
        assert!(old.get(new.staged().unwrap().id()).is_none(), "the staged key is fresh");

        // The answer says what remains: asked again, as by a retry.
        let event = json!({ "Step": "finishSecret", "SecretId": scene.secret(), "ClientRequestToken": version });
        let answer = invoke(&scene, &event).await.unwrap();
        assert_eq!(answer["outcome"], "promotedEarlier");
        assert_eq!(answer["primaryKey"], new.primary().id().to_string());
        assert_eq!(answer["secondaryKeys"].as_array().unwrap().len(), new.secondary().len());
        let remaining = answer["remaining"].as_str().unwrap();
        for id in [old.primary().id(), old.staged().unwrap().id()] {
            assert!(remaining.contains(&id.to_string()), "{remaining}");
        }
        assert!(remaining.contains("re-encrypted under"), "{remaining}");
        assert!(log(&scene).contains("re-encrypted under"), "the log line says it too");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn death_after_promotion_is_repaired_and_loses_no_record() {
    for promotion in ["staged", "immediate"] {
        let scene = start(plan(KeyFormat::Raw)).await;
        rotate(&scene).await;
        tag(&scene, "rotation:promotion", promotion).await;
        let load = scene.records(60, 6);
        until_written(&load, 20).await;
        let kill = Fault::KillFunction { function: KEY_FUNCTION.to_owned(), when: Moment::After };
        scene.sandbox.faults().add(FaultRule::on("UpdateSecretVersionStage", kill).from_caller(KEY_FUNCTION));
        let version = rotate(&scene).await;
        assert!(log(&scene).contains("promotedEarlier"), "{}", log(&scene));
        assert_eq!(current(&scene).await.unwrap().0, version);
        let written = load.report().written;
        until_written(&load, written + 20).await;
        assert_none_unreadable(&load.stop().await);
        assert_readable(&scene).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_of_awscurrent_rotates_its_key_with_verify_after() {
    let mut plan = plan(KeyFormat::Raw);
    plan.tags.push(("rotation:verify", "after"));
    let scene = start(plan).await;
    let load = scene.records(60, 7);
    until_written(&load, 20).await;
    for _ in 0..3 {
        rotate(&scene).await;
    }
    assert_none_unreadable(&load.stop().await);
    assert_readable(&scene).await;
}

/// Begins a rotation, and has the application stop loading anything while AWSCURRENT is being moved.
pub(crate) async fn rotate_while_the_application_breaks(scene: &Scene) -> sandbox::StepError {
    let hold = FaultRule::on("UpdateSecretVersionStage", Fault::Delay { millis: 500 }).from_caller(KEY_FUNCTION);
    let rule = scene.sandbox.faults().add(hold.times(1));
    begin_until(scene, rule).await;
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
    failed(end(scene).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn unfollowed_staged_promotion_is_put_back_and_loses_no_record() {
    let mut plan = once(plan(KeyFormat::Raw));
    plan.environment.push(("TARGET_TIMEOUT", "1500ms".to_owned()));
    let scene = start(plan).await;
    rotate(&scene).await;
    let (before, old) = (current(&scene).await, ring(&scene, KeyFormat::Raw).await);
    let load = scene.records(60, 8);
    until_written(&load, 20).await;
    let error = rotate_while_the_application_breaks(&scene).await;
    assert_eq!(error.error_type, "VerificationFailed");
    assert!(error.message.contains("does not encrypt with the new primary key"), "{}", error.message);
    assert!(error.message.contains("is AWSCURRENT again"), "{}", error.message);
    assert_eq!(current(&scene).await, before);
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(false));
    assert_readable(&scene).await;
    rotate(&scene).await;
    let new = ring(&scene, KeyFormat::Raw).await;
    assert_eq!(new.primary().id(), old.staged().unwrap().id(), "the staged key was kept");
    let written = load.report().written;
    until_written(&load, written + 20).await;
    assert_none_unreadable(&load.stop().await);
    assert_readable(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfollowed_immediate_promotion_stands_until_it_verifies() {
    let mut plan = once(plan(KeyFormat::Raw));
    plan.environment.push(("TARGET_TIMEOUT", "1500ms".to_owned()));
    plan.tags.push(("rotation:promotion", "immediate"));
    let scene = start(plan).await;
    let load = scene.records(60, 9);
    until_written(&load, 20).await;
    let old = ring(&scene, KeyFormat::Raw).await;
    let error = rotate_while_the_application_breaks(&scene).await;
    assert_eq!(error.error_type, "RollbackFailed");
    assert!(
        error.message.contains("it is still AWSCURRENT, because data may already be encrypted"),
        "{}",
        error.message
    );
    let new = ring(&scene, KeyFormat::Raw).await;
    assert!(new.holds_all_of(&old) && new.primary().id() != old.primary().id());
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(false));
    // As Secrets Manager repeats it.
    let version = current(&scene).await.unwrap().0;
    let event = json!({ "Step": "finishSecret", "SecretId": scene.secret(), "ClientRequestToken": version });
    assert_eq!(invoke(&scene, &event).await.unwrap()["outcome"], "promotedEarlier");
    let written = load.report().written;
    until_written(&load, written + 20).await;
    assert_none_unreadable(&load.stop().await);
    assert_readable(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_open_at_a_leak_is_given_up_and_both_keys_replaced() {
    let mut plan = once(plan(KeyFormat::Raw));
    plan.environment.push(("TARGET_TIMEOUT", "1500ms".to_owned()));
    let scene = start(plan).await;
    rotate(&scene).await;
    let exposed = ring(&scene, KeyFormat::Raw).await;
    scene.instances[0].freeze_refresh(true);
    assert_eq!(fail_to_rotate(&scene).await.error_type, "ConsumersUnproven");
    scene.instances[0].freeze_refresh(false);
    tag(&scene, "rotation:promotion", "immediate").await;
    assert_eq!(failed(take_up(&scene).await).error_type, "CurrentChanged");
    rotate(&scene).await;
    let now = ring(&scene, KeyFormat::Raw).await;
    for key in [Some(now.primary()), now.staged()].into_iter().flatten() {
        assert!(exposed.get(key.id()).is_none(), "an exposed key encrypts, or will");
    }
    assert!(now.holds_all_of(&exposed));
}
