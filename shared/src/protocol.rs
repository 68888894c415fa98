//! The four steps of a rotation, top to bottom.
//!
//! Each step begins with one DescribeSecret and the admission of the event ([`Versions::admit`]). Every step may run
//! any number of times, twice at once, late, or die between any two calls. A step never promotes, changes or detaches a
//! version that this rotation did not create. The one exception restores the version that this rotation just replaced.
//! [`Session`] holds the work of a step on the secret; the actions of operators share it.
//!
//! # Why it is so
//!
//! - The first value is promoted in two calls. PutSecretValue with `AWSCURRENT` would overwrite a value that another
//!   writer stored a moment before. The value is stored as `AWSPENDING` and moved with no origin; that move fails if
//!   `AWSCURRENT` is attached anywhere. An empty JSON object counts as no value if the secret never had another value.
//!   In place of another value it is `ValueLost`.
//! - The first value is not verified. No application can know it, so a verification would fail every first deployment.
//!   A credential is verified: its provider has made it.
//! - Secrets Manager may give the temporary version of a test of the configuration the current value. Only the current
//!   value tells such a copy from a new value, and one more call reads it. testSecret reads it if the test checks more:
//!   a target, an archive, or a policy that does not fit.
//! - finishSecret archives keys after its proof, and before `AWSCURRENT` moves. A key that fails the proof would fill
//!   the archive. A key that is not in the archive could be lost.
//! - A token that the application refuses after the promotion is refreshed and tested once more before the old value is
//!   put back. Reads are eventually consistent: an application that refreshes at once may still load the old value.
//! - AWS does not document whether a PutSecretValue with another staging label abandons a rotation. No step relies on
//!   either behaviour.
//!
//! [`Versions::admit`]: crate::versions::Versions::admit

use std::time::SystemTime;

use rand::rngs::StdRng;

use crate::admission::{Admission, Admitted};
use crate::deadline::Deadline;
use crate::document::{Document, MAX_VALUE_BYTES, is_empty_object};
use crate::error::{GivesUp, RotationError};
use crate::event::{RotationEvent, Step};
use crate::issue::{Issued, STAGES_OF_ISSUING};
use crate::kind::{Phase, SecretKind, Subject, Values};
use crate::marked_ring::MarkedRing;
use crate::policy::StackPolicy;
use crate::rollback::Replaced;
use crate::session::{Session, Snapshot};
use crate::store::{Described, Put, SecretStore, VersionValue};
use crate::time::format_timestamp;
use crate::versions::{Stage, VersionId};

pub use crate::report::{Outcome, Promotion, Report};

/// Performs the steps for one kind of secret, in one store, under one stack's policy.
#[derive(Debug)]
pub struct Rotator<'a, K, S> {
    /// The kind of secret.
    pub kind: &'a K,
    /// Secrets Manager.
    pub store: &'a S,
    /// The bounds that the stack sets.
    pub stack: &'a StackPolicy,
}

impl<K: SecretKind, S: SecretStore> Rotator<'_, K, S> {
    /// Performs the step of `event`.
    ///
    /// # Errors
    /// Every failure has a name, see [`RotationError::name`]. A failed step leaves a state that the retry expects.
    pub async fn perform(
        &self,
        event: &RotationEvent,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<Report, RotationError> {
        let Self { kind, store, stack } = *self;
        let session = Session { kind, store, stack, secret_id: &event.secret_id, deadline };
        let secret = session.describe_with(&event.version).await?;
        session.require_usable(&secret)?;
        let name = secret.name.clone();
        let outcome = match secret.versions.admit(&event.version, event.step)? {
            Admission::NothingToDo => Outcome::NothingToDo,
            Admission::RepeatAfterPromotion(admitted) => {
                Rotation::new(session, event, secret, admitted)?.repeat_after_promotion(rng).await?
            }
            Admission::FinishRollback(admitted) => {
                session.finish_rollback(&secret, admitted.version()).await?;
                let mut seen = session.snapshot(secret, admitted)?;
                session.refresh_after_rollback(&mut seen).await;
                return Err(RotationError::RolledBack { version: event.version.clone() });
            }
            Admission::Perform(admitted) => {
                if !secret.rotation_enabled {
                    return Err(RotationError::RotationNotEnabled { name });
                }
                Rotation::new(session, event, secret, admitted)?.perform(rng).await?
            }
        };
        Ok(Report { secret: name, version: event.version.clone(), step: event.step, outcome })
    }
}

/// One admitted event, with the snapshot of its admission.
struct Rotation<'a, K, S> {
    session: Session<'a, K, S>,
    event: &'a RotationEvent,
    seen: Snapshot,
}

impl<'a, K: SecretKind, S: SecretStore> Rotation<'a, K, S> {
    fn new(
        session: Session<'a, K, S>,
        event: &'a RotationEvent,
        secret: Described,
        admitted: Admitted,
    ) -> Result<Self, RotationError> {
        let seen = session.snapshot(secret, admitted)?;
        Ok(Self { session, event, seen })
    }

    fn version(&self) -> &VersionId {
        self.seen.admitted.version()
    }

    fn kind(&self) -> &'a K {
        self.session.kind
    }

    /// Performs the step. For an error that no retry repairs, it gives the rotation's own pending version up.
    async fn perform(&mut self, rng: &mut StdRng) -> Result<Outcome, RotationError> {
        let performed = self.step(rng).await;
        if let Err(error) = &performed
            && self.gives_up_pending(error).await
            && let Err(second) = self.session.take_off(Stage::Pending, self.version()).await
        {
            tracing::warn!(secret = self.seen.secret.name, version = %self.version(), error = %second, "AWSPENDING was not detached");
        }
        performed
    }

    async fn gives_up_pending(&self, error: &RotationError) -> bool {
        match error.gives_up_pending() {
            GivesUp::Never => false,
            // An earlier try, or a duplicate, may have stored a value: that one is promoted when the reason is gone.
            GivesUp::InCreate if self.event.step == Step::CreateSecret => {
                matches!(self.session.store.get(self.session.secret_id, self.version()).await, Ok(None))
            }
            GivesUp::InCreate => false,
            GivesUp::UnlessTested => self.event.step != Step::TestSecret,
            GivesUp::Always => true,
        }
    }

    async fn step(&mut self, rng: &mut StdRng) -> Result<Outcome, RotationError> {
        if let Some(until) = self.seen.policy.hold_until {
            return Err(RotationError::OnHold { name: self.seen.secret.name.clone(), until });
        }
        match self.event.step {
            Step::CreateSecret => self.create(rng).await,
            Step::SetSecret => self.set().await,
            Step::TestSecret => self.test(rng).await,
            Step::FinishSecret => self.finish(rng).await,
        }
    }

    /// Makes the new value and stores it, once for this version. If an earlier try stored its value first, the step
    /// adopts that value.
    async fn create(&self, rng: &mut StdRng) -> Result<Outcome, RotationError> {
        let Some((current_id, current)) = self.session.read_current(&self.seen).await? else {
            return self.initialise(rng).await;
        };
        let document = self.session.parse(&self.seen, &current)?;
        let (marked, policy) = (self.marked_ring(), &self.seen.policy);
        let recorded = usize::from(self.session.previous_to_record(&self.seen, &document).is_some());
        let issued = if self.kind().is_issued() { STAGES_OF_ISSUING } else { 0 };
        let stages = marked.stages_to_come(self.kind(), policy, &document)? + recorded + issued;
        self.seen.secret.require_stages(stages)?;
        // Before the delivery: no consumer may get a ring that lacks keys.
        marked.require_all(self.kind(), policy, current_id, &document).await?;
        let of_secret = (&self.seen.secret, policy);
        let delivered = self.session.require_delivered(of_secret, (&document, current.created)).await?;
        let subject = Subject { delivered, ..self.seen.subject_of_current(current.created) };
        let (_, put) = self.make(&subject, Some(&document), rng).await?;

        // Another writer may have replaced the version that the value was made from. finishSecret checks again.
        let now = self.session.describe().await?;
        let holder = now.versions.holder(&Stage::Current);
        if holder != Some(current_id) && holder != Some(self.version()) {
            return Err(self.seen.changed());
        }
        Ok(match put {
            Put::Stored => Outcome::Created,
            Put::Exists => Outcome::Adopted,
        })
    }

    /// Gives a secret its first value. The value is stored as `AWSPENDING`, and then a move promotes it. The move names
    /// no origin, or the version with the empty object. It fails if another writer stored a value in between;
    /// PutSecretValue with `AWSCURRENT` would overwrite that value.
    async fn initialise(&self, rng: &mut StdRng) -> Result<Outcome, RotationError> {
        let (first, put) = self.make(&self.seen.subject(), None, rng).await?;
        let first = match put {
            Put::Stored => first,
            Put::Exists => self.stored().await?,
        };
        self.test_first(&first, Phase::BeforePromotion, rng).await?;
        self.session.archive(&self.seen.subject(), &first).await?;
        self.promote(self.seen.admitted.current()).await?;
        Ok(Outcome::Initialised)
    }

    /// Proves a first value, if it is a credential.
    async fn test_first(&self, first: &Document, phase: Phase, rng: &mut StdRng) -> Result<(), RotationError> {
        if !self.kind().is_issued() {
            return Ok(());
        }
        let (subject, values, deadline) =
            (self.seen.subject(), Values { old: None, new: first }, self.session.deadline);
        self.kind().set(&subject, values, phase, deadline).await?;
        self.kind().test(&subject, values, phase, deadline, rng).await
    }

    /// Makes the value that follows `current`, or the first one, and stores it. [`Put::Exists`] means that the version
    /// has another value, of an earlier try.
    async fn make(
        &self,
        subject: &Subject<'_>,
        current: Option<&Document>,
        rng: &mut StdRng,
    ) -> Result<(Document, Put), RotationError> {
        let (session, kind) = (&self.session, self.kind());
        if !kind.is_issued() {
            let new = match current {
                Some(current) => kind.create(subject, current, rng)?,
                None => kind.first(subject, rng)?,
            };
            let put = self.put(&new).await?;
            return Ok((new, put));
        }
        // A second credential for the same version would be an orphan at the provider.
        if let Some(value) = session.store.get(session.secret_id, self.version()).await? {
            session.mark_issued(&self.seen, self.version()).await?;
            return Ok((session.parse(&self.seen, &value)?, Put::Exists));
        }
        let issuing = session.begin_issuing(&self.seen, subject, current, rng).await?;
        let new = match kind.issue(subject, current, session.deadline, rng).await {
            Ok(new) => new,
            Err(error) => {
                session.abandon_issuing(&issuing, &error).await;
                return Err(error);
            }
        };
        let put = self.put(&new).await?;
        session.mark_issued(&self.seen, self.version()).await?;
        let stored = if put == Put::Exists { Some(self.stored().await?) } else { None };
        session.end_issuing(&self.seen, subject, issuing, Issued { new: &new, stored: stored.as_ref(), current }).await;
        Ok((new, put))
    }

    async fn stored(&self) -> Result<Document, RotationError> {
        self.session.parse(&self.seen, &self.session.read(self.version()).await?)
    }

    async fn put(&self, new: &Document) -> Result<Put, RotationError> {
        let bytes = new.text().len();
        if bytes > MAX_VALUE_BYTES {
            return Err(RotationError::ValueTooLarge { bytes });
        }
        let RotationEvent { secret_id, version, rotation_token, .. } = self.event;
        Ok(self.session.store.put_pending(secret_id, version, new.text(), rotation_token.as_ref()).await?)
    }

    /// Brings the pending value to the application.
    async fn set(&mut self) -> Result<Outcome, RotationError> {
        if !self.kind().has_target() {
            return Ok(Outcome::NoTarget);
        }
        let (old, new) = self.session.read_both(&self.seen).await?;
        self.session.read_credential(&mut self.seen).await?;
        let values = Values { old: old.as_ref(), new: &new };
        self.kind().set(&self.seen.subject(), values, Phase::BeforePromotion, self.session.deadline).await?;
        Ok(Outcome::Set)
    }

    /// Proves the pending value. Without a pending value this is a test of the configuration with the current value.
    /// `RotateImmediately=false` runs this step alone. finishSecret does not rely on this step.
    async fn test(&mut self, rng: &mut StdRng) -> Result<Outcome, RotationError> {
        let new = self.session.find(self.version()).await?;
        let new = new.filter(|new| !is_empty_object(&new.text));
        let parsed = new.as_ref().map(|new| self.session.parse(&self.seen, new)).transpose()?;
        let period = self.seen.secret.rotation_rules.shortest_rate();
        let misfit = self.kind().check_configuration(&self.seen.policy, period).err();
        // The version of a test of the configuration may hold the current value, and only the current value shows that.
        // Without a target, the step reads the current value only if such a test has more to check.
        let looks_at_more = match &parsed {
            Some(new) => misfit.is_some() || self.kind().archive(&self.seen.subject(), new)?.is_some(),
            None => true,
        };
        let current = if self.kind().has_target() || looks_at_more {
            self.session.read_current(&self.seen).await?.map(|(_, current)| current)
        } else {
            None
        };
        let pending = new.zip(parsed);
        let pending = pending.filter(|(new, _)| current.as_ref().is_none_or(|current| current.text != new.text));
        if let Some((_, new)) = pending {
            // The first value of a secret is not verified. On a first deployment the token for the target has no value
            // either.
            if current.is_some() {
                self.session.read_credential(&mut self.seen).await?;
            }
            let current = current.filter(|_| self.kind().has_target());
            let old = current.map(|current| self.session.parse(&self.seen, &current)).transpose()?;
            let values = Values { old: old.as_ref(), new: &new };
            let deadline = self.session.deadline;
            self.kind().test(&self.seen.subject(), values, Phase::BeforePromotion, deadline, rng).await?;
            return Ok(Outcome::Tested);
        }
        if let Some(misfit) = misfit {
            return Err(misfit);
        }
        if let Some(current) = current {
            self.test_configuration(&self.session.parse(&self.seen, &current)?, rng).await?;
        }
        Ok(Outcome::ConfigurationTested)
    }

    async fn test_configuration(&mut self, current: &Document, rng: &mut StdRng) -> Result<(), RotationError> {
        self.session.read_credential(&mut self.seen).await?;
        let (subject, deadline) = (self.seen.subject(), self.session.deadline);
        if let Some(id) = self.seen.admitted.current() {
            self.marked_ring().require_all(self.kind(), &self.seen.policy, id, current).await?;
        }
        if let Some(archive) = self.kind().archive(&subject, current)? {
            archive.check(self.session.store, deadline).await?;
        }
        let values = Values { old: None, new: current };
        self.kind().test(&subject, values, Phase::Configuration, deadline, rng).await
    }

    /// Promotes the pending value. It trusts no earlier step: after a stale read, testSecret may have tested only the
    /// configuration.
    async fn finish(&mut self, rng: &mut StdRng) -> Result<Outcome, RotationError> {
        let pending = self.session.read(self.version()).await?;
        let Some((current_id, current)) = self.session.read_current(&self.seen).await? else {
            let first = self.session.parse(&self.seen, &pending)?;
            self.test_first(&first, Phase::BeforePromotion, rng).await?;
            self.session.archive(&self.seen.subject(), &first).await?;
            self.promote(self.seen.admitted.current()).await?;
            self.mark_ring(&first, None).await?;
            return Ok(Outcome::FirstValue);
        };
        let current_id = current_id.clone();
        self.session.read_credential(&mut self.seen).await?;
        if current.created > pending.created {
            return Err(self.seen.changed());
        }
        let (old, new) = (self.session.parse(&self.seen, &current)?, self.session.parse(&self.seen, &pending)?);
        let written = [&old, &new].map(|value| self.kind().members(&self.seen.policy, value)).concat();
        if !old.same_other_members(&new, &written) {
            return Err(self.seen.changed());
        }
        let subject = self.seen.subject();
        self.kind().check_succession(&subject, &old, &new, pending.created)?;

        let values = Values { old: Some(&old), new: &new };
        self.session.require_time()?;
        self.kind().test(&subject, values, Phase::BeforePromotion, self.session.deadline, rng).await?;
        // A key that fails its proof never becomes current, and would stay in the archive.
        self.session.archive(&subject, &new).await?;
        self.session.require_time()?;
        if self.kind().is_issued() {
            // Nothing else keeps a version that is replaced twice, and its credential would never be revoked.
            self.session.mark_issued(&self.seen, &current_id).await?;
        }
        let recorded = self.session.previous_to_record(&self.seen, &old);
        if let Some(previous) = recorded {
            self.session.record_previous(&self.seen, previous).await;
        }
        self.promote(Some(&current_id)).await?;

        // The mark moves before the application encrypts with the new key, as far as possible. A failed mark must not
        // prevent the rollback of a bad value.
        let marked = self.mark_ring(&new, Some(&current_id)).await;
        let replaced = Replaced { id: &current_id, previous_was: self.seen.admitted.previous() };
        self.session.settle_or_put_back(&self.seen, values, Some(replaced), rng).await?;
        if let Some(previous) = recorded {
            self.session.forget_previous(&self.seen, previous).await;
        }
        marked?;

        let promoted = subject.last_rotated.map_or(current.created, |rotated| rotated.max(current.created));
        let shortened = self.kind().overlap_end(&subject, &old, promoted);
        let shortened = shortened.filter(|end| self.seen.admitted.previous().is_some() && *end > subject.now);
        Ok(Outcome::Promoted(self.promotion(&subject, values, pending.created, shortened)))
    }

    /// Repeats the work after a promotion. An earlier try may have died before that work, or its answer was lost.
    async fn repeat_after_promotion(&mut self, rng: &mut StdRng) -> Result<Outcome, RotationError> {
        let promoted = self.session.read(self.version()).await?;
        let new = self.session.parse(&self.seen, &promoted)?;
        let previous = match self.seen.admitted.previous().cloned() {
            Some(id) => Some((self.session.find(&id).await?, id)),
            None => None,
        };
        let replaced_nothing =
            |value: &Option<VersionValue>| value.as_ref().is_some_and(|value| is_empty_object(&value.text));
        let Some((previous, previous_id)) = previous.filter(|(value, _)| !replaced_nothing(value)) else {
            // The first version of a secret may be current as soon as it is stored (Secrets Manager API reference,
            // PutSecretValue). The step that stored the version may have died since.
            self.test_first(&new, Phase::AfterPromotion, rng).await?;
            self.session.archive(&self.seen.subject(), &new).await?;
            self.mark_ring(&new, None).await?;
            return Ok(Outcome::FirstValue);
        };
        self.session.read_credential(&mut self.seen).await?;
        let old = previous.as_ref().map(|previous| self.session.parse(&self.seen, previous)).transpose()?;
        let values = Values { old: old.as_ref(), new: &new };
        let subject = self.seen.subject();
        let marked = self.mark_ring(&new, None).await;
        if self.kind().has_target() {
            self.session.require_time()?;
            // After the end of its overlap, the application has dropped the old value, so there is nothing to put back.
            // Without an overlap, the application dropped the old value at the promotion, but that value is still the
            // better one.
            let end = self.kind().overlap_end(&subject, &new, promoted.created);
            let accepted = end.is_none_or(|end| end > subject.now);
            // A younger value is not the replaced one: another writer stored it since, and moved `AWSCURRENT` back by
            // hand.
            let accepted = accepted && previous.as_ref().is_some_and(|previous| previous.created <= promoted.created);
            let previous_was = self.seen.secret.versions.holder(&Stage::restored_after(self.version()));
            let replaced = Replaced { id: &previous_id, previous_was };
            let replaced = old.as_ref().filter(|_| accepted).map(|_| replaced);
            self.session.settle_or_put_back(&self.seen, values, replaced, rng).await?;
            if let Some(previous) = previous_was {
                self.session.forget_previous(&self.seen, previous).await;
            }
        }
        marked?;
        // A JSON value names the previous token of its own overlap. For a text, no label points to the version before
        // the old one.
        let shortened = old.as_ref().zip(previous).filter(|(old, _)| old.field().is_some());
        let shortened = shortened.and_then(|(old, value)| self.kind().overlap_end(&subject, old, value.created));
        let shortened = shortened.filter(|end| *end > subject.now);
        Ok(Outcome::PromotedEarlier(self.promotion(&subject, values, promoted.created, shortened)))
    }

    fn promotion(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        created: SystemTime,
        shortened: Option<SystemTime>,
    ) -> Promotion {
        let end = self.kind().overlap_end(subject, values.new, created);
        // A rotation that only stages leaves the overlap as it is.
        let shortened = shortened.filter(|shortened| end != Some(*shortened));
        Promotion {
            previous_accepted_until: end.map(format_timestamp),
            overlap_shortened_from: shortened.map(format_timestamp),
            rotation_seconds: subject.now.duration_since(created).unwrap_or_default().as_secs(),
            of_kind: self.kind().report(subject, values.old, values.new),
        }
    }

    /// Moves `AWSCURRENT` from the checked version to the pending one, in one call that names both.
    async fn promote(&self, from: Option<&VersionId>) -> Result<(), RotationError> {
        self.session.make_current(&self.seen, from, self.version()).await
    }

    fn marked_ring(&self) -> MarkedRing<'_, S> {
        self.session.marked_ring(&self.seen.secret)
    }

    /// Marks the current ring as the last complete one. The ring is known to hold all keys of the version `proven`.
    async fn mark_ring(&self, new: &Document, proven: Option<&VersionId>) -> Result<(), RotationError> {
        self.session.mark_ring(&self.seen, self.version(), new, proven).await
    }
}
