//! The rotation service, with functions that run in this process and call the sandbox over HTTP.

#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]

#[path = "../common/mod.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_secretsmanager::primitives::DateTime;
use aws_sdk_secretsmanager::types::RotationRulesType;
use common::{PATIENCE, ROTATOR, client_of, map, problem, template_step, token, world, world_with};
use sandbox::{ConfigurationTest, EventKind, Fault, FaultRule, PrivatePut, RotationOutcome, Settings, Step, WaitError};
use tokio::sync::Notify;

mod schedules;

const DAY: Duration = Duration::from_secs(86_400);
const STEPS: [&str; 4] = ["createSecret", "setSecret", "testSecret", "finishSecret"];
const INCOMPLETE: &str = "A previous rotation isn't complete. That rotation will be reattempted.";

fn after_days(days: i64) -> RotationRulesType {
    RotationRulesType::builder().automatically_after_days(days).build()
}

fn expression(expression: &str) -> RotationRulesType {
    RotationRulesType::builder().schedule_expression(expression).build()
}

fn system(time: Option<DateTime>) -> SystemTime {
    SystemTime::try_from(time.unwrap()).unwrap()
}

fn succeeded(n: u32) -> RotationOutcome {
    RotationOutcome::Succeeded { version_id: token(n) }
}

#[tokio::test]
async fn rotation_runs_four_steps_with_arn_token_and_rotation_token() {
    let world = world().await;
    let arn = world.secret("s").await;
    let rotate = world.client.rotate_secret().secret_id("s").client_request_token(token(2));
    let answer = rotate.rotation_lambda_arn(ROTATOR).send().await.unwrap();
    assert_eq!(answer.version_id, Some(token(2)));
    assert_eq!(world.wait("s").await, succeeded(2));

    assert_eq!(world.functions.steps(), STEPS);
    let events = world.functions.events();
    for event in &events {
        assert_eq!(event["SecretId"], arn);
        assert_eq!(event["ClientRequestToken"], token(2));
        assert_eq!(event["RotationToken"], events[0]["RotationToken"]);
        assert_eq!(event.as_object().unwrap().len(), 4);
    }
    let rotation_token = events[0]["RotationToken"].as_str().unwrap();
    assert!((36..=256).contains(&rotation_token.len()));
    let seen = world.sandbox.rotation_tokens_seen();
    assert_eq!((seen[0].token.as_str(), seen[0].passed_on), (rotation_token, 1));
    assert!(!format!("{seen:?}").contains(rotation_token));

    assert_eq!(world.value("s").await, format!("value of {}", token(2)));
    // AWSPENDING stays, and is no obstacle to the next one.
    assert_eq!(world.stages("s").await, map([(1, "AWSPREVIOUS"), (2, "AWSCURRENT,AWSPENDING")]));
    assert_eq!(world.trail(), ["RotationStarted", "RotationSucceeded"]);
    world.rotate("s", &token(3)).await;
    assert_eq!(world.wait("s").await, succeeded(3));
    assert_eq!(world.stages("s").await, map([(2, "AWSPREVIOUS"), (3, "AWSCURRENT,AWSPENDING")]));
    let other = &world.functions.events()[4]["RotationToken"];
    assert_ne!(*other, events[0]["RotationToken"]);
}

#[tokio::test]
async fn rotate_secret_answers_before_the_new_version_has_a_value() {
    let world = world().await;
    world.secret("s").await;
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let client = client_of(&world.sandbox);
    world.functions.set("rotator", {
        let (entered, go) = (entered.clone(), go.clone());
        move |event| {
            let (client, entered, go) = (client.clone(), entered.clone(), go.clone());
            async move {
                entered.notify_one();
                go.notified().await;
                template_step(&client, &event).await
            }
        }
    });
    world.rotate("s", &token(2)).await;
    entered.notified().await;
    assert_eq!(world.stages("s").await, map([(1, "AWSCURRENT"), (2, "AWSPENDING")]));
    let by_id = world.client.get_secret_value().secret_id("s").version_id(token(2)).send().await;
    let expected = format!("Secrets Manager can't find the specified secret value for VersionId: {}", token(2));
    assert_eq!(problem(by_id), ("ResourceNotFoundException".to_owned(), expected));
    let by_stage = world.client.get_secret_value().secret_id("s").version_stage("AWSPENDING").send().await;
    let expected = "Secrets Manager can't find the specified secret value for staging label: AWSPENDING";
    assert_eq!(problem(by_stage), ("ResourceNotFoundException".to_owned(), expected.to_owned()));

    // While it runs: the same request again is the same rotation, another one is refused.
    let again = world.client.rotate_secret().secret_id("s").client_request_token(token(2)).send().await.unwrap();
    assert_eq!(again.version_id, Some(token(2)));
    let other = world.client.rotate_secret().secret_id("s").client_request_token(token(3)).send().await;
    assert_eq!(problem(other), ("InvalidRequestException".to_owned(), INCOMPLETE.to_owned()));
    for _ in 0..4 {
        go.notify_one();
        tokio::select! { () = entered.notified() => {}, _ = world.wait("s") => {} }
    }
    assert_eq!(world.wait("s").await, succeeded(2));
    assert_eq!(world.functions.steps(), STEPS);
    // And after it has succeeded, it is not done again.
    world.rotate("s", &token(2)).await;
    assert_eq!(world.functions.steps(), STEPS);
}

#[tokio::test]
async fn rotation_dates_are_there_only_after_a_success() {
    let world = world().await;
    world.secret("s").await;
    let describe = || async { world.client.describe_secret().secret_id("s").send().await.unwrap() };
    world.functions.set("rotator", |_| async { Err("Broken".to_owned()) });
    let rotate = || world.client.rotate_secret().secret_id("s").rotation_rules(after_days(30));
    rotate().client_request_token(token(2)).rotation_lambda_arn(ROTATOR).send().await.unwrap();
    assert!(matches!(world.wait("s").await, RotationOutcome::Failed { .. }));
    assert_eq!(describe().await.last_rotated_date, None);

    world.functions.set("rotator", common::template(client_of(&world.sandbox)));
    assert_eq!(problem(rotate().client_request_token(token(3)).send().await).1, INCOMPLETE);
    let before = world.sandbox.now() - Duration::from_millis(1);
    assert_eq!(world.wait("s").await, succeeded(2));
    let description = describe().await;
    let rotated = system(description.last_rotated_date);
    assert!(rotated >= before && rotated <= world.sandbox.now());
    assert_eq!(system(description.last_changed_date), rotated);
    // The window of that day closes at its end.
    let next = system(description.next_rotation_date);
    let days = next.duration_since(rotated).unwrap();
    assert!(days > 30 * DAY && days <= 31 * DAY, "{days:?}");
    assert_eq!(next.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() % 86_400, 0);
    assert_eq!(description.rotation_rules.unwrap().automatically_after_days, Some(30));
    assert_eq!(description.rotation_lambda_arn.as_deref(), Some(ROTATOR));
}

#[tokio::test]
async fn a_failed_step_repeats_the_whole_rotation_with_the_same_token() {
    let world = world().await;
    world.secret("s").await;
    let client = client_of(&world.sandbox);
    let failures = Arc::new(AtomicU32::new(2));
    world.functions.set("rotator", move |event| {
        let (client, failures) = (client.clone(), failures.clone());
        async move {
            if event["Step"] == "testSecret" && failures.load(Ordering::SeqCst) > 0 {
                failures.fetch_sub(1, Ordering::SeqCst);
                return Err("TargetUnreachable".to_owned());
            }
            template_step(&client, &event).await
        }
    });
    world.rotate("s", &token(2)).await;
    assert_eq!(world.wait("s").await, succeeded(2));
    let failed = ["createSecret", "setSecret", "testSecret"];
    assert_eq!(world.functions.steps(), [&failed[..], &failed, &STEPS].concat());
    let events = world.functions.events();
    assert!(events.iter().all(|event| event["ClientRequestToken"] == token(2)));
    assert!(events.iter().all(|event| event["RotationToken"] == events[0]["RotationToken"]));
    assert_eq!(world.trail(), ["RotationStarted", "RotationSucceeded"]);

    let attempts = world.sandbox.rotation_attempts("s");
    let shape: Vec<_> = attempts.iter().map(|attempt| (attempt.attempt, attempt.steps.len())).collect();
    assert_eq!(shape, [(1, 3), (2, 3), (3, 4)]);
    let error = attempts[0].steps[2].error.as_ref().unwrap();
    assert_eq!((attempts[0].steps[2].step, error.error_type.as_str()), (Step::Test, "TargetUnreachable"));
}

#[tokio::test]
async fn failing_rotation_is_given_up_pending_and_resumed_by_the_next() {
    let world = world().await;
    world.secret("s").await;
    world.functions.set("rotator", |_| async { Err("Broken".to_owned()) });
    world.rotate("s", &token(2)).await;
    let RotationOutcome::Failed { version_id, error } = world.wait("s").await else { panic!("no failure") };
    assert_eq!((version_id, error.error_type.as_str()), (token(2), "Broken"));
    assert_eq!(world.functions.steps(), ["createSecret"; 5]);
    assert_eq!(world.stages("s").await, map([(1, "AWSCURRENT"), (2, "AWSPENDING")]));
    assert_eq!(world.trail(), ["RotationStarted", "RotationFailed"]);

    world.functions.set("rotator", common::template(client_of(&world.sandbox)));
    world.functions.forget_events();
    let again = world.client.rotate_secret().secret_id("s").client_request_token(token(3)).send().await;
    assert_eq!(problem(again), ("InvalidRequestException".to_owned(), INCOMPLETE.to_owned()));
    assert_eq!(world.wait("s").await, succeeded(2));
    assert!(world.functions.events().iter().all(|event| event["ClientRequestToken"] == token(2)));
    assert_eq!(world.stages("s").await, map([(1, "AWSPREVIOUS"), (2, "AWSCURRENT,AWSPENDING")]));
}

#[tokio::test]
async fn a_finish_that_leaves_the_version_uncurrent_is_a_failure() {
    let world = world().await;
    world.secret("s").await;
    world.functions.set("rotator", |_| async { Ok(()) });
    world.rotate("s", &token(2)).await;
    let RotationOutcome::Failed { error, .. } = world.wait("s").await else { panic!("no failure") };
    assert_eq!(error.error_type, "RotationIncomplete");
    assert_eq!(world.functions.steps().len(), 5 * 4);
    assert_eq!(world.stages("s").await, map([(1, "AWSCURRENT"), (2, "AWSPENDING")]));
}

#[tokio::test]
async fn removing_awspending_in_finish_secret_is_a_success_too() {
    let world = world().await;
    world.secret("s").await;
    let client = client_of(&world.sandbox);
    world.functions.set("rotator", move |event| {
        let client = client.clone();
        async move {
            template_step(&client, &event).await?;
            if event["Step"] == "finishSecret" {
                let remove = client.update_secret_version_stage().secret_id("s").version_stage("AWSPENDING");
                remove.remove_from_version_id(token(2)).send().await.map_err(|error| common::code(&error))?;
            }
            Ok(())
        }
    });
    world.rotate("s", &token(2)).await;
    assert_eq!(world.wait("s").await, succeeded(2));
    assert_eq!(world.stages("s").await, map([(1, "AWSPREVIOUS"), (2, "AWSCURRENT")]));
}

#[tokio::test]
async fn somebody_elses_new_version_abandons_the_rotation() {
    let world = world().await;
    let arn = world.secret("s").await;
    let client = client_of(&world.sandbox);
    world.functions.set("rotator", move |event| {
        let client = client.clone();
        async move {
            template_step(&client, &event).await?;
            if event["Step"] == "setSecret" {
                let put = client.put_secret_value().secret_id("s").client_request_token(token(7)).secret_string("mine");
                put.send().await.map_err(|error| common::code(&error))?;
            }
            Ok(())
        }
    });
    world.rotate("s", &token(2)).await;
    assert_eq!(world.wait("s").await, RotationOutcome::Abandoned { version_id: token(2) });
    assert_eq!(world.functions.steps(), ["createSecret", "setSecret"]);
    assert_eq!(world.stages("s").await, map([(1, "AWSPREVIOUS"), (7, "AWSCURRENT")]));
    assert_eq!(world.trail(), ["RotationStarted", "RotationAbandoned"]);
    let abandoned = world.sandbox.events().into_iter().find(|event| event.kind == EventKind::RotationAbandoned);
    let abandoned = abandoned.unwrap();
    assert_eq!((abandoned.secret_arn, abandoned.version_id), (arn, token(2)));
    // The way is free for the next one.
    world.functions.set("rotator", common::template(client_of(&world.sandbox)));
    world.rotate("s", &token(3)).await;
    assert_eq!(world.wait("s").await, succeeded(3));
}

#[tokio::test]
async fn private_version_abandons_the_rotation_as_the_setting_says() {
    let abandoned = RotationOutcome::Abandoned { version_id: token(2) };
    for (private_put, outcome, stages, trail) in [
        (PrivatePut::Abandons, abandoned, map([(1, "AWSCURRENT"), (7, "mine")]), "RotationAbandoned"),
        (
            PrivatePut::Leaves,
            succeeded(2),
            map([(1, "AWSPREVIOUS"), (2, "AWSCURRENT,AWSPENDING"), (7, "mine")]),
            "RotationSucceeded",
        ),
    ] {
        let world = world_with(Settings { private_put, ..Settings::default() }).await;
        world.secret("s").await;
        let client = client_of(&world.sandbox);
        world.functions.set("rotator", move |event| {
            let client = client.clone();
            async move {
                template_step(&client, &event).await?;
                if event["Step"] == "setSecret" {
                    let put = client.put_secret_value().secret_id("s").client_request_token(token(7));
                    let put = put.secret_string("mine").version_stages("mine").send().await;
                    put.map_err(|error| common::code(&error))?;
                }
                Ok(())
            }
        });
        world.rotate("s", &token(2)).await;
        assert_eq!(world.wait("s").await, outcome);
        assert_eq!(world.stages("s").await, stages, "{private_put:?}");
        assert_eq!(world.trail(), ["RotationStarted", trail], "{private_put:?}");
    }
}

#[tokio::test]
async fn new_current_or_pending_version_abandons_the_rotation() {
    for labels in [&["AWSCURRENT", "mine"][..], &["AWSPENDING", "mine"], &[]] {
        let world = world_with(Settings { private_put: PrivatePut::Leaves, ..Settings::default() }).await;
        world.secret("s").await;
        world.functions.set("rotator", |_| async { Err("Broken".to_owned()) });
        world.rotate("s", &token(2)).await;
        world.wait("s").await;
        let put = world.client.put_secret_value().secret_id("s").client_request_token(token(7)).secret_string("mine");
        put.set_version_stages((!labels.is_empty()).then(|| labels.iter().map(|&label| label.into()).collect()))
            .send()
            .await
            .unwrap();
        assert_eq!(world.trail(), ["RotationStarted", "RotationFailed", "RotationAbandoned"], "{labels:?}");
    }
}

#[tokio::test]
async fn a_manual_put_also_clears_a_rotation_that_was_given_up() {
    let world = world().await;
    world.secret("s").await;
    world.functions.set("rotator", |_| async { Err("Broken".to_owned()) });
    world.rotate("s", &token(2)).await;
    world.wait("s").await;
    let update = world.client.update_secret().secret_id("s").client_request_token(token(7)).secret_string("mine");
    update.send().await.unwrap();
    assert_eq!(world.trail(), ["RotationStarted", "RotationFailed", "RotationAbandoned"]);
    assert_eq!(world.stages("s").await, map([(1, "AWSPREVIOUS"), (7, "AWSCURRENT")]));
}

#[tokio::test]
async fn foreign_pending_version_blocks_rotations_and_starts_none() {
    let world = world().await;
    world.secret("s").await;
    let put = world.client.put_secret_value().secret_id("s").client_request_token(token(7)).secret_string("mine");
    put.version_stages("AWSPENDING").send().await.unwrap();
    let rotate = || world.client.rotate_secret().secret_id("s").rotation_lambda_arn(ROTATOR);
    assert_eq!(problem(rotate().send().await).1, INCOMPLETE);
    assert_eq!(problem(rotate().client_request_token(token(7)).send().await).1, INCOMPLETE);
    let waited = world.sandbox.wait_for_rotation("s", Duration::from_millis(50)).await;
    assert!(matches!(waited, Err(WaitError::TimedOut(..))));
    assert!(world.functions.events().is_empty());
    assert_eq!(world.value("s").await, "v1");
}

#[tokio::test]
async fn configuration_test_runs_test_secret_alone_and_leaves_nothing() {
    for (setting, has_value) in [(ConfigurationTest::WithoutValue, false), (ConfigurationTest::WithCurrentValue, true)]
    {
        let world = world_with(Settings { configuration_test: setting, ..Settings::default() }).await;
        world.secret("s").await;
        let client = client_of(&world.sandbox);
        world.functions.set("rotator", move |event| {
            let client = client.clone();
            async move {
                let version = event["ClientRequestToken"].as_str().unwrap();
                let pending = client.get_secret_value().secret_id("s").version_id(version).version_stage("AWSPENDING");
                let value = pending.send().await.ok().and_then(|value| value.secret_string);
                let expected = has_value.then(|| "v1".to_owned());
                if value == expected { Ok(()) } else { Err("Unexpected".to_owned()) }
            }
        });
        let rotate = world.client.rotate_secret().secret_id("s").client_request_token(token(2));
        let rotate = rotate.rotation_lambda_arn(ROTATOR).rotation_rules(after_days(30)).rotate_immediately(false);
        rotate.send().await.unwrap();
        assert_eq!(world.wait("s").await, RotationOutcome::TestSucceeded { version_id: token(2) });
        assert_eq!(world.functions.steps(), ["testSecret"]);
        assert_eq!(world.stages("s").await, map([(1, "AWSCURRENT")]));
        assert_eq!(world.trail(), ["TestRotationStarted", "TestRotationSucceeded"]);
        let list = world.client.list_secret_version_ids().secret_id("s").include_deprecated(true).send().await;
        assert_eq!(list.unwrap().versions().len(), 1);
        let description = world.client.describe_secret().secret_id("s").send().await.unwrap();
        assert_eq!(description.rotation_enabled, Some(true));
        assert_eq!(description.last_rotated_date, None);
        assert!(description.next_rotation_date.is_some());
    }
}

#[tokio::test]
async fn failed_configuration_test_is_reported_and_leaves_it_set() {
    let world = world().await;
    world.secret("s").await;
    world.functions.set("rotator", |_| async { Err("NoRoute".to_owned()) });
    let rotate = world.client.rotate_secret().secret_id("s").rotation_lambda_arn(ROTATOR);
    rotate.rotate_immediately(false).send().await.unwrap();
    let RotationOutcome::TestFailed { error, .. } = world.wait("s").await else { panic!("no failure") };
    assert_eq!(error.error_type, "NoRoute");
    assert_eq!(world.functions.steps(), ["testSecret"]);
    assert_eq!(world.stages("s").await, map([(1, "AWSCURRENT")]));
    let description = world.client.describe_secret().secret_id("s").send().await.unwrap();
    assert_eq!(description.rotation_enabled, Some(true));
    assert_eq!(world.trail(), ["TestRotationStarted", "TestRotationFailed"]);
}

#[tokio::test]
async fn cancelling_stops_before_the_next_step_and_leaves_awspending() {
    let world = world().await;
    world.secret("s").await;
    let client = client_of(&world.sandbox);
    world.functions.set("rotator", move |event| {
        let client = client.clone();
        async move {
            template_step(&client, &event).await?;
            client.cancel_rotate_secret().secret_id("s").send().await.map_err(|error| common::code(&error))?;
            Ok(())
        }
    });
    let rotate = world.client.rotate_secret().secret_id("s").client_request_token(token(2));
    rotate.rotation_lambda_arn(ROTATOR).rotation_rules(after_days(1)).send().await.unwrap();
    assert_eq!(world.wait("s").await, RotationOutcome::Cancelled { version_id: token(2) });
    assert_eq!(world.functions.steps(), ["createSecret"]);
    assert_eq!(world.stages("s").await, map([(1, "AWSCURRENT"), (2, "AWSPENDING")]));
    let description = world.client.describe_secret().secret_id("s").send().await.unwrap();
    assert_eq!(description.rotation_enabled, Some(false));
    assert_eq!(description.next_rotation_date, None);
    assert_eq!(description.last_rotated_date, None);
    assert_eq!(description.rotation_lambda_arn.as_deref(), Some(ROTATOR));
    // Nothing is due any more.
    world.sandbox.advance(10 * DAY).await.unwrap();
    assert_eq!(world.functions.steps(), ["createSecret"]);
    let cancelled = world.client.cancel_rotate_secret().secret_id("s").send().await.unwrap();
    assert_eq!(cancelled.version_id, Some(token(2)));
}

#[tokio::test]
async fn deleting_the_secret_ends_its_rotation() {
    let world = world().await;
    world.secret("s").await;
    let client = client_of(&world.sandbox);
    world.functions.set("rotator", move |_| {
        let client = client.clone();
        async move {
            client.delete_secret().secret_id("s").send().await.map_err(|error| common::code(&error))?;
            Ok(())
        }
    });
    world.rotate("s", &token(2)).await;
    assert_eq!(world.wait("s").await, RotationOutcome::Cancelled { version_id: token(2) });
    assert_eq!(world.functions.steps(), ["createSecret"]);
}

#[tokio::test]
async fn a_secret_without_a_value_gets_its_first_one_by_rotation() {
    let world = world().await;
    world.client.create_secret().name("s").send().await.unwrap();
    world.rotate("s", &token(2)).await;
    assert_eq!(world.wait("s").await, succeeded(2));
    assert_eq!(world.stages("s").await, map([(2, "AWSCURRENT,AWSPENDING")]));
    assert_eq!(world.value("s").await, format!("value of {}", token(2)));
}

#[tokio::test]
async fn subscribers_see_steps_and_labels_in_order() {
    let world = world().await;
    world.secret("s").await;
    let mut live = world.sandbox.subscribe();
    world.rotate("s", &token(2)).await;
    world.wait("s").await;
    let mut seen = Vec::new();
    while let Ok(event) = live.try_recv() {
        seen.push(match event.kind {
            EventKind::StepStarted { step, .. } => format!("start {step}"),
            EventKind::StepEnded { step, error, .. } => format!("end {step} {}", error.is_none()),
            EventKind::StagesChanged { to, .. } => {
                format!("{}: {}", &event.version_id[35..], to.into_iter().collect::<Vec<_>>().join(","))
            }
            kind => serde_json::to_value(&kind).unwrap()["event"].as_str().unwrap().to_owned(),
        });
    }
    let expected = [
        "2: AWSPENDING",
        "RotationStarted",
        "start createSecret",
        "end createSecret true",
        "start setSecret",
        "end setSecret true",
        "start testSecret",
        "end testSecret true",
        "start finishSecret",
        "1: AWSPREVIOUS",
        "2: AWSCURRENT,AWSPENDING",
        "end finishSecret true",
        "RotationSucceeded",
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn throttled_or_lost_invocation_is_a_failed_step() {
    let world = world().await;
    world.secret("s").await;
    world.sandbox.faults().add(FaultRule::on("Invoke", Fault::Throttle).at_step(Step::Set));
    world.sandbox.faults().add(FaultRule::on("Invoke", Fault::LostAnswer).at_step(Step::Finish));
    world.rotate("s", &token(2)).await;
    assert_eq!(world.wait("s").await, succeeded(2));
    let attempts = world.sandbox.rotation_attempts("s");
    let errors: Vec<_> = attempts
        .iter()
        .filter_map(|attempt| attempt.steps.last().unwrap().error.as_ref().map(|error| error.error_type.as_str()))
        .collect();
    assert_eq!(errors, ["TooManyRequestsException", "ServiceException"]);
}
