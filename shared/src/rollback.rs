//! The work after a move of `AWSCURRENT`: the application loads the value and proves it, or the previous version is put
//! back.
//!
//! A put-back is one move of `AWSCURRENT`, and then moves of the other staging labels to their former versions. If the
//! process dies in between, the next try continues, and knows only the staging labels.

use rand::rngs::StdRng;

use crate::deadline::Deadline;
use crate::delivery::delivered_stage;
use crate::document::Document;
use crate::error::{IssuerError, Restored, RotationError};
use crate::kind::{Phase, SecretKind, Subject, Values};
use crate::marked_ring;
use crate::moves::{MoveOutcome, may_have_moved, move_current, move_if_there};
use crate::session::{ROLLBACK_RESERVE, Session, Snapshot};
use crate::store::{Described, SecretStore, StoreError};
use crate::versions::{Stage, VersionId};

/// The version that a promotion replaced, and the version that carried `AWSPREVIOUS` before the promotion.
#[derive(Clone, Copy, Debug)]
pub struct Replaced<'a> {
    /// The version that becomes current again if the new version fails its verification.
    pub id: &'a VersionId,
    /// The version that carried `AWSPREVIOUS` before. If none did, the label is removed from the failed version.
    pub previous_was: Option<&'a VersionId>,
}

/// The staging labels of a failed version that go back to their former versions, after `AWSCURRENT` has gone back.
#[derive(Clone, Copy, Debug)]
pub struct FormerStages<'a> {
    failed: &'a VersionId,
    replaced: Replaced<'a>,
    /// Whether the failed version may carry the mark of the last complete ring.
    has_ring: bool,
    /// The version that every consumer has.
    delivered: Option<&'a VersionId>,
}

impl<'a> FormerStages<'a> {
    /// What the staging labels of a described secret say about a put-back of the version `failed` that died half way.
    #[must_use]
    pub fn of(secret: &'a Described, failed: &'a VersionId) -> Self {
        let versions = &secret.versions;
        let replaced = Replaced {
            id: versions.holder(&Stage::Current).unwrap_or(failed),
            previous_was: versions.holder(&Stage::restored_after(failed)),
        };
        let has_ring = versions.holder(&marked_ring::stage()) == Some(failed);
        Self { failed, replaced, has_ring, delivered: versions.holder(&delivered_stage()) }
    }

    /// Moves the labels. Two to five calls.
    ///
    /// # Errors
    /// The service refuses a call. The next try continues.
    pub async fn restore<S: SecretStore>(&self, store: &S, secret_id: &str) -> Result<(), StoreError> {
        let Self { failed, replaced: Replaced { id, previous_was }, has_ring, delivered } = *self;
        let take_off = |stage, version| move_if_there(store, secret_id, stage, Some(version), None);
        // A consumer that started in between holds the failed value. A new delivery brings it the value that was put back.
        if let Some(delivered) = delivered {
            take_off(delivered_stage(), delivered).await?;
        }
        // The mark moves before `AWSPENDING`: if no version had `AWSPREVIOUS` before, a retry knows this version by `AWSPENDING`
        // alone.
        if has_ring {
            match move_if_there(store, secret_id, marked_ring::stage(), Some(failed), Some(id)).await {
                // No retry moves it. The version must not stay pending for that: it would block every other rotation.
                Err(error) if !may_have_moved(&error) => {
                    tracing::error!(version = %failed, %error, "the mark of the last complete ring stays on the failed version");
                }
                moved => moved?,
            }
        }
        // `AWSPENDING` goes before `AWSPREVIOUS`: without `AWSPREVIOUS`, the version would look like a version to
        // promote.
        take_off(Stage::Pending, failed).await?;
        move_if_there(store, secret_id, Stage::Previous, Some(failed), previous_was).await?;
        match previous_was {
            Some(previous) => take_off(Stage::restored_after(failed), previous).await,
            None => Ok(()),
        }
    }
}

impl<K: SecretKind, S: SecretStore> Session<'_, K, S> {
    /// The deadline for [`settle`](Self::settle). It leaves the time to put the previous version back.
    #[must_use]
    pub fn deadline_to_settle(&self) -> Deadline {
        self.deadline.within(self.kind.settle_time(), ROLLBACK_RESERVE)
    }

    /// Has the application load the current value, and proves it. Both are repeated once if a stale read can explain
    /// the failure: the application may have read the secret before it could see the move. No call to Secrets Manager.
    ///
    /// # Errors
    /// The errors of the kind; after two tries, the error of the first.
    pub async fn settle(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        let Err(reason) = self.set_and_test(subject, values, deadline, rng).await else { return Ok(()) };
        if may_be_a_stale_read(&reason) && self.set_and_test(subject, values, deadline, rng).await.is_ok() {
            return Ok(());
        }
        Err(reason)
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

    /// Has the application load the value that was just made current, and proves it. If the proof fails, `replaced`
    /// becomes current again, and the application is told.
    ///
    /// `seen` is the snapshot in which the current version was admitted. `values` are the previous value and the
    /// current one. No call if the proof succeeds, else up to seven calls.
    ///
    /// # Errors
    /// [`RotationError::VerificationFailed`] says why, and which version is current.
    pub async fn settle_or_put_back(
        &self,
        seen: &Snapshot,
        values: Values<'_>,
        replaced: Option<Replaced<'_>>,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        let subject = seen.subject();
        let Err(reason) = self.settle(&subject, values, self.deadline_to_settle(), rng).await else { return Ok(()) };
        let restored = match (replaced, values.old) {
            (None, _) => Restored::NothingToRestore,
            (Some(_), Some(old)) if !self.kind.may_be_put_back(&subject, old, values.new) => Restored::MustStay,
            (Some(_), Some(old)) if !self.still_works(&subject, old, &reason, rng).await => Restored::NothingToRestore,
            (Some(replaced), _) => self.put_back(seen, values.new, replaced).await,
        };
        if let (Restored::Yes(_), Some(old)) = (&restored, values.old) {
            self.tell_of_rollback(seen, values.new, old).await;
        }
        let version = seen.admitted.version().clone();
        Err(RotationError::VerificationFailed { version, reason: Box::new(reason), restored })
    }

    /// Whether a replaced value works as before; `reason` says why the new one failed. A credential may have ended, or an
    /// operator has revoked it since a retry saw the promotion succeed. If its issuer does not answer, the version stays
    /// that was proven before its promotion, unless its credential was refused since.
    pub async fn still_works(
        &self,
        subject: &Subject<'_>,
        old: &Document,
        reason: &RotationError,
        rng: &mut StdRng,
    ) -> bool {
        if !self.kind.is_issued() {
            return true;
        }
        let deadline = self.deadline.within(self.kind.settle_time(), ROLLBACK_RESERVE / 2);
        let values = Values { old: None, new: old };
        match self.kind.test(subject, values, Phase::AfterPromotion, deadline, rng).await {
            Ok(()) => true,
            Err(error) => refuses_credential(reason) && !refuses_credential(&error),
        }
    }

    /// Puts `AWSCURRENT` back in one call, then removes `AWSPENDING` and `AWSPREVIOUS` from the failed version. Without
    /// these labels, the retries of Secrets Manager do not promote the failed version again, and the next rotation
    /// starts clean.
    async fn put_back(&self, seen: &Snapshot, failed_value: &Document, replaced: Replaced<'_>) -> Restored {
        let failed = seen.admitted.version();
        if let Some(previous) = replaced.previous_was {
            // If the process dies after this point, a retry continues, and knows only the staging labels.
            self.record_previous(seen, previous).await;
        }
        match move_current(self.store, self.secret_id, Some(failed), replaced.id, self.deadline).await {
            MoveOutcome::Moved => {}
            MoveOutcome::Elsewhere => return Restored::ChangedSince,
            MoveOutcome::NotMoved(error) => return Restored::Failed(error),
        }
        let has_ring = self.kind.ring(&seen.policy, failed_value).is_ok_and(|ring| ring.is_some());
        let delivered = seen.secret.versions.holder(&delivered_stage());
        let stages = FormerStages { failed, replaced, has_ring, delivered };
        if let Err(error) = stages.restore(self.store, self.secret_id).await {
            tracing::warn!(secret = seen.secret.name, version = %failed, %error, "stages of the failed version were not tidied up");
        }
        Restored::Yes(replaced.id.clone())
    }

    /// Continues a put-back that died half way. Only the staging labels of the version `failed` show how far it got. Up
    /// to seven calls.
    ///
    /// # Errors
    /// [`RotationError::NotPending`] if a younger version replaced the version and nothing was put back. Also, the
    /// service refuses a call.
    pub async fn finish_rollback(&self, secret: &Described, failed: &VersionId) -> Result<(), RotationError> {
        let versions = &secret.versions;
        let (current, pending) = (versions.holder(&Stage::Current), versions.holder(&Stage::Pending));
        if pending != Some(failed) {
            // Without `AWSPENDING`, the version may also have succeeded, and a younger version replaced it since.
            let current = match current {
                Some(current) => self.find(current).await?.map(|value| value.created),
                None => None,
            };
            if current >= self.find(failed).await?.map(|value| value.created) {
                return Err(RotationError::NotPending { version: failed.clone(), holder: pending.cloned() });
            }
        }
        let stages = FormerStages::of(secret, failed);
        // The version that was put back is not a complete ring: its staged key is in no other version.
        if stages.has_ring && !self.holds_all_in_use(secret, stages.replaced.id).await {
            // No rotation puts a ring back for one that lacks its keys in use: a person moved `AWSCURRENT`. The labels on
            // the version are the only ones that keep its keys.
            return Ok(self.take_off(Stage::Pending, failed).await?);
        }
        Ok(stages.restore(self.store, self.secret_id).await?)
    }

    /// Whether the ring of the version `current` has every key in use of the marked ring. What cannot be read counts as
    /// lacking.
    async fn holds_all_in_use(&self, secret: &Described, current: &VersionId) -> bool {
        let missing = async {
            let policy = self.stack.for_secret(&secret.tags, secret.as_of)?;
            let value = self.kind.parse(&policy, self.read(current).await?.text)?;
            self.marked_ring(secret).require_all(self.kind, &policy, current, &value).await
        };
        missing.await.is_ok()
    }

    /// The version whose `AWSPREVIOUS` a promotion records with a label of its own. It is needed for a text secret: the
    /// application accepts the previous token for as long as `AWSPREVIOUS` points to it. No call.
    #[must_use]
    pub fn previous_to_record<'s>(&self, seen: &'s Snapshot, current: &Document) -> Option<&'s VersionId> {
        let is_text = current.field().is_none();
        seen.admitted.previous().filter(|_| self.kind.has_target() && is_text)
    }

    /// Records which version carries `AWSPREVIOUS`. The promotion moves the label away, and a rollback gives it back.
    /// If the record fails, the rotation continues without it. One call.
    pub async fn record_previous(&self, seen: &Snapshot, previous: &VersionId) {
        let record = Stage::restored_after(seen.admitted.version());
        if let Err(error) = self.store.move_stage(self.secret_id, record, None, Some(previous)).await {
            tracing::debug!(secret = seen.secret.name, %error, "where AWSPREVIOUS was is not recorded, or was before");
        }
    }

    /// Removes the record after the verification of the promotion. One call.
    pub async fn forget_previous(&self, seen: &Snapshot, previous: &VersionId) {
        if let Err(error) = self.take_off(Stage::restored_after(seen.admitted.version()), previous).await {
            tracing::warn!(secret = seen.secret.name, %error, "a stage that tells nothing any more was not taken away");
        }
    }

    /// Tells the application of the rollback. The application then drops the failed value at once, else when its cache
    /// expires. A failure is only logged, because no retry tells the application.
    async fn tell_of_rollback(&self, seen: &Snapshot, failed: &Document, restored: &Document) {
        let (subject, back) = (seen.subject(), Values { old: Some(failed), new: restored });
        if let Err(error) = self.kind.set(&subject, back, Phase::AfterPromotion, self.deadline).await {
            not_refreshed(seen, &error);
        }
    }

    /// Tells the application of a put-back that [`finish_rollback`](Self::finish_rollback) has completed. No call
    /// without a target, else up to three.
    pub async fn refresh_after_rollback(&self, seen: &mut Snapshot) {
        if !self.kind.has_target() {
            return;
        }
        if let Err(error) = self.read_credential(seen).await {
            return not_refreshed(seen, &error);
        }
        match self.read_both(seen).await {
            Ok((Some(restored), failed)) => self.tell_of_rollback(seen, &failed, &restored).await,
            Ok((None, _)) => {}
            Err(error) => not_refreshed(seen, &error),
        }
    }
}

fn not_refreshed(seen: &Snapshot, error: &RotationError) {
    tracing::warn!(secret = seen.secret.name, %error, "the target was not refreshed after the rollback");
}

/// Whether a stale read can explain the error. Reads are eventually consistent, so the target may have read the secret
/// before it could see the promotion.
fn may_be_a_stale_read(error: &RotationError) -> bool {
    matches!(error, RotationError::TargetRefused { .. } | RotationError::ConsumersUnproven { .. })
}

/// Whether an issuer says that a credential does not work.
#[must_use]
pub fn refuses_credential(error: &RotationError) -> bool {
    matches!(error, RotationError::Issuer(IssuerError::CredentialRefused { .. }))
}
