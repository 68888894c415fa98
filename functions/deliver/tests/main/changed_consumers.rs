//! `CONSUMERS` changes while a secret is delivered.

use serde_json::{Value, json};

use crate::timelines::{delivered_world, token};
use crate::world::{World, deliverer};

const TOKEN: &str = "shop/token";

/// The stack is deployed with these consumers.
fn configure(world: &mut World, consumers: &Value) {
    world.deliverer = deliverer(&json!({ "token": consumers }));
}

/// A delivered token, and then a service and a function more.
async fn added() -> World {
    let mut world = delivered_world().await;
    world.service("worker", &[TOKEN]);
    world.function("restart", &[r#"{"status":"done"}"#]);
    let more = json!([{"copy": "app"}, {"ecs": "blue/web"}, {"ecs": "blue/worker"}, {"function": "restart"}]);
    configure(&mut world, &more);
    world
}

#[tokio::test(start_paused = true)]
async fn added_consumers_get_the_value_before_it_counts_as_delivered() {
    let world = added().await;
    let answer = world.request(json!({"dry_run": true})).await;
    assert_eq!((&answer["pending"], world.is_delivered(TOKEN)), (&json!(1), true), "{answer}");
    let answer = world.run().await;
    assert_eq!((&answer["pending"], &answer["late"]), (&json!(1), &json!(0)), "the value is a year old: {answer}");
    assert!(!world.is_delivered(TOKEN));
    world.run_to_the_end().await;
    assert!(world.is_delivered(TOKEN));
    assert_eq!((world.deployments("worker"), world.deployments("web")), (1, 2));
    assert!(!world.lock().invoked.is_empty());
    world.run().await;
    assert_eq!((world.deployments("worker"), world.deployments("web")), (1, 2), "once");
}

#[tokio::test(start_paused = true)]
async fn consumer_that_comes_back_is_delivered_to_again() {
    let mut world = delivered_world().await;
    let both = json!([{"copy": "app"}, {"ecs": "blue/web"}]);
    configure(&mut world, &json!([{"copy": "app"}]));
    world.run_to_the_end().await;
    assert!(world.is_delivered(TOKEN));
    assert_eq!((world.deployments("web"), world.labels_of_consumers(TOKEN).len()), (1, 1));
    world.store(TOKEN, &token("t2", None));
    world.run_to_the_end().await;
    configure(&mut world, &both);
    world.run_to_the_end().await;
    assert_eq!(world.deployments("web"), 2);
    assert!(world.running("web")[0].contains("t2"));
}

#[tokio::test(start_paused = true)]
async fn another_order_and_an_equal_copy_restart_nobody() {
    let mut world = delivered_world().await;
    world.secret("shop/worker", None, None, r#"{"TOKEN":"t1"}"#);
    configure(&mut world, &json!([{"ecs": "blue/web"}, {"copy": "worker"}, {"copy": "app"}]));
    assert_eq!(world.run().await["delivered"], 1);
    assert_eq!(world.deployments("web"), 1);
}

#[tokio::test(start_paused = true)]
async fn label_of_the_consumers_follows_the_delivered_version() {
    let world = delivered_world().await;
    let before = world.labels_of_consumers(TOKEN);
    world.store(TOKEN, &token("t2", None));
    world.run_to_the_end().await;
    let after = world.labels_of_consumers(TOKEN);
    assert_eq!((before.len(), after.len(), &before[0].0), (1, 1, &after[0].0));
    let current = world.lock().secrets[TOKEN].stages.holder(&rotation::versions::Stage::Current).cloned();
    assert_eq!(Some(&after[0].1), current.as_ref());
}

#[tokio::test(start_paused = true)]
async fn run_killed_after_consumers_were_added_is_ended() {
    for at in 0.. {
        let world = added().await;
        let died = world.run_killed_at(at).await;
        world.run_to_the_end().await;
        let context = format!("killed before call {at}");
        assert!(world.is_delivered(TOKEN), "{context}");
        assert_eq!((world.deployments("worker"), world.labels_of_consumers(TOKEN).len()), (1, 1), "{context}");
        if !died {
            assert!(at > 10, "the run has calls: {at}");
            return;
        }
    }
}
