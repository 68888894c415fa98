//! The data of a report, of which the page is made.

use rotation::time::Timestamp;
use serde::Serialize;

use crate::reads::Reads;
use crate::report::row::Row;

/// All secrets, or as many as one answer takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetReport {
    /// The time of the listing, by the service's clock; nothing when it is empty.
    pub as_of: Option<Timestamp>,
    /// What the names begin with.
    pub prefix: String,
    /// One for each secret, by name.
    pub secrets: Vec<Row>,
    /// Who read what; nothing where the stack names no log of CloudTrail.
    pub reads: Option<Reads>,
    /// Where the next report goes on, when this one does not hold all secrets.
    pub continue_from: Option<String>,
}
