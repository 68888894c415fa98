//! The work on one secret, shared by the steps of a rotation and the actions of an operator.
//!
//! A [`Session`] holds what does not change during the work: the kind, the store, the stack's policy, the secret's id
//! and the deadline. A [`Snapshot`] holds the answer of one DescribeSecret: the versions with their staging labels, the
//! policy in force, and the proof of admission. A piece of work uses them in this order:
//!
//! 1. [`Session::describe`] (one call), then [`Session::require_usable`], then [`Versions::admit`], then
//!    [`Session::snapshot`]. An action of an operator uses [`Session::snapshot_of_current`] in place of these.
//! 2. [`Session::read_credential`], if the work asks the application.
//! 3. [`Session::read`] and [`Session::read_current`], then [`Session::parse`].
//! 4. [`Session::archive`], [`Session::require_time`], [`Session::make_current`], [`Session::mark_ring`].
//! 5. After a move of `AWSCURRENT`, [`rollback`](crate::rollback): [`Session::settle`], or
//!    [`Session::settle_or_put_back`].
//!
//! Every method states how many calls to Secrets Manager it makes. The session caches no value: a caller that needs a
//! value twice passes it on.
//!
//! [`Versions::admit`]: crate::versions::Versions::admit

use std::time::{Duration, SystemTime};

use crate::admission::{Admission, Admitted};
use crate::deadline::Deadline;
use crate::delivery::{Undelivered, is_compromised, is_delivered};
use crate::document::{Document, FieldName, is_empty_object};
use crate::error::RotationError;
use crate::event::Step;
use crate::kind::{SecretKind, SecretReference, Subject};
use crate::marked_ring::{self, MarkedRing};
use crate::moves::{MoveOutcome, move_current, move_if_there, read_version};
use crate::policy::{RotationPolicy, StackPolicy};
use crate::secret::SecretText;
use crate::store::{Described, SecretStore, StoreError, StoreErrorKind, VersionValue};
use crate::versions::{Stage, VersionId};

/// The time that a promotion leaves free to put the old version back. It covers a call that is answered at its third
/// attempt, two more calls, and a refresh.
pub const ROLLBACK_RESERVE: Duration = Duration::from_secs(10);

/// The wait before the second DescribeSecret, if the first does not list a version.
const DESCRIBE_PAUSE: Duration = Duration::from_millis(300);

/// The work on one secret. It is cheap to make, and holds no state of the secret.
#[derive(Debug)]
pub struct Session<'a, K, S> {
    /// The kind of secret.
    pub kind: &'a K,
    /// Secrets Manager.
    pub store: &'a S,
    /// The bounds that the stack sets.
    pub stack: &'a StackPolicy,
    /// The name or ARN of the secret, as the caller gave it.
    pub secret_id: &'a str,
    /// The end of the time for the work.
    pub deadline: Deadline,
}

/// A secret as one DescribeSecret describes it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The answer of DescribeSecret.
    pub secret: Described,
    /// The policy in force.
    pub policy: RotationPolicy,
    /// The proof of admission. An action on the current version is admitted as a repeated finishSecret of that version.
    pub admitted: Admitted,
    /// The credential for the application, after [`Session::read_credential`] has read it.
    pub credential: Option<SecretText>,
}

impl Snapshot {
    /// The subject for the methods of a kind.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            admitted: &self.admitted,
            name: &self.secret.name,
            policy: &self.policy,
            now: self.secret.as_of,
            last_rotated: self.secret.last_rotated,
            current_created: None,
            credential: self.credential.as_ref(),
            delivered: false,
        }
    }

    /// The subject for a method that makes a value from the current one. The current version was created at `created`.
    #[must_use]
    pub fn subject_of_current(&self, created: SystemTime) -> Subject<'_> {
        Subject { current_created: Some(created), ..self.subject() }
    }

    /// [`RotationError::CurrentChanged`] with the name of this secret.
    #[must_use]
    pub fn changed(&self) -> RotationError {
        RotationError::CurrentChanged { name: self.secret.name.clone() }
    }
}

impl<'a, K: SecretKind, S: SecretStore> Session<'a, K, S> {
    /// Describes the secret. One call.
    ///
    /// # Errors
    /// The service refuses the call.
    pub async fn describe(&self) -> Result<Described, StoreError> {
        self.store.describe(self.secret_id).await
    }

    /// Describes the secret, and once more if the first answer does not list `version`: reads are eventually
    /// consistent. One or two calls.
    ///
    /// # Errors
    /// The service refuses a call.
    pub async fn describe_with(&self, version: &VersionId) -> Result<Described, StoreError> {
        let secret = self.describe().await?;
        if secret.versions.contains(version) || !self.deadline.pause(DESCRIBE_PAUSE).await {
            return Ok(secret);
        }
        self.describe().await
    }

    /// Refuses a secret that no function of this stack may change. No call.
    ///
    /// # Errors
    /// [`RotationError::ScheduledForDeletion`], [`RotationError::ReplicaRegion`], [`RotationError::NameNotAllowed`].
    pub fn require_usable(&self, secret: &Described) -> Result<(), RotationError> {
        secret.require_usable()?;
        self.stack.check_name(&secret.name)
    }

    /// Makes the snapshot of a secret, with the policy in force, for the work that `admitted` allows. No call.
    ///
    /// # Errors
    /// [`RotationError::InvalidPolicy`].
    pub fn snapshot(&self, secret: Described, admitted: Admitted) -> Result<Snapshot, RotationError> {
        let policy = self.stack.for_secret(&secret.tags, secret.as_of)?;
        Ok(Snapshot { secret, policy, admitted, credential: None })
    }

    /// Makes the snapshot of a secret for work on its current version, outside of a rotation. No call.
    ///
    /// # Errors
    /// [`RotationError::EmptyValue`] if no version is current, [`RotationError::InvalidPolicy`], and the errors of
    /// [`require_usable`](Self::require_usable).
    pub fn snapshot_of_current(&self, secret: Described) -> Result<Snapshot, RotationError> {
        self.require_usable(&secret)?;
        let policy = self.stack.for_secret(&secret.tags, secret.as_of)?;
        let current = secret.versions.holder(&Stage::Current).ok_or(RotationError::EmptyValue)?;
        // Finishing a version that is current is what an operation on it amounts to.
        match secret.versions.admit(current, Step::FinishSecret)? {
            Admission::RepeatAfterPromotion(admitted) => Ok(Snapshot { secret, policy, admitted, credential: None }),
            _ => Err(RotationError::EmptyValue),
        }
    }

    /// Reads the credential for the application, if another secret holds it. At most one call.
    ///
    /// # Errors
    /// Those of [`read_credential`].
    pub async fn read_credential(&self, seen: &mut Snapshot) -> Result<(), RotationError> {
        seen.credential = read_credential(self.kind, self.store, &seen.secret, self.secret_id, &seen.policy).await?;
        Ok(())
    }

    /// The value of a version; `None` if it has none, also after a short wait. One call; a retried read takes up to
    /// three more.
    ///
    /// # Errors
    /// The service refuses a call.
    pub async fn find(&self, version: &VersionId) -> Result<Option<VersionValue>, StoreError> {
        read_version(self.store, self.secret_id, version, self.deadline).await
    }

    /// The value of a version that must have one. One call; a retried read takes up to three more.
    ///
    /// # Errors
    /// [`RotationError::ValueMissing`], or the service refuses a call.
    pub async fn read(&self, version: &VersionId) -> Result<VersionValue, RotationError> {
        let value = self.find(version).await?;
        value.ok_or_else(|| RotationError::ValueMissing { version: version.clone() })
    }

    /// The current version and its value. One call; a retried read takes up to three more, and `ValueLost` takes one
    /// more read.
    ///
    /// `None` if no version is current. `None` also if the value is an empty object and the secret never had another
    /// value: templates and consoles create such secrets.
    ///
    /// # Errors
    /// [`RotationError::ValueLost`] if an empty object replaced a value, and the errors of [`read`](Self::read).
    pub async fn read_current<'s>(
        &self,
        seen: &'s Snapshot,
    ) -> Result<Option<(&'s VersionId, VersionValue)>, RotationError> {
        let Some(id) = seen.admitted.current() else { return Ok(None) };
        let current = self.read(id).await?;
        // In a text secret, applications would take the empty object for the previous token.
        if seen.policy.field.is_none() || !is_empty_object(&current.text) {
            return Ok(Some((id, current)));
        }
        if seen.secret.versions.only_ever(&[id, seen.admitted.version()]) {
            return Ok(None);
        }
        Err(self.value_lost(seen, id).await)
    }

    /// The error for an empty object that replaced a value. It names the missing members that this kind writes.
    async fn value_lost(&self, seen: &Snapshot, current: &VersionId) -> RotationError {
        let previous = marked_ring::last_value(&seen.secret.versions);
        let held = match previous {
            Some(id) => self.find(id).await.ok().flatten(),
            None => None,
        };
        let held = held.and_then(|held| self.parse(seen, &held).ok());
        let members = |held: &Document| {
            self.kind.members(&seen.policy, held).into_iter().filter(|name| held.has_member(name)).collect()
        };
        let lost: Vec<FieldName> = held.as_ref().map_or(vec![], members);
        RotationError::ValueLost {
            name: seen.secret.name.clone(),
            current: current.clone(),
            lost: lost.iter().map(FieldName::to_string).collect(),
            previous: previous.cloned(),
        }
    }

    /// Whether every consumer has the current value, `current`, which was created at `created`. `false` for a secret
    /// without consumers, and for a compromised value: that one is replaced, however many consumers lack it. At most one
    /// call; a retried read takes up to three more.
    ///
    /// # Errors
    /// [`RotationError::NotDelivered`], and those of [`is_delivered`].
    pub async fn require_delivered(
        &self,
        (secret, policy): (&Described, &RotationPolicy),
        (current, created): (&Document, SystemTime),
    ) -> Result<bool, RotationError> {
        if !self.stack.has_consumers(&secret.name) || is_compromised(&secret.versions) {
            return Ok(false);
        }
        let of_secret = (self.secret_id, secret);
        if is_delivered(self.kind, self.store, of_secret, (policy, current), self.deadline).await? {
            return Ok(true);
        }
        let since = Undelivered::of(&secret.versions, created).since();
        Err(RotationError::NotDelivered { name: secret.name.clone(), since })
    }

    /// Parses a value. No call.
    ///
    /// # Errors
    /// The value is not of this kind.
    pub fn parse(&self, seen: &Snapshot, value: &VersionValue) -> Result<Document, RotationError> {
        self.kind.parse(&seen.policy, value.text.clone())
    }

    /// The current value, if there is one, and the value of the admitted version. Two calls; each retried read takes up
    /// to three more.
    ///
    /// # Errors
    /// Those of [`read_current`](Self::read_current) and [`parse`](Self::parse).
    pub async fn read_both(&self, seen: &Snapshot) -> Result<(Option<Document>, Document), RotationError> {
        let old = match self.read_current(seen).await? {
            None => None,
            Some((_, current)) => Some(self.parse(seen, &current)?),
        };
        Ok((old, self.parse(seen, &self.read(seen.admitted.version()).await?)?))
    }

    /// Writes to the archive what must be there before `value` becomes current. No call without an archive, else the
    /// calls of [`ToArchive::keep`](crate::archive::ToArchive::keep).
    ///
    /// # Errors
    /// [`RotationError::ArchiveUnavailable`], or the value is not of this kind.
    pub async fn archive(&self, subject: &Subject<'_>, value: &Document) -> Result<(), RotationError> {
        match self.kind.archive(subject, value)? {
            Some(archive) => archive.keep(self.store, self.deadline).await,
            None => Ok(()),
        }
    }

    /// The mark on the last complete ring of a described secret. No call.
    #[must_use]
    pub fn marked_ring<'s>(&self, secret: &'s Described) -> MarkedRing<'s, S>
    where
        'a: 's,
    {
        MarkedRing::of(self.store, self.secret_id, secret, self.deadline)
    }

    /// Marks `value` of the current version `version` as the last complete ring. It does nothing if the version is
    /// marked already, or if the kind has no ring.
    ///
    /// `proven` is the marked version whose keys are known to be in `value`. If the mark is on another version, this
    /// method reads the marked ring first. At most two calls; a retried read takes up to three more.
    ///
    /// # Errors
    /// [`RotationError::KeysMissing`], or the service refuses a call.
    pub async fn mark_ring(
        &self,
        seen: &Snapshot,
        version: &VersionId,
        value: &Document,
        proven: Option<&VersionId>,
    ) -> Result<(), RotationError> {
        let marked = self.marked_ring(&seen.secret);
        if marked.version() == Some(version) || self.kind.ring(&seen.policy, value)?.is_none() {
            return Ok(());
        }
        if marked.version() != proven {
            marked.require_all(self.kind, &seen.policy, version, value).await?;
        }
        Ok(marked.move_to(version).await?)
    }

    /// Requires enough time to bring a value to the application, and to put the old value back. No call.
    ///
    /// # Errors
    /// [`RotationError::TimeTooShort`].
    pub fn require_time(&self) -> Result<(), RotationError> {
        let (left, needed) = (self.deadline.left(), self.kind.settle_time() + ROLLBACK_RESERVE);
        if self.kind.has_target() && left < needed { Err(RotationError::TimeTooShort { left, needed }) } else { Ok(()) }
    }

    /// Moves `AWSCURRENT` from the checked version `from` to `to`. One call; a lost answer or a conflict takes up to
    /// four more.
    ///
    /// # Errors
    /// [`RotationError::CurrentChanged`] if another version is current. [`RotationError::PromotionConflict`] if the
    /// current version is not visible yet. Also, the service refuses a call.
    pub async fn make_current(
        &self,
        seen: &Snapshot,
        from: Option<&VersionId>,
        to: &VersionId,
    ) -> Result<(), RotationError> {
        match move_current(self.store, self.secret_id, from, to, self.deadline).await {
            MoveOutcome::Moved => Ok(()),
            MoveOutcome::Elsewhere => Err(seen.changed()),
            MoveOutcome::NotMoved(error) if error.kind == StoreErrorKind::Conflict => {
                Err(RotationError::PromotionConflict { name: seen.secret.name.clone() })
            }
            MoveOutcome::NotMoved(error) => Err(error.into()),
        }
    }

    /// Removes a staging label from a version. The label may be gone already. One call.
    ///
    /// # Errors
    /// The service refuses the call for another reason.
    pub async fn take_off(&self, stage: Stage, version: &VersionId) -> Result<(), StoreError> {
        self.move_if_there(stage, version, None).await
    }

    /// Moves a staging label that may be gone already, see [`move_if_there`]. One call.
    ///
    /// # Errors
    /// The service refuses the call for another reason.
    pub async fn move_if_there(
        &self,
        stage: Stage,
        from: &VersionId,
        to: Option<&VersionId>,
    ) -> Result<(), StoreError> {
        move_if_there(self.store, self.secret_id, stage, Some(from), to).await
    }
}

/// Reads the credential for the target of `kind`, if the credential is not in the rotated secret.
///
/// # Errors
/// [`RotationError::CredentialUnavailable`] names the other secret, and the reason.
pub async fn read_credential<K: SecretKind, S: SecretStore>(
    kind: &K,
    store: &S,
    secret: &Described,
    secret_id: &str,
    policy: &RotationPolicy,
) -> Result<Option<SecretText>, RotationError> {
    if !kind.has_target() {
        return Ok(None);
    }
    let Some(SecretReference { id, field }) = kind.credential(&secret.name)? else { return Ok(None) };
    let unavailable =
        |reason: RotationError| RotationError::CredentialUnavailable { secret: id.clone(), reason: Box::new(reason) };
    let value = store.get_current(&id).await.map_err(|error| unavailable(error.into()))?;
    let own = id == secret.name || id == secret_id;
    let rotated = || match (&field, kind.parse(policy, value.text.clone())) {
        (Some(read), Ok(value)) if value.field().is_some() => kind.members(policy, &value).contains(read),
        // Another place reports a value that is not of this kind.
        (Some(read), Err(_)) => policy.field.as_ref().is_none_or(|rotated| rotated == read),
        _ => true,
    };
    if own && rotated() {
        // The function would send the very value that it rotates to the application.
        let problem = "is the secret that is rotated: name the one with the token that the target requires".to_owned();
        let variable = "TARGET_TOKEN_SECRET".to_owned();
        return Err(unavailable(RotationError::InvalidConfiguration { variable, problem }));
    }
    let credential = Document::parse(value.text, field.as_ref()).and_then(|document| document.secret());
    credential.map(Some).map_err(unavailable)
}
