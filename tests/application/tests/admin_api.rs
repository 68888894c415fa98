//! The admin API: who is let in, what is answered, and what never is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use application::{Mode, SecretReference};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;
use support::*;

const CURRENT: &str = "current-token-Cc4Gq8";
const PENDING: &str = "pending-token-Pp7Wd2";
const PREVIOUS: &str = "previous-token-Rr1Xz5";

#[tokio::test]
async fn absent_and_wrong_tokens_get_the_same_401_and_no_hint() {
    let fake = FakeSecretsManager::with_current(CURRENT).await;
    let instance = fake.instance(text_secret("a")).await;
    for path in ["/admin/jobs", "/admin/secrets/health", "/admin/refresh-secrets", "/admin/no-such-thing", "/admin"] {
        for token in [None, Some(""), Some("wrong"), Some(&CURRENT[1..])] {
            for method in [Method::GET, Method::POST] {
                let answer = send(instance.address(), method, path, token).await;
                assert_eq!(answer.status, 401, "{path} {token:?}");
                assert_eq!(answer.text, r#"{"error":"unauthorized"}"#);
                assert_eq!(answer.headers["content-type"], "application/json");
            }
        }
    }
    assert_eq!(status(&instance, CURRENT).await, 200);
}

#[tokio::test]
async fn healthz_needs_no_token_and_no_secret() {
    let fake = FakeSecretsManager::start().await;
    let instance = fake.instance(text_secret("a")).await;
    let answer = send(instance.address(), Method::GET, "/healthz", None).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["status"], "ok");
}

#[tokio::test]
async fn every_answer_names_the_instance_in_the_configured_header() {
    let fake = FakeSecretsManager::with_current(CURRENT).await;
    let mut settings = text_secret("instance-7");
    let instance = fake.instance(settings.clone()).await;
    settings.instance_header = HeaderName::from_static("x-served-by");
    let renamed = fake.instance(settings).await;
    for (method, path, token, expected) in [
        (Method::GET, "/healthz", None, 200),
        (Method::GET, "/nowhere", None, 404),
        (Method::GET, "/admin/jobs", None, 401),
        (Method::GET, "/admin/jobs", Some(CURRENT), 200),
        (Method::POST, "/admin/refresh-secrets", Some(CURRENT), 200),
        (Method::GET, "/admin/refresh-secrets", Some(CURRENT), 405),
        (Method::GET, "/admin/nowhere", Some(CURRENT), 404),
    ] {
        let answer = send(instance.address(), method.clone(), path, token).await;
        assert_eq!(answer.status, expected, "{method} {path}");
        assert_eq!(answer.headers["x-instance-id"], "instance-7", "{path}");
        let answer = send(renamed.address(), method, path, token).await;
        assert_eq!(answer.headers["x-served-by"], "instance-7", "{path}");
    }
}

#[tokio::test]
async fn health_and_refresh_tell_versions_and_dates_but_no_value() {
    let fake = FakeSecretsManager::with_current(CURRENT).await;
    fake.put("v0", PREVIOUS, &["AWSPREVIOUS"]);
    fake.put("v2", PENDING, &["AWSPENDING"]);
    let instance = fake.instance(text_secret("a")).await;
    let health = get(&instance, "/admin/secrets/health", CURRENT).await;
    let refreshed = refresh(&instance, CURRENT).await;
    for answer in [&health, &refreshed] {
        assert_eq!(answer.status, 200);
        let body = answer.json();
        assert_eq!(body["instance"], "a");
        assert_eq!(body["mode"], "all-stages");
        let loaded: jiff::Timestamp = body["loaded_at"].as_str().unwrap().parse().unwrap();
        assert!(jiff::Timestamp::now().duration_since(loaded).as_secs().abs() < 60);
        for (stage, id) in [("current", "v1"), ("pending", "v2"), ("previous", "v0")] {
            assert_eq!(body["versions"][stage]["held"], true, "{stage}");
            assert_eq!(body["versions"][stage]["version_id"], id);
        }
        for token in [CURRENT, PENDING, PREVIOUS] {
            assert!(!answer.text.contains(token));
        }
    }
    assert_eq!(health.json()["last_error"], Value::Null);
}

#[tokio::test]
async fn refresh_loads_now_with_as_few_calls_as_the_secret_needs() {
    let fake = FakeSecretsManager::with_current(CURRENT).await;
    let mut current_only = text_secret("c");
    current_only.mode = Mode::CurrentOnly;
    let text = fake.instance(text_secret("a")).await;
    let reads_current = fake.instance(current_only).await;
    fake.take_calls();

    assert_eq!(refresh(&text, CURRENT).await.status, 200);
    assert_eq!(fake.take_calls(), ["AWSPENDING", "AWSCURRENT", "AWSPREVIOUS"]);
    assert_eq!(refresh(&reads_current, CURRENT).await.status, 200);
    assert_eq!(fake.take_calls(), ["AWSCURRENT"]);

    fake.put("v2", r#"{"TOKEN":"in-json"}"#, &["AWSCURRENT"]);
    let in_json = fake.instance(json_secret("b", "TOKEN")).await;
    fake.take_calls();
    assert_eq!(refresh(&in_json, "in-json").await.status, 200);
    assert_eq!(fake.take_calls(), ["AWSPENDING", "AWSCURRENT"]);
}

#[tokio::test]
async fn failed_refresh_answers_503_with_a_reason_and_keeps_tokens() {
    let fake = FakeSecretsManager::with_current(CURRENT).await;
    fake.put("v2", PENDING, &["AWSPENDING"]);
    let instance = fake.instance(text_secret("a")).await;

    let refused = |reason: &'static str| {
        let instance = &instance;
        async move {
            let answer = refresh(instance, CURRENT).await;
            assert_eq!(answer.status, 503);
            assert_eq!(answer.json()["error"], "refresh_failed");
            assert_eq!(answer.json()["reason"], reason);
            assert_eq!(status(instance, CURRENT).await, 200);
            assert_eq!(status(instance, PENDING).await, 200);
            let health = get(instance, "/admin/secrets/health", CURRENT).await;
            assert_eq!(health.json()["last_error"], reason);
        }
    };

    fake.fail_with(Some((StatusCode::INTERNAL_SERVER_ERROR, "InternalServiceError")));
    refused("Secrets Manager refused to give the AWSPENDING version: InternalServiceError").await;
    fake.fail_with(None);

    fake.deny(Some("AWSPREVIOUS"));
    refused("Secrets Manager refused to give the AWSPREVIOUS version: AccessDeniedException").await;
    fake.deny(None);

    fake.delay(Duration::from_secs(10));
    refused("Secrets Manager could not be reached: no answer in time").await;
    fake.delay(Duration::ZERO);

    fake.put_binary("v3", &["AWSCURRENT"]);
    refused("the AWSCURRENT value can't be used: it is binary, not text").await;

    fake.move_stage("AWSCURRENT", None);
    refused("the secret does not exist or has no AWSCURRENT value").await;

    fake.move_stage("AWSCURRENT", Some("v1"));
    assert_eq!(refresh(&instance, CURRENT).await.status, 200);
    let health = get(&instance, "/admin/secrets/health", CURRENT).await;
    assert_eq!(health.json()["last_error"], Value::Null);
}

#[tokio::test]
async fn an_unreachable_service_is_named_with_the_cause() {
    let fake = FakeSecretsManager::with_current(CURRENT).await;
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let reader = application::secrets::SecretReader::new(
        settings(closed).client(&application::ServiceClock::default()),
        SECRET,
        application::secrets::Stages::Current,
    );
    let error = reader.read().await.unwrap_err().to_string();
    assert!(error.starts_with("Secrets Manager could not be reached: "), "{error}");
    assert!(error.contains("onnection refused"), "{error}");
    drop(fake);
}

#[tokio::test]
async fn a_frozen_instance_answers_200_and_loads_nothing() {
    let fake = FakeSecretsManager::with_current(CURRENT).await;
    let mut settings = text_secret("a");
    settings.cache.max_age = Duration::ZERO;
    let instance = fake.instance(settings).await;
    instance.freeze_refresh(true);
    fake.take_calls();
    fake.put("v2", PENDING, &["AWSPENDING"]);
    let answer = refresh(&instance, CURRENT).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["versions"]["pending"]["held"], false);
    assert_eq!(status(&instance, PENDING).await, 401);
    assert!(fake.take_calls().is_empty());

    instance.freeze_refresh(false);
    assert_eq!(status(&instance, PENDING).await, 200);
}

#[tokio::test]
async fn a_stopped_instance_answers_no_more() {
    let fake = FakeSecretsManager::with_current(CURRENT).await;
    let instance = fake.instance(text_secret("a")).await;
    let dropped = fake.instance(text_secret("b")).await;
    let addresses = [instance.address(), dropped.address()];
    instance.stop().await;
    drop(dropped);
    for address in addresses {
        for attempt in 0.. {
            match tokio::net::TcpStream::connect(address).await {
                Err(_) => break,
                Ok(_) => assert!(attempt < 100, "still listening"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[test]
fn a_secret_is_only_asked_for_over_tls_or_on_this_machine() {
    let with_endpoint = |name: &'static str, url: &'static str| {
        application::ServiceSettings::from_environment(move |asked| {
            Some(if asked == name { url } else { "" }.to_owned()).filter(|value| !value.is_empty()).or_else(|| {
                matches!(asked, "AWS_REGION" | "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY").then(|| "x".to_owned())
            })
        })
    };
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SECRETS_MANAGER"] {
        for good in
            ["https://secretsmanager.example", "http://127.0.0.1:4566", "http://[::1]:4566", "http://localhost:1"]
        {
            assert!(with_endpoint(name, good).is_ok(), "{good}");
        }
        for bad in ["http://10.0.0.1:80", "http://localhost.example", "ftp://127.0.0.1", "127.0.0.1:4566", "no url"] {
            let error = with_endpoint(name, bad).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
            assert!(!error.contains(bad), "{error}");
        }
    }
    let error = application::ServiceSettings::from_environment(|_| None).unwrap_err();
    assert_eq!(error.to_string(), "AWS_REGION is not set");
}

#[tokio::test]
async fn nothing_that_holds_a_token_shows_it_in_debug() {
    let token = application::Token::read(CURRENT, None).unwrap();
    assert_eq!(format!("{token:?}"), "Token(redacted)");
    let fake = FakeSecretsManager::with_current(CURRENT).await;
    let reader = application::secrets::SecretReader::new(fake.client(), SECRET, application::secrets::Stages::All);
    let versions = reader.read().await.unwrap();
    let tokens = application::AdminTokens::read(&versions, None, Mode::AllStages, Duration::from_secs(60)).unwrap();
    let shown = format!("{versions:?} {tokens:?} {:?}", fake.settings());
    assert!(shown.contains("v1"));
    assert!(!shown.contains(CURRENT));
    let reference = SecretReference { id: SECRET.to_owned(), field: None };
    assert!(format!("{reference:?}").contains(SECRET));
    assert!(HeaderValue::from_str(token.expose()).is_ok());
}
