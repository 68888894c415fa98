//! The censuses of a request, as a retirement reads them.

use std::collections::BTreeSet;
use std::time::SystemTime;

use rotation::census::{Census, Counted};
use rotation::time::Timestamp;
use serde_json::Value;

use crate::error::OperateError;

/// Reads the two censuses of a request.
///
/// # Errors
/// [`OperateError::InvalidRequest`].
pub(crate) fn two(value: Value) -> Result<[Census; 2], OperateError> {
    serde_json::from_value(value).map_err(|error| {
        // Serde's other words quote what it read.
        let told = Some(error.to_string()).filter(|told| told.starts_with("missing field"));
        let told = told.unwrap_or_else(|| "a member of one is of another form".to_owned());
        let expected = "expected two answers of reencrypt to {\"action\":\"census\"}, as they are";
        OperateError::InvalidRequest { member: "censuses".to_owned(), problem: format!("{expected}: {told}") }
    })
}

/// When a census ended, if it is a complete one of the secret `name`.
///
/// # Errors
/// [`OperateError::CensusOutdated`].
pub(crate) fn require_complete(census: &Census, name: &str, which: &str) -> Result<SystemTime, OperateError> {
    let outdated = |problem: &str| Err(OperateError::CensusOutdated { problem: format!("the {which} {problem}") });
    if census.secret != name {
        return outdated(&format!("is of secret {}", census.secret));
    }
    if census.superseded {
        return outdated("was overtaken by another version of the ring: count again");
    }
    let mut columns = BTreeSet::new();
    for Counted { column, tally } in &census.columns.0 {
        if !tally.is_whole() {
            return outdated(&format!("does not say what became of every row of {column}"));
        }
        if !columns.insert(column) {
            return outdated(&format!("has {column} twice"));
        }
    }
    match census.ended {
        Some(ended) if ended < census.began => outdated("ends before it begins"),
        Some(Timestamp(ended)) if census.next.is_none() && !columns.is_empty() => Ok(ended),
        _ => outdated("is not complete: invoke reencrypt with its `next`, until that is null"),
    }
}
