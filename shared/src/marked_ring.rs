//! The last keyring that is known to be complete: the version with the staging label `ROTATION-RING`.
//!
//! No rotation drops a key. So if a key is in that version and not in the current one, another writer removed the key.
//! Most often infrastructure code wrote the first value again. `AWSPREVIOUS` cannot show it, because a second edit
//! moves that label on. The archive cannot show it either, because it keeps keys of rings that were put back.
//!
//! A promotion of a ring that holds all keys moves the label afterwards. A retirement makes a smaller ring current, and
//! moves the label before. So the current ring has every key of the marked ring at each moment, however a process dies.

use crate::deadline::Deadline;
use crate::document::Document;
use crate::error::RotationError;
use crate::event::VersionId;
use crate::keyring::{KeyId, KeyState, Keyring};
use crate::kind::SecretKind;
use crate::moves::{move_if_there, read_version};
use crate::policy::RotationPolicy;
use crate::store::{Described, SecretStore, StoreError};
use crate::versions::{Stage, Versions};

/// The staging label of the version with the last complete ring.
pub const STAGE: &str = "ROTATION-RING";

/// The marked ring of a described secret.
#[derive(Clone, Copy, Debug)]
pub struct MarkedRing<'a, S> {
    store: &'a S,
    secret_id: &'a str,
    secret: &'a Described,
    deadline: Deadline,
}

/// The keys of the marked ring that the current ring lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Keys that may have encrypted something: the primary and the secondary keys.
    pub in_use: Vec<KeyId>,
    /// The staged key. It has encrypted nothing, and the next rotation stages another key.
    pub staged: Option<KeyId>,
}

impl<'a, S: SecretStore> MarkedRing<'a, S> {
    /// The marked ring of the secret `secret_id`; `secret` is its description.
    #[must_use]
    pub fn of(store: &'a S, secret_id: &'a str, secret: &'a Described, deadline: Deadline) -> Self {
        Self { store, secret_id, secret, deadline }
    }

    /// The version with the label; `None` if no rotation has marked a version yet.
    #[must_use]
    pub fn version(&self) -> Option<&'a VersionId> {
        self.secret.versions.holder(&stage())
    }

    /// Reads the marked ring; `None` if there is none.
    ///
    /// # Errors
    /// [`RotationError::MarkedRingUnreadable`] if the version is no longer a keyring of this format. Also, the service
    /// refuses a call.
    pub async fn read<K: SecretKind>(
        &self,
        kind: &K,
        policy: &RotationPolicy,
    ) -> Result<Option<(Document, Keyring)>, RotationError> {
        let Some(version) = self.version() else { return Ok(None) };
        let unreadable = |reason| RotationError::MarkedRingUnreadable {
            name: self.secret.name.clone(),
            version: version.clone(),
            reason: Box::new(reason),
        };
        let value = read_version(self.store, self.secret_id, version, self.deadline).await?;
        let value = value.ok_or_else(|| unreadable(RotationError::ValueMissing { version: version.clone() }))?;
        let marked = kind.parse(policy, value.text).map_err(unreadable)?;
        let ring = kind.ring(policy, &marked).map_err(unreadable)?;
        Ok(ring.map(|ring| (marked, ring)))
    }

    /// The keys that `current`, the value of `version`, lacks. It reads nothing if `version` is the marked version, if
    /// no version is marked, or if the kind has no ring.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), or the current value is not of this kind.
    pub async fn missing<K: SecretKind>(
        &self,
        kind: &K,
        policy: &RotationPolicy,
        version: &VersionId,
        current: &Document,
    ) -> Result<Missing, RotationError> {
        if self.version().is_none_or(|marked| marked == version) {
            return Ok(Missing::default());
        }
        let Some(ring) = kind.ring(policy, current)? else { return Ok(Missing::default()) };
        let marked = self.read(kind, policy).await?;
        Ok(marked.map_or_else(Missing::default, |(_, marked)| Missing::of(&ring, &marked)))
    }

    /// Requires that `current`, the value of `version`, has every key in use of the marked ring.
    ///
    /// # Errors
    /// [`RotationError::KeysMissing`] names the keys in use that `current` lacks. Also, the errors of
    /// [`missing`](Self::missing).
    pub async fn require_all<K: SecretKind>(
        &self,
        kind: &K,
        policy: &RotationPolicy,
        version: &VersionId,
        current: &Document,
    ) -> Result<Missing, RotationError> {
        let missing = self.missing(kind, policy, version, current).await?;
        match self.version().filter(|_| !missing.in_use.is_empty()) {
            None => Ok(missing),
            Some(marked) => Err(RotationError::KeysMissing {
                name: self.secret.name.clone(),
                version: marked.clone(),
                keys: missing.in_use,
            }),
        }
    }

    /// How many new staging labels the mark on the ring of `value` needs.
    ///
    /// # Errors
    /// The value is not of this kind.
    pub fn stages_to_come<K: SecretKind>(
        &self,
        kind: &K,
        policy: &RotationPolicy,
        value: &Document,
    ) -> Result<usize, RotationError> {
        Ok(usize::from(self.version().is_none() && kind.ring(policy, value)?.is_some()))
    }

    /// Marks the ring of `version`. If another process has moved the label meanwhile, the label stays there.
    ///
    /// # Errors
    /// The service refuses the call for another reason.
    pub async fn move_to(&self, version: &VersionId) -> Result<(), StoreError> {
        if self.version() == Some(version) {
            return Ok(());
        }
        move_if_there(self.store, self.secret_id, stage(), self.version(), Some(version)).await
    }
}

impl Missing {
    /// The keys of `marked` that `ring` lacks.
    #[must_use]
    pub fn of(ring: &Keyring, marked: &Keyring) -> Self {
        let mut missing = Self::default();
        for (state, key) in ring.lacking(marked) {
            match state {
                KeyState::Staged => missing.staged = Some(key.id()),
                KeyState::Primary | KeyState::Secondary => missing.in_use.push(key.id()),
            }
        }
        missing
    }
}

/// The version with the value that an empty object replaced: the last complete ring, else the version with
/// `AWSPREVIOUS`. Any further edit moves `AWSPREVIOUS` on.
#[must_use]
pub fn last_value(versions: &Versions) -> Option<&VersionId> {
    versions.holder(&stage()).or_else(|| versions.holder(&Stage::Previous))
}

/// The staging label of the version with the last complete ring.
#[must_use]
pub fn stage() -> Stage {
    Stage::Other(STAGE.to_owned())
}
