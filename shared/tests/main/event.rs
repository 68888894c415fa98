//! Events: what is taken, what is ignored, and errors that never repeat what an event holds.

use aws_lambda_events::secretsmanager::SecretsManagerSecretRotationEvent;
use rotation::error::RotationError;
use rotation::event::{RotationEvent, Step};
use serde_json::{Value, json};

use crate::{CANARY, assert_no_canary, assert_not_in};

/// The fixture that `aws_lambda_events` 1.2 ships.
const FIXTURE: &str = r#"{
    "Step": "createSecret",
    "SecretId": "arn:aws:secretsmanager:us-east-1:111122223333:secret:id-ABCD1E",
    "ClientRequestToken": "1ab23456-cde7-8912-34fg-h56i78j9k12l"
}"#;

fn event() -> Value {
    serde_json::from_str(FIXTURE).unwrap()
}

fn with(member: &str, value: Value) -> Value {
    let mut event = event();
    event[member] = value;
    event
}

fn refused(event: Value) -> (&'static str, String) {
    let error = RotationEvent::parse(event).unwrap_err();
    assert_no_canary(&error);
    assert_eq!(error.name(), "InvalidEvent");
    let message = error.to_string();
    let RotationError::InvalidEvent { field, problem } = error else { panic!("{message}") };
    assert_eq!(message, format!("event member {field}: {problem}"));
    (field, problem)
}

#[test]
fn fixture_of_aws_lambda_events_means_the_same_to_both_crates() {
    let theirs: SecretsManagerSecretRotationEvent = serde_json::from_str(FIXTURE).unwrap();
    let ours = RotationEvent::parse(event()).unwrap();
    assert_eq!(ours.step.name(), theirs.step);
    assert_eq!(ours.secret_id, theirs.secret_id);
    assert_eq!(ours.version.as_str(), theirs.client_request_token);
    assert_eq!(ours.rotation_token, None);
}

#[test]
fn both_spellings_of_a_step_in_the_documentation_are_read() {
    for (name, step) in [
        ("create_secret", Step::CreateSecret),
        ("set_secret", Step::SetSecret),
        ("test_secret", Step::TestSecret),
        ("finish_secret", Step::FinishSecret),
    ] {
        assert_eq!(RotationEvent::parse(with("Step", json!(name))).map(|event| event.step), Ok(step));
    }
}

#[test]
fn four_steps_are_known_by_the_names_of_secrets_manager_only() {
    let steps = [
        ("createSecret", Step::CreateSecret),
        ("setSecret", Step::SetSecret),
        ("testSecret", Step::TestSecret),
        ("finishSecret", Step::FinishSecret),
    ];
    for (name, step) in steps {
        assert_eq!(RotationEvent::parse(with("Step", json!(name))).unwrap().step, step);
        assert_eq!((step.name(), step.to_string().as_str()), (name, name));
        assert_eq!(serde_json::to_value(step).unwrap(), json!(name));
    }
    for other in [
        "",
        "CreateSecret",
        "CREATE_SECRET",
        "create_secret ",
        "createSecret ",
        "create-secret",
        "finish",
        "deleteSecret",
    ] {
        let (field, problem) = refused(with("Step", json!(other)));
        assert_eq!(field, "Step");
        assert!(problem.contains("createSecret, setSecret, testSecret or finishSecret"), "{problem}");
    }
}

#[test]
fn members_that_are_not_known_are_ignored() {
    let mut more = event();
    more["ResourceVersion"] = json!({"any": [CANARY]});
    more["step"] = json!(7);
    assert_eq!(RotationEvent::parse(more), RotationEvent::parse(event()));
}

#[test]
fn the_rotation_token_is_kept_and_never_shown() {
    let event = RotationEvent::parse(with("RotationToken", json!(CANARY))).unwrap();
    assert_eq!(event.rotation_token.as_ref().unwrap().expose(), CANARY);
    assert_not_in(&format!("{event:?} {event:#?} {:?}", event.rotation_token));
}

#[test]
fn a_missing_member_is_named() {
    for name in ["Step", "SecretId", "ClientRequestToken"] {
        let mut event = with("RotationToken", json!(CANARY));
        event.as_object_mut().unwrap().remove(name);
        let (field, problem) = refused(event);
        assert_eq!(field, name);
        assert!(problem.starts_with("is missing"), "{problem}");
    }
}

#[test]
fn member_of_another_type_is_named_with_the_shape_found() {
    for name in ["Step", "SecretId", "ClientRequestToken", "RotationToken"] {
        for (value, shape) in [
            (Value::Null, "null"),
            (json!(true), "a boolean"),
            (json!(12), "a number"),
            (json!([CANARY, CANARY]), "an array of 2 items"),
            (json!({ CANARY: CANARY }), "an object of 1 members"),
        ] {
            if name == "RotationToken" && value.is_null() {
                // Optional, so null says the same as nothing.
                assert_eq!(RotationEvent::parse(with(name, value)).unwrap().rotation_token, None);
                continue;
            }
            assert_eq!(refused(with(name, value)), (name, format!("expected a string, got {shape}")));
        }
    }
}

#[test]
fn an_event_that_is_no_object_is_refused_by_its_shape() {
    for (value, shape) in [
        (Value::Null, "null"),
        (json!(false), "a boolean"),
        (json!(1e300), "a number"),
        (json!(CANARY), "a string of 39 characters"),
        (json!([CANARY]), "an array of 1 items"),
    ] {
        assert_eq!(refused(value), ("event", format!("expected an object, got {shape}")));
    }
}

#[test]
fn a_wrong_text_in_any_member_is_named_and_not_repeated() {
    let long = CANARY.repeat(100);
    for (name, value) in [
        ("Step", CANARY),
        ("SecretId", &long),
        ("ClientRequestToken", &CANARY[..31]),
        ("ClientRequestToken", &long),
        ("ClientRequestToken", "with a blank c4nary c4nary c4nary"),
        ("ClientRequestToken", "with-a-line-break-c4nary-c4nary\n"),
        ("ClientRequestToken", "ümläuts-c4nary-c4nary-c4nary-c4nary"),
        ("RotationToken", &CANARY[..35]),
        ("RotationToken", &long),
    ] {
        let mut event = with(name, json!(value));
        if name != "RotationToken" {
            event["RotationToken"] = json!(CANARY);
        }
        assert_eq!(refused(event).0, name);
    }
}

#[test]
fn lengths_are_bounded_as_in_the_api_reference() {
    for (name, least, most) in [("SecretId", 1, 2048), ("ClientRequestToken", 32, 64), ("RotationToken", 36, 256)] {
        for good in [least, most] {
            assert!(RotationEvent::parse(with(name, json!("x".repeat(good)))).is_ok(), "{name} of {good}");
        }
        for bad in [least - 1, most + 1] {
            let (field, problem) = refused(with(name, json!("x".repeat(bad))));
            assert_eq!(field, name);
            assert!(problem.contains(&format!("{least} to {most}")), "says the bounds: {problem}");
        }
    }
}
