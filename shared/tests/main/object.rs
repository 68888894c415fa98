//! A JSON object that may lack the rotated member: the target of a copy.

use rotation::document::Document;
use rotation::error::RotationError;

use crate::{field, secret};

const FIELD: &str = "API_KEY";

fn object(text: &str) -> Result<Document, RotationError> {
    Document::object(secret(text), &field(FIELD))
}

/// The object with the member added.
fn with_key(text: &str) -> String {
    object(text).unwrap().with_member(&field(FIELD), &secret("new")).unwrap().text().expose().to_owned()
}

#[test]
fn missing_member_is_added_last_in_the_style_of_the_object() {
    assert_eq!(with_key(r#"{"URL":"u"}"#), r#"{"URL":"u","API_KEY":"new"}"#);
    assert_eq!(with_key(r#"{ "A": 1, "B": {"C": []} }"#), r#"{ "A": 1, "B": {"C": []}, "API_KEY": "new" }"#);
    assert_eq!(with_key("{\n  \"A\": 1,\n  \"B\": 2\n}\n"), "{\n  \"A\": 1,\n  \"B\": 2,\n  \"API_KEY\": \"new\"\n}\n");
    assert_eq!(with_key("{}"), r#"{"API_KEY":"new"}"#);
    assert_eq!(with_key("\u{feff}{ }\n"), "\u{feff}{ \"API_KEY\":\"new\"}\n");
}

#[test]
fn member_that_exists_changes_in_its_place() {
    assert_eq!(with_key(r#"{"API_KEY":"old","B":2}"#), r#"{"API_KEY":"new","B":2}"#);
}

#[test]
fn another_member_is_not_added_before_the_rotated_one() {
    for text in ["{}", r#"{"URL":"u"}"#] {
        let added = object(text).unwrap().with_member(&field("API_KEY_PREVIOUS"), &secret("old"));
        assert_eq!(added.err(), Some(RotationError::FieldMissing { field: FIELD.to_owned() }));
    }
}

#[test]
fn only_an_object_is_an_object() {
    for text in ["", "text", "[]", "1", r#""text""#, r#"{"a":"#] {
        assert!(matches!(object(text), Err(RotationError::NotAnObject { .. })), "{text}");
    }
}
