//! How many rows are under which key.

use rotation::deadline::Deadline;
use rotation::keyring::Ciphers;
use rotation::rows::aad::associated_data;
use rotation::rows::{Opened, RowCodec};
use tokio::sync::mpsc::channel;

use crate::database::Session;
use crate::error::ReencryptError;
use crate::pace::Throttle;
use crate::reader::{self, Batch};
use crate::request::Range;
use crate::settings::Pace;
use crate::slice::SHARE;
use crate::table::{Source, Stored};
use crate::tally::{Tally, Unreadable};

/// Counts the rows of a range until `stop`: the counts, and where to go on.
pub(crate) async fn count(
    source: &Source<'_>,
    session: &Session,
    range: &Range,
    ciphers: &Ciphers,
    pace: Pace,
    stop: Deadline,
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
                one(&codec, Stored(row), &mut tally)?;
            }
            last = Some(batch.last);
        }
        Ok(())
    };
    let (all, ()) = tokio::try_join!(reader::read(source, session, range, &throttle, stop, batches), counting)?;
    let next = (!all).then(|| Range { after: last, ..range.clone() });
    Ok((tally, next))
}

fn one(codec: &RowCodec<'_>, row: Stored<'_>, tally: &mut Tally) -> Result<(), ReencryptError> {
    tally.rows += 1;
    let Some(value) = row.value()? else {
        tally.nulls += 1;
        return Ok(());
    };
    let opened = row.aad()?.map(|columns| codec.open(value, &associated_data(&columns)));
    match opened {
        Some(Opened::Under(key, _)) => tally.under(key),
        Some(Opened::Unknown) => tally.unreadable(row.key()?, Unreadable::Unknown),
        Some(Opened::Damaged) | None => tally.unreadable(row.key()?, Unreadable::Damaged),
    }
    Ok(())
}
