//! Reads and moves on a store whose answers may be late or lost.

use std::time::Duration;

use crate::deadline::Deadline;
use crate::store::{SecretStore, StoreError, StoreErrorKind, VersionValue};
use crate::versions::{Stage, VersionId};

/// The waits before a read is repeated. Between the steps, reads are eventually consistent.
const READ_PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(600)];

/// The outcome of a move of `AWSCURRENT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveOutcome {
    /// The label is on its new version, by this call, by a duplicate or by an earlier try.
    Moved,
    /// The label did not leave its version as far as the reads show. If [`may_have_moved`] is true of the error, it may
    /// still show later.
    NotMoved(StoreError),
    /// Another writer moved the label to another version.
    Elsewhere,
}

/// Moves `AWSCURRENT` in one call that names both versions, `from` (`None` if no version has the label) and `to`.
///
/// If the answer is lost or a conflict, the function describes the secret up to four times, until the label has left
/// `from`. An outcome that stays unknown is [`MoveOutcome::NotMoved`] with the error of the move.
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

/// Moves a staging label that may be gone from `from` already, because an earlier try or a duplicate moved it. A `to`
/// of `None` removes the label.
///
/// # Errors
/// The service refuses the call for another reason.
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

/// Reads the value of a version. If the value is not there yet, it reads up to three more times, because reads are
/// eventually consistent.
///
/// # Errors
/// The service refuses a call.
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

/// The answer of a read of an older version, with `None` for a value that nobody can read any more: KMS refuses it, or
/// it is binary. Only for callers that have read the current version: the service keeps that one readable when the KMS
/// key of the secret changes, and leaves the older ones under the former key.
///
/// # Errors
/// The call failed for a reason that tells nothing of the version.
pub fn if_readable(answer: Result<Option<VersionValue>, StoreError>) -> Result<Option<VersionValue>, StoreError> {
    match answer {
        Err(error) if matches!(error.kind, StoreErrorKind::Kms | StoreErrorKind::Binary) => Ok(None),
        answer => answer,
    }
}

/// Finds the holder of `AWSCURRENT` after a move from `from` with an unknown outcome. It describes the secret until the
/// label has left `from`, at most four times.
///
/// # Errors
/// The service refuses a call.
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

/// Whether a failed move of a staging label may have happened all the same. The call itself may have moved the label,
/// lost its answer, and been repeated; or a duplicate moved it.
#[must_use]
pub fn may_have_moved(error: &StoreError) -> bool {
    matches!(
        error.kind,
        StoreErrorKind::Conflict | StoreErrorKind::Unreachable | StoreErrorKind::Service | StoreErrorKind::Throttled
    )
}
