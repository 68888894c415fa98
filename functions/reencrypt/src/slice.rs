//! Rewraps the rows of a range under the primary key.
//!
//! Three stages work at once, so that neither the database nor this process waits for the other. One stage reads the
//! next batch, one decrypts and encrypts, one writes. A batch is one `UPDATE` of those rows that nobody has written
//! since the read. A value that the application wrote in between stays, and the stage reads its row again.
//!
//! The rows are the only record of progress. To kill this process at any moment loses nothing.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::census::{Tally, Unreadable};
use rotation::deadline::Deadline;
use rotation::keyring::{Ciphers, KeyId};
use rotation::rows::aad::associated_data;
use rotation::rows::{Rewrapped, RowCodec};
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::database::{Session, Trouble};
use crate::error::ReencryptError;
use crate::pace::Throttle;
use crate::reader::{self, BUSY_PAUSE, Batch, SHARE};
use crate::request::Range;
use crate::settings::Pace;
use crate::table::{Busy, Change, Source, Stored, get};
use crate::understood::{self, Understood};

/// The batches under way at once. The database finds the next batch waiting when it has written one.
const AT_ONCE: usize = 2;
/// The most unwritten rows before the range pauses for a second try of them.
const MOST_AGAIN: usize = 10_000;
/// How often a slice retries rows that other transactions have locked.
const MOST_ROUNDS: u32 = 8;

/// The result of a slice.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sliced {
    #[serde(flatten)]
    pub(crate) tally: Tally,
    /// Rows that were already under the primary key.
    pub(crate) under_primary: u64,
    /// Rewrapped rows: the sum of `keys`.
    pub(crate) rewrapped: u64,
    /// Rows that the application wrote in between. The application's value stays, and the slice read these rows again.
    pub(crate) overtaken: u64,
    /// Rows that were deleted in between.
    pub(crate) deleted: u64,
    /// Rows that the slice leaves unchanged by configuration.
    pub(crate) left: u64,
    /// Rows that stayed locked, or were overtaken in every retry. They hold the application's new value, or the old
    /// value.
    pub(crate) busy: u64,
}

/// The work on one range.
pub(crate) struct Slice<'a> {
    pub(crate) source: &'a Source<'a>,
    pub(crate) ciphers: &'a Ciphers,
    /// One connection reads while the other writes.
    pub(crate) reading: Session,
    pub(crate) writing: Session,
    pub(crate) pace: Pace,
    /// When to read no more.
    pub(crate) stop: Deadline,
}

/// A batch with its new values.
struct Work {
    batch: Batch,
    anew: Vec<Anew>,
}

/// The new value of a row.
struct Anew {
    row: usize,
    from: KeyId,
    stored: Vec<u8>,
}

/// The primary keys of rows that were not written.
#[derive(Default)]
struct Again(Vec<String>);

impl Slice<'_> {
    /// Works until the end of the range, or until `stop`. Returns the counts, and the range that is left.
    pub(crate) async fn run(&self, range: &Range, rng: &mut StdRng) -> Result<(Sliced, Option<Range>), ReencryptError> {
        let throttle = Throttle::for_writing(self.pace);
        let form = Understood::form(range.understood.as_ref(), self.source.column)?;
        let codec = self.source.codec(self.ciphers).knowing(form);
        let mut of_second_look = StdRng::from_rng(rng);
        let (batches, read) = channel(1);
        let (works, to_write) = channel(1);
        let reading = reader::read(self.source, &self.reading, range, &throttle, self.stop, batches);
        let rewrapping = rewrap_all(self.source, &codec, read, works, rng);
        let writing = self.write_all(&codec, &throttle, to_write, &mut of_second_look);
        let (all, seen, (written, last)) = tokio::try_join!(reading, rewrapping, writing)?;
        let next = (!all).then(|| Range { after: last.or_else(|| range.after.clone()), ..range.clone() });
        Ok((seen.and(written), next))
    }

    /// Writes each batch, and then the rows that could not be written. Returns the counts, and the key of the last row.
    async fn write_all(
        &self,
        codec: &RowCodec<'_>,
        throttle: &Throttle,
        mut works: Receiver<Work>,
        rng: &mut StdRng,
    ) -> Result<(Sliced, Option<String>), ReencryptError> {
        let (mut sliced, mut again, mut last) = (Sliced::new(), Again::default(), None);
        let (mut under_way, mut more) = (FuturesOrdered::new(), true);
        // A connection has one transaction at a time.
        let at_once = if self.source.has_triggers { 1 } else { AT_ONCE };
        loop {
            let room = more && under_way.len() < at_once && again.0.len() < MOST_AGAIN;
            tokio::select! {
                work = works.recv(), if room => match work {
                    Some(work) => under_way.push_back(self.write(throttle, work)),
                    None => more = false,
                },
                Some(written) = under_way.next() => {
                    let (of_batch, not_written, key) = written?;
                    sliced = sliced.and(of_batch);
                    again.0.extend(not_written.0);
                    last = Some(key);
                }
                // The connection gives no result while an earlier one is not taken. So the second try waits until
                // nothing is under way.
                else => {
                    self.look_again(codec, throttle, &mut sliced, &mut again, rng).await?;
                    if !more {
                        return Ok((sliced, last));
                    }
                }
            }
        }
    }

    /// Writes one batch. Returns the counts, the rows that were not written, and the key of the last row.
    async fn write(
        &self,
        throttle: &Throttle,
        Work { batch, anew }: Work,
    ) -> Result<(Sliced, Again, String), ReencryptError> {
        let (mut sliced, mut again) = (Sliced::new(), Again::default());
        let (changes, from) = changes(&batch.rows, anew)?;
        if changes.is_empty() {
            return Ok((sliced, again, batch.last));
        }
        throttle.admit(changes.len(), self.stop).await;
        let began = Instant::now();
        match self.source.write(&self.writing, &changes, Busy::Wait).await {
            Ok(written) => {
                throttle.ended(changes.len(), began);
                sliced.note(&changes, &from, &written, &mut again)?;
                sliced.overtaken += again.0.len() as u64;
            }
            Err(Trouble::Busy(_)) => {
                throttle.was_in_the_way();
                self.write_free(&changes, &from, &mut sliced, &mut again).await?;
                throttle.freed();
            }
            Err(trouble) => return Err(trouble.into()),
        }
        Ok((sliced, again, batch.last))
    }

    /// Writes the rows that no other transaction has locked.
    async fn write_free(
        &self,
        changes: &[Change<'_>],
        from: &[KeyId],
        sliced: &mut Sliced,
        again: &mut Again,
    ) -> Result<(), ReencryptError> {
        match self.source.write(&self.writing, changes, Busy::Skip).await {
            Ok(written) => sliced.note(changes, from, &written, again),
            Err(Trouble::Busy(_)) => {
                again.0.extend(changes.iter().map(|change| change.key.to_owned()));
                Ok(())
            }
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// Reads overtaken or locked rows again and writes them, at most [`MOST_ROUNDS`] times. Rows that are left count as
    /// busy.
    async fn look_again(
        &self,
        codec: &RowCodec<'_>,
        throttle: &Throttle,
        sliced: &mut Sliced,
        again: &mut Again,
        rng: &mut StdRng,
    ) -> Result<(), ReencryptError> {
        let mut pause = Duration::ZERO;
        for _ in 0..MOST_ROUNDS {
            if again.0.is_empty() || !self.stop.pause(pause).await {
                break;
            }
            let keys = std::mem::take(&mut again.0);
            for keys in keys.chunks(throttle.rows()) {
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                let rows = match self.source.read_again(&self.writing, &keys).await {
                    Ok(rows) => rows,
                    Err(Trouble::Busy(_)) => {
                        again.0.extend(keys.into_iter().map(str::to_owned));
                        continue;
                    }
                    Err(trouble) => return Err(trouble.into()),
                };
                sliced.deleted += (keys.len() - rows.len()) as u64;
                let anew = rewrap(self.source, codec, &rows, sliced, rng).await?;
                let (changes, from) = changes(&rows, anew)?;
                if !changes.is_empty() {
                    throttle.admit(changes.len(), self.stop).await;
                    self.write_free(&changes, &from, sliced, again).await?;
                }
            }
            pause = if pause.is_zero() { BUSY_PAUSE } else { pause * 2 };
        }
        sliced.busy += again.0.len() as u64;
        again.0.clear();
        Ok(())
    }
}

/// Decrypts and encrypts each batch.
async fn rewrap_all(
    source: &Source<'_>,
    codec: &RowCodec<'_>,
    mut batches: Receiver<Batch>,
    works: Sender<Work>,
    rng: &mut StdRng,
) -> Result<Sliced, ReencryptError> {
    let mut sliced = Sliced::new();
    while let Some(batch) = batches.recv().await {
        sliced.tally.rows += batch.rows.len() as u64;
        let anew = rewrap(source, codec, &batch.rows, &mut sliced, rng).await?;
        // The receiver is gone when writing has failed. The error of the write counts then.
        if works.send(Work { batch, anew }).await.is_err() {
            break;
        }
    }
    Ok(sliced)
}

/// The new values of the rows that need one.
async fn rewrap(
    source: &Source<'_>,
    codec: &RowCodec<'_>,
    rows: &[Row],
    sliced: &mut Sliced,
    rng: &mut StdRng,
) -> Result<Vec<Anew>, ReencryptError> {
    let mut anew = Vec::with_capacity(rows.len());
    for (number, row) in rows.iter().enumerate() {
        if number.is_multiple_of(SHARE) {
            tokio::task::yield_now().await;
        }
        let row = Stored(row);
        let Some(value) = row.value()? else {
            sliced.tally.nulls += 1;
            continue;
        };
        if source.leaves(row.key()?) {
            sliced.left += 1;
            continue;
        }
        match row.aad()?.map(|columns| codec.rewrap(value, &associated_data(&columns), rng)) {
            Some(Rewrapped::UnderPrimary) => sliced.under_primary += 1,
            Some(Rewrapped::Anew { from, stored }) => anew.push(Anew { row: number, from, stored }),
            Some(Rewrapped::Unknown) => sliced.tally.unreadable(row.key()?, Unreadable::Unknown),
            Some(Rewrapped::Foreign) => return Err(understood::has_changed(source.column, row.key()?)),
            Some(Rewrapped::Untold(what)) => return Err(understood::untold(source.column, row.key()?, what)),
            Some(Rewrapped::Damaged) | None => sliced.tally.unreadable(row.key()?, Unreadable::Damaged),
        }
    }
    Ok(anew)
}

fn changes(rows: &[Row], anew: Vec<Anew>) -> Result<(Vec<Change<'_>>, Vec<KeyId>), ReencryptError> {
    let mut changes = Vec::with_capacity(anew.len());
    let mut keys = Vec::with_capacity(anew.len());
    for Anew { row, from, stored } in anew {
        let row = Stored(&rows[row]);
        let aad = row.aad()?.unwrap_or_default();
        changes.push(Change { key: row.key()?, version: row.version()?, new: stored, aad });
        keys.push(from);
    }
    Ok((changes, keys))
}

impl Sliced {
    fn new() -> Self {
        Self { tally: Tally::default(), under_primary: 0, rewrapped: 0, overtaken: 0, deleted: 0, left: 0, busy: 0 }
    }

    /// Counts the changes with keys that the database returned. The other rows get a second try.
    fn note(
        &mut self,
        changes: &[Change<'_>],
        from: &[KeyId],
        written: &[Row],
        again: &mut Again,
    ) -> Result<(), ReencryptError> {
        let all = written.len() == changes.len();
        let written: HashSet<&str> =
            if all { HashSet::new() } else { written.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()? };
        for (change, from) in changes.iter().zip(from) {
            if all || written.contains(change.key) {
                self.tally.under(*from);
                self.rewrapped += 1;
            } else {
                again.0.push(change.key.to_owned());
            }
        }
        Ok(())
    }

    /// The sum of both counts.
    fn and(mut self, other: Self) -> Self {
        let Self { tally, under_primary, rewrapped, overtaken, deleted, left, busy } = other;
        self.tally.add(tally);
        self.under_primary += under_primary;
        self.rewrapped += rewrapped;
        self.overtaken += overtaken;
        self.deleted += deleted;
        self.left += left;
        self.busy += busy;
        self
    }
}
