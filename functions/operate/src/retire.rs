//! `retire` takes keys out of a keyring that no stored row needs any more.
//!
//! What it believes is two censuses of all rows, as the function `reencrypt` answers them: of the ring as it is now, complete, of the
//! same columns, with no row under the key and none that cannot be opened, and so far apart that whoever still encrypted with an older
//! ring at the first one has stopped, and what it wrote was counted by the second: what was written in transactions that were open then,
//! too, and nothing has come since but what an hour may bring.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use encryption_key::LONGEST_INVOCATION;
use rand::rngs::StdRng;
use rotation::census::{Census, Counted, Tally};
use rotation::event::VersionId;
use rotation::keyring::{Key, KeyFormat, KeyId, Keyring};
use rotation::store::OperationStore;
use rotation::time::{Timestamp, format_timestamp};
use rotation::versions::Stage;
use serde_json::{Value, json};

use crate::actions::{Answer, Before, answer};
use crate::error::OperateError;
use crate::operable::Operable;
use crate::request::Action;
use crate::secret::{Desk, Mark, Marked, Seen, new_version, put_back};

/// The service tells whole seconds: what has just been may lie in the future by one.
const CLOCK: Duration = Duration::from_secs(2);
/// A second census that ended earlier tells nothing of the rows as they are: a backup may have been restored since.
const FRESH: Duration = Duration::from_secs(60 * 60);

/// Reads the two censuses of a request.
///
/// # Errors
/// [`OperateError::InvalidRequest`].
pub(crate) fn two_censuses(value: Option<Value>) -> Result<Option<[Census; 2]>, OperateError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    serde_json::from_value(value).map(Some).map_err(|error| {
        // Serde's other words quote what it read.
        let told = Some(error.to_string()).filter(|told| told.starts_with("missing field"));
        let told = told.unwrap_or_else(|| "a member of one is of another form".to_owned());
        let expected = "expected two answers of reencrypt to {\"action\":\"census\"}, as they are";
        OperateError::InvalidRequest { member: "censuses".to_owned(), problem: format!("{expected}: {told}") }
    })
}

/// When a census ended, if it is a complete one of the secret `name`.
fn require_complete(census: &Census, name: &str, which: &str) -> Result<SystemTime, OperateError> {
    let outdated = |problem: &str| Err(OperateError::CensusOutdated { problem: format!("the {which} {problem}") });
    if census.secret != name {
        return outdated(&format!("is of secret {}", census.secret));
    }
    if census.superseded {
        return outdated("was overtaken by another version of the ring: count again");
    }
    let mut columns = BTreeSet::new();
    for Counted { column, tally } in &census.columns.0 {
        if !tally.is_whole() {
            return outdated(&format!("does not say what became of every row of {column}"));
        }
        if !columns.insert(column) {
            return outdated(&format!("has {column} twice"));
        }
    }
    match census.ended {
        Some(ended) if ended < census.began => outdated("ends before it begins"),
        Some(Timestamp(ended)) if census.next.is_none() && !columns.is_empty() => Ok(ended),
        _ => outdated("is not complete: invoke reencrypt with its `next`, until that is null"),
    }
}

/// What speaks for taking keys out, checked as far as that takes no ring.
struct Evidence<'a> {
    version: VersionId,
    /// How far apart the censuses have to be.
    apart: Duration,
    censuses: &'a [Census; 2],
}

impl<'a> Evidence<'a> {
    fn of(censuses: &'a [Census; 2], seen: &Seen, apart: Duration) -> Result<Self, OperateError> {
        let [first, second] = censuses;
        let first_ended = require_complete(first, &seen.secret.name, "first")?;
        let second_ended = require_complete(second, &seen.secret.name, "second")?;
        if first.version != second.version {
            let problem = format!("they are of different versions, {} and {}", first.version, second.version);
            return Err(OperateError::CensusOutdated { problem });
        }
        let (first_columns, second_columns) = (first.columns.names(), second.columns.names());
        let by_one: Vec<_> = first_columns.symmetric_difference(&second_columns).map(ToString::to_string).collect();
        if !by_one.is_empty() {
            // No other second census makes it good: those who go on ask for both again.
            let problem = format!(
                "rows of {} were counted by one of the censuses only, and may need any key: count both times with the same REENCRYPT_COLUMNS",
                by_one.join(", ")
            );
            return Err(OperateError::KeysStillNeeded { problem });
        }
        let from = first_ended + apart;
        if second.began.0 < from {
            return Err(OperateError::CensusesTooClose { apart, from });
        }
        if second_ended > seen.secret.as_of + CLOCK {
            let problem = format!("the second ends in the future, at {}", format_timestamp(second_ended));
            return Err(OperateError::CensusOutdated { problem });
        }
        for Counted { column, tally } in censuses.iter().flat_map(|census| &census.columns.0) {
            let Tally { unknown, damaged, .. } = tally;
            if unknown + damaged > 0 {
                let problem = format!(
                    "{} rows of {column} cannot be opened ({unknown} with no key of the ring, {damaged} are damaged), and may need any key: the census lists them",
                    unknown + damaged
                );
                return Err(OperateError::KeysStillNeeded { problem });
            }
        }
        if let Some(unlisted) = second.unlisted.as_ref().filter(|unlisted| !unlisted.is_empty()) {
            let problem = format!(
                "{} look like ciphertexts of this ring, and nobody counts their rows: list them in REENCRYPT_COLUMNS, or excuse them there",
                unlisted.join(", ")
            );
            return Err(OperateError::KeysStillNeeded { problem });
        }
        Ok(Self { version: first.version.clone(), apart, censuses })
    }

    /// The second census tells of the rows as they are: nothing was still to come in a transaction that was open before it, and it is not
    /// long ago.
    fn require_fresh(&self, seen: &Seen) -> Result<(), OperateError> {
        let [_, second] = self.censuses;
        let outdated = |problem: String| Err(OperateError::CensusOutdated { problem });
        if !second.settled {
            return outdated(
                "transactions that were open when the second began had not ended when it counted, and may hold rows under any key: end them, and count again".to_owned(),
            );
        }
        match second.ended {
            Some(Timestamp(ended)) if ended + FRESH < seen.secret.as_of => {
                outdated(format!("the second ended at {}, more than an hour ago: count again", format_timestamp(ended)))
            }
            _ => Ok(()),
        }
    }

    /// A version can become current again: a rollback that does not verify is put back. Who loaded the ring in between encrypts with
    /// an older key, and the version does not tell.
    fn require_no_other_ring_since(&self, seen: &Seen) -> Result<(), OperateError> {
        let [_, second] = self.censuses;
        let Some(at) = put_back(&seen.secret.versions).map(|(_, _, at)| at).max() else { return Ok(()) };
        // The move came as long after that as an invocation lives, at most.
        let from = at.checked_add(LONGEST_INVOCATION + self.apart);
        if from.is_some_and(|from| second.began.0 >= from) {
            return Ok(());
        }
        let problem = format!(
            "a rollback was put back at {}, whose ring may be in use: the second has to begin from {} on",
            format_timestamp(at),
            format_timestamp(from.unwrap_or(at))
        );
        Err(OperateError::CensusOutdated { problem })
    }

    /// How many rows need the key; `None` when a census did not count it.
    fn rows(&self, key: KeyId) -> Option<u64> {
        let [first, second] = self.censuses;
        Some(first.columns.rows_under(key)?.max(second.columns.rows_under(key)?))
    }

    /// The secondary keys that no row needs.
    fn unneeded(&self, ring: &Keyring) -> BTreeSet<KeyId> {
        ring.secondary().iter().map(Key::id).filter(|key| self.rows(*key) == Some(0)).collect()
    }
}

/// The ring without these keys.
fn without(ring: &Keyring, keys: &BTreeSet<KeyId>) -> Result<Keyring, OperateError> {
    let ring = keys.iter().try_fold(ring.clone(), |ring, key| ring.retire(*key));
    Ok(ring.map_err(rotation::error::RotationError::from)?)
}

impl<K: Operable, S: OperationStore> Desk<'_, K, S> {
    /// Takes the secondary keys out of the ring that no row needs, by two censuses. They stay in the archive. Where an earlier try
    /// died, or another request was faster, the application is told and asked once more.
    ///
    /// # Errors
    /// [`OperateError::NotForThisKind`], [`OperateError::RotationOpen`], [`OperateError::CensusOutdated`],
    /// [`OperateError::CensusesTooClose`], [`OperateError::KeysStillNeeded`], [`OperateError::NoArchive`],
    /// [`OperateError::DidNotVerify`].
    pub async fn retire(&self, censuses: &[Census; 2], rng: &mut StdRng) -> Result<Answer, OperateError> {
        let seen = self.look_to_change().await?;
        let Some(ring) = self.kind.ring(&seen.policy, &seen.current)? else {
            let instead = "only a keyring holds old keys; an old token is ended by revoke";
            return Err(OperateError::NotForThisKind { action: Action::Retire, instead });
        };
        seen.require_no_open_rotation()?;
        let evidence = Evidence::of(censuses, &seen, self.kind.censuses_apart(&seen.policy))?;
        if evidence.version != seen.current_id {
            return self.retire_again(&seen, &ring, &evidence, rng).await;
        }
        evidence.require_fresh(&seen)?;
        evidence.require_no_other_ring_since(&seen)?;
        let unneeded = evidence.unneeded(&ring);
        if unneeded.is_empty() {
            return nothing_to_retire(&ring, &evidence);
        }
        // Rows may be under keys that only the marked ring has, and were counted as such that no key opens.
        self.require_all_keys(&seen).await?;
        let next = without(&ring, &unneeded)?;
        let value = KeyFormat::of(&seen.policy).wire().write(&seen.current, &next)?;
        let archive = self.kind.archive(&seen.subject(), &value)?;
        let mut archive = archive.ok_or_else(|| OperateError::NoArchive { name: seen.secret.name.clone() })?;
        archive.retired = ring.secondary().iter().filter(|key| unneeded.contains(&key.id())).cloned().collect();
        self.require_time()?;
        archive.keep(self.store, self.deadline).await?;

        let version = new_version(rng);
        let published = self.publish(&seen, &value, &[Mark::Operation], &version).await;
        let unmarked = self.drop_stage(&version, &Mark::Operation.on(&version)).await;
        // Why nothing was published says more than that there is nothing to unmark.
        let now = published?;
        unmarked?;
        let before = Before {
            version: seen.current_id.clone(),
            previous: seen.secret.versions.holder(&Stage::Previous).cloned(),
        };
        // Against nothing: the old ring has keys that this one is without.
        self.settle_or_put_back(&now, before, None, rng).await?;
        Ok(self.retired(&now, &seen.current_id, &unneeded, &next, &evidence, Some(archive.secret)))
    }

    /// The censuses are of another version. Either they are of no use any more, or this is what came of them.
    async fn retire_again(
        &self,
        seen: &Seen,
        ring: &Keyring,
        evidence: &Evidence<'_>,
        rng: &mut StdRng,
    ) -> Result<Answer, OperateError> {
        let outdated = || OperateError::CensusOutdated {
            problem: format!(
                "they are of version {}, and {} is current: count again",
                evidence.version, seen.current_id
            ),
        };
        let Some(Marked { version, value }) = self.previous(seen).await? else { return Err(outdated()) };
        let Some(before) = self.kind.ring(&seen.policy, &value)? else { return Err(outdated()) };
        let unneeded = evidence.unneeded(&before);
        if version != evidence.version || unneeded.is_empty() || without(&before, &unneeded)? != *ring {
            return Err(outdated());
        }
        let marked = self.marked_ring(&seen.secret);
        if marked.version() == Some(&version) {
            marked.move_to(&seen.current_id).await?;
        }
        self.settle(seen, None, self.deadline, rng).await?;
        let mut told = self.retired(seen, &version, &unneeded, ring, evidence, None);
        told.insert("already".to_owned(), json!(true));
        Ok(told)
    }

    fn retired(
        &self,
        now: &Seen,
        replaced: &VersionId,
        keys: &BTreeSet<KeyId>,
        ring: &Keyring,
        evidence: &Evidence<'_>,
        archive: Option<String>,
    ) -> Answer {
        let by = self.proofs();
        let mut told = answer([
            ("version", json!(now.current_id)),
            ("replaced", json!(replaced)),
            ("retired", json!(keys)),
            ("kept", kept(ring, evidence)),
            ("verified", json!(!by.is_empty())),
            ("by", json!(by)),
        ]);
        told.extend(archive.map(|archive| ("archive".to_owned(), json!(archive))));
        told
    }
}

/// The secondary keys that stay, and the rows that need them.
fn kept(ring: &Keyring, evidence: &Evidence<'_>) -> Value {
    ring.secondary().iter().map(|key| json!({ "key": key.id(), "rows": evidence.rows(key.id()) })).collect()
}

fn nothing_to_retire(ring: &Keyring, evidence: &Evidence<'_>) -> Result<Answer, OperateError> {
    if ring.secondary().is_empty() {
        let because = "the ring has no secondary key";
        return Ok(answer([("retired", json!([])), ("because", json!(because)), ("kept", json!([]))]));
    }
    let needed = ring.secondary().iter().map(|key| match evidence.rows(key.id()) {
        Some(rows) => format!("{rows} rows are under key {}", key.id()),
        None => format!("rows under key {} were not counted", key.id()),
    });
    Err(OperateError::KeysStillNeeded { problem: needed.collect::<Vec<_>>().join(", ") })
}
