//! What `put` stores, and what it refuses.

use std::time::Duration;

use operate::dispatch::SecretRequest;
use operate::error::OperateError;
use operate::request::Request;
use rotation::aws::Clients;
use rotation::deadline::Deadline;
use serde_json::{Value, json};

use crate::store::{DAY, HOUR, Secret, Store};
use crate::{DEPLOYMENT, environment, operator};

pub(crate) const NAME: &str = "shop/providers";
const OLD: &str = "sk-old-value-of-openai";
const NEW: &str = "sk-new-\"value\"\nof-openai";

pub(crate) async fn ask(store: &Store, request: Value) -> Result<Value, OperateError> {
    let operator = operator(&[("ALLOWED_FIELDS", "KEY")]);
    let request = Request::parse(request)?;
    let clients = Clients::from_environment(&environment(&DEPLOYMENT), || std::time::SystemTime::UNIX_EPOCH).unwrap();
    let deadline = Deadline::after(Duration::from_secs(60));
    let request = SecretRequest { operator: &operator, clients: &clients, request: &request, deadline };
    request.perform(store).await.map(|response| serde_json::to_value(response).unwrap())
}

pub(crate) fn members(members: Value) -> Value {
    json!({ "action": "put", "secret_id": NAME, "reason": "ticket 4720", "members": members })
}

pub(crate) fn whole(value: &str) -> Value {
    json!({ "action": "put", "secret_id": NAME, "reason": "ticket 4720", "value": value })
}

/// A secret that nobody rotates.
pub(crate) fn unmanaged(value: &str) -> Store {
    let store = Store::new();
    store.secret(NAME, None, |secret| secret.with_version("v1", value, DAY, &["AWSCURRENT"]));
    store
}

fn keyed(secret: Secret) -> Secret {
    let value = json!({ "KEY": "the-token-of-the-function-0123456789", "OPENAI_API_KEY": OLD }).to_string();
    secret.with_tag("rotation:field", "KEY").with_version("v1", &value, DAY, &["AWSCURRENT"])
}

#[tokio::test]
async fn a_member_is_replaced_and_all_other_bytes_stay() {
    let before = format!("{{\n  \"PORT\" : 1.0,\n  \"OPENAI_API_KEY\" : \"{OLD}\",\n  \"NOTE\":\"ä\"  }}\n");
    let store = unmanaged(&before);
    let answer = ask(&store, members(json!({ "OPENAI_API_KEY": NEW }))).await.unwrap();
    let expected = before.replace(&format!("\"{OLD}\""), &json!(NEW).to_string());
    assert_eq!(store.value(NAME, "AWSCURRENT"), expected);
    assert_eq!(store.value(NAME, "AWSPREVIOUS"), before, "the way back");
    assert_eq!((&answer["replaced"], &answer["already"]), (&json!("v1"), &json!(false)), "{answer:#}");
    assert_eq!(answer["members"], json!(["OPENAI_API_KEY"]));
    assert_eq!((&answer["verified"], &answer["notVerified"]), (&json!(false), &json!(["OPENAI_API_KEY"])));
    assert_eq!(store.stages(NAME).len(), 2, "nothing is left behind: {:?}", store.stages(NAME));
}

#[tokio::test]
async fn a_put_is_recorded_in_a_tag_of_the_member() {
    let store = unmanaged("{}");
    let answer = ask(&store, members(json!({ "A": "one", "B.c-d": "two" }))).await.unwrap();
    assert_eq!(store.value(NAME, "AWSCURRENT"), r#"{"A":"one","B.c-d":"two"}"#);
    let done = answer["done"].as_str().unwrap().to_owned();
    store.change(NAME, |secret| {
        for tag in ["rotation:done:A", "rotation:done:B.c-d"] {
            assert_eq!(secret.described.tags[tag], done);
        }
    });
    assert!(answer.get("notRecorded").is_none(), "{answer:#}");
}

#[tokio::test]
async fn a_put_that_is_sent_again_makes_no_new_version() {
    let store = unmanaged(&json!({ "A": "one" }).to_string());
    let version = ask(&store, members(json!({ "A": "two" }))).await.unwrap()["version"].clone();
    store.take_calls();
    let again = ask(&store, members(json!({ "A": "two" }))).await.unwrap();
    assert_eq!((&again["already"], &again["version"]), (&json!(true), &version), "{again:#}");
    assert_eq!(store.take_calls(), ["DescribeSecret", "GetSecretValue", "TagResource"]);
}

#[tokio::test]
async fn a_text_secret_is_replaced_as_a_whole() {
    for before in ["old-text", "[\"cookie\"]", "{}"] {
        let store = unmanaged(before);
        let answer = ask(&store, whole(NEW)).await.unwrap();
        assert_eq!(store.value(NAME, "AWSCURRENT"), NEW);
        assert_eq!(answer["members"], json!([]));
        store.change(NAME, |secret| assert!(secret.described.tags.contains_key("rotation:done")));
    }
    let error = ask(&unmanaged(r#"{"A":"one"}"#), whole(NEW)).await.unwrap_err().to_string();
    assert!(error.contains("JSON object") && !error.contains("openai"), "{error}");
}

#[tokio::test]
async fn what_cannot_take_the_value_is_refused_and_stays() {
    let twice = r#"{"A":"one","A":"two"}"#;
    for (value, name) in [
        ("a text", "NotAnObject"),
        ("[1]", "NotAnObject"),
        (r#"{"A":{"b":1}}"#, "FieldNotText"),
        (r#"{"A":7}"#, "FieldNotText"),
        (twice, "FieldRepeated"),
    ] {
        let store = unmanaged(value);
        let error = ask(&store, members(json!({ "A": NEW }))).await.unwrap_err();
        assert_eq!(error.name(), name, "{value}");
        assert!(!format!("{error} {error:?}").contains("openai"), "{error:?}");
        assert_eq!(store.value(NAME, "AWSCURRENT"), value);
    }
    let store = unmanaged(r#"{"A":null}"#);
    let error = ask(&store, members(json!({ "A": "x".repeat(65_536) }))).await.unwrap_err();
    assert_eq!(error.name(), "ValueTooLarge");
    ask(&store, members(json!({ "A": NEW }))).await.unwrap();
    let empty = Store::new();
    empty.secret(NAME, None, |secret| secret);
    assert_eq!(ask(&empty, members(json!({ "A": NEW }))).await.unwrap_err().name(), "InvalidRequest");
}

#[tokio::test]
async fn deleted_replica_and_archive_are_refused() {
    let changes: [fn(Secret) -> Secret; 3] = [
        |secret| secret.with(|told| told.deleted = true),
        |secret| secret.with(|told| told.replica_of = Some("eu-west-1".to_owned())),
        |secret| secret.with_version("v2", r#"{"keys":[]}"#, DAY, &["ROTATION-ARCHIVE"]),
    ];
    for change in changes {
        let store = Store::new();
        store.secret(NAME, None, |secret| change(secret.with_version("v1", "{}", DAY, &["AWSCURRENT"])));
        ask(&store, members(json!({ "A": NEW }))).await.unwrap_err();
        assert_eq!(store.holder(NAME, "AWSCURRENT"), Some(crate::store::version("v1")));
    }
}

#[tokio::test]
async fn members_that_a_function_rotates_are_refused() {
    for (function, owned) in [
        ("stack-admin-token", vec!["KEY", "KEY_PREVIOUS", "KEY_PREVIOUS_UNTIL"]),
        ("stack-encryption-key", vec!["KEY", "KEY_RING", "KEY_PREVIOUS"]),
    ] {
        let store = Store::new();
        store.secret(NAME, Some(function), |secret| {
            let key = json!({ "KEY": "5e".repeat(32), "OTHER": "x" }).to_string();
            secret.with_tag("rotation:field", "KEY").with_version("v1", &key, DAY, &["AWSCURRENT"])
        });
        for member in owned {
            let error = ask(&store, members(json!({ member: NEW, "OTHER": "y" }))).await.unwrap_err();
            assert!(error.name() == "InvalidRequest" && error.to_string().contains(member), "{function}: {error}");
        }
        assert_eq!(store.holder(NAME, "AWSCURRENT"), Some(crate::store::version("v1")));
        let answer = ask(&store, members(json!({ "OTHER": "y" }))).await.unwrap();
        assert_eq!((&answer["replaced"], &answer["notVerified"]), (&json!("v1"), &json!(["OTHER"])), "{answer:#}");
        assert_eq!(store.value(NAME, "AWSCURRENT"), json!({ "KEY": "5e".repeat(32), "OTHER": "y" }).to_string());
    }
    let text = Store::new();
    text.secret(NAME, Some("stack-admin-token"), |secret| {
        secret.with_version("v1", "a-token-of-the-function-0123456789", DAY, &["AWSCURRENT"])
    });
    for asked in [whole(NEW), members(json!({ "A": NEW }))] {
        assert_eq!(ask(&text, asked).await.unwrap_err().name(), "InvalidRequest");
    }
    let other = Store::new();
    other.secret(NAME, Some("stack-pepper"), keyed);
    assert_eq!(ask(&other, members(json!({ "A": NEW }))).await.unwrap_err().name(), "NotManaged");
}

#[tokio::test]
async fn a_put_waits_for_an_open_rotation_and_a_compromise() {
    let store = Store::new();
    store.secret(NAME, Some("stack-admin-token"), |secret| {
        keyed(secret).with_version("pending", "{}", HOUR, &["AWSPENDING"])
    });
    assert_eq!(ask(&store, members(json!({ "A": NEW }))).await.unwrap_err().name(), "RotationOpen");
    let store = Store::new();
    store.secret(NAME, Some("stack-admin-token"), |secret| {
        keyed(secret).with_version("old", r#"{"KEY":"x"}"#, 2 * DAY, &["ROTATION-COMPROMISED-01234567"])
    });
    assert_eq!(ask(&store, members(json!({ "A": NEW }))).await.unwrap_err().name(), "Compromised");
}

#[tokio::test]
async fn what_a_put_left_that_died_is_taken_away() {
    let store = Store::new();
    store.secret(NAME, None, |secret| {
        let secret = secret.with_version("v1", r#"{"A":"one"}"#, DAY, &["AWSCURRENT"]);
        let secret = secret.with_version("dead", r#"{"A":"lost"}"#, HOUR, &[&operation("dead")]);
        secret.with_version("young", r#"{"A":"other"}"#, Duration::from_secs(60), &[&operation("young")])
    });
    ask(&store, members(json!({ "A": NEW }))).await.unwrap();
    assert_eq!(store.holder(NAME, &operation("dead")), None);
    assert!(store.holder(NAME, &operation("young")).is_some(), "a request may be at work");
}

pub(crate) fn operation(version: &str) -> String {
    operate::marker::Marker::Operation.on(&crate::store::version(version)).as_str().to_owned()
}

#[test]
fn a_request_shows_no_value_and_refuses_other_forms() {
    let request = Request::parse(members(json!({ "OPENAI_API_KEY": NEW }))).unwrap();
    let shown = format!("{request:?} {:?}", Request::parse(whole(NEW)).unwrap());
    assert!(shown.contains("OPENAI_API_KEY") && shown.contains("[REDACTED]") && !shown.contains("sk-"), "{shown}");
    let mut both = members(json!({ "A": NEW }));
    both["value"] = json!(NEW);
    let forms = [
        (both, "value"),
        (whole(""), "value"),
        (members(json!({})), "members"),
        (members(json!([NEW])), "members"),
        (members(json!({ "A": "" })), "members"),
        (members(json!({ "A": 7 })), "members"),
        (members(json!({ "A": [NEW] })), "members"),
        (members(json!({ NEW: "A" })), "members"),
        (members(json!({ "": "A" })), "members"),
        (members(json!({ "x".repeat(115): "A" })), "members"),
        (json!({ "action": "put", "secret_id": NAME, "reason": "r" }), "members"),
    ];
    for (request, expected) in forms {
        let Err(OperateError::InvalidRequest { member, problem }) = Request::parse(request.clone()) else {
            panic!("{request}");
        };
        assert_eq!(member, expected, "{request}");
        assert!(!problem.contains("sk-"), "{problem}");
    }
}
