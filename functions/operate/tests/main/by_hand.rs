//! `rollback` of a secret that nobody rotates: what `put` stored is taken back.

use serde_json::json;

use crate::put::{NAME, ask, members, operation, unmanaged, whole};
use crate::store::{HOUR, Store};

fn rollback() -> serde_json::Value {
    json!({ "action": "rollback", "secret_id": NAME, "reason": "the new key is refused, ticket 4721" })
}

fn rolled_back(version: &str) -> String {
    operate::marker::Marker::RolledBack.on(&crate::store::version(version)).as_str().to_owned()
}

#[tokio::test]
async fn value_before_a_put_becomes_current_again() {
    for (before, put) in [(r#"{"A":"one", "n":1}"#, members(json!({ "A": "two" }))), ("one", whole("two"))] {
        let store = unmanaged(before);
        let stored = ask(&store, put).await.unwrap()["version"].clone();
        let after = store.value(NAME, "AWSCURRENT");
        let answer = ask(&store, rollback()).await.unwrap();
        assert_eq!(store.value(NAME, "AWSCURRENT"), before);
        assert_eq!(store.value(NAME, "AWSPREVIOUS"), after, "the way forward");
        assert_eq!((&answer["rolledBackFrom"], &answer["verified"]), (&stored, &json!(false)), "{answer:#}");
        let made = answer["version"].as_str().unwrap();
        assert_eq!(store.holder(NAME, &operation(made)), None, "nothing is left half way");
    }
}

#[tokio::test]
async fn rollback_sent_again_changes_nothing() {
    let store = unmanaged(r#"{"A":"one"}"#);
    ask(&store, members(json!({ "A": "two" }))).await.unwrap();
    let first = ask(&store, rollback()).await.unwrap();
    store.take_calls();
    let again = ask(&store, rollback()).await.unwrap();
    assert_eq!((&again["already"], &again["version"]), (&json!(true), &first["version"]), "{again:#}");
    assert_eq!(store.take_calls()[..2], ["DescribeSecret", "GetSecretValue"]);
    assert_eq!(store.value(NAME, "AWSCURRENT"), r#"{"A":"one"}"#);
}

#[tokio::test]
async fn each_put_can_be_rolled_back_and_labels_do_not_pile_up() {
    let store = unmanaged(r#"{"A":"one"}"#);
    for number in 0..12 {
        ask(&store, members(json!({ "A": format!("bad {number}") }))).await.unwrap();
        let answer = ask(&store, rollback()).await.unwrap();
        assert_eq!(store.value(NAME, "AWSCURRENT"), r#"{"A":"one"}"#);
        let made = answer["version"].as_str().unwrap();
        assert!(store.holder(NAME, &rolled_back(made)).is_some());
        let labels = store.stages(NAME).len();
        assert!(labels <= 3, "AWSCURRENT, AWSPREVIOUS and one of the rollback: {:?}", store.stages(NAME));
    }
}

#[tokio::test]
async fn rollback_without_a_value_before_is_refused() {
    let fresh = unmanaged(r#"{"A":"one"}"#);
    assert_eq!(ask(&fresh, rollback()).await.unwrap_err().name(), "NothingToGoBackTo");
    let first = unmanaged("{}");
    ask(&first, members(json!({ "A": "one" }))).await.unwrap();
    assert_eq!(ask(&first, rollback()).await.unwrap_err().name(), "NothingToGoBackTo");
    assert_eq!(first.value(NAME, "AWSCURRENT"), r#"{"A":"one"}"#);
    let archive = Store::new();
    archive.secret(NAME, None, |secret| {
        let secret = secret.with_version("v1", "{}", HOUR, &["AWSCURRENT"]);
        secret.with_version("v0", r#"{"keys":[]}"#, HOUR, &["AWSPREVIOUS", "ROTATION-ARCHIVE"])
    });
    assert_eq!(ask(&archive, rollback()).await.unwrap_err().name(), "InvalidRequest");
}

#[tokio::test]
async fn rollback_that_died_before_it_ended_is_finished() {
    let store = Store::new();
    store.secret(NAME, None, |secret| {
        let secret = secret.with_version("v2", "two", HOUR, &["AWSPREVIOUS"]);
        secret.with_version("v3", "one", HOUR, &["AWSCURRENT", &operation("v3"), &rolled_back("v3")])
    });
    let answer = ask(&store, rollback()).await.unwrap();
    assert_eq!((&answer["already"], &answer["version"]), (&json!(true), &json!("v3")), "{answer:#}");
    assert_eq!(store.holder(NAME, &operation("v3")), None);
    let store = Store::new();
    store.secret(NAME, None, |secret| {
        let secret = secret.with_version("v1", "one", HOUR, &["AWSPREVIOUS"]);
        let secret = secret.with_version("v2", "two", HOUR, &["AWSCURRENT"]);
        secret.with_version("dead", "one", HOUR, &[&operation("dead"), &rolled_back("dead")])
    });
    ask(&store, rollback()).await.unwrap();
    assert_eq!(store.value(NAME, "AWSCURRENT"), "one");
    assert!(store.holder(NAME, &operation("dead")).is_none() && store.holder(NAME, &rolled_back("dead")).is_none());
}
