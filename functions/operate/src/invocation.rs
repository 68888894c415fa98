//! One invocation: the request, the record and the answer.

use rotation::error::RotationError;
use rotation::lambda::{AUDIT, Function, Invocation};

use crate::action::Action;
use crate::dispatch::SecretRequest;
use crate::error::OperateError;
use crate::operator::Operator;
use crate::report::Reporter;
use crate::request::Request;
use crate::response::{Outcome, Response};
use crate::sweep::{Sweep, SweepResult};

/// Answers one invocation.
///
/// # Errors
/// Every failure is named, see [`OperateError::name`].
pub async fn answer(
    function: &Function,
    operator: &Result<Operator, RotationError>,
    mut invocation: Invocation,
) -> Result<Response, OperateError> {
    let request = Request::parse(invocation.payload.take());
    let request_id = invocation.request_id.as_str();
    let parts = request.as_ref().ok().map(|request| (request.action().name(), request.secret_id(), request.reason()));
    if let Some((action, secret, Some(reason))) = parts {
        // Before anything is changed, so that a process that is killed leaves a record too.
        tracing::info!(target: AUDIT, request_id, action, secret, reason, result = "begun", "operation");
    }
    let result = match (&request, operator) {
        (Err(error), _) => Err(error.clone()),
        (_, Err(error)) => Err(error.clone().into()),
        (Ok(request), Ok(operator)) => Box::pin(perform(function, operator, request, &invocation)).await,
    };
    let (action, secret) = parts.map(|(action, secret, _)| (action, secret)).unzip();
    let reason = parts.and_then(|(_, _, reason)| reason);
    let duration_ms = invocation.duration_ms();
    match &result {
        Ok(Response { outcome, .. }) => {
            let version = outcome.version().map(|version| version.as_str());
            let old_version = outcome.old_version().map(|version| version.as_str());
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
) -> Result<Response, OperateError> {
    operator.allowed.check(request.action())?;
    operator.observations.wait_for_all();
    let (clients, deadline) = (function.clients()?, invocation.deadline);
    let store = clients.secrets_manager(deadline);
    let asked = match request {
        Request::Sweep(asked) => asked,
        Request::Report(asked) => {
            let answer = Reporter::new(operator, asked, deadline).perform(&store).await?;
            let outcome = Outcome::Report(Box::new(answer));
            return Ok(Response { action: Action::Report, secret: None, instances: vec![], outcome });
        }
        _ => return SecretRequest { operator, clients, request, deadline }.perform(&store).await,
    };
    let sweep = Sweep::new(operator, asked, &invocation.request_id, deadline);
    let SweepResult { mut answer, metrics, message, events } = sweep.perform(function.name(), &store).await?;
    function.publish(metrics, invocation.end).await;
    if let Some((subject, message)) = message {
        answer.notified = operator.services.notify(&subject, &message, invocation.end).await;
    }
    answer.events_sent = operator.services.send(&events, invocation.end).await;
    let outcome = Outcome::Sweep(Box::new(answer));
    Ok(Response { action: Action::Sweep, secret: None, instances: vec![], outcome })
}
