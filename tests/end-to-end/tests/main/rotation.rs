//! Rotations that succeed, and what they leave behind.

use std::collections::BTreeMap;
use std::time::Duration;

use end_to_end::{FUNCTION, Plan, ROTATION_TIMEOUT, SECRET, Scene};
use sandbox::{ConfigurationTest, EventKind, Fault, FaultRule, RotationOutcome, Settings, Step};
use serde_json::{Value, json};

use crate::aws_cli::Cli;
use crate::support::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What an operator types, and what the CLI shows before and after.
async fn rotated_by_the_cli(scene: &Scene) -> (Value, Value) {
    let cli = Cli::new(scene);
    let before = cli.json(&["secretsmanager", "describe-secret", "--secret-id", SECRET]).await;
    assert!(before.get("RotationEnabled").is_none_or(|enabled| enabled == false), "{before}");
    assert!(before.get("LastRotatedDate").is_none(), "{before}");
    let old = before["VersionIdsToStages"].as_object().unwrap().keys().next().unwrap().clone();

    let arn = scene.function_arn();
    let started = cli
        .json(&[
            "secretsmanager",
            "rotate-secret",
            "--secret-id",
            SECRET,
            "--rotation-lambda-arn",
            &arn,
            "--rotation-rules",
            "AutomaticallyAfterDays=90",
        ])
        .await;
    let new = started["VersionId"].as_str().unwrap().to_owned();
    assert!(end(scene).await.is_success(), "{}", log(scene));

    let after = cli.json(&["secretsmanager", "describe-secret", "--secret-id", SECRET]).await;
    assert_eq!(after["RotationEnabled"], true);
    assert!(after["LastRotatedDate"].is_string() || after["LastRotatedDate"].is_number(), "{after}");
    let stages = &after["VersionIdsToStages"];
    assert!(stages[&new].as_array().unwrap().contains(&json!("AWSCURRENT")), "{after}");
    assert_eq!(stages[&old], json!(["AWSPREVIOUS"]));

    let value = cli.json(&["secretsmanager", "get-secret-value", "--secret-id", SECRET]).await;
    assert_eq!(value["VersionId"], new.as_str());
    let previous = cli
        .json(&["secretsmanager", "get-secret-value", "--secret-id", SECRET, "--version-stage", "AWSPREVIOUS"])
        .await;
    assert_eq!(previous["VersionId"], old.as_str());
    (previous, value)
}

fn is_a_default_token(token: &str) -> bool {
    token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_cli_rotation_keeps_the_old_text_token_as_previous() {
    let scene = start(text_plan()).await;
    let (previous, current) = rotated_by_the_cli(&scene).await;
    assert_eq!(previous["SecretString"], FIRST);
    let token = current["SecretString"].as_str().unwrap();
    assert!(is_a_default_token(token));
    assert_eq!(scene.accepted(token).await.unwrap(), [true, true]);
    assert_eq!(scene.accepted(FIRST).await.unwrap(), [true, true]);
    assert_eq!(scene.accepted("a-token-that-nobody-made").await.unwrap(), [false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_cli_rotation_leaves_other_json_members_byte_for_byte() {
    let scene = start(json_plan()).await;
    let (previous, current) = rotated_by_the_cli(&scene).await;
    assert_eq!(previous["SecretString"], json_secret(FIRST));

    // What the application has to know comes after the member, laid out as the member is; nothing else has changed.
    let text = current["SecretString"].as_str().unwrap();
    let members: Value = serde_json::from_str(text).unwrap();
    let member = |name: &str| members[name].as_str().unwrap().to_owned();
    let (token, until) = (member("ADMIN_TOKEN"), member("ADMIN_TOKEN_PREVIOUS_UNTIL"));
    assert!(is_a_default_token(&token));
    assert_eq!(member("ADMIN_TOKEN_PREVIOUS"), FIRST);
    let without_the_new_ones = text.replacen(&format!(",\n  \"ADMIN_TOKEN_PREVIOUS\": \"{FIRST}\""), "", 1).replacen(
        &format!(",\n  \"ADMIN_TOKEN_PREVIOUS_UNTIL\": \"{until}\""),
        "",
        1,
    );
    assert_eq!(without_the_new_ones, json_secret(&token));
    let left = humantime::parse_rfc3339(&until).unwrap().duration_since(scene.sandbox.now()).unwrap();
    assert!((DAY - Duration::from_secs(60)..=DAY).contains(&left), "{left:?}");

    // From the second rotation on, three strings change in their places.
    rotate(&scene).await;
    let second = scene.value("AWSCURRENT").await.unwrap().unwrap();
    let members: Value = serde_json::from_str(&second).unwrap();
    let new = members["ADMIN_TOKEN"].as_str().unwrap();
    let new_until = members["ADMIN_TOKEN_PREVIOUS_UNTIL"].as_str().unwrap();
    let expected = text.replacen(FIRST, "{the old one}", 1).replacen(&token, new, 1).replacen(&until, new_until, 1);
    assert_eq!(second, expected.replacen("{the old one}", &token, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_makes_11_calls_14_with_a_target_and_publishes_once() {
    for (plan, gets) in [(no_target(text_plan()), 4), (no_target(json_plan()), 4), (text_plan(), 7), (json_plan(), 7)] {
        let target = plan.instances > 0;
        let scene = start(plan).await;
        let published = Counter::of(&scene, "PutMetricData");
        rotate(&scene).await;
        let calls = scene.sandbox.calls_of(FUNCTION);
        let expected =
            [("DescribeSecret", 5), ("GetSecretValue", gets), ("PutSecretValue", 1), ("UpdateSecretVersionStage", 1)];
        assert_eq!(calls, expected.into_iter().map(|(name, n)| (name.to_owned(), n)).collect::<BTreeMap<_, _>>());
        println!("calls to Secrets Manager per rotation, target: {target}: {}", calls.values().sum::<u64>());

        assert_eq!(published.count(&scene), 1);
        let function: BTreeMap<_, _> = [("Function".to_owned(), FUNCTION.to_owned())].into();
        let published: Vec<_> = metrics(&scene).into_iter().map(|(name, dimensions, _)| (name, dimensions)).collect();
        let expected = [
            ("RotationSucceeded".to_owned(), function.clone()),
            ("RotationSucceeded".to_owned(), BTreeMap::new()),
            ("RotationDuration".to_owned(), function),
        ];
        assert_eq!(published, expected);

        let seen = scene.sandbox.rotation_tokens_seen();
        assert_eq!(
            seen.iter().map(|seen| seen.passed_on).collect::<Vec<_>>(),
            [1],
            "the RotationToken was not passed on once"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_is_published_once_with_its_step_and_error_type() {
    let mut plan = no_target(text_plan());
    plan.tags = vec![("rotation:overlap", "forever")];
    plan.sandbox.rotation_attempts = 3;
    let scene = start(plan).await;
    let published = Counter::of(&scene, "PutMetricData");
    assert_eq!(fail_to_rotate(&scene).await.error_type, "InvalidPolicy");
    assert_eq!(published.count(&scene), 3, "one call per failed step");
    let dimensions = [("Function", FUNCTION), ("Step", "createSecret"), ("ErrorType", "InvalidPolicy")];
    let dimensions: BTreeMap<_, _> = dimensions.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let failed = "RotationFailed".to_owned();
    let function = BTreeMap::from([("Function".to_owned(), FUNCTION.to_owned())]);
    let once = [(failed.clone(), dimensions, 1.0), (failed.clone(), function, 1.0), (failed, BTreeMap::new(), 1.0)];
    assert_eq!(metrics(&scene), [once.clone(), once.clone(), once].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_succeeds_when_its_metrics_are_refused() {
    let scene = start(no_target(text_plan())).await;
    let rule = FaultRule::on("PutMetricData", Fault::InternalServiceError).times(u64::MAX);
    let rule = scene.sandbox.faults().add(rule);
    rotate(&scene).await;
    assert!(matched(&scene, rule) >= 1);
    assert_eq!(step_errors(&scene.sandbox.events()), []);
    assert!(log(&scene).contains("metrics were not published"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_succeeds_soon_when_metrics_are_not_answered() {
    let scene = start(no_target(text_plan())).await;
    let rule = FaultRule::on("PutMetricData", Fault::Delay { millis: 60_000 }).times(u64::MAX);
    let rule = scene.sandbox.faults().add(rule);
    rotate(&scene).await;
    assert!(matched(&scene, rule) >= 1);
    let attempts = scene.sandbox.rotation_attempts(SECRET);
    let finish = attempts[0].steps.last().unwrap();
    assert_eq!((finish.step, &finish.error), (Step::Finish, &None));
    assert!(finish.duration < Duration::from_secs(30), "{:?}", finish.duration);
    assert!(log(&scene).contains("metrics were not published in time"));
}

/// Where more than a day is left to the first window of a schedule by the days of the month.
async fn to_the_middle_of_a_month(scene: &Scene) {
    let day = || humantime::format_rfc3339_seconds(scene.sandbox.now()).to_string()[8..10].parse::<u32>().unwrap();
    while !(10..20).contains(&day()) {
        scene.sandbox.advance(DAY).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_rotated_on_its_schedule_and_not_before() {
    for schedule in ["rate(10 days)", "cron(0 8 1 * ? *)"] {
        let scene = start(json_plan()).await;
        to_the_middle_of_a_month(&scene).await;
        let request = scene.client.rotate_secret().secret_id(SECRET).rotation_lambda_arn(scene.function_arn());
        request.rotation_rules(rules(schedule)).rotate_immediately(false).send().await.unwrap();
        assert!(matches!(end(&scene).await, RotationOutcome::TestSucceeded { .. }));

        let mut old = scene.token("AWSCURRENT").await.unwrap();
        for _ in 0..2 {
            let secret = scene.client.describe_secret().secret_id(SECRET).send().await.unwrap();
            let date = std::time::SystemTime::try_from(secret.next_rotation_date.unwrap()).unwrap();
            let ahead = date.duration_since(scene.sandbox.now()).unwrap();
            // The date is the end of the window, which is a day long at most.
            scene.sandbox.advance(ahead - DAY - DAY / 24).await.unwrap();
            assert_eq!(scene.token("AWSCURRENT").await.unwrap(), old, "{schedule}: rotated before its window");
            scene.sandbox.advance(DAY + DAY / 24).await.unwrap();
            assert!(end(&scene).await.is_success());
            let new = scene.token("AWSCURRENT").await.unwrap();
            assert_ne!(new, old, "{schedule}: not rotated in its window");
            assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
            old = new;
        }
        let rotations =
            scene.sandbox.events().iter().filter(|event| event.kind == EventKind::RotationSucceeded).count();
        assert_eq!(rotations, 2, "{schedule}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rotation_gives_an_empty_secret_its_first_value() {
    for plan in [Plan { value: None, ..text_plan() }, Plan { value: None, ..json_plan() }] {
        let json = plan.field.is_some();
        let scene = start(plan).await;
        assert_eq!(current(&scene).await, None);
        let version = rotate(&scene).await;
        let token = scene.token("AWSCURRENT").await.unwrap();
        assert!(is_a_default_token(&token));
        let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
        assert_eq!(value, if json { format!("{{\"ADMIN_TOKEN\":\"{token}\"}}") } else { token.clone() });
        assert!(stages_of(&scene, &version).await.contains("AWSCURRENT"));
        assert_eq!(scene.accepted(&token).await.unwrap(), [true, true], "the application was running before");

        rotate(&scene).await;
        assert_eq!(scene.accepted(&token).await.unwrap(), [true, true]);
        assert_eq!(scene.accepted(&scene.token("AWSCURRENT").await.unwrap()).await.unwrap(), [true, true]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_test_proves_the_target_and_changes_nothing() {
    for configuration_test in [ConfigurationTest::WithoutValue, ConfigurationTest::WithCurrentValue] {
        for mut plan in [text_plan(), json_plan()] {
            plan.sandbox.configuration_test = configuration_test;
            plan.environment = vec![("TARGET_TIMEOUT", "1500ms".to_owned())];
            let scene = start(plan).await;
            let before = (current(&scene).await, scene.stages().await.unwrap());
            let outcome = scene.configure().await.unwrap();
            assert!(matches!(outcome, RotationOutcome::TestSucceeded { .. }), "{configuration_test:?}: {outcome:?}");
            assert!(log(&scene).contains("configurationTested"), "{}", log(&scene));
            assert_eq!((current(&scene).await, scene.stages().await.unwrap()), before);
            assert_eq!(scene.sandbox.calls_of(FUNCTION).get("PutSecretValue"), None);

            for instance in &scene.instances {
                assert!(scene.balancer.remove(instance.address()));
            }
            let outcome = scene.configure().await.unwrap();
            let RotationOutcome::TestFailed { error, .. } = outcome else {
                panic!("{configuration_test:?}: {outcome:?}")
            };
            assert_eq!(error.error_type, "TargetUnavailable");
            assert!(error.message.contains("check the application"), "{error:?}");
            assert_eq!((current(&scene).await, scene.stages().await.unwrap()), before);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_choose_the_format_of_the_token_for_text_and_json() {
    let alphanumeric = |token: &str| token.bytes().all(|byte| byte.is_ascii_alphanumeric());
    for plan in [no_target(text_plan()), no_target(json_plan())] {
        let scene = start(plan).await;
        tag(&scene, "rotation:token-encoding", "hex").await;
        rotate(&scene).await;
        let hex = scene.token("AWSCURRENT").await.unwrap();
        assert!(hex.len() == 96 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));

        tag(&scene, "rotation:token-bytes", "32").await;
        rotate(&scene).await;
        assert_eq!(scene.token("AWSCURRENT").await.unwrap().len(), 64);

        tag(&scene, "rotation:token-encoding", "base62").await;
        rotate(&scene).await;
        let base62 = scene.token("AWSCURRENT").await.unwrap();
        assert!(base62.len() == 43 && alphanumeric(&base62), "{} characters", base62.len());

        tag(&scene, "rotation:token-encoding", "base64url").await;
        rotate(&scene).await;
        assert_eq!(scene.token("AWSCURRENT").await.unwrap().len(), 43);

        tag(&scene, "rotation:token-encoding", "base62").await;
        tag(&scene, "rotation:token-prefix", "shop").await;
        rotate(&scene).await;
        let prefixed = scene.token("AWSCURRENT").await.unwrap();
        let body = prefixed.strip_prefix("shop_").expect("the prefix");
        assert!(body.len() == 43 + 6 && alphanumeric(body), "{} characters", body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlap_of_zero_ends_the_old_token_with_the_rotation() {
    let mut plan = json_plan();
    plan.tags = vec![("rotation:overlap", "0s")];
    let scene = start(plan).await;
    rotate(&scene).await;
    let new = scene.token("AWSCURRENT").await.unwrap();
    assert_eq!(scene.value("AWSCURRENT").await.unwrap().unwrap(), json_secret(&new));
    assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
    assert_eq!(scene.accepted(FIRST).await.unwrap(), [false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_text_token_is_refused_25_hours_after_the_rotation() {
    let scene = start(text_plan()).await;
    rotate(&scene).await;
    let new = scene.token("AWSCURRENT").await.unwrap();
    assert_eq!(scene.accepted(FIRST).await.unwrap(), [true, true], "during the overlap");
    scene.sandbox.advance(DAY + DAY / 24).await.unwrap();
    // The instances learn the time from an answer of Secrets Manager.
    assert_eq!(scene.value("AWSPREVIOUS").await.unwrap().as_deref(), Some(FIRST));
    assert_eq!(scene.accepted(FIRST).await.unwrap(), [false, false], "after the overlap");
    assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_in_an_open_overlap_says_whose_overlap_it_shortens() {
    for plan in [text_plan(), json_plan()] {
        let scene = start(once(plan)).await;
        rotate(&scene).await;
        assert_eq!(total_of(&scene, scene.function(), "OverlapShortened"), 0.0);
        let first_overlap = scene.sandbox.now() + DAY;
        scene.sandbox.advance(DAY / 4).await.unwrap();

        // The rotation service cannot reach the function for the last step, which leaves it to be invoked here.
        scene.sandbox.faults().add(FaultRule::on("Invoke", Fault::Throttle).at_step(Step::Finish));
        let version = match scene.rotate().await.unwrap() {
            RotationOutcome::Failed { version_id, .. } => version_id,
            outcome => panic!("{outcome:?}"),
        };
        let result = invoke(&scene, &event(Step::Finish, &version)).await.unwrap();
        assert_eq!(result["outcome"], "promoted", "{result}");
        let until = humantime::parse_rfc3339(result["overlapShortenedFrom"].as_str().unwrap()).unwrap();
        let off = until.duration_since(first_overlap).unwrap_or_else(|early| early.duration());
        assert!(off < Duration::from_secs(60), "{off:?}");
        let until = humantime::parse_rfc3339(result["previousAcceptedUntil"].as_str().unwrap()).unwrap();
        assert!(until > first_overlap);
        assert_eq!(current(&scene).await.unwrap().0, version);
        assert_eq!(total_of(&scene, scene.function(), "OverlapShortened"), 1.0);
        assert!(log(&scene).contains("overlap_shortened_from"));
        assert_eq!(scene.accepted(FIRST).await.unwrap(), [false, false], "two rotations ago");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_serves_all_steps_and_a_cold_start_changes_none() {
    let scene = start(no_target(text_plan())).await;
    rotate(&scene).await;
    scene.sandbox.host().set_environment(FUNCTION, "AWS_LAMBDA_LOG_LEVEL", "INFO").unwrap();
    rotate(&scene).await;
    let attempts = scene.sandbox.rotation_attempts(SECRET);
    assert_eq!(attempts.len(), 2);
    for attempt in attempts {
        let cold: Vec<_> = attempt.steps.iter().map(|step| step.cold).collect();
        assert_eq!(cold, [Some(true), Some(false), Some(false), Some(false)]);
        let millis: Vec<_> = attempt.steps.iter().map(|step| step.duration.as_millis()).collect();
        println!("milliseconds per step, the first one cold: {millis:?}");
    }
    for report in scene.sandbox.host().logs(FUNCTION).iter().filter(|line| line.contains("Init Duration")) {
        println!("{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_in_between_can_run_cold() {
    let scene = start(text_plan()).await;
    for step in Step::ALL {
        let rule = FaultRule::on("Invoke", Fault::Delay { millis: 300 }).at_step(step);
        scene.sandbox.faults().add(rule);
    }
    let host = scene.sandbox.host().clone();
    let mut events = scene.sandbox.subscribe();
    let cooling = tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            if matches!(event.kind, EventKind::StepStarted { .. }) {
                host.set_environment(FUNCTION, "AWS_LAMBDA_LOG_LEVEL", "INFO").unwrap();
            }
        }
    });
    rotate(&scene).await;
    cooling.abort();
    let attempts = scene.sandbox.rotation_attempts(SECRET);
    assert!(attempts[0].steps.iter().all(|step| step.cold == Some(true)), "{attempts:?}");
    assert_eq!(scene.accepted(&scene.token("AWSCURRENT").await.unwrap()).await.unwrap(), [true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_and_its_rotation_survive_a_restart_of_the_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { state_dir: Some(folder.path().to_owned()), ..Settings::default() };
    let scene = start(Plan { sandbox: settings.clone(), ..no_target(text_plan()) }).await;
    rotate(&scene).await;
    let token = scene.token("AWSCURRENT").await.unwrap();
    drop(scene);

    let restarted = sandbox::Sandbox::start(settings).await.unwrap();
    let executable = end_to_end::program(FUNCTION).await.unwrap();
    restarted.register_function(FUNCTION, executable, []).unwrap();
    restarted.advance(31 * DAY).await.unwrap();
    let client = end_to_end::client(&restarted.endpoint()).unwrap();
    let current = client.get_secret_value().secret_id(SECRET).send().await.unwrap();
    assert_eq!(current.secret_string.as_deref(), Some(token.as_str()));
    client.rotate_secret().secret_id(SECRET).send().await.unwrap();
    assert!(restarted.wait_for_rotation(SECRET, ROTATION_TIMEOUT).await.unwrap().is_success());
}
