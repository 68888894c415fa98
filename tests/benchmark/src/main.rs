//! What a rotation costs, against a function that does nothing: `cargo run --package benchmark`.
//!
//! Both are release builds, measured in turns in one run, so that the ratio holds where the times do not. The sandbox
//! is spoken to without TLS; a real connection adds a handshake to the first call of each process.
#![allow(clippy::print_stdout, reason = "it talks to a terminal")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end::{FUNCTION, Failure, Plan, SECRET, Scene, build_with};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use lambda_host::{FunctionConfig, Invocation, LambdaHost};

const ROUNDS: usize = 12;
const NOTHING: &str = "test-function";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let executable = build_with(FUNCTION, &["--release", "--package", FUNCTION])?;
    let nothing = build_with(NOTHING, &["--release", "--package", "lambda-host", "--example", NOTHING])?;

    let (mut starts, mut baseline, mut rotations) = (vec![], vec![], vec![]);
    let mut calls = 0;
    for _ in 0..ROUNDS {
        baseline.push(Start::of(&echo(&nothing).await?)?);
        let plan = Plan { instances: 0, executable: Some(executable.clone()), ..Plan::text(&"x".repeat(64)) };
        let scene = Scene::start(plan).await?;
        let initial = scene.stages().await?.into_keys().next().ok_or("the secret has no version")?;
        starts.push(Start::of(&describe(&scene, &initial).await?)?);

        scene.sandbox.reset_calls();
        succeeded(&scene).await?;
        calls = scene.sandbox.calls_of(FUNCTION).values().sum();
        rotations.push(Rotation::last(&scene).await?);
    }

    println!("Medians of {ROUNDS} processes, release build, without TLS\n");
    println!("| | function that does nothing | admin-token | ratio |\n| --- | ---: | ---: | ---: |");
    row("binary, MB", [megabytes(size(&nothing)?), megabytes(size(&executable)?)]);
    row("deflated (zip), MB", [megabytes(deflated(&nothing)?), megabytes(deflated(&executable)?)]);
    let both = |figure: fn(&Start) -> f64| [median(&baseline, figure), median(&starts, figure)];
    row("initialisation, ms", both(|start| start.init));
    row("first invocation, ms (admin-token: one DescribeSecret)", both(|start| start.invocation));
    row("processor time up to its answer, ms", both(|start| start.cpu));
    row("memory up to its answer, MB", both(|start| start.memory));
    println!("| a warm rotation: four steps, ms | | {:.1} | |", median(&rotations, |rotation| rotation.wall));
    println!("| its processor time, ms | | {:.1} | |", median(&rotations, |rotation| rotation.cpu));
    println!("| memory after it, MB | | {:.1} | |", median(&rotations, |rotation| rotation.memory));
    println!("| its calls to Secrets Manager, without a target | | {calls} | |");
    Ok(())
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
        let attempts = scene.sandbox.rotation_attempts(SECRET);
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
    let event = serde_json::json!({ "Step": "testSecret", "SecretId": SECRET, "ClientRequestToken": version });
    let invocation = scene.sandbox.host().invoke(FUNCTION, event.to_string().into()).await?;
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

fn row(what: &str, [nothing, function]: [f64; 2]) {
    println!("| {what} | {nothing:.1} | {function:.1} | {:.1} |", function / nothing);
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
