//! What the function is asked to do.

use reencrypt::error::ReencryptError;
use reencrypt::request::Request;
use serde_json::{Value, json};

use crate::{CANARY, settings, tokens_column};

/// The range of all rows of the column that is configured.
fn all() -> Value {
    json!({ "schema": "public", "table": "rows", "column": "token" })
}

/// What a census has counted of that column, with another value of one member.
fn counted(member: &str, value: Value) -> Value {
    let mut counted = all();
    let counts = json!({ "rows": 1, "nulls": 1, "keys": {}, "unknown": 0, "damaged": 0, "unreadable": [] });
    counted.as_object_mut().unwrap().extend(counts.as_object().unwrap().clone());
    counted[member] = value;
    counted
}

/// The request that goes on with a census, with another value of one member.
fn resumed(member: &str, value: Value) -> Value {
    let mut request = json!({
        "action": "census", "from": all(), "counted": [counted("rows", json!(1))],
        "began": "2026-11-25T00:00:00Z", "version": "v"
    });
    request[member] = value;
    request
}

/// Reads a request, and looks up the columns that it names.
fn ask(request: Value) -> Result<Request, ReencryptError> {
    let (request, settings) = (Request::parse(request)?, settings(&json!([tokens_column()]), &[]).unwrap());
    match &request {
        Request::Slice { range } | Request::Census { range: Some(range), .. } => {
            range.configured(&settings)?;
        }
        Request::Plan { resumed: Some(resumed), .. } | Request::Census { resumed: Some(resumed), .. } => {
            resumed.position(&settings)?;
        }
        Request::Plan { .. } | Request::Census { .. } => {}
    }
    Ok(request)
}

#[test]
fn a_request_reads_back_as_it_was_answered() {
    let range = json!({ "schema": "public", "table": "rows", "column": "token", "after": "1", "through": null });
    for request in [
        json!({ "action": "plan", "slices": 500 }),
        json!({ "action": "slice", "range": range }),
        json!({ "action": "census" }),
        json!({ "action": "census", "range": range }),
        resumed("settled", json!(true)),
        resumed("delivered", json!(true)),
    ] {
        let read = ask(request.clone()).unwrap();
        let answered = serde_json::to_value(&read).unwrap();
        assert_eq!(ask(answered.clone()), Ok(read), "{request}");
        let of = |value: &Value, member: &str| value[member].clone();
        assert_eq!(of(&answered, "action"), of(&request, "action"));
        assert_eq!(of(&answered, "began"), of(&request, "began"));
    }
    assert_eq!(ask(json!({ "action": "plan" })), ask(json!({ "action": "plan", "slices": 16 })), "the default");
}

#[test]
fn a_refused_request_is_not_repeated() {
    let with = |member: &str, value: Value| {
        let mut range = all();
        range[member] = value;
        range
    };
    let requests = [
        (json!(null), "(the event)"),
        (json!([CANARY]), "(the event)"),
        (json!({}), "action"),
        (json!({ "action": CANARY }), "action"),
        (json!({ "action": "PLAN" }), "action"),
        (json!({ "action": "plan", CANARY: 1 }), "(the event)"),
        (json!({ "action": "plan", "slices": 0 }), "slices"),
        (json!({ "action": "plan", "slices": 501 }), "slices"),
        (json!({ "action": "plan", "slices": 1.5 }), "slices"),
        (json!({ "action": "plan", "slices": CANARY }), "slices"),
        (json!({ "action": "plan", "range": all() }), "(the event)"),
        (json!({ "action": "slice" }), "range"),
        (json!({ "action": "slice", "range": CANARY }), "range"),
        (json!({ "action": "slice", "range": {} }), "range"),
        (json!({ "action": "slice", "range": with(CANARY, json!(1)) }), "range"),
        (json!({ "action": "slice", "range": with("after", json!(1)) }), "range"),
        (json!({ "action": "slice", "range": with("after", json!("1\u{0}")) }), "range"),
        (json!({ "action": "slice", "range": with("column", json!(CANARY)) }), "range"),
        (json!({ "action": "slice", "range": with("password", json!(CANARY)) }), "range"),
        (json!({ "action": "slice", "range": all(), "from": all() }), "(the event)"),
        (json!({ "action": "census", "range": all(), "from": all() }), "from"),
        (json!({ "action": "census", "host": CANARY }), "(the event)"),
        (json!({ "action": "census", "from": all() }), "from"),
        (json!({ "action": "census", "counted": [] }), "from"),
        (resumed("from", Value::Null), "from"),
        (resumed("version", json!(1)), "from"),
        (resumed("range", all()), "from"),
        (resumed("began", json!(CANARY)), "began"),
        (resumed("counted", json!(CANARY)), "counted"),
        (resumed("counted", json!([])), "counted"),
        (resumed("counted", json!([counted("table", json!(CANARY))])), "counted"),
        (resumed("counted", json!([counted("rows", json!(-1))])), "counted"),
        (resumed("counted", json!([counted("keys", json!({ CANARY: 1 }))])), "counted"),
        (resumed("counted", json!([counted("rows", json!(1)), counted("rows", json!(1))])), "counted"),
    ];
    for (request, member) in requests {
        let refused = ask(request.clone()).expect_err(&request.to_string());
        assert_eq!(refused.name(), "InvalidRequest", "{request}");
        let message = refused.to_string();
        assert!(message.starts_with(&format!("event member {member}: ")), "{request}: {message}");
        assert!(!message.contains("c4nary"), "{message}");
    }
}
