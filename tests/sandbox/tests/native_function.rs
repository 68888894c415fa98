//! Functions that run as processes on the sandbox's own Lambda host: a custom runtime in a few lines of Python, which
//! needs nothing built.

#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use common::{PATIENCE, ROTATOR, client, token};
use sandbox::{Fault, FaultRule, Moment, RotationOutcome, Sandbox, Settings};
use tempfile::TempDir;

const FUNCTION: &str = r#"
import json, os, urllib.request

def post(url, body, headers={}):
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        return json.loads(response.read() or "null")

def secrets_manager(operation, **members):
    credential = f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/scope"
    headers = {"X-Amz-Target": f"secretsmanager.{operation}", "Authorization": credential}
    return post(os.environ["AWS_ENDPOINT_URL"], members, headers)

def handle(event):
    secret, token, step = event["SecretId"], event["ClientRequestToken"], event["Step"]
    versions = secrets_manager("DescribeSecret", SecretId=secret)["VersionIdsToStages"]
    if step == "createSecret":
        secrets_manager("PutSecretValue", SecretId=secret, ClientRequestToken=token, SecretString="new",
                        VersionStages=["AWSPENDING"], RotationToken=event["RotationToken"])
    if step == "finishSecret":
        current = next(version for version, stages in versions.items() if "AWSCURRENT" in stages)
        if current != token:
            secrets_manager("UpdateSecretVersionStage", SecretId=secret, VersionStage="AWSCURRENT",
                            MoveToVersionId=token, RemoveFromVersionId=current)

runtime = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
while True:
    with urllib.request.urlopen(f"{runtime}/next") as response:
        request_id, event = response.headers["Lambda-Runtime-Aws-Request-Id"], json.load(response)
    print("step", event["Step"], flush=True)
    handle(event)
    post(f"{runtime}/{request_id}/response", None)
"#;

/// The function's executable; it goes with the folder.
fn executable(folder: &TempDir) -> PathBuf {
    let interpreter =
        Command::new("python3").args(["-c", "import sys; print(sys.executable, end='')"]).output().unwrap();
    let interpreter = String::from_utf8(interpreter.stdout).unwrap();
    let path = folder.path().join("rotator");
    std::fs::write(&path, format!("#!{interpreter}\n{FUNCTION}")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

async fn rotated(sandbox: &Sandbox) -> RotationOutcome {
    let client = client(sandbox, "tester", aws_sdk_secretsmanager::config::retry::RetryConfig::disabled());
    let create = client.create_secret().name("s").client_request_token(token(1)).secret_string("old");
    create.send().await.unwrap();
    let rotate = client.rotate_secret().secret_id("s").client_request_token(token(2)).rotation_lambda_arn(ROTATOR);
    rotate.send().await.unwrap();
    sandbox.wait_for_rotation("s", PATIENCE).await.unwrap()
}

#[tokio::test]
async fn a_process_rotates_a_secret_cold_once_and_warm_after_that() {
    let folder = TempDir::new().unwrap();
    let sandbox = Sandbox::start(Settings::default()).await.unwrap();
    sandbox.register_function("rotator", executable(&folder), []).unwrap();
    assert_eq!(rotated(&sandbox).await, RotationOutcome::Succeeded { version_id: token(2) });
    let attempts = sandbox.rotation_attempts("s");
    let cold: Vec<_> = attempts[0].steps.iter().map(|step| step.cold).collect();
    assert_eq!(cold, [Some(true), Some(false), Some(false), Some(false)]);
    // Its own credentials tell it apart from other callers.
    assert_eq!(sandbox.calls_of("rotator")["DescribeSecret"], 4);
    assert_eq!(sandbox.rotation_tokens_seen()[0].passed_on, 1);
    assert!(sandbox.host().logs("rotator").iter().any(|line| line == "step finishSecret"));
}

#[tokio::test]
async fn a_process_killed_half_way_is_repaired_by_the_retry() {
    let folder = TempDir::new().unwrap();
    let sandbox = Sandbox::start(Settings::default()).await.unwrap();
    sandbox.register_function("rotator", executable(&folder), []).unwrap();
    let kill = Fault::KillFunction { function: "rotator".into(), when: Moment::After };
    sandbox.faults().add(FaultRule::on("PutSecretValue", kill).from_caller("rotator"));
    assert_eq!(rotated(&sandbox).await, RotationOutcome::Succeeded { version_id: token(2) });
    let attempts = sandbox.rotation_attempts("s");
    assert_eq!(attempts.len(), 2);
    assert!(attempts[0].steps[0].error.is_some());
    assert_eq!(attempts[1].steps[0].cold, Some(true));
}

#[tokio::test]
async fn dropping_the_sandbox_ends_its_processes_and_its_server() {
    let folder = TempDir::new().unwrap();
    let sandbox = Sandbox::start(Settings::default()).await.unwrap();
    let executable = executable(&folder);
    sandbox.register_function("rotator", executable, []).unwrap();
    rotated(&sandbox).await;
    let address = sandbox.endpoint().strip_prefix("http://").unwrap().to_owned();
    let endpoint = format!("AWS_ENDPOINT_URL={}", sandbox.endpoint());
    assert_eq!(processes_with(&endpoint), 1);
    drop(sandbox);
    for _ in 0..200 {
        if processes_with(&endpoint) == 0 && tokio::net::TcpStream::connect(&address).await.is_err() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("something is left");
}

/// Processes of this machine that have this variable in their environment.
fn processes_with(variable: &str) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.unwrap().path().join("environ")).ok())
        .filter(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes()))
        .count()
}
