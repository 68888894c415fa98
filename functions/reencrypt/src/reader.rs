//! The rows of a range, batch by batch, ahead of those who work on them.

use std::time::Duration;

use rotation::deadline::Deadline;
use tokio::sync::mpsc::Sender;
use tokio_postgres::Row;

use crate::database::{Session, Trouble};
use crate::error::ReencryptError;
use crate::pace::Throttle;
use crate::request::Range;
use crate::table::{Source, Stored};

/// The pause before a statement is tried again.
pub(crate) const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// After so many rows the connections get a turn: everything runs on one thread.
pub(crate) const SHARE: usize = 32;

/// Rows, and the key of the last of them.
pub(crate) struct Batch {
    pub(crate) rows: Vec<Row>,
    pub(crate) last: String,
}

/// Sends the rows of a range until `stop`; `true` when all were sent.
pub(crate) async fn read(
    source: &Source<'_>,
    session: &Session,
    range: &Range,
    throttle: &Throttle,
    stop: Deadline,
    batches: Sender<Batch>,
) -> Result<bool, ReencryptError> {
    let mut after = range.after.clone();
    loop {
        if stop.left().is_zero() {
            return Ok(false);
        }
        let wanted = throttle.rows();
        let found = match source.read(session, after.as_deref(), range.through.as_deref(), wanted).await {
            Ok(found) => found,
            Err(Trouble::Busy(_)) => {
                // Somebody alters the table, or the batch is too large for the time that a statement may take.
                throttle.was_in_the_way();
                stop.pause(BUSY_PAUSE).await;
                continue;
            }
            Err(trouble) => return Err(trouble.into()),
        };
        throttle.came(found.rows.len(), found.cut_short);
        let Some(last) = found.rows.last() else { return Ok(true) };
        let (last, ended) = (Stored(last).key()?.to_owned(), found.rows.len() < wanted && !found.cut_short);
        after = Some(last.clone());
        // Nobody listens any more when the work has failed, and then its error is what counts.
        if batches.send(Batch { rows: found.rows, last }).await.is_err() || ended {
            return Ok(ended);
        }
    }
}
