//! `cargo demo`, `cargo sandbox` and `cargo verify`: installs the tools, builds everything once, and runs it.
//!
//! The program needs Rust with rustfmt and clippy, a C compiler, and Python 3. `cargo verify` needs Node
//! with npm, too. The program has no dependency, so that it starts at once on a fresh machine and can say what will
//! happen.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]
#![allow(clippy::disallowed_methods, reason = "it is a program of its own, not a rotation function")]

mod arm64;
mod junit;
mod once;
mod release;
mod tiers;
mod workshop;

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use verify::progress::run;
use verify::tools::{OPERATOR, POSTGRES};

use crate::workshop::Workshop;

const HELP: &str = "\
cargo demo [-v]            a whole rotation, and what may go wrong in it, on an embedded AWS
cargo sandbox [options]    an AWS for one machine, until it is told to stop (--help)
cargo verify               everything that a change must pass: what CI runs
cargo verify quick         formatting, lints, pure and protocol tests
cargo verify arm64         builds the functions for aarch64, and runs them
cargo verify release       the zips of a release with their SBOM; --twice compares two builds
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["demo", ref rest @ ..] => demo(rest),
        ["sandbox", ref rest @ ..] => sandbox(rest),
        ["verify"] => tiers::everything(),
        ["verify", "quick"] => tiers::quick(),
        ["verify", "arm64"] => arm64::verify(),
        ["verify", "release"] => release::make(),
        ["verify", "release", "--twice"] => release::compare(),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("\n{problem}");
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &[&str]) -> Result<(), String> {
    let workshop = Workshop::open()?;
    if !workshop.program("demo").is_file() {
        println!(
            "The first time this builds the functions and an AWS to run them on, and brings PostgreSQL and the AWS CLI \
             into target/: about three minutes on two processors. Then the demo takes about 50 seconds."
        );
    }
    for environment in [POSTGRES, OPERATOR] {
        environment.install(|what, command| {
            println!("{what} …");
            run(what, command)
        })?;
    }
    start(&workshop, "demo", arguments)
}

fn sandbox(arguments: &[&str]) -> Result<(), String> {
    start(&Workshop::open()?, "sandbox", arguments)
}

/// Builds all programs and becomes one of them.
fn start(workshop: &Workshop, program: &str, arguments: &[&str]) -> Result<(), String> {
    workshop.build_programs()?;
    let error = workshop.command(workshop.program(program)).args(arguments).exec();
    Err(format!("{program} did not start: {error}"))
}
