//! Events of Secrets Manager and ECS, and schedules: what functions are invoked with, and when by the sandbox's clock.

#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use common::{World, world};
use sandbox::{EventRule, ServiceDeclaration};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);

/// A world whose function `listener` is there.
async fn listening() -> World {
    let world = world().await;
    world.functions.set("listener", |_| async { Ok(()) });
    world
}

/// Waits for the invocations under way: moving the clock does.
async fn handled(world: &World) {
    world.sandbox.advance(Duration::ZERO).await.unwrap();
}

fn details(events: &[Value]) -> Vec<&Value> {
    events.iter().map(|event| &event["detail"]).collect()
}

#[tokio::test]
async fn a_moved_label_invokes_the_function_of_a_rule() {
    let world = listening().await;
    world.sandbox.event_bus().add_rule(EventRule::secret_label("shop/", "AWSCURRENT", "listener"));
    let arn = world.secret("shop/a").await;
    world.secret("other/a").await;
    handled(&world).await;
    let [event] = world.functions.events().try_into().unwrap();
    let members: Vec<&String> = event.as_object().unwrap().keys().collect();
    let all = ["account", "detail", "detail-type", "id", "region", "resources", "source", "time", "version"];
    assert_eq!(members, all);
    assert_eq!(
        (&event["source"], &event["detail-type"]),
        (&json!("aws.secretsmanager"), &json!("Secret Label Updated"))
    );
    assert_eq!(event["resources"], json!([arn]));
    let detail = json!({ "name": "shop/a", "labelUpdated": "AWSCURRENT", "versionId": common::token(1) });
    assert_eq!(event["detail"], detail);
    let [invocation] = world.sandbox.event_bus().invocations().try_into().unwrap();
    assert_eq!((invocation.answer, invocation.failed), (Some(Value::Null), false));
}

#[tokio::test]
async fn pending_and_previous_move_without_an_event() {
    let world = world().await;
    world.secret("s").await;
    let put = |n: u32, stage: &str| {
        let put = world.client.put_secret_value().secret_id("s").client_request_token(common::token(n));
        put.secret_string("v").version_stages(stage).send()
    };
    put(2, "AWSPENDING").await.unwrap();
    put(3, "MINE").await.unwrap();
    put(4, "AWSCURRENT").await.unwrap();
    let events = world.sandbox.event_bus().published();
    let labels: Vec<_> = details(&events).iter().map(|detail| detail["labelUpdated"].clone()).collect();
    assert_eq!(labels, ["AWSCURRENT", "MINE", "AWSCURRENT"]);
}

#[tokio::test]
async fn a_lost_event_invokes_nothing() {
    let world = listening().await;
    world.sandbox.event_bus().add_rule(EventRule::secret_label("", "AWSCURRENT", "listener"));
    world.sandbox.event_bus().lose_events(true);
    world.secret("a").await;
    world.sandbox.event_bus().lose_events(false);
    world.secret("b").await;
    handled(&world).await;
    assert_eq!(world.functions.events().len(), 1);
    assert_eq!(world.sandbox.event_bus().published().len(), 2);
}

#[tokio::test]
async fn a_rule_may_replace_the_event() {
    let world = listening().await;
    let rule = EventRule::secret_label("", "AWSCURRENT", "listener").with_input(json!({ "all": true }));
    world.sandbox.event_bus().add_rule(rule);
    world.secret("a").await;
    handled(&world).await;
    assert_eq!(world.functions.events(), [json!({ "all": true })]);
}

#[tokio::test]
async fn a_schedule_follows_the_sandboxs_clock() {
    let world = listening().await;
    let begun = world.sandbox.now();
    world.sandbox.schedule("listener", HOUR, json!({}));
    world.sandbox.advance(5 * HOUR + HOUR / 2).await.unwrap();
    let invocations = world.sandbox.event_bus().invocations();
    assert_eq!(invocations.len(), 5);
    for (invocation, number) in invocations.iter().zip(1..) {
        let due = begun + number * HOUR;
        assert!(invocation.time >= due && invocation.time < due + HOUR / 2, "{invocation:?}");
        assert_eq!(invocation.cause, "Scheduled Event");
    }
}

#[tokio::test]
async fn the_clock_waits_for_functions_that_events_invoke() {
    let world = world().await;
    let (sandbox_clock, seen) = (world.sandbox.clock().clone(), std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
    let noted = seen.clone();
    world.functions.set("listener", move |_| {
        let (clock, noted) = (sandbox_clock.clone(), noted.clone());
        async move {
            let begun = clock.now();
            tokio::time::sleep(Duration::from_millis(100)).await;
            noted.lock().unwrap().push(clock.now().duration_since(begun).unwrap());
            Ok(())
        }
    });
    world.secret("s").await;
    world.rotate("s", &common::token(2)).await;
    world.wait("s").await;
    world.sandbox.event_bus().add_rule(EventRule::secret_label("", "AWSCURRENT", "listener"));
    let rules =
        aws_sdk_secretsmanager::types::RotationRulesType::builder().schedule_expression("rate(4 hours)").build();
    world.client.rotate_secret().secret_id("s").rotation_rules(rules).rotate_immediately(false).send().await.unwrap();
    world.wait("s").await;
    world.sandbox.advance(24 * HOUR).await.unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 5, "{seen:?}");
    assert!(seen.iter().all(|took| *took < HOUR), "the clock moved while the function ran: {seen:?}");
}

fn service() -> ServiceDeclaration {
    let test = std::env::current_exe().unwrap();
    let program: PathBuf = test.parent().unwrap().parent().unwrap().join("examples/test-task");
    ServiceDeclaration::new("shop", "web", program)
}

/// `eventType` and `eventName` of the events about the service.
fn names(world: &World) -> Vec<(String, String)> {
    let events = world.sandbox.event_bus().published();
    let of_ecs = events.iter().filter(|event| event["source"] == "aws.ecs");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    of_ecs.map(|event| (text(&event["detail"]["eventType"]), text(&event["detail"]["eventName"]))).collect()
}

async fn force(world: &World) {
    let update = common::services::ecs(&world.sandbox.endpoint()).update_service().cluster("shop").service("web");
    update.force_new_deployment(true).send().await.unwrap();
}

fn expected(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(kind, name)| ((*kind).to_owned(), format!("SERVICE_DEPLOYMENT_{name}"))).collect()
}

#[tokio::test]
async fn the_end_of_a_deployment_invokes_a_function() {
    let world = listening().await;
    world.sandbox.ecs().run(service()).await.unwrap();
    world.sandbox.event_bus().add_rule(EventRule::deployment_ended("listener"));
    force(&world).await;
    world.sandbox.advance(Duration::from_secs(120)).await.unwrap();
    let [event] = world.functions.events().try_into().unwrap();
    assert_eq!(event["detail-type"], "ECS Deployment State Change");
    assert_eq!(event["resources"], json!(["arn:aws:ecs:us-east-1:000000000000:service/shop/web"]));
    let id = event["detail"]["deploymentId"].as_str().unwrap();
    assert!(id.starts_with("ecs-svc/"), "{id}");
    assert_eq!(event["detail"]["reason"], format!("ECS deployment {id} completed."));
    assert_eq!(names(&world)[1..], expected(&[("INFO", "IN_PROGRESS"), ("INFO", "COMPLETED")]));
}

#[tokio::test]
async fn a_rollback_is_told_as_a_failure_and_a_new_rollout() {
    let world = listening().await;
    world.sandbox.ecs().run(service()).await.unwrap();
    world.sandbox.ecs().fail_new_tasks("shop/web", true).unwrap();
    force(&world).await;
    world.sandbox.advance(Duration::from_secs(300)).await.unwrap();
    let told = [("INFO", "IN_PROGRESS"), ("ERROR", "FAILED"), ("INFO", "IN_PROGRESS"), ("INFO", "COMPLETED")];
    assert_eq!(names(&world)[1..], expected(&told));
}
