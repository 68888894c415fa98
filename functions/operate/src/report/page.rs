//! The page: the same data as one HTML document without scripts, whose texts askama escapes.
//!
//! An answer of Lambda is JSON. So the template writes attributes without quotation marks where it can, and no end tags that HTML leaves out.

use std::cmp::Reverse;
use std::fmt;

use askama::Template;
use rotation::time::{Timestamp, format_timestamp};

use crate::report::fleet::FleetReport;
use crate::report::row::{HandRow, OpenProblem, Row};
use crate::report::timeline::Timeline;

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a FleetReport,
    problems: Vec<(&'a Row, &'a OpenProblem)>,
    due: Vec<(&'a Row, &'a HandRow)>,
    later: Vec<(&'a Row, &'a HandRow)>,
    timeline: Option<Timeline>,
}

/// The day of a time, or a dash.
struct Day<'a>(Option<&'a Timestamp>);

impl fmt::Display for Day<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => f.write_str(format_timestamp(time.0).get(..10).unwrap_or_default()),
            None => f.write_str("–"),
        }
    }
}

/// A text, or a dash.
struct Text<'a>(Option<&'a str>);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.filter(|text| !text.is_empty()).unwrap_or("–"))
    }
}

impl Page<'_> {
    fn as_of(&self) -> String {
        self.report.as_of.map_or_else(|| "an empty listing".to_owned(), |time| format_timestamp(time.0))
    }
}

impl Row {
    /// When it was last rotated, by a function or by hand.
    pub(super) fn last(&self) -> Option<&Timestamp> {
        self.by_hand.iter().filter_map(|value| value.done.as_ref()).chain(&self.last_rotated).max()
    }

    /// When it is due, by a function or by hand.
    pub(super) fn next(&self) -> Option<&Timestamp> {
        self.by_hand.iter().filter_map(|value| value.due.as_ref()).chain(&self.next_rotation).min()
    }

    fn delivered(&self) -> &'static str {
        match self.delivery {
            Some("deliveredBefore") => "an earlier version",
            Some("notBegun") => "not begun",
            Some(state) => state,
            None => "–",
        }
    }

    /// How the overlap is told.
    fn overlaps(&self) -> String {
        match (&self.overlap, &self.previous_accepted_until) {
            (Some(overlap), Some(until)) => format!("{overlap}, until {}", Day(Some(until))),
            (Some(overlap), None) => overlap.clone(),
            (None, _) => "–".to_owned(),
        }
    }
}

impl HandRow {
    fn named(&self) -> &str {
        self.member.as_deref().unwrap_or("(the whole text)")
    }
}

/// The page of a report.
pub(super) fn render(report: &FleetReport) -> String {
    let rows = || report.secrets.iter();
    let mut problems: Vec<_> = rows().flat_map(|row| row.problems.iter().map(move |problem| (row, problem))).collect();
    // What is wrong for the longest time first; what is wrong since an unknown time before all.
    problems.sort_by_key(|(_, problem)| problem.since);
    let by_hand = rows().flat_map(|row| row.by_hand.iter().map(move |value| (row, value)));
    let (mut due, mut later): (Vec<_>, Vec<_>) = by_hand.partition(|(_, value)| value.is_due);
    due.sort_by_key(|(_, value)| value.due);
    later.sort_by_key(|(_, value)| Reverse(value.due));
    later.reverse();
    let timeline = report.as_of.map(|now| Timeline::of(&report.secrets, now.0));
    let page = Page { report, problems, due, later, timeline };
    let mut html = String::with_capacity(16_000 + 300 * report.secrets.len());
    // Writing to a String cannot fail.
    let _ = page.render_into(&mut html);
    html
}

/// The most bytes that a secret adds to a page, which is a text in JSON. The tables of problems and of people's values have its name, owner
/// and contact once more.
pub(super) fn most_bytes(row: &Row) -> usize {
    let texts = [Some(&row.secret), row.owner.as_ref(), row.contact.as_ref()];
    let texts: usize = texts.into_iter().flatten().map(|text| room(text)).sum();
    let problems = row.problems.iter().map(|problem| room(&problem.detail) + room(&problem.repair));
    let by_hand = row.by_hand.iter().map(|value| value.member.as_deref().map_or(0, room));
    let more: usize = problems.chain(by_hand).map(|own| 120 + own + texts).sum();
    260 + texts + row.schedule.as_deref().map_or(0, room) + more
}

/// The bytes of a text that is escaped, in HTML within JSON.
fn room(text: &str) -> usize {
    let of = |character: char| match character {
        '&' | '<' | '>' | '"' | '\'' => 5,
        '\\' => 2,
        control if control.is_control() => 6,
        other => other.len_utf8(),
    };
    text.chars().map(of).sum()
}
