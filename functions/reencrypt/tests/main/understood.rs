//! What a plan learns of a column, and what a slice may write by it.

use reencrypt::settings::Column;
use reencrypt::understood::Understood;
use rotation::census::{Tally, Unreadable};
use rotation::rows::Form;
use serde_json::{Value, json};

use crate::settings;

fn column(members: &Value) -> Column {
    let mut column = json!({ "table": "rows", "column": "token", "format": "aes-gcm" });
    column.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    settings(&json!([column]), &[]).unwrap().columns.remove(0)
}

/// What a plan answers of a column whose values show this of their form.
fn understood(column: &Column, form: Form) -> Understood {
    Understood::of(column, &Tally { form, ..Tally::default() }).unwrap()
}

#[test]
fn a_column_with_foreign_values_is_not_understood() {
    let column = column(&json!({}));
    let mut tally = Tally { rows: 9, nulls: 2, ..Tally::default() };
    tally.unreadable("4", Unreadable::Damaged);
    Understood::of(&column, &tally).expect("what is damaged is in the format all the same");
    (5..8).for_each(|row| tally.unreadable(&row.to_string(), Unreadable::Foreign));
    let refused = Understood::of(&column, &tally).unwrap_err();
    assert_eq!(refused.name(), "ColumnNotUnderstood");
    let message = refused.to_string();
    assert!(message.contains("3 of 7 values are not aes-gcm ciphertexts in the usual encoding"), "{message}");
    assert!(message.contains("Their keys begin with 5, 6, 7"), "{message}");
}

#[test]
fn a_slice_writes_by_what_the_plan_has_read() {
    let form = Form { padded: true, ..Form::default() };
    let plain = column(&json!({}));
    assert_eq!(Understood::form(Some(&understood(&plain, form)), &plain), Ok(form));
    // The configuration tells what no value shows, and wins.
    let configured = column(&json!({ "padding": false, "encoding": "base64url" }));
    let by_configuration = Understood::form(Some(&understood(&configured, form)), &configured).unwrap();
    assert_eq!(by_configuration, Form { unpadded: true, alphabet: true, ..Form::default() });
}

#[test]
fn a_slice_writes_nothing_without_a_plan_of_the_same_column() {
    let plain = column(&json!({}));
    let refused = Understood::form(None, &plain).unwrap_err().to_string();
    assert!(refused.contains("take the ranges of a new plan"), "{refused}");
    for other in [json!({ "encoding": "base64" }), json!({ "aad": ["id"] }), json!({ "format": "aes-gcm-hex" })] {
        let other = column(&other);
        for (read, configured) in [(&plain, &other), (&other, &plain)] {
            let read = understood(read, Form::default());
            let refused = Understood::form(Some(&read), configured).unwrap_err();
            assert!(refused.to_string().contains("is not the one that the plan read it by"), "{refused}");
        }
    }
}
