//! The answers in the README are real.

use deliver::error::DeliverError;
use serde_json::{Value, json};

use crate::timelines::token;
use crate::world::{BROKEN, HOUR, World};

/// The text with `TIME` in place of every time such as `2026-12-24T18:00:00Z`.
fn timeless(text: &str) -> String {
    const FORM: &[u8] = b"0000-00-00T00:00:00Z";
    let is_time = |part: &[u8]| {
        part.len() == FORM.len()
            && part
                .iter()
                .zip(FORM)
                .all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form })
    };
    let mut text = text.to_owned();
    while let Some(place) = text.as_bytes().windows(FORM.len()).position(is_time) {
        text.replace_range(place..place + FORM.len(), "TIME");
    }
    text
}

/// The JSON blocks of the README, without times.
fn blocks() -> Vec<Value> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let text = timeless(&text);
    let blocks = text.split("```json\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.map(|block| serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"))).collect()
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
    let blocks = blocks();
    assert_eq!(blocks.len(), shown.len(), "every block is tested");
    for shown in shown {
        let shown: Value = serde_json::from_str(&timeless(&shown.to_string())).unwrap();
        assert!(blocks.contains(&shown), "the README lacks this block:\n{shown}");
    }
}

#[test]
fn errors_in_the_readme_are_those_of_the_code() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let table = text.split("\n## Errors\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let names = table.lines().filter(|line| line.starts_with("| `")).flat_map(|line| {
        let first = line.split(" | ").next().unwrap();
        first.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    });
    let mut names: Vec<String> = names.collect();
    let mut real: Vec<&str> = DeliverError::VARIANTS.iter().copied().filter(|name| *name != "Rotation").collect();
    names.sort_unstable();
    real.sort_unstable();
    assert_eq!(names, real);
}
