//! No rotation begins before the one before is delivered to all consumers.

use rotation::delivery::{delivered_stage, delivering_stage};
use rotation::marked_ring;
use rotation::protocol::Outcome;
use rotation::store::VersionValue;

use crate::protocol::{STAGED, Store, rotated_twice, stuck, with_staged};
use crate::*;

/// The stack of a secret with consumers.
const CONSUMED: &[(&str, &str)] = &[("ROTATION_FIELD", FIELD), ("CONSUMED_SECRETS", NAME)];

/// A secret with a staged key that is old enough, and no label of a delivery.
fn undelivered() -> Store {
    Store::new(Some(&with_staged(&Rotation::of(STAGED))))
}

fn attach(store: &Store, stage: Stage, id: &str) {
    store.change(|state| {
        let holder = state.holder(&stage);
        state.stages.move_stage(&stage, holder.as_ref(), Some(&version(id)), |_| true).unwrap();
    });
}

fn take_off(store: &Store, stage: &Stage) {
    store.change(|state| {
        let holder = state.holder(stage);
        state.stages.move_stage(stage, holder.as_ref(), None, |_| true).unwrap();
    });
}

/// A version that is not current, as a person or an older release left it.
fn keep(store: &Store, id: &str, value: Option<&str>) {
    let stage = Stage::Other(format!("KEPT-{id}"));
    store.change(|state| {
        if let Some(value) = value {
            let value = VersionValue { text: secret(value), created: now() - 200 * DAY };
            state.values.insert(version(id), value);
        }
        state.stages.move_stage(&stage, None, Some(&version(id)), |_| true).unwrap();
    });
}

async fn refusal(store: &Store, id: &str) -> RotationError {
    let (step, error) = store.rotate(&aware(), &stack(CONSUMED), id).await.unwrap_err();
    assert_eq!((step, store.holder(&Stage::Current).as_deref() != Some(id)), (Step::CreateSecret, true));
    error
}

fn not_delivered(since: SystemTime) -> RotationError {
    RotationError::NotDelivered { name: NAME.to_owned(), since }
}

#[tokio::test(start_paused = true)]
async fn no_rotation_begins_before_the_last_is_delivered() {
    let store = undelivered();
    assert_eq!(refusal(&store, "v1").await, not_delivered(now() - 90 * DAY), "nothing has been delivered yet");
    attach(&store, delivered_stage(), "v0");
    store.rotate(&aware(), &stack(CONSUMED), "v2").await.unwrap();

    store.change(|state| state.now += 90 * DAY);
    assert_eq!(refusal(&store, "v3").await, not_delivered(now()), "since version v2 was created");
    attach(&store, delivering_stage(now() + SECOND), "v2");
    attach(&store, delivered_stage(), "v2");
    assert_eq!(refusal(&store, "v4").await, not_delivered(now()), "another delivery has begun");
    take_off(&store, &delivering_stage(now() + SECOND));
    store.rotate(&aware(), &stack(CONSUMED), "v5").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_rotation_leaves_no_pending_version() {
    let store = undelivered();
    let error = refusal(&store, "v1").await;
    assert_eq!((store.calls("put"), store.holder(&Stage::Pending)), (0, None));
    let told = error.to_string();
    assert!(told.contains("`rotation deliver shop/production/encryption-key`"), "{told}");
    assert!(told.contains("since 2026-08-03T12:00:00Z"), "{told}");
    let retry = store.step(&aware(), &stack(CONSUMED), "v1", Step::CreateSecret).await.unwrap_err();
    assert_eq!(retry.name(), "UnknownVersion");
}

/// The gate was passed when the value was made: a delivery that begins anew only delays the rotation.
#[tokio::test(start_paused = true)]
async fn a_stored_value_waits_for_a_delivery_that_begins_anew() {
    let store = undelivered();
    attach(&store, delivered_stage(), "v0");
    store.begin("v1");
    store.step(&aware(), &stack(CONSUMED), "v1", Step::CreateSecret).await.unwrap();
    attach(&store, delivering_stage(now()), "v0");
    let retry = store.step(&aware(), &stack(CONSUMED), "v1", Step::CreateSecret).await.unwrap_err();
    assert_eq!((retry.name(), store.holder(&Stage::Pending).as_deref()), ("NotDelivered", Some("v1")));
    take_off(&store, &delivering_stage(now()));
    for step in [Step::CreateSecret, Step::SetSecret, Step::TestSecret, Step::FinishSecret] {
        store.step(&aware(), &stack(CONSUMED), "v1", step).await.unwrap();
    }
    assert_eq!(store.holder(&Stage::Current).as_deref(), Some("v1"));
}

/// A retirement, or an edit of another member, makes a version of which nobody has to know.
#[tokio::test(start_paused = true)]
async fn a_value_that_asks_nothing_new_is_delivered() {
    let rotation = Rotation::of(STAGED);
    let old = ring(key(1)).stage(key_of(2, now() - 90 * DAY)).unwrap();
    let more = old.clone().with_secondary(key(3)).unwrap();
    let primary = ring(key(2)).with_secondary(key(1)).unwrap();
    for (current, delivered, expected) in
        [(&old, &more, true), (&more, &old, false), (&old, &primary, false), (&primary, &old, false)]
    {
        let store = Store::new(Some(&rotation.value(current)));
        keep(&store, "before", Some(rotation.value(delivered).text().expose()));
        attach(&store, delivered_stage(), "before");
        let rotated = store.rotate(&aware(), &stack(CONSUMED), "v1").await.map_err(|(_, error)| error.name());
        assert_eq!(rotated.err(), (!expected).then_some("NotDelivered"), "{:?}", current.primary().id());
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivered_value_that_tells_nothing_is_no_delivery() {
    let not_a_ring = format!("{{\"{FIELD}\":\"not a key\"}}");
    for value in [None, Some(""), Some("{}"), Some("{\"OTHER\":\"x\"}"), Some(not_a_ring.as_str())] {
        let store = undelivered();
        keep(&store, "before", value);
        attach(&store, delivered_stage(), "before");
        assert_eq!(refusal(&store, "v1").await.name(), "NotDelivered", "{value:?}");
        assert_eq!((store.calls("put"), store.holder(&Stage::Pending)), (0, None), "{value:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_compromised_value_is_replaced_undelivered() {
    let leaked = || Stage::Other("ROTATION-COMPROMISED-01234567".to_owned());
    let store = undelivered();
    keep(&store, "before", Some("{}"));
    attach(&store, leaked(), "before");
    assert_eq!(refusal(&store, "v1").await.name(), "NotDelivered", "an earlier version leaked, and was replaced");
    attach(&store, leaked(), "v0");
    store.rotate(&aware(), &stack(CONSUMED), "v2").await.unwrap();
}

/// No consumer may get a ring that lacks keys: that comes first.
#[tokio::test(start_paused = true)]
async fn missing_keys_are_told_before_a_missing_delivery() {
    let rotation = Rotation::of(STAGED);
    let store = rotated_twice(&rotation).await;
    store.edit("reset", rotation.bare(&key(1)).text());
    assert_eq!(refusal(&store, "v3").await.name(), "KeysMissing");
    assert_eq!(store.holder(&marked_ring::stage()).as_deref(), Some("v2"));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_by_labels_costs_no_call_and_by_value_one() {
    const OTHERS: &[(&str, &str)] = &[("ROTATION_FIELD", FIELD), ("CONSUMED_SECRETS", "shop/other")];
    let rotation = Rotation::of(STAGED);
    for (variables, delivered, calls) in
        [(OTHERS, None, 12), (CONSUMED, Some("v0"), 12), (CONSUMED, Some("before"), 13)]
    {
        let store = undelivered();
        keep(&store, "before", Some(with_staged(&rotation).text().expose()));
        if let Some(delivered) = delivered {
            attach(&store, delivered_stage(), delivered);
        }
        store.rotate(&aware(), &stack(variables), "v1").await.unwrap();
        assert_eq!(store.calls(""), calls, "{delivered:?}");
    }
}

/// A label of a delivery on the version with the empty object does not say that there was another value.
#[tokio::test(start_paused = true)]
async fn an_empty_object_with_a_label_gets_its_first_value() {
    for stage in [delivered_stage(), delivering_stage(now())] {
        let store = undelivered();
        store.change(|state| state.values.get_mut(&version("v0")).unwrap().text = secret("{}"));
        attach(&store, stage, "v0");
        store.begin("v1");
        let first = store.step(&aware(), &stack(CONSUMED), "v1", Step::CreateSecret).await;
        assert_eq!(first.unwrap(), Outcome::Initialised);
    }
}

/// A task that started in the moment between promotion and put-back holds the failed value.
#[tokio::test(start_paused = true)]
async fn a_value_that_was_put_back_is_delivered_again() {
    let store = undelivered();
    attach(&store, delivered_stage(), "v0");
    let (_, error) = store.rotate(&stuck(&store, CONSUMED), &stack(CONSUMED), "v1").await.unwrap_err();
    assert_eq!(error.name(), "VerificationFailed");
    assert_eq!(store.holder(&Stage::Current).as_deref(), Some("v0"));
    assert_eq!(store.holder(&delivered_stage()), None);
    assert_eq!(refusal(&store, "v2").await.name(), "NotDelivered");
}
