//! Counts the rows under each key, and notes how the values are written.

use rotation::census::{Tally, Unreadable};
use rotation::deadline::Deadline;
use rotation::keyring::Ciphers;
use rotation::rows::aad::associated_data;
use rotation::rows::{Opened, RowCodec};
use tokio::sync::mpsc::channel;

use crate::database::Session;
use crate::error::ReencryptError;
use crate::marks::Marks;
use crate::pace::Throttle;
use crate::reader::{self, Batch, SHARE};
use crate::request::Range;
use crate::settings::Pace;
use crate::table::{Source, Stored};

/// Counts the rows of a range until `stop`. Returns the counts, and the range that is left. `marks` receives each row's
/// primary key.
pub(crate) async fn count(
    source: &Source<'_>,
    session: &Session,
    range: &Range,
    ciphers: &Ciphers,
    pace: Pace,
    stop: Deadline,
    marks: &mut Marks,
) -> Result<(Tally, Option<Range>), ReencryptError> {
    let (codec, throttle) = (source.codec(ciphers), Throttle::for_reading(pace));
    let mut tally = Tally::of(ciphers.iter().map(|(id, _)| id));
    let mut last = range.after.clone();
    let (batches, mut read) = channel::<Batch>(1);
    let counting = async {
        while let Some(batch) = read.recv().await {
            for (number, row) in batch.rows.iter().enumerate() {
                if number.is_multiple_of(SHARE) {
                    tokio::task::yield_now().await;
                }
                marks.pass(Stored(row).key()?);
                one(source, &codec, Stored(row), &mut tally)?;
            }
            last = Some(batch.last);
        }
        Ok(())
    };
    let (all, ()) = tokio::try_join!(reader::read(source, session, range, &throttle, stop, batches), counting)?;
    let next = (!all).then(|| Range { after: last, ..range.clone() });
    Ok((tally, next))
}

fn one(source: &Source<'_>, codec: &RowCodec<'_>, row: Stored<'_>, tally: &mut Tally) -> Result<(), ReencryptError> {
    tally.rows += 1;
    let Some(value) = row.value()? else {
        tally.nulls += 1;
        return Ok(());
    };
    let opened = row.aad()?.map(|columns| codec.open(value, &associated_data(&columns)));
    let state = match opened {
        Some(Opened::Under(key, _)) => {
            tally.under(key);
            None
        }
        Some(Opened::Unknown) => Some(Unreadable::Unknown),
        Some(Opened::Foreign) if !source.leaves(row.key()?) => Some(Unreadable::Foreign),
        Some(Opened::Foreign | Opened::Damaged) | None => Some(Unreadable::Damaged),
    };
    match state {
        Some(state) => tally.unreadable(row.key()?, state),
        None => tally.form = tally.form.and(codec.form_of(value)),
    }
    Ok(())
}
