//! Services and functions: what each of their answers means, by name.

use deliver::ports::FunctionProblem;
use serde_json::{Value, json};

use crate::timelines::token;
use crate::world::{MINUTE, World};

const TOKEN: &str = "shop/token";

fn world(consumers: &Value) -> World {
    let world = World::new(&json!({ "token": consumers }));
    world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
    world
}

fn consumer(answer: &Value, place: usize) -> &Value {
    &answer["secrets"][0]["consumers"][place]
}

#[tokio::test(start_paused = true)]
async fn each_bad_service_is_named_and_the_others_are_deployed() {
    let bad = [
        ("ServiceMissing", "none", "ECS"),
        ("ServiceInactive", "DRAINING", "ECS"),
        ("ServiceController", "ACTIVE", "CODE_DEPLOY"),
    ];
    for (error, status, controller) in bad {
        let world = world(&json!([{"ecs": "blue/bad"}, {"ecs": "blue/web"}]));
        world.service("web", &[TOKEN]);
        if status != "none" {
            world.service("bad", &[TOKEN]);
            let mut state = world.lock();
            let service = state.services.get_mut(&("blue".to_owned(), "bad".to_owned())).unwrap();
            (service.status, service.controller) = (status, controller);
        }
        let answer = world.run().await;
        assert_eq!((&consumer(&answer, 0)["error"], &answer["failed"]), (&json!(error), &json!(1)), "{answer}");
        assert!(consumer(&answer, 0)["repair"].as_str().unwrap().starts_with("aws ecs "));
        assert_eq!(world.deployments("web"), 1, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn function_is_asked_until_it_is_done_and_not_after() {
    let world = world(&json!([{"function": "restart:live"}]));
    world.function("restart:live", &[r#"{"status":"pending","reason":"2 of 3 pods"}"#, r#"{"status":"done"}"#]);
    let answer = world.run().await;
    assert_eq!((&answer["pending"], &consumer(&answer, 0)["reason"]), (&json!(1), &json!("2 of 3 pods")));
    for _ in 0..3 {
        assert_eq!(world.run().await["delivered"], 1);
    }
    let invoked = world.lock().invoked.clone();
    assert_eq!(invoked.len(), 2);
    let payload: Value = serde_json::from_str(&invoked[0].1).unwrap();
    assert_eq!(payload, json!({"version": 1, "secret": TOKEN, "version_id": "v1"}), "no value is sent");
}

#[tokio::test(start_paused = true)]
async fn each_bad_answer_of_a_function_is_named() {
    let raw = |text: &str| Ok(text.as_bytes().to_vec());
    let bad = [
        ("FunctionFailed", raw(r#"{"status":"failed","reason":"no\nroom"}"#)),
        ("FunctionFailed", Err(FunctionProblem::Raised("KeyError".to_owned()))),
        ("FunctionAnswer", raw("")),
        ("FunctionAnswer", raw("null")),
        ("FunctionAnswer", raw("done")),
        ("FunctionAnswer", raw(r#""done""#)),
        ("FunctionAnswer", raw("[]")),
        ("FunctionAnswer", raw("{}")),
        ("FunctionAnswer", raw(r#"{"status":"ok"}"#)),
        ("FunctionAnswer", raw(r#"{"status":"done","reason":1}"#)),
        ("FunctionMissing", Err(FunctionProblem::Missing)),
        ("FunctionTimedOut", Err(FunctionProblem::TimedOut)),
        ("FunctionUnavailable", Err(FunctionProblem::Refused("AccessDeniedException: …".to_owned()))),
    ];
    for (error, bad) in bad {
        let world = world(&json!([{"function": "bad"}, {"function": "good"}]));
        world.function("good", &[r#"{"status":"done"}"#]);
        world.lock().functions.insert("bad".to_owned(), [bad].into());
        let answer = world.run().await;
        assert_eq!((&consumer(&answer, 0)["error"], &answer["failed"]), (&json!(error), &json!(1)), "{answer}");
        assert_eq!(consumer(&answer, 1)["state"], "delivered", "{error}");
        assert!(!consumer(&answer, 0)["repair"].is_null(), "{error}");
        assert!(!world.is_delivered(TOKEN));
    }
}

#[tokio::test(start_paused = true)]
async fn reason_with_a_part_of_the_value_is_not_told() {
    let object = r#"{"TOKEN":"spoken-token","TOKEN_PREVIOUS":"older-token"}"#;
    for (field, value, part) in [
        (Some("TOKEN"), object, "spoken-token"),
        (Some("TOKEN"), object, "older-token"),
        (None, "written-token", "written-token"),
    ] {
        let world = World::new(&json!({"token": [{"function": "careless"}]}));
        world.secret(TOKEN, Some("admin-token"), field, value);
        let reason = format!("{}{part} was refused", "x".repeat(195));
        world.function("careless", &[&json!({"status": "failed", "reason": reason}).to_string()]);
        let answer = world.run().await;
        assert_eq!(consumer(&answer, 0)["error"], "FunctionFailed");
        let told = format!("{answer} {:?}", world.lock().events);
        assert!(!told.contains(&part[..5]), "not even its beginning: {told}");
    }
}

#[tokio::test(start_paused = true)]
async fn failure_is_sent_as_an_event_with_the_same_id() {
    let world = world(&json!([{"function": "bad"}]));
    world.function(
        "bad",
        &[r#"{"status":"failed","reason":"no room"}"#, r#"{"status":"failed"}"#, r#"{"status":"done"}"#],
    );
    for _ in 0..3 {
        world.run().await;
    }
    let state = world.lock();
    let events: Vec<_> = state.events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(events, ["v1-DeliveryFailed", "v1-DeliveryFailed", "v1-Delivered"]);
    assert_eq!(state.events[0]["consumers"][0]["reason"], "function bad failed: no room");
}

#[tokio::test(start_paused = true)]
async fn invocation_without_time_is_not_complete() {
    let world = world(&json!([{"function": "restart"}]));
    world.function("restart", &[r#"{"status":"done"}"#]);
    let answer = world.run_within(std::time::Duration::from_secs(4)).await;
    assert_eq!((&answer["complete"], &answer["pending"]), (&json!(false), &json!(1)), "{answer}");
    let answer = world.run_within(MINUTE).await;
    assert_eq!((&answer["complete"], &answer["delivered"]), (&json!(true), &json!(1)), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn secret_without_a_value_has_nothing_to_deliver() {
    let world = world(&json!([{"function": "restart"}]));
    for value in ["{}", ""] {
        world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), "{}");
        if value.is_empty() {
            world.lock().secrets.get_mut(TOKEN).unwrap().stages = rotation::testing::Stages::default();
        }
        let answer = world.run().await;
        assert_eq!((&answer["delivered"], &answer["failed"]), (&json!(1), &json!(0)), "{answer}");
    }
    assert!(world.lock().invoked.is_empty());
}
