//! Bad issuers: each has a name, `AWSCURRENT` stays, nothing is orphaned, and no error shows a value.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use rotation::aws::FunctionErrorKind as Kind;
use rotation::event::Step;
use rotation::versions::Stage;

use crate::CANARY;
use crate::provider::{Provider, Reply};
use crate::store::{Store, version};

const FIRST: &str = r#"{"KEY":"first","KEY_ID":"id-0"}"#;

/// What an issuer may answer to `create` that is not a credential, the error, and a part of its message.
fn bad_answers() -> Vec<(Reply, &'static str, &'static str)> {
    let says = |text: &str| Reply::Says(text.to_owned());
    let long = format!(r#"{{"version":1,"members":{{"KEY":"{}","KEY_ID":"i"}}}}"#, "x".repeat(65_530));
    vec![
        (says("c4naryVALUE"), "IssuerAnswer", "create with a text that is no JSON"),
        (says(r#"["c4naryVALUE"]"#), "IssuerAnswer", "JSON without the member version (1)"),
        (says(r#"{"version":"c4naryVALUE"}"#), "IssuerAnswer", "JSON without the member version (1)"),
        (says(r#"{"version":2,"members":{}}"#), "IssuerAnswer", "version 2, and this function speaks version 1"),
        (says(r#"{"version":1,"members":{"KEY":"c4naryVALUE"}}"#), "IssuerAnswer", "no member KEY_ID"),
        (
            says(r#"{"version":1,"members":{"KEY":"a","KEY_ID":"b","c4naryVALUE":"c"}}"#),
            "IssuerAnswer",
            "more members than KEY, KEY_ID",
        ),
        (says(r#"{"version":1,"members":{"KEY":"a","KEY_ID":7}}"#), "IssuerAnswer", "another form than create-answer"),
        (says(r#"{"version":1,"members":{"KEY":"a","KEY_ID":""}}"#), "IssuerAnswer", "an empty member KEY_ID"),
        (
            says(r#"{"version":1,"members":{"KEY":"a","KEY_ID":"b"},"expire":"c4naryVALUE"}"#),
            "IssuerAnswer",
            "another form than create-answer.json",
        ),
        (
            says(r#"{"version":1,"members":{"KEY":"a","KEY_ID":"b"},"expires":"c4naryVALUE"}"#),
            "IssuerAnswer",
            "an expires that is no time",
        ),
        (says(r#"{"version":1,"members":{"KEY":"first","KEY_ID":"id-0"}}"#), "CredentialUnchanged", "already current"),
        (
            Reply::Adds(r#"{"version":1,"members":{"KEY":"MADE","KEY_ID":"b"},"expires":"2020-01-01T00:00:00Z"}"#),
            "CredentialExpired",
            "has expired already",
        ),
        (says(&long), "ValueTooLarge", "Secrets Manager takes 65536"),
        (Reply::Fails(Kind::TooLarge { bytes: 70_000 }), "IssuerAnswer", "70000 bytes, and a value has at most 65536"),
        (Reply::Fails(Kind::NotText), "IssuerAnswer", "bytes that are no text"),
        (Reply::Fails(Kind::Missing), "IssuerMissing", "correct ISSUER_FUNCTION; nothing was issued"),
        (Reply::Fails(Kind::Denied("no".to_owned())), "IssuerDenied", "lambda:InvokeFunction"),
        (Reply::Fails(Kind::Throttled), "IssuerThrottled", "will repeat the rotation"),
        (Reply::Fails(Kind::TimedOut), "IssuerTimedOut", "is revoked later"),
        (Reply::Fails(Kind::Threw(Some("KeyError".to_owned()))), "IssuerFailed", "the function threw KeyError"),
        (Reply::Fails(Kind::Unreachable("refused".to_owned())), "IssuerFailed", "no answer from Lambda (refused)"),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_bad_issuer_has_a_name_and_changes_nothing() {
    for (reply, name, part) in bad_answers() {
        let (store, provider) = (Store::with(FIRST), Provider::with("first"));
        let repeats = matches!(name, "IssuerThrottled" | "IssuerTimedOut" | "IssuerFailed" | "ValueTooLarge");
        provider.reply("create", reply.clone());
        let error = store.rotate(1, &provider).await.unwrap_err();
        assert_eq!(error.name(), name, "{reply:?}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error:?}");
        assert_eq!((store.current(), store.value(1)), (FIRST.to_owned(), None));
        assert_eq!(store.is_at(1, &Stage::Pending), repeats, "{name}: waits for a retry, or is given up");
        assert_eq!(provider.alive(), ["first"]);
        let recorded = store.labels(0).len();
        let ran = !matches!(name, "IssuerMissing" | "IssuerDenied" | "IssuerThrottled");
        assert_eq!(recorded, usize::from(ran), "{name}: what may have been made is remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_rotation_succeeds_after_a_bad_answer() {
    for (reply, ..) in bad_answers() {
        let (store, provider) = (Store::with(FIRST), Provider::with("first"));
        provider.reply("create", reply);
        store.rotate(1, &provider).await.unwrap_err();
        // The service repeats a rotation that is still open.
        let next = if store.is_at(1, &Stage::Pending) { 1 } else { 2 };
        if next == 2 {
            store.open(2);
        }
        store.go_on(next, &provider).await.unwrap();
        assert_eq!(provider.alive().len(), 2);
    }
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Only the new credential ends the outage, so that the rotation goes on.
#[tokio::test(start_paused = true)]
async fn a_provider_that_kills_the_old_credential_is_told() {
    for kills in [true, false] {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let (store, provider) = (Store::with(FIRST), Provider::with("first"));
        if kills {
            provider.reply("create", Reply::Replaces);
        }
        store.rotate(1, &provider).await.unwrap();
        let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(logged.contains("CurrentRefused"), kills, "{logged}");
        assert!(!logged.contains(CANARY) && !logged.contains("first"), "{logged}");
        assert!(provider.alive().contains(&"made-1-c4naryVALUE".to_owned()), "{:?}", provider.alive());
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_accepts_a_damaged_credential_is_refused() {
    let (store, provider) = (Store::with(FIRST), Provider::with("first"));
    provider.reply("verify", Reply::Says(r#"{"version":1,"status":"ok"}"#.to_owned()));
    assert_eq!(store.rotate(1, &provider).await.unwrap_err().name(), "IssuerAcceptsAny");
    assert!(!store.is_at(1, &Stage::Pending));
    assert_eq!(store.labels(1), [Stage::issued(&version(1)).as_str()]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_answer_to_verify_promotes_nothing() {
    for answer in [
        r#"{"version":1,"status":"yes"}"#,
        r#"{"version":1,"status":true}"#,
        r#"{"version":2,"status":"ok"}"#,
        r#"{"version":1}"#,
        r#"{"version":1,"status":"ok","more":1}"#,
    ] {
        let (store, provider) = (Store::with(FIRST), Provider::with("first"));
        store.open(1);
        store.step(1, Step::CreateSecret, &provider).await.unwrap();
        provider.reply("verify", Reply::Says(answer.to_owned()));
        let error = store.step(1, Step::FinishSecret, &provider).await.unwrap_err();
        assert_eq!(error.name(), "IssuerAnswer", "{answer}");
        assert_eq!(store.current(), FIRST);
    }
}

#[tokio::test(start_paused = true)]
async fn values_and_members_of_others_are_refused_before_the_issuer() {
    for (value, fields, name) in [
        (FIRST, "", "InvalidPolicy"),
        (FIRST, "KEY KEY", "InvalidPolicy"),
        (FIRST, "KEY PASSWORD", "InvalidPolicy"),
        (FIRST, "OTHER", "FieldMissing"),
        (r#"{"KEY":"a","KEY_ID":7}"#, "KEY KEY_ID", "FieldNotText"),
        (r#"{"KEY":"a","KEY_PREVIOUS":"b","KEY_PREVIOUS_UNTIL":"2030-01-01T00:00:00Z"}"#, "KEY", "WrongKind"),
        (r#"{"KEY":"a","KEY_RING":"b"}"#, "KEY", "WrongKind"),
        ("a text", "KEY", "NotAnObject"),
    ] {
        let (store, provider) = (Store::with(value), Provider::default());
        store.state().tags.insert("rotation:fields".to_owned(), fields.to_owned());
        let error = store.rotate(1, &provider).await.unwrap_err();
        assert_eq!(error.name(), name, "{value} {fields}: {error}");
        assert_eq!(provider.state().requests.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_without_members_to_rotate_is_refused() {
    let (store, provider) = (Store::with(FIRST), Provider::default());
    store.state().tags.clear();
    let error = store.rotate(1, &provider).await.unwrap_err();
    assert!(error.to_string().starts_with("tag rotation:fields (ROTATION_FIELDS): is not set: name"), "{error}");
}
