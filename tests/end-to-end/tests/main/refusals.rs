//! Bad input: each has a stable error type and a message that says what to do, and leaves `AWSCURRENT` untouched.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_secretsmanager::primitives::Blob;
use axum::http::{StatusCode, header};
use end_to_end::{FUNCTION, Plan, SECRET, Scene};
use sandbox::{Fault, FaultRule, RotationOutcome, Step, StepError};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::aws_cli::Cli;
use crate::stub::Stub;
use crate::support::*;

fn assert_says(error: &StepError, error_type: &str, says: &[&str]) {
    assert_eq!(error.error_type, error_type, "{error:?}");
    for words in says {
        assert!(error.message.contains(words), "{words:?} is not in {error:?}");
    }
}

/// Rotates, and insists on this failure, on `AWSCURRENT` as it was, and on the metric of this error type.
async fn refused(scene: &Scene, error_type: &str, says: &[&str]) -> StepError {
    let before = current(scene).await;
    let error = fail_to_rotate(scene).await;
    assert_says(&error, error_type, says);
    assert_eq!(current(scene).await, before, "AWSCURRENT was touched");
    error
}

fn metric_counts(scene: &Scene, error_type: &str) -> bool {
    metrics(scene).iter().any(|(name, dimensions, _)| {
        name == "RotationFailed" && dimensions.get("ErrorType").is_some_and(|of| of == error_type)
    })
}

/// A secret without an application: the refusal comes from the secret or the configuration.
async fn alone(plan: Plan, error_type: &str, says: &[&str]) -> Scene {
    let scene = start(once(no_target(plan))).await;
    let error = refused(&scene, error_type, says).await;
    // Without a usable region, credentials or address of AWS, metrics cannot be sent either.
    let without_metrics = error.message.starts_with("environment variable AWS_");
    assert!(without_metrics || metric_counts(&scene, error_type));
    scene
}

async fn tagged(key: &'static str, value: &'static str, error_type: &str, says: &[&str]) {
    let scene = alone(Plan { tags: vec![(key, value)], ..text_plan() }, error_type, says).await;
    assert!(metric_counts(&scene, error_type));
}

async fn configured(environment: &[(&'static str, &str)], error_type: &str, says: &[&str]) {
    let environment = environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let scene = alone(Plan { environment, ..text_plan() }, error_type, says).await;
    assert!(log(&scene).contains("the configuration is not usable"), "not logged at the start");
}

async fn valued(value: &str, error_type: &str, says: &[&str]) {
    alone(Plan { value: Some(value.to_owned()), ..json_plan() }, error_type, says).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_with_too_few_staging_labels_left_says_so_first() {
    let scene = start(once(no_target(text_plan()))).await.with_operator(&[]).await.unwrap();
    let (version, _) = current(&scene).await.unwrap();
    // AWSPENDING is the twentieth, and there is no AWSPREVIOUS yet.
    fill_stages(&scene, &version, 19).await;
    let puts = Counter::of(&scene, "PutSecretValue");
    refused(&scene, "TooFewStages", &["uses 20 of its 20 staging labels", "1 more", "nothing was written"]).await;
    assert_eq!((puts.count(&scene), scene.value("AWSPENDING").await.unwrap()), (0, None));
    let doctor = scene.operate(&json!({ "action": "doctor", "secret_id": SECRET })).await.unwrap().unwrap();
    let finding = doctor["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "stages").unwrap();
    assert!(finding["ok"] == false && finding["detail"].as_str().unwrap().contains("19 of 20"), "{finding}");
    // What nobody needs comes off, and it goes on.
    for label in ["team-1", "team-2"] {
        let off = scene.client.update_secret_version_stage().secret_id(SECRET).version_stage(label);
        off.remove_from_version_id(&version).send().await.unwrap();
    }
    rotate(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_awspending_is_an_error_and_is_left_alone() {
    let scene = start(no_target(text_plan())).await;
    let before = current(&scene).await;
    let rule = hold_before(&scene, Step::Set, 400);
    let version = begin_until(&scene, rule).await;
    let theirs = scene.client.put_secret_value().secret_id(SECRET).secret_string("somebody-elses-pending-value");
    let theirs = theirs.version_stages("AWSPENDING").send().await.unwrap().version_id.unwrap();
    let outcome = end(&scene).await;
    assert!(matches!(outcome, RotationOutcome::Abandoned { .. }), "{outcome:?}");

    let errors = step_errors(&scene.sandbox.events());
    assert_says(
        &errors[0].1,
        "UnknownVersion",
        &[&version, "abandoned for another write", "aws secretsmanager rotate-secret"],
    );
    for step in Step::ALL {
        let error = invoke(&scene, &event(step, &version)).await.unwrap_err();
        assert_says(&error, "UnknownVersion", &[&version]);
    }
    // The same while the rotation's version still carries a stage of its own.
    let labelled = scene.client.update_secret_version_stage().secret_id(SECRET).version_stage("rotated-by-us");
    labelled.move_to_version_id(&version).send().await.unwrap();
    for step in Step::ALL {
        let error = invoke(&scene, &event(step, &version)).await.unwrap_err();
        let says = [theirs.as_str(), "which this rotation did not create", "run rotate-secret again"];
        assert_says(&error, "NotPending", &says);
    }
    let request = scene.client.rotate_secret().secret_id(SECRET).rotation_lambda_arn(scene.function_arn());
    assert!(request.send().await.is_err(), "Secrets Manager itself starts nothing beside it");
    assert_eq!(current(&scene).await, before);
    assert_eq!(stages_of(&scene, &theirs).await, set(&["AWSPENDING"]));
    assert_eq!(scene.value("AWSPENDING").await.unwrap().as_deref(), Some("somebody-elses-pending-value"));
}

#[tokio::test(flavor = "multi_thread")]
async fn late_event_of_a_superseded_rotation_is_refused() {
    let scene = start(no_target(text_plan())).await;
    let (first, second) = (rotate(&scene).await, rotate(&scene).await);
    let before = current(&scene).await;
    for step in Step::ALL {
        let error = invoke(&scene, &event(step, &first)).await.unwrap_err();
        assert_says(&error, "NotPending", &[&first, &second, "this rotation is over"]);
    }
    assert_eq!(current(&scene).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn hold_forbids_rotation_until_its_date_or_its_removal() {
    let scene = start(once(no_target(json_plan()))).await;
    let until = scene.sandbox.now() + Duration::from_secs(10 * 86_400);
    let until = humantime::format_rfc3339_seconds(until).to_string();
    tag(&scene, "rotation:hold", &until).await;
    refused(&scene, "OnHold", &[&until, "remove the tag"]).await;
    scene.client.untag_resource().secret_id(SECRET).tag_keys("rotation:hold").send().await.unwrap();
    rotate(&scene).await;

    tag(&scene, "rotation:hold", &until).await;
    refused(&scene, "OnHold", &[&until]).await;
    scene.sandbox.advance(Duration::from_secs(11 * 86_400)).await.unwrap();
    rotate(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_version_past_half_its_overlap_is_given_up() {
    let scene = start(once(no_target(text_plan()))).await;
    scene.sandbox.faults().add(FaultRule::on("Invoke", Fault::InternalServiceError).at_step(Step::Set));
    fail_to_rotate(&scene).await;
    scene.sandbox.advance(Duration::from_secs(11 * 86_400)).await.unwrap();
    let before = current(&scene).await;
    let late = take_up(&scene).await;
    assert!(
        matches!(&late, sandbox::RotationOutcome::Failed { error, .. } if error.error_type == "OverlapTooShort"),
        "{late:?}"
    );
    assert_eq!(current(&scene).await, before);
    rotate(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_scheduled_for_deletion_is_not_touched() {
    let scene = start(once(no_target(text_plan()))).await;
    let version = rotate(&scene).await;
    let before = current(&scene).await;
    scene.client.delete_secret().secret_id(SECRET).recovery_window_in_days(7).send().await.unwrap();
    for step in Step::ALL {
        let error = invoke(&scene, &event(step, &version)).await.unwrap_err();
        assert_says(&error, "ScheduledForDeletion", &["restore-secret"]);
    }
    scene.client.restore_secret().secret_id(SECRET).send().await.unwrap();
    assert_eq!(current(&scene).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn step_on_a_secret_without_rotation_is_refused() {
    let scene = start(no_target(text_plan())).await;
    let before = current(&scene).await;
    let put = scene.client.put_secret_value().secret_id(SECRET).secret_string("a-value-put-by-hand");
    let version = put.version_stages("AWSPENDING").send().await.unwrap().version_id.unwrap();
    let (status, answer) = Cli::new(&scene).invoke(FUNCTION, &event(Step::Finish, &version)).await;
    assert_eq!(status["FunctionError"], "Unhandled");
    assert_says(&step_error(&answer), "RotationNotEnabled", &["aws secretsmanager describe-secret"]);
    for step in Step::ALL {
        let error = invoke(&scene, &event(step, &version)).await.unwrap_err();
        assert_eq!(error.error_type, "RotationNotEnabled");
    }
    assert_eq!(current(&scene).await, before);
    assert_eq!(stages_of(&scene, &version).await, set(&["AWSPENDING"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_the_secret_does_not_have_is_refused() {
    let scene = start(no_target(text_plan())).await;
    scene.configure().await.unwrap();
    let before = current(&scene).await;
    let version = uuid::Uuid::new_v4().to_string();
    let (_, answer) = Cli::new(&scene).invoke(&scene.function_arn(), &event(Step::Create, &version)).await;
    assert_says(&step_error(&answer), "UnknownVersion", &[&version, "aws secretsmanager rotate-secret"]);
    for step in Step::ALL {
        assert_eq!(invoke(&scene, &event(step, &version)).await.unwrap_err().error_type, "UnknownVersion");
    }
    assert_eq!(current(&scene).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_event_is_refused_by_its_member_without_its_value() {
    let scene = start(no_target(text_plan())).await;
    scene.configure().await.unwrap();
    scene.sandbox.reset_calls();
    let published = Counter::of(&scene, "PutMetricData");
    let good = event(Step::Create, &uuid::Uuid::new_v4().to_string());
    let with = |member: &str, value: Value| {
        let mut event = good.clone();
        event[member] = value;
        event
    };
    let without = |member: &str| {
        let mut event = good.clone();
        event.as_object_mut().unwrap().remove(member);
        event
    };
    let wrong = [
        (json!([1, 2]), "event"),
        (json!("canary-value"), "event"),
        (json!({ "Records": [{ "body": "canary-value" }] }), "Step"),
        (without("Step"), "Step"),
        (with("Step", json!("canary-value")), "Step"),
        (with("Step", json!(7)), "Step"),
        (without("SecretId"), "SecretId"),
        (with("SecretId", json!({ "a": "canary-value" })), "SecretId"),
        (with("SecretId", json!("canary-value".repeat(200))), "SecretId"),
        (without("ClientRequestToken"), "ClientRequestToken"),
        (with("ClientRequestToken", json!("canary-value")), "ClientRequestToken"),
        (with("ClientRequestToken", json!(["canary-value"])), "ClientRequestToken"),
        (with("RotationToken", json!("canary-value")), "RotationToken"),
        (with("RotationToken", json!(false)), "RotationToken"),
    ];
    let count = wrong.len() as u64;
    for (event, member) in wrong {
        let error = invoke(&scene, &event).await.unwrap_err();
        assert_says(&error, "InvalidEvent", &[&format!("event member {member}: ")]);
        assert!(!error.message.contains("canary-value"), "{error:?}");
    }
    assert!(!log(&scene).contains("canary-value"));
    assert_eq!(scene.sandbox.calls_of(FUNCTION).values().sum::<u64>(), 0, "nothing was asked of Secrets Manager");
    assert_eq!(published.count(&scene), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_does_not_exist_is_refused() {
    let scene = start(no_target(text_plan())).await;
    let mut event = event(Step::Create, &uuid::Uuid::new_v4().to_string());
    event["SecretId"] = json!("shop/no-such-secret");
    assert_says(&invoke(&scene, &event).await.unwrap_err(), "SecretNotFound", &["does not exist"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_secret_is_refused() {
    let scene = start(once(no_target(Plan { value: None, ..text_plan() }))).await;
    let put = scene.client.put_secret_value().secret_id(SECRET);
    put.secret_binary(Blob::new([0, 159, 146, 150])).send().await.unwrap();
    refused(&scene, "BinarySecret", &["SecretString"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_secret_without_the_named_member_is_refused() {
    valued(r#"{"OTHER": "x"}"#, "FieldMissing", &["no member ADMIN_TOKEN", "rotation:field"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_not_a_string_that_is_not_empty_is_refused() {
    for (value, what) in [("17", "a number"), ("null", "null"), ("[\"x\"]", "an array"), ("\"\"", "an empty string")] {
        valued(&format!(r#"{{"ADMIN_TOKEN": {value}}}"#), "FieldNotText", &["ADMIN_TOKEN", what]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stands_twice_is_refused() {
    valued(r#"{"ADMIN_TOKEN": "a", "ADMIN_TOKEN": "b"}"#, "FieldRepeated", &["remove all but one"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_no_json_object_has_no_members_to_rotate() {
    valued("a-text", "NotAnObject", &["not JSON", "rotation:field"]).await;
    valued("[1]", "NotAnObject", &["JSON of another kind"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_secret_is_not_overwritten_when_no_member_is_named() {
    let plan = Plan { value: Some(json_secret(FIRST)), ..text_plan() };
    alone(plan, "FieldNotChosen", &["rotation:field", "would destroy the other members"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_would_not_fit_is_refused() {
    let filler = "x".repeat(65_536 - FIRST.len() - 60);
    let value = format!(r#"{{"ADMIN_TOKEN": "{FIRST}", "filler": "{filler}"}}"#);
    assert!(value.len() <= 65_536);
    valued(&value, "ValueTooLarge", &["65536", "remove members"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_out_of_bounds_is_refused_by_name() {
    for (key, value, says) in [
        ("rotation:overlap", "31days", "at most 30days"),
        ("rotation:token-bytes", "31", "from 32 to 256"),
        ("rotation:token-bytes", "257", "from 32 to 256"),
        ("rotation:token-encoding", "rot13", "base64url, hex or base62"),
        ("rotation:token-prefix", "a_b", "letters and digits"),
        ("rotation:verify", "never", "before or after"),
        ("rotation:hold", "9999-12-31", "at most"),
        ("rotation:hold", "tomorrow", "a date such as"),
    ] {
        tagged(key, value, "InvalidPolicy", &[&format!("tag {key}"), says]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_tag_is_refused_by_name() {
    tagged("rotation:overlapp", "1h", "InvalidPolicy", &["tag rotation:overlapp", "known are", "rotation:overlap,"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_cannot_name_a_member_that_the_stack_does_not_allow() {
    let plan = Plan { field: Some("OTHER"), value: Some(r#"{"OTHER": "x"}"#.to_owned()), ..text_plan() };
    alone(plan, "InvalidPolicy", &["tag rotation:field", "expected one of ADMIN_TOKEN", "ALLOWED_FIELDS"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_outside_the_stacks_prefix_is_refused() {
    let environment = vec![("SECRET_NAME_PREFIX", "shop/staging/".to_owned())];
    alone(Plan { environment, ..text_plan() }, "NameNotAllowed", &["shop/staging/", "SECRET_NAME_PREFIX", SECRET])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_text_target_or_endpoint_is_refused_at_the_start() {
    let says = ["use https://"];
    configured(&[("TARGET_VERIFY_URL", "http://shop.example/health")], "InsecureUrl", &says).await;
    let verify = ("TARGET_VERIFY_URL", "https://shop.example/health");
    configured(&[verify, ("TARGET_REFRESH_URL", "http://127.0.0.1.evil.example/")], "InsecureUrl", &says).await;
    configured(&[("AWS_ENDPOINT_URL", "http://secretsmanager.example")], "InsecureUrl", &says).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_configuration_is_refused_by_its_variable() {
    configured(
        &[("TARGET_REFRESH_URL", "https://shop.example/refresh")],
        "InvalidConfiguration",
        &["TARGET_VERIFY_URL"],
    )
    .await;
    configured(&[("MAX_OVERLAP", "31days")], "InvalidConfiguration", &["MAX_OVERLAP", "at most 30d"]).await;
    let verify = ("TARGET_VERIFY_URL", "https://shop.example/health");
    configured(&[verify, ("TARGET_TIMEOUT", "soon")], "InvalidConfiguration", &["TARGET_TIMEOUT", "500ms, 10s"]).await;
    configured(&[verify, ("TARGET_INSTANCES", "0")], "InvalidConfiguration", &["TARGET_INSTANCES", "at least 1"]).await;
    configured(&[("ROTATION_TOKEN_BYTES", "16")], "InvalidPolicy", &["ROTATION_TOKEN_BYTES", "from 32"]).await;
    configured(&[("AWS_ENDPOINT_URL_SECRETS_MANAGER", "nowhere")], "InvalidConfiguration", &["expected a URL"]).await;
}

/// The function in a shell that changes what Lambda itself would set.
fn wrapped(folder: &Path, function: &Path, shell: &str) -> PathBuf {
    let script = folder.join("bootstrap.sh");
    std::fs::write(&script, format!("#!/bin/sh\n{shell}\nexec '{}'\n", function.display())).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_region_or_credential_is_refused_by_its_variable() {
    let function = end_to_end::program(FUNCTION).await.unwrap();
    for variable in ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        let folder = tempfile::tempdir().unwrap();
        let executable = Some(wrapped(folder.path(), &function, &format!("unset {variable}")));
        let says = format!("environment variable {variable}: is not set");
        alone(Plan { executable, ..text_plan() }, "InvalidConfiguration", &[&says]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusing_endpoint_is_named_with_a_hint_at_the_network() {
    let endpoint = "http://127.0.0.1:1";
    let environment = vec![("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint.to_owned())];
    let scene = start(once(no_target(Plan { environment, ..text_plan() }))).await;
    refused(&scene, "Unreachable", &[endpoint, "VPC endpoint or NAT missing?", "DescribeSecret"]).await;
    assert!(metric_counts(&scene, "Unreachable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_endpoint_is_named_before_the_function_times_out() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let environment = vec![("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint.clone())];
    let plan = Plan { environment, timeout: Duration::from_secs(4), ..text_plan() };
    let scene = start(once(no_target(plan))).await;
    refused(&scene, "Unreachable", &[&endpoint, "VPC endpoint or NAT missing?"]).await;
}

async fn with_target(stub: &Stub, error_type: &str, says: &[&str]) {
    let scene = start(once(Plan { environment: stub.as_target(), ..no_target(text_plan()) })).await;
    refused(&scene, error_type, says).await;
    assert!(metric_counts(&scene, error_type));
    assert!(stub.requests() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_never_sent_to_where_a_redirect_points() {
    let elsewhere = Stub::answering(StatusCode::OK).await;
    for status in [StatusCode::FOUND, StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT] {
        let redirecting = Stub::answering((status, [(header::LOCATION, format!("{}/health", elsewhere.url))])).await;
        with_target(&redirecting, "TargetRedirects", &["never sent", "TARGET_REFRESH_URL"]).await;
    }
    assert_eq!(elsewhere.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_accepts_any_token_proves_nothing() {
    let open = Stub::answering(StatusCode::OK).await;
    with_target(&open, "TargetAcceptsAnyToken", &["TARGET_VERIFY_URL", "requires the admin token"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_target_is_refused_with_what_to_check() {
    let refusing = Stub::answering(StatusCode::UNAUTHORIZED).await;
    with_target(&refusing, "RefreshRefused", &["TARGET_HEADER"]).await;
    let missing = Stub::answering(StatusCode::NOT_FOUND).await;
    with_target(&missing, "TargetFailed", &["404", "TARGET_REFRESH_URL"]).await;
    let unwell = Stub::answering(StatusCode::SERVICE_UNAVAILABLE).await;
    with_target(&unwell, "TargetUnavailable", &["503", "check the application"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_promoted_without_time_to_put_it_back() {
    let scene = start(once(Plan { timeout: Duration::from_secs(3), ..text_plan() })).await;
    refused(&scene, "TimeTooShort", &["raise the function's timeout", "TARGET_TIMEOUT"]).await;
    assert_eq!(scene.sandbox.calls_of(FUNCTION).get("UpdateSecretVersionStage"), None);
}
