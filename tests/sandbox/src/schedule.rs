//! Rotation schedules: `AutomaticallyAfterDays`, `rate(…)` and `cron(…)`, in UTC, with windows.
//!
//! A schedule is pure: it returns the next window after a reference time. The reference time is the last rotation, or
//! the time at which the schedule was set. The rules come from the Secrets Manager User Guide, "Rotation schedules",
//! and from `RotationRulesType` in the API reference:
//!
//! - Windows open on the hour.
//! - A schedule in days opens at midnight. Without a Duration, it closes at the end of the UTC day.
//! - A schedule in hours closes after one hour, without a Duration.
//! - A window must not run into the next UTC day (schedules in days) or into the next window (schedules in hours).
//! - No secret rotates more often than every four hours.
//! - cron has six fields. Minutes must be `0`, the year must be `*`, one of the two day fields must be `?`.
//!
//! The crate `croner` did not fit: it refuses the increments of AWS's own examples (`8/8`, `1/7`), and `L` as a day of
//! the week. So this file parses the few forms that AWS allows.
//!
//! The guide does not say where the windows of `rate(n hours)` start when `n` does not divide 24. The sandbox counts
//! them from the midnight before the reference time.

mod cron;

use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use self::cron::Cron;

const HOUR: Duration = Duration::from_secs(3600);
const SHORTEST_INTERVAL_HOURS: u32 = 4;

/// Rotation rules as they stand in RotateSecret and DescribeSecret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RotationRules {
    /// Days between rotations, 1 to 1000. A request has either this or `schedule_expression`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automatically_after_days: Option<i64>,
    /// Length of the window, `[0-9]+h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// `rate(n hours)`, `rate(n days)` or `cron(…)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_expression: Option<String>,
}

/// The reason why Secrets Manager refuses a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSchedule(String);

fn invalid<T>(reason: impl Into<String>) -> Result<T, InvalidSchedule> {
    Err(InvalidSchedule(reason.into()))
}

/// A schedule of rotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    interval: Interval,
    window_hours: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Interval {
    Days(u32),
    Hours(u32),
    Cron(Cron),
}

/// A span of time in which a rotation happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First moment of the window. The sandbox rotates then.
    pub opens: SystemTime,
    /// End of the window; DescribeSecret shows it as NextRotationDate ("on or before this date").
    pub closes: SystemTime,
}

impl Schedule {
    /// The schedule that the rules describe; `None` when they name no interval.
    pub fn parse(rules: &RotationRules) -> Result<Option<Self>, InvalidSchedule> {
        let window_hours = rules.duration.as_deref().map(parse_duration).transpose()?;
        let interval = match (rules.automatically_after_days, rules.schedule_expression.as_deref()) {
            (Some(_), Some(_)) => {
                return invalid("You cannot specify both rotation frequency and schedule expression together.");
            }
            (Some(days), None) => match u32::try_from(days) {
                Ok(days @ 1..=1000) => Interval::Days(days),
                _ => return invalid("RotationRules.AutomaticallyAfterDays must be within 1-1000."),
            },
            (None, Some(expression)) => parse_expression(expression)?,
            (None, None) if window_hours.is_some() => {
                return invalid("A rotation window Duration needs AutomaticallyAfterDays or a ScheduleExpression.");
            }
            (None, None) => return Ok(None),
        };
        let schedule = Self { interval, window_hours };
        schedule.check_window()?;
        Ok(Some(schedule))
    }

    fn check_window(&self) -> Result<(), InvalidSchedule> {
        let Some(hours) = self.window_hours else { return Ok(()) };
        let longest = match &self.interval {
            Interval::Days(_) => 24,
            Interval::Hours(every) => (*every).min(24),
            Interval::Cron(cron) => cron.longest_window_hours(),
        };
        if (1..=longest).contains(&hours) {
            Ok(())
        } else {
            invalid(format!(
                "The rotation window must be between 1h and {longest}h: it must not extend into the next rotation \
                 window or the next UTC day."
            ))
        }
    }

    /// The first window that opens after `reference`. `None` when the calendar ends (year 9999), or never has such a
    /// day (February 30).
    pub fn next_window(&self, reference: SystemTime) -> Option<Window> {
        let reference = civil(reference)?;
        let midnight = reference.date().to_datetime(jiff::civil::Time::midnight());
        let opens = match &self.interval {
            Interval::Days(days) => midnight.checked_add(Span::new().days(i64::from(*days))).ok()?,
            Interval::Hours(every) => {
                let since_midnight = u32::try_from(reference.hour()).ok()?;
                let next = (since_midnight / every + 1) * every;
                midnight.checked_add(Span::new().hours(i64::from(next))).ok()?
            }
            Interval::Cron(cron) => cron.next(reference)?,
        };
        let hours = self.window_hours.unwrap_or_else(|| self.default_window_hours(opens));
        let opens = instant(opens)?;
        Some(Window { opens, closes: opens + HOUR * hours })
    }

    fn default_window_hours(&self, opens: DateTime) -> u32 {
        match &self.interval {
            Interval::Days(_) => 24,
            Interval::Hours(_) => 1,
            Interval::Cron(cron) if cron.hours.count_ones() > 1 => 1,
            Interval::Cron(_) => 24 - u32::try_from(opens.hour()).unwrap_or(0),
        }
    }

    /// Whether a value that a person stores counts as a rotation. AWS documents that for AutomaticallyAfterDays only.
    pub fn counts_manual_changes(rules: &RotationRules) -> bool {
        rules.schedule_expression.is_none()
    }

    /// `AutomaticallyAfterDays` as DescribeSecret reports it for a schedule expression: the days, at least 1, from a
    /// rotation at `reference` to the next window.
    pub fn days_after(&self, reference: SystemTime) -> Option<i64> {
        let next = self.next_window(reference)?;
        let days = civil(next.opens)?.date().since(civil(reference)?.date()).ok()?.get_days();
        Some(i64::from(days).max(1))
    }
}

fn civil(time: SystemTime) -> Option<DateTime> {
    Some(Timestamp::try_from(time).ok()?.to_zoned(TimeZone::UTC).datetime())
}

fn instant(time: DateTime) -> Option<SystemTime> {
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().into())
}

fn parse_duration(text: &str) -> Result<u32, InvalidSchedule> {
    let hours = text
        .strip_suffix('h')
        .filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok());
    hours.map_or_else(|| invalid("The rotation window Duration must be a number of hours, for example 3h."), Ok)
}

fn parse_expression(expression: &str) -> Result<Interval, InvalidSchedule> {
    let inside = |name: &str| expression.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    if let Some(rate) = inside("rate") {
        parse_rate(rate)
    } else if let Some(fields) = inside("cron") {
        Ok(Interval::Cron(Cron::parse(fields)?))
    } else {
        invalid("The ScheduleExpression must be rate(value unit) or cron(fields).")
    }
}

fn parse_rate(rate: &str) -> Result<Interval, InvalidSchedule> {
    let Some((value, unit)) = rate.split_once(' ') else {
        return invalid("A rate expression is rate(value unit), for example rate(10 days).");
    };
    let Ok(value) = value.parse::<u32>() else {
        return invalid("The value of a rate expression must be a positive integer.");
    };
    match unit {
        "hour" | "hours" if (SHORTEST_INTERVAL_HOURS..=999 * 24).contains(&value) => Ok(Interval::Hours(value)),
        "hour" | "hours" => {
            invalid("A secret can be rotated as often as every four hours, and at least every 999 days.")
        }
        "day" | "days" if (1..=999).contains(&value) => Ok(Interval::Days(value)),
        "day" | "days" => invalid("A rate in days must be between 1 and 999."),
        _ => invalid("The unit of a rate expression must be hour, hours, day or days."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(days: Option<i64>, expression: Option<&str>, duration: Option<&str>) -> RotationRules {
        RotationRules {
            automatically_after_days: days,
            duration: duration.map(Into::into),
            schedule_expression: expression.map(Into::into),
        }
    }

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().into()
    }

    fn text(time: SystemTime) -> String {
        Timestamp::try_from(time).unwrap().to_string()
    }

    /// The openings of the first three windows after Sunday 2026-11-22 13:30 UTC, each taken as a rotation.
    fn openings(rules: &RotationRules) -> Vec<String> {
        let schedule = Schedule::parse(rules).unwrap().unwrap();
        let mut reference = at("2026-11-22T13:30:00Z");
        (0..3)
            .map(|_| {
                reference = schedule.next_window(reference).unwrap().opens;
                text(reference)
            })
            .collect()
    }

    fn expression(expression: &str) -> Vec<String> {
        openings(&rules(None, Some(expression), None))
    }

    #[test]
    fn automatically_after_days_opens_at_midnight_days_later() {
        let schedule = Schedule::parse(&rules(Some(90), None, None)).unwrap().unwrap();
        let window = schedule.next_window(at("2026-11-22T13:30:00Z")).unwrap();
        assert_eq!(text(window.opens), "2027-02-20T00:00:00Z");
        assert_eq!(text(window.closes), "2027-02-21T00:00:00Z");
    }

    #[test]
    fn a_rate_in_days_opens_at_midnight_and_a_duration_closes_it() {
        let schedule = Schedule::parse(&rules(None, Some("rate(10 days)"), Some("3h"))).unwrap().unwrap();
        let window = schedule.next_window(at("2026-11-22T13:30:00Z")).unwrap();
        assert_eq!(text(window.opens), "2026-12-02T00:00:00Z");
        assert_eq!(text(window.closes), "2026-12-02T03:00:00Z");
    }

    #[test]
    fn rate_in_hours_counts_from_midnight_and_closes_in_an_hour() {
        let four = ["2026-11-22T16:00:00Z", "2026-11-22T20:00:00Z", "2026-11-23T00:00:00Z"];
        assert_eq!(expression("rate(4 hours)"), four);
        let schedule = Schedule::parse(&rules(None, Some("rate(4 hours)"), None)).unwrap().unwrap();
        let window = schedule.next_window(at("2026-11-22T13:30:00Z")).unwrap();
        assert_eq!(text(window.closes), "2026-11-22T17:00:00Z");
    }

    #[test]
    fn the_cron_examples_of_the_user_guide_open_when_it_says() {
        // Every eight hours from 8:00; increments start again each day.
        let every_eight = ["2026-11-22T16:00:00Z", "2026-11-23T08:00:00Z", "2026-11-23T16:00:00Z"];
        assert_eq!(expression("cron(0 8/8 * * ? *)"), every_eight);
        let every_ten = ["2026-11-22T22:00:00Z", "2026-11-23T02:00:00Z", "2026-11-23T12:00:00Z"];
        assert_eq!(expression("cron(0 2/10 * * ? *)"), every_ten);
        // Every seven days from the first of the month.
        let weekly = ["2026-11-29T08:00:00Z", "2026-12-01T08:00:00Z", "2026-12-08T08:00:00Z"];
        assert_eq!(expression("cron(0 8 1/7 * ? *)"), weekly);
        let last_day = ["2026-11-30T16:00:00Z", "2026-12-31T16:00:00Z", "2027-01-31T16:00:00Z"];
        assert_eq!(expression("cron(0 16 L * ? *)"), last_day);
        let first_sunday = ["2026-12-06T00:00:00Z", "2027-01-03T00:00:00Z", "2027-02-07T00:00:00Z"];
        assert_eq!(expression("cron(0 0 ? * SUN#1 *)"), first_sunday);
        let twice_a_month = ["2026-12-01T01:00:00Z", "2026-12-15T01:00:00Z", "2027-01-01T01:00:00Z"];
        assert_eq!(expression("cron(0 1 1,15 * ? *)"), twice_a_month);
        let weekdays = ["2026-11-23T10:00:00Z", "2026-11-24T10:00:00Z", "2026-11-25T10:00:00Z"];
        assert_eq!(expression("cron(0 10 ? * MON-FRI *)"), weekdays);
        let quarterly = ["2027-01-01T16:00:00Z", "2027-04-01T16:00:00Z", "2027-07-01T16:00:00Z"];
        assert_eq!(expression("cron(0 16 1 JAN,APR,JUL,OCT ? *)"), quarterly);
    }

    #[test]
    fn weekdays_count_from_sunday_and_l_means_the_last() {
        let last_friday = ["2026-11-27T16:00:00Z", "2026-12-25T16:00:00Z", "2027-01-29T16:00:00Z"];
        assert_eq!(expression("cron(0 16 ? * 6L *)"), last_friday);
        assert_eq!(expression("cron(0 16 ? * FRIL *)"), last_friday);
        let saturdays = ["2026-11-28T16:00:00Z", "2026-12-05T16:00:00Z", "2026-12-12T16:00:00Z"];
        assert_eq!(expression("cron(0 16 ? * 7 *)"), saturdays);
        assert_eq!(expression("cron(0 16 ? * L *)"), saturdays);
        let fifth_sunday = ["2026-11-29T16:00:00Z", "2027-01-31T16:00:00Z", "2027-05-30T16:00:00Z"];
        assert_eq!(expression("cron(0 16 ? * 1#5 *)"), fifth_sunday);
    }

    #[test]
    fn cron_window_closes_after_its_day_or_its_hour() {
        let closes = |expression| {
            let schedule = Schedule::parse(&rules(None, Some(expression), None)).unwrap().unwrap();
            text(schedule.next_window(at("2026-11-22T13:30:00Z")).unwrap().closes)
        };
        assert_eq!(closes("cron(0 10 ? * MON *)"), "2026-11-24T00:00:00Z");
        assert_eq!(closes("cron(0 8/8 * * ? *)"), "2026-11-22T17:00:00Z");
    }

    #[test]
    fn a_day_that_never_comes_has_no_window() {
        let schedule = Schedule::parse(&rules(None, Some("cron(0 0 30 FEB ? *)"), None)).unwrap().unwrap();
        assert_eq!(schedule.next_window(at("2026-11-22T13:30:00Z")), None);
        let leap = Schedule::parse(&rules(None, Some("cron(0 0 29 FEB ? *)"), None)).unwrap().unwrap();
        assert_eq!(text(leap.next_window(at("2026-11-22T13:30:00Z")).unwrap().opens), "2028-02-29T00:00:00Z");
    }

    #[test]
    fn what_secrets_manager_refuses_is_refused() {
        let refused = [
            rules(Some(0), None, None),
            rules(Some(1001), None, None),
            rules(Some(-1), None, None),
            rules(Some(30), Some("rate(30 days)"), None),
            rules(None, None, Some("3h")),
            rules(Some(1), None, Some("25h")),
            rules(Some(1), None, Some("0h")),
            rules(Some(1), None, Some("3")),
            rules(Some(1), None, Some("h")),
            rules(None, Some("rate(3 hours)"), None),
            rules(None, Some("rate(4 hours)"), Some("5h")),
            rules(None, Some("rate(0 days)"), None),
            rules(None, Some("rate(1000 days)"), None),
            rules(None, Some("rate(10 minutes)"), None),
            rules(None, Some("rate(10days)"), None),
            rules(None, Some("every day"), None),
            rules(None, Some("cron(0 8 * * ?)"), None),
            rules(None, Some("cron(30 8 * * ? *)"), None),
            rules(None, Some("cron(0 8 * * ? 2027)"), None),
            rules(None, Some("cron(0 8 * * * *)"), None),
            rules(None, Some("cron(0 8 ? * ? *)"), None),
            rules(None, Some("cron(0 24 * * ? *)"), None),
            rules(None, Some("cron(0 8 32 * ? *)"), None),
            rules(None, Some("cron(0 8 0 * ? *)"), None),
            rules(None, Some("cron(0 8 ? * SUN#6 *)"), None),
            rules(None, Some("cron(0 8 ? * FRI-MON *)"), None),
            rules(None, Some("cron(0 * * * ? *)"), None),
            rules(None, Some("cron(0 0,3 * * ? *)"), None),
            rules(None, Some("cron(0 16 * * ? *)"), Some("9h")),
            rules(None, Some("cron(0 +8 * * ? *)"), None),
        ];
        for rules in refused {
            assert!(Schedule::parse(&rules).is_err(), "{rules:?} was accepted");
        }
        assert_eq!(Schedule::parse(&RotationRules::default()), Ok(None));
    }

    #[test]
    fn days_shown_for_an_expression_lead_to_the_next_window() {
        let days = |expression| {
            let schedule = Schedule::parse(&rules(None, Some(expression), None)).unwrap().unwrap();
            schedule.days_after(at("2026-11-22T13:30:00Z"))
        };
        assert_eq!(days("rate(10 days)"), Some(10));
        assert_eq!(days("cron(0 16 L * ? *)"), Some(8));
        assert_eq!(days("rate(4 hours)"), Some(1));
    }
}
