//! How an action makes a value current, brings it to the application, and puts the version before back.

use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::{Document, MAX_VALUE_BYTES};
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::kind::{Phase, Values};
use rotation::marked_ring;
use rotation::moves::{current_after_move, may_have_moved};
use rotation::session::ROLLBACK_RESERVE;
use rotation::store::{OperationStore, Put, StoreError, StoreErrorKind};
use rotation::versions::Stage;

use crate::error::OperateError;
use crate::kinds::OperatedKind;
use crate::marker::{Marker, is_dead, put_back_stage, put_back_times};
use crate::session::{Operation, Snapshot};

/// What was current before an action, and what was `AWSPREVIOUS` then.
pub(crate) struct Before {
    pub(crate) version: VersionId,
    pub(crate) previous: Option<VersionId>,
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Makes `value` current, in place of the version that was read: stored under a marker first, then moved by a call that names
    /// the version it was made from. An edit that came in between stands. `version` is its new version.
    ///
    /// # Errors
    /// [`RotationError::CurrentChanged`], [`RotationError::ValueTooLarge`], and what the service refuses.
    pub async fn publish(
        &self,
        snapshot: &Snapshot,
        value: &Document,
        markers: &[Marker],
        version: &VersionId,
    ) -> Result<Snapshot, OperateError> {
        let bytes = value.text().len();
        if bytes > MAX_VALUE_BYTES {
            return Err(RotationError::ValueTooLarge { bytes }.into());
        }
        if let Some(archive) = self.kind.archive(&snapshot.subject(), value)? {
            archive.keep(self.store, self.deadline).await?;
        }
        let stages: Vec<Stage> = markers.iter().map(|marker| marker.on(version)).collect();
        let marked = self.marked_ring(&snapshot.secret).stages_to_come(self.kind, &snapshot.policy, value)?;
        snapshot.secret.require_stages(stages.len() + marked)?;
        let takes_keys_out = self.takes_keys_out(snapshot, value)?;
        if let Err(error) = self.make_current(snapshot, value, &stages, version).await {
            if self.was_never_current(snapshot, value, version, &error).await {
                self.give_up(snapshot, version, &stages).await;
            }
            return Err(error.into());
        }
        let now = self.snapshot_once_current(version).await?;
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

    /// The same for a value that nothing has to be finished for when the process dies: the marker goes with the end of the call.
    ///
    /// # Errors
    /// Those of [`publish`](Self::publish).
    pub(crate) async fn publish_and_detach(
        &self,
        snapshot: &Snapshot,
        value: &Document,
        version: &VersionId,
    ) -> Result<Snapshot, OperateError> {
        let published = self.publish(snapshot, value, &[Marker::Operation], version).await;
        let detached = self.drop_stage(version, &Marker::Operation.on(version)).await;
        // Why nothing was published says more than that there is nothing to take off.
        let now = published?;
        detached?;
        Ok(now)
    }

    /// Stores `value` under stages of its own, and moves `AWSCURRENT` there.
    async fn make_current(
        &self,
        snapshot: &Snapshot,
        value: &Document,
        stages: &[Stage],
        version: &VersionId,
    ) -> Result<(), RotationError> {
        let changed = || RotationError::CurrentChanged { name: snapshot.secret.name.clone() };
        match self.store.put_private(self.secret_id, version, value.text(), stages).await? {
            Put::Stored => {}
            Put::Exists => return Err(changed()),
        }
        if self.takes_keys_out(snapshot, value)? {
            // Before: the current ring has all keys of the marked one, however this ends.
            self.marked_ring(&snapshot.secret).move_to(version).await?;
        }
        if snapshot.secret.versions.holder(&Stage::Pending) == Some(&snapshot.current_id) {
            // The rotation to it has come to its end. On a version that is not current any more, the stage would be the one of a
            // rotation that is open, and would be taken up again.
            self.drop_stage(&snapshot.current_id, &Stage::Pending).await?;
        }
        let from = Some(&snapshot.current_id);
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
                Err(RotationError::PromotionConflict { name: snapshot.secret.name.clone() })
            }
            _ => Err(error.into()),
        }
    }

    /// Whether a version that could not be made current never was, for certain: the move was not asked for, or refused, or what is
    /// current is neither it nor anything that was made from it.
    async fn was_never_current(
        &self,
        snapshot: &Snapshot,
        value: &Document,
        version: &VersionId,
        error: &RotationError,
    ) -> bool {
        match error {
            RotationError::Store(error) if error.operation == "PutSecretValue" => true,
            RotationError::Store(error) => !may_have_moved(error),
            RotationError::CurrentChanged { .. } => {
                let Ok(now) = self.value_snapshot().await else { return false };
                let moved = now.current_id != snapshot.current_id && is_dead(&now.secret.versions, version);
                moved && self.kind.same_in_use(&now.policy, value, &now.current).is_ok_and(|same| !same)
            }
            _ => false,
        }
    }

    /// Whether `value` lacks keys of the current ring.
    fn takes_keys_out(&self, snapshot: &Snapshot, value: &Document) -> Result<bool, RotationError> {
        let rings = self.kind.ring(&snapshot.policy, value)?.zip(self.kind.ring(&snapshot.policy, &snapshot.current)?);
        Ok(rings.is_some_and(|(next, current)| !next.holds_all_of(&current)))
    }

    /// Has the application load what is current, and proves it. `old` is what it may know still.
    ///
    /// # Errors
    /// Those of the kind.
    pub async fn settle(
        &self,
        snapshot: &Snapshot,
        old: Option<&Document>,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        let values = Values { old, new: &snapshot.current };
        let mut repeated = false;
        loop {
            self.kind.set(&snapshot.subject(), values, Phase::AfterPromotion, deadline).await?;
            match self.kind.test(&snapshot.subject(), values, Phase::AfterPromotion, deadline, rng).await {
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

    /// Brings what is current to the application; when it does not verify, the version before is put back.
    /// `old` is what the application may know still.
    pub(crate) async fn settle_or_put_back(
        &self,
        now: &Snapshot,
        before: Before,
        old: Option<&Document>,
        rng: &mut StdRng,
    ) -> Result<(), OperateError> {
        let deadline = self.deadline.within(self.kind.settle_time(), ROLLBACK_RESERVE);
        let Err(reason) = self.settle(now, old, deadline, rng).await else {
            return Ok(self.drop_stage(&now.current_id, &Marker::Operation.on(&now.current_id)).await?);
        };
        // Of a keyring, others may have loaded the one that is put away, and encrypt with its primary key.
        let in_use_meanwhile = old.is_some() && !matches!(self.kind.ring(&now.policy, &now.current), Ok(None));
        let outcome = match self.put_back(now, &before, in_use_meanwhile).await {
            Ok(false) => "the secret was changed since, and that change stands".to_owned(),
            Ok(true) => {
                if let Ok(restored) = self.snapshot().await {
                    let values = Values { old: Some(&now.current), new: &restored.current };
                    // Best effort: an instance that does not hear of it reads it when its cache is too old.
                    let _ = self.kind.set(&restored.subject(), values, Phase::AfterPromotion, self.deadline).await;
                }
                format!("version {} is AWSCURRENT again", before.version)
            }
            Err(error) => format!(
                "putting version {} back FAILED ({error}): do it by hand, or run the same request again",
                before.version
            ),
        };
        Err(OperateError::DidNotVerify { reason: Box::new(reason), outcome })
    }

    /// Moves `AWSCURRENT` back, and the other stages to where they were; `false` when somebody changed the secret since.
    /// With a stage that tells when, if a retirement has to know.
    async fn put_back(&self, now: &Snapshot, before: &Before, tells_when: bool) -> Result<bool, StoreError> {
        let (failed, secret_id) = (&now.current_id, self.secret_id);
        if tells_when {
            // Beforehand: who dies after the move has told it.
            let stage = put_back_stage(now.secret.as_of);
            self.store.move_stage(secret_id, stage, None, Some(&before.version)).await?;
        }
        let moved = self.store.move_stage(secret_id, Stage::Current, Some(failed), Some(&before.version)).await;
        if let Err(error) = moved {
            if !may_have_moved(&error) {
                return Err(error);
            }
            let holder = current_after_move(self.store, secret_id, Some(failed), self.deadline).await?;
            match holder {
                Some(holder) if holder == before.version => {}
                Some(holder) if holder == *failed => return Err(error),
                _ => return Ok(false),
            }
        }
        // Where it was is not known to a later try: on the failed version it keeps the same token accepted.
        if let Some(previous) = &before.previous {
            match self.store.move_stage(secret_id, Stage::Previous, Some(failed), Some(previous)).await {
                Err(error) if !may_have_moved(&error) => return Err(error),
                _ => {}
            }
        }
        if self.kind.ring(&now.policy, &now.current).is_ok_and(|ring| ring.is_some()) {
            self.move_ring_mark(failed, &before.version).await?;
        }
        for marker in [Marker::RolledBack, Marker::Operation] {
            self.drop_stage(failed, &marker.on(failed)).await?;
        }
        if tells_when {
            // The last time says all.
            for (version, stage, at) in put_back_times(&now.secret.versions) {
                if at < now.secret.as_of {
                    self.drop_stage(version, stage).await?;
                }
            }
        }
        Ok(true)
    }

    /// Moves the mark of the last complete ring to the version `to`, if it is on `from`: a description that is older than the mark cannot
    /// tell.
    async fn move_ring_mark(&self, from: &VersionId, to: &VersionId) -> Result<(), StoreError> {
        match self.store.move_stage(self.secret_id, marked_ring::stage(), Some(from), Some(to)).await {
            Err(error) if error.kind == StoreErrorKind::Conflict => Ok(()),
            result => result,
        }
    }

    /// Takes everything off a version that was stored and never became current: what did not happen leaves nothing. What cannot be
    /// taken off now, a later action or sweep takes.
    pub(crate) async fn give_up(&self, snapshot: &Snapshot, version: &VersionId, stages: &[Stage]) {
        for stage in stages {
            let _ = self.drop_stage(version, stage).await;
        }
        if let Some(marked) = self.marked_ring(&snapshot.secret).version() {
            let _ = self.move_ring_mark(version, marked).await;
        }
    }
}
