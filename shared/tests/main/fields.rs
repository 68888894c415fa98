//! Several members that rotate together.

use std::time::SystemTime;

use rotation::document::FieldName;
use rotation::error::RotationError;
use rotation::policy::{FIELDS, StackPolicy};

use crate::environment;

/// The members of a kind whose value has several.
fn fields(variables: &[(&str, &str)], chosen: &[(&str, &str)]) -> Result<(String, Vec<String>), RotationError> {
    let stack = StackPolicy::from_environment(&environment(variables), &[&FIELDS])?;
    let tags = chosen.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let policy = stack.for_secret(&tags, SystemTime::UNIX_EPOCH)?;
    let names = policy.fields.iter().map(FieldName::to_string).collect();
    Ok((policy.field.map(|field| field.to_string()).unwrap_or_default(), names))
}

#[test]
fn several_members_are_chosen_within_those_of_the_stack() {
    const ALLOWED: (&str, &str) = ("ALLOWED_FIELDS", "A,B,C");
    let chosen = |field: &str, all: &[&str]| Ok((field.to_owned(), all.iter().map(ToString::to_string).collect()));
    assert_eq!(fields(&[ALLOWED], &[("rotation:fields", "A B")]), chosen("A", &["A", "B"]));
    assert_eq!(fields(&[ALLOWED], &[("rotation:fields", " B  A ")]), chosen("B", &["B", "A"]));
    assert_eq!(fields(&[ALLOWED], &[("rotation:fields", "A B"), ("rotation:field", "B")]), chosen("B", &["A", "B"]));
    assert_eq!(fields(&[ALLOWED], &[("rotation:field", "B")]), chosen("B", &["B"]));
    assert_eq!(fields(&[("ROTATION_FIELDS", "A B")], &[]), chosen("A", &["A", "B"]));
    assert_eq!(fields(&[("ROTATION_FIELD", "X"), ALLOWED], &[("rotation:fields", "A")]), chosen("A", &["A"]));
    assert_eq!(fields(&[ALLOWED], &[]), chosen("", &[]));
}

#[test]
fn members_that_no_stack_allows_are_refused() {
    for (tags, setting, problem) in [
        (&[("rotation:fields", "A D")][..], "tag rotation:fields", "expected one of A, B (ALLOWED_FIELDS)"),
        (&[("rotation:fields", "A A")], "tag rotation:fields", "names the member A twice"),
        (&[("rotation:fields", " ")], "tag rotation:fields", "expected names of members, separated by spaces"),
        (&[("rotation:fields", "A,B")], "tag rotation:fields", "expected one of A, B (ALLOWED_FIELDS)"),
        (
            &[("rotation:fields", "A"), ("rotation:field", "B")],
            "tag rotation:field",
            "names B, which is none of the members in rotation:fields (ROTATION_FIELDS): remove this tag",
        ),
    ] {
        let error = fields(&[("ALLOWED_FIELDS", "A,B")], tags).unwrap_err();
        assert_eq!(error.to_string(), format!("{setting}: {problem}"));
    }
}
