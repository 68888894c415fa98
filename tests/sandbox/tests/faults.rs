//! Faults on demand, as a client sees them.

#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]

mod common;

use std::time::{Duration, Instant};

use aws_sdk_secretsmanager::config::retry::RetryConfig;
use common::{client, map, problem, token, world};
use sandbox::{Fault, FaultRule, Moment, RotationOutcome};

fn put(
    client: &aws_sdk_secretsmanager::Client,
    n: u32,
) -> aws_sdk_secretsmanager::operation::put_secret_value::builders::PutSecretValueFluentBuilder {
    client.put_secret_value().secret_id("s").client_request_token(token(n)).secret_string(format!("v{n}"))
}

#[tokio::test]
async fn throttling_and_server_errors_have_no_effect() {
    let world = world().await;
    world.secret("s").await;
    world.sandbox.faults().add(FaultRule::on("PutSecretValue", Fault::Throttle));
    world.sandbox.faults().add(FaultRule::on("PutSecretValue", Fault::InternalServiceError).nth(2));
    assert_eq!(problem(put(&world.client, 2).send().await).0, "ThrottlingException");
    assert_eq!(problem(put(&world.client, 2).send().await).0, "InternalServiceError");
    assert_eq!(world.value("s").await, "v1");
    put(&world.client, 2).send().await.unwrap();
    assert_eq!(world.value("s").await, "v2");
}

#[tokio::test]
async fn retrying_clients_survive_throttling_errors_and_lost_answers() {
    let world = world().await;
    world.secret("s").await;
    let retries = RetryConfig::standard().with_max_attempts(4).with_initial_backoff(Duration::from_millis(1));
    let patient = client(&world.sandbox, "patient", retries);
    for fault in [Fault::Throttle, Fault::InternalServiceError, Fault::LostAnswer] {
        world.sandbox.faults().add(FaultRule::on("PutSecretValue", fault));
    }
    put(&patient, 2).send().await.unwrap();
    assert_eq!(world.value("s").await, "v2");
    assert!(world.sandbox.calls_of("patient")["PutSecretValue"] >= 2);
}

#[tokio::test]
async fn a_lost_answer_takes_effect() {
    let world = world().await;
    world.secret("s").await;
    world.sandbox.faults().add(FaultRule::on("PutSecretValue", Fault::LostAnswer));
    assert_eq!(problem(put(&world.client, 2).send().await).0, "Dispatch");
    assert_eq!(world.stages("s").await, map([(1, "AWSPREVIOUS"), (2, "AWSCURRENT")]));
}

#[tokio::test]
async fn a_delay_comes_before_the_answer() {
    let world = world().await;
    world.secret("s").await;
    world.sandbox.faults().add(FaultRule::on("GetSecretValue", Fault::Delay { millis: 200 }));
    let begun = Instant::now();
    world.value("s").await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn stale_reads_see_the_state_before_the_last_write() {
    let world = world().await;
    world.secret("s").await;
    put(&world.client, 2).send().await.unwrap();
    put(&world.client, 3).send().await.unwrap();
    world.sandbox.faults().add(FaultRule::on("DescribeSecret", Fault::StaleRead).times(2));
    world.sandbox.faults().add(FaultRule::on("GetSecretValue", Fault::StaleRead));
    let before = map([(1, "AWSPREVIOUS"), (2, "AWSCURRENT")]);
    assert_eq!(world.stages("s").await, before);
    assert_eq!(world.value("s").await, "v2");
    assert_eq!(world.stages("s").await, before);
    let now = map([(2, "AWSPREVIOUS"), (3, "AWSCURRENT")]);
    assert_eq!(world.stages("s").await, now);
    assert_eq!(world.value("s").await, "v3");
}

#[tokio::test]
async fn stale_reads_can_last_for_a_time() {
    let world = world().await;
    world.secret("s").await;
    put(&world.client, 2).send().await.unwrap();
    let lasting = Duration::from_secs(2);
    world.sandbox.faults().add(FaultRule::on("GetSecretValue", Fault::StaleRead).lasting(lasting));
    assert_eq!(world.value("s").await, "v1");
    assert_eq!(world.value("s").await, "v1");
    tokio::time::sleep(lasting).await;
    assert_eq!(world.value("s").await, "v2");
}

#[tokio::test]
async fn a_fault_aimed_at_a_function_spares_everybody_else() {
    let world = world().await;
    world.secret("s").await;
    let fault = FaultRule::on("DescribeSecret", Fault::Throttle).from_caller("rotator");
    world.sandbox.faults().add(fault);
    world.stages("s").await;
    world.rotate("s", &token(2)).await;
    assert!(world.wait("s").await.is_success());
    let attempts = world.sandbox.rotation_attempts("s");
    let error = attempts[0].steps[0].error.as_ref().unwrap();
    assert_eq!(error.error_type, "ThrottlingException");
    assert_eq!(attempts.len(), 2);
}

#[tokio::test]
async fn kill_before_a_call_leaves_no_effect_and_after_it_the_effect() {
    for (when, calls_to_put) in [(Moment::Before, 2), (Moment::After, 1)] {
        let world = world().await;
        world.secret("s").await;
        let kill = Fault::KillFunction { function: "rotator".into(), when };
        world.sandbox.faults().add(FaultRule::on("PutSecretValue", kill).from_caller("rotator"));
        world.rotate("s", &token(2)).await;
        let outcome = world.wait("s").await;
        assert_eq!(outcome, RotationOutcome::Succeeded { version_id: token(2) });
        let attempts = world.sandbox.rotation_attempts("s");
        assert_eq!(attempts.len(), 2);
        assert_eq!(attempts[0].steps[0].error.as_ref().unwrap().error_type, "Runtime.ExitError");
        // The retry finds the value that was put, and doesn't put another.
        assert_eq!(world.sandbox.calls_of("rotator")["PutSecretValue"], calls_to_put);
    }
}

#[tokio::test]
async fn calls_are_counted_by_operation_and_caller() {
    let world = world().await;
    world.secret("s").await;
    world.sandbox.reset_calls();
    world.rotate("s", &token(2)).await;
    world.wait("s").await;
    let of_function = world.sandbox.calls_of("rotator");
    let expected =
        [("DescribeSecret", 4), ("GetSecretValue", 1), ("PutSecretValue", 1), ("UpdateSecretVersionStage", 1)];
    assert_eq!(of_function, expected.map(|(operation, n)| (operation.to_owned(), n)).into());
    assert_eq!(world.sandbox.calls()["RotateSecret"], 1);
    assert_eq!(world.sandbox.calls_of("nobody").len(), 0);
}

#[tokio::test]
async fn metrics_are_put_in_sandbox_time_and_their_calls_can_fail_too() {
    let world = world().await;
    world.sandbox.advance(Duration::from_secs(3600)).await.unwrap();
    let config = aws_sdk_cloudwatch::Config::builder()
        .behavior_version(aws_sdk_cloudwatch::config::BehaviorVersion::latest())
        .region(aws_sdk_cloudwatch::config::Region::new("us-east-1"))
        .credentials_provider(aws_credential_types::Credentials::new("rotator", "secret", None, None, "test"))
        .endpoint_url(world.sandbox.endpoint())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(aws_sdk_cloudwatch::config::retry::RetryConfig::disabled())
        .build();
    let metrics = aws_sdk_cloudwatch::Client::from_conf(config);
    let put = || {
        let datum = aws_sdk_cloudwatch::types::MetricDatum::builder().metric_name("RotationSucceeded").value(1.0);
        metrics.put_metric_data().namespace("SecretRotation").metric_data(datum.build())
    };
    let fault = |fault| FaultRule::on("PutMetricData", fault).from_caller("rotator");
    world.sandbox.faults().add(fault(Fault::InternalServiceError));
    world.sandbox.faults().add(fault(Fault::Throttle).nth(2));
    world.sandbox.faults().add(fault(Fault::LostAnswer).nth(3));
    let status = |error: aws_sdk_cloudwatch::error::SdkError<_, aws_smithy_runtime_api::http::Response>| {
        error.raw_response().map(|response| response.status().as_u16())
    };
    assert_eq!(status(put().send().await.unwrap_err()), Some(500));
    assert_eq!(status(put().send().await.unwrap_err()), Some(429));
    assert!(world.sandbox.cloudwatch().data().is_empty());
    assert_eq!(status(put().send().await.unwrap_err()), None);
    assert_eq!(world.sandbox.cloudwatch().data().len(), 1);
    put().send().await.unwrap();
    let data = world.sandbox.cloudwatch().data();
    assert_eq!((data.len(), data[1].name.as_str()), (2, "RotationSucceeded"));
    assert!(data[1].time > std::time::SystemTime::now() + Duration::from_secs(3000));
    assert!(world.sandbox.calls_of("rotator").is_empty(), "only calls to Secrets Manager are counted");
}
