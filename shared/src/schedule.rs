//! The schedule on which Secrets Manager rotates a secret.

use std::time::Duration;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The rules of a secret's schedule, as DescribeSecret reports them (API reference, `RotationRulesType`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RotationRules {
    /// `AutomaticallyAfterDays`.
    pub days: Option<i64>,
    /// `ScheduleExpression`: `rate(…)` or `cron(…)`.
    pub expression: Option<String>,
    /// `Duration`: the length of the rotation window, such as `3h`.
    pub window: Option<String>,
}

impl RotationRules {
    /// The shortest time between two rotations by days or a rate. One rotation may come at the end of its window, and
    /// the next at the start of its window. `None` without a schedule, and for `cron`.
    #[must_use]
    pub fn shortest_rate(&self) -> Option<Duration> {
        let (period, usual_window) = match (&self.expression, self.days) {
            (Some(expression), _) => rate(expression)?,
            (None, Some(days)) => (DAY.checked_mul(u32::try_from(days).ok()?)?, DAY),
            (None, None) => return None,
        };
        Some(period.saturating_sub(self.window_or(usual_window)))
    }

    /// The shortest time between two rotations, also for `cron`. For `cron` it computes the calendar of many years,
    /// which takes time. `None` also if the expression is not understood.
    #[must_use]
    pub fn shortest_period(&self) -> Option<Duration> {
        self.shortest_rate().or_else(|| {
            let (period, usual_window) = Cron::parse(self.expression.as_deref()?)?.shortest()?;
            Some(period.saturating_sub(self.window_or(usual_window)))
        })
    }

    /// The length of the rotation window. Without `Duration`, the window is `usual`: a schedule in days is open to the
    /// end of the day. A schedule in hours is open for one hour (Secrets Manager User Guide, "Rotation schedules").
    #[must_use]
    pub fn window_or(&self, usual: Duration) -> Duration {
        let hours = self.window.as_deref().and_then(|window| window.strip_suffix('h')?.parse().ok());
        hours.and_then(|hours: u32| HOUR.checked_mul(hours)).unwrap_or(usual)
    }
}

/// The period of `rate(n hours)` or `rate(n days)`, and the usual length of its window.
fn rate(expression: &str) -> Option<(Duration, Duration)> {
    let (count, unit) = expression.strip_prefix("rate(")?.strip_suffix(')')?.trim().split_once(' ')?;
    let (unit, window) = match unit.trim() {
        "hour" | "hours" => (HOUR, HOUR),
        "day" | "days" => (DAY, DAY),
        _ => return None,
    };
    Some((unit.checked_mul(count.parse().ok()?)?, window))
}

/// Enough days for every distance between two openings of a window: the calendar repeats after 28 years.
const CALENDAR_DAYS: i64 = 28 * 1461 / 4;
/// 2001-01-01, a Monday, in days of Unix time.
const FIRST_DAY: i64 = 11_323;

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// `cron(minutes hours day-of-month month day-of-week year)`. Secrets Manager requires the minutes to be 0.
struct Cron<'a> {
    hours: Vec<u32>,
    days_of_month: &'a str,
    months: &'a str,
    days_of_week: &'a str,
}

impl<'a> Cron<'a> {
    fn parse(expression: &'a str) -> Option<Self> {
        let fields: Vec<&str> = expression.strip_prefix("cron(")?.strip_suffix(')')?.split_ascii_whitespace().collect();
        let [_, hours, days_of_month, months, days_of_week, _] = fields[..] else { return None };
        let hours = (0..24).filter(|hour| matches(hours, *hour, 23, &[])).collect();
        Some(Self { hours, days_of_month, months, days_of_week })
    }

    /// The shortest time from one opening of the window to the next, and the usual length of the window.
    fn shortest(&self) -> Option<(Duration, Duration)> {
        let days = (FIRST_DAY..FIRST_DAY + CALENDAR_DAYS).filter(|day| self.opens_on(&Day::of(*day)));
        let opens: Vec<i64> =
            days.flat_map(|day| self.hours.iter().map(move |hour| 24 * day + i64::from(*hour))).collect();
        let hours = opens.windows(2).map(|pair| pair[1] - pair[0]).min()?;
        let window = match self.hours[..] {
            [hour] => 24 - hour,
            _ => 1,
        };
        Some((HOUR * u32::try_from(hours).ok()?, HOUR * window))
    }

    fn opens_on(&self, day: &Day) -> bool {
        let last = day.of_month + 7 > day.days_in_month;
        let in_week = |item: &str| match (item.split_once('#'), item.strip_suffix('L')) {
            (Some((weekday, nth)), _) => {
                matches(weekday, day.of_week, 7, &WEEKDAYS) && nth.parse() == Ok(day.of_month.div_ceil(7))
            }
            (None, Some("")) => day.of_week == 7,
            (None, Some(weekday)) => last && matches(weekday, day.of_week, 7, &WEEKDAYS),
            (None, None) => matches(item, day.of_week, 7, &WEEKDAYS),
        };
        let in_month = |item: &str| match item {
            "L" => day.of_month == day.days_in_month,
            _ => matches(item, day.of_month, 31, &[]),
        };
        matches(self.months, day.month, 12, &MONTHS)
            && self.days_of_month.split(',').any(in_month)
            && self.days_of_week.split(',').any(in_week)
    }
}

/// Whether a field of numbers or names matches `value`. Its items are `*`, `?`, `n` or `n-m`, with or without `/step`,
/// separated by commas.
fn matches(field: &str, value: u32, highest: u32, names: &[&str]) -> bool {
    let number = |text: &str| {
        let named = (1..).zip(names).find(|(_, name)| name.eq_ignore_ascii_case(text)).map(|(number, _)| number);
        named.or_else(|| text.parse().ok())
    };
    let has = |item: &str| {
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let bounds = match range.split_once('-') {
            Some((first, last)) => number(first).zip(number(last)),
            None if ["*", "?"].contains(&range) => {
                Some((if names.is_empty() && highest == 23 { 0 } else { 1 }, highest))
            }
            None => number(range).map(|first| (first, if step.is_some() { highest } else { first })),
        };
        let step = step.map_or(Some(1), |step| step.parse().ok().filter(|step| *step > 0));
        bounds.zip(step).is_some_and(|((first, last), step): ((u32, u32), u32)| {
            (first..=last).contains(&value) && (value - first).is_multiple_of(step)
        })
    };
    field.split(',').any(has)
}

/// A day of the Gregorian calendar. Weekdays count from Sunday = 1, as Secrets Manager counts them.
struct Day {
    of_month: u32,
    month: u32,
    days_in_month: u32,
    of_week: u32,
}

impl Day {
    /// Makes a day from days of Unix time, between 1970 and 2099; in these years every fourth year is a leap year.
    fn of(day: i64) -> Self {
        // 1968-01-01 is the beginning of a cycle of four years.
        let in_cycle = (day + 731).rem_euclid(1461);
        let (year, mut left) =
            if in_cycle < 366 { (0, in_cycle) } else { (1 + (in_cycle - 366) / 365, (in_cycle - 366) % 365) };
        let february = if year == 0 { 29 } else { 28 };
        let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 0;
        while left >= lengths[month] {
            left -= lengths[month];
            month += 1;
        }
        // 1970-01-01 was a Thursday.
        let of_week = (day + 4).rem_euclid(7) + 1;
        let small = |number: i64| u32::try_from(number).unwrap_or_default();
        Self {
            of_month: small(left) + 1,
            month: u32::try_from(month).unwrap_or_default() + 1,
            days_in_month: small(lengths[month]),
            of_week: small(of_week),
        }
    }
}
