//! `cargo verify`: installs what the tests need into `target` and runs every check that a change must pass.
//!
//! It needs Rust with rustfmt and clippy, a C compiler, and Python 3; it has no dependency outside of this
//! workspace, so that it starts at once on a fresh machine.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]
#![allow(clippy::disallowed_methods, reason = "it is a program of its own, not a rotation function")]

use std::env;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use tools::{ENVIRONMENTS, workspace};

fn main() -> ExitCode {
    match verify() {
        Ok(Verified { passed, advisories }) => {
            println!();
            if advisories == Advisories::NotChecked {
                println!("1 check not made: known vulnerabilities");
            }
            println!("{passed} passed, 0 failed");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("\ncargo verify: {problem}");
            ExitCode::FAILURE
        }
    }
}

struct Verified {
    /// The number of tests that passed.
    passed: u64,
    advisories: Advisories,
}

#[derive(PartialEq)]
enum Advisories {
    None,
    NotChecked,
}

/// Runs everything in order, the quick checks first.
fn verify() -> Result<Verified, String> {
    let root = workspace()?;
    for environment in ENVIRONMENTS {
        environment.install(|what, command| run(&format!("tools: {what}"), command).map(|_| ()))?;
    }
    let tools = with_tools_first(&root)?;
    let cargo = |arguments: &str| {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments.split(' ')).current_dir(&root).env("PATH", &tools);
        // By these the outer Cargo describes this program; build scripts that watch them would run again.
        let described = |name: &str| OUTER_PACKAGE.iter().any(|prefix| name.starts_with(prefix));
        env::vars_os().filter(|(name, _)| name.to_str().is_some_and(described)).for_each(|(name, _)| {
            command.env_remove(name);
        });
        command
    };

    run("formatting", cargo("fmt --all --check"))?;
    run("lints", cargo("clippy --workspace --all-targets --locked --quiet -- -D warnings"))?;
    run(
        "the functions",
        cargo(
            "build --locked --quiet --package admin-token --package encryption-key --package operate --package reencrypt --bins",
        ),
    )?;
    let passed = run("tests", cargo("test --workspace --locked"))?;
    run("the demo", cargo("run --locked --quiet --package demo"))?;
    let mut documentation = cargo("doc --workspace --no-deps --locked --quiet");
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    run("documentation", documentation)?;
    run(
        "licences, sources and duplicates of dependencies",
        cargo("deny --log-level error check bans licenses sources"),
    )?;
    let advisories = advisories(cargo("deny --log-level error check advisories"))?;
    if passed == 0 {
        return Err("no test ran".to_owned());
    }
    Ok(Verified { passed, advisories })
}

/// How the names of the variables begin by which Cargo describes the program that it runs.
const OUTER_PACKAGE: [&str; 6] =
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_", "CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];

/// Known vulnerabilities, from a database that is fetched from GitHub. Without a way there, the check cannot be made;
/// that is said, and is not a pass.
fn advisories(mut check: Command) -> Result<Advisories, String> {
    println!("\n== known vulnerabilities of dependencies");
    let output = check.output().map_err(|error| format!("cargo deny did not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        println!("   none");
        Ok(Advisories::None)
    } else if text.contains("failed to fetch advisory database") {
        println!(
            "   NOT CHECKED: the advisory database cannot be fetched from here; run `cargo deny check advisories` elsewhere"
        );
        Ok(Advisories::NotChecked)
    } else {
        Err(format!("vulnerable dependencies:\n{text}"))
    }
}

/// The `PATH` that finds the tools of the tests first. Those of the template are called by their paths.
fn with_tools_first(root: &Path) -> Result<OsString, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [root.join(tools::TESTS.folder).join("bin")].into_iter().chain(env::split_paths(&path));
    env::join_paths(folders).map_err(|error| format!("PATH: {error}"))
}

/// Runs a command, shows what it prints, and counts the tests that it reports as passed.
fn run(what: &str, mut command: Command) -> Result<u64, String> {
    println!("\n== {what}");
    let started = Instant::now();
    let child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn();
    let mut child = child.map_err(|error| format!("{what}: {command:?} did not start: {error}"))?;
    let mut passed = 0;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("{line}");
            passed += tests_passed(&line);
        }
    }
    let status = child.wait().map_err(|error| format!("{what}: {error}"))?;
    if !status.success() {
        return Err(format!("{what} failed ({status}): {command:?}"));
    }
    println!("   {:.0} s", started.elapsed().as_secs_f64());
    Ok(passed)
}

/// The count in a line such as `test result: ok. 12 passed; 0 failed; …`.
fn tests_passed(line: &str) -> u64 {
    let count = line.strip_prefix("test result: ok. ").and_then(|rest| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}
