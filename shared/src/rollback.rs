//! What follows a move of `AWSCURRENT`: the application loads the value and proves it, or the version before is put back.
//!
//! A put-back is one move of `AWSCURRENT`, and then moves of the other stages to where they were. Whoever dies in between is continued by
//! the next try, which knows nothing but the stages.

use rand::rngs::StdRng;

use crate::deadline::Deadline;
use crate::document::Document;
use crate::error::{Restored, RotationError};
use crate::kind::{Phase, SecretKind, Subject, Values};
use crate::marked_ring;
use crate::moves::{MoveOutcome, move_current};
use crate::session::{ROLLBACK_RESERVE, Session, Snapshot};
use crate::store::{Described, SecretStore, StoreError};
use crate::versions::{Stage, VersionId};

/// The version that a promotion replaced, and the one that carried `AWSPREVIOUS` before it.
#[derive(Clone, Copy, Debug)]
pub struct Replaced<'a> {
    /// The version that is to be current again when the new one does not verify.
    pub id: &'a VersionId,
    /// The version that carried `AWSPREVIOUS` before; with none the stage comes off the failed version.
    pub previous_was: Option<&'a VersionId>,
}

/// The stages of a failed version that are to go where they were before it was current.
#[derive(Clone, Copy, Debug)]
struct Stages<'a> {
    failed: &'a VersionId,
    replaced: Replaced<'a>,
    /// Whether the failed version may carry the mark of the last complete ring.
    has_ring: bool,
}

impl<K: SecretKind, S: SecretStore> Session<'_, K, S> {
    /// The deadline for [`settle`](Self::settle) that leaves the time to put the version before back.
    #[must_use]
    pub fn deadline_to_settle(&self) -> Deadline {
        self.deadline.within(self.kind.settle_time(), ROLLBACK_RESERVE)
    }

    /// Has the application load the current value, and proves it. Both are repeated once when the application may have read the secret
    /// before the move was visible to it. No call to Secrets Manager.
    ///
    /// # Errors
    /// Those of the kind; of two tries, the first one's.
    pub async fn settle(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        let Err(reason) = self.set_and_test(subject, values, deadline, rng).await else { return Ok(()) };
        if reason.may_be_a_stale_read() && self.set_and_test(subject, values, deadline, rng).await.is_ok() {
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

    /// Has the application load the value that was just made current, and proves it. When it does not verify, `replaced` becomes current
    /// again, and the application is told. `seen` is the secret as the version that is current now was admitted; `values` are the value
    /// before and its own. Up to six calls, when it does not verify.
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
            (Some(replaced), _) => self.put_back(seen, values.new, replaced).await,
        };
        if let (Restored::Yes(_), Some(old)) = (&restored, values.old) {
            self.tell_of_rollback(seen, values.new, old).await;
        }
        let version = seen.admitted.version().clone();
        Err(RotationError::VerificationFailed { version, reason: Box::new(reason), restored })
    }

    /// Puts `AWSCURRENT` back in one call, then takes `AWSPENDING` and `AWSPREVIOUS` off the failed version, so that the
    /// retries of Secrets Manager do not promote it again and again, and the next rotation starts clean.
    async fn put_back(&self, seen: &Snapshot, failed_value: &Document, replaced: Replaced<'_>) -> Restored {
        let failed = seen.admitted.version();
        if let Some(previous) = replaced.previous_was {
            // Who dies from here on is continued by a retry, which knows nothing but the stages.
            self.record_previous(seen, previous).await;
        }
        match move_current(self.store, self.secret_id, Some(failed), replaced.id, self.deadline).await {
            MoveOutcome::Moved => {}
            MoveOutcome::Elsewhere => return Restored::ChangedSince,
            MoveOutcome::NotMoved(error) => return Restored::Failed(error),
        }
        let has_ring = self.kind.ring(&seen.policy, failed_value).is_ok_and(|ring| ring.is_some());
        if let Err(error) = self.restore_stages(Stages { failed, replaced, has_ring }).await {
            tracing::warn!(secret = seen.secret.name, version = %failed, %error, "stages of the failed version were not tidied up");
        }
        Restored::Yes(replaced.id.clone())
    }

    async fn restore_stages(&self, stages: Stages<'_>) -> Result<(), StoreError> {
        let Stages { failed, replaced, has_ring } = stages;
        // The mark first: where nobody had AWSPREVIOUS before, a retry knows this version by AWSPENDING alone.
        if has_ring {
            self.move_if_there(marked_ring::stage(), failed, Some(replaced.id)).await?;
        }
        // AWSPENDING before AWSPREVIOUS: without AWSPREVIOUS it would look like a version to promote.
        self.take_off(Stage::Pending, failed).await?;
        self.move_if_there(Stage::Previous, failed, replaced.previous_was).await?;
        match replaced.previous_was {
            Some(previous) => self.take_off(Stage::restored_after(failed), previous).await,
            None => Ok(()),
        }
    }

    /// Goes on with a put-back that died half way, of which only the stages of the `failed` version tell. Up to six calls.
    ///
    /// # Errors
    /// [`RotationError::NotPending`] when the version was not put back, but replaced by a younger one; what the service refuses.
    pub async fn finish_rollback(&self, secret: &Described, failed: &VersionId) -> Result<(), RotationError> {
        let versions = &secret.versions;
        let (current, pending) = (versions.holder(&Stage::Current), versions.holder(&Stage::Pending));
        if pending != Some(failed) {
            // Or it succeeded, and was replaced by a younger one since.
            let current = match current {
                Some(current) => self.find(current).await?.map(|value| value.created),
                None => None,
            };
            if current >= self.find(failed).await?.map(|value| value.created) {
                return Err(RotationError::NotPending { version: failed.clone(), holder: pending.cloned() });
            }
        }
        let replaced =
            Replaced { id: current.unwrap_or(failed), previous_was: versions.holder(&Stage::restored_after(failed)) };
        // What was put back is no complete ring: its staged key stands nowhere else.
        let has_ring = versions.holder(&marked_ring::stage()) == Some(failed);
        Ok(self.restore_stages(Stages { failed, replaced, has_ring }).await?)
    }

    /// The version whose `AWSPREVIOUS` a promotion records with a stage of its own: the previous token of a text secret is accepted for
    /// as long as `AWSPREVIOUS` says which it is. No call.
    #[must_use]
    pub fn previous_to_record<'s>(&self, seen: &'s Snapshot, current: &Document) -> Option<&'s VersionId> {
        let is_text = current.field().is_none();
        seen.admitted.previous().filter(|_| self.kind.has_target() && is_text)
    }

    /// Remembers which version carries `AWSPREVIOUS`: the promotion takes it away, and a rollback gives it back. Where that is not
    /// possible, the rotation goes on without. One call.
    pub async fn record_previous(&self, seen: &Snapshot, previous: &VersionId) {
        let record = Stage::restored_after(seen.admitted.version());
        if let Err(error) = self.store.move_stage(self.secret_id, record, None, Some(previous)).await {
            tracing::debug!(secret = seen.secret.name, %error, "where AWSPREVIOUS was is not recorded, or was before");
        }
    }

    /// Takes that stage away once the promotion has verified. One call.
    pub async fn forget_previous(&self, seen: &Snapshot, previous: &VersionId) {
        if let Err(error) = self.take_off(Stage::restored_after(seen.admitted.version()), previous).await {
            tracing::warn!(secret = seen.secret.name, %error, "a stage that tells nothing any more was not taken away");
        }
    }

    /// The application drops the failed value at once if it hears of it, else when its cache expires. What it cannot be
    /// told now, no retry will tell it: that is logged.
    async fn tell_of_rollback(&self, seen: &Snapshot, failed: &Document, restored: &Document) {
        let (subject, back) = (seen.subject(), Values { old: Some(failed), new: restored });
        if let Err(error) = self.kind.set(&subject, back, Phase::AfterPromotion, self.deadline).await {
            not_refreshed(seen, &error);
        }
    }

    /// Tells the application of a put-back that [`finish_rollback`](Self::finish_rollback) has brought to its end. Without a target no call,
    /// else up to three.
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
