//! From the listing to the answer.

use std::time::{Duration, SystemTime};

use rotation::deadline::Deadline;
use rotation::lambda::AUDIT;
use rotation::store::OperationStore;
use rotation::time::Timestamp;
use serde::Serialize;

use crate::error::OperateError;
use crate::operator::Operator;
use crate::report::fleet::FleetReport;
use crate::report::page;
use crate::report::row::Row;
use crate::request::{Format, Report};
use crate::sweep::list_page;

/// Kept free for the query of reads and for the answer.
const RESERVE: Duration = Duration::from_secs(90);
/// The most secrets of one report: the memory of one invocation bounds them.
const MOST_SECRETS: usize = 10_000;
/// The most bytes of the secrets in an answer, page or data. Lambda takes 6 MB (Lambda quotas, "Invocation payload"); the rest is for who read
/// what, and for the last page of the listing.
const MOST_BYTES: usize = 4_900_000;

/// The answer: the data, or the page that is made from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ReportAnswer {
    /// The data.
    Data(FleetReport),
    /// The page.
    #[serde(rename_all = "camelCase")]
    Page {
        /// One HTML document.
        html: String,
        /// Where the next page goes on.
        continue_from: Option<String>,
    },
}

/// One report.
#[derive(Clone, Copy, Debug)]
pub struct Reporter<'a> {
    operator: &'a Operator,
    request: &'a Report,
    deadline: Deadline,
}

impl<'a> Reporter<'a> {
    /// The report that `request` asks for.
    #[must_use]
    pub fn new(operator: &'a Operator, request: &'a Report, deadline: Deadline) -> Self {
        Self { operator, request, deadline }
    }

    /// Lists all secrets, and says of each what the listing tells. No value is read.
    ///
    /// # Errors
    /// When not even the first page can be listed.
    pub async fn perform<S: OperationStore>(&self, store: &S) -> Result<ReportAnswer, OperateError> {
        let report = self.gather(store).await?;
        match self.request.format {
            Format::Json => Ok(ReportAnswer::Data(report)),
            Format::Html => {
                let html = page::render(&report);
                Ok(ReportAnswer::Page { html, continue_from: report.continue_from })
            }
        }
    }

    async fn gather<S: OperationStore>(&self, store: &S) -> Result<FleetReport, OperateError> {
        let (operator, from) = (self.operator, self.request.from.as_deref());
        let prefix = operator.stack.name_prefix();
        let mut report = FleetReport { prefix: prefix.unwrap_or_default().to_owned(), ..FleetReport::default() };
        let reserve = RESERVE.min(self.deadline.left() / 2);
        let (mut as_of, mut bytes): (Option<SystemTime>, usize) = (None, 0);
        report.continue_from = from.map(str::to_owned);
        loop {
            let next = report.continue_from.as_deref();
            let page = match list_page(operator, store, next, self.deadline).await {
                Ok(page) => page,
                Err(error) if as_of.is_some() => {
                    tracing::error!(target: AUDIT, error_type = error.name(), %error, "the report stops");
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            for secret in page.secrets.iter().filter(|secret| operator.scope.contains(secret, prefix)) {
                as_of.get_or_insert(secret.as_of);
                let row = Row::of(operator, secret);
                bytes += match self.request.format {
                    Format::Html => page::most_bytes(&row),
                    Format::Json => serde_json::to_vec(&row).map_or(0, |json| json.len() + 1),
                };
                report.secrets.push(row);
            }
            report.continue_from = page.next;
            let full = bytes > MOST_BYTES || report.secrets.len() >= MOST_SECRETS;
            if report.continue_from.is_none() || full || self.deadline.left() < reserve {
                break;
            }
        }
        report.secrets.sort_by(|one, other| one.secret.cmp(&other.secret));
        report.as_of = as_of.map(Timestamp);
        // Reads are of all secrets, so only the first report tells them.
        if let (Some(until), None) = (as_of, from) {
            report.reads = operator.services.who_read(&report.prefix, until, self.deadline).await;
        }
        Ok(report)
    }
}
