//! The contract: what the function sends and takes is what the JSON Schemas of the repository say.

use std::path::Path;

use issued_credential::contract::{Members, Request, created, status};
use regex_lite::Regex;
use rotation::document::{Document, FieldName};
use rotation::secret::SecretText;
use serde_json::Value;

use crate::json;

fn schema(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contract").join(name);
    json(&std::fs::read_to_string(path).unwrap())
}

/// Whether a value is as a schema says. It knows the words that the files use, and refuses a file with any other.
fn is_valid(schema: &Value, value: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(word, rule)| match word.as_str() {
        // What a tool may read, and nothing that a value can break.
        "$schema" | "title" | "description" | "format" => rule.is_string(),
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            other => panic!("type {other}"),
        },
        "const" => value == rule,
        "enum" => rule.as_array().unwrap().contains(value),
        "required" => rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
        "properties" => {
            let of = |name: &String| value.get(name.as_str());
            rule.as_object().unwrap().iter().all(|(name, rule)| of(name).is_none_or(|value| is_valid(rule, value)))
        }
        "additionalProperties" => {
            let known = |name: &String| schema.get("properties").is_some_and(|known| known.get(name).is_some());
            let Some(members) = value.as_object() else { return true };
            let valid = |value: &Value| rule.as_bool().unwrap_or_else(|| is_valid(rule, value));
            members.iter().all(|(name, value)| known(name) || valid(value))
        }
        "minProperties" => value.as_object().is_none_or(|members| members.len() as u64 >= rule.as_u64().unwrap()),
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap()),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 <= rule.as_u64().unwrap()),
        "pattern" => value.as_str().is_none_or(|text| Regex::new(rule.as_str().unwrap()).unwrap().is_match(text)),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| is_valid(rule, item))),
        other => panic!("the schema has a word that no test knows: {other}"),
    })
}

fn names() -> Vec<FieldName> {
    ["KEY", "KEY_ID"].iter().map(|name| FieldName::new(name).unwrap()).collect()
}

fn members(value: &str) -> Members {
    let value = SecretText::new(value.to_owned());
    Members::of(&Document::parse(value, FieldName::new("KEY").as_ref()).unwrap(), &names()).unwrap()
}

#[test]
fn every_request_is_as_its_schema_says() {
    let (some, none) = (members(r#"{"KEY":"a \"b\"","KEY_ID":"ü","n":1}"#), Members::default());
    let version_id = "5c64c3dc-6e1f-4bd9-9ab5-3b0d2c4d1e2f";
    let keep = [some.clone(), some.damaged()];
    for request in [
        Request::Create { version_id, members: &some },
        Request::Create { version_id, members: &none },
        Request::Verify { members: &some },
        Request::Revoke { members: &some },
        Request::Discard { version_id, keep: &keep },
        Request::Discard { version_id, keep: &[] },
    ] {
        let payload = json(request.payload("shop/provider").expose());
        let file = format!("{}-request.json", request.operation());
        assert!(is_valid(&schema(&file), &payload), "{file}: {payload}");
        let mut more = payload.clone();
        more["more"] = Value::Null;
        assert!(!is_valid(&schema(&file), &more), "{file} takes any member");
        let mut newer = payload;
        newer["version"] = 2.into();
        assert!(!is_valid(&schema(&file), &newer), "{file} takes any version");
    }
}

#[test]
fn create_answers_are_taken_as_their_schema_says() {
    let both = r#""KEY":"a","KEY_ID":"b""#;
    for (answer, is_good) in [
        (format!(r#"{{"version":1,"members":{{{both}}}}}"#), true),
        (format!(r#"{{"version":1,"members":{{{both}}},"expires":"2030-01-01T00:00:00Z"}}"#), true),
        (format!(r#"{{"version":1,"members":{{{both}}},"expires":"2030-01-01"}}"#), false),
        (format!(r#"{{"version":1,"members":{{{both}}},"expires":1893456000}}"#), false),
        (format!(r#"{{"version":2,"members":{{{both}}}}}"#), false),
        (format!(r#"{{"version":1,"members":{{{both}}},"more":1}}"#), false),
        (format!(r#"{{"members":{{{both}}}}}"#), false),
        (r#"{"version":1,"members":{"KEY":"a","KEY_ID":null}}"#.to_owned(), false),
        (r#"{"version":1,"members":{"KEY":"a","KEY_ID":""}}"#.to_owned(), false),
        (r#"{"version":1,"members":["a","b"]}"#.to_owned(), false),
        (r#"{"version":1}"#.to_owned(), false),
    ] {
        assert_eq!(is_valid(&schema("create-answer.json"), &json(&answer)), is_good, "{answer}");
        assert_eq!(created(&SecretText::new(answer.clone()), &names()).is_ok(), is_good, "{answer}");
    }
}

#[test]
fn status_answers_are_taken_as_their_schema_says() {
    for (file, words) in [("verify-answer.json", ["ok", "refused"]), ("revoke-answer.json", ["gone", "later"])] {
        for (answer, is_good) in [
            (format!(r#"{{"version":1,"status":"{}"}}"#, words[0]), true),
            (format!(r#"{{"version":1,"status":"{}","reason":"why"}}"#, words[1]), true),
            (r#"{"version":1,"status":"maybe"}"#.to_owned(), false),
            (r#"{"version":1,"status":true}"#.to_owned(), false),
            (format!(r#"{{"version":2,"status":"{}"}}"#, words[0]), false),
            (format!(r#"{{"version":1,"status":"{}","reason":7}}"#, words[0]), false),
            (format!(r#"{{"version":1,"status":"{}","more":""}}"#, words[0]), false),
            (r#"{"version":1}"#.to_owned(), false),
        ] {
            assert_eq!(is_valid(&schema(file), &json(&answer)), is_good, "{file}: {answer}");
            assert_eq!(status(&SecretText::new(answer.clone()), words).is_ok(), is_good, "{file}: {answer}");
        }
    }
}

#[test]
fn a_damaged_copy_differs_in_every_member() {
    let long = "x".repeat(4_000);
    for (key, id) in [("abc", "1"), ("AAAA", "ö-ü"), ("+/=", "a\u{10348}b"), ("zA9=", "==="), (long.as_str(), "0")] {
        let text = serde_json::json!({ "KEY": key, "KEY_ID": id }).to_string();
        let (sound, damaged) = (members(&text), members(&text).damaged());
        for name in names() {
            let (sound, damaged) = (sound.get(&name).unwrap(), damaged.get(&name).unwrap());
            assert!(!sound.expose().eq_ignore_ascii_case(damaged.expose()), "{name} of {text}");
        }
    }
}
