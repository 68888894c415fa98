//! Reads the rows of a range, batch by batch, ahead of the stages that work on them.

use std::time::Duration;

use rotation::deadline::Deadline;
use tokio::sync::mpsc::Sender;
use tokio_postgres::Row;

use crate::database::{Session, Trouble};
use crate::error::ReencryptError;
use crate::pace::Throttle;
use crate::request::Range;
use crate::table::{Source, Stored};

/// The pause before a retry of a statement.
pub(crate) const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// The rows between two turns of the connections: everything runs on one thread.
pub(crate) const SHARE: usize = 32;

/// Rows, and the primary key of the last row.
pub(crate) struct Batch {
    pub(crate) rows: Vec<Row>,
    pub(crate) last: String,
}

/// Sends the rows of a range until `stop`. Returns `true` when all rows are sent.
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
                // Another session alters the table, or the batch is too large for the statement timeout.
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
        // The receiver is gone when the work has failed. The error of the work counts then.
        if batches.send(Batch { rows: found.rows, last }).await.is_err() || ended {
            return Ok(ended);
        }
    }
}
