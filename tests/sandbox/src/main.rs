//! `cargo sandbox`: serves an AWS for one machine until a signal ends it.

#![allow(clippy::print_stdout, reason = "it talks to a terminal")]

mod arguments;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use arguments::{Command, Options};
use sandbox::{Event, EventKind, EventRule, Sandbox, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(io::stderr).init();
    let result = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => {
            print!("{}", arguments::HELP);
            Ok(())
        }
        Ok(Command::Run(options)) => run(options).await,
        Err(error) => Err(format!("{error}; see --help").into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Failure> {
    // The handlers exist before anything starts, so that an early signal is not lost.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let functions = functions(&options)?;
    let settings = Settings { port: options.port, state_dir: options.state_dir.clone(), ..Settings::default() };
    let sandbox = Sandbox::start(settings)
        .await
        .map_err(|error| format!("the sandbox can't start on port {}: {error}", options.port))?;
    let events = sandbox.subscribe();
    register(&sandbox, &functions, &options)?;
    greet(&sandbox, &options);
    tokio::select! {
        () = print_events(events) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// Names and binaries of the functions to run. Cargo builds them first, unless they come from elsewhere.
fn functions(options: &Options) -> Result<Vec<(String, PathBuf)>, Failure> {
    let beside = std::env::current_exe()?.parent().map(Path::to_owned).ok_or("this program has no folder")?;
    let root = workspace().ok_or("no folder functions/ here or above; run it in the project")?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("functions"))? {
        let entry = entry?;
        // A folder without a program is no function.
        if entry.path().join("src/main.rs").exists()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    // Without consumers deliver has nothing to do, and does not start.
    let delivers = options.environment.get("deliver").is_some_and(|variables| variables.contains_key("CONSUMERS"));
    names.retain(|name| !options.forward.contains_key(name) && (delivers || name != "deliver"));
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let binary = match &options.bin_dir {
                None if options.build => sandbox::program(&name)?,
                folder => folder.as_ref().unwrap_or(&beside).join(&name),
            };
            if binary.is_file() {
                Ok((name, binary))
            } else {
                Err(format!("there is no binary of {name} at {}; build it, or drop --no-build", binary.display())
                    .into())
            }
        })
        .collect()
}

/// The first folder with `functions/`, from Cargo's package folder upwards, or else from the current folder.
fn workspace() -> Option<PathBuf> {
    let start = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).or_else(|| std::env::current_dir().ok())?;
    start.ancestors().find(|folder| folder.join("functions").is_dir()).map(Path::to_owned)
}

fn register(sandbox: &Sandbox, functions: &[(String, PathBuf)], options: &Options) -> Result<(), Failure> {
    for (name, binary) in functions {
        let environment = options.environment.get(name).cloned().unwrap_or_default();
        sandbox
            .register_function(name, binary.clone(), environment)
            .map_err(|error| format!("{name} can't be registered: {error}"))?;
    }
    for (name, program) in &options.functions {
        let environment = options.environment.get(name).cloned().unwrap_or_default();
        sandbox
            .register_function(name, program.clone(), environment)
            .map_err(|error| format!("--function {name}: {error}"))?;
    }
    if functions.iter().any(|(name, _)| name == "deliver") {
        invoke_deliver(sandbox, options);
    }
    for (name, url) in &options.forward {
        sandbox.host().forward(name, url).map_err(|error| format!("--forward {name}: {error}"))?;
    }
    let known = sandbox.host().functions();
    match options.environment.keys().find(|function| !known.contains(function)) {
        Some(unknown) => Err(format!("--env: there is no function {unknown}; there are: {}", known.join(", ")).into()),
        None => Ok(()),
    }
}

/// The rules and the schedule of the template.
fn invoke_deliver(sandbox: &Sandbox, options: &Options) {
    let variable = |name| options.environment.get("deliver").and_then(|variables| variables.get(name));
    let prefix = variable("SECRET_NAME_PREFIX").map(String::as_str).unwrap_or_default();
    sandbox.event_bus().add_rule(EventRule::secret_label(prefix, "AWSCURRENT", "deliver"));
    sandbox.event_bus().add_rule(EventRule::deployment_ended("deliver"));
    sandbox.schedule("deliver", Duration::from_secs(3600), serde_json::json!({}));
}

fn greet(sandbox: &Sandbox, options: &Options) {
    let endpoint = sandbox.endpoint();
    let functions = sandbox.host().functions();
    let function = functions.first().map_or("NAME", String::as_str);
    println!("The sandbox serves Secrets Manager, Lambda, ECS, CloudWatch and SNS at {endpoint}. Ctrl-C ends it.");
    if let Some(dir) = &options.state_dir {
        println!("The secrets and their values are kept in {}/secrets.json.", dir.display());
    }
    println!("Functions: {}", if functions.is_empty() { "none".to_owned() } else { functions.join(", ") });
    println!();
    println!(
        "export AWS_ENDPOINT_URL={endpoint} AWS_ACCESS_KEY_ID=sandbox AWS_SECRET_ACCESS_KEY=sandbox \
         AWS_DEFAULT_REGION={}",
        sandbox::REGION
    );
    println!();
    println!("Then try:");
    println!("  aws secretsmanager create-secret --name demo --secret-string first-value");
    println!(
        "  aws secretsmanager rotate-secret --secret-id demo --rotation-rules AutomaticallyAfterDays=90 \
         --rotation-lambda-arn {}",
        sandbox::lambda_host::function_arn(function)
    );
    println!("  curl {endpoint}/_sandbox/clock -d '{{\"advance\": \"90d\"}}'");
    println!();
}

/// One line per event, in sandbox time, until the sandbox ends.
async fn print_events(mut events: broadcast::Receiver<Event>) {
    loop {
        match events.recv().await {
            Ok(event) => println!("{}", line(&event)),
            Err(RecvError::Lagged(missed)) => println!("({missed} events not shown)"),
            Err(RecvError::Closed) => return,
        }
    }
}

fn line(event: &Event) -> String {
    let name = event.secret_arn.rsplit(':').next().unwrap_or_default();
    let version: String = event.version_id.chars().take(8).collect();
    let labels = |labels: &std::collections::BTreeSet<String>| {
        if labels.is_empty() { "-".to_owned() } else { labels.iter().cloned().collect::<Vec<_>>().join(",") }
    };
    let what = match &event.kind {
        EventKind::RotationStarted => "rotation started".to_owned(),
        EventKind::RotationSucceeded => "rotation succeeded".to_owned(),
        EventKind::RotationFailed { error } => format!("rotation failed: {}", error.error_type),
        EventKind::RotationAbandoned => "rotation abandoned".to_owned(),
        EventKind::TestRotationStarted => "test of the configuration started".to_owned(),
        EventKind::TestRotationSucceeded => "test of the configuration succeeded".to_owned(),
        EventKind::TestRotationFailed { error } => format!("test of the configuration failed: {}", error.error_type),
        EventKind::StepStarted { attempt, step } => format!("{step} started, attempt {attempt}"),
        EventKind::StepEnded { step, cold, duration, error, .. } => {
            let outcome =
                error.as_ref().map_or("succeeded".to_owned(), |error| format!("failed: {}", error.error_type));
            let start = if *cold == Some(true) { ", cold start" } else { "" };
            format!("{step} {outcome} ({:.1} ms{start})", duration.as_secs_f64() * 1e3)
        }
        EventKind::StagesChanged { from, to } => format!("{} -> {}", labels(from), labels(to)),
    };
    format!("{} {name} {version} {what}", timestamp(event.time))
}

fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|timestamp| format!("{timestamp:.3}")).unwrap_or_default()
}
