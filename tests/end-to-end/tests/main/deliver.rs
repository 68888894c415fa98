//! Deliveries with the built functions: services that read their environment when they start.

mod differs;
mod page;
mod timelines;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use application::LoadReport;
use end_to_end::{DELIVER, EVENT_TOPIC, Plan, SECRET, Scene, program};
use sandbox::{ServiceDeclaration, secret};
use serde_json::{Value, json};

use crate::aws_cli::Cli;
use crate::support::*;

const WEB: &str = "shop/web";
const WORKER: &str = "shop/worker";
/// How long clients keep what they read.
const CLIENT_CACHE: Duration = Duration::from_millis(200);
const SETTLED: Duration = Duration::from_secs(600);

/// A service whose tasks read the whole secret when they start.
fn service(id: &str, program: PathBuf) -> ServiceDeclaration {
    let (cluster, service) = id.split_once('/').unwrap();
    ServiceDeclaration::new(cluster, service, program).with_secret("SECRET", &secret(SECRET))
}

/// A JSON secret with staged promotion, and no application that is asked.
fn staged_plan() -> Plan {
    once(no_target(Plan { tags: vec![("rotation:promotion", "staged")], ..json_plan() }))
}

/// A JSON secret with staged promotion, two services that consume it, and no application that is asked.
async fn scene() -> Scene {
    scene_with(vec![("rotation:promotion", "staged")]).await
}

async fn scene_with(tags: Vec<(&'static str, &'static str)>) -> Scene {
    let task = program("examples/test-task").await.unwrap();
    let consumers = json!({ "production/admin-token": [{ "ecs": WEB }, { "ecs": WORKER }] });
    let plan = once(no_target(Plan { tags, ..json_plan() }));
    let scene =
        start(plan.service(service(WEB, task.clone())).service(service(WORKER, task)).consumers(consumers)).await;
    scene.configure().await.unwrap();
    scene
}

fn assert_nobody_refused(report: &LoadReport) {
    assert_eq!((report.refused, report.failed), (0, 0), "{report:?}");
    assert!(report.accepted > 30, "only {} requests were sent", report.accepted);
}

/// How many deployments of a service succeeded, the first one included.
fn deployments(scene: &Scene, id: &str) -> usize {
    let service = scene.service(id).unwrap();
    service.deployments.iter().filter(|status| **status == "SUCCESSFUL").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn staged_token_reaches_two_services_without_a_refusal() {
    let scene = scene().await;
    scene.deliver_all().await.unwrap();
    let first = scene.token("AWSCURRENT").await.unwrap();
    let mut loads = Vec::new();
    for id in [WEB, WORKER] {
        loads.push(scene.service_load(id, scene.fresh_clients(CLIENT_CACHE), 50).await.unwrap());
        loads.push(scene.service_load(id, scene.stale_clients(), 50).await.unwrap());
    }
    for number in 0..2 {
        rotate(&scene).await;
        scene.deliver_all().await.unwrap();
        // The first rotation stages the next token, and the second promotes it.
        assert_eq!(scene.token("AWSCURRENT").await.unwrap() == first, number == 0);
        tokio::time::sleep(2 * CLIENT_CACHE).await;
    }
    for load in loads {
        assert_nobody_refused(&load.stop().await);
    }
    // One deployment began the service, one delivered the first value, and one each rotation.
    for id in [WEB, WORKER] {
        assert_eq!(deployments(&scene, id), 4, "{:?}", scene.service(id));
    }
    let (calls, events) = (scene.sandbox.calls_of(DELIVER), scene.sandbox.notifications());
    assert_eq!(calls["UpdateService"], 6);
    assert!(events.iter().any(|event| event.topic_arn == EVENT_TOPIC && event.message.contains("Delivered")));
    println!("calls of deliver: {calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rotation_begins_before_the_value_is_delivered() {
    let scene = scene().await;
    scene.sandbox.event_bus().lose_events(true);
    let error = fail_to_rotate(&scene).await;
    assert_eq!(error.error_type, "NotDelivered", "{error:?}");
    scene.deliver_all().await.unwrap();
    rotate(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_deployment_is_told_and_not_repeated() {
    let scene = scene().await;
    scene.deliver_all().await.unwrap();
    scene.sandbox.ecs().fail_new_tasks(WEB, true).unwrap();
    rotate(&scene).await;
    scene.until_events_are_handled().await.unwrap();
    for _ in 0..4 {
        scene.sandbox.advance(SETTLED).await.unwrap();
        scene.deliver(&json!({})).await.unwrap().unwrap();
    }
    assert!(!scene.is_delivered().await.unwrap());
    let statuses = scene.service(WEB).unwrap().deployments;
    assert_eq!(statuses.iter().filter(|status| **status == "ROLLBACK_SUCCESSFUL").count(), 1, "{statuses:?}");
    let answer = scene.deliver(&json!({})).await.unwrap().unwrap();
    assert!(answer.to_string().contains("ROLLBACK_SUCCESSFUL"), "{answer}");
    assert_ne!(answer["failed"], json!([]), "{answer}");

    // The repair: the cause is gone, and a person deploys. The event of its end does the rest.
    scene.sandbox.ecs().fail_new_tasks(WEB, false).unwrap();
    let deploy = ["ecs", "update-service", "--cluster", "shop", "--service", "web", "--force-new-deployment"];
    Cli::new(&scene).json(&deploy).await;
    scene.sandbox.advance(SETTLED).await.unwrap();
    scene.until_events_are_handled().await.unwrap();
    assert!(scene.is_delivered().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn unstaged_token_is_refused_until_services_restart() {
    let scene = scene_with(vec![]).await;
    scene.deliver_all().await.unwrap();
    let fresh = scene.service_load(WEB, scene.fresh_clients(CLIENT_CACHE), 50).await.unwrap();
    rotate(&scene).await;
    eventually("a refusal", || async { fresh.report().refused > 0 }).await;
    scene.deliver_all().await.unwrap();
    tokio::time::sleep(2 * CLIENT_CACHE).await;
    let before = fresh.report();
    tokio::time::sleep(2 * CLIENT_CACHE).await;
    let after = fresh.stop().await;
    assert_eq!(after.refused, before.refused, "{after:?}");
    assert!(after.accepted > before.accepted, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn task_that_starts_between_label_and_deployment_restarts() {
    let scene = scene().await;
    scene.deliver_all().await.unwrap();
    rotate(&scene).await;
    scene.until_events_are_handled().await.unwrap();
    // The replacement reads the new value, but nothing proves it: the deployment replaces it all the same.
    let before = scene.service(WEB).unwrap().tasks;
    scene.sandbox.ecs().kill_task(WEB).unwrap();
    eventually("the end of a task", || async { scene.service(WEB).unwrap().tasks.len() == 1 }).await;
    scene.deliver_all().await.unwrap();
    let after = scene.service(WEB).unwrap();
    assert!(after.tasks.iter().all(|task| !before.contains(task)), "{after:?}");
    assert_eq!((after.tasks.len(), deployments(&scene, WEB)), (2, 3), "{after:?}");
}

/// A function that answers what its file says, and counts.
const RESTART: &str = r#"#!/usr/bin/env python3
import json, os, urllib.request

runtime = "http://%s/2018-06-01/runtime/invocation" % os.environ["AWS_LAMBDA_RUNTIME_API"]
while True:
    with urllib.request.urlopen(runtime + "/next") as response:
        id, event = response.headers["Lambda-Runtime-Aws-Request-Id"], json.load(response)
    with open(os.environ["EVENTS"], "a") as events:
        events.write(json.dumps(event) + "\n")
    with open(os.environ["ANSWER"]) as answer:
        urllib.request.urlopen("%s/%s/response" % (runtime, id), answer.read().encode())
"#;

#[tokio::test(flavor = "multi_thread")]
async fn function_of_the_users_is_asked_until_it_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let [program, events, answer] = ["restart", "events", "answer"].map(|name| folder.path().join(name));
    std::fs::write(&program, RESTART).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(&answer, r#"{"status":"pending","reason":"pods restart"}"#).unwrap();
    let consumers = json!({ "production/admin-token": [{ "function": "restart:live" }] });
    let scene = start(once(no_target(json_plan())).consumers(consumers)).await;
    let environment = [("EVENTS", &events), ("ANSWER", &answer)].map(|(k, v)| (k.to_owned(), v.display().to_string()));
    scene.sandbox.register_function("restart", program, environment).unwrap();
    scene.sandbox.host().add_alias("restart", "live").unwrap();
    scene.configure().await.unwrap();

    let told = scene.deliver(&json!({})).await.unwrap().unwrap();
    assert_eq!((&told["pending"], scene.is_delivered().await.unwrap()), (&json!(1), false), "{told}");
    assert!(told.to_string().contains("pods restart"), "{told}");
    std::fs::write(&answer, r#"{"status":"done"}"#).unwrap();
    scene.deliver_all().await.unwrap();
    let rotated = rotate(&scene).await;
    scene.deliver_all().await.unwrap();
    let asked = std::fs::read_to_string(&events).unwrap();
    let last: Value = serde_json::from_str(asked.lines().last().unwrap()).unwrap();
    assert_eq!(last["version_id"], json!(rotated), "{asked}");
    let value = scene.token("AWSCURRENT").await.unwrap();
    assert!(!asked.contains(&value) && last["secret"].is_string(), "{asked}");
}
