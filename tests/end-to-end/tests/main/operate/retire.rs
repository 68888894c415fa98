//! Keys that no row needs any more leave the ring, and the sweep that has rows re-encrypted.

use aws_sdk_secretsmanager::types::Tag;
use rotation::keyring::Keyring;
use rotation::time::format_timestamp;
use sandbox::{Fault, FaultRule, Moment};

use super::sweep::{TOPIC, scheduled, sweep};
use super::*;
use crate::archive::{ARCHIVE, archived, ring_at};

pub(super) const GAP: Duration = Duration::from_secs(24 * 60 * 60 + 15 * 60);

/// A ring with a primary, a staged and a secondary key, whose archive has them all.
pub(super) async fn with_old_key(format: KeyFormat) -> Scene {
    let scene = with_archive(keys(format)).await.with_operator(&[]).await.unwrap();
    rotate(&scene).await;
    rotate(&scene).await;
    scene
}

pub(super) async fn ring(scene: &Scene) -> Keyring {
    ring_at(scene, KeyFormat::Raw, "AWSCURRENT").await.unwrap()
}

/// What `reencrypt` answers to a census of the ring as it is, of `rows` rows under the oldest key, at this moment.
pub(super) async fn census(scene: &Scene, format: KeyFormat, rows: u64) -> Value {
    let ring = ring_at(scene, format, "AWSCURRENT").await.unwrap();
    let oldest = ring.secondary().last().map(|key| key.id());
    let keys = ring.keys().map(|(_, key)| {
        let number = if Some(key.id()) == oldest {
            rows
        } else if key.id() == ring.primary().id() {
            100
        } else {
            0
        };
        (key.id().to_string(), json!(number))
    });
    let column = json!({
        "schema": "public", "table": "connections", "column": "token", "rows": 100 + rows, "nulls": 0,
        "keys": Value::Object(keys.collect()), "unknown": 0, "damaged": 0, "unreadable": [],
    });
    let now = format_timestamp(scene.sandbox.now());
    json!({
        "action": "census", "secret": scene.secret(), "version": current(scene).await.unwrap().0,
        "primaryKey": ring.primary().id(), "began": now, "ended": now, "columns": [column],
        "onOldKeys": rows, "unknown": 0, "damaged": 0, "superseded": false, "settled": true, "next": null,
        "durationMs": 12,
    })
}

/// The lines of the audit record that tell of a retirement.
pub(super) fn audited(log: &str) -> usize {
    log.lines().filter(|line| line.contains("\"audit\"") && line.contains("\"action\":\"retire\"")).count()
}

pub(super) fn request(scene: &Scene, censuses: &[Value]) -> Value {
    json!({ "action": "retire", "secret_id": scene.secret(), "reason": "a test", "censuses": censuses })
}

pub(super) async fn two_censuses(scene: &Scene, format: KeyFormat) -> [Value; 2] {
    let first = census(scene, format, 0).await;
    scene.sandbox.advance(GAP + Duration::from_secs(1)).await.unwrap();
    [first, census(scene, format, 0).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn unneeded_key_is_retired_by_two_censuses_and_stays_archived() {
    for format in [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink] {
        let scene = with_old_key(format).await;
        let before = ring_at(&scene, format, "AWSCURRENT").await.unwrap();
        let old = before.secondary()[0].id().to_string();
        let censuses = two_censuses(&scene, format).await;
        let calls = changes::calls(&scene);
        let answer = ask(&scene, request(&scene, &censuses)).await;
        let made = changes::calls(&scene) - calls;
        println!("{made} calls");
        assert!(made <= 14, "{made} calls");
        let answer = answer.unwrap_or_else(|error| panic!("{error:?}\n{}", operator_log(&scene)));
        println!("{answer:#}");
        assert_eq!(
            (&answer["retired"], &answer["kept"], &answer["verified"]),
            (&json!([old]), &json!([]), &json!(true))
        );
        assert_eq!(answer["archive"], ARCHIVE);
        let after = ring_at(&scene, format, "AWSCURRENT").await.unwrap();
        assert_eq!(after, before.clone().retire(before.secondary()[0].id()).unwrap());
        assert!(archived(&scene).await.contains(&(old.clone(), true)), "{format}");
        for health in scene.health().await.unwrap() {
            assert!(!health["key_ids"].as_array().unwrap().contains(&json!(old)), "every instance has dropped it");
        }
        // Once more, as after a death: it is done.
        let again = ask(&scene, request(&scene, &censuses)).await.unwrap();
        assert_eq!((&again["already"], &again["retired"]), (&json!(true), &json!([old])));
        // The next rotation goes on from there.
        rotate(&scene).await;
        let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
        assert!(value.starts_with("{\r\n  \"DATABASE_URL\""), "what else is in the secret stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_census_older_than_an_hour_retires_no_key() {
    let scene = with_old_key(KeyFormat::Raw).await;
    let censuses = two_censuses(&scene, KeyFormat::Raw).await;
    for later in [Duration::from_secs(61 * 60), Duration::from_secs(60 * 24 * 60 * 60)] {
        scene.sandbox.advance(later).await.unwrap();
        let error = ask(&scene, request(&scene, &censuses)).await.expect_err("an old census retired a key");
        assert_eq!(error.error_type, "CensusOutdated", "{}", error.message);
        assert!(error.message.contains("more than an hour ago"), "{}", error.message);
    }
    // The first may be as old as it is.
    let censuses = [censuses[0].clone(), census(&scene, KeyFormat::Raw, 0).await];
    scene.sandbox.advance(Duration::from_secs(59 * 60)).await.unwrap();
    assert_eq!(ask(&scene, request(&scene, &censuses)).await.unwrap()["retired"].as_array().unwrap().len(), 1);
    // What is done is done, however late somebody asks again.
    scene.sandbox.advance(Duration::from_secs(2 * 60 * 60)).await.unwrap();
    assert_eq!(ask(&scene, request(&scene, &censuses)).await.unwrap()["already"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_census_beside_open_transactions_retires_no_key() {
    let scene = with_old_key(KeyFormat::Raw).await;
    let [mut first, mut second] = two_censuses(&scene, KeyFormat::Raw).await;
    for settled in [json!(false), Value::Null] {
        second["settled"] = settled;
        if second["settled"].is_null() {
            second.as_object_mut().unwrap().remove("settled");
        }
        let error = ask(&scene, request(&scene, &[first.clone(), second.clone()])).await;
        let error = error.expect_err("a census retired a key that open transactions may need");
        assert_eq!(error.error_type, "CensusOutdated", "{}", error.message);
        assert!(error.message.contains("transactions that were open"), "{}", error.message);
    }
    (first["settled"], second["settled"]) = (json!(false), json!(true));
    assert!(ask(&scene, request(&scene, &[first, second])).await.is_ok(), "the second sees what the first did not");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_retired_without_an_archive() {
    let scene = with_operator(keys(KeyFormat::Raw)).await;
    rotate(&scene).await;
    rotate(&scene).await;
    let before = current(&scene).await;
    let censuses = two_censuses(&scene, KeyFormat::Raw).await;
    assert_eq!(ask(&scene, request(&scene, &censuses)).await.unwrap_err().error_type, "NoArchive");
    assert_eq!(current(&scene).await, before);
}

/// The operator's function is killed at every call that changes something: the key is in the archive, and the same request ends
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn retirement_killed_anywhere_loses_no_key_and_is_finished() {
    for operation in ["PutSecretValue", "UpdateSecretVersionStage"] {
        for (when, call) in [(Moment::Before, 1), (Moment::After, 1), (Moment::Before, 2), (Moment::After, 2)] {
            let scene = with_old_key(KeyFormat::Raw).await;
            let before = ring(&scene).await;
            let censuses = two_censuses(&scene, KeyFormat::Raw).await;
            let kill = FaultRule::on(operation, Fault::KillFunction { function: OPERATE.to_owned(), when });
            let rule = scene.sandbox.faults().add(kill.from_caller(OPERATE).nth(call).times(1));
            let died = ask(&scene, request(&scene, &censuses)).await;
            assert!(died.is_err() && matched(&scene, rule) >= call, "{operation} {when:?} {call}: {died:?}");
            assert_eq!(sweep(&scene).await["keysMissing"], json!([]), "nobody misses a key that is being retired");
            let held: Vec<_> = archived(&scene).await.into_iter().map(|(key, _)| key).collect();
            assert!(before.keys().all(|(_, key)| held.contains(&key.id().to_string())));
            let done = ask(&scene, request(&scene, &censuses)).await;
            let done = done.unwrap_or_else(|error| panic!("{operation} {when:?} {call}: {error:?}"));
            assert_eq!(done["retired"], json!([before.secondary()[0].id()]));
            assert!(ring(&scene).await.secondary().is_empty());
            assert_eq!(sweep(&scene).await["keysMissing"], json!([]));
            rotate(&scene).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retirement_that_the_application_ignores_is_put_back() {
    let mut plan = keys(KeyFormat::Raw);
    plan.environment.push(("TARGET_TIMEOUT", "1500ms".to_owned()));
    let scene = with_archive(plan).await.with_operator(&[]).await.unwrap();
    rotate(&scene).await;
    rotate(&scene).await;
    let before = current(&scene).await;
    let censuses = two_censuses(&scene, KeyFormat::Raw).await;
    // A request of its own to each instance: without one, nothing is proven.
    assert!(scene.balancer.remove(scene.instances[1].address()));
    let error = ask(&scene, request(&scene, &censuses)).await.unwrap_err();
    assert_eq!(error.error_type, "DidNotVerify", "{}", error.message);
    assert_eq!(current(&scene).await, before);
    assert_eq!(sweep(&scene).await["keysMissing"], json!([]));
    scene.balancer.add(scene.instances[1].address());
    assert!(ask(&scene, request(&scene, &censuses)).await.is_ok());
}

const MACHINE: &str = "arn:aws:states:us-east-1:000000000000:stateMachine:reencryption";

/// With a sweep that has rows re-encrypted, and consumers that keep nothing.
async fn reencrypting(scene: Scene) -> Scene {
    reencrypting_with(scene, "0s").await
}

/// The same with consumers that keep for so long what they have read.
async fn reencrypting_with(scene: Scene, cache_time: &str) -> Scene {
    let variables = [
        ("REENCRYPT_STATE_MACHINE", MACHINE),
        ("REENCRYPT_KEY_SECRET", end_to_end::KEY_SECRET),
        ("NOTIFY_TOPIC_ARN", TOPIC),
        ("CONSUMERS_CACHE_TIME", cache_time),
    ];
    scene.with_operator(&variables).await.unwrap()
}

/// What a sweep tells of the re-encryption.
async fn swept(scene: &Scene) -> Value {
    let swept = ask(scene, json!({ "action": "sweep" })).await.unwrap();
    assert_eq!(swept["problems"], json!([]), "{swept:#}");
    swept["reencryption"].clone()
}

/// How often the audit record tells that a re-encryption began.
fn begun(scene: &Scene) -> usize {
    let is_one = |line: &&str| line.contains("\"action\":\"reencrypt\"") && line.contains("\"result\":\"begun\"");
    operator_log(scene).lines().filter(is_one).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn sweep_starts_re_encryption_once_for_each_version() {
    let scene = reencrypting(with_archive(keys(KeyFormat::Raw)).await).await;
    rotate(&scene).await;
    assert!(swept(&scene).await.is_null(), "a staged key has encrypted nothing");
    rotate(&scene).await;
    let first = swept(&scene).await;
    assert_eq!((&first["started"], &first["oldKeys"]), (&json!(true), &json!(1)));
    scene.sandbox.advance(HOUR).await.unwrap();
    let second = swept(&scene).await;
    assert_eq!((&second["started"], &second["execution"]), (&json!(false), &first["execution"]), "it is at work");
    assert_eq!(begun(&scene), 1);
    let [execution] = &scene.sandbox.executions()[..] else { panic!("{:?}", scene.sandbox.executions()) };
    let version = current(&scene).await.unwrap().0;
    assert_eq!(execution.state_machine_arn, MACHINE);
    assert!(execution.name.starts_with(&format!("{version}-")), "{}", execution.name);
    assert_eq!(first["execution"], execution.name);
    let input: Value = serde_json::from_str(&execution.input).unwrap();
    assert_eq!(input, json!({ "secret_id": end_to_end::KEY_SECRET, "version": version }));
    rotate(&scene).await;
    swept(&scene).await;
    assert_eq!(scene.sandbox.executions().len(), 2, "another version has another one");
    // What cannot be started is told.
    rotate(&scene).await;
    scene
        .sandbox
        .faults()
        .add(FaultRule::on("StartExecution", Fault::InternalServiceError).from_caller(OPERATE).times(50));
    let failed = ask(&scene, json!({ "action": "sweep" })).await.unwrap();
    assert_eq!(failed["problems"][0]["error"], "NotStarted", "{failed:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_starts_round_after_round_while_there_are_old_keys() {
    let scene = reencrypting(with_old_key(KeyFormat::Raw).await).await;
    let version = current(&scene).await.unwrap().0;
    let mut names = std::collections::BTreeSet::new();
    // More than any name could count.
    for _ in 0..30 {
        let round = swept(&scene).await;
        assert_eq!(round["started"], true, "{round}");
        let name = round["execution"].as_str().unwrap().to_owned();
        assert!(name.starts_with(&format!("{version}-")) && name.len() <= 80, "{name}");
        scene.sandbox.advance(HOUR).await.unwrap();
        assert_eq!(swept(&scene).await["execution"], name, "it is at work");
        // Rows are left, or another version was current in between.
        assert!(scene.sandbox.end_execution(&name, "SUCCEEDED"));
        names.insert(name);
    }
    let inputs: std::collections::BTreeSet<_> = scene.sandbox.executions().into_iter().map(|one| one.input).collect();
    assert_eq!((names.len(), inputs.len(), begun(&scene)), (30, 1, 30), "each is for the same version");
    // Two sweeps at once start one.
    let calls = || scene.sandbox.executions().len();
    let before = calls();
    swept(&scene).await;
    swept(&scene).await;
    assert_eq!(calls(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_a_person_starts_after_a_failure_counts() {
    let scene = reencrypting(with_old_key(KeyFormat::Raw).await).await;
    let name = swept(&scene).await["execution"].as_str().unwrap().to_owned();
    assert!(scene.sandbox.end_execution(&name, "FAILED"));
    scene.sandbox.advance(HOUR).await.unwrap();
    assert_eq!(swept(&scene).await["ended"], "FAILED");
    // As the page of reencrypt names it: by the version first.
    let version = current(&scene).await.unwrap().0;
    let by_hand = format!("{version}-1790000000");
    let start =
        ["stepfunctions", "start-execution", "--state-machine-arn", MACHINE, "--name", &by_hand, "--input", "{}"];
    Cli::new(&scene).json(&start).await;
    assert_eq!(swept(&scene).await["execution"], by_hand, "it is at work");
    assert!(scene.sandbox.end_execution(&by_hand, "SUCCEEDED"));
    scene.sandbox.advance(HOUR).await.unwrap();
    assert_eq!(swept(&scene).await["started"], true, "the next round");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_execution_is_not_restarted_and_each_sweep_tells_it() {
    for status in ["FAILED", "TIMED_OUT", "ABORTED"] {
        let scene = reencrypting(with_old_key(KeyFormat::Raw).await).await;
        let name = swept(&scene).await["execution"].as_str().unwrap().to_owned();
        scene.sandbox.advance(HOUR).await.unwrap();
        assert!(scene.sandbox.end_execution(&name, status));
        for _ in 0..2 {
            let told = swept(&scene).await;
            assert_eq!(
                (&told["started"], &told["ended"], &told["execution"]),
                (&json!(false), &json!(status), &json!(name))
            );
        }
        assert_eq!(scene.sandbox.executions().len(), 1);
        let (_, sent) = scheduled(&scene).await;
        let [(subject, message)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(subject, "Secret rotation: 1 need attention");
        assert!(message.contains(&format!("execution {name} of the re-encryption is {status} since ")), "{message}");
        // Once a day after that.
        scene.sandbox.advance(HOUR).await.unwrap();
        assert_eq!(scheduled(&scene).await.1, []);
        scene.sandbox.advance(23 * HOUR).await.unwrap();
        assert_eq!(scheduled(&scene).await.1.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_follow_though_the_secrets_cannot_be_listed() {
    let scene = reencrypting(with_old_key(KeyFormat::Raw).await).await;
    scene
        .sandbox
        .faults()
        .add(FaultRule::on("ListSecrets", Fault::InternalServiceError).from_caller(OPERATE).times(50));
    let error = ask(&scene, json!({ "action": "sweep" })).await.unwrap_err();
    assert_eq!(error.error_type, "ServiceFailure", "{}", error.message);
    assert_eq!((scene.sandbox.executions().len(), begun(&scene)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_follow_though_the_application_cannot_be_asked() {
    let scene = reencrypting(with_old_key(KeyFormat::Raw).await).await;
    scene.client.delete_secret().secret_id(SECRET).send().await.unwrap();
    let told = ask(&scene, json!({ "action": "sweep" })).await.unwrap();
    assert_eq!(told["problems"][0]["error"], "CredentialUnavailable", "{told:#}");
    assert_eq!(told["reencryption"]["started"], true, "{told:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sweep_tells_what_keeps_rows_from_following() {
    let scene = reencrypting(with_archive(Plan { value: None, ..keys(KeyFormat::Raw) }).await).await;
    assert!(swept(&scene).await.is_null());

    let scene = reencrypting(with_old_key(KeyFormat::Raw).await).await;
    scene
        .sandbox
        .faults()
        .add(FaultRule::on("GetSecretValue", Fault::InternalServiceError).from_caller(OPERATE).times(50));
    let (told, sent) = scheduled(&scene).await;
    assert_eq!(told["problems"][0]["secret"], end_to_end::KEY_SECRET);
    assert_eq!(told["problems"][0]["message"], told["reencryption"]["problem"], "{told:#}");
    assert!(sent[0].1.contains("rows are not re-encrypted"), "{sent:?}");
    assert_eq!(scene.sandbox.executions(), []);
    scene.sandbox.faults().clear();
    assert_eq!(swept(&scene).await["started"], true);
    // What does not answer ends in time, and the secrets are looked at all the same.
    let silent = FaultRule::on("ListExecutions", Fault::Delay { millis: 60_000 }).from_caller(OPERATE).times(50);
    scene.sandbox.faults().add(silent);
    let told = ask(&scene, json!({ "action": "sweep" })).await.unwrap();
    assert_eq!((&told["problems"][0]["error"], &told["complete"]), (&json!("NotStarted"), &json!(true)), "{told:#}");
    assert_eq!(told["verified"], 1, "{told:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sweep_archives_older_keys_and_those_of_a_person() {
    let put = async |scene: &Scene, secret: &str, value: &str| {
        scene.client.put_secret_value().secret_id(secret).secret_string(value).send().await.unwrap();
    };
    for rotations in [0, 2] {
        let scene = reencrypting(with_archive(keys(KeyFormat::Raw)).await).await;
        for _ in 0..rotations {
            rotate(&scene).await;
        }
        put(&scene, ARCHIVE, r#"{"keys":[]}"#).await;
        let told = swept(&scene).await;
        assert_eq!(told["started"] == true, rotations > 0, "{told}");
        let ring: std::collections::BTreeSet<_> =
            ring(&scene).await.keys().map(|(_, key)| (key.id().to_string(), false)).collect();
        assert_eq!(archived(&scene).await, ring);
        // Where nothing is missing, nothing is written.
        let of_operate = |operation| scene.sandbox.calls_of(OPERATE).get(operation).copied().unwrap_or_default();
        let writes = of_operate("PutSecretValue");
        swept(&scene).await;
        assert_eq!((writes > 0, of_operate("PutSecretValue")), (true, writes));
    }
    // Nothing is encrypted with a key that is not in it.
    let scene = reencrypting(with_old_key(KeyFormat::Raw).await).await;
    put(&scene, ARCHIVE, "no archive").await;
    let told = ask(&scene, json!({ "action": "sweep" })).await.unwrap();
    assert_eq!(told["problems"][0]["error"], "ArchiveUnavailable", "{told:#}");
    assert_eq!(scene.sandbox.executions(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_follow_when_every_cache_has_the_ring_and_not_before() {
    let scene = reencrypting_with(with_old_key(KeyFormat::Raw).await, "1h").await;
    for _ in 0..2 {
        let told = swept(&scene).await;
        assert_eq!((&told["started"], &told["oldKeys"]), (&json!(false), &json!(1)), "{told}");
        assert!(told["because"].as_str().unwrap().contains("consumers may not have read it"), "{told}");
        assert_eq!(scene.sandbox.executions(), []);
        scene.sandbox.advance(HOUR / 2 + Duration::from_secs(1)).await.unwrap();
    }
    assert_eq!(swept(&scene).await["started"], true);
    assert_eq!(scene.sandbox.executions().len(), 1);
    // What is changed all the time would never follow, and that is told.
    let scene = reencrypting_with(with_old_key(KeyFormat::Raw).await, "1h").await;
    for hours in [0, 26] {
        scene.sandbox.advance(hours * HOUR).await.unwrap();
        let tag = Tag::builder().key("cost-centre").value(hours.to_string()).build();
        scene.client.tag_resource().secret_id(end_to_end::KEY_SECRET).tags(tag).send().await.unwrap();
        let (told, sent) = scheduled(&scene).await;
        assert_eq!(told["reencryption"]["started"], false, "{told:#}");
        let is_told = sent.iter().any(|(_, message)| message.contains("find out what changes it"));
        assert_eq!(is_told, hours > 0, "{sent:?}");
    }
}
