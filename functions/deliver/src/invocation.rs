//! One invocation: the request, the record and the answer.

use rotation::error::RotationError;
use rotation::lambda::{AUDIT, Function, Invocation};

use crate::deliverer::Deliverer;
use crate::error::DeliverError;
use crate::report::Answer;
use crate::request::{Request, Scope};
use crate::run::{Ports, Run};

/// Answers one invocation.
///
/// # Errors
/// A request that cannot be understood, a configuration that cannot be used, and [`DeliverError::NotConsumed`]. What
/// fails for a secret or a consumer is in the answer.
pub async fn answer(
    function: &Function,
    deliverer: &Result<Deliverer, RotationError>,
    mut invocation: Invocation,
) -> Result<Answer, DeliverError> {
    let payload = invocation.payload.take();
    let result = Box::pin(perform(function, deliverer, &Request::parse(&payload), &invocation)).await;
    let (request_id, duration_ms) = (invocation.request_id.as_str(), invocation.duration_ms());
    match &result {
        Ok(answer) => {
            let Answer { delivered, pending, failed, late, complete, dry_run, .. } = answer;
            tracing::info!(target: AUDIT, request_id, delivered, pending, failed, late, complete, dry_run, duration_ms, "run done");
        }
        Err(error) => {
            tracing::error!(target: AUDIT, request_id, error_type = error.name(), %error, duration_ms, "run failed");
        }
    }
    result
}

async fn perform(
    function: &Function,
    deliverer: &Result<Deliverer, RotationError>,
    request: &Result<Request, DeliverError>,
    invocation: &Invocation,
) -> Result<Answer, DeliverError> {
    let request = request.as_ref().map_err(Clone::clone)?;
    let deliverer = deliverer.as_ref().map_err(Clone::clone)?;
    let (store, clients) = (function.clients()?.secrets_manager(invocation.deadline), &deliverer.clients);
    let ports = Ports { store: &store, services: clients, functions: clients, notifications: clients };
    let run = Run::new(deliverer, ports, &invocation.request_id, invocation.deadline);
    let answer = run.perform(request).await?;
    function.publish(answer.metrics(function.name(), request.scope == Scope::All), invocation.end).await;
    Ok(answer)
}
