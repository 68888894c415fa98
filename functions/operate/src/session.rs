//! One action on one secret: what was read of the secret, and what every action reads and attaches.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rand::Rng as _;
use rand::rngs::StdRng;
use rotation::document::{Document, is_empty_object};
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::kind::{SecretKind, Subject, Values};
use rotation::marked_ring::Missing;
use rotation::session::Session;
use rotation::store::{Described, OperationStore, StoreError, VersionValue};
use rotation::versions::Stage;
use serde::Serialize;

use crate::error::OperateError;
use crate::kinds::OperatedKind;
use crate::marker::{Marker, open_rotation};

/// A version and its value.
#[derive(Debug)]
pub struct StoredVersion {
    /// Which.
    pub version: VersionId,
    /// Its value.
    pub value: Document,
}

/// Whether a value was proven, and by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Whether it was.
    pub verified: bool,
    /// By what.
    pub by: Vec<&'static str>,
}

/// The id of a version that an action makes.
pub fn new_version(rng: &mut StdRng) -> VersionId {
    VersionId::new(format!("{:032x}", rng.random::<u128>()))
}

/// Waits between two reads of a secret that has just been changed. What was moved has been moved, however late reads show it.
pub(crate) const READ_PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// One request about one secret.
#[derive(Debug)]
pub struct Operation<'a, K, S> {
    pub(crate) session: Session<'a, K, S>,
    /// The values that were read or stored. A version never gets another value, so each is read once.
    values: Mutex<BTreeMap<VersionId, VersionValue>>,
}

/// A secret with a current value, as it was read. It stands on the snapshot that the steps of a rotation use.
#[derive(Debug)]
pub struct Snapshot {
    described: rotation::session::Snapshot,
    /// The version of the current value.
    pub current_id: VersionId,
    /// The current value, taken apart.
    pub current: Document,
    /// When it was created.
    pub created: SystemTime,
}

impl Deref for Snapshot {
    type Target = rotation::session::Snapshot;

    fn deref(&self) -> &Self::Target {
        &self.described
    }
}

impl Snapshot {
    fn new(described: rotation::session::Snapshot, current: Document, created: SystemTime) -> Self {
        let current_id = described.admitted.version().clone();
        Self { described, current_id, current, created }
    }

    /// What a kind is told.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        self.described.subject_of_current(self.created)
    }

    /// Takes note of a staging label that this action has just moved.
    pub(crate) fn note_stage(&mut self, stage: Stage, holder: Option<&VersionId>) {
        let versions = &mut self.described.secret.versions;
        *versions = std::mem::take(versions).with(stage, holder);
    }

    /// # Errors
    /// [`OperateError::RotationOpen`].
    pub fn require_no_open_rotation(&self) -> Result<(), OperateError> {
        match open_rotation(&self.secret) {
            None => Ok(()),
            Some(version) => {
                Err(OperateError::RotationOpen { name: self.secret.name.clone(), version: version.clone() })
            }
        }
    }

    /// Whether the service has seen the rotation to the current version succeed.
    pub(crate) fn has_succeeded(&self) -> bool {
        self.secret.last_rotated.is_some_and(|rotated| rotated >= self.created)
    }

    /// # Errors
    /// [`OperateError::NotConfirmed`].
    pub(crate) fn require_confirmed(&self, confirm: Option<&str>) -> Result<(), OperateError> {
        if confirm == Some(&self.secret.name) {
            return Ok(());
        }
        Err(OperateError::NotConfirmed { name: self.secret.name.clone() })
    }

    /// When the overlap with the previous token ends or ended, by the later of the last rotation and the current version's
    /// creation; `None` when there is none.
    #[must_use]
    pub fn overlap_end<K: SecretKind>(&self, kind: &K) -> Option<SystemTime> {
        let began = self.secret.last_rotated.map_or(self.created, |rotated| rotated.max(self.created));
        kind.overlap_end(&self.subject(), &self.current, began)
    }
}

/// What an empty object means: that there is no value yet, or that there was one.
fn empty(secret: &Described, current: &VersionId) -> RotationError {
    let pending = secret.versions.holder(&Stage::Pending);
    if secret.versions.only_ever(&[current, pending.unwrap_or(current)]) {
        return RotationError::EmptyValue;
    }
    let previous = rotation::marked_ring::last_value(&secret.versions).cloned();
    RotationError::ValueLost { name: secret.name.clone(), current: current.clone(), lost: vec![], previous }
}

impl<'a, K, S> Operation<'a, K, S> {
    /// A request about the secret of the session.
    #[must_use]
    pub fn new(session: Session<'a, K, S>) -> Self {
        Self { session, values: Mutex::default() }
    }

    fn values(&self) -> MutexGuard<'_, BTreeMap<VersionId, VersionValue>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the value of a version.
    pub(crate) fn remember(&self, version: &VersionId, value: VersionValue) {
        self.values().insert(version.clone(), value);
    }
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// The value of a version; `None` when it has none. No call when the value is known already.
    ///
    /// # Errors
    /// What the service refuses.
    pub(crate) async fn find(&self, version: &VersionId) -> Result<Option<VersionValue>, StoreError> {
        let known = self.values().get(version).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let value = self.session.find(version).await?;
        if let Some(value) = &value {
            self.remember(version, value.clone());
        }
        Ok(value)
    }

    /// Describes the secret and reads its current value.
    ///
    /// # Errors What also refuses a rotation: a name outside the stack's prefix, a secret that is scheduled for deletion, or a replica. A
    /// policy or a value that is not usable, and no current value.
    pub async fn snapshot(&self) -> Result<Snapshot, OperateError> {
        self.snapshot_of(self.session.describe().await?).await
    }

    /// Reads the current value of a secret as it was described.
    ///
    /// # Errors
    /// Those of [`snapshot`](Self::snapshot).
    pub async fn snapshot_of(&self, secret: Described) -> Result<Snapshot, OperateError> {
        let mut snapshot = self.value_snapshot_of(secret).await?;
        self.session.read_credential(&mut snapshot.described).await?;
        Ok(snapshot)
    }

    /// The same for what asks no application: its credential is not read.
    ///
    /// # Errors
    /// Those of [`snapshot`](Self::snapshot).
    pub async fn value_snapshot_of(&self, secret: Described) -> Result<Snapshot, OperateError> {
        let described = self.session.snapshot_of_current(secret)?;
        let id = described.admitted.version();
        let value = self.find(id).await?;
        let value = value.ok_or_else(|| RotationError::ValueMissing { version: id.clone() })?;
        if described.policy.field.is_some() && is_empty_object(&value.text) {
            return Err(empty(&described.secret, id).into());
        }
        let current = self.session.parse(&described, &value)?;
        Ok(Snapshot::new(described, current, value.created))
    }

    /// A secret whose keyring was replaced by an empty object, as if the last complete ring were its current value. `None` when no ring is
    /// marked.
    ///
    /// # Errors
    /// Those of [`MarkedRing::read`](rotation::marked_ring::MarkedRing::read), and of [`snapshot`](Self::snapshot).
    pub(crate) async fn snapshot_of_lost_ring(&self, secret: Described) -> Result<Option<Snapshot>, OperateError> {
        let mut described = self.session.snapshot_of_current(secret)?;
        let marked = self.session.marked_ring(&described.secret).read(self.session.kind, &described.policy).await?;
        let Some((current, _)) = marked else { return Ok(None) };
        self.session.read_credential(&mut described).await?;
        let created = described.secret.as_of;
        Ok(Some(Snapshot::new(described, current, created)))
    }

    /// The same as [`snapshot`](Self::snapshot) without the credential.
    ///
    /// # Errors
    /// Those of [`snapshot`](Self::snapshot).
    pub(crate) async fn value_snapshot(&self) -> Result<Snapshot, OperateError> {
        self.value_snapshot_of(self.session.describe().await?).await
    }

    /// The secret as it is once `AWSCURRENT` has moved to `version` and the answer said so: the move needs no look. `value` is the value of
    /// `version`, which `stages` were attached to. Its date is that of the description, which is a moment before the true one.
    pub(crate) fn snapshot_after_move(
        &self,
        before: &Snapshot,
        (version, value): (&VersionId, &Document),
        stages: &[Stage],
    ) -> Result<Snapshot, OperateError> {
        let created = before.secret.as_of;
        self.remember(version, VersionValue { text: value.text().clone(), created });
        let mut versions = before.secret.versions.clone();
        if versions.holder(&Stage::Pending) == Some(&before.current_id) {
            versions = versions.with(Stage::Pending, None);
        }
        versions = versions.with(Stage::Previous, Some(&before.current_id)).with(Stage::Current, Some(version));
        versions = stages.iter().fold(versions, |versions, stage| versions.with(stage.clone(), Some(version)));
        let secret = Described { versions, ..before.secret.clone() };
        let mut described = self.session.snapshot_of_current(secret)?;
        described.credential.clone_from(&before.credential);
        Ok(Snapshot::new(described, value.clone(), created))
    }

    /// The same once `version` is current, which reads show a moment after the move.
    pub(crate) async fn snapshot_once_current(&self, version: &VersionId) -> Result<Snapshot, OperateError> {
        let mut pauses = READ_PAUSES.into_iter();
        loop {
            let snapshot = self.snapshot().await?;
            if snapshot.current_id == *version {
                return Ok(snapshot);
            }
            match pauses.next() {
                Some(pause) if self.session.deadline.pause(pause).await => {}
                _ => return Err(snapshot.changed().into()),
            }
        }
    }

    /// The value of `AWSPREVIOUS`, if there is one that can be read.
    ///
    /// # Errors
    /// When the service refuses, or the value is not of this kind.
    pub async fn previous(&self, snapshot: &Snapshot) -> Result<Option<StoredVersion>, OperateError> {
        let Some(version) = snapshot.secret.versions.holder(&Stage::Previous) else { return Ok(None) };
        match self.read(snapshot, version).await {
            Err(OperateError::Rotation(RotationError::ValueMissing { .. })) => Ok(None),
            result => result.map(Some),
        }
    }

    /// The versions that carry the marker, with their values.
    ///
    /// # Errors
    /// When the service refuses, or a value is not there or not of this kind: what a marker tells is not forgotten.
    pub async fn versions_with(&self, snapshot: &Snapshot, marker: Marker) -> Result<Vec<StoredVersion>, OperateError> {
        let mut found = vec![];
        for version in marker.holders(&snapshot.secret.versions) {
            found.push(self.read(snapshot, version).await?);
        }
        Ok(found)
    }

    /// The value of a version.
    ///
    /// # Errors
    /// When the service refuses, or the value is not there or not of this kind.
    pub(crate) async fn read(&self, snapshot: &Snapshot, version: &VersionId) -> Result<StoredVersion, OperateError> {
        let version = version.clone();
        if version == snapshot.current_id {
            return Ok(StoredVersion { version, value: snapshot.current.clone() });
        }
        match self.find(&version).await? {
            Some(value) if !is_empty_object(&value.text) => {
                Ok(StoredVersion { version, value: self.session.kind.parse(&snapshot.policy, value.text)? })
            }
            // What a secret was made with is no value to go back to.
            _ => Err(RotationError::ValueMissing { version }.into()),
        }
    }

    /// Attaches a marker to a version.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn attach(&self, marker: Marker, version: &VersionId) -> Result<(), OperateError> {
        // It is on this version already, or nowhere: nothing can be in the way.
        Ok(self.session.store.move_stage(self.session.secret_id, marker.on(version), None, Some(version)).await?)
    }

    /// Takes markers off the versions that `secret` was described with.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn detach(&self, markers: &[Marker], secret: &Described) -> Result<(), StoreError> {
        for marker in markers {
            for version in marker.holders(&secret.versions) {
                self.session.take_off(marker.on(version), version).await?;
            }
        }
        Ok(())
    }

    /// What proves a value of this kind here; nothing when no application is asked and the value cannot be proven alone.
    #[must_use]
    pub fn proof(&self) -> Proof {
        let asked = self.session.kind.has_target().then_some("the application");
        let by: Vec<_> = [K::PROVEN_ALONE, asked].into_iter().flatten().collect();
        Proof { verified: !by.is_empty(), by }
    }

    /// Proves the current value, with nothing being done to it.
    ///
    /// # Errors
    /// Those of the kind.
    pub async fn verify(&self, snapshot: &Snapshot, rng: &mut StdRng) -> Result<(), RotationError> {
        // Against itself: what each key of a ring encrypts has to be decrypted.
        let values = Values { old: Some(&snapshot.current), new: &snapshot.current };
        self.session.kind.test(&snapshot.subject(), values, K::VERIFIED_AS, self.session.deadline, rng).await
    }

    /// What the current ring lacks of the last complete one.
    ///
    /// # Errors
    /// Those of [`MarkedRing::missing`](rotation::marked_ring::MarkedRing::missing).
    pub(crate) async fn missing_keys(&self, snapshot: &Snapshot) -> Result<Missing, RotationError> {
        self.session
            .marked_ring(&snapshot.secret)
            .missing(self.session.kind, &snapshot.policy, &snapshot.current_id, &snapshot.current)
            .await
    }

    /// # Errors
    /// Those of [`MarkedRing::require_all`](rotation::marked_ring::MarkedRing::require_all).
    pub(crate) async fn require_all_keys(&self, snapshot: &Snapshot) -> Result<Missing, RotationError> {
        self.session
            .marked_ring(&snapshot.secret)
            .require_all(self.session.kind, &snapshot.policy, &snapshot.current_id, &snapshot.current)
            .await
    }

    /// Marks the current ring as the last complete one, if it is, and tells whether it is.
    ///
    /// # Errors
    /// Those of [`MarkedRing::missing`](rotation::marked_ring::MarkedRing::missing), and what the service refuses.
    pub(crate) async fn keep_ring(&self, snapshot: &Snapshot) -> Result<bool, RotationError> {
        let is_complete = self.session.kind.ring(&snapshot.policy, &snapshot.current)?.is_some()
            && self.missing_keys(snapshot).await? == Missing::default();
        if is_complete {
            self.session.marked_ring(&snapshot.secret).move_to(&snapshot.current_id).await?;
        }
        Ok(is_complete)
    }
}
