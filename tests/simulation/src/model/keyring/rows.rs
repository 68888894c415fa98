//! The rows that an application stores under its keyring, and who works on them: instances, which write under the primary key
//! that they hold and read with all the keys that they hold; workers, which encrypt rows again; censuses, which count them.
//!
//! A map stands in the place of PostgreSQL: a worker's write takes effect only on the value that it has read. Keys, ciphers and the
//! forms of rows are the real ones.

mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::archive::Archive;
use rotation::census::Census;
use rotation::keyring::{Ciphers, KeyFormat, KeyId, Keyring as Ring};
use rotation::rows::aad::associated_data;
use rotation::rows::{Encoding, Opened, RowCodec, RowFormat};
use rotation::secret::SecretText;
use rotation::time::{format_timestamp, parse_timestamp};
use rotation::versions::Stage;
use serde_json::Value;

pub(crate) use worker::{census, rewrap};

use super::Keyring;
use super::promises::must_know;
use crate::invariants::{Checked, require};
use crate::scenario::Sabotage;
use crate::world::Inner;

/// How many rows there are at most, beside those that transactions insert.
pub const ROWS: u32 = 4;
/// How many rows are inserted in transactions that stay open.
pub const INSERTED: u32 = 2;

const SECRET: &str = "shop/secret";
/// How often a worker looks again at a row that was written in between.
const MOST_LOOKS: usize = 3;

/// The application's table, and what has to be remembered of those who work on it.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: BTreeMap<u32, Row>,
    /// What is inserted in open transactions.
    open: BTreeMap<u32, Row>,
    /// What was stored before, and a backup has.
    past: BTreeMap<u32, Vec<Row>>,
    /// Whether a trigger changes what a value is bound to.
    trigger: bool,
    /// A row whose value a worker bound to something that does not stand beside it.
    torn: Option<u32>,
    /// How often a value was stored.
    stored: u64,
    /// By the value of a keyring.
    readers: HashMap<Arc<str>, Reader>,
    /// By invocation: the primary key of the ring that a worker works with, and until when it lives.
    workers: BTreeMap<u32, (KeyId, SystemTime)>,
    /// What censuses have answered.
    pub(crate) censuses: Vec<Value>,
    /// The keys that have left the ring.
    retired: BTreeSet<KeyId>,
    /// The archive that was looked at last, and the keys in it.
    archived: Option<(Arc<str>, BTreeSet<KeyId>)>,
    pub(crate) seen: Seen,
}

/// What has happened to rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Writes by the application.
    pub written: u64,
    /// Rows that a worker brought under its primary key.
    pub rewrapped: u64,
    /// Rows that were written while a worker had them in hand.
    pub overtaken: u64,
    /// Censuses that came to their end.
    pub censuses: u64,
    /// Keys that left the ring.
    pub retired: u64,
    /// Censuses beside open transactions.
    pub unsettled: u64,
    /// Rows that are as a backup had them.
    pub restored: u64,
    /// Writes of workers that a trigger would have made useless.
    pub undone: u64,
}

impl Seen {
    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: Self) {
        let Self { written, rewrapped, overtaken, censuses, retired, unsettled, restored, undone } = other;
        self.written += written;
        self.rewrapped += rewrapped;
        self.overtaken += overtaken;
        self.censuses += censuses;
        self.retired += retired;
        self.unsettled += unsettled;
        self.restored += restored;
        self.undone += undone;
    }
}

#[derive(Clone, Debug)]
struct Row {
    stored: Vec<u8>,
    /// The number of what is stored: no two values have the same.
    number: u64,
    /// The key that it is under.
    key: KeyId,
    /// What the application wrote last.
    text: Vec<u8>,
    /// The column that the value is bound to, as it is and as it was when the value was made. While they differ, nobody can open the
    /// value, and it needs its key none the less.
    owner: u8,
    bound_to: u8,
}

/// The keys of one ring at work, and what they made of the values that were looked at before.
#[derive(Debug)]
struct Reader {
    ciphers: Ciphers,
    opened: HashMap<u64, Option<Vec<u8>>>,
}

impl Keyring {
    fn row_format(self) -> RowFormat {
        match self.format {
            KeyFormat::Raw => RowFormat::AesGcm,
            KeyFormat::Fernet => RowFormat::Fernet,
            KeyFormat::Tink => RowFormat::Tink,
        }
    }

    fn ciphers(self, value: &str) -> Option<Ciphers> {
        self.format.wire().ciphers(&self.document(value)?).ok()
    }

    fn codec(self, ciphers: &Ciphers) -> RowCodec<'_> {
        RowCodec::new(self.row_format(), Encoding::Binary, ciphers)
    }

    fn aad(self, id: u32, owner: u8) -> Vec<u8> {
        let columns = [id.to_string(), owner.to_string()];
        let columns: Vec<&[u8]> = columns.iter().map(String::as_bytes).collect();
        if self.row_format().takes_aad() { associated_data(&columns) } else { vec![] }
    }

    /// The value of a row with this text under the primary key.
    fn sealed(self, ciphers: &Ciphers, text: &[u8], aad: &[u8], now: SystemTime, number: u64) -> Option<Vec<u8>> {
        let (_, cipher) = ciphers.iter().next()?;
        let rng = &mut StdRng::seed_from_u64(number);
        match self.row_format() {
            RowFormat::Fernet => cipher.seal(text, now, rng),
            _ => cipher.seal_bytes(text, aad, 0, rng),
        }
    }
}

impl Row {
    fn is_whole(&self, model: Keyring) -> bool {
        self.owner == self.bound_to || !model.row_format().takes_aad()
    }
}

impl Table {
    /// Does something with the keys of a value.
    fn reader(&mut self, model: Keyring, value: &Arc<str>) -> Option<&mut Reader> {
        if !self.readers.contains_key(value) {
            let reader = Reader { ciphers: model.ciphers(value)?, opened: HashMap::new() };
            self.readers.insert(Arc::clone(value), reader);
        }
        self.readers.get_mut(value)
    }

    /// What a row that is whole tells whoever holds the keys of a value.
    fn open(&mut self, model: Keyring, value: &Arc<str>, id: u32, row: &Row) -> Option<Vec<u8>> {
        let reader = self.reader(model, value)?;
        let codec = model.codec(&reader.ciphers);
        let opened = reader.opened.entry(row.number).or_insert_with(|| {
            match codec.open(&row.stored, &model.aad(id, row.bound_to)) {
                Opened::Under(_, text) => Some(text.to_vec()),
                Opened::Unknown | Opened::Damaged | Opened::Foreign => None,
            }
        });
        opened.clone()
    }

    /// Whether the key has left the ring because no row needed it.
    pub(super) fn has_retired(&self, id: KeyId) -> bool {
        self.retired.contains(&id)
    }

    /// The keys that rows are under, and with which somebody may write one.
    pub(super) fn needed(&self, now: SystemTime) -> BTreeSet<KeyId> {
        let working = self.workers.values().filter(|(_, until)| now < *until).map(|(primary, _)| *primary);
        self.rows.values().chain(self.open.values()).map(|row| row.key).chain(working).collect()
    }
}

/// What an instance stores under the primary key that it holds.
fn sealed_by(world: &mut Inner<Keyring>, instance: usize, id: u32) -> Option<Row> {
    world.load_what_is_old();
    let (model, now) = (world.scenario.model, world.now());
    let held = world.instances.get(instance).cloned()?;
    let (value, key) = (held.current?, held.primary?);
    let table = &mut world.memory.table;
    (table.stored, table.seen.written) = (table.stored + 1, table.seen.written + 1);
    let (number, text) = (table.stored, format!("text {}", table.seen.written).into_bytes());
    let owner = table.rows.get(&id).map_or(0, |row| row.owner);
    let reader = table.reader(model, &value)?;
    let stored = model.sealed(&reader.ciphers, &text, &model.aad(id, owner), now, number)?;
    Some(Row { stored, number, key, text, owner, bound_to: owner })
}

/// An instance writes a row under the primary key that it holds.
pub(crate) fn write(world: &mut Inner<Keyring>, instance: usize, id: u32) {
    let Some(row) = sealed_by(world, instance, id) else { return };
    let key = row.key;
    let table = &mut world.memory.table;
    if let Some(before) = table.rows.insert(id, row) {
        table.past.entry(id).or_default().push(before);
    }
    world.note(|| format!("instance {instance} writes row {id} under {key}"));
    world.check_clients();
}

/// An instance inserts a row, and nobody else sees it yet.
pub(crate) fn begin(world: &mut Inner<Keyring>, instance: usize, id: u32) {
    let table = &world.memory.table;
    if table.rows.contains_key(&id) || table.open.contains_key(&id) {
        return;
    }
    let Some(row) = sealed_by(world, instance, id) else { return };
    let key = row.key;
    world.memory.table.open.insert(id, row);
    world.note(|| format!("instance {instance} inserts row {id} under {key}, and does not commit"));
    world.check_clients();
}

/// What was inserted is there for everybody.
pub(crate) fn commit(world: &mut Inner<Keyring>) {
    let table = &mut world.memory.table;
    table.rows.append(&mut table.open);
    world.check_clients();
}

/// Whether a trigger changes what a value is bound to.
pub(crate) fn trigger(world: &mut Inner<Keyring>, acts: bool) {
    world.memory.table.trigger = acts;
}

/// A row is what it was before, under an older key that is in the ring.
pub(crate) fn restore(world: &mut Inner<Keyring>, id: u32) {
    let current = world.memory.current.clone();
    let table = &mut world.memory.table;
    let Some(row) = table.rows.get_mut(&id) else { return };
    let past = table.past.get(&id).into_iter().flatten().rev();
    let Some(before) = past.into_iter().find(|past| past.key != row.key && current.contains(&past.key)) else { return };
    *row = before.clone();
    table.seen.restored += 1;
    let key = before.key;
    world.note(|| format!("row {id} is restored, under {key}"));
    world.check_clients();
}

/// Somebody changes the column that a row's value is bound to, or changes it back.
pub(crate) fn give_away(world: &mut Inner<Keyring>, id: u32) {
    if let Some(row) = world.memory.table.rows.get_mut(&id) {
        row.owner ^= 1;
        let owner = row.owner;
        world.note(|| format!("row {id} belongs to {owner}"));
        world.check_clients();
    }
}

/// Every row is bound to the columns that stand beside it.
pub(crate) fn put_in_order(world: &mut Inner<Keyring>) {
    world.memory.table.rows.values_mut().for_each(|row| row.owner = row.bound_to);
    world.check_clients();
}

/// The keys in the archive.
fn archived(world: &mut Inner<Keyring>) -> Result<BTreeSet<KeyId>, String> {
    let archive = Arc::clone(world.archive());
    let Some(value) = archive.value_at(&Stage::Current) else { return Ok(BTreeSet::new()) };
    match &world.memory.table.archived {
        Some((known, keys)) if Arc::ptr_eq(known, value) => Ok(keys.clone()),
        _ => {
            let archive = Archive::parse(&SecretText::new(value.to_string()))?;
            let keys: BTreeSet<KeyId> = archive.keys().iter().map(|held| held.material.id()).collect();
            world.memory.table.archived = Some((Arc::clone(value), keys.clone()));
            Ok(keys)
        }
    }
}

/// What leaves the ring is in the archive, and nothing that is stored or that somebody may still store is under it.
pub(super) fn invariant_retired_keys_are_not_needed(world: &mut Inner<Keyring>, new: &Ring) -> Checked {
    let (now, archived) = (world.now(), archived(world)?);
    let gone: BTreeSet<KeyId> = world.memory.current.iter().copied().filter(|id| new.get(*id).is_none()).collect();
    let mut needed = world.memory.table.needed(now);
    needed.extend(world.instances.iter().filter_map(|held| held.primary));
    require(needed.is_disjoint(&gone), || {
        let still: Vec<String> = needed.intersection(&gone).map(ToString::to_string).collect();
        format!("{} left the ring, and a row is under it, or somebody writes with it", still.join(", "))
    })?;
    require(gone.is_subset(&archived), || "a key left the ring, and is not in the archive".to_owned())?;
    let memory = &mut world.memory;
    memory.table.seen.retired += gone.len() as u64;
    memory.used = &memory.used - &gone;
    memory.current = &memory.current - &gone;
    memory.table.retired.extend(gone);
    Ok(())
}

/// Before anything is encrypted with a key, the archive has it; and of a ring with an archive, all keys.
pub(super) fn invariant_what_becomes_primary_is_archived(world: &mut Inner<Keyring>, new: &Ring) -> Checked {
    if !world.scenario.model.archived {
        return Ok(());
    }
    let archived = archived(world)?;
    let missing = new.keys().map(|(_, key)| key.id()).find(|id| !archived.contains(id));
    missing.map_or(Ok(()), |id| Err(format!("a ring became current with key {id}, which is not in the archive")))
}

/// By which censuses keys are retired: the last one, and the first of the same version.
pub(super) fn censuses(world: &Inner<Keyring>) -> Option<[Census; 2]> {
    let all = &world.memory.table.censuses;
    let mut second = all.last()?.clone();
    let mut first = all.iter().find(|census| census["version"] == second["version"])?.clone();
    let sabotage = world.scenario.sabotage;
    if sabotage == Sabotage::CountsOnce {
        first = second.clone();
    }
    if matches!(sabotage, Sabotage::CountsOnce | Sabotage::CountsTooSoon) {
        let long_ago = second["began"].as_str().and_then(parse_timestamp)? - Duration::from_secs(100 * 24 * 60 * 60);
        (first["began"], first["ended"]) = (format_timestamp(long_ago).into(), format_timestamp(long_ago).into());
    }
    if sabotage == Sabotage::BelievesOldCensuses {
        second["ended"] = format_timestamp(world.now()).into();
    }
    if sabotage == Sabotage::IgnoresOpenTransactions {
        second["settled"] = true.into();
    }
    if sabotage == Sabotage::IgnoresUnknown {
        for census in [&mut first, &mut second] {
            let column = &mut census["columns"][0];
            let ignored: u64 = ["unknown", "damaged"].into_iter().filter_map(|why| column[why].as_u64()).sum();
            for (counted, rows) in [("unknown", 0), ("damaged", 0), ("nulls", ignored)] {
                column[counted] = rows.into();
            }
        }
    }
    Some([serde_json::from_value(first).ok()?, serde_json::from_value(second).ok()?])
}

/// Nobody has counted anything.
pub(crate) fn forget_censuses(world: &mut Inner<Keyring>) {
    world.memory.table.censuses.clear();
}

/// Every row tells what the application wrote last, to whoever holds the current ring, and to every instance with what it holds. The
/// current ring has every key that a row is under, or under which somebody may write one.
pub(super) fn invariant_every_row_is_readable(world: &mut Inner<Keyring>) -> Checked {
    let (model, now) = (world.scenario.model, world.now());
    let state = world.state();
    let Some(current) = state.value_at(&Stage::Current) else { return Ok(()) };
    if world.scenario.model.archived {
        let kept = archived(world)?;
        let lost = world.memory.table.retired.iter().find(|id| !kept.contains(id));
        require(lost.is_none(), || format!("key {lost:?} has left the ring, and is no longer in the archive"))?;
    }
    if let Some(torn) = world.memory.table.torn {
        return Err(format!("a worker wrote row {torn}, and its value is bound to what does not stand beside it"));
    }
    let lost = world
        .memory
        .table
        .needed(now)
        .into_iter()
        .find(|id| !world.memory.current.contains(id) && !world.memory.gone.contains(id));
    if let Some(id) = lost {
        return Err(format!(
            "key {id} is not in the current keyring, and a row is under it, or a worker writes with it"
        ));
    }
    let rows = world.memory.table.rows.clone();
    let gone = world.memory.gone.clone();
    for (id, row) in rows.iter().filter(|(_, row)| row.is_whole(model) && !gone.contains(&row.key)) {
        let table = &mut world.memory.table;
        let read = table.open(model, current, *id, row);
        require(read.is_some(), || format!("row {id} cannot be read with the current keyring"))?;
        require(read.as_ref() == Some(&row.text), || format!("row {id} has lost what the application wrote last"))?;
        for number in 0..world.instances.len() {
            let held = world.instances[number].clone();
            let table = &mut world.memory.table;
            let read = [held.current, held.pending].iter().flatten().find_map(|ring| table.open(model, ring, *id, row));
            require(read.is_some() || !must_know(world, number, row.key), || {
                format!("instance {number} cannot read row {id}, which is under {}", row.key)
            })?;
        }
    }
    Ok(())
}

/// After a worker that nothing disturbed.
pub(crate) fn require_all_under_the_primary_key(world: &Inner<Keyring>) -> Checked {
    let state = world.state();
    let ring = state.value_at(&Stage::Current).and_then(|current| world.scenario.model.ring(current));
    let primary = ring.map(|ring| ring.primary().id());
    let left = world.memory.table.rows.iter().find(|(_, row)| Some(row.key) != primary);
    left.map_or(Ok(()), |(id, row)| Err(format!("row {id} was to be under {primary:?}, and is under {}", row.key)))
}

/// After a retirement that nothing stood against.
pub(crate) fn require_no_old_key(world: &Inner<Keyring>) -> Checked {
    let state = world.state();
    let ring = state.value_at(&Stage::Current).and_then(|current| world.scenario.model.ring(current));
    let old = ring.iter().flat_map(|ring| ring.secondary()).next();
    old.map_or(Ok(()), |key| Err(format!("no row needs key {}, and it is in the ring", key.id())))
}

/// What has happened to rows in a world.
pub(crate) fn seen(world: &Inner<Keyring>) -> Seen {
    world.memory.table.seen
}
