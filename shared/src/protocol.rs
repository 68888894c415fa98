//! The four steps of a rotation, top to bottom.
//!
//! Each step begins with one DescribeSecret and the admission of the event ([`Versions::admit`]); every step may run any
//! number of times, twice at once, late, or die between any two calls. A version that this rotation did not create is
//! never promoted, changed or detached, except to restore the version that it just replaced.
//!
//! [`Versions::admit`]: crate::versions::Versions::admit

use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::admission::{Admission, Admitted};
use crate::deadline::Deadline;
use crate::document::{Document, FieldName, MAX_VALUE_BYTES, is_empty_object};
use crate::error::{Restored, RotationError};
use crate::event::{RotationEvent, Step, VersionId};
use crate::kind::{Phase, SecretKind, SecretReference, Subject, Values};
use crate::marked_ring::{self, MarkedRing};
use crate::moves::{current_after_move, may_have_moved, read_version};
use crate::policy::{RotationPolicy, StackPolicy};
use crate::secret::SecretText;
use crate::store::{Described, Put, SecretStore, StoreError, StoreErrorKind, VersionValue};
use crate::time::format_timestamp;
use crate::versions::Stage;

/// Kept free after a promotion to put the old version back: a call that is answered at its third attempt, two more, and
/// a refresh.
pub const ROLLBACK_RESERVE: Duration = Duration::from_secs(10);

/// The wait before a secret is described again that does not list the event's version.
const DESCRIBE_PAUSE: Duration = Duration::from_millis(300);

/// Performs the steps for one kind of secret, in one store, under one stack's policy.
#[derive(Debug)]
pub struct Rotator<'a, K, S> {
    /// What is particular to the kind of secret.
    pub kind: &'a K,
    /// Secrets Manager.
    pub store: &'a S,
    /// The bounds that the stack sets.
    pub stack: &'a StackPolicy,
}

/// What a step did. It is the function's answer and its log line, and holds no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The secret's name.
    pub secret: String,
    /// The version of the rotation.
    pub version: VersionId,
    /// The step.
    pub step: Step,
    /// What happened.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The outcomes of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// createSecret stored a new value.
    Created,
    /// createSecret found the value that an earlier try had stored.
    Adopted,
    /// createSecret gave a secret without a value its first one.
    Initialised,
    /// The version is already current.
    NothingToDo,
    /// setSecret brought the value to the target.
    Set,
    /// There is no target to bring the value to.
    NoTarget,
    /// testSecret proved the value.
    Tested,
    /// testSecret ran alone, as a test of the configuration.
    ConfigurationTested,
    /// finishSecret promoted the version, and it verified.
    Promoted(Promotion),
    /// finishSecret found the version promoted by an earlier try, and it verified.
    PromotedEarlier(Promotion),
    /// finishSecret found the first value of the secret in place; no application knew a value before, so none is asked.
    FirstValue,
}

impl Outcome {
    /// What the kind adds to the report of a promotion, as JSON; `None` when that is nothing.
    pub(crate) fn of_kind(&self) -> Option<String> {
        let (Self::Promoted(promotion) | Self::PromotedEarlier(promotion)) = self else { return None };
        (!promotion.of_kind.is_empty()).then(|| serde_json::to_string(&promotion.of_kind).unwrap_or_default())
    }
}

/// What a promotion means to consumers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Promotion {
    /// Until when the previous value is accepted, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_accepted_until: Option<String>,
    /// Until when the value before that would have been accepted; this rotation ended it early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap_shortened_from: Option<String>,
    /// Seconds from the making of the value to now, by the service's clock.
    pub rotation_seconds: u64,
    /// What the kind adds, see [`SecretKind::report`].
    #[serde(flatten)]
    pub of_kind: Map<String, Value>,
}

/// One admitted event, with what was seen when it was admitted.
struct Rotation<'a> {
    event: &'a RotationEvent,
    secret: &'a Described,
    admitted: &'a Admitted,
    policy: RotationPolicy,
    /// An error is one of whoever asks the application: the first value of a secret is proven without.
    credential: Result<Option<SecretText>, RotationError>,
    deadline: Deadline,
}

impl Rotation<'_> {
    fn subject(&self) -> Subject<'_> {
        Subject {
            admitted: self.admitted,
            name: &self.secret.name,
            policy: &self.policy,
            now: self.secret.as_of,
            last_rotated: self.secret.last_rotated,
            current_created: None,
            credential: self.credential.as_ref().ok().and_then(Option::as_ref),
        }
    }

    fn require_credential(&self) -> Result<(), RotationError> {
        self.credential.as_ref().map(drop).map_err(Clone::clone)
    }
}

impl<K: SecretKind, S: SecretStore> Rotator<'_, K, S> {
    /// Performs the step that `event` asks for.
    ///
    /// # Errors
    /// Every failure is named, see [`RotationError::name`]; what it leaves behind is what the retry expects.
    pub async fn perform(
        &self,
        event: &RotationEvent,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<Report, RotationError> {
        let secret = self.describe(event, deadline).await?;
        let name = || secret.name.clone();
        if secret.deleted {
            return Err(RotationError::ScheduledForDeletion { name: name() });
        }
        if let Some(primary_region) = secret.replica_of.clone() {
            return Err(RotationError::ReplicaRegion { name: name(), primary_region });
        }
        self.stack.check_name(&secret.name)?;

        let rotation = |admitted| {
            let policy = self.stack.for_secret(&secret.tags, secret.as_of)?;
            Ok::<_, RotationError>(Rotation {
                event,
                secret: &secret,
                admitted,
                policy,
                credential: Ok(None),
                deadline,
            })
        };
        let outcome = match secret.versions.admit(&event.version, event.step)? {
            Admission::NothingToDo => Outcome::NothingToDo,
            Admission::RepeatAfterPromotion(admitted) => {
                let mut rotation = rotation(&admitted)?;
                // Nobody is asked about the first value of a secret.
                if admitted.previous().is_some() {
                    rotation = self.with_credential(rotation).await;
                }
                self.repeat_after_promotion(&rotation, rng).await?
            }
            Admission::FinishRollback(admitted) => {
                self.finish_rollback(event, &secret, admitted.version(), deadline).await?;
                let rotation = self.with_credential(rotation(&admitted)?).await;
                match rotation.require_credential() {
                    Ok(()) => self.refresh_after_rollback(&rotation).await,
                    Err(error) => not_refreshed(&secret.name, &error),
                }
                return Err(RotationError::RolledBack { version: event.version.clone() });
            }
            Admission::Perform(admitted) => {
                if !secret.rotation_enabled {
                    return Err(RotationError::RotationNotEnabled { name: name() });
                }
                let rotation = rotation(&admitted)?;
                if let Some(until) = rotation.policy.hold_until {
                    return Err(RotationError::OnHold { name: name(), until });
                }
                let performed = match event.step {
                    Step::CreateSecret => self.create(&rotation, rng).await,
                    step => {
                        let mut rotation = rotation;
                        // The first value of a secret is proven without asking anybody, and on a first deployment the token that
                        // asking takes has no value either.
                        if step != Step::TestSecret || admitted.current().is_some() {
                            rotation = self.with_credential(rotation).await;
                        }
                        match step {
                            Step::SetSecret => self.set(&rotation).await,
                            Step::TestSecret => self.test(&rotation, rng).await,
                            _ => self.finish(&rotation, rng).await,
                        }
                    }
                };
                if let Err(error) = &performed
                    && error.gives_up_pending(event.step == Step::TestSecret)
                    && let Err(second) = self.detach_pending(event, &event.version).await
                {
                    tracing::warn!(secret = secret.name, version = %event.version, error = %second, "AWSPENDING was not detached");
                }
                performed?
            }
        };
        Ok(Report { secret: secret.name, version: event.version.clone(), step: event.step, outcome })
    }

    /// Takes the stages off a version that was put back, and gives `AWSPREVIOUS` to the version that had it before.
    async fn finish_rollback(
        &self,
        event: &RotationEvent,
        secret: &Described,
        failed: &VersionId,
        deadline: Deadline,
    ) -> Result<(), RotationError> {
        if secret.versions.holder(&Stage::Pending) != Some(failed) {
            // Or it succeeded, and was replaced by a younger one since.
            let created = async |version: &VersionId| {
                let value = read_version(self.store, &event.secret_id, version, deadline).await?;
                Ok::<_, StoreError>(value.map(|value| value.created))
            };
            let current = match secret.versions.holder(&Stage::Current) {
                Some(current) => created(current).await?,
                None => None,
            };
            if current >= created(failed).await? {
                let holder = secret.versions.holder(&Stage::Pending).cloned();
                return Err(RotationError::NotPending { version: failed.clone(), holder });
            }
        }
        // AWSPENDING first: without AWSPREVIOUS it would look like a version to promote.
        self.detach_pending(event, failed).await?;
        let record = Stage::restored_after(failed);
        let previous = secret.versions.holder(&record);
        self.ignoring_conflict(&event.secret_id, Stage::Previous, failed, previous).await?;
        if let Some(previous) = previous {
            self.ignoring_conflict(&event.secret_id, record, previous, None).await?;
        }
        // What was put back is no complete ring: its staged key stands nowhere else.
        let ring = marked_ring::stage();
        if secret.versions.holder(&ring) == Some(failed) {
            let current = secret.versions.holder(&Stage::Current);
            self.ignoring_conflict(&event.secret_id, ring, failed, current).await?;
        }
        Ok(())
    }

    fn parse(&self, rotation: &Rotation<'_>, value: &VersionValue) -> Result<Document, RotationError> {
        self.kind.parse(&rotation.policy, value.text.clone())
    }

    async fn with_credential<'a>(&self, rotation: Rotation<'a>) -> Rotation<'a> {
        let Rotation { secret, event, policy, .. } = &rotation;
        let credential = read_credential(self.kind, self.store, secret, &event.secret_id, policy).await;
        Rotation { credential, ..rotation }
    }

    /// Describes the secret; a version that is not listed yet is looked for once more, because reads are eventually
    /// consistent.
    async fn describe(&self, event: &RotationEvent, deadline: Deadline) -> Result<Described, StoreError> {
        let secret = self.store.describe(&event.secret_id).await?;
        if secret.versions.contains(&event.version) || !deadline.pause(DESCRIBE_PAUSE).await {
            return Ok(secret);
        }
        self.store.describe(&event.secret_id).await
    }

    /// Makes the new value and stores it, once for this version. An earlier try that won is adopted.
    async fn create(&self, rotation: &Rotation<'_>, rng: &mut StdRng) -> Result<Outcome, RotationError> {
        let Some((current_id, current)) = self.read_current(rotation).await? else {
            return self.initialise(rotation, rng).await;
        };
        let subject = Subject { current_created: Some(current.created), ..rotation.subject() };
        let document = self.parse(rotation, &current)?;
        let marked = self.marked_ring(rotation);
        rotation.secret.require_stages(marked.stages_to_come(self.kind, &rotation.policy, &document)?)?;
        marked.require_all(self.kind, &rotation.policy, current_id, &document).await?;
        let new = self.kind.create(&subject, &document, rng)?;
        let put = self.put(rotation, &new).await?;

        // The value was made from a version that may have been replaced meanwhile; finishSecret looks again.
        let now = self.store.describe(&rotation.event.secret_id).await?;
        let holder = now.versions.holder(&Stage::Current);
        if holder != Some(current_id) && holder != Some(rotation.admitted.version()) {
            return Err(RotationError::CurrentChanged { name: rotation.secret.name.clone() });
        }
        Ok(match put {
            Put::Stored => Outcome::Created,
            Put::Exists => Outcome::Adopted,
        })
    }

    /// Gives a secret its first value. It is stored as pending and then promoted by a move that names no origin, or the version
    /// with the empty object, which fails when somebody stored a value in between: PutSecretValue as current would overwrite theirs.
    async fn initialise(&self, rotation: &Rotation<'_>, rng: &mut StdRng) -> Result<Outcome, RotationError> {
        let first = self.kind.first(&rotation.subject(), rng)?;
        let first = match self.put(rotation, &first).await? {
            Put::Stored => first,
            Put::Exists => self.parse(rotation, &self.read(rotation, rotation.admitted.version()).await?)?,
        };
        self.archive(rotation, &first).await?;
        self.promote(rotation, rotation.admitted.current()).await?;
        Ok(Outcome::Initialised)
    }

    /// Puts into the archive what has to be there before `value` becomes current.
    async fn archive(&self, rotation: &Rotation<'_>, value: &Document) -> Result<(), RotationError> {
        match self.kind.archive(&rotation.subject(), value)? {
            Some(archive) => archive.keep(self.store, rotation.deadline).await,
            None => Ok(()),
        }
    }

    fn marked_ring<'a>(&'a self, rotation: &Rotation<'a>) -> MarkedRing<'a, S> {
        MarkedRing::of(self.store, &rotation.event.secret_id, rotation.secret, rotation.deadline)
    }

    /// Marks the ring that is current now as the last complete one. `proven` is the version of which it is known to hold all keys.
    async fn mark_ring(
        &self,
        rotation: &Rotation<'_>,
        new: &Document,
        proven: Option<&VersionId>,
    ) -> Result<(), RotationError> {
        let (marked, version) = (self.marked_ring(rotation), rotation.admitted.version());
        if marked.version() == Some(version) || self.kind.ring(&rotation.policy, new)?.is_none() {
            return Ok(());
        }
        if marked.version() != proven {
            marked.require_all(self.kind, &rotation.policy, version, new).await?;
        }
        Ok(marked.move_to(version).await?)
    }

    async fn put(&self, rotation: &Rotation<'_>, new: &Document) -> Result<Put, RotationError> {
        let bytes = new.text().len();
        if bytes > MAX_VALUE_BYTES {
            return Err(RotationError::ValueTooLarge { bytes });
        }
        let event = rotation.event;
        Ok(self.store.put_pending(&event.secret_id, &event.version, new.text(), event.rotation_token.as_ref()).await?)
    }

    /// Brings the pending value to the application.
    async fn set(&self, rotation: &Rotation<'_>) -> Result<Outcome, RotationError> {
        if !self.kind.has_target() {
            return Ok(Outcome::NoTarget);
        }
        let (old, new) = self.read_both(rotation).await?;
        rotation.require_credential()?;
        let values = Values { old: old.as_ref(), new: &new };
        self.kind.set(&rotation.subject(), values, Phase::BeforePromotion, rotation.deadline).await?;
        Ok(Outcome::Set)
    }

    /// Proves the pending value. Without one this is a test of the configuration (`RotateImmediately=false` runs this
    /// step alone), done with the current value; finishSecret does not believe it.
    async fn test(&self, rotation: &Rotation<'_>, rng: &mut StdRng) -> Result<Outcome, RotationError> {
        let subject = rotation.subject();
        let new = self.try_read(rotation, rotation.admitted.version()).await?;
        let parsed =
            new.as_ref().filter(|new| !is_empty_object(&new.text)).map(|new| self.parse(rotation, new)).transpose()?;
        let period = rotation.secret.rotation_rules.shortest_rate();
        let misfit = self.kind.check_configuration(&rotation.policy, period).err();
        // The version of a test of the configuration may hold the current value, which only the current value tells. Where nobody is
        // asked it is read only if such a test would look at more than was looked at here.
        let looks_at_more = match &parsed {
            Some(new) => misfit.is_some() || self.kind.archive(&subject, new)?.is_some(),
            None => true,
        };
        let current = if self.kind.has_target() || looks_at_more {
            self.read_current(rotation).await?.map(|(_, current)| current)
        } else {
            None
        };
        if let (Some(new), Some(parsed)) = (&new, &parsed)
            && current.as_ref().is_none_or(|current| current.text != new.text)
        {
            // The first value of a secret is proven without asking anybody.
            if current.is_some() {
                rotation.require_credential()?;
            }
            let current = current.filter(|_| self.kind.has_target());
            let old = current.map(|current| self.parse(rotation, &current)).transpose()?;
            let values = Values { old: old.as_ref(), new: parsed };
            self.kind.test(&subject, values, Phase::BeforePromotion, rotation.deadline, rng).await?;
            return Ok(Outcome::Tested);
        }
        if let Some(misfit) = misfit {
            return Err(misfit);
        }
        if let Some(current) = current {
            self.test_configuration(rotation, &self.parse(rotation, &current)?, rng).await?;
        }
        Ok(Outcome::ConfigurationTested)
    }

    async fn test_configuration(
        &self,
        rotation: &Rotation<'_>,
        current: &Document,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        rotation.require_credential()?;
        let subject = rotation.subject();
        if let Some(id) = rotation.admitted.current() {
            self.marked_ring(rotation).require_all(self.kind, &rotation.policy, id, current).await?;
        }
        if let Some(archive) = self.kind.archive(&subject, current)? {
            archive.check(self.store, rotation.deadline).await?;
        }
        let values = Values { old: None, new: current };
        self.kind.test(&subject, values, Phase::Configuration, rotation.deadline, rng).await
    }

    /// Promotes the pending value. No earlier step is trusted: a stale read may have made testSecret believe that it
    /// was a test of the configuration.
    async fn finish(&self, rotation: &Rotation<'_>, rng: &mut StdRng) -> Result<Outcome, RotationError> {
        let subject = rotation.subject();
        let changed = || RotationError::CurrentChanged { name: rotation.secret.name.clone() };
        let pending = self.read(rotation, rotation.admitted.version()).await?;
        let Some((current_id, current)) = self.read_current(rotation).await? else {
            let first = self.parse(rotation, &pending)?;
            self.archive(rotation, &first).await?;
            self.promote(rotation, rotation.admitted.current()).await?;
            self.mark_ring(rotation, &first, None).await?;
            return Ok(Outcome::FirstValue);
        };
        rotation.require_credential()?;
        if current.created > pending.created {
            return Err(changed());
        }
        let (old, new) = (self.parse(rotation, &current)?, self.parse(rotation, &pending)?);
        let written = [&old, &new].map(|value| self.kind.members(&rotation.policy, value)).concat();
        if !old.same_other_members(&new, &written) {
            return Err(changed());
        }
        self.kind.check_succession(&subject, &old, &new, pending.created)?;

        let values = Values { old: Some(&old), new: &new };
        self.require_time_to_promote(rotation.deadline)?;
        self.kind.test(&subject, values, Phase::BeforePromotion, rotation.deadline, rng).await?;
        // What fails its proof never becomes current, and would stay in the archive.
        self.archive(rotation, &new).await?;
        self.require_time_to_promote(rotation.deadline)?;
        // The previous token of a text secret is accepted for as long as AWSPREVIOUS says which it is.
        let in_overlap = self.kind.has_target() && old.field().is_none();
        if let Some(previous) = rotation.admitted.previous().filter(|_| in_overlap) {
            self.record_previous(rotation, previous).await;
        }
        self.promote(rotation, Some(current_id)).await?;

        // Before the application encrypts with it, as far as it can be. What fails here does not keep a bad value from being put back.
        let marked = self.mark_ring(rotation, &new, Some(current_id)).await;
        let replaced = Replaced { id: current_id, previous_was: rotation.admitted.previous() };
        self.settle(rotation, values, Some(replaced), rng).await?;
        if let Some(previous) = rotation.admitted.previous().filter(|_| in_overlap) {
            self.forget_previous(rotation, previous).await;
        }
        marked?;

        let promoted = rotation.secret.last_rotated.map_or(current.created, |rotated| rotated.max(current.created));
        let shortened = self.kind.overlap_end(&subject, &old, promoted);
        let shortened = shortened.filter(|end| rotation.admitted.previous().is_some() && *end > subject.now);
        Ok(Outcome::Promoted(self.promotion(&subject, values, pending.created, shortened)))
    }

    /// Does again what follows promotion: an earlier try may have died before it, or its answer was lost.
    async fn repeat_after_promotion(
        &self,
        rotation: &Rotation<'_>,
        rng: &mut StdRng,
    ) -> Result<Outcome, RotationError> {
        let promoted = self.read(rotation, rotation.admitted.version()).await?;
        let new = self.parse(rotation, &promoted)?;
        let previous = match rotation.admitted.previous() {
            Some(id) => Some((id, self.try_read(rotation, id).await?)),
            None => None,
        };
        let replaced_nothing =
            |value: &Option<VersionValue>| value.as_ref().is_some_and(|value| is_empty_object(&value.text));
        let Some((previous_id, previous)) = previous.filter(|(_, value)| !replaced_nothing(value)) else {
            // The first version of a secret may be current as soon as it is stored (Secrets Manager API reference, PutSecretValue), and
            // whoever stored it may have died.
            self.archive(rotation, &new).await?;
            self.mark_ring(rotation, &new, None).await?;
            return Ok(Outcome::FirstValue);
        };
        rotation.require_credential()?;
        let old = previous.as_ref().map(|previous| self.parse(rotation, previous)).transpose()?;
        let marked = self.mark_ring(rotation, &new, None).await;
        if self.kind.has_target() {
            self.require_time_to_promote(rotation.deadline)?;
            // When its overlap is over the application has dropped the old value: there is nothing to go back to. Without
            // an overlap it dropped it at the promotion, and the old value is still the better one.
            let end = self.kind.overlap_end(&rotation.subject(), &new, promoted.created);
            let accepted = end.is_none_or(|end| end > rotation.secret.as_of);
            // A younger one is not what was replaced: somebody stored it since, and moved AWSCURRENT back by hand.
            let accepted = accepted && previous.as_ref().is_some_and(|previous| previous.created <= promoted.created);
            let record = Stage::restored_after(rotation.admitted.version());
            let previous_was = rotation.secret.versions.holder(&record);
            let replaced = Replaced { id: previous_id, previous_was };
            let replaced = old.as_ref().filter(|_| accepted).map(|_| replaced);
            self.settle(rotation, Values { old: old.as_ref(), new: &new }, replaced, rng).await?;
            if let Some(previous) = previous_was {
                self.forget_previous(rotation, previous).await;
            }
        }
        marked?;
        // A JSON value says itself whose overlap it was in; for a text, the version before the old one is gone from sight.
        let subject = rotation.subject();
        let shortened = old.as_ref().zip(previous).filter(|(old, _)| old.field().is_some());
        let shortened = shortened.and_then(|(old, value)| self.kind.overlap_end(&subject, old, value.created));
        let shortened = shortened.filter(|end| *end > subject.now);
        let values = Values { old: old.as_ref(), new: &new };
        Ok(Outcome::PromotedEarlier(self.promotion(&subject, values, promoted.created, shortened)))
    }

    fn promotion(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        created: SystemTime,
        shortened: Option<SystemTime>,
    ) -> Promotion {
        let end = self.kind.overlap_end(subject, values.new, created);
        Promotion {
            previous_accepted_until: end.map(format_timestamp),
            overlap_shortened_from: shortened.map(format_timestamp),
            rotation_seconds: subject.now.duration_since(created).unwrap_or_default().as_secs(),
            of_kind: self.kind.report(subject, values.old, values.new),
        }
    }

    fn require_time_to_promote(&self, deadline: Deadline) -> Result<(), RotationError> {
        let (left, needed) = (deadline.left(), self.kind.settle_time() + ROLLBACK_RESERVE);
        if self.kind.has_target() && left < needed { Err(RotationError::TimeTooShort { left, needed }) } else { Ok(()) }
    }

    /// Moves `AWSCURRENT` from the version that was checked to the pending one, in one call that names both.
    async fn promote(&self, rotation: &Rotation<'_>, from: Option<&VersionId>) -> Result<(), RotationError> {
        let to = rotation.admitted.version();
        let secret_id = &rotation.event.secret_id;
        let Err(error) = self.store.move_stage(secret_id, Stage::Current, from, Some(to)).await else {
            return Ok(());
        };
        if !may_have_moved(&error) {
            return Err(error.into());
        }
        // The answer may have been lost, a duplicate may have been faster, or somebody stored another value.
        let name = || rotation.secret.name.clone();
        match current_after_move(self.store, secret_id, from, rotation.deadline).await? {
            Some(holder) if holder == *to => Ok(()),
            holder if holder.as_ref() != from => Err(RotationError::CurrentChanged { name: name() }),
            _ if error.kind == StoreErrorKind::Conflict => Err(RotationError::PromotionConflict { name: name() }),
            _ => Err(error.into()),
        }
    }

    /// Brings the promoted value to the application and proves it; on failure the replaced version is put back.
    async fn settle(
        &self,
        rotation: &Rotation<'_>,
        values: Values<'_>,
        replaced: Option<Replaced<'_>>,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        let subject = rotation.subject();
        let deadline = rotation.deadline.within(self.kind.settle_time(), ROLLBACK_RESERVE);
        let Err(reason) = self.set_and_test(&subject, values, deadline, rng).await else { return Ok(()) };
        if reason.may_be_a_stale_read() && self.set_and_test(&subject, values, deadline, rng).await.is_ok() {
            return Ok(());
        }

        let version = rotation.admitted.version().clone();
        let restored = match (replaced, values.old) {
            (None, _) => Restored::NothingToRestore,
            (Some(_), Some(old)) if !self.kind.may_be_put_back(&subject, old, values.new) => Restored::MustStay,
            (Some(replaced), _) => self.roll_back(rotation, values.new, replaced).await,
        };
        if let (Restored::Yes(_), Some(old)) = (&restored, values.old) {
            self.tell_of_rollback(rotation, values.new, old).await;
        }
        Err(RotationError::VerificationFailed { version, reason: Box::new(reason), restored })
    }

    async fn set_and_test(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        self.kind.set(subject, values, Phase::AfterPromotion, deadline).await?;
        self.kind.test(subject, values, Phase::AfterPromotion, deadline, rng).await
    }

    /// Puts `AWSCURRENT` back in one call, then takes `AWSPENDING` and `AWSPREVIOUS` off the failed version, so that the
    /// retries of Secrets Manager do not promote it again and again, and the next rotation starts clean.
    async fn roll_back(&self, rotation: &Rotation<'_>, failed_value: &Document, replaced: Replaced<'_>) -> Restored {
        let failed = rotation.admitted.version();
        let secret_id = &rotation.event.secret_id;
        if let Some(previous) = replaced.previous_was {
            // Who dies from here on is continued by a retry, which knows nothing but the stages.
            self.record_previous(rotation, previous).await;
        }
        if let Err(error) = self.store.move_stage(secret_id, Stage::Current, Some(failed), Some(replaced.id)).await {
            if !may_have_moved(&error) {
                return Restored::Failed(error);
            }
            let Ok(holder) = current_after_move(self.store, secret_id, Some(failed), rotation.deadline).await else {
                return Restored::Failed(error);
            };
            match holder {
                Some(holder) if holder == *replaced.id => {}
                Some(holder) if holder == *failed => return Restored::Failed(error),
                _ => return Restored::ChangedSince,
            }
        }
        let tidied = async {
            self.detach_pending(rotation.event, failed).await?;
            if self.kind.ring(&rotation.policy, failed_value).is_ok_and(|ring| ring.is_some()) {
                self.ignoring_conflict(secret_id, marked_ring::stage(), failed, Some(replaced.id)).await?;
            }
            self.ignoring_conflict(secret_id, Stage::Previous, failed, replaced.previous_was).await?;
            match replaced.previous_was {
                Some(previous) => {
                    self.ignoring_conflict(secret_id, Stage::restored_after(failed), previous, None).await
                }
                None => Ok(()),
            }
        };
        if let Err(error) = tidied.await {
            tracing::warn!(secret = rotation.secret.name, version = %failed, %error, "stages of the failed version were not tidied up");
        }
        Restored::Yes(replaced.id.clone())
    }

    /// Remembers which version carries `AWSPREVIOUS`: the promotion takes it away, and a rollback gives it back. Where that is not
    /// possible, the rotation goes on without.
    async fn record_previous(&self, rotation: &Rotation<'_>, previous: &VersionId) {
        let record = Stage::restored_after(rotation.admitted.version());
        let secret_id = &rotation.event.secret_id;
        if let Err(error) = self.store.move_stage(secret_id, record, None, Some(previous)).await {
            tracing::debug!(secret = rotation.secret.name, %error, "where AWSPREVIOUS was is not recorded, or was before");
        }
    }

    async fn forget_previous(&self, rotation: &Rotation<'_>, previous: &VersionId) {
        let record = Stage::restored_after(rotation.admitted.version());
        if let Err(error) = self.ignoring_conflict(&rotation.event.secret_id, record, previous, None).await {
            tracing::warn!(secret = rotation.secret.name, %error, "a stage that tells nothing any more was not taken away");
        }
    }

    /// The application drops the failed value at once if it hears of it, else when its cache expires. What it cannot be
    /// told now, no retry will tell it: that is logged.
    async fn tell_of_rollback(&self, rotation: &Rotation<'_>, failed: &Document, restored: &Document) {
        let (subject, back) = (rotation.subject(), Values { old: Some(failed), new: restored });
        if let Err(error) = self.kind.set(&subject, back, Phase::AfterPromotion, rotation.deadline).await {
            not_refreshed(subject.name, &error);
        }
    }

    /// The same, by a retry that found the rollback half done.
    async fn refresh_after_rollback(&self, rotation: &Rotation<'_>) {
        if !self.kind.has_target() {
            return;
        }
        match self.read_both(rotation).await {
            Ok((Some(restored), failed)) => self.tell_of_rollback(rotation, &failed, &restored).await,
            Ok((None, _)) => {}
            Err(error) => not_refreshed(&rotation.secret.name, &error),
        }
    }

    async fn detach_pending(&self, event: &RotationEvent, version: &VersionId) -> Result<(), StoreError> {
        self.ignoring_conflict(&event.secret_id, Stage::Pending, version, None).await
    }

    /// Moves a stage that may be gone already, because an earlier try or a duplicate did it.
    async fn ignoring_conflict(
        &self,
        secret_id: &str,
        stage: Stage,
        from: &VersionId,
        to: Option<&VersionId>,
    ) -> Result<(), StoreError> {
        match self.store.move_stage(secret_id, stage, Some(from), to).await {
            Err(error) if error.kind == StoreErrorKind::Conflict => Ok(()),
            result => result,
        }
    }

    async fn read_both(&self, rotation: &Rotation<'_>) -> Result<(Option<Document>, Document), RotationError> {
        let old = match self.read_current(rotation).await? {
            None => None,
            Some((_, current)) => Some(self.parse(rotation, &current)?),
        };
        Ok((old, self.parse(rotation, &self.read(rotation, rotation.admitted.version()).await?)?))
    }

    /// The current version and its value. `None` also when that is an empty object and the secret never had another: templates and
    /// consoles make secrets with one.
    async fn read_current<'a>(
        &self,
        rotation: &Rotation<'a>,
    ) -> Result<Option<(&'a VersionId, VersionValue)>, RotationError> {
        let Some(id) = rotation.admitted.current() else { return Ok(None) };
        let current = self.read(rotation, id).await?;
        // In a text secret applications would take the empty object for the previous token.
        if rotation.policy.field.is_none() || !is_empty_object(&current.text) {
            return Ok(Some((id, current)));
        }
        let versions = &rotation.secret.versions;
        if versions.only_ever(&[id, rotation.admitted.version()]) {
            return Ok(None);
        }
        Err(self.value_lost(rotation, id).await)
    }

    /// What the empty object took the place of, by the members that this rotation knows.
    async fn value_lost(&self, rotation: &Rotation<'_>, current: &VersionId) -> RotationError {
        let previous = rotation.admitted.previous();
        let held = match previous {
            Some(id) => self.try_read(rotation, id).await.ok().flatten(),
            None => None,
        };
        let held = held.and_then(|held| self.parse(rotation, &held).ok());
        let members = |held: &Document| {
            self.kind.members(&rotation.policy, held).into_iter().filter(|name| held.has_member(name)).collect()
        };
        let lost: Vec<FieldName> = held.as_ref().map_or(vec![], members);
        RotationError::ValueLost {
            name: rotation.secret.name.clone(),
            current: current.clone(),
            lost: lost.iter().map(FieldName::to_string).collect(),
            previous: previous.cloned(),
        }
    }

    async fn read(&self, rotation: &Rotation<'_>, version: &VersionId) -> Result<VersionValue, RotationError> {
        let value = self.try_read(rotation, version).await?;
        value.ok_or_else(|| RotationError::ValueMissing { version: version.clone() })
    }

    async fn try_read(
        &self,
        rotation: &Rotation<'_>,
        version: &VersionId,
    ) -> Result<Option<VersionValue>, RotationError> {
        Ok(read_version(self.store, &rotation.event.secret_id, version, rotation.deadline).await?)
    }
}

/// The version that a promotion replaced, and the one that carried `AWSPREVIOUS` before it.
#[derive(Clone, Copy)]
struct Replaced<'a> {
    id: &'a VersionId,
    previous_was: Option<&'a VersionId>,
}

/// Reads what the target of `kind` is asked with, if that is in another secret than the one rotated.
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
        // What is no value of this kind is told as that, elsewhere.
        (Some(read), Err(_)) => policy.field.as_ref().is_none_or(|rotated| rotated == read),
        _ => true,
    };
    if own && rotated() {
        // The application would be sent the very value that is rotated.
        let problem = "is the secret that is rotated: name the one with the token that the target requires".to_owned();
        let variable = "TARGET_TOKEN_SECRET".to_owned();
        return Err(unavailable(RotationError::InvalidConfiguration { variable, problem }));
    }
    let credential = Document::parse(value.text, field.as_ref()).and_then(|document| document.secret());
    credential.map(Some).map_err(unavailable)
}

fn not_refreshed(secret: &str, error: &RotationError) {
    tracing::warn!(secret, %error, "the target was not refreshed after the rollback");
}
