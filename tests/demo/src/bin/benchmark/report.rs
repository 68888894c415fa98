//! A report of many secrets, as data and as a page: calls, time, the size of the answer, memory.

use std::time::Duration;

use end_to_end::{Failure, OPERATE, build_with};
use serde_json::{Value, json};

use crate::fleet::{Fleet, deploy};
use crate::megabytes;

/// Of the usual length.
const OWNER: &str = "platform-team@example.org";

/// Reports twice in one process: a second report meets the memory of the first.
pub(crate) async fn measure(secrets: usize) -> Result<(), Failure> {
    let executable = build_with(OPERATE, &["--release", "--package", OPERATE])?;
    let mut fleet = Fleet::of(secrets).await?;
    println!(
        "| a report of {secrets} secrets, release build, 128 MB | secrets | calls | seconds | answer, MB | memory, MB |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (what, format, overlap) in [
        ("data", "json", "24h"),
        ("page", "html", "24h"),
        ("data, every secret has a problem", "json", "soon"),
        ("page, every secret has a problem", "html", "soon"),
    ] {
        let tags = [("owner", OWNER), ("contact", OWNER), ("rotation:overlap", overlap)];
        let tags = tags.map(|(key, value)| json!({ "Key": key, "Value": value }));
        for secret in &mut fleet.secrets {
            secret["tags"] = json!(tags);
        }
        let sandbox = fleet.sandbox(Duration::ZERO).await?;
        deploy(&sandbox, executable.clone(), "report")?;
        let event = json!({ "action": "report", "format": format }).to_string();
        let first = sandbox.host().invoke(OPERATE, event.clone().into()).await?;
        let calls: u64 = sandbox.calls_of(OPERATE).values().sum();
        let second = sandbox.host().invoke(OPERATE, event.into()).await?;
        let rows = told(&first.payload)?;
        if rows == 0 || rows != told(&second.payload)? {
            return Err(format!("the second report does not hold the {rows} secrets of the first").into());
        }
        let usage = second.usage.ok_or("this machine does not tell what a process uses")?;
        println!(
            "| {what} | {rows} | {calls} | {:.1} | {:.1} | {:.1} |",
            first.duration.as_secs_f64(),
            megabytes(u64::try_from(first.payload.len())?),
            usage.max_memory_kb as f64 / 1024.0
        );
    }
    Ok(())
}

/// The number of secrets in an answer.
fn told(answer: &[u8]) -> Result<usize, Failure> {
    let answer: Value = serde_json::from_slice(answer)?;
    if let Some(secrets) = answer["secrets"].as_array() {
        return Ok(secrets.len());
    }
    let html = answer["html"].as_str().ok_or_else(|| format!("no report: {answer}"))?;
    let (_, table) = html.split_once("id=secrets").ok_or("the page has no table of secrets")?;
    Ok(table.split("id=reads").next().unwrap_or_default().matches("<tr><th scope=row>").count())
}
