//! Who read which secret, from the log of CloudTrail by CloudWatch Logs Insights.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_cloudwatchlogs::types::{QueryStatus, ResultField};
use rotation::aws::reason;
use serde::Serialize;

use crate::aws::{OperationClients, name};

/// So many days back.
pub const DAYS: u64 = 90;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The most lines of a report: their bytes count in its answer.
const MOST: usize = 1_000;
/// The longest text of a line, in characters: a refusal quotes policies.
const LONGEST: usize = 300;
/// Between two questions whether a query is done.
const PAUSE: Duration = Duration::from_secs(1);

/// Who read secrets in the last [`DAYS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reads {
    /// So many days back.
    pub days: u64,
    /// The newest first.
    pub rows: Vec<Read>,
    /// Whether there are no more than these.
    pub complete: bool,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// The reads of one secret by one principal with one result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Read {
    /// The ARN of the role or user.
    pub who: String,
    /// The secret's name; of what was denied, the words of the service.
    pub secret: String,
    /// `read`, or the error's code.
    pub result: String,
    /// How often.
    pub times: u64,
    /// When for the last time, as CloudTrail writes it.
    pub last: String,
}

impl Reads {
    pub(crate) fn unknown(problem: String) -> Self {
        Self { days: DAYS, unknown: Some(problem), ..Self::default() }
    }

    /// From the rows of a query that [`query`] makes.
    fn of(results: &[Vec<ResultField>]) -> Self {
        let rows: Vec<Read> = results.iter().take(MOST).map(|fields| Read::of(fields)).collect();
        Self { days: DAYS, complete: results.len() <= MOST, rows, unknown: None }
    }
}

impl Read {
    fn of(fields: &[ResultField]) -> Self {
        let text = |name: &str| {
            let field = fields.iter().find(|field| field.field() == Some(name));
            field.and_then(ResultField::value).unwrap_or_default()
        };
        let cut = |text: &str| text.chars().take(LONGEST).collect();
        // Insights writes a count as a decimal number.
        let times = text("times").split('.').next().unwrap_or_default().parse().unwrap_or_default();
        Self {
            who: cut(text("who")),
            secret: cut(name(text("secret"))),
            result: cut(text("result")),
            times,
            last: cut(text("last")),
        }
    }
}

/// The query for reads of secrets whose name begins with `prefix`. A prefix with other characters than a name's is left out.
#[must_use]
pub fn query(prefix: &str) -> String {
    let is_name = prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+=.@-".contains(&byte));
    let prefix = if is_name { prefix } else { "" };
    // One row more than are shown tells whether there are more.
    let limit = MOST + 1;
    format!(
        r#"fields coalesce(requestParameters.secretId, errorMessage) as secret,
       coalesce(userIdentity.sessionContext.sessionIssuer.arn, userIdentity.arn) as who,
       coalesce(errorCode, "read") as result
| filter eventSource = "secretsmanager.amazonaws.com" and eventName in ["GetSecretValue", "BatchGetSecretValue"]
| filter secret like "{prefix}"
| stats count(*) as times, latest(eventTime) as last by who, secret, result
| sort last desc
| limit {limit}"#
    )
}

impl OperationClients {
    /// Who read the secrets whose name begins with `prefix`, in the last [`DAYS`] before `until`. The query reads the whole log of that time.
    /// Bound it with [`rotation::deadline::Deadline::bound`].
    ///
    /// # Errors
    /// The service's words, or why there was no answer.
    pub async fn who_read(&self, log_group: &str, prefix: &str, until: SystemTime) -> Result<Reads, String> {
        let seconds = |time: SystemTime| {
            i64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
        };
        let days = u32::try_from(DAYS).unwrap_or_default();
        let since = until.checked_sub(DAY * days).unwrap_or(UNIX_EPOCH);
        let start = self.logs.start_query().log_group_name(log_group).query_string(query(prefix));
        let started = start.start_time(seconds(since)).end_time(seconds(until)).send().await;
        let id = started.map_err(|error| reason(&error))?.query_id.ok_or("the query has no id")?;
        loop {
            tokio::time::sleep(PAUSE).await;
            let answer = self.logs.get_query_results().query_id(&id).send().await.map_err(|error| reason(&error))?;
            match answer.status() {
                Some(QueryStatus::Complete) => return Ok(Reads::of(answer.results())),
                Some(ended @ (QueryStatus::Failed | QueryStatus::Cancelled | QueryStatus::Timeout)) => {
                    return Err(format!("the query ended as {}", ended.as_str()));
                }
                _ => {}
            }
        }
    }
}
