//! One sweep over many secrets: calls against the least possible, time, memory.

use std::path::PathBuf;
use std::time::Duration;

use end_to_end::{Failure, OPERATE, PREFIX, Plan, Scene, build_with};
use sandbox::lambda_host::{FunctionConfig, Invocation};
use sandbox::{Sandbox, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The longest that Lambda gives an invocation.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// So much later every overlap is over.
const OVERLAP_OVER: Duration = Duration::from_secs(26 * 60 * 60);

/// Sweeps `secrets` copies of one that was rotated: when all of them have just been, and when none needs a look.
pub(crate) async fn measure(secrets: usize) -> Result<(), Failure> {
    let executable = build_with(OPERATE, &["--release", "--package", OPERATE])?;
    let fleet = Fleet::of(secrets).await?;
    println!(
        "| a sweep over {secrets} secrets, release build, 128 MB | calls | least possible | seconds | memory, MB |"
    );
    println!("| --- | ---: | ---: | ---: | ---: |");
    let pages = secrets.div_ceil(100);
    for (what, later, least) in [
        ("none needs a look", 40 * DAY, pages),
        // Each value has to be read.
        ("all were rotated in the last day", Duration::ZERO, pages + secrets),
        // The stage of each old token has to be taken away.
        ("every overlap is over, and is ended", OVERLAP_OVER, pages + secrets),
    ] {
        let sandbox = fleet.sandbox(later).await?;
        let invocation = sweep(&sandbox, executable.clone()).await?;
        let answer: Value = serde_json::from_slice(&invocation.payload)?;
        if answer["managed"] != secrets || answer["failed"] != 0 || !answer["continueFrom"].is_null() {
            return Err(format!("the sweep did not see everything: {answer}").into());
        }
        if later == OVERLAP_OVER && answer["revoked"] != secrets {
            return Err(format!("the sweep did not end every overlap: {answer}").into());
        }
        let calls = sandbox.calls_of(OPERATE).into_iter();
        let calls: u64 = calls.filter(|(call, _)| call != "PutMetricData").map(|(_, count)| count).sum();
        let usage = invocation.usage.ok_or("this machine does not tell what a process uses")?;
        let seconds = invocation.duration.as_secs_f64();
        println!("| {what} | {calls} | {least} | {seconds:.1} | {:.1} |", usage.max_memory_kb as f64 / 1024.0);
    }
    Ok(())
}

async fn sweep(sandbox: &Sandbox, executable: PathBuf) -> Result<Invocation, Failure> {
    deploy(sandbox, executable, "sweep")?;
    let event = json!({ "action": "sweep" }).to_string();
    Ok(sandbox.host().invoke(OPERATE, event.into()).await?)
}

/// Deploys `operate` with one action.
pub(crate) fn deploy(sandbox: &Sandbox, executable: PathBuf, action: &str) -> Result<(), Failure> {
    let environment = [
        ("AWS_ENDPOINT_URL", sandbox.endpoint()),
        ("SECRET_NAME_PREFIX", PREFIX.to_owned()),
        ("ALLOWED_ACTIONS", action.to_owned()),
    ];
    sandbox.host().register(FunctionConfig {
        name: OPERATE.to_owned(),
        executable,
        environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        timeout: TIMEOUT,
        memory_mb: 128,
    })?;
    sandbox.reset_calls();
    Ok(())
}

/// The state of a sandbox with many secrets.
pub(crate) struct Fleet {
    pub(crate) secrets: Vec<Value>,
    state: TempDir,
}

impl Fleet {
    /// Copies of one secret that was rotated, each with a name of its own.
    pub(crate) async fn of(copies: usize) -> Result<Self, Failure> {
        let state = tempfile::tempdir()?;
        let plan = Plan { instances: 0, ..Plan::text(&"x".repeat(64)) };
        let scene = Scene::start(Plan {
            sandbox: Settings { state_dir: Some(state.path().to_owned()), ..Settings::default() },
            ..plan
        });
        let scene = scene.await?;
        if !scene.rotate().await?.is_success() {
            return Err("the rotation of the one secret failed".into());
        }
        drop(scene);
        let one: Value = serde_json::from_slice(&std::fs::read(state.path().join("secrets.json"))?)?;
        let one = &one["secrets"][0];
        if !one.is_object() {
            return Err("the state has no secret".into());
        }
        let copies = (0..copies).map(|number| {
            let mut copy = one.clone();
            let name = format!("{PREFIX}service-{number:05}/admin-token");
            copy["arn"] = json!(format!("arn:aws:secretsmanager:us-east-1:000000000000:secret:{name}-AbCdEf"));
            copy["name"] = json!(name);
            copy
        });
        Ok(Self { secrets: copies.collect(), state })
    }

    /// A sandbox with the secrets, so much later. It changes nothing in the state.
    pub(crate) async fn sandbox(&self, later: Duration) -> Result<Sandbox, Failure> {
        let ahead = u64::try_from(later.as_millis())?;
        let state = json!({ "clock_ahead_millis": ahead, "secrets": self.secrets });
        std::fs::write(self.state.path().join("secrets.json"), state.to_string())?;
        let settings =
            Settings { state_dir: Some(self.state.path().to_owned()), state_is_read_only: true, ..Settings::default() };
        Ok(Sandbox::start(settings).await?)
    }
}
