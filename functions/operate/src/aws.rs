//! The adapters that only this function has: notifications through SNS, what the rotation functions logged, and the start of state
//! machines.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_cloudwatchlogs::types::FilteredLogEvent;
use rotation::aws::{SdkSettings, answered, reason};
use rotation::census::LOGGED;
use rotation::environment::Environment;
use rotation::error::RotationError;
use serde::Deserialize;

use crate::nonces::LoggedCensus;

/// A subject is "less than 100 characters long". Source: SNS API reference, `Publish`.
const MAX_SUBJECT: usize = 99;
const MAX_MESSAGE: usize = 1000;
const STEP_FAILED: &str = "step failed";
/// How the repetitions of a rotation end that gave its version up: Secrets Manager lists no version without a staging label.
const GIVEN_UP: &str = "UnknownVersion";
/// How much of a log is searched for one failure: pages may be empty, and a log is as long as its retention.
const MAX_PAGES: usize = 20;
const PAGE: i32 = 50;
const EXECUTIONS: i32 = 100;
/// 2024-01-01: FilterLogEvents lists the newest events first only from there on.
const NEWEST_FIRST_SINCE: Duration = Duration::from_secs(1_704_067_200);

/// The clients of a function for operators: made once, beside [`rotation::aws::Clients`].
#[derive(Clone, Debug)]
pub struct OperationClients {
    sns: aws_sdk_sns::Client,
    pub(crate) logs: aws_sdk_cloudwatchlogs::Client,
    state_machines: aws_sdk_sfn::Client,
}

/// A step of a rotation that failed, as the rotation function logged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When the line was logged, by the clock of CloudWatch Logs.
    pub at: SystemTime,
    /// The step, as Secrets Manager names it.
    pub step: Option<String>,
    /// The error's stable name.
    pub error_type: String,
    /// The function's own words, which hold no value; cut at 1,000 characters.
    pub message: String,
    /// The version that was being rotated to.
    pub version: Option<String>,
}

/// An execution of a state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Its name.
    pub name: String,
    /// Its status, as Step Functions names it.
    pub status: String,
    /// When it ended; `None` while it is at work.
    pub ended: Option<SystemTime>,
}

impl OperationClients {
    /// Makes the clients from the variables that [`rotation::aws::Clients::from_environment`] reads, with the overrides
    /// `AWS_ENDPOINT_URL_SNS`, `AWS_ENDPOINT_URL_CLOUDWATCH_LOGS`, `AWS_ENDPOINT_URL_SFN` and `AWS_ENDPOINT_URL`. Nothing is sent.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] and [`RotationError::InsecureUrl`] name the variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let settings = SdkSettings::from_environment(environment)?;
        let sns = settings.config(environment, "AWS_ENDPOINT_URL_SNS")?;
        let logs = settings.config(environment, "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS")?;
        let state_machines = settings.config(environment, "AWS_ENDPOINT_URL_SFN")?;
        Ok(Self {
            sns: aws_sdk_sns::Client::new(&sns),
            logs: aws_sdk_cloudwatchlogs::Client::new(&logs),
            state_machines: aws_sdk_sfn::Client::new(&state_machines),
        })
    }

    /// Starts an execution of a state machine under a name, and tells when the execution began. A running execution with the same name and
    /// input is answered as if it were new. `None` when the name is used up for 90 days. Bound it with
    /// [`rotation::deadline::Deadline::bound`].
    ///
    /// # Errors
    /// The service's words, or why there was no answer.
    pub async fn start_execution(
        &self,
        state_machine: &str,
        name: &str,
        input: &str,
    ) -> Result<Option<SystemTime>, String> {
        let call = self.state_machines.start_execution().state_machine_arn(state_machine).name(name).input(input);
        match call.send().await {
            Ok(started) => {
                SystemTime::try_from(started.start_date).map(Some).map_err(|_| "startDate is no time".to_owned())
            }
            Err(error) if error.as_service_error().is_some_and(|error| error.is_execution_already_exists()) => Ok(None),
            Err(error) => Err(reason(&error)),
        }
    }

    /// The last hundred executions of a state machine, the newest first. One that was started a moment ago may be missing. Bound it with
    /// [`rotation::deadline::Deadline::bound`].
    ///
    /// # Errors
    /// The service's words, or why there was no answer.
    pub async fn executions(&self, state_machine: &str) -> Result<Vec<Execution>, String> {
        let call = self.state_machines.list_executions().state_machine_arn(state_machine).max_results(EXECUTIONS);
        let listed = call.send().await.map_err(|error| reason(&error))?;
        let executions = listed.executions.into_iter().map(|one| {
            let status = one.status.as_str().to_owned();
            // One that goes on after a failure may still tell when that was.
            let ended = one.stop_date.and_then(|date| SystemTime::try_from(date).ok()).filter(|_| status != "RUNNING");
            Execution { name: one.name, status, ended }
        });
        Ok(executions.collect())
    }

    /// Publishes a message to a topic, with what [`subject`] makes of `title`. A call that is tried again may arrive
    /// twice. Bound it with [`rotation::deadline::Deadline::bound`].
    ///
    /// # Errors
    /// The service's words, or why there was no answer.
    pub async fn notify(&self, topic_arn: &str, title: &str, message: &str) -> Result<(), String> {
        let call = self.sns.publish().topic_arn(topic_arn).subject(subject(title)).message(message);
        call.send().await.map(drop).map_err(|error| reason(&error))
    }

    /// Whether SNS answers for a topic; that the role may not look at it is an answer, too.
    ///
    /// # Errors
    /// Why there was no answer, or that there is no such topic.
    pub async fn reach_topic(&self, topic_arn: &str) -> Result<(), String> {
        match self.sns.get_topic_attributes().topic_arn(topic_arn).send().await {
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found_exception()) => {
                Err("there is no such topic".to_owned())
            }
            result => answered(result),
        }
    }

    /// The newest failure of a step for a secret (a name or an ARN), in the log of a rotation function. The search begins at `since`, and
    /// in 2024 at the earliest. If a rotation gave its version up, it is the cause. Bound it with
    /// [`rotation::deadline::Deadline::bound`].
    ///
    /// # Errors
    /// The service's words, or why there was no answer; `ResourceNotFoundException` when there is no such log group, as
    /// for a function that has never run. Also when the log is too long to search.
    pub async fn last_failure(
        &self,
        log_group: &str,
        secret: &str,
        since: SystemTime,
    ) -> Result<Option<Failure>, String> {
        self.newest("failure", log_group, failure_pattern(secret)?, since, |page| newest_failure(page, secret)).await
    }

    /// What the newest census of the rows of a keyring (a name or an ARN) logged since `since`, and since 2024 at the earliest. Bound it with
    /// [`rotation::deadline::Deadline::bound`].
    ///
    /// # Errors
    /// Those of [`last_failure`](Self::last_failure).
    pub async fn last_census(
        &self,
        log_group: &str,
        secret: &str,
        since: SystemTime,
    ) -> Result<Option<LoggedCensus>, String> {
        let census = |event: &FilteredLogEvent| LoggedCensus::read(event.message()?, logged_at(event)?);
        let of_secret = |event: &_| census(event).filter(|census| is_about(&census.secret, secret));
        let newest = |page: &[FilteredLogEvent]| page.iter().find_map(of_secret);
        self.newest("census", log_group, pattern(LOGGED, secret)?, since, newest).await
    }

    /// What `read` makes of the newest page of a log with lines that match a pattern, the newest line first.
    async fn newest<T>(
        &self,
        what: &str,
        log_group: &str,
        pattern: String,
        since: SystemTime,
        read: impl Fn(&[FilteredLogEvent]) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().max(NEWEST_FIRST_SINCE);
        let search = self
            .logs
            .filter_log_events()
            .log_group_name(log_group)
            .filter_pattern(pattern)
            .start_time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            .start_from_head(false)
            .limit(PAGE);
        let mut from = None;
        for _ in 0..MAX_PAGES {
            let page = search.clone().set_next_token(from).send().await.map_err(|error| reason(&error))?;
            let found = read(page.events());
            if found.is_some() || page.next_token.is_none() {
                return Ok(found);
            }
            from = page.next_token;
        }
        Err(format!("{log_group}: no {what} of this secret in {MAX_PAGES} pages, and there are more"))
    }
}

/// A subject that SNS and email take: one line of at most 99 printable ASCII characters, never empty.
///
/// SNS takes other characters than ASCII by now, mail relays on the way may not.
#[must_use]
pub fn subject(title: &str) -> String {
    let words: Vec<&str> =
        title.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let line: String = words.join(" ").chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    match line.len() {
        0 => "Secret rotation".to_owned(),
        1..=MAX_SUBJECT => line,
        _ => format!("{}...", line[..MAX_SUBJECT - 3].trim_end()),
    }
}

/// The filter pattern for the lines of failed steps whose secret has this name somewhere in its name or ARN. `secret` is either of the two.
/// The pattern has at most the 1,024 characters that the service takes. [`is_about`] tells the secret from others.
///
/// # Errors
/// A name that no secret can have. How a pattern would escape a quotation mark or an asterisk is not documented, and a
/// secret's name has neither.
pub fn failure_pattern(secret: &str) -> Result<String, String> {
    pattern(STEP_FAILED, secret)
}

fn pattern(message: &str, secret: &str) -> Result<String, String> {
    let name = name(secret);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+=.@!-".contains(&byte)) {
        return Err("a secret's name has only letters, digits and /_+=.@!-".to_owned());
    }
    if name.len() > 512 {
        return Err("a secret's name has at most 512 characters".to_owned());
    }
    Ok(format!(r#"{{ ($.message = "{message}") && ($.secret = "*{name}*") }}"#))
}

/// Whether a logged `SecretId` is that of this secret, when each may be a name or an ARN. Two whole ARNs have to be equal, because a secret
/// that was deleted and made anew has another ARN.
#[must_use]
pub fn is_about(logged: &str, secret: &str) -> bool {
    if is_whole_arn(logged) && is_whole_arn(secret) { logged == secret } else { name(logged) == name(secret) }
}

fn logged_at(event: &FilteredLogEvent) -> Option<SystemTime> {
    Some(UNIX_EPOCH + Duration::from_millis(u64::try_from(event.timestamp()?).ok()?))
}

/// The newest failure of a page. If a rotation gave its version up, the repetitions by Secrets Manager end with [`GIVEN_UP`]. Then the
/// failure before them is the cause.
fn newest_failure(page: &[FilteredLogEvent], secret: &str) -> Option<Failure> {
    let mut failures = page.iter().filter_map(|event| failure(event, secret));
    let newest = failures.next()?;
    if newest.error_type != GIVEN_UP {
        return Some(newest);
    }
    let cause = failures.find(|earlier| earlier.error_type != GIVEN_UP && earlier.version == newest.version);
    Some(cause.unwrap_or(newest))
}

fn failure(event: &FilteredLogEvent, secret: &str) -> Option<Failure> {
    #[derive(Deserialize)]
    struct Line {
        message: String,
        secret: String,
        step: Option<String>,
        error_type: String,
        error: String,
        version: Option<String>,
    }
    let line: Line = serde_json::from_str(event.message()?).ok()?;
    let at = logged_at(event)?;
    (line.message == STEP_FAILED && is_about(&line.secret, secret)).then(|| Failure {
        at,
        step: line.step,
        error_type: line.error_type,
        message: line.error.chars().take(MAX_MESSAGE).collect(),
        version: line.version,
    })
}

/// What follows `:secret:` in an ARN.
fn resource(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:")?.split_once(":secret:").map(|(_, resource)| resource)
}

fn is_whole_arn(id: &str) -> bool {
    resource(id).is_some_and(|resource| without_suffix(resource).is_some())
}

/// The name of a secret, of which `id` is the name or the ARN.
pub(crate) fn name(id: &str) -> &str {
    resource(id).map_or(id, |resource| without_suffix(resource).unwrap_or(resource))
}

/// `NAME` of `NAME-XXXXXX`.
fn without_suffix(resource: &str) -> Option<&str> {
    let (name, suffix) = resource.rsplit_once('-')?;
    (suffix.len() == 6 && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(name)
}
