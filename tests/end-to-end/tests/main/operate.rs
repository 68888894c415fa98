//! The function for operators, built and invoked as they do.

use std::time::Duration;

use application::KeyFormat;
use bytes::Bytes;
use end_to_end::{ADMIN_TOKEN, OPERATE, Plan, SECRET, Scene};
use rotation::keyring::Keyring;
use sandbox::{Fault, FaultRule, Moment, StepError};
use serde_json::{Value, json};

use crate::aws_cli::Cli;
use crate::keys::{bare_key, declared, key_secret, parsed};
use crate::support::*;

const HOUR: Duration = Duration::from_secs(60 * 60);

async fn with_operator(plan: Plan) -> Scene {
    start(plan).await.with_operator(&[]).await.unwrap()
}

fn keys(format: KeyFormat) -> Plan {
    Plan::key_json(&key_secret(&bare_key(format, 1)), format)
}

async fn ask(scene: &Scene, event: Value) -> Result<Value, StepError> {
    let invocation = scene.sandbox.host().invoke(OPERATE, Bytes::from(event.to_string())).await.unwrap();
    let answer: Value = serde_json::from_slice(&invocation.payload).unwrap();
    match invocation.function_error {
        None => Ok(answer),
        Some(_) => Err(step_error(&answer)),
    }
}

async fn operate(scene: &Scene, action: &str) -> Result<Value, StepError> {
    let (secret, reason) = (scene.secret(), "a test");
    ask(scene, json!({ "action": action, "secret_id": secret, "reason": reason, "confirm": secret })).await
}

async fn done(scene: &Scene, action: &str) -> Value {
    let answer = operate(scene, action).await;
    answer.unwrap_or_else(|error| panic!("{action}: {error:?}\n{}", operator_log(scene)))
}

async fn refused(scene: &Scene, action: &str) -> StepError {
    operate(scene, action).await.expect_err(action)
}

fn operator_log(scene: &Scene) -> String {
    scene.sandbox.host().logs(OPERATE).join("\n")
}

async fn ring(scene: &Scene, format: KeyFormat) -> Keyring {
    let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
    parsed(format, &value, true).1
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_versions_policy_schedule_and_overlap_by_the_aws_cli_and_no_value() {
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    let event = json!({ "action": "status", "secret_id": scene.secret() });
    let (status, answer) = Cli::new(&scene).invoke(OPERATE, &event).await;
    assert!(status.get("FunctionError").is_none(), "{answer}");
    println!("{answer:#}");
    assert_eq!((answer["kind"].as_str(), answer["secret"].as_str()), (Some("admin-token"), Some(SECRET)));
    assert_eq!(answer["versions"].as_array().unwrap().len(), 2);
    assert_eq!(answer["policy"]["rotation:field"], json!({ "value": "ADMIN_TOKEN", "from": "tag" }));
    assert_eq!(answer["policy"]["rotation:overlap"], json!({ "value": "24h", "from": "default" }));
    assert!(answer["policy"].get("rotation:promotion").is_none(), "a setting of another kind");
    let left = answer["overlapSecondsLeft"].as_u64().unwrap();
    assert!((86_000..=86_400).contains(&left), "{left}");
    assert_eq!(answer["rotation"]["open"], Value::Null);
    for stage in ["AWSCURRENT", "AWSPREVIOUS"] {
        assert!(!answer.to_string().contains(&scene.token(stage).await.unwrap()));
    }

    let scene = with_operator(Plan { instances: 0, ..declared(keys(KeyFormat::Tink)) }).await;
    rotate(&scene).await;
    let answer = done(&scene, "status").await;
    println!("{answer:#}");
    let states: Vec<_> = answer["keys"].as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["primary", "staged"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_proves_the_current_value_and_says_what_is_wrong_with_it() {
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    assert_eq!(done(&scene, "verify").await["verified"], true);
    // A token that the application does not load.
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
    let value = json_secret("a-token-that-nobody-told-the-application-of-0123456789");
    scene.client.put_secret_value().secret_id(SECRET).secret_string(value).send().await.unwrap();
    assert_eq!(refused(&scene, "verify").await.error_type, "TargetRefused");

    let scene = with_operator(keys(KeyFormat::Raw)).await;
    rotate(&scene).await;
    assert_eq!(done(&scene, "verify").await["by"], json!(["canaries under every key", "the application"]));

    // Where nobody is asked, nothing is claimed.
    let scene = with_operator(no_target(json_plan())).await;
    rotate(&scene).await;
    assert_eq!(done(&scene, "verify").await["verified"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_of_a_token_brings_the_one_before_back_and_keeps_the_newer_one_accepted() {
    for plan in [json_plan(), text_plan()] {
        let scene = with_operator(plan).await;
        let first = scene.token("AWSCURRENT").await.unwrap();
        assert_eq!(refused(&scene, "rollback").await.error_type, "NotManaged", "it is not rotated yet");
        rotate(&scene).await;
        let second = scene.token("AWSCURRENT").await.unwrap();
        if scene.value("AWSCURRENT").await.unwrap().unwrap().contains("limits") {
            // What a person edited since stays.
            let edited = scene.value("AWSCURRENT").await.unwrap().unwrap().replace("2e3", "3e3");
            scene.client.put_secret_value().secret_id(SECRET).secret_string(edited).send().await.unwrap();
        }
        let answer = done(&scene, "rollback").await;
        println!("{answer:#}");
        assert_eq!(scene.token("AWSCURRENT").await.unwrap(), first);
        assert_eq!(scene.accepted(&first).await.unwrap(), [true, true]);
        assert_eq!(scene.accepted(&second).await.unwrap(), [true, true], "nobody is locked out");
        let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
        assert!(value == first || value.contains("3e3"), "the edit is gone");
        let stages = scene.stages().await.unwrap();
        assert!(!format!("{stages:?}").contains("ROTATION-"), "{stages:?}");
        // The next rotation works.
        rotate(&scene).await;
        assert_eq!(scene.accepted(&scene.token("AWSCURRENT").await.unwrap()).await.unwrap(), [true, true]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_of_a_key_makes_the_old_primary_encrypt_again_and_keeps_the_new_one() {
    for format in [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink] {
        let scene = with_operator(keys(format)).await;
        rotate(&scene).await;
        assert_eq!(refused(&scene, "rollback").await.error_type, "NothingToGoBackTo");
        rotate(&scene).await;
        let before = ring(&scene, format).await;
        let load = scene.records(60, 1);
        eventually("records are written", || async { load.report().written >= 20 }).await;
        let answer = done(&scene, "rollback").await;
        println!("{answer:#}");
        let after = ring(&scene, format).await;
        assert_eq!(after.primary().id(), before.secondary()[0].id());
        assert!(after.holds_all_of(&before) && before.holds_all_of(&after), "no key came or went");
        let written = load.report().written;
        eventually("more records are written", || async { load.report().written >= written + 20 }).await;
        let report = load.stop().await;
        assert_eq!((report.unreadable, report.failed), (0, 0), "{report:?}");
        let everywhere = scene.read_everywhere().await;
        assert_eq!((everywhere.unreadable, everywhere.failed), (0, 0), "{everywhere:?}");
        rotate(&scene).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_ends_the_overlap_and_proves_that_the_old_token_is_refused() {
    for plan in [json_plan(), text_plan()] {
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        let (old, new) = (FIRST, scene.token("AWSCURRENT").await.unwrap());
        assert_eq!(scene.accepted(old).await.unwrap(), [true, true]);
        let answer = done(&scene, "revoke").await;
        println!("{answer:#}");
        assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(1), &json!(true)));
        assert_eq!(scene.accepted(old).await.unwrap(), [false, false]);
        assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
        assert_eq!(scene.token("AWSCURRENT").await.unwrap(), new);
        // Once more is no harm.
        assert_eq!(done(&scene, "revoke").await["tokensRevoked"], 0);
        rotate(&scene).await;
    }
    let scene = with_operator(keys(KeyFormat::Raw)).await;
    rotate(&scene).await;
    let error = refused(&scene, "revoke").await;
    assert_eq!(error.error_type, "NotForThisKind");
    assert!(error.message.contains("compromise"), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn revoke_takes_nothing_away_from_a_current_value_that_does_not_work() {
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
    let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
    let broken =
        value.replace(&scene.token("AWSCURRENT").await.unwrap(), "a-token-that-no-instance-has-loaded-012345678");
    scene.client.put_secret_value().secret_id(SECRET).secret_string(&broken).send().await.unwrap();
    assert_eq!(refused(&scene, "revoke").await.error_type, "CurrentDoesNotVerify");
    assert_eq!(scene.value("AWSCURRENT").await.unwrap().unwrap(), broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_gives_up_a_stuck_rotation_once_it_is_old_enough_and_the_next_one_works() {
    let scene = with_operator(once(json_plan())).await;
    rotate(&scene).await;
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
    fail_to_rotate(&scene).await;
    let pending = scene.token("AWSPENDING").await.unwrap();
    for action in ["rollback", "revoke"] {
        assert_eq!(refused(&scene, action).await.error_type, "RotationOpen");
    }
    let error = refused(&scene, "abort").await;
    assert_eq!(error.error_type, "TooYoungToAbort", "{}", error.message);
    scene.sandbox.advance(HOUR).await.unwrap();
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(false));
    let doctor = done(&scene, "doctor").await;
    assert_eq!(doctor["healthy"], false);
    let answer = done(&scene, "abort").await;
    println!("{answer:#}");
    assert_eq!(answer["verified"], true);
    assert!(scene.value("AWSPENDING").await.unwrap().is_none());
    assert_eq!(scene.accepted(&pending).await.unwrap(), [false, false], "the application has dropped it");
    rotate(&scene).await;
    assert_eq!(done(&scene, "abort").await["aborted"], Value::Null, "nothing is open any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn compromise_of_a_token_replaces_it_and_revokes_the_old_one() {
    for plan in [json_plan(), text_plan()] {
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        let known = scene.token("AWSCURRENT").await.unwrap();
        let event =
            json!({ "action": "compromise", "secret_id": SECRET, "reason": "leaked in a log", "confirm": "yes" });
        assert_eq!(ask(&scene, event).await.unwrap_err().error_type, "NotConfirmed");
        let answer = done(&scene, "compromise").await;
        println!("{answer:#}");
        let new = scene.token("AWSCURRENT").await.unwrap();
        assert_ne!(new, known);
        assert_eq!(scene.accepted(&known).await.unwrap(), [false, false]);
        assert_eq!(scene.accepted(FIRST).await.unwrap(), [false, false]);
        assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
        assert!(!format!("{:?}", scene.stages().await.unwrap()).contains("ROTATION-"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compromise_of_a_keyring_replaces_both_keys_marks_them_and_leaves_them_readable() {
    for format in [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink] {
        let scene = with_operator(keys(format)).await;
        rotate(&scene).await;
        let load = scene.records(60, 2);
        eventually("records are written", || async { load.report().written >= 20 }).await;
        let before = ring(&scene, format).await;
        let answer = done(&scene, "compromise").await;
        println!("{answer:#}");
        let after = ring(&scene, format).await;
        let written = load.report().written;
        eventually("more records are written", || async { load.report().written >= written + 20 }).await;
        let report = load.stop().await;
        assert_eq!((report.unreadable, report.failed), (0, 0), "{report:?}");
        let fresh = [Some(after.primary()), after.staged()].into_iter().flatten();
        assert_eq!(fresh.filter(|key| before.get(key.id()).is_none()).count(), 2, "both are fresh");
        for (_, key) in before.keys() {
            let held = after.get(key.id()).expect("no key was dropped");
            assert!(held.dates().compromised.is_some(), "it is marked");
        }
        // Repeated, it changes nothing more; and none of the two is ever primary again.
        done(&scene, "compromise").await;
        assert_eq!(ring(&scene, format).await.primary().id(), after.primary().id());
        let error = refused(&scene, "rollback").await;
        assert_eq!(error.error_type, "Compromised");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_dies_between_any_two_calls_is_finished_by_the_next_try() {
    for action in ["rollback", "revoke", "compromise"] {
        for operation in ["PutSecretValue", "UpdateSecretVersionStage", "RotateSecret"] {
            for (when, which) in [(Moment::Before, 1), (Moment::After, 1), (Moment::After, 2)] {
                let scene = with_operator(json_plan()).await;
                rotate(&scene).await;
                let known = scene.token("AWSCURRENT").await.unwrap();
                let kill = Fault::KillFunction { function: OPERATE.to_owned(), when };
                let rule = FaultRule { first: which, ..FaultRule::on(operation, kill).from_caller(OPERATE) };
                scene.sandbox.faults().add(rule);
                let died = operate(&scene, action).await.is_err();
                scene.sandbox.faults().clear();
                let current = scene.token("AWSCURRENT").await.unwrap();
                assert_eq!(scene.accepted(&current).await.unwrap().len(), 2);
                // A rollback that came to its end without saying so would be undone by another one: it is looked at first.
                if died && (action != "rollback" || current == known) {
                    done(&scene, action).await;
                }
                let current = scene.token("AWSCURRENT").await.unwrap();
                done(&scene, "verify").await;
                assert_eq!(
                    scene.accepted(&current).await.unwrap(),
                    [true, true],
                    "{action} {operation} {when:?} {which}"
                );
                if action == "compromise" {
                    assert_eq!(scene.accepted(&known).await.unwrap(), [false, false], "{operation} {when:?} {which}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_what_is_wrong_and_names_the_command_that_repairs_it() {
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    let well = done(&scene, "doctor").await;
    println!("{well:#}");
    assert_eq!(well["healthy"], true);
    let broken = |answer: &Value, check: &str| -> Value {
        let findings = answer["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check && finding["ok"] == false);
        found.unwrap_or_else(|| panic!("{check}: {answer:#}")).clone()
    };
    tag(&scene, "rotation:overlap", "99 years").await;
    let answer = done(&scene, "doctor").await;
    assert!(broken(&answer, "policy")["repair"].as_str().unwrap().starts_with("aws secretsmanager tag-resource"));
    tag(&scene, "rotation:overlap", "24h").await;
    scene.client.cancel_rotate_secret().secret_id(SECRET).send().await.unwrap();
    let answer = done(&scene, "doctor").await;
    assert!(broken(&answer, "rotation")["repair"].as_str().unwrap().contains("rotate-secret --secret-id"));
    rotate(&scene).await;
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
    let value = json_secret("a-token-that-nobody-told-the-application-of-0123456789");
    scene.client.put_secret_value().secret_id(SECRET).secret_string(value).send().await.unwrap();
    broken(&done(&scene, "doctor").await, "target");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_strict_and_only_what_the_deployment_allows_is_done() {
    let scene = start(json_plan()).await.with_operator(&[("ALLOWED_ACTIONS", "status, verify")]).await.unwrap();
    rotate(&scene).await;
    done(&scene, "verify").await;
    let error = refused(&scene, "revoke").await;
    assert_eq!(error.error_type, "ActionNotAllowed");
    assert!(error.message.contains("status, verify"), "{}", error.message);
    for (event, member) in [
        (json!([]), "(the event)"),
        (json!({ "action": "status" }), "secret_id"),
        (json!({ "action": "statsu", "secret_id": SECRET }), "action"),
        (json!({ "action": "status", "secret_id": SECRET, "force": true }), "force"),
        (json!({ "action": "revoke", "secret_id": SECRET }), "reason"),
        (json!({ "action": "status", "secret_id": 7 }), "secret_id"),
    ] {
        let error = ask(&scene, event.clone()).await.unwrap_err();
        assert_eq!(error.error_type, "InvalidRequest", "{event}");
        assert!(error.message.contains(&format!("event member {member}:")), "{}", error.message);
    }
    let outside = json!({ "action": "status", "secret_id": "other/secret" });
    scene.client.create_secret().name("other/secret").secret_string("x").send().await.unwrap();
    assert_eq!(ask(&scene, outside).await.unwrap_err().error_type, "NameNotAllowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_is_recorded_with_its_reason_at_any_log_level_and_shows_no_value() {
    let scene = start(json_plan()).await;
    let scene = scene.with_operator(&[("AWS_LAMBDA_LOG_LEVEL", "TRACE"), ("RUST_LOG", "trace")]).await.unwrap();
    rotate(&scene).await;
    let mut values = vec![FIRST.to_owned(), scene.token("AWSCURRENT").await.unwrap()];
    let mut shown = String::new();
    for action in ["status", "verify", "doctor", "rollback", "revoke", "abort", "compromise"] {
        shown += &done(&scene, action).await.to_string();
        values.push(scene.token("AWSCURRENT").await.unwrap());
    }
    shown += &format!("{:?}", refused(&scene, "rollback").await);
    scene.sandbox.host().set_environment(OPERATE, "AWS_LAMBDA_LOG_LEVEL", "ERROR").unwrap();
    done(&scene, "verify").await;
    let log = operator_log(&scene);
    let recorded = |action: &str| {
        log.lines()
            .filter(|line| line.contains("\"audit\"") && line.contains(&format!("\"action\":\"{action}\"")))
            .count()
    };
    assert_eq!((recorded("verify"), recorded("compromise"), recorded("rollback")), (2, 1, 2), "{log}");
    assert!(log.contains("\"reason\":\"a test\"") && log.contains("\"request_id\":"), "{log}");
    shown += &log;
    assert!(!values.iter().any(|value| shown.contains(value.as_str())), "a value is shown");
    assert!(!shown.contains(ADMIN_TOKEN));
}

/// Promise 4: whichever of the two comes first, nothing is mixed.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_beside_a_rotation_ends_as_one_of_the_two() {
    for step in [sandbox::Step::Create, sandbox::Step::Set, sandbox::Step::Test, sandbox::Step::Finish] {
        let scene = with_operator(json_plan()).await;
        rotate(&scene).await;
        let rule = hold_before(&scene, step, 400);
        begin_until(&scene, rule).await;
        let answer = operate(&scene, "rollback").await;
        let outcome = end(&scene).await;
        assert_eq!(answer.unwrap_err().error_type, "RotationOpen", "{step:?}");
        assert!(outcome.is_success(), "{step:?}: {outcome:?}");
        let current = scene.token("AWSCURRENT").await.unwrap();
        assert_eq!(scene.accepted(&current).await.unwrap(), [true, true]);
    }
}

async fn sweep(scene: &Scene) -> Value {
    let answer = ask(scene, json!({ "action": "sweep" })).await;
    answer.unwrap_or_else(|error| panic!("{error:?}\n{}", operator_log(scene)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_ends_overlaps_that_are_over_and_no_other_and_proves_it() {
    for plan in [json_plan(), text_plan()] {
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        let (old, new) = (FIRST, scene.token("AWSCURRENT").await.unwrap());
        let first = sweep(&scene).await;
        println!("{first:#}");
        assert_eq!((&first["managed"], &first["verified"], &first["failed"]), (&json!(1), &json!(1), &json!(0)));
        assert_eq!(first["revoked"], json!([]), "the overlap is open");
        assert_eq!(scene.accepted(old).await.unwrap(), [true, true]);
        scene.sandbox.advance(26 * HOUR).await.unwrap();
        // The applications' caches are an hour old by now as well; what counts is what is left in the secret.
        let second = sweep(&scene).await;
        assert_eq!(second["revoked"], json!([SECRET]), "{second:#}");
        let left =
            format!("{:?}{:?}", scene.value("AWSCURRENT").await.unwrap(), scene.value("AWSPREVIOUS").await.unwrap());
        assert!(!left.contains(old), "the old token is still in the secret");
        assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
        scene.sandbox.advance(26 * HOUR).await.unwrap();
        assert_eq!(sweep(&scene).await["revoked"], json!([]), "there is nothing left to revoke");
        assert_eq!(total(&scene, "SweepCompleted"), 3.0);
        assert_eq!(total(&scene, "OverlapExpired") + total(&scene, "OldTokenAccepted"), 0.0);
        assert!(total(&scene, "SecretAgeMax") > 26.0, "hours");
        rotate(&scene).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_tells_of_what_does_not_work_of_what_is_stuck_and_of_what_is_overdue_and_goes_on() {
    let scene = with_operator(once(json_plan())).await;
    rotate(&scene).await;
    scene.client.create_secret().name("shop/other").secret_string("nobody rotates me").send().await.unwrap();
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
    let value = json_secret("a-token-that-nobody-told-the-application-of-0123456789");
    scene.client.put_secret_value().secret_id(SECRET).secret_string(value).send().await.unwrap();
    let answer = sweep(&scene).await;
    println!("{answer:#}");
    assert_eq!((&answer["secrets"], &answer["managed"], &answer["failed"]), (&json!(2), &json!(1), &json!(1)));
    assert_eq!(answer["problems"][0]["error"], "TargetRefused");

    fail_to_rotate(&scene).await;
    assert_eq!(sweep(&scene).await["stuck"], json!([]), "it is young");
    scene.sandbox.advance(HOUR).await.unwrap();
    let answer = sweep(&scene).await;
    assert_eq!(answer["stuck"], json!([SECRET]), "{answer:#}");
    assert_eq!(total(&scene, "StuckPending"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_starts_a_sweep_and_no_other_event_does() {
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    let event = |detail_type: &str| {
        json!({
            "version": "0", "id": "89d1a02d-5ec7-412e-82f5-13505f849b41", "detail-type": detail_type,
            "source": "aws.events", "account": "123456789012", "time": "2026-12-30T18:44:49Z", "region": "us-east-1",
            "resources": ["arn:aws:events:us-east-1:123456789012:rule/sweep"], "detail": {}
        })
    };
    assert_eq!(ask(&scene, event("Scheduled Event")).await.unwrap()["managed"], 1);
    assert_eq!(ask(&scene, event("Something else")).await.unwrap_err().error_type, "InvalidRequest");
    let wrong = ask(&scene, json!({ "action": "sweep", "secret_id": SECRET })).await.unwrap_err();
    assert_eq!(wrong.error_type, "InvalidRequest");
    let only_people = start(json_plan()).await.with_operator(&[("ALLOWED_ACTIONS", "status")]).await.unwrap();
    assert_eq!(ask(&only_people, event("Scheduled Event")).await.unwrap_err().error_type, "ActionNotAllowed");
}
