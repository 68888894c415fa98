//! A run of `deliver`: its size and start, and the calls of a run that finds everything delivered.

use end_to_end::{DELIVER, FIELD, Failure, Plan, Scene, build_with};
use serde_json::json;

use crate::{NOTHING, ROUNDS, Start, deflated, echo, median, megabytes, size};

/// Measures `deliver` with one copy, beside a function that does nothing.
pub(crate) async fn measure() -> Result<(), Failure> {
    let nothing = build_with(NOTHING, &["--release", "--package", "sandbox", "--example", NOTHING])?;
    let executable = build_with(DELIVER, &["--release", "--package", DELIVER])?;
    let (mut baseline, mut starts, mut calls) = (vec![], vec![], 0);
    for _ in 0..ROUNDS {
        baseline.push(Start::of(&echo(&nothing).await?)?);
        let value = format!(r#"{{"{FIELD}":"{}"}}"#, "x".repeat(64));
        let plan = Plan::json(&value).consumers(json!({ "production/admin-token": [{ "copy": "production/app" }] }));
        let mut plan = Plan { instances: 0, ..plan.also("shop/production/app", &value) };
        if let Some(consumers) = &mut plan.consumers {
            (consumers.executable, consumers.events, consumers.schedule) = (Some(executable.clone()), false, None);
        }
        let scene = Scene::start(plan).await?;
        // Only what a function rotates is copied.
        scene.configure().await?;
        starts.push(Start::of(&scene.sandbox.host().invoke(DELIVER, "{}".into()).await?)?);
        scene.sandbox.reset_calls();
        let answer = scene.deliver(&json!({})).await?.map_err(|error| format!("deliver: {error}"))?;
        if answer["delivered"] != 1 {
            return Err(format!("the value is not delivered: {answer}").into());
        }
        calls = scene.sandbox.calls_of(DELIVER).values().sum::<u64>();
    }
    println!("Medians of {ROUNDS} processes, release build, without TLS\n");
    println!("| | function that does nothing | {DELIVER} | ratio |\n| --- | ---: | ---: | ---: |");
    let row = |what: &str, one: f64, other: f64| println!("| {what} | {one:.1} | {other:.1} | {:.1} |", other / one);
    row("binary, MB", megabytes(size(&nothing)?), megabytes(size(&executable)?));
    row("deflated (zip), MB", megabytes(deflated(&nothing)?), megabytes(deflated(&executable)?));
    let of_start = |what, figure: fn(&Start) -> f64| row(what, median(&baseline, figure), median(&starts, figure));
    of_start("initialisation, ms", |start| start.init);
    of_start("first invocation, ms (one secret with one copy)", |start| start.invocation);
    of_start("processor time up to its answer, ms", |start| start.cpu);
    of_start("memory up to its answer, MB", |start| start.memory);
    println!("\ncalls of a run that finds everything delivered: {calls}");
    Ok(())
}
