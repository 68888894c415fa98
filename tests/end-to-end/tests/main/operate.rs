//! The function for operators, built and invoked as they do.

use std::time::Duration;

use application::KeyFormat;
use end_to_end::{ADMIN_TOKEN, KEY_FIELD, OPERATE, Plan, SECRET, Scene};
use sandbox::{RotationOutcome, StepError};
use serde_json::{Value, json};

use crate::archive::with_archive;
use crate::aws_cli::Cli;
use crate::keys::{bare_key, declared, key_secret};
use crate::support::*;

mod changes;
mod refused_retirements;
mod retire;
mod ring;
mod sweep;

const HOUR: Duration = Duration::from_secs(60 * 60);

async fn with_operator(plan: Plan) -> Scene {
    start(plan).await.with_operator(&[]).await.unwrap()
}

fn keys(format: KeyFormat) -> Plan {
    Plan::key_json(&key_secret(&bare_key(format, 1)), format)
}

async fn ask(scene: &Scene, event: Value) -> Result<Value, StepError> {
    scene.operate(&event).await.unwrap().map_err(|error| step_error(&error))
}

async fn operate(scene: &Scene, action: &str) -> Result<Value, StepError> {
    ask(scene, request(scene, action)).await
}

/// What an operator sends.
fn request(scene: &Scene, action: &str) -> Value {
    let secret = scene.secret();
    let mut request = json!({ "action": action, "secret_id": secret, "reason": "a test" });
    if action == "compromise" {
        request["confirm"] = json!(secret);
    }
    request
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

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_versions_policy_schedule_overlap_and_no_value() {
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
    assert_eq!(answer["policy"]["rotation:promotion"], json!({ "value": "immediate", "from": "default" }));
    assert!(answer["policy"].get("rotation:key-format").is_none(), "a setting of another kind");
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
async fn verify_proves_the_current_value_or_says_what_is_wrong() {
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
async fn doctor_names_what_is_wrong_and_the_repairing_command() {
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
    assert!(broken(&answer, "policy")["repair"].as_str().unwrap().starts_with("aws secretsmanager untag-resource"));
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
async fn an_empty_object_is_no_value_until_it_is_rotated() {
    let plan = Plan { value: Some("{}".to_owned()), ..json_plan() };
    let scene = with_operator(no_target(plan)).await;
    // What a deployment does: it tests the configuration, and rotates nothing.
    let tested = scene.configure().await.unwrap();
    assert!(matches!(tested, RotationOutcome::TestSucceeded { .. }), "{tested:?}");
    assert_eq!(done(&scene, "status").await["problem"]["error"], "EmptyValue");
    rotate(&scene).await;
    assert_eq!(scene.token("AWSCURRENT").await.unwrap().len(), 64);
    assert_eq!(done(&scene, "doctor").await["findings"][1]["ok"], true);
    assert_eq!(refused(&scene, "rollback").await.error_type, "NothingToGoBackTo");
    rotate(&scene).await;
    let lost = scene.stages().await.unwrap();
    scene.client.put_secret_value().secret_id(SECRET).secret_string("{}").send().await.unwrap();
    let error = refused(&scene, "verify").await;
    assert_eq!(error.error_type, "ValueLost", "{error:?}, {lost:?}");
}

/// Rotated twice by its own function, and then pointed at the other one.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_stays_whole_under_the_token_function() {
    let [one, two, three] = [1, 2, 3].map(|number| bare_key(KeyFormat::Raw, number));
    let ring = format!(r#"{{"{KEY_FIELD}":"{one}","{KEY_FIELD}_STAGED":"{two}","{KEY_FIELD}_PREVIOUS":"{three}"}}"#);
    let plan = Plan { field: Some(KEY_FIELD), value: Some(ring.clone()), ..text_plan() };
    let scene = with_operator(once(no_target(plan))).await;
    let error = fail_to_rotate(&scene).await;
    assert_eq!(error.error_type, "WrongKind", "{error:?}");
    for action in ["rollback", "revoke", "verify"] {
        assert_eq!(refused(&scene, action).await.error_type, "WrongKind", "{action}");
    }
    assert_eq!(done(&scene, "doctor").await["healthy"], false);
    assert_eq!(scene.value("AWSCURRENT").await.unwrap(), Some(ring));
    assert_eq!(scene.value("AWSPENDING").await.unwrap(), None, "nothing is left that blocks what comes next");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_schedule_that_ends_overlaps_early() {
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    for (schedule, ok) in [("rate(4 hours)", false), ("cron(0 8,20 * * ? *)", false), ("rate(10 days)", true)] {
        let rules = rules(schedule);
        let rotate = scene.client.rotate_secret().secret_id(SECRET).rotation_rules(rules).rotate_immediately(false);
        rotate.send().await.unwrap();
        let tested = scene.sandbox.wait_for_rotation(SECRET, end_to_end::ROTATION_TIMEOUT).await.unwrap();
        // The test of the configuration reads rates; the calendar of a cron expression is doctor's.
        let refused =
            matches!(&tested, RotationOutcome::TestFailed { error, .. } if error.error_type == "InvalidPolicy");
        assert_eq!(refused, schedule == "rate(4 hours)", "{tested:?}");
        let answer = done(&scene, "doctor").await;
        let findings = answer["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["check"] == "configuration").unwrap();
        assert_eq!(finding["ok"], ok, "{schedule}: {finding}");
        assert!(ok || finding["detail"].as_str().unwrap().contains("rotation:overlap"), "{finding}");
    }
}

/// A text keyring cannot be staged, though each setting alone is usable.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_policy_that_does_not_fit_the_value() {
    let scene = with_operator(Plan::key_text(&bare_key(KeyFormat::Fernet, 1), KeyFormat::Fernet)).await;
    rotate(&scene).await;
    assert_eq!(done(&scene, "doctor").await["healthy"], true);
    tag(&scene, "rotation:promotion", "staged").await;
    let answer = done(&scene, "doctor").await;
    let findings = answer["findings"].as_array().unwrap();
    let wrong: Vec<_> = findings.iter().filter(|finding| finding["ok"] == false).collect();
    let [finding] = wrong[..] else { panic!("{answer:#}") };
    assert_eq!(finding["check"], "configuration");
    assert!(finding["detail"].as_str().unwrap().contains("rotation:promotion"), "{finding}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_strict_and_bounded_by_the_deployment() {
    let scene = start(json_plan()).await.with_operator(&[("ALLOWED_ACTIONS", "status, verify")]).await.unwrap();
    rotate(&scene).await;
    done(&scene, "verify").await;
    let error = refused(&scene, "abort").await;
    assert_eq!(error.error_type, "ActionNotAllowed");
    assert!(error.message.contains("status, verify"), "{}", error.message);
    for (event, member) in [
        (json!([]), "(the event)"),
        (json!({ "action": "status" }), "secret_id"),
        (json!({ "action": "statsu", "secret_id": SECRET }), "action"),
        (json!({ "action": "status", "secret_id": SECRET, "force": true }), "force"),
        (json!({ "action": "abort", "secret_id": SECRET }), "reason"),
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
async fn every_operation_is_recorded_with_its_reason_without_values() {
    for plan in [json_plan(), text_plan(), keys(KeyFormat::Raw)] {
        let revocable = plan.keys.is_none();
        let scene = if revocable { start(plan).await } else { with_archive(plan).await };
        let scene = scene.with_operator(&[("AWS_LAMBDA_LOG_LEVEL", "TRACE"), ("RUST_LOG", "trace")]).await.unwrap();
        let mut values = scene.secret_values().await.unwrap();
        rotate(&scene).await;
        rotate(&scene).await;
        values.extend(scene.secret_values().await.unwrap());
        let mut shown = String::new();
        for action in ["status", "verify", "doctor", "rollback", "rollback", "revoke", "abort", "compromise", "sweep"] {
            let answer = match action {
                "sweep" => ask(&scene, json!({ "action": "sweep" })).await,
                _ => operate(&scene, action).await,
            };
            assert_eq!(answer.is_ok(), revocable || action != "revoke", "{action}: {answer:?}");
            shown += &format!("{answer:?}");
            values.extend(scene.secret_values().await.unwrap());
        }
        shown += &format!("{:?}", refused(&scene, "rollback").await);
        if !revocable {
            let censuses = retire::two_censuses(&scene, KeyFormat::Raw).await;
            let answer = ask(&scene, retire::request(&scene, &censuses)).await;
            assert!(answer.is_ok(), "{answer:?}");
            shown += &format!("{answer:?}");
            assert_eq!(retire::audited(&operator_log(&scene)), 2, "before it begins, and when it is done");
        }
        scene.sandbox.host().set_environment(OPERATE, "AWS_LAMBDA_LOG_LEVEL", "ERROR").unwrap();
        done(&scene, "verify").await;
        let log = operator_log(&scene);
        let recorded = |action: &str| {
            log.lines()
                .filter(|line| line.contains("\"audit\"") && line.contains(&format!("\"action\":\"{action}\"")))
                .count()
        };
        // What changes something is recorded before it is done, too. A test gives a reason for everything.
        assert_eq!((recorded("status"), recorded("rollback"), recorded("compromise")), (2, 6, 2), "{log}");
        assert!(log.contains("\"result\":\"begun\"") && log.contains("\"result\":\"done\""), "{log}");
        assert!(log.contains("\"reason\":\"a test\"") && log.contains("\"request_id\":"), "{log}");
        assert!(log.contains("\"version\":") && log.contains("\"old_version\":"), "{log}");
        shown += &log;
        assert!(values.len() >= 4, "{}", values.len());
        assert!(!values.iter().any(|value| shown.contains(value.as_str())), "a value is shown");
        assert!(!shown.contains(ADMIN_TOKEN));
    }
}
