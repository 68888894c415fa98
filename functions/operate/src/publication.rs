//! How an action makes a value current, brings it to the application, and puts the version before back.

use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::delivery::delivered_stage;
use rotation::document::{Document, MAX_VALUE_BYTES};
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::kind::{Phase, Values};
use rotation::marked_ring;
use rotation::moves::{MoveOutcome, may_have_moved, move_current};
use rotation::session::Session;
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

impl Before {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let previous = snapshot.secret.versions.holder(&Stage::Previous).cloned();
        Self { version: snapshot.current_id.clone(), previous }
    }
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Makes `value` current as the version `version`, in place of the version that was read. The value is stored under a marker first. The
    /// move of `AWSCURRENT` names the version that the value was made from, so an edit in between stands.
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
        self.session.archive(&snapshot.subject(), value).await?;
        self.publish_archived(snapshot, value, markers, version).await
    }

    /// The same for a ring whose keys are in the archive already.
    async fn publish_archived(
        &self,
        snapshot: &Snapshot,
        value: &Document,
        markers: &[Marker],
        version: &VersionId,
    ) -> Result<Snapshot, OperateError> {
        let mut stages: Vec<Stage> = markers.iter().map(|marker| marker.on(version)).collect();
        let marked = self.session.marked_ring(&snapshot.secret);
        let marks = marked.stages_to_come(self.session.kind, &snapshot.policy, value)?;
        snapshot.secret.require_stages(stages.len() + marks)?;
        let takes_keys_out = self.takes_keys_out(snapshot, value)?;
        let takes_previous = self.session.kind.is_issued() && markers.contains(&Marker::RolledBack);
        if let Err(error) = self.make_current(snapshot, (version, value), &stages, takes_previous).await {
            if self.was_never_current(snapshot, value, version, &error).await {
                self.give_up(snapshot, version, &stages).await;
            }
            return Err(error.into());
        }
        if takes_keys_out {
            stages.push(marked_ring::stage());
        }
        let mut now = self.snapshot_after_move(snapshot, (version, value), &stages)?;
        let marked_as_read = marked.version() == Some(&snapshot.current_id);
        if takes_keys_out {
            if !marked_as_read {
                // A sweep that saw the mark elsewhere may have moved it to what was current.
                let seen = self.snapshot_once_current(version).await?;
                self.session.marked_ring(&seen.secret).move_to(version).await?;
            }
        } else if self.session.kind.ring(&now.policy, value)?.is_some() {
            if marked_as_read {
                // It has every key of the ring with the mark.
                marked.move_to(version).await?;
                now.note_stage(marked_ring::stage(), Some(version));
            } else {
                match self.keep_ring(&now).await {
                    // What a person has to decide does not undo what was asked for.
                    Ok(true) => now.note_stage(marked_ring::stage(), Some(version)),
                    Ok(false) | Err(RotationError::MarkedRingUnreadable { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(now)
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
        self.session.archive(&snapshot.subject(), value).await?;
        self.publish_archived_and_detach(snapshot, value, version).await
    }

    /// The same for a ring whose keys are in the archive already.
    ///
    /// # Errors
    /// Those of [`publish`](Self::publish).
    pub(crate) async fn publish_archived_and_detach(
        &self,
        snapshot: &Snapshot,
        value: &Document,
        version: &VersionId,
    ) -> Result<Snapshot, OperateError> {
        let published = self.publish_archived(snapshot, value, &[Marker::Operation], version).await;
        let marker = Marker::Operation.on(version);
        let detached = self.session.take_off(marker.clone(), version).await;
        // Why nothing was published says more than that there is nothing to take off.
        let mut now = published?;
        detached?;
        now.note_stage(marker, None);
        Ok(now)
    }

    /// Stores `value` under stages of its own, and moves `AWSCURRENT` there. `AWSPREVIOUS` is moved there before, if asked for: a
    /// credential that is to come back may be revoked by others, who take that label off first.
    async fn make_current(
        &self,
        snapshot: &Snapshot,
        (version, value): (&VersionId, &Document),
        stages: &[Stage],
        takes_previous: bool,
    ) -> Result<(), RotationError> {
        let Session { store, secret_id, .. } = self.session;
        match store.put_private(secret_id, version, value.text(), stages).await? {
            Put::Stored => {}
            Put::Exists => return Err(snapshot.changed()),
        }
        if self.takes_keys_out(snapshot, value)? {
            // Before: the current ring has all keys of the marked one, however this ends.
            self.session.marked_ring(&snapshot.secret).move_to(version).await?;
        }
        if snapshot.secret.versions.holder(&Stage::Pending) == Some(&snapshot.current_id) {
            // The rotation to this version has ended. On a version that is not current any more, `AWSPENDING` would stand for an open
            // rotation, which Secrets Manager would take up again.
            self.session.take_off(Stage::Pending, &snapshot.current_id).await?;
        }
        if let Some(previous) = snapshot.secret.versions.holder(&Stage::Previous).filter(|_| takes_previous) {
            let moved = store.move_stage(secret_id, Stage::Previous, Some(previous), Some(version)).await;
            if let Err(error) = moved {
                self.give_up(snapshot, version, stages).await;
                return Err(if error.kind == StoreErrorKind::Conflict { snapshot.changed() } else { error.into() });
            }
        }
        self.session.make_current(snapshot, Some(&snapshot.current_id), version).await
    }

    /// Whether a version that could not be made current certainly never was. The move was not asked for, or was refused, or the current
    /// value is neither that version nor made from it.
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
                moved && self.session.kind.same_in_use(&now.policy, value, &now.current).is_ok_and(|same| !same)
            }
            _ => false,
        }
    }

    /// Whether `value` lacks keys of the current ring.
    fn takes_keys_out(&self, snapshot: &Snapshot, value: &Document) -> Result<bool, RotationError> {
        let rings = self
            .session
            .kind
            .ring(&snapshot.policy, value)?
            .zip(self.session.kind.ring(&snapshot.policy, &snapshot.current)?);
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
        self.session.settle(&snapshot.subject(), Values { old, new: &snapshot.current }, deadline, rng).await
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
        let Err(reason) = self.settle(now, old, self.session.deadline_to_settle(), rng).await else {
            return Ok(self.take_off_if_there(now, Marker::Operation).await?);
        };
        if let Some(old) = old
            && !self.session.still_works(&now.subject(), old, &reason, rng).await
        {
            let outcome = format!("version {} does not work either, so that this one stays", before.version);
            return Err(OperateError::DidNotVerify { reason: Box::new(reason), outcome });
        }
        // Of a keyring, others may have loaded the one that is put away, and encrypt with its primary key.
        let in_use_meanwhile = old.is_some() && !matches!(self.session.kind.ring(&now.policy, &now.current), Ok(None));
        let outcome = match self.put_back(now, &before, in_use_meanwhile).await {
            Ok(false) => "the secret was changed since, and that change stands".to_owned(),
            Ok(true) => {
                if let Ok(restored) = self.snapshot().await {
                    let values = Values { old: Some(&now.current), new: &restored.current };
                    // Best effort: an instance that does not hear of it reads it when its cache is too old.
                    let _ = self
                        .session
                        .kind
                        .set(&restored.subject(), values, Phase::AfterPromotion, self.session.deadline)
                        .await;
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
        let Session { store, secret_id, deadline, .. } = self.session;
        let failed = &now.current_id;
        if tells_when {
            // Beforehand: who dies after the move has told it.
            let stage = put_back_stage(now.secret.as_of);
            store.move_stage(secret_id, stage, None, Some(&before.version)).await?;
        }
        match move_current(store, secret_id, Some(failed), &before.version, deadline).await {
            MoveOutcome::Moved => {}
            MoveOutcome::Elsewhere => return Ok(false),
            MoveOutcome::NotMoved(error) => return Err(error),
        }
        // A consumer that started in between holds the failed value.
        if let Some(delivered) = now.secret.versions.holder(&delivered_stage()) {
            self.session.take_off(delivered_stage(), delivered).await?;
        }
        // Where it was is not known to a later try: on the failed version it keeps the same token accepted.
        if let Some(previous) = &before.previous {
            match store.move_stage(secret_id, Stage::Previous, Some(failed), Some(previous)).await {
                Err(error) if !may_have_moved(&error) => return Err(error),
                _ => {}
            }
        }
        if self.session.kind.ring(&now.policy, &now.current).is_ok_and(|ring| ring.is_some()) {
            self.session.move_if_there(marked_ring::stage(), failed, Some(&before.version)).await?;
        }
        for marker in [Marker::RolledBack, Marker::Operation] {
            self.take_off_if_there(now, marker).await?;
        }
        if tells_when {
            // The last time says all.
            for (version, stage, at) in put_back_times(&now.secret.versions) {
                if at < now.secret.as_of {
                    self.session.take_off(stage.clone(), version).await?;
                }
            }
        }
        Ok(true)
    }

    /// Takes a marker off the current version, which carries it or not.
    pub(crate) async fn take_off_if_there(&self, now: &Snapshot, marker: Marker) -> Result<(), StoreError> {
        let (version, stage) = (&now.current_id, marker.on(&now.current_id));
        if now.secret.versions.holder(&stage) == Some(version) {
            self.session.take_off(stage, version).await
        } else {
            Ok(())
        }
    }

    /// Takes everything off a version that was stored and never became current: what did not happen leaves nothing. What cannot be
    /// taken off now, a later action or sweep takes.
    pub(crate) async fn give_up(&self, snapshot: &Snapshot, version: &VersionId, stages: &[Stage]) {
        for stage in stages {
            let _ = self.session.take_off(stage.clone(), version).await;
        }
        if let Some(marked) = self.session.marked_ring(&snapshot.secret).version() {
            // A description that is older than the mark cannot tell whether it is there.
            let _ = self.session.move_if_there(marked_ring::stage(), version, Some(marked)).await;
        }
    }
}
