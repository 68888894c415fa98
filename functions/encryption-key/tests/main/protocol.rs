//! Whole rotations: the four steps with a small Secrets Manager, and an application that reads it.

use std::sync::Arc;

use rotation::deadline::Deadline;
use rotation::error::Restored;
use rotation::event::{RotationEvent, RotationToken};
use rotation::kind::SecretKind as _;
use rotation::marked_ring;
use rotation::protocol::{Outcome, Promotion, Rotator};
use rotation::schedule::RotationRules;
use rotation::store::{Described, Put, SecretStore, StoreError, StoreErrorKind, VersionValue};
use rotation::testing::{Existing, PrivatePut, Refusal, Stages, Written};

use crate::*;

mod empty;

mod refused;

const STEPS: [Step; 4] = [Step::CreateSecret, Step::SetSecret, Step::TestSecret, Step::FinishSecret];
const TOKEN_SECRET: &str = "shop/production/admin-token";

/// A secret, and what became of it.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) now: SystemTime,
    pub(crate) values: BTreeMap<VersionId, VersionValue>,
    pub(crate) stages: Stages,
    tags: BTreeMap<String, String>,
    last_rotated: Option<SystemTime>,
    /// What GetSecretValue gives for the secret with the token.
    token: Result<String, StoreErrorKind>,
    /// Whether a stage may be attached, as if it were nowhere, where it is already.
    pub(crate) lenient: bool,
    calls: Vec<&'static str>,
}

#[derive(Clone)]
pub(crate) struct Store(Arc<Mutex<State>>);

impl Store {
    /// With the value `current` in the version `v0`, or with no value.
    pub(crate) fn new(current: Option<&Document>) -> Self {
        let value = |document: &Document| VersionValue { text: document.text().clone(), created: now() - 90 * DAY };
        let values = current.map(|document| (version("v0"), value(document)));
        let stages = current.map(|_| (Stage::Current, version("v0")));
        Self(Arc::new(Mutex::new(State {
            now: now(),
            values: values.into_iter().collect(),
            stages: stages.into_iter().collect(),
            tags: BTreeMap::new(),
            last_rotated: None,
            token: Ok(TOKEN.to_owned()),
            lenient: false,
            calls: vec![],
        })))
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// Others get their turn between any two calls.
    async fn called<T>(&self, call: &'static str, answer: impl FnOnce(&mut State) -> T) -> T {
        tokio::task::yield_now().await;
        self.change(|state| {
            state.calls.push(call);
            answer(state)
        })
    }

    /// Stores a value by hand and moves `AWSCURRENT` to it, which leaves an open rotation as it is.
    pub(crate) fn edit(&self, id: &str, text: &SecretText) {
        self.change(|state| {
            let (by_hand, edited, current) = (Stage::from("BY-HAND"), version(id), state.holder(&Stage::Current));
            state.put(&edited, text, std::slice::from_ref(&by_hand)).unwrap();
            state.stages.move_stage(&Stage::Current, current.as_ref(), Some(&edited), |_| true).unwrap();
            state.stages.move_stage(&by_hand, Some(&edited), None, |_| true).unwrap();
        });
    }

    /// Attaches `AWSPENDING` to the version, as Secrets Manager does before the first step.
    pub(crate) fn begin(&self, id: &str) {
        self.change(|state| {
            state.stages.open_rotation(&version(id)).unwrap();
            state.calls.clear();
        });
    }

    pub(crate) async fn step(
        &self,
        kind: &Kind,
        stack: &StackPolicy,
        id: &str,
        step: Step,
    ) -> Result<Outcome, RotationError> {
        let event = RotationEvent { step, secret_id: NAME.to_owned(), version: version(id), rotation_token: None };
        let rotator = Rotator { kind, store: self, stack };
        let seed = id.bytes().map(u64::from).sum();
        let report = rotator.perform(&event, Deadline::after(60 * SECOND), &mut rng(seed)).await?;
        Ok(report.outcome)
    }

    /// All four steps, or those up to the first that fails.
    pub(crate) async fn rotate(
        &self,
        kind: &Kind,
        stack: &StackPolicy,
        id: &str,
    ) -> Result<Promotion, (Step, RotationError)> {
        self.begin(id);
        let mut last = None;
        for step in STEPS {
            last = Some(self.step(kind, stack, id, step).await.map_err(|error| (step, error))?);
        }
        self.change(|state| state.last_rotated = Some(state.now));
        match last {
            Some(Outcome::Promoted(promotion)) => Ok(promotion),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn holder(&self, stage: &Stage) -> Option<String> {
        self.change(|state| state.holder(stage)).map(|version| version.to_string())
    }

    pub(crate) fn document(&self, rotation: &Rotation, stage: &Stage) -> Option<Document> {
        let value = self.change(|state| state.values.get(&state.holder(stage)?).cloned())?;
        Some(rotation.parse(value.text.expose()))
    }

    pub(crate) fn calls(&self, call: &str) -> usize {
        self.change(|state| state.calls.iter().filter(|made| call.is_empty() || **made == call).count())
    }

    /// An application that has loaded what is in the secret: all keys of `AWSCURRENT` and of `AWSPENDING`.
    fn application(&self, variables: &'static [(&'static str, &'static str)]) -> Application {
        let store = self.clone();
        Application::new(move |_| {
            let rotation = Rotation::of(variables);
            let ring = |stage| store.document(&rotation, stage).map(|document| rotation.ring(&document));
            let rings = [ring(&Stage::Current), ring(&Stage::Pending)];
            let ids = rings.iter().flatten().flat_map(|ring| ring.keys().map(|(_, key)| key.id()).collect::<Vec<_>>());
            let encrypts_with = rings[0].iter().map(|ring| [ring.primary().id()].into()).next();
            Some(ReportedKeys { decrypts_with: ids.collect(), encrypts_with })
        })
    }
}

impl State {
    pub(crate) fn holder(&self, stage: &Stage) -> Option<VersionId> {
        self.stages.holder(stage).cloned()
    }

    fn put(&mut self, version: &VersionId, value: &SecretText, stages: &[Stage]) -> Result<Put, Refusal> {
        let existing = match self.values.get(version).map(|there| &there.text) {
            Some(text) => Existing::Value(text),
            None if !self.stages.of(version).is_empty() => Existing::Opened,
            None if self.values.is_empty() => Existing::Nothing,
            None => Existing::Others,
        };
        match self.stages.put(version, existing, value, Some(stages), PrivatePut::Leaves) {
            Ok(Written::Unchanged) => Ok(Put::Stored),
            Ok(Written::Filled | Written::Created) => {
                self.values.insert(version.clone(), VersionValue { text: value.clone(), created: self.now });
                Ok(Put::Stored)
            }
            Err(Refusal::TokenUsed) => Ok(Put::Exists),
            Err(refusal) => Err(refusal),
        }
    }
}

fn rejected(_: Refusal) -> StoreError {
    failed("PutSecretValue", StoreErrorKind::Rejected)
}

fn failed(operation: &'static str, kind: StoreErrorKind) -> StoreError {
    StoreError { operation, kind, detail: None }
}

impl SecretStore for Store {
    async fn describe(&self, _: &str) -> Result<Described, StoreError> {
        self.called("describe", |state| {
            Ok(Described {
                name: NAME.to_owned(),
                rotation_enabled: true,
                deleted: false,
                replica_of: None,
                tags: state.tags.clone(),
                versions: state.stages.listed(),
                last_rotated: state.last_rotated,
                next_rotation: None,
                last_changed: None,
                rotation_function: None,
                rotation_rules: RotationRules::default(),
                as_of: state.now,
            })
        })
        .await
    }

    async fn get(&self, _: &str, version: &VersionId) -> Result<Option<VersionValue>, StoreError> {
        self.called("get", |state| Ok(state.values.get(version).cloned())).await
    }

    async fn get_current(&self, secret_id: &str) -> Result<VersionValue, StoreError> {
        assert_eq!(secret_id, TOKEN_SECRET);
        self.called("get token", |state| {
            let token = state.token.clone().map_err(|kind| failed("GetSecretValue", kind))?;
            Ok(VersionValue { text: secret(&token), created: now() })
        })
        .await
    }

    async fn put_pending(
        &self,
        _: &str,
        version: &VersionId,
        value: &SecretText,
        _: Option<&RotationToken>,
    ) -> Result<Put, StoreError> {
        self.called("put", |state| state.put(version, value, &[Stage::Pending]).map_err(rejected)).await
    }

    async fn put_private(
        &self,
        _: &str,
        version: &VersionId,
        value: &SecretText,
        stages: &[Stage],
    ) -> Result<Put, StoreError> {
        self.called("put private", |state| state.put(version, value, stages).map_err(rejected)).await
    }

    async fn move_stage(
        &self,
        _: &str,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> Result<(), StoreError> {
        self.called("move", |state| {
            let State { stages, values, .. } = state;
            let stays = from.is_none() && to.is_some() && stages.holder(&stage) == to;
            let opened = stages.clone();
            let is_known = |version: &VersionId| values.contains_key(version) || !opened.of(version).is_empty();
            if (stays && !state.lenient) || stages.move_stage(&stage, from, to, is_known).is_err() {
                state.calls.push("refused");
                return Err(failed("UpdateSecretVersionStage", StoreErrorKind::Conflict));
            }
            Ok(())
        })
        .await
    }
}

pub(crate) const STAGED: &[(&str, &str)] = &[("ROTATION_FIELD", FIELD)];
const IMMEDIATE: &[(&str, &str)] = &[("ROTATION_FIELD", FIELD), ("ROTATION_PROMOTION", "immediate")];

/// A secret with a staged key that is old enough.
pub(crate) fn with_staged(rotation: &Rotation) -> Document {
    rotation.value(&ring(key(1)).stage(key_of(2, now() - 90 * DAY)).unwrap())
}

#[tokio::test(start_paused = true)]
async fn rotation_makes_12_calls_and_18_with_an_application() {
    let rotation = Rotation::of(STAGED);
    for (asks, expected) in [(false, 12), (true, 18)] {
        let store = Store::new(Some(&with_staged(&rotation)));
        let kind = if asks { asking(store.application(STAGED)) } else { aware() };
        store.rotate(&kind, &stack(STAGED), "v1").await.unwrap();
        let calls = store.change(|state| state.calls.clone());
        assert_eq!(calls.len(), expected, "{calls:?}");
        assert_eq!((store.calls("put"), store.calls("move")), (1, 2), "AWSCURRENT, and the mark of the ring");
        assert_eq!(store.calls("get token"), if asks { 3 } else { 0 }, "in each step that asks the application");
    }
}

#[tokio::test(start_paused = true)]
async fn keyring_grows_by_a_key_per_rotation_staged_for_a_period() {
    const VARIABLES: [&[(&str, &str)]; 3] = [
        &[("ROTATION_FIELD", FIELD), ("ROTATION_KEY_FORMAT", "raw")],
        &[("ROTATION_FIELD", FIELD), ("ROTATION_KEY_FORMAT", "fernet")],
        &[("ROTATION_FIELD", FIELD), ("ROTATION_KEY_FORMAT", "tink")],
    ];
    for variables in VARIABLES {
        let rotation = Rotation::of(variables);
        let store = Store::new(Some(&rotation.bare(&key(1))));
        let kind = asking(store.application(variables));
        let mut expected_primary = key(1).id();
        for turn in 1..=5_u32 {
            let report = store.rotate(&kind, &stack(variables), &format!("v{turn}")).await.unwrap().of_kind;
            let ring = rotation.ring(&store.document(&rotation, &Stage::Current).unwrap());
            assert_eq!(ring.keys().count(), 1 + turn as usize);
            assert_eq!(ring.primary().id(), expected_primary, "{variables:?} {turn}: what was staged before");
            expected_primary = ring.staged().unwrap().id();
            assert_eq!(report["primaryKey"], ring.primary().id().to_string());
            assert_eq!(report["stagedKey"], expected_primary.to_string());
            store.change(|state| state.now += 90 * DAY);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn staged_key_waits_for_the_cache_time_after_its_rotation() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(Some(&rotation.bare(&key(1))));
    store.rotate(&aware(), &stack(STAGED), "v1").await.unwrap();
    store.change(|state| state.now += HOUR - SECOND);
    let (step, error) = store.rotate(&aware(), &stack(STAGED), "v2").await.unwrap_err();
    assert_eq!((step, error.name()), (Step::CreateSecret, "StagedTooYoung"));
    assert!(error.to_string().contains("rotate from 2026-11-01T13:00:00Z on"), "{error}");
    assert_eq!((store.calls("put"), store.holder(&Stage::Current).as_deref()), (0, Some("v1")));
    store.change(|state| state.now += SECOND);
    store.rotate(&aware(), &stack(STAGED), "v2").await.unwrap();
}

/// A version without a value that stayed pending would keep operators from `revoke` and `rollback`.
#[tokio::test(start_paused = true)]
async fn what_create_refuses_leaves_no_pending_version() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(Some(&rotation.bare(&key(1))));
    store.rotate(&aware(), &stack(STAGED), "v1").await.unwrap();
    let hold = ("rotation:hold".to_owned(), "2026-11-03T00:00:00Z".to_owned());
    for (tags, expected) in [(BTreeMap::new(), "StagedTooYoung"), (BTreeMap::from([hold]), "OnHold")] {
        store.change(|state| state.tags = tags);
        let (step, error) = store.rotate(&aware(), &stack(STAGED), expected).await.unwrap_err();
        assert_eq!((step, error.name()), (Step::CreateSecret, expected));
        assert_eq!((store.calls("put"), store.holder(&Stage::Pending)), (0, None), "{expected}");
        // The retries of Secrets Manager find a version that is not listed, and point to the first error.
        let retry = store.step(&aware(), &stack(STAGED), expected, Step::CreateSecret).await.unwrap_err();
        assert_eq!(retry.name(), "UnknownVersion");
        assert!(retry.to_string().contains("look for its first error in the log"), "{retry}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_between_two_steps_keeps_the_pending_value() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(Some(&rotation.bare(&key(1))));
    store.begin("v1");
    store.step(&aware(), &stack(STAGED), "v1", Step::CreateSecret).await.unwrap();
    let hold = ("rotation:hold".to_owned(), "2026-11-03T00:00:00Z".to_owned());
    store.change(|state| state.tags = BTreeMap::from([hold]));
    // Secrets Manager repeats the whole rotation.
    for step in [Step::SetSecret, Step::TestSecret, Step::FinishSecret, Step::CreateSecret] {
        assert_eq!(store.step(&aware(), &stack(STAGED), "v1", step).await.unwrap_err().name(), "OnHold");
        assert_eq!(store.holder(&Stage::Pending).as_deref(), Some("v1"), "{step}");
    }
}

/// A second edit has moved `AWSPREVIOUS` on; the mark of the last complete ring stays.
#[tokio::test(start_paused = true)]
async fn a_ring_that_is_lost_is_named_by_its_mark() {
    let rotation = Rotation::of(STAGED);
    let store = rotated_twice(&rotation).await;
    for edit in ["reset", "again"] {
        store.edit(edit, &secret("{}"));
    }
    let (step, error) = store.rotate(&aware(), &stack(STAGED), "v3").await.unwrap_err();
    let RotationError::ValueLost { previous, lost, .. } = &error else { panic!("{error}") };
    assert_eq!((step, previous.as_ref()), (Step::CreateSecret, Some(&version("v2"))));
    assert!(lost.contains(&FIELD.to_owned()), "{error}");
}

/// A secret that was rotated twice from the bare key 1: the second rotation made a key primary that version `v0` does not hold.
pub(crate) async fn rotated_twice(rotation: &Rotation) -> Store {
    let store = Store::new(Some(&rotation.bare(&key(1))));
    for id in ["v1", "v2"] {
        store.rotate(&aware(), &stack(STAGED), id).await.unwrap();
        store.change(|state| state.now += 90 * DAY);
    }
    store
}

/// What Terraform and CloudFormation do when the value in their code is the first one.
#[tokio::test(start_paused = true)]
async fn a_first_value_that_is_written_again_stops_rotations() {
    let rotation = Rotation::of(STAGED);
    let first = rotation.bare(&key(1));
    for edits in [&["reset"][..], &["reset", "again"]] {
        let store = rotated_twice(&rotation).await;
        let lost = rotation.ring(&store.document(&rotation, &Stage::Current).unwrap()).primary().id();
        for edit in edits {
            store.edit(edit, first.text());
        }
        let (step, error) = store.rotate(&aware(), &stack(STAGED), "v3").await.unwrap_err();
        assert_eq!((step, error.name()), (Step::CreateSecret, "KeysMissing"));
        let told = error.to_string();
        assert!(
            told.contains(&lost.to_string()) && told.contains("ignore_changes") && told.contains("restore"),
            "{told}"
        );
        assert!(!told.contains(&key(1).id().to_string()), "it is there: {told}");
        assert_eq!(
            (store.calls("put"), store.holder(&Stage::Pending)),
            (0, None),
            "nothing is written, nothing blocks"
        );
        // The test of the configuration says so too.
        store.begin("v4");
        let tested = store.step(&aware(), &stack(STAGED), "v4", Step::TestSecret).await;
        assert_eq!(tested.unwrap_err().name(), "KeysMissing");
    }
}

/// An application that loads everything and goes on encrypting with the key 1.
pub(crate) fn stuck(store: &Store, variables: &'static [(&'static str, &'static str)]) -> Kind {
    let loads = store.application(variables);
    asking(Application::new(move |operation| {
        let keys = (loads.reports)(operation)?;
        Some(ReportedKeys { encrypts_with: Some([key(1).id()].into()), ..keys })
    }))
}

#[tokio::test(start_paused = true)]
async fn a_new_key_that_was_current_for_a_moment_is_never_taken_back() {
    let rotation = Rotation::of(IMMEDIATE);
    let store = Store::new(Some(&rotation.bare(&key(1))));
    let (step, error) = store.rotate(&stuck(&store, IMMEDIATE), &stack(IMMEDIATE), "v1").await.unwrap_err();
    assert_eq!((step, error.name()), (Step::FinishSecret, "RollbackFailed"));
    let RotationError::VerificationFailed { restored, reason, .. } = &error else { panic!("{error}") };
    assert_eq!((restored, reason.name()), (&Restored::MustStay, "ConsumersUnproven"));
    assert_eq!(store.holder(&Stage::Current).as_deref(), Some("v1"), "data may be encrypted with it already");
    assert_eq!(store.calls("move"), 2, "and the mark of the ring");
    assert_eq!(store.holder(&marked_ring::stage()).as_deref(), Some("v1"), "it is protected");

    // The retry verifies it again, and says so again until the application is well.
    let again = store.step(&stuck(&store, IMMEDIATE), &stack(IMMEDIATE), "v1", Step::FinishSecret).await;
    assert_eq!(again.unwrap_err().name(), "RollbackFailed");
    let well = asking(store.application(IMMEDIATE));
    let done = store.step(&well, &stack(IMMEDIATE), "v1", Step::FinishSecret).await.unwrap();
    assert!(matches!(done, Outcome::PromotedEarlier(_)), "{done:?}");
    assert_eq!(store.holder(&Stage::Current).as_deref(), Some("v1"));
}

#[tokio::test(start_paused = true)]
async fn unverified_staged_key_is_put_back_as_the_old_ring_holds_it() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(Some(&with_staged(&rotation)));
    let (step, error) = store.rotate(&stuck(&store, STAGED), &stack(STAGED), "v1").await.unwrap_err();
    assert_eq!((step, error.name()), (Step::FinishSecret, "VerificationFailed"));
    let RotationError::VerificationFailed { restored, .. } = &error else { panic!("{error}") };
    assert_eq!(restored, &Restored::Yes(version("v0")));
    assert_eq!(store.holder(&Stage::Current).as_deref(), Some("v0"));
    assert_eq!(store.holder(&Stage::Pending), None);
}
