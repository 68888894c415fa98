//! `cargo lambda watch` in place of the sandbox's own host, as a developer works on a function.

use std::process::Stdio;
use std::time::Duration;

use end_to_end::{FUNCTION, SECRET, Scene};
use sandbox::Step;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::aws_cli::{tool, workspace};
use crate::support::*;

/// The server, and the function that asks it for invocations; both end when dropped.
struct Watch {
    _server: Child,
    _function: Child,
    port: u16,
}

impl Watch {
    async fn start(scene: &Scene) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let mut command = cargo_lambda();
        command.current_dir(workspace()).kill_on_drop(true);
        command.args(["lambda", "watch", "--invoke-address", "127.0.0.1", "--invoke-port", &port.to_string()]);
        // It would build the function for itself alone, with dependencies of its own; the one that is there is started here.
        command.args(["--only-lambda-apis", "--ignore-changes"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().unwrap();
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                let runtime = format!("http://127.0.0.1:{port}/.rt/{FUNCTION}");
                let mut function = Command::new(end_to_end::program(FUNCTION).await.unwrap());
                function.env_clear().envs([
                    ("AWS_LAMBDA_RUNTIME_API", runtime.as_str()),
                    ("AWS_LAMBDA_FUNCTION_NAME", FUNCTION),
                    ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
                    ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
                    ("AWS_ENDPOINT_URL", scene.sandbox.endpoint().as_str()),
                    ("AWS_REGION", "us-east-1"),
                    ("AWS_ACCESS_KEY_ID", "developer"),
                    ("AWS_SECRET_ACCESS_KEY", "developer"),
                    ("SECRET_NAME_PREFIX", end_to_end::PREFIX),
                ]);
                function.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
                return Self { _server: server, _function: function.spawn().unwrap(), port };
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("cargo lambda watch did not start to listen");
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cargo_lambda_serves_a_rotation_and_the_example_events() {
    let scene = start(no_target(text_plan())).await;
    let watch = Watch::start(&scene).await;
    // The example events name a version that nobody made, and each step says so.
    for step in ["create", "set", "test", "finish"] {
        let output = invoke_example(&watch, step).await;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success() && said.contains("UnknownVersion"), "{step}: {said}");
    }

    scene.sandbox.host().forward(FUNCTION, &watch.url()).unwrap();
    let version = rotate(&scene).await;
    assert_eq!(current(&scene).await.unwrap().0, version);
    assert_eq!(scene.value("AWSPREVIOUS").await.unwrap().as_deref(), Some(FIRST));
    let steps = &scene.sandbox.rotation_attempts(SECRET)[0].steps;
    println!("cargo lambda watch: {:?}", steps.iter().map(|step| step.duration).collect::<Vec<_>>());

    // The version that they name, once a rotation has made it.
    let example = std::fs::read(workspace().join("tests/events/create-secret.json")).unwrap();
    let example: Value = serde_json::from_slice(&example).unwrap();
    assert_eq!((&example["Step"], &example["SecretId"]), (&Step::Create.as_str().into(), &SECRET.into()));
    let token = example["ClientRequestToken"].as_str().unwrap();
    scene.client.rotate_secret().secret_id(SECRET).client_request_token(token).send().await.unwrap();
    assert!(end(&scene).await.is_success());
    let output = invoke_example(&watch, "create").await;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["outcome"], &answer["version"]), (&"nothingToDo".into(), &token.into()));
}

/// Without what this machine is told of AWS and of proxies.
fn cargo_lambda() -> Command {
    let mut command = Command::from(verify::cargo::command_beside_cargo(tool("cargo-lambda")));
    for (variable, _) in std::env::vars_os() {
        let upper = variable.to_string_lossy().to_uppercase();
        if upper.starts_with("AWS_") || upper.ends_with("_PROXY") {
            command.env_remove(variable);
        }
    }
    command
}

async fn invoke_example(watch: &Watch, step: &str) -> std::process::Output {
    let file = workspace().join(format!("tests/events/{step}-secret.json"));
    let mut command = cargo_lambda();
    command.args([
        "lambda",
        "invoke",
        FUNCTION,
        "--invoke-address",
        "127.0.0.1",
        "--invoke-port",
        &watch.port.to_string(),
    ]);
    command.arg("--data-file").arg(file).kill_on_drop(true);
    command.output().await.unwrap()
}
