//! Notifications against the published schema of custom notifications, and the examples of `infra/EVENTS.md`.
//!
//! Source of the schema: <https://docs.aws.amazon.com/chatbot/latest/adminguide/custom-notifs.html>.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rotation::notification::{Attribute, Notification, State};
use rotation::time::parse_timestamp;
use rotation::versions::VersionId;
use serde_json::Value;

/// The most that SNS takes, attributes included (SNS API reference, Publish).
const MAX_SNS_BYTES: usize = 262_144;
/// Below the published limits of every text but a title and a description.
const MAX_TEXT: usize = 200;

fn at(text: &str) -> SystemTime {
    parse_timestamp(text).unwrap()
}

fn notification(state: State, next_steps: &[&str]) -> Notification {
    Notification {
        secret: "shop/production/admin-token".to_owned(),
        version: VersionId::new("4e1f3c52-9a0b-4b7e-8d21-0f6f3a1c9d58".to_owned()),
        at: at("2026-11-29T10:00:00Z"),
        state,
        next_steps: next_steps.iter().map(|step| (*step).to_owned()).collect(),
    }
}

/// The examples of `infra/EVENTS.md`, in its order.
fn examples() -> Vec<Notification> {
    let deliver = "rotation deliver shop/production/admin-token";
    let rotate = "aws secretsmanager rotate-secret --secret-id shop/production/admin-token";
    let reason = "service shop/api: deployment svc-1 is ROLLBACK_SUCCESSFUL: tasks failed to start";
    vec![
        notification(State::Promoted { accepted_until: Some(at("2026-11-30T10:00:00Z")) }, &[]),
        notification(State::Delivered, &[]),
        notification(State::DeliveryFailed { reason: reason.to_owned() }, &[deliver]),
        notification(
            State::DeliveryLate {
                since: at("2026-11-29T03:00:00Z"),
                reason: "service shop/api: the deployment of 2026-11-29T03:01:10Z is in progress".to_owned(),
            },
            &[deliver],
        ),
        notification(State::OverlapEnded, &[]),
        notification(
            State::RotationFailed {
                error: "TargetRefused".to_owned(),
                reason: "the application answers 401 to the new token".to_owned(),
            },
            &[rotate],
        ),
        notification(State::KeysMissing { keys: vec!["0a1b2c3d".to_owned(), "4e5f6071".to_owned()] }, &[]),
        notification(State::Due { since: at("2026-11-28T10:00:00Z") }, &[rotate]),
    ]
}

/// The worst that a name, a reason and a key can be.
fn hostile() -> Vec<Notification> {
    let long = "x".repeat(100_000);
    let texts = [
        "",
        " ",
        "`<!channel>` <https://evil.example|click> &amp;",
        "a\u{202e}b\u{0}c\nd\r\n\u{200b}",
        "\"},{\"x\":\"",
        &long,
    ];
    let mut all = vec![];
    for text in texts.map(str::to_owned) {
        let states = [
            State::Promoted { accepted_until: None },
            State::Delivered,
            State::OverlapEnded,
            State::DeliveryFailed { reason: text.clone() },
            State::DeliveryLate { since: SystemTime::UNIX_EPOCH, reason: text.clone() },
            State::RotationFailed { error: text.clone(), reason: text.clone() },
            State::KeysMissing { keys: vec![text.clone(); 1000] },
            State::Due { since: SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40) },
        ];
        for state in states {
            let (secret, version) = (text.clone(), VersionId::new(text.clone()));
            let next_steps = vec![text.clone(); 100];
            all.push(Notification { secret, version, at: SystemTime::UNIX_EPOCH, state, next_steps });
        }
    }
    all
}

#[track_caller]
fn assert_texts(value: &Value, longest: usize, most: usize) {
    let texts: Vec<_> = value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert!(!texts.is_empty() && texts.len() <= most, "{value}");
    assert!(texts.iter().all(|text| (1..=longest).contains(&text.chars().count())), "{value}");
}

fn members(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[track_caller]
fn assert_text(value: &Value, longest: usize) {
    let length = value.as_str().unwrap().chars().count();
    assert!((1..=longest).contains(&length), "{length} characters: {value}");
}

/// What the published page says of each member.
#[track_caller]
fn assert_published_schema(message: &str) {
    let event: Value = serde_json::from_str(message).unwrap();
    assert_eq!(members(&event), ["content", "id", "metadata", "source", "version"].into());
    assert_eq!((&event["version"], &event["source"]), (&"1.0".into(), &"custom".into()));
    assert_text(&event["id"], 64);
    let content = &event["content"];
    let known = BTreeSet::from(["description", "keywords", "nextSteps", "textType", "title"]);
    assert!(members(content).is_subset(&known), "{content}");
    assert_eq!(content["textType"], "client-markdown");
    assert_text(&content["title"], 250);
    assert_text(&content["description"], 8000);
    assert_texts(&content["keywords"], MAX_TEXT, 10);
    if let Some(steps) = content.get("nextSteps") {
        assert_texts(steps, 802, 5);
    }
    let metadata = &event["metadata"];
    let known = ["additionalContext", "eventType", "relatedResources", "summary", "threadId"];
    assert_eq!(members(metadata), known.into());
    assert_text(&metadata["threadId"], 64);
    assert_text(&metadata["summary"], MAX_TEXT);
    assert_text(&metadata["eventType"], MAX_TEXT);
    assert_texts(&metadata["relatedResources"], MAX_TEXT, 10);
    for fact in metadata["additionalContext"].as_object().unwrap().values() {
        assert_text(fact, MAX_TEXT);
    }
}

#[test]
fn messages_keep_to_the_published_schema() {
    for notification in examples().into_iter().chain(hostile()) {
        assert_published_schema(&notification.message());
    }
}

#[test]
fn a_message_is_far_below_what_sns_takes() {
    for notification in examples().into_iter().chain(hostile()) {
        let attributes = notification.attributes();
        let of_attributes: usize = attributes.iter().map(|a| a.name.len() + a.value.len() + a.data_type.len()).sum();
        assert!(notification.message().len() + of_attributes < MAX_SNS_BYTES / 8, "{notification:?}");
    }
}

#[test]
fn attributes_fit_filters_and_raw_delivery() {
    for notification in examples().into_iter().chain(hostile()) {
        let attributes = notification.attributes();
        assert!(attributes.len() <= 10, "{attributes:?}");
        let names: BTreeSet<_> = attributes.iter().map(|attribute| attribute.name).collect();
        assert_eq!(names.len(), attributes.len());
        for Attribute { name, value, data_type } in attributes {
            assert!(name.bytes().all(|byte| byte.is_ascii_alphabetic()) && !name.starts_with("AWS"), "{name}");
            assert!(!value.is_empty(), "{name}");
            assert!(["String", "Number"].contains(&data_type), "{name}");
            assert!(data_type == "String" || value.parse::<u32>().is_ok(), "{name}: {value}");
        }
    }
}

#[test]
fn attributes_and_context_tell_the_same_facts() {
    for notification in examples() {
        let event: Value = serde_json::from_str(&notification.message()).unwrap();
        let context = event["metadata"]["additionalContext"].as_object().unwrap().clone();
        let attributes: Vec<_> = notification.attributes();
        assert_eq!(context.len(), attributes.len());
        for Attribute { name, value, .. } in attributes {
            assert_eq!(context[name], value.as_str());
        }
        assert_eq!(event["id"], context["id"]);
        assert_eq!(event["metadata"]["eventType"], context["state"]);
    }
}

#[test]
fn hostile_texts_neither_mention_nor_link_nor_format() {
    for notification in hostile() {
        let event: Value = serde_json::from_str(&notification.message()).unwrap();
        let content = &event["content"];
        let steps = content["nextSteps"].as_array().unwrap();
        for text in [&content["title"], &content["description"]].into_iter().chain(steps) {
            let text = text.as_str().unwrap();
            assert!(!text.contains(['<', '>', '\r', '\u{0}', '\u{202e}', '\u{200b}']), "{text}");
            assert_eq!(text.matches('`').count() % 2, 0, "{text}");
            let outside: String = text.split('`').step_by(2).collect();
            assert!(!outside.contains("click") && !outside.contains("channel") && !outside.contains("xx"), "{outside}");
        }
    }
}

#[test]
fn a_subject_is_one_line_of_ascii() {
    for notification in examples().into_iter().chain(hostile()) {
        let subject = notification.subject();
        assert!(
            (1..100).contains(&subject.len()) && subject.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{subject}"
        );
    }
    assert_eq!(examples()[0].subject(), "Secret rotated: shop/production/admin-token");
}

#[test]
fn an_id_is_of_version_and_state_and_of_no_time() {
    let [first, .., last] = &examples()[..] else { panic!("no examples") };
    let later =
        Notification { at: first.at + Duration::from_secs(60), next_steps: vec!["x".to_owned()], ..first.clone() };
    assert_eq!(first.id(), later.id());
    assert_ne!(first.id(), last.id());
    let other = |change: fn(&mut Notification)| {
        let mut changed = first.clone();
        change(&mut changed);
        changed.id()
    };
    assert_ne!(first.id(), other(|changed| changed.version = VersionId::new("v-2".to_owned())));
    assert_ne!(first.id(), other(|changed| changed.secret.push('x')));
    let ids: BTreeSet<_> = examples().iter().map(Notification::id).collect();
    assert_eq!(ids.len(), examples().len());
}

#[test]
fn the_events_of_one_version_share_a_thread() {
    let thread = |notification: &Notification| {
        let event: Value = serde_json::from_str(&notification.message()).unwrap();
        event["metadata"]["threadId"].as_str().unwrap().to_owned()
    };
    let threads: BTreeSet<_> = examples().iter().map(thread).collect();
    assert_eq!(threads.len(), 1);
    let other = Notification { version: VersionId::new("v-2".to_owned()), ..examples().remove(0) };
    assert!(!threads.contains(&thread(&other)));
}

#[test]
fn only_what_a_person_has_to_do_asks_for_attention() {
    let asking: Vec<_> = examples().into_iter().filter(|n| n.state.needs_attention()).map(|n| n.state.name()).collect();
    assert_eq!(asking, ["DeliveryFailed", "DeliveryLate", "RotationFailed", "KeysMissing", "Due"]);
}

#[test]
fn documented_examples_are_what_is_sent() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra/EVENTS.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = page.split("```json\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let documented: Vec<Value> = blocks.map(|block| serde_json::from_str(block).unwrap()).collect();
    let sent: Vec<Value> = examples().iter().map(|n| serde_json::from_str(&n.message()).unwrap()).collect();
    for (documented, sent) in documented.iter().zip(&sent) {
        assert_eq!(documented, sent, "{sent:#}");
    }
    assert_eq!(documented.len(), sent.len());
    for notification in examples() {
        for Attribute { name, .. } in notification.attributes() {
            assert!(page.contains(&format!("| `{name}` |")), "{name} is not documented");
        }
    }
}
