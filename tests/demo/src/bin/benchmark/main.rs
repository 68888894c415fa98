//! What things cost:
//!
//! - `cargo run --package demo --bin benchmark`: a rotation, against a function that does nothing
//! - `… -- deliver`: a run of `deliver`, against the same
//! - `… -- fleet 10000`: a sweep over many secrets
//! - `… -- report 10000`: a report of many secrets
//! - `… -- rows 1000000`: the re-encryption of rows, and `… -- rows 1000000 5000000`: how it grows
//!
//! All are release builds, measured in turns in one run, so that the ratio holds where the times do not. The sandbox
//! is spoken to without TLS; a real connection adds a handshake to the first call of each process.
#![allow(clippy::print_stdout, reason = "it talks to a terminal")]

mod deliver;
mod fleet;
mod report;
mod rows;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use application::KeyFormat;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end::{Failure, Plan, Scene, build_with};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use sandbox::lambda_host::{FunctionConfig, Invocation, LambdaHost};

const ROUNDS: usize = 12;
const NOTHING: &str = "test-function";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => rotations().await,
        ["deliver"] => deliver::measure().await,
        ["fleet", secrets] => fleet::measure(secrets.parse()?).await,
        ["report", secrets] => report::measure(secrets.parse()?).await,
        ["rows", rows] => rows::measure(rows.parse()?, rows.parse()?).await,
        ["rows", rows, most] => rows::measure(rows.parse()?, most.parse()?).await,
        _ => Err(
            "usage: cargo run --package demo --bin benchmark [-- deliver | -- fleet NUMBER | -- report NUMBER | -- rows NUMBER [LARGEST]]"
                .into(),
        ),
    }
}

async fn rotations() -> Result<(), Failure> {
    let nothing = build_with(NOTHING, &["--release", "--package", "sandbox", "--example", NOTHING])?;
    let key = STANDARD.encode([7; 32]);
    let declared = vec![("CONSUMERS_KEYRING_AWARE", "true".to_owned())];
    let plans = [Plan::text(&"x".repeat(64)), Plan { environment: declared, ..Plan::key_text(&key, KeyFormat::Raw) }];
    let mut functions = vec![];
    for plan in plans {
        let executable = build_with(plan.function, &["--release", "--package", plan.function])?;
        let plan = Plan { instances: 0, executable: Some(executable.clone()), ..plan };
        functions.push(Function { plan, executable, starts: vec![], rotations: vec![], calls: 0 });
    }
    let mut baseline = vec![];
    for _ in 0..ROUNDS {
        baseline.push(Start::of(&echo(&nothing).await?)?);
        for function in &mut functions {
            function.measure().await?;
        }
    }

    println!("Medians of {ROUNDS} processes, release build, without TLS\n");
    let names: Vec<_> = functions.iter().map(|function| format!("{} | ratio", function.plan.function)).collect();
    println!("| | function that does nothing | {} |\n| --- | ---: | ---: | ---: | ---: | ---: |", names.join(" | "));
    let of_file = |what, figure: fn(&Path) -> Result<u64, Failure>| -> Result<(), Failure> {
        let figures: Result<Vec<u64>, _> = functions.iter().map(|function| figure(&function.executable)).collect();
        row(what, megabytes(figure(&nothing)?), figures?.into_iter().map(megabytes));
        Ok(())
    };
    of_file("binary, MB", size)?;
    of_file("deflated (zip), MB", deflated)?;
    let of_start = |what, figure: fn(&Start) -> f64| {
        let figures = functions.iter().map(|function| median(&function.starts, figure));
        row(what, median(&baseline, figure), figures);
    };
    of_start("initialisation, ms", |start| start.init);
    of_start("first invocation, ms (a rotation function: one DescribeSecret)", |start| start.invocation);
    of_start("processor time up to its answer, ms", |start| start.cpu);
    of_start("memory up to its answer, MB", |start| start.memory);
    let of_rotation = |what: &str, figure: fn(&Rotation) -> f64| {
        let figures = functions.iter().map(|function| format!("{:.1} | ", median(&function.rotations, figure)));
        println!("| {what} | | {} |", figures.collect::<Vec<_>>().join(" | "));
    };
    of_rotation("a warm rotation: four steps, ms", |rotation| rotation.wall);
    of_rotation("its processor time, ms", |rotation| rotation.cpu);
    of_rotation("memory after it, MB", |rotation| rotation.memory);
    let calls: Vec<_> = functions.iter().map(|function| format!("{} | ", function.calls)).collect();
    println!("| its calls to Secrets Manager, without a target | | {} |", calls.join(" | "));
    Ok(())
}

/// A rotation function under measurement.
struct Function {
    plan: Plan,
    executable: PathBuf,
    starts: Vec<Start>,
    rotations: Vec<Rotation>,
    calls: u64,
}

impl Function {
    /// One process: its start, a rotation whose calls are counted, and one more that is timed.
    async fn measure(&mut self) -> Result<(), Failure> {
        let scene = Scene::start(self.plan.clone()).await?;
        let initial = scene.stages().await?.into_keys().next().ok_or("the secret has no version")?;
        self.starts.push(Start::of(&describe(&scene, &initial).await?)?);
        scene.sandbox.reset_calls();
        succeeded(&scene).await?;
        self.calls = scene.sandbox.calls_of(scene.function()).values().sum();
        self.rotations.push(Rotation::last(&scene).await?);
        Ok(())
    }
}

/// A process up to its first answer.
struct Start {
    init: f64,
    invocation: f64,
    cpu: f64,
    memory: f64,
}

impl Start {
    fn of(invocation: &Invocation) -> Result<Self, Failure> {
        let usage = invocation.usage.ok_or("this machine does not tell what a process uses")?;
        Ok(Self {
            init: milliseconds(invocation.init_duration.ok_or("the process was not new")?),
            invocation: milliseconds(invocation.duration),
            cpu: milliseconds(usage.cpu_time),
            memory: usage.max_memory_kb as f64 / 1024.0,
        })
    }
}

/// A rotation by a process that has answered before.
struct Rotation {
    wall: f64,
    cpu: f64,
    memory: f64,
}

impl Rotation {
    /// Rotates once more, between two looks at the process that cost one DescribeSecret each.
    async fn last(scene: &Scene) -> Result<Self, Failure> {
        let current = |stages: &std::collections::BTreeMap<String, Vec<String>>| {
            let current = stages.iter().find(|(_, stages)| stages.iter().any(|stage| stage == "AWSCURRENT"));
            current.map(|(version, _)| version.clone()).ok_or("no version is current")
        };
        let before = describe(scene, &current(&scene.stages().await?)?).await?;
        succeeded(scene).await?;
        let after = describe(scene, &current(&scene.stages().await?)?).await?;
        let (Some(before), Some(usage)) = (before.usage, after.usage) else {
            return Err("this machine does not tell what a process uses".into());
        };
        let attempts = scene.sandbox.rotation_attempts(scene.secret());
        let steps = attempts.last().map(|attempt| &attempt.steps).ok_or("there was no rotation")?;
        Ok(Self {
            wall: steps.iter().map(|step| milliseconds(step.duration)).sum(),
            cpu: milliseconds(usage.cpu_time.saturating_sub(before.cpu_time)),
            memory: usage.max_memory_kb as f64 / 1024.0,
        })
    }
}

async fn succeeded(scene: &Scene) -> Result<(), Failure> {
    let outcome = scene.rotate().await?;
    if outcome.is_success() { Ok(()) } else { Err(format!("a rotation failed: {outcome:?}").into()) }
}

/// A step of a version that is already current: one DescribeSecret, and nothing to do.
async fn describe(scene: &Scene, version: &str) -> Result<Invocation, Failure> {
    let event = serde_json::json!({ "Step": "testSecret", "SecretId": scene.secret(), "ClientRequestToken": version });
    let invocation = scene.sandbox.host().invoke(scene.function(), event.to_string().into()).await?;
    match &invocation.function_error {
        None => Ok(invocation),
        Some(_) => Err(String::from_utf8_lossy(&invocation.payload).into_owned().into()),
    }
}

async fn echo(executable: &Path) -> Result<Invocation, Failure> {
    let host = LambdaHost::new();
    host.register(FunctionConfig {
        name: NOTHING.to_owned(),
        executable: PathBuf::from(executable),
        environment: Default::default(),
        timeout: Duration::from_secs(10),
        memory_mb: 128,
    })?;
    Ok(host.invoke(NOTHING, "{}".into()).await?)
}

fn row(what: &str, nothing: f64, functions: impl Iterator<Item = f64>) {
    let figures: Vec<_> = functions.map(|figure| format!("{figure:.1} | {:.1}", figure / nothing)).collect();
    println!("| {what} | {nothing:.1} | {} |", figures.join(" | "));
}

fn median<T>(samples: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    let mut figures: Vec<f64> = samples.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn size(file: &Path) -> Result<u64, Failure> {
    Ok(std::fs::metadata(file)?.len())
}

fn deflated(file: &Path) -> Result<u64, Failure> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&std::fs::read(file)?)?;
    Ok(encoder.finish()?.len() as u64)
}
