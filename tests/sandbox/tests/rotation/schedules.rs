//! Rotations on schedule.

use super::*;

#[tokio::test]
async fn schedules_rotate_in_order_when_the_clock_is_moved() {
    let world = world().await;
    for (name, days) in [("slow", 90), ("fast", 40)] {
        world.secret(name).await;
        let rotate = world.client.rotate_secret().secret_id(name).rotation_lambda_arn(ROTATOR);
        rotate.rotation_rules(after_days(days)).send().await.unwrap();
        assert!(world.wait(name).await.is_success());
    }
    let start = world.sandbox.now();
    world.functions.forget_events();
    world.sandbox.advance(90 * DAY).await.unwrap();
    let successes: Vec<_> = world
        .sandbox
        .events()
        .into_iter()
        .filter(|event| event.kind == EventKind::RotationSucceeded && event.time > start)
        .map(|event| {
            let name = event.secret_arn.rsplit(':').next().unwrap().rsplit_once('-').unwrap().0.to_owned();
            let day = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 86_400;
            (name, day(event.time) - day(start))
        })
        .collect();
    assert_eq!(successes, [("fast".into(), 40), ("fast".into(), 80), ("slow".into(), 90)]);
    assert_eq!(world.functions.steps().len(), 3 * 4);
    assert!(world.sandbox.now() >= start + 90 * DAY);
    let description = world.client.describe_secret().secret_id("slow").send().await.unwrap();
    let rotated = system(description.last_rotated_date);
    assert!(rotated <= start + 90 * DAY, "a rotation sees the time of its window");
}

#[tokio::test]
async fn a_schedule_expression_shows_the_days_that_it_comes_to() {
    let world = world().await;
    world.secret("s").await;
    let rotate = world.client.rotate_secret().secret_id("s").rotation_lambda_arn(ROTATOR);
    rotate.rotation_rules(expression("rate(10 days)")).send().await.unwrap();
    world.wait("s").await;
    let rules = world.client.describe_secret().secret_id("s").send().await.unwrap().rotation_rules.unwrap();
    assert_eq!(rules.schedule_expression.as_deref(), Some("rate(10 days)"));
    assert_eq!(rules.automatically_after_days, Some(10));
    let before = world.value("s").await;
    world.sandbox.advance(9 * DAY - Duration::from_secs(1)).await.unwrap();
    assert_eq!(world.value("s").await, before);
    world.sandbox.advance(DAY).await.unwrap();
    assert_ne!(world.value("s").await, before);
}

#[tokio::test]
async fn manual_put_counts_for_automatically_after_days() {
    let world = world().await;
    world.secret("s").await;
    let rotate = world.client.rotate_secret().secret_id("s").rotation_lambda_arn(ROTATOR);
    rotate.rotation_rules(after_days(30)).send().await.unwrap();
    world.wait("s").await;
    world.sandbox.advance(20 * DAY).await.unwrap();
    world.client.put_secret_value().secret_id("s").secret_string("mine").send().await.unwrap();
    world.sandbox.advance(20 * DAY).await.unwrap();
    assert_eq!(world.value("s").await, "mine");
    world.sandbox.advance(10 * DAY).await.unwrap();
    assert_ne!(world.value("s").await, "mine");
}

#[tokio::test]
async fn failed_schedule_keeps_its_past_date_until_the_next_window() {
    let world = world().await;
    world.secret("s").await;
    let rotate = world.client.rotate_secret().secret_id("s").rotation_lambda_arn(ROTATOR);
    rotate.rotation_rules(after_days(10)).send().await.unwrap();
    world.wait("s").await;
    world.functions.set("rotator", |_| async { Err("Broken".to_owned()) });
    world.sandbox.advance(12 * DAY).await.unwrap();
    let RotationOutcome::Failed { version_id, .. } = world.wait("s").await else { panic!("no failure") };
    let description = world.client.describe_secret().secret_id("s").send().await.unwrap();
    assert!(system(description.next_rotation_date) < world.sandbox.now());

    world.functions.set("rotator", common::template(client_of(&world.sandbox)));
    world.sandbox.advance(10 * DAY).await.unwrap();
    assert_eq!(world.wait("s").await, RotationOutcome::Succeeded { version_id });
}

#[tokio::test]
async fn schedules_fire_as_time_passes_by_itself() {
    let world = world().await;
    world.secret("s").await;
    let rotate = world.client.rotate_secret().secret_id("s").rotation_lambda_arn(ROTATOR);
    let rotate = rotate.rotation_rules(expression("rate(4 hours)")).rotate_immediately(false);
    rotate.send().await.unwrap();
    world.wait("s").await;
    // To one second before the window, and then only wait.
    let day = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let until_window = 4 * 3600 - day(world.sandbox.now()) % (4 * 3600);
    let mut live = world.sandbox.subscribe();
    world.sandbox.advance(Duration::from_secs(until_window - 1)).await.unwrap();
    let rotated = async { while live.recv().await.unwrap().kind != EventKind::RotationSucceeded {} };
    tokio::time::timeout(PATIENCE, rotated).await.unwrap();
}
