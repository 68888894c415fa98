//! The secret's value: only the rotated members change, and every other byte stays as it was.
//!
//! The property tests put the JSON text together from parts, so the text that an edit must give is known byte for byte
//! without a parser; [`scan`] cuts texts into members by counting quotes and brackets, which is another way than that
//! of the code under test.

use proptest::prelude::*;
use proptest::sample::Index;
use rotation::document::{Document, FieldName};
use rotation::error::RotationError;
use rotation::secret::SecretText;

use crate::{CANARY, assert_no_canary, assert_not_in, field, secret};

mod generated;

const FIELD: &str = "ADMIN_TOKEN";
const PREVIOUS: &str = "ADMIN_TOKEN_PREVIOUS";

fn parse(text: &str) -> Result<Document, RotationError> {
    Document::parse(secret(text), Some(&field(FIELD)))
}

fn text(document: &Document) -> &str {
    document.text().expose()
}

fn rotated(json: &str, to: &str) -> String {
    text(&parse(json).unwrap().with_secret(&secret(to)).unwrap()).to_owned()
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

#[test]
fn a_secret_keeps_the_style_in_which_somebody_wrote_it() {
    let pretty = "{\n    \"user\" : \"admin\",\n    \"ADMIN_TOKEN\" : \"old\",\n    \"port\" : 8080.0\n}\n";
    let new = parse(pretty).unwrap().with_secret(&secret("new")).unwrap();
    let new = new.with_member(&field(PREVIOUS), &secret("old")).unwrap();
    let expected = "{\n    \"user\" : \"admin\",\n    \"ADMIN_TOKEN\" : \"new\",\n    \"ADMIN_TOKEN_PREVIOUS\" : \"old\",\n    \"port\" : 8080.0\n}\n";
    assert_eq!(text(&new), expected);
    let without = new.without_member(&field(PREVIOUS)).unwrap().with_secret(&secret("old")).unwrap();
    assert_eq!(text(&without), pretty, "and back");

    for (before, after) in [
        (r#"{"ADMIN_TOKEN":"old"}"#, r#"{"ADMIN_TOKEN":"new","ADMIN_TOKEN_PREVIOUS":"old"}"#),
        (r#"{ "ADMIN_TOKEN": "old" }"#, r#"{ "ADMIN_TOKEN": "new", "ADMIN_TOKEN_PREVIOUS": "old" }"#),
        (
            r#"{"a":[1, {"ADMIN_TOKEN":"x"}], "ADMIN_TOKEN":"old"}"#,
            r#"{"a":[1, {"ADMIN_TOKEN":"x"}], "ADMIN_TOKEN":"new", "ADMIN_TOKEN_PREVIOUS":"old"}"#,
        ),
        (
            "{\r\n\t\"ADMIN_TOKEN\":\"old\"\r\n}",
            "{\r\n\t\"ADMIN_TOKEN\":\"new\",\r\n\t\"ADMIN_TOKEN_PREVIOUS\":\"old\"\r\n}",
        ),
        (r#"{"a":", {","ADMIN_TOKEN":"old"}"#, r#"{"a":", {","ADMIN_TOKEN":"new","ADMIN_TOKEN_PREVIOUS":"old"}"#),
    ] {
        let new = parse(before).unwrap().with_secret(&secret("new")).unwrap();
        assert_eq!(text(&new.with_member(&field(PREVIOUS), &secret("old")).unwrap()), after);
    }
}

#[test]
fn what_only_looks_like_json_of_another_meaning_is_left_alone() {
    for other in [
        r#""n":1e400"#,
        r#""n":-0"#,
        r#""n":1.0"#,
        r#""n":12345678901234567890123456789"#,
        r#""lone":"\ud800""#,
        r#""\udfff":"lone key""#,
        r#""dup":1,"dup":2,"dup":1"#,
        r#""html":"<\/script>\u003c""#,
        r#""nested":{"ADMIN_TOKEN":"not this one","a":[{"ADMIN_TOKEN":[]}]}"#,
        r#""text":"\"ADMIN_TOKEN\":\"not this one\"""#,
    ] {
        assert_eq!(
            rotated(&format!(r#"{{{other},"ADMIN_TOKEN":"old"}}"#), "new"),
            format!(r#"{{{other},"ADMIN_TOKEN":"new"}}"#)
        );
    }
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    assert_eq!(
        rotated(&format!(r#"{{"deep":{deep},"ADMIN_TOKEN":"old"}}"#), "new"),
        format!(r#"{{"deep":{deep},"ADMIN_TOKEN":"new"}}"#)
    );
}

#[test]
fn a_member_is_found_however_its_name_is_written() {
    let json = r#"{"\u0041DMIN\u005fTOKEN":"old"}"#;
    assert_eq!(parse(json).unwrap().secret().unwrap(), secret("old"));
    assert_eq!(rotated(json, "new"), r#"{"\u0041DMIN\u005fTOKEN":"new"}"#);
    let twice = parse(r#"{"ADMIN_TOKEN":"a","\u0041DMIN_TOKEN":"b"}"#).unwrap_err();
    assert_eq!(twice, RotationError::FieldRepeated { field: FIELD.to_owned() });
}

#[test]
fn a_secret_of_any_characters_is_read_back_as_it_was() {
    for odd in [
        "\"",
        "\\",
        "\u{0}\u{1f}\u{7f}",
        "\n\r\t",
        "é 😀 \u{2028}",
        "</script>",
        "}",
        "\u{feff}",
        &"\u{1}".repeat(1_000),
    ] {
        let document = parse(&rotated(r#"{"ADMIN_TOKEN":"old"}"#, odd)).unwrap();
        assert_eq!(document.secret().unwrap(), secret(odd));
    }
    let escaped = parse(r#"{"ADMIN_TOKEN":"\u00e9\ud83d\ude00\/\n"}"#).unwrap();
    assert_eq!(escaped.secret().unwrap(), secret("é😀/\n"));
}

#[test]
fn a_text_secret_is_replaced_as_a_whole() {
    for old in ["old", "\"quoted\"", "12345", " spaces and\nlines ", "é", "not { json", "\u{0}"] {
        let document = Document::parse(secret(old), None).unwrap();
        assert_eq!(document.field(), None);
        assert_eq!(document.secret().unwrap(), secret(old));
        let new = document.with_secret(&secret("new")).unwrap();
        assert_eq!(text(&new), "new");
        assert_eq!(document.member(&field(FIELD)).unwrap(), None);
        // It has no place for a member: a value that was thought to hold one would not.
        let no_place = RotationError::NotAnObject { field: FIELD.to_owned(), problem: "text" };
        assert_eq!(document.with_member(&field(FIELD), &secret("x")).unwrap_err(), no_place);
        assert_eq!(text(&document.without_member(&field(FIELD)).unwrap()), old);
        assert!(document.same_other_members(&new, &[]), "a text has no members");
    }
}

#[test]
fn a_json_object_is_never_replaced_as_a_whole() {
    for object in ["{}", r#"{"a":1}"#, " \n{ \"a\" : 1 }\n", r#"{"ADMIN_TOKEN":"x"}"#] {
        assert_eq!(Document::parse(secret(object), None).unwrap_err(), RotationError::FieldNotChosen, "{object}");
    }
    let text = Document::parse(secret("old"), None).unwrap();
    assert_eq!(text.with_secret(&secret("{}")).unwrap_err(), RotationError::FieldNotChosen);
}

#[test]
fn an_empty_secret_is_refused() {
    assert_eq!(Document::parse(secret(""), None).unwrap_err(), RotationError::EmptyValue);
    let not_text = RotationError::FieldNotText { field: FIELD.to_owned(), problem: "an empty string" };
    assert_eq!(parse(r#"{"ADMIN_TOKEN":""}"#).unwrap_err(), not_text);
    let document = parse(r#"{"ADMIN_TOKEN":"old"}"#).unwrap();
    assert_eq!(document.with_secret(&secret("")).unwrap_err(), not_text);
}

#[test]
fn the_first_value_is_the_text_or_an_object_of_one_member() {
    let quote = secret("a\"b");
    assert_eq!(text(&Document::first(&quote, None).unwrap()), "a\"b");
    let object = Document::first(&quote, Some(&field(FIELD))).unwrap();
    assert_eq!(text(&object), r#"{"ADMIN_TOKEN":"a\"b"}"#);
    assert_eq!(object.secret().unwrap(), quote);
    assert_eq!(Document::first(&secret(""), None).unwrap_err(), RotationError::EmptyValue);
    assert_eq!(Document::first(&secret(""), Some(&field(FIELD))).unwrap_err().name(), "FieldNotText");
}

#[test]
fn a_byte_order_mark_before_json_is_kept() {
    for json in [r#"{"ADMIN_TOKEN":"old","x":1}"#, " { \"a\" : 1,\r\n \"ADMIN_TOKEN\" : \"old\" }\r\n"] {
        let document = parse(&format!("\u{feff}{json}")).unwrap();
        assert_eq!(document.secret().unwrap(), secret("old"));
        let rotated = document.with_secret(&secret("new")).unwrap();
        assert_eq!(text(&rotated), format!("\u{feff}{}", json.replace("old", "new")));
        let member = field("ADMIN_TOKEN_PREVIOUS");
        let more = rotated.with_member(&member, &secret("old")).unwrap();
        assert!(text(&more).starts_with('\u{feff}') && is_json(text(&more).trim_start_matches('\u{feff}')));
        assert_eq!(text(&more.without_member(&member).unwrap()), text(&rotated));
    }
}

#[test]
fn unrotatable_value_is_refused_by_name_and_never_shown() {
    let missing = RotationError::FieldMissing { field: FIELD.to_owned() };
    let repeated = RotationError::FieldRepeated { field: FIELD.to_owned() };
    let not_text = |problem| RotationError::FieldNotText { field: FIELD.to_owned(), problem };
    let not_object = |problem| RotationError::NotAnObject { field: FIELD.to_owned(), problem };
    for (value, expected) in [
        (format!(r#"{{"other":"{CANARY}"}}"#), missing.clone()),
        (format!(r#"{{"{CANARY}":"{CANARY}"}}"#), missing.clone()),
        (format!(r#"{{"nested":{{"ADMIN_TOKEN":"{CANARY}"}}}}"#), missing.clone()),
        ("{}".to_owned(), missing),
        (format!(r#"{{"ADMIN_TOKEN":"","o":"{CANARY}"}}"#), not_text("an empty string")),
        (format!(r#"{{"ADMIN_TOKEN":["{CANARY}"]}}"#), not_text("an array")),
        (format!(r#"{{"ADMIN_TOKEN":{{"{CANARY}":"{CANARY}"}}}}"#), not_text("an object")),
        (format!(r#"{{"ADMIN_TOKEN":true,"o":"{CANARY}"}}"#), not_text("a boolean")),
        (format!(r#"{{"ADMIN_TOKEN":false,"o":"{CANARY}"}}"#), not_text("a boolean")),
        (format!(r#"{{"ADMIN_TOKEN":null,"o":"{CANARY}"}}"#), not_text("null")),
        (format!(r#"{{"ADMIN_TOKEN":-12,"o":"{CANARY}"}}"#), not_text("a number")),
        (format!(r#"{{"ADMIN_TOKEN":"{CANARY}\ud800"}}"#), not_text("a string that is no valid Unicode")),
        (format!(r#"{{"ADMIN_TOKEN":"\udc00{CANARY}"}}"#), not_text("a string that is no valid Unicode")),
        (format!(r#"{{"ADMIN_TOKEN":"{CANARY}","ADMIN_TOKEN":"{CANARY}"}}"#), repeated.clone()),
        (format!(r#"{{"ADMIN_TOKEN":1,"a":2,"ADMIN_TOKEN":"{CANARY}"}}"#), repeated),
        (format!(r#"["{CANARY}"]"#), not_object("JSON of another kind")),
        (format!(r#"[{{"ADMIN_TOKEN":"{CANARY}"}}]"#), not_object("JSON of another kind")),
        (format!(r#""{CANARY}""#), not_object("JSON of another kind")),
        ("12345.678".to_owned(), not_object("JSON of another kind")),
        ("null".to_owned(), not_object("JSON of another kind")),
        (CANARY.to_owned(), not_object("not JSON")),
        (String::new(), not_object("not JSON")),
        (format!(r#"{{"ADMIN_TOKEN":"{CANARY}""#), not_object("not JSON")),
        (format!(r#"{{"ADMIN_TOKEN":"{CANARY}",}}"#), not_object("not JSON")),
        (format!(r#"{{'ADMIN_TOKEN':'{CANARY}'}}"#), not_object("not JSON")),
        (format!(r#"{{"ADMIN_TOKEN":"{CANARY}"}}{{}}"#), not_object("not JSON")),
        (format!("{{\"ADMIN_TOKEN\":\"{CANARY}\n\"}}"), not_object("not JSON")),
        (format!(r#"{{"ADMIN_TOKEN":"{CANARY}","n":01}}"#), not_object("not JSON")),
        (format!(r#"{{"ADMIN_TOKEN":"{CANARY}","n":NaN}}"#), not_object("not JSON")),
        (format!("\u{feff}[\"{CANARY}\"]"), not_object("JSON of another kind")),
        (format!("\u{feff}\u{feff}{{\"ADMIN_TOKEN\":\"{CANARY}\"}}"), not_object("not JSON")),
        (format!("// {CANARY}\n{{\"ADMIN_TOKEN\":\"x\"}}"), not_object("not JSON")),
    ] {
        let error = parse(&value).unwrap_err();
        assert_eq!(error, expected, "{value}");
        assert_no_canary(&error);
    }
}

#[test]
fn edits_of_a_repeated_member_are_refused() {
    let document = parse(&format!(r#"{{"ADMIN_TOKEN":"t","dup":"{CANARY}","dup":"{CANARY}"}}"#)).unwrap();
    let dup = field("dup");
    let repeated = RotationError::FieldRepeated { field: "dup".to_owned() };
    assert_eq!(document.member(&dup).unwrap_err(), repeated);
    assert_eq!(document.with_member(&dup, &secret("x")).unwrap_err(), repeated);
    assert_eq!(document.without_member(&dup).unwrap_err(), repeated);
    assert_no_canary(&repeated);
}

#[test]
fn the_rotated_member_itself_cannot_be_removed() {
    let document = parse(r#"{"ADMIN_TOKEN":"t","a":1}"#).unwrap();
    let missing = RotationError::FieldMissing { field: FIELD.to_owned() };
    assert_eq!(document.without_member(&field(FIELD)).unwrap_err(), missing);
}

#[test]
fn debug_of_a_document_shows_no_value_and_no_foreign_name() {
    let json = format!(r#"{{"ADMIN_TOKEN":"{CANARY}","{CANARY}":"{CANARY}"}}"#);
    let json = parse(&json).unwrap();
    let plain = Document::parse(secret(CANARY), None).unwrap();
    assert_not_in(&format!("{json:?} {json:#?} {plain:?} {:?} {:?}", json.secret(), json.text()));
    assert!(format!("{json:?}").contains(FIELD));
}

#[test]
fn members_are_compared_as_they_are_written_and_in_order() {
    let same = |one: &str, other: &str, except: &[FieldName]| {
        parse(one).unwrap().same_other_members(&parse(other).unwrap(), except)
    };
    let own = [field(FIELD), field(PREVIOUS)];
    assert!(same(r#"{"ADMIN_TOKEN":"a","x":1}"#, r#"{"x":1,"ADMIN_TOKEN":"b","ADMIN_TOKEN_PREVIOUS":"a"}"#, &own));
    assert!(!same(r#"{"ADMIN_TOKEN":"a","x":1}"#, r#"{"ADMIN_TOKEN":"b","x":1}"#, &[]));
    for (one, other) in [
        (r#"{"ADMIN_TOKEN":"a","x":1,"y":2}"#, r#"{"ADMIN_TOKEN":"a","y":2,"x":1}"#),
        (r#"{"ADMIN_TOKEN":"a","x":1}"#, r#"{"ADMIN_TOKEN":"a","x":1.0}"#),
        (r#"{"ADMIN_TOKEN":"a","x":"é"}"#, r#"{"ADMIN_TOKEN":"a","x":"\u00e9"}"#),
        (r#"{"ADMIN_TOKEN":"a","x":1}"#, r#"{"ADMIN_TOKEN":"a","x":1,"x":1}"#),
        (r#"{"ADMIN_TOKEN":"a","x":[1,2]}"#, r#"{"ADMIN_TOKEN":"a","x":[1, 2]}"#),
        (r#"{"ADMIN_TOKEN":"a","x":1}"#, r#"{"ADMIN_TOKEN":"a"}"#),
    ] {
        assert!(!same(one, other, &own), "{one} {other}");
    }
}

#[test]
fn the_longest_value_is_edited_as_any_other() {
    let filler = "x".repeat(rotation::document::MAX_VALUE_BYTES);
    let json = format!(r#"{{"filler":"{filler}","ADMIN_TOKEN":"old"}}"#);
    assert_eq!(rotated(&json, "new"), json.replace("\"old\"", "\"new\""));
    let long: SecretText = secret(&filler);
    assert_eq!(parse(&rotated(r#"{"ADMIN_TOKEN":"old"}"#, &filler)).unwrap().secret().unwrap(), long);
}

#[test]
fn a_text_that_looks_like_json_is_not_replaced_as_a_whole() {
    for value in ["{\"T\":\"x\",\"DB\":\"y\",}", "\u{feff}{\"T\":\"x\"}", " [{\"T\":\"x\"}]", "{", "["] {
        let parsed = Document::parse(SecretText::new(value.to_owned()), None);
        assert_eq!(parsed.map(|_| ()), Err(RotationError::FieldNotChosen), "{value:?}");
    }
}
