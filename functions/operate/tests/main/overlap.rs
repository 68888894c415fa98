//! How a sweep ends the overlap of a token: with which calls, and beside whom.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use admin_token::AdminToken;
use operate::error::OperateError;
use operate::marker::Marker;
use operate::request;
use operate::session::Operation;
use operate::sweep::{OverlapEnd, Sweep};
use rotation::deadline::Deadline;
use rotation::error::RotationError;
use rotation::lambda::randomness;
use rotation::policy::StackPolicy;
use rotation::secret::SecretText;
use rotation::session::Session;
use rotation::target::{self, Answer, Target, TargetSettings, Verdict};
use rotation::time::format_timestamp;
use rotation::token::TOKEN_SETTINGS;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::operator;
use crate::store::{DAY, HOUR, Secret, Store, version};

const NAME: &str = "shop/secret";
const TOKEN: &str = "stack-admin-token";

/// What happens to the secret when the application is asked with the old token for the first time.
type Meanwhile = fn(&Store);

/// One instance that accepts some tokens.
struct Application<'a> {
    store: &'a Store,
    accepts: Mutex<Vec<&'static str>>,
    /// What it accepts once it was told to load the secret.
    loads: Vec<&'static str>,
    meanwhile: Mutex<Option<Meanwhile>>,
    /// Whether it does not answer who asks with the old token.
    falls_silent: bool,
    refreshed: AtomicUsize,
    settings: TargetSettings,
}

impl<'a> Application<'a> {
    fn new(store: &'a Store, accepts: &[&'static str], loads: &[&'static str]) -> Self {
        let instances = NonZeroUsize::new(1);
        Self {
            store,
            accepts: Mutex::new(accepts.to_vec()),
            loads: loads.to_vec(),
            meanwhile: Mutex::default(),
            falls_silent: false,
            refreshed: AtomicUsize::new(0),
            settings: TargetSettings { can_refresh: true, instances, timeout: Duration::from_secs(1) },
        }
    }

    /// One that refuses the old token by itself.
    fn sound(store: &'a Store) -> Self {
        Self::new(store, &["new-token"], &["new-token"])
    }

    fn meanwhile(self, meanwhile: Meanwhile) -> Self {
        Self { meanwhile: Mutex::new(Some(meanwhile)), ..self }
    }

    /// What the check of a sweep does with the overlap.
    async fn end(self) -> (Result<OverlapEnd, OperateError>, usize) {
        let store = self.store;
        let kind = AdminToken::new(Some(self));
        let ended = end(store, &kind).await;
        (ended, kind.target().unwrap().refreshed.load(Ordering::SeqCst))
    }
}

/// The same for whatever application, or none.
async fn end(store: &Store, kind: &AdminToken<Application<'_>>) -> Result<OverlapEnd, OperateError> {
    let stack = StackPolicy::from_environment(&crate::environment(&[("ALLOWED_FIELDS", "KEY")]), TOKEN_SETTINGS);
    let (stack, deadline) = (&stack.unwrap(), Deadline::after(Duration::from_secs(60)));
    let operation = Operation::new(Session { kind, store, stack, secret_id: NAME, deadline });
    operation.end_overlap(&store.described(NAME), &mut randomness().unwrap()).await
}

impl Target for Application<'_> {
    async fn ask(&self, operation: target::Operation, _: &str, token: &SecretText) -> Result<Answer, String> {
        if token.expose() == "old-token"
            && let Some(meanwhile) = self.meanwhile.lock().unwrap().take()
        {
            meanwhile(self.store);
        }
        if token.expose() == "old-token" && self.falls_silent {
            return Err("no answer".to_owned());
        }
        let mut accepts = self.accepts.lock().unwrap();
        let accepted = accepts.iter().any(|known| *known == token.expose());
        if accepted && operation == target::Operation::Refresh {
            self.refreshed.fetch_add(1, Ordering::SeqCst);
            accepts.clone_from(&self.loads);
        }
        let verdict = if accepted { Verdict::Accepted } else { Verdict::Refused };
        Ok(Answer { verdict, instance: Some("one".to_owned()), keys: None })
    }

    fn settings(&self) -> &TargetSettings {
        &self.settings
    }
}

/// A secret whose overlap was over an hour ago; a rotation leaves its `AWSPENDING` where it is.
fn over(secret: Secret, old: &str, new: &str) -> Secret {
    let secret = secret.with_version("old", old, 3 * DAY, &["AWSPREVIOUS"]);
    let secret = secret.with_version("new", new, 25 * HOUR, &["AWSCURRENT", "AWSPENDING"]);
    secret.with(|told| {
        (told.last_rotated, told.last_changed) = (Some(told.as_of - 25 * HOUR), Some(told.as_of - 25 * HOUR));
    })
}

fn text() -> Store {
    let store = Store::new();
    store.secret(NAME, Some(TOKEN), |secret| over(secret, "old-token", "new-token"));
    store
}

fn json(next: bool) -> Store {
    let store = Store::new();
    store.secret(NAME, Some(TOKEN), |secret| {
        let until = format_timestamp(store.now - HOUR);
        let mut value = json!({ "KEY": "new-token", "KEY_PREVIOUS": "old-token", "KEY_PREVIOUS_UNTIL": until });
        if next {
            value["KEY_NEXT"] = json!("next-token");
        }
        let old = json!({ "KEY": "old-token" });
        over(secret, &old.to_string(), &value.to_string()).with_tag("rotation:field", "KEY")
    });
    store
}

fn ended(ended: &Result<OverlapEnd, OperateError>) -> bool {
    matches!(ended, Ok(OverlapEnd::Ended(Some(_))))
}

const READ: [&str; 3] = ["GetSecretValue", "DescribeSecret", "GetSecretValue"];
const MOVE: &str = "UpdateSecretVersionStage";

#[tokio::test(start_paused = true)]
async fn refused_token_of_text_is_taken_away_by_one_call() {
    let store = text();
    let (answer, refreshed) = Application::sound(&store).end().await;
    assert!(ended(&answer), "{answer:?}");
    assert_eq!(store.take_calls(), [&READ[..], &[MOVE]].concat());
    assert_eq!(store.stages(NAME), ["AWSCURRENT", "AWSPENDING"]);
    assert_eq!(refreshed, 0, "there is nothing to load");
}

#[tokio::test(start_paused = true)]
async fn refused_token_leaves_a_json_value_without_a_marker() {
    for next in [false, true] {
        let store = json(next);
        let tokens: &[&str] = if next { &["new-token", "next-token"] } else { &["new-token"] };
        let (answer, refreshed) = Application::new(&store, tokens, tokens).end().await;
        assert!(ended(&answer), "{answer:?}");
        assert_eq!(store.take_calls(), [&READ[..], &["PutSecretValue", MOVE, MOVE, MOVE, MOVE]].concat());
        assert_eq!((store.stages(NAME), refreshed), (vec!["AWSCURRENT".to_owned()], 0));
        let value: Value = serde_json::from_str(&store.value(NAME, "AWSCURRENT")).unwrap();
        let left =
            if next { json!({ "KEY": "new-token", "KEY_NEXT": "next-token" }) } else { json!({ "KEY": "new-token" }) };
        assert_eq!(value, left);
    }
}

#[tokio::test(start_paused = true)]
async fn accepted_token_is_marked_until_it_is_refused() {
    let store = text();
    let both = ["new-token", "old-token"];
    let (answer, refreshed) = Application::new(&store, &both, &["new-token"]).end().await;
    assert!(ended(&answer), "{answer:?}");
    // The marker, the removal, another look, and the marker again.
    assert_eq!(store.take_calls(), [&READ[..], &[MOVE, MOVE, "DescribeSecret", MOVE]].concat());
    assert_eq!((store.stages(NAME).len(), refreshed), (2, 1));
    let store_of_json = json(false);
    let (answer, refreshed) = Application::new(&store_of_json, &both, &["new-token"]).end().await;
    assert!(ended(&answer), "{answer:?}");
    assert_eq!((store_of_json.take_calls().len(), store_of_json.stages(NAME).len(), refreshed), (10, 1, 1));
    // One that does not listen.
    let store = text();
    let (answer, _) = Application::new(&store, &both, &both).end().await;
    assert_eq!(answer.unwrap_err(), OperateError::Rotation(RotationError::TargetAcceptsRevoked));
    assert_eq!(store.holder(NAME, "AWSPREVIOUS"), None);
    let marker = Marker::Revoked.on(&version("old"));
    assert_eq!(store.holder(NAME, marker.as_str()), Some(version("old")), "the next sweep goes on");
    // It does so once the application refuses the token.
    let (answer, _) = Application::sound(&store).end().await;
    assert!(matches!(answer, Ok(OverlapEnd::Ended(None))), "{answer:?}");
    assert_eq!(store.stages(NAME), ["AWSCURRENT", "AWSPENDING"]);
}

#[tokio::test(start_paused = true)]
async fn without_an_application_a_secret_is_looked_at_once_more() {
    let alone = AdminToken::new(None);
    let store = text();
    assert!(ended(&end(&store, &alone).await));
    assert_eq!(store.take_calls(), [&READ[..], &[MOVE, "DescribeSecret"]].concat());
    let store = json(false);
    assert!(ended(&end(&store, &alone).await));
    assert_eq!((store.take_calls().len(), store.stages(NAME)), (10, vec!["AWSCURRENT".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_away_when_the_proof_gets_no_answer() {
    for store in [text(), json(false)] {
        let (answer, _) = Application { falls_silent: true, ..Application::sound(&store) }.end().await;
        assert_eq!(answer.unwrap_err().name(), "TargetUnavailable");
        assert_eq!(store.take_calls(), READ);
        assert_eq!(store.stages(NAME), ["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"]);
    }
}

#[tokio::test(start_paused = true)]
async fn revocation_that_was_begun_keeps_its_marker_to_the_end() {
    let store = text();
    let marker = Marker::Revoked.on(&version("old"));
    store.change(NAME, |secret| secret.attach(marker.as_str(), &version("old")));
    let (answer, refreshed) = Application::sound(&store).end().await;
    assert!(ended(&answer), "{answer:?}");
    assert_eq!((store.stages(NAME).len(), refreshed), (2, 1), "the application is told, as by revoke");
}

/// A rotation has made another version current, whose overlap with the one before is open.
fn rotates(store: &Store) {
    store.change(NAME, |secret| {
        secret.put("newest", "newest-token", Duration::ZERO, &[]);
        for (label, holder) in [("AWSCURRENT", "newest"), ("AWSPENDING", "newest"), ("AWSPREVIOUS", "new")] {
            secret.attach(label, &version(holder));
        }
    });
}

#[tokio::test(start_paused = true)]
async fn faster_rotation_keeps_its_own_overlap() {
    let store = text();
    let (answer, _) = Application::sound(&store).meanwhile(rotates).end().await;
    assert_eq!(answer.unwrap_err().name(), "CurrentChanged");
    assert_eq!(store.holder(NAME, "AWSPREVIOUS"), Some(version("new")));
    assert_eq!(store.stages(NAME), ["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"], "there is nothing to finish");
    // The value is made from the version that was read, and is not made current in place of another.
    let store = json(false);
    let (answer, _) = Application::sound(&store).meanwhile(rotates).end().await;
    assert_eq!(answer.unwrap_err().name(), "CurrentChanged");
    assert_eq!(store.holder(NAME, "AWSPREVIOUS"), Some(version("new")));
}

#[tokio::test(start_paused = true)]
async fn label_that_a_failed_rotation_gives_back_goes_again() {
    let store = text();
    let opens: Meanwhile = |store| {
        store.change(NAME, |secret| {
            secret.put("newest", "newest-token", Duration::ZERO, &[]);
            secret.attach("AWSPENDING", &version("newest"));
        });
    };
    let (answer, _) = Application::sound(&store).meanwhile(opens).end().await;
    assert!(ended(&answer), "{answer:?}");
    // It was promoted, and put back with all that it had found.
    store.change(NAME, |secret| {
        secret.attach("AWSPENDING", &version("new"));
        secret.attach("AWSPREVIOUS", &version("old"));
    });
    store.take_calls();
    let (answer, _) = Application::sound(&store).end().await;
    assert!(ended(&answer), "{answer:?}");
    assert_eq!((store.take_calls().len(), store.holder(NAME, "AWSPREVIOUS")), (4, None));
}

#[tokio::test(start_paused = true)]
async fn removal_that_had_happened_already_is_no_failure() {
    let store = text();
    let removes: Meanwhile = |store| {
        store.change(NAME, |secret| {
            secret.put("unused", "unused-token", DAY, &[]);
            secret.attach("AWSPREVIOUS", &version("unused"));
        });
    };
    let (answer, _) = Application::sound(&store).meanwhile(removes).end().await;
    assert!(ended(&answer), "{answer:?}");
    assert_eq!(store.take_calls(), [&READ[..], &[MOVE, "DescribeSecret", "GetSecretValue"]].concat());
    assert_eq!(store.holder(NAME, "AWSPREVIOUS"), Some(version("unused")), "whoever put it there may need it");
}

/// A listener on which no request is ever answered.
async fn silence() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (format!("http://{}/", listener.local_addr().unwrap()), listener)
}

#[tokio::test]
async fn silent_application_costs_all_overlaps_one_timeout() {
    let (url, _listener) = silence().await;
    let store = Store::new();
    for number in 0..40 {
        store.secret(&format!("shop/{number}"), Some(TOKEN), |secret| over(secret, "old-token", "new-token"));
    }
    let operator = operator(&[("TARGET_VERIFY_URL", &url), ("TARGET_TIMEOUT", "2s")]);
    let asked = request::Sweep::default();
    let sweep = Sweep::new(&operator, &asked, "request", Deadline::after(Duration::from_secs(600)));
    let began = Instant::now();
    let answer = serde_json::to_value(sweep.perform("operate", &store).await.unwrap().answer).unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!((&answer["overlapsExpired"], &answer["revoked"]), (&json!(40), &json!(0)), "{answer:#}");
    assert_eq!(answer["problems"][0]["error"], "CurrentDoesNotVerify");
    assert!((0..40).all(|number| store.holder(&format!("shop/{number}"), "AWSPREVIOUS").is_some()));
}
