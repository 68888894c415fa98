//! `restore` puts keys back that disappeared from a ring by somebody else's hand; `forget` gives them up.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rotation::error::RotationError;
use rotation::keyring::{Key, KeyFormat, KeyId, Keyring};
use rotation::marked_ring::{MarkedRing, Missing};
use rotation::store::{Described, OperationStore};
use serde_json::json;

use crate::actions::{Answer, answer};
use crate::error::OperateError;
use crate::operable::Operable;
use crate::request::Action;
use crate::secret::{Desk, Mark, Seen, new_version};

impl<K: Operable, S: OperationStore> Desk<'_, K, S> {
    pub(crate) fn marked_ring<'s>(&'s self, secret: &'s Described) -> MarkedRing<'s, S> {
        MarkedRing::of(self.store, self.secret_id, secret, self.deadline)
    }

    /// What the current ring lacks of the last complete one.
    ///
    /// # Errors
    /// Those of [`MarkedRing::missing`].
    pub(crate) async fn missing_keys(&self, seen: &Seen) -> Result<Missing, RotationError> {
        self.marked_ring(&seen.secret).missing(self.kind, &seen.policy, &seen.current_id, &seen.current).await
    }

    /// # Errors
    /// Those of [`MarkedRing::require_all`].
    pub(crate) async fn require_all_keys(&self, seen: &Seen) -> Result<Missing, RotationError> {
        self.marked_ring(&seen.secret).require_all(self.kind, &seen.policy, &seen.current_id, &seen.current).await
    }

    /// Marks the current ring as the last complete one, if it is.
    ///
    /// # Errors
    /// Those of [`MarkedRing::missing`], and what the service refuses.
    pub(crate) async fn keep_ring(&self, seen: &Seen) -> Result<(), RotationError> {
        if self.kind.ring(&seen.policy, &seen.current)?.is_some()
            && self.missing_keys(seen).await? == Missing::default()
        {
            self.marked_ring(&seen.secret).move_to(&seen.current_id).await?;
        }
        Ok(())
    }

    /// Publishes the last complete ring, with what only the current one holds as secondary keys. It is never put back: rows may be
    /// under keys that the ring before lacks. Where nothing is missing, the application is told and asked once more.
    ///
    /// # Errors
    /// [`OperateError::NotForThisKind`], [`OperateError::NotConfirmed`], [`OperateError::RotationOpen`],
    /// [`OperateError::DidNotVerify`].
    pub async fn restore(&self, confirm: Option<&str>, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let seen = self.look_to_change().await?;
        let current = self.ring_of(&seen, Action::Restore)?;
        seen.require_confirmed(confirm)?;
        seen.require_no_open_rotation()?;
        let missing = self.missing_keys(&seen).await?;
        let already = missing == Missing::default();
        let now = if already {
            self.keep_ring(&seen).await?;
            seen
        } else {
            self.put_keys_back(&seen, &current, rng).await?
        };
        let restored: Vec<KeyId> = missing.in_use.iter().copied().chain(missing.staged).collect();
        if let Err(reason) = self.settle(&now, None, self.deadline, rng).await {
            let outcome = format!(
                "version {} stays AWSCURRENT, because rows may be under keys that the version before lacks: repair the application, and run the same request again",
                now.current_id
            );
            return Err(OperateError::DidNotVerify { reason: Box::new(reason), outcome });
        }
        let by = self.proofs();
        let mut told = answer([
            ("version", json!(now.current_id)),
            ("restored", json!(restored)),
            ("already", json!(already)),
            ("verified", json!(!by.is_empty())),
            ("by", json!(by)),
        ]);
        told.extend(self.kind.summary(&now.subject(), &now.current)?);
        Ok(told)
    }

    fn ring_of(&self, seen: &Seen, action: Action) -> Result<Keyring, OperateError> {
        let instead = "only a keyring has keys that can be missing; a token is replaced by a rotation";
        let ring = self.kind.ring(&seen.policy, &seen.current)?;
        ring.ok_or(OperateError::NotForThisKind { action, instead })
    }

    /// Makes the last complete ring current, with what only `current` holds; marks in `current` that a key is known to others stay.
    pub(crate) async fn put_keys_back(
        &self,
        seen: &Seen,
        current: &Keyring,
        rng: &mut StdRng,
    ) -> Result<Seen, OperateError> {
        let Some((marked, ring)) = self.marked_ring(&seen.secret).read(self.kind, &seen.policy).await? else {
            return Err(seen.changed());
        };
        let restored = ring.with_keys_of(current).map_err(RotationError::from)?;
        let value = KeyFormat::of(&seen.policy).wire().restore(&seen.current, &marked, &restored)?;
        let version = new_version(rng);
        let published = self.publish(seen, &value, &[Mark::Operation], &version).await;
        let unmarked = self.drop_stage(&version, &Mark::Operation.on(&version)).await;
        // Why nothing was published says more than that there is nothing to unmark.
        let now = published?;
        unmarked?;
        Ok(now)
    }

    /// Gives the missing keys up: marks the current ring as the last complete one. `keys` has to name all of them, and no other.
    ///
    /// # Errors
    /// [`OperateError::NotForThisKind`], [`OperateError::NotConfirmed`], [`OperateError::InvalidRequest`] names the keys that are
    /// missing.
    pub async fn forget(&self, keys: &BTreeSet<KeyId>, confirm: Option<&str>) -> Result<Answer, OperateError> {
        let seen = self.look_to_change().await?;
        let current = self.ring_of(&seen, Action::Forget)?;
        seen.require_confirmed(confirm)?;
        let marked = self.marked_ring(&seen.secret);
        let missing = match self.missing_keys(&seen).await {
            // Which keys it had nobody can tell any more.
            Err(RotationError::MarkedRingUnreadable { .. }) => Missing::default(),
            missing => missing?,
        };
        let missing: BTreeSet<KeyId> = missing.in_use.into_iter().chain(missing.staged).collect();
        let held = |key: &Key| keys.contains(&key.id());
        let already = missing.is_empty() && !current.keys().any(|(_, key)| held(key));
        if *keys != missing && !already {
            let ids: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let problem = format!("expected the keys that are missing, all of them and no other: [{}]", ids.join(", "));
            return Err(OperateError::InvalidRequest { member: "keys".to_owned(), problem });
        }
        marked.move_to(&seen.current_id).await?;
        Ok(answer([("version", json!(seen.current_id)), ("forgotten", json!(keys)), ("already", json!(already))]))
    }
}
