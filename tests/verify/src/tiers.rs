//! The tiers of checks: the quick checks, and all checks.

use std::process::Command;
use std::time::{Instant, SystemTime};

use verify::browser;
use verify::progress::run;
use verify::tools::{ENVIRONMENTS, TESTS};

use crate::junit::{self, Tests};
use crate::once;
use crate::workshop::Workshop;

const WORKFLOWS: &[&str] =
    &[".github/workflows/advisories.yml", ".github/workflows/release.yml", ".github/workflows/verify.yml"];

/// Formatting, lints, pure and protocol tests.
pub(crate) fn quick() -> Result<(), String> {
    let workshop = Workshop::open()?;
    TESTS.install(step)?;
    step("formatting", workshop.cargo("fmt --all --check"))?;
    step("spelling", spelling(&workshop))?;
    scripts(&workshop)?;
    step("lints", workshop.cargo("clippy --workspace --all-targets --locked -- -D warnings"))?;
    let tests = nextest(&workshop, "quick")?;
    println!("\n{} passed, 0 failed", tests.passed);
    Ok(())
}

/// All checks that a change must pass. The checks that find faults soonest run first.
pub(crate) fn everything() -> Result<(), String> {
    let workshop = Workshop::open()?;
    let began = SystemTime::now();
    for environment in ENVIRONMENTS {
        environment.install(step)?;
    }
    if browser::IS_PUBLISHED {
        browser::install(step)?;
    }
    step("formatting", workshop.cargo("fmt --all --check"))?;
    step("spelling", spelling(&workshop))?;
    scripts(&workshop)?;
    step("lints", workshop.cargo("clippy --workspace --all-targets --locked -- -D warnings"))?;
    for (schema, files) in [("github-workflows", WORKFLOWS), ("dependabot", &[".github/dependabot.yml"][..])] {
        let mut check = workshop.command(workshop.tool("check-jsonschema"));
        check.args(["--builtin-schema", &format!("vendor.{schema}")]).args(files);
        step(&format!("the schema of {schema}"), check)?;
    }
    let mut zizmor = workshop.command(workshop.tool("zizmor"));
    zizmor.args(["--offline", "--no-progress", "--persona", "pedantic", ".github"]);
    step("the workflows' security", zizmor)?;
    step("the build", workshop.cargo("build --workspace --all-targets --locked"))?;
    let tests = nextest(&workshop, "default")?;
    step("examples in the documentation", workshop.cargo("test --workspace --doc --locked --quiet"))?;
    let mut documentation = workshop.cargo("doc --workspace --no-deps --locked");
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", documentation)?;
    let dependencies = "deny --log-level error check bans licenses sources";
    step("licences, sources and duplicates of dependencies", workshop.cargo(dependencies))?;
    let advisories = advisories(workshop.cargo("deny --log-level error check advisories"))?;
    println!("\n== each dependency is compiled once");
    once::check(&workshop, began)?;
    println!();
    let unmade = [(advisories, "known vulnerabilities"), (browser::IS_PUBLISHED, "the report's page in a browser")];
    for (_, check) in unmade.iter().filter(|(made, _)| !made) {
        println!("1 check not made: {check}");
    }
    println!("{} passed, 0 failed", tests.passed);
    Ok(())
}

/// Checks the documents and the sources of the deployed functions. `Cargo.toml` lists the exceptions.
fn spelling(workshop: &Workshop) -> Command {
    let mut typos = workshop.command(workshop.tool("typos"));
    typos.args(["--format", "brief", "."]);
    typos
}

/// The form and the faults of the operator's command.
fn scripts(workshop: &Workshop) -> Result<(), String> {
    let mut form = workshop.command(workshop.tool("shfmt"));
    form.args(["-d", "-i", "2", "-ci", "-ln", "bash", "infra"]);
    step("the form of scripts", form)?;
    let mut faults = workshop.command(workshop.tool("shellcheck"));
    faults.args(["-x", "-a", "-P", "SCRIPTDIR", "infra/rotation", "infra/rotation-completion.bash"]);
    step("faults of scripts", faults)
}

/// Runs the tests of a profile in `.config/nextest.toml`, and prints the time of each test program.
fn nextest(workshop: &Workshop, profile: &str) -> Result<Tests, String> {
    let report = workshop.root.join("target/nextest").join(profile).join("junit.xml");
    // The report of an earlier run is no report of this run.
    let _ = std::fs::remove_file(&report);
    let ran = step("tests", workshop.cargo(&format!("nextest run --workspace --locked --profile {profile}")));
    let tests = std::fs::read_to_string(&report).map_err(|error| format!("{}: {error}", report.display()));
    match (ran, tests.map(|report| junit::read(&report))) {
        (Err(problem), Ok(tests)) => Err(format!("{problem}\n{} passed, {} failed", tests.passed, tests.failed)),
        (Err(problem), Err(_)) => Err(problem),
        (Ok(()), tests) => {
            let tests = tests?;
            println!("   seconds of each test program, its tests added up:");
            tests.programs.iter().for_each(|(name, tests, seconds)| println!("   {seconds:>7.1} {tests:>4} {name}"));
            if tests.passed == 0 { Err("no test ran".to_owned()) } else { Ok(tests) }
        }
    }
}

/// Searches for known vulnerabilities, in a database from GitHub. Returns `false` when the database cannot be fetched.
/// The check then prints that it was not made, and does not count as passed.
fn advisories(mut check: Command) -> Result<bool, String> {
    println!("\n== known vulnerabilities of dependencies");
    let output = check.output().map_err(|error| format!("cargo deny did not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        println!("   none");
        Ok(true)
    } else if text.contains("failed to fetch advisory database") {
        println!(
            "   NOT CHECKED: the advisory database cannot be fetched from here; run `cargo deny check advisories` elsewhere"
        );
        Ok(false)
    } else {
        Err(format!("vulnerable dependencies:\n{text}"))
    }
}

/// Runs a command under a headline, and prints its time.
pub(crate) fn step(what: &str, command: Command) -> Result<(), String> {
    println!("\n== {what}");
    let started = Instant::now();
    run(what, command)?;
    println!("   {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}
