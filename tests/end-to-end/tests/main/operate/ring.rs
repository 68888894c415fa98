//! Keys that somebody else's hand takes out of a ring: they are missed at once, named, and put back.

use rotation::keyring::Keyring;
use sandbox::RotationOutcome;

use super::sweep::sweep;
use super::*;
use crate::archive::ring_at;

const FORMATS: [KeyFormat; 3] = [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink];

async fn ring(scene: &Scene, format: KeyFormat) -> Keyring {
    ring_at(scene, format, "AWSCURRENT").await.unwrap()
}

async fn write_records(scene: &Scene, seed: u64) {
    let load = scene.records(60, seed);
    eventually("records are written", || async { load.report().written >= 20 }).await;
    let report = load.stop().await;
    assert_eq!((report.unreadable, report.failed), (0, 0), "{report:?}");
}

/// Two rotations and records under both primary keys; then the first value again, as Terraform and CloudFormation write it.
async fn reset(format: KeyFormat) -> (Scene, Keyring) {
    let scene = with_operator(once(keys(format))).await;
    let first = scene.value("AWSCURRENT").await.unwrap().unwrap();
    write_records(&scene, 1).await;
    for seed in 2..4 {
        rotate(&scene).await;
        scene.sandbox.advance(2 * HOUR).await.unwrap();
        write_records(&scene, seed).await;
    }
    let complete = ring(&scene, format).await;
    scene.client.put_secret_value().secret_id(scene.secret()).secret_string(first).send().await.unwrap();
    (scene, complete)
}

fn ask_with(scene: &Scene, action: &str, keys: &[String]) -> Value {
    let mut request = request(scene, action);
    request["confirm"] = json!(scene.secret());
    if action == "forget" {
        request["keys"] = json!(keys);
    }
    request
}

async fn missed(scene: &Scene) -> Value {
    sweep(scene).await["keysMissing"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_first_value_took_away_are_missed_and_come_back() {
    for format in FORMATS {
        let (scene, complete) = reset(format).await;
        let lost = complete.primary().id().to_string();
        let error = fail_to_rotate(&scene).await;
        assert_eq!(error.error_type, "KeysMissing", "{}", error.message);
        assert!(error.message.contains(&lost) && error.message.contains("ignore_changes"), "{}", error.message);
        assert!(scene.value("AWSPENDING").await.unwrap().is_none(), "nothing is left that blocks");
        // Everybody who looks says so.
        match scene.configure().await.unwrap() {
            RotationOutcome::TestFailed { error, .. } => assert_eq!(error.error_type, "KeysMissing"),
            outcome => panic!("the test of the configuration ended otherwise: {outcome:?}"),
        }
        let swept = sweep(&scene).await;
        assert_eq!((&swept["keysMissing"], &swept["failed"]), (&json!([scene.secret()]), &json!(0)), "{swept:#}");
        assert_eq!(swept["problems"][0]["error"], "KeysMissing");
        assert!((total_of(&scene, OPERATE, "KeysMissing") - 1.0).abs() < 0.5);
        assert_eq!(done(&scene, "status").await["problem"]["error"], "KeysMissing");
        let doctor = done(&scene, "doctor").await;
        let finding = doctor["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "ring").unwrap();
        assert!(finding["repair"].as_str().unwrap().contains("rotation restore shop/"), "{finding}");
        // Nobody restores by mistake.
        assert_eq!(refused(&scene, "restore").await.error_type, "NotConfirmed");

        let calls = changes::calls(&scene);
        let restored = ask(&scene, ask_with(&scene, "restore", &[])).await;
        let made = changes::calls(&scene) - calls;
        assert!(made <= 10, "{made} calls");
        println!("restore: {made} calls");
        let restored = restored.unwrap_or_else(|error| panic!("{error:?}\n{}", operator_log(&scene)));
        assert!(restored["restored"].as_array().unwrap().contains(&json!(lost)), "{restored:#}");
        let whole = ring(&scene, format).await;
        assert!(whole.holds_all_of(&complete) && whole.primary().id() == complete.primary().id());
        let report = scene.read_everywhere().await.unwrap();
        assert_eq!((report.unreadable, report.failed), (0, 0), "{report:?}");
        let again = ask(&scene, ask_with(&scene, "restore", &[])).await.unwrap();
        assert_eq!((&again["already"], &again["version"]), (&json!(true), &restored["version"]));
        assert_eq!(missed(&scene).await, json!([]));
        rotate(&scene).await;
        assert!(ring(&scene, format).await.holds_all_of(&complete));
        let report = scene.read_everywhere().await.unwrap();
        assert_eq!((report.unreadable, report.failed), (0, 0), "{report:?}");
        assert_eq!(missed(&scene).await, json!([]));
    }
}

/// A keyset's ciphertexts begin with the id of their entry: each entry stays as it was written.
#[tokio::test(flavor = "multi_thread")]
async fn keys_stored_in_between_are_kept_beside_the_restored_ones() {
    for format in FORMATS {
        let (scene, complete) = reset(format).await;
        let own = key_secret(&bare_key(format, 77).replace("1234567", "7654321"));
        scene.client.put_secret_value().secret_id(scene.secret()).secret_string(own).send().await.unwrap();
        let own = ring(&scene, format).await.primary().id();
        let answer = ask(&scene, ask_with(&scene, "restore", &[])).await;
        answer.unwrap_or_else(|error| panic!("{error:?}\n{}", operator_log(&scene)));
        let whole = ring(&scene, format).await;
        assert!(whole.holds_all_of(&complete) && whole.secondary().iter().any(|key| key.id() == own), "{format}");
        let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
        assert!(
            format != KeyFormat::Tink || (value.contains("7654321") && value.contains("1234567")),
            "entries keep their ids"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_given_up_by_name_are_not_missed_any_more() {
    let (scene, complete) = reset(KeyFormat::Raw).await;
    let now = ring(&scene, KeyFormat::Raw).await;
    let lost: Vec<String> = now.lacking(&complete).map(|(_, key)| key.id().to_string()).collect();
    let error = ask(&scene, ask_with(&scene, "forget", &lost[..1])).await.unwrap_err();
    assert_eq!(error.error_type, "InvalidRequest");
    assert!(lost.iter().all(|id| error.message.contains(id)), "{}", error.message);
    assert_eq!(missed(&scene).await, json!([scene.secret()]), "nothing was given up");
    for already in [false, true] {
        let calls = changes::calls(&scene);
        let told = ask(&scene, ask_with(&scene, "forget", &lost)).await.unwrap();
        let made = changes::calls(&scene) - calls;
        assert!(made <= 5, "{made} calls");
        println!("forget: {made} calls");
        assert_eq!(told["already"], already);
    }
    assert_eq!(missed(&scene).await, json!([]));
    rotate(&scene).await;
}

/// What is in use after a reset is as exposed as what was in use before.
#[tokio::test(flavor = "multi_thread")]
async fn a_compromise_puts_missing_keys_back_before_it_replaces_them() {
    let (scene, complete) = reset(KeyFormat::Raw).await;
    let in_use = ring(&scene, KeyFormat::Raw).await.primary().id();
    done(&scene, "compromise").await;
    let whole = ring(&scene, KeyFormat::Raw).await;
    assert!(whole.holds_all_of(&complete) && complete.get(whole.primary().id()).is_none());
    for exposed in [in_use, complete.primary().id()] {
        assert!(whole.get(exposed).unwrap().dates().compromised.is_some());
    }
    let report = scene.read_everywhere().await.unwrap();
    assert_eq!((report.unreadable, report.failed), (0, 0), "{report:?}");
    assert_eq!(missed(&scene).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_from_before_there_was_a_mark_is_marked_by_a_sweep() {
    let scene = with_operator(once(keys(KeyFormat::Raw))).await;
    rotate(&scene).await;
    let (version, _) = current(&scene).await.unwrap();
    let marked = async || stages_of(&scene, &version).await.contains("ROTATION-RING");
    assert!(marked().await, "by the rotation");
    let off = scene.client.update_secret_version_stage().secret_id(scene.secret()).version_stage("ROTATION-RING");
    off.remove_from_version_id(&version).send().await.unwrap();
    sweep(&scene).await;
    assert!(!marked().await, "it was changed a moment ago, and may be in somebody's hands");
    scene.sandbox.advance(HOUR).await.unwrap();
    sweep(&scene).await;
    assert!(marked().await);
}

/// A rollback, and a person who adds a key or edits another member: the ring is whole, and stays the one that is marked.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_missed_after_a_rollback_or_a_lossless_edit() {
    let scene = with_operator(once(keys(KeyFormat::Raw))).await;
    for _ in 0..2 {
        rotate(&scene).await;
    }
    done(&scene, "rollback").await;
    let (version, value) = current(&scene).await.unwrap();
    assert!(stages_of(&scene, &version).await.contains("ROTATION-RING"));
    let edited = String::from_utf8(value).unwrap().replace("2e3", "2e4");
    scene.client.put_secret_value().secret_id(scene.secret()).secret_string(edited).send().await.unwrap();
    assert_eq!(missed(&scene).await, json!([]));
    rotate(&scene).await;
    assert_eq!(missed(&scene).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_no_rotation_has_made_yet_is_no_problem() {
    let plan = Plan { value: Some("{}".to_owned()), ..keys(KeyFormat::Raw) };
    let scene = with_operator(once(plan)).await;
    let tested = scene.configure().await.unwrap();
    assert!(matches!(tested, RotationOutcome::TestSucceeded { .. }), "{tested:?}");
    scene.sandbox.advance(HOUR).await.unwrap();
    let swept = sweep(&scene).await;
    assert_eq!((&swept["problems"], &swept["failed"]), (&json!([]), &json!(0)), "{swept}");
    rotate(&scene).await;
    assert!(ring_at(&scene, KeyFormat::Raw, "AWSCURRENT").await.is_some());
}
