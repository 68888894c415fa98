//! How many rows one statement takes, and when the next statement may begin.

use std::cell::Cell;
use std::time::Duration;

use rotation::deadline::Deadline;
use tokio::time::Instant;

use crate::settings::Pace;

/// The first batch is small, because nothing is known yet about the rows and the server.
const FIRST_BATCH: usize = 64;

/// The pace of one job.
pub struct Throttle {
    pace: Pace,
    most: usize,
    /// Whether the job writes nothing. Then reads alone set the size of a batch.
    only_reads: bool,
    rows: Cell<usize>,
    free_at: Cell<Instant>,
    ended_at: Cell<Instant>,
}

impl Throttle {
    /// For statements that write and lock rows.
    #[must_use]
    pub fn for_writing(pace: Pace) -> Self {
        // A quarter of a second's rows at once, so that a low rate does not become one burst a second.
        let quarter = pace.rows_per_second.map_or(usize::MAX, |rate| (rate as usize / 4).max(1));
        let most = pace.batch_rows.min(quarter);
        Self::new(pace, most, false)
    }

    /// For statements that only read.
    #[must_use]
    pub fn for_reading(pace: Pace) -> Self {
        Self::new(Pace { rows_per_second: None, ..pace }, pace.batch_rows, true)
    }

    fn new(pace: Pace, most: usize, only_reads: bool) -> Self {
        let now = Instant::now();
        let rows = Cell::new(FIRST_BATCH.min(most));
        Self { pace, most, only_reads, rows, free_at: Cell::new(now), ended_at: Cell::new(now) }
    }

    /// How many rows the next statement should take.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.get()
    }

    /// Waits until `rows` more rows may be written.
    pub async fn admit(&self, rows: usize, deadline: Deadline) {
        let Some(rate) = self.pace.rows_per_second else { return };
        let now = Instant::now();
        let begin = self.free_at.get().max(now);
        self.free_at.set(begin + Duration::from_secs_f64(rows as f64 / f64::from(rate)));
        deadline.pause(begin - now).await;
    }

    /// Notes a read of `rows` rows. `cut_short`: memory was full, and the database sent the rows beyond for nothing.
    pub fn came(&self, rows: usize, cut_short: bool) {
        if cut_short {
            self.rows.set(self.rows.get().min(rows.max(1)));
        } else if self.only_reads {
            self.grow();
        }
    }

    fn grow(&self) {
        self.rows.set((self.rows.get() * 2).min(self.most));
    }

    /// Notes the end of a statement of `rows` rows, sent at `began`. The statement may have waited for an earlier one.
    pub fn ended(&self, rows: usize, began: Instant) {
        let before = self.freed();
        self.took(rows, self.ended_at.get() - before.max(began));
    }

    /// Notes that a statement has ended, in any way, and that the connection is free. Returns when the connection was
    /// free before.
    pub fn freed(&self) -> Instant {
        self.ended_at.replace(Instant::now())
    }

    /// Notes the time of a statement of `rows` rows. The next statements are to take about `batch_time`.
    pub fn took(&self, rows: usize, time: Duration) {
        let (now, target) = (self.rows.get(), self.pace.batch_time);
        if time > target {
            let share = (target.as_secs_f64() / time.as_secs_f64()).max(0.25);
            self.rows.set(((now as f64 * share) as usize).max(1));
        } else if time * 2 < target && rows * 2 > now {
            self.grow();
        }
    }

    /// Notes a statement that failed on another transaction's lock, or that took too long.
    pub fn was_in_the_way(&self) {
        self.rows.set((self.rows.get() / 4).max(1));
    }
}
