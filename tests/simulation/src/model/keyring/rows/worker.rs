//! The worker and the census, as the function reencrypt does them: call by call, beside everything else.

use std::collections::BTreeMap;
use std::time::SystemTime;

use encryption_key::LONGEST_INVOCATION;
use operate::error::OperateError;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::keyring::{Ciphers, KeyId};
use rotation::rows::{Opened, Rewrapped};
use rotation::store::{SecretStore as _, StoreErrorKind};
use rotation::time::format_timestamp;
use rotation::versions::Stage;
use serde_json::json;

use super::{Keyring, MOST_LOOKS, ROWS, SECRET};
use crate::ports::Store;
use crate::scenario::Sabotage;
use crate::schedule::Call;
use crate::world::Inner;

/// What a worker or a census works with, from its beginning to its end.
struct Working {
    version: VersionId,
    as_of: SystemTime,
    ciphers: Ciphers,
    primary: KeyId,
}

impl Working {
    async fn read(model: Keyring, store: &Store<Keyring>) -> Result<Self, RotationError> {
        let described = store.describe(SECRET).await?;
        let version = described.versions.holder(&Stage::Current).cloned().ok_or(RotationError::EmptyValue)?;
        let missing = || RotationError::ValueMissing { version: version.clone() };
        let value = store.get(SECRET, &version).await?.ok_or_else(missing)?;
        let wire = model.format.wire();
        let document = model.document(value.text.expose()).ok_or_else(missing)?;
        let (primary, ciphers) = (wire.parse(&document)?.primary().id(), wire.ciphers(&document)?);
        Ok(Self { version, as_of: described.as_of, ciphers, primary })
    }
}

/// Takes a worker off the list of the living, however it ends.
struct Alive<'a>(&'a Store<Keyring>);

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        let caller = &self.0.caller;
        caller.world.lock().memory.table.workers.remove(&caller.invocation);
    }
}

/// The rows that somebody reads who begins now; of those that transactions insert, only the committed ones.
fn ids(store: &Store<Keyring>) -> Vec<u32> {
    let world = store.caller.world.lock();
    let inserted = world.memory.table.rows.keys().copied().filter(|id| *id >= ROWS);
    (0..ROWS).chain(inserted).collect()
}

/// A worker encrypts every row again that is not under the primary key of the ring that it reads at its beginning.
pub(crate) async fn rewrap(store: Store<Keyring>) -> Result<String, OperateError> {
    let caller = &store.caller;
    let (model, sabotage, began) = {
        let world = caller.world.lock();
        (world.scenario.model, world.scenario.sabotage, world.now())
    };
    let until = match sabotage {
        Sabotage::OutlivesItsTimeout => began + 100 * LONGEST_INVOCATION,
        _ => began + LONGEST_INVOCATION,
    };
    let ring = Working::read(model, &store).await?;
    let _alive = Alive(&store);
    caller.world.lock().memory.table.workers.insert(caller.invocation, (ring.primary, until));
    let (codec, mut rewrapped) = (model.codec(&ring.ciphers), 0);
    let mut rng = StdRng::seed_from_u64(u64::from(caller.invocation) << 40);
    let in_time = |world: &Inner<Keyring>| if world.now() < until { Ok(()) } else { Err(StoreErrorKind::Unreachable) };
    for id in ids(&store) {
        for _ in 0..MOST_LOOKS {
            let read = store.call(Call::ReadRow, |world| {
                in_time(world)?;
                Ok(world.memory.table.rows.get(&id).cloned())
            });
            let Some(row) = read.await.map_err(RotationError::from)? else { break };
            let aad = model.aad(id, row.owner);
            let Rewrapped::Anew { stored, .. } = codec.rewrap(&row.stored, &aad, &mut rng) else { break };
            let written = store.call(Call::WriteRow, |world| {
                in_time(world)?;
                let table = &mut world.memory.table;
                let Some(now) = table.rows.get_mut(&id) else { return Ok(false) };
                let same = now.stored == row.stored || sabotage == Sabotage::RewrapsWhateverIsThere;
                let torn = table.trigger && model.row_format().takes_aad();
                if same && torn && sabotage != Sabotage::IgnoresTriggers {
                    // What came back is not what was meant: the batch is undone, and the work ends.
                    table.seen.undone += 1;
                    return Err(StoreErrorKind::Rejected);
                }
                if same {
                    table.stored += 1;
                    table.seen.rewrapped += 1;
                    table.past.entry(id).or_default().push(now.clone());
                    (now.stored, now.number, now.key, now.bound_to) = (stored, table.stored, ring.primary, row.owner);
                    if torn {
                        now.owner ^= 1;
                        table.torn = Some(id);
                    }
                    world.note(|| format!("    row {id} is under {} now", ring.primary));
                    world.check_clients();
                } else {
                    table.seen.overtaken += 1;
                }
                Ok(same)
            });
            if written.await.map_err(RotationError::from)? {
                rewrapped += 1;
                break;
            }
        }
    }
    Ok(format!("{rewrapped} rows rewrapped"))
}

/// A census counts rows by key, one after another, while others write. Half of them it counts in another invocation, which reads the ring
/// anew, and ends the census when that is another one.
pub(crate) async fn census(store: Store<Keyring>) -> Result<String, OperateError> {
    let caller = &store.caller;
    let model = caller.world.lock().scenario.model;
    let ring = Working::read(model, &store).await?;
    let (codec, mut superseded) = (model.codec(&ring.ciphers), false);
    let mut keys: BTreeMap<String, u64> = ring.ciphers.iter().map(|(id, _)| (id.to_string(), 0)).collect();
    let (mut rows, mut old, mut unknown, mut damaged) = (0, 0, 0, 0);
    let settled = caller.world.lock().memory.table.open.is_empty();
    for id in ids(&store) {
        if id == ROWS / 2 {
            superseded = Working::read(model, &store).await?.version != ring.version;
            if superseded {
                break;
            }
        }
        let read = store.call(Call::ReadRow, |world| Ok(world.memory.table.rows.get(&id).cloned()));
        let Some(row) = read.await.map_err(RotationError::from)? else { continue };
        rows += 1;
        match codec.open(&row.stored, &model.aad(id, row.owner)) {
            Opened::Under(key, _) => {
                old += u64::from(key != ring.primary);
                *keys.entry(key.to_string()).or_default() += 1;
            }
            Opened::Unknown => unknown += 1,
            Opened::Damaged | Opened::Foreign => damaged += 1,
        }
    }
    let described = store.describe(SECRET).await.map_err(RotationError::from)?;
    superseded |= described.versions.holder(&Stage::Current) != Some(&ring.version);
    let ended = described.as_of;
    let column = json!({
        "schema": "public", "table": "connections", "column": "token", "rows": rows, "nulls": 0, "keys": keys,
        "unknown": unknown, "damaged": damaged, "unreadable": [],
    });
    let answer = json!({
        "action": "census", "secret": SECRET, "version": ring.version.as_str(), "primaryKey": ring.primary,
        "began": format_timestamp(ring.as_of), "ended": format_timestamp(ended), "columns": [column],
        "onOldKeys": old, "unknown": unknown, "damaged": damaged, "superseded": superseded, "settled": settled, "next": null,
    });
    let told = format!("{old} of {rows} rows on old keys, {unknown} unknown, superseded: {superseded}");
    let mut world = caller.world.lock();
    world.memory.table.censuses.push(answer);
    world.memory.table.seen.censuses += 1;
    world.memory.table.seen.unsettled += u64::from(!settled);
    drop(world);
    Ok(told)
}
