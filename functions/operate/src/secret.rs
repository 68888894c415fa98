//! One secret that is operated on: what was seen of it, and what all actions do with it.

use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::event::{Step, VersionId};
use rotation::kind::{Phase, Subject, Values};
use rotation::policy::{RotationPolicy, StackPolicy};
use rotation::protocol::read_credential;
use rotation::secret::SecretText;
use rotation::store::{Described, OperationStore, Put, StoreError, StoreErrorKind, VersionValue};
use rotation::versions::{Admission, Admitted, Stage};

use crate::error::OperateError;
use crate::operable::Operable;

/// The stage under which an operation stores a value before that becomes current.
pub const OPERATION_STAGE: &str = "ROTATION-OPERATION";
/// The stage on a version whose token is known to others.
pub const COMPROMISED_STAGE: &str = "ROTATION-COMPROMISED";

/// Nothing is revoked by itself so soon after a change: consumers and rotations may be in the middle of something.
pub const QUIET: Duration = Duration::from_secs(60 * 60);

/// Waits between two looks at what is to come to an end.
const PAUSE: Duration = Duration::from_millis(250);

/// A kind, a store and a stack's policy, for one request.
#[derive(Debug)]
pub struct Desk<'a, K, S> {
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

/// A secret with a current value, as it was seen.
#[derive(Debug)]
pub struct Seen {
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

impl Seen {
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

    /// The version of a rotation that is not complete.
    #[must_use]
    pub fn open_rotation(&self) -> Option<&VersionId> {
        open_rotation(&self.secret)
    }

    /// Whether the overlap has ended and nobody has ended it. It counts from the later of the last rotation and the current
    /// version's creation; nothing is said within an hour of the last change.
    #[must_use]
    pub fn overlap_is_over<K: Operable>(&self, kind: &K) -> bool {
        let now = self.secret.as_of;
        let changed = self.secret.last_changed.and_then(|changed| now.duration_since(changed).ok());
        let began = self.secret.last_rotated.map_or(self.created, |rotated| rotated.max(self.created));
        let end = kind.overlap_end(&self.subject(), &self.current, began);
        let over = match self.current.field() {
            // A JSON value says itself whether there is one; AWSPREVIOUS may be a person's own way back.
            Some(_) => end.is_some_and(|end| end < now),
            None => self.secret.versions.holder(&Stage::Previous).is_some() && end.is_none_or(|end| end < now),
        };
        over && changed.is_some_and(|changed| changed >= QUIET)
    }

    /// # Errors
    /// [`OperateError::RotationOpen`].
    pub fn require_no_open_rotation(&self) -> Result<(), OperateError> {
        match self.open_rotation() {
            None => Ok(()),
            Some(version) => {
                Err(OperateError::RotationOpen { name: self.secret.name.clone(), version: version.clone() })
            }
        }
    }
}

/// The version with `AWSPENDING`, when it is not the current one.
#[must_use]
pub fn open_rotation(secret: &Described) -> Option<&VersionId> {
    let current = secret.versions.holder(&Stage::Current);
    secret.versions.holder(&Stage::Pending).filter(|pending| Some(*pending) != current)
}

impl<K: Operable, S: OperationStore> Desk<'_, K, S> {
    /// Looks at the secret and reads its current value.
    ///
    /// # Errors
    /// What also refuses a rotation: a name outside the stack's prefix, a secret that is scheduled for deletion, a replica, a
    /// policy or a value that is not usable; no current value.
    pub async fn look(&self) -> Result<Seen, OperateError> {
        let secret = self.store.describe(self.secret_id).await?;
        self.see(secret).await
    }

    async fn see(&self, secret: Described) -> Result<Seen, OperateError> {
        let name = || secret.name.clone();
        if secret.deleted {
            return Err(RotationError::ScheduledForDeletion { name: name() }.into());
        }
        if let Some(primary_region) = secret.replica_of.clone() {
            return Err(RotationError::ReplicaRegion { name: name(), primary_region }.into());
        }
        self.stack.check_name(&secret.name)?;
        let policy = self.stack.for_secret(&secret.tags, secret.as_of)?;
        let current_id = secret.versions.holder(&Stage::Current).cloned().ok_or(RotationError::EmptyValue)?;
        // Finishing a version that is current is what an operation on it amounts to.
        let Ok(Admission::RepeatAfterPromotion(admitted)) = secret.versions.admit(&current_id, Step::FinishSecret)
        else {
            return Err(RotationError::EmptyValue.into());
        };
        let value = self.read(&current_id).await?;
        let current = self.kind.parse(&policy, value.text)?;
        let credential = read_credential(self.kind, self.store, &secret, self.secret_id, &policy).await?;
        Ok(Seen { secret, policy, admitted, current_id, current, created: value.created, credential })
    }

    /// The value of a version.
    ///
    /// # Errors
    /// [`RotationError::ValueMissing`].
    pub async fn read(&self, version: &VersionId) -> Result<VersionValue, OperateError> {
        let value = self.store.get(self.secret_id, version).await?;
        Ok(value.ok_or_else(|| RotationError::ValueMissing { version: version.clone() })?)
    }

    /// The value of `AWSPREVIOUS`, if there is one that can be read.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn previous(&self, seen: &Seen) -> Result<Option<Document>, OperateError> {
        let Some(version) = seen.secret.versions.holder(&Stage::Previous) else { return Ok(None) };
        let value = self.store.get(self.secret_id, version).await?;
        Ok(value.map(|value| self.kind.parse(&seen.policy, value.text)).transpose()?)
    }

    /// Proves the current value, with nothing being done to it.
    ///
    /// # Errors
    /// Those of the kind.
    pub async fn verify(&self, seen: &Seen, rng: &mut StdRng) -> Result<(), RotationError> {
        let values = Values { old: None, new: &seen.current };
        self.kind.test(&seen.subject(), values, K::VERIFIED_AS, self.deadline, rng).await
    }

    /// Has the application load what is current, and proves it.
    ///
    /// # Errors
    /// Those of the kind.
    pub async fn settle(&self, seen: &Seen, old: Option<&Document>, rng: &mut StdRng) -> Result<(), RotationError> {
        let values = Values { old, new: &seen.current };
        self.kind.set(&seen.subject(), values, Phase::AfterPromotion, self.deadline).await?;
        self.kind.test(&seen.subject(), Values { old: None, ..values }, K::VERIFIED_AS, self.deadline, rng).await
    }

    /// Makes `value` current, in place of the version that was seen: stored under a stage of its own first, then moved by a call
    /// that names the version it was made from. An edit that came in between stands. `version` is its new version.
    ///
    /// # Errors
    /// [`RotationError::CurrentChanged`], [`RotationError::ValueTooLarge`], and what the service refuses.
    pub async fn publish(&self, seen: &Seen, value: &Document, version: &VersionId) -> Result<Seen, OperateError> {
        let bytes = value.text().len();
        if bytes > rotation::document::MAX_VALUE_BYTES {
            return Err(RotationError::ValueTooLarge { bytes }.into());
        }
        let stage = Stage::from(OPERATION_STAGE);
        match self.store.put_private(self.secret_id, version, value.text(), &stage).await? {
            Put::Stored => {}
            Put::Exists => return Err(RotationError::CurrentChanged { name: seen.secret.name.clone() }.into()),
        }
        let moved = self.store.move_stage(self.secret_id, Stage::Current, Some(&seen.current_id), Some(version)).await;
        let after = self.store.describe(self.secret_id).await;
        if let Err(error) = moved {
            let current = after.as_ref().ok().and_then(|after| after.versions.holder(&Stage::Current));
            // The answer may have been lost.
            if current != Some(version) {
                self.drop_stage(version, &stage).await?;
                return match error.kind {
                    StoreErrorKind::Conflict => {
                        Err(RotationError::CurrentChanged { name: seen.secret.name.clone() }.into())
                    }
                    _ => Err(error.into()),
                };
            }
        }
        self.drop_stage(version, &stage).await?;
        self.see(after?).await
    }

    /// Moves `AWSCURRENT` back from `failed` to the version that was seen before it.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn put_back(&self, before: &Seen, failed: &VersionId) -> Result<(), StoreError> {
        self.store.move_stage(self.secret_id, Stage::Current, Some(failed), Some(&before.current_id)).await
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

    /// Waits until `version` is current; `false` when the time is up.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn wait_until_current(&self, version: &VersionId) -> Result<bool, StoreError> {
        loop {
            let secret = self.store.describe(self.secret_id).await?;
            if secret.versions.holder(&Stage::Current) == Some(version) {
                return Ok(true);
            }
            if !self.deadline.pause(PAUSE).await {
                return Ok(false);
            }
        }
    }
}
