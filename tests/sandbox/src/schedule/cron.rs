//! `cron(…)`, in the forms that AWS allows.

use jiff::civil::{Date, DateTime, Weekday};

use super::{InvalidSchedule, SHORTEST_INTERVAL_HOURS, invalid};

/// The days to search for a match. February 29 on a given weekday comes back after at most 40 years.
const SEARCH_DAYS: u32 = 40 * 366;

/// `cron(0 hours day-of-month month day-of-week *)`, each field as a set of bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cron {
    pub(super) hours: u32,
    days: Days,
    months: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Days {
    OfMonth { days: u32, last: bool },
    OfWeek(Vec<WeekdayRule>),
}

/// A rule for weekdays, counted from Sunday = 1 as in AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WeekdayRule {
    Every(u8),
    Nth(u8, u8),
    Last(u8),
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

impl Cron {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidSchedule> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minutes, hours, of_month, month, of_week, year] = fields[..] else {
            return invalid(
                "A cron expression has six fields: cron(Minutes Hours Day-of-month Month Day-of-week Year).",
            );
        };
        if minutes != "0" {
            return invalid("The minutes of a cron expression must be 0: rotation windows open on the hour.");
        }
        if year != "*" {
            return invalid("The year of a cron expression must be *.");
        }
        let days = match (of_month, of_week) {
            ("?", "?") => return invalid("Only one of the day fields of a cron expression can be ?."),
            (_, "?") => parse_days_of_month(of_month)?,
            ("?", _) => Days::OfWeek(parse_weekdays(of_week)?),
            _ => return invalid("One of the day fields of a cron expression must be ?."),
        };
        let cron = Self { hours: parse_set(hours, 0, 23, &[])?, days, months: parse_set(month, 1, 12, &MONTHS)? };
        if cron.smallest_gap_hours() < SHORTEST_INTERVAL_HOURS {
            return invalid("A secret can be rotated as often as every four hours.");
        }
        Ok(cron)
    }

    fn hours(&self) -> impl Iterator<Item = u32> + '_ {
        (0..24).filter(|hour| self.hours & (1 << hour) != 0)
    }

    /// The hours between two windows of one day; 24 with one window a day.
    fn smallest_gap_hours(&self) -> u32 {
        let hours: Vec<u32> = self.hours().collect();
        hours.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(24)
    }

    pub(super) fn longest_window_hours(&self) -> u32 {
        let until_midnight = 24 - self.hours().max().unwrap_or(0);
        until_midnight.min(self.smallest_gap_hours())
    }

    pub(super) fn next(&self, after: DateTime) -> Option<DateTime> {
        let mut date = after.date();
        for _ in 0..SEARCH_DAYS {
            if self.matches(date) {
                for hour in self.hours() {
                    let opens = date.at(i8::try_from(hour).ok()?, 0, 0, 0);
                    if opens > after {
                        return Some(opens);
                    }
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn matches(&self, date: Date) -> bool {
        let bit = |set: u32, n: i8| set & (1 << n) != 0;
        bit(self.months, date.month())
            && match &self.days {
                Days::OfMonth { days, last } => bit(*days, date.day()) || (*last && date == date.last_of_month()),
                Days::OfWeek(rules) => rules.iter().any(|rule| rule.matches(date)),
            }
    }
}

impl WeekdayRule {
    fn matches(self, date: Date) -> bool {
        let (Self::Every(weekday) | Self::Nth(weekday, _) | Self::Last(weekday)) = self;
        if date.weekday() != weekday_from_sunday(weekday) {
            return false;
        }
        match self {
            Self::Every(_) => true,
            Self::Nth(_, n) => u8::try_from((date.day() - 1) / 7 + 1) == Ok(n),
            Self::Last(_) => date.day() > date.days_in_month() - 7,
        }
    }
}

/// The weekday with this number, Sunday = 1.
fn weekday_from_sunday(weekday: u8) -> Weekday {
    match weekday {
        1 => Weekday::Sunday,
        2 => Weekday::Monday,
        3 => Weekday::Tuesday,
        4 => Weekday::Wednesday,
        5 => Weekday::Thursday,
        6 => Weekday::Friday,
        _ => Weekday::Saturday,
    }
}

fn parse_days_of_month(field: &str) -> Result<Days, InvalidSchedule> {
    let (mut days, mut last) = (0, false);
    for item in field.split(',') {
        match item {
            "L" => last = true,
            item => days |= parse_item(item, 1, 31, &[])?,
        }
    }
    Ok(Days::OfMonth { days, last })
}

fn parse_weekdays(field: &str) -> Result<Vec<WeekdayRule>, InvalidSchedule> {
    let mut rules = Vec::new();
    for item in field.split(',') {
        if let Some((weekday, n)) = item.split_once('#') {
            let n = parse_value(n, 1, 5, &[])?;
            rules.push(WeekdayRule::Nth(parse_value(weekday, 1, 7, &WEEKDAYS)?, n));
        } else if let Some(weekday) = item.strip_suffix('L').filter(|weekday| !weekday.is_empty()) {
            rules.push(WeekdayRule::Last(parse_value(weekday, 1, 7, &WEEKDAYS)?));
        } else if item == "L" {
            // The last day of the week.
            rules.push(WeekdayRule::Every(7));
        } else {
            let set = parse_item(item, 1, 7, &WEEKDAYS)?;
            rules.extend((1..=7).filter(|day| set & (1 << day) != 0).map(WeekdayRule::Every));
        }
    }
    Ok(rules)
}

fn parse_set(field: &str, min: u8, max: u8, names: &[&str]) -> Result<u32, InvalidSchedule> {
    field.split(',').try_fold(0, |set, item| Ok(set | parse_item(item, min, max, names)?))
}

/// Parses `*`, `n` or `n-m`, each with an optional `/step`. `n/step` runs to the end of the field.
fn parse_item(item: &str, min: u8, max: u8, names: &[&str]) -> Result<u32, InvalidSchedule> {
    let (range, step) = match item.split_once('/') {
        Some((range, step)) => (range, Some(parse_value(step, 1, max, &[])?)),
        None => (item, None),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (parse_value(first, min, max, names)?, parse_value(last, min, max, names)?),
        None if range == "*" => (min, max),
        None => {
            let first = parse_value(range, min, max, names)?;
            (first, if step.is_some() { max } else { first })
        }
    };
    if first > last {
        return invalid(format!("The range {range} of the cron expression ends before it starts."));
    }
    Ok((first..=last).step_by(usize::from(step.unwrap_or(1))).fold(0, |set, n| set | 1 << n))
}

fn parse_value(text: &str, min: u8, max: u8, names: &[&str]) -> Result<u8, InvalidSchedule> {
    let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
    let value = match named {
        Some(index) => u8::try_from(index).ok().map(|index| index + min),
        None => Some(text).filter(|t| t.bytes().all(|b| b.is_ascii_digit())).and_then(|t| t.parse().ok()),
    };
    match value {
        Some(value) if (min..=max).contains(&value) => Ok(value),
        _ => invalid(format!("'{text}' in the cron expression is not a value between {min} and {max}.")),
    }
}
