//! Consumers during a rotation: nobody who is authorised is refused.

use std::time::Duration;

use application::{LoadReport, Mode};
use end_to_end::{Plan, SECRET, Scene};
use tokio::net::TcpListener;

use crate::support::*;

const HOUR: Duration = Duration::from_secs(60 * 60);
/// How long fresh clients keep what they read.
const CLIENT_CACHE: Duration = Duration::from_millis(200);

fn assert_nobody_refused(report: &LoadReport, at_least: u64) {
    assert_eq!((report.refused, report.failed), (0, 0), "{report:?}");
    assert!(report.accepted >= at_least, "only {} requests were sent", report.accepted);
}

async fn nobody_is_refused(plan: Plan) {
    let scene = start(plan).await;
    scene.configure().await.unwrap();
    let fresh = scene.load(scene.fresh_clients(CLIENT_CACHE), 100).await.unwrap();

    let stale = scene.load(scene.stale_clients(), 100).await.unwrap();
    tokio::time::sleep(CLIENT_CACHE).await;
    rotate(&scene).await;
    tokio::time::sleep(2 * CLIENT_CACHE).await;
    assert_nobody_refused(&stale.stop().await, 30);
    assert_nobody_refused(&fresh.report(), 30);

    // To the next rotation on schedule: the window is the day before this date.
    let secret = scene.client.describe_secret().secret_id(SECRET).send().await.unwrap();
    let date = std::time::SystemTime::try_from(secret.next_rotation_date.unwrap()).unwrap();
    let opens = date.duration_since(scene.sandbox.now()).unwrap() - 24 * HOUR;
    scene.sandbox.advance(opens - HOUR).await.unwrap();
    let old = scene.token("AWSCURRENT").await.unwrap();
    let stale = scene.load(scene.stale_clients(), 100).await.unwrap();
    scene.sandbox.advance(2 * HOUR).await.unwrap();
    assert!(end(&scene).await.is_success());
    assert_ne!(scene.token("AWSCURRENT").await.unwrap(), old, "rotated on schedule");
    tokio::time::sleep(2 * CLIENT_CACHE).await;
    assert_nobody_refused(&stale.stop().await, 30);
    let report = fresh.stop().await;
    assert_nobody_refused(&report, 100);
    println!("{} requests of fresh clients, none refused; the slowest took {:?}", report.sent, report.slowest);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_is_refused_while_a_text_token_is_rotated() {
    nobody_is_refused(text_plan()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_is_refused_while_a_json_token_is_rotated() {
    nobody_is_refused(json_plan()).await;
}

async fn nothing_is_promoted(scene: &Scene, error_type: &str, says: &str) {
    let before = current(scene).await;
    let stale = scene.load(scene.stale_clients(), 50).await.unwrap();
    let error = fail_to_rotate(scene).await;
    assert_eq!(error.error_type, error_type, "{error:?}");
    assert!(error.message.contains(says), "{error:?}");
    assert_eq!(current(scene).await, before);
    assert_eq!(scene.sandbox.calls_of(end_to_end::FUNCTION).get("UpdateSecretVersionStage"), None);
    let report = stale.stop().await;
    assert_eq!(report.refused, 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_instance_keeps_the_token_from_being_promoted() {
    let scene = start(once(text_plan())).await;
    assert!(scene.balancer.remove(scene.instances[1].address()));
    nothing_is_promoted(&scene, "InstanceMissing", "1 of 2 instances answered refresh").await;
    scene.balancer.add(scene.instances[1].address());
    assert!(take_up(&scene).await.is_success(), "{}", log(&scene));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_instance_keeps_the_token_from_being_promoted() {
    let scene = start(once(text_plan())).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert!(scene.balancer.remove(scene.instances[1].address()));
    scene.balancer.add(silent.local_addr().unwrap());
    let before = current(&scene).await;
    let error = fail_to_rotate(&scene).await;
    assert_eq!(error.error_type, "InstanceMissing", "{error:?}");
    assert!(error.message.contains("1 of 2 instances answered refresh"), "{error:?}");
    assert_eq!(current(&scene).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_that_lies_about_its_refresh_blocks_promotion() {
    // A frozen instance refuses the refresh under the pending token. On a busy machine the other one may have its turn late, so the
    // target has its usual time.
    async fn keeps_it(frozen: [bool; 2]) {
        let scene = start(once(json_plan())).await;
        let freeze =
            |on: bool| scene.instances.iter().zip(frozen).for_each(|(i, frozen)| i.freeze_refresh(on && frozen));
        freeze(true);
        nothing_is_promoted(&scene, "TargetRefused", "the target refuses the pending token").await;
        freeze(false);
        assert!(take_up(&scene).await.is_success(), "{}", log(&scene));
    }
    tokio::join!(keeps_it([true, false]), keeps_it([false, true]), keeps_it([true, true]));
}

fn current_only(tags: Vec<(&'static str, &'static str)>) -> Plan {
    let environment = vec![("TARGET_TIMEOUT", "1500ms".to_owned())];
    Plan { mode: Mode::CurrentOnly, tags, environment, ..once(json_plan()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_of_awscurrent_is_rotated_with_verify_after() {
    let scene = start(current_only(vec![("rotation:verify", "after")])).await;
    let clients = scene.load(scene.fresh_clients(CLIENT_CACHE), 250).await.unwrap();
    tokio::time::sleep(CLIENT_CACHE).await;
    rotate(&scene).await;
    // Over with the refresh, but for what clients keep and what is under way.
    tokio::time::sleep(3 * CLIENT_CACHE).await;
    let after_the_refresh = clients.report();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let report = clients.stop().await;
    assert_eq!(report.refused, after_the_refresh.refused, "somebody was refused after the refresh");
    assert_eq!(report.failed, 0, "{report:?}");
    // Between the promotion and the refresh somebody may be refused, if a client reads the secret just then.
    assert!(report.refusals.len() <= 1, "more than one window: {report:?}");
    let window = report.refusals.first().map_or(Duration::ZERO, |window| window.duration());
    println!("AWSCURRENT only, verify=after: {} of {} requests refused, in {window:?}", report.refused, report.sent);
    assert!(window < Duration::from_secs(15), "{window:?}");
    assert_eq!(scene.accepted(&scene.token("AWSCURRENT").await.unwrap()).await.unwrap(), [true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_before_hints_at_after_for_a_reader_of_awscurrent() {
    let scene = start(current_only(vec![])).await;
    nothing_is_promoted(&scene, "TargetRefused", "tag the secret rotation:verify=after").await;
    tag(&scene, "rotation:verify", "after").await;
    assert!(take_up(&scene).await.is_success(), "{}", log(&scene));
    assert_eq!(scene.accepted(&scene.token("AWSCURRENT").await.unwrap()).await.unwrap(), [true, true]);
}
