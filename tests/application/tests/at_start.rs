//! An instance that reads its environment when it starts, and nothing afterwards.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::SystemTime;

use application::{
    Database, Instance, InstanceSettings, KeyFormat, KeySettings, Mode, SecretReference, ServiceClock, StartValue,
};
use axum::http::HeaderValue;
use support::*;

const VALUE: &str = r#"{"TOKEN":"now","TOKEN_NEXT":"next","TOKEN_PREVIOUS":"before","TOKEN_PREVIOUS_UNTIL":"2026-11-02T12:00:00Z","port":1}"#;

fn at(time: &str) -> SystemTime {
    time.parse::<jiff::Timestamp>().unwrap().into()
}

fn settings(value: &str, field: Option<&str>) -> InstanceSettings {
    let secret = SecretReference { id: String::new(), field: field.map(str::to_owned) };
    let started = StartValue::new(value.to_owned(), at("2026-11-01T12:00:00Z"));
    InstanceSettings::new(HeaderValue::from_static("one"), secret).started_with(started)
}

/// Without a client of Secrets Manager.
async fn start(settings: InstanceSettings, now: &str) -> Instance {
    let now = at(now);
    Instance::start(settings, None, std::sync::Arc::new(move || now)).await.unwrap()
}

#[tokio::test]
async fn three_tokens_are_accepted_and_the_previous_one_until_its_end() {
    let before_the_end = start(settings(VALUE, Some("TOKEN")), "2026-11-02T11:59:59Z").await;
    for (token, expected) in [("now", 200), ("next", 200), ("before", 200), ("another", 401), ("", 401)] {
        assert_eq!(status(&before_the_end, token).await, expected, "{token}");
    }
    let at_the_end = start(settings(VALUE, Some("TOKEN")), "2026-11-02T12:00:00Z").await;
    for (token, expected) in [("now", 200), ("next", 200), ("before", 401)] {
        assert_eq!(status(&at_the_end, token).await, expected, "{token}");
    }
}

#[tokio::test]
async fn a_value_without_next_and_previous_has_one_token() {
    for (value, field) in [(r#"{"TOKEN":"now"}"#, Some("TOKEN")), ("now", None)] {
        let instance = start(settings(value, field), "2026-11-01T12:00:00Z").await;
        assert_eq!((status(&instance, "now").await, status(&instance, "next").await), (200, 401));
    }
}

#[tokio::test]
async fn there_is_nothing_to_refresh_and_no_value_is_shown() {
    let shown = format!("{:?}", settings(VALUE, Some("TOKEN")));
    assert!(!shown.contains("before") && shown.contains("StartValue(redacted)"), "{shown}");
    let instance = start(settings(VALUE, Some("TOKEN")), "2026-11-01T12:00:00Z").await;
    assert_eq!(refresh(&instance, "now").await.status, 404);
    let health = get(&instance, "/admin/secrets/health", "next").await.json();
    assert_eq!((&health["mode"], &health["versions"]["next"]["held"]), (&"at-start".into(), &true.into()));
    assert_eq!(health["versions"]["current"]["version_id"], "environment");
}

#[tokio::test]
async fn secrets_manager_is_never_asked() {
    let fake = FakeSecretsManager::with_current("another").await;
    let instance = fake.instance(settings(VALUE, Some("TOKEN"))).await;
    assert_eq!((status(&instance, "now").await, status(&instance, "another").await), (200, 401));
    assert_eq!(fake.take_calls(), Vec::<String>::new());
}

/// What one instance encrypts, another one reads that was started before the key became primary.
#[tokio::test]
async fn a_staged_key_of_the_environment_decrypts() {
    let database = Database::default();
    let started = async |primary: u8, staged: Option<u8>, others: &[u8]| {
        let value = keys::ring(KeyFormat::Raw, primary, staged, others);
        let mut settings = settings(VALUE, Some("TOKEN"));
        let secret = SecretReference { id: String::new(), field: Some("KEYS".to_owned()) };
        settings.keys = Some(KeySettings::new(secret, KeyFormat::Raw, database.clone()));
        settings.environment.keyring = Some(StartValue::new(value, at("2026-11-01T12:00:00Z")));
        Instance::start(settings, None, ServiceClock::default().clock()).await.unwrap()
    };
    let before = started(1, Some(2), &[]).await;
    let after = started(2, Some(3), &[1]).await;
    let next = started(3, Some(4), &[2, 1]).await;
    for (writer, readers) in [(&before, [&after, &next]), (&after, [&before, &next])] {
        let written = write_record(writer.address(), b"record").await;
        let id = written.json()["id"].as_str().unwrap().to_owned();
        for reader in readers {
            assert_eq!(read_record(reader.address(), &id).await.text, "record");
        }
    }
    // Two rotations later a key is primary that the first one never saw.
    let id = write_record(next.address(), b"record").await.json()["id"].as_str().unwrap().to_owned();
    assert_ne!(read_record(before.address(), &id).await.status, 200);
    assert_eq!(settings(VALUE, None).mode, Mode::AtStart);
}
