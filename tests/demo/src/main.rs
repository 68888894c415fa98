//! `cargo demo`: an admin token and an encryption key are rotated, on demand, on schedule, by a function that is killed half
//! way, and at once after a compromise, while two instances of an application work under load; rows in PostgreSQL follow the key; then
//! an incident. Every claim that is printed was checked; the first that does not hold ends the demo with exit status 1.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]

mod incident;
mod keys;
mod rows;
mod stage;
mod tokens;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime};

use end_to_end::{FUNCTION, Failure, KEY_FUNCTION, OPERATE, Scene, build_with};
use stored_rows::connections::REENCRYPT;

use crate::stage::Output;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The exit status after Ctrl-C, as shells have it: 128 and the number of SIGINT.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let output = Output::default();
    // Dropped when interrupted, the performance ends what it started and removes its folders.
    let result = tokio::select! {
        result = perform(&output) => result,
        Ok(()) = tokio::signal::ctrl_c() => {
            eprintln!("\ncargo demo: interrupted");
            return INTERRUPTED.into();
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\ncargo demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn perform(out: &Output) -> Result<(), Failure> {
    let installing = out.clone();
    tokio::task::spawn_blocking(move || install(&installing)).await??;
    out.line("Building the functions (once), starting a sandbox and two instances of an application …");
    let [admin_token, encryption_key, operate, reencrypt] = tokio::task::spawn_blocking(build).await??;
    tokens::perform(out, admin_token.clone()).await?;
    keys::perform(out, encryption_key.clone()).await?;
    rows::perform(out, [encryption_key, operate.clone(), reencrypt]).await?;
    incident::perform(out, admin_token, operate).await?;
    out.line(NEXT);
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|folder| folder.join("aws").is_file()) {
        out.line("(no aws here? `cargo verify` installs one: export PATH=\"$PWD/target/tools/bin:$PATH\")");
    }
    Ok(())
}

/// The functions, built together with this program, so that all use the same builds of what they have in common.
fn build() -> Result<[PathBuf; 4], Failure> {
    let functions = [FUNCTION, KEY_FUNCTION, OPERATE, REENCRYPT];
    let packages: Vec<_> =
        functions.into_iter().chain([env!("CARGO_PKG_NAME")]).flat_map(|p| ["--package", p]).collect();
    let [token, key, operate, reencrypt] = functions.map(|function| build_with(function, &packages));
    Ok([token?, key?, operate?, reencrypt?])
}

/// Brings PostgreSQL, unless it was brought before.
fn install(out: &Output) -> Result<(), Failure> {
    tools::POSTGRES.install(|what, mut command: Command| {
        out.line(&format!("Installing {what} …"));
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{what}: {command:?}: {status}")),
            Err(error) => Err(format!("{what}: {command:?}: {error}")),
        }
    })?;
    Ok(())
}

const NEXT: &str = "
Next, with the AWS CLI: leave a sandbox running in one terminal
  cargo sandbox
paste the exports that it prints into another, and try
  aws secretsmanager create-secret --name shop/staging/admin-token --secret-string \"$(openssl rand -hex 32)\"
  aws secretsmanager rotate-secret --secret-id shop/staging/admin-token \\
      --rotation-lambda-arn arn:aws:lambda:us-east-1:000000000000:function:admin-token --rotation-rules AutomaticallyAfterDays=90
  aws secretsmanager describe-secret --secret-id shop/staging/admin-token";

fn check(holds: bool, claim: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(format!("this does not hold: {claim}").into()) }
}

async fn next_rotation(scene: &Scene) -> Result<SystemTime, Failure> {
    let secret = scene.client.describe_secret().secret_id(scene.secret()).send().await?;
    let next = secret.next_rotation_date.ok_or("the secret has no next rotation date")?;
    Ok(SystemTime::try_from(next)?)
}

/// How many values of the metric without dimensions there are; each counts one.
fn metric(scene: &Scene, name: &str) -> usize {
    let data = scene.sandbox.cloudwatch().data();
    data.iter().filter(|datum| datum.name == name && datum.dimensions.is_empty()).count()
}
