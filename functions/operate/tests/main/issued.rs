//! What actions and the sweep do to a credential that an issuer makes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::{Json, Router};
use operate::Operator;
use operate::dispatch::SecretRequest;
use operate::error::OperateError;
use operate::marker::Marker;
use operate::request::Request;
use operate::sweep::Sweep;
use rotation::aws::Clients;
use rotation::deadline::Deadline;
use rotation::event::VersionId;
use rotation::versions::{Attempt, Stage};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::store::{DAY, HOUR, Secret, Store, version};
use crate::{DEPLOYMENT, environment, operator};

const NAME: &str = "shop/provider";
const FUNCTION: &str = "stack-issued-credential";

type Happening = Box<dyn FnOnce() + Send>;

/// A Lambda with one function, the issuer, and the keys that are alive at its provider.
#[derive(Clone, Default)]
struct Issuer {
    alive: Arc<Mutex<BTreeSet<String>>>,
    discarded: Arc<Mutex<Vec<Value>>>,
    /// Whether it revokes nothing now.
    waits: Arc<Mutex<bool>>,
    /// What happens while it verifies next.
    meanwhile: Arc<Mutex<Option<Happening>>>,
}

async fn answer(State(issuer): State<Issuer>, payload: String) -> Json<Value> {
    let request: Value = serde_json::from_str(&payload).unwrap();
    let key = request["members"]["KEY"].as_str().unwrap_or_default();
    if let (Some("verify"), Some(happens)) = (request["operation"].as_str(), issuer.meanwhile.lock().unwrap().take()) {
        happens();
    }
    let mut alive = issuer.alive.lock().unwrap();
    let status = match request["operation"].as_str().unwrap() {
        "verify" if alive.contains(key) => "ok",
        "verify" => "refused",
        "revoke" if *issuer.waits.lock().unwrap() => "later",
        "revoke" => {
            alive.remove(key);
            "gone"
        }
        _ => {
            issuer.discarded.lock().unwrap().push(request.clone());
            "gone"
        }
    };
    Json(json!({ "version": 1, "status": status }))
}

impl Issuer {
    /// With these keys, and the deployment that asks the issuer.
    async fn start(alive: &[&str]) -> (Self, Operator) {
        let issuer = Self::default();
        issuer.alive.lock().unwrap().extend(alive.iter().map(ToString::to_string));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let variables = [
            ("ALLOWED_FIELDS", "KEY,KEY_ID"),
            ("ISSUER_FUNCTION", "issuer"),
            ("ISSUER_TIMEOUT", "2s"),
            ("AWS_ENDPOINT_URL_LAMBDA", endpoint.as_str()),
        ];
        (issuer, operator(&variables))
    }

    fn alive(&self) -> Vec<String> {
        self.alive.lock().unwrap().iter().cloned().collect()
    }
}

fn value(number: u8, port: u16) -> String {
    json!({ "KEY": format!("key-{number}"), "KEY_ID": format!("id-{number}"), "port": port }).to_string()
}

fn issued(name: &str) -> String {
    Stage::issued(&version(name)).as_str().to_owned()
}

/// Rotated so long ago: key 1 was replaced by key 2.
fn rotated(secret: Secret, ago: Duration) -> Secret {
    let secret = secret.with_tag("rotation:fields", "KEY KEY_ID");
    let secret = secret.with_version("new", &value(2, 9), ago, &["AWSCURRENT", &issued("new")]);
    let secret = secret.with_version("old", &value(1, 8), ago + DAY, &["AWSPREVIOUS", &issued("old")]);
    secret.with(|told| (told.last_rotated, told.last_changed) = (Some(told.as_of - ago), Some(told.as_of - ago)))
}

fn secret(ago: Duration) -> Store {
    let store = Store::new();
    store.secret(NAME, Some(FUNCTION), |secret| rotated(secret, ago));
    store
}

async fn ask(operator: &Operator, store: &Store, action: &str) -> Result<Value, OperateError> {
    let mut request = json!({ "action": action, "secret_id": NAME, "reason": "a test" });
    if action == "compromise" {
        request["confirm"] = json!(NAME);
    }
    let request = Request::parse(request).unwrap();
    let clients = Clients::from_environment(&environment(&DEPLOYMENT), || std::time::SystemTime::UNIX_EPOCH).unwrap();
    let deadline = Deadline::after(Duration::from_secs(60));
    let request = SecretRequest { operator, clients: &clients, request: &request, deadline };
    request.perform(store).await.map(|response| serde_json::to_value(response).unwrap())
}

async fn sweep(operator: &Operator, store: &Store) -> Value {
    let asked = operate::request::Sweep { scheduled: Some(store.now), ..Default::default() };
    let sweep = Sweep::new(operator, &asked, "request", Deadline::after(Duration::from_secs(60)));
    serde_json::to_value(sweep.perform("operate", store).await.unwrap().answer).unwrap()
}

#[tokio::test]
async fn verify_asks_the_issuer_of_a_credential() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(HOUR);
    assert_eq!(ask(&operator, &store, "verify").await.unwrap()["verified"], true);
    issuer.alive.lock().unwrap().remove("key-2");
    assert_eq!(ask(&operator, &store, "verify").await.unwrap_err().name(), "CredentialRefused");
}

#[tokio::test]
async fn revoke_ends_the_overlap_of_a_credential_at_once() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(2 * HOUR);
    let answer = ask(&operator, &store, "revoke").await.unwrap();
    assert_eq!((&answer["tokensRevoked"], issuer.alive()), (&json!(1), vec!["key-2".to_owned()]));
    assert_eq!(store.stages(NAME), ["AWSCURRENT".to_owned(), issued("new")]);
    assert_eq!(ask(&operator, &store, "rollback").await.unwrap_err().name(), "NothingToGoBackTo");
}

#[tokio::test]
async fn a_revocation_that_has_to_wait_is_not_called_proven() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(2 * HOUR);
    *issuer.waits.lock().unwrap() = true;
    let answer = ask(&operator, &store, "revoke").await.unwrap();
    assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(0), &json!(false)), "{answer}");
    assert_eq!(store.holder(NAME, &issued("old")), Some(version("old")), "it is asked for again");
    *issuer.waits.lock().unwrap() = false;
    let answer = ask(&operator, &store, "revoke").await.unwrap();
    assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(1), &json!(true)), "{answer}");
    assert_eq!(issuer.alive(), ["key-2"]);
}

#[tokio::test]
async fn a_credential_that_a_rollback_brought_back_is_not_revoked() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = Arc::new(secret(2 * HOUR));
    // Before an edit of another member, an older version had the same credential.
    store.change(NAME, |secret| secret.put("before", &value(1, 7), 3 * DAY, &[&issued("before")]));
    let rolled_back = Arc::clone(&store);
    *issuer.meanwhile.lock().unwrap() = Some(Box::new(move || {
        rolled_back.change(NAME, |secret| {
            secret.put("back", &value(1, 9), Duration::ZERO, &[]);
            secret.attach("AWSPREVIOUS", &version("new"));
            secret.attach("AWSCURRENT", &version("back"));
        });
    }));
    let answer = ask(&operator, &store, "revoke").await.unwrap();
    assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(0), &json!(false)), "{answer}");
    assert_eq!(issuer.alive().len(), 2);
}

#[tokio::test]
async fn two_versions_of_one_credential_are_revoked_once() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(2 * HOUR);
    store.change(NAME, |secret| secret.put("before", &value(1, 7), 3 * DAY, &[&issued("before")]));
    let answer = ask(&operator, &store, "revoke").await.unwrap();
    assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(1), &json!(true)), "{answer}");
    assert_eq!(store.stages(NAME), ["AWSCURRENT".to_owned(), issued("new")]);
    let answer = ask(&operator, &store, "revoke").await.unwrap();
    assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(0), &json!(true)), "nothing was left");
    assert_eq!(issuer.alive(), ["key-2"]);
}

fn half_rolled_back(store: &Store) {
    store.change(NAME, |secret| {
        for marker in [Marker::Operation, Marker::RolledBack] {
            secret.attach(marker.on(&version("new")).as_str(), &version("new"));
        }
        secret.described.last_changed = Some(secret.described.as_of);
    });
}

#[tokio::test]
async fn a_rollback_that_died_is_ended_by_the_next_request() {
    let (_, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(HOUR);
    half_rolled_back(&store);
    store.change(NAME, |secret| secret.put("old", &value(2, 8), DAY, &[]));
    assert_eq!(ask(&operator, &store, "rollback").await.unwrap()["already"], true);
    assert_eq!(store.holder(NAME, Marker::Operation.on(&version("new")).as_str()), None);
}

#[tokio::test]
async fn a_sweep_revokes_nothing_while_the_current_one_is_dead() {
    let (issuer, operator) = Issuer::start(&["key-1"]).await;
    let store = secret(25 * HOUR);
    let answer = sweep(&operator, &store).await;
    assert_eq!(issuer.alive(), ["key-1"]);
    assert_eq!((&answer["failed"], &answer["overlapsExpired"]), (&json!(1), &json!(0)), "{answer:#}");
}

/// What was given up is nobody's, and a provider may be full of it.
#[tokio::test]
async fn what_was_given_up_is_revoked_while_the_current_one_is_dead() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-3"]).await;
    let store = secret(49 * HOUR);
    store.change(NAME, |secret| secret.put("given-up", &value(3, 9), 48 * HOUR, &[&issued("given-up")]));
    sweep(&operator, &store).await;
    assert_eq!(issuer.alive(), ["key-1"]);
}

/// A person made the credential current again for a while.
#[tokio::test]
async fn a_credential_that_was_current_not_long_ago_is_kept() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(30 * HOUR);
    store.change(NAME, |secret| {
        secret.put("back", &value(1, 9), 10 * HOUR, &[]);
        secret.attach("AWSPREVIOUS", &version("back"));
        secret.described.last_changed = Some(secret.described.as_of - 2 * HOUR);
    });
    sweep(&operator, &store).await;
    assert_eq!(issuer.alive(), ["key-1", "key-2"]);
    assert_eq!(store.holder(NAME, "AWSPREVIOUS"), Some(version("back")));
}

/// Its mark is missing, because the attempt died in between; the next rotation or sweep knows what became of it.
#[tokio::test]
async fn a_pending_credential_without_a_mark_is_not_forgotten() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2", "key-3"]).await;
    let store = secret(2 * HOUR);
    let attempt = Stage::issuing(&Attempt { began: store.now - HOUR, of: version("pending") }, 7);
    store.change(NAME, |secret| {
        secret.put("pending", &value(3, 9), HOUR, &["AWSPENDING"]);
        secret.attach(attempt.as_str(), &version("new"));
    });
    ask(&operator, &store, "compromise").await.unwrap_err();
    assert_eq!(store.holder(NAME, attempt.as_str()), Some(version("new")));
    assert_eq!(issuer.discarded.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_sweep_tells_a_revocation_that_has_to_wait() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    *issuer.waits.lock().unwrap() = true;
    let store = secret(25 * HOUR);
    let answer = sweep(&operator, &store).await;
    assert_eq!(answer["overlapsExpired"], 1, "{answer:#}");
}

#[tokio::test]
async fn no_way_leads_back_to_a_revoked_credential() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(2 * HOUR);
    // Somebody edited another member, and the rotation replaced that version.
    store.change(NAME, |secret| secret.put("edited", &value(1, 9), 2 * HOUR + HOUR / 60, &[]));
    store.change(NAME, |secret| secret.attach("AWSPREVIOUS", &version("edited")));
    assert_eq!(ask(&operator, &store, "revoke").await.unwrap()["provenRefused"], true);
    assert_eq!((issuer.alive(), store.holder(NAME, "AWSPREVIOUS")), (vec!["key-2".to_owned()], None));
}

#[tokio::test]
async fn revoke_spares_what_a_rollback_is_about_to_bring_back() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(2 * HOUR);
    let stored = Marker::Operation.on(&version("back"));
    store.change(NAME, |secret| secret.put("back", &value(1, 9), Duration::ZERO, &[stored.as_str()]));
    store.change(NAME, |secret| secret.attach("AWSPREVIOUS", &version("back")));
    assert_eq!(ask(&operator, &store, "revoke").await.unwrap()["provenRefused"], false);
    assert_eq!((issuer.alive().len(), store.holder(NAME, "AWSPREVIOUS")), (2, Some(version("back"))));
}

#[tokio::test]
async fn a_rollback_yields_to_a_faster_revocation() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = Arc::new(secret(2 * HOUR));
    let (revoked, labels) = (Arc::clone(&store), store.stages(NAME));
    *issuer.meanwhile.lock().unwrap() = Some(Box::new(move || {
        revoked.change(NAME, |secret| secret.attach("AWSPREVIOUS", &version("elsewhere")));
    }));
    assert_eq!(ask(&operator, &store, "rollback").await.unwrap_err().name(), "CurrentChanged");
    assert_eq!((store.value(NAME, "AWSCURRENT"), store.stages(NAME)), (value(2, 9), labels));
}

#[tokio::test]
async fn revoke_waits_for_what_may_still_be_put_back() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    // The service has not seen the rotation succeed.
    let store = secret(HOUR);
    store.change(NAME, |secret| {
        secret.described.last_rotated = Some(secret.described.as_of - DAY);
        secret.described.last_changed = Some(secret.described.as_of);
    });
    assert_eq!(ask(&operator, &store, "revoke").await.unwrap_err().name(), "RotationOpen");
    store.change(NAME, |secret| secret.described.last_rotated = Some(secret.described.as_of - HOUR));
    assert_eq!(ask(&operator, &store, "revoke").await.unwrap()["tokensRevoked"], 1);
    // A rollback has not come to its end.
    let (issuer_of_rollback, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(HOUR);
    half_rolled_back(&store);
    assert_eq!(ask(&operator, &store, "revoke").await.unwrap_err().name(), "RotationOpen");
    assert_eq!((issuer.alive().len(), issuer_of_rollback.alive().len()), (1, 2));
    // One that died long ago puts nothing back.
    store.change(NAME, |secret| secret.described.last_changed = Some(secret.described.as_of - HOUR));
    assert_eq!(ask(&operator, &store, "revoke").await.unwrap()["provenRefused"], true);
}

/// A provider may have room for two credentials only, and within an overlap there are two.
#[tokio::test]
async fn a_compromise_makes_room_for_the_new_credential_first() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(HOUR);
    let error = ask(&operator, &store, "compromise").await.unwrap_err();
    assert_eq!(error.name(), "AccessDenied", "RotateSecret is refused here: {error}");
    assert_eq!(issuer.alive(), ["key-2"]);
    // Also when a rotation is open that found no room.
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(HOUR);
    store.change(NAME, |secret| secret.attach("AWSPENDING", &version("no-value")));
    ask(&operator, &store, "compromise").await.unwrap_err();
    assert_eq!(issuer.alive(), ["key-2"]);
    // One that does not work is no reason to revoke one that does.
    let (issuer, operator) = Issuer::start(&["key-1"]).await;
    let store = secret(HOUR);
    ask(&operator, &store, "compromise").await.unwrap_err();
    assert_eq!(issuer.alive(), ["key-1"]);
}

#[tokio::test]
async fn a_rollback_brings_the_credential_back_and_nothing_else() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(2 * HOUR);
    ask(&operator, &store, "rollback").await.unwrap();
    assert_eq!(store.value(NAME, "AWSCURRENT"), value(1, 9), "the edit of another member stays");
    assert_eq!(issuer.alive().len(), 2);
    assert_eq!(store.holder(NAME, &issued("new")), Some(version("new")), "it is revoked later");
}

#[tokio::test]
async fn no_rollback_makes_a_dead_credential_current() {
    let (_, operator) = Issuer::start(&["key-2"]).await;
    let store = secret(2 * HOUR);
    store.take_calls();
    assert_eq!(ask(&operator, &store, "rollback").await.unwrap_err().name(), "DidNotVerify");
    let calls = store.take_calls();
    assert!(calls.iter().all(|call| matches!(*call, "DescribeSecret" | "GetSecretValue")), "{calls:?}");
}

#[tokio::test]
async fn a_sweep_revokes_a_credential_after_its_overlap() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2"]).await;
    let store = secret(23 * HOUR);
    sweep(&operator, &store).await;
    assert_eq!(issuer.alive(), ["key-1", "key-2"]);
    let store = secret(25 * HOUR);
    sweep(&operator, &store).await;
    assert_eq!(issuer.alive(), ["key-2"]);
    assert_eq!(store.stages(NAME), ["AWSCURRENT".to_owned(), issued("new")]);
}

#[tokio::test]
async fn a_sweep_revokes_what_was_given_up_and_discards_orphans() {
    let (issuer, operator) = Issuer::start(&["key-1", "key-2", "key-3"]).await;
    let store = secret(25 * HOUR);
    let began = store.now - 25 * HOUR;
    let lost = VersionId::new("v".repeat(32));
    let attempt = Stage::issuing(&Attempt { began, of: lost.clone() }, 7);
    store.change(NAME, |secret| {
        secret.put("given-up", &value(3, 9), 24 * HOUR, &[&issued("given-up")]);
        secret.put("new", &value(2, 9), 25 * HOUR, &[attempt.as_str()]);
    });
    sweep(&operator, &store).await;
    assert_eq!(issuer.alive(), ["key-2"]);
    let discarded = issuer.discarded.lock().unwrap().clone();
    assert_eq!((discarded.len(), &discarded[0]["version_id"]), (1, &json!(lost.as_str())));
    assert_eq!(discarded[0]["keep"], json!([{ "KEY": "key-2", "KEY_ID": "id-2" }]));
    assert_eq!(store.stages(NAME), ["AWSCURRENT".to_owned(), issued("new")]);
}

#[tokio::test]
async fn doctor_tells_a_credential_that_ends_before_its_rotation() {
    let (_, operator) = Issuer::start(&["key-2"]).await;
    let store = Store::new();
    let value = json!({ "KEY": "key-2", "KEY_ID": "id-2", "KEY_EXPIRES": "2030-01-01T00:00:00Z" }).to_string();
    store.secret(NAME, Some(FUNCTION), |secret| {
        let secret = secret.with_tag("rotation:fields", "KEY KEY_ID");
        let secret = secret.with_version("new", &value, DAY, &["AWSCURRENT"]);
        secret.with(|told| told.next_rotation = Some(told.as_of + 365 * 20 * DAY))
    });
    let answer = ask(&operator, &store, "doctor").await.unwrap().to_string();
    assert!(answer.contains("the value ends at 2030-01-01T00:00:00Z, and the next rotation is"), "{answer}");
    assert!(answer.contains("it says that the current credential works"), "{answer}");
    assert_eq!(ask(&operator, &store, "status").await.unwrap()["expires"], "2030-01-01T00:00:00Z");
}

#[tokio::test]
async fn a_stack_without_an_issuer_acts_on_the_description_alone() {
    let store = secret(HOUR);
    assert_eq!(ask(&operator(&[]), &store, "verify").await.unwrap_err().name(), "NotManaged");
    ask(&operator(&[]), &store, "status").await.unwrap();
}
