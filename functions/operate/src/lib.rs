//! What operators do with rotated secrets: one Lambda function, invoked with `{"action": …, "secret_id": …}`.
//!
//! | action | does |
//! | --- | --- |
//! | `status` | tells versions, policy, schedule, overlap and keyring |
//! | `verify` | proves the current value |
//! | `rollback` | makes the value before current again |
//! | `revoke` | ends the overlap now, and proves that the old token is refused |
//! | `abort` | gives up a rotation that does not come to its end |
//! | `compromise` | replaces what is known to others |
//! | `doctor` | finds what keeps rotations from working, with the commands that repair it |
//! | `retire` | takes keys out of a ring that no row needs any more |
//! | `restore` | puts keys back that disappeared from a ring by somebody else's hand |
//! | `forget` | gives such keys up |
//! | `sweep` | all secrets, on a schedule: ends overlaps that are over, verifies recent promotions, finds stuck and overdue ones, measures the fleet |
//!
//! Every request is recorded in the log under the target `audit`: the action, the secret, the reason, the request id and the
//! result, never a value. Who made it is in CloudTrail, under the request id.

pub mod actions;
pub mod aws;
pub mod digest;
mod doctor;
pub mod error;
pub mod operable;
pub mod request;
pub mod restore;
pub mod retire;
pub mod revoke;
pub mod secret;
mod services;
mod status;
mod sweep;
mod tidy;
pub mod watched;

use std::time::Duration;

use admin_token::AdminToken;
use encryption_key::EncryptionKey;
use rand::rngs::StdRng;
use rotation::aws::Clients;
use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::keyring::KEY_SETTINGS;
use rotation::kind::SecretKind;
use rotation::lambda::{AUDIT, Function, Invocation, randomness};
use rotation::policy::StackPolicy;
use rotation::store::{Described, OperationStore};
use rotation::target::http::HttpTarget;
use rotation::token::TOKEN_SETTINGS;
use serde_json::Value;

use crate::actions::Answer;
use crate::digest::Window;
use crate::error::OperateError;
use crate::operable::Operable;
use crate::request::{Action, AllowedActions, Request};
use crate::secret::Desk;
use crate::services::Services;
use crate::sweep::{Scope, Sweep};
use crate::watched::{Views, Watched};

/// How old a rotation must be before `abort` gives it up, unless the stack sets `ABORT_AFTER`: the timeout of the rotation
/// functions, times the repetitions by Secrets Manager, and their pauses.
pub const DEFAULT_ABORT_AFTER: Duration = Duration::from_secs(15 * 60);

/// How often the schedule asks for a sweep, unless the stack sets `SWEEP_PERIOD`.
pub const DEFAULT_SWEEP_PERIOD: Duration = Duration::from_secs(60 * 60);

/// What is made from the environment, once.
#[derive(Debug)]
pub struct Operator {
    allowed: AllowedActions,
    abort_after: Duration,
    scope: Scope,
    sweep_period: Duration,
    services: Services,
    stack: StackPolicy,
    views: Views,
    token: AdminToken<Watched<HttpTarget>>,
    keys: Result<EncryptionKey<Watched<HttpTarget>>, RotationError>,
}

impl Operator {
    /// Reads `ALLOWED_ACTIONS`, `ABORT_AFTER`, `SWEEP_TAG`, `SWEEP_PERIOD`, `NOTIFY_TOPIC_ARN`, `LOG_GROUP`, and all variables of both
    /// rotation functions.
    ///
    /// # Errors
    /// An unusable variable, by name.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let views = Views::default();
        let watched = |target| Watched::new(target, views.clone());
        // A stack without keys names no secret with a token; its target is the same.
        let target = match environment.get("TARGET_TOKEN_SECRET") {
            Some(_) => HttpTarget::with_token_from_environment(environment)?.map(|(target, _)| target),
            None => HttpTarget::from_environment(environment)?,
        };
        Ok(Self {
            allowed: AllowedActions::from_environment(environment)?,
            abort_after: environment.duration("ABORT_AFTER")?.unwrap_or(DEFAULT_ABORT_AFTER),
            scope: Scope::from_environment(environment)?,
            sweep_period: environment.duration("SWEEP_PERIOD")?.unwrap_or(DEFAULT_SWEEP_PERIOD),
            services: Services::from_environment(environment)?,
            stack: StackPolicy::from_environment(environment, &[TOKEN_SETTINGS, KEY_SETTINGS].concat())?,
            token: AdminToken::new(target.map(watched)),
            keys: EncryptionKey::from_environment(environment).map(|keys| keys.map_target(watched)),
            views,
        })
    }
}

/// The kinds of secrets, told by the name of the function that rotates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Managed {
    Token,
    Keys,
}

impl Managed {
    fn of(secret: &Described) -> Option<Self> {
        match function_name(secret.rotation_function.as_deref()?) {
            name if name.ends_with("admin-token") => Some(Self::Token),
            name if name.ends_with("encryption-key") => Some(Self::Keys),
            _ => None,
        }
    }
}

/// The name in a function's ARN, which a version or an alias may follow.
fn function_name(arn: &str) -> &str {
    let name = arn.split_once(":function:").map_or(arn, |(_, name)| name);
    name.split(':').next().unwrap_or(name)
}

/// Answers one invocation.
///
/// # Errors
/// Every failure is named, see [`OperateError::name`].
pub async fn answer(
    function: &Function,
    operator: &Result<Operator, RotationError>,
    mut invocation: Invocation,
) -> Result<Value, OperateError> {
    let request = Request::parse(invocation.payload.take());
    let request_id = invocation.request_id.as_str();
    if let Ok(Request { action, secret_id, reason: Some(reason), .. }) = &request {
        // Before anything is changed, so that a process that is killed leaves a record too.
        tracing::info!(target: AUDIT, request_id, action = action.name(), secret = secret_id, reason, result = "begun", "operation");
    }
    let result = match (&request, operator) {
        (Err(error), _) => Err(error.clone()),
        (_, Err(error)) => Err(error.clone().into()),
        (Ok(request), Ok(operator)) => Box::pin(perform(function, operator, request, &invocation)).await,
    };
    let (action, secret, reason) = match &request {
        Ok(request) => (Some(request.action.name()), Some(request.secret_id.as_str()), request.reason.as_deref()),
        Err(_) => (None, None, None),
    };
    let duration_ms = invocation.duration_ms();
    match &result {
        Ok(answer) => {
            let member = |name: &str| answer[name].as_str();
            let version = member("version");
            // The version that was rolled back, replaced, or given up.
            let old_version = ["rolledBackFrom", "replaced", "aborted"].into_iter().find_map(member);
            tracing::info!(target: AUDIT, request_id, action, secret, reason, version, old_version, result = "done", duration_ms, "operation");
        }
        Err(error) => {
            tracing::error!(target: AUDIT, request_id, action, secret, reason, result = error.name(), %error, duration_ms, "operation");
        }
    }
    result
}

async fn perform(
    function: &Function,
    operator: &Operator,
    request: &Request,
    invocation: &Invocation,
) -> Result<Value, OperateError> {
    operator.allowed.check(request.action)?;
    operator.views.wait_for_all();
    let (action, deadline) = (request.action, invocation.deadline);
    let store = function.clients()?.secrets_manager(deadline);
    let mut told = if action == Action::Sweep {
        let window = request.scheduled.map(|scheduled| Window::before(scheduled, operator.sweep_period));
        let request_id = invocation.request_id.clone();
        let sweep = Sweep { from: request.from.clone(), window, request_id, deadline };
        let (mut told, metrics, digest) = sweep::sweep(function.name(), operator, &store, sweep).await?;
        function.publish(metrics, invocation.end).await;
        if let Some((subject, message)) = digest.and_then(|digest| digest.message()) {
            let notified = operator.services.notify(&subject, &message, invocation.end).await;
            told.extend(notified.map(|notified| ("notified".to_owned(), notified)));
        }
        told
    } else {
        one_secret(operator, function.clients()?, &store, request, deadline).await?
    };
    told.insert("action".to_owned(), action.name().into());
    Ok(Value::Object(told))
}

/// What is done with one secret.
async fn one_secret<S: OperationStore>(
    operator: &Operator,
    clients: &Clients,
    store: &S,
    request: &Request,
    deadline: Deadline,
) -> Result<Answer, OperateError> {
    let mut rng = randomness()?;
    let secret = store.describe(&request.secret_id).await?;
    operator.stack.check_name(&secret.name)?;
    operator.views.watch(&secret.name);
    let asked = Asked { operator, clients, request, secret: &secret };
    let told = match Managed::of(&secret) {
        Some(Managed::Token) => {
            let stack = operator.stack.for_kind(TOKEN_SETTINGS);
            asked.of(&desk(&operator.token, store, &stack, request, deadline), &mut rng).await
        }
        Some(Managed::Keys) => {
            let stack = operator.stack.for_kind(KEY_SETTINGS);
            let keys = operator.keys.as_ref().map_err(Clone::clone)?;
            asked.of(&desk(keys, store, &stack, request, deadline), &mut rng).await
        }
        None => return Err(OperateError::NotManaged { name: secret.name, function: secret.rotation_function }),
    };
    let instances = operator.views.take(&secret.name);
    let mut told = match told {
        Ok(told) => told,
        Err(error) => {
            // Who it was that did not answer as it should.
            tracing::warn!(target: AUDIT, secret = secret.name, %instances, "what the instances answered");
            return Err(with_reason(operator, &secret, error, deadline).await);
        }
    };
    if instances.as_array().is_some_and(|instances| !instances.is_empty()) {
        told.insert("instances".to_owned(), instances);
    }
    told.insert("secret".to_owned(), secret.name.into());
    Ok(told)
}

/// What the rotation function's log says of a rotation that an action waits for in vain.
async fn with_reason(operator: &Operator, secret: &Described, error: OperateError, deadline: Deadline) -> OperateError {
    let (OperateError::NotFinished { version, function } | OperateError::RotationFailed { version, function, .. }) =
        &error
    else {
        return error;
    };
    let failure = operator.services.last_failure(secret, deadline).await.ok().flatten();
    let Some(failure) = failure.filter(|failure| failure.version.as_deref() == Some(version.as_str())) else {
        return error;
    };
    let reason =
        format!("{}: {}: {}", failure.step.as_deref().unwrap_or("a step"), failure.error_type, failure.message);
    OperateError::RotationFailed { version: version.clone(), function: function.clone(), reason: Some(reason) }
}

/// A request about one secret that has been described.
struct Asked<'a> {
    operator: &'a Operator,
    clients: &'a Clients,
    request: &'a Request,
    secret: &'a Described,
}

impl Asked<'_> {
    async fn of<K: Operable, S: OperationStore>(
        &self,
        desk: &Desk<'_, K, S>,
        rng: &mut StdRng,
    ) -> Result<Answer, OperateError> {
        let Self { operator, clients, request, secret } = *self;
        match request.action {
            Action::Verify => desk.verify_current(secret.clone(), rng).await,
            Action::Rollback => desk.rollback(rng).await,
            Action::Revoke => desk.revoke(rng).await,
            Action::Abort => desk.abort(operator.abort_after, rng).await,
            Action::Compromise => desk.compromise(request.confirm.as_deref(), rng).await,
            Action::Restore => desk.restore(request.confirm.as_deref(), rng).await,
            Action::Forget => desk.forget(&request.keys, request.confirm.as_deref()).await,
            Action::Retire => match &request.censuses {
                Some(censuses) => desk.retire(censuses, rng).await,
                // Such a request does not come here.
                None => Err(OperateError::CensusOutdated { problem: "there are none".to_owned() }),
            },
            Action::Doctor => {
                let mut findings = desk.doctor(secret, rng).await?;
                operator.services.diagnose(&mut findings, secret, clients, desk.deadline).await;
                Ok(findings.answer(&secret.name))
            }
            // A sweep has no secret, and does not come here.
            Action::Status | Action::Sweep => {
                let mut told = desk.status(secret).await?;
                let failure = operator.services.last_failure(secret, desk.deadline).await;
                told.insert("lastFailure".to_owned(), services::told(failure));
                Ok(told)
            }
        }
    }
}

fn desk<'a, K: SecretKind, S: OperationStore>(
    kind: &'a K,
    store: &'a S,
    stack: &'a StackPolicy,
    request: &'a Request,
    deadline: Deadline,
) -> Desk<'a, K, S> {
    Desk { kind, store, stack, secret_id: &request.secret_id, deadline }
}
