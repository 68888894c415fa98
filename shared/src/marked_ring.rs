//! The last keyring that is known to be complete: the version with the stage `ROTATION-RING`.
//!
//! No rotation drops a key, so a key that is in that version and not in the current one was taken away by somebody else: most
//! often by infrastructure code that writes the first value again. `AWSPREVIOUS` cannot tell, because a second edit moves it on;
//! nor can the archive, which keeps keys of rings that were put back.
//!
//! Whoever makes a ring current that holds all keys moves the stage after that; a retirement, whose ring holds fewer, moves it
//! before. So the current ring has every key of the marked one at each moment, however a process dies.

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

/// The stage of the version with the last complete ring.
pub const STAGE: &str = "ROTATION-RING";

/// The marked ring of a secret as it was described.
#[derive(Clone, Copy, Debug)]
pub struct MarkedRing<'a, S> {
    store: &'a S,
    secret_id: &'a str,
    secret: &'a Described,
    deadline: Deadline,
}

/// What the current ring lacks of the marked one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Keys that may have encrypted something: the primary and the secondary ones.
    pub in_use: Vec<KeyId>,
    /// The staged key. It has encrypted nothing, and the next rotation stages another one.
    pub staged: Option<KeyId>,
}

impl<'a, S: SecretStore> MarkedRing<'a, S> {
    /// That of the secret `secret_id`, which was described as `secret`.
    #[must_use]
    pub fn of(store: &'a S, secret_id: &'a str, secret: &'a Described, deadline: Deadline) -> Self {
        Self { store, secret_id, secret, deadline }
    }

    /// The version with the stage; `None` in a secret that no rotation has marked yet.
    #[must_use]
    pub fn version(&self) -> Option<&'a VersionId> {
        self.secret.versions.holder(&stage())
    }

    /// Reads the marked ring; `None` when there is none.
    ///
    /// # Errors
    /// [`RotationError::MarkedRingUnreadable`] when the version is not a keyring of this format any more; what the service refuses.
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

    /// What `current`, the value of `version`, lacks. Nothing is read when that version is the marked one, or none is, or the kind
    /// has no ring.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and a current value that is not of this kind.
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

    /// # Errors
    /// [`RotationError::KeysMissing`] names the keys in use that `current` lacks; those of [`missing`](Self::missing).
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

    /// How many stages marking the ring of `value` takes that the secret does not have yet.
    ///
    /// # Errors
    /// A value that is not of this kind.
    pub fn stages_to_come<K: SecretKind>(
        &self,
        kind: &K,
        policy: &RotationPolicy,
        value: &Document,
    ) -> Result<usize, RotationError> {
        Ok(usize::from(self.version().is_none() && kind.ring(policy, value)?.is_some()))
    }

    /// Marks the ring of `version`. Where somebody else has moved the stage meanwhile, it stays there.
    ///
    /// # Errors
    /// What the service refuses for another reason.
    pub async fn move_to(&self, version: &VersionId) -> Result<(), StoreError> {
        if self.version() == Some(version) {
            return Ok(());
        }
        move_if_there(self.store, self.secret_id, stage(), self.version(), Some(version)).await
    }
}

impl Missing {
    /// What `ring` lacks of `marked`.
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

/// The version that holds what somebody has put an empty object in the place of: the last complete ring, or what `AWSPREVIOUS` tells, which any
/// further edit moves on.
#[must_use]
pub fn last_value(versions: &Versions) -> Option<&VersionId> {
    versions.holder(&stage()).or_else(|| versions.holder(&Stage::Previous))
}

/// The stage of the version with the last complete ring.
#[must_use]
pub fn stage() -> Stage {
    Stage::Other(STAGE.to_owned())
}
