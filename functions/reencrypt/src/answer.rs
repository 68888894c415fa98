//! The answer to a request: a JSON object with members from each part of the work.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::ReencryptError;

/// The members of an answer, by name.
pub(crate) type Answer = Map<String, Value>;

pub(crate) fn members<const N: usize>(members: [(&str, Value); N]) -> Answer {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The JSON form of `what`. Counts, names and table keys always have one.
pub(crate) fn told(what: &impl Serialize) -> Result<Value, ReencryptError> {
    serde_json::to_value(what)
        .map_err(|_| ReencryptError::InvalidRequest { member: "range", problem: "cannot be told as JSON".to_owned() })
}

/// The members of an object; none for anything else.
pub(crate) fn fields(what: &impl Serialize) -> Result<Answer, ReencryptError> {
    match told(what)? {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}
