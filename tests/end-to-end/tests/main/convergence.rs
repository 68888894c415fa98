//! AWS fails, the function dies, people interfere: a rotation ends all the same, with one value per token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use end_to_end::{FUNCTION, SECRET, Scene};
use sandbox::{Fault, FaultRule, Moment, RotationOutcome, Step};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::aws_cli::Cli;
use crate::support::*;

/// The calls to Secrets Manager in one rotation with a target, and the one to CloudWatch.
const CALLS: u64 = 14 + 1;

fn kill(when: Moment) -> Fault {
    Fault::KillFunction { function: FUNCTION.to_owned(), when }
}

/// Rotates once for every call that the function makes, with this fault in it.
async fn every_call_in_turn(fault: Fault) {
    let scene = start(json_plan()).await;
    scene.configure().await.unwrap();
    let values = Values::watch(&scene);
    let mut repeated = 0;
    for call in 1..=CALLS {
        let old = scene.token("AWSCURRENT").await.unwrap();
        let clients = scene.load(scene.stale_clients(), 50).await.unwrap();
        let fresh = scene.load(scene.fresh_clients(Duration::ZERO), 25).await.unwrap();
        let seen = scene.sandbox.events().len();
        let rule = scene.sandbox.faults().add(FaultRule::on("*", fault.clone()).from_caller(FUNCTION).nth(call));
        let version = rotate(&scene).await;
        assert!(matched(&scene, rule) >= call, "call {call} was never made");
        scene.sandbox.faults().remove(rule);

        eventually("the new version is seen", || async { values.of(&version) > 0 }).await;
        assert_eq!(values.of(&version), 1, "{fault:?} in call {call}: the version had several values");
        let new = scene.token("AWSCURRENT").await.unwrap();
        assert_ne!(new, old);
        assert_eq!(scene.accepted(&new).await.unwrap(), [true, true], "{fault:?} in call {call}");
        assert_eq!(scene.accepted(&old).await.unwrap(), [true, true], "{fault:?} in call {call}");
        for report in [clients.stop().await, fresh.stop().await] {
            assert_eq!((report.refused, report.failed), (0, 0), "{fault:?} in call {call}: {report:?}");
        }
        repeated += usize::from(!step_errors(&scene.sandbox.events()[seen..]).is_empty());
    }
    println!("{fault:?} in each of {CALLS} calls: all rotated, {repeated} of them by Secrets Manager's retry");
    if matches!(fault, Fault::KillFunction { .. }) {
        assert_eq!(repeated as u64, CALLS, "a killed function did not fail its step");
    }
}

/// Reads the pending version again and again, and keeps every value that each version was seen with.
struct Values {
    seen: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>,
    watching: JoinHandle<()>,
}

impl Values {
    fn watch(scene: &Scene) -> Self {
        let seen = Arc::new(Mutex::new(BTreeMap::<_, BTreeSet<String>>::new()));
        let (client, kept) = (scene.client.clone(), Arc::clone(&seen));
        let watching = tokio::spawn(async move {
            for stage in ["AWSPENDING", "AWSCURRENT"].into_iter().cycle() {
                let value = client.get_secret_value().secret_id(SECRET).version_stage(stage).send().await;
                if let Some((version, value)) = value.ok().and_then(|value| value.version_id.zip(value.secret_string)) {
                    kept.lock().unwrap().entry(version).or_default().insert(value);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { seen, watching }
    }

    /// How many values the version has had.
    fn of(&self, version: &str) -> usize {
        self.seen.lock().unwrap().get(version).map_or(0, BTreeSet::len)
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn function_killed_before_any_call_is_repaired_by_the_retry() {
    every_call_in_turn(kill(Moment::Before)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn function_killed_after_any_call_is_repaired_by_the_retry() {
    every_call_in_turn(kill(Moment::After)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lost_answer_of_any_call_is_survived() {
    every_call_in_turn(Fault::LostAnswer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_of_any_call_is_survived() {
    every_call_in_turn(Fault::Throttle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_internal_error_in_any_call_is_survived() {
    every_call_in_turn(Fault::InternalServiceError).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lost_answer_of_any_step_is_survived() {
    let scene = start(json_plan()).await;
    for step in Step::ALL {
        for fault in [Fault::LostAnswer, Fault::InternalServiceError, Fault::Throttle] {
            let old = scene.token("AWSCURRENT").await.unwrap();
            scene.sandbox.faults().add(FaultRule::on("Invoke", fault).at_step(step));
            rotate(&scene).await;
            let new = scene.token("AWSCURRENT").await.unwrap();
            assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
            assert_eq!(scene.accepted(&old).await.unwrap(), [true, true]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_for_longer_than_one_step_tries_is_survived() {
    let mut plan = no_target(json_plan());
    plan.sandbox.retry_backoff = Duration::from_millis(300);
    let scene = start(plan).await;
    let rule = FaultRule::on("PutSecretValue", Fault::Throttle).from_caller(FUNCTION).times(5);
    scene.sandbox.faults().add(rule);
    rotate(&scene).await;
    let errors = step_errors(&scene.sandbox.events());
    assert_eq!(errors.iter().map(|(_, error)| error.error_type.as_str()).collect::<Vec<_>>(), ["Throttled"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_stale_read_is_survived() {
    let scene = start(json_plan()).await;
    for call in 1..=CALLS {
        let old = scene.token("AWSCURRENT").await.unwrap();
        let clients = scene.load(scene.stale_clients(), 50).await.unwrap();
        let rule = FaultRule::on("*", Fault::StaleRead).from_caller(FUNCTION).nth(call);
        let rule = scene.sandbox.faults().add(rule);
        rotate(&scene).await;
        scene.sandbox.faults().remove(rule);
        let new = scene.token("AWSCURRENT").await.unwrap();
        assert_ne!(new, old);
        assert_eq!(scene.accepted(&new).await.unwrap(), [true, true], "stale read {call}");
        assert_eq!(scene.accepted(&old).await.unwrap(), [true, true], "stale read {call}");
        let report = clients.stop().await;
        assert_eq!((report.refused, report.failed), (0, 0), "stale read {call}: {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_reads_delay_a_rotation_and_break_nothing() {
    for plan in [text_plan(), json_plan()] {
        let mut plan = plan;
        plan.sandbox.retry_backoff = Duration::from_millis(150);
        let scene = start(plan).await;
        for _ in 0..3 {
            let old = scene.token("AWSCURRENT").await.unwrap();
            let clients = scene.load(scene.stale_clients(), 50).await.unwrap();
            let rule = FaultRule::on("*", Fault::StaleRead).from_caller(FUNCTION).lasting(Duration::from_millis(600));
            let rule = scene.sandbox.faults().add(rule);
            rotate(&scene).await;
            scene.sandbox.faults().remove(rule);
            let new = scene.token("AWSCURRENT").await.unwrap();
            assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
            assert_eq!(scene.accepted(&old).await.unwrap(), [true, true]);
            let report = clients.stop().await;
            assert_eq!((report.refused, report.failed), (0, 0), "{report:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lasting_stale_reads_promote_nothing_wrong_and_the_next_works() {
    let scene = start(json_plan()).await;
    scene.configure().await.unwrap();
    let before = current(&scene).await;
    let rule = FaultRule::on("*", Fault::StaleRead).from_caller(FUNCTION).times(u64::MAX);
    let rule = scene.sandbox.faults().add(rule);
    let error = fail_to_rotate(&scene).await;
    println!("reads stale to the end: {error:?}");
    assert_eq!(error.error_type, "UnknownVersion");
    assert_eq!(current(&scene).await, before);
    assert_eq!(scene.accepted(FIRST).await.unwrap(), [true, true]);
    scene.sandbox.faults().remove(rule);
    assert!(take_up(&scene).await.is_success());
    assert_eq!(scene.accepted(&scene.token("AWSCURRENT").await.unwrap()).await.unwrap(), [true, true]);
}

/// What a person does to the secret.
#[derive(Clone, Copy, Debug)]
enum Edit {
    OtherMember,
    Token,
}

impl Edit {
    async fn make(self, scene: &Scene, number: usize) -> String {
        let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
        let value = match self {
            Self::OtherMember => value.replacen("\"url\" : \"", &format!("\"url\" : \"{number}"), 1),
            Self::Token => {
                let token = scene.token("AWSCURRENT").await.unwrap();
                value.replacen(&token, &format!("a-token-that-a-person-chose-{number}"), 1)
            }
        };
        scene.client.put_secret_value().secret_id(SECRET).secret_string(&value).send().await.unwrap();
        value
    }
}

/// The edit came in the middle of a rotation: it stands, and the next rotation starts from it.
async fn the_edit_stands(scene: &Scene, edit: Edit, edited: &str, at: &str) {
    let outcome = end(scene).await;
    assert!(matches!(outcome, RotationOutcome::Abandoned { .. }), "{edit:?} at {at}: {outcome:?}");
    assert_eq!(scene.value("AWSCURRENT").await.unwrap().as_deref(), Some(edited), "{edit:?} at {at}");
    let token = scene.token("AWSCURRENT").await.unwrap();
    assert_eq!(scene.accepted(&token).await.unwrap(), [true, true], "{edit:?} at {at}");

    rotate(scene).await;
    let new = scene.token("AWSCURRENT").await.unwrap();
    assert_ne!(new, token);
    let (edited, rotated): (Value, Value) = (
        serde_json::from_str(edited).unwrap(),
        serde_json::from_str(&scene.value("AWSCURRENT").await.unwrap().unwrap()).unwrap(),
    );
    assert_eq!(rotated["url"], edited["url"]);
    assert_eq!(rotated["ADMIN_TOKEN_PREVIOUS"], token.as_str());
    assert_eq!(scene.accepted(&token).await.unwrap(), [true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_edit_between_two_steps_stands() {
    let scene = start(json_plan()).await;
    for (number, step) in Step::ALL.into_iter().enumerate() {
        for edit in [Edit::OtherMember, Edit::Token] {
            let rule = hold_before(&scene, step, 600);
            begin_until(&scene, rule).await;
            let edited = edit.make(&scene, number).await;
            the_edit_stands(&scene, edit, &edited, &format!("the beginning of {step}")).await;
            scene.sandbox.faults().remove(rule);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_edit_before_any_call_of_the_function_stands() {
    let scene = start(json_plan()).await;
    scene.configure().await.unwrap();
    for call in 1..=14 {
        let edit = if call % 2 == 0 { Edit::OtherMember } else { Edit::Token };
        let rule = FaultRule::on("*", Fault::Delay { millis: 700 }).from_caller(FUNCTION).nth(call);
        let rule = scene.sandbox.faults().add(rule);
        let request = scene.client.rotate_secret().secret_id(SECRET).rotation_lambda_arn(scene.function_arn());
        request.send().await.unwrap();
        until_matched(&scene, rule, call).await;
        let edited = edit.make(&scene, usize::try_from(call).unwrap()).await;
        the_edit_stands(&scene, edit, &edited, &format!("call {call}")).await;
        scene.sandbox.faults().remove(rule);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_edit_of_a_text_secret_stands() {
    let scene = start(text_plan()).await;
    for (number, step) in Step::ALL.into_iter().enumerate() {
        let rule = hold_before(&scene, step, 600);
        begin_until(&scene, rule).await;
        let theirs = format!("a-token-that-a-person-chose-{number}");
        scene.client.put_secret_value().secret_id(SECRET).secret_string(&theirs).send().await.unwrap();
        assert!(matches!(end(&scene).await, RotationOutcome::Abandoned { .. }));
        assert_eq!(scene.token("AWSCURRENT").await.unwrap(), theirs);
        assert_eq!(scene.accepted(&theirs).await.unwrap(), [true, true]);
        scene.sandbox.faults().remove(rule);
        rotate(&scene).await;
        assert_eq!(scene.accepted(&theirs).await.unwrap(), [true, true]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_of_every_step_write_one_value_in_one_rotation() {
    let scene = start(once(json_plan())).await;
    let cli = Cli::new(&scene);
    // A rotation that the service has given up before the function was reached: its steps are left to the duplicates.
    scene.sandbox.faults().add(FaultRule::on("Invoke", Fault::Throttle).at_step(Step::Create));
    let RotationOutcome::Failed { version_id: version, .. } = scene.rotate().await.unwrap() else { panic!() };
    // Every call takes its time, so that the two run beside each other.
    let slow = FaultRule::on("*", Fault::Delay { millis: 150 }).from_caller(FUNCTION).times(u64::MAX);
    let slow = scene.sandbox.faults().add(slow);
    let mut value = None;
    for step in Step::ALL {
        let payload = event(step, &version);
        let (one, other) = tokio::join!(cli.invoke(FUNCTION, &payload), cli.invoke(FUNCTION, &payload));
        for (status, answer) in [one, other] {
            assert_eq!(status.get("FunctionError"), None, "{step}: {answer}");
        }
        let stored = scene.client.get_secret_value().secret_id(SECRET).version_id(&version).send().await.unwrap();
        let stored = stored.secret_string.unwrap();
        assert_eq!(*value.get_or_insert(stored.clone()), stored, "{step}: the value of the version changed");
    }
    scene.sandbox.faults().remove(slow);
    assert_eq!(current(&scene).await.unwrap().0, version);
    assert_eq!(scene.accepted(FIRST).await.unwrap(), [true, true]);
    assert_eq!(scene.accepted(&scene.token("AWSCURRENT").await.unwrap()).await.unwrap(), [true, true]);
    rotate(&scene).await;
}
