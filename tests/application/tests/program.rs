//! The program: its settings, its output, and that no log level shows a value.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use axum::http::Method;
use support::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_application"));
    command.env_clear().kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn against(fake: &FakeSecretsManager) -> Command {
    let mut command = program();
    command
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "test-key-id")
        .env("AWS_SECRET_ACCESS_KEY", "test-secret-key-Ss9Kk3")
        .env("AWS_ENDPOINT_URL", format!("http://{}", fake.address))
        .env("SECRET_ID", SECRET);
    command
}

/// A running program, and what it writes, read all the time: a full pipe would hold it up.
struct Program {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    logs: JoinHandle<String>,
    address: SocketAddr,
}

impl Program {
    async fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut errors = child.stderr.take().unwrap();
        let logs = tokio::spawn(async move {
            let mut logs = String::new();
            errors.read_to_string(&mut logs).await.unwrap();
            logs
        });
        let line = tokio::time::timeout(Duration::from_secs(20), output.next_line()).await.unwrap().unwrap().unwrap();
        let address = line.strip_prefix("listening on http://").unwrap();
        let address = address.parse().unwrap();
        Self { child, output, logs, address }
    }

    /// Asks the program to end as an operator would, and gives back everything it wrote.
    async fn end(mut self) -> String {
        let id = self.child.id().unwrap().to_string();
        let signalled = Command::new("kill").arg(id).status().await.unwrap();
        assert!(signalled.success());
        assert!(self.child.wait().await.unwrap().success());
        let mut written = self.logs.await.unwrap();
        while let Some(line) = self.output.next_line().await.unwrap() {
            written += &line;
        }
        written
    }
}

#[tokio::test]
async fn the_program_serves_what_its_settings_say() {
    let value = r#"{"TOKEN":"one"}"#;
    let fake = FakeSecretsManager::with_current(value).await;
    let mut command = against(&fake);
    command
        .args(["--field", "TOKEN", "--mode=current-only"])
        .env("INSTANCE_ID", "from-the-environment")
        .args(["--instance-id", "from-a-flag"])
        .env("INSTANCE_HEADER", "X-Served-By");
    let program = Program::start(&mut command).await;
    let answer = send(program.address, Method::GET, "/admin/secrets/health", Some("one")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["mode"], "current-only");
    assert_eq!(answer.headers["x-served-by"], "from-a-flag");
    let logs = program.end().await;
    assert!(logs.contains("secret loaded"), "{logs}");
}

#[tokio::test]
async fn the_program_caches_for_as_long_as_it_is_told() {
    let fake = FakeSecretsManager::with_current("one").await;
    let mut command = against(&fake);
    command.args(["--cache-seconds", "2", "--mode", "current-only"]);
    let program = Program::start(&mut command).await;
    fake.put("v2", "two", &["AWSCURRENT"]);
    let get = async |token| send(program.address, Method::GET, "/admin/jobs", Some(token)).await.status;
    assert_eq!(get("two").await, 401);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(get("two").await, 200);
}

/// Arguments, variables, and how the error begins.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

#[tokio::test]
async fn wrong_settings_end_the_program_with_what_to_fix() {
    let fake = FakeSecretsManager::with_current("one").await;
    let cases: [Case; 7] = [
        (&["--mode", "any"], &[], "MODE=any: the mode is all-stages or current-only"),
        (&["--port", "70000"], &[], "PORT=70000: "),
        (&["--colour", "red"], &[], "unknown argument --colour; --help lists the settings"),
        (&["--port"], &[], "--port needs a value"),
        (&[], &[("CACHE_SECONDS", "an hour")], "CACHE_SECONDS=an hour: "),
        (&[], &[("SECRET_ID", "")], "SECRET_ID is not set"),
        (&[], &[("AWS_ENDPOINT_URL", "http://example.com")], "AWS_ENDPOINT_URL must be an https:// URL"),
    ];
    for (arguments, variables, expected) in cases {
        let mut command = against(&fake);
        command.args(arguments).envs(variables.iter().copied());
        let output = command.output().await.unwrap();
        assert!(!output.status.success());
        let written = String::from_utf8(output.stderr).unwrap();
        assert!(written.starts_with(&format!("application: {expected}")), "{written}");
    }
}

#[tokio::test]
async fn no_value_is_in_any_output_at_the_most_talkative_level() {
    const TOKEN: &str = "leak-canary-Vq3Zt7Lm";
    const PENDING: &str = "leak-canary-Hb8Yx2Kd";
    const GUESS: &str = "leak-canary-Wj5Ns6Rf";
    let fake = FakeSecretsManager::with_current(TOKEN).await;
    fake.put("v2", PENDING, &["AWSPENDING"]);
    let mut command = against(&fake);
    command.args(["--log-level", "trace"]);
    let program = Program::start(&mut command).await;
    let mut answers = String::new();
    for (method, path, token) in [
        (Method::GET, "/admin/jobs", TOKEN),
        (Method::GET, "/admin/jobs", PENDING),
        (Method::GET, "/admin/jobs", GUESS),
        (Method::GET, "/admin/secrets/health", TOKEN),
        (Method::POST, "/admin/refresh-secrets", TOKEN),
    ] {
        let answer = send(program.address, method, path, Some(token)).await;
        answers += &format!("{:?} {}", answer.headers, answer.text);
    }
    fake.put_binary("v3", &["AWSCURRENT"]);
    let failed = send(program.address, Method::POST, "/admin/refresh-secrets", Some(TOKEN)).await;
    assert_eq!(failed.status, 503);
    answers += &failed.text;

    let written = program.end().await;
    assert!(written.contains(r#""level":"TRACE""#));
    assert!(written.contains("secret not loaded"));
    for value in [TOKEN, PENDING, GUESS, "test-secret-key-Ss9Kk3"] {
        // The start of a base64 text does not depend on what follows it.
        let base64 = base64_of(value);
        let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        for form in [value, &base64[..16], &hex[..16]] {
            assert!(!written.contains(form), "{form} in {written}");
            assert!(!answers.contains(form), "{form} in {answers}");
        }
    }
}

fn base64_of(text: &str) -> String {
    aws_smithy_types::base64::encode(text)
}
