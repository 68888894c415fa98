//! What waits for a delivery to all consumers, and how actions and sweeps tell of it.

use std::time::Duration;

use operate::Operator;
use operate::dispatch::SecretRequest;
use operate::error::OperateError;
use operate::request::{self, Request};
use operate::sweep::{Sweep, SweepResult};
use rotation::aws::Clients;
use rotation::deadline::Deadline;
use rotation::event::digest;
use rotation::notification::{Notification, State};
use rotation::store::StoreErrorKind;
use rotation::time::format_timestamp;
use serde_json::{Value, json};

use crate::store::{DAY, HOUR, Secret, Store, version};
use crate::{DEPLOYMENT, environment, operator};

const TOKEN: &str = "stack-admin-token";
const KEYS: &str = "stack-encryption-key";
const NAME: &str = "shop/secret";
const DELIVERED: &str = "ROTATION-DELIVERED";
const REPAIR: &str = "rotation deliver shop/secret";
const VARIABLES: [(&str, &str); 2] = [("ALLOWED_FIELDS", "KEY"), ("CONSUMED_SECRETS", "secret")];

async fn ask_of(operator: &Operator, store: &Store, request: Value) -> Result<Value, OperateError> {
    let request = Request::parse(request).unwrap();
    let clients = Clients::from_environment(&environment(&DEPLOYMENT), || std::time::SystemTime::UNIX_EPOCH).unwrap();
    let deadline = Deadline::after(Duration::from_secs(60));
    let request = SecretRequest { operator, clients: &clients, request: &request, deadline };
    request.perform(store).await.map(|response| serde_json::to_value(response).unwrap())
}

async fn ask(store: &Store, request: Value) -> Result<Value, OperateError> {
    ask_of(&operator(&VARIABLES), store, request).await
}

async fn sweep(operator: &Operator, store: &Store) -> SweepResult {
    let scheduled = Some(store.now + Duration::from_secs(5 * 60));
    let asked = request::Sweep { scheduled, ..request::Sweep::default() };
    let sweep = Sweep::new(operator, &asked, "request", Deadline::after(Duration::from_secs(60)));
    sweep.perform("operate", store).await.unwrap()
}

fn request(action: &str) -> Value {
    json!({ "action": action, "secret_id": NAME, "reason": "a test", "confirm": NAME })
}

fn plain(action: &str) -> Value {
    json!({ "action": action, "secret_id": NAME, "reason": "a test" })
}

/// A token in a text, rotated so long ago, with these labels beside.
fn token(store: &Store, ago: Duration, new: &[&str], old: &[&str]) {
    store.secret(NAME, Some(TOKEN), |secret| {
        let secret = secret.with_version("new", "new-token", ago, &[&["AWSCURRENT"], new].concat());
        let secret = secret.with_version("old", "old-token", ago + DAY, &[&["AWSPREVIOUS"], old].concat());
        rotated(secret, ago)
    });
}

fn rotated(secret: Secret, ago: Duration) -> Secret {
    secret.with(|told| (told.last_rotated, told.last_changed) = (Some(told.as_of - ago), Some(told.as_of - ago)))
}

fn ring(keys: &[u8]) -> String {
    let keys: Vec<String> = keys.iter().map(|number| format!("{number:02x}").repeat(32)).collect();
    match &keys[..] {
        [key] => json!({ "KEY": key }).to_string(),
        [key, others @ ..] => json!({ "KEY": key, "KEY_PREVIOUS": others.join(",") }).to_string(),
        [] => panic!("no key"),
    }
}

/// A label of a delivery that began so long ago.
fn began(store: &Store, ago: Duration) -> String {
    let since = (store.now - ago).duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    format!("ROTATION-DELIVERING-{}", since.as_secs())
}

#[tokio::test]
async fn nothing_is_revoked_before_the_current_value_is_delivered() {
    let store = Store::new();
    token(&store, HOUR, &[], &[DELIVERED]);
    let error = ask(&store, plain("revoke")).await.unwrap_err();
    let since = format_timestamp(store.now - HOUR);
    assert!(error.name() == "NotDelivered" && error.to_string().contains(&since), "{error}");
    assert_eq!(store.stages(NAME), ["AWSCURRENT", "AWSPREVIOUS", DELIVERED], "nothing was marked or taken away");
    store.change(NAME, |secret| secret.put("new", "new-token", HOUR, &[DELIVERED]));
    assert_eq!(ask(&store, plain("revoke")).await.unwrap()["tokensRevoked"], 1);
    assert_eq!(store.stages(NAME), ["AWSCURRENT", DELIVERED]);
    // A secret without consumers waits for nobody.
    token(&store, HOUR, &[], &[]);
    assert!(ask_of(&operator(&[("CONSUMED_SECRETS", "other")]), &store, plain("revoke")).await.is_ok());
}

/// The versions of a compromise whose rotation has ended so long ago.
fn compromised(store: &Store, ago: Duration, new: &[&str]) -> String {
    let leaked = format!("ROTATION-COMPROMISED-{}", &digest(["leaked"])[..8]);
    let replacing = format!("{}{:032x}", digest(["rotation.replaces.v1", "leaked"]), 1);
    store.secret(NAME, Some(TOKEN), |secret| {
        let secret = secret.with_version(&replacing, "new-token", ago, &[&["AWSCURRENT"], new].concat());
        rotated(secret.with_version("leaked", "leaked-token", 30 * DAY, &["AWSPREVIOUS", &leaked]), ago)
    });
    leaked
}

#[tokio::test]
async fn a_compromised_token_is_revoked_after_its_delivery() {
    let store = Store::new();
    for ago in [HOUR / 2, 5 * HOUR, 23 * HOUR] {
        let leaked = compromised(&store, ago, &[]);
        let error = ask(&store, request("compromise")).await.unwrap_err();
        assert_eq!(error.name(), "NotDelivered", "{ago:?}: {error}");
        assert_eq!(store.stages(NAME), ["AWSCURRENT", "AWSPREVIOUS", leaked.as_str()], "it has to be sent again");
        compromised(&store, ago, &[DELIVERED]);
        let answer = ask(&store, request("compromise")).await.unwrap();
        assert_eq!((&answer["tokensRevoked"], &answer["replaced"]), (&json!(1), &json!("leaked")), "{answer:#}");
        assert_eq!(store.stages(NAME), ["AWSCURRENT", DELIVERED], "{ago:?}");
    }
}

#[tokio::test]
async fn status_tells_the_delivery_of_a_secret_with_consumers() {
    let store = Store::new();
    let waits = |state: &str, since: Duration, late: bool| {
        let [since, late_from] = [since, since - 6 * HOUR].map(|ago| format_timestamp(store.now - ago));
        json!({ "state": state, "since": since, "late": late, "lateFrom": late_from, "repair": REPAIR })
    };
    let begun = began(&store, 7 * HOUR);
    let since = format_timestamp(store.now - 12 * HOUR);
    let first = json!({ "state": "notBegun", "since": since, "late": false, "repair": REPAIR });
    for (new, old, expected) in [
        (&[DELIVERED][..], &[][..], json!({ "state": "delivered" })),
        (&[], &[DELIVERED], waits("notBegun", 12 * HOUR, true)),
        (&[], &[], first),
        (&[&begun], &[DELIVERED], waits("pending", 12 * HOUR, true)),
    ] {
        token(&store, 12 * HOUR, new, old);
        assert_eq!(ask(&store, plain("status")).await.unwrap()["delivery"], expected, "{new:?} {old:?}");
    }
    token(&store, 6 * HOUR, &[&began(&store, 6 * HOUR)], &[]);
    let told = &ask(&store, plain("status")).await.unwrap()["delivery"];
    assert_eq!(told, &waits("pending", 6 * HOUR, false), "a quarter of the overlap has just passed");
    let of_others = ask_of(&operator(&[]), &store, plain("status")).await.unwrap();
    assert_eq!(of_others.get("delivery"), None);
}

#[tokio::test]
async fn doctor_names_a_late_delivery_and_its_repair() {
    let store = Store::new();
    let finding = async |variables: &[(&str, &str)]| {
        let diagnosis = ask_of(&operator(variables), &store, plain("doctor")).await.unwrap();
        let findings = diagnosis["findings"].as_array().unwrap().clone();
        findings.into_iter().find(|finding| finding["check"] == "delivery")
    };
    token(&store, 7 * HOUR, &[], &[DELIVERED]);
    let late = finding(&VARIABLES).await.unwrap();
    assert_eq!((&late["ok"], &late["repair"]), (&json!(false), &json!(REPAIR)), "{late:#}");
    assert!(late["detail"].as_str().unwrap().contains("no delivery has begun"), "{late:#}");
    token(&store, HOUR, &[&began(&store, HOUR)], &[DELIVERED]);
    let young = finding(&VARIABLES).await.unwrap();
    let detail = young["detail"].as_str().unwrap();
    assert!(young["ok"] == true && detail.contains(REPAIR) && detail.contains("late from"), "{young:#}");
    token(&store, HOUR, &[DELIVERED], &[]);
    assert_eq!(finding(&VARIABLES).await.unwrap()["detail"], "every consumer has the current value");
    assert_eq!(finding(&[]).await, None, "a secret without consumers");
}

#[tokio::test]
async fn a_sweep_leaves_an_overlap_open_until_the_delivery() {
    let store = Store::new();
    token(&store, 25 * HOUR, &[], &[DELIVERED]);
    let SweepResult { answer, message, .. } = sweep(&operator(&VARIABLES), &store).await;
    let answer = serde_json::to_value(answer).unwrap();
    assert_eq!((&answer["revoked"], &answer["overlapsExpired"]), (&json!(0), &json!(1)), "{answer:#}");
    let since = format_timestamp(store.now - 25 * HOUR);
    let expected = json!([{ "secret": NAME, "since": since, "late": true, "repair": REPAIR }]);
    assert_eq!(answer["notDelivered"], expected);
    assert_eq!(message, None, "a day after it was late it is told again, and not each hour");
    assert!(store.holder(NAME, "AWSPREVIOUS").is_some());

    token(&store, 25 * HOUR, &[DELIVERED], &[]);
    let answer = serde_json::to_value(sweep(&operator(&VARIABLES), &store).await.answer).unwrap();
    assert_eq!((&answer["revoked"], &answer["notDelivered"]), (&json!(1), &json!([])), "{answer:#}");
}

#[tokio::test]
async fn an_overlap_is_ended_after_a_delivery_of_weeks() {
    let store = Store::new();
    let delivered = |created: Duration| {
        store.secret(NAME, Some(TOKEN), |secret| {
            let secret = secret.with_version("new", "new-token", created, &["AWSCURRENT", DELIVERED]);
            let secret = secret.with_version("old", "old-token", 60 * DAY, &["AWSPREVIOUS"]);
            secret.with(|told| {
                (told.last_rotated, told.last_changed) = (Some(told.as_of - 30 * DAY), Some(told.as_of - 2 * HOUR));
            })
        });
    };
    let revoked =
        async || serde_json::to_value(sweep(&operator(&VARIABLES), &store).await.answer).unwrap()["revoked"].clone();
    delivered(30 * DAY);
    assert_eq!(revoked().await, 1);
    assert_eq!(store.stages(NAME), ["AWSCURRENT", DELIVERED]);
    delivered(2 * DAY);
    assert_eq!(revoked().await, 0, "a person stored the current value, and AWSPREVIOUS is the way back");
}

#[tokio::test]
async fn a_delivered_value_under_a_lost_key_counts_for_nothing() {
    let store = Store::new();
    for (kind, expected) in [
        (StoreErrorKind::Kms, "NotDelivered"),
        (StoreErrorKind::Binary, "NotDelivered"),
        (StoreErrorKind::Throttled, "Throttled"),
        (StoreErrorKind::AccessDenied, "AccessDenied"),
    ] {
        token(&store, HOUR, &[], &[]);
        store.change(NAME, |secret| secret.put("lost", "new-token", 9 * DAY, &[DELIVERED]));
        store.lose("lost", kind);
        assert_eq!(ask(&store, plain("revoke")).await.unwrap_err().name(), expected);
    }
}

#[tokio::test]
async fn a_late_delivery_is_told_once_with_its_repair() {
    let store = Store::new();
    for (ago, told) in [(6 * HOUR, true), (6 * HOUR + HOUR / 2, true), (5 * HOUR, false), (8 * HOUR, false)] {
        token(&store, ago + Duration::from_secs(1), &[], &[DELIVERED]);
        let message = sweep(&operator(&VARIABLES), &store).await.message;
        let is_told = message.as_ref().is_some_and(|(_, text)| text.contains(REPAIR) && text.contains("delivery-late"));
        assert_eq!(is_told, told, "{ago:?}: {message:?}");
    }
}

#[tokio::test]
async fn a_delivery_that_labels_show_costs_no_call() {
    let store = Store::new();
    token(&store, 30 * DAY, &[DELIVERED], &[]);
    sweep(&operator(&VARIABLES), &store).await;
    assert_eq!(store.take_calls(), Vec::<&str>::new());
    token(&store, 30 * DAY, &[], &[DELIVERED]);
    sweep(&operator(&VARIABLES), &store).await;
    assert_eq!(store.take_calls(), ["DescribeSecret", "GetSecretValue", "GetSecretValue"]);
}

#[tokio::test]
async fn a_revocation_is_proven_after_its_delivery() {
    let store = Store::new();
    let revoked = format!("ROTATION-REVOKED-{}", &digest(["old"])[..8]);
    let labels = |new: &[&str]| {
        store.secret(NAME, Some(TOKEN), |secret| {
            let secret = secret.with_version("new", "new-token", 2 * HOUR, &[&["AWSCURRENT"], new].concat());
            rotated(secret.with_version("old", "old-token", 30 * DAY, &[&revoked]), 2 * HOUR)
        });
    };
    labels(&[]);
    sweep(&operator(&VARIABLES), &store).await;
    assert_eq!(store.holder(NAME, &revoked), Some(version("old")));
    labels(&[DELIVERED]);
    sweep(&operator(&VARIABLES), &store).await;
    assert_eq!(store.stages(NAME), ["AWSCURRENT", DELIVERED]);
}

/// A keyring with a secondary key that no row needs.
fn keyring(store: &Store, current: &[&str]) {
    store.secret("shop/archive", None, |secret| secret.with_version("v", "{}", DAY, &["AWSCURRENT"]));
    store.secret(NAME, Some(KEYS), |secret| {
        let labels = [&["AWSCURRENT", "ROTATION-RING"], current].concat();
        let secret = secret.with_tag("rotation:field", "KEY").with_version("v", &ring(&[2, 1]), 9 * DAY, &labels);
        rotated(secret, 9 * DAY)
    });
}

fn census(store: &Store, ago: Duration, delivered: bool) -> Value {
    let [began, ended] = [ago, ago - Duration::from_secs(1)].map(|ago| format_timestamp(store.now - ago));
    let column = json!({
        "schema": "public", "table": "rows", "column": "token", "rows": 0, "nulls": 0, "keys": {}, "unknown": 0, "damaged": 0
    });
    json!({
        "secret": NAME, "version": "v", "began": began, "ended": ended, "columns": [column], "settled": true,
        "delivered": delivered, "next": null
    })
}

#[tokio::test]
async fn censuses_count_only_of_a_delivered_ring() {
    let store = Store::new();
    let retire = |censuses: [Value; 2]| {
        let mut request = plain("retire");
        request["censuses"] = json!(censuses);
        request
    };
    let censuses = |first: bool, second: bool| {
        [(3 * DAY, first), (HOUR / 2, second)].map(|(ago, delivered)| census(&store, ago, delivered))
    };
    keyring(&store, &[DELIVERED]);
    for (first, second) in [(false, false), (false, true), (true, false)] {
        let error = ask(&store, retire(censuses(first, second))).await.unwrap_err();
        assert!(error.name() == "CensusOutdated" && error.to_string().contains("delivered"), "{error}");
    }
    keyring(&store, &[]);
    let error = ask(&store, retire(censuses(true, true))).await.unwrap_err();
    assert_eq!(error.name(), "NotDelivered", "another delivery has begun: {error}");
    keyring(&store, &[DELIVERED]);
    let error = ask(&store, retire(censuses(true, true))).await.unwrap_err();
    assert_eq!(error.name(), "KeysStillNeeded", "the censuses count, and this one did not count the key: {error}");
    let without = ask_of(&operator(&VARIABLES[..1]), &store, retire(censuses(false, false))).await.unwrap_err();
    assert_eq!(without.name(), "KeysStillNeeded", "without consumers no delivery is needed: {without}");
}

#[tokio::test]
async fn rows_follow_their_key_after_its_delivery() {
    let store = Store::new();
    keyring(&store, &[]);
    let variables = [("REENCRYPT_STATE_MACHINE", "arn"), ("REENCRYPT_KEY_SECRET", NAME), ("KEY_ARCHIVE_SECRET", "")];
    let operator = operator(&[&VARIABLES[..], &variables].concat());
    let answer = serde_json::to_value(sweep(&operator, &store).await.answer).unwrap();
    let told = &answer["reencryption"];
    assert_eq!(told["started"], false, "{answer:#}");
    assert!(told["because"].as_str().unwrap().contains("not delivered"), "{told:#}");
}

#[tokio::test]
async fn actions_leave_the_labels_of_a_delivery_alone() {
    let store = Store::new();
    let began = began(&store, HOUR);
    token(&store, HOUR, &[&began], &[DELIVERED]);
    assert_eq!(ask(&store, plain("rollback")).await.unwrap()["rolledBackFrom"], "new");
    assert_eq!(
        (store.holder(NAME, &began), store.holder(NAME, DELIVERED)),
        (Some(version("new")), Some(version("old")))
    );
    assert_eq!(store.value(NAME, "AWSCURRENT"), "old-token");

    token(&store, HOUR, &[&began], &[DELIVERED]);
    store.change(NAME, |secret| secret.put("pending", "next-token", HOUR, &["AWSPENDING"]));
    assert_eq!(ask(&store, plain("abort")).await.unwrap()["aborted"], "pending");
    assert_eq!(store.stages(NAME), ["AWSCURRENT", "AWSPREVIOUS", DELIVERED, began.as_str()]);

    // What a rollback made, and consumers still have, keeps the label that says so.
    let rolled_back = format!("ROTATION-ROLLBACK-{}", &digest(["consumed"])[..8]);
    token(&store, 30 * DAY, &[], &[]);
    store.change(NAME, |secret| secret.put("consumed", "other-token", 40 * DAY, &[&rolled_back, DELIVERED]));
    store.change(NAME, |secret| secret.put("begun", "x", 9 * DAY, &[&operation("begun")]));
    sweep(&operator(&VARIABLES), &store).await;
    assert_eq!(store.stages(NAME), ["AWSCURRENT", "AWSPREVIOUS", DELIVERED, rolled_back.as_str()]);
}

fn operation(version: &str) -> String {
    format!("ROTATION-OPERATION-{}", &digest([version])[..8])
}

fn told(events: &[Notification]) -> Vec<(&str, &str, &str)> {
    let told = |event| {
        let Notification { secret, version, state, .. }: &Notification = event;
        (secret.as_str(), version.as_str(), state.name())
    };
    events.iter().map(told).collect()
}

#[tokio::test]
async fn a_sweep_tells_what_happened_in_its_window() {
    let store = Store::new();
    token(&store, HOUR / 2, &[DELIVERED], &[]);
    let events = sweep(&operator(&VARIABLES), &store).await.events;
    assert_eq!(told(&events), [(NAME, "new", "Promoted")]);
    assert_eq!(events[0].state, State::Promoted { accepted_until: Some(store.now - HOUR / 2 + DAY) });
    assert_eq!(events[0].at, store.now - HOUR / 2);

    token(&store, 25 * HOUR, &[DELIVERED], &[]);
    assert_eq!(told(&sweep(&operator(&VARIABLES), &store).await.events), [(NAME, "new", "OverlapEnded")]);
    assert_eq!(told(&sweep(&operator(&VARIABLES), &store).await.events), []);

    token(&store, 30 * DAY, &[DELIVERED], &[]);
    store.change(NAME, |secret| {
        secret.put("pending", "next-token", HOUR, &["AWSPENDING"]);
        secret.described.last_changed = Some(secret.described.as_of - HOUR);
        secret.described.next_rotation = Some(secret.described.as_of - HOUR / 2);
    });
    let events = sweep(&operator(&VARIABLES), &store).await.events;
    assert_eq!(told(&events), [(NAME, "new", "Due"), (NAME, "pending", "RotationFailed")]);
    assert_eq!(events[1].next_steps, ["aws secretsmanager rotate-secret --secret-id shop/secret"]);
}

#[tokio::test]
async fn what_people_rotate_is_told_when_it_is_due() {
    let store = Store::new();
    token(&store, 30 * DAY, &[DELIVERED], &[]);
    let done = format_timestamp(store.now - 20 * DAY - HOUR / 2);
    store.change(NAME, |secret| {
        let tags = [("rotation:remind", "OTHER:20d KEY:90d"), ("rotation:done:OTHER", done.as_str())];
        secret.described.tags.extend(tags.map(|(key, value)| (key.to_owned(), value.to_owned())));
    });
    let events = sweep(&operator(&VARIABLES), &store).await.events;
    assert_eq!(told(&events), [(NAME, "new", "Due")], "KEY was never recorded, and the secret was changed long ago");
    assert_eq!(events[0].state, State::Due { since: store.now - HOUR / 2 });
    assert_eq!(events[0].next_steps, ["infra/rotation put shop/secret"]);
}

#[tokio::test]
async fn missing_keys_are_told_with_their_ids() {
    let store = Store::new();
    store.secret(NAME, Some(KEYS), |secret| {
        let secret = secret.with_tag("rotation:field", "KEY");
        let secret = secret.with_version("whole", &ring(&[2, 1]), DAY, &["ROTATION-RING", "AWSPREVIOUS"]);
        let secret = secret.with_version("reset", &ring(&[1]), HOUR / 2, &["AWSCURRENT"]);
        rotated(secret, HOUR / 2)
    });
    let SweepResult { answer, events, .. } = sweep(&operator(&VARIABLES), &store).await;
    let answer = serde_json::to_value(answer).unwrap();
    assert_eq!(told(&events), [(NAME, "reset", "KeysMissing")], "{answer:#}");
    let State::KeysMissing { keys } = &events[0].state else { panic!("{events:?}") };
    assert_eq!((keys.len(), keys[0].len()), (1, 8), "{keys:?}");
}

#[tokio::test]
async fn a_sweep_that_a_person_asks_for_tells_no_events() {
    let store = Store::new();
    token(&store, HOUR / 2, &[DELIVERED], &[]);
    let (operator, asked) = (operator(&VARIABLES), request::Sweep::default());
    let sweep = Sweep::new(&operator, &asked, "request", Deadline::after(Duration::from_secs(60)));
    assert_eq!(sweep.perform("operate", &store).await.unwrap().events, []);
}
