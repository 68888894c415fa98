//! What the function is asked to do.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::ReencryptError;
use crate::settings::{Column, ColumnName, Settings};

/// The most slices that a plan makes of one table: their ranges fit into an answer.
pub const MOST_SLICES: u64 = 1000;
const DEFAULT_SLICES: u64 = 16;

/// Rows of a column's table, by their primary keys, in the text form that the database gives them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The column.
    #[serde(flatten)]
    pub column: ColumnName,
    /// The rows behind this key; `None` means from the first.
    pub after: Option<String>,
    /// Up to this key, with it; `None` means to the last.
    pub through: Option<String>,
}

/// A request, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Request {
    /// Make ranges of about equal size: `{"action":"plan","slices":16}`.
    Plan {
        /// How many for each column.
        slices: u64,
    },
    /// Re-encrypt the rows of a range: `{"action":"slice","range":{…}}`.
    Slice {
        /// Which.
        range: Range,
    },
    /// Count rows by key: `{"action":"census"}`, of one range with `"range"`.
    Census {
        /// Which rows; `None` means all of all columns.
        #[serde(skip_serializing_if = "Option::is_none")]
        range: Option<Range>,
        /// Where a census of all columns goes on that ran out of time.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<Range>,
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

    /// Reads an event. What it holds is not repeated in an error: whoever sends a password by mistake finds it in no log.
    ///
    /// # Errors
    /// [`ReencryptError::InvalidRequest`] names the member and what it should be.
    pub fn parse(event: Value) -> Result<Self, ReencryptError> {
        let Value::Object(mut members) = event else {
            return Err(invalid("(the event)", "expected a JSON object"));
        };
        let action = members.remove("action");
        let request = match action.as_ref().and_then(Value::as_str) {
            Some("plan") => {
                let slices = match members.remove("slices") {
                    None | Some(Value::Null) => Some(DEFAULT_SLICES),
                    Some(slices) => slices.as_u64().filter(|slices| (1..=MOST_SLICES).contains(slices)),
                };
                let slices = slices
                    .ok_or_else(|| invalid("slices", format!("expected a whole number from 1 to {MOST_SLICES}")))?;
                Self::Plan { slices }
            }
            Some("slice") => {
                let range = range("range", &mut members)?;
                Self::Slice { range: range.ok_or_else(|| invalid("range", "expected a range of a plan"))? }
            }
            Some("census") => {
                let (range, from) = (range("range", &mut members)?, range("from", &mut members)?);
                if range.is_some() && from.is_some() {
                    return Err(invalid("from", "is for a census of all columns: leave range out"));
                }
                Self::Census { range, from }
            }
            _ => return Err(invalid("action", "expected plan, slice or census")),
        };
        if members.is_empty() {
            return Ok(request);
        }
        Err(invalid(
            "(the event)",
            "has a member that is not known; known are action, slices (plan), range (slice, census), from (census)",
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
    let range = Range { column, after: text("after")?, through: text("through")? };
    if parts.is_empty() {
        return Ok(Some(range));
    }
    Err(invalid(member, "has a member that is not known; known are schema, table, column, after and through"))
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
