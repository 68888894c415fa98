//! The bounds of an execution's history. Every slice of the state machine leaves events in the history. Step Functions
//! ends an execution with more than 25,000 events (Step Functions quotas). A test counts the events in the state
//! machine's definition.
//!
//! Why the state machine is as it is:
//!
//! - The map over slices is inline. The database is the bottleneck, so a few slices at once are enough. A distributed
//!   map needs child executions, a bucket, and ranges in S3.
//! - An execution is one round, and rows that are left are no error. A failed slice and a writer with an old ring look
//!   the same from outside. Several rounds in one execution would add up in its history. An alarm rings when the number
//!   of rows does not fall.
//! - A slice gives up within minutes; a plan or a census waits for hours. Without the database, each slice would
//!   otherwise wait after the other, with retries in the history.
//! - An unexpected error of a function ends the execution in that state, so that Step Functions can redrive it from
//!   there. The state machine catches only results that a retry does not change, and fails on purpose.
//! - An execution for a superseded version succeeds, because the next sweep starts one for the current version. The
//!   execution checks twice, a minute apart, because a read may be stale.
//! - After a success, the next sweep may start another execution for the same version. After a failure it does not,
//!   because an operator has to repair the cause.

use serde_json::Value;

use crate::error::ReencryptError;

/// The most events that the slices of one execution may leave.
pub const EVENTS_OF_SLICES: u64 = 14_500;
/// Events of a range without its invocations: start and end of its iteration, entry and exit of its last state.
pub const EVENTS_OF_RANGE: u64 = 4;
/// The most events of one invocation for a range: with six retries, and the choice whether the range continues.
pub const EVENTS_OF_INVOCATION: u64 = 25;
/// The most ranges in one execution.
pub const MOST_RANGES: u64 = EVENTS_OF_SLICES / (EVENTS_OF_RANGE + EVENTS_OF_INVOCATION);

/// How often an execution may invoke the worker for each range. The next execution takes the rest of a range.
#[must_use]
pub fn invocations(ranges: u64) -> u64 {
    (EVENTS_OF_SLICES / ranges.max(1)).saturating_sub(EVENTS_OF_RANGE) / EVENTS_OF_INVOCATION
}

/// The most bytes of ranges in an answer. The state of an execution has 256 KB (Step Functions quotas), and holds a
/// little more than the ranges.
const MOST_BYTES: usize = 250_000;

/// Checks that the history of one execution holds `slices` ranges for each column.
///
/// # Errors
/// [`ReencryptError::InvalidRequest`] states the most slices for each column.
pub fn check_slices(slices: u64, columns: usize) -> Result<(), ReencryptError> {
    let columns = u64::try_from(columns).unwrap_or(u64::MAX);
    if slices.saturating_mul(columns) <= MOST_RANGES {
        return Ok(());
    }
    let most = MOST_RANGES / columns;
    Err(too_many(format!(
        "{slices} slices of each of {columns} columns are more than the {MOST_RANGES} ranges that the history of one execution holds: \
         ask for at most {most}, in the stack by ReencryptSlices"
    )))
}

/// Checks that the state of an execution holds these ranges as JSON.
///
/// # Errors
/// [`ReencryptError::InvalidRequest`].
pub fn check_size(ranges: &Value) -> Result<(), ReencryptError> {
    let bytes = ranges.to_string().len();
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(too_many(format!(
        "the ranges have {bytes} bytes with the primary keys at their ends, and the state of an execution holds {MOST_BYTES}: ask for fewer, \
         in the stack by ReencryptSlices"
    )))
}

fn too_many(problem: String) -> ReencryptError {
    ReencryptError::InvalidRequest { member: "slices", problem }
}
