//! `cargo sandbox` as its users have it: the program, the AWS CLI, boto3, curl's view of the control API.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, what is missing is a failed test")]

mod tools;

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::{Value, json};
use tempfile::TempDir;
use tools::tool;

const ROTATOR: &str = "arn:aws:lambda:us-east-1:000000000000:function:rotator";

/// A running program, ended with its handle.
struct Program {
    child: Child,
    endpoint: String,
}

impl Program {
    /// Starts in a folder that has an empty `functions/`.
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let child = command(folder, arguments).stdout(Stdio::piped()).spawn().unwrap();
        // From here on it is ended with this, also when it doesn't say where it serves.
        let mut program = Self { child, endpoint: String::new() };
        let mut lines = BufReader::new(program.child.stdout.take().unwrap()).lines();
        let exports = lines.find(|line| line.as_ref().unwrap().starts_with("export ")).unwrap().unwrap();
        let endpoint = exports.split_whitespace().find_map(|word| word.strip_prefix("AWS_ENDPOINT_URL="));
        program.endpoint = endpoint.unwrap().to_owned();
        // Its event lines must have a reader.
        std::thread::spawn(move || lines.count());
        program
    }

    fn aws(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = tool("aws", &self.endpoint).args(arguments).output().unwrap();
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    async fn control(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        control(&self.endpoint, method, path, body, None).await
    }

    /// Waits for a version to become current.
    fn wait_until_current(&self, secret: &str, version: &str) {
        let begun = Instant::now();
        loop {
            let description = self.aws(&["secretsmanager", "describe-secret", "--secret-id", secret]).unwrap();
            let stages = description["VersionIdsToStages"][version].as_array().cloned().unwrap_or_default();
            if stages.contains(&json!("AWSCURRENT")) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{description}");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
    command.args(arguments).current_dir(folder).env_remove("CARGO_MANIFEST_DIR");
    command
}

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("functions")).unwrap();
    folder
}

async fn control(endpoint: &str, method: &str, path: &str, body: Value, origin: Option<&str>) -> (u16, Value) {
    use http_body_util::BodyExt as _;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let mut request = http::Request::builder().method(method).uri(format!("{endpoint}/_sandbox/{path}"));
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let response = client.request(request.body(axum::body::Body::from(body)).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// A stand-in for `cargo lambda watch`: a rotation function behind the Invoke API.
async fn watcher() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = tokio::sync::watch::channel(String::new());
    let router = Router::new()
        .route("/2015-03-31/functions/rotator/invocations", post(rotate))
        .route(
            "/endpoint",
            post(move |endpoint: String| async move {
                sender.send_replace(endpoint);
            }),
        )
        .with_state(receiver);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn rotate(State(endpoint): State<tokio::sync::watch::Receiver<String>>, event: String) -> String {
    let event: Value = serde_json::from_str(&event).unwrap();
    let endpoint = endpoint.borrow().clone();
    let call = |operation: &str, body: Value| {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", format!("secretsmanager.{operation}").parse().unwrap());
        let mut request = http::Request::post(endpoint.as_str());
        *request.headers_mut().unwrap() = headers;
        let request = request.body(axum::body::Body::from(body.to_string())).unwrap();
        async move {
            use http_body_util::BodyExt as _;
            let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
            let body = client.request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice::<Value>(&body).unwrap()
        }
    };
    let (secret, token) = (&event["SecretId"], &event["ClientRequestToken"]);
    match event["Step"].as_str().unwrap() {
        "createSecret" => {
            let put = json!({
                "SecretId": secret, "ClientRequestToken": token, "SecretString": "rotated",
                "VersionStages": ["AWSPENDING"],
            });
            call("PutSecretValue", put).await;
        }
        "finishSecret" => {
            let description = call("DescribeSecret", json!({ "SecretId": secret })).await;
            let versions = description["VersionIdsToStages"].as_object().unwrap();
            let current = versions.iter().find(|(_, stages)| stages.as_array().unwrap().contains(&json!("AWSCURRENT")));
            let update = json!({
                "SecretId": secret, "VersionStage": "AWSCURRENT", "MoveToVersionId": token,
                "RemoveFromVersionId": current.unwrap().0,
            });
            call("UpdateSecretVersionStage", update).await;
        }
        _ => {}
    }
    "null".to_owned()
}

async fn program_with_watcher(folder: &TempDir) -> Program {
    let url = watcher().await;
    let program = Program::start(folder.path(), &["--port", "0", "--forward", &format!("rotator={url}")]);
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let request = http::Request::post(format!("{url}/endpoint")).body(axum::body::Body::from(program.endpoint.clone()));
    client.request(request.unwrap()).await.unwrap();
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_cli_creates_rotates_reads_lists_tags_and_moves_stages() {
    let folder = folder();
    let program = program_with_watcher(&folder).await;
    let sm = |arguments: &[&str]| program.aws(&[&["secretsmanager"], arguments].concat());
    let created = sm(&["create-secret", "--name", "app/token", "--secret-string", "first"]).unwrap();
    let old = created["VersionId"].as_str().unwrap();
    let secret = ["--secret-id", "app/token"];

    let rules = ["--rotation-rules", "AutomaticallyAfterDays=90", "--rotation-lambda-arn", ROTATOR];
    let rotated = sm(&[&["rotate-secret"], &secret[..], &rules].concat()).unwrap();
    let new = rotated["VersionId"].as_str().unwrap();
    program.wait_until_current("app/token", new);
    let read = |arguments: &[&str]| sm(&[&["get-secret-value"], &secret[..], arguments].concat()).unwrap();
    assert_eq!(read(&[])["SecretString"], "rotated");
    assert_eq!(read(&["--version-stage", "AWSPREVIOUS"])["SecretString"], "first");

    let list = sm(&["list-secrets", "--filters", "Key=name,Values=app/"]).unwrap();
    assert_eq!(list["SecretList"][0]["Name"], "app/token");
    sm(&[&["tag-resource"], &secret[..], &["--tags", "Key=rotation:hold,Value=2027-01-01"]].concat()).unwrap();
    let description = sm(&[&["describe-secret"], &secret[..]].concat()).unwrap();
    assert_eq!(description["Tags"], json!([{ "Key": "rotation:hold", "Value": "2027-01-01" }]));
    assert_eq!(description["RotationRules"], json!({ "AutomaticallyAfterDays": 90 }));

    let back = ["--version-stage", "AWSCURRENT", "--move-to-version-id", old];
    let refused = sm(&[&["update-secret-version-stage"], &secret[..], &back].concat()).unwrap_err();
    assert!(refused.contains("InvalidParameterException") && refused.contains(new), "{refused}");
    let from = ["--remove-from-version-id", new];
    sm(&[&["update-secret-version-stage"], &secret[..], &back, &from].concat()).unwrap();
    assert_eq!(read(&[])["SecretString"], "first");
    let missing = sm(&["get-secret-value", "--secret-id", "nobody"]).unwrap_err();
    assert!(missing.contains("(ResourceNotFoundException)"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_moves_on_request_and_what_is_due_happens() {
    let folder = folder();
    let program = program_with_watcher(&folder).await;
    program.aws(&["secretsmanager", "create-secret", "--name", "s", "--secret-string", "first"]).unwrap();
    let rotate = ["secretsmanager", "rotate-secret", "--secret-id", "s", "--rotation-lambda-arn", ROTATOR];
    let rotate = [&rotate[..], &["--rotation-rules", "AutomaticallyAfterDays=90", "--no-rotate-immediately"]].concat();
    program.aws(&rotate).unwrap();
    let (status, before) = program.control("GET", "clock", Value::Null).await;
    assert_eq!((status, &before["ahead_seconds"]), (200, &json!(0)));
    let (status, after) = program.control("POST", "clock", json!({ "advance": "90d" })).await;
    assert_eq!(status, 200);
    assert_eq!(after["ahead_seconds"], 90 * 86_400);

    let (_, events) = program.control("GET", "events", Value::Null).await;
    let names: Vec<&str> = events.as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert!(names.contains(&"TestRotationSucceeded") && names.last() == Some(&"RotationSucceeded"), "{names:?}");
    let (_, calls) = program.control("GET", "calls", Value::Null).await;
    assert_eq!(calls["sandbox"]["RotateSecret"], 1);
    for unusable in ["soon", "-1d", "101years", "500000000000years"] {
        let (status, problem) = program.control("POST", "clock", json!({ "advance": unusable })).await;
        assert_eq!(status, 400, "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lambda_and_cloudwatch_answer_the_aws_cli_on_the_same_port() {
    let folder = folder();
    let program = program_with_watcher(&folder).await;
    let event = json!({ "Step": "setSecret", "SecretId": "s", "ClientRequestToken": "t" }).to_string();
    let output = folder.path().join("out.json");
    let invoke = ["lambda", "invoke", "--function-name", "rotator", "--payload", &event, output.to_str().unwrap()];
    assert_eq!(program.aws(&invoke).unwrap()["StatusCode"], 200);
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "null");

    let put = ["cloudwatch", "put-metric-data", "--namespace", "SecretRotation", "--metric-name", "SecretAgeMax"];
    program.aws(&[&put[..], &["--value", "7"]].concat()).unwrap();
    let listed = program.aws(&["cloudwatch", "list-metrics", "--namespace", "SecretRotation"]).unwrap();
    assert_eq!(listed["Metrics"][0]["MetricName"], "SecretAgeMax");
    let (status, metrics) = program.control("GET", "metrics", Value::Null).await;
    assert_eq!((status, &metrics[0]["name"], &metrics[0]["value"]), (200, &json!("SecretAgeMax"), &json!(7.0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sns_and_cloudwatch_logs_answer_the_aws_cli_on_the_same_port() {
    let folder = folder();
    let program = program_with_watcher(&folder).await;
    let topic = "arn:aws:sns:us-east-1:000000000000:alerts";
    let publish = ["sns", "publish", "--topic-arn", topic, "--subject", "a subject", "--message", "two\nlines & more"];
    assert!(program.aws(&publish).unwrap()["MessageId"].is_string());
    let (status, published) = program.control("GET", "notifications", Value::Null).await;
    assert_eq!((status, published[0]["topic_arn"].as_str()), (200, Some(topic)));
    assert_eq!(
        (&published[0]["subject"], &published[0]["message"]),
        (&json!("a subject"), &json!("two\nlines & more"))
    );
    let refused = program.aws(&[&publish[..4], &["--message", "m", "--message-structure", "json"]].concat());
    assert!(refused.unwrap_err().contains("(InvalidParameter)"));

    let pattern = r#"{ $.message = "step failed" }"#;
    let search = ["logs", "filter-log-events", "--filter-pattern", pattern, "--log-group-name"];
    // Forwarded functions log where they run.
    assert_eq!(program.aws(&[&search[..], &["/aws/lambda/rotator"]].concat()).unwrap()["events"], json!([]));
    let unknown = program.aws(&[&search[..], &["/aws/lambda/nobody"]].concat()).unwrap_err();
    assert!(unknown.contains("(ResourceNotFoundException)"), "{unknown}");
    let (_, calls) = program.control("GET", "calls", Value::Null).await;
    assert_eq!((&calls["sandbox"]["Publish"], &calls["sandbox"]["FilterLogEvents"]), (&json!(2), &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_added_listed_and_removed_over_http() {
    let folder = folder();
    let program = Program::start(folder.path(), &["--port", "0"]);
    let rule = json!({ "operation": "ListSecrets", "times": 9, "fault": { "type": "InternalServiceError" } });
    let (status, added) = program.control("POST", "faults", rule).await;
    assert_eq!((status, &added["id"]), (200, &json!(1)));
    let list = ["secretsmanager", "list-secrets"];
    assert!(program.aws(&list).unwrap_err().contains("InternalServiceError"));
    let (_, rules) = program.control("GET", "faults", Value::Null).await;
    assert!(rules[0]["matched"].as_u64().unwrap() > 1, "the CLI retries");
    let (status, _) = program.control("DELETE", "faults/1", Value::Null).await;
    assert_eq!(status, 204);
    program.aws(&list).unwrap();
    let (status, _) = program.control("DELETE", "faults/1", Value::Null).await;
    assert_eq!(status, 404);
    let unknown = json!({ "operation": "ListSecrets", "fault": { "type": "Earthquake" } });
    let (status, _) = program.control("POST", "faults", unknown).await;
    assert_eq!(status, 400);
    let (status, _) = program.control("GET", "logs/nobody", Value::Null).await;
    assert_eq!(status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_cannot_reach_the_control_api() {
    let folder = folder();
    let program = Program::start(folder.path(), &["--port", "0"]);
    let advance = json!({ "advance": "90d" });
    let (status, _) = control(&program.endpoint, "POST", "clock", advance, Some("https://example.com")).await;
    assert_eq!(status, 403);
    let (_, clock) = program.control("GET", "clock", Value::Null).await;
    assert_eq!(clock["ahead_seconds"], 0);
}

#[test]
fn boto3_speaks_to_it() {
    let folder = folder();
    let program = Program::start(folder.path(), &["--port", "0"]);
    let script = r#"
import boto3, botocore
client = boto3.client("secretsmanager")
arn = client.create_secret(Name="s", SecretBinary=b"\x00\xff", Tags=[{"Key": "k", "Value": "v"}])["ARN"]
assert client.get_secret_value(SecretId=arn)["SecretBinary"] == b"\x00\xff"
client.put_secret_value(SecretId="s", SecretString="two")
described = client.describe_secret(SecretId="s")
assert sorted(map(tuple, described["VersionIdsToStages"].values())) == [("AWSCURRENT",), ("AWSPREVIOUS",)]
assert abs((described["CreatedDate"] - described["LastChangedDate"]).total_seconds()) < 60
pages = list(client.get_paginator("list_secrets").paginate(Filters=[{"Key": "tag-key", "Values": ["k"]}]))
assert [secret["Name"] for page in pages for secret in page["SecretList"]] == ["s"]
try:
    client.rotate_secret(SecretId="s", RotationLambdaARN="arn:aws:lambda:us-east-1:000000000000:function:nobody")
    raise SystemExit("rotated")
except botocore.exceptions.ClientError as error:
    assert error.response["Error"]["Code"] == "AccessDeniedException", error
client.delete_secret(SecretId="s", RecoveryWindowInDays=7)
try:
    client.get_secret_value(SecretId="s")
    raise SystemExit("read")
except client.exceptions.InvalidRequestException as error:
    assert "marked for deletion" in str(error), error
"#;
    let output = tool("python3", &program.endpoint).args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_and_clock_survive_a_restart_in_a_private_file() {
    let folder = folder();
    let state = folder.path().join("state");
    let arguments = ["--port", "0", "--state", state.to_str().unwrap()];
    let program = Program::start(folder.path(), &arguments);
    program.aws(&["secretsmanager", "create-secret", "--name", "s", "--secret-string", "kept"]).unwrap();
    program.control("POST", "clock", json!({ "advance": "10d" })).await;
    drop(program);
    let file = state.join("secrets.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1, "no temporary file is left");

    let program = Program::start(folder.path(), &arguments);
    let read = program.aws(&["secretsmanager", "get-secret-value", "--secret-id", "s"]).unwrap();
    assert_eq!(read["SecretString"], "kept");
    let (_, clock) = program.control("GET", "clock", Value::Null).await;
    assert_eq!(clock["ahead_seconds"], 10 * 86_400);
    drop(program);

    std::fs::write(&file, "{\"secrets\": \"hush").unwrap();
    let (success, problem) = fails(folder.path(), &arguments);
    assert!(!success && problem.contains("not a state file") && !problem.contains("hush"), "{problem}");
}

fn fails(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let output = command(folder, arguments).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_is_wrong_at_the_start_is_said_in_one_line() {
    let folder = folder();
    let program = Program::start(folder.path(), &["--port", "0"]);
    let port = program.endpoint.rsplit(':').next().unwrap();
    let (success, problem) = fails(folder.path(), &["--port", port]);
    assert!(!success && problem.contains(port) && problem.contains("in use"), "{problem}");

    let (success, problem) = fails(folder.path(), &["--prt", "0"]);
    assert!(!success && problem.contains("--prt") && problem.contains("--help"), "{problem}");
    let (success, problem) = fails(folder.path(), &["--port", "0", "--env", "nobody:K=hush"]);
    assert!(!success && problem.contains("no function nobody") && !problem.contains("hush"), "{problem}");
    let (success, problem) = fails(folder.path(), &["--port", "0", "--forward", "f=what"]);
    assert!(!success && problem.contains("--forward f"), "{problem}");

    std::fs::create_dir_all(folder.path().join("functions/f/src")).unwrap();
    std::fs::write(folder.path().join("functions/f/src/main.rs"), "").unwrap();
    let bin_dir = folder.path().to_str().unwrap();
    let (success, problem) = fails(folder.path(), &["--port", "0", "--bin-dir", bin_dir]);
    assert!(!success && problem.contains("no binary of f"), "{problem}");
}

#[tokio::test]
async fn the_control_api_names_what_it_cannot_take() {
    let folder = folder();
    let program = Program::start(folder.path(), &["--port", "0"]);
    let service = |change: Value| {
        let mut service = json!({ "cluster": "shop", "service": "web", "program": "/bin/false" });
        service.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        service
    };
    let refused = [
        ("services", service(json!({ "taks": 1 })), "unknown field `taks`"),
        ("services", service(json!({ "start_time": "soon" })), "expected number"),
        ("services", service(json!({ "cluster": "a/b" })), "cluster: 1 to 255"),
        ("services", service(json!({ "secrets": { "TOKEN": "name" } })), "secrets.TOKEN: the ARN of a secret"),
        ("rules", json!({ "function": "f" }), "missing field `pattern`"),
        ("schedules", json!({ "function": "f", "every": "often" }), "often: "),
        ("services/shop/web", json!({ "fail": true }), "fail_new_tasks"),
    ];
    for (path, body, says) in refused {
        let (status, answer) = program.control("POST", path, body.clone()).await;
        assert_eq!(status, 400, "{path} {body}");
        assert!(answer["error"].as_str().unwrap().contains(says), "{path} {body}: {answer}");
    }
    let (status, _) = program.control("DELETE", "services/shop/web", Value::Null).await;
    assert_eq!(status, 404);
    // A task that does not start is no error of the request.
    let (status, answer) = program.control("POST", "services", service(json!({}))).await;
    assert_eq!((status, &answer["tasks"]), (200, &json!([])));
    assert!(answer["stopped"][0].as_str().unwrap().contains("container in task exited"), "{answer}");
    let (status, answer) = program.control("POST", "services", service(json!({}))).await;
    assert_eq!((status, &answer["error"]), (400, &json!("the service shop/web exists")));
    let (status, _) = program.control("DELETE", "services/shop/web", Value::Null).await;
    assert_eq!(status, 204);
}

#[tokio::test]
async fn tasks_end_with_the_program_however_it_ends() {
    let folder = folder();
    let script = folder.path().join("task");
    let code = "#!/bin/sh\necho listening on http://127.0.0.1:9\necho $$ > \"$FILE\"\nexec sleep 600\n";
    std::fs::write(&script, code).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    for signal in ["TERM", "KILL"] {
        let program = Program::start(folder.path(), &["--port", "0"]);
        let file = folder.path().join(signal);
        let environment = json!({ "FILE": file, "PATH": "/usr/bin:/bin" });
        let service =
            json!({ "cluster": "c", "service": "s", "tasks": 1, "program": script, "environment": environment });
        assert_eq!(program.control("POST", "services", service).await.0, 200);
        let begun = Instant::now();
        let task = loop {
            match std::fs::read_to_string(&file) {
                Ok(id) if id.ends_with('\n') => break id.trim().to_owned(),
                _ => assert!(begun.elapsed() < Duration::from_secs(60), "no task"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let kill =
            |signal: &str, id: &str| Command::new("kill").args([signal, id]).stderr(Stdio::null()).status().unwrap();
        assert!(kill("-0", &task).success());
        assert!(kill(&format!("-{signal}"), &program.child.id().to_string()).success());
        while kill("-0", &task).success() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the task outlives the program after SIG{signal}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[test]
fn it_ends_on_sigterm_sigint_and_sighup() {
    let folder = folder();
    for signal in ["TERM", "INT", "HUP"] {
        let mut program = Program::start(folder.path(), &["--port", "0"]);
        let kill = format!("kill -{signal} {}", program.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = program.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "still running");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "{status}");
    }
}

#[test]
fn the_help_names_every_option_and_the_control_api() {
    let mut text = String::new();
    let folder = folder();
    let mut child = command(folder.path(), &["--help"]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    let options = ["--port", "--state", "--bin-dir", "--no-build", "--env", "--function", "--forward"];
    let paths =
        ["clock", "faults", "services", "rules", "schedules", "invocations"].map(|path| format!("/_sandbox/{path}"));
    for word in options.into_iter().chain(paths.iter().map(String::as_str)) {
        assert!(text.contains(word), "{word}");
    }
}
