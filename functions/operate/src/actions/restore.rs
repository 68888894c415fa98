//! `restore`: keys that disappeared from a ring by somebody else's hand come back.

use rand::rngs::StdRng;
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::keyring::{KeyFormat, KeyId, Keyring};
use rotation::marked_ring::Missing;
use rotation::store::{Described, OperationStore};
use serde::Serialize;

use crate::action::Action;
use crate::error::OperateError;
use crate::kinds::{KeyringKind, Summary};
use crate::members::{Change, Members};
use crate::session::{Operation, Proof, Snapshot, new_version};

/// The request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// Of what, and why.
    pub change: Change,
    /// The secret's name once more.
    pub confirm: Option<String>,
}

impl Restore {
    pub(crate) fn parse(members: &mut Members) -> Result<Self, OperateError> {
        Ok(Self { change: members.change(Action::Restore)?, confirm: members.confirm() })
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct RestoreAnswer {
    /// The version with all keys.
    pub version: VersionId,
    restored: Vec<KeyId>,
    /// Whether nothing was missing.
    already: bool,
    #[serde(flatten)]
    proof: Proof,
    #[serde(flatten)]
    summary: Summary,
}

impl<K: KeyringKind, S: OperationStore> Operation<'_, K, S> {
    /// Publishes the last complete ring, with what only the current one holds as secondary keys. It is never put back: rows may be
    /// under keys that the ring before lacks. Where an empty object replaced the ring, the ring comes back as it was. Where nothing is missing,
    /// the application is told and asked once more.
    ///
    /// # Errors
    /// [`OperateError::NotConfirmed`], [`OperateError::RotationOpen`], [`OperateError::DidNotVerify`].
    pub async fn restore(
        &self,
        secret: Described,
        confirm: Option<&str>,
        rng: &mut StdRng,
    ) -> Result<RestoreAnswer, OperateError> {
        let snapshot = match self.snapshot_to_change(secret.clone()).await {
            Err(OperateError::Rotation(lost @ RotationError::ValueLost { .. })) => {
                return self.restore_lost(secret, lost, confirm, rng).await;
            }
            snapshot => snapshot?,
        };
        let current = self.session.kind.keyring(&snapshot.policy, &snapshot.current)?;
        snapshot.require_confirmed(confirm)?;
        snapshot.require_no_open_rotation()?;
        let missing = self.missing_keys(&snapshot).await?;
        let already = missing == Missing::default();
        let now = if already {
            self.keep_ring(&snapshot).await?;
            snapshot
        } else {
            self.put_keys_back(&snapshot, &current, rng).await?
        };
        let restored = missing.in_use.into_iter().chain(missing.staged).collect();
        self.settle_restored(now, restored, already, rng).await
    }

    /// Publishes the last complete ring where an empty object replaced it, as it was, with the keys that only the version before the empty
    /// object holds.
    async fn restore_lost(
        &self,
        secret: Described,
        lost: RotationError,
        confirm: Option<&str>,
        rng: &mut StdRng,
    ) -> Result<RestoreAnswer, OperateError> {
        let Some(snapshot) = self.snapshot_of_lost_ring(secret).await? else { return Err(lost.into()) };
        snapshot.require_confirmed(confirm)?;
        snapshot.require_no_open_rotation()?;
        let mut ring = self.session.kind.keyring(&snapshot.policy, &snapshot.current)?;
        let mut value = snapshot.current.clone();
        // A version that was current for a moment may hold a key that is not in the marked ring yet.
        if let Ok(Some(before)) = self.previous(&snapshot).await
            && let Ok(held) = self.session.kind.keyring(&snapshot.policy, &before.value)
            && !ring.holds_all_of(&held)
        {
            ring = ring.with_keys_of(&held).map_err(RotationError::from)?;
            value = KeyFormat::of(&snapshot.policy).wire().restore(&value, &before.value, &ring)?;
        }
        let now = self.publish_and_detach(&snapshot, &value, &new_version(rng)).await?;
        self.settle_restored(now, ring.keys().map(|(_, key)| key.id()).collect(), false, rng).await
    }

    async fn settle_restored(
        &self,
        now: Snapshot,
        restored: Vec<KeyId>,
        already: bool,
        rng: &mut StdRng,
    ) -> Result<RestoreAnswer, OperateError> {
        if let Err(reason) = self.settle(&now, None, self.session.deadline, rng).await {
            let outcome = format!(
                "version {} stays AWSCURRENT, because rows may be under keys that the version before lacks: repair the application, and run the same request again",
                now.current_id
            );
            return Err(OperateError::DidNotVerify { reason: Box::new(reason), outcome });
        }
        Ok(RestoreAnswer {
            restored,
            already,
            proof: self.proof(),
            summary: self.session.kind.summary(&now.subject(), &now.current)?,
            version: now.current_id,
        })
    }

    /// Makes the last complete ring current, with what only `current` holds; a key that has leaked by `current` stays known as such.
    pub(crate) async fn put_keys_back(
        &self,
        snapshot: &Snapshot,
        current: &Keyring,
        rng: &mut StdRng,
    ) -> Result<Snapshot, OperateError> {
        let Some((marked, ring)) =
            self.session.marked_ring(&snapshot.secret).read(self.session.kind, &snapshot.policy).await?
        else {
            return Err(snapshot.changed().into());
        };
        let restored = ring.with_keys_of(current).map_err(RotationError::from)?;
        let value = KeyFormat::of(&snapshot.policy).wire().restore(&snapshot.current, &marked, &restored)?;
        self.publish_and_detach(snapshot, &value, &new_version(rng)).await
    }
}
