//! Values that somebody else makes: credentials of a provider, which an issuer makes, verifies and revokes.
//!
//! All other kinds make a value from randomness, so that making one twice costs nothing. A credential is alive at its
//! provider as soon as it is made. So the protocol calls [`SecretKind::issue`] instead of [`SecretKind::create`], and
//! two labels remember what is alive:
//!
//! - `ROTATION-ISSUED-<digest>` is on every version whose credential is not revoked. A version gets it when its value is
//!   stored, or before another version replaces it. The label keeps the version, and with it the members that the issuer
//!   needs in order to revoke. Only the members of versions with this label are revoked, and never those that are
//!   current.
//! - `ROTATION-ISSUING-<unix>-<nonce>-<version>` is attached to the current version before an attempt asks the issuer,
//!   and comes off when the value is stored. If it stays, the issuer may have made a credential for the version that
//!   nobody holds: [`SecretKind::discard`] revokes whatever was made for it, except what the version holds.
//!
//! # Why it is so
//!
//! - An issuer never replaces what it made for a version. A late attempt would kill a credential that another attempt
//!   has stored and promoted. PutSecretValue decides: it stores one value for a version, and every other credential for
//!   that version can be revoked at any time.
//! - A version without a value is undecided. What was made for it is discarded only when its rotation is over, and when
//!   every attempt is older than the longest invocation ([`LONGEST_ATTEMPT`]).
//! - A version whose rotation was given up before the secret had a value was never current. Its credential is revoked by
//!   the next rotation, before that one asks for another: a provider may have room for two only.
//! - The first attempt takes its own label off. A later attempt leaves its label, because an earlier attempt may still
//!   be at work; the next rotation or sweep takes it off.
//! - A rotation revokes only versions older than the current one, when the overlap has passed since the current version
//!   was made. Nothing tells a rotation when a younger version was rolled back, so a sweep revokes such a version.
//! - A failed revocation never stops a rotation: its label stays, and the next run repeats it.
//! - A rollback to a revoked credential would be an outage. So `AWSPREVIOUS` leaves a credential before its revocation, and
//!   a rollback moves the same label to its own version before it moves `AWSCURRENT`. Only one of the two moves succeeds.

use std::time::{Duration, SystemTime};

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::deadline::Deadline;
use crate::document::Document;
use crate::error::RotationError;
use crate::kind::{Phase, Revocation, SecretKind, Subject, Values};
use crate::moves::if_readable;
use crate::session::{ROLLBACK_RESERVE, Session, Snapshot};
use crate::store::{SecretStore, StoreErrorKind, VersionValue};
use crate::versions::{Attempt, Stage, VersionId};

/// An attempt that began so long ago is over: Lambda ends every invocation after 15 minutes.
pub const LONGEST_ATTEMPT: Duration = Duration::from_secs(16 * 60);

/// A version that is younger than the current one was given up or rolled back. So long after the last change of the
/// secret nobody uses it, if there is no longer overlap. A version of a secret without a value was given up, and is not
/// used so long after it was created.
const LONGEST_USE: Duration = Duration::from_secs(60 * 60);

/// The most labels that an attempt and a promotion add.
pub(crate) const STAGES_OF_ISSUING: usize = 3;

/// An attempt that has begun.
#[derive(Debug)]
pub(crate) struct Issuing {
    stage: Stage,
    holder: VersionId,
    /// Whether no other attempt for the version was recorded.
    is_first: bool,
}

/// What an attempt has made, and what the secret holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issued<'a> {
    pub(crate) new: &'a Document,
    /// The value of an earlier try that the version holds instead.
    pub(crate) stored: Option<&'a Document>,
    pub(crate) current: Option<&'a Document>,
}

/// What is in use, for the choice of what may be revoked.
#[derive(Clone, Copy, Debug)]
pub struct InUse<'a> {
    /// The current value, and when its version was created; `None` if the secret has no value yet.
    pub current: Option<(&'a Document, SystemTime)>,
    /// When the use of another version is over.
    pub until: Until,
}

/// When the use of a version is over that is neither current nor pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After the overlap, if the version is older than the current one. Of a younger one a rotation knows nothing.
    Overlap,
    /// The same; and if the version is younger, when the overlap has passed since the last change of the secret.
    OverlapSince(SystemTime),
    /// Now, as an operator says.
    Now,
}

impl<K: SecretKind, S: SecretStore> Session<'_, K, S> {
    /// Marks a version whose credential is not revoked. At most one call.
    ///
    /// # Errors
    /// The service refuses the call.
    pub async fn mark_issued(&self, seen: &Snapshot, version: &VersionId) -> Result<(), RotationError> {
        let stage = Stage::issued(version);
        if seen.secret.versions.holder(&stage).is_none() {
            self.store.move_stage(self.secret_id, stage, None, Some(version)).await?;
        }
        Ok(())
    }

    /// Revokes what earlier rotations have left, as far as it may be revoked, and records an attempt. One call, and
    /// those of [`revoke_unused`](Self::revoke_unused).
    ///
    /// # Errors
    /// [`RotationError::TimeTooShort`]: nothing is recorded, and the issuer is not asked. The service refuses a call.
    pub(crate) async fn begin_issuing(
        &self,
        seen: &Snapshot,
        subject: &Subject<'_>,
        current: Option<&Document>,
        rng: &mut StdRng,
    ) -> Result<Issuing, RotationError> {
        // A compromise begins although a consumer may still use the credential before the one that leaked.
        let may_revoke = subject.delivered || !self.stack.has_consumers(&seen.secret.name) || current.is_none();
        if may_revoke {
            let in_use = InUse { current: current.zip(subject.current_created), until: Until::Overlap };
            let Self { kind, store, stack, secret_id, .. } = *self;
            let revoking = Session { kind, store, stack, secret_id, deadline: self.deadline_to_revoke() };
            if let Err(error) = revoking.revoke_unused(seen, subject, in_use, rng).await {
                not_revoked(seen, &error);
            }
        }
        self.require_time()?;
        let (own, versions) = (seen.admitted.version(), &seen.secret.versions);
        let attempt = Attempt { began: seen.secret.as_of, of: own.clone() };
        let stage = Stage::issuing(&attempt, rng.random());
        let holder = seen.admitted.current().unwrap_or(own).clone();
        self.store.move_stage(self.secret_id, stage.clone(), None, Some(&holder)).await?;
        let is_of_own = |stage: &Stage| stage.attempt().is_some_and(|attempt| attempt.of == *own);
        let mut is_first = true;
        for (former, stage) in versions.all().filter(|(_, stage)| is_of_own(stage)) {
            is_first = false;
            // The younger label stays until the older attempt is over.
            self.take_off(stage.clone(), former).await?;
        }
        Ok(Issuing { stage, holder, is_first })
    }

    /// Half of the time that an attempt does not need: an issuer that answers no revocation must not keep the rotation
    /// from its end.
    fn deadline_to_revoke(&self) -> Deadline {
        let spare = self.deadline.left().saturating_sub(self.kind.settle_time() + ROLLBACK_RESERVE);
        Deadline::after(spare / 2)
    }

    /// Removes the record of an attempt that is known to have made nothing. At most one call.
    pub(crate) async fn abandon_issuing(&self, issuing: &Issuing, error: &RotationError) {
        let made_nothing = matches!(error, RotationError::Issuer(error) if error.had_no_effect());
        if made_nothing && issuing.is_first {
            self.forget_attempt(issuing).await;
        }
    }

    /// Revokes what nobody holds of this version, and removes the record of the attempt if nothing more can come of it.
    /// At most one call.
    pub(crate) async fn end_issuing(
        &self,
        seen: &Snapshot,
        subject: &Subject<'_>,
        issuing: Issuing,
        issued: Issued<'_>,
    ) {
        let own = async {
            match issued.stored {
                Some(stored) if !self.same(subject, issued.new, stored)? => {
                    self.kind.revoke(subject, issued.new, self.deadline).await
                }
                _ => Ok(Revocation::Gone),
            }
        };
        let others = async {
            if issuing.is_first {
                return Ok(Revocation::Gone);
            }
            let stored = issued.stored.unwrap_or(issued.new);
            let keep: Vec<_> = std::iter::once(stored).chain(issued.current).collect();
            self.kind.discard(subject, seen.admitted.version(), &keep, self.deadline).await
        };
        let (own, others) = (own.await, others.await);
        for error in [&own, &others].into_iter().filter_map(|revoked| revoked.as_ref().err()) {
            not_revoked(seen, error);
        }
        if issuing.is_first && matches!(own, Ok(Revocation::Gone)) {
            self.forget_attempt(&issuing).await;
        }
    }

    async fn forget_attempt(&self, issuing: &Issuing) {
        if let Err(error) = self.take_off(issuing.stage.clone(), &issuing.holder).await {
            tracing::warn!(%error, "the label of an attempt to issue was not taken away; the next rotation does it");
        }
    }

    /// Revokes the credentials that nobody uses any more: those of attempts whose answer was lost, and those of versions
    /// that were replaced, when their use is over. The caller knows that the current value is delivered. If an action has
    /// just made the current version and has not come to its end, nothing is revoked: it may put the version before back.
    ///
    /// One read for each label, up to two calls for each credential, and three if `AWSPREVIOUS` is there.
    ///
    /// # Errors
    /// The first failure. All others were tried. If the credential in use does not work, no older one is revoked.
    pub async fn revoke_unused(
        &self,
        seen: &Snapshot,
        subject: &Subject<'_>,
        in_use: InUse<'_>,
        rng: &mut StdRng,
    ) -> Result<Unused, RotationError> {
        let versions = &seen.secret.versions;
        let is_young = seen.secret.last_changed.is_none_or(|changed| subject.now < changed + LONGEST_USE);
        let is_operated_to = |current| versions.stages(current).any(Stage::is_of_operation);
        // An operator's request has looked at that, and says what to do.
        let looks = in_use.until != Until::Now;
        if looks && is_young && versions.holder(&Stage::Current).is_some_and(is_operated_to) {
            return Ok(Unused { gone: 0, later: 1 });
        }
        let (mut unused, mut failed, mut due) = (Unused::default(), None, vec![]);
        for (holder, stage) in versions.all() {
            let found = match stage.attempt() {
                Some(attempt) => {
                    let discarded = self.discard_orphans(seen, subject, in_use, (holder, stage, &attempt)).await;
                    unused.later += usize::from(discarded == Ok(Some(Revocation::Later)));
                    discarded.map(|_| None)
                }
                None if *stage == Stage::issued(holder) => self.find_replaced(seen, subject, in_use, holder).await,
                None => Ok(None),
            };
            match found {
                Ok(found) => due.extend(found),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if !due.is_empty() {
            let revoked = self.revoke_replaced(seen, subject, in_use, due, rng).await?;
            unused.gone += revoked.gone;
            unused.later += revoked.later;
        }
        failed.map_or(Ok(unused), Err)
    }

    /// Discards what an attempt made that nobody holds. Its label goes with it. `None` if it is not due.
    async fn discard_orphans(
        &self,
        seen: &Snapshot,
        subject: &Subject<'_>,
        in_use: InUse<'_>,
        (holder, stage, attempt): (&VersionId, &Stage, &Attempt),
    ) -> Result<Option<Revocation>, RotationError> {
        let versions = &seen.secret.versions;
        let is_open = versions.holder(&Stage::Pending) == Some(&attempt.of);
        // What the version holds has no mark yet, if the attempt died in between.
        if is_open || subject.now < attempt.began + LONGEST_ATTEMPT {
            return Ok(None);
        }
        let value = self.store.get(self.secret_id, &attempt.of).await?;
        // A version without another label is nobody's: its rotation was abandoned before it got its mark.
        let is_kept = versions.stages(&attempt.of).any(|stage| stage.attempt().is_none());
        let held = value.filter(|_| is_kept).map(|value| self.parse(seen, &value)).transpose()?;
        let keep: Vec<_> = held.iter().chain(in_use.current.map(|(value, _)| value)).collect();
        let discarded = self.kind.discard(subject, &attempt.of, &keep, self.deadline).await?;
        if discarded == Revocation::Gone {
            self.take_off(stage.clone(), holder).await?;
        }
        Ok(Some(discarded))
    }

    /// A version with its credential, if its use is over. At most one call.
    async fn find_replaced(
        &self,
        seen: &Snapshot,
        subject: &Subject<'_>,
        in_use: InUse<'_>,
        version: &VersionId,
    ) -> Result<Option<Due>, RotationError> {
        if is_current_or_pending(seen, version) {
            return Ok(None);
        }
        let Some(value) = self.store.get(self.secret_id, version).await? else { return Ok(None) };
        if !is_over(subject, in_use, &value) {
            return Ok(None);
        }
        let (value, created) = (self.parse(seen, &value)?, value.created);
        // An edit of another member makes a version with the same credential.
        let is_of_current = in_use.current.map_or(Ok(false), |(current, _)| self.same(subject, &value, current))?;
        Ok((!is_of_current).then(|| Due { version: version.clone(), value, created }))
    }

    /// Revokes the credentials of versions whose use is over. Their labels go with them.
    async fn revoke_replaced(
        &self,
        seen: &Snapshot,
        subject: &Subject<'_>,
        in_use: InUse<'_>,
        mut due: Vec<Due>,
        rng: &mut StdRng,
    ) -> Result<Unused, RotationError> {
        let (mut later, mut failed, mut gone) = (0, None, Vec::<Document>::new());
        if let (Some((new, created)), true) = (in_use.current, in_use.until != Until::Now)
            && due.iter().any(|due| due.created < created)
        {
            // An operator's request has asked already.
            let values = Values { old: None, new };
            if let Err(error) = self.kind.test(subject, values, Phase::Configuration, self.deadline, rng).await {
                // An older one may be all that consumers have. A younger one was given up or rolled back.
                due.retain(|due| due.created >= created);
                failed = Some(error);
            }
        }
        let back = self.close_way_back(seen, subject, in_use, &due).await?;
        for Due { version, value, .. } in due {
            if self.deadline.left().is_zero() {
                failed = failed.or(self.require_time().err());
                break;
            }
            if back.as_ref().is_some_and(|back| self.same(subject, &value, back) != Ok(false)) {
                later += 1;
                continue;
            }
            // Another version of the same credential.
            let is_gone = gone.iter().any(|other| self.same(subject, &value, other) == Ok(true));
            let revoked = match is_gone {
                true => Ok(Revocation::Gone),
                false => self.kind.revoke(subject, &value, self.deadline).await,
            };
            let ended = match revoked {
                Ok(Revocation::Gone) => self.take_off(Stage::issued(&version), &version).await.map_err(Into::into),
                Ok(Revocation::Later) => {
                    later += 1;
                    continue;
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) if !is_gone => gone.push(value),
                Ok(()) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Unused { gone: gone.len(), later }), Err)
    }

    /// Takes `AWSPREVIOUS` off if a rollback would bring one of these credentials back, and answers the one to which a
    /// rollback may still go: that one is not revoked. The label has moved since it was read, or it is on a version that a
    /// rollback has stored and not made current yet.
    async fn close_way_back(
        &self,
        seen: &Snapshot,
        subject: &Subject<'_>,
        in_use: InUse<'_>,
        due: &[Due],
    ) -> Result<Option<Document>, RotationError> {
        let Some(previous) = seen.secret.versions.holder(&Stage::Previous) else { return Ok(None) };
        if is_current_or_pending(seen, previous) {
            return Ok(None);
        }
        // No rollback goes to a value that nobody can read or take apart.
        let value = if_readable(self.store.get(self.secret_id, previous).await)?;
        let Some(value) = value else { return Ok(None) };
        let Ok(back) = self.parse(seen, &value) else { return Ok(None) };
        if !due.iter().any(|due| self.same(subject, &due.value, &back) == Ok(true)) {
            return Ok(None);
        }
        // It was current not long ago, although an older version with the same credential was replaced long ago.
        if !is_over(subject, in_use, &value) {
            return Ok(Some(back));
        }
        // A rollback stores its version under a label of its own, and a person under none.
        let is_of_rollback = seen.secret.versions.stages(previous).any(Stage::is_of_operation);
        if is_of_rollback && subject.now < value.created + LONGEST_ATTEMPT {
            return Ok(Some(back));
        }
        match self.store.move_stage(self.secret_id, Stage::Previous, Some(previous), None).await {
            Err(error) if error.kind == StoreErrorKind::Conflict => Ok(Some(back)),
            moved => Ok(moved.map(|()| None)?),
        }
    }

    /// Whether two values hold the same credential.
    fn same(&self, subject: &Subject<'_>, one: &Document, other: &Document) -> Result<bool, RotationError> {
        self.kind.needs_no_delivery(subject.policy, one, other, subject.now)
    }
}

/// A version whose credential is to be revoked.
#[derive(Debug)]
struct Due {
    version: VersionId,
    value: Document,
    created: SystemTime,
}

fn is_current_or_pending(seen: &Snapshot, version: &VersionId) -> bool {
    [Stage::Current, Stage::Pending].iter().any(|stage| seen.secret.versions.holder(stage) == Some(version))
}

/// What became of the credentials whose use is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unused {
    /// How many credentials of versions were revoked. Their labels are gone.
    pub gone: usize,
    /// How many labels stay, because the issuer or an action needs more time.
    pub later: usize,
}

/// Whether the use of a version is over that is neither current nor pending.
fn is_over(subject: &Subject<'_>, in_use: InUse<'_>, version: &VersionValue) -> bool {
    let overlap = subject.policy.overlap;
    let Some((_, created)) = in_use.current else { return subject.now >= version.created + LONGEST_USE };
    let promoted = subject.last_rotated.map_or(created, |rotated| rotated.max(created));
    match in_use.until {
        Until::Now => true,
        _ if version.created < created => subject.now >= promoted + overlap,
        Until::OverlapSince(changed) => subject.now >= changed + overlap.max(LONGEST_USE),
        Until::Overlap => false,
    }
}

fn not_revoked(seen: &Snapshot, error: &RotationError) {
    tracing::warn!(secret = seen.secret.name, error_type = error.name(), %error, "a credential that nobody uses was not revoked; it is tried again");
}
