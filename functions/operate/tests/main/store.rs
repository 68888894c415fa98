//! Secrets Manager in memory, as far as the actions and the sweep see it. The rules of its stages are those of [`rotation::testing`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use rotation::event::{RotationToken, VersionId};
use rotation::schedule::RotationRules;
use rotation::secret::SecretText;
use rotation::store::{
    Described, ListFilter, OperationStore, Page, Put, SecretStore, StoreError, StoreErrorKind, VersionAge, VersionValue,
};
use rotation::testing::{Existing, PrivatePut, Refusal, Stages, Written};
use rotation::versions::{Stage, Versions};

pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The secrets of a page of the listing.
const PAGE: usize = 100;

/// A secret.
pub(crate) struct Secret {
    pub(crate) described: Described,
    values: BTreeMap<VersionId, (SecretText, SystemTime)>,
    stages: Stages,
}

#[derive(Default)]
struct State {
    secrets: BTreeMap<String, Secret>,
    calls: Vec<&'static str>,
    /// The version that the service does not read, and its error.
    unreadable: Option<(VersionId, StoreErrorKind)>,
    /// The labels that the role may not move.
    refused: Vec<Stage>,
    /// What the listing still shows of secrets that have changed since.
    listed_before: BTreeMap<String, Described>,
}

/// All secrets, at a time that stands still.
pub(crate) struct Store {
    pub(crate) now: SystemTime,
    state: Mutex<State>,
}

pub(crate) fn version(name: &str) -> VersionId {
    VersionId::new(name.to_owned())
}

impl Secret {
    /// One that `function` rotates, if any, without a version, and last changed and rotated a year ago.
    pub(crate) fn new(name: &str, function: Option<&str>, now: SystemTime) -> Self {
        let arn = |name| format!("arn:aws:lambda:us-east-1:000000000000:function:{name}");
        let described = Described {
            name: name.to_owned(),
            rotation_enabled: function.is_some(),
            deleted: false,
            replica_of: None,
            tags: BTreeMap::new(),
            versions: Versions::default(),
            last_rotated: Some(now - 365 * DAY),
            next_rotation: None,
            last_changed: Some(now - 365 * DAY),
            rotation_function: function.map(arn),
            rotation_rules: RotationRules::default(),
            as_of: now,
        };
        Self { described, values: BTreeMap::new(), stages: Stages::default() }
    }

    /// With a version that was made so long ago.
    pub(crate) fn with_version(mut self, name: &str, value: &str, age: Duration, stages: &[&str]) -> Self {
        self.put(name, value, age, stages);
        self
    }

    /// A version that was made so long ago.
    pub(crate) fn put(&mut self, name: &str, value: &str, age: Duration, stages: &[&str]) {
        let created = self.described.as_of - age;
        self.values.insert(version(name), (SecretText::new(value.to_owned()), created));
        let others = self.stages.all().map(|(stage, holder)| (stage.clone(), holder.clone()));
        self.stages = others.chain(stages.iter().map(|stage| (Stage::from(*stage), version(name)))).collect();
    }

    /// With a tag.
    pub(crate) fn with_tag(mut self, key: &str, value: &str) -> Self {
        self.described.tags.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With what else DescribeSecret tells.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Described)) -> Self {
        change(&mut self.described);
        self
    }

    /// A staging label comes to a version from wherever it is.
    pub(crate) fn attach(&mut self, label: &str, version: &VersionId) {
        let others = self.stages.all().filter(|(stage, _)| stage.as_str() != label);
        let others: Vec<_> = others.map(|(stage, holder)| (stage.clone(), holder.clone())).collect();
        self.stages = others.into_iter().chain([(Stage::from(label), version.clone())]).collect();
    }

    fn describe(&self) -> Described {
        Described { versions: self.stages.listed(), ..self.described.clone() }
    }

    /// UpdateSecretVersionStage.
    fn move_stage(
        &mut self,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> Result<(), StoreErrorKind> {
        let Self { values, stages, .. } = self;
        stages
            .move_stage(&stage, from, to, |version| values.contains_key(version))
            .map_err(|_| StoreErrorKind::Conflict)
    }
}

impl Store {
    pub(crate) fn new() -> Self {
        Self { now: SystemTime::UNIX_EPOCH + 20_000 * DAY, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a secret.
    pub(crate) fn secret(&self, name: &str, function: Option<&str>, with: impl FnOnce(Secret) -> Secret) {
        let secret = with(Secret::new(name, function, self.now));
        self.lock().secrets.insert(name.to_owned(), secret);
    }

    /// Reads this version no more.
    pub(crate) fn lose(&self, name: &str, kind: StoreErrorKind) {
        self.lock().unreadable = Some((version(name), kind));
    }

    /// Refuses every move of a label from now on.
    pub(crate) fn refuse(&self, stage: &str) {
        self.lock().refused.push(Stage::from(stage));
    }

    /// The listing shows no later change of this secret, as it may for some minutes.
    pub(crate) fn keep_listing(&self, name: &str) {
        let described = self.described(name);
        self.lock().listed_before.insert(name.to_owned(), described);
    }

    /// What DescribeSecret tells.
    pub(crate) fn described(&self, name: &str) -> Described {
        self.lock().secrets[name].describe()
    }

    /// Changes a secret.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Secret)) {
        change(self.lock().secrets.get_mut(name).unwrap());
    }

    pub(crate) fn holder(&self, name: &str, stage: &str) -> Option<VersionId> {
        self.lock().secrets[name].stages.holder(&Stage::from(stage)).cloned()
    }

    pub(crate) fn value(&self, name: &str, stage: &str) -> String {
        let state = self.lock();
        let secret = &state.secrets[name];
        secret.values[secret.stages.holder(&Stage::from(stage)).unwrap()].0.expose().to_owned()
    }

    pub(crate) fn stages(&self, name: &str) -> Vec<String> {
        self.lock().secrets[name].stages.all().map(|(stage, _)| stage.as_str().to_owned()).collect()
    }

    /// The calls since the last time, by their operation.
    pub(crate) fn take_calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.lock().calls)
    }

    fn call<T>(
        &self,
        operation: &'static str,
        secret_id: &str,
        call: impl FnOnce(&mut Secret) -> Result<T, StoreErrorKind>,
    ) -> Result<T, StoreError> {
        let mut state = self.lock();
        state.calls.push(operation);
        let secret = state.secrets.get_mut(secret_id).ok_or(StoreErrorKind::SecretNotFound);
        secret.and_then(call).map_err(|kind| StoreError { operation, kind, detail: None })
    }
}

impl SecretStore for Store {
    async fn describe(&self, secret_id: &str) -> Result<Described, StoreError> {
        self.call("DescribeSecret", secret_id, |secret| Ok(secret.describe()))
    }

    async fn get(&self, secret_id: &str, version: &VersionId) -> Result<Option<VersionValue>, StoreError> {
        let lost = self.lock().unreadable.clone().filter(|(lost, _)| lost == version);
        self.call("GetSecretValue", secret_id, |secret| {
            if let Some((_, kind)) = lost {
                return Err(kind);
            }
            let value = secret.values.get(version);
            Ok(value.map(|(text, created)| VersionValue { text: text.clone(), created: *created }))
        })
    }

    async fn get_current(&self, secret_id: &str) -> Result<VersionValue, StoreError> {
        self.call("GetSecretValue", secret_id, |secret| {
            let current = secret.stages.holder(&Stage::Current).and_then(|current| secret.values.get(current));
            let (text, created) = current.ok_or(StoreErrorKind::SecretNotFound)?;
            Ok(VersionValue { text: text.clone(), created: *created })
        })
    }

    async fn put_pending(
        &self,
        _: &str,
        _: &VersionId,
        _: &SecretText,
        _: Option<&RotationToken>,
    ) -> Result<Put, StoreError> {
        Err(StoreError { operation: "PutSecretValue", kind: StoreErrorKind::AccessDenied, detail: None })
    }

    async fn put_private(
        &self,
        secret_id: &str,
        version: &VersionId,
        value: &SecretText,
        stages: &[Stage],
    ) -> Result<Put, StoreError> {
        let now = self.now;
        self.call("PutSecretValue", secret_id, |secret| {
            let existing = match secret.values.get(version) {
                Some((stored, _)) => Existing::Value(stored),
                None if secret.values.is_empty() => Existing::Nothing,
                None => Existing::Others,
            };
            match secret.stages.put(version, existing, value, Some(stages), PrivatePut::default()) {
                Ok(Written::Unchanged) => {}
                Ok(Written::Filled | Written::Created) => {
                    secret.values.insert(version.clone(), (value.clone(), now));
                }
                Err(Refusal::TokenUsed) => return Ok(Put::Exists),
                Err(_) => return Err(StoreErrorKind::Rejected),
            }
            Ok(Put::Stored)
        })
    }

    async fn move_stage(
        &self,
        secret_id: &str,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> Result<(), StoreError> {
        let refused = self.lock().refused.contains(&stage);
        self.call("UpdateSecretVersionStage", secret_id, |secret| match refused {
            true => Err(StoreErrorKind::AccessDenied),
            false => secret.move_stage(stage, from, to),
        })
    }
}

impl OperationStore for Store {
    async fn versions(&self, secret_id: &str) -> Result<Vec<VersionAge>, StoreError> {
        self.call("ListSecretVersionIds", secret_id, |secret| {
            let staged = secret.values.iter().filter(|(version, _)| secret.stages.listed().contains(version));
            let age = |(version, (_, created)): (&VersionId, &(SecretText, SystemTime))| VersionAge {
                version: version.clone(),
                created: Some(*created),
            };
            Ok(staged.map(age).collect())
        })
    }

    async fn start_rotation(&self, _: &str, _: &VersionId) -> Result<(), StoreError> {
        Err(StoreError { operation: "RotateSecret", kind: StoreErrorKind::AccessDenied, detail: None })
    }

    async fn tag(&self, secret_id: &str, tags: &[(String, String)]) -> Result<(), StoreError> {
        self.call("TagResource", secret_id, |secret| {
            secret.described.tags.extend(tags.iter().cloned());
            Ok(())
        })
    }

    async fn list(&self, filter: &ListFilter, from: Option<&str>) -> Result<Page, StoreError> {
        let prefix = filter.prefix.as_deref().unwrap_or_default();
        let state = self.lock();
        let secrets = state.secrets.iter().filter(|(name, _)| name.starts_with(prefix));
        let listed = |(name, secret): (&String, &Secret)| {
            state.listed_before.get(name).cloned().unwrap_or_else(|| secret.describe())
        };
        let begin = from.map_or(0, |from| from.parse().unwrap());
        let mut all = secrets.skip(begin);
        let secrets = all.by_ref().take(PAGE).map(listed).collect();
        Ok(Page { secrets, next: all.next().map(|_| (begin + PAGE).to_string()) })
    }
}
