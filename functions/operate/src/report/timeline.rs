//! How many secrets were rotated in each week, and how many will be, as bars of a picture.

use std::time::{Duration, SystemTime};

use rotation::time::format_timestamp;

use crate::report::row::Row;

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// So many weeks before and after now.
const WEEKS: usize = 26;
/// The width of a week and the height of the highest bar, in units of the picture.
const WIDTH: usize = 18;
const HEIGHT: usize = 120;
/// The lower end of the bars.
const BASE: usize = 140;
/// The least height of a bar.
const LEAST: usize = 3;

/// A bar of one week.
pub(super) struct Bar {
    pub(super) class: &'static str,
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) height: usize,
}

/// A text in the picture.
pub(super) struct Label {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) text: String,
}

/// The picture.
pub(super) struct Timeline {
    pub(super) bars: Vec<Bar>,
    pub(super) counts: Vec<Label>,
    pub(super) dates: Vec<Label>,
    pub(super) rotated: usize,
    pub(super) overdue: usize,
    pub(super) due: usize,
    /// Dates that are further away.
    pub(super) outside: usize,
}

/// Of one week: what was rotated, what should have been, and what will be.
type Week = [usize; 3];
const CLASSES: [&str; 3] = ["r", "o", "u"];

impl Timeline {
    /// The middle of the week of now.
    pub(super) const NOW: usize = WEEKS * WIDTH + WIDTH / 2;
    /// The whole width.
    pub(super) const WIDE: usize = (2 * WEEKS + 1) * WIDTH;

    pub(super) fn of(rows: &[Row], now: SystemTime) -> Self {
        let mut weeks: [Week; 2 * WEEKS + 1] = [[0; 3]; 2 * WEEKS + 1];
        let mut outside = 0;
        let mut add = |kind: usize, time: SystemTime| match week(time, now).and_then(|week| weeks.get_mut(week)) {
            Some(week) => week[kind] += 1,
            None => outside += 1,
        };
        for row in rows {
            if let Some(last) = row.last() {
                add(0, last.0);
            }
            if let Some(next) = row.next() {
                add(if next.0 < now { 1 } else { 2 }, next.0);
            }
        }
        let [rotated, overdue, due] = [0, 1, 2].map(|kind| weeks.iter().map(|week| week[kind]).sum());
        let dates = [0, WEEKS / 2, WEEKS, WEEKS + WEEKS / 2, 2 * WEEKS].map(|week| {
            let x = week * WIDTH + WIDTH / 2;
            Label { x, y: BASE + 16, text: date(week, now) }
        });
        let (bars, counts) = draw(&weeks);
        Self { bars, counts, dates: dates.into(), rotated, overdue, due, outside }
    }
}

/// The number of the week of a time, 0 for the first one of the picture.
fn week(time: SystemTime, now: SystemTime) -> Option<usize> {
    let weeks = |time: Duration| usize::try_from(time.as_secs() / WEEK.as_secs()).ok();
    match time.duration_since(now) {
        Ok(later) => WEEKS.checked_add(weeks(later)?),
        Err(earlier) => WEEKS.checked_sub(weeks(earlier.duration())?),
    }
}

fn date(week: usize, now: SystemTime) -> String {
    let weeks = |number: usize| WEEK * u32::try_from(number).unwrap_or_default();
    let time = if week < WEEKS { now.checked_sub(weeks(WEEKS - week)) } else { now.checked_add(weeks(week - WEEKS)) };
    time.map(format_timestamp).unwrap_or_default().chars().take(10).collect()
}

/// The bars of a week stand on each other, with their number above.
fn draw(weeks: &[Week]) -> (Vec<Bar>, Vec<Label>) {
    let highest = weeks.iter().map(|week| week.iter().sum::<usize>()).max().unwrap_or_default().max(1);
    let (mut bars, mut counts) = (vec![], vec![]);
    for (number, week) in weeks.iter().enumerate() {
        let mut y = BASE;
        for (class, count) in CLASSES.into_iter().zip(week).filter(|(_, count)| **count > 0) {
            let height = (count * HEIGHT / highest).max(LEAST);
            y -= height;
            bars.push(Bar { class, x: number * WIDTH + 2, y, height });
        }
        let count: usize = week.iter().sum();
        if count > 0 {
            let text = if count < 1_000 { count.to_string() } else { format!("{}k", (count + 500) / 1_000) };
            counts.push(Label { x: number * WIDTH + WIDTH / 2, y: y - 3, text });
        }
    }
    (bars, counts)
}
