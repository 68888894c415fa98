//! What operators ask of SNS and CloudWatch Logs, through the project's own adapters and the SDK's clients.

#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_cloudwatchlogs::config::retry::RetryConfig;
use aws_sdk_cloudwatchlogs::config::{BehaviorVersion, Region};
use aws_sdk_cloudwatchlogs::operation::filter_log_events::builders::FilterLogEventsFluentBuilder;
use axum::body::Bytes;
use common::problem;
use http_body_util::BodyExt as _;
use operate::aws::OperationClients;
use sandbox::{Fault, FaultRule, Sandbox, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

const TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:alerts";
const GROUP: &str = "/aws/lambda/logger";
const ARN: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/token-AbC123";
const DAY: Duration = Duration::from_secs(86_400);

/// A custom runtime that logs the lines of its event, each as often as it says.
const FUNCTION: &str = r#"
import json, os, urllib.request
runtime = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
while True:
    with urllib.request.urlopen(f"{runtime}/next") as response:
        request_id, event = response.headers["Lambda-Runtime-Aws-Request-Id"], json.load(response)
    for line, times in event:
        print((line + "\n") * times, end="", flush=True)
    urllib.request.urlopen(urllib.request.Request(f"{runtime}/{request_id}/response", b"null")).read()
"#;

struct World {
    sandbox: Sandbox,
    operations: OperationClients,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let python =
            Command::new("python3").args(["-c", "import sys; print(sys.executable, end='')"]).output().unwrap();
        let path = folder.path().join("logger");
        std::fs::write(&path, format!("#!{}\n{FUNCTION}", String::from_utf8(python.stdout).unwrap())).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let sandbox = Sandbox::start(Settings::default()).await.unwrap();
        sandbox.register_function("logger", path, []).unwrap();
        let environment = [
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "operator"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_ENDPOINT_URL", &sandbox.endpoint()),
        ];
        let operations = OperationClients::from_environment(&environment.into_iter().collect()).unwrap();
        Self { sandbox, operations, _folder: folder }
    }

    async fn log(&self, lines: &[(String, usize)]) {
        let invocation = self.sandbox.host().invoke("logger", Bytes::from(json!(lines).to_string())).await.unwrap();
        assert_eq!(invocation.function_error, None);
    }

    fn calls(&self, operation: &str) -> u64 {
        self.sandbox.calls_of("operator").get(operation).copied().unwrap_or(0)
    }

    fn logs(&self) -> FilterLogEventsFluentBuilder {
        let config = aws_sdk_cloudwatchlogs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("operator", "secret", None, None, "test"))
            .endpoint_url(self.sandbox.endpoint())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .retry_config(RetryConfig::disabled())
            .build();
        aws_sdk_cloudwatchlogs::Client::from_conf(config).filter_log_events().log_group_name(GROUP)
    }
}

fn failed(secret: &str, error_type: &str, error: &str) -> (String, usize) {
    let line = json!({
        "timestamp": "2001-01-01T00:00:00Z", "level": "ERROR", "message": "step failed", "request_id": "r",
        "secret": secret, "version": "v2", "step": "testSecret", "error_type": error_type, "error": error,
        "duration_ms": 12, "target": "rotation::lambda",
    });
    (line.to_string(), 1)
}

fn messages(events: &[aws_sdk_cloudwatchlogs::types::FilteredLogEvent]) -> Vec<String> {
    events.iter().map(|event| event.message().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn notification_arrives_in_sandbox_time_and_in_the_control_api() {
    let world = World::start().await;
    world.sandbox.advance(DAY).await.unwrap();
    let message = "rotated: 100 % = done & <sent>\nold token until 2026-11-26T00:00:00Z, +1 day, \"ü\"";
    world.operations.notify(TOPIC, "Rotated\nshop/token: ü", message).await.unwrap();
    let notifications = world.sandbox.notifications();
    assert_eq!(notifications.len(), 1);
    let arrived = &notifications[0];
    assert_eq!((arrived.topic_arn.as_str(), arrived.subject.as_deref()), (TOPIC, Some("Rotated shop/token: ?")));
    assert_eq!(arrived.message, message);
    assert!(arrived.time > SystemTime::now() + DAY / 2 && arrived.time <= world.sandbox.now());
    assert_eq!(world.calls("Publish"), 1);

    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let request = http::Request::get(format!("{}/_sandbox/notifications", world.sandbox.endpoint()));
    let response = client.request(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    let listed: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(listed, json!(notifications));
    assert_eq!(listed[0]["subject"], "Rotated shop/token: ?");
}

#[tokio::test]
async fn a_notification_is_tried_again_and_a_lost_answer_doubles_it() {
    let world = World::start().await;
    let faults = world.sandbox.faults();
    faults.add(FaultRule::on("Publish", Fault::Throttle));
    faults.add(FaultRule::on("Publish", Fault::InternalServiceError).nth(2));
    world.operations.notify(TOPIC, "t", "once").await.unwrap();
    assert_eq!((world.calls("Publish"), world.sandbox.notifications().len()), (3, 1));
    faults.add(FaultRule::on("Publish", Fault::LostAnswer).from_caller("operator"));
    world.operations.notify(TOPIC, "t", "twice").await.unwrap();
    let messages: Vec<_> = world.sandbox.notifications().into_iter().map(|notification| notification.message).collect();
    assert_eq!(messages, ["once", "twice", "twice"]);
}

#[tokio::test]
async fn a_notification_that_is_refused_says_why() {
    let world = World::start().await;
    let error = world.operations.notify("arn:aws:sns:us-east-1:111111111111:alerts", "t", "m").await;
    assert_eq!(error, Err("NotFound: Topic does not exist".to_owned()));
    let error = world.operations.notify("alerts", "t", "m").await.unwrap_err();
    assert!(error.starts_with("InvalidParameter: Invalid parameter: TopicArn"), "{error}");
    assert!(world.sandbox.notifications().is_empty());
}

#[tokio::test]
async fn the_last_failure_of_a_secret_is_found_among_other_lines() {
    let world = World::start().await;
    let begin = world.sandbox.now();
    assert_eq!(world.operations.last_failure(GROUP, ARN, begin).await, Ok(None));
    world.log(&[failed(ARN, "TargetUnreachable", "first"), failed(ARN, "NotPending", "second")]).await;
    world
        .log(&[
            failed(&ARN.replace("token-", "token-b-"), "AccessDenied", "of another secret"),
            failed(&ARN.replace("shop/", "my-shop/"), "AccessDenied", "of another secret"),
            (json!({ "message": "step done", "secret": ARN, "error_type": "None", "error": "" }).to_string(), 1),
            (format!("text: step failed {ARN}"), 1),
        ])
        .await;
    for secret in [ARN, "shop/token"] {
        let failure = world.operations.last_failure(GROUP, secret, begin).await.unwrap().unwrap();
        assert_eq!((failure.error_type.as_str(), failure.message.as_str()), ("NotPending", "second"));
        assert_eq!((failure.step.as_deref(), failure.version.as_deref()), (Some("testSecret"), Some("v2")));
        assert!(failure.at >= begin - Duration::from_millis(1) && failure.at <= world.sandbox.now());
    }
    world.log(&[failed("shop/token", "Invoked", &"by name ".repeat(200))]).await;
    let failure = world.operations.last_failure(GROUP, ARN, begin).await.unwrap().unwrap();
    assert_eq!((failure.error_type.as_str(), failure.message.len()), ("Invoked", 1000));
    assert_eq!(world.operations.last_failure(GROUP, "shop/tok", begin).await, Ok(None));
    assert!(world.operations.last_failure(GROUP, r#"x" || $.message = "*"#, begin).await.is_err());
}

#[tokio::test]
async fn the_cause_of_a_given_up_version_is_told() {
    let world = World::start().await;
    let begin = world.sandbox.now();
    let repetition = || failed(ARN, "UnknownVersion", "not listed");
    world.log(&[failed(ARN, "Earlier", ""), failed(ARN, "OnHold", "a hold"), repetition(), repetition()]).await;
    let failure = world.operations.last_failure(GROUP, ARN, begin).await.unwrap().unwrap();
    assert_eq!((failure.error_type.as_str(), failure.message.as_str()), ("OnHold", "a hold"));
    // The cause of another version is none.
    let other = |(line, count): (String, usize)| (line.replace("v2", "v3"), count);
    world.log(&[other(repetition()), other(repetition())]).await;
    let failure = world.operations.last_failure(GROUP, ARN, begin).await.unwrap().unwrap();
    assert_eq!((failure.error_type.as_str(), failure.version.as_deref()), ("UnknownVersion", Some("v3")));
}

#[tokio::test]
async fn failure_is_dated_by_the_clock_of_the_sandbox() {
    let world = World::start().await;
    world.log(&[failed(ARN, "Old", "")]).await;
    world.sandbox.advance(90 * DAY).await.unwrap();
    let since = world.sandbox.now() - DAY;
    assert_eq!(world.operations.last_failure(GROUP, ARN, since).await, Ok(None));
    let old = world.operations.last_failure(GROUP, ARN, SystemTime::UNIX_EPOCH).await.unwrap().unwrap();
    assert_eq!(old.error_type, "Old");
    let age = world.sandbox.now().duration_since(old.at).unwrap();
    assert!(age >= 90 * DAY && age < 91 * DAY, "{age:?}");
    world.log(&[failed(ARN, "New", "")]).await;
    let new = world.operations.last_failure(GROUP, ARN, since).await.unwrap().unwrap();
    assert_eq!(new.error_type, "New");
}

#[tokio::test]
async fn search_goes_on_behind_an_empty_page_and_ends_at_the_failure() {
    let world = World::start().await;
    world.log(&[("noise".into(), 9_000), failed(ARN, "Hidden", ""), ("noise".into(), 11_000)]).await;
    let found = world.operations.last_failure(GROUP, ARN, world.sandbox.now() - DAY).await.unwrap().unwrap();
    assert_eq!((found.error_type.as_str(), world.calls("FilterLogEvents")), ("Hidden", 2));
    world.sandbox.reset_calls();
    let other = world.operations.last_failure(GROUP, "other", world.sandbox.now() - DAY).await;
    assert_eq!((other, world.calls("FilterLogEvents")), (Ok(None), 3));
}

#[tokio::test]
async fn a_search_that_cannot_be_made_says_why() {
    let world = World::start().await;
    let error = world.operations.last_failure("/aws/lambda/unknown", ARN, world.sandbox.now()).await;
    assert_eq!(error, Err("ResourceNotFoundException: The specified log group does not exist.".to_owned()));
    world.sandbox.faults().add(FaultRule::on("FilterLogEvents", Fault::Throttle).times(9));
    let error = world.operations.last_failure(GROUP, ARN, world.sandbox.now()).await;
    assert_eq!(error, Err("ThrottlingException: Rate exceeded".to_owned()));
}

#[tokio::test]
async fn pages_hold_every_event_once_in_either_direction() {
    let world = World::start().await;
    let lines: Vec<(String, usize)> = (0..5).map(|n| (json!({ "n": n.to_string() }).to_string(), 1)).collect();
    let texts: Vec<String> = lines.iter().map(|(line, _)| line.clone()).collect();
    world.log(&lines).await;
    let since = (world.sandbox.now() - DAY).duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let since = i64::try_from(since.as_millis()).unwrap();
    let search = world.logs().filter_pattern("{ $.n = \"*\" }").start_time(since).limit(2);
    for oldest_first in [true, false] {
        let (mut found, mut from) = (vec![], None);
        loop {
            let page = search.clone().start_from_head(oldest_first).set_next_token(from).send().await.unwrap();
            assert!(page.events().len() <= 2);
            found.extend(messages(page.events()));
            if found.len() < 4 {
                world.log(&[("{\"later\":\"1\"}".into(), 1)]).await;
            }
            from = page.next_token;
            if from.is_none() {
                break;
            }
        }
        if !oldest_first {
            found.reverse();
        }
        assert_eq!(found, texts);
    }
    // Without a pattern, everything: also what Lambda itself logs.
    let all = messages(world.logs().send().await.unwrap().events());
    assert!(all[0].starts_with("INIT_START") || all[0].starts_with("START"), "{all:?}");
    assert_eq!(all, world.sandbox.host().logs("logger"));
    assert!(world.logs().start_time(since).end_time(since + 1).send().await.unwrap().events().is_empty());
}

#[tokio::test]
async fn what_the_real_service_refuses_is_refused() {
    let world = World::start().await;
    let invalid = "InvalidParameterException";
    assert_eq!(problem(world.logs().start_from_head(false).send().await).0, invalid);
    assert_eq!(problem(world.logs().start_from_head(false).start_time(1_704_067_199_999).send().await).0, invalid);
    assert!(world.logs().start_from_head(false).start_time(1_704_067_200_000).send().await.is_ok());
    assert_eq!(problem(world.logs().next_token("what").send().await).0, invalid);
    assert_eq!(problem(world.logs().filter_pattern("{ $.n = ").send().await).0, invalid);
    assert_eq!(problem(world.logs().log_stream_names("sandbox").send().await).0, invalid);
    assert_eq!(problem(world.logs().limit(10_001).send().await).0, "ValidationException");
}
