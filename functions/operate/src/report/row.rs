//! What the listing tells of one secret, for people.

use std::time::{Duration, SystemTime};

use rotation::archive;
use rotation::delivery::{Delivery, Undelivered};
use rotation::document::FieldName;
use rotation::policy::{ByHand, RotationPolicy, by_hand};
use rotation::store::Described;
use rotation::time::Timestamp;
use rotation::versions::Stage;
use serde::Serialize;

use crate::error::OperateError;
use crate::kinds::Kind;
use crate::marker::{open_rotation, unfinished};
use crate::operator::Operator;
use crate::sweep::{is_left, overdue_by, since};

const DAY: u64 = 24 * 60 * 60;

/// One secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its name.
    pub secret: String,
    /// The tag `owner`.
    pub owner: Option<String>,
    /// The tag `contact`.
    pub contact: Option<String>,
    /// What it holds, as far as that is known.
    pub kind: &'static str,
    /// When a function last rotated it.
    pub last_rotated: Option<Timestamp>,
    /// When its next rotation is due.
    pub next_rotation: Option<Timestamp>,
    /// How long ago its last rotation was, in days.
    pub age_days: Option<u64>,
    /// Its schedule, to compare the age with.
    pub schedule: Option<String>,
    /// How long the previous value is accepted.
    pub overlap: Option<String>,
    /// The end of the overlap, while there is one.
    pub previous_accepted_until: Option<Timestamp>,
    /// Whether its consumers have the current value; nothing without consumers.
    pub delivery: Option<&'static str>,
    /// What people rotate in it.
    pub by_hand: Vec<HandRow>,
    /// What is wrong with it.
    pub problems: Vec<OpenProblem>,
}

/// A value that people rotate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HandRow {
    /// The member; nothing for a whole text.
    pub member: Option<String>,
    /// How often it is due, in days.
    pub every_days: u64,
    /// When it was last stored; nothing if that was never recorded.
    pub done: Option<Timestamp>,
    /// When it is due.
    pub due: Option<Timestamp>,
    /// Whether that is now.
    pub is_due: bool,
}

/// An open problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenProblem {
    /// Which.
    pub problem: &'static str,
    /// Since when, if the listing tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// In words.
    pub detail: String,
    /// What to do.
    pub repair: String,
}

impl Row {
    pub(super) fn of(operator: &Operator, secret: &Described) -> Self {
        let kind = Kind::of(secret);
        let mut row = Self {
            secret: secret.name.clone(),
            owner: tag(secret, "owner"),
            contact: tag(secret, "contact"),
            kind: told(secret, kind),
            last_rotated: secret.last_rotated.map(Timestamp),
            next_rotation: secret.next_rotation.map(Timestamp),
            age_days: since(secret, secret.last_rotated).map(|age| age.as_secs() / DAY),
            schedule: schedule(secret),
            overlap: None,
            previous_accepted_until: None,
            delivery: None,
            by_hand: vec![],
            problems: vec![],
        };
        if secret.deleted || secret.replica_of.is_some() {
            return row;
        }
        match by_hand(&secret.tags) {
            Ok(values) => row.by_hand = values.iter().map(|value| HandRow::of(value, secret.as_of)).collect(),
            Err(error) => row.add_policy_problem(error),
        }
        let Some(kind) = kind else { return row };
        row.add_state(operator, secret);
        let policy = match kind {
            Kind::Other => None,
            _ => match operator.stack_of(kind).for_secret(&secret.tags, secret.as_of) {
                Ok(policy) => Some(policy),
                Err(error) => {
                    // The tags of people's values were told already.
                    if row.problems.iter().all(|other| other.problem != POLICY) {
                        row.add_policy_problem(error);
                    }
                    None
                }
            },
        };
        if let Some(policy) = &policy {
            row.add_overlap(secret, kind, policy);
        }
        if operator.stack.has_consumers(&secret.name) {
            row.add_delivery(secret, policy.as_ref());
        }
        row
    }

    fn add(&mut self, problem: &'static str, since: Option<SystemTime>, detail: String, repair: String) {
        self.problems.push(OpenProblem { problem, since: since.map(Timestamp), detail, repair });
    }

    fn add_policy_problem(&mut self, error: impl Into<OperateError>) {
        self.add(POLICY, None, error.into().to_string(), "correct the tag, or the stack's parameter".to_owned());
    }

    /// What the sweep tells of by the listing: late, stuck and half-done work.
    fn add_state(&mut self, operator: &Operator, secret: &Described) {
        let name = &secret.name;
        let left = is_left(secret, operator.abort_after);
        if let Some(action) = unfinished(secret).filter(|_| left) {
            let (detail, repair) =
                (format!("the action {action} died half way"), format!("rotation {action} {name} again"));
            self.add("unfinished", secret.last_changed, detail, repair);
        }
        if !secret.rotation_enabled {
            let repair = "switch it on (infra/ADOPT.md), or remove the function".to_owned();
            self.add("switchedOff", None, "its rotation is switched off".to_owned(), repair);
            return;
        }
        if let Some(by) = overdue_by(secret) {
            let detail = match by.as_secs() / DAY {
                0 => "its rotation is late by less than a day".to_owned(),
                1 => "its rotation is late by a day".to_owned(),
                days => format!("its rotation is late by {days} days"),
            };
            self.add("overdue", secret.next_rotation, detail, format!("rotation doctor {name}"));
        }
        if left && open_rotation(secret).is_some() {
            let repair = format!("rotation doctor {name}; rotation abort {name} gives it up");
            self.add("stuck", secret.last_changed, "a rotation does not end".to_owned(), repair);
        }
    }

    fn add_overlap(&mut self, secret: &Described, kind: Kind, policy: &RotationPolicy) {
        if kind != Kind::Token {
            return;
        }
        self.overlap = Some(short(policy.overlap));
        let previous = secret.versions.holder(&Stage::Previous);
        let has_previous = previous.is_some() && previous != secret.versions.holder(&Stage::Current);
        let end = secret.last_rotated.filter(|_| has_previous).map(|rotated| rotated + policy.overlap);
        self.previous_accepted_until = end.filter(|end| *end > secret.as_of).map(Timestamp);
    }

    /// By the labels alone. A version that was delivered before may be delivered by value, which only the values tell.
    fn add_delivery(&mut self, secret: &Described, policy: Option<&RotationPolicy>) {
        self.delivery = Some(match Delivery::of(&secret.versions) {
            Delivery::Delivered => "delivered",
            Delivery::DeliveredBefore(_) => "deliveredBefore",
            Delivery::NotDelivered { began: Some(_) } => "pending",
            Delivery::NotDelivered { began: None } => "notBegun",
        });
        if !matches!(self.delivery, Some("pending" | "notBegun")) {
            return;
        }
        let created = secret.last_rotated.or(secret.last_changed).unwrap_or(secret.as_of);
        let undelivered = Undelivered::of(&secret.versions, created);
        let late_from = policy.and_then(|policy| undelivered.late_from(policy));
        if late_from.is_some_and(|late_from| late_from < secret.as_of) {
            let repair = format!("rotation deliver {}", secret.name);
            self.add(
                "deliveryLate",
                Some(undelivered.since()),
                "a consumer lacks the current value".to_owned(),
                repair,
            );
        }
    }
}

impl HandRow {
    fn of(value: &ByHand, now: SystemTime) -> Self {
        Self {
            member: value.member.as_ref().map(|member| FieldName::as_str(member).to_owned()),
            every_days: value.period.as_secs() / DAY,
            done: value.done.map(Timestamp),
            due: value.due().map(Timestamp),
            is_due: value.is_due(now),
        }
    }
}

const POLICY: &str = "policy";

/// Tags are written by people, `Owner` too.
fn tag(secret: &Described, key: &str) -> Option<String> {
    secret.tags.iter().find(|(own, _)| own.eq_ignore_ascii_case(key)).map(|(_, value)| value.clone())
}

fn told(secret: &Described, kind: Option<Kind>) -> &'static str {
    if secret.deleted {
        return "scheduled for deletion";
    }
    if secret.replica_of.is_some() {
        return "replica";
    }
    if secret.versions.all().any(|(_, stage)| stage.as_str() == archive::STAGE) {
        return "archive of keys";
    }
    kind.map_or("by hand", Kind::name)
}

fn schedule(secret: &Described) -> Option<String> {
    let rules = &secret.rotation_rules;
    let of_days = || rules.days.map(|days| format!("{days} days"));
    rules.expression.clone().or_else(of_days).filter(|_| secret.rotation_enabled)
}

/// Such as `24h`.
fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds % DAY, seconds % 3_600, seconds % 60) {
        (0, ..) if seconds > DAY => format!("{}d", seconds / DAY),
        (_, 0, _) => format!("{}h", seconds / 3_600),
        (_, _, 0) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}
