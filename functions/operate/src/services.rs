//! The services beside Secrets Manager: where messages go, and where rotation functions log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use futures_util::stream;
use rotation::aws::Clients;
use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::event::{VersionId, digest};
use rotation::lambda::AUDIT;
use rotation::notification::Notification;
use rotation::store::{Described, function_name};
use rotation::time::format_timestamp;
use rotation::topic::Topic;
use serde::Serialize;
use serde_json::json;

use crate::aws::{Execution, Failure, OperationClients};
use crate::error::OperateError;
use crate::findings::Findings;
use crate::reads::Reads;

/// The longest that one of these services may take: no action waits for them for long, and none fails for them.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that all notifications of a sweep may take.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest that a query of a log may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Notifications that are sent at the same time.
const AT_ONCE: usize = 8;
/// Kept free for the answer.
const RESERVE: Duration = Duration::from_millis(250);
/// So far back the last failure and the last census are looked for.
const LOGGED_SINCE: Duration = Duration::from_secs(100 * 24 * 60 * 60);

/// The name of the function that counts rows, where each function has a log of its own (`LOG_GROUP`).
const WORKER: &str = "reencrypt";

/// The clocks of two services differ by less. Sweeps are further apart.
const CLOCKS: Duration = Duration::from_secs(60);
/// The status of an execution that came to its end (Step Functions API reference, ExecutionListItem).
const SUCCEEDED: &str = "SUCCEEDED";

/// What became of the wish to have rows re-encrypted: the name of an execution for the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Started {
    /// It was started now.
    Now(String),
    /// It is at work since before.
    Before(String),
    /// It ended without success; a person starts another one.
    Ended {
        /// Its name.
        execution: String,
        /// How it ended, as Step Functions names it.
        status: String,
        /// When.
        at: SystemTime,
    },
}

/// Whether a message went out, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Notified {
    Sent(bool),
    NotSent(String),
}

/// The clients, and what the stack names for them.
#[derive(Debug)]
pub(crate) struct Services {
    clients: OperationClients,
    topic: Option<String>,
    events: Option<Topic>,
    log_group: String,
    trail: Option<String>,
    reencryption: Option<Reencryption>,
}

/// The state machine that re-encrypts the rows of a keyring.
#[derive(Debug)]
pub(crate) struct Reencryption {
    /// Its ARN (`REENCRYPT_STATE_MACHINE`).
    state_machine: String,
    /// The keyring (`REENCRYPT_KEY_SECRET`), by the name or ARN that the worker knows it by.
    pub(crate) secret: String,
}

impl Reencryption {
    fn from_environment(environment: &Environment) -> Result<Option<Self>, RotationError> {
        const STATE_MACHINE: &str = "REENCRYPT_STATE_MACHINE";
        const SECRET: &str = "REENCRYPT_KEY_SECRET";
        environment.refuse_unknown("REENCRYPT_", &[STATE_MACHINE, SECRET])?;
        if environment.get(STATE_MACHINE).is_none() && environment.get(SECRET).is_none() {
            return Ok(None);
        }
        let named = |variable| environment.require(variable).map(str::to_owned);
        Ok(Some(Self { state_machine: named(STATE_MACHINE)?, secret: named(SECRET)? }))
    }

    pub(crate) fn not_started(&self, problem: String) -> OperateError {
        OperateError::NotStarted { state_machine: self.state_machine.clone(), problem }
    }
}

impl Services {
    /// Reads `NOTIFY_TOPIC_ARN`, `EVENT_TOPIC_ARN`, `LOG_GROUP`, in which `{function}` is the name of the rotation function, or of the worker, `CLOUDTRAIL_LOG_GROUP`, and, both or neither,
    /// `REENCRYPT_STATE_MACHINE` and `REENCRYPT_KEY_SECRET`.
    ///
    /// # Errors
    /// Those of [`OperationClients::from_environment`], and an unusable variable by name.
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        Ok(Self {
            clients: OperationClients::from_environment(environment)?,
            topic: environment.get("NOTIFY_TOPIC_ARN").map(str::to_owned),
            events: Topic::from_environment(environment)?,
            log_group: environment.get("LOG_GROUP").unwrap_or("/aws/lambda/{function}").to_owned(),
            trail: environment.get("CLOUDTRAIL_LOG_GROUP").map(str::to_owned),
            reencryption: Reencryption::from_environment(environment)?,
        })
    }

    /// Sends a message, if there is a topic. Whether it went out, or why not.
    pub(crate) async fn notify(&self, subject: &str, message: &str, deadline: Deadline) -> Option<Notified> {
        let topic = self.topic.as_deref()?;
        let sent = deadline.within(TIMEOUT, RESERVE).bound(self.clients.notify(topic, subject, message)).await;
        Some(match sent.unwrap_or_else(no_answer) {
            Ok(()) => Notified::Sent(true),
            Err(problem) => {
                tracing::warn!(target: AUDIT, problem, "the message was not sent");
                Notified::NotSent(problem)
            }
        })
    }

    /// Sends notifications, if there is a topic for them, and says how many went out. What is not sent is in the log.
    pub(crate) async fn send(&self, events: &[Notification], deadline: Deadline) -> Option<usize> {
        let topic = self.events.as_ref()?;
        let deadline = deadline.within(EVENTS_TIMEOUT, RESERVE);
        let sends = stream::iter(events).map(|event| async move {
            let sent = deadline.bound(topic.send(event)).await.unwrap_or_else(no_answer);
            if let Err(problem) = &sent {
                let (secret, state, version) = (&event.secret, event.state.name(), event.version.as_str());
                tracing::warn!(target: AUDIT, secret, state, version, problem, "the event was not sent");
            }
            usize::from(sent.is_ok())
        });
        Some(sends.buffer_unordered(AT_ONCE).fold(0, async |sent, one| sent + one).await)
    }

    /// What re-encrypts rows, if the stack has it.
    pub(crate) fn reencryption(&self) -> Option<&Reencryption> {
        self.reencryption.as_ref()
    }

    /// Starts an execution for the rows of a keyring, unless one is at work for this version, or failed for it.
    ///
    /// An execution is one round. An execution that succeeded has left rows under old keys, or found another version to be current.
    /// Otherwise the ring would hold no old keys. So the next execution is due.
    pub(crate) async fn reencrypt(
        &self,
        reencryption: &Reencryption,
        secret: &Described,
        version: &VersionId,
        deadline: Deadline,
    ) -> Result<Started, OperateError> {
        let state_machine = reencryption.state_machine.as_str();
        let not_started = |problem| reencryption.not_started(problem);
        let listed = deadline.within(TIMEOUT, RESERVE).bound(self.clients.executions(state_machine)).await;
        let listed = listed.unwrap_or_else(no_answer).map_err(not_started)?;
        let of_version = execution_prefix(version);
        // A version's name may be the beginning of another's.
        let is_of_version = |execution: &Execution| {
            let rest = execution.name.strip_prefix(&of_version).unwrap_or_default();
            !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
        };
        match listed.into_iter().find(is_of_version) {
            Some(Execution { name, ended: None, .. }) => return Ok(Started::Before(name)),
            Some(Execution { name, status, ended: Some(at) }) if status != SUCCEEDED => {
                return Ok(Started::Ended { execution: name, status, at });
            }
            _ => {}
        }
        // Of two sweeps in one minute, the second of which the listing may show nothing yet, one starts it.
        let minute = secret.as_of.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
        let name = format!("{of_version}{minute}");
        let input = json!({ "secret_id": secret.name, "version": version }).to_string();
        let start = self.clients.start_execution(state_machine, &name, &input);
        let began = deadline.within(TIMEOUT, RESERVE).bound(start).await.unwrap_or_else(no_answer);
        let now = began.map_err(not_started)?.is_some_and(|began| {
            let ago = secret.as_of.duration_since(began).unwrap_or_default();
            ago < CLOCKS
        });
        Ok(if now { Started::Now(name) } else { Started::Before(name) })
    }

    /// The last step of a rotation of the secret that failed, by the log of its function.
    pub(crate) async fn last_failure(&self, secret: &Described, deadline: Deadline) -> Result<Option<Failure>, String> {
        let Some(function) = secret.rotation_function.as_deref() else { return Ok(None) };
        let log_group = self.log_group.replace("{function}", function_name(function));
        let since = secret.as_of.checked_sub(LOGGED_SINCE).unwrap_or(secret.as_of);
        let search = self.clients.last_failure(&log_group, &secret.name, since);
        let found = deadline.within(TIMEOUT, RESERVE).bound(search).await.unwrap_or_else(no_answer);
        found.map_err(|problem| format!("{log_group}: {problem}"))
    }

    /// Whether the primary key of a keyring is worn, by what the last census of its rows logged. Where there is none, that is what could not
    /// be checked.
    pub(crate) async fn check_nonces(
        &self,
        findings: &mut Findings,
        secret: &Described,
        deadline: Deadline,
    ) -> Option<String> {
        let log_group = self.log_group.replace("{function}", WORKER);
        let since = secret.as_of.checked_sub(LOGGED_SINCE).unwrap_or(secret.as_of);
        let search = self.clients.last_census(&log_group, &secret.name, since);
        let problem = match deadline.within(TIMEOUT, RESERVE).bound(search).await.unwrap_or_else(no_answer) {
            Ok(Some(census)) => {
                findings.extend(census.findings(secret.last_rotated));
                return None;
            }
            Ok(None) => format!("no census of its rows in the last 100 days is in {log_group}"),
            Err(problem) => format!("{log_group}: {problem}"),
        };
        Some(format!("how many values the primary key has encrypted, of those that its nonces allow ({problem})"))
    }

    /// Who read secrets under a prefix, by the log of CloudTrail; `None` without such a log.
    pub(crate) async fn who_read(&self, prefix: &str, until: SystemTime, deadline: Deadline) -> Option<Reads> {
        let trail = self.trail.as_deref()?;
        let bounded = deadline.within(QUERY_TIMEOUT, RESERVE);
        let found = bounded.bound(self.clients.who_read(trail, prefix, until)).await.unwrap_or_else(no_answer);
        Some(found.unwrap_or_else(|problem| {
            tracing::warn!(target: AUDIT, trail, problem, "who read secrets is not known");
            Reads::unknown(format!("{trail}: {problem}"))
        }))
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
                format!("aws secretsmanager rotate-secret --secret-id {} # once the cause is repaired: {} in shared/README.md", secret.name, failure.error_type),
            ),
        }
    }
}

/// How the names of the executions for a version begin, also of those that a person starts; digits follow. A name has at most 80 characters, and not all
/// characters (StartExecution, Step Functions API reference).
fn execution_prefix(version: &VersionId) -> String {
    let version = version.as_str();
    let usable = version.len() <= 64 && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if usable { format!("{version}-") } else { format!("{}-", digest([version])) }
}

fn no_answer<T>() -> Result<T, String> {
    Err("no answer in time".to_owned())
}

/// What an answer says of the last step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum LastFailure {
    /// By the log of the rotation function.
    Known {
        /// When.
        at: String,
        /// The step, as Secrets Manager names it.
        step: Option<String>,
        /// The version that was being rotated to.
        version: Option<String>,
        /// The error's stable name.
        error: String,
        /// The function's own words.
        message: String,
    },
    /// The log cannot be read.
    Unknown {
        /// Why not.
        unknown: String,
    },
}

impl LastFailure {
    pub(crate) fn of(failure: Result<Option<Failure>, String>) -> Option<Self> {
        match failure {
            Ok(None) => None,
            Err(unknown) => Some(Self::Unknown { unknown }),
            Ok(Some(Failure { at, step, error_type: error, message, version })) => {
                Some(Self::Known { at: format_timestamp(at), step, version, error, message })
            }
        }
    }
}
