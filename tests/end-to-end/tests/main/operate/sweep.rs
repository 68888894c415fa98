//! The sweep of the schedule.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use aws_sdk_secretsmanager::types::Tag;
use end_to_end::program;
use rotation::time::format_timestamp;
use sandbox::lambda_host::FunctionConfig;
use sandbox::{Fault, FaultRule, Sandbox, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// What EventBridge sends on a schedule, at this time.
fn scheduled_at(time: SystemTime) -> Value {
    json!({
        "version": "0", "id": "89d1a02d-5ec7-412e-82f5-13505f849b41", "detail-type": "Scheduled Event",
        "source": "aws.events", "account": "123456789012", "time": format_timestamp(time), "region": "us-east-1",
        "resources": ["arn:aws:events:us-east-1:123456789012:rule/sweep"], "detail": {}
    })
}

pub(super) const TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:secret-rotation";

/// A sweep by the schedule, at this moment: its answer, and the messages that it sent.
pub(super) async fn scheduled(scene: &Scene) -> (Value, Vec<(String, String)>) {
    let before = scene.sandbox.notifications().len();
    // What has happened in the last minutes a listing may not show, and is told by the next sweep.
    let now = scene.sandbox.now() + Duration::from_secs(5 * 60 + 1);
    let answer = ask(scene, scheduled_at(now)).await.unwrap_or_else(|error| panic!("{error:?}"));
    let sent = scene.sandbox.notifications().into_iter().skip(before);
    let sent = sent.map(|sent| {
        assert_eq!(sent.topic_arn, TOPIC);
        (sent.subject.unwrap_or_default(), sent.message)
    });
    (answer, sent.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn sweep_ends_and_proves_overlaps_that_are_over_and_no_other() {
    for (plan, json) in [(json_plan(), true), (text_plan(), false)] {
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        let (old, new) = (FIRST, scene.token("AWSCURRENT").await.unwrap());
        let first = sweep(&scene).await;
        assert_eq!(
            (&first["verified"], &first["revoked"], &first["overlapsExpired"]),
            (&json!(1), &json!(0), &json!(0))
        );
        assert_eq!(scene.accepted(old).await.unwrap(), [true, true], "the overlap is open");
        // An edit just before: whoever made it may not be done.
        scene.sandbox.advance(25 * HOUR).await.unwrap();
        tag(&scene, "owner", "team-a").await;
        let second = sweep(&scene).await;
        assert_eq!((&second["revoked"], &second["overlapsExpired"]), (&json!(0), &json!(1)), "{second:#}");
        scene.sandbox.advance(2 * HOUR).await.unwrap();
        let calls = changes::calls(&scene);
        let third = sweep(&scene).await;
        let made = changes::calls(&scene) - calls;
        println!("an overlap of a {} ends: {made} calls with the listing", if json { "JSON value" } else { "text" });
        assert_eq!(made, if json { 9 } else { 5 }, "calls");
        assert_eq!((&third["revoked"], &third["overlapsExpired"]), (&json!(1), &json!(0)), "{third:#}");
        assert_eq!(third["revokedSecrets"], json!([SECRET]));
        let log = operator_log(&scene);
        let audited = log.lines().find(|line| line.contains("the overlap is over")).unwrap();
        assert!(audited.contains("\"audit\"") && audited.contains("\"version\":"), "{audited}");
        let left = scene.value("AWSCURRENT").await.unwrap().unwrap();
        assert!(left.contains(&new) && !left.contains(old));
        assert!(scene.value("AWSPREVIOUS").await.unwrap().is_none());
        assert_eq!(scene.accepted(old).await.unwrap(), [false, false]);
        assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
        // There is nothing left to do, and the next rotation works.
        scene.sandbox.advance(2 * HOUR).await.unwrap();
        assert_eq!(sweep(&scene).await["revoked"], 0);
        rotate(&scene).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_token_still_accepted_is_told_until_it_is_refused() {
    let scene = with_operator(text_plan()).await;
    // The application never hears that the overlap has ended.
    tag(&scene, "rotation:overlap", "1h").await;
    rotate(&scene).await;
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
    scene.sandbox.advance(3 * HOUR).await.unwrap();
    for _ in 0..2 {
        let answer = sweep(&scene).await;
        assert_eq!(answer["problems"][0]["error"], "TargetAcceptsRevoked", "{answer:#}");
        assert_eq!((&answer["overlapsExpired"], &answer["failed"]), (&json!(1), &json!(0)), "the current one works");
        scene.sandbox.advance(2 * HOUR).await.unwrap();
    }
    assert!(total_of(&scene, OPERATE, "OldTokenAccepted") >= 1.0 && total_of(&scene, OPERATE, "OverlapExpired") >= 1.0);
    assert!(total_of(&scene, OPERATE, "UnfinishedOperations") >= 1.0);
    let before = total_of(&scene, OPERATE, "OldTokenAccepted");
    // A rotation meanwhile: its own overlap stays open when the older revocation is proven.
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(false));
    let second = scene.token("AWSCURRENT").await.unwrap();
    tag(&scene, "rotation:overlap", "24h").await;
    rotate(&scene).await;
    scene.sandbox.advance(2 * HOUR).await.unwrap();
    let answer = sweep(&scene).await;
    assert_eq!((&answer["revoked"], &answer["failed"]), (&json!(1), &json!(0)), "{answer:#}");
    assert!((total_of(&scene, OPERATE, "OldTokenAccepted") - before).abs() < 0.5);
    assert_eq!(scene.accepted(FIRST).await.unwrap(), [false, false]);
    assert_eq!(scene.accepted(&second).await.unwrap(), [true, true], "the overlap is open");
    assert_eq!(done(&scene, "status").await["rotation"]["unfinished"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_tell_rotation_overlap_revocation_and_what_to_do() {
    let scene = start(once(json_plan())).await;
    let scene = scene.with_operator(&[("NOTIFY_TOPIC_ARN", TOPIC)]).await.unwrap();
    rotate(&scene).await;
    let (answer, sent) = scheduled(&scene).await;
    assert_eq!(answer["notified"], true);
    let [(subject, message)] = &sent[..] else { panic!("{sent:?}") };
    println!("{subject}\n\n{message}");
    assert_eq!(subject, "Secret rotation: 1 rotated");
    let until = format_timestamp(scene.sandbox.now() + 24 * HOUR);
    assert!(message.contains(SECRET) && message.contains("the old token is accepted until "), "{message}");
    assert!(message.contains(&until[..13]), "{message}");
    // The next sweep has nothing new to say.
    scene.sandbox.advance(HOUR).await.unwrap();
    assert_eq!(scheduled(&scene).await.1, []);

    scene.sandbox.advance(26 * HOUR).await.unwrap();
    let (_, sent) = scheduled(&scene).await;
    assert_eq!(sent[0].0, "Secret rotation: 1 revoked");

    // A rotation that fails, and stays so.
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
    fail_to_rotate(&scene).await;
    scene.sandbox.advance(HOUR / 2).await.unwrap();
    let (_, sent) = scheduled(&scene).await;
    let (subject, message) = &sent[0];
    println!("{subject}\n\n{message}");
    assert_eq!(subject, "Secret rotation: 1 need attention");
    assert!(message.contains("abort") && message.contains("doctor"), "{message}");
    // Not every hour: once a day.
    scene.sandbox.advance(HOUR).await.unwrap();
    assert_eq!(scheduled(&scene).await.1, []);
    scene.sandbox.advance(23 * HOUR).await.unwrap();
    assert_eq!(scheduled(&scene).await.1.len(), 1);
    let shown = format!("{:?}", scene.sandbox.notifications());
    for stage in ["AWSCURRENT", "AWSPENDING"] {
        assert!(!shown.contains(&scene.token(stage).await.unwrap()), "a message holds a token");
    }
    // A topic that does not answer fails nothing.
    let refuse = scene.sandbox.faults().add(FaultRule::on("Publish", Fault::Throttle).times(1_000));
    scene.sandbox.advance(24 * HOUR).await.unwrap();
    let (answer, _) = scheduled(&scene).await;
    assert!(answer["notified"].is_string(), "{answer:#}");
    assert_eq!(answer["complete"], true);
    assert!(matched(&scene, refuse) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_looks_at_the_secrets_of_its_prefix_and_its_tag_only() {
    let scene = start(no_target(json_plan())).await;
    let scene = scene.with_operator(&[("SWEEP_TAG", "environment=production")]).await.unwrap();
    rotate(&scene).await;
    let all = [
        ("shop/1", "environment", "production"),
        ("shop/2", "environment", "production-eu"),
        ("shop/3", "stage", "production"),
        ("other/4", "environment", "production"),
    ];
    for (name, key, value) in all {
        let tag = Tag::builder().key(key).value(value).build();
        scene.client.create_secret().name(name).secret_string("x").tags(tag).send().await.unwrap();
    }
    assert_eq!(sweep(&scene).await["secrets"], 1, "shop/1 alone");
    tag(&scene, "environment", "production").await;
    let answer = sweep(&scene).await;
    assert_eq!((&answer["secrets"], &answer["managed"]), (&json!(2), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_survives_throttling_and_goes_on_where_it_stopped() {
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    // More than the client's own attempts.
    let rule =
        scene.sandbox.faults().add(FaultRule::on("GetSecretValue", Fault::Throttle).from_caller(OPERATE).times(6));
    let answer = sweep(&scene).await;
    assert_eq!((&answer["verified"], &answer["failed"]), (&json!(1), &json!(0)), "{answer:#}");
    assert!(matched(&scene, rule) > 6);

    // More than one page, and the second one cannot be read: it is named, to be begun with.
    for number in 0..120 {
        scene.client.create_secret().name(format!("shop/{number}")).secret_string("x").send().await.unwrap();
    }
    let before = total_of(&scene, OPERATE, "SweepCompleted");
    let refuse = FaultRule { first: 2, ..FaultRule::on("ListSecrets", Fault::InternalServiceError).times(100) };
    scene.sandbox.faults().add(refuse);
    let answer = sweep(&scene).await;
    assert_eq!((&answer["complete"], &answer["secrets"], &answer["verified"]), (&json!(false), &json!(100), &json!(1)));
    assert!((total_of(&scene, OPERATE, "SweepCompleted") - before).abs() < 0.5, "no heartbeat");
    scene.sandbox.faults().clear();
    let request = json!({ "action": "sweep", "from": answer["continueFrom"] });
    let answer = ask(&scene, request).await.unwrap();
    assert_eq!((&answer["complete"], &answer["secrets"]), (&json!(true), &json!(21)), "{answer:#}");
}

pub(super) async fn sweep(scene: &Scene) -> Value {
    let answer = ask(scene, json!({ "action": "sweep" })).await;
    answer.unwrap_or_else(|error| panic!("{error:?}\n{}", operator_log(scene)))
}

#[tokio::test(flavor = "multi_thread")]
async fn sweep_tells_what_fails_is_stuck_or_overdue_and_goes_on() {
    let scene = with_operator(once(json_plan())).await;
    rotate(&scene).await;
    scene.client.create_secret().name("shop/other").secret_string("nobody rotates me").send().await.unwrap();
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
    let value = json_secret("a-token-that-nobody-told-the-application-of-0123456789");
    scene.client.put_secret_value().secret_id(SECRET).secret_string(value).send().await.unwrap();
    let answer = sweep(&scene).await;
    println!("{answer:#}");
    assert_eq!((&answer["secrets"], &answer["managed"], &answer["failed"]), (&json!(2), &json!(1), &json!(1)));
    assert_eq!(answer["problems"][0]["error"], "TargetRefused");

    fail_to_rotate(&scene).await;
    assert_eq!(sweep(&scene).await["stuck"], json!([]), "it is young");
    scene.sandbox.advance(HOUR).await.unwrap();
    let answer = sweep(&scene).await;
    assert_eq!(answer["stuck"], json!([SECRET]), "{answer:#}");
    assert_eq!((total_of(&scene, OPERATE, "StuckPending"), total_of(&scene, OPERATE, "NotVerified")), (1.0, 1.0));
    assert_eq!((answer["complete"].as_bool(), total_of(&scene, OPERATE, "SweepCompleted")), (Some(true), 3.0));
    let log = operator_log(&scene);
    assert!(log.contains("\"message\":\"stuck\"") && log.contains("\"message\":\"does not verify\""), "{log}");

    // Where everything is well.
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    let answer = sweep(&scene).await;
    assert_eq!((&answer["managed"], &answer["verified"], &answer["failed"]), (&json!(1), &json!(1), &json!(0)));
    scene.sandbox.advance(26 * HOUR).await.unwrap();
    let answer = sweep(&scene).await;
    assert_eq!((&answer["verified"], &answer["unproven"]), (&json!(0), &json!(0)), "it is long ago");
    assert!(total_of(&scene, OPERATE, "SecretAgeMax") > 25.9, "hours");
    // Nobody is asked: nothing is claimed.
    let scene = with_operator(no_target(json_plan())).await;
    rotate(&scene).await;
    let answer = sweep(&scene).await;
    assert_eq!((&answer["verified"], &answer["unproven"]), (&json!(0), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_starts_a_sweep_and_no_other_event_does() {
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    let event = |detail_type: &str| {
        let mut event = scheduled_at(scene.sandbox.now());
        event["detail-type"] = json!(detail_type);
        event
    };
    assert_eq!(ask(&scene, event("Scheduled Event")).await.unwrap()["managed"], 1);
    assert_eq!(ask(&scene, event("Something else")).await.unwrap_err().error_type, "InvalidRequest");
    let wrong = ask(&scene, json!({ "action": "sweep", "secret_id": SECRET })).await.unwrap_err();
    assert_eq!(wrong.error_type, "InvalidRequest");
    let only_people = start(json_plan()).await.with_operator(&[("ALLOWED_ACTIONS", "status")]).await.unwrap();
    assert_eq!(ask(&only_people, event("Scheduled Event")).await.unwrap_err().error_type, "ActionNotAllowed");
}

/// A sandbox with so many copies of a secret that was rotated a moment ago, each with a name of its own, and operate beside it. `edit`
/// changes what is stored of a copy.
async fn fleet(
    secrets: usize,
    edit: impl Fn(usize, &mut Value),
    variables: &[(&str, String)],
    timeout: Duration,
) -> (Sandbox, String) {
    let state = tempfile::tempdir().unwrap();
    let settings = || Settings { state_dir: Some(state.path().to_owned()), ..Settings::default() };
    let scene = start(Plan { instances: 0, sandbox: settings(), ..Plan::text(FIRST) }).await;
    rotate(&scene).await;
    let token = scene.token("AWSCURRENT").await.unwrap();
    drop(scene);
    let file = state.path().join("secrets.json");
    let one: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let copies = (0..secrets).map(|number| {
        let mut copy = one["secrets"][0].clone();
        let name = format!("shop/{number:03}/admin-token");
        copy["arn"] = json!(format!("arn:aws:secretsmanager:us-east-1:000000000000:secret:{name}-AbCdEf"));
        copy["name"] = json!(name);
        edit(number, &mut copy);
        copy
    });
    let copies: Vec<Value> = copies.collect();
    std::fs::write(&file, json!({ "clock_ahead_millis": 0, "secrets": copies }).to_string()).unwrap();
    let sandbox = Sandbox::start(Settings { state_is_read_only: true, ..settings() }).await.unwrap();
    let executable = program(OPERATE).await.unwrap();
    let own = [("AWS_ENDPOINT_URL", sandbox.endpoint()), ("ALLOWED_ACTIONS", "sweep".to_owned())];
    let environment = own.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let function = FunctionConfig { name: OPERATE.to_owned(), executable, environment, timeout, memory_mb: 128 };
    sandbox.host().register(function).unwrap();
    (sandbox, token)
}

async fn sweep_of(sandbox: &Sandbox) -> Value {
    let invocation = sandbox.host().invoke(OPERATE, json!({ "action": "sweep" }).to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&invocation.payload).unwrap();
    assert_eq!(invocation.function_error, None, "{answer}");
    answer
}

/// What an application says that does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dead {
    /// Nothing, on a connection that stays open.
    Silent,
    /// 503, as a load balancer without instances does.
    Unwell,
}

/// An application that does not work, but for one secret, whose token it knows: where it is, and how often it was asked.
async fn dead_application(dead: Dead, works_for: &'static str) -> (String, Arc<AtomicUsize>, Arc<OnceLock<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, token) = (Arc::new(AtomicUsize::new(0)), Arc::new(OnceLock::<String>::new()));
    let (counts, knows) = (asked.clone(), token.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (counts, knows) = (counts.clone(), knows.clone());
            tokio::spawn(async move {
                let mut request = vec![];
                while !request.ends_with(b"\r\n\r\n") {
                    let mut some = [0; 1024];
                    let read = stream.read(&mut some).await.unwrap_or_default();
                    if read == 0 {
                        return;
                    }
                    request.extend_from_slice(&some[..read]);
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let status = if request.contains(works_for) {
                    let known = knows.get().is_some_and(|token| request.contains(token.as_str()));
                    if known { "200 OK" } else { "401 Unauthorized" }
                } else {
                    counts.fetch_add(1, Ordering::SeqCst);
                    if dead == Dead::Silent {
                        return tokio::time::sleep(HOUR).await;
                    }
                    "503 Service Unavailable"
                };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (format!("http://{address}/"), asked, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_application_costs_a_sweep_one_timeout() {
    const SECRETS: usize = 250;
    for dead in [Dead::Silent, Dead::Unwell] {
        let (url, asked, token) = dead_application(dead, "/shop%2F249%2Fadmin-token").await;
        let patience = Duration::from_secs(4);
        let variables =
            [("TARGET_VERIFY_URL", format!("{url}{{name}}")), ("TARGET_TIMEOUT", format!("{}s", patience.as_secs()))];
        let (sandbox, current) = fleet(SECRETS, |_, _| {}, &variables, Duration::from_secs(60)).await;
        token.set(current).unwrap();
        let began = std::time::Instant::now();
        let answer = sweep_of(&sandbox).await;
        let (took, times) = (began.elapsed(), asked.load(Ordering::SeqCst));
        println!("{dead:?}: {took:?}, asked {times} times, complete: {}", answer["complete"]);
        assert_eq!((&answer["secrets"], &answer["complete"]), (&json!(SECRETS), &json!(true)), "every one is seen");
        assert!(took < patience * 2, "{dead:?}: {took:?} for {SECRETS} secrets");
        assert_eq!(answer["failed"].as_u64().unwrap() + answer["verified"].as_u64().unwrap(), SECRETS as u64);
        assert_eq!(answer["problems"][0]["error"], "TargetUnavailable", "{answer:#}");
        if dead == Dead::Unwell {
            // What answers at once is asked once for each, in case it works for another.
            assert_eq!(answer["verified"], 1, "the one secret that works is proven");
        } else {
            assert!(times < 50, "asked {times} times");
        }
        sweep_of(&sandbox).await;
        assert!(asked.load(Ordering::SeqCst) > times, "the next sweep asks again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_at_the_end_of_the_listing_do_not_starve() {
    const SECRETS: usize = 300;
    // Those of the last page cannot be read, which a closer look tells; and there is not time enough for a closer look at all.
    let broken = |number: usize, secret: &mut Value| {
        if number >= 200 {
            secret["tags"] = json!([{ "Key": "rotation:field", "Value": "NO_SUCH_MEMBER" }]);
        }
    };
    let (sandbox, _) = fleet(SECRETS, broken, &[], Duration::from_secs(8)).await;
    sandbox
        .faults()
        .add(FaultRule::on("GetSecretValue", Fault::Delay { millis: 400 }).from_caller(OPERATE).times(10_000));
    let answer = sweep_of(&sandbox).await;
    assert_eq!((&answer["secrets"], &answer["complete"]), (&json!(SECRETS), &json!(false)), "all are listed");
    let skipped = answer["skipped"].as_u64().unwrap();
    assert!((1..SECRETS as u64).contains(&skipped), "{answer:#}");
    let of_the_last_page = answer["problems"].as_array().unwrap().len();
    println!("{skipped} of {SECRETS} were not looked at; of the last 100 were {of_the_last_page}");
    assert!(of_the_last_page > 0, "{answer:#}");
}
