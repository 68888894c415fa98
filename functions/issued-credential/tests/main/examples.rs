//! The issuers of the examples, as processes, against a provider over HTTP.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use issued_credential::issuer::Issuer;
use rotation::aws::FunctionErrorKind;
use rotation::deadline::Deadline;
use rotation::event::Step;
use rotation::secret::SecretText;
use rotation::versions::Stage;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::json;
use crate::site::{Made, Site};
use crate::store::Store;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// An issuer in a process of its own, which reads one event a line.
struct Program {
    _child: Child,
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

impl Program {
    fn start(example: &str, provider: &str) -> Self {
        let module = folder("examples").join(example);
        let (name, extension) = example.split_once('.').unwrap();
        let mut command = match extension {
            "py" => Command::new("python3"),
            _ => Command::new("node"),
        };
        command.arg(folder("tests/run").join(format!("run.{extension}")));
        command.arg(if extension == "py" { name.into() } else { module.into_os_string() });
        for (variable, value) in [
            ("PYTHONPATH", folder("examples").to_str().unwrap()),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("PROVIDER_URL", provider),
            ("CLIENT_ID", "shop"),
            ("ADMIN_SECRET", "shop/provider-admin"),
            ("LOGIN_SECRET", "shop/login"),
            ("EXTENSION_URL", provider),
            ("AWS_ENDPOINT_URL", provider),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
        ] {
            command.env(variable, value);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, pipes: Mutex::new((stdin, BufReader::new(stdout).lines())) }
    }

    async fn ask(&self, event: &str) -> Value {
        let (stdin, lines) = &mut *self.pipes.lock().await;
        stdin.write_all(format!("{event}\n").as_bytes()).await.unwrap();
        stdin.flush().await.unwrap();
        json(&lines.next_line().await.unwrap().expect("the issuer has ended"))
    }
}

impl Issuer for &Program {
    fn name(&self) -> &str {
        "example"
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(20)
    }

    async fn invoke(&self, payload: &SecretText, _: Deadline) -> Result<SecretText, FunctionErrorKind> {
        let answer = self.ask(payload.expose()).await;
        match answer.get("answer") {
            Some(answer) => Ok(SecretText::new(answer.to_string())),
            None => Err(FunctionErrorKind::Threw(answer["threw"].as_str().map(str::to_owned))),
        }
    }
}

/// The same issuer, whose answer to `create` is lost.
#[derive(Clone, Copy)]
struct DiesAfterCreate<'a>(&'a Program);

impl Issuer for DiesAfterCreate<'_> {
    fn name(&self) -> &str {
        "example"
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(20)
    }

    async fn invoke(&self, payload: &SecretText, deadline: Deadline) -> Result<SecretText, FunctionErrorKind> {
        let answer = (&self.0).invoke(payload, deadline).await?;
        if payload.expose().contains(r#""operation":"create""#) { Err(FunctionErrorKind::TimedOut) } else { Ok(answer) }
    }
}

fn secrets(made: &[Made]) -> Vec<&str> {
    made.iter().map(|made| made.secret.as_str()).collect()
}

/// Two rotations of client secrets, with an old one that is revoked in between.
async fn client_secrets_rotate(example: &str) {
    let site = Site::with("first");
    let program = Program::start(example, &site.serve().await);
    let store = Store::with(r#"{"CLIENT_SECRET":"first","CLIENT_SECRET_ID":"s1","CLIENT_ID":"shop"}"#);
    store.state().tags.insert("rotation:fields".to_owned(), "CLIENT_SECRET CLIENT_SECRET_ID".to_owned());
    store.rotate(1, &program).await.unwrap();
    let expected = json!({ "CLIENT_SECRET": "client-secret-2", "CLIENT_SECRET_ID": "s2", "CLIENT_ID": "shop" });
    assert_eq!(json(&store.current()), expected);
    assert_eq!(secrets(&site.alive()), ["first", "client-secret-2"]);
    // The provider takes no third one, so that nothing changes before the overlap has passed.
    assert_eq!(store.rotate(2, &program).await.unwrap_err().name(), "IssuerFailed");
    assert_eq!(json(&store.current()), expected);
    store.wait(25 * HOUR);
    store.go_on(2, &program).await.unwrap();
    assert_eq!(secrets(&site.alive()), ["client-secret-2", "client-secret-3"]);
}

#[tokio::test]
async fn client_secrets_rotate_by_the_issuer_in_python() {
    client_secrets_rotate("oauth_issuer.py").await;
}

#[tokio::test]
async fn client_secrets_rotate_by_the_issuer_in_node() {
    client_secrets_rotate("oauth_issuer.mjs").await;
}

#[tokio::test]
async fn a_weekly_cookie_rotates_though_its_issuer_dies_once() {
    let site = Site::with("session=first");
    let program = Program::start("cookie_issuer.py", &site.serve().await);
    let store = Store::with(r#"{"SESSION_COOKIE":"session=first"}"#);
    store.state().tags.insert("rotation:fields".to_owned(), "SESSION_COOKIE".to_owned());
    store.open(1);
    let lost = store.step(1, Step::CreateSecret, DiesAfterCreate(&program)).await.unwrap_err();
    assert_eq!((lost.name(), site.alive().len()), ("IssuerTimedOut", 2));
    store.go_on(1, &program).await.unwrap();
    assert!(store.is_at(1, &Stage::Current));
    assert_eq!(secrets(&site.alive()), ["session=first", "session=cookie-3"], "the orphan is logged out");
    assert_eq!(json(&store.current())["SESSION_COOKIE_EXPIRES"], "2099-01-01T00:00:00Z");
    store.wait(7 * 24 * HOUR);
    store.rotate(2, &program).await.unwrap();
    assert_eq!(secrets(&site.alive()), ["session=cookie-3", "session=cookie-4"]);
}

#[tokio::test]
async fn every_example_refuses_another_version_of_the_contract() {
    let url = Site::with("first").serve().await;
    for example in ["oauth_issuer.py", "cookie_issuer.py", "oauth_issuer.mjs"] {
        let answer = Program::start(example, &url).ask(r#"{"version":2,"operation":"verify","members":{}}"#).await;
        assert_eq!(answer["why"], "another version of the contract", "{example}: {answer}");
    }
}
