//! What a sweep has found: its answer, its metrics and its lines in the log.

use std::time::{Duration, SystemTime};

use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::lambda::AUDIT;
use rotation::notification::Notification;
use rotation::policy::{ByHand, by_hand};
use rotation::store::Described;
use rotation::telemetry::{Datum, Unit};
use rotation::time::format_timestamp;
use serde::Serialize;

use crate::action::Action;
use crate::delivery::{Undelivered, command};
use crate::error::{OperateError, Problem};
use crate::services::Notified;
use crate::sweep::digest::{Digest, Window};
use crate::sweep::events::Events;
use crate::sweep::timing::{overdue_by, since};

/// The most secrets that an answer names of each kind.
const NAMED: usize = 100;

/// The answer.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SweepAnswer {
    secrets: u64,
    managed: u64,
    verified: u64,
    unproven: u64,
    revoked: u64,
    revoked_secrets: Vec<String>,
    overlaps_expired: u64,
    overdue: Vec<String>,
    stuck: Vec<String>,
    unfinished: Vec<Unfinished>,
    keys_missing: Vec<String>,
    due_by_hand: Vec<String>,
    not_delivered: Vec<NotDelivered>,
    failed: u64,
    problems: Vec<SecretProblem>,
    skipped: u64,
    complete: bool,
    continue_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reencryption: Option<Reencryption>,
    /// Whether the message went out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notified: Option<Notified>,
    /// How many notifications were sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) events_sent: Option<usize>,
}

/// A current value that a consumer lacks.
#[derive(Clone, Debug, Serialize)]
struct NotDelivered {
    secret: String,
    since: String,
    late: bool,
    repair: String,
}

#[derive(Clone, Debug, Serialize)]
struct Unfinished {
    secret: String,
    action: Action,
}

#[derive(Clone, Debug, Serialize)]
struct SecretProblem {
    secret: String,
    #[serde(flatten)]
    problem: Problem,
}

/// Whether the rows follow their key.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Reencryption {
    /// There are rows that may be under an old key.
    Due(Due),
    /// That cannot be found out, or no execution can be started.
    Problem { secret: String, problem: String },
}

/// A re-encryption that is due.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Due {
    pub(super) secret: String,
    pub(super) version: VersionId,
    pub(super) old_keys: usize,
    /// Whether an execution was started.
    pub(super) started: bool,
    /// Why none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) because: Option<String>,
    /// The execution's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) execution: Option<String>,
    /// How it ended, when that was without success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<String>,
}

/// What a check of one secret has shown.
pub(super) enum CheckResult {
    /// Nothing is wrong with it.
    Well {
        /// Whether it was proven to work; nothing when its value was not checked, because its rotation is long ago.
        proven: Option<bool>,
        /// What is to be said of its last rotation.
        overlap: String,
        /// Until when the old token is accepted.
        accepted_until: Option<SystemTime>,
        /// The overlap is over; it is ended when the secret has not been changed for a while, and is delivered.
        postponed: bool,
    },
    /// The overlap was over, and was ended; which version is current since. Or a revocation was proven.
    Revoked(Option<VersionId>),
    Failed(Failure),
    /// There was no time left for it.
    Skipped,
}

/// What is wrong with a secret.
pub(super) struct Failure {
    pub(super) error: OperateError,
    pub(super) of: Part,
}

/// Which part of a secret fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Its current value does not work, or cannot be read.
    Value,
    /// Its overlap could not be ended.
    Overlap,
    /// Keys have disappeared from its ring, or nothing can tell whether they have.
    Ring,
}

impl Part {
    fn told(self) -> &'static str {
        match self {
            Self::Value => "does not verify",
            Self::Overlap => "overlap not ended",
            Self::Ring => "keys are missing",
        }
    }
}

/// What a sweep has found.
#[derive(Debug)]
pub struct SweepResult {
    /// The answer.
    pub answer: SweepAnswer,
    /// What is published.
    pub metrics: Vec<Datum>,
    /// The subject and the text of the message, when there is something to tell.
    pub message: Option<(String, String)>,
    /// The notifications of what happened in the window.
    pub events: Vec<Notification>,
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    request_id: String,
    digest: Option<Digest>,
    events: Option<Events>,
    pub(super) secrets: u64,
    managed: u64,
    age_max: Duration,
    overdue_max: Duration,
    stuck_count: u64,
    unfinished_count: u64,
    old_token_accepted: u64,
    keys_missing_count: u64,
    due_by_hand_count: u64,
    answer: SweepAnswer,
}

fn name(names: &mut Vec<String>, secret: &Described) {
    if names.len() < NAMED {
        names.push(secret.name.clone());
    }
}

impl Report {
    /// An empty one, with Lambda's id of the request for the record, and the window of a sweep that a schedule asked for.
    pub(super) fn new(request_id: &str, window: Option<Window>) -> Self {
        Self {
            request_id: request_id.to_owned(),
            digest: window.map(Digest::new),
            events: window.map(Events::of),
            ..Self::default()
        }
    }

    /// Adds a notification, if any are sent.
    fn notify(&mut self, event: impl FnOnce(&mut Events)) {
        if let Some(events) = &mut self.events {
            event(events);
        }
    }

    /// Adds a line to the message, if one is sent.
    pub(super) fn tell(&mut self, line: impl FnOnce(&mut Digest)) {
        if let Some(digest) = &mut self.digest {
            line(digest);
        }
    }

    pub(super) fn skip(&mut self, secrets: u64) {
        self.answer.skipped += secrets;
    }

    /// An action died half way.
    pub(super) fn note_unfinished(&mut self, secret: &Described, action: Action, abort_after: Duration) {
        tracing::warn!(target: AUDIT, secret = secret.name, action = action.name(), "unfinished");
        self.unfinished_count += 1;
        if self.answer.unfinished.len() < NAMED {
            self.answer.unfinished.push(Unfinished { secret: secret.name.clone(), action });
        }
        self.tell(|digest| digest.unfinished(secret, action.name(), abort_after));
    }

    /// What people rotate of a secret, and is due.
    pub(super) fn note_by_hand(&mut self, secret: &Described) {
        let due: Vec<ByHand> = match by_hand(&secret.tags) {
            Ok(all) => all.into_iter().filter(|value| value.is_due(secret.as_of)).collect(),
            // A rotation of the secret, if there is one, is refused for the same reason.
            Err(error) => return self.add_problem(&secret.name, "is not reminded of", &error.into()),
        };
        if due.is_empty() {
            return;
        }
        self.due_by_hand_count += 1;
        tracing::warn!(target: AUDIT, secret = secret.name, values = due.len(), "due by hand");
        name(&mut self.answer.due_by_hand, secret);
        self.tell(|digest| digest.due_by_hand(secret, &due));
        self.notify(|events| events.due_by_hand(secret, &due));
    }

    /// How old the value of a secret with a schedule is, and how late its rotation.
    pub(super) fn note_schedule(&mut self, secret: &Described) {
        self.managed += 1;
        let age = since(secret, secret.last_rotated);
        self.age_max = self.age_max.max(age.unwrap_or_default());
        if let Some(overdue) = overdue_by(secret) {
            self.overdue_max = self.overdue_max.max(overdue);
            tracing::warn!(target: AUDIT, secret = secret.name, hours = overdue.as_secs() / 3_600, "overdue");
            name(&mut self.answer.overdue, secret);
            self.tell(|digest| digest.overdue(secret));
            self.notify(|events| events.overdue(secret));
        }
    }

    /// A rotation does not end.
    pub(super) fn note_stuck(&mut self, secret: &Described, abort_after: Duration) {
        tracing::warn!(target: AUDIT, secret = secret.name, "stuck");
        self.stuck_count += 1;
        name(&mut self.answer.stuck, secret);
        self.tell(|digest| digest.stuck(secret, abort_after));
        self.notify(|events| events.stuck(secret, abort_after));
    }

    /// A secret of a kind that only its own function knows.
    pub(super) fn note_other_kind(&mut self, secret: &Described) {
        self.tell(|digest| digest.rotated(secret, "only its own function can tell whether it works"));
        self.notify(|events| events.promoted(secret, None));
    }

    /// What the consumers of a secret lack.
    pub(super) fn add_delivery(&mut self, secret: &Described, undelivered: Result<Option<Undelivered>, OperateError>) {
        let undelivered = match undelivered {
            Ok(Some(undelivered)) => undelivered,
            Ok(None) => return,
            Err(error) => return self.add_problem(&secret.name, "delivery not checked", &error),
        };
        let (since, late) = (format_timestamp(undelivered.since), undelivered.is_late());
        let repair = command(&secret.name);
        if late {
            tracing::warn!(target: AUDIT, secret = secret.name, since, "not delivered");
            self.tell(|digest| digest.not_delivered(secret, &undelivered, &repair));
        }
        if self.answer.not_delivered.len() < NAMED {
            self.answer.not_delivered.push(NotDelivered { secret: secret.name.clone(), since, late, repair });
        }
    }

    /// What the check of a secret has shown.
    pub(super) fn add(&mut self, secret: &Described, result: CheckResult) {
        match result {
            CheckResult::Well { proven, overlap, accepted_until, postponed } => {
                self.answer.verified += u64::from(proven == Some(true));
                self.answer.unproven += u64::from(proven == Some(false));
                self.answer.overlaps_expired += u64::from(postponed);
                self.tell(|digest| digest.rotated(secret, &overlap));
                if proven.is_some() {
                    self.notify(|events| events.promoted(secret, accepted_until));
                }
            }
            CheckResult::Revoked(version) => {
                self.answer.revoked += 1;
                self.notify(|events| events.overlap_ended(secret, version.as_ref()));
                let reason = "the overlap is over";
                let (request_id, version) = (self.request_id.as_str(), version.as_ref().map(VersionId::as_str));
                tracing::info!(target: AUDIT, request_id, secret = secret.name, action = "revoke", reason, version, result = "done", "operation");
                name(&mut self.answer.revoked_secrets, secret);
                self.tell(|digest| digest.revoked(secret));
            }
            CheckResult::Skipped => self.skip(1),
            CheckResult::Failed(Failure { error, of }) => {
                self.answer.failed += u64::from(of == Part::Value);
                self.answer.overlaps_expired += u64::from(of == Part::Overlap);
                if of == Part::Ring {
                    self.keys_missing_count += 1;
                    name(&mut self.answer.keys_missing, secret);
                    self.notify(|events| events.keys_missing(secret, &error));
                }
                self.old_token_accepted +=
                    u64::from(error == OperateError::Rotation(RotationError::TargetAcceptsRevoked));
                self.add_problem(&secret.name, of.told(), &error);
            }
        }
    }

    /// The rows of the keyring do not follow their key.
    pub(super) fn add_reencryption_problem(&mut self, secret: &str, error: &OperateError) {
        self.answer.failed += 1;
        self.add_problem(secret, "rows are not re-encrypted", error);
    }

    fn add_problem(&mut self, secret: &str, what: &str, error: &OperateError) {
        tracing::error!(target: AUDIT, secret, error_type = error.name(), %error, "{what}");
        if self.answer.problems.len() < NAMED {
            self.answer.problems.push(SecretProblem { secret: secret.to_owned(), problem: Problem::of(error) });
        }
        self.tell(|digest| digest.problem(secret, what, error));
    }

    /// The answer, the metrics, the message and the notifications. `next` is where another sweep goes on, when this one did not come to the end.
    pub(super) fn finish(
        mut self,
        function: &str,
        next: Option<String>,
        reencryption: Option<Reencryption>,
    ) -> SweepResult {
        self.answer.complete = next.is_none() && self.answer.skipped == 0;
        let metrics = self.metrics(function);
        let Self { secrets, managed, digest, events, answer, .. } = self;
        let answer = SweepAnswer { secrets, managed, continue_from: next, reencryption, ..answer };
        let events = events.map(Events::take).unwrap_or_default();
        SweepResult { answer, metrics, message: digest.and_then(|digest| digest.message()), events }
    }

    /// The fleet's metrics, each under the function's name: one account may have several stacks, and the heartbeat of one must not
    /// stand for another's. It is left out when the sweep did not come to the end.
    fn metrics(&self, function: &str) -> Vec<Datum> {
        let datum =
            |name, value, unit| Datum { name, dimensions: vec![("Function", function.to_owned())], value, unit };
        let hours = |time: Duration| time.as_secs_f64() / 3_600.0;
        #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 secrets")]
        let count = |number: u64| number as f64;
        let mut data = vec![
            datum("SecretAgeMax", hours(self.age_max), Unit::Hours),
            datum("HoursOverdueMax", hours(self.overdue_max), Unit::Hours),
            datum("StuckPending", count(self.stuck_count), Unit::Count),
            datum("NotVerified", count(self.answer.failed), Unit::Count),
            datum("OverlapExpired", count(self.answer.overlaps_expired), Unit::Count),
            datum("OldTokenAccepted", count(self.old_token_accepted), Unit::Count),
            datum("UnfinishedOperations", count(self.unfinished_count), Unit::Count),
            datum("KeysMissing", count(self.keys_missing_count), Unit::Count),
            datum("DueByHand", count(self.due_by_hand_count), Unit::Count),
        ];
        if self.answer.complete {
            data.push(datum("SweepCompleted", 1.0, Unit::Count));
        }
        data
    }
}
