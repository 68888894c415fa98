//! A Secrets Manager that is just good enough to be read from, and an HTTP client.

#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use application::{CacheSettings, Clock, Instance, InstanceSettings, SecretReference, ServiceClock, ServiceSettings};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub mod keys;

pub const SECRET: &str = "admin-token";
/// The second secret.
pub const KEYRING: &str = "record-keys";

#[derive(Clone)]
struct Version {
    secret: &'static str,
    id: String,
    value: Option<Value>,
    stages: Vec<&'static str>,
}

#[derive(Default)]
struct Store {
    /// Of every version.
    created: Timestamp,
    versions: Vec<Version>,
    /// Secret and stage.
    calls: Vec<(String, String)>,
    error: Option<(StatusCode, &'static str)>,
    denied_stage: Option<&'static str>,
    delay: Duration,
    ahead: Duration,
}

/// A server that ends with this handle.
pub struct FakeSecretsManager {
    pub address: SocketAddr,
    store: Arc<Mutex<Store>>,
    server: tokio::task::JoinHandle<()>,
}

impl FakeSecretsManager {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = Arc::new(Mutex::new(Store { created: Timestamp::now(), ..Store::default() }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&store));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, store, server }
    }

    /// A secret whose only version is current.
    pub async fn with_current(value: &str) -> Self {
        let fake = Self::start().await;
        fake.put("v1", value, &["AWSCURRENT"]);
        fake
    }

    fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// Writes a version and moves these stages to it.
    pub fn put(&self, id: &str, value: &str, stages: &[&'static str]) {
        self.token().put(id, value, stages);
    }

    pub fn put_without_value(&self, id: &str, stages: &[&'static str]) {
        self.token().put_version(id, None, stages);
    }

    pub fn put_binary(&self, id: &str, stages: &[&'static str]) {
        self.token().put_binary(id, stages);
    }

    /// Moves one stage to a version, or takes it away.
    pub fn move_stage(&self, stage: &'static str, to: Option<&str>) {
        self.token().move_stage(stage, to);
    }

    fn token(&self) -> FakeSecret<'_> {
        FakeSecret { name: SECRET, fake: self }
    }

    /// The secret [`KEYRING`].
    pub fn keyring(&self) -> FakeSecret<'_> {
        FakeSecret { name: KEYRING, fake: self }
    }

    pub fn fail_with(&self, error: Option<(StatusCode, &'static str)>) {
        self.store().error = error;
    }

    pub fn deny(&self, stage: Option<&'static str>) {
        self.store().denied_stage = stage;
    }

    pub fn delay(&self, delay: Duration) {
        self.store().delay = delay;
    }

    /// Says of every version that it was made then.
    pub fn created_at(&self, time: &str) {
        self.store.lock().unwrap().created = time.parse().unwrap();
    }

    /// Sets the clock of the `Date` header ahead.
    pub fn set_ahead(&self, ahead: Duration) {
        self.store().ahead = ahead;
    }

    /// The stages asked for since the last time, in order, of the secret [`SECRET`].
    pub fn take_calls(&self) -> Vec<String> {
        self.token().take_calls()
    }

    pub fn settings(&self) -> ServiceSettings {
        settings(self.address)
    }

    pub fn client(&self) -> aws_sdk_secretsmanager::Client {
        self.settings().client(&ServiceClock::default())
    }

    pub async fn instance(&self, settings: InstanceSettings) -> Instance {
        self.instance_at(settings, ServiceClock::default().clock()).await
    }

    pub async fn instance_at(&self, settings: InstanceSettings, clock: Clock) -> Instance {
        Instance::start(settings, self.client(), clock).await.unwrap()
    }
}

/// One of the secrets.
#[derive(Clone, Copy)]
pub struct FakeSecret<'a> {
    name: &'static str,
    fake: &'a FakeSecretsManager,
}

impl FakeSecret<'_> {
    pub fn put(&self, id: &str, value: &str, stages: &[&'static str]) {
        self.put_version(id, Some(json!({ "SecretString": value })), stages);
    }

    pub fn put_binary(&self, id: &str, stages: &[&'static str]) {
        self.put_version(id, Some(json!({ "SecretBinary": "AAEC" })), stages);
    }

    fn put_version(&self, id: &str, value: Option<Value>, stages: &[&'static str]) {
        let mut store = self.fake.store();
        store.versions.retain(|version| version.secret != self.name || version.id != id);
        for version in store.versions.iter_mut().filter(|version| version.secret == self.name) {
            version.stages.retain(|stage| !stages.contains(stage));
        }
        store.versions.push(Version { secret: self.name, id: id.to_owned(), value, stages: stages.to_vec() });
    }

    pub fn move_stage(&self, stage: &'static str, to: Option<&str>) {
        for version in self.fake.store().versions.iter_mut().filter(|version| version.secret == self.name) {
            version.stages.retain(|other| *other != stage);
            if Some(version.id.as_str()) == to {
                version.stages.push(stage);
            }
        }
    }

    pub fn take_calls(&self) -> Vec<String> {
        let calls = &mut self.fake.store().calls;
        calls.extract_if(.., |(secret, _)| secret == self.name).map(|(_, stage)| stage).collect()
    }
}

impl Drop for FakeSecretsManager {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn settings(address: SocketAddr) -> ServiceSettings {
    ServiceSettings::from_environment(|name| match name {
        "AWS_REGION" => Some("us-east-1".to_owned()),
        "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => Some("test".to_owned()),
        "AWS_ENDPOINT_URL" => Some(format!("http://{address}")),
        _ => None,
    })
    .unwrap()
}

pub fn text_secret(id: &'static str) -> InstanceSettings {
    let mut settings =
        InstanceSettings::new(HeaderValue::from_static(id), SecretReference { id: SECRET.to_owned(), field: None });
    settings.cache = CacheSettings { reload_interval: Duration::from_millis(100), ..CacheSettings::default() };
    settings
}

pub fn json_secret(id: &'static str, field: &str) -> InstanceSettings {
    let mut settings = text_secret(id);
    settings.secret.field = Some(field.to_owned());
    settings
}

async fn answer(State(store): State<Arc<Mutex<Store>>>, headers: HeaderMap, body: Bytes) -> Response {
    assert_eq!(headers["x-amz-target"], "secretsmanager.GetSecretValue");
    let request: Value = serde_json::from_slice(&body).unwrap();
    let secret = request["SecretId"].as_str().unwrap().to_owned();
    let stage = request["VersionStage"].as_str().unwrap().to_owned();
    // What is answered is what the store holds when the call arrives, however long the answer takes.
    let (answer, delay, ahead) = {
        let mut store = store.lock().unwrap();
        store.calls.push((secret.clone(), stage.clone()));
        (value_of(&store, &secret, &stage), store.delay, store.ahead)
    };
    tokio::time::sleep(delay).await;
    let now = Timestamp::now() + ahead;
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now).unwrap();
    ([("date", date)], answer).into_response()
}

fn value_of(store: &Store, secret: &str, stage: &str) -> Response {
    if let Some((status, code)) = store.error {
        return (status, Json(json!({ "__type": code }))).into_response();
    }
    if store.denied_stage == Some(stage) {
        let error = json!({ "__type": "AccessDeniedException", "Message": "no" });
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    }
    let version = store.versions.iter().find(|version| version.secret == secret && version.stages.contains(&stage));
    match version {
        Some(Version { id, value: Some(value), .. }) => {
            let mut answer = value.clone();
            answer["Name"] = json!(secret);
            answer["VersionId"] = json!(id);
            answer["CreatedDate"] = json!(store.created.as_second());
            Json(answer).into_response()
        }
        _ => {
            let error = json!({ "__type": "ResourceNotFoundException", "Message": "none" });
            (StatusCode::BAD_REQUEST, Json(error)).into_response()
        }
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

pub async fn send(address: SocketAddr, method: Method, path: &str, token: Option<&str>) -> Answer {
    send_body(address, method, path, token, b"").await
}

pub async fn send_body(address: SocketAddr, method: Method, path: &str, token: Option<&str>, body: &[u8]) -> Answer {
    let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
    if let Some(token) = token {
        request = request.header("x-admin-token", token);
    }
    let client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request.body(Body::from(body.to_vec())).unwrap()).await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    Answer { status, headers, text: String::from_utf8_lossy(&bytes).into_owned(), bytes }
}

/// Writes a record; the answer has its id.
pub async fn write_record(address: SocketAddr, plaintext: &[u8]) -> Answer {
    send_body(address, Method::POST, "/records", None, plaintext).await
}

pub async fn read_record(address: SocketAddr, id: &str) -> Answer {
    send(address, Method::GET, &format!("/records/{id}"), None).await
}

pub async fn get(instance: &Instance, path: &str, token: &str) -> Answer {
    send(instance.address(), Method::GET, path, Some(token)).await
}

pub async fn status(instance: &Instance, token: &str) -> u16 {
    get(instance, "/admin/jobs", token).await.status
}

pub async fn refresh(instance: &Instance, token: &str) -> Answer {
    send(instance.address(), Method::POST, "/admin/refresh-secrets", Some(token)).await
}
