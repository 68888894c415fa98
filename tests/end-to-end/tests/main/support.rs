//! What the tests have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_secretsmanager::types::{RotationRulesType, Tag};
use bytes::Bytes;
use end_to_end::{Plan, SECRET, Scene};
use sandbox::{Event, EventKind, Fault, FaultRule, RotationOutcome, Settings, Step, StepError};
use serde_json::{Value, json};

/// The first token of a secret, of no format of ours.
pub(crate) const FIRST: &str = "first-token.of-this-secret.0123456789";

/// A JSON secret around a token, written by a person: with a layout of its own, and members in an order of their own.
pub(crate) fn json_secret(token: &str) -> String {
    format!(
        "{{\n  \"url\" : \"https://db.internal/ä\",\n  \"ADMIN_TOKEN\": \"{token}\",\n  \"limits\": [1.0, 2e3,  null]\n}}\n"
    )
}

pub(crate) fn text_plan() -> Plan {
    Plan { sandbox: quick_retries(), ..Plan::text(FIRST) }
}

pub(crate) fn json_plan() -> Plan {
    Plan { sandbox: quick_retries(), ..Plan::json(&json_secret(FIRST)) }
}

fn quick_retries() -> Settings {
    Settings { retry_backoff: Duration::from_millis(20), ..Settings::default() }
}

/// With one attempt only: a rotation that fails fails at once.
pub(crate) fn once(plan: Plan) -> Plan {
    Plan { sandbox: Settings { rotation_attempts: 1, ..plan.sandbox.clone() }, ..plan }
}

/// Without an application.
pub(crate) fn no_target(plan: Plan) -> Plan {
    Plan { instances: 0, ..plan }
}

pub(crate) async fn start(plan: Plan) -> Scene {
    Scene::start(plan).await.unwrap()
}

/// The event of a step, as Secrets Manager sends it.
pub(crate) fn event(step: Step, version: &str) -> Value {
    json!({ "Step": step.as_str(), "SecretId": SECRET, "ClientRequestToken": version })
}

/// Invokes the function past the rotation service: its answer, or its error.
pub(crate) async fn invoke(scene: &Scene, event: &Value) -> Result<Value, StepError> {
    let invocation = scene.sandbox.host().invoke(scene.function(), Bytes::from(event.to_string())).await.unwrap();
    let answer: Value = serde_json::from_slice(&invocation.payload).unwrap();
    match invocation.function_error {
        None => Ok(answer),
        Some(_) => Err(step_error(&answer)),
    }
}

pub(crate) fn step_error(answer: &Value) -> StepError {
    let text = |member: &str| answer[member].as_str().unwrap_or_default().to_owned();
    StepError { error_type: text("errorType"), message: text("errorMessage") }
}

/// Rotates on demand, and insists on success.
pub(crate) async fn rotate(scene: &Scene) -> String {
    match scene.rotate().await.unwrap() {
        RotationOutcome::Succeeded { version_id } => version_id,
        outcome => panic!("the rotation ended otherwise: {outcome:?}\n{}", log(scene)),
    }
}

/// Rotates on demand, and insists on failure.
pub(crate) async fn fail_to_rotate(scene: &Scene) -> StepError {
    match scene.rotate().await.unwrap() {
        RotationOutcome::Failed { error, .. } => error,
        outcome => panic!("the rotation ended otherwise: {outcome:?}\n{}", log(scene)),
    }
}

/// Has a rotation that was given up taken up again: RotateSecret does that while it answers with an error.
pub(crate) async fn take_up(scene: &Scene) -> RotationOutcome {
    let request = scene.client.rotate_secret().secret_id(scene.secret()).rotation_lambda_arn(scene.function_arn());
    let refused = request.send().await.unwrap_err();
    assert!(format!("{refused:?}").contains("A previous rotation isn't complete"), "{refused:?}");
    scene.sandbox.wait_for_rotation(scene.secret(), end_to_end::ROTATION_TIMEOUT).await.unwrap()
}

pub(crate) fn rules(schedule: &str) -> RotationRulesType {
    RotationRulesType::builder().schedule_expression(schedule).build()
}

pub(crate) async fn tag(scene: &Scene, key: &str, value: &str) {
    let tag = Tag::builder().key(key).value(value).build();
    scene.client.tag_resource().secret_id(scene.secret()).tags(tag).send().await.unwrap();
}

/// The version that is current, with its value; nothing when there is none.
pub(crate) async fn current(scene: &Scene) -> Option<(String, Vec<u8>)> {
    let value = scene.client.get_secret_value().secret_id(scene.secret()).send().await.ok()?;
    let bytes = value.secret_string.map(String::into_bytes).or_else(|| Some(value.secret_binary?.into_inner()));
    Some((value.version_id.unwrap(), bytes.unwrap()))
}

/// The stages of one version.
pub(crate) async fn stages_of(scene: &Scene, version: &str) -> BTreeSet<String> {
    scene.stages().await.unwrap().remove(version).into_iter().flatten().collect()
}

pub(crate) fn set(stages: &[&str]) -> BTreeSet<String> {
    stages.iter().map(|stage| (*stage).to_owned()).collect()
}

pub(crate) fn log(scene: &Scene) -> String {
    scene.sandbox.host().logs(scene.function()).join("\n")
}

/// The errors of all steps so far, in order, with their steps.
pub(crate) fn step_errors(events: &[Event]) -> Vec<(Step, StepError)> {
    events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::StepEnded { step, error: Some(error), .. } => Some((*step, error.clone())),
            _ => None,
        })
        .collect()
}

/// Counts calls of an operation by the function from now on, and disturbs none.
pub(crate) struct Counter {
    id: u64,
}

impl Counter {
    pub(crate) fn of(scene: &Scene, operation: &str) -> Self {
        let harmless = FaultRule::on(operation, Fault::Delay { millis: 0 }).from_caller(scene.function()).times(0);
        Self { id: scene.sandbox.faults().add(harmless) }
    }

    pub(crate) fn count(&self, scene: &Scene) -> u64 {
        matched(scene, self.id)
    }
}

/// How many calls a fault's rule has met so far.
pub(crate) fn matched(scene: &Scene, rule: u64) -> u64 {
    scene.sandbox.faults().list().iter().find(|(id, ..)| *id == rule).map_or(0, |(.., matched)| *matched)
}

/// Waits until a fault's rule has met so many calls.
pub(crate) async fn until_matched(scene: &Scene, rule: u64, calls: u64) {
    eventually("a call that the fault waits for", || async { matched(scene, rule) >= calls }).await;
}

pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    for _ in 0..12_000 {
        if look().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("this did not happen: {what}");
}

/// Holds the rotation service back before it invokes `step` for the first time, for so long.
pub(crate) fn hold_before(scene: &Scene, step: Step, millis: u64) -> u64 {
    scene.sandbox.faults().add(FaultRule::on("Invoke", Fault::Delay { millis }).at_step(step))
}

/// Begins a rotation and comes back when `rule`, which holds it somewhere, has met its call.
pub(crate) async fn begin_until(scene: &Scene, rule: u64) -> String {
    let request = scene.client.rotate_secret().secret_id(scene.secret()).rotation_lambda_arn(scene.function_arn());
    let version = request.send().await.unwrap().version_id.unwrap();
    until_matched(scene, rule, 1).await;
    version
}

pub(crate) async fn end(scene: &Scene) -> RotationOutcome {
    scene.sandbox.wait_for_rotation(scene.secret(), end_to_end::ROTATION_TIMEOUT).await.unwrap()
}

pub(crate) type Metric = (String, BTreeMap<String, String>, f64);

pub(crate) fn metrics(scene: &Scene) -> Vec<Metric> {
    let data = scene.sandbox.cloudwatch().data();
    data.into_iter().map(|datum| (datum.name, datum.dimensions, datum.value)).collect()
}

/// The sum of a metric whose only dimension is the function.
pub(crate) fn total_of(scene: &Scene, function: &str, name: &str) -> f64 {
    let only = BTreeMap::from([("Function".to_owned(), function.to_owned())]);
    metrics(scene).iter().filter(|(n, dimensions, _)| n == name && *dimensions == only).map(|(.., value)| value).sum()
}

/// Puts labels of somebody else's on a version until the secret has so many in all.
pub(crate) async fn fill_stages(scene: &Scene, version: &str, stages: usize) {
    let used: usize = scene.stages().await.unwrap().values().map(Vec::len).sum();
    for number in used..stages {
        let label = scene
            .client
            .update_secret_version_stage()
            .secret_id(scene.secret())
            .version_stage(format!("team-{number}"));
        label.move_to_version_id(version).send().await.unwrap();
    }
}
