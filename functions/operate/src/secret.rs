//! One secret that is operated on: what was seen of it, and what all actions do with it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng as _;
use rand::rngs::StdRng;
use rotation::admission::{Admission, Admitted};
use rotation::deadline::Deadline;
use rotation::document::{Document, MAX_VALUE_BYTES, is_empty_object};
use rotation::error::RotationError;
use rotation::event::{Step, VersionId, digest};
use rotation::kind::{Phase, Subject, Values};
use rotation::moves::{current_after_move, may_have_moved, read_version};
use rotation::policy::{RotationPolicy, StackPolicy};
use rotation::protocol::{ROLLBACK_RESERVE, read_credential};
use rotation::secret::SecretText;
use rotation::store::{Described, OperationStore, Put, StoreError, StoreErrorKind};
use rotation::versions::{Stage, Versions};

use crate::error::OperateError;
use crate::operable::Operable;
use crate::request::Action;
use crate::tidy::is_dead;

/// A stage of this project's own on a version, by which an action that died half way is finished by the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The version that an action stores before it moves `AWSCURRENT` there. A rollback leaves it there until it is proven.
    Operation,
    /// The version that the last rollback made. While its token, or primary key, is in use, there is nothing to roll back.
    RolledBack,
    /// The version's own token has to be refused. It stays until that is proven.
    Revoked,
    /// The previous token that the version holds has to be refused. It stays until that is proven.
    PreviousRevoked,
    /// What was in use in the version is known to others, and so is the previous token that it holds. It stays until that is
    /// replaced, and the tokens are proven dead.
    Compromised,
    /// The primary key of the version is known to others, in a keyring that has no place to say it, and has been replaced.
    Exposed,
}

impl Mark {
    /// How the stage begins. A stage is on one version only, so that each version has one of its own: nobody takes a mark from
    /// another version by putting it on one.
    fn name(self) -> &'static str {
        match self {
            Self::Operation => "ROTATION-OPERATION",
            Self::RolledBack => "ROTATION-ROLLBACK",
            Self::Revoked => "ROTATION-REVOKED",
            Self::PreviousRevoked => "ROTATION-PREVIOUS-REVOKED",
            Self::Compromised => "ROTATION-COMPROMISED",
            Self::Exposed => "ROTATION-EXPOSED",
        }
    }

    /// The version stage that marks this version.
    #[must_use]
    pub fn on(self, version: &VersionId) -> Stage {
        Stage::Other(format!("{}-{}", self.name(), &digest([version.as_str()])[..8]))
    }

    /// Whether the stage is this mark.
    fn is(self, stage: &Stage) -> bool {
        let rest = stage.as_str().strip_prefix(self.name()).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| rest.len() == 8)
    }

    /// The versions that carry it.
    pub fn holders(self, versions: &Versions) -> impl Iterator<Item = &VersionId> {
        versions.all().filter(move |(_, stage)| self.is(stage)).map(|(version, _)| version)
    }
}

/// How the stage begins that tells when a keyring was put back: the Unix time follows. The version that is current again is the same as
/// before, and tells nobody that others may have loaded another ring meanwhile.
const PUT_BACK: &str = "ROTATION-PUT-BACK-";

/// The stage of a keyring that is put back by an action which looked at the secret at `now`.
pub(crate) fn put_back_at(now: SystemTime) -> Stage {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Stage::Other(format!("{PUT_BACK}{seconds}"))
}

/// Every time at which a keyring was put back, by the version with that stage.
pub(crate) fn put_back(versions: &Versions) -> impl Iterator<Item = (&VersionId, &Stage, SystemTime)> {
    versions.all().filter_map(|(version, stage)| {
        let seconds = stage.as_str().strip_prefix(PUT_BACK)?.parse().ok()?;
        Some((version, stage, UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?))
    })
}

/// The action that died half way, by the marks that it left on the secret. A compromise revokes as well.
#[must_use]
pub fn unfinished(secret: &Described) -> Option<Action> {
    let has = |mark: Mark| mark.holders(&secret.versions).next().is_some();
    if has(Mark::Compromised) {
        return Some(Action::Compromise);
    }
    if has(Mark::Revoked) || has(Mark::PreviousRevoked) {
        return Some(Action::Revoke);
    }
    is_half_rolled_back(secret).then_some(Action::Rollback)
}

/// Whether what is current was made by a rollback that has not proven it.
pub(crate) fn is_half_rolled_back(secret: &Described) -> bool {
    let current = secret.versions.holder(&Stage::Current);
    let holds = |mark: Mark| mark.holders(&secret.versions).any(|holder| Some(holder) == current);
    holds(Mark::Operation) && holds(Mark::RolledBack)
}

/// A version that carries a mark, or another stage.
#[derive(Debug)]
pub struct Marked {
    /// Which.
    pub version: VersionId,
    /// Its value.
    pub value: Document,
}

/// The id of a version that an action makes.
pub fn new_version(rng: &mut StdRng) -> VersionId {
    VersionId::new(format!("{:032x}", rng.random::<u128>()))
}

/// Waits between two looks at a secret that has just been changed. What was moved has been moved, however late reads show it.
pub(crate) const LOOK_PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

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
    pub fn overlap_end<K: Operable>(&self, kind: &K) -> Option<SystemTime> {
        let began = self.secret.last_rotated.map_or(self.created, |rotated| rotated.max(self.created));
        kind.overlap_end(&self.subject(), &self.current, began)
    }

    pub(crate) fn changed(&self) -> OperateError {
        RotationError::CurrentChanged { name: self.secret.name.clone() }.into()
    }
}

/// The version with `AWSPENDING`, when it is not the current one.
#[must_use]
pub fn open_rotation(secret: &Described) -> Option<&VersionId> {
    let current = secret.versions.holder(&Stage::Current);
    secret.versions.holder(&Stage::Pending).filter(|pending| Some(*pending) != current)
}

/// What an empty object means: that there is no value yet, or that there was one.
fn empty(secret: &Described, current: &VersionId) -> RotationError {
    let pending = secret.versions.holder(&Stage::Pending);
    if secret.versions.only_ever(&[current, pending.unwrap_or(current)]) {
        return RotationError::EmptyValue;
    }
    let previous = secret.versions.holder(&Stage::Previous).cloned();
    RotationError::ValueLost { name: secret.name.clone(), current: current.clone(), lost: vec![], previous }
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

    /// Reads the current value of a secret as it was described.
    ///
    /// # Errors
    /// Those of [`look`](Self::look).
    pub async fn see(&self, secret: Described) -> Result<Seen, OperateError> {
        let mut seen = self.see_value(secret).await?;
        seen.credential = read_credential(self.kind, self.store, &seen.secret, self.secret_id, &seen.policy).await?;
        Ok(seen)
    }

    /// The same for what asks no application: its credential is not read.
    ///
    /// # Errors
    /// Those of [`look`](Self::look).
    pub async fn see_value(&self, secret: Described) -> Result<Seen, OperateError> {
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
        let value = read_version(self.store, self.secret_id, &current_id, self.deadline).await?;
        let value = value.ok_or_else(|| RotationError::ValueMissing { version: current_id.clone() })?;
        if policy.field.is_some() && is_empty_object(&value.text) {
            return Err(empty(&secret, &current_id).into());
        }
        let current = self.kind.parse(&policy, value.text)?;
        Ok(Seen { secret, policy, admitted, current_id, current, created: value.created, credential: None })
    }

    /// The same without its credential.
    ///
    /// # Errors
    /// Those of [`look`](Self::look).
    pub(crate) async fn look_value(&self) -> Result<Seen, OperateError> {
        self.see_value(self.store.describe(self.secret_id).await?).await
    }

    /// The same once `version` is current, which reads show a moment after the move.
    pub(crate) async fn look_at(&self, version: &VersionId) -> Result<Seen, OperateError> {
        let mut pauses = LOOK_PAUSES.into_iter();
        loop {
            let seen = self.look().await?;
            if seen.current_id == *version {
                return Ok(seen);
            }
            match pauses.next() {
                Some(pause) if self.deadline.pause(pause).await => {}
                _ => return Err(seen.changed()),
            }
        }
    }

    /// The value of `AWSPREVIOUS`, if there is one that can be read.
    ///
    /// # Errors
    /// When the service refuses, or the value is not of this kind.
    pub async fn previous(&self, seen: &Seen) -> Result<Option<Marked>, OperateError> {
        let Some(version) = seen.secret.versions.holder(&Stage::Previous) else { return Ok(None) };
        match self.at(seen, version).await {
            Err(OperateError::Rotation(RotationError::ValueMissing { .. })) => Ok(None),
            result => result.map(Some),
        }
    }

    /// The versions that carry the mark.
    ///
    /// # Errors
    /// When the service refuses, or a value is not there or not of this kind: what a mark tells is not forgotten.
    pub async fn marked(&self, seen: &Seen, mark: Mark) -> Result<Vec<Marked>, OperateError> {
        let mut marked = vec![];
        for version in mark.holders(&seen.secret.versions) {
            marked.push(self.at(seen, version).await?);
        }
        Ok(marked)
    }

    pub(crate) async fn at(&self, seen: &Seen, version: &VersionId) -> Result<Marked, OperateError> {
        let version = version.clone();
        if version == seen.current_id {
            return Ok(Marked { version, value: seen.current.clone() });
        }
        match read_version(self.store, self.secret_id, &version, self.deadline).await? {
            Some(value) if !is_empty_object(&value.text) => {
                Ok(Marked { version, value: self.kind.parse(&seen.policy, value.text)? })
            }
            // What a secret was made with is no value to go back to.
            _ => Err(RotationError::ValueMissing { version }.into()),
        }
    }

    /// Puts a mark on a version.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn mark(&self, mark: Mark, version: &VersionId) -> Result<(), OperateError> {
        // It is on this version already, or nowhere: nothing can be in the way.
        Ok(self.store.move_stage(self.secret_id, mark.on(version), None, Some(version)).await?)
    }

    /// Takes marks off the versions that were seen with them.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn unmark(&self, marks: &[Mark], seen: &Described) -> Result<(), StoreError> {
        for mark in marks {
            for version in mark.holders(&seen.versions) {
                self.drop_stage(version, &mark.on(version)).await?;
            }
        }
        Ok(())
    }

    /// Makes `value` current, in place of the version that was seen: stored under a mark first, then moved by a call that names
    /// the version it was made from. An edit that came in between stands. `version` is its new version.
    ///
    /// # Errors
    /// [`RotationError::CurrentChanged`], [`RotationError::ValueTooLarge`], and what the service refuses.
    pub async fn publish(
        &self,
        seen: &Seen,
        value: &Document,
        marks: &[Mark],
        version: &VersionId,
    ) -> Result<Seen, OperateError> {
        let bytes = value.text().len();
        if bytes > MAX_VALUE_BYTES {
            return Err(RotationError::ValueTooLarge { bytes }.into());
        }
        if let Some(archive) = self.kind.archive(&seen.subject(), value)? {
            archive.keep(self.store, self.deadline).await?;
        }
        let stages: Vec<Stage> = marks.iter().map(|mark| mark.on(version)).collect();
        let marked = self.marked_ring(&seen.secret).stages_to_come(self.kind, &seen.policy, value)?;
        seen.secret.require_stages(stages.len() + marked)?;
        let takes_keys_out = self.takes_keys_out(seen, value)?;
        if let Err(error) = self.make_current(seen, value, &stages, version).await {
            if self.was_never_current(seen, value, version, &error).await {
                self.give_up(seen, version, &stages).await;
            }
            return Err(error.into());
        }
        let now = self.look_at(version).await?;
        if takes_keys_out {
            // A sweep may have moved it back meanwhile.
            self.marked_ring(&now.secret).move_to(version).await?;
        }
        match self.keep_ring(&now).await {
            // What a person has to decide does not undo what was asked for.
            Ok(()) | Err(RotationError::MarkedRingUnreadable { .. }) => Ok(now),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores `value` under stages of its own, and moves `AWSCURRENT` there.
    async fn make_current(
        &self,
        seen: &Seen,
        value: &Document,
        stages: &[Stage],
        version: &VersionId,
    ) -> Result<(), RotationError> {
        let changed = || RotationError::CurrentChanged { name: seen.secret.name.clone() };
        match self.store.put_private(self.secret_id, version, value.text(), stages).await? {
            Put::Stored => {}
            Put::Exists => return Err(changed()),
        }
        if self.takes_keys_out(seen, value)? {
            // Before: the current ring has all keys of the marked one, however this ends.
            self.marked_ring(&seen.secret).move_to(version).await?;
        }
        if seen.secret.versions.holder(&Stage::Pending) == Some(&seen.current_id) {
            // The rotation to it has come to its end. On a version that is not current any more, the stage would be the one of a
            // rotation that is open, and would be taken up again.
            self.drop_stage(&seen.current_id, &Stage::Pending).await?;
        }
        let from = Some(&seen.current_id);
        let Err(error) = self.store.move_stage(self.secret_id, Stage::Current, from, Some(version)).await else {
            return Ok(());
        };
        if !may_have_moved(&error) {
            return Err(error.into());
        }
        // The answer may have been lost, or another action or a rotation was faster.
        match current_after_move(self.store, self.secret_id, from, self.deadline).await? {
            Some(holder) if holder == *version => Ok(()),
            holder if holder.as_ref() != from => Err(changed()),
            _ if error.kind == StoreErrorKind::Conflict => {
                Err(RotationError::PromotionConflict { name: seen.secret.name.clone() })
            }
            _ => Err(error.into()),
        }
    }

    /// Whether a version that could not be made current never was, for certain: the move was not asked for, or refused, or what is
    /// current is neither it nor anything that was made from it.
    async fn was_never_current(
        &self,
        seen: &Seen,
        value: &Document,
        version: &VersionId,
        error: &RotationError,
    ) -> bool {
        match error {
            RotationError::Store(error) if error.operation == "PutSecretValue" => true,
            RotationError::Store(error) => !may_have_moved(error),
            RotationError::CurrentChanged { .. } => {
                let Ok(now) = self.look_value().await else { return false };
                let moved = now.current_id != seen.current_id && is_dead(&now.secret.versions, version);
                moved && self.kind.same_in_use(&now.policy, value, &now.current).is_ok_and(|same| !same)
            }
            _ => false,
        }
    }

    /// Whether `value` lacks keys of the current ring.
    fn takes_keys_out(&self, seen: &Seen, value: &Document) -> Result<bool, RotationError> {
        let rings = self.kind.ring(&seen.policy, value)?.zip(self.kind.ring(&seen.policy, &seen.current)?);
        Ok(rings.is_some_and(|(next, current)| !next.holds_all_of(&current)))
    }

    /// Proves the current value, with nothing being done to it.
    ///
    /// # Errors
    /// Those of the kind.
    pub async fn verify(&self, seen: &Seen, rng: &mut StdRng) -> Result<(), RotationError> {
        // Against itself: what each key of a ring encrypts has to be decrypted.
        let values = Values { old: Some(&seen.current), new: &seen.current };
        self.kind.test(&seen.subject(), values, K::VERIFIED_AS, self.deadline, rng).await
    }

    /// Has the application load what is current, and proves it. `old` is what it may know still.
    ///
    /// # Errors
    /// Those of the kind.
    pub async fn settle(
        &self,
        seen: &Seen,
        old: Option<&Document>,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        let values = Values { old, new: &seen.current };
        let mut repeated = false;
        loop {
            self.kind.set(&seen.subject(), values, Phase::AfterPromotion, deadline).await?;
            match self.kind.test(&seen.subject(), values, Phase::AfterPromotion, deadline, rng).await {
                // It may have read the secret before the move was visible to it.
                Err(error) if error.may_be_a_stale_read() && !repeated => repeated = true,
                result => return result,
            }
        }
    }

    /// # Errors
    /// [`RotationError::TimeTooShort`] when too little is left to bring a value to the application, and to put it back.
    pub fn require_time(&self) -> Result<(), RotationError> {
        let (left, needed) = (self.deadline.left(), self.kind.settle_time() + ROLLBACK_RESERVE);
        if self.kind.has_target() && left < needed { Err(RotationError::TimeTooShort { left, needed }) } else { Ok(()) }
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
}
