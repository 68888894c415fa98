//! A sandbox with functions that run in process, and a real client.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, what is missing is a failed test")]

pub(crate) mod services;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Region};
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use axum::body::Bytes;
use sandbox::{Answer, InvokeFailure, Invoker, Invoking, Sandbox, Settings};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

pub(crate) const ROTATOR: &str = "arn:aws:lambda:us-east-1:000000000000:function:rotator";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a function in process comes to: nothing, or an error's type.
pub(crate) type Outcome = Result<(), String>;
type Handler = Arc<dyn Fn(Value) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

/// Functions that run in this process and call the sandbox over HTTP.
#[derive(Clone, Default)]
pub(crate) struct Functions {
    handlers: Arc<Mutex<BTreeMap<String, Handler>>>,
    running: Arc<Mutex<Vec<(String, AbortHandle)>>>,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Functions {
    pub(crate) fn set<F>(&self, name: &str, handler: impl Fn(Value) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |event| Box::pin(handler(event)));
        self.handlers.lock().unwrap().insert(name.to_owned(), handler);
    }

    pub(crate) fn remove(&self, name: &str) {
        self.handlers.lock().unwrap().remove(name);
    }

    /// The events that functions received.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap().clone()
    }

    /// The steps that were run, in order.
    pub(crate) fn steps(&self) -> Vec<String> {
        self.events().iter().map(|event| event["Step"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn forget_events(&self) {
        self.events.lock().unwrap().clear();
    }
}

impl Invoker for Functions {
    fn has(&self, function: &str) -> bool {
        self.handlers.lock().unwrap().contains_key(function)
    }

    fn invoke(&self, function: &str, payload: Bytes) -> Invoking {
        let handler = self.handlers.lock().unwrap().get(function).cloned();
        let Some(handler) = handler else {
            let failure = InvokeFailure { error_type: "ResourceNotFoundException".into(), message: String::new() };
            return Box::pin(async { Err(failure) });
        };
        let event: Value = serde_json::from_slice(&payload).unwrap();
        self.events.lock().unwrap().push(event.clone());
        let task = tokio::spawn(handler(event));
        self.running.lock().unwrap().push((function.to_owned(), task.abort_handle()));
        Box::pin(async move {
            let error = |error_type: &str| json!({ "errorType": error_type, "errorMessage": "" }).to_string();
            let (failed, payload) = match task.await {
                Ok(Ok(())) => (false, "null".to_owned()),
                Ok(Err(error_type)) => (true, error(&error_type)),
                Err(_killed) => (true, error("Runtime.ExitError")),
            };
            Ok(Answer { payload: payload.into(), failed, cold: None })
        })
    }

    fn kill_running(&self, function: &str) {
        for (name, task) in &*self.running.lock().unwrap() {
            if name == function {
                task.abort();
            }
        }
    }

    fn function_of_access_key(&self, access_key_id: &str) -> Option<String> {
        self.handlers.lock().unwrap().contains_key(access_key_id).then(|| access_key_id.to_owned())
    }
}

pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) functions: Functions,
    pub(crate) client: Client,
}

pub(crate) async fn world() -> World {
    world_with(Settings { retry_backoff: Duration::from_millis(1), ..Settings::default() }).await
}

pub(crate) async fn world_with(settings: Settings) -> World {
    let functions = Functions::default();
    let settings = Settings { invoker: Some(Arc::new(functions.clone())), ..settings };
    let sandbox = Sandbox::start(settings).await.unwrap();
    let client = client(&sandbox, "tester", RetryConfig::disabled());
    functions.set("rotator", template(client_of(&sandbox)));
    World { sandbox, functions, client }
}

/// The client of the function `rotator`.
pub(crate) fn client_of(sandbox: &Sandbox) -> Client {
    client(sandbox, "rotator", RetryConfig::disabled())
}

pub(crate) fn client(sandbox: &Sandbox, access_key: &str, retries: RetryConfig) -> Client {
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(access_key, "secret", None, None, "test"))
        .endpoint_url(sandbox.endpoint())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(retries)
        .build();
    Client::from_conf(config)
}

/// A rotation function as AWS's generic template does it, with a new value in createSecret.
pub(crate) fn template(client: Client) -> impl Fn(Value) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
    move |event| {
        let client = client.clone();
        Box::pin(async move { template_step(&client, &event).await })
    }
}

pub(crate) async fn template_step(client: &Client, event: &Value) -> Outcome {
    let member = |name: &str| event[name].as_str().unwrap().to_owned();
    let (arn, token) = (member("SecretId"), member("ClientRequestToken"));
    let description = client.describe_secret().secret_id(&arn).send().await.map_err(|error| code(&error))?;
    let versions = description.version_ids_to_stages.unwrap_or_default();
    if description.rotation_enabled != Some(true) {
        return Err("NotEnabled".into());
    }
    let stages = versions.get(&token).ok_or("UnknownVersion")?;
    if stages.contains(&"AWSCURRENT".to_owned()) {
        return Ok(());
    }
    if !stages.contains(&"AWSPENDING".to_owned()) {
        return Err("NotPending".into());
    }
    match event["Step"].as_str().unwrap() {
        "createSecret" => {
            let pending = client.get_secret_value().secret_id(&arn).version_id(&token).version_stage("AWSPENDING");
            match pending.send().await.map_err(|error| code(&error)) {
                Err(missing) if missing == "ResourceNotFoundException" => {
                    let put = client
                        .put_secret_value()
                        .secret_id(&arn)
                        .client_request_token(&token)
                        .secret_string(format!("value of {token}"))
                        .version_stages("AWSPENDING")
                        .rotation_token(member("RotationToken"));
                    put.send().await.map_err(|error| code(&error))?;
                }
                other => {
                    other?;
                }
            }
        }
        "finishSecret" => {
            let current = versions.iter().find(|(_, stages)| stages.contains(&"AWSCURRENT".to_owned()));
            client
                .update_secret_version_stage()
                .secret_id(&arn)
                .version_stage("AWSCURRENT")
                .move_to_version_id(&token)
                .set_remove_from_version_id(current.map(|(id, _)| id.clone()))
                .send()
                .await
                .map_err(|error| code(&error))?;
        }
        _ => {}
    }
    Ok(())
}

/// The exception's name; `Dispatch` when there was no answer.
pub(crate) fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> String {
    match error {
        SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) => "Dispatch".to_owned(),
        other => other.code().unwrap_or("unknown").to_owned(),
    }
}

/// The exception's name and message.
pub(crate) fn problem<T, E: ProvideErrorMetadata, R>(result: Result<T, SdkError<E, R>>) -> (String, String) {
    match result {
        Ok(_) => panic!("the call succeeded"),
        Err(error) => (code(&error), error.message().unwrap_or_default().to_owned()),
    }
}

pub(crate) fn token(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

impl World {
    /// A secret with the value `v1` in the version `token(1)`.
    pub(crate) async fn secret(&self, name: &str) -> String {
        let created = self.client.create_secret().name(name).client_request_token(token(1)).secret_string("v1");
        created.send().await.unwrap().arn.unwrap()
    }

    /// Version ids and their labels, joined by commas.
    pub(crate) async fn stages(&self, secret: &str) -> BTreeMap<String, String> {
        let description = self.client.describe_secret().secret_id(secret).send().await.unwrap();
        let versions = description.version_ids_to_stages.unwrap_or_default();
        versions.into_iter().map(|(id, stages)| (id, stages.join(","))).collect()
    }

    pub(crate) async fn value(&self, secret: &str) -> String {
        let value = self.client.get_secret_value().secret_id(secret).send().await.unwrap();
        value.secret_string.unwrap()
    }

    /// RotateSecret with the function `rotator` and the token.
    pub(crate) async fn rotate(&self, secret: &str, token: &str) {
        let rotate =
            self.client.rotate_secret().secret_id(secret).client_request_token(token).rotation_lambda_arn(ROTATOR);
        rotate.send().await.unwrap();
    }

    pub(crate) async fn wait(&self, secret: &str) -> sandbox::RotationOutcome {
        self.sandbox.wait_for_rotation(secret, PATIENCE).await.unwrap()
    }

    /// The names of the events that AWS would record, in order.
    pub(crate) fn trail(&self) -> Vec<String> {
        self.sandbox
            .events()
            .iter()
            .filter(|event| event.kind.is_recorded_by_aws())
            .map(|event| serde_json::to_value(&event.kind).unwrap()["event"].as_str().unwrap().to_owned())
            .collect()
    }

    /// One operation over plain HTTP, without a client's help: status, answer and Date header.
    pub(crate) async fn raw(&self, operation: &str, body: Value) -> (u16, Value, String) {
        raw(&self.sandbox, operation, &body.to_string()).await
    }
}

pub(crate) async fn raw(sandbox: &Sandbox, operation: &str, body: &str) -> (u16, Value, String) {
    exchange(&sandbox.endpoint(), &format!("secretsmanager.{operation}"), body).await
}

/// One operation of a service of AWS JSON 1.1, in any emulator: status and answer.
pub(crate) async fn post(endpoint: &str, target: &str, body: &str) -> (u16, Value) {
    let (status, answer, _) = exchange(endpoint, target, body).await;
    (status, answer)
}

async fn exchange(endpoint: &str, target: &str, body: &str) -> (u16, Value, String) {
    use http_body_util::BodyExt as _;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let request = http::Request::post(endpoint)
        .header("x-amz-target", target)
        .header("content-type", "application/x-amz-json-1.1")
        .body(axum::body::Body::from(body.to_owned()))
        .unwrap();
    let response = client.request(request).await.unwrap();
    let status = response.status().as_u16();
    let date = response.headers().get("date").map(|date| date.to_str().unwrap().to_owned()).unwrap_or_default();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap(), date)
}

pub(crate) fn map<const N: usize>(versions: [(u32, &str); N]) -> BTreeMap<String, String> {
    versions.into_iter().map(|(n, stages)| (token(n), stages.to_owned())).collect()
}
