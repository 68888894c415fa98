//! The function that the tests of this crate run: it does what its event says.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a Lambda function logs by writing")]
#![allow(clippy::disallowed_methods, reason = "its environment is what the tests ask for")]

use std::collections::BTreeMap;
use std::time::Duration;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    initialise()?;
    lambda_runtime::run(service_fn(handle)).await
}

/// `INIT` names a way to fail; `INIT_ONCE` names a file that makes it succeed and that is written by failing.
fn initialise() -> Result<(), Error> {
    let Ok(kind) = std::env::var("INIT") else {
        return Ok(());
    };
    if let Ok(marker) = std::env::var("INIT_ONCE") {
        if std::fs::exists(&marker)? {
            return Ok(());
        }
        std::fs::write(&marker, "")?;
    }
    match kind.as_str() {
        "exit" => {
            eprintln!("about to fail");
            std::process::exit(7)
        }
        "hang" => std::thread::sleep(Duration::from_secs(3600)),
        other => return Err(format!("INIT={other} is unknown").into()),
    }
    Ok(())
}

fn files() -> Result<Vec<String>, Error> {
    std::fs::read_dir(".")?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let (event, context) = event.into_parts();
    println!("event {event}");
    match event["do"].as_str().unwrap_or("echo") {
        "echo" => Ok(event),
        "process" => Ok(json!({
            "pid": std::process::id(),
            "directory": std::env::current_dir()?,
            "files": files()?,
            "environment": std::env::vars().collect::<BTreeMap<_, _>>(),
            "request_id": context.request_id,
            "arn": context.invoked_function_arn,
            "deadline": context.deadline,
            "trace": context.xray_trace_id,
        })),
        "sleep" => {
            tokio::time::sleep(Duration::from_millis(event["ms"].as_u64().unwrap_or(0))).await;
            Ok(json!(std::process::id()))
        }
        "hold" => {
            println!("holding in {}", std::process::id());
            std::future::pending().await
        }
        "say" => {
            for n in 0..event["lines"].as_u64().unwrap_or(0) {
                println!("out {n}");
                eprintln!("err {n}");
            }
            print!("unfinished");
            std::io::Write::flush(&mut std::io::stdout())?;
            Ok(Value::Null)
        }
        "bytes" => Ok(json!("x".repeat(usize::try_from(event["count"].as_u64().unwrap_or(0))?))),
        "fail" => Err("it did not work".into()),
        "panic" => panic!("it broke"),
        "exit" => std::process::exit(i32::try_from(event["code"].as_i64().unwrap_or(0))?),
        "abort" => std::process::abort(),
        other => Err(format!("do={other} is unknown").into()),
    }
}
