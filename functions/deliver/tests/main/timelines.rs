//! Named timelines: what happens to a delivery over hours and days.

use rotation::store::StoreErrorKind;
use serde_json::{Value, json};

use crate::world::{BROKEN, DAY, Ending, HOUR, MINUTE, World, version};

const TOKEN: &str = "shop/token";

pub(crate) fn token(token: &str, previous: Option<&str>) -> String {
    let mut value = json!({"TOKEN": token, "other": "stays"});
    if let Some(previous) = previous {
        value["TOKEN_PREVIOUS"] = previous.into();
        value["TOKEN_PREVIOUS_UNTIL"] = "2100-01-01T00:00:00Z".into();
    }
    value.to_string()
}

/// A token with a copy in `shop/app`, and the service `web` that reads the copy. All of it is delivered.
pub(crate) async fn delivered_world() -> World {
    let world = World::new(&json!({"token": [{"copy": "app"}, {"ecs": "blue/web"}]}));
    world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
    world.secret("shop/app", None, None, r#"{ "URL": "u", "TOKEN": "t1" }"#);
    world.service("web", &["shop/app"]);
    world.run_to_the_end().await;
    assert!(world.is_delivered(TOKEN));
    world
}

async fn advance(world: &World, by: std::time::Duration) {
    tokio::time::advance(by).await;
    let _ = world.now();
}

fn state<'a>(answer: &'a Value, consumer: &str) -> &'a Value {
    let consumers = answer["secrets"][0]["consumers"].as_array().unwrap();
    consumers.iter().find(|one| one["consumer"].as_str().unwrap().starts_with(consumer)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn first_delivery_proves_that_all_have_the_value() {
    let world = delivered_world().await;
    assert_eq!(world.deployments("web"), 1);
    assert_eq!(world.running("web"), [r#"{ "URL": "u", "TOKEN": "t1" }"#]);
    assert_eq!(world.labels(TOKEN), ["ROTATION-DELIVERED"]);
    let answer = world.run().await;
    assert_eq!((&answer["delivered"], &answer["complete"]), (&json!(1), &json!(true)));
    assert_eq!(world.deployments("web"), 1, "what is delivered is not deployed again");
}

#[tokio::test(start_paused = true)]
async fn rotation_reaches_the_copy_and_the_service() {
    let world = delivered_world().await;
    world.store(TOKEN, &token("t2", Some("t1")));
    let answer = world.run().await;
    assert_eq!(answer["pending"], 1, "{answer}");
    assert_eq!(state(&answer, "copy")["state"], "delivered");
    assert!(!world.is_delivered(TOKEN));
    assert_eq!(world.labels(TOKEN).len(), 2);
    world.run_to_the_end().await;
    let copied =
        r#"{ "URL": "u", "TOKEN": "t2", "TOKEN_PREVIOUS_UNTIL": "2100-01-01T00:00:00Z", "TOKEN_PREVIOUS": "t1" }"#;
    assert_eq!(world.running("web"), [copied]);
    assert_eq!((world.deployments("web"), world.labels(TOKEN).len()), (2, 1));
    let events: Vec<_> = world.lock().events.iter().map(|event| event["state"].clone()).collect();
    assert_eq!(events, ["Delivered", "Delivered"]);
}

#[tokio::test(start_paused = true)]
async fn delivery_fails_for_a_week_and_heals() {
    let world = delivered_world().await;
    world.next_ends("web", BROKEN);
    world.store(TOKEN, &token("t2", Some("t1")));
    world.run().await;
    for hour in 1..=24 * 7 {
        advance(&world, HOUR).await;
        let answer = world.run().await;
        assert_eq!((&answer["failed"], &state(&answer, "ecs")["error"]), (&json!(1), &json!("DeploymentFailed")));
        assert_eq!(answer["late"], u64::from(hour >= 6), "a quarter of a day, hour {hour}");
        let repair = "aws ecs update-service --cluster blue --service web --force-new-deployment";
        assert_eq!(state(&answer, "ecs")["repair"], repair);
    }
    assert_eq!(world.deployments("web"), 2, "a deployment that failed is not repeated for this value");
    world.next_ends("web", crate::world::WELL);
    world.deploy("web");
    advance(&world, HOUR).await;
    assert_eq!(world.run().await["delivered"], 1);
    assert!(world.is_delivered(TOKEN) && world.running("web")[0].contains("t2"));
    assert_eq!(world.deployments("web"), 3);
}

#[tokio::test(start_paused = true)]
async fn two_rotations_within_an_hour_deploy_twice() {
    let world = delivered_world().await;
    world.store(TOKEN, &token("t2", Some("t1")));
    world.run().await;
    world.store(TOKEN, &token("t3", Some("t2")));
    assert!(!world.is_delivered(TOKEN));
    world.run_to_the_end().await;
    assert!(world.is_delivered(TOKEN) && world.running("web")[0].contains("t3"));
    assert_eq!(world.deployments("web"), 3);
}

#[tokio::test(start_paused = true)]
async fn compromise_during_a_deployment_deploys_again() {
    let world = delivered_world().await;
    world.next_ends("web", Ending { status: "SUCCESSFUL", takes: HOUR });
    world.store(TOKEN, &token("t2", Some("t1")));
    world.run().await;
    advance(&world, 10 * MINUTE).await;
    world.store(TOKEN, &token("t3", None));
    let answer = world.run().await;
    assert_eq!(answer["pending"], 1, "{answer}");
    assert_eq!(world.deployments("web"), 3, "the deployment of the leaked value is replaced");
    advance(&world, 2 * HOUR).await;
    assert_eq!(world.run().await["delivered"], 1);
    assert!(world.running("web")[0].contains("t3"));
}

#[tokio::test(start_paused = true)]
async fn rollback_during_a_delivery_is_delivered_too() {
    let world = delivered_world().await;
    world.next_ends("web", Ending { status: "SUCCESSFUL", takes: HOUR });
    world.store(TOKEN, &token("t2", Some("t1")));
    world.run().await;
    world.store(TOKEN, &token("t1", Some("t2")));
    assert!(!world.is_delivered(TOKEN), "a task of the deployment may hold the other token");
    world.run().await;
    advance(&world, 2 * HOUR).await;
    world.run_to_the_end().await;
    assert!(world.is_delivered(TOKEN) && world.running("web")[0].contains(r#""TOKEN": "t1""#));
    assert_eq!(world.deployments("web"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_text_token_that_went_and_came_back_is_delivered_again() {
    let world = World::new(&json!({"text": [{"ecs": "blue/web"}]}));
    world.secret("shop/text", Some("admin-token"), None, "t1");
    world.service("web", &["shop/text"]);
    world.run_to_the_end().await;
    world.store("shop/text", "t2");
    world.deploy("web");
    world.store("shop/text", "t1");
    assert_eq!(world.run().await["pending"], 1, "a task holds t2, and no run has seen it current");
    world.run_to_the_end().await;
    assert_eq!(world.running("web"), ["t1"]);
}

#[tokio::test(start_paused = true)]
async fn deployment_just_before_the_copy_does_not_count() {
    let world = delivered_world().await;
    world.store(TOKEN, &token("t2", Some("t1")));
    world.deploy("web");
    let answer = world.run().await;
    assert_eq!(state(&answer, "ecs")["state"], "pending");
    assert_eq!(world.deployments("web"), 3);
    world.run_to_the_end().await;
    assert!(world.running("web")[0].contains("t2"));
}

#[tokio::test(start_paused = true)]
async fn deployment_just_after_the_copy_counts() {
    let world = delivered_world().await;
    world.store(TOKEN, &token("t2", Some("t1")));
    // There is no time for the deployment in this run.
    let answer = world.run_within(30 * std::time::Duration::from_secs(1)).await;
    assert!(state(&answer, "ecs")["reason"].as_str().unwrap().contains("a later run starts a deployment"));
    advance(&world, 2 * MINUTE).await;
    world.deploy("web");
    let answer = world.run().await;
    assert!(state(&answer, "ecs")["reason"].as_str().unwrap().contains("is in progress"), "{answer}");
    world.run_to_the_end().await;
    assert_eq!(world.deployments("web"), 2, "only the one of the person");
    assert!(world.running("web")[0].contains("t2"));
}

#[tokio::test(start_paused = true)]
async fn task_that_starts_before_the_deployment_proves_nothing() {
    let world = delivered_world().await;
    world.store(TOKEN, &token("t2", Some("t1")));
    world.run_within(30 * std::time::Duration::from_secs(1)).await;
    // A task that dies is started again without a deployment. ECS lists none, so the label stays.
    advance(&world, HOUR).await;
    assert!(!world.is_delivered(TOKEN));
    world.run().await;
    assert_eq!(world.deployments("web"), 2);
}

#[tokio::test(start_paused = true)]
async fn deployment_that_does_not_end_is_told_and_may_still_end() {
    let world = delivered_world().await;
    world.next_ends("web", Ending { status: "SUCCESSFUL", takes: DAY });
    world.store(TOKEN, &token("t2", Some("t1")));
    world.run().await;
    advance(&world, 4 * HOUR).await;
    let answer = world.run().await;
    assert_eq!((&answer["failed"], &state(&answer, "ecs")["error"]), (&json!(1), &json!("DeploymentLate")));
    advance(&world, DAY).await;
    assert_eq!(world.run().await["delivered"], 1);
    assert_eq!(world.deployments("web"), 2);
}

#[tokio::test(start_paused = true)]
async fn two_secrets_of_one_service_cause_one_deployment() {
    let world = World::new(&json!({"token": [{"ecs": "blue/web"}], "other": [{"ecs": "blue/web"}]}));
    for name in [TOKEN, "shop/other"] {
        world.secret(name, Some("admin-token"), Some("TOKEN"), &token("t1", None));
    }
    world.service("web", &[TOKEN, "shop/other"]);
    world.run_to_the_end().await;
    assert_eq!(world.deployments("web"), 1);
    for name in [TOKEN, "shop/other"] {
        world.store(name, &token("t2", Some("t1")));
    }
    world.run_to_the_end().await;
    assert_eq!(world.deployments("web"), 2);
    assert!(world.running("web").iter().all(|read| read.contains("t2")));
}

#[tokio::test(start_paused = true)]
async fn edit_of_another_member_restarts_nobody() {
    let world = delivered_world().await;
    let calls = |world: &World| world.take_calls();
    world.store(TOKEN, r#"{"TOKEN":"t1","other":"edited"}"#);
    calls(&world);
    let answer = world.run().await;
    assert_eq!(answer["delivered"], 1, "{answer}");
    assert!(world.is_delivered(TOKEN), "the label has moved to the edited version");
    assert_eq!(world.deployments("web"), 1);
    let calls = calls(&world);
    assert!(!calls.contains(&"ListServiceDeployments") && !calls.contains(&"PutSecretValue"), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn edit_during_a_delivery_does_not_begin_it_anew() {
    let world = delivered_world().await;
    world.store(TOKEN, &token("t2", Some("t1")));
    world.run().await;
    world.store(TOKEN, &token("t2", Some("t1")).replace("stays", "edited"));
    world.run_to_the_end().await;
    assert!(world.is_delivered(TOKEN));
    assert_eq!(world.deployments("web"), 2);
}

#[tokio::test(start_paused = true)]
async fn lost_answer_of_update_service_starts_no_second_deployment() {
    let world = delivered_world().await;
    world.lock().services.get_mut(&("blue".to_owned(), "web".to_owned())).unwrap().lost_answers = 1;
    world.store(TOKEN, &token("t2", Some("t1")));
    let answer = world.run().await;
    assert!(state(&answer, "ecs")["reason"].as_str().unwrap().contains("is in progress"), "{answer}");
    world.run_to_the_end().await;
    assert_eq!(world.deployments("web"), 2);
}

#[tokio::test(start_paused = true)]
async fn dry_run_says_what_it_would_do_and_changes_nothing() {
    let world = delivered_world().await;
    world.store(TOKEN, &token("t2", Some("t1")));
    world.take_calls();
    let before = (world.labels(TOKEN), world.value("shop/app"), world.deployments("web"));
    let answer = world.request(json!({"dry_run": true})).await;
    assert_eq!(state(&answer, "copy")["reason"], "the copy would be written");
    assert_eq!(state(&answer, "ecs")["reason"], "a deployment would be started");
    assert_eq!(answer["dryRun"], true);
    assert_eq!((world.labels(TOKEN), world.value("shop/app"), world.deployments("web")), before);
    let changing = ["PutSecretValue", "UpdateSecretVersionStage", "UpdateService", "Invoke", "Publish"];
    assert!(world.take_calls().iter().all(|call| !changing.contains(call)));
}

#[tokio::test(start_paused = true)]
async fn calls_to_aws_are_counted() {
    let world = delivered_world().await;
    world.take_calls();
    world.run().await;
    let idle = world.take_calls();
    world.store(TOKEN, &token("t2", Some("t1")));
    world.run().await;
    let first = world.take_calls();
    tokio::time::advance(10 * MINUTE).await;
    world.run().await;
    let last = world.take_calls();
    println!("nothing to deliver: {} {idle:?}", idle.len());
    println!("rotation, first run: {} {first:?}", first.len());
    println!("rotation, last run: {} {last:?}", last.len());
    // A secret with one copy and one service.
    assert_eq!((idle.len(), first.len(), last.len()), (4, 16, 9));
}

#[tokio::test(start_paused = true)]
async fn delivered_value_that_nobody_can_read_is_no_obstacle() {
    for kind in [StoreErrorKind::Kms, StoreErrorKind::Binary] {
        let world = World::new(&json!({"token": [{"copy": "app"}]}));
        world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
        world.secret("shop/app", None, None, "{}");
        assert_eq!(world.run().await["delivered"], 1);
        world.store(TOKEN, &token("t2", None));
        let lost = |kind| {
            let mut state = world.lock();
            state.secrets.get_mut(TOKEN).unwrap().unreadable = Some((version("v1"), kind));
        };
        lost(StoreErrorKind::Throttled);
        assert_eq!(world.run().await["secrets"][0]["error"], "Throttled", "that tells nothing of the version");
        lost(kind);
        assert_eq!(world.run().await["delivered"], 1, "{kind:?}");
        assert!(world.is_delivered(TOKEN) && world.value("shop/app").contains("t2"));
    }
}

#[tokio::test(start_paused = true)]
async fn first_delivery_is_late_from_its_beginning_on() {
    let world = World::new(&json!({"token": [{"function": "slow"}]}));
    world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
    world.function("slow", &[r#"{"status":"pending"}"#]);
    assert_eq!(world.run().await["late"], 0, "the value is a year old");
    tokio::time::advance(6 * HOUR).await;
    assert_eq!(world.run().await["late"], 1);
}
