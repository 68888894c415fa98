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

#[tokio::test(start_paused = true)]
async fn silent_application_keeps_a_primary_from_being_promoted() {
    for (variables, current) in
        [(STAGED, with_staged(&Rotation::of(STAGED))), (IMMEDIATE, Rotation::of(IMMEDIATE).bare(&key(1)))]
    {
        let store = Store::new(Some(&current));
        let (step, error) = store.rotate(&asking(Application::silent()), &stack(variables), "v1").await.unwrap_err();
        assert_eq!((step, error.name()), (Step::TestSecret, "ConsumersUnproven"));
        // testSecret is not believed.
        let finish = store.step(&asking(Application::silent()), &stack(variables), "v1", Step::FinishSecret).await;
        assert_eq!(finish.unwrap_err().name(), "ConsumersUnproven");
        assert_eq!((store.holder(&Stage::Current).as_deref(), store.calls("move")), (Some("v0"), 0));
    }
    let store = Store::new(Some(&Rotation::of(STAGED).bare(&key(1))));
    store.rotate(&asking(Application::silent()), &stack(STAGED), "v1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn oversized_ring_is_refused_before_anything_is_written() {
    for (name, _) in FORMATS {
        let variables = [("ROTATION_FIELD", FIELD), ("ROTATION_KEY_FORMAT", name)];
        let rotation = Rotation::of(&variables);
        let bare = rotation.bare(&key(1));
        let filler = FieldName::new("filler").unwrap();
        let filled = |bytes: usize| bare.with_member(&filler, &secret(&"x".repeat(bytes))).unwrap();
        let overhead = filled(1).text().len() - 1;
        let store = Store::new(Some(&filled(65_536 - overhead)));
        let (step, error) = store.rotate(&aware(), &stack(&variables), "v1").await.unwrap_err();
        assert_eq!(step, Step::CreateSecret);
        let RotationError::ValueTooLarge { bytes } = error else { panic!("{error}") };
        let growth = bytes - 65_536;
        assert_eq!((store.calls("put"), store.holder(&Stage::Current).as_deref()), (0, Some("v0")), "{name}");

        let store = Store::new(Some(&filled(65_536 - overhead - growth)));
        store.rotate(&aware(), &stack(&variables), "v1").await.unwrap();
        assert_eq!(
            store.document(&rotation, &Stage::Current).unwrap().text().len(),
            65_536,
            "{name}: to the last byte"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_somebody_adds_during_a_rotation_is_never_lost() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(Some(&with_staged(&rotation)));
    let (kind, stack) = (aware(), stack(STAGED));
    store.begin("v1");
    for step in &STEPS[..3] {
        store.step(&kind, &stack, "v1", *step).await.unwrap();
    }
    let edited = rotation.ring(&with_staged(&rotation)).with_secondary(key(7)).unwrap();
    store.edit("by hand", rotation.value(&edited).text());
    let error = store.step(&kind, &stack, "v1", Step::FinishSecret).await.unwrap_err();
    assert_eq!(error.name(), "CurrentChanged");
    assert_eq!(store.holder(&Stage::Current).as_deref(), Some("by hand"));
    assert_eq!(store.holder(&Stage::Pending), None, "given up");
    // What somebody stored may not have been seen by consumers before.
    store.change(|state| state.now += 2 * HOUR);
    store.rotate(&kind, &stack, "v2").await.unwrap();
    let ring = rotation.ring(&store.document(&rotation, &Stage::Current).unwrap());
    assert!(ring.holds_all_of(&edited), "the next rotation keeps it");
}

#[tokio::test(start_paused = true)]
async fn key_added_while_the_ring_is_stored_blocks_no_later_rotation() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(Some(&with_staged(&rotation)));
    let (kind, stack) = (asking(store.application(STAGED)), stack(STAGED));
    store.begin("v1");
    store.step(&kind, &stack, "v1", Step::CreateSecret).await.unwrap();
    let edited = rotation.ring(&with_staged(&rotation)).with_secondary(key(7)).unwrap();
    store.edit("by hand", rotation.value(&edited).text());
    // Every later try adopts what was stored, once the edit is old enough.
    store.change(|state| state.now += 2 * HOUR);
    let outcome = store.step(&kind, &stack, "v1", Step::CreateSecret).await;
    assert_eq!(outcome, Ok(Outcome::Adopted));
    let error = store.step(&kind, &stack, "v1", Step::TestSecret).await.unwrap_err();
    assert_eq!((error.name(), store.holder(&Stage::Pending)), ("CurrentChanged", None));
    store.rotate(&kind, &stack, "v2").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pending_ring_that_is_too_old_is_given_up() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(Some(&with_staged(&rotation)));
    let (kind, stack) = (aware(), stack(STAGED));
    store.begin("v1");
    for step in &STEPS[..3] {
        store.step(&kind, &stack, "v1", *step).await.unwrap();
    }
    store.change(|state| state.now += DAY + SECOND);
    let error = store.step(&kind, &stack, "v1", Step::FinishSecret).await.unwrap_err();
    assert_eq!(error, RotationError::PendingTooOld { name: NAME.to_owned(), created: now() });
    assert_eq!((store.holder(&Stage::Current).as_deref(), store.holder(&Stage::Pending)), (Some("v0"), None));
}

#[tokio::test(start_paused = true)]
async fn empty_secret_gets_its_first_ring_and_rotates_from_there() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(None);
    let stack = stack(STAGED);
    store.begin("v1");
    assert_eq!(store.step(&aware(), &stack, "v1", Step::CreateSecret).await, Ok(Outcome::Initialised));
    store.change(|state| {
        state.last_rotated = Some(state.now);
        state.now += 90 * DAY;
    });
    let first = rotation.ring(&store.document(&rotation, &Stage::Current).unwrap());
    store.rotate(&aware(), &stack, "v2").await.unwrap();
    let second = rotation.ring(&store.document(&rotation, &Stage::Current).unwrap());
    assert_eq!(Some(second.primary().id()), first.staged().map(Key::id));
}

#[tokio::test(start_paused = true)]
async fn unreadable_token_is_named_by_its_secret_and_never_shown() {
    let of_field = |store: &Store| {
        let token = TokenSecret::new("{1}/{2}/admin-token".to_owned(), FieldName::new("ADMIN_TOKEN"));
        Kind::new(Some((store.application(STAGED), token)), Consumers::default())
    };
    let of_text = |store: &Store| asking(store.application(STAGED));
    type Asks<'a> = &'a dyn Fn(&Store) -> Kind;
    for (kind, token, reason) in [
        (&of_text as Asks<'_>, Err(StoreErrorKind::SecretNotFound), "SecretNotFound"),
        (&of_text, Err(StoreErrorKind::AccessDenied), "AccessDenied"),
        (&of_text, Ok(String::new()), "EmptyValue"),
        (&of_text, Ok(format!(r#"{{"ADMIN_TOKEN":"{TOKEN}"}}"#)), "FieldNotChosen"),
        (&of_field, Ok(TOKEN.to_owned()), "NotAnObject"),
        (&of_field, Ok(format!(r#"{{"ADMIN_TOKENS":"{TOKEN}"}}"#)), "FieldMissing"),
        (&of_field, Ok(format!(r#"{{"ADMIN_TOKEN":["{TOKEN}"]}}"#)), "FieldNotText"),
    ] {
        let store = Store::new(Some(&with_staged(&Rotation::of(STAGED))));
        store.change(|state| state.token = token);
        let kind = kind(&store);
        let (step, error) = store.rotate(&kind, &stack(STAGED), "v1").await.unwrap_err();
        assert_eq!((step, error.name()), (Step::SetSecret, "CredentialUnavailable"));
        let RotationError::CredentialUnavailable { secret, reason: told } = &error else { panic!("{error}") };
        assert_eq!((secret.as_str(), told.name()), (TOKEN_SECRET, reason));
        assert!(!format!("{error} {error:?} {kind:?}").contains(TOKEN), "{error:?}");
        assert_eq!(store.holder(&Stage::Current).as_deref(), Some("v0"));
    }

    let store = Store::new(Some(&with_staged(&Rotation::of(STAGED))));
    store.change(|state| state.token = Ok(format!(r#"{{"ADMIN_TOKEN":"{TOKEN}","x":1}}"#)));
    store.rotate(&of_field(&store), &stack(STAGED), "v1").await.unwrap();

    let token = secret(TOKEN);
    let (rotation, rotated) = (Rotation::staged(), with_staged(&Rotation::staged()));
    let subject = Subject { credential: Some(&token), ..rotation.at(now(), None) };
    let shown = format!("{subject:?} {rotated:?} {:#?}", rotation.ring(&rotated));
    assert!(!shown.contains(TOKEN), "{shown}");
    assert_shows_no_key(&shown, [1, 2].map(key));
}

#[tokio::test(start_paused = true)]
async fn without_a_target_no_other_secret_is_read() {
    let store = Store::new(Some(&with_staged(&Rotation::of(STAGED))));
    store.change(|state| state.token = Err(StoreErrorKind::AccessDenied));
    store.rotate(&aware(), &stack(STAGED), "v1").await.unwrap();
    assert_eq!(aware().credential(NAME), Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_never_rotated_as_a_keyring() {
    let rotation = Rotation::of(STAGED);
    // Tokens that look like keys, as `openssl rand -base64 32` makes both.
    let [now, before] = [1, 2].map(|seed| KeyFormat::of(&rotation.policy).wire().first(&key(seed)));
    let (end, until) = ("TOKEN_ENCRYPTION_KEY_PREVIOUS_UNTIL", "2026-11-02T12:00:00Z");
    let [now, before] = [now.expose(), before.expose()];
    let with_previous = format!(r#"{{"{FIELD}":"{now}","{FIELD}_PREVIOUS":"{before}","{end}":"{until}"}}"#);
    let with_next = format!(r#"{{"{FIELD}":"{now}","{FIELD}_NEXT":"{before}"}}"#);
    for (value, step) in [
        (&with_previous, Step::CreateSecret),
        (&with_previous, Step::TestSecret),
        (&with_next, Step::CreateSecret),
        (&with_next, Step::TestSecret),
    ] {
        let token = Document::parse(secret(value), Some(&field())).unwrap();
        let store = Store::new(Some(&token));
        store.begin("v1");
        let error = store.step(&aware(), &stack(STAGED), "v1", step).await.unwrap_err();
        assert_eq!(error.name(), "WrongKind", "{step}: {error}");
        assert!(error.to_string().contains("admin-token"), "{error}");
        assert_eq!(store.calls("put"), 0);
        // A test of the configuration leaves the version to Secrets Manager, which made it.
        let pending = store.holder(&Stage::Pending);
        assert_eq!(pending.is_none(), step == Step::CreateSecret, "{step}");
    }
}

/// A secret that was made with `{}` and nothing else, and an application whose token is not there yet either.
fn made_empty() -> Store {
    let store = Store::new(None);
    store.edit("v0", &secret(" { }\n"));
    store.change(|state| state.token = Err(StoreErrorKind::SecretNotFound));
    store
}

#[tokio::test(start_paused = true)]
async fn an_empty_object_is_filled_by_the_first_rotation() {
    for asks in [false, true] {
        let (store, rotation) = (made_empty(), Rotation::of(STAGED));
        let kind = if asks { asking(store.application(STAGED)) } else { aware() };
        // A deployment tests the configuration, and rotates nothing.
        store.begin("test");
        let tested = store.step(&kind, &stack(STAGED), "test", Step::TestSecret).await;
        assert_eq!(tested, Ok(Outcome::ConfigurationTested), "{asks}");
        store.begin("v1");
        for (step, outcome) in STEPS.into_iter().zip([
            Outcome::Initialised,
            Outcome::NothingToDo,
            Outcome::NothingToDo,
            Outcome::FirstValue,
        ]) {
            assert_eq!(store.step(&kind, &stack(STAGED), "v1", step).await, Ok(outcome), "{asks}, {step}");
        }
        let ring = rotation.ring(&store.document(&rotation, &Stage::Current).unwrap());
        assert_eq!((store.holder(&Stage::Current).as_deref(), ring.keys().count()), (Some("v1"), 2));
        // And from then on like any other.
        store.change(|state| {
            state.token = Ok(TOKEN.to_owned());
            state.now += 90 * DAY;
        });
        store.rotate(&kind, &stack(STAGED), "v2").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_value_survives_a_death_at_any_step() {
    // createSecret died after it had stored the value: whatever step comes next.
    for step in STEPS {
        let (store, rotation) = (made_empty(), Rotation::of(STAGED));
        let first = aware().first(&rotation.at(now(), None), &mut rng(1)).unwrap();
        store.begin("v1");
        store.change(|state| {
            state.values.insert(version("v1"), VersionValue { text: first.text().clone(), created: now() });
        });
        store.step(&aware(), &stack(STAGED), "v1", step).await.unwrap();
        store.step(&aware(), &stack(STAGED), "v1", Step::FinishSecret).await.unwrap();
        let current = store.document(&rotation, &Stage::Current).unwrap();
        assert_eq!(current.text(), first.text(), "{step}: written once");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_object_in_place_of_a_ring_is_refused() {
    let rotation = Rotation::of(STAGED);
    for step in [Step::CreateSecret, Step::TestSecret] {
        let store = Store::new(Some(&with_staged(&rotation)));
        store.edit("v1", &secret("{}"));
        store.begin("v2");
        let error = store.step(&aware(), &stack(STAGED), "v2", step).await.unwrap_err();
        assert_eq!(error.name(), "ValueLost", "{error}");
        let told = error.to_string();
        assert!(told.contains("version v0 had TOKEN_ENCRYPTION_KEY, TOKEN_ENCRYPTION_KEY_STAGED"), "{told}");
        assert!(told.contains("--remove-from-version-id v1 --move-to-version-id v0"), "{told}");
        assert_eq!(store.calls("put"), 0);
        assert_eq!(store.holder(&Stage::Pending).is_none(), step == Step::CreateSecret, "{step}");
    }
    // A text secret is no object: nobody chose a member.
    let text = [("ROTATION_PROMOTION", "immediate")];
    let refused = made_empty().rotate(&aware(), &stack(&text), "v1").await.unwrap_err();
    assert_eq!(refused.1.name(), "FieldNotChosen");
    // One that an operation has marked had a value too.
    let store = made_empty();
    let mark = |state: &mut State| {
        state.stages.move_stage(&Stage::from("ROTATION-RING"), None, Some(&version("v0")), |_| true)
    };
    store.change(mark).unwrap();
    assert_eq!(store.rotate(&aware(), &stack(STAGED), "v1").await.unwrap_err().1.name(), "ValueLost");
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_the_current_value_is_tested_as_the_configuration() {
    let archived: Environment = [("KEY_ARCHIVE_SECRET", "shop/production/key-archive")].into_iter().collect();
    let archive = rotation::archive::ArchiveSettings::from_environment(&archived).unwrap();
    for copied in [false, true] {
        let test = async |variables: &[(&str, &str)], kind: Kind| {
            let rotation = Rotation::of(variables);
            let store = Store::new(Some(&rotation.bare(&key(1))));
            store.begin("v1");
            store.change(|state| {
                let current = state.values[&version("v0")].clone();
                copied.then(|| state.values.insert(version("v1"), VersionValue { created: state.now, ..current }));
            });
            store.step(&kind, &stack(variables), "v1", Step::TestSecret).await
        };
        // A text secret has no place for a staged key.
        assert_eq!(test(&[], aware()).await.unwrap_err().name(), "InvalidPolicy", "{copied}");
        // What is read as the archive here is none.
        let unreadable = test(STAGED, aware().with_archive(archive.clone())).await.unwrap_err();
        assert_eq!(unreadable.name(), "ArchiveUnavailable", "{copied}");
        assert!(test(STAGED, aware()).await.is_ok(), "{copied}");
    }
}
