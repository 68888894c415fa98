//! The census as it travels: from the function that counts, through a state machine, to the one that retires keys.

use std::collections::BTreeSet;

use rotation::census::{Census, Columns, Tally, Unreadable};
use rotation::keyring::KeyId;
use serde_json::{Value, json};

/// What `reencrypt` answers to `{"action":"census"}`, but for the members that every answer has.
const WHOLE: &str = r#"{"began":"2026-11-25T00:00:00Z","columns":[{"column":"token","damaged":1,"foreign":0,"form":{"padded":true},"keys":{"0a1b2c3d":3,"4e5f6071":0},"nulls":1,"rows":5,"schema":"public","table":"connections","unknown":0,"unreadable":[{"key":"7","state":"damaged"}]}],"damaged":1,"delivered":true,"ended":"2026-11-25T00:01:00Z","next":null,"notLookedAt":2,"onOldKeys":0,"primaryKey":"0a1b2c3d","secret":"shop/staging/encryption-key","settled":true,"superseded":false,"unknown":0,"unlisted":["public.audit.token"],"version":"v-1","wornKeys":{}}"#;

/// The same when the ring was replaced before it was complete.
const REPLACED: &str = r#"{"began":"2026-11-25T00:00:00Z","columns":[],"damaged":0,"delivered":false,"ended":"2026-11-25T00:01:00Z","next":null,"onOldKeys":null,"primaryKey":null,"secret":"shop/staging/encryption-key","settled":false,"superseded":true,"unknown":0,"version":"v-1"}"#;

#[test]
fn a_census_reads_back_as_it_was_written() {
    for written in [WHOLE, REPLACED] {
        let census: Census = serde_json::from_str(written).unwrap();
        // An answer is a map, whose members are in order.
        assert_eq!(serde_json::to_value(&census).unwrap().to_string(), written);
    }
}

#[test]
fn what_a_census_does_not_say_speaks_for_no_retirement() {
    let needed = ["secret", "version", "began", "ended", "columns", "next"];
    let whole: Value = serde_json::from_str(WHOLE).unwrap();
    for member in whole.as_object().unwrap().keys() {
        let mut less = whole.clone();
        less.as_object_mut().unwrap().remove(member);
        let read = serde_json::from_value::<Census>(less);
        let may_be_missing = member == "ended" || member == "next" || !needed.contains(&member.as_str());
        assert_eq!(read.is_ok(), may_be_missing, "{member}");
        let Ok(read) = read else { continue };
        match member.as_str() {
            "ended" => assert_eq!(read.ended, None),
            "settled" => assert!(!read.settled),
            "delivered" => assert!(!read.delivered),
            _ => {}
        }
    }
}

fn id(text: &str) -> KeyId {
    serde_json::from_value(json!(text)).unwrap()
}

#[test]
fn rows_of_a_key_are_known_only_if_every_column_counted_it() {
    let census: Census = serde_json::from_str(WHOLE).unwrap();
    let mut columns = census.columns;
    assert_eq!(columns.rows_under(id("0a1b2c3d")), Some(3));
    let mut other = columns.0[0].clone();
    other.column.table = "others".to_owned();
    columns.0.push(other);
    assert_eq!(columns.rows_under(id("0a1b2c3d")), Some(6));
    columns.0[1].tally.keys.remove(&id("0a1b2c3d"));
    assert_eq!(columns.rows_under(id("0a1b2c3d")), None);
    assert_eq!(columns.rows_under(id("ffffffff")), None);
    assert_eq!(columns.names().len(), 2);
}

#[test]
fn a_tally_is_whole_when_every_row_became_something() {
    let mut tally = Tally::of([id("0a1b2c3d")]);
    assert!(tally.is_whole() && tally.keys.len() == 1, "every key counts, be it zero");
    tally.rows += 4;
    tally.nulls += 1;
    tally.under(id("0a1b2c3d"));
    tally.unreadable("1", Unreadable::Unknown);
    assert!(!tally.is_whole());
    tally.unreadable("2", Unreadable::Foreign);
    assert!(tally.is_whole());
    assert_eq!((tally.unknown, tally.damaged, tally.foreign), (1, 1, 1), "what is foreign is damaged as well");
    tally.keys.insert(id("4e5f6071"), u64::MAX);
    assert!(!tally.is_whole(), "and a sum that is too large is none");
}

#[test]
fn foreign_rows_are_listed_before_others_and_never_too_many() {
    let mut tally = Tally::default();
    (0..30).for_each(|row| tally.unreadable(&row.to_string(), Unreadable::Damaged));
    (100..105).for_each(|row| tally.unreadable(&row.to_string(), Unreadable::Foreign));
    assert_eq!((tally.damaged, tally.foreign, tally.unreadable.len()), (35, 5, 20));
    let foreign = tally.unreadable.iter().filter(|row| row.state == Unreadable::Foreign);
    let foreign: BTreeSet<&str> = foreign.map(|row| row.key.as_str()).collect();
    assert_eq!(foreign, BTreeSet::from(["100", "101", "102", "103", "104"]));
    // All columns together list no more than one.
    let (mut columns, census): (_, Census) = (Columns::default(), serde_json::from_str(WHOLE).unwrap());
    let name = census.columns.0[0].column.clone();
    columns.add(&name, tally.clone());
    let mut other = name.clone();
    other.table = "others".to_owned();
    columns.add(&other, tally.clone());
    columns.add(&name, tally);
    assert_eq!(columns.0.iter().map(|counted| counted.tally.unreadable.len()).collect::<Vec<_>>(), [20, 0]);
    assert_eq!(columns.sum(|tally| tally.damaged), 105);
}

#[test]
fn keys_are_worn_by_the_values_of_all_columns() {
    let census: Census = serde_json::from_str(WHOLE).unwrap();
    let (mut columns, name) = (census.columns.clone(), census.columns.0[0].column.clone());
    assert!(columns.keys_with(4).is_empty());
    columns.add(&name, census.columns.0[0].tally.clone());
    assert_eq!(columns.keys_with(6), [(id("0a1b2c3d"), 6)].into());
    assert_eq!(census.columns.0[0].tally.not_under(id("4e5f6071")), 3);
    columns.0[0].tally.keys.insert(id("4e5f6071"), u64::MAX);
    let mut other = name;
    other.table = "others".to_owned();
    columns.add(&other, census.columns.0[0].tally.clone());
    assert_eq!(columns.keys_with(u64::MAX).len(), 1, "a sum that is too large ends nothing");
}
