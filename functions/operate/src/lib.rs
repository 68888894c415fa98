//! What operators do with rotated secrets: one Lambda function, invoked with `{"action": …, "secret_id": …}`.
//!
//! | action | does |
//! | --- | --- |
//! | `status` | tells versions, policy, schedule, overlap and keyring |
//! | `verify` | proves the current value |
//! | `abort` | gives up a rotation that does not come to its end |
//! | `doctor` | finds what keeps rotations from working, with the commands that repair it |
//! | `sweep` | all secrets, on a schedule: verifies recent promotions, finds stuck and overdue ones, measures the fleet |
//!
//! Every request is recorded in the log under the target `audit`: the action, the secret, the reason, the request id and the
//! result, never a value. Who made it is in CloudTrail, under the request id.

pub mod actions;
mod doctor;
pub mod error;
pub mod operable;
pub mod request;
pub mod secret;
mod status;
mod sweep;

use std::time::Duration;

use admin_token::AdminToken;
use encryption_key::EncryptionKey;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::kind::SecretKind;
use rotation::lambda::{AUDIT, Function, Invocation};
use rotation::policy::{KEY_SETTINGS, StackPolicy, TOKEN_SETTINGS};
use rotation::store::{Described, OperationStore};
use rotation::target::http::HttpTarget;
use serde_json::Value;

use crate::actions::Answer;
use crate::error::OperateError;
use crate::operable::Operable;
use crate::request::{Action, AllowedActions, Request};
use crate::secret::Desk;

/// How old a rotation must be before `abort` gives it up, unless the stack sets `ABORT_AFTER`: the timeout of the rotation
/// functions, times the repetitions by Secrets Manager, and their pauses.
pub const DEFAULT_ABORT_AFTER: Duration = Duration::from_secs(15 * 60);

/// What is made from the environment, once.
#[derive(Debug)]
pub struct Operator {
    allowed: AllowedActions,
    abort_after: Duration,
    stack: StackPolicy,
    token: AdminToken<HttpTarget>,
    keys: Result<EncryptionKey<HttpTarget>, RotationError>,
}

impl Operator {
    /// Reads `ALLOWED_ACTIONS`, `ABORT_AFTER`, and all variables of both rotation functions.
    ///
    /// # Errors
    /// An unusable variable, by name; logged at once, and the answer to every invocation.
    pub fn start(environment: &Environment, function: &Function) -> Result<Self, RotationError> {
        let operator = Self::from_environment(environment);
        if let Some(error) = function.clients().err().as_ref().or(operator.as_ref().err()) {
            tracing::error!(target: AUDIT, error_type = error.name(), %error, "the configuration is not usable");
        }
        operator
    }

    fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let keys = EncryptionKey::from_environment(environment);
        // A stack without keys names no secret with a token; its target is the same.
        let target = match environment.get("TARGET_TOKEN_SECRET") {
            Some(_) => HttpTarget::with_token_from_environment(environment)?.map(|(target, _)| target),
            None => HttpTarget::from_environment(environment)?,
        };
        Ok(Self {
            allowed: AllowedActions::from_environment(environment)?,
            abort_after: environment.duration("ABORT_AFTER")?.unwrap_or(DEFAULT_ABORT_AFTER),
            stack: StackPolicy::from_environment(environment, &[TOKEN_SETTINGS, KEY_SETTINGS].concat())?,
            token: AdminToken::new(target),
            keys,
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
        // The last part of an ARN may be a version or an alias, the one before it the name.
        let mut parts = secret.rotation_function.as_deref()?.rsplit(':');
        parts.find_map(|part| match part {
            name if name.ends_with("admin-token") => Some(Self::Token),
            name if name.ends_with("encryption-key") => Some(Self::Keys),
            _ => None,
        })
    }
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
            let version = answer["version"].as_str();
            tracing::info!(target: AUDIT, request_id, action, secret, reason, version, result = "done", duration_ms, "operation");
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
    let (action, deadline) = (request.action, invocation.deadline);
    let store = function.clients()?.secrets_manager(deadline);
    let mut told = if action == Action::Sweep {
        let (told, metrics) = sweep::sweep(operator, &store, request.from.clone(), deadline).await?;
        function.publish(metrics, invocation.end).await;
        told
    } else {
        one_secret(operator, &store, request, deadline).await?
    };
    told.insert("action".to_owned(), action.name().into());
    Ok(Value::Object(told))
}

/// What is done with one secret.
async fn one_secret<S: OperationStore>(
    operator: &Operator,
    store: &S,
    request: &Request,
    deadline: Deadline,
) -> Result<Answer, OperateError> {
    let mut rng = StdRng::try_from_os_rng().map_err(|_| RotationError::NoRandomness)?;
    let secret = store.describe(&request.secret_id).await?;
    operator.stack.check_name(&secret.name)?;
    let (action, abort_after) = (request.action, operator.abort_after);
    let mut told = match Managed::of(&secret) {
        Some(Managed::Token) => {
            let stack = operator.stack.for_kind(TOKEN_SETTINGS);
            perform_on(&desk(&operator.token, store, &stack, request, deadline), action, abort_after, &mut rng).await?
        }
        Some(Managed::Keys) => {
            let stack = operator.stack.for_kind(KEY_SETTINGS);
            let keys = operator.keys.as_ref().map_err(Clone::clone)?;
            perform_on(&desk(keys, store, &stack, request, deadline), action, abort_after, &mut rng).await?
        }
        None => return Err(OperateError::NotManaged { name: secret.name, function: secret.rotation_function }),
    };
    told.insert("secret".to_owned(), secret.name.into());
    Ok(told)
}

async fn perform_on<K: Operable, S: OperationStore>(
    desk: &Desk<'_, K, S>,
    action: Action,
    abort_after: Duration,
    rng: &mut StdRng,
) -> Result<Answer, OperateError> {
    match action {
        Action::Verify => desk.verify_current(rng).await,
        Action::Abort => desk.abort(abort_after, rng).await,
        Action::Doctor => desk.doctor(rng).await,
        // A sweep has no secret, and does not come here.
        Action::Status | Action::Sweep => desk.status().await,
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
