//! Programs that nobody here wrote, or that stand for an application: one JSON request per line in, one JSON answer per line out.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A running program.
pub(crate) struct Program {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Program {
    pub(crate) fn start(interpreter: &str, script: &str) -> Self {
        let mut command = Command::new(tool(interpreter));
        command.arg(workspace().join("tests/end-to-end/tests/main/interop").join(script));
        command.env_clear().env("PYTHONDONTWRITEBYTECODE", "1");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (requests, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, requests, answers: BufReader::new(answers) }
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.requests, "{request}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// The member of an answer that has to be there.
    pub(crate) fn expect(&mut self, request: &Value, member: &str) -> String {
        let answer = self.ask(request);
        answer[member].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A program that `cargo verify` installs, or one of that name in `PATH`.
///
/// # Panics
/// When there is none: without it the test would prove nothing.
fn tool(name: &str) -> PathBuf {
    let installed = workspace().join("target/tools/bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = [installed].into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join(name)));
    let found = candidates.into_iter().find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: `cargo verify` installs it into target/tools"))
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}
