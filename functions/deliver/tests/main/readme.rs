//! The answers in the README are real.

use serde_json::{Value, json};

use crate::timelines::token;
use crate::world::{BROKEN, HOUR, World};

/// The JSON blocks of the README.
fn blocks() -> Vec<Value> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let blocks = text.split("```json\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    blocks.map(|block| serde_json::from_str(&block).unwrap_or_else(|error| panic!("{error}: {block}"))).collect()
}

#[tokio::test(start_paused = true)]
async fn answers_in_the_readme_are_real() {
    let world = World::new(&json!({"token": [{"copy": "app"}, {"ecs": "blue/web"}]}));
    world.secret("shop/token", Some("admin-token"), Some("TOKEN"), &token("t1", None));
    world.secret("shop/app", None, None, "{}");
    world.service("web", &["shop/app"]);
    world.run_to_the_end().await;
    let mut shown = vec![world.run().await];
    world.next_ends("web", BROKEN);
    world.store("shop/token", &token("t2", Some("t1")));
    shown.push(world.request(json!({"secret_id": "shop/token", "dry_run": true})).await);
    world.run().await;
    tokio::time::advance(HOUR).await;
    shown.push(world.run().await);
    shown.push(world.lock().events.last().unwrap().clone());
    let blocks = blocks();
    for shown in shown {
        assert!(blocks.contains(&shown), "the README lacks this block:\n{shown:#}");
        println!("{shown}");
    }
}
