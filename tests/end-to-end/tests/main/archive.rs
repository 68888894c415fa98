//! The archive of keys: what is in it, and when.

use std::collections::BTreeSet;

use application::KeyFormat;
use end_to_end::{KEY_FIELD, Plan, Scene};
use rotation::archive::Archive;
use rotation::keyring::Keyring;
use rotation::secret::SecretText;
use sandbox::{Fault, FaultRule, Moment};
use serde_json::json;

use crate::keys::{bare_key, declared, key_secret, parsed};
use crate::support::*;

pub(crate) const ARCHIVE: &str = "shop/production/key-archive";

/// A keyring with an archive, which has no value yet.
pub(crate) async fn with_archive(mut plan: Plan) -> Scene {
    plan.environment.push(("KEY_ARCHIVE_SECRET", "{1}/{2}/key-archive".to_owned()));
    let scene = start(plan).await;
    scene.client.create_secret().name(ARCHIVE).send().await.unwrap();
    scene
}

fn unasked(format: KeyFormat) -> Plan {
    Plan { instances: 0, ..declared(Plan::key_json(&key_secret(&bare_key(format, 1)), format)) }
}

/// What is in the archive: keys by id, and whether they are retired.
pub(crate) async fn archived(scene: &Scene) -> BTreeSet<(String, bool)> {
    let value = scene.client.get_secret_value().secret_id(ARCHIVE).send().await.unwrap().secret_string.unwrap();
    let archive = Archive::parse(&SecretText::new(value)).unwrap();
    archive.keys().iter().map(|key| (key.material.id().to_string(), key.retired.is_some())).collect()
}

pub(crate) async fn ring_at(scene: &Scene, format: KeyFormat, stage: &str) -> Option<Keyring> {
    let value = scene.value(stage).await.unwrap()?;
    Some(parsed(format, &value, value.contains(KEY_FIELD)).1)
}

fn ids(ring: &Keyring) -> BTreeSet<(String, bool)> {
    ring.keys().map(|(_, key)| (key.id().to_string(), false)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_archived_before_it_is_current_and_stays() {
    for format in [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink] {
        let scene = with_archive(once(unasked(format))).await;
        for _ in 0..3 {
            rotate(&scene).await;
            let ring = ring_at(&scene, format, "AWSCURRENT").await.unwrap();
            assert_eq!(archived(&scene).await, ids(&ring), "{format}");
            scene.sandbox.advance(std::time::Duration::from_secs(2 * 3600)).await.unwrap();
        }
        // A person puts the first value back, and all other keys are gone from the ring.
        let all = archived(&scene).await;
        let first = key_secret(&bare_key(format, 1));
        scene.client.put_secret_value().secret_id(scene.secret()).secret_string(first).send().await.unwrap();
        assert_eq!(fail_to_rotate(&scene).await.error_type, "KeysMissing", "{format}");
        assert!(archived(&scene).await.is_superset(&all), "{format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_key_is_archived_only_where_there_is_an_archive() {
    let scene = with_archive(Plan { value: None, ..unasked(KeyFormat::Raw) }).await;
    rotate(&scene).await;
    assert_eq!(archived(&scene).await, ids(&ring_at(&scene, KeyFormat::Raw, "AWSCURRENT").await.unwrap()));
    let scene = start(unasked(KeyFormat::Raw)).await;
    rotate(&scene).await;
}

/// Whoever stored it may have died before it was archived.
#[tokio::test(flavor = "multi_thread")]
async fn first_key_is_archived_before_its_rotation_ends() {
    let scene = with_archive(Plan { value: None, ..unasked(KeyFormat::Raw) }).await;
    let version = "0123456789abcdef0123456789abcdef";
    let put = scene.client.put_secret_value().secret_id(scene.secret()).client_request_token(version);
    let put = put.secret_string(key_secret(&bare_key(KeyFormat::Raw, 2))).version_stages("AWSCURRENT");
    put.version_stages("AWSPENDING").send().await.unwrap();
    let event = json!({ "Step": "finishSecret", "SecretId": scene.secret(), "ClientRequestToken": version });
    invoke(&scene, &event).await.unwrap();
    assert_eq!(archived(&scene).await, ids(&ring_at(&scene, KeyFormat::Raw, "AWSCURRENT").await.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn unarchived_key_never_becomes_current_and_is_named() {
    let scene = with_archive(once(unasked(KeyFormat::Raw))).await;
    rotate(&scene).await;
    let before = current(&scene).await;
    let held = scene.client.get_secret_value().secret_id(ARCHIVE).send().await.unwrap().secret_string.unwrap();
    scene.sandbox.advance(std::time::Duration::from_secs(2 * 3600)).await.unwrap();

    let put = |value: &str| scene.client.put_secret_value().secret_id(ARCHIVE).secret_string(value).send();
    put("{\"keys\":[],\"note\":\"a person's\"}").await.unwrap();
    let error = fail_to_rotate(&scene).await;
    assert_eq!(error.error_type, "ArchiveUnavailable");
    assert!(error.message.contains(ARCHIVE) && error.message.contains("no other member"), "{}", error.message);
    assert_eq!(current(&scene).await, before);
    put(&held).await.unwrap();

    let denied = FaultRule::on("UpdateSecretVersionStage", Fault::InternalServiceError);
    let rule = scene.sandbox.faults().add(denied.from_caller(scene.function()).times(50));
    assert!(!take_up(&scene).await.is_success());
    assert!(matched(&scene, rule) > 0);
    assert_eq!(current(&scene).await, before);
    scene.sandbox.faults().clear();
    assert!(take_up(&scene).await.is_success(), "{}", log(&scene));
    assert_eq!(archived(&scene).await, ids(&ring_at(&scene, KeyFormat::Raw, "AWSCURRENT").await.unwrap()));
    scene.client.delete_secret().secret_id(ARCHIVE).send().await.unwrap();
    scene.sandbox.advance(std::time::Duration::from_secs(2 * 3600)).await.unwrap();
    assert!(fail_to_rotate(&scene).await.message.contains("scheduled for deletion"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_fails_its_proof_before_promotion_fills_no_archive() {
    let mut plan = once(Plan::key_json(&key_secret(&bare_key(KeyFormat::Raw, 1)), KeyFormat::Raw));
    plan.environment.push(("TARGET_TIMEOUT", "1500ms".to_owned()));
    let scene = with_archive(plan).await;
    rotate(&scene).await;
    let (before, kept) = (current(&scene).await, archived(&scene).await);
    scene.sandbox.advance(std::time::Duration::from_secs(2 * 3600)).await.unwrap();
    // It proves itself to testSecret, and an instance is gone when finishSecret asks again.
    let hold = hold_before(&scene, sandbox::Step::Finish, 500);
    begin_until(&scene, hold).await;
    assert!(scene.balancer.remove(scene.instances[1].address()));
    assert!(!end(&scene).await.is_success());
    assert_eq!((current(&scene).await, archived(&scene).await), (before, kept));
    // It is archived when it becomes current.
    scene.balancer.add(scene.instances[1].address());
    assert!(take_up(&scene).await.is_success(), "{}", log(&scene));
    assert_eq!(archived(&scene).await, ids(&ring_at(&scene, KeyFormat::Raw, "AWSCURRENT").await.unwrap()));
}

/// At every call that the rotation makes, before and after its effect.
#[tokio::test(flavor = "multi_thread")]
async fn killed_function_leaves_no_current_key_out_of_the_archive() {
    for operation in ["DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"] {
        for (after, call) in [(false, 1), (true, 1), (false, 2), (true, 2), (false, 3)] {
            let scene = with_archive(unasked(KeyFormat::Raw)).await;
            let function = scene.function().to_owned();
            let when = if after { Moment::After } else { Moment::Before };
            let kill = FaultRule::on(operation, Fault::KillFunction { function, when });
            scene.sandbox.faults().add(kill.from_caller(scene.function()).nth(call).times(1));
            rotate(&scene).await;
            let ring = ring_at(&scene, KeyFormat::Raw, "AWSCURRENT").await.unwrap();
            assert!(archived(&scene).await.is_superset(&ids(&ring)), "{operation} {call} {after}");
        }
    }
}

/// Two keyrings in one archive, rotated at once, many times.
#[tokio::test(flavor = "multi_thread")]
async fn keyrings_sharing_an_archive_lose_no_key_of_each_other() {
    let scene = with_archive(Plan {
        tags: vec![("rotation:key-format", "raw"), ("rotation:promotion", "immediate")],
        ..unasked(KeyFormat::Raw)
    })
    .await;
    let other = "shop/production/other-key";
    let value = key_secret(&bare_key(KeyFormat::Raw, 2));
    let create = scene.client.create_secret().name(other).secret_string(value);
    let tagged = [("rotation:field", KEY_FIELD), ("rotation:key-format", "raw"), ("rotation:promotion", "immediate")];
    let tags = tagged.map(|(key, value)| aws_sdk_secretsmanager::types::Tag::builder().key(key).value(value).build());
    create.set_tags(Some(tags.to_vec())).send().await.unwrap();
    for _ in 0..5 {
        let both = [scene.secret(), other];
        for secret in both {
            let request = scene.client.rotate_secret().secret_id(secret).rotation_lambda_arn(scene.function_arn());
            request.send().await.unwrap();
        }
        for secret in both {
            let end = scene.sandbox.wait_for_rotation(secret, end_to_end::ROTATION_TIMEOUT).await.unwrap();
            assert!(end.is_success(), "{end:?}\n{}", log(&scene));
        }
    }
    let held = archived(&scene).await;
    for secret in [scene.secret(), other] {
        let value = scene.client.get_secret_value().secret_id(secret).send().await.unwrap().secret_string.unwrap();
        assert!(held.is_superset(&ids(&parsed(KeyFormat::Raw, &value, true).1)), "{secret}");
    }
    assert_eq!(held.len(), 12, "each began with one key, and got five");
}
