//! Secrets that nobody rotates: a person stores a value, and it reaches its consumers.

use serde_json::json;

use crate::world::{DAY, HOUR, World};

const PROVIDERS: &str = "shop/providers";

/// A secret that people rotate, with a service and a function. All of it is delivered.
async fn delivered_world(value: &str) -> World {
    let world = World::new(&json!({"providers": [{"ecs": "blue/web"}, {"function": "restart"}]}));
    world.secret(PROVIDERS, None, None, value);
    world.service("web", &[PROVIDERS]);
    world.function("restart", &[r#"{"status":"done"}"#]);
    world.run_to_the_end().await;
    assert!(world.is_delivered(PROVIDERS));
    world
}

#[tokio::test(start_paused = true)]
async fn stored_value_reaches_services_and_functions() {
    for (before, after) in [("one", "two"), (r#"{"A":"one","B":"x"}"#, r#"{"A":"two","B":"x"}"#)] {
        let world = delivered_world(before).await;
        assert_eq!(world.running("web"), [before]);
        world.store(PROVIDERS, after);
        let event = json!({
            "detail-type": "Secret Label Updated", "source": "aws.secretsmanager",
            "resources": ["arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/providers-AbCdEf"]
        });
        let answer = world.request(event).await;
        assert_eq!((&answer["pending"], world.is_delivered(PROVIDERS)), (&json!(1), false), "{answer}");
        assert!(!answer.to_string().contains("two"), "{answer}");
        world.run_to_the_end().await;
        assert_eq!((world.running("web"), world.deployments("web")), (vec![after.to_owned()], 2));
        let invoked = world.lock().invoked.last().unwrap().1.clone();
        assert!(invoked.contains(PROVIDERS) && !invoked.contains("two"), "{invoked}");
        assert_eq!(world.labels(PROVIDERS), ["ROTATION-DELIVERED"]);
    }
}

#[tokio::test(start_paused = true)]
async fn reason_that_holds_a_stored_value_is_not_told() {
    let value = r#"{"OPENAI_API_KEY":"sk-c4nary-0123456789","nested":{"list":["c4nary-in-a-list"]}}"#;
    for part in ["sk-c4nary-0123456789", "c4nary-in-a-list"] {
        let world = World::new(&json!({"providers": [{"function": "careless"}]}));
        world.secret(PROVIDERS, None, None, value);
        let reason = format!("OPENAI_API_KEY {part} was refused");
        world.function("careless", &[&json!({"status": "failed", "reason": reason}).to_string()]);
        let answer = world.run().await;
        assert_eq!(answer["failed"], 1, "{answer}");
        assert!(!answer.to_string().contains(part), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn equal_members_in_another_form_restart_nobody() {
    let world = delivered_world(r#"{"A":"one","n":{"b":[1, 2]}}"#).await;
    world.store(PROVIDERS, "{\n  \"n\" : {\"b\":[1, 2]},\n  \"\\u0041\": \"one\"\n}");
    assert_eq!(world.run().await["delivered"], 1);
    assert!(world.is_delivered(PROVIDERS), "the label is on the version with the new form");
    assert_eq!(world.deployments("web"), 1);
}

#[tokio::test(start_paused = true)]
async fn each_changed_byte_of_a_value_is_delivered() {
    let before = r#"{"A":"one","n":9007199254740993}"#;
    for after in [
        r#"{"A":"one","n":9007199254740992}"#,
        r#"{"A":"one"}"#,
        r#"{"A":"one","n":9007199254740993,"B":""}"#,
        r#"{"A":"one ","n":9007199254740993}"#,
        "a text",
        "{}",
    ] {
        let world = delivered_world(before).await;
        world.store(PROVIDERS, after);
        world.run_to_the_end().await;
        assert_eq!((world.running("web"), world.deployments("web")), (vec![after.to_owned()], 2), "{after}");
    }
}

#[tokio::test(start_paused = true)]
async fn secret_without_a_value_has_nothing_to_deliver() {
    let world = World::new(&json!({"providers": [{"ecs": "blue/web"}]}));
    world.secret(PROVIDERS, None, None, "{}");
    world.service("web", &[PROVIDERS]);
    assert_eq!(world.run().await["delivered"], 1);
    assert_eq!((world.deployments("web"), world.labels(PROVIDERS).len()), (0, 0));
    world.store(PROVIDERS, r#"{"A":"one"}"#);
    world.run_to_the_end().await;
    assert_eq!(world.running("web"), [r#"{"A":"one"}"#]);
}

#[tokio::test(start_paused = true)]
async fn copy_of_what_people_store_is_refused_by_name() {
    let world = World::new(&json!({"providers": [{"copy": "app"}, {"ecs": "blue/web"}]}));
    world.secret(PROVIDERS, None, None, r#"{"A":"one"}"#);
    world.secret("shop/app", None, None, "{}");
    world.service("web", &[PROVIDERS]);
    world.run().await;
    tokio::time::advance(HOUR).await;
    let answer = world.run().await;
    let consumers = &answer["secrets"][0]["consumers"];
    assert_eq!((&consumers[0]["error"], &consumers[0]["state"]), (&json!("CopySourceByHand"), &json!("failed")));
    assert_eq!((&consumers[1]["state"], world.value("shop/app")), (&json!("delivered"), "{}".to_owned()));
    assert!(!world.is_delivered(PROVIDERS));
}

#[tokio::test(start_paused = true)]
async fn copy_in_a_secret_with_consumers_is_delivered_on() {
    let world = World::new(&json!({"token": [{"copy": "app"}], "app": [{"ecs": "blue/web"}]}));
    world.secret("shop/token", Some("admin-token"), Some("TOKEN"), r#"{"TOKEN":"t1"}"#);
    world.secret("shop/app", None, None, r#"{"URL":"u"}"#);
    world.service("web", &["shop/app"]);
    world.run_to_the_end().await;
    world.store("shop/token", r#"{"TOKEN":"t2"}"#);
    world.run_to_the_end().await;
    // The event of the copy invokes it once more.
    world.run_to_the_end().await;
    assert_eq!(world.running("web"), [r#"{"URL":"u","TOKEN":"t2"}"#]);
}

#[tokio::test(start_paused = true)]
async fn delivery_that_dies_anywhere_is_ended_by_the_next_run() {
    for at in 0.. {
        let world = delivered_world(r#"{"A":"one"}"#).await;
        world.store(PROVIDERS, r#"{"A":"two"}"#);
        let killed = world.run_killed_at(at).await;
        tokio::time::advance(DAY).await;
        world.run_to_the_end().await;
        assert!(world.is_delivered(PROVIDERS) && world.running("web") == [r#"{"A":"two"}"#], "killed at {at}");
        if !killed {
            assert!(at > 5, "a run has more calls: {at}");
            return;
        }
    }
}
