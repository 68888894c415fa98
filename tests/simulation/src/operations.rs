//! What operators ask for: the real operations on a secret, and what an answer of theirs has to mean.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use issued_credential::IssuedCredential;
use issued_credential::issuer::Issuer;
use operate::action::Action;
use operate::error::OperateError;
use operate::kinds::{KeyringKind, TokenKind};
use operate::marker::Marker;
use operate::sweep::OverlapEnd;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::error::RotationError;
use rotation::kind::SecretKind;
use rotation::policy::StackPolicy;
use rotation::session::Session;
use rotation::store::{Described, SecretStore as _};
use rotation::versions::Stage;
use serde_json::Value;

use crate::invariants::{Checked, Moved, require};
use crate::model::{Model, Refusal};
use crate::ports::{Caller, SimulatedTarget, Store};
use crate::scenario::{RotationService, Staleness};
use crate::schedule::Operation;
use crate::state::{Author, State};
use crate::tested::Tested;
use crate::world::Inner;

/// The functions' timeout.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// How old a rotation has to be before it can be aborted.
pub(crate) const ABORT_AFTER: Duration = Duration::from_secs(5 * 60);

/// A token, or the id of a key.
pub type Name = Arc<str>;

/// An operation that is under way.
pub type Operating = Pin<Box<dyn Future<Output = Result<(), OperateError>>>>;

/// Who performs an operation.
pub struct Operator<M: Model> {
    pub(crate) caller: Arc<Caller<M>>,
    pub(crate) operation: Operation,
}

impl<M: Model> Operator<M> {
    pub(crate) fn target(&self, model: M) -> Option<SimulatedTarget<M>> {
        SimulatedTarget::new(&self.caller, model)
    }

    pub(crate) async fn perform_on_token<K: TokenKind>(self, kind: K) -> Result<(), OperateError> {
        let Self { caller, operation } = self;
        let stand = Stand::tested(caller, kind)?;
        let (on, mut rng) = (stand.operation(), stand.rng());
        let secret = stand.describe().await?;
        let not_for_tokens =
            |action| OperateError::NotForThisKind { action, instead: "a token is replaced by a rotation" };
        match operation {
            Operation::Abort => on.abort(secret, ABORT_AFTER, &mut rng).await.map(drop),
            Operation::Rollback => on.roll_back_token(secret, &mut rng).await.map(drop),
            Operation::Revoke => on.revoke(secret, &mut rng).await.map(drop),
            Operation::EndOverlap => require_no_wait(on.end_overlap(&secret, &mut rng).await?),
            Operation::Compromise => on.compromise_token(secret, Some(SECRET), &mut rng).await.map(drop),
            Operation::Restore => Err(not_for_tokens(Action::Restore)),
            Operation::Retire => Err(not_for_tokens(Action::Retire)),
        }
    }

    pub(crate) async fn perform_on_keyring<K: KeyringKind>(self, kind: K) -> Result<(), OperateError> {
        let Self { caller, operation } = self;
        let censuses = M::censuses(&caller.world.lock());
        let stand = Stand::tested(caller, kind)?;
        let (on, mut rng) = (stand.operation(), stand.rng());
        let secret = stand.describe().await?;
        match operation {
            Operation::Abort => on.abort(secret, ABORT_AFTER, &mut rng).await.map(drop),
            Operation::Rollback => on.roll_back_keyring(secret, &mut rng).await.map(drop),
            Operation::Revoke | Operation::EndOverlap => Err(OperateError::NotForThisKind {
                action: Action::Revoke,
                instead: "what is encrypted with an old key has to stay readable",
            }),
            Operation::Compromise => on.compromise_keyring(secret, Some(SECRET), &mut rng).await.map(drop),
            Operation::Restore => on.restore(secret, Some(SECRET), &mut rng).await.map(drop),
            Operation::Retire => match censuses {
                Some(censuses) => on.retire(secret, &censuses, &mut rng).await.map(drop),
                None => Err(OperateError::CensusOutdated { problem: "nobody has counted".to_owned() }),
            },
        }
    }
}

/// What a sweep postpones, later sweeps do: it is asked for again.
fn require_no_wait(end: OverlapEnd) -> Result<(), OperateError> {
    let OverlapEnd::Stays { snapshot, postponed: true } = end else { return Ok(()) };
    snapshot.require_no_open_rotation()?;
    Err(RotationError::OnHold { name: SECRET.to_owned(), until: snapshot.secret.as_of }.into())
}

impl<M: Model> Operator<M> {
    /// Without [`Tested`]: the operations are those of this type alone.
    pub(crate) async fn perform_on_issued<I: Issuer>(self, kind: IssuedCredential<I>) -> Result<(), OperateError> {
        let Self { caller, operation } = self;
        let stand = Stand::new(caller, kind)?;
        let (on, mut rng) = (stand.operation(), stand.rng());
        let secret = stand.describe().await?;
        let not_for_credentials =
            |action| OperateError::NotForThisKind { action, instead: "a credential is issued afresh" };
        match operation {
            Operation::Abort => on.abort(secret, ABORT_AFTER, &mut rng).await.map(drop),
            Operation::Rollback => on.roll_back_issued(secret, &mut rng).await.map(drop),
            Operation::Revoke => proven(serde_json::to_value(on.revoke_issued(secret, &mut rng).await?)),
            Operation::Compromise => {
                proven(serde_json::to_value(on.compromise_issued(secret, Some(SECRET), &mut rng).await?))
            }
            // The next rotation revokes. What a sweep does beyond that is not searched.
            Operation::EndOverlap => Ok(()),
            Operation::Restore => Err(not_for_credentials(Action::Restore)),
            Operation::Retire => Err(not_for_credentials(Action::Retire)),
        }
    }
}

/// Who is told that a credential may still work sends the request again, as after a refusal.
fn proven(answer: serde_json::Result<Value>) -> Result<(), OperateError> {
    let proven = answer.is_ok_and(|answer| answer["provenRefused"] == true);
    if proven { Ok(()) } else { Err(RotationError::TargetAcceptsRevoked.into()) }
}

const SECRET: &str = "shop/secret";

/// What an operation stands on.
struct Stand<M: Model, K> {
    kind: K,
    stack: StackPolicy,
    store: Store<M>,
    deadline: Deadline,
}

impl<M: Model, K: SecretKind> Stand<M, Tested<M, K>> {
    fn tested(caller: Arc<Caller<M>>, kind: K) -> Result<Self, OperateError> {
        let scenario = caller.world.lock().scenario;
        Self::new(caller, Tested { kind, model: scenario.model, sabotage: scenario.sabotage })
    }
}

impl<M: Model, K: SecretKind> Stand<M, K> {
    fn new(caller: Arc<Caller<M>>, kind: K) -> Result<Self, OperateError> {
        let stack = caller.world.lock().scenario.stack(&kind)?;
        let deadline = Deadline::after(TIMEOUT);
        Ok(Self { kind, stack, store: Store { caller, deadline }, deadline })
    }

    fn operation(&self) -> operate::session::Operation<'_, K, Store<M>> {
        let Self { kind, stack, store, deadline } = self;
        operate::session::Operation::new(Session { kind, store, stack, secret_id: SECRET, deadline: *deadline })
    }

    async fn describe(&self) -> Result<Described, OperateError> {
        Ok(self.store.describe(SECRET).await?)
    }

    fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(u64::from(self.store.caller.invocation))
    }
}

/// What was asked for so far.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// What the last rollback has brought into use. While it is in use, there is nothing to roll back.
    rolled_back_to: Option<Name>,
    /// What was in use when a compromise was asked for that has not succeeded yet.
    exposed: BTreeSet<Name>,
    /// How often what is in use had changed then.
    exposed_at: usize,
    /// What was in use when a compromise was asked for that has succeeded.
    replaced: BTreeSet<Name>,
    /// The last of that, if nothing but the compromise has changed meanwhile what was in use.
    replaced_at_last: BTreeSet<Name>,
    /// How often what is in use has changed.
    changes: usize,
    /// How often something else than a rollback has changed it.
    changes_by_others: usize,
}

impl Asked {
    /// What was in use when a compromise was asked for that has succeeded.
    pub(crate) fn replaced(&self) -> &BTreeSet<Name> {
        &self.replaced
    }

    /// The last of that, if nothing but the compromise has changed meanwhile what was in use.
    pub(crate) fn replaced_at_last(&self) -> &BTreeSet<Name> {
        &self.replaced_at_last
    }
}

/// What one request has to bring about.
#[derive(Clone, Debug)]
pub(crate) struct Intent {
    pub(crate) operation: Operation,
    /// What a rollback has to bring into use.
    back: Option<Name>,
    /// What a compromise has to replace.
    exposed: BTreeSet<Name>,
    changes: usize,
    /// Whether every instance of the application knew what was in use.
    pub(crate) known: bool,
}

fn in_use<M: Model>(model: M, state: &State) -> Option<Name> {
    state.value_at(&Stage::Current).and_then(|value| model.in_use(value))
}

/// Takes note of a request.
pub(crate) fn ask<M: Model>(world: &mut Inner<M>, operation: Operation) -> Intent {
    let (model, state) = (world.scenario.model, world.state());
    let in_use = in_use(model, &state);
    let rolled_back = world.asked.rolled_back_to.is_some() && world.asked.rolled_back_to == in_use;
    let back = if rolled_back { in_use } else { model.back(&state) };
    let current = state.value_at(&Stage::Current);
    let exposed = current.map(|current| model.exposed_with(current)).unwrap_or_default();
    // The one before has come to its end, and its answer is not there yet.
    let is_over = world.scenario.staleness == Staleness::None
        && Marker::Compromised.holders(&state.listed()).next().is_none()
        && exposed.is_disjoint(&world.asked.exposed);
    if operation == Operation::Compromise && (world.asked.exposed.is_empty() || is_over) {
        world.asked.exposed = exposed;
        world.asked.exposed_at = world.asked.changes;
    }
    if world.scenario.staleness != Staleness::None && !world.asked.replaced.is_empty() {
        // It may still see the mark of the one that has just succeeded, and take itself for a repetition of that.
        world.asked.exposed.clear();
    }
    let (exposed, changes) = (world.asked.exposed.clone(), world.asked.changes_by_others);
    Intent { operation, back, exposed, changes, known: M::knows_current(world) }
}

/// Takes note of a change of the current value.
pub(crate) fn remember<M: Model>(world: &mut Inner<M>, moved: Moved, before: &State, after: &State, by_rollback: bool) {
    let model = world.scenario.model;
    let (was, is) = (in_use(model, before), in_use(model, after));
    if was != is {
        world.asked.changes += 1;
        world.asked.changes_by_others += usize::from(!by_rollback);
        match moved {
            Moved::Operated(Operation::Rollback) => world.asked.rolled_back_to = is,
            Moved::PutBack if by_rollback => world.asked.rolled_back_to = None,
            _ => {}
        }
    }
}

/// What a compromise has replaced is never in use again, unless a person wants it so.
pub(crate) fn invariant_what_was_replaced_stays_so<M: Model>(world: &Inner<M>, after: &State) -> Checked {
    let model = world.scenario.model;
    let exposed = after.value_at(&Stage::Current).map(|value| model.exposed_with(value)).unwrap_or_default();
    require(exposed.is_disjoint(&world.asked.replaced), || {
        "what a compromise has replaced is in use or staged again".to_owned()
    })
}

/// As long as a rotation is not seen to succeed, it may put the version back that it replaced: a compromise takes nothing away
/// before.
pub(crate) fn invariant_a_compromise_waits<M: Model>(world: &Inner<M>, before: &State, after: &State) -> Checked {
    let takes_away = before.holder(&Stage::Previous).is_some() && after.holder(&Stage::Previous).is_none();
    let model = world.scenario.model;
    let tokens = |state: &State| state.value_at(&Stage::Current).map(|value| model.tokens(value)).unwrap_or_default();
    let takes_out = !tokens(before).is_subset(&tokens(after));
    if tokens(before).is_empty() {
        // What others issue is judged when they revoke it.
        return Ok(());
    }
    let current = before.holder(&Stage::Current).and_then(|current| before.versions.get(current));
    let made = current.filter(|current| current.author == Author::Rotation).map(|current| current.created);
    let succeeded = made.is_none_or(|made| world.rotated.iter().any(|rotated| *rotated >= made));
    require(succeeded || !(takes_out || takes_away), || {
        "a token was taken away before the rotation had succeeded".to_owned()
    })
}

/// Judges an operation that has answered that it is done; `alone` when nothing else was under way.
pub(crate) fn judge<M: Model>(world: &mut Inner<M>, intent: &Intent, alone: bool) -> Checked {
    let (model, state) = (world.scenario.model, world.state());
    if intent.operation == Operation::Compromise {
        world.asked.exposed = &world.asked.exposed - &intent.exposed;
        world.asked.replaced.extend(intent.exposed.iter().cloned());
        let untouched = world.asked.changes <= world.asked.exposed_at + 1;
        world.asked.replaced_at_last = if untouched { intent.exposed.clone() } else { BTreeSet::new() };
        if world.asked.changes_by_others <= intent.changes + 1 {
            invariant_what_was_replaced_stays_so(world, &state)?;
        }
    }
    let now_in_use = in_use(model, &state);
    if intent.operation == Operation::Rollback && now_in_use == intent.back {
        // A rotation that was put back in the same moment may have brought it there.
        world.asked.rolled_back_to.clone_from(&now_in_use);
    }
    if !alone {
        return Ok(());
    }
    let listed = state.listed();
    let forgets = |markers: &[Marker]| {
        let left = markers.iter().find(|marker| marker.holders(&listed).next().is_some());
        require(left.is_none(), || format!("{} succeeded, and left {left:?}", intent.operation))
    };
    match intent.operation {
        Operation::Abort => {
            require(state.incomplete_rotation().is_none(), || "an abort succeeded, and a rotation is open".to_owned())?;
        }
        Operation::Rollback => {
            let back = now_in_use == intent.back || world.asked.changes_by_others != intent.changes;
            require(back, || "a rollback succeeded, and what was in use before is not".to_owned())?;
        }
        Operation::Revoke => forgets(&[Marker::Revoked, Marker::PreviousRevoked])?,
        Operation::Compromise => forgets(&[Marker::Revoked, Marker::PreviousRevoked, Marker::Compromised])?,
        // An overlap that is open stays open, and with it what was begun.
        Operation::EndOverlap | Operation::Retire | Operation::Restore => {}
    }
    M::judge_operation(world, intent.operation)
}

/// What to think of an operation that has answered with an error though nothing stood against it; `untold` when the application
/// may not have been told of what is current.
pub(crate) fn refusal<M: Model>(world: &Inner<M>, intent: &Intent, error: &str, untold: bool) -> Refusal {
    let (model, state) = (world.scenario.model, world.state());
    let honest = |holds: bool, refusal| if holds { refusal } else { Refusal::Wrong };
    match (intent.operation, error) {
        (_, "RotationOpen") | (Operation::Abort, "TooYoungToAbort") if state.incomplete_rotation().is_some() => {
            Refusal::ForNow
        }
        (Operation::Rollback, "NothingToGoBackTo") => honest(intent.back.is_none(), Refusal::ForGood),
        (Operation::Rollback, "Compromised") => honest(may_not_come_back(model, &state, intent), Refusal::ForGood),
        // Who takes a rotation up that died long ago finds its overlap too short.
        (Operation::Compromise, "NotFinished" | "RotationFailed")
            if matches!(world.scenario.service, RotationService::FirstDies(_)) =>
        {
            Refusal::ForNow
        }
        (_, "RefreshRefused" | "TargetRefused" | "DidNotVerify" | "CurrentDoesNotVerify")
            if untold && !intent.known =>
        {
            Refusal::ForNow
        }
        _ => M::operation_refusal(world, intent.operation, error),
    }
}

/// Whether what a rollback would bring back is marked as known to others, or as revoked.
fn may_not_come_back<M: Model>(model: M, state: &State, intent: &Intent) -> bool {
    let Some(back) = &intent.back else { return false };
    let listed = state.listed();
    let values = |marker: Marker| marker.holders(&listed).filter_map(|holder| state.value(holder)).collect::<Vec<_>>();
    let current = state.value_at(&Stage::Current);
    let own = |value: &Arc<str>| model.in_use(value).as_ref() == Some(back);
    let held = |value: &Arc<str>| !own(value) && model.tokens(value).contains(back);
    let exposed = values(Marker::Exposed).into_iter().any(own);
    let compromised = values(Marker::Compromised).into_iter().any(|value| own(value) || held(value));
    let revoked = values(Marker::Revoked).into_iter().any(own) || values(Marker::PreviousRevoked).into_iter().any(held);
    let being_replaced =
        Marker::Compromised.holders(&listed).any(|holder| Some(holder) == state.holder(&Stage::Current));
    let marked_in_the_value = current.is_some_and(|value| model.is_marked(value, back));
    exposed || compromised || revoked || being_replaced || marked_in_the_value
}
