//! The way from an invocation by AWS Lambda to a step of the protocol. Only this file reads the machine's time of day,
//! the environment of the process, and the randomness of the operating system. `clippy.toml` bans all three elsewhere.
//! Deadlines measure elapsed time, and the SDK and TLS have randomness of their own.

use std::time::{Duration, SystemTime};

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::Serialize;
use serde_json::Value;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::aws::Clients;
use crate::deadline::Deadline;
use crate::environment::Environment;
use crate::error::RotationError;
use crate::event::RotationEvent;
use crate::kind::SecretKind;
use crate::policy::StackPolicy;
use crate::protocol::Rotator;
use crate::report::Report;
use crate::telemetry::{Datum, PUBLISH_TIMEOUT, metrics};

pub use lambda_runtime::Error;

/// The target of log lines that record an operator's actions.
pub const AUDIT: &str = "audit";

/// The time at the end of an invocation that is kept free to answer and to publish metrics.
const ANSWER_RESERVE: Duration = Duration::from_millis(500);

/// The assumed time of an invocation whose deadline is in the past.
const UNKNOWN_DEADLINE: Duration = Duration::from_secs(60);

/// The parts that every function of this project makes once per process. If a part cannot be made, its error is kept
/// instead.
#[derive(Debug)]
pub struct Function {
    name: String,
    clients: Result<Clients, RotationError>,
}

impl Function {
    fn start(environment: &Environment) -> Self {
        Self {
            name: environment.get("AWS_LAMBDA_FUNCTION_NAME").unwrap_or("unnamed").to_owned(),
            clients: Clients::from_environment(environment, machine_time),
        }
    }

    /// The function's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The clients of AWS services.
    ///
    /// # Errors
    /// The error of the configuration, again at every invocation.
    pub fn clients(&self) -> Result<&Clients, RotationError> {
        self.clients.as_ref().map_err(Clone::clone)
    }

    /// Publishes metrics, if there are any, within a bounded time. A failure is only logged.
    pub async fn publish(&self, data: Vec<Datum>, deadline: Deadline) {
        let Ok(clients) = &self.clients else { return };
        if data.is_empty() {
            return;
        }
        let bounded = deadline.within(PUBLISH_TIMEOUT, ANSWER_RESERVE / 2);
        match bounded.bound(clients.publish(data)).await {
            Some(Ok(())) => {}
            Some(Err(problem)) => tracing::warn!(problem, "metrics were not published"),
            None => tracing::warn!("metrics were not published in time: VPC endpoint for monitoring, or NAT, missing?"),
        }
    }
}

/// One invocation.
#[derive(Debug)]
pub struct Invocation {
    /// The payload of the invocation.
    pub payload: Value,
    /// Lambda's id of the request. CloudTrail knows the caller by this id.
    pub request_id: String,
    /// The end of the invocation.
    pub end: Deadline,
    /// The end of the time for the work itself. The time after it is for the metrics and the answer.
    pub deadline: Deadline,
    began: Duration,
}

impl Invocation {
    fn begin(event: LambdaEvent<Value>) -> Self {
        let left = time_left(event.context.deadline);
        let end = Deadline::after(left);
        let deadline = end.within(left, ANSWER_RESERVE + PUBLISH_TIMEOUT.min(left / 8));
        Self { payload: event.payload, request_id: event.context.request_id, end, deadline, began: left }
    }

    /// The elapsed time of the invocation, in milliseconds.
    #[must_use]
    pub fn duration_ms(&self) -> u64 {
        u64::try_from((self.began - self.end.left()).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Serves invocations until Lambda ends the process. `start` makes the state from the environment, once, and `handle`
/// answers every invocation with it.
///
/// A wrong configuration is logged at once, and `handle` answers every invocation with its error. If the process ended
/// instead, operators would see only `Runtime.ExitError`.
///
/// # Errors
/// The Lambda runtime API fails.
pub async fn serve<S, A, E>(
    start: impl FnOnce(&Environment) -> Result<S, RotationError>,
    handle: impl AsyncFn(&Function, &Result<S, RotationError>, Invocation) -> Result<A, E>,
) -> Result<(), Error>
where
    A: Serialize,
    E: Into<Diagnostic> + std::fmt::Debug,
{
    #[expect(clippy::disallowed_methods, reason = "the environment is read here, once")]
    let environment: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    start_logging(&environment);
    let function = Function::start(&environment);
    let state = start(&environment);
    if let Some(error) = function.clients.as_ref().err().or(state.as_ref().err()) {
        tracing::error!(error_type = error.name(), %error, "the configuration is not usable");
    }
    // The future is boxed: the compiler lays out nested futures as one type, and gives up at a certain depth.
    let handler = |event: LambdaEvent<Value>| Box::pin(handle(&function, &state, Invocation::begin(event)));
    lambda_runtime::Runtime::new(service_fn(handler)).run().await
}

/// Runs a rotation function for the kind of secret that `kind` makes from the environment. It returns when Lambda ends
/// the process.
///
/// # Errors
/// The Lambda runtime API fails.
pub async fn run<K: SecretKind>(kind: impl FnOnce(&Environment) -> Result<K, RotationError>) -> Result<(), Error> {
    let start = |environment: &Environment| {
        environment.refuse_foreign(K::VARIABLES)?;
        Ok((kind(environment)?, StackPolicy::from_environment(environment, K::SETTINGS)?))
    };
    serve(start, invoke).await
}

async fn invoke<K: SecretKind>(
    function: &Function,
    rotation: &Result<(K, StackPolicy), RotationError>,
    mut invocation: Invocation,
) -> Result<Report, RotationError> {
    let event = RotationEvent::parse(invocation.payload.take());
    let request_id = &invocation.request_id;
    let (secret, version, step) = match &event {
        Ok(event) => (Some(event.secret_id.as_str()), Some(event.version.as_str()), Some(event.step)),
        Err(_) => (None, None, None),
    };
    let step_name = step.map(|step| step.name());
    let result = match &event {
        Err(error) => Err(error.clone()),
        Ok(event) => perform(function, rotation, event, invocation.deadline).await,
    };

    let duration_ms = invocation.duration_ms();
    match &result {
        Ok(report) => {
            let outcome = serde_json::to_value(&report.outcome).unwrap_or_default();
            tracing::info!(
                request_id,
                secret = report.secret,
                version,
                step = step_name,
                outcome = outcome["outcome"].as_str(),
                previous_accepted_until = outcome["previousAcceptedUntil"].as_str(),
                overlap_shortened_from = outcome["overlapShortenedFrom"].as_str(),
                primary_key = outcome["primaryKey"].as_str(),
                remaining = outcome["remaining"].as_str(),
                report = report.outcome.of_kind(),
                duration_ms,
                "step done"
            );
        }
        Err(error) => {
            tracing::error!(request_id, secret, version, step = step_name, error_type = error.name(), %error, duration_ms, "step failed");
        }
    }
    function.publish(metrics(function.name(), step, &result), invocation.end).await;
    result
}

async fn perform<K: SecretKind>(
    function: &Function,
    rotation: &Result<(K, StackPolicy), RotationError>,
    event: &RotationEvent,
    deadline: Deadline,
) -> Result<Report, RotationError> {
    let mut rng = randomness()?;
    let store = function.clients()?.secrets_manager(deadline);
    let (kind, stack) = rotation.as_ref().map_err(Clone::clone)?;
    Box::pin(Rotator { kind, store: &store, stack }.perform(event, deadline, &mut rng)).await
}

/// The time until `deadline_ms`, in milliseconds of Unix time. Some local runtimes send a deadline that is not such a
/// time.
fn time_left(deadline_ms: u64) -> Duration {
    let deadline = SystemTime::UNIX_EPOCH + Duration::from_millis(deadline_ms);
    deadline.duration_since(machine_time()).unwrap_or(UNKNOWN_DEADLINE)
}

/// Makes a generator with a seed from the operating system.
///
/// # Errors
/// [`RotationError::NoRandomness`].
pub fn randomness() -> Result<StdRng, RotationError> {
    #[expect(clippy::disallowed_methods, reason = "the operating system's randomness is taken here only")]
    StdRng::try_from_os_rng().map_err(|_| RotationError::NoRandomness)
}

/// The time of this machine. Lambda's deadline is in this time. An answer of the service without a time is dated by it.
fn machine_time() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the machine's clock is read here only")]
    SystemTime::now()
}

/// Starts logging: JSON lines on standard output, at the level of `AWS_LAMBDA_LOG_LEVEL`. The level applies to this
/// crate alone. The code caps all other crates, because at TRACE the Lambda runtime prints the raw event, which holds
/// the RotationToken.
fn start_logging(environment: &Environment) {
    let level =
        environment.get("AWS_LAMBDA_LOG_LEVEL").and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        // The Lambda runtime repeats every error that the handler has already logged.
        .with_target("lambda_runtime", LevelFilter::OFF)
        // The actions of operators are recorded at every level.
        .with_target(AUDIT, LevelFilter::INFO)
        .with_target("rotation", level);
    let lines =
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false);
    // This fails only if the process has a logger already, as a test may.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
}

impl From<RotationError> for Diagnostic {
    fn from(error: RotationError) -> Self {
        Self { error_type: error.name().to_owned(), error_message: error.to_string() }
    }
}
