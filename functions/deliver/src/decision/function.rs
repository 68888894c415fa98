//! What the answer of a user's function says.

use serde_json::Value;

/// The longest reason that is passed on.
const LONGEST_REASON: usize = 200;

/// The answer of a user's function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FunctionAnswer {
    /// `{"status":"done"}`: the place has the value.
    Done,
    /// `{"status":"pending","reason":"…"}`: the function is asked again.
    Pending(String),
    /// `{"status":"failed","reason":"…"}`: the function is asked again, and the failure is told.
    Failed(String),
}

/// Reads an answer. A reason that `is_secret` is not told.
///
/// # Errors
/// The shape of an answer that is not of this form; never its content.
pub fn read(payload: &[u8], is_secret: impl Fn(&str) -> bool) -> Result<FunctionAnswer, String> {
    let answer: Value =
        serde_json::from_slice(payload).map_err(|_| format!("{} bytes that are no JSON", payload.len()))?;
    let Some(members) = answer.as_object() else {
        return Err(match answer {
            Value::Null => "null".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            _ => "a single value".to_owned(),
        });
    };
    let reason = match members.get("reason") {
        None | Some(Value::Null) => "no reason given".to_owned(),
        Some(Value::String(reason)) if is_secret(reason) => "a reason with a part of the value, not told".to_owned(),
        Some(Value::String(reason)) => one_line(reason),
        Some(_) => return Err("a reason that is not a string".to_owned()),
    };
    match members.get("status").and_then(Value::as_str) {
        Some("done") => Ok(FunctionAnswer::Done),
        Some("pending") => Ok(FunctionAnswer::Pending(reason)),
        Some("failed") => Ok(FunctionAnswer::Failed(reason)),
        Some(_) => Err("another status".to_owned()),
        None => Err("no status".to_owned()),
    }
}

/// The beginning of a text, on one line.
#[must_use]
pub fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_REASON).collect();
    line.trim().to_owned()
}
