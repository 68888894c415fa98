//! The services beside Secrets Manager: where messages go, and where rotation functions log.

use std::time::Duration;

use rotation::aws::{Clients, Failure, OperationClients};
use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::store::Described;
use rotation::time::format_timestamp;
use serde_json::{Value, json};

use crate::doctor::Findings;
use crate::function_name;

/// The longest that one of these services may take: no action waits for them for long, and none fails for them.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Kept free for the answer.
const RESERVE: Duration = Duration::from_millis(250);
/// So far back the last failure is looked for.
const FAILURES_SINCE: Duration = Duration::from_secs(100 * 24 * 60 * 60);

/// The clients, and what the stack names for them.
#[derive(Debug)]
pub(crate) struct Services {
    clients: OperationClients,
    topic: Option<String>,
    log_group: String,
}

impl Services {
    /// Reads `NOTIFY_TOPIC_ARN` and `LOG_GROUP`, in which `{function}` is the rotation function's name.
    ///
    /// # Errors
    /// Those of [`OperationClients::from_environment`].
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        Ok(Self {
            clients: OperationClients::from_environment(environment)?,
            topic: environment.get("NOTIFY_TOPIC_ARN").map(str::to_owned),
            log_group: environment.get("LOG_GROUP").unwrap_or("/aws/lambda/{function}").to_owned(),
        })
    }

    /// Sends a message, if there is a topic. Whether it went out, or why not.
    pub(crate) async fn notify(&self, subject: &str, message: &str, deadline: Deadline) -> Option<Value> {
        let topic = self.topic.as_deref()?;
        let sent = deadline.within(TIMEOUT, RESERVE).bound(self.clients.notify(topic, subject, message)).await;
        Some(match sent.unwrap_or_else(no_answer) {
            Ok(()) => json!(true),
            Err(problem) => {
                tracing::warn!(target: rotation::lambda::AUDIT, problem, "the message was not sent");
                json!(problem)
            }
        })
    }

    /// The last step of a rotation of the secret that failed, by the log of its function.
    pub(crate) async fn last_failure(&self, secret: &Described, deadline: Deadline) -> Result<Option<Failure>, String> {
        let Some(function) = secret.rotation_function.as_deref() else { return Ok(None) };
        let log_group = self.log_group.replace("{function}", function_name(function));
        let since = secret.as_of.checked_sub(FAILURES_SINCE).unwrap_or(secret.as_of);
        let search = self.clients.last_failure(&log_group, &secret.name, since);
        let found = deadline.within(TIMEOUT, RESERVE).bound(search).await.unwrap_or_else(no_answer);
        found.map_err(|problem| format!("{log_group}: {problem}"))
    }

    /// Whether these services can be reached, and what the rotation function logged.
    pub(crate) async fn diagnose(
        &self,
        findings: &mut Findings,
        secret: &Described,
        clients: &Clients,
        deadline: Deadline,
    ) {
        let bounded = deadline.within(TIMEOUT, RESERVE);
        match bounded.bound(clients.reach_cloudwatch()).await.unwrap_or_else(no_answer) {
            Ok(()) => findings.good("CloudWatch", "it can be reached"),
            Err(problem) => findings.bad(
                "CloudWatch",
                format!("no answer: {problem}"),
                "add a VPC endpoint for monitoring, or NAT, to the function's subnets",
            ),
        }
        if let Some(topic) = &self.topic {
            let bounded = deadline.within(TIMEOUT, RESERVE);
            match bounded.bound(self.clients.reach_topic(topic)).await.unwrap_or_else(no_answer) {
                Ok(()) => findings.good("SNS", "it can be reached"),
                Err(problem) => findings.bad(
                    "SNS",
                    format!("{topic}: {problem}"),
                    "correct NOTIFY_TOPIC_ARN; or add a VPC endpoint for sns, or NAT, to the function's subnets",
                ),
            }
        }
        match self.last_failure(secret, deadline).await {
            Err(problem) => findings.bad(
                "log",
                problem,
                "correct LOG_GROUP; give the function's role logs:FilterLogEvents on it; a function that has never run has no log",
            ),
            Ok(None) => findings.good("log", "no rotation of this secret failed in the last 100 days"),
            Ok(Some(failure)) if secret.last_rotated.is_some_and(|rotated| rotated > failure.at) => {
                findings.good("log", format!("the last failure ({}) was before the last rotation", failure.error_type));
            }
            Ok(Some(failure)) => findings.bad(
                "log",
                format!("{} failed at {}: {}: {}", failure.step.as_deref().unwrap_or("a step"), format_timestamp(failure.at), failure.error_type, failure.message),
                format!("see {} in the README; then aws secretsmanager rotate-secret --secret-id {}", failure.error_type, secret.name),
            ),
        }
    }
}

fn no_answer<T>() -> Result<T, String> {
    Err("no answer in time".to_owned())
}

/// A failure as an answer tells it.
pub(crate) fn told(failure: Result<Option<Failure>, String>) -> Value {
    match failure {
        Ok(None) => Value::Null,
        Err(problem) => json!({ "unknown": problem }),
        Ok(Some(failure)) => json!({
            "at": format_timestamp(failure.at),
            "step": failure.step,
            "version": failure.version,
            "error": failure.error_type,
            "message": failure.message,
        }),
    }
}
