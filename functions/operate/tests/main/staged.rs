//! What actions do to a token that is staged one period ahead, for servers that read it when they start.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

use admin_token::AdminToken;
use operate::error::OperateError;
use operate::request;
use operate::session::Operation;
use operate::sweep::Sweep;
use rotation::deadline::Deadline;
use rotation::lambda::randomness;
use rotation::policy::StackPolicy;
use rotation::secret::SecretText;
use rotation::session::Session;
use rotation::store::SecretStore as _;
use rotation::target::{self, Answer, Target, TargetSettings, Verdict};
use rotation::time::format_timestamp;
use rotation::token::TOKEN_SETTINGS;
use serde_json::{Value, json};

use crate::store::{DAY, HOUR, Secret, Store, version};
use crate::{environment, operator};

const NAME: &str = "shop/secret";
const TOKEN: &str = "stack-admin-token";
const CONSUMED: [(&str, &str); 2] = [("ALLOWED_FIELDS", "KEY"), ("CONSUMED_SECRETS", "secret")];

/// One server, which accepts what its environment held when it was started.
struct Server {
    accepts: Mutex<Vec<String>>,
    settings: TargetSettings,
}

impl Server {
    fn with(accepts: &[&str]) -> AdminToken<Self> {
        let instances = NonZeroUsize::new(1);
        let settings = TargetSettings { can_refresh: false, instances, timeout: Duration::from_secs(1) };
        let accepts = accepts.iter().map(|token| (*token).to_owned()).collect();
        AdminToken::new(Some(Self { accepts: Mutex::new(accepts), settings }))
    }

    fn restart(kind: &AdminToken<Self>, store: &Store) {
        let value = current(store);
        let accepts = ["KEY", "KEY_NEXT", "KEY_PREVIOUS"].map(|member| value[member].as_str().map(str::to_owned));
        *kind.target().unwrap().accepts.lock().unwrap() = accepts.into_iter().flatten().collect();
    }
}

impl Target for Server {
    async fn ask(&self, _: target::Operation, _: &str, token: &SecretText) -> Result<Answer, String> {
        let accepted = self.accepts.lock().unwrap().iter().any(|known| known == token.expose());
        let verdict = if accepted { Verdict::Accepted } else { Verdict::Refused };
        Ok(Answer { verdict, instance: Some("one".to_owned()), keys: None })
    }

    fn settings(&self) -> &TargetSettings {
        &self.settings
    }
}

/// A staged token that was rotated a day ago, and whose overlap ends after `left`.
fn staged(store: &Store, left: Option<Duration>, delivered: bool) {
    store.secret(NAME, Some(TOKEN), |secret| {
        let end = left.map_or(store.now - HOUR, |left| store.now + left);
        let before = json!({ "KEY": "one", "KEY_NEXT": "two", "port": 8080 });
        let value = json!({ "KEY": "two", "KEY_NEXT": "three", "KEY_PREVIOUS": "one", "KEY_PREVIOUS_UNTIL": format_timestamp(end), "port": 8080 });
        let secret = tagged(secret).with_version("before", &before.to_string(), 2 * DAY, &["AWSPREVIOUS"]);
        let mut labels = vec!["AWSCURRENT"];
        if delivered {
            labels.push("ROTATION-DELIVERED");
        }
        secret
            .with_version("now", &value.to_string(), DAY, &labels)
            .with(|told| (told.last_rotated, told.last_changed) = (Some(told.as_of - DAY), Some(told.as_of - DAY)))
    });
}

fn tagged(secret: Secret) -> Secret {
    let secret = secret.with_tag("rotation:field", "KEY").with_tag("rotation:promotion", "staged");
    secret.with_tag("rotation:overlap", "7d")
}

fn current(store: &Store) -> Value {
    serde_json::from_str(&store.value(NAME, "AWSCURRENT")).unwrap()
}

/// What an action does, for a kind that asks `kind`'s server.
async fn act<T: Target + Send>(
    store: &Store,
    kind: &AdminToken<T>,
    variables: &[(&str, &str)],
    action: &str,
) -> Result<Value, OperateError> {
    let variables = [variables, &[("SECRET_NAME_PREFIX", "shop/")]].concat();
    let stack = &StackPolicy::from_environment(&environment(&variables), TOKEN_SETTINGS).unwrap();
    let deadline = Deadline::after(Duration::from_secs(60));
    let operation = Operation::new(Session { kind, store, stack, secret_id: NAME, deadline });
    let (secret, mut rng) = (store.describe(NAME).await.unwrap(), randomness().unwrap());
    Ok(match action {
        "rollback" => serde_json::to_value(operation.roll_back_token(secret, &mut rng).await?),
        "revoke" => serde_json::to_value(operation.revoke(secret, &mut rng).await?),
        "verify" => serde_json::to_value(operation.verify_tokens(secret, &mut rng).await?),
        "status" => serde_json::to_value(operation.status(&secret).await?),
        "compromise" => serde_json::to_value(operation.compromise_token(secret, Some(NAME), &mut rng).await?),
        other => panic!("{other}"),
    }
    .unwrap())
}

/// The same without an application.
async fn alone(store: &Store, action: &str) -> Result<Value, OperateError> {
    act(store, &AdminToken::<Server>::new(None), &CONSUMED, action).await
}

#[tokio::test]
async fn a_rollback_swaps_two_tokens_and_keeps_the_next() {
    let store = Store::new();
    staged(&store, Some(HOUR), true);
    alone(&store, "rollback").await.unwrap();
    let back = current(&store);
    assert_eq!([&back["KEY"], &back["KEY_PREVIOUS"], &back["KEY_NEXT"]], ["one", "two", "three"]);
    assert_eq!(back["KEY_PREVIOUS_UNTIL"], format_timestamp(store.now + 7 * DAY));
    assert_eq!(alone(&store, "rollback").await.unwrap()["already"], true);
}

#[tokio::test]
async fn a_rollback_after_the_overlap_is_refused() {
    let store = Store::new();
    staged(&store, None, true);
    let error = alone(&store, "rollback").await.unwrap_err();
    assert!(error.name() == "NothingToGoBackTo" && error.to_string().contains("its overlap is over"), "{error}");
    // Servers know no token of a version before, unless the value holds it.
    store.secret(NAME, Some(TOKEN), |secret| {
        let secret = tagged(secret).with_version("before", r#"{"KEY":"zero"}"#, 2 * DAY, &["AWSPREVIOUS"]);
        secret.with_version("now", r#"{"KEY":"one","KEY_NEXT":"two"}"#, DAY, &["AWSCURRENT"])
    });
    assert_eq!(alone(&store, "rollback").await.unwrap_err().name(), "NothingToGoBackTo");
    assert_eq!(current(&store)["KEY"], "one");
}

#[tokio::test(start_paused = true)]
async fn a_revocation_keeps_the_next_token() {
    let store = Store::new();
    staged(&store, Some(HOUR), true);
    let kind = Server::with(&["two", "three"]);
    let answer = act(&store, &kind, &CONSUMED, "revoke").await.unwrap();
    assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(1), &json!(true)));
    assert_eq!(current(&store), json!({ "KEY": "two", "KEY_NEXT": "three", "port": 8080 }));
}

/// A person moved AWSCURRENT back: the token of the version that was left is the next one now.
#[tokio::test(start_paused = true)]
async fn a_next_token_is_never_revoked() {
    let store = Store::new();
    store.secret(NAME, Some(TOKEN), |secret| {
        let left = r#"{"KEY":"two","KEY_NEXT":"three","KEY_PREVIOUS":"one"}"#;
        let secret = tagged(secret).with_version("left", left, DAY, &["AWSPREVIOUS"]);
        secret.with_version("now", r#"{"KEY":"one","KEY_NEXT":"two"}"#, 2 * DAY, &["AWSCURRENT", "ROTATION-DELIVERED"])
    });
    let answer = act(&store, &Server::with(&["one", "two"]), &CONSUMED, "revoke").await.unwrap();
    assert_eq!(answer["tokensRevoked"], 0);
}

#[tokio::test(start_paused = true)]
async fn verify_asks_for_the_token_and_the_next_one() {
    let store = Store::new();
    staged(&store, Some(HOUR), true);
    let accepts = |accepts: &[&str]| Server::with(accepts);
    let (both, now, next) = (accepts(&["two", "three"]), accepts(&["two"]), accepts(&["three"]));
    assert_eq!(act(&store, &both, &CONSUMED, "verify").await.unwrap()["verified"], true);
    let error = act(&store, &now, &CONSUMED, "verify").await.unwrap_err();
    assert!(error.to_string().starts_with("the target refuses the next token"), "{error}");
    let error = act(&store, &next, &CONSUMED, "verify").await.unwrap_err();
    assert!(error.to_string().starts_with("the target refuses the current token"), "{error}");
}

#[tokio::test]
async fn status_says_that_a_next_token_is_staged() {
    let store = Store::new();
    staged(&store, Some(HOUR), true);
    let status = alone(&store, "status").await.unwrap();
    assert_eq!(
        (&status["nextTokenStaged"], &status["policy"]["rotation:promotion"]["value"]),
        (&json!(true), &json!("staged"))
    );
    store.secret(NAME, Some(TOKEN), |secret| {
        tagged(secret).with_version("now", r#"{"KEY":"one"}"#, DAY, &["AWSCURRENT"])
    });
    assert!(alone(&store, "status").await.unwrap()["nextTokenStaged"].is_null());
}

/// What was exposed with the value: the token, the next one, the previous one.
const EXPOSED: [&str; 3] = ["two", "three", "one"];

#[tokio::test(start_paused = true)]
async fn a_compromise_replaces_both_tokens_and_waits_for_delivery() {
    let store = Store::new();
    staged(&store, Some(HOUR), true);
    store.change(NAME, |secret| secret.put("open", r#"{"KEY":"three","KEY_NEXT":"four"}"#, HOUR, &["AWSPENDING"]));
    let kind = Server::with(&EXPOSED);
    let error = act(&store, &kind, &CONSUMED, "compromise").await.unwrap_err();
    assert!(error.name() == "NotFinished" && error.to_string().contains("requests are refused"), "{error}");
    let fresh = current(&store);
    assert_eq!(fresh.as_object().unwrap().len(), 3, "no previous token");
    assert!(EXPOSED.iter().all(|exposed| fresh["KEY"] != **exposed && fresh["KEY_NEXT"] != **exposed));
    assert_eq!(store.holder(NAME, "AWSPENDING"), None, "the open rotation would promote what was exposed");
    // Asked again, however late, it replaces nothing more.
    store.change(NAME, |secret| {
        *secret = std::mem::replace(secret, Secret::new(NAME, None, store.now)).with(|told| told.as_of += 5 * HOUR);
    });
    let error = act(&store, &kind, &CONSUMED, "compromise").await.unwrap_err();
    assert_eq!((error.name(), current(&store)), ("NotFinished", fresh.clone()));
    // The servers are restarted, and delivery says so.
    let holder = store.holder(NAME, "AWSCURRENT").unwrap();
    store.change(NAME, |secret| secret.attach("ROTATION-DELIVERED", &holder));
    Server::restart(&kind, &store);
    let answer = act(&store, &kind, &CONSUMED, "compromise").await.unwrap();
    assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(3), &json!(true)), "{answer:#}");
    assert_eq!((answer["replaced"].as_str(), current(&store)), (Some(version("now").as_str()), fresh));
    assert_eq!(store.stages(NAME), ["AWSCURRENT", "ROTATION-DELIVERED"]);
}

#[tokio::test(start_paused = true)]
async fn without_consumers_a_compromise_waits_for_the_restart() {
    let store = Store::new();
    staged(&store, Some(HOUR), false);
    let (kind, variables) = (Server::with(&EXPOSED), &CONSUMED[..1]);
    let error = act(&store, &kind, variables, "compromise").await.unwrap_err();
    assert_eq!(error.name(), "NotFinished");
    // One that accepts what was exposed is no end.
    Server::restart(&kind, &store);
    kind.target().unwrap().accepts.lock().unwrap().push("three".to_owned());
    let error = act(&store, &kind, variables, "compromise").await.unwrap_err();
    assert_eq!(error.name(), "TargetAcceptsRevoked");
    Server::restart(&kind, &store);
    let answer = act(&store, &kind, variables, "compromise").await.unwrap();
    assert_eq!(answer["provenRefused"], true);
    assert_eq!(store.stages(NAME), ["AWSCURRENT"]);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_finishes_a_compromise_after_the_delivery() {
    let store = Store::new();
    staged(&store, Some(HOUR), true);
    alone(&store, "compromise").await.unwrap_err();
    let sweep = async || {
        let operator = operator(&CONSUMED);
        let asked = request::Sweep::default();
        let sweep = Sweep::new(&operator, &asked, "request", Deadline::after(Duration::from_secs(60)));
        serde_json::to_value(sweep.perform("operate", &store).await.unwrap().answer).unwrap()
    };
    assert_eq!(sweep().await["revoked"], 0);
    assert!(store.stages(NAME).iter().any(|stage| stage.starts_with("ROTATION-COMPROMISED-")));
    let holder = store.holder(NAME, "AWSCURRENT").unwrap();
    store.change(NAME, |secret| secret.attach("ROTATION-DELIVERED", &holder));
    assert_eq!(sweep().await["revoked"], 1);
    assert_eq!(store.stages(NAME), ["AWSCURRENT", "ROTATION-DELIVERED"]);
}
