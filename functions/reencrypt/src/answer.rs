//! What is answered to a request: a JSON object, put together from what each part of the work tells.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::ReencryptError;

/// The members of an answer, by name.
pub(crate) type Answer = Map<String, Value>;

/// These members.
pub(crate) fn members<const N: usize>(members: [(&str, Value); N]) -> Answer {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// As JSON. Everything that is told is a count, a name or a key of a table, and always has a form in JSON.
pub(crate) fn told(what: &impl Serialize) -> Result<Value, ReencryptError> {
    serde_json::to_value(what)
        .map_err(|_| ReencryptError::InvalidRequest { member: "range", problem: "cannot be told as JSON".to_owned() })
}

/// The members of an object.
pub(crate) fn fields(what: &impl Serialize) -> Result<Answer, ReencryptError> {
    match told(what)? {
        Value::Object(fields) => Ok(fields),
        _ => Ok(Map::new()),
    }
}
