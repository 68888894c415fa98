//! The real AWS CLI, as an operator uses it.

use std::path::{Path, PathBuf};
use std::process::Output;

use end_to_end::Scene;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

/// A program that `cargo verify` installs, or one of that name in `PATH`.
///
/// # Panics
/// When there is none: without it the test would prove nothing.
pub(crate) fn tool(name: &str) -> PathBuf {
    let installed = workspace().join("target/tools/bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = [installed].into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join(name)));
    let found = candidates.into_iter().find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: `cargo verify` installs it into target/tools"))
}

pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// The CLI with the sandbox as its AWS, and nothing of this machine's configuration.
pub(crate) struct Cli {
    program: PathBuf,
    endpoint: String,
    home: TempDir,
}

impl Cli {
    pub(crate) fn new(scene: &Scene) -> Self {
        Self { program: tool("aws"), endpoint: scene.sandbox.endpoint(), home: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().kill_on_drop(true).current_dir(self.home.path());
        command.envs([
            ("AWS_ENDPOINT_URL", self.endpoint.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "person"),
            ("AWS_SECRET_ACCESS_KEY", "person"),
            ("AWS_MAX_ATTEMPTS", "1"),
            ("AWS_PAGER", ""),
        ]);
        command.env("HOME", self.home.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.output().await.unwrap()
    }

    /// The answer of a command that succeeds.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "aws {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What the CLI says of a command that fails.
    pub(crate) async fn failure(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(!output.status.success(), "aws {arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// `aws lambda invoke`: the CLI's own answer, and the function's.
    pub(crate) async fn invoke(&self, function: &str, event: &Value) -> (Value, Value) {
        let file = |name: &str| self.home.path().join(format!("{name}-{}.json", uuid::Uuid::new_v4()));
        let (payload, answer) = (file("event"), file("answer"));
        std::fs::write(&payload, event.to_string()).unwrap();
        // fileb:// means the same to both major versions of the CLI.
        let payload = format!("fileb://{}", payload.display());
        let status = self
            .json(&["lambda", "invoke", "--function-name", function, "--payload", &payload, answer.to_str().unwrap()])
            .await;
        (status, serde_json::from_slice(&std::fs::read(answer).unwrap()).unwrap())
    }
}
