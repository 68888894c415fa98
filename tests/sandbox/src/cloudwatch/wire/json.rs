//! JSON 1.0.

use axum::body::Body;
use http::{Response, StatusCode};

use super::Value;

pub(crate) fn read(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(flag),
        serde_json::Value::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Array(values) => Value::List(values.into_iter().map(read).collect()),
        serde_json::Value::Object(members) => {
            let members = members.into_iter().map(|(name, value)| (name, read(value)));
            Value::Map(members.filter(|(_, value)| *value != Value::Null).collect())
        }
    }
}

pub(crate) fn respond(status: StatusCode, output: &Value, headers: &[(&str, &str)]) -> Response<Body> {
    let own = [("content-type", "application/x-amz-json-1.0")];
    super::respond(status, &[&own[..], headers].concat(), to_json(output).to_string())
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) | Value::Time(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(values) => values.iter().map(to_json).collect(),
        Value::Map(members) => members.iter().map(|(name, value)| (name.clone(), to_json(value))).collect(),
    }
}
