//! The query protocol: forms, and answers in XML.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use uuid::Uuid;

use super::{ApiError, MAX_DEPTH, Value, XML_NAMESPACE};

/// `MetricData.member.1.MetricName=Age&…`
pub(crate) fn read(body: &[u8]) -> Result<Value, ApiError> {
    let mut root = BTreeMap::new();
    for (name, text) in form_urlencoded::parse(body) {
        let mut members = &mut root;
        let mut segments: Vec<&str> = name.split('.').collect();
        let last = segments.pop().unwrap_or_default();
        if segments.len() > MAX_DEPTH {
            return Err(ApiError::malformed("nested too deeply"));
        }
        for segment in segments {
            let inner = members.entry(segment.to_owned()).or_insert_with(|| Value::Map(BTreeMap::new()));
            let Value::Map(inner) = inner else {
                return Err(ApiError::malformed(format!("{name} contradicts another parameter")));
            };
            members = inner;
        }
        members.insert(last.to_owned(), Value::Text(text.into_owned()));
    }
    Ok(lists(Value::Map(root)))
}

/// Makes a list of each `{"member": {"1": …, "2": …}}`.
fn lists(value: Value) -> Value {
    let Value::Map(mut members) = value else { return value };
    if members.len() == 1
        && let Some(Value::Map(items)) = members.remove("member")
    {
        let mut items: Vec<(u64, Value)> =
            items.into_iter().map(|(index, value)| (index.parse().unwrap_or(u64::MAX), lists(value))).collect();
        items.sort_by_key(|(index, _)| *index);
        return Value::List(items.into_iter().map(|(_, value)| value).collect());
    }
    Value::Map(members.into_iter().map(|(name, value)| (name, lists(value))).collect())
}

pub(crate) fn respond(status: StatusCode, root: &str, content: &str) -> Response<Body> {
    let id = Uuid::new_v4();
    let metadata = format!("<ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata>");
    let body = format!("<{root} xmlns=\"{XML_NAMESPACE}\">{content}{metadata}</{root}>");
    super::respond(status, &[("content-type", "text/xml")], body)
}

pub(crate) fn element(xml: &mut String, name: &str, value: &Value) {
    let _ = write!(xml, "<{name}>");
    match value {
        Value::Null => {}
        Value::Bool(flag) => *xml += &flag.to_string(),
        Value::Number(number) => *xml += &format!("{number:?}"),
        Value::Text(text) => {
            for character in text.chars() {
                match character {
                    '<' => *xml += "&lt;",
                    '>' => *xml += "&gt;",
                    '&' => *xml += "&amp;",
                    other => xml.push(other),
                }
            }
        }
        Value::Time(seconds) => {
            let time = Timestamp::from_second(*seconds as i64).unwrap_or(Timestamp::MAX);
            *xml += &time.to_string();
        }
        Value::List(values) => values.iter().for_each(|value| element(xml, "member", value)),
        Value::Map(members) => members.iter().for_each(|(name, value)| element(xml, name, value)),
    }
    let _ = write!(xml, "</{name}>");
}
