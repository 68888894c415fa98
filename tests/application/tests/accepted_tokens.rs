//! Which tokens are accepted, when, and how a cached value follows the secret.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use application::{Clock, Instance, Mode, ServiceClock};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use support::*;

const UNAVAILABLE: Option<(StatusCode, &str)> = Some((StatusCode::BAD_REQUEST, "AccessDeniedException"));

/// A clock that a test sets.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn set(&self, at: &str) {
        let at: Timestamp = at.parse().unwrap();
        let milliseconds = u64::try_from(at.as_millisecond()).unwrap();
        self.0.store(milliseconds, Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let milliseconds = Arc::clone(&self.0);
        Arc::new(move || SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds.load(Ordering::SeqCst)))
    }
}

async fn health(instance: &Instance, token: &str) -> Value {
    get(instance, "/admin/secrets/health", token).await.json()
}

#[tokio::test]
async fn text_secret_authorises_by_current_pending_and_previous_only() {
    let fake = FakeSecretsManager::with_current("current").await;
    fake.put("v0", "previous", &["AWSPREVIOUS"]);
    fake.put("v2", "pending", &["AWSPENDING"]);
    fake.put("vx", "unlabelled", &["CUSTOM"]);
    let instance = fake.instance(text_secret("a")).await;
    for token in ["current", "pending", "previous"] {
        assert_eq!(status(&instance, token).await, 200, "{token}");
    }
    for token in ["unlabelled", "curren", "curren t", "currentX", "CURRENT"] {
        assert_eq!(status(&instance, token).await, 401, "{token}");
    }
    // Removing the stage is how the previous token of a text secret is revoked.
    fake.move_stage("AWSPREVIOUS", None);
    assert_eq!(refresh(&instance, "current").await.status, 200);
    assert_eq!(status(&instance, "previous").await, 401);
}

#[tokio::test]
async fn pending_version_counts_with_a_value_and_beside_current() {
    let fake = FakeSecretsManager::with_current("current").await;
    fake.put_without_value("v2", &["AWSPENDING"]);
    let instance = fake.instance(text_secret("a")).await;
    assert_eq!(health(&instance, "current").await["versions"]["pending"]["held"], false);

    fake.move_stage("AWSPENDING", Some("v1"));
    assert_eq!(refresh(&instance, "current").await.status, 200);
    assert_eq!(health(&instance, "current").await["versions"]["pending"]["held"], false);

    fake.put_binary("v3", &["AWSPENDING"]);
    assert_eq!(refresh(&instance, "current").await.status, 200);
    assert_eq!(health(&instance, "current").await["versions"]["pending"]["held"], false);

    fake.put("v4", "pending", &["AWSPENDING"]);
    assert_eq!(refresh(&instance, "current").await.status, 200);
    assert_eq!(health(&instance, "current").await["versions"]["pending"]["held"], true);
}

#[tokio::test]
async fn json_secret_accepts_the_previous_token_before_its_date_only() {
    let value = json!({
        "other": 7,
        "TOKEN": "current",
        "TOKEN_PREVIOUS": "previous",
        "TOKEN_PREVIOUS_UNTIL": "2027-03-01T13:00:00+01:00",
    });
    let fake = FakeSecretsManager::with_current(&value.to_string()).await;
    let hand = Hand::default();
    hand.set("2027-03-01T11:59:59.999Z");
    let instance = fake.instance_at(json_secret("a", "TOKEN"), hand.clock()).await;
    assert_eq!(status(&instance, "current").await, 200);
    assert_eq!(status(&instance, "previous").await, 200);
    let before = health(&instance, "current").await;
    assert_eq!(before["versions"]["previous"]["held"], true);
    assert_eq!(before["versions"]["previous_until"], "2027-03-01T12:00:00Z");

    hand.set("2027-03-01T12:00:00Z");
    assert_eq!(status(&instance, "previous").await, 401);
    assert_eq!(status(&instance, "current").await, 200);
    assert_eq!(health(&instance, "current").await["versions"]["previous"]["held"], false);
}

#[tokio::test]
async fn text_secret_accepts_the_previous_token_for_the_overlap() {
    let fake = FakeSecretsManager::with_current("current").await;
    fake.put("v0", "previous", &["AWSPREVIOUS"]);
    fake.created_at("2027-03-01T12:00:00Z");
    let hand = Hand::default();
    hand.set("2027-03-02T11:59:59.999Z");
    let instance = fake.instance_at(text_secret("a"), hand.clock()).await;
    assert_eq!(status(&instance, "previous").await, 200);
    assert_eq!(health(&instance, "current").await["versions"]["previous_until"], "2027-03-02T12:00:00Z");

    hand.set("2027-03-02T12:00:00Z");
    assert_eq!(status(&instance, "previous").await, 401);
    assert_eq!(status(&instance, "current").await, 200);
}

#[tokio::test]
async fn json_secret_takes_only_the_token_of_pending_none_of_previous() {
    let until = "2999-01-01T00:00:00Z";
    let current = json!({ "TOKEN": "current", "PASSWORD": "other-member" });
    let pending = json!({
        "TOKEN": "pending", "TOKEN_PREVIOUS": "current-as-previous", "TOKEN_PREVIOUS_UNTIL": until,
    });
    let previous = json!({ "TOKEN": "edited-away" });
    let fake = FakeSecretsManager::with_current(&current.to_string()).await;
    fake.put("v2", &pending.to_string(), &["AWSPENDING"]);
    fake.put("v0", &previous.to_string(), &["AWSPREVIOUS"]);
    let instance = fake.instance(json_secret("a", "TOKEN")).await;
    assert_eq!(status(&instance, "current").await, 200);
    assert_eq!(status(&instance, "pending").await, 200);
    for token in ["current-as-previous", "edited-away", "other-member", &current.to_string()] {
        assert_eq!(status(&instance, token).await, 401, "{token}");
    }
}

#[tokio::test]
async fn a_previous_token_without_a_readable_date_is_not_accepted() {
    for until in [json!(null), json!(4_102_444_800_u64), json!("tomorrow"), json!("2999-01-01")] {
        let value = json!({
            "TOKEN": "current", "TOKEN_PREVIOUS": "previous", "TOKEN_PREVIOUS_UNTIL": until,
        });
        let fake = FakeSecretsManager::with_current(&value.to_string()).await;
        let instance = fake.instance(json_secret("a", "TOKEN")).await;
        assert_eq!(status(&instance, "current").await, 200);
        assert_eq!(status(&instance, "previous").await, 401, "{until}");
    }
}

#[tokio::test]
async fn an_unusable_current_value_never_replaces_a_good_one() {
    let fake = FakeSecretsManager::with_current(r#"{"TOKEN":"good"}"#).await;
    let instance = fake.instance(json_secret("a", "TOKEN")).await;
    for (value, reason) in [
        ("plain text", "it is not a JSON object"),
        ("[1]", "it is not a JSON object"),
        (r#"{"OTHER":"x"}"#, "the configured member is missing"),
        (r#"{"TOKEN":7}"#, "the configured member is not a string"),
        (r#"{"TOKEN":""}"#, "the token is empty"),
    ] {
        fake.put("v2", value, &["AWSCURRENT"]);
        let answer = refresh(&instance, "good").await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["reason"], format!("the AWSCURRENT value can't be used: {reason}"));
        assert_eq!(status(&instance, "good").await, 200);
    }
}

#[tokio::test]
async fn pending_value_without_a_token_leaves_current_loading() {
    let fake = FakeSecretsManager::with_current(r#"{"TOKEN":"one"}"#).await;
    let instance = fake.instance(json_secret("a", "TOKEN")).await;
    fake.put("v2", r#"{"TOKEN":"two"}"#, &["AWSCURRENT"]);
    fake.put("v3", "no json", &["AWSPENDING"]);
    assert_eq!(refresh(&instance, "one").await.status, 200);
    assert_eq!(status(&instance, "two").await, 200);
}

#[tokio::test]
async fn current_only_accepts_no_other_stage_and_does_not_reload() {
    let fake = FakeSecretsManager::with_current("current").await;
    fake.put("v0", "previous", &["AWSPREVIOUS"]);
    fake.put("v2", "pending", &["AWSPENDING"]);
    let mut settings = text_secret("a");
    settings.mode = Mode::CurrentOnly;
    let instance = fake.instance(settings).await;
    assert_eq!(status(&instance, "current").await, 200);
    fake.take_calls();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(status(&instance, "pending").await, 401);
    assert_eq!(status(&instance, "previous").await, 401);
    fake.move_stage("AWSCURRENT", Some("v2"));
    assert_eq!(status(&instance, "pending").await, 401);
    assert!(fake.take_calls().is_empty());
    assert_eq!(refresh(&instance, "current").await.status, 200);
    assert_eq!(status(&instance, "pending").await, 200);
    assert_eq!(status(&instance, "current").await, 401);
}

#[tokio::test]
async fn new_token_is_accepted_at_once_without_a_refresh() {
    let fake = FakeSecretsManager::with_current("one").await;
    let instance = fake.instance(text_secret("a")).await;
    // Right after a load, when the next one is not due yet.
    fake.put("v2", "two", &["AWSPENDING"]);
    assert_eq!(status(&instance, "two").await, 200);
    fake.put("v3", "three", &["AWSCURRENT"]);
    assert_eq!(status(&instance, "three").await, 200);
}

#[tokio::test]
async fn guessing_tokens_costs_one_reload_per_interval_shared_by_all() {
    let fake = FakeSecretsManager::with_current("current").await;
    let mut settings = text_secret("a");
    settings.cache.reload_interval = Duration::from_millis(500);
    let instance = fake.instance(settings).await;
    fake.take_calls();
    let started = Instant::now();
    let address = instance.address();
    let mut guesses = tokio::task::JoinSet::new();
    for number in 0..40 {
        guesses.spawn(async move {
            let token = format!("guess-{number}");
            send(address, http::Method::GET, "/admin/jobs", Some(&token)).await.status
        });
    }
    // Known tokens are not held up meanwhile.
    let known = Instant::now();
    assert_eq!(status(&instance, "current").await, 200);
    assert!(known.elapsed() < Duration::from_millis(300));
    assert!(guesses.join_all().await.iter().all(|status| *status == 401));
    let reloads = fake.take_calls().iter().filter(|stage| *stage == "AWSCURRENT").count();
    let most = usize::try_from(started.elapsed().as_millis() / 500 + 1).unwrap();
    assert!((1..=most).contains(&reloads), "{reloads} reloads, at most {most} allowed");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_refresh_is_not_answered_by_a_reading_that_began_before_it() {
    let fake = FakeSecretsManager::with_current("current").await;
    let instance = fake.instance(text_secret("a")).await;
    fake.delay(Duration::from_millis(200));
    let first = refresh(&instance, "current");
    let second = async {
        // The first reading has got its answer about AWSPENDING by now, and waits for it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        fake.put("v2", "pending", &["AWSPENDING"]);
        refresh(&instance, "current").await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.json()["versions"]["pending"]["held"], false);
    assert_eq!(second.json()["versions"]["pending"]["held"], true);
}

#[tokio::test]
async fn refreshes_that_wait_for_each_other_share_one_reading() {
    let fake = FakeSecretsManager::with_current("current").await;
    let instance = fake.instance(text_secret("a")).await;
    fake.take_calls();
    fake.delay(Duration::from_millis(100));
    let address = instance.address();
    let mut refreshes = tokio::task::JoinSet::new();
    for _ in 0..10 {
        refreshes.spawn(async move {
            let path = "/admin/refresh-secrets";
            send(address, http::Method::POST, path, Some("current")).await.status
        });
    }
    assert!(refreshes.join_all().await.iter().all(|status| *status == 200));
    let readings = fake.take_calls().len() / 3;
    assert!((1..=3).contains(&readings), "{readings}");
}

#[tokio::test]
async fn a_value_is_cached_for_its_age_and_then_read_again() {
    let fake = FakeSecretsManager::with_current("one").await;
    let hand = Hand::default();
    hand.set("2027-01-01T00:00:00Z");
    let mut settings = text_secret("a");
    settings.mode = Mode::CurrentOnly;
    settings.cache.reload_interval = Duration::ZERO;
    let instance = fake.instance_at(settings, hand.clock()).await;
    fake.put("v2", "two", &["AWSCURRENT"]);
    fake.take_calls();

    hand.set("2027-01-01T00:59:59Z");
    assert_eq!(status(&instance, "one").await, 200);
    assert_eq!(status(&instance, "two").await, 401);
    assert!(fake.take_calls().is_empty());

    hand.set("2027-01-01T01:00:00Z");
    assert_eq!(status(&instance, "two").await, 200);
    assert_eq!(status(&instance, "one").await, 401);
    assert_eq!(fake.take_calls(), ["AWSCURRENT"]);

    // A clock that is set back by more than the age makes a value as doubtful as an old one.
    hand.set("2026-12-31T00:00:00Z");
    assert_eq!(status(&instance, "two").await, 200);
    assert_eq!(fake.take_calls(), ["AWSCURRENT"]);
}

#[tokio::test]
async fn an_expired_value_is_served_while_it_cannot_be_read_again() {
    let fake = FakeSecretsManager::with_current("one").await;
    let mut settings = text_secret("a");
    settings.mode = Mode::CurrentOnly;
    settings.cache.max_age = Duration::ZERO;
    settings.cache.reload_interval = Duration::from_millis(50);
    let instance = fake.instance(settings).await;
    fake.fail_with(UNAVAILABLE);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(500) {
        assert_eq!(status(&instance, "one").await, 200);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let attempts = fake.take_calls().len();
    let most = usize::try_from(started.elapsed().as_millis() / 50 + 1).unwrap();
    assert!((2..=most).contains(&attempts), "{attempts} attempts, at most {most} allowed");

    // While readings fail nobody waits for one.
    fake.delay(Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = Instant::now();
    assert_eq!(status(&instance, "one").await, 200);
    assert!(asked.elapsed() < Duration::from_millis(500));

    fake.delay(Duration::ZERO);
    fake.fail_with(None);
    fake.put("v2", "two", &["AWSCURRENT"]);
    let repaired = Instant::now();
    while status(&instance, "two").await != 200 {
        assert!(repaired.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn instance_without_a_token_starts_and_takes_the_first_value() {
    for mode in [Mode::AllStages, Mode::CurrentOnly] {
        let fake = FakeSecretsManager::start().await;
        let mut settings = text_secret("a");
        settings.mode = mode;
        let instance = fake.instance(settings).await;
        assert_eq!(status(&instance, "first").await, 401);
        fake.put("v1", "first", &["AWSCURRENT"]);
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(status(&instance, "first").await, 200, "{mode}");
    }
}

#[tokio::test]
async fn the_end_of_an_overlap_follows_the_clock_of_secrets_manager() {
    let in_an_hour = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let value = json!({
        "TOKEN": "current",
        "TOKEN_PREVIOUS": "previous",
        "TOKEN_PREVIOUS_UNTIL": in_an_hour.to_string(),
    });
    let fake = FakeSecretsManager::with_current(&value.to_string()).await;
    let clock = ServiceClock::default();
    let instance =
        Instance::start(json_secret("a", "TOKEN"), fake.settings().client(&clock), clock.clock()).await.unwrap();
    assert_eq!(status(&instance, "previous").await, 200);
    fake.set_ahead(Duration::from_hours(1) + Duration::from_secs(1));
    assert_eq!(refresh(&instance, "current").await.status, 200);
    assert_eq!(status(&instance, "previous").await, 401);
    fake.set_ahead(Duration::ZERO);
    assert_eq!(refresh(&instance, "current").await.status, 200);
    assert_eq!(status(&instance, "previous").await, 200);
}
