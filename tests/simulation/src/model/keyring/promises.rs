//! What must hold of keys: none is lost, and none encrypts before every instance can decrypt with it.

use std::collections::BTreeSet;

use encryption_key::{LONGEST_INVOCATION, MAX_PENDING_AGE};
use rotation::event::VersionId;
use rotation::keyring::{Key, KeyId, Keyring as Ring};
use rotation::versions::Stage;

use super::values::name;
use super::{Application, CACHE_TIME, CLOCK_BEHIND, Held, Keyring, Memory, rows};
use crate::invariants::{Change, Checked, Moved, require};
use crate::model::{Model as _, Refusal, Shape};
use crate::operations::Name;
use crate::scenario::Defect;
use crate::schedule::Operation;
use crate::world::Inner;

pub(super) fn judge_operation(world: &Inner<Keyring>, operation: Operation) -> Checked {
    let (model, state) = (world.scenario.model, world.state());
    let Some(ring) = state.value_at(&Stage::Current).and_then(|value| model.ring(value)) else { return Ok(()) };
    if operation == Operation::Restore {
        let lost = world.memory.lost.iter().next();
        require(lost.is_none(), || format!("a restore succeeded, and key {lost:?} is not in the ring"))?;
    }
    if operation == Operation::Compromise {
        let clean = |id: &Name| ring.keys().any(|(_, key)| name(key) == *id && key.dates().compromised.is_none());
        let unmarked = model.shape == Shape::Json && world.asked.replaced_at_last().iter().any(clean);
        require(!unmarked, || "a compromise succeeded, and a key that it replaced is not marked".to_owned())?;
        let taken = |id: &Name| world.memory.gone.iter().any(|gone| gone.to_string() == **id);
        let held = |id: &Name| ring.keys().any(|(_, key)| name(key) == *id) || taken(id);
        require(world.asked.replaced().iter().all(held), || {
            "a compromise succeeded, and a key that it replaced is not in the ring".to_owned()
        })?;
    }
    if operation == Operation::Abort { Ok(()) } else { Keyring::judge_success(world) }
}

pub(super) fn operation_refusal(world: &Inner<Keyring>, operation: Operation, error: &str) -> Refusal {
    let model = world.scenario.model;
    let unprovable = matches!(model.application, Application::NameOnly | Application::CurrentOnly);
    match (operation, error) {
        (Operation::Rollback | Operation::Retire, "KeysMissing") if !world.memory.lost.is_empty() => Refusal::ForGood,
        (Operation::Compromise, "ConsumersUnproven") if unprovable && !model.is_declared() => Refusal::ForGood,
        _ => Refusal::Wrong,
    }
}

pub(super) fn remember(world: &mut Inner<Keyring>, change: &Change<'_>) -> Checked {
    let model = world.scenario.model;
    let Some(new) = change.new.and_then(|new| model.ring(new)) else {
        return Err("no keyring is current".to_owned());
    };
    let promoted = matches!(change.moved, Moved::Promoted { .. });
    if change.moved == Moved::Operated(Operation::Retire) {
        rows::invariant_retired_keys_are_not_needed(world, &new)?;
    }
    if !matches!(change.moved, Moved::ByHand) {
        rows::invariant_what_becomes_primary_is_archived(world, &new)?;
    }
    let old = change.old.filter(|_| promoted).and_then(|old| model.ring(old));
    let memory = &mut world.memory;
    require(!promoted || memory.lost.is_empty(), || {
        format!("a rotation went on while keys are missing: {:?}", memory.lost)
    })?;
    memory.find_lost_keys(change, &new);
    invariant_no_key_is_lost(memory, change.moved, &new)?;
    invariant_no_compromised_key_becomes_primary(memory, change.moved, &new)?;
    if let Some(old) = old.filter(|old| model.promotes_at_once(old, change.tags)) {
        invariant_at_once_means_fresh_keys(&old, &new)?;
        memory.at_once.insert(new.primary().id(), change.now);
    }
    let marked = new.keys().map(|(_, key)| key).filter(|key| key.dates().compromised.is_some());
    memory.compromised.extend(marked.map(Key::id));
    let ids: BTreeSet<KeyId> = new.keys().map(|(_, key)| key.id()).collect();
    memory.new = if promoted { &ids - &memory.current } else { BTreeSet::new() };
    memory.current = ids;
    Ok(())
}

pub(super) fn judge_success(world: &Inner<Keyring>) -> Checked {
    let (model, state) = (world.scenario.model, world.state());
    // The first value of a secret is made before any application can know it.
    let is_told = matches!(model.application, Application::Told | Application::CurrentOnly);
    let (Some(value), true) = (state.value_at(&Stage::Current), is_told && state.holder(&Stage::Previous).is_some())
    else {
        return Ok(());
    };
    let (ids, primary) = (model.ids(value), model.ring(value).map(|ring| ring.primary().id()));
    let works = |held: &Held| held.keys.is_superset(&ids) && held.primary == primary;
    require(world.instances.iter().all(works), || {
        "a rotation succeeded, and an instance does not work with its keyring".to_owned()
    })
}

pub(super) fn refusal(world: &Inner<Keyring>, version: &VersionId, error: &str) -> Refusal {
    let (model, state) = (world.scenario.model, world.state());
    let current = state.holder(&Stage::Current).and_then(|version| state.versions.get(version));
    let ring = current.and_then(|current| model.ring(current.value.as_ref()?));
    match (model.application, error) {
        // Until somebody puts them back.
        (_, "KeysMissing") if !world.memory.lost.is_empty() => Refusal::ForNow,
        (Application::NameOnly, "ConsumersUnproven") => Refusal::ForGood,
        (Application::CurrentOnly, "ConsumersUnproven") if !model.is_declared() => {
            let at_once = ring.is_some_and(|ring| model.promotes_at_once(&ring, &world.tags));
            if at_once { Refusal::ForGood } else { Refusal::Wrong }
        }
        (_, "StagedTooYoung") if !model.asks_every_instance() => {
            let created = ring.and_then(|ring| ring.staged()?.dates().created);
            let seen = created.zip(current).map(|(created, current)| {
                let succeeded = world.last_rotated(&state).filter(|rotated| *rotated >= created);
                succeeded.unwrap_or(created + MAX_PENDING_AGE + LONGEST_INVOCATION).max(current.created)
            });
            let too_young = seen.is_some_and(|seen| world.now() < seen + CACHE_TIME + CLOCK_BEHIND);
            if too_young { Refusal::ForNow } else { Refusal::Wrong }
        }
        // It was opened by a rotation that was refused, and taken up too late: it was given up.
        (_, "PendingTooOld" | "UnknownVersion") => {
            let opened = state.versions.get(version).map(|version| version.created);
            let late = opened.is_some_and(|opened| opened + MAX_PENDING_AGE < world.now());
            if late { Refusal::ForNow } else { Refusal::Wrong }
        }
        _ => Refusal::Wrong,
    }
}

/// The keys that may have encrypted something.
pub(super) fn in_use(ring: &Ring) -> impl Iterator<Item = KeyId> {
    std::iter::once(ring.primary()).chain(ring.secondary()).map(Key::id)
}

impl Memory {
    /// Takes note of the keys that a person takes out of the ring, and of those that come back.
    pub(super) fn find_lost_keys(&mut self, change: &Change<'_>, new: &Ring) {
        if change.moved == Moved::Operated(Operation::Retire) {
            self.complete.retain(|id| new.get(*id).is_some());
        }
        let missing: BTreeSet<KeyId> = self.complete.iter().copied().filter(|id| new.get(*id).is_none()).collect();
        let back: Vec<KeyId> = self.gone.iter().copied().filter(|id| new.get(*id).is_some()).collect();
        self.restored.extend(back.iter().map(|id| (*id, change.now)));
        self.gone.retain(|id| new.get(*id).is_none());
        if change.moved == Moved::ByHand {
            self.gone.extend(self.current.iter().copied().filter(|id| new.get(*id).is_none()));
            // A value from before a retirement: nobody has its key, until the caches are too old.
            let retired = new.keys().map(|(_, key)| key.id()).filter(|id| self.table.has_retired(*id));
            self.restored.extend(retired.map(|id| (id, change.now)));
        }
        if matches!(change.moved, Moved::ByHand | Moved::Operated(Operation::Restore)) {
            // An old value does not know what a person has marked since; nor does the last complete ring, when no sweep has seen it.
            let unmarked = |id: &KeyId| new.get(*id).is_some_and(|key| key.dates().compromised.is_none());
            self.compromised.retain(|id| !unmarked(id));
        }
        self.lost = &missing & &self.gone;
    }
}

/// Data is never lost: a key that was current stays current, unless it came with a version that is put back and has encrypted
/// nothing.
pub(super) fn invariant_no_key_is_lost(memory: &Memory, moved: Moved, new: &Ring) -> Checked {
    let lost = memory.current.iter().filter(|id| new.get(**id).is_none() && !memory.gone.contains(id));
    let mut lost = lost.filter(|id| moved != Moved::PutBack || memory.used.contains(id) || !memory.new.contains(id));
    lost.next().map_or(Ok(()), |id| Err(format!("key {id} is no longer in the current keyring")))
}

/// No rotation makes a key primary, or leaves it so, that an operator has marked as compromised.
pub(super) fn invariant_no_compromised_key_becomes_primary(memory: &Memory, moved: Moved, new: &Ring) -> Checked {
    let primary = new.primary().id();
    let promoted = matches!(moved, Moved::Promoted { .. } | Moved::Operated(Operation::Rollback));
    require(!promoted || !memory.compromised.contains(&primary), || {
        format!("a ring became current whose primary key {primary} is compromised")
    })
}

/// Where the primary key may be known to others, so is the staged key beside it: neither a new primary nor a new staged key
/// was in the ring that is replaced.
pub(super) fn invariant_at_once_means_fresh_keys(old: &Ring, new: &Ring) -> Checked {
    let encrypts = std::iter::once(new.primary()).chain(new.staged());
    let known = encrypts.map(Key::id).find(|id| old.get(*id).is_some());
    known.map_or(Ok(()), |id| Err(format!("key {id} was to be replaced at once, and is in use or staged again")))
}

/// When a key encrypts for the first time, every instance decrypts with it.
pub(super) fn invariant_known_before_it_encrypts(world: &Inner<Keyring>, primary: KeyId) -> Checked {
    let mut knows =
        (0..world.instances.len()).map(|number| !must_know(world, number, primary) || holds(world, number, primary));
    require(knows.all(|knows| knows), || format!("key {primary} encrypts, and an instance does not know it yet"))
}

/// Every record that was ever encrypted is readable for every instance, and for one that starts now.
pub(super) fn invariant_every_record_is_readable(world: &Inner<Keyring>) -> Checked {
    for id in &world.memory.used {
        for number in 0..world.instances.len() {
            require(!must_know(world, number, *id) || holds(world, number, *id), || {
                format!("instance {number} cannot read what is encrypted with key {id}")
            })?;
        }
    }
    let Some(fresh) = world.scenario.model.loaded(&world.state()) else { return Ok(()) };
    let unreadable = world.memory.used.difference(&fresh.keys).find(|id| !world.memory.gone.contains(id));
    unreadable.map_or(Ok(()), |id| Err(format!("a new instance cannot read what is encrypted with key {id}")))
}

pub(super) fn holds(world: &Inner<Keyring>, number: usize, id: KeyId) -> bool {
    world.instances[number].keys.contains(&id)
}

/// Whether an instance has to read what is encrypted with this key. One that holds nothing has not started. A key that became
/// primary at once is known beforehand only where every instance loads what is pending; others may lack it until their
/// cache is old, or, when they are broken, until they are repaired.
pub(super) fn must_know(world: &Inner<Keyring>, number: usize, id: KeyId) -> bool {
    if world.instances[number].primary.is_none() || world.memory.gone.contains(&id) {
        return false;
    }
    if world.memory.restored.get(&id).is_some_and(|since| world.now() < *since + CACHE_TIME) {
        return false;
    }
    let Some(since) = world.memory.at_once.get(&id) else { return true };
    // Of a broken one the rotation cannot know that it will drop what it has loaded.
    let is_proven = world.scenario.model.application == Application::Told
        && (!world.is_broken(number) || world.scenario.defect == Some(Defect::Frozen));
    is_proven || (!world.is_broken(number) && world.now() >= *since + CACHE_TIME)
}
