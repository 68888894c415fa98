//! One action on one secret: what was read of the secret, and what every action reads and attaches.

use std::time::{Duration, SystemTime};

use rand::Rng as _;
use rand::rngs::StdRng;
use rotation::admission::{Admission, Admitted};
use rotation::deadline::Deadline;
use rotation::document::{Document, is_empty_object};
use rotation::error::RotationError;
use rotation::event::{Step, VersionId};
use rotation::kind::{SecretKind, Subject, Values};
use rotation::marked_ring::{MarkedRing, Missing};
use rotation::moves::read_version;
use rotation::policy::{RotationPolicy, StackPolicy};
use rotation::secret::SecretText;
use rotation::session::read_credential;
use rotation::store::{Described, OperationStore, StoreError, StoreErrorKind};
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

/// A kind, a store and a stack's policy, for one request.
#[derive(Debug)]
pub struct Operation<'a, K, S> {
    /// What is particular to the kind of secret.
    pub kind: &'a K,
    /// Secrets Manager.
    pub store: &'a S,
    /// The bounds that the stack sets.
    pub stack: &'a StackPolicy,
    /// The secret, by the name or ARN that was asked for.
    pub secret_id: &'a str,
    /// The end of the time for the work.
    pub deadline: Deadline,
}

/// A secret with a current value, as it was read.
#[derive(Debug)]
pub struct Snapshot {
    /// What DescribeSecret tells.
    pub secret: Described,
    /// The policy in force.
    pub policy: RotationPolicy,
    /// The proof that the current version may be acted on.
    pub admitted: Admitted,
    /// The version of the current value.
    pub current_id: VersionId,
    /// The current value, taken apart.
    pub current: Document,
    /// When it was created.
    pub created: SystemTime,
    /// What the application is asked with, when that is in another secret.
    pub credential: Option<SecretText>,
}

impl Snapshot {
    /// What a kind is told.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            admitted: &self.admitted,
            name: &self.secret.name,
            policy: &self.policy,
            now: self.secret.as_of,
            last_rotated: self.secret.last_rotated,
            current_created: Some(self.created),
            credential: self.credential.as_ref(),
        }
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

    pub(crate) fn changed(&self) -> OperateError {
        RotationError::CurrentChanged { name: self.secret.name.clone() }.into()
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

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Describes the secret and reads its current value.
    ///
    /// # Errors
    /// What also refuses a rotation: a name outside the stack's prefix, a secret that is scheduled for deletion, a replica, a
    /// policy or a value that is not usable; no current value.
    pub async fn snapshot(&self) -> Result<Snapshot, OperateError> {
        let secret = self.store.describe(self.secret_id).await?;
        self.snapshot_of(secret).await
    }

    /// Reads the current value of a secret as it was described.
    ///
    /// # Errors
    /// Those of [`snapshot`](Self::snapshot).
    pub async fn snapshot_of(&self, secret: Described) -> Result<Snapshot, OperateError> {
        let mut snapshot = self.value_snapshot_of(secret).await?;
        snapshot.credential =
            read_credential(self.kind, self.store, &snapshot.secret, self.secret_id, &snapshot.policy).await?;
        Ok(snapshot)
    }

    /// The same for what asks no application: its credential is not read.
    ///
    /// # Errors
    /// Those of [`snapshot`](Self::snapshot).
    pub async fn value_snapshot_of(&self, secret: Described) -> Result<Snapshot, OperateError> {
        let (policy, admitted) = self.admit(&secret)?;
        let current_id = admitted.version().clone();
        let value = read_version(self.store, self.secret_id, &current_id, self.deadline).await?;
        let value = value.ok_or_else(|| RotationError::ValueMissing { version: current_id.clone() })?;
        if policy.field.is_some() && is_empty_object(&value.text) {
            return Err(empty(&secret, &current_id).into());
        }
        let current = self.kind.parse(&policy, value.text)?;
        Ok(Snapshot { secret, policy, admitted, current_id, current, created: value.created, credential: None })
    }

    /// The policy, and the proof that the current version may be acted on.
    fn admit(&self, secret: &Described) -> Result<(RotationPolicy, Admitted), OperateError> {
        let name = || secret.name.clone();
        if secret.deleted {
            return Err(RotationError::ScheduledForDeletion { name: name() }.into());
        }
        if let Some(primary_region) = secret.replica_of.clone() {
            return Err(RotationError::ReplicaRegion { name: name(), primary_region }.into());
        }
        self.stack.check_name(&secret.name)?;
        let policy = self.stack.for_secret(&secret.tags, secret.as_of)?;
        let current = secret.versions.holder(&Stage::Current).ok_or(RotationError::EmptyValue)?;
        // Finishing a version that is current is what an operation on it amounts to.
        match secret.versions.admit(current, Step::FinishSecret) {
            Ok(Admission::RepeatAfterPromotion(admitted)) => Ok((policy, admitted)),
            _ => Err(RotationError::EmptyValue.into()),
        }
    }

    /// A secret whose keyring was replaced by an empty object, as if the last complete ring were its current value. `None` when no ring is
    /// marked.
    ///
    /// # Errors
    /// Those of [`MarkedRing::read`], and of [`snapshot`](Self::snapshot).
    pub(crate) async fn snapshot_of_lost_ring(&self) -> Result<Option<Snapshot>, OperateError> {
        let secret = self.store.describe(self.secret_id).await?;
        let (policy, admitted) = self.admit(&secret)?;
        let Some((current, _)) = self.marked_ring(&secret).read(self.kind, &policy).await? else { return Ok(None) };
        let credential = read_credential(self.kind, self.store, &secret, self.secret_id, &policy).await?;
        let (current_id, created) = (admitted.version().clone(), secret.as_of);
        Ok(Some(Snapshot { secret, policy, admitted, current_id, current, created, credential }))
    }

    /// The same without its credential.
    ///
    /// # Errors
    /// Those of [`snapshot`](Self::snapshot).
    pub(crate) async fn value_snapshot(&self) -> Result<Snapshot, OperateError> {
        self.value_snapshot_of(self.store.describe(self.secret_id).await?).await
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
                Some(pause) if self.deadline.pause(pause).await => {}
                _ => return Err(snapshot.changed()),
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
        match read_version(self.store, self.secret_id, &version, self.deadline).await? {
            Some(value) if !is_empty_object(&value.text) => {
                Ok(StoredVersion { version, value: self.kind.parse(&snapshot.policy, value.text)? })
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
        Ok(self.store.move_stage(self.secret_id, marker.on(version), None, Some(version)).await?)
    }

    /// Takes markers off the versions that `secret` was described with.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn detach(&self, markers: &[Marker], secret: &Described) -> Result<(), StoreError> {
        for marker in markers {
            for version in marker.holders(&secret.versions) {
                self.drop_stage(version, &marker.on(version)).await?;
            }
        }
        Ok(())
    }

    /// What proves a value of this kind here; nothing when no application is asked and the value cannot be proven alone.
    #[must_use]
    pub fn proof(&self) -> Proof {
        let asked = self.kind.has_target().then_some("the application");
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
        self.kind.test(&snapshot.subject(), values, K::VERIFIED_AS, self.deadline, rng).await
    }

    /// Takes a stage off a version; it may be gone already.
    ///
    /// # Errors
    /// When the service refuses for another reason.
    pub async fn drop_stage(&self, version: &VersionId, stage: &Stage) -> Result<(), StoreError> {
        match self.store.move_stage(self.secret_id, stage.clone(), Some(version), None).await {
            Err(error) if error.kind == StoreErrorKind::Conflict => Ok(()),
            result => result,
        }
    }

    pub(crate) fn marked_ring<'s>(&'s self, secret: &'s Described) -> MarkedRing<'s, S> {
        MarkedRing::of(self.store, self.secret_id, secret, self.deadline)
    }

    /// What the current ring lacks of the last complete one.
    ///
    /// # Errors
    /// Those of [`MarkedRing::missing`].
    pub(crate) async fn missing_keys(&self, snapshot: &Snapshot) -> Result<Missing, RotationError> {
        self.marked_ring(&snapshot.secret)
            .missing(self.kind, &snapshot.policy, &snapshot.current_id, &snapshot.current)
            .await
    }

    /// # Errors
    /// Those of [`MarkedRing::require_all`].
    pub(crate) async fn require_all_keys(&self, snapshot: &Snapshot) -> Result<Missing, RotationError> {
        self.marked_ring(&snapshot.secret)
            .require_all(self.kind, &snapshot.policy, &snapshot.current_id, &snapshot.current)
            .await
    }

    /// Marks the current ring as the last complete one, if it is.
    ///
    /// # Errors
    /// Those of [`MarkedRing::missing`], and what the service refuses.
    pub(crate) async fn keep_ring(&self, snapshot: &Snapshot) -> Result<(), RotationError> {
        if self.kind.ring(&snapshot.policy, &snapshot.current)?.is_some()
            && self.missing_keys(snapshot).await? == Missing::default()
        {
            self.marked_ring(&snapshot.secret).move_to(&snapshot.current_id).await?;
        }
        Ok(())
    }
}
