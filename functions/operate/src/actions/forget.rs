//! `forget`: keys that disappeared from a ring are given up.

use std::collections::BTreeSet;

use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::keyring::{Key, KeyId};
use rotation::marked_ring::Missing;
use rotation::store::{Described, OperationStore};
use serde::Serialize;

use crate::action::Action;
use crate::error::OperateError;
use crate::kinds::KeyringKind;
use crate::members::{Change, Members, invalid};
use crate::session::Operation;

/// The request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forget {
    /// Of what, and why.
    pub change: Change,
    /// The keys, all that are missing and no other.
    pub keys: BTreeSet<KeyId>,
    /// The secret's name once more.
    pub confirm: Option<String>,
}

impl Forget {
    pub(crate) fn parse(members: &mut Members) -> Result<Self, OperateError> {
        let change = members.change(Action::Forget)?;
        let problem = "expected the ids of the keys to be given up, such as [\"5e6f7081\"]: doctor names them";
        let keys = members.keys().and_then(|keys| serde_json::from_value(keys).ok());
        Ok(Self { change, keys: keys.ok_or_else(|| invalid("keys", problem))?, confirm: members.confirm() })
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct ForgetAnswer {
    /// The version that is current.
    pub version: VersionId,
    forgotten: BTreeSet<KeyId>,
    /// Whether nothing was missing.
    already: bool,
}

impl<K: KeyringKind, S: OperationStore> Operation<'_, K, S> {
    /// Gives the missing keys up: marks the current ring as the last complete one. `keys` has to name all of them, and no other.
    ///
    /// # Errors
    /// [`OperateError::NotConfirmed`]; [`OperateError::InvalidRequest`] names the keys that are missing.
    pub async fn forget(
        &self,
        secret: Described,
        keys: &BTreeSet<KeyId>,
        confirm: Option<&str>,
    ) -> Result<ForgetAnswer, OperateError> {
        let snapshot = self.snapshot_to_change(secret).await?;
        let current = self.session.kind.keyring(&snapshot.policy, &snapshot.current)?;
        snapshot.require_confirmed(confirm)?;
        let missing = match self.missing_keys(&snapshot).await {
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
            return Err(invalid("keys", problem));
        }
        self.session.marked_ring(&snapshot.secret).move_to(&snapshot.current_id).await?;
        Ok(ForgetAnswer { version: snapshot.current_id, forgotten: keys.clone(), already })
    }
}
