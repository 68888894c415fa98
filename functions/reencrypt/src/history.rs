//! What the history of an execution holds: every slice that a state machine has worked on leaves events in it, and Step Functions ends an
//! execution with more than 25,000 (Step Functions quotas). A test counts them in the state machine's definition.
//!
//! Why the state machine is as it is:
//!
//! - The map over slices is inline. The database is the bottleneck, so a few slices at once are all that helps. A distributed map has
//!   child executions, a bucket, and ranges in S3.
//! - An execution is one round, and rows that remain are no error: failed slices and writers with old rings look the same from
//!   outside. Rounds within one execution would add up in its history. An alarm rings when the rows do not become fewer.
//! - A slice gives up within minutes; a plan or a census waits for hours. While the database is away, each slice would otherwise wait
//!   after the other, with repetitions in the history.
//! - A function's error ends an execution where it happened: Step Functions can redrive it from there. Only ends that a repetition
//!   does not change are caught and fail on purpose.
//! - A superseded execution succeeds: the next sweep starts one for the current version. It looks twice, a minute apart, because a
//!   read may be behind.
//! - A success frees the version, a failure does not. What failed has a reason that somebody has to repair.

use serde_json::Value;

use crate::error::ReencryptError;

/// Events that the slices of one execution may leave.
pub const EVENTS_OF_SLICES: u64 = 14_500;
/// Events of a range, without its invocations: its iteration begins and ends, and its last state is entered and left.
pub const EVENTS_OF_RANGE: u64 = 4;
/// The most events of an invocation for a range: with six repetitions, and the choice whether it goes on.
pub const EVENTS_OF_INVOCATION: u64 = 25;
/// The most ranges that one execution can work on.
pub const MOST_RANGES: u64 = EVENTS_OF_SLICES / (EVENTS_OF_RANGE + EVENTS_OF_INVOCATION);

/// How often an execution may invoke the worker for each of its ranges. What is left of a range then is for the next execution.
#[must_use]
pub fn invocations(ranges: u64) -> u64 {
    (EVENTS_OF_SLICES / ranges.max(1)).saturating_sub(EVENTS_OF_RANGE) / EVENTS_OF_INVOCATION
}

/// The most bytes of ranges in an answer: the state of an execution has 256 KB (Step Functions quotas), and a little more is in it.
const MOST_BYTES: usize = 250_000;

/// Checks that one execution can work on so many slices of each column.
///
/// # Errors
/// [`ReencryptError::InvalidRequest`] says how many it can.
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

/// Checks that the state of an execution holds these ranges, as JSON.
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
