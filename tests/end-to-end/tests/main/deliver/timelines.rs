//! Operations that meet a delivery at work.

use std::time::Duration;

use end_to_end::{DELIVER, FIELD, SECRET, Scene, get, program};
use http::Method;
use sandbox::ServiceDeclaration;
use serde_json::{Value, json};

use super::{CLIENT_CACHE, WEB, WORKER, assert_nobody_refused, service, staged_plan};
use crate::support::*;

const APP: &str = "shop/production/app";
/// The copy before a delivery.
const UNCOPIED: &str = "{\"DATABASE_URL\" : \"postgres://db.internal\"}";
/// The function `deliver` of another stack, and the secret that it delivers.
const SECOND_DELIVER: &str = "second-deliver";
const SECOND: &str = "shop/second/admin-token";

/// How long a task takes to start: two deployments overlap.
const SLOWLY: Duration = Duration::from_secs(150);

/// Two services whose tasks start slowly, and the function for operators.
async fn slow_scene() -> Scene {
    let task = program("examples/test-task").await.unwrap();
    let slow = |id| ServiceDeclaration { start_time: SLOWLY, ..service(id, task.clone()) };
    let consumers = json!({ "production/admin-token": [{ "ecs": WEB }, { "ecs": WORKER }] });
    let scene = start(staged_plan().service(slow(WEB)).service(slow(WORKER)).consumers(consumers)).await;
    scene.configure().await.unwrap();
    scene.with_operator(&[]).await.unwrap()
}

/// The promotion of the next token, whose deployments replace tasks at this moment.
async fn rolling(scene: &Scene) {
    scene.deliver_all().await.unwrap();
    rotate(scene).await;
    scene.deliver_all().await.unwrap();
    rotate(scene).await;
    scene.until_events_are_handled().await.unwrap();
    scene.sandbox.advance(Duration::from_secs(120)).await.unwrap();
    scene.deliver(&json!({})).await.unwrap().unwrap();
    scene.sandbox.advance(Duration::from_secs(45)).await.unwrap();
    assert_eq!(last_deployments(scene), ["IN_PROGRESS"; 2]);
}

fn last_deployments(scene: &Scene) -> [&'static str; 2] {
    [WEB, WORKER].map(|id| *scene.service(id).unwrap().deployments.last().unwrap())
}

/// Whether every task of both services holds the current value, as it was when the task started.
async fn assert_all_hold_it(scene: &Scene) {
    let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
    for id in [WEB, WORKER] {
        let tasks = scene.service(id).unwrap().tasks;
        assert_eq!(tasks.len(), 2);
        for task in tasks {
            let (_, held) = end_to_end::request(Method::GET, &format!("http://{task}/SECRET"), "none").await.unwrap();
            assert!(String::from_utf8(held).unwrap() == value, "a task of {id} holds another value");
        }
    }
}

/// The deployment of the value before has not gone on to its end.
fn assert_replaced(scene: &Scene) {
    for id in [WEB, WORKER] {
        let deployments = scene.service(id).unwrap().deployments;
        assert_eq!(deployments[deployments.len() - 2..], ["STOPPED", "SUCCESSFUL"], "{deployments:?}");
    }
}

/// How many tasks accept a token.
async fn accepting(scene: &Scene, token: &str) -> usize {
    let mut accepting = 0;
    for task in [WEB, WORKER].into_iter().flat_map(|id| scene.service(id).unwrap().tasks) {
        accepting += usize::from(get(&format!("http://{task}/admin/jobs"), token).await.unwrap().is_success());
    }
    accepting
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_while_a_deployment_rolls_is_delivered_too() {
    let scene = slow_scene().await;
    let first = scene.token("AWSCURRENT").await.unwrap();
    let mut loads = Vec::new();
    for id in [WEB, WORKER] {
        loads.push(scene.service_load(id, scene.fresh_clients(CLIENT_CACHE), 30).await.unwrap());
        loads.push(scene.service_load(id, scene.stale_clients(), 30).await.unwrap());
    }
    rolling(&scene).await;
    let left = scene.token("AWSCURRENT").await.unwrap();
    let request = json!({ "action": "rollback", "secret_id": SECRET, "reason": "the importer fails" });
    scene.operate(&request).await.unwrap().unwrap();
    assert_eq!(scene.token("AWSCURRENT").await.unwrap(), first);
    assert!(!scene.is_delivered().await.unwrap(), "some tasks hold another value");
    assert_eq!(fail_to_rotate(&scene).await.error_type, "NotDelivered");
    scene.deliver_all().await.unwrap();
    assert_all_hold_it(&scene).await;
    assert_replaced(&scene);
    assert_eq!(accepting(&scene, &left).await, 4, "what was rolled back is accepted for the overlap");
    for load in loads {
        assert_nobody_refused(&load.stop().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compromise_while_a_deployment_rolls_leaves_no_leaked_token() {
    let scene = slow_scene().await;
    rolling(&scene).await;
    let leaked: Value = serde_json::from_str(&scene.value("AWSCURRENT").await.unwrap().unwrap()).unwrap();
    let leaked = [FIELD, "ADMIN_TOKEN_NEXT", "ADMIN_TOKEN_PREVIOUS"].map(|name| leaked[name].as_str().unwrap());
    let request = json!({ "action": "compromise", "secret_id": SECRET, "confirm": SECRET, "reason": "in a log" });
    let compromise = async || scene.operate(&request).await.unwrap();
    assert_eq!(compromise().await.unwrap_err()["errorType"], "NotFinished", "the delivery is awaited, and not before");
    let fresh = scene.token("AWSCURRENT").await.unwrap();
    assert!(!leaked.contains(&fresh.as_str()));
    scene.deliver_all().await.unwrap();
    assert_all_hold_it(&scene).await;
    assert_eq!(accepting(&scene, &fresh).await, 4);
    for token in leaked {
        assert_eq!(accepting(&scene, token).await, 0, "a leaked token is accepted");
    }
    let answer = compromise().await.unwrap();
    assert_eq!(answer["tokensRevoked"], 3, "{answer}");
    assert_eq!(scene.token("AWSCURRENT").await.unwrap(), fresh, "the second request replaces nothing");
    assert_replaced(&scene);
    rotate(&scene).await;
}

/// Registers `deliver` of another stack with the same copy, and the secret that it delivers.
async fn second_stack(scene: &Scene) {
    scene
        .client
        .create_secret()
        .name(SECOND)
        .secret_string(json_secret("a-token-of-another-stack"))
        .send()
        .await
        .unwrap();
    let tag = aws_sdk_secretsmanager::types::Tag::builder().key("rotation:field").value(FIELD).build();
    scene.client.tag_resource().secret_id(SECOND).tags(tag).send().await.unwrap();
    let switched = scene.client.rotate_secret().secret_id(SECOND).rotation_lambda_arn(scene.function_arn());
    switched.rotation_rules(rules("rate(90 days)")).rotate_immediately(false).send().await.unwrap();
    scene.sandbox.wait_for_rotation(SECOND, end_to_end::ROTATION_TIMEOUT).await.unwrap();
    let environment = [
        ("SECRET_NAME_PREFIX", "shop/"),
        ("ALLOWED_FIELDS", FIELD),
        ("CONSUMED_SECRETS", "second/admin-token"),
        ("CONSUMERS", r#"{"second/admin-token":[{"copy":"production/app"}]}"#),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    scene.sandbox.register_function(SECOND_DELIVER, program(DELIVER).await.unwrap(), environment).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn second_stack_with_the_same_copy_is_told_and_writes_nothing() {
    let consumers = json!({ "production/admin-token": [{ "copy": "production/app" }] });
    let plan = staged_plan().also(APP, UNCOPIED).consumers(consumers);
    let scene = start(plan).await;
    scene.configure().await.unwrap();
    scene.deliver_all().await.unwrap();
    second_stack(&scene).await;
    for round in 0..3 {
        if round > 0 {
            rotate(&scene).await;
        }
        // Both at once, for the same moment of the copy.
        let second = async || {
            let invoked = scene.sandbox.host().invoke(SECOND_DELIVER, "{}".into()).await.unwrap();
            serde_json::from_slice::<Value>(&invoked.payload).unwrap()
        };
        let (told, ()) = tokio::join!(second(), async { drop(scene.deliver(&json!({})).await.unwrap().unwrap()) });
        scene.deliver_all().await.unwrap();
        for told in [told, second().await] {
            assert_eq!((&told["delivered"], &told["failed"]), (&json!(0), &json!(1)), "round {round}: {told}");
            assert_eq!(told["secrets"][0]["consumers"][0]["error"], "CopyDiffers", "{told}");
        }
        let copy = scene.client.get_secret_value().secret_id(APP).send().await.unwrap().secret_string.unwrap();
        assert!(copy.starts_with(&UNCOPIED[..UNCOPIED.len() - 1]), "all other bytes stay");
        let copied = serde_json::from_str::<Value>(&copy).unwrap()[FIELD].clone();
        assert_eq!(copied, json!(scene.token("AWSCURRENT").await.unwrap()), "round {round}");
    }
    assert!(!scene.sandbox.calls_of(SECOND_DELIVER).contains_key("PutSecretValue"));
}
