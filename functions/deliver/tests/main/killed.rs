//! A run that dies before any of its calls, two runs at once, and random histories: the next run ends what was left.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::timelines::token;
use crate::world::{BROKEN, HOUR, MINUTE, WELL, World};

const TOKEN: &str = "shop/token";

async fn world(seed: u64) -> World {
    let world = World::new(&json!({
        "token": [{"copy": "app"}, {"copy": "worker"}, {"ecs": "blue/web"}, {"function": "restart"}]
    }));
    let world = world.seeded(seed);
    world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
    world.secret("shop/app", None, None, r#"{"URL":"u"}"#);
    world.secret("shop/worker", None, None, r#"{"TOKEN":"t1","n":1}"#);
    world.service("web", &["shop/app"]);
    world.function("restart", &[r#"{"status":"pending"}"#, r#"{"status":"done"}"#]);
    world.run_to_the_end().await;
    world
}

fn assert_delivered(world: &World, value: &str, context: &str) {
    assert!(world.is_delivered(TOKEN), "{context}");
    assert_eq!(world.labels(TOKEN), ["ROTATION-DELIVERED"], "{context}");
    assert!(world.running("web")[0].contains(value), "{context}: {:?}", world.running("web"));
    for copy in ["shop/app", "shop/worker"] {
        assert!(world.value(copy).contains(value), "{context}: {copy}");
    }
    assert!(world.value("shop/app").contains(r#""URL":"u""#) && world.value("shop/worker").contains(r#""n":1"#));
}

/// A rotation whose first run, or the run after it, is killed before each of its calls. Returns the number of calls.
async fn kill_everywhere(seed: u64, in_first_run: bool) -> usize {
    for at in 0.. {
        let world = world(seed).await;
        world.store(TOKEN, &token("t2", Some("t1")));
        if !in_first_run {
            world.run().await;
            tokio::time::advance(10 * MINUTE).await;
        }
        let died = world.run_killed_at(at).await;
        world.run_to_the_end().await;
        let context = format!("seed {seed}, killed before call {at}");
        assert_delivered(&world, r#""TOKEN":"t2""#, &context);
        assert_eq!(world.deployments("web"), 2, "{context}");
        if !died {
            return at;
        }
    }
    unreachable!("a run ends")
}

#[tokio::test(start_paused = true)]
async fn run_killed_before_any_call_is_ended_by_the_next_run() {
    for seed in 0..4 {
        let calls = (kill_everywhere(seed, true).await, kill_everywhere(seed, false).await);
        println!("runs of {calls:?} calls were killed before each of them");
        assert!(calls.0 > 20 && calls.1 > 8, "the runs have calls: {calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_runs_at_once_end_as_one_run_does() {
    let (mut most, mut twice) = (0, 0);
    for seed in 0..200 {
        let world = world(seed).await;
        world.store(TOKEN, &token("t2", Some("t1")));
        tokio::join!(world.run(), world.run());
        world.run_to_the_end().await;
        assert_delivered(&world, r#""TOKEN":"t2""#, &format!("seed {seed}"));
        most = most.max(world.deployments("web") - 1);
        twice += u32::from(world.deployments("web") > 2);
    }
    println!("two runs at once start at most {most} deployments");
    assert!(most <= 2 && twice <= 5, "both start one only if they look again in the same second: {twice} of 200");
}

#[tokio::test(start_paused = true)]
async fn rotation_in_the_middle_of_two_runs_wins() {
    for seed in 0..200 {
        let world = world(seed).await;
        world.store(TOKEN, &token("t2", Some("t1")));
        let rotation = async {
            tokio::time::sleep(std::time::Duration::from_millis(seed * 40)).await;
            world.store(TOKEN, &token("t3", Some("t2")));
            world.run().await
        };
        tokio::join!(world.run(), rotation);
        world.run_to_the_end().await;
        assert_delivered(&world, r#""TOKEN":"t3""#, &format!("seed {seed}"));
    }
}

/// One step of a random history.
async fn step(world: &World, rng: &mut StdRng, made: &mut u32) {
    match rng.random_range(0..9) {
        // A rotation waits for the delivery before it. A compromise does not.
        kind @ (0 | 1) if kind == 0 || world.is_delivered(TOKEN) => {
            *made += 1;
            world.store(TOKEN, &token(&format!("t{made}"), Some("before")));
            if kind == 0 {
                world.run().await;
            }
        }
        2 => {
            let edited = world.value(TOKEN).replace("stays", "stays, edited");
            world.store(TOKEN, &edited);
        }
        3 => {
            world.run_killed_at(rng.random_range(0..25)).await;
        }
        4 => {
            tokio::join!(world.run(), world.run_killed_at(rng.random_range(0..40)));
        }
        5 => world.next_ends("web", if rng.random() { WELL } else { BROKEN }),
        6 => world.deploy("web"),
        7 => {
            let app = world.value("shop/app").replace(r#""URL":"u"#, r#""URL":"ux"#);
            world.store("shop/app", &app);
        }
        _ => {
            world.run().await;
        }
    }
    tokio::time::advance(rng.random_range(0..120) * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn twenty_labels_are_never_reached_in_random_histories() {
    let mut most = 0;
    for seed in 0..60 {
        let (world, mut rng, mut made) = (world(seed).await, StdRng::seed_from_u64(seed), 1);
        for _ in 0..50 {
            step(&world, &mut rng, &mut made).await;
            for name in [TOKEN, "shop/app"] {
                most = most.max(world.lock().secrets[name].stages.all().count());
            }
        }
        world.next_ends("web", WELL);
        tokio::time::advance(HOUR).await;
        world.run().await;
        tokio::time::advance(10 * MINUTE).await;
        world.deploy("web");
        world.run_to_the_end().await;
        let current = format!(r#""TOKEN":"t{made}""#);
        assert!(world.is_delivered(TOKEN) && world.value("shop/app").contains(&current), "seed {seed}");
        assert!(world.running("web")[0].contains(&current), "seed {seed}");
    }
    println!("at most {most} labels");
    assert!(most <= 7, "AWSCURRENT, AWSPREVIOUS and the labels of deliveries: {most}");
}

#[tokio::test(start_paused = true)]
async fn dry_run_changes_nothing_in_random_histories() {
    const READS: [&str; 4] = ["DescribeSecret", "GetSecretValue", "DescribeServices", "ListServiceDeployments"];
    for seed in 0..20 {
        let (world, mut rng, mut made) = (world(seed).await, StdRng::seed_from_u64(seed), 1);
        for _ in 0..30 {
            step(&world, &mut rng, &mut made).await;
            world.take_calls();
            world.request(json!({"dry_run": true})).await;
            let calls = world.take_calls();
            assert!(calls.len() > 2 && calls.iter().all(|call| READS.contains(call)), "seed {seed}: {calls:?}");
        }
    }
}
