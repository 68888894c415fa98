//! What the listing of all secrets tells, and which secrets it shows to need a closer check.

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::lambda::AUDIT;
use rotation::marked_ring;
use rotation::store::{Described, OperationStore, Page, StoreError, StoreErrorKind};
use rotation::versions::Stage;

use crate::action::Action;
use crate::actions::compromise::replaced_at_once;
use crate::error::OperateError;
use crate::kinds::Kind;
use crate::marker::{open_rotation, unfinished};
use crate::operator::Operator;
use crate::sweep::context::Sweep;
use crate::sweep::delivery::may_be_undelivered;
use crate::sweep::report::Report;
use crate::sweep::timing::{RECENT, THROTTLED_PAUSES, is_left, since};
use crate::tidy::is_untidy;

/// For so long after its end a sweep tries to end an overlap. Then it is somebody's own way back, or an alarm has long said so.
pub(super) const TRIED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The most secrets that one sweep checks: 1.5 KB of memory each were measured.
const MOST_CHECKED: usize = 20_000;

/// What is checked of a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checks {
    /// Whether the value works: it was rotated not long ago.
    pub(super) value: bool,
    /// Whether an overlap is over, or was ended without a proof.
    pub(super) overlap: bool,
    /// Whether the ring is complete: the current one is not the one that is marked so.
    pub(super) ring: bool,
    /// What actions that died have left behind.
    pub(super) leftovers: bool,
    /// Whether a consumer lacks the current value.
    pub(super) delivery: bool,
}

impl Checks {
    fn if_any(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

/// The secrets that are checked.
#[derive(Default)]
pub(super) struct DueChecks {
    pub(super) secrets: Vec<(Described, Checks)>,
    pub(super) left_out: u64,
}

impl DueChecks {
    /// Takes a secret in. When there is no room, any one of all of them is left out.
    fn add(&mut self, secret: Described, checks: Checks, rng: &mut StdRng) {
        if self.secrets.len() < MOST_CHECKED {
            self.secrets.push((secret, checks));
            return;
        }
        self.left_out += 1;
        let all = MOST_CHECKED.saturating_add(usize::try_from(self.left_out).unwrap_or(usize::MAX));
        if let Some(place) = self.secrets.get_mut(rng.random_range(0..all)) {
            *place = (secret, checks);
        }
    }
}

impl Sweep<'_> {
    /// Lists all secrets, takes note of what the listing tells, and collects those that need a closer check. Where to go on, when it could
    /// not come to the end.
    ///
    /// # Errors
    /// When not even the first page can be listed.
    pub(super) async fn list_all<S: OperationStore>(
        &self,
        store: &S,
        report: &mut Report,
        (due, rng): (&mut DueChecks, &mut StdRng),
        reserve: Duration,
    ) -> Result<Option<String>, OperateError> {
        let (operator, prefix) = (self.operator, self.operator.stack.name_prefix());
        let mut next = self.request.from.clone();
        let mut listed_any = false;
        loop {
            let page = match list_page(operator, store, next.as_deref(), self.deadline).await {
                Ok(page) => page,
                // What was found so far is told all the same, and where to go on.
                Err(error) if listed_any => {
                    tracing::error!(target: AUDIT, error_type = error.name(), %error, "the sweep stops");
                    return Ok(next);
                }
                Err(error) => return Err(error.into()),
            };
            listed_any = true;
            for secret in page.secrets {
                if operator.scope.contains(&secret, prefix)
                    && let Some(checks) = report.note(operator, &secret)
                {
                    due.add(secret, checks, rng);
                }
            }
            next = page.next;
            if next.is_none() || self.deadline.left() < reserve {
                return Ok(next);
            }
        }
    }
}

/// One page of the listing; when the service throttles it, once more after a while.
///
/// # Errors
/// What the service refuses.
pub(crate) async fn list_page<S: OperationStore>(
    operator: &Operator,
    store: &S,
    from: Option<&str>,
    deadline: Deadline,
) -> Result<Page, StoreError> {
    let filter = operator.scope.filter(operator.stack.name_prefix());
    let mut pauses = THROTTLED_PAUSES.into_iter();
    loop {
        match (store.list(&filter, from).await, pauses.next()) {
            (Err(error), Some(pause)) if error.kind == StoreErrorKind::Throttled && deadline.pause(pause).await => {}
            (result, _) => return result,
        }
    }
}

impl Report {
    /// Takes note of what the listing tells of a secret, and says what has to be checked.
    fn note(&mut self, operator: &Operator, secret: &Described) -> Option<Checks> {
        self.secrets += 1;
        if secret.deleted || secret.replica_of.is_some() {
            return None;
        }
        self.note_by_hand(secret);
        let kind = operator.kind_of(secret)?;
        // Also where somebody has switched rotation off in the middle of it. One that was changed a moment ago may be in the
        // hands of an action that is under way.
        let left = is_left(secret, operator.abort_after);
        if let Some(action) = unfinished(secret).filter(|_| left) {
            self.note_unfinished(secret, action, operator.abort_after);
        }
        let checks = Checks {
            ring: kind == Kind::Keyring && is_ring_unmarked(secret),
            leftovers: kind != Kind::Other && is_untidy(secret),
            delivery: may_be_undelivered(&operator.stack, secret),
            ..Checks::default()
        };
        if !secret.rotation_enabled {
            return checks.if_any();
        }
        self.note_schedule(secret);
        if open_rotation(secret).is_some() {
            // How old a rotation is, a listing does not tell; the last change is not older.
            if left {
                self.note_stuck(secret, operator.abort_after);
            }
            return checks.if_any();
        }
        if kind == Kind::Other {
            self.note_other_kind(secret);
            return None;
        }
        let value = since(secret, secret.last_rotated).is_some_and(|age| age < RECENT);
        let overlap =
            kind == Kind::Token && (overlap_may_be_over(operator, secret) || (left && is_to_be_finished(secret)));
        let overlap = overlap || (kind == Kind::Issued && has_unused_credentials(secret));
        Checks { value, overlap, ..checks }.if_any()
    }
}

/// Whether a credential may be alive that is not current. What is current needs its label.
fn has_unused_credentials(secret: &Described) -> bool {
    let current = secret.versions.holder(&Stage::Current);
    let is_of_current = |holder, stage: &Stage| Some(holder) == current && *stage == Stage::issued(holder);
    secret.versions.all().any(|(holder, stage)| stage.is_of_issuing() && !is_of_current(holder, stage))
}

/// Whether the current ring is not the one that is marked as complete, or none is.
fn is_ring_unmarked(secret: &Described) -> bool {
    let current = secret.versions.holder(&Stage::Current);
    current.is_some() && secret.versions.holder(&marked_ring::stage()) != current
}

/// Whether the listing leaves it open that an overlap is over which nobody has ended.
fn overlap_may_be_over(operator: &Operator, secret: &Described) -> bool {
    let previous = secret.versions.holder(&Stage::Previous);
    if previous.is_none() || previous == secret.versions.holder(&Stage::Current) {
        return false;
    }
    // What is wrong with a policy is told when the value is read.
    let Ok(policy) = operator.stack_of(Kind::Token).for_secret(&secret.tags, secret.as_of) else {
        return false;
    };
    let began = secret.last_rotated.or(secret.last_changed);
    // An overlap whose end waits for a delivery is ended after it, and the labels of the delivery are the last change.
    let waited = operator.stack.has_consumers(&secret.name)
        && since(secret, secret.last_changed).is_some_and(|changed| changed < TRIED_FOR);
    since(secret, began).is_some_and(|age| age >= policy.overlap && (age < policy.overlap + TRIED_FOR || waited))
}

/// Whether a revocation was not proven, and is not part of a compromise, which its own action has to finish.
pub(super) fn is_being_revoked(secret: &Described) -> bool {
    unfinished(secret) == Some(Action::Revoke)
}

/// Whether tokens are still to be proven dead that a sweep may prove dead.
pub(super) fn is_to_be_finished(secret: &Described) -> bool {
    is_being_revoked(secret) || replaced_at_once(secret).is_some()
}
