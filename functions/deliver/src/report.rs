//! What a run has found: its answer, its metrics and its events. None of them holds a value.

use std::time::SystemTime;

use rotation::event::VersionId;
use rotation::notification::{self, Notification};
use rotation::telemetry::{Datum, Unit};
use rotation::time::{format_timestamp, parse_timestamp};
use serde::Serialize;

use crate::error::DeliverError;

/// Whether something has the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has the value.
    Delivered,
    /// It does not have the value yet. The next run goes on.
    Pending,
    /// It does not have the value, and needs a repair.
    Failed,
}

/// How far the delivery to one consumer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The consumer has the value.
    Delivered,
    /// The consumer does not have it yet, for this reason.
    Pending(String),
    /// The consumer does not have it, because of this error.
    Failed(DeliverError),
}

/// One consumer in an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConsumerReport {
    /// Its kind and its name.
    pub consumer: String,
    /// Whether it has the value.
    pub state: State,
    /// The stable name of the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// Why it does not have the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The command that repairs it, or shows the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
}

impl ConsumerReport {
    pub(crate) fn of(consumer: String, progress: &Progress) -> Self {
        let plain = |state, reason| Self { consumer: consumer.clone(), state, error: None, reason, repair: None };
        match progress {
            Progress::Delivered => plain(State::Delivered, None),
            Progress::Pending(reason) => plain(State::Pending, Some(reason.clone())),
            Progress::Failed(error) => Self {
                error: Some(error.name()),
                repair: error.repair(),
                ..plain(if error.waits() { State::Pending } else { State::Failed }, Some(error.to_string()))
            },
        }
    }
}

/// One secret in an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretReport {
    /// Its name.
    pub secret: String,
    /// Whether every consumer has its current value.
    pub state: State,
    /// The current version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Since when the current value is not delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Whether that is longer than a quarter of the secret's overlap.
    #[serde(skip_serializing_if = "is_false")]
    pub late: bool,
    /// The stable name of the error, if the secret itself cannot be delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// Why it cannot be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its consumers.
    pub consumers: Vec<ConsumerReport>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(late: &bool) -> bool {
    !late
}

impl SecretReport {
    /// A secret that cannot be delivered.
    pub(crate) fn failed(secret: &str, error: &DeliverError) -> Self {
        let state = if error.waits() { State::Pending } else { State::Failed };
        let (error, reason) = (Some(error.name()), Some(error.to_string()));
        let secret = secret.to_owned();
        Self { secret, state, version: None, since: None, late: false, error, reason, consumers: vec![] }
    }
}

/// The answer of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The secrets that were asked for.
    pub secrets: Vec<SecretReport>,
    /// How many of them are delivered.
    pub delivered: usize,
    /// How many are pending.
    pub pending: usize,
    /// How many failed.
    pub failed: usize,
    /// How many are late.
    pub late: usize,
    /// Whether all secrets with consumers were asked for, and the time was enough.
    pub complete: bool,
    /// Whether nothing was changed, because only the plan was asked for.
    #[serde(skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

impl Answer {
    pub(crate) fn new(secrets: Vec<SecretReport>, asked_for_all: bool, dry_run: bool) -> Self {
        let count = |state| secrets.iter().filter(|secret| secret.state == state).count();
        let too_short = Some(DeliverError::TimeTooShort.name());
        let in_time = |secret: &SecretReport| {
            secret.error != too_short && secret.consumers.iter().all(|consumer| consumer.error != too_short)
        };
        Self {
            delivered: count(State::Delivered),
            pending: count(State::Pending),
            failed: count(State::Failed),
            late: secrets.iter().filter(|secret| secret.late).count(),
            complete: asked_for_all && secrets.iter().all(in_time),
            dry_run,
            secrets,
        }
    }

    /// The metrics of the fleet, under the name of the function. A run of some secrets, and a dry run, has none: its
    /// counts would stand for the fleet. The heartbeat is left out if the time was not enough.
    #[must_use]
    pub fn metrics(&self, function: &str, asked_for_all: bool) -> Vec<Datum> {
        if self.dry_run || !asked_for_all {
            return vec![];
        }
        let datum = |name, count: usize| {
            #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 secrets")]
            let value = count as f64;
            Datum { name, dimensions: vec![("Function", function.to_owned())], value, unit: Unit::Count }
        };
        let mut data = vec![
            datum("DeliveryPending", self.pending),
            datum("DeliveryFailed", self.failed),
            datum("DeliveryLate", self.late),
        ];
        if self.complete {
            data.push(datum("DeliverCompleted", 1));
        }
        data
    }
}

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum EventState {
    /// Every consumer has the current value.
    Delivered,
    /// A consumer needs a repair.
    DeliveryFailed,
    /// The delivery has taken longer than a quarter of the overlap.
    DeliveryLate,
}

/// An event for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The same for every repetition: version and state.
    pub id: String,
    /// What it tells.
    pub state: EventState,
    /// The secret's name.
    pub secret: String,
    /// The current version.
    pub version: String,
    /// Since when the value is not delivered, or when the delivery began.
    pub since: Option<String>,
    /// The consumers that do not have the value.
    pub consumers: Vec<ConsumerReport>,
    /// When it was found.
    #[serde(skip)]
    pub at: SystemTime,
}

impl From<&Event> for Notification {
    fn from(event: &Event) -> Self {
        let reasons = event.consumers.iter().map(|one| match &one.reason {
            Some(reason) => format!("{}: {reason}", one.consumer),
            None => one.consumer.clone(),
        });
        let reason = reasons.collect::<Vec<_>>().join("; ");
        let since = event.since.as_deref().and_then(parse_timestamp).unwrap_or(event.at);
        Self {
            secret: event.secret.clone(),
            version: VersionId::new(event.version.clone()),
            at: event.at,
            state: match event.state {
                EventState::Delivered => notification::State::Delivered,
                EventState::DeliveryFailed => notification::State::DeliveryFailed { reason },
                EventState::DeliveryLate => notification::State::DeliveryLate { since, reason },
            },
            next_steps: event.consumers.iter().filter_map(|one| one.repair.clone()).collect(),
        }
    }
}

impl Event {
    /// The event about a secret, if there is one to tell. `ended` says whether this run has ended a delivery.
    pub(crate) fn of(report: &SecretReport, ended: Option<SystemTime>, at: SystemTime) -> Option<Self> {
        let state = match (report.state, report.late, ended) {
            (State::Delivered, _, Some(_)) => EventState::Delivered,
            (State::Failed, ..) => EventState::DeliveryFailed,
            (State::Pending, true, _) => EventState::DeliveryLate,
            _ => return None,
        };
        let version = report.version.clone()?;
        let name = match state {
            EventState::Delivered => "Delivered",
            EventState::DeliveryFailed => "DeliveryFailed",
            EventState::DeliveryLate => "DeliveryLate",
        };
        Some(Self {
            id: format!("{version}-{name}"),
            state,
            secret: report.secret.clone(),
            version,
            since: report.since.clone().or_else(|| ended.map(format_timestamp)),
            consumers: report.consumers.iter().filter(|one| one.state != State::Delivered).cloned().collect(),
            at,
        })
    }
}
