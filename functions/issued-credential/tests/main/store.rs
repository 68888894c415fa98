//! One secret as Secrets Manager keeps it, with a clock of its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use issued_credential::IssuedCredential;
use issued_credential::issuer::Issuer;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::event::{RotationEvent, RotationToken, Step, VersionId};
use rotation::kind::SecretKind as _;
use rotation::policy::StackPolicy;
use rotation::protocol::{Outcome, Rotator};
use rotation::secret::SecretText;
use rotation::store::{Described, Put, SecretStore, StoreError, StoreErrorKind, VersionValue};
use rotation::testing::{Existing, PrivatePut, Refusal, Stages, Written};
use rotation::versions::Stage;

pub(crate) const NAME: &str = "shop/provider";
pub(crate) const STEPS: [Step; 4] = [Step::CreateSecret, Step::SetSecret, Step::TestSecret, Step::FinishSecret];

/// The id of a version, as long as those of Secrets Manager.
pub(crate) fn version(number: u32) -> VersionId {
    VersionId::new(format!("version-{number:024}"))
}

pub(crate) struct State {
    pub(crate) stages: Stages,
    values: BTreeMap<VersionId, (Option<String>, u64)>,
    pub(crate) tags: BTreeMap<String, String>,
    /// Whether the secret has consumers.
    pub(crate) consumed: bool,
    /// The time that is left of each invocation.
    pub(crate) time_left: Duration,
    seconds: u64,
    last_rotated: Option<u64>,
}

pub(crate) struct Store(Mutex<State>);

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

impl Store {
    /// With `value` as the first version, and the two members that are rotated.
    pub(crate) fn with(value: &str) -> Self {
        let store = Self::without_value();
        store.edit(0, value);
        store
    }

    /// Without a version, and with the two members that are rotated.
    pub(crate) fn without_value() -> Self {
        Self(Mutex::new(State {
            stages: Stages::default(),
            values: BTreeMap::new(),
            tags: BTreeMap::from([("rotation:fields".to_owned(), "KEY KEY_ID".to_owned())]),
            consumed: false,
            time_left: Duration::from_secs(60),
            seconds: 0,
            last_rotated: None,
        }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A person stores a value.
    pub(crate) fn edit(&self, number: u32, value: &str) {
        self.put(&version(number), value, None);
    }

    pub(crate) fn wait(&self, time: Duration) {
        self.state().seconds += time.as_secs();
    }

    pub(crate) fn value(&self, number: u32) -> Option<String> {
        self.state().values.get(&version(number)).and_then(|(value, _)| value.clone())
    }

    pub(crate) fn current(&self) -> String {
        let state = self.state();
        let current = state.stages.holder(&Stage::Current).unwrap();
        state.values[current].0.clone().unwrap()
    }

    /// The labels of a version that are not AWS's own.
    pub(crate) fn labels(&self, number: u32) -> Vec<String> {
        let labels = self.state().stages.of(&version(number));
        labels.iter().map(|stage| stage.as_str().to_owned()).filter(|label| !label.starts_with("AWS")).collect()
    }

    pub(crate) fn is_at(&self, number: u32, stage: &Stage) -> bool {
        self.state().stages.is_at(&version(number), stage)
    }

    /// RotateSecret.
    pub(crate) fn open(&self, number: u32) {
        let mut state = self.state();
        let seconds = state.seconds;
        state.stages.open_rotation(&version(number)).unwrap();
        state.values.entry(version(number)).or_insert((None, seconds));
    }

    /// A value is stored for an opened version, and the step dies.
    pub(crate) fn put_unmarked(&self, number: u32, value: &str) {
        self.put(&version(number), value, Some(&[Stage::Pending]));
    }

    /// The rotation is given up.
    pub(crate) fn abort(&self, number: u32) {
        let mut state = self.state();
        if state.stages.is_at(&version(number), &Stage::Pending) {
            state.stages.move_stage(&Stage::Pending, Some(&version(number)), None, |_| true).unwrap();
        }
    }

    pub(crate) async fn step<I: Issuer>(&self, number: u32, step: Step, issuer: I) -> Result<Outcome, RotationError> {
        let kind = IssuedCredential::new(issuer);
        let consumed = if self.state().consumed { NAME } else { "" };
        let allowed = "KEY,KEY_ID,OTHER,CLIENT_SECRET,CLIENT_SECRET_ID,SESSION_COOKIE";
        let variables = [("ALLOWED_FIELDS", allowed), ("CONSUMED_SECRETS", consumed)];
        let stack = StackPolicy::from_environment(&variables.into_iter().collect::<Environment>(), settings(&kind))?;
        let event = RotationEvent { step, secret_id: NAME.to_owned(), version: version(number), rotation_token: None };
        let rotator = Rotator { kind: &kind, store: self, stack: &stack };
        let mut rng = StdRng::seed_from_u64(u64::from(number));
        self.state().seconds += 1;
        let deadline = Deadline::after(self.state().time_left);
        Ok(rotator.perform(&event, deadline, &mut rng).await?.outcome)
    }

    /// A whole rotation: RotateSecret and the four steps, until one fails.
    pub(crate) async fn rotate<I: Issuer + Copy>(&self, number: u32, issuer: I) -> Result<Outcome, RotationError> {
        self.open(number);
        self.go_on(number, issuer).await
    }

    /// The four steps, once more.
    pub(crate) async fn go_on<I: Issuer + Copy>(&self, number: u32, issuer: I) -> Result<Outcome, RotationError> {
        let mut last = Outcome::NothingToDo;
        for step in STEPS {
            last = self.step(number, step, issuer).await?;
        }
        let mut state = self.state();
        state.last_rotated = Some(state.seconds);
        Ok(last)
    }

    fn put(&self, version: &VersionId, value: &str, stages: Option<&[Stage]>) -> Put {
        let State { stages: all, values, seconds, .. } = &mut *self.state();
        let existing = match values.get(version) {
            Some((Some(value), _)) => Existing::Value(value),
            Some((None, _)) => Existing::Opened,
            None if values.is_empty() => Existing::Nothing,
            None => Existing::Others,
        };
        match all.put(version, existing, &value.to_owned(), stages, PrivatePut::Abandons) {
            Ok(Written::Unchanged) => Put::Stored,
            Ok(Written::Filled | Written::Created) => {
                values.insert(version.clone(), (Some(value.to_owned()), *seconds));
                Put::Stored
            }
            Err(Refusal::TokenUsed) => Put::Exists,
            Err(refusal) => panic!("{refusal:?}"),
        }
    }
}

fn settings<I: Issuer>(_: &IssuedCredential<I>) -> rotation::policy::Settings {
    IssuedCredential::<I>::SETTINGS
}

impl SecretStore for Store {
    async fn describe(&self, _: &str) -> Result<Described, StoreError> {
        let state = self.state();
        Ok(Described {
            name: NAME.to_owned(),
            rotation_enabled: true,
            deleted: false,
            replica_of: None,
            tags: state.tags.clone(),
            versions: state.stages.listed(),
            last_rotated: state.last_rotated.map(time),
            next_rotation: None,
            last_changed: Some(time(state.seconds)),
            rotation_function: None,
            rotation_rules: rotation::schedule::RotationRules::default(),
            as_of: time(state.seconds),
        })
    }

    async fn get(&self, _: &str, version: &VersionId) -> Result<Option<VersionValue>, StoreError> {
        let state = self.state();
        let found = state.values.get(version).and_then(|(value, created)| Some((value.clone()?, *created)));
        Ok(found.map(|(value, created)| VersionValue { text: SecretText::new(value), created: time(created) }))
    }

    async fn get_current(&self, _: &str) -> Result<VersionValue, StoreError> {
        panic!("an issuer needs no credential of another secret")
    }

    async fn put_pending(
        &self,
        _: &str,
        version: &VersionId,
        value: &SecretText,
        _: Option<&RotationToken>,
    ) -> Result<Put, StoreError> {
        Ok(self.put(version, value.expose(), Some(&[Stage::Pending])))
    }

    async fn put_private(&self, _: &str, _: &VersionId, _: &SecretText, _: &[Stage]) -> Result<Put, StoreError> {
        panic!("a rotation without an archive writes nothing else")
    }

    async fn move_stage(
        &self,
        _: &str,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> Result<(), StoreError> {
        let State { stages, values, .. } = &mut *self.state();
        let moved = stages.move_stage(&stage, from, to, |version| values.contains_key(version));
        moved.map_err(|_| StoreError {
            operation: "UpdateSecretVersionStage",
            kind: StoreErrorKind::Conflict,
            detail: None,
        })
    }
}
