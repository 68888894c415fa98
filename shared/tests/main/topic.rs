//! What SNS gets of a notification, in the query protocol of its API.

use std::time::SystemTime;

use axum::Router;
use axum::routing::post;
use rotation::notification::{Attribute, Notification, State};
use rotation::topic::Topic;
use rotation::versions::VersionId;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::environment;

const ARN: &str = "arn:aws:sns:us-east-1:000000000000:events";

/// A topic of an SNS that answers everything with this status, and what it was sent.
async fn topic(status: u16) -> (Topic, UnboundedReceiver<String>) {
    let (sender, sent) = unbounded_channel();
    let answer = move |body: String| async move {
        sender.send(body).unwrap();
        let status = axum::http::StatusCode::from_u16(status).unwrap();
        (
            status,
            r#"<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult><MessageId>m</MessageId></PublishResult></PublishResponse>"#,
        )
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(post(answer))).await });
    let variables = environment(&[
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_ENDPOINT_URL_SNS", &endpoint),
        ("EVENT_TOPIC_ARN", ARN),
    ]);
    (Topic::from_environment(&variables).unwrap().unwrap(), sent)
}

fn notification() -> Notification {
    Notification {
        secret: "shop/production/admin-token".to_owned(),
        version: VersionId::new("v-1".to_owned()),
        at: SystemTime::UNIX_EPOCH,
        state: State::Delivered,
        next_steps: vec![],
    }
}

/// A text as a form writes it.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[tokio::test]
async fn a_notification_is_sent_with_its_facts_as_attributes() {
    let (topic, mut sent) = topic(200).await;
    let notification = notification();
    topic.send(&notification).await.unwrap();
    let body = sent.recv().await.unwrap();
    let fields: Vec<&str> = body.split('&').collect();
    for (name, value) in [
        ("Action", "Publish".to_owned()),
        ("TopicArn", ARN.to_owned()),
        ("Subject", notification.subject()),
        ("Message", notification.message()),
    ] {
        assert!(fields.contains(&format!("{name}={}", encoded(&value)).as_str()), "{name}: {body}");
    }
    let entry = |end: &str, value: &str| {
        let found = fields.iter().find_map(|field| {
            let number =
                field.strip_prefix("MessageAttributes.entry.")?.strip_suffix(&format!(".{end}={}", encoded(value)))?;
            number.parse::<usize>().ok()
        });
        found.unwrap_or_else(|| panic!("{end}={value}: {body}"))
    };
    for Attribute { name, value, data_type } in notification.attributes() {
        let number = entry("Name", name);
        for (end, value) in [("Value.StringValue", value.as_str()), ("Value.DataType", data_type)] {
            let field = format!("MessageAttributes.entry.{number}.{end}={}", encoded(value));
            assert!(fields.contains(&field.as_str()), "{field}: {body}");
        }
    }
}

#[tokio::test]
async fn a_refusal_is_told_and_no_topic_sends_nothing() {
    let (topic, _sent) = topic(403).await;
    assert!(!topic.send(&notification()).await.unwrap_err().is_empty());
    assert!(Topic::from_environment(&environment(&[])).unwrap().is_none());
}
