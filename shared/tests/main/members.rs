//! Members are set, and all other bytes stay.

use proptest::prelude::*;
use rotation::document::FieldName;
use rotation::error::RotationError;
use rotation::members::{is_same_value, texts, with_members};
use rotation::secret::SecretText;
use serde_json::{Map, Value, json};

use crate::{CANARY, field};

fn set(text: &str, members: &[(&str, &str)]) -> Result<String, RotationError> {
    let members: Vec<(FieldName, SecretText)> =
        members.iter().map(|(name, value)| (field(name), SecretText::new((*value).to_owned()))).collect();
    with_members(&SecretText::new(text.to_owned()), &members).map(|text| text.expose().to_owned())
}

#[test]
fn new_members_have_the_spacing_of_the_last_one() {
    for (text, expected) in [
        (r#"{}"#, r#"{"B":"b","C":"c"}"#),
        ("{ \n}", "{\"B\":\"b\",\"C\":\"c\" \n}"),
        (r#"{"A":1}"#, r#"{"A":1,"B":"b","C":"c"}"#),
        ("{\n  \"A\" : 1.0\n}\n", "{\n  \"A\" : 1.0,\n  \"B\" : \"b\",\n  \"C\" : \"c\"\n}\n"),
        (r#"{"C": "x", "A": [1, 2]}"#, r#"{"C": "c", "A": [1, 2], "B": "b"}"#),
        ("\u{feff}{\"B\":null}", "\u{feff}{\"B\":\"b\",\"C\":\"c\"}"),
    ] {
        assert_eq!(set(text, &[("B", "b"), ("C", "c")]).as_deref(), Ok(expected), "{text}");
    }
    assert_eq!(set("anything", &[]).as_deref(), Ok("anything"));
}

#[test]
fn what_is_no_text_is_not_replaced() {
    for (text, name) in [
        ("text", "NotAnObject"),
        ("[1]", "NotAnObject"),
        (r#"{"B":{}}"#, "FieldNotText"),
        (r#"{"B":true}"#, "FieldNotText"),
        (r#"{"B":"x","\u0042":"y"}"#, "FieldRepeated"),
    ] {
        let error = set(text, &[("A", "a"), ("B", CANARY)]).unwrap_err();
        assert_eq!(error.name(), name, "{text}");
        assert!(!format!("{error} {error:?}").contains(CANARY));
    }
}

proptest! {
    #[test]
    fn only_the_members_that_are_set_change(
        before in proptest::collection::btree_map("[A-Z]{1,3}", ".*", 0..6),
        new in proptest::collection::btree_map("[A-Z]{1,3}", ".+", 1..6),
        pretty in any::<bool>(),
    ) {
        let mut expected: Map<String, Value> = before.into_iter().map(|(name, value)| (name, json!(value))).collect();
        let text = if pretty { serde_json::to_string_pretty(&expected) } else { serde_json::to_string(&expected) }.unwrap();
        let members: Vec<(&str, &str)> = new.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let changed = set(&text, &members).unwrap();
        expected.extend(new.iter().map(|(name, value)| (name.clone(), json!(value))));
        prop_assert_eq!(serde_json::from_str::<Map<String, Value>>(&changed).unwrap(), expected);
        prop_assert_eq!(set(&changed, &members).unwrap(), changed);
    }
}

#[test]
fn order_and_spacing_of_members_do_not_count() {
    let same = |one: &str, other: &str| {
        let text = |text: &str| SecretText::new(text.to_owned());
        is_same_value(&text(one), &text(other)) && is_same_value(&text(other), &text(one))
    };
    for (one, other) in
        [("text", "text"), ("{}", " { }\n"), (r#"{"A":1,"B":"b"}"#, "{\n \"\\u0042\" : \"b\" , \"A\": 1 }")]
    {
        assert!(same(one, other), "{one} {other}");
    }
    for (one, other) in [
        ("text", "text "),
        (r#"{"A":1}"#, r#"{"A":1.0}"#),
        (r#"{"A":1}"#, r#"{"A":1,"B":null}"#),
        (r#"{"A":{"b": 1}}"#, r#"{"A":{"b":1}}"#),
        (r#"{"A":1,"A":2}"#, r#"{"A":2,"A":1}"#),
        ("[1]", "[ 1]"),
        ("{}", "text"),
    ] {
        assert!(!same(one, other), "{one} {other}");
    }
}

#[test]
fn every_text_of_a_value_is_found_and_no_name_of_a_member() {
    for (value, expected) in [
        ("plain", &["plain"][..]),
        ("", &[""]),
        ("12345", &["12345"]),
        ("{ broken", &["{ broken"]),
        (r#""quoted""#, &["quoted"]),
        (r#"{"A":"a","B":{"C":["c\/d",1,null,true,2.5],"D":"\u0064"}}"#, &["a", "c/d", "d"]),
        (r#"{"A":"a"} and more"#, &[r#"{"A":"a"} and more"#]),
    ] {
        let found = texts(&SecretText::new(value.to_owned()));
        assert_eq!(found.iter().map(SecretText::expose).collect::<Vec<_>>(), expected, "{value}");
    }
}
