//! The promises, as functions of one change of the secret, and of what the application holds after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use rotation::event::VersionId;
use rotation::marked_ring;
use rotation::versions::Stage;
use serde_json::value::RawValue;

use crate::model::{Model, Shape};
use crate::operations;
use crate::schedule::Operation;
use crate::state::{Author, State};
use crate::world::{Actor, Inner, Tags};

/// What has to be remembered of rotations in order to judge the next change.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// By version of a rotation or an operation: which version it replaced as current.
    replaced: BTreeMap<VersionId, VersionId>,
    /// The versions of rotations that were current.
    promoted: BTreeSet<VersionId>,
    /// By version of a rotation: after how many writes it was put back.
    rolled_back: BTreeMap<VersionId, usize>,
}

/// The current value has changed.
pub struct Change<'a> {
    pub(crate) moved: Moved,
    /// `None` when there was none.
    pub(crate) old: Option<&'a Arc<str>>,
    pub(crate) new: Option<&'a Arc<str>>,
    pub(crate) now: SystemTime,
    /// Those that the rotation was told which caused it; none when there was no rotation.
    pub(crate) tags: &'a Tags,
}

/// How it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// By a rotation; `again` when its version had been put back.
    Promoted { again: bool },
    /// A rotation or an operation put the version back that it had replaced.
    PutBack,
    /// An operation made a value current.
    Operated(Operation),
    /// Somebody stored a value.
    ByHand,
}

impl Promises {
    pub(crate) fn was_rolled_back(&self, version: &VersionId) -> bool {
        self.rolled_back.contains_key(version)
    }

    /// What the version of a rotation or an operation has replaced as current.
    pub(crate) fn replaced_by(&self, version: &VersionId) -> Option<&VersionId> {
        self.replaced.get(version)
    }
}

/// `Err` names the promise that does not hold.
pub(crate) type Checked = Result<(), String>;

pub(crate) fn require(holds: bool, broken: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(broken()) }
}

/// Checks a change that has just been made, and takes note of it.
pub(crate) fn check<M: Model>(world: &mut Inner<M>, actor: &Actor, before: &State) -> Checked {
    let after = world.state();
    invariant_one_current_with_a_value(before, &after)?;
    invariant_values_are_written_once(before, &after)?;
    let moved = (before.holder(&Stage::Current), after.holder(&Stage::Current));
    if let Actor::Function { version, admitted_at, .. } = actor {
        invariant_only_the_own_version_is_touched(&world.promises, version, before, &after)?;
        if let (from, Some(to)) = moved
            && to == version
            && from != Some(to)
        {
            let model = world.scenario.model;
            invariant_edits_survive(model, before, from, to, |new, old| model.is_made_from(new, old))?;
            invariant_no_promotion_after_a_rollback(&world.promises, version, *admitted_at)?;
        }
    }
    if let Actor::Operation { operation, .. } = actor {
        invariant_an_operation_touches_what_it_is_for(&world.promises, *operation, before, &after)?;
        if *operation == Operation::Compromise {
            operations::invariant_a_compromise_waits(world, before, &after)?;
        }
        if let (from, Some(to)) = moved
            && from != Some(to)
            && from.and_then(|from| world.promises.replaced.get(from)) != Some(to)
        {
            let model = world.scenario.model;
            let made_from = |new: &str, old: &str| model.is_made_by(*operation, new, old);
            invariant_edits_survive(model, before, from, to, made_from)?;
        }
    }
    if *actor != Actor::Person && moved.0 != moved.1 {
        operations::invariant_what_was_replaced_stays_so(world, &after)?;
    }
    remember(world, actor, before, &after)
}

/// Takes note of the value from before all rotations.
pub(crate) fn begin<M: Model>(world: &mut Inner<M>, state: &State) -> Checked {
    let Some(first) = state.value_at(&Stage::Current) else { return Ok(()) };
    let tags = &Tags::new();
    let change = Change { moved: Moved::ByHand, old: None, new: Some(first), now: world.now(), tags };
    M::remember(world, &change)
}

/// Promise 1: a secret that had a current value has one.
fn invariant_one_current_with_a_value(before: &State, after: &State) -> Checked {
    let has = |state: &State| state.value_at(&Stage::Current).is_some();
    require(has(after) || (!has(before) && after.holder(&Stage::Current).is_none()), || {
        "AWSCURRENT is gone, or on a version without a value".to_owned()
    })
}

/// Promise 3: a value is written once per token.
fn invariant_values_are_written_once(before: &State, after: &State) -> Checked {
    let kept = before.versions.iter().filter(|(_, version)| version.value.is_some());
    require(kept.into_iter().all(|(id, version)| after.versions.get(id) == Some(version)), || {
        "a value that was written has changed".to_owned()
    })
}

/// Promise 4: no version is promoted, changed or detached that the rotation did not create, except to restore the one that
/// it replaced.
fn invariant_only_the_own_version_is_touched(
    promises: &Promises,
    own: &VersionId,
    before: &State,
    after: &State,
) -> Checked {
    for (id, version) in &after.versions {
        require(id == own || before.versions.get(id) == Some(version), || format!("{id} was changed for {own}"))?;
    }
    let moved = |stage| {
        let (from, to) = (before.holder(&stage), after.holder(&stage));
        (from != to).then_some((from, to))
    };
    let of_operations = |state: &State| {
        let own_record = Stage::restored_after(own);
        // The labels of issuing are judged by what is alive at the provider.
        let is_other = |stage: &Stage| *stage != marked_ring::stage() && *stage != own_record && !stage.is_of_issuing();
        let marks = state.marks().filter(|(stage, _)| is_other(stage));
        marks.map(|(stage, version)| (stage.clone(), version.clone())).collect::<Vec<_>>()
    };
    require(of_operations(before) == of_operations(after), || format!("a stage of an operation was moved for {own}"))?;
    let restored = promises.replaced.get(own);
    if let Some((from, to)) = moved(marked_ring::stage()) {
        let promoted = to == Some(own) && promises.promoted.contains(own);
        let put_back = from == Some(own) && to.is_some() && to == restored;
        require(promoted || put_back, || format!("the mark of the ring moved from {from:?} to {to:?} for {own}"))?;
    }
    let current = moved(Stage::Current);
    if let Some((from, to)) = current {
        let promotion = to == Some(own);
        let rollback = from == Some(own) && to.is_some() && to == restored;
        require(promotion || rollback, || format!("AWSCURRENT moved from {from:?} to {to:?} for {own}"))?;
    }
    if let Some((from, to)) = moved(Stage::Pending) {
        let detached = from == Some(own) && to.is_none();
        // PutSecretValue has no compare-and-swap: the first put of a rotation that was abandoned meanwhile takes the stage
        // from whoever has it now. Such a rotation gives it up again, and cannot be promoted.
        let first_put = before.value(own).is_none() && after.value(own).is_some();
        let attached = to == Some(own) && (from.is_none() || first_put);
        require(detached || attached, || format!("AWSPENDING moved from {from:?} to {to:?} for {own}"))?;
    }
    if let Some((from, to)) = moved(Stage::Previous) {
        let by_itself = current.is_some_and(|(replaced, _)| to == replaced);
        // Nobody goes back to what is revoked.
        let revoked = to.is_none() && from.is_some_and(|from| after.is_at(from, &Stage::issued(from)));
        require(by_itself || revoked || from == Some(own), || {
            format!("AWSPREVIOUS moved from {from:?} to {to:?} for {own}")
        })?;
    }
    Ok(())
}

/// Promise 4 for an operation: it stores versions of its own, moves `AWSCURRENT` to one of them, or back to the version that
/// one replaced, and takes off no stage that it is not for.
fn invariant_an_operation_touches_what_it_is_for(
    promises: &Promises,
    operation: Operation,
    before: &State,
    after: &State,
) -> Checked {
    for (id, version) in &after.versions {
        let known = before.versions.get(id);
        let own = known.is_none() && version.author == Author::Operation;
        require(own || known == Some(version), || format!("{id} was changed by {operation}"))?;
    }
    let moved = |stage| {
        let (from, to) = (before.holder(&stage), after.holder(&stage));
        (from != to).then_some((from, to))
    };
    let puts_back = matches!(operation, Operation::Rollback | Operation::Retire);
    let current = moved(Stage::Current);
    if let Some((from, to)) = current {
        let is_own = |id| after.versions.get(id).is_some_and(|version| version.author == Author::Operation);
        let made = to.is_some_and(|to| is_own(to) && !promises.replaced.contains_key(to));
        let put_back = puts_back && to.is_some() && from.and_then(|from| promises.replaced.get(from)) == to;
        require((made && operation != Operation::Abort) || put_back, || {
            format!("AWSCURRENT was moved from {from:?} to {to:?} by {operation}")
        })?;
    }
    if let Some((from, to)) = moved(Stage::Pending) {
        let gives_up = matches!(operation, Operation::Abort | Operation::Compromise);
        let has_put = before.versions.len() != after.versions.len();
        // That rotation has come to its end.
        let is_over = from == before.holder(&Stage::Current);
        require(to.is_none() && (gives_up || has_put || is_over), || {
            format!("AWSPENDING was moved from {from:?} to {to:?} by {operation}")
        })?;
    }
    if let Some((from, to)) = moved(Stage::Previous) {
        let by_itself = current.is_some_and(|(replaced, _)| to == replaced);
        let restored = puts_back && from.is_some_and(|from| promises.replaced.contains_key(from));
        // Before `AWSCURRENT`: nobody may revoke then what comes back.
        let is_own = |id| after.versions.get(id).is_some_and(|version| version.author == Author::Operation);
        let brought = operation == Operation::Rollback && to.is_some_and(is_own);
        let taken_off = !puts_back && to.is_none();
        require(by_itself || restored || brought || taken_off, || {
            format!("AWSPREVIOUS was moved from {from:?} to {to:?} by {operation}")
        })?;
    }
    Ok(())
}

/// Promise 4: what a person stored after the rotation was opened is not replaced by it, and a JSON value is only replaced
/// by one that was made from it.
fn invariant_edits_survive<M: Model>(
    model: M,
    before: &State,
    from: Option<&VersionId>,
    to: &VersionId,
    is_made_from: impl Fn(&str, &str) -> bool,
) -> Checked {
    let (Some(from), Some(new)) = (from, before.versions.get(to)) else { return Ok(()) };
    let Some(old) = before.versions.get(from) else { return Ok(()) };
    require(old.author != Author::Person || old.created <= new.created, || {
        format!("{from}, which a person stored during the rotation, was replaced by {to}")
    })?;
    let (Some(old), Some(new)) = (&old.value, &new.value) else { return Ok(()) };
    if model.shape() == Shape::Json {
        let others = |value: &str| {
            let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(value).unwrap_or_default();
            members.retain(|name, _| !name.starts_with(M::FIELD));
            members.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect::<Vec<_>>()
        };
        require(others(old) == others(new), || {
            format!("{to} does not have the other members of {from}, byte for byte")
        })?;
    }
    require(is_made_from(new, old), || format!("{to} was not made from {from}"))
}

/// Promise 10: who was rolled back stays so, unless an invocation is under way that was admitted before: the stage is back
/// where that one expects it, and a compare-and-swap cannot see that it was away.
fn invariant_no_promotion_after_a_rollback(promises: &Promises, version: &VersionId, admitted_at: usize) -> Checked {
    let late = promises.rolled_back.get(version).is_some_and(|rolled_back_at| *rolled_back_at < admitted_at);
    require(!late, || format!("{version} was rolled back, and promoted again by an invocation that began later"))
}

fn remember<M: Model>(world: &mut Inner<M>, actor: &Actor, before: &State, after: &State) -> Checked {
    let (from, to) = (before.holder(&Stage::Current), after.holder(&Stage::Current));
    // The end of an overlap takes away only what nobody has to accept any more.
    let revokes = matches!(actor, Actor::Operation { operation, .. } if *operation != Operation::EndOverlap);
    if revokes && before.holder(&Stage::Previous).is_some() && after.holder(&Stage::Previous).is_none() {
        M::previous_taken_away(world);
    }
    let Some(to) = to.filter(|to| from != Some(to)) else { return Ok(()) };
    let (now, writes) = (world.now(), world.writes());
    let promises = &mut world.promises;
    let moved = match actor {
        Actor::Function { version, .. } if version == to => {
            promises.promoted.insert(to.clone());
            if let Some(from) = from {
                promises.replaced.insert(to.clone(), from.clone());
            }
            Moved::Promoted { again: promises.rolled_back.contains_key(to) }
        }
        Actor::Function { version, .. } => {
            promises.rolled_back.insert(version.clone(), writes);
            Moved::PutBack
        }
        Actor::Operation { operation, .. } => match from {
            Some(from) if promises.replaced.get(from) == Some(to) => Moved::PutBack,
            _ => {
                if let Some(from) = from {
                    promises.replaced.insert(to.clone(), from.clone());
                }
                Moved::Operated(*operation)
            }
        },
        Actor::Service | Actor::Person => Moved::ByHand,
    };
    let by_rollback = matches!(actor, Actor::Operation { operation: Operation::Rollback, .. });
    operations::remember(world, moved, before, after, by_rollback);
    let none = Tags::new();
    let tags = match actor {
        Actor::Function { tags, .. } | Actor::Operation { tags, .. } => tags,
        Actor::Service | Actor::Person => &none,
    };
    let old = from.and_then(|from| after.value(from));
    let change = Change { moved, old, new: after.value(to), now, tags };
    M::remember(world, &change)
}
