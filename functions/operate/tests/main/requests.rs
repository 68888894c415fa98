//! What a request has to look like, action by action.

use operate::AllowedActions;
use operate::action::Action;
use operate::error::OperateError;
use operate::request::Request;
use serde_json::{Value, json};

use crate::environment;

/// The least that the action wants.
fn least(action: Action) -> Value {
    let mut request = json!({ "action": action });
    if ![Action::Sweep, Action::Report].contains(&action) {
        request["secret_id"] = json!("shop/secret");
    }
    if ![Action::Status, Action::Verify, Action::Doctor, Action::Sweep, Action::Report].contains(&action) {
        request["reason"] = json!("a test");
    }
    match action {
        Action::Forget => request["keys"] = json!(["5e6f7081"]),
        Action::Retire => request["censuses"] = json!([census(), census()]),
        Action::Put => request["members"] = json!({ "OPENAI_API_KEY": "a value" }),
        _ => {}
    }
    request
}

fn census() -> Value {
    json!({
        "secret": "shop/secret", "version": "v", "began": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:01:00Z",
        "columns": [], "next": null
    })
}

fn refusal(request: Value) -> (String, String) {
    match Request::parse(request.clone()) {
        Err(OperateError::InvalidRequest { member, problem }) => (member, problem),
        other => panic!("{request}: {other:?}"),
    }
}

#[test]
fn every_action_is_asked_for_by_its_name() {
    for action in Action::ALL {
        let request = Request::parse(least(action)).unwrap_or_else(|error| panic!("{action}: {error}"));
        assert_eq!(request.action(), action);
        assert_eq!(
            request.secret_id(),
            if [Action::Sweep, Action::Report].contains(&action) { "" } else { "shop/secret" }
        );
    }
    assert_eq!(refusal(json!({ "action": "statsu", "secret_id": "shop/secret" })).0, "action");
    assert_eq!(refusal(json!({ "secret_id": "shop/secret" })).0, "action");
    assert_eq!(refusal(json!([])).0, "(the event)");
}

#[test]
fn what_changes_something_wants_a_reason() {
    for action in Action::ALL {
        let mut request = least(action);
        let wanted = request.as_object_mut().unwrap().remove("reason").is_some();
        assert_eq!(Request::parse(request.clone()).is_err(), wanted, "{action}");
        if wanted {
            assert_eq!(refusal(request.clone()).0, "reason");
            request["reason"] = json!("x".repeat(501));
            assert_eq!(refusal(request.clone()), ("reason".to_owned(), "expected at most 500 characters".to_owned()));
        }
        request["reason"] = json!("a test");
        assert_eq!(Request::parse(request).unwrap().reason(), Some("a test"), "also where none is wanted");
    }
}

#[test]
fn a_member_of_another_action_is_refused() {
    for (member, value, takes) in [
        ("from", json!("page 2"), vec![Action::Sweep, Action::Report]),
        ("format", json!("html"), vec![Action::Report]),
        ("confirm", json!("shop/secret"), vec![Action::Compromise, Action::Restore, Action::Forget]),
        ("keys", json!(["5e6f7081"]), vec![Action::Forget]),
        ("censuses", json!([census(), census()]), vec![Action::Retire]),
        ("members", json!({ "OPENAI_API_KEY": "a value" }), vec![Action::Put]),
        ("force", json!(true), vec![]),
    ] {
        for action in Action::ALL {
            let mut request = least(action);
            request[member] = value.clone();
            if takes.contains(&action) {
                assert!(Request::parse(request).is_ok(), "{action} {member}");
            } else {
                assert_eq!(refusal(request).0, member, "{action}");
            }
        }
    }
    let with_secret = json!({ "action": "sweep", "secret_id": "shop/secret" });
    assert_eq!(refusal(with_secret).1, "a sweep and a report look at all secrets: leave it out");
}

#[test]
fn a_member_of_another_form_is_refused_by_name() {
    for (action, member, value) in [
        (Action::Status, "secret_id", json!(7)),
        (Action::Report, "format", json!("pdf")),
        (Action::Status, "secret_id", json!(" ")),
        (Action::Status, "secret_id", json!("s".repeat(2049))),
        (Action::Status, "secret_id", json!(null)),
        (Action::Forget, "keys", json!("5e6f7081")),
        (Action::Forget, "keys", json!(["not a key"])),
        (Action::Forget, "keys", json!(null)),
        (Action::Retire, "censuses", json!(null)),
        (Action::Retire, "censuses", json!([census()])),
        (Action::Retire, "censuses", json!([census(), {}])),
        (Action::Compromise, "confirm", json!(true)),
    ] {
        let mut request = least(action);
        request[member] = value;
        assert_eq!(refusal(request.clone()).0, member, "{request}");
    }
    // Serde's own words could quote what a census holds.
    let (_, problem) = refusal(json!({
        "action": "retire", "secret_id": "shop/secret", "reason": "a test", "censuses": [census(), { "secret": 12345 }]
    }));
    assert!(!problem.contains("12345"), "{problem}");
}

#[test]
fn a_schedule_asks_for_a_sweep_and_no_other_event_does() {
    let event = |detail_type: &str| {
        json!({
            "version": "0", "id": "89d1a02d-5ec7-412e-82f5-13505f849b41", "detail-type": detail_type,
            "source": "aws.events", "account": "123456789012", "time": "2026-01-01T00:00:00Z", "region": "us-east-1",
            "resources": ["arn:aws:events:us-east-1:123456789012:rule/sweep"], "detail": {}
        })
    };
    let Ok(Request::Sweep(sweep)) = Request::parse(event("Scheduled Event")) else { panic!() };
    assert!(sweep.scheduled.is_some() && sweep.reason.is_none());
    assert_eq!(refusal(event("Something else")).0, "detail-type");
}

#[test]
fn a_deployment_is_for_the_actions_that_it_names() {
    let allowed = |names: &str| AllowedActions::from_environment(&environment(&[("ALLOWED_ACTIONS", names)]));
    let some = allowed("status, verify").unwrap();
    assert_eq!(some.check(Action::Verify), Ok(()));
    let refused = some.check(Action::Abort).unwrap_err();
    assert_eq!(refused.name(), "ActionNotAllowed");
    assert!(refused.to_string().contains("status, verify"), "{refused}");
    assert_eq!(allowed("status, statsu").unwrap_err().name(), "InvalidConfiguration");
    assert_eq!(AllowedActions::from_environment(&environment(&[])).unwrap_err().name(), "InvalidConfiguration");
}
