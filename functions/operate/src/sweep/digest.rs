//! The message of a sweep: what has happened since the sweep before, and what somebody has to do.
//!
//! A window is as long as `SWEEP_PERIOD` says. The period stays a variable, though the stack's schedule is always an hour. A sweep stores
//! nothing: only the length of its window keeps messages from being sent twice or never. Other schedules have other lengths.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use rotation::document::FieldName;
use rotation::policy::ByHand;
use rotation::store::Described;
use rotation::time::format_timestamp;

use crate::delivery::Undelivered;
use crate::error::OperateError;

/// What goes on is told again so often.
const AGAIN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// A listing may not show what happened so shortly before it (Secrets Manager API reference, ListSecrets).
pub const LISTING_LAG: Duration = Duration::from_secs(5 * 60);
/// The tag with the address of those who rotate a value by hand.
const CONTACT: &str = "contact";
/// The most secrets that a message names of each kind: SNS takes 262,144 bytes (SNS quotas, "Message size").
const NAMED: usize = 100;

/// The time from the sweep before, which it left out, to this one. Windows of sweeps in a row meet, so that nothing is told
/// twice and nothing is left out, and nobody has to remember anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    after: SystemTime,
    until: SystemTime,
}

impl Window {
    /// The `period` that ends [`LISTING_LAG`] before a scheduled time.
    #[must_use]
    pub fn before(scheduled: SystemTime, period: Duration) -> Self {
        let until = scheduled.checked_sub(LISTING_LAG).unwrap_or(SystemTime::UNIX_EPOCH);
        Self { after: until.checked_sub(period).unwrap_or(SystemTime::UNIX_EPOCH), until }
    }

    /// Whether something at this time is told.
    #[must_use]
    pub fn contains(self, time: SystemTime) -> bool {
        self.after < time && time <= self.until
    }

    /// Whether something that has been since `time` is told now: when it is new, and once a day after that.
    #[must_use]
    pub fn tells_of(self, time: SystemTime) -> bool {
        let Ok(age) = self.until.duration_since(time) else { return false };
        let days = (age.as_secs() / AGAIN_AFTER.as_secs()).try_into().unwrap_or(u32::MAX);
        self.contains(time + AGAIN_AFTER * days)
    }
}

/// The kinds of lines, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Problem,
    Unfinished,
    Stuck,
    Undelivered,
    Overdue,
    ByHand,
    Rotated,
    Revoked,
}

impl Line {
    fn needs_attention(self) -> bool {
        !matches!(self, Self::Rotated | Self::Revoked)
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Problem => "Does not work",
            Self::Unfinished => "Operations that died half way",
            Self::Stuck => "Rotations that do not end",
            Self::Undelivered => "Not delivered to all consumers",
            Self::Overdue => "Overdue",
            Self::ByHand => "For people to rotate",
            Self::Rotated => "Rotated",
            Self::Revoked => "Old token revoked, and refused by the application",
        }
    }
}

/// A message in the making.
#[derive(Debug)]
pub struct Digest {
    window: Window,
    lines: BTreeMap<Line, (usize, Vec<String>)>,
}

impl Digest {
    /// Of what happened in the window.
    #[must_use]
    pub fn new(window: Window) -> Self {
        Self { window, lines: BTreeMap::new() }
    }

    fn add(&mut self, line: Line, text: String) {
        let (count, lines) = self.lines.entry(line).or_default();
        *count += 1;
        if lines.len() < NAMED {
            lines.push(text);
        }
    }

    /// A secret that works; told when it was rotated in the window.
    pub(crate) fn rotated(&mut self, secret: &Described, told: &str) {
        if let Some(rotated) = secret.last_rotated.filter(|rotated| self.window.contains(*rotated)) {
            self.add(Line::Rotated, format!("{} at {}; {told}", secret.name, format_timestamp(rotated)));
        }
    }

    /// An overlap was ended.
    pub(crate) fn revoked(&mut self, secret: &Described) {
        self.add(Line::Revoked, secret.name.clone());
    }

    /// A rotation has been open for longer than `abort_after`.
    pub(crate) fn stuck(&mut self, secret: &Described, abort_after: Duration) {
        if let Some(since) = secret.last_changed.filter(|changed| self.window.tells_of(*changed + abort_after)) {
            let name = &secret.name;
            self.add(
                Line::Stuck,
                format!(
                    "{name} since {}: rotation doctor {name} says why; rotation abort {name} gives it up",
                    format_timestamp(since)
                ),
            );
        }
    }

    /// A delivery is late.
    pub(crate) fn not_delivered(&mut self, secret: &Described, undelivered: &Undelivered, repair: &str) {
        if undelivered.late_from.is_some_and(|late_from| self.window.tells_of(late_from)) {
            let (name, since) = (&secret.name, format_timestamp(undelivered.since));
            let runbook = "infra/RUNBOOK-DELIVERY.md says under delivery-late what to do";
            self.add(Line::Undelivered, format!("{name} since {since}: {repair}; {runbook}"));
        }
    }

    /// A rotation was due.
    pub(crate) fn overdue(&mut self, secret: &Described) {
        if let Some(due) = secret.next_rotation.filter(|due| self.window.tells_of(*due)) {
            let (name, due) = (&secret.name, format_timestamp(due));
            let repair = format!("aws secretsmanager rotate-secret --secret-id {name}");
            self.add(Line::Overdue, format!("{name} since {due}: {repair}; if it fails, the action doctor says why"));
        }
    }

    /// What people rotate is due. Who they are, the tag `contact` says.
    pub(crate) fn due_by_hand(&mut self, secret: &Described, due: &[ByHand]) {
        // What was never recorded counts from the last change.
        let since = due.iter().map(|value| value.due().or(secret.last_changed)).min().flatten();
        if !since.is_some_and(|since| self.window.tells_of(since)) {
            return;
        }
        let value = |value: &ByHand| {
            let member = value.member.as_ref().map_or("the whole text", FieldName::as_str);
            match value.due() {
                Some(due) => format!("{member} since {}", format_timestamp(due)),
                None => format!("{member}, of which no replacement is recorded"),
            }
        };
        let values: Vec<_> = due.iter().map(value).collect();
        let contact = secret.tags.get(CONTACT).map_or_else(String::new, |contact| format!("; contact: {contact}"));
        let name = &secret.name;
        let repair = format!("rotation put {name} stores a new value");
        self.add(Line::ByHand, format!("{name}: {}{contact}; {repair}", values.join(", ")));
    }

    /// An action died half way.
    pub(crate) fn unfinished(&mut self, secret: &Described, action: &str, abort_after: Duration) {
        if secret.last_changed.is_some_and(|changed| self.window.tells_of(changed + abort_after)) {
            self.add(Line::Unfinished, format!("{}: run the action {action} again", secret.name));
        }
    }

    /// The current value does not verify, or an overlap was not ended.
    pub(crate) fn problem(&mut self, secret: &str, what: &str, error: &OperateError) {
        let kind = error.name();
        self.add(Line::Problem, format!("{secret}: {what}: {kind}: {error}; the action doctor says what to do"));
    }

    /// The re-encryption of rows waits for a secret that is changed all the time.
    pub(crate) fn waits(&mut self, secret: &str) {
        let what =
            format!("{secret}: rows are not re-encrypted while the secret is changed within CONSUMERS_CACHE_TIME");
        self.add(Line::Problem, format!("{what}: find out what changes it, its tags for example"));
    }

    /// The re-encryption of rows ended without success.
    pub(crate) fn not_followed(&mut self, secret: &str, execution: &str, status: &str, at: SystemTime) {
        if self.window.tells_of(at) {
            let at = format_timestamp(at);
            let what = format!("{secret}: execution {execution} of the re-encryption is {status} since {at}");
            self.add(Line::Problem, format!("{what}; infra/RUNBOOK-ROWS.md says under reencryption-failed what to do"));
        }
    }

    /// Subject and text; `None` when there is nothing to tell.
    #[must_use]
    pub fn message(&self) -> Option<(String, String)> {
        let count = |wanted: &dyn Fn(Line) -> bool| -> usize {
            self.lines.iter().filter(|(line, _)| wanted(**line)).map(|(_, (count, _))| count).sum()
        };
        if self.lines.is_empty() {
            return None;
        }
        let attention = count(&Line::needs_attention);
        let mut parts = vec![];
        if attention > 0 {
            parts.push(format!("{attention} need attention"));
        }
        for (line, what) in [(Line::Rotated, "rotated"), (Line::Revoked, "revoked")] {
            let number = count(&|of| of == line);
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        }
        let mut text = format!("Secret rotation, {}\n", format_timestamp(self.window.until));
        for (line, (count, lines)) in &self.lines {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{} ({count}):\n", line.heading());
            for line in lines {
                let _ = writeln!(text, "- {line}");
            }
            if *count > lines.len() {
                let _ = writeln!(text, "- and {} more: the action sweep and the log name them", count - lines.len());
            }
        }
        Some((format!("Secret rotation: {}", parts.join(", ")), text))
    }
}
