//! Copies of tokens: what is written, what is never written, and who wins when others write too.

use std::collections::BTreeMap;

use rotation::secret::SecretText;
use rotation::store::StoreErrorKind;
use rotation::testing::PrivatePut;
use rotation::versions::Stage;
use serde_json::{Value, json};

use crate::timelines::token;
use crate::world::{MINUTE, World, version};

const TOKEN: &str = "shop/token";
const APP: &str = "shop/app";

/// A token with one copy in a secret with this value.
fn world(app: &str) -> World {
    let world = World::new(&json!({"token": [{"copy": "app"}]}));
    world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
    world.secret(APP, None, None, app);
    world
}

fn copy(answer: &Value) -> &Value {
    &answer["secrets"][0]["consumers"][0]
}

#[tokio::test(start_paused = true)]
async fn absent_member_is_written_and_other_members_stay() {
    let world = world("{\n  \"URL\": \"u\",\n  \"n\": [1, 2]\n}");
    assert_eq!(world.run().await["delivered"], 1);
    assert_eq!(world.value(APP), "{\n  \"URL\": \"u\",\n  \"n\": [1, 2],\n  \"TOKEN\": \"t1\"\n}");
    assert!(world.is_delivered(TOKEN));
}

#[tokio::test(start_paused = true)]
async fn empty_object_becomes_a_copy() {
    let world = world("{}");
    assert_eq!(world.run().await["delivered"], 1);
    assert_eq!(world.value(APP), r#"{"TOKEN":"t1"}"#);
}

#[tokio::test(start_paused = true)]
async fn equal_copy_is_adopted_without_a_write() {
    let world = world(r#"{"TOKEN":"t1"}"#);
    assert_eq!(world.run().await["delivered"], 1);
    assert!(!world.take_calls().contains(&"PutSecretValue"));
}

#[tokio::test(start_paused = true)]
async fn value_that_the_source_never_held_is_never_overwritten() {
    let theirs = r#"{"TOKEN":"theirs","URL":"u"}"#;
    let world = world(theirs);
    for _ in 0..3 {
        let answer = world.run().await;
        assert_eq!((&answer["failed"], &copy(&answer)["error"]), (&json!(1), &json!("CopyDiffers")));
        assert!(!answer.to_string().contains("theirs"), "no value is told: {answer}");
        world.store(TOKEN, &token("t2", Some("t1")));
    }
    assert_eq!(world.value(APP), theirs);
    assert!(!world.is_delivered(TOKEN));
    world.store(APP, r#"{"URL":"u"}"#);
    assert_eq!(world.run().await["delivered"], 1);
}

#[tokio::test(start_paused = true)]
async fn pending_value_of_the_source_is_not_one_that_it_held() {
    let world = world(r#"{"TOKEN":"pending"}"#);
    {
        let mut state = world.lock();
        let secret = state.secrets.get_mut(TOKEN).unwrap();
        let value = SecretText::new(token("pending", Some("t1")));
        let created = secret.values[&version("v1")].1;
        secret.values.insert(version("p"), (value, created));
        let open = secret.stages.all().map(|(stage, holder)| (stage.clone(), holder.clone()));
        secret.stages = open.chain([(Stage::Pending, version("p"))]).collect();
    }
    assert_eq!(copy(&world.run().await)["error"], "CopyDiffers");
}

#[tokio::test(start_paused = true)]
async fn copy_of_the_previous_token_is_brought_up_to_date() {
    let world = world(r#"{"TOKEN":"t0"}"#);
    world.store(TOKEN, &token("t1", Some("t0")));
    assert_eq!(world.run().await["delivered"], 1);
    assert!(world.value(APP).contains(r#""TOKEN":"t1""#));
}

#[tokio::test(start_paused = true)]
async fn members_that_the_source_lost_leave_the_copy() {
    let world = world("{}");
    world.store(TOKEN, &token("t2", Some("t1")));
    world.run().await;
    assert!(world.value(APP).contains("TOKEN_PREVIOUS_UNTIL"));
    world.store(TOKEN, &token("t2", None));
    assert_eq!(world.run().await["delivered"], 1);
    assert_eq!(world.value(APP), r#"{"TOKEN":"t2"}"#);
}

#[tokio::test(start_paused = true)]
async fn edit_of_the_target_at_the_same_moment_stands() {
    for private_put in [PrivatePut::Abandons, PrivatePut::Leaves] {
        for operation in ["PutSecretValue", "UpdateSecretVersionStage"] {
            let mut world = world(r#"{"TOKEN":"t1","URL":"u"}"#);
            world.private_put = private_put;
            world.run().await;
            world.store(TOKEN, &token("t2", Some("t1")));
            world.run_within(3 * std::time::Duration::from_secs(1)).await;
            let edit = |state: &mut crate::world::State| {
                let edited = state.value(APP).replace(r#""URL":"u""#, r#""URL":"edited""#);
                state.store(APP, &edited);
            };
            world.lock().before.push((operation, Box::new(edit)));
            world.run_to_the_end().await;
            let copied = world.value(APP);
            assert!(copied.contains(r#""URL":"edited""#) && copied.contains(r#""TOKEN":"t2""#), "{copied}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn target_that_changes_all_the_time_is_left_to_the_next_run() {
    let world = world(r#"{"TOKEN":"t1","n":0}"#);
    world.run().await;
    world.store(TOKEN, &token("t2", None));
    for n in 0..3 {
        let edit = move |state: &mut crate::world::State| {
            let edited = state.value(APP).replace(&format!("\"n\":{n}"), &format!("\"n\":{}", n + 1));
            state.store(APP, &edited);
        };
        world.lock().before.push(("PutSecretValue", Box::new(edit)));
    }
    let answer = world.run().await;
    assert_eq!((&answer["pending"], &copy(&answer)["error"]), (&json!(1), &json!("CopyTargetChanged")));
    assert_eq!(world.value(APP), r#"{"TOKEN":"t1","n":3}"#);
    let left = world.lock().secrets[APP].stages.all().filter(|(stage, _)| stage.as_str().contains("COPY")).count();
    assert_eq!(left, 0, "what did not happen leaves nothing");
    assert_eq!(world.run().await["delivered"], 1);
}

#[tokio::test(start_paused = true)]
async fn copy_waits_while_a_rotation_of_its_target_is_open() {
    let world = world("{}");
    world.lock().secrets.get_mut(APP).unwrap().stages.open_rotation(&version("p")).unwrap();
    let answer = world.run().await;
    assert_eq!((&answer["pending"], &copy(&answer)["error"]), (&json!(1), &json!("CopyTargetRotating")));
    assert_eq!(world.value(APP), "{}");
}

#[tokio::test(start_paused = true)]
async fn second_stack_that_writes_the_same_copy_is_told() {
    let world = World::new(&json!({"token": [{"copy": "app"}], "second": [{"copy": "app"}]}));
    for (name, value) in [(TOKEN, "t1"), ("shop/second", "s1")] {
        world.secret(name, Some("admin-token"), Some("TOKEN"), &token(value, None));
    }
    world.secret(APP, None, None, "{}");
    for round in 0..4 {
        let answer = world.run().await;
        assert_eq!((&answer["delivered"], &answer["failed"]), (&json!(1), &json!(1)), "round {round}: {answer}");
    }
    assert_eq!(world.value(APP), r#"{"TOKEN":"s1"}"#, "the first one stays: no ping-pong");
    assert_eq!(world.lock().secrets[APP].values.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn edit_of_a_delivered_copy_is_told_and_the_repair_restarts() {
    let world = World::new(&json!({"token": [{"copy": "app"}, {"ecs": "blue/web"}]}));
    world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
    world.secret(APP, None, None, "{}");
    world.service("web", &[APP]);
    world.run_to_the_end().await;
    world.store(APP, r#"{"TOKEN":"typo"}"#);
    world.deploy("web");
    tokio::time::advance(10 * MINUTE).await;
    assert_eq!(world.run().await["failed"], 1);
    assert!(!world.is_delivered(TOKEN), "the next rotation waits: a consumer lacks the value");
    world.store(APP, "{}");
    world.run_to_the_end().await;
    assert_eq!(world.running("web"), [r#"{"TOKEN":"t1"}"#]);
}

#[tokio::test(start_paused = true)]
async fn each_bad_target_is_named_and_the_others_are_delivered() {
    type Change = fn(&World);
    let change: [(&str, &str, Change); 8] = [
        ("CopyTargetMissing", "create-secret", |world| drop(world.lock().secrets.remove(APP))),
        ("CopyTargetDeleted", "restore-secret", |world| world.lock().secrets.get_mut(APP).unwrap().deleted = true),
        ("CopyTargetNotObject", "", |world| world.store(APP, "text")),
        ("CopyTargetNotObject", "", |world| world.store(APP, "[1]")),
        ("CopyTargetUnusable", "describe-secret", |world| world.store(APP, r#"{"TOKEN":1}"#)),
        ("CopyTargetUnusable", "describe-secret", |world| world.store(APP, r#"{"TOKEN":"t1","TOKEN":"t1"}"#)),
        ("CopyTargetTooLarge", "", |world| world.store(APP, &format!(r#"{{"n":"{}"}}"#, "x".repeat(65_525)))),
        ("CopyTargetUnusable", "describe-secret", |world| {
            world.lock().secrets.get_mut(APP).unwrap().refuses = Some(StoreErrorKind::Binary);
        }),
    ];
    for (error, repair, change) in change {
        let world = World::new(&json!({"token": [{"copy": "app"}, {"copy": "other"}, {"ecs": "blue/web"}]}));
        world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
        world.secret(APP, None, None, "{}");
        world.secret("shop/other", None, None, "{}");
        world.service("web", &["shop/other"]);
        change(&world);
        let answer = world.run().await;
        assert_eq!(copy(&answer)["error"], error, "{answer}");
        assert_eq!(copy(&answer)["state"], "failed", "{answer}");
        let told = copy(&answer)["repair"].as_str().unwrap_or_default();
        assert!(told.contains(repair), "{error}: {told}");
        assert_eq!(world.value("shop/other"), r#"{"TOKEN":"t1"}"#, "{error}");
        assert_eq!(world.deployments("web"), 1, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn text_is_not_copied() {
    let world = World::new(&json!({"text": [{"copy": "app"}]}));
    world.secret("shop/text", Some("admin-token"), None, "t1");
    world.secret(APP, None, None, "{}");
    assert_eq!(copy(&world.run().await)["error"], "CopySourceIsText");
}

#[tokio::test(start_paused = true)]
async fn source_that_cannot_be_delivered_is_told_and_others_are() {
    let consumed = ["token", "other", "third", "fourth"].map(|name| (name.to_owned(), json!([{"copy": "app"}])));
    let world = World::new(&json!(serde_json::Map::from_iter(consumed)));
    world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
    world.secret("shop/other", Some("theirs"), None, "value");
    // A function is named after its stack, a hyphen, and the kind.
    world.secret("shop/fourth", Some("theiradmin-token"), Some("TOKEN"), &token("t1", None));
    world.secret(APP, None, None, "{}");
    let answer = world.run().await;
    let errors = answer["secrets"].as_array().unwrap().iter();
    let errors: BTreeMap<_, _> = errors.map(|one| (one["secret"].as_str().unwrap(), one["error"].as_str())).collect();
    let told = [
        ("shop/fourth", Some("SourceUnknown")),
        ("shop/other", Some("SourceUnknown")),
        ("shop/third", Some("SecretNotFound")),
        (TOKEN, None),
    ];
    assert_eq!(errors, BTreeMap::from(told));
    assert_eq!(answer["delivered"], 1);
}
