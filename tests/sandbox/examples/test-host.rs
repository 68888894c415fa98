//! A host that the tests of this crate kill: it runs one function, prints its process id, and waits.

#![allow(clippy::print_stdout, reason = "its parent reads the process id there")]

use std::time::Duration;

use bytes::Bytes;
use sandbox::lambda_host::{FunctionConfig, LambdaHost};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let executable = std::env::args().nth(1).ok_or("which function?")?.into();
    let host = LambdaHost::new();
    host.register(FunctionConfig {
        name: "function".to_owned(),
        executable,
        environment: Default::default(),
        timeout: Duration::from_secs(10),
        memory_mb: 128,
    })?;
    let invocation = host.invoke("function", Bytes::from_static(br#"{"do":"process"}"#)).await?;
    let answer: Value = serde_json::from_slice(&invocation.payload)?;
    println!("{}", answer["pid"]);
    std::future::pending().await
}
