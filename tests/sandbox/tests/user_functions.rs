//! Functions of the user's, in Python and Node without anything built, invoked through Lambda's API as an SDK does.

#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::{BehaviorVersion, Region};
use aws_sdk_lambda::operation::invoke::InvokeOutput;
use aws_sdk_lambda::primitives::Blob;
use common::problem;
use sandbox::lambda_host::FunctionConfig;
use sandbox::{Sandbox, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

/// It answers `done`, fails, or sleeps, as its event says.
const PYTHON: &str = r#"#!/usr/bin/env python3
import json, os, time, urllib.request

runtime = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
while True:
    with urllib.request.urlopen(f"{runtime}/next") as response:
        request_id, event = response.headers["Lambda-Runtime-Aws-Request-Id"], json.load(response)
    time.sleep(event.get("sleep", 0))
    kind, answer = "response", {"status": "done", "secret": event.get("secret")}
    if "fail" in event:
        kind, answer = "error", {"errorType": event["fail"], "errorMessage": "as asked"}
    urllib.request.urlopen(f"{runtime}/{request_id}/{kind}", json.dumps(answer).encode())
"#;

const NODE: &str = r#"#!/usr/bin/env node
const runtime = `http://${process.env.AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/invocation`;
(async () => {
  for (;;) {
    const next = await fetch(`${runtime}/next`);
    const event = await next.json();
    const id = next.headers.get("lambda-runtime-aws-request-id");
    const body = JSON.stringify({ status: "done", secret: event.secret });
    await fetch(`${runtime}/${id}/response`, { method: "POST", body });
  }
})();
"#;

struct World {
    sandbox: Sandbox,
    lambda: Client,
    folder: TempDir,
}

async fn world() -> World {
    let sandbox = Sandbox::start(Settings::default()).await.unwrap();
    let config = aws_sdk_lambda::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("tester", "secret", None, None, "test"))
        .endpoint_url(sandbox.endpoint())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(RetryConfig::disabled())
        .build();
    let world = World { sandbox, lambda: Client::from_conf(config), folder: tempfile::tempdir().unwrap() };
    world.register("restart", PYTHON, Duration::from_secs(60));
    world
}

impl World {
    fn register(&self, name: &str, script: &str, timeout: Duration) {
        let executable = self.folder.path().join(name);
        std::fs::write(&executable, script).unwrap();
        std::fs::set_permissions(&executable, PermissionsExt::from_mode(0o755)).unwrap();
        let (name, environment) = (name.to_owned(), [].into());
        let config = FunctionConfig { name, executable, environment, timeout, memory_mb: 128 };
        self.sandbox.host().register(config).unwrap();
    }

    async fn invoke(&self, function: &str, event: Value) -> InvokeOutput {
        let invoke = self.lambda.invoke().function_name(function).payload(Blob::new(event.to_string()));
        invoke.send().await.unwrap()
    }

    async fn refused(&self, function: &str) -> String {
        problem(self.lambda.invoke().function_name(function).send().await).0
    }
}

fn answer(output: &InvokeOutput) -> Value {
    serde_json::from_slice(output.payload().unwrap().as_ref()).unwrap()
}

#[tokio::test]
async fn functions_in_python_and_node_answer() {
    let world = world().await;
    world.register("restart-node", NODE, Duration::from_secs(60));
    for function in ["restart", "restart-node"] {
        let output = world.invoke(function, json!({ "secret": "key" })).await;
        assert_eq!((output.status_code(), output.function_error()), (200, None));
        assert_eq!(answer(&output), json!({ "status": "done", "secret": "key" }));
    }
}

#[tokio::test]
async fn an_error_of_a_function_is_an_unhandled_one() {
    let world = world().await;
    let output = world.invoke("restart", json!({ "fail": "NoCluster" })).await;
    assert_eq!((output.status_code(), output.function_error()), (200, Some("Unhandled")));
    assert_eq!(answer(&output), json!({ "errorType": "NoCluster", "errorMessage": "as asked" }));
}

#[tokio::test]
async fn a_function_has_names_arns_and_aliases() {
    let world = world().await;
    world.sandbox.host().add_alias("restart", "live").unwrap();
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:restart";
    let live = format!("{arn}:live");
    for name in ["restart", "restart:live", "restart:$LATEST", "000000000000:function:restart", arn, &live] {
        assert_eq!(answer(&world.invoke(name, json!({})).await)["status"], "done", "{name}");
    }
    let qualified = world.lambda.invoke().function_name(arn).qualifier("live").payload(Blob::new("{}"));
    assert_eq!(answer(&qualified.send().await.unwrap())["status"], "done");
    // A new configuration keeps the alias.
    world.sandbox.host().set_environment("restart", "MODE", "x").unwrap();
    assert_eq!(answer(&world.invoke(&live, json!({})).await)["status"], "done");
    assert!(world.sandbox.host().add_alias("restart", "7").is_err());
    assert!(world.sandbox.host().add_alias("unknown", "live").is_err());
}

#[tokio::test]
async fn unknown_functions_and_aliases_are_not_found() {
    let world = world().await;
    let elsewhere = "arn:aws:lambda:eu-west-1:000000000000:function:restart";
    for name in ["unknown", "restart:live", "arn:aws:lambda:us-east-1:000000000000:function:restart:3", elsewhere] {
        assert_eq!(world.refused(name).await, "ResourceNotFoundException", "{name}");
    }
}

#[tokio::test]
async fn a_function_that_takes_too_long_is_ended() {
    let world = world().await;
    world.register("slow", PYTHON, Duration::from_millis(1500));
    let output = world.invoke("slow", json!({ "sleep": 60 })).await;
    assert_eq!(output.function_error(), Some("Unhandled"));
    let message = answer(&output)["errorMessage"].as_str().unwrap().to_owned();
    assert!(message.contains("Task timed out after 1.50 seconds"), "{message}");
}

#[tokio::test]
async fn message_attributes_reach_the_tests() {
    use aws_sdk_sns::types::MessageAttributeValue;
    let world = world().await;
    let config = aws_sdk_sns::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("tester", "secret", None, None, "test"))
        .endpoint_url(world.sandbox.endpoint())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    let text = |value: &str| MessageAttributeValue::builder().data_type("String").string_value(value).build().unwrap();
    let publish = aws_sdk_sns::Client::from_conf(config).publish().message("{}");
    let publish = publish.topic_arn("arn:aws:sns:us-east-1:000000000000:deliveries");
    let publish = publish.message_attributes("event", text("Delivered")).message_attributes("secret", text("key"));
    publish.send().await.unwrap();
    let [notification] = world.sandbox.notifications().try_into().unwrap();
    let expected = [("event", "Delivered"), ("secret", "key")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(notification.attributes, expected.into());
}
