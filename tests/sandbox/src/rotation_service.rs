//! The rotation service: the work of Secrets Manager between RotateSecret and RotationSucceeded.
//!
//! AWS documents these rules, and the sandbox keeps them:
//!
//! - RotateSecret is asynchronous. The version named by the token gets `AWSPENDING`, without a value, before the first
//!   step.
//! - The service invokes the function synchronously, step by step. If a step fails, the service repeats the whole
//!   rotation with the same token, several times. Then it gives up.
//! - After that, `AWSPENDING` stays where it is. A later RotateSecret returns an error and takes the old rotation up
//!   again.
//! - A rotation is complete when finishSecret has succeeded and the version is current, wherever `AWSPENDING` is.
//! - A new version from elsewhere ends the rotation.
//!
//! AWS does not document these points, and the sandbox chooses:
//!
//! - How often and how soon the service tries again is a setting.
//! - An `AWSPENDING` that the service did not place makes RotateSecret fail, but starts nothing. There is no rotation
//!   to take up.
//! - A RotateSecret that fails in this way changes no configuration.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::body::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::events::{EventKind, RotationOutcome, Step, StepError, StepRun};
use crate::faults::{Call, Fault};
use crate::invoker::{Answer, InvokeFailure, function_name};
use crate::schedule::Schedule;
use crate::secrets_manager::error::{ApiError, ApiResult};
use crate::secrets_manager::secret::{CURRENT, RotationConfig, Secret};
use crate::secrets_manager::wire;
use crate::settings::ConfigurationTest;
use crate::state::{Shared, Stop, Tx};

/// A rotation to run.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) secret_arn: String,
    /// The ClientRequestToken, which is the version's id.
    pub(crate) token: String,
    pub(crate) rotation_token: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rotation,
    ConfigurationTest,
}

impl Job {
    fn new(secret: &Secret, token: &str, kind: Kind) -> Self {
        Self {
            secret_arn: secret.arn.clone(),
            token: token.to_owned(),
            // The service's own tokens are opaque, with the alphabet and length of a UUID.
            rotation_token: Uuid::new_v4().to_string(),
            kind,
        }
    }
}

/// RotateSecret.
pub(crate) fn rotate_secret(tx: &mut Tx<'_>, request: wire::RotateSecret) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let token = wire::token(request.client_request_token, ApiError::invalid_parameter)?;
    wire::text_length("rotationLambdaARN", request.rotation_lambda_arn.as_deref(), 0..=2048)?;
    let metadata = request.external_secret_rotation_metadata.as_ref();
    wire::unsupported("ExternalSecretRotationMetadata", metadata.filter(|metadata| !metadata.is_empty()))?;
    wire::unsupported("ExternalSecretRotationRoleArn", request.external_secret_rotation_role_arn.as_ref())?;
    if let Some(rules) = &request.rotation_rules {
        wire::text_length("rotationRules.duration", rules.duration.as_deref(), 2..=3)?;
        wire::text_length("rotationRules.scheduleExpression", rules.schedule_expression.as_deref(), 1..=256)?;
        Schedule::parse(rules).map_err(|error| ApiError::invalid_parameter(error.to_string()))?;
    }
    let mut secret = tx.find_to_write(&id)?;
    let mut rotation = configure(tx, &secret, request.rotation_lambda_arn)?;
    if let Some(rules) = request.rotation_rules {
        rotation.rules = rules;
        rotation.plan_from(tx.now);
    } else if !secret.rotation_enabled() {
        rotation.plan_from(tx.now);
    }
    rotation.enabled = true;

    let answer = json!({ "ARN": secret.arn, "Name": secret.name, "VersionId": token });
    if tx.running(&secret.arn) == Some(&token) || secret.is_at(&token, CURRENT) {
        // A repeated request: the rotation is running or has ended.
        return Ok(answer);
    }
    if let Some(incomplete) = secret.incomplete_rotation() {
        let same = incomplete.id == token;
        let (old_token, by_rotation) = (incomplete.id.clone(), incomplete.by_rotation);
        if by_rotation && tx.running(&secret.arn).is_none() {
            take_up(tx, &secret, &old_token);
        }
        return if same && by_rotation {
            Ok(answer)
        } else {
            Err(ApiError::invalid_request("A previous rotation isn't complete. That rotation will be reattempted."))
        };
    }
    if tx.running(&secret.arn).is_some() {
        // The rotation's AWSPENDING has been taken away, but its step has not ended yet.
        return Err(ApiError::invalid_request(
            "A previous rotation isn't complete. That rotation will be reattempted.",
        ));
    }
    if secret.version(&token).is_some() {
        return Err(ApiError::invalid_request(ApiError::token_in_use(&token, &secret.arn).message));
    }
    secret.rotation = Some(rotation);
    if request.rotate_immediately.unwrap_or(true) {
        open(tx, secret, &token)?;
    } else {
        open_test(tx, secret, &token)?;
    }
    Ok(answer)
}

/// The configuration with the function in the request, or else with the configured function.
fn configure(tx: &Tx<'_>, secret: &Secret, lambda_arn: Option<String>) -> ApiResult<RotationConfig> {
    let mut rotation = match (&secret.rotation, lambda_arn) {
        (Some(rotation), None) => rotation.clone(),
        (Some(rotation), Some(lambda_arn)) => RotationConfig { lambda_arn, ..rotation.clone() },
        (None, Some(lambda_arn)) => RotationConfig {
            enabled: false,
            lambda_arn,
            rules: Default::default(),
            last_rotated: None,
            next: None,
            due: None,
        },
        (None, None) => {
            return Err(ApiError::invalid_request("No Lambda rotation function ARN is associated with this secret."));
        }
    };
    if !function_name(&rotation.lambda_arn).is_some_and(|function| tx.invoker().has(function)) {
        return Err(ApiError::cannot_invoke());
    }
    if !rotation.enabled {
        rotation.last_rotated = None;
    }
    Ok(rotation)
}

fn open(tx: &mut Tx<'_>, mut secret: Secret, token: &str) -> ApiResult<()> {
    secret.open_pending(token, None, tx.now)?;
    let job = Job::new(&secret, token, Kind::Rotation);
    tx.commit(secret)?;
    tx.emit(&job.secret_arn, token, EventKind::RotationStarted);
    tx.start(job);
    Ok(())
}

fn take_up(tx: &mut Tx<'_>, secret: &Secret, token: &str) {
    tx.emit(&secret.arn, token, EventKind::RotationStarted);
    tx.start(Job::new(secret, token, Kind::Rotation));
}

fn open_test(tx: &mut Tx<'_>, mut secret: Secret, token: &str) -> ApiResult<()> {
    let value = match tx.settings().configuration_test {
        ConfigurationTest::WithoutValue => None,
        ConfigurationTest::WithCurrentValue => secret.holder(CURRENT).and_then(|version| version.value.clone()),
    };
    secret.open_pending(token, value, tx.now)?;
    let job = Job::new(&secret, token, Kind::ConfigurationTest);
    tx.commit(secret)?;
    tx.emit(&job.secret_arn, token, EventKind::TestRotationStarted);
    tx.start(job);
    Ok(())
}

/// CancelRotateSecret. The function and the rules stay visible, as documented for DescribeSecret: "If the secret
/// previously had rotation turned on, but it is now turned off, this field shows the previous rotation schedule and
/// rotation function." `AWSPENDING` stays where it is.
pub(crate) fn cancel_rotate_secret(tx: &mut Tx<'_>, request: wire::BySecretId) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let mut secret = tx.find_to_write(&id)?;
    let Some(rotation) = secret.rotation.as_mut() else {
        return Err(ApiError::invalid_request("No Lambda rotation function ARN is associated with this secret."));
    };
    rotation.enabled = false;
    rotation.next = None;
    rotation.due = None;
    secret.last_changed = tx.now;
    let pending = secret.incomplete_rotation().map(|version| version.id.clone());
    let answer = json!({ "ARN": secret.arn, "Name": secret.name, "VersionId": pending });
    let arn = secret.arn.clone();
    tx.commit(secret)?;
    tx.stop(&arn, Stop::Cancelled);
    Ok(wire::answer(answer))
}

/// The next moment at which the service starts a rotation by itself.
pub(crate) fn next_due(tx: &Tx<'_>) -> Option<SystemTime> {
    scheduled(tx).map(|(_, due)| due).min()
}

fn scheduled<'a>(tx: &'a Tx<'_>) -> impl Iterator<Item = (&'a Secret, SystemTime)> {
    tx.secrets().iter().filter_map(|secret| {
        let rotation = secret.rotation.as_ref().filter(|rotation| rotation.enabled)?;
        let idle = secret.deletion.is_none() && tx.running(&secret.arn).is_none();
        Some((secret, rotation.due.filter(|_| idle)?))
    })
}

/// The secrets that will have been rotated at `time`.
pub(crate) fn due_until(tx: &Tx<'_>, time: SystemTime) -> Vec<String> {
    scheduled(tx).filter(|(_, due)| *due <= time).map(|(secret, _)| secret.arn.clone()).collect()
}

/// Starts the rotations that are due, one per secret.
pub(crate) fn start_due(tx: &mut Tx<'_>) {
    for arn in due_until(tx, tx.now) {
        let started = tx.find(&arn).cloned().and_then(|secret| start_scheduled(tx, secret));
        if let Err(error) = started {
            tracing::error!(error = error.message, "a scheduled rotation could not be started");
        }
    }
}

fn start_scheduled(tx: &mut Tx<'_>, mut secret: Secret) -> ApiResult<()> {
    if let Some(rotation) = secret.rotation.as_mut() {
        // If this rotation fails, the next window is the next chance.
        rotation.postpone_from(tx.now);
    }
    let incomplete = secret.incomplete_rotation().map(|version| (version.id.clone(), version.by_rotation));
    match incomplete {
        None => open(tx, secret, &Uuid::new_v4().to_string()),
        Some((token, true)) => {
            tx.commit(secret.clone())?;
            take_up(tx, &secret, &token);
            Ok(())
        }
        Some((version_id, false)) => {
            let arn = secret.arn.clone();
            tx.commit(secret)?;
            let error = StepError {
                error_type: "PreviousRotationIncomplete".into(),
                message: "AWSPENDING is on a version that no rotation created.".into(),
            };
            tx.fail_without_a_step(&arn, &version_id, error);
            Ok(())
        }
    }
}

/// A new version from elsewhere has taken `AWSPENDING` off a rotation's version.
pub(crate) fn abandon(tx: &mut Tx<'_>, arn: &str, version_id: &str) {
    tx.emit(arn, version_id, EventKind::RotationAbandoned);
    if tx.running(arn) == Some(version_id) {
        tx.stop(arn, Stop::Abandoned);
    }
}

/// The reason why an attempt ended early.
enum Ended {
    Stopped(Stop),
    Failed(StepError),
}

/// Runs a rotation to its end.
pub(crate) async fn run(shared: Arc<Shared>, job: Job) {
    let outcome = match job.kind {
        Kind::Rotation => rotate(&shared, &job).await,
        Kind::ConfigurationTest => test_configuration(&shared, &job).await,
    };
    shared.transact(|tx| conclude(tx, &job, outcome));
}

async fn rotate(shared: &Arc<Shared>, job: &Job) -> RotationOutcome {
    let version_id = job.token.clone();
    let mut backoff = shared.settings.retry_backoff;
    let mut attempt = 1;
    loop {
        match attempt_all_steps(shared, job, attempt).await {
            Ok(()) => return RotationOutcome::Succeeded { version_id },
            Err(Ended::Stopped(Stop::Abandoned)) => return RotationOutcome::Abandoned { version_id },
            Err(Ended::Stopped(Stop::Cancelled)) => return RotationOutcome::Cancelled { version_id },
            Err(Ended::Failed(error)) if attempt >= shared.settings.rotation_attempts => {
                return RotationOutcome::Failed { version_id, error };
            }
            Err(Ended::Failed(_)) => {}
        }
        tokio::time::sleep(backoff).await;
        backoff *= 2;
        attempt += 1;
    }
}

async fn attempt_all_steps(shared: &Arc<Shared>, job: &Job, attempt: u32) -> Result<(), Ended> {
    for step in Step::ALL {
        run_step(shared, job, attempt, step).await?;
    }
    let current = shared.transact(|tx| tx.find(&job.secret_arn).is_ok_and(|secret| secret.is_at(&job.token, CURRENT)));
    if current {
        return Ok(());
    }
    let stop = shared.transact(|tx| tx.stop_reason(&job.secret_arn));
    Err(stop.map_or_else(
        || {
            Ended::Failed(StepError {
                error_type: "RotationIncomplete".into(),
                message: "finishSecret succeeded, but the version is not AWSCURRENT.".into(),
            })
        },
        Ended::Stopped,
    ))
}

async fn test_configuration(shared: &Arc<Shared>, job: &Job) -> RotationOutcome {
    let version_id = job.token.clone();
    match run_step(shared, job, 1, Step::Test).await {
        Ok(()) => RotationOutcome::TestSucceeded { version_id },
        Err(Ended::Failed(error)) => RotationOutcome::TestFailed { version_id, error },
        Err(Ended::Stopped(Stop::Abandoned)) => RotationOutcome::Abandoned { version_id },
        Err(Ended::Stopped(Stop::Cancelled)) => RotationOutcome::Cancelled { version_id },
    }
}

async fn run_step(shared: &Arc<Shared>, job: &Job, attempt: u32, step: Step) -> Result<(), Ended> {
    let function = shared.transact(|tx| {
        if let Some(stop) = tx.stop_reason(&job.secret_arn) {
            return Err(Ended::Stopped(stop));
        }
        let secret = tx.find(&job.secret_arn).map_err(|_| Ended::Stopped(Stop::Cancelled))?;
        let rotation = secret.rotation.as_ref().filter(|_| secret.deletion.is_none());
        let arn = rotation.map(|rotation| rotation.lambda_arn.clone());
        let arn = arn.ok_or(Ended::Stopped(Stop::Cancelled))?;
        tx.step_started(job, attempt, step);
        Ok(function_name(&arn).unwrap_or(&arn).to_owned())
    })?;
    let begun = Instant::now();
    let result = invoke(shared, job, step, &function).await;
    let duration = begun.elapsed();
    let (cold, error) = match result {
        Ok(Answer { failed: false, cold, .. }) => (cold, None),
        Ok(Answer { payload, cold, .. }) => (cold, Some(function_error(&payload))),
        Err(InvokeFailure { error_type, message }) => (None, Some(StepError { error_type, message })),
    };
    shared.transact(|tx| {
        tx.step_ended(job, attempt, StepRun { step, cold, duration, error: error.clone() });
        match (error, tx.stop_reason(&job.secret_arn)) {
            (None, _) => Ok(()),
            (Some(_), Some(stop)) => Err(Ended::Stopped(stop)),
            (Some(error), None) => Err(Ended::Failed(error)),
        }
    })
}

async fn invoke(shared: &Shared, job: &Job, step: Step, function: &str) -> Result<Answer, InvokeFailure> {
    let call = Call { operation: "Invoke", callers: &[function], step: Some(step.as_str()) };
    let mut answer_lost = false;
    for fault in shared.faults.strike(&call) {
        match fault {
            Fault::Throttle => return Err(failure("TooManyRequestsException", "Rate Exceeded.")),
            Fault::InternalServiceError => return Err(failure("ServiceException", "Lambda failed.")),
            Fault::Delay { millis } => tokio::time::sleep(std::time::Duration::from_millis(millis)).await,
            Fault::LostAnswer => answer_lost = true,
            Fault::KillFunction { function, .. } => {
                shared.invoker.kill_running(&function);
                return Err(failure("Runtime.ExitError", "The function was killed."));
            }
            // An invocation has no read that could be stale.
            Fault::StaleRead => {}
        }
    }
    let event = json!({
        "Step": step.as_str(),
        "SecretId": job.secret_arn,
        "ClientRequestToken": job.token,
        "RotationToken": job.rotation_token,
    });
    let answer = shared.invoker.invoke(function, Bytes::from(event.to_string())).await?;
    if answer_lost { Err(failure("ServiceException", "The answer of the function was lost.")) } else { Ok(answer) }
}

fn failure(error_type: &str, message: &str) -> InvokeFailure {
    InvokeFailure { error_type: error_type.into(), message: message.into() }
}

fn function_error(payload: &[u8]) -> StepError {
    let payload: Value = serde_json::from_slice(payload).unwrap_or_default();
    let member = |name: &str| payload.get(name).and_then(Value::as_str).map(str::to_owned);
    StepError {
        error_type: member("errorType").unwrap_or_else(|| "Unhandled".into()),
        message: member("errorMessage").unwrap_or_default(),
    }
}

fn conclude(tx: &mut Tx<'_>, job: &Job, outcome: RotationOutcome) {
    let saved = match &outcome {
        RotationOutcome::Succeeded { .. } => succeed(tx, job),
        _ if job.kind == Kind::ConfigurationTest => remove_test_version(tx, job),
        _ => Ok(()),
    };
    if let Err(error) = saved {
        tracing::error!(error = error.message, "the end of a rotation could not be recorded");
    }
    let event = match &outcome {
        RotationOutcome::Succeeded { .. } => Some(EventKind::RotationSucceeded),
        RotationOutcome::Failed { error, .. } => Some(EventKind::RotationFailed { error: error.clone() }),
        RotationOutcome::TestSucceeded { .. } => Some(EventKind::TestRotationSucceeded),
        RotationOutcome::TestFailed { error, .. } => Some(EventKind::TestRotationFailed { error: error.clone() }),
        // `abandon` has already reported the abandonment. AWS records no event for a cancelled rotation.
        RotationOutcome::Abandoned { .. } | RotationOutcome::Cancelled { .. } => None,
    };
    if let Some(event) = event {
        tx.emit(&job.secret_arn, &job.token, event);
    }
    tx.finish(&job.secret_arn, outcome);
}

fn succeed(tx: &mut Tx<'_>, job: &Job) -> ApiResult<()> {
    let mut secret = tx.find(&job.secret_arn)?.clone();
    let now = tx.now;
    if let Some(rotation) = secret.rotation.as_mut().filter(|rotation| rotation.enabled) {
        rotation.last_rotated = Some(now);
        rotation.plan_from(now);
    }
    secret.last_changed = now;
    tx.commit(secret)
}

fn remove_test_version(tx: &mut Tx<'_>, job: &Job) -> ApiResult<()> {
    let mut secret = tx.find(&job.secret_arn)?.clone();
    secret.remove_version(&job.token, tx.now);
    tx.commit(secret)
}
