//! The page about the sandbox: its commands run as they stand, and print what it shows.

#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]

mod tools;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tools::tool;

const PAGE: &str = include_str!("../README.md");
/// It starts another sandbox, with functions that are built.
const NOT_RUN: &str = "cargo sandbox";

/// The blocks of commands, each with the text that it prints.
fn blocks() -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut parts = PAGE.split("\n```");
    parts.next();
    for block in parts.step_by(2) {
        let (kind, content) = block.split_once('\n').unwrap();
        match kind {
            "sh" if !content.starts_with(NOT_RUN) => blocks.push((content.to_owned(), String::new())),
            "text" => blocks.last_mut().unwrap().1 = format!("{content}\n"),
            _ => {}
        }
    }
    blocks
}

/// The sandbox with the function of the page. It is ended with this.
struct Program(Child, String);

impl Program {
    fn start(folder: &Path) -> Self {
        std::fs::create_dir(folder.join("functions")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
        command.args(["--port", "0", "--function"]).arg(format!("restart={}", folder.join("restart").display()));
        command.current_dir(folder).env_remove("CARGO_MANIFEST_DIR").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let endpoint = lines.find_map(|line| {
            let export = line.strip_prefix("export AWS_ENDPOINT_URL=")?;
            Some(export.split(' ').next()?.to_owned())
        });
        // Its event lines must have a reader.
        std::thread::spawn(move || lines.count());
        Self(child, endpoint.unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It cannot end its tasks then. They end all the same.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs commands, and returns what they print.
fn run(folder: &TempDir, endpoint: &str, commands: &str) -> String {
    let aws = tool("aws", endpoint);
    let tools = Path::new(aws.get_program()).parent().unwrap();
    let path = std::env::join_paths([tools.to_owned(), "/usr/local/bin".into(), "/usr/bin".into(), "/bin".into()]);
    let mut command = tool("bash", endpoint);
    command.args(["-euo", "pipefail", "-c", commands]).current_dir(folder.path()).env("PATH", path.unwrap());
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{commands}\n{told}{}", String::from_utf8_lossy(&output.stderr));
    told
}

#[test]
fn the_commands_of_the_page_print_what_it_shows() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks();
    assert_eq!(blocks.len(), 6);
    let (first, rest) = blocks.split_first().unwrap();
    run(&folder, "http://127.0.0.1:9", &first.0);
    let program = Program::start(folder.path());
    for (commands, expected) in rest {
        let told = run(&folder, &program.1, commands);
        assert_eq!(told.trim_end(), expected.trim_end(), "{commands}");
    }
}
