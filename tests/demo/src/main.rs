//! `cargo demo`: an admin token and an encryption key are rotated, on demand, on schedule, by a function that is killed
//! half way, and at once after a compromise, while two instances of an application work under load; rows in PostgreSQL
//! follow the key; a session cookie is issued every week; then an incident, and a drill with the operator's command;
//! then services that read their secrets when they start. Every claim that is printed was checked; the first that does
//! not hold ends the demo with exit status 1.
//! A rotation is one line; `-v` shows each step of it, and each move of a staging label.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]

mod consumers;
mod drill;
mod incident;
mod issued;
mod keys;
mod rows;
mod shell;
mod stage;
mod tokens;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use end_to_end::connections::REENCRYPT;
use end_to_end::{FUNCTION, Failure, KEY_FUNCTION, OPERATE, Scene, program};

use crate::consumers::Programs;
use crate::stage::Output;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The exit status after Ctrl-C, as shells have it: 128 and the number of SIGINT.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let verbose = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["-v" | "--verbose"] => true,
        _ => {
            eprintln!("usage: cargo demo [-v]");
            return ExitCode::from(2);
        }
    };
    let output = Output::new(verbose);
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
    out.line(
        "Seven acts: a token, a key, stored rows, what others issue, an incident, a drill, consumers. Each has an",
    );
    out.line("AWS of its own; applications are under load. Every claim is checked; -v shows each move of a label.");
    let (admin_token, encryption_key) = (program(FUNCTION).await?, program(KEY_FUNCTION).await?);
    let (operate, reencrypt) = (program(OPERATE).await?, program(REENCRYPT).await?);
    let issued = program(issued::ISSUED).await?;
    tokens::perform(out, admin_token.clone()).await?;
    keys::perform(out, encryption_key.clone()).await?;
    rows::perform(out, [encryption_key.clone(), operate.clone(), reencrypt]).await?;
    issued::perform(out, issued, operate.clone()).await?;
    incident::perform(out, admin_token.clone(), operate.clone()).await?;
    drill::perform(out, admin_token.clone(), operate.clone()).await?;
    let application = program("application").await?;
    consumers::perform(out, Programs { admin_token, encryption_key, operate, application }).await?;
    out.line(NEXT);
    Ok(())
}

const NEXT: &str = "
Next: `cargo sandbox` in one terminal. Paste the exports that it prints into another, and try
  export PATH=\"$PWD/infra:$PWD/target/operator-tools/bin:$PATH\"
  aws secretsmanager create-secret --name shop/staging/admin-token --secret-string \"$(openssl rand -hex 32)\"
  aws secretsmanager rotate-secret --secret-id shop/staging/admin-token \\
      --rotation-lambda-arn arn:aws:lambda:us-east-1:000000000000:function:admin-token --rotation-rules AutomaticallyAfterDays=90
  rotation status";

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
