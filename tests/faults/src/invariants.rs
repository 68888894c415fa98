//! The promises, as functions of one change of the secret, and of what the application holds after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rotation::event::VersionId;
use rotation::versions::Stage;

use crate::application::{Instance, member, token};
use crate::scenario::{Application, FIELD, OVERLAP, Scenario};
use crate::state::{Author, State};
use crate::world::{Actor, Inner};

/// What has to be remembered in order to judge the next change.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// By version of a rotation: which version it replaced as current.
    replaced: BTreeMap<VersionId, VersionId>,
    /// By version of a rotation: after how many writes it was put back.
    rolled_back: BTreeMap<VersionId, usize>,
    /// The token that was current before a rotation, and until when it has to be accepted.
    previous: Option<(Arc<str>, SystemTime)>,
    /// The token that was current before the last move by a rotation, whichever direction that had.
    displaced: Option<Arc<str>>,
    /// The instances may have dropped the token that has just become current, until they are told: its version was put
    /// back once, and promoted again by an invocation that was admitted before; or a rollback came after the overlap.
    until_told: bool,
}

impl Promises {
    pub(crate) fn was_rolled_back(&self, version: &VersionId) -> bool {
        self.rolled_back.contains_key(version)
    }

    /// The token that has to be accepted beside the current one.
    pub(crate) fn previous(&self, now: SystemTime) -> Option<&Arc<str>> {
        self.previous.as_ref().filter(|(_, until)| now < *until).map(|(token, _)| token)
    }
}

type Checked = Result<(), String>;

fn require(holds: bool, broken: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(broken()) }
}

/// Checks a change that has just been made, and takes note of it.
pub(crate) fn check(world: &mut Inner, actor: &Actor, before: &State) -> Checked {
    let after = world.state();
    invariant_one_current_with_a_value(before, &after)?;
    invariant_values_are_written_once(before, &after)?;
    let moved = (before.holder(&Stage::Current), after.holder(&Stage::Current));
    if let Actor::Function { version, admitted_at } = actor {
        invariant_only_the_own_version_is_touched(&world.promises, version, before, &after)?;
        if let (from, Some(to)) = moved
            && to == version
            && from != Some(to)
        {
            invariant_edits_survive(&world.scenario, before, from, to)?;
            invariant_no_promotion_after_a_rollback(&world.promises, version, *admitted_at)?;
        }
    }
    remember(world, actor, before, &after);
    Ok(())
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
    let restored = promises.replaced.get(own);
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
        require(by_itself || from == Some(own), || format!("AWSPREVIOUS moved from {from:?} to {to:?} for {own}"))?;
    }
    Ok(())
}

/// Promise 4: what a person stored after the rotation was opened is not replaced by it, and a JSON value is only replaced
/// by one that was made from it.
fn invariant_edits_survive(scenario: &Scenario, before: &State, from: Option<&VersionId>, to: &VersionId) -> Checked {
    let (Some(from), Some(new)) = (from, before.versions.get(to)) else { return Ok(()) };
    let Some(old) = before.versions.get(from) else { return Ok(()) };
    require(old.author != Author::Person || old.created <= new.created, || {
        format!("{from}, which a person stored during the rotation, was replaced by {to}")
    })?;
    let (Some(field), Some(old), Some(new)) = (scenario.field(), &old.value, &new.value) else { return Ok(()) };
    let others = |value: &str| {
        let mut value: serde_json::Value = serde_json::from_str(value).unwrap_or_default();
        if let Some(members) = value.as_object_mut() {
            members.retain(|name, _| !name.starts_with(FIELD));
        }
        value
    };
    require(others(old) == others(new), || format!("{to} does not have the other members of {from}"))?;
    let kept = member(new, &format!("{field}_PREVIOUS"));
    require(kept.is_some() && kept == token(scenario, old), || format!("{to} was not made from {from}"))
}

/// Promise 10: who was rolled back stays so, unless an invocation is under way that was admitted before: the stage is back
/// where that one expects it, and a compare-and-swap cannot see that it was away.
fn invariant_no_promotion_after_a_rollback(promises: &Promises, version: &VersionId, admitted_at: usize) -> Checked {
    let late = promises.rolled_back.get(version).is_some_and(|rolled_back_at| *rolled_back_at < admitted_at);
    require(!late, || format!("{version} was rolled back, and promoted again by an invocation that began later"))
}

fn remember(world: &mut Inner, actor: &Actor, before: &State, after: &State) {
    let (from, to) = (before.holder(&Stage::Current), after.holder(&Stage::Current));
    let (Some(from), Some(to)) = (from, to) else { return };
    if from == to {
        return;
    }
    let token_of = |version| after.value(version).and_then(|value| token(&world.scenario, value));
    let (old, new) = (token_of(from), token_of(to));
    let (now, writes) = (world.now(), world.writes());
    let promises = &mut world.promises;
    match actor {
        Actor::Function { version, .. } if version == to => {
            promises.replaced.insert(to.clone(), from.clone());
            promises.until_told = promises.rolled_back.contains_key(to);
            // A retry may come late; then half of the overlap is promised. The times are written in whole seconds.
            promises.previous = old.clone().map(|old| (old, now + OVERLAP / 2 - Duration::from_secs(1)));
            promises.displaced = old;
        }
        Actor::Function { version, .. } => {
            promises.rolled_back.insert(version.clone(), writes);
            promises.until_told = promises.previous(now).is_none();
            promises.previous = None;
            promises.displaced = old;
        }
        Actor::Service | Actor::Person if old != new => {
            promises.previous = None;
            promises.until_told = false;
            promises.displaced = None;
        }
        Actor::Service | Actor::Person => {}
    }
}

/// Promise 1, and the overlap: whoever holds the current token, or the one before it until the overlap ends, is let pass by
/// every instance, and by one that starts now.
///
/// An application that reads `AWSCURRENT` only cannot promise that: each of its instances accepts the current token, or the
/// one that the rotation's last move displaced. The same holds for all after a version was promoted again that had been put
/// back (see [`invariant_no_promotion_after_a_rollback`]), and after a rollback that came later than the overlap's end.
///
/// A secret that never had a value has no clients. A broken application accepts the token from before the rotation at all
/// times.
pub(crate) fn invariant_authorised_clients_are_accepted(world: &Inner) -> Checked {
    if world.scenario.application == Application::None {
        return Ok(());
    }
    let now = world.now();
    let state = world.state();
    let current = state.value_at(&Stage::Current).and_then(|value| token(&world.scenario, value));
    let Some(current) = current else { return Ok(()) };
    if !world.is_healthy() {
        let first = world.first_token.as_ref().is_none_or(|first| world.accepted_everywhere(first));
        return require(first, || "the token from before the rotation is refused".to_owned());
    }
    if world.scenario.application == Application::CurrentOnly || world.promises.until_told {
        let displaced = world.promises.displaced.as_ref();
        let accepts = |held: &Instance| {
            held.accepts(&current, now) || displaced.is_some_and(|displaced| held.accepts(displaced, now))
        };
        return require(world.instances.iter().all(accepts), || {
            "an instance accepts neither the current token nor the one before".to_owned()
        });
    }
    let previous = world.promises.previous(now);
    for (which, token) in [("current", Some(&current)), ("previous", previous)] {
        let Some(token) = token else { continue };
        require(world.accepted_everywhere(token), || format!("an instance refuses the {which} token"))?;
        require(world.accepted_by_a_new_instance(token), || format!("a new instance would refuse the {which} token"))?;
    }
    Ok(())
}
