//! How many rows one statement takes, and when the next one may begin.

use std::cell::Cell;
use std::time::Duration;

use rotation::deadline::Deadline;
use tokio::time::Instant;

use crate::settings::Pace;

/// The first batch is small: nothing is known of the rows and of the server yet.
const FIRST_BATCH: usize = 64;

/// The pace of one job.
pub(crate) struct Throttle {
    pace: Pace,
    most: usize,
    /// Whether nothing is written, so that reading alone tells how large a batch may be.
    only_reads: bool,
    rows: Cell<usize>,
    free_at: Cell<Instant>,
    ended_at: Cell<Instant>,
}

impl Throttle {
    /// For statements that write, and lock what they write.
    pub(crate) fn for_writing(pace: Pace) -> Self {
        // A quarter of a second's rows at once, so that a low rate is not one burst a second.
        let quarter = pace.rows_per_second.map_or(usize::MAX, |rate| (rate as usize / 4).max(1));
        let most = pace.batch_rows.min(quarter);
        Self::new(pace, most, false)
    }

    /// For statements that only read.
    pub(crate) fn for_reading(pace: Pace) -> Self {
        Self::new(Pace { rows_per_second: None, ..pace }, pace.batch_rows, true)
    }

    fn new(pace: Pace, most: usize, only_reads: bool) -> Self {
        let now = Instant::now();
        let rows = Cell::new(FIRST_BATCH.min(most));
        Self { pace, most, only_reads, rows, free_at: Cell::new(now), ended_at: Cell::new(now) }
    }

    /// How many rows the next statement should take.
    pub(crate) fn rows(&self) -> usize {
        self.rows.get()
    }

    /// Waits until so many more rows may be written.
    pub(crate) async fn admit(&self, rows: usize, deadline: Deadline) {
        let Some(rate) = self.pace.rows_per_second else { return };
        let now = Instant::now();
        let begin = self.free_at.get().max(now);
        self.free_at.set(begin + Duration::from_secs_f64(rows as f64 / f64::from(rate)));
        deadline.pause(begin - now).await;
    }

    /// So many rows were read; `cut_short` when there was no memory for more. What the database has sent beyond them was for
    /// nothing.
    pub(crate) fn came(&self, rows: usize, cut_short: bool) {
        if cut_short {
            self.rows.set(self.rows.get().min(rows.max(1)));
        } else if self.only_reads {
            self.grow();
        }
    }

    fn grow(&self) {
        self.rows.set((self.rows.get() * 2).min(self.most));
    }

    /// A statement of so many rows, sent at `began`, has ended. It may have waited for the one before it.
    pub(crate) fn ended(&self, rows: usize, began: Instant) {
        let before = self.freed();
        self.took(rows, self.ended_at.get() - before.max(began));
    }

    /// A statement has ended, however that was, and the connection is free for the next one; since when it was before.
    pub(crate) fn freed(&self) -> Instant {
        self.ended_at.replace(Instant::now())
    }

    /// A statement of so many rows took so long: the next ones are to take about `batch_time`.
    fn took(&self, rows: usize, time: Duration) {
        let (now, target) = (self.rows.get(), self.pace.batch_time);
        if time > target {
            let share = (target.as_secs_f64() / time.as_secs_f64()).max(0.25);
            self.rows.set(((now as f64 * share) as usize).max(1));
        } else if time * 2 < target && rows * 2 > now {
            self.grow();
        }
    }

    /// A statement failed because others were in its way, or because it took too long.
    pub(crate) fn was_in_the_way(&self) {
        self.rows.set((self.rows.get() / 4).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace {
            batch_rows: 5000,
            batch_time: Duration::from_millis(200),
            rows_per_second: None,
            lock_timeout: Duration::from_millis(200),
            statement_timeout: Duration::from_secs(5),
        }
    }

    #[tokio::test]
    async fn batches_grow_while_they_are_quick_and_shrink_when_they_are_slow() {
        let throttle = Throttle::for_writing(pace());
        for _ in 0..10 {
            throttle.took(throttle.rows(), Duration::from_millis(10));
        }
        assert_eq!(throttle.rows(), 5000);
        throttle.took(5000, Duration::from_millis(400));
        assert_eq!(throttle.rows(), 2500);
        throttle.took(2500, Duration::from_millis(150));
        assert_eq!(throttle.rows(), 2500, "neither quick nor slow");
        throttle.took(100, Duration::from_millis(1));
        assert_eq!(throttle.rows(), 2500, "a small batch proves nothing about large ones");
        for _ in 0..10 {
            throttle.took(throttle.rows(), Duration::from_secs(60));
        }
        assert_eq!(throttle.rows(), 1);
        throttle.was_in_the_way();
        assert_eq!(throttle.rows(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_statement_that_waited_for_another_was_not_slow() {
        let throttle = Throttle::for_writing(Pace { batch_rows: 64, ..pace() });
        let (began, time) = (Instant::now(), Duration::from_millis(150));
        for _ in 0..3 {
            // All were sent at once.
            tokio::time::advance(time).await;
            throttle.ended(64, began);
        }
        assert_eq!(throttle.rows(), 64);
        // One that failed, or was done otherwise, was waited for as well.
        tokio::time::advance(Duration::from_secs(1)).await;
        throttle.freed();
        tokio::time::advance(time).await;
        throttle.ended(64, began);
        assert_eq!(throttle.rows(), 64);
        tokio::time::advance(Duration::from_millis(400)).await;
        throttle.ended(64, began);
        assert_eq!(throttle.rows(), 32, "it was slow itself");
    }

    #[tokio::test]
    async fn large_rows_make_batches_small() {
        let (writing, reading) = (Throttle::for_writing(pace()), Throttle::for_reading(pace()));
        for throttle in [&writing, &reading] {
            throttle.came(64, false);
            throttle.came(3, true);
            assert_eq!(throttle.rows(), 3);
            throttle.came(3, false);
        }
        assert_eq!((writing.rows(), reading.rows()), (3, 6), "the time of an UPDATE decides, where there is one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_over_many_batches_and_makes_them_small() {
        let throttle = Throttle::for_writing(Pace { rows_per_second: Some(100), ..pace() });
        let (started, deadline) = (Instant::now(), Deadline::after(Duration::from_secs(3600)));
        let mut written = 0;
        while written < 1000 {
            let rows = throttle.rows();
            assert!(rows <= 25);
            throttle.admit(rows, deadline).await;
            throttle.took(rows, Duration::from_millis(1));
            written += rows;
        }
        let taken = started.elapsed();
        assert!((Duration::from_millis(9500)..Duration::from_millis(10_100)).contains(&taken), "{taken:?}");
    }
}
