//! Credentials of a provider as sources: their named members are copied together.

use serde_json::json;

use crate::world::World;

const SOURCE: &str = "shop/provider";
const APP: &str = "shop/app";

fn credential(number: u8, expires: Option<&str>) -> String {
    let mut value = json!({ "URL": "u", "KEY": format!("key-{number}"), "TOKEN": format!("id-{number}") });
    if let Some(expires) = expires {
        value["KEY_EXPIRES"] = json!(expires);
    }
    value.to_string()
}

/// A credential of two members with one copy, and a service that reads the copy.
fn world(app: &str) -> World {
    let world = World::new(&json!({ "provider": [{ "copy": "app" }, { "ecs": "blue/web" }] }));
    world.secret(SOURCE, Some("shop-production-issued-credential"), None, &credential(1, None));
    let fields = ("rotation:fields".to_owned(), "KEY TOKEN".to_owned());
    world.lock().secrets.get_mut(SOURCE).unwrap().tags.extend([fields]);
    world.secret(APP, None, None, app);
    world.service("web", &[APP]);
    world
}

#[tokio::test(start_paused = true)]
async fn named_members_are_copied_and_no_others() {
    let world = world(r#"{"PORT":"80"}"#);
    world.run_to_the_end().await;
    assert_eq!(world.value(APP), r#"{"PORT":"80","KEY":"key-1","TOKEN":"id-1"}"#);
    world.store(SOURCE, &credential(2, Some("2099-01-01T00:00:00Z")));
    world.run_to_the_end().await;
    let copied = r#"{"PORT":"80","KEY":"key-2","KEY_EXPIRES":"2099-01-01T00:00:00Z","TOKEN":"id-2"}"#;
    let [is, expected] =
        [&world.value(APP), copied].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
    assert_eq!(is, expected);
    // The next issuer's answer names no end.
    world.store(SOURCE, &credential(3, None));
    world.run_to_the_end().await;
    assert_eq!(world.value(APP), r#"{"PORT":"80","KEY":"key-3","TOKEN":"id-3"}"#);
    assert!(world.is_delivered(SOURCE));
}

#[tokio::test(start_paused = true)]
async fn half_of_another_credential_is_never_overwritten() {
    let theirs = r#"{"KEY":"key-1","TOKEN":"theirs"}"#;
    let world = world(theirs);
    let answer = world.run().await;
    assert_eq!(answer["secrets"][0]["consumers"][0]["error"], "CopyDiffers", "{answer}");
    assert!(!answer.to_string().contains("theirs") && !answer.to_string().contains("key-1"), "{answer}");
    assert_eq!(world.value(APP), theirs);
    assert!(!world.is_delivered(SOURCE));
}

#[tokio::test(start_paused = true)]
async fn another_end_of_a_credential_restarts_no_service() {
    let world = world("{}");
    world.run_to_the_end().await;
    world.take_calls();
    world.store(SOURCE, &credential(1, Some("2099-01-01T00:00:00Z")));
    world.run_to_the_end().await;
    assert!(world.value(APP).contains("2099-01-01"), "the copy has it");
    assert!(!world.take_calls().contains(&"UpdateService"));
    world.store(SOURCE, &credential(2, None));
    world.run_to_the_end().await;
    assert!(world.take_calls().contains(&"UpdateService"));
}
