//! Reads and moves on a store whose answers are late or lost.

use std::time::Duration;

use crate::deadline::Deadline;
use crate::store::{SecretStore, StoreError, StoreErrorKind, VersionValue};
use crate::versions::{Stage, VersionId};

/// Waits before a read is repeated, because reads are eventually consistent between the steps.
const READ_PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(600)];

/// What became of a move of `AWSCURRENT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveOutcome {
    /// The stage is where it was to go: by this call, or by a duplicate or an earlier try.
    Moved,
    /// The stage was not seen to leave its place. Where [`may_have_moved`] says so of the error, it may still be seen to.
    NotMoved(StoreError),
    /// Somebody else moved the stage to another version.
    Elsewhere,
}

/// Moves `AWSCURRENT` in one call that names both versions, `from` (`None` when no version has it) and `to`. When the answer is
/// lost or a conflict, the secret is described, briefly again and again, until the stage has left `from`. An outcome that cannot be found out is
/// [`MoveOutcome::NotMoved`] with the error of the move.
pub async fn move_current<S: SecretStore>(
    store: &S,
    secret_id: &str,
    from: Option<&VersionId>,
    to: &VersionId,
    deadline: Deadline,
) -> MoveOutcome {
    let Err(error) = store.move_stage(secret_id, Stage::Current, from, Some(to)).await else {
        return MoveOutcome::Moved;
    };
    if !may_have_moved(&error) {
        return MoveOutcome::NotMoved(error);
    }
    match current_after_move(store, secret_id, from, deadline).await {
        Ok(Some(holder)) if holder == *to => MoveOutcome::Moved,
        Ok(holder) if holder.as_ref() != from => MoveOutcome::Elsewhere,
        _ => MoveOutcome::NotMoved(error),
    }
}

/// Moves a stage that may be gone from `from` already, because an earlier try or a duplicate did it. A `to` of `None` takes it off.
///
/// # Errors
/// What the service refuses for another reason.
pub async fn move_if_there<S: SecretStore>(
    store: &S,
    secret_id: &str,
    stage: Stage,
    from: Option<&VersionId>,
    to: Option<&VersionId>,
) -> Result<(), StoreError> {
    match store.move_stage(secret_id, stage, from, to).await {
        Err(error) if error.kind == StoreErrorKind::Conflict => Ok(()),
        result => result,
    }
}

/// Reads by version id; a value that is not there yet is looked for again, briefly, because reads are eventually consistent.
///
/// # Errors
/// When the service refuses.
pub async fn read_version<S: SecretStore>(
    store: &S,
    secret_id: &str,
    version: &VersionId,
    deadline: Deadline,
) -> Result<Option<VersionValue>, StoreError> {
    let mut pauses = READ_PAUSES.into_iter();
    loop {
        if let Some(value) = store.get(secret_id, version).await? {
            return Ok(Some(value));
        }
        match pauses.next() {
            Some(pause) if deadline.pause(pause).await => {}
            _ => return Ok(None),
        }
    }
}

/// Who carries `AWSCURRENT` after a move from `from` whose outcome is not known. It is looked at until the stage has
/// left `from`, or was looked for long enough.
///
/// # Errors
/// When the service refuses.
pub async fn current_after_move<S: SecretStore>(
    store: &S,
    secret_id: &str,
    from: Option<&VersionId>,
    deadline: Deadline,
) -> Result<Option<VersionId>, StoreError> {
    let mut pauses = READ_PAUSES.into_iter();
    loop {
        let now = store.describe(secret_id).await?;
        let holder = now.versions.holder(&Stage::Current);
        if holder != from {
            return Ok(holder.cloned());
        }
        match pauses.next() {
            Some(pause) if deadline.pause(pause).await => {}
            _ => return Ok(holder.cloned()),
        }
    }
}

/// Whether a failed move of a stage may have happened all the same: by this call, whose answer was lost and which was
/// then repeated, or by a duplicate.
#[must_use]
pub fn may_have_moved(error: &StoreError) -> bool {
    matches!(
        error.kind,
        StoreErrorKind::Conflict | StoreErrorKind::Unreachable | StoreErrorKind::Service | StoreErrorKind::Throttled
    )
}
