//! Which values of a token ask nothing new of a consumer that has another one.

use super::*;

/// Whether consumers with the first value need nothing more for the second one.
fn needs_none(delivered: &str, current: &str) -> bool {
    let rotation = Rotation::json("24h");
    let (delivered, current) = (rotation.parse(delivered), rotation.parse(current));
    kind().needs_no_delivery(&rotation.policy, &delivered, &current, now()).unwrap()
}

fn with_previous(token: &str, previous: &str, until: &str) -> String {
    format!(
        r#"{{"ADMIN_TOKEN":"{token}","ADMIN_TOKEN_PREVIOUS":"{previous}","ADMIN_TOKEN_PREVIOUS_UNTIL":"{until}","x":1}}"#
    )
}

const LATER: &str = "2026-11-02T12:00:00Z";
const PAST: &str = "2026-11-01T11:59:59Z";

#[test]
fn another_token_has_to_be_delivered() {
    assert!(!needs_none(r#"{"ADMIN_TOKEN":"a"}"#, r#"{"ADMIN_TOKEN":"b"}"#));
    assert!(!needs_none(&with_previous("a", "b", LATER), &with_previous("b", "a", LATER)));
}

#[test]
fn another_member_has_not_to_be_delivered() {
    assert!(needs_none(r#"{"ADMIN_TOKEN":"a","x":1}"#, r#"{"x":2,"ADMIN_TOKEN":"a","y":"z"}"#));
    assert!(needs_none(&with_previous("a", "b", LATER), &with_previous("a", "b", LATER).replace(":1", ":2")));
}

#[test]
fn the_end_of_an_overlap_by_its_date_has_not_to_be_delivered() {
    for ended in [PAST, "2026-11-01T12:00:00Z", "no date", ""] {
        assert!(needs_none(&with_previous("a", "b", ended), r#"{"ADMIN_TOKEN":"a"}"#), "{ended}");
        assert!(needs_none(&with_previous("a", "b", ended), &with_previous("a", "c", ended)), "{ended}");
    }
}

/// A server that reads at its start accepts the old token until it is started anew.
#[test]
fn a_revocation_before_that_date_has_to_be_delivered() {
    assert!(!needs_none(&with_previous("a", "b", LATER), r#"{"ADMIN_TOKEN":"a"}"#));
    assert!(!needs_none(&with_previous("a", "b", LATER), &with_previous("a", "b", PAST)));
    assert!(!needs_none(r#"{"ADMIN_TOKEN":"a"}"#, &with_previous("a", "b", LATER)), "another token is accepted");
    assert!(!needs_none(&with_previous("a", "b", LATER), &with_previous("a", "c", LATER)));
}

#[test]
fn of_a_text_only_the_token_counts() {
    let rotation = Rotation::of(&[]);
    for (delivered, expected) in [("a", true), ("b", false)] {
        let (delivered, current) = (rotation.parse(delivered), rotation.parse("a"));
        let found = kind().needs_no_delivery(&rotation.policy, &delivered, &current, now());
        assert_eq!(found, Ok(expected));
    }
}
