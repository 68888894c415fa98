//! What actions do to a secret, by what it holds.

use std::time::Duration;

use admin_token::AdminToken;
use encryption_key::{Consumers, EncryptionKey};
use operate::dispatch::SecretRequest;
use operate::error::OperateError;
use operate::marker::Marker;
use operate::request::Request;
use operate::session::Operation;
use rotation::aws::Clients;
use rotation::deadline::Deadline;
use rotation::keyring::KEY_SETTINGS;
use rotation::lambda::randomness;
use rotation::policy::StackPolicy;
use rotation::secret::SecretText;
use rotation::session::Session;
use rotation::store::SecretStore as _;
use rotation::target::http::TokenSecret;
use rotation::target::{self, Target, TargetSettings, Verdict};
use rotation::token::TOKEN_SETTINGS;
use rotation::versions::Stage;
use serde_json::{Value, json};

use crate::store::{DAY, HOUR, Secret, Store, version};
use crate::{DEPLOYMENT, environment, operator};

const TOKEN: &str = "stack-admin-token";
const KEYS: &str = "stack-encryption-key";
const NAME: &str = "shop/secret";

async fn ask(store: &Store, request: Value) -> Result<Value, OperateError> {
    let operator = operator(&[("ALLOWED_FIELDS", "KEY")]);
    let request = Request::parse(request).unwrap();
    let clients = Clients::from_environment(&environment(&DEPLOYMENT), || std::time::SystemTime::UNIX_EPOCH).unwrap();
    let deadline = Deadline::after(Duration::from_secs(60));
    let request = SecretRequest { operator: &operator, clients: &clients, request: &request, deadline };
    request.perform(store).await.map(|response| serde_json::to_value(response).unwrap())
}

fn request(action: &str) -> Value {
    json!({ "action": action, "secret_id": NAME, "reason": "a test" })
}

async fn done(store: &Store, request: Value) -> Value {
    ask(store, request.clone()).await.unwrap_or_else(|error| panic!("{request}: {error}"))
}

async fn refused(store: &Store, request: Value) -> OperateError {
    ask(store, request.clone()).await.expect_err(&request.to_string())
}

/// A key, in one of the forms that are read.
fn key(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

/// A keyring in a JSON value: the first key is primary.
fn ring(keys: &[u8]) -> String {
    let keys: Vec<String> = keys.iter().map(|number| key(*number)).collect();
    json!({ "KEY": keys[0], "KEY_PREVIOUS": keys[1..].join(","), "port": 8080 }).to_string()
}

fn of_key(secret: Secret) -> Secret {
    secret.with_tag("rotation:field", "KEY")
}

fn token(store: &Store) {
    store.secret(NAME, Some(TOKEN), |secret| {
        let secret = secret.with_version("new", "new-token", DAY, &["AWSCURRENT"]);
        secret.with_version("old", "old-token", 2 * DAY, &["AWSPREVIOUS"])
    });
}

#[tokio::test]
async fn what_a_kind_does_not_have_is_refused_before_it_is_read() {
    let store = Store::new();
    let census = json!({
        "secret": NAME, "version": "v", "began": "2026-01-01T00:00:00Z", "ended": null, "columns": [], "next": null
    });
    let (mut retire, mut forget) = (request("retire"), request("forget"));
    retire["censuses"] = json!([census, census]);
    forget["keys"] = json!(["5e6f7081"]);
    token(&store);
    for asked in [retire, request("restore"), forget] {
        store.take_calls();
        assert_eq!(refused(&store, asked).await.name(), "NotForThisKind");
        assert_eq!(store.take_calls(), ["DescribeSecret"]);
    }
    store.secret(NAME, Some(KEYS), |secret| of_key(secret).with_version("v", &ring(&[1]), DAY, &["AWSCURRENT"]));
    let error = refused(&store, request("revoke")).await;
    assert!(error.name() == "NotForThisKind" && error.to_string().contains("compromise"), "{error}");
}

#[tokio::test]
async fn a_token_is_rolled_back_and_revoked() {
    let store = Store::new();
    token(&store);
    let answer = done(&store, request("rollback")).await;
    assert_eq!((&answer["rolledBackFrom"], &answer["verified"]), (&json!("new"), &json!(false)), "{answer:#}");
    assert_eq!(store.value(NAME, "AWSCURRENT"), "old-token");
    assert_eq!(done(&store, request("rollback")).await["already"], true);
    let answer = done(&store, request("revoke")).await;
    assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(1), &json!(false)), "{answer:#}");
    assert_eq!(store.holder(NAME, "AWSPREVIOUS"), None);
    assert_eq!(answer["secret"], NAME);
}

#[tokio::test]
async fn a_keyring_is_rolled_back_and_keeps_every_key() {
    let store = Store::new();
    store.secret(NAME, Some(KEYS), |secret| {
        let secret = of_key(secret).with_version("new", &ring(&[2, 1]), DAY, &["AWSCURRENT", "ROTATION-RING"]);
        secret.with_version("old", &ring(&[1]), 2 * DAY, &["AWSPREVIOUS"])
    });
    let answer = done(&store, request("rollback")).await;
    let states: Vec<_> = answer["keys"].as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["primary", "secondary"], "{answer:#}");
    let value: Value = serde_json::from_str(&store.value(NAME, "AWSCURRENT")).unwrap();
    assert_eq!((&value["KEY"], &value["KEY_PREVIOUS"]), (&json!(key(1)), &json!(key(2))));
    assert_eq!(value["port"], 8080);
    assert_eq!(store.holder(NAME, "ROTATION-RING"), store.holder(NAME, "AWSCURRENT"));
}

#[tokio::test]
async fn a_rotation_that_may_still_end_is_not_aborted() {
    let store = Store::new();
    for (age, aborted) in [(Duration::from_secs(60), false), (HOUR, true)] {
        token(&store);
        store.change(NAME, |secret| {
            secret.put("pending", "next-token", age, &["AWSPENDING"]);
            secret.described.last_changed = Some(secret.described.as_of - age);
        });
        let answer = ask(&store, request("abort")).await;
        assert_eq!(answer.is_ok(), aborted, "{answer:?}");
        assert_eq!(store.holder(NAME, "AWSPENDING").is_none(), aborted);
    }
    assert_eq!(done(&store, request("abort")).await["because"], "no rotation is open");
}

#[tokio::test]
async fn of_another_kind_only_its_description_is_acted_on() {
    let store = Store::new();
    let other = |store: &Store| {
        store.secret(NAME, Some("stack-pepper"), |secret| {
            let secret = secret.with_version("current", "a pepper", DAY, &["AWSCURRENT"]);
            let secret = secret.with_version("pending", "the next one", HOUR, &["AWSPENDING"]);
            secret.with_tag("rotation:pepper-words", "12").with(|told| told.last_changed = Some(told.as_of - HOUR))
        });
    };
    other(&store);
    let (status, doctor) = (done(&store, request("status")).await, done(&store, request("doctor")).await);
    assert_eq!((&status["kind"], &status["rotation"]["open"]), (&json!("other"), &json!("pending")), "{status:#}");
    let bad = doctor["findings"].as_array().unwrap().iter().filter(|finding| finding["ok"] == false);
    assert!(bad.into_iter().any(|finding| finding["check"] == "AWSPENDING"), "{doctor:#}");
    let answer = done(&store, request("abort")).await;
    assert_eq!((&answer["aborted"], answer.get("verified")), (&json!("pending"), None), "{answer:#}");
    assert_eq!(store.holder(NAME, "AWSPENDING"), None);
    assert!(!store.take_calls().contains(&"GetSecretValue"), "its value is not read");
    for action in ["verify", "rollback", "revoke", "compromise", "restore"] {
        let error = refused(&store, request(action)).await;
        assert_eq!(error.name(), "NotManaged", "{action}");
        assert!(error.to_string().contains("function:stack-pepper"), "{error}");
        assert_eq!(store.take_calls(), ["DescribeSecret"], "{action}");
    }
    store.secret(NAME, None, |secret| secret.with_version("current", "x", DAY, &["AWSCURRENT"]));
    for action in ["status", "abort", "doctor", "verify"] {
        assert_eq!(refused(&store, request(action)).await.name(), "NotManaged", "nobody rotates it: {action}");
    }
}

#[tokio::test]
async fn an_abort_marks_the_ring_again_that_was_put_back() {
    let store = Store::new();
    let record = Stage::restored_after(&version("failed"));
    store.secret(NAME, Some(KEYS), |secret| {
        let secret = of_key(secret).with_version("older", &ring(&[1]), 3 * DAY, &[record.as_str()]);
        let secret = secret.with_version("current", &ring(&[2, 1]), 2 * DAY, &["AWSCURRENT"]);
        let died = ["AWSPENDING", "AWSPREVIOUS", "ROTATION-RING"];
        let secret = secret.with_version("failed", &ring(&[1, 2]), HOUR, &died);
        secret.with(|told| told.last_changed = Some(told.as_of - HOUR))
    });
    assert_eq!(done(&store, request("abort")).await["aborted"], "failed");
    let holder = |stage| store.holder(NAME, stage).unwrap();
    assert_eq!([holder("AWSPREVIOUS"), holder("ROTATION-RING")], [version("older"), version("current")]);
    assert_eq!(store.stages(NAME), ["AWSCURRENT", "AWSPREVIOUS", "ROTATION-RING"], "nothing else is left");
}

/// It died after it had recorded where `AWSPREVIOUS` was, and before its promotion.
#[tokio::test]
async fn an_abort_leaves_no_record_of_awsprevious() {
    for function in [TOKEN, "stack-pepper"] {
        let store = Store::new();
        let record = Stage::restored_after(&version("pending"));
        store.secret(NAME, Some(function), |secret| {
            let secret = secret.with_version("old", "old-token", 2 * DAY, &["AWSPREVIOUS", record.as_str()]);
            let secret = secret.with_version("current", "new-token", DAY, &["AWSCURRENT"]);
            let secret = secret.with_version("pending", "next-token", HOUR, &["AWSPENDING"]);
            secret.with(|told| told.last_changed = Some(told.as_of - HOUR))
        });
        assert_eq!(done(&store, request("abort")).await["aborted"], "pending");
        assert_eq!(store.stages(NAME), ["AWSCURRENT", "AWSPREVIOUS"], "{function}");
    }
}

/// The mark is told of by every look. A rotation that stays open blocks all others.
#[tokio::test]
async fn a_mark_that_may_not_move_keeps_no_rotation_open() {
    let store = Store::new();
    store.refuse("ROTATION-RING");
    store.secret(NAME, Some(KEYS), |secret| {
        let secret = of_key(secret).with_version("current", &ring(&[2, 1]), 2 * DAY, &["AWSCURRENT"]);
        let died = ["AWSPENDING", "AWSPREVIOUS", "ROTATION-RING"];
        let secret = secret.with_version("failed", &ring(&[1, 2]), HOUR, &died);
        secret.with(|told| told.last_changed = Some(told.as_of - HOUR))
    });
    assert_eq!(done(&store, request("abort")).await["aborted"], "failed");
    assert_eq!(store.stages(NAME), ["AWSCURRENT", "ROTATION-RING"]);
}

/// An application that accepts one token. When the old one is taken away, a rotation that began meanwhile fails, and gives
/// `AWSPREVIOUS` back.
struct Fails<'a>(&'a Store, TargetSettings);

impl Target for Fails<'_> {
    async fn ask(&self, _: target::Operation, _: &str, token: &SecretText) -> Result<target::Answer, String> {
        if self.0.holder(NAME, "AWSPREVIOUS").is_none() {
            self.0.change(NAME, |secret| secret.put("old", "old-token", 2 * DAY, &["AWSPREVIOUS"]));
        }
        let verdict = if token.expose() == "new-token" { Verdict::Accepted } else { Verdict::Refused };
        Ok(target::Answer { verdict, instance: None, keys: None })
    }

    fn settings(&self) -> &TargetSettings {
        &self.1
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_that_a_rotation_gives_back_is_told() {
    let store = Store::new();
    token(&store);
    let settings = TargetSettings { can_refresh: true, instances: None, timeout: Duration::from_secs(1) };
    let kind = AdminToken::new(Some(Fails(&store, settings)));
    let stack = StackPolicy::from_environment(&environment(&[]), TOKEN_SETTINGS).unwrap();
    let deadline = Deadline::after(Duration::from_secs(60));
    let operation = Operation::new(Session { kind: &kind, store: &store, stack: &stack, secret_id: NAME, deadline });
    let secret = store.describe(NAME).await.unwrap();
    let error = operation.revoke(secret, &mut randomness().unwrap()).await.unwrap_err();
    assert_eq!(error.name(), "CurrentChanged", "{error}");
    let left = Marker::Revoked.on(&version("old"));
    assert_eq!(store.holder(NAME, left.as_str()), Some(version("old")), "the next try goes on");
}

/// An application that does not answer.
struct Silent(TargetSettings);

impl Target for Silent {
    async fn ask(&self, _: target::Operation, _: &str, _: &SecretText) -> Result<target::Answer, String> {
        Err("connection refused".to_owned())
    }

    fn settings(&self) -> &TargetSettings {
        &self.0
    }
}

/// A person moved `AWSCURRENT` away from a ring whose primary key only that ring has: no put-back leaves that.
#[tokio::test]
async fn an_abort_keeps_the_labels_of_a_ring_that_alone_has_a_key() {
    let store = Store::new();
    store.secret(NAME, Some(KEYS), |secret| {
        let labels = ["AWSPENDING", "AWSPREVIOUS", "ROTATION-RING"];
        let secret = of_key(secret).with_version("moved", &ring(&[3, 2, 1]), DAY, &labels);
        secret.with_version("current", &ring(&[2, 1]), 2 * DAY, &["AWSCURRENT"])
    });
    assert_eq!(done(&store, request("abort")).await["aborted"], "moved");
    assert_eq!(store.holder(NAME, "AWSPENDING"), None);
    for label in ["AWSPREVIOUS", "ROTATION-RING"] {
        assert_eq!(store.holder(NAME, label), Some(version("moved")), "{label}");
    }
    let mut restore = request("restore");
    restore["confirm"] = json!(NAME);
    done(&store, restore).await;
    let value: Value = serde_json::from_str(&store.value(NAME, "AWSCURRENT")).unwrap();
    assert_eq!(value["KEY"], key(3), "it is primary again");
}

#[tokio::test]
async fn an_abort_of_another_kind_leaves_awsprevious() {
    let store = Store::new();
    store.secret(NAME, Some("somebody-elses"), |secret| {
        let secret = secret.with_version("moved", "a value", DAY, &["AWSPENDING", "AWSPREVIOUS"]);
        secret.with_version("current", "another", 2 * DAY, &["AWSCURRENT"])
    });
    assert_eq!(done(&store, request("abort")).await["aborted"], "moved");
    assert_eq!(store.holder(NAME, "AWSPREVIOUS"), Some(version("moved")));
}

/// The version before the empty object was current for a moment, and is not marked yet.
#[tokio::test]
async fn a_key_that_no_mark_knows_comes_back_with_a_lost_ring() {
    let store = Store::new();
    store.secret(NAME, Some(KEYS), |secret| {
        let secret = of_key(secret).with_version("marked", &ring(&[2, 1]), 3 * DAY, &["ROTATION-RING"]);
        let secret = secret.with_version("newer", &ring(&[3, 2, 1]), 2 * HOUR, &["AWSPREVIOUS"]);
        secret.with_version("empty", "{}", HOUR, &["AWSCURRENT"])
    });
    let mut restore = request("restore");
    restore["confirm"] = json!(NAME);
    let answer = done(&store, restore).await;
    assert_eq!(answer["restored"].as_array().unwrap().len(), 3, "{answer:#}");
}

#[tokio::test]
async fn a_rollback_that_is_put_back_marks_the_ring_again() {
    let store = Store::new();
    store.secret("shop/admin-token", Some(TOKEN), |secret| secret.with_version("v", "token", DAY, &["AWSCURRENT"]));
    store.secret(NAME, Some(KEYS), |secret| {
        let secret = of_key(secret).with_version("new", &ring(&[2, 1]), DAY, &["AWSCURRENT", "ROTATION-RING"]);
        secret.with_version("old", &ring(&[1]), 2 * DAY, &["AWSPREVIOUS"])
    });
    let settings = TargetSettings { can_refresh: true, instances: None, timeout: Duration::from_millis(50) };
    let application = (Silent(settings), TokenSecret::new("shop/admin-token".to_owned(), None));
    let kind = EncryptionKey::new(Some(application), Consumers { keyring_aware: true, ..Consumers::default() });
    let stack = StackPolicy::from_environment(&environment(&[("ALLOWED_FIELDS", "KEY")]), KEY_SETTINGS).unwrap();
    let deadline = Deadline::after(Duration::from_secs(60));
    let operation = Operation::new(Session { kind: &kind, store: &store, stack: &stack, secret_id: NAME, deadline });
    let secret = store.describe(NAME).await.unwrap();
    let error = operation.roll_back_keyring(secret, &mut randomness().unwrap()).await.unwrap_err();
    assert_eq!(error.name(), "DidNotVerify", "{error}");
    let holder = |stage| store.holder(NAME, stage).unwrap();
    assert_eq!([holder("AWSCURRENT"), holder("AWSPREVIOUS")], [version("new"), version("old")]);
    assert_eq!(holder("ROTATION-RING"), version("new"), "a mark on the failed version keeps it alive");
}

#[tokio::test]
async fn a_ring_that_an_empty_object_replaced_is_restored() {
    let store = Store::new();
    let lost = |marks: &[&str]| {
        store.secret(NAME, Some(KEYS), |secret| {
            let secret = of_key(secret).with_version("ring", &ring(&[2, 1]), DAY, &[&["AWSPREVIOUS"], marks].concat());
            secret.with_version("empty", "{}", HOUR, &["AWSCURRENT"])
        });
    };
    let mut restore = request("restore");
    lost(&["ROTATION-RING"]);
    assert_eq!(refused(&store, request("verify")).await.name(), "ValueLost");
    let doctor = done(&store, request("doctor")).await.to_string();
    assert!(doctor.contains("rotation restore shop/secret"), "{doctor}");
    assert_eq!(refused(&store, restore.clone()).await.name(), "NotConfirmed");
    restore["confirm"] = json!(NAME);
    let answer = done(&store, restore.clone()).await;
    assert_eq!((answer["restored"].as_array().unwrap().len(), &answer["already"]), (2, &json!(false)), "{answer:#}");
    assert_eq!(store.value(NAME, "AWSCURRENT"), ring(&[2, 1]), "as it was, with the members beside it");
    assert_eq!(store.holder(NAME, "ROTATION-RING"), store.holder(NAME, "AWSCURRENT"));
    assert_eq!(done(&store, request("verify")).await["verified"], true);
    assert_eq!(done(&store, restore.clone()).await["already"], true);
    // Without a mark nobody knows which version was complete.
    lost(&[]);
    assert_eq!(refused(&store, restore).await.name(), "ValueLost");
}
