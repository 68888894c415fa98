//! `retire`: keys that no stored row needs leave the ring.
//!
//! Two censuses of all rows decide, as the function `reencrypt` answers them. Both are complete, of the current ring and of the same
//! columns. Both found no row under the key, and no row that cannot be opened. At the first census, consumers may still encrypt with an
//! older ring. They have stopped before the second census begins, and the second census has counted their rows, those of open transactions
//! too. Nothing has come since but what an hour may bring. Columns that the second one found to look like ciphertexts, and nobody lists,
//! keep every key; those that it had no time or no right to look at keep none, and `reencrypt` says why beside its search for them.
//!
//! # Why it is so
//!
//! - Both censuses come with the request. The function that counts writes no secret, and the one that writes has no way to the
//!   database. Callers could forge censuses, so operators cannot invoke `retire`: in the stack only the sweep's deployment has it.
//! - A row that cannot be opened may need any key, and blocks all of them.
//! - A rollback that is put back leaves a stage with the time (`ROTATION-PUT-BACK-…`), attached before the move so that a crash cannot lose
//!   it. An instance that loaded the ring in between encrypts with an older key. So the second census begins later, by the distance between
//!   two censuses and 15 minutes.
//! - A census says itself whether its ring was delivered when it began. When a delivery ended, no staging label tells.
//! - LastChangedDate does not date a move by hand: a tag changes it too, and so do the stages of this project.
//! - The new ring is proven alone, because the old one holds keys that it lacks. It is put back when the application does not follow.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rotation::census::Census;
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::keyring::{KeyFormat, KeyId, Keyring};
use rotation::store::{Described, OperationStore};
use serde::Serialize;

use crate::action::Action;
use crate::census;
use crate::error::OperateError;
use crate::evidence::Evidence;
use crate::kinds::KeyringKind;
use crate::members::{Change, Members, invalid};
use crate::publication::Before;
use crate::session::{Operation, Proof, Snapshot, StoredVersion, new_version};

/// The request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retire {
    /// Of what, and why.
    pub change: Change,
    /// The two censuses.
    pub censuses: Box<[Census; 2]>,
}

impl Retire {
    pub(crate) fn parse(members: &mut Members) -> Result<Self, OperateError> {
        let change = members.change(Action::Retire)?;
        let problem = "expected the two censuses that speak for it, answers of reencrypt";
        let censuses = members.censuses().ok_or_else(|| invalid("censuses", problem))?;
        Ok(Self { change, censuses: Box::new(census::two(censuses)?) })
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct RetireAnswer {
    /// The version without the keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionId>,
    /// The version that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<VersionId>,
    retired: BTreeSet<KeyId>,
    /// Why none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'static str>,
    kept: Vec<Kept>,
    #[serde(flatten)]
    proof: Option<Proof>,
    /// The secret that still holds the keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<String>,
    /// Whether an earlier request has taken them out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    already: bool,
}

/// A secondary key that stays, and how many rows need it; `None` when a census did not count it.
#[derive(Clone, Debug, Serialize)]
struct Kept {
    key: KeyId,
    rows: Option<u64>,
}

/// What a retirement did.
struct Retirement<'a> {
    replaced: &'a VersionId,
    keys: BTreeSet<KeyId>,
    ring: &'a Keyring,
    evidence: &'a Evidence<'a>,
}

impl Retirement<'_> {
    fn answer(self, now: &Snapshot, proof: Proof) -> RetireAnswer {
        let kept = self.ring.secondary().iter().map(|key| Kept { key: key.id(), rows: self.evidence.rows(key.id()) });
        RetireAnswer {
            version: Some(now.current_id.clone()),
            replaced: Some(self.replaced.clone()),
            retired: self.keys,
            because: None,
            kept: kept.collect(),
            proof: Some(proof),
            archive: None,
            already: false,
        }
    }
}

/// The ring without these keys.
fn without(ring: &Keyring, keys: &BTreeSet<KeyId>) -> Result<Keyring, OperateError> {
    let ring = keys.iter().try_fold(ring.clone(), |ring, key| ring.retire(*key));
    Ok(ring.map_err(RotationError::from)?)
}

impl<K: KeyringKind, S: OperationStore> Operation<'_, K, S> {
    /// Takes the secondary keys out of the ring that no row needs, by two censuses. They stay in the archive. Where an earlier try
    /// died, or another request was faster, the application is told and asked once more.
    ///
    /// # Errors
    /// [`OperateError::RotationOpen`], [`OperateError::CensusOutdated`], [`OperateError::CensusesTooClose`],
    /// [`OperateError::KeysStillNeeded`], [`OperateError::NoArchive`], [`OperateError::DidNotVerify`].
    pub async fn retire(
        &self,
        secret: Described,
        censuses: &[Census; 2],
        rng: &mut StdRng,
    ) -> Result<RetireAnswer, OperateError> {
        let snapshot = self.snapshot_to_change(secret).await?;
        let ring = self.session.kind.keyring(&snapshot.policy, &snapshot.current)?;
        snapshot.require_no_open_rotation()?;
        let evidence = Evidence::of(censuses, &snapshot, self.session.kind.censuses_apart(&snapshot.policy))?;
        if evidence.version != snapshot.current_id {
            return self.retire_again(&snapshot, &ring, &evidence, rng).await;
        }
        evidence.require_fresh(&snapshot)?;
        evidence.require_no_other_ring_since(&snapshot)?;
        if self.has_consumers(&snapshot) {
            evidence.require_delivered()?;
            self.require_delivered(&snapshot).await?;
        }
        let unneeded = evidence.unneeded(&ring);
        if unneeded.is_empty() {
            return nothing_to_retire(&ring, &evidence);
        }
        // Rows may be under keys that only the marked ring has, and were counted as such that no key opens.
        self.require_all_keys(&snapshot).await?;
        let next = without(&ring, &unneeded)?;
        let value = KeyFormat::of(&snapshot.policy).wire().write(&snapshot.current, &next)?;
        let archive = self.session.kind.archive(&snapshot.subject(), &value)?;
        let mut archive = archive.ok_or_else(|| OperateError::NoArchive { name: snapshot.secret.name.clone() })?;
        archive.retired = ring.secondary().iter().filter(|key| unneeded.contains(&key.id())).cloned().collect();
        self.session.require_time()?;
        archive.keep(self.session.store, self.session.deadline).await?;

        let now = self.publish_archived_and_detach(&snapshot, &value, &new_version(rng)).await?;
        let before = Before::of(&snapshot);
        // Against nothing: the old ring has keys that this one is without.
        self.settle_or_put_back(&now, before, None, rng).await?;
        let retirement =
            Retirement { replaced: &snapshot.current_id, keys: unneeded, ring: &next, evidence: &evidence };
        Ok(RetireAnswer { archive: Some(archive.secret), ..retirement.answer(&now, self.proof()) })
    }

    /// The censuses are of another version. Either they are of no use any more, or this is what came of them.
    async fn retire_again(
        &self,
        snapshot: &Snapshot,
        ring: &Keyring,
        evidence: &Evidence<'_>,
        rng: &mut StdRng,
    ) -> Result<RetireAnswer, OperateError> {
        let outdated = || OperateError::CensusOutdated {
            problem: format!(
                "they are of version {}, and {} is current: count again",
                evidence.version, snapshot.current_id
            ),
        };
        let Some(StoredVersion { version, value }) = self.previous(snapshot).await? else { return Err(outdated()) };
        let before = self.session.kind.keyring(&snapshot.policy, &value)?;
        let unneeded = evidence.unneeded(&before);
        if version != evidence.version || unneeded.is_empty() || without(&before, &unneeded)? != *ring {
            return Err(outdated());
        }
        let marked = self.session.marked_ring(&snapshot.secret);
        if marked.version() == Some(&version) {
            marked.move_to(&snapshot.current_id).await?;
        }
        self.settle(snapshot, None, self.session.deadline, rng).await?;
        let retirement = Retirement { replaced: &version, keys: unneeded, ring, evidence };
        Ok(RetireAnswer { already: true, ..retirement.answer(snapshot, self.proof()) })
    }
}

fn nothing_to_retire(ring: &Keyring, evidence: &Evidence<'_>) -> Result<RetireAnswer, OperateError> {
    if ring.secondary().is_empty() {
        return Ok(RetireAnswer {
            version: None,
            replaced: None,
            retired: BTreeSet::new(),
            because: Some("the ring has no secondary key"),
            kept: vec![],
            proof: None,
            archive: None,
            already: false,
        });
    }
    let needed = ring.secondary().iter().map(|key| match evidence.rows(key.id()) {
        Some(rows) => format!("{rows} rows are under key {}", key.id()),
        None => format!("rows under key {} were not counted", key.id()),
    });
    Err(OperateError::KeysStillNeeded { problem: needed.collect::<Vec<_>>().join(", ") })
}
