//! Reads and moves on a store whose answers are late or lost.

use std::time::Duration;

use crate::deadline::Deadline;
use crate::event::VersionId;
use crate::store::{SecretStore, StoreError, StoreErrorKind, VersionValue};
use crate::versions::Stage;

/// Waits before a read is repeated, because reads are eventually consistent between the steps.
const READ_PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(600)];

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
