//! The program: its settings, its output, and that no log level shows a value.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use application::KeyFormat;
use axum::http::Method;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
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
async fn program_with_its_secret_in_the_environment_needs_no_aws() {
    let value = r#"{"TOKEN":"one-Zz7Qq1","TOKEN_NEXT":"two-Yy8Rr2"}"#;
    let mut command = program();
    command.env("SECRET_JSON", value).args(["--field", "TOKEN", "--log-level", "trace"]);
    let program = Program::start(&mut command).await;
    let get = async |token| send(program.address, Method::GET, "/admin/jobs", Some(token)).await.status;
    assert_eq!([get("one-Zz7Qq1").await, get("two-Yy8Rr2").await, get("three").await], [200, 200, 401]);
    let logs = program.end().await;
    assert!(!logs.contains("Zz7Qq1") && !logs.contains("Yy8Rr2"), "{logs}");
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

#[tokio::test]
async fn program_keeps_records_under_the_keyring_of_its_settings() {
    let fake = FakeSecretsManager::with_current("one").await;
    fake.keyring().put("k1", &keys::ring(KeyFormat::Tink, 1, None, &[2]), &["AWSCURRENT"]);
    let mut command = against(&fake);
    command.env("KEYRING_SECRET_ID", KEYRING).env("KEYRING_FIELD", "KEYS");
    command.args(["--keyring-format", "tink", "--keyring-mode=keyring", "--keyring-cache-seconds", "0"]);
    let program = Program::start(&mut command).await;
    let written = write_record(program.address, b"x").await;
    assert_eq!(written.status, 201);
    let id = written.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(read_record(program.address, &id).await.text, "x");

    // Nobody has to tell a program that caches for no time.
    fake.keyring().put("k2", &keys::ring(KeyFormat::Tink, 2, None, &[1]), &["AWSCURRENT"]);
    let primary = async || {
        read_record(program.address, &id).await;
        let health = send(program.address, Method::GET, "/admin/secrets/health", Some("one")).await;
        health.json()["primary_key_ids"].clone()
    };
    tokio::time::timeout(Duration::from_secs(10), async {
        while primary().await != serde_json::json!([keys::id(2)]) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn program_keeps_records_in_the_postgresql_of_its_settings() {
    let server = end_to_end::postgres::Postgres::start(&[]).unwrap();
    let sql = server.connect().await.unwrap();
    sql.batch_execute(application::database::TABLE).await.unwrap();
    let fake = FakeSecretsManager::with_current("one").await;
    fake.keyring().put("k1", &keys::ring(KeyFormat::Raw, 1, None, &[]), &["AWSCURRENT"]);
    let (user, password) = (end_to_end::postgres::SUPERUSER, end_to_end::postgres::PASSWORD);
    let url = format!("postgres://{user}:{password}@127.0.0.1:{}/postgres", server.port());
    let start = async || {
        let mut command = against(&fake);
        command.env("KEYRING_SECRET_ID", KEYRING).env("KEYRING_FIELD", "KEYS").env("DATABASE_URL", &url);
        Program::start(command.args(["--log-level", "trace"])).await
    };
    let program = start().await;
    let id = write_record(program.address, b"a refresh token").await.json()["id"].as_str().unwrap().to_owned();
    let mut logs = program.end().await;
    let stored: String = sql.query_one("SELECT refresh_token FROM connections", &[]).await.unwrap().get(0);
    assert_eq!(STANDARD.decode(stored).unwrap().len(), 12 + b"a refresh token".len() + 16);
    let program = start().await;
    assert_eq!(read_record(program.address, &id).await.text, "a refresh token");
    logs += &program.end().await;
    assert!(!logs.contains(password) && !logs.contains("a refresh token"), "{logs}");
}

/// Arguments, variables, and how the error begins.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

#[tokio::test]
async fn wrong_settings_end_the_program_with_what_to_fix() {
    let fake = FakeSecretsManager::with_current("one").await;
    let cases: [Case; 15] = [
        (&["--mode", "any"], &[], "MODE=any: the mode is all-stages or current-only"),
        (&["--port", "70000"], &[], "PORT=70000: "),
        (&["--colour", "red"], &[], "unknown argument --colour; --help lists the settings"),
        (&["--port"], &[], "--port needs a value"),
        (
            &["--keyring-secret-id", KEYRING, "--keyring-format", "aes"],
            &[],
            "KEYRING_FORMAT=aes: the format is raw, fernet or tink",
        ),
        (
            &["--keyring-secret-id", KEYRING, "--keyring-mode", "any"],
            &[],
            "KEYRING_MODE=any: the mode is keyring or name-only",
        ),
        (
            &["--keyring-secret-id", KEYRING, "--keyring-format", "tink", "--keyring-mode", "name-only"],
            &[],
            "KEYRING_MODE=name-only: only with KEYRING_FORMAT=raw",
        ),
        (&["--keyring-secret-id", KEYRING], &[("KEYRING_CACHE_SECONDS", "x")], "KEYRING_CACHE_SECONDS=x: "),
        (&["--keyring-field", "KEYS"], &[], "KEYRING_FIELD is set, and KEYRING_SECRET_ID is not"),
        (&["--database-url", "postgres://localhost"], &[], "DATABASE_URL is set, and KEYRING_SECRET_ID is not"),
        (
            &["--keyring-secret-id", KEYRING, "--database-url", "postgres://shop:password-Pp7Xx1@db.example.com/shop"],
            &[],
            "DATABASE_URL: the database is not on this machine, and the session would not be encrypted",
        ),
        (
            &["--keyring-secret-id", KEYRING],
            &[("DATABASE_URL", "password-Pp7Xx1")],
            "DATABASE_URL is no connection string",
        ),
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

/// The middle of a key in every form in which it could be printed.
fn forms(key: &[u8; 32]) -> [String; 5] {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let decimal = format!("{:?}", &key[12..20]);
    // In the message of a Tink key two bytes stand before it.
    let tink = STANDARD.encode([&[0x1a, 0x20], key.as_slice()].concat());
    let text = std::str::from_utf8(key).unwrap();
    let base64 = STANDARD.encode(key);
    [&text[12..20], &base64[16..28], &tink[20..32], &hex[24..40], decimal.trim_matches(['[', ']'])].map(str::to_owned)
}

#[tokio::test]
async fn no_key_and_no_record_is_in_any_output_at_any_level() {
    // Every byte is a character: what is written in any way shows.
    const PRIMARY: &[u8; 32] = b"leak-canary-Vq3Zt7Lm-of-primary!";
    const STAGED: &[u8; 32] = b"leak-canary-Hb8Yx2Kd-of-staged-!";
    const SECONDARY: &[u8; 32] = b"leak-canary-Wj5Ns6Rf-secondary-!";
    const RECORD: &str = "leak-canary-Gx4Mc1Pb-of-a-record";
    let tink = |keys: &[&[u8; 32]]| {
        let entry = |(id, key): (u32, &&[u8; 32])| keys::tink_entry(*key, id, "TINK");
        let entries: Vec<_> = (1..).zip(keys).map(entry).collect();
        serde_json::json!({ "primaryKeyId": 1, "key": entries }).to_string()
    };
    let list = |keys: &[&[u8; 32]]| keys.iter().map(|key| URL_SAFE.encode(key)).collect::<Vec<_>>().join(",");
    let raw = |staged: Option<&[u8; 32]>| {
        let mut value =
            serde_json::json!({ "KEYS": STANDARD.encode(PRIMARY), "KEYS_PREVIOUS": STANDARD.encode(SECONDARY) });
        if let Some(staged) = staged {
            value["KEYS_STAGED"] = STANDARD.encode(staged).into();
        }
        value.to_string()
    };
    let in_json = |keys: String| serde_json::json!({ "KEYS": keys }).to_string();
    for (format, current, pending) in [
        ("raw", raw(None), raw(Some(STAGED))),
        ("fernet", in_json(list(&[PRIMARY, SECONDARY])), in_json(list(&[PRIMARY, STAGED, SECONDARY]))),
        ("tink", in_json(tink(&[PRIMARY, SECONDARY])), in_json(tink(&[PRIMARY, SECONDARY, STAGED]))),
    ] {
        let fake = FakeSecretsManager::with_current("one").await;
        fake.keyring().put("k1", &current, &["AWSCURRENT"]);
        fake.keyring().put("k2", &pending, &["AWSPENDING"]);
        let mut command = against(&fake);
        command.args(["--log-level", "trace", "--keyring-secret-id", KEYRING, "--keyring-field", "KEYS"]);
        command.args(["--keyring-format", format]);
        let program = Program::start(&mut command).await;
        let written = write_record(program.address, RECORD.as_bytes()).await;
        let id = written.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(read_record(program.address, &id).await.text, RECORD, "{format}");
        let health = send(program.address, Method::GET, "/admin/secrets/health", Some("one")).await;
        assert_eq!(health.json()["key_ids"].as_array().unwrap().len(), 3, "{format}");
        // What can't be used is not shown either: keys in the encoding of nobody, and half a keyring.
        fake.keyring().put("k3", &in_json(format!("{current}{}", list(&[SECONDARY]))), &["AWSPENDING"]);
        let ignored = send(program.address, Method::POST, "/admin/refresh-secrets", Some("one")).await;
        assert_eq!(ignored.status, 200);
        fake.keyring().put("k4", &current[..current.len() - 2], &["AWSCURRENT"]);
        let failed = send(program.address, Method::POST, "/admin/refresh-secrets", Some("one")).await;
        assert_eq!(failed.status, 503);

        let mut written = program.end().await;
        assert!(written.contains(r#""level":"TRACE""#));
        assert!(written.contains("keyring ignored") && written.contains("secret not loaded"));
        for answer in [health, ignored, failed] {
            written += &format!("{:?} {}", answer.headers, answer.text);
        }
        for key in [PRIMARY, STAGED, SECONDARY, &RECORD.as_bytes().try_into().unwrap()] {
            for form in forms(key) {
                assert!(!written.contains(&form), "{format}: {form} in {written}");
            }
        }
    }
}
