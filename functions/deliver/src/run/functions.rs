//! The functions of users: each is told the secret and the version, never the value.

use std::time::Duration;

use futures_util::future::join_all;
use rotation::lambda::AUDIT;
use serde_json::json;

use super::context::{RESERVE, Run};
use super::source::Source;
use crate::decision::function::{FunctionAnswer, read};
use crate::error::DeliverError;
use crate::ports::{FunctionProblem, Functions};
use crate::report::Progress;
use crate::settings::Consumer;

/// The longest time for which the answer of a function is waited for.
pub const FUNCTION_LIMIT: Duration = Duration::from_secs(60);

impl<S, E, F: Functions, N> Run<'_, S, E, F, N> {
    /// Invokes the functions of all secrets that are being delivered, at the same time.
    pub(super) async fn invoke_all(&self, sources: &mut [Source<'_>]) {
        let mut calls = Vec::new();
        for (place, source) in sources.iter().enumerate().filter(|(_, source)| source.began.is_some()) {
            for (consumer, of_source) in source.consumers.iter().enumerate() {
                if let Consumer::Function { function } = of_source {
                    let version = source.labels.current.as_str();
                    let payload = json!({"version": 1, "secret": source.name, "version_id": version}).to_string();
                    calls.push(async move { (place, consumer, self.invoke(source, function, &payload).await) });
                }
            }
        }
        let answered = join_all(calls).await;
        for (place, consumer, progress) in answered {
            sources[place].progress[consumer] = progress;
        }
    }

    async fn invoke(&self, source: &Source<'_>, function: &str, payload: &str) -> Progress {
        let secret = source.name;
        if self.dry_run {
            return Progress::Pending("the function would be invoked".to_owned());
        }
        let limit = FUNCTION_LIMIT.min(self.deadline.left().saturating_sub(RESERVE));
        if limit.is_zero() {
            return Progress::Failed(DeliverError::TimeTooShort);
        }
        let function_name = function.to_owned();
        let failed = |problem: String| DeliverError::FunctionFailed { function: function_name.clone(), problem };
        let answered = self.ports.functions.invoke(function, payload, limit).await;
        let result = match answered.map(|answer| read(&answer, |reason| source.is_told_by(reason))) {
            Ok(Ok(FunctionAnswer::Done)) => Ok(Progress::Delivered),
            Ok(Ok(FunctionAnswer::Pending(reason))) => Ok(Progress::Pending(reason)),
            Ok(Ok(FunctionAnswer::Failed(reason))) => Err(failed(reason)),
            Ok(Err(problem)) => Err(DeliverError::FunctionAnswer { function: function_name.clone(), problem }),
            Err(FunctionProblem::Missing) => Err(DeliverError::FunctionMissing { function: function_name.clone() }),
            Err(FunctionProblem::Raised(error_type)) => Err(failed(format!("it raised {error_type}"))),
            Err(FunctionProblem::TimedOut) if limit < FUNCTION_LIMIT => Err(DeliverError::TimeTooShort),
            Err(FunctionProblem::TimedOut) => {
                Err(DeliverError::FunctionTimedOut { function: function_name.clone(), limit })
            }
            Err(FunctionProblem::Refused(problem)) => {
                Err(DeliverError::FunctionUnavailable { function: function_name.clone(), problem })
            }
        };
        match result {
            Ok(progress) => {
                let result = if progress == Progress::Delivered { "done" } else { "pending" };
                tracing::info!(target: AUDIT, request_id = self.request_id, secret, consumer = %format_args!("function {function}"), result, "delivery");
                progress
            }
            Err(error) => {
                tracing::error!(target: AUDIT, request_id = self.request_id, secret, consumer = %format_args!("function {function}"), error_type = error.name(), %error, "not delivered");
                Progress::Failed(error)
            }
        }
    }
}
