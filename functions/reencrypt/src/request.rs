//! The requests to the function.

use rotation::census::{ColumnName, Columns};
use rotation::event::VersionId;
use rotation::time::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::ReencryptError;
use crate::history::MOST_RANGES;
use crate::marks::Marks;
use crate::settings::{Column, Settings};
use crate::understood::Understood;

const DEFAULT_SLICES: u64 = 16;

/// Rows of a column's table between two primary keys, in the database's text form of the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The column.
    #[serde(flatten)]
    pub column: ColumnName,
    /// The range begins behind this key; `None` means at the first row.
    pub after: Option<String>,
    /// The range ends with this key; `None` means at the last row.
    pub through: Option<String>,
    /// The plan's result about the whole column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub understood: Option<Understood>,
}

/// The counts of a plan or a census of all columns that ran out of time, and the place to continue. It comes back from
/// the member `next`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resumed {
    /// The rows that are left of a column.
    pub(crate) from: Range,
    /// The counts of the columns up to that column.
    pub(crate) counted: Columns,
    /// When the census began.
    pub(crate) began: Timestamp,
    /// The ring's version by which the census counts.
    pub(crate) version: VersionId,
    /// Whether the transactions that were open at the beginning had ended before the first row was read.
    pub(crate) settled: bool,
    /// Whether every consumer had that version at the beginning.
    pub(crate) delivered: bool,
    /// The bounds at which a plan divides each column.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) marks: Vec<Marks>,
}

/// A checked request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Request {
    /// Reads all columns, and makes ranges of about equal size: `{"action":"plan","slices":16}`.
    Plan {
        /// The number of ranges for each column.
        slices: u64,
        /// The place where the plan continues after it ran out of time.
        #[serde(flatten)]
        resumed: Option<Resumed>,
    },
    /// Rewraps the rows of a range: `{"action":"slice","range":{…}}`.
    Slice {
        /// The range.
        range: Range,
    },
    /// Counts rows by key: `{"action":"census"}`, or one range with `"range"`.
    Census {
        /// The rows; `None` means all rows of all columns.
        #[serde(skip_serializing_if = "Option::is_none")]
        range: Option<Range>,
        /// The place where a census of all columns continues after it ran out of time.
        #[serde(flatten)]
        resumed: Option<Resumed>,
    },
}

fn invalid(member: &'static str, problem: impl Into<String>) -> ReencryptError {
    ReencryptError::InvalidRequest { member, problem: problem.into() }
}

impl Request {
    /// The action's name.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::Plan { .. } => "plan",
            Self::Slice { .. } => "slice",
            Self::Census { .. } => "census",
        }
    }

    /// Reads an event. An error never repeats the event's content, so that a password sent by mistake stays out of the
    /// log.
    ///
    /// # Errors
    /// [`ReencryptError::InvalidRequest`] names the member and the expected value.
    pub fn parse(event: Value) -> Result<Self, ReencryptError> {
        let Value::Object(mut members) = event else {
            return Err(invalid("(the event)", "expected a JSON object"));
        };
        let action = members.remove("action");
        let request = match action.as_ref().and_then(Value::as_str) {
            Some("plan") => {
                let slices = match members.remove("slices") {
                    None | Some(Value::Null) => Some(DEFAULT_SLICES),
                    Some(slices) => slices.as_u64().filter(|slices| (1..=MOST_RANGES).contains(slices)),
                };
                let slices = slices
                    .ok_or_else(|| invalid("slices", format!("expected a whole number from 1 to {MOST_RANGES}")))?;
                let resumed = resumed(&mut members)?;
                if resumed.as_ref().is_some_and(|resumed| resumed.marks.len() != resumed.counted.0.len()) {
                    return Err(invalid("marks", "expected those of each column that was counted"));
                }
                Self::Plan { slices, resumed }
            }
            Some("slice") => {
                let range = range("range", &mut members)?;
                Self::Slice { range: range.ok_or_else(|| invalid("range", "expected a range of a plan"))? }
            }
            Some("census") => {
                let (range, resumed) = (range("range", &mut members)?, resumed(&mut members)?);
                if resumed.as_ref().is_some_and(|resumed| !resumed.marks.is_empty()) {
                    return Err(invalid("marks", "is for a plan"));
                }
                if range.is_some() && resumed.is_some() {
                    return Err(invalid("from", "is for a census of all columns: leave range out"));
                }
                Self::Census { range, resumed }
            }
            _ => return Err(invalid("action", "expected plan, slice or census")),
        };
        if members.is_empty() {
            return Ok(request);
        }
        Err(invalid(
            "(the event)",
            "has a member that is not known; known are action, slices and marks (plan), range (slice, census), and from, counted, began, version, settled and delivered (plan, census)",
        ))
    }
}

fn range(member: &'static str, members: &mut Map<String, Value>) -> Result<Option<Range>, ReencryptError> {
    let mut parts = match members.remove(member) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(parts)) => parts,
        Some(_) => return Err(invalid(member, "expected a range of a plan")),
    };
    let mut text = |part: &str| match parts.remove(part) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.contains('\0') => Ok(Some(text)),
        Some(_) => Err(invalid(member, "expected texts, or null, for schema, table, column, after and through")),
    };
    let missing = || invalid(member, "expected schema, table and column");
    let column = ColumnName {
        schema: text("schema")?.ok_or_else(missing)?,
        table: text("table")?.ok_or_else(missing)?,
        column: text("column")?.ok_or_else(missing)?,
    };
    let (after, through) = (text("after")?, text("through")?);
    let understood = parts.remove("understood").filter(|value| !value.is_null()).map(serde_json::from_value);
    let understood = understood.transpose();
    let understood = understood.map_err(|_| invalid(member, "expected understood as the plan answered it"))?;
    let range = Range { column, after, through, understood };
    if parts.is_empty() {
        return Ok(Some(range));
    }
    Err(invalid(
        member,
        "has a member that is not known; known are schema, table, column, after, through and understood",
    ))
}

fn resumed(members: &mut Map<String, Value>) -> Result<Option<Resumed>, ReencryptError> {
    let from = range("from", members)?;
    let mut given = |member: &str| members.remove(member).filter(|value| !value.is_null());
    let marks = given("marks").map_or(Ok(vec![]), serde_json::from_value);
    let marks = marks.map_err(|_| invalid("marks", "expected those that the plan answered"))?;
    let [settled, delivered] = ["settled", "delivered"].map(|member| given(member) == Some(Value::Bool(true)));
    match (from, given("counted"), given("began"), given("version")) {
        (None, None, None, None) if marks.is_empty() => Ok(None),
        (Some(from), Some(counted), Some(Value::String(began)), Some(Value::String(version))) => {
            let counted = serde_json::from_value(counted)
                .map_err(|_| invalid("counted", "expected the counts of columns, as the census answered them"))?;
            let began = Timestamp::try_from(began).map_err(|problem| invalid("began", problem))?;
            Ok(Some(Resumed { from, counted, began, version: VersionId::new(version), settled, delivered, marks }))
        }
        // A census that begins in the middle is no evidence, but would look like evidence.
        _ => Err(invalid("from", "goes with counted, began and version: send the member next as it was answered")),
    }
}

impl Resumed {
    /// The place to continue: the index of the column in the configuration.
    ///
    /// # Errors
    /// [`ReencryptError::InvalidRequest`] when the stack has no such column, or when the counted columns are not the
    /// stack's.
    pub fn position(&self, settings: &Settings) -> Result<usize, ReencryptError> {
        let column = self.from.configured(settings)?;
        let position = settings.columns.iter().position(|other| other == column).unwrap_or_default();
        let counted = self.counted.0.iter().map(|counted| &counted.column);
        if counted.eq(settings.columns[..=position].iter().map(|column| &column.name)) {
            return Ok(position);
        }
        let problem = "does not hold the columns of REENCRYPT_COLUMNS up to that of from: begin another census";
        Err(invalid("counted", problem))
    }
}

impl Range {
    /// The column's configuration.
    ///
    /// # Errors
    /// [`ReencryptError::InvalidRequest`] when the stack has no such column.
    pub fn configured<'a>(&self, settings: &'a Settings) -> Result<&'a Column, ReencryptError> {
        settings.column(&self.column).ok_or_else(|| invalid("range", "names a column that is not in REENCRYPT_COLUMNS"))
    }
}
