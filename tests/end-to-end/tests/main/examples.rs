//! `infra/examples`: the application's side in Python, Node and Rust, asked by real rotations.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use application::KeyFormat;
use aws_sdk_secretsmanager::Client;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use end_to_end::{ADMIN_TOKEN, FIELD, KEY_FIELD, KEY_SECRET, Plan, SECRET, Scene, request};
use http::{Method, Uri};
use sandbox::Settings;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::aws_cli::{tool, workspace};
use crate::interop::sealed_here;
use crate::keys::{bare_key, key_secret, parsed};
use crate::support::*;

// The Rust examples, compiled as they stand.
#[path = "../../../../infra/examples/rust/health.rs"]
mod health;
#[path = "../../../../infra/examples/rust/key_id.rs"]
mod key_id;
#[path = "../../../../infra/examples/rust/keyring_fernet.rs"]
mod keyring_fernet;
#[path = "../../../../infra/examples/rust/keyring_raw.rs"]
mod keyring_raw;
#[path = "../../../../infra/examples/rust/keyring_tink.rs"]
mod keyring_tink;
#[path = "../../../../infra/examples/rust/loaded.rs"]
mod loaded;
#[path = "../../../../infra/examples/rust/secret.rs"]
mod secret;
#[path = "../../../../infra/examples/rust/tokens.rs"]
mod tokens;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Language {
    Python,
    Node,
    Rust,
}

fn folder(language: &str) -> PathBuf {
    workspace().join("infra/examples").join(language)
}

fn format_name(format: KeyFormat) -> &'static str {
    match format {
        KeyFormat::Raw => "raw",
        KeyFormat::Fernet => "fernet",
        KeyFormat::Tink => "tink",
    }
}

/// The application of an example, on a port of this machine.
struct App {
    _process: Option<Child>,
    port: u16,
}

impl App {
    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn start(language: Language, scene: &Scene, port: u16, keys: Option<KeyFormat>) -> Self {
        let mut command = match language {
            Language::Rust => {
                let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
                let admin = health::admin(scene.client.clone()).await.unwrap();
                tokio::spawn(async move { axum::serve(listener, admin).await.unwrap() });
                return Self { _process: None, port };
            }
            Language::Python => {
                let mut command = Command::new(tool("python3"));
                command.arg("-B").arg(folder("python").join("app.py"));
                command
            }
            Language::Node => {
                let mut command = Command::new(tool("node"));
                command.arg(folder("node").join("app.mjs"));
                command.env("AGENT_URL", agent(scene.client.clone()).await);
                command
            }
        };
        command.env("TOKEN_SECRET", SECRET).env("PORT", port.to_string());
        if let Some(format) = keys {
            command.env("KEY_SECRET", KEY_SECRET).env("KEY_FORMAT", format_name(format));
        }
        command.env("AWS_ENDPOINT_URL", scene.sandbox.endpoint()).env("AWS_DEFAULT_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "application").env("AWS_SECRET_ACCESS_KEY", "application");
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().unwrap();
        eventually("the example listens", || async { TcpStream::connect(("127.0.0.1", port)).await.is_ok() }).await;
        Self { _process: Some(process), port }
    }

    async fn status(&self, token: &str) -> StatusCode {
        request(Method::GET, &self.url("/admin/health"), token).await.unwrap().0
    }
}

/// A port that was free a moment ago.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// What the Secrets Manager Agent answers on its port.
async fn agent(client: Client) -> String {
    async fn answer(State(client): State<Client>, uri: Uri) -> (StatusCode, String) {
        let query = form_urlencoded::parse(uri.query().unwrap().as_bytes()).into_owned();
        let query: BTreeMap<String, String> = query.collect();
        assert_eq!(query["refreshNow"], "true", "a cached value would be behind");
        let request = client.get_secret_value().secret_id(&query["secretId"]).version_stage(&query["versionStage"]);
        match request.send().await {
            Ok(found) => (StatusCode::OK, json!({ "SecretString": found.secret_string }).to_string()),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                (StatusCode::BAD_REQUEST, json!({ "__type": "ResourceNotFoundException" }).to_string())
            }
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, json!({ "__type": "InternalFailure" }).to_string()),
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/secretsmanager/get", get(answer)).with_state(client);
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    url
}

/// The function asks an application on this port.
fn asking(plan: Plan, port: u16) -> Plan {
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let environment = vec![
        ("TARGET_VERIFY_URL", url("/admin/health")),
        ("TARGET_REFRESH_URL", url("/admin/refresh")),
        ("TARGET_TIMEOUT", "3s".to_owned()),
    ];
    let sandbox = Settings { retry_backoff: Duration::from_millis(20), ..plan.sandbox };
    Plan { instances: 0, environment, sandbox, ..plan }
}

async fn rotates_tokens(language: Language) {
    let port = free_port().await;
    let scene = start(asking(Plan::json(&json_secret(FIRST)), port)).await;
    let app = App::start(language, &scene, port, None).await;
    assert_eq!(app.status(FIRST).await, StatusCode::OK);

    // By rotation:verify=before the application has to accept the pending token, and to refuse a random one.
    rotate(&scene).await;
    let new = scene.token("AWSCURRENT").await.unwrap();
    assert_ne!(new, FIRST);
    for (token, status) in [(new.as_str(), StatusCode::OK), (FIRST, StatusCode::OK), ("", StatusCode::UNAUTHORIZED)] {
        assert_eq!(app.status(token).await, status);
    }

    // The application ends the overlap: nobody has taken the previous token away.
    let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
    let mut members: Map<String, Value> = serde_json::from_str(&value).unwrap();
    members.insert(format!("{FIELD}_PREVIOUS_UNTIL"), "2020-01-01T00:00:00Z".into());
    let put = scene.client.put_secret_value().secret_id(SECRET).secret_string(Value::Object(members).to_string());
    put.send().await.unwrap();
    let (status, _) = request(Method::POST, &app.url("/admin/refresh"), &new).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!([app.status(&new).await, app.status(FIRST).await], [StatusCode::OK, StatusCode::UNAUTHORIZED]);
}

/// What an example makes of a keyring: the ids of its keys, the primary one's, and what it decrypts.
async fn read_by(language: Language, format: KeyFormat, value: &str, stored: &[String]) -> Value {
    let (interpreter, script, examples) = match language {
        Language::Python => ("python3", "keyring.py", folder("python")),
        Language::Node => ("node", "keyring.mjs", folder("node")),
        Language::Rust => return read_by_rust(format, value, stored),
    };
    let mut command = Command::new(tool(interpreter));
    command.arg(format!("{}/tests/main/examples/{script}", env!("CARGO_MANIFEST_DIR"))).arg(examples);
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().unwrap();
    let asked = json!({ "format": format_name(format), "secret": value, "member": KEY_FIELD, "stored": stored });
    process.stdin.take().unwrap().write_all(format!("{asked}\n").as_bytes()).await.unwrap();
    let output = process.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{language:?} {format:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn read_by_rust(format: KeyFormat, value: &str, stored: &[String]) -> Value {
    let secret = serde_json::from_str(value).unwrap();
    macro_rules! read {
        ($format:ident) => {{
            let ring = $format::Keyring::read(&secret, KEY_FIELD).unwrap();
            let texts = stored.iter().map(|stored| ring.decrypt(stored).map(|text| String::from_utf8(text).unwrap()));
            (ring.ids(), texts.collect::<Vec<_>>())
        }};
    }
    let (ids, texts) = match format {
        KeyFormat::Raw => read!(keyring_raw),
        KeyFormat::Fernet => read!(keyring_fernet),
        KeyFormat::Tink => read!(keyring_tink),
    };
    json!({ "primary": ids[0], "ids": ids, "plaintexts": texts })
}

/// As an application stores it: a Fernet token, or base64.
fn stored(format: KeyFormat, value: &str, text: &str) -> String {
    use base64::Engine as _;
    let sealed = sealed_here(format, value, true, text.as_bytes());
    match format {
        KeyFormat::Fernet => String::from_utf8(sealed).unwrap(),
        KeyFormat::Raw | KeyFormat::Tink => base64::engine::general_purpose::STANDARD.encode(sealed),
    }
}

/// Rotates until a key has been staged, primary and secondary, by the reports of the application alone.
async fn rotates_keys(language: Language, format: KeyFormat) {
    let port = free_port().await;
    let mut plan = asking(Plan::key_json(&key_secret(&bare_key(format, 1)), format), port);
    let token = [("TARGET_TOKEN_SECRET", "{1}/{2}/admin-token"), ("TARGET_TOKEN_FIELD", FIELD)];
    plan.environment.extend(token.map(|(name, value)| (name, value.to_owned())));
    let scene = start(plan).await;
    let put =
        scene.client.put_secret_value().secret_id(SECRET).secret_string(json!({ FIELD: ADMIN_TOKEN }).to_string());
    put.send().await.unwrap();
    let served = language != Language::Rust || format == KeyFormat::Raw;
    let _app = if served {
        App::start(language, &scene, port, Some(format)).await
    } else {
        // The Rust example's report reads the format raw. Its other formats are read below; Python's application is asked.
        App::start(Language::Python, &scene, port, Some(format)).await
    };
    let mut ciphertexts = vec![];
    for round in 0..3 {
        let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
        ciphertexts.push(stored(format, &value, &format!("record {round}")));
        let (_, ring) = parsed(format, &value, true);
        let read = read_by(language, format, &value, &ciphertexts).await;
        let mut ids: Vec<&str> = read["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        let mut expected: Vec<String> = ring.keys().map(|(_, key)| key.id().to_string()).collect();
        ids.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ids, expected, "{language:?} {format:?}");
        assert_eq!(read["primary"], ring.primary().id().to_string());
        let records: Vec<String> = (0..=round).map(|round| format!("record {round}")).collect();
        assert_eq!(read["plaintexts"], json!(records));
        scene.sandbox.advance(Duration::from_secs(2 * 60 * 60)).await.unwrap();
        rotate(&scene).await;
    }
    // The check can fail: a key that the ring does not have.
    let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
    let stranger = stored(format, &key_secret(&bare_key(format, 2)), "of another ring");
    assert_eq!(read_by(language, format, &value, &[stranger]).await["plaintexts"], json!([null]));
}

#[tokio::test(flavor = "multi_thread")]
async fn python_example_is_rotated_under() {
    rotates_tokens(Language::Python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_example_is_rotated_under() {
    rotates_tokens(Language::Node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_example_is_rotated_under() {
    rotates_tokens(Language::Rust).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_read_and_report_raw_keyrings() {
    for language in [Language::Python, Language::Node, Language::Rust] {
        rotates_keys(language, KeyFormat::Raw).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_read_and_report_fernet_keyrings() {
    for language in [Language::Python, Language::Node, Language::Rust] {
        rotates_keys(language, KeyFormat::Fernet).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_read_and_report_tink_keyrings() {
    for language in [Language::Python, Language::Node, Language::Rust] {
        rotates_keys(language, KeyFormat::Tink).await;
    }
}
