//! `revoke`: the overlap of a token ends now, and the old token is proven dead.
//!
//! Before an action takes a token away, it marks the version that holds the token ([`Marker::Revoked`], [`Marker::PreviousRevoked`],
//! [`Marker::Compromised`]). The marker goes when the application has refused every such token. So a failed proof or a process that died is
//! not forgotten by the next try. The sweep needs no marker for an overlap that the application has ended by itself (`sweep/overlap.rs`).
//!
//! # Why it is so
//!
//! - After the proof a text secret is described once more. A rotation that began meanwhile may fail its verification. Then it gives
//!   `AWSPREVIOUS` back to the old version, and the application accepts the old token again.
//! - A JSON value needs no such look. It gets a new version by a move that names the version before, so a rotation from that version can
//!   neither be promoted any more nor put back. What applications accept, the new version says alone.
//! - A version is stored under a label of its own. Under `AWSPREVIOUS` the call would take that label from the version to which a faster
//!   rotation has moved it: PutSecretValue has no compare-and-swap.
//! - The marker is not the label of the new version that moves on to the old one. In between the new version would have no label, and Secrets
//!   Manager deletes versions without a label.
//! - `AWSPENDING` leaves the current version by a call of its own, before the move. AWS does not document whether PutSecretValue does it.

use issued_credential::IssuedCredential;
use issued_credential::issuer::Issuer;
use rand::rngs::StdRng;
use rotation::event::VersionId;
use rotation::issue::{InUse, Until, Unused};
use rotation::secret::SecretText;
use rotation::store::{Described, OperationStore};
use rotation::versions::Stage;
use serde::Serialize;

use crate::action::Action;
use crate::actions::abort::DEFAULT_ABORT_AFTER;
use crate::error::OperateError;
use crate::kinds::TokenKind;
use crate::marker::Marker;
use crate::members::{Change, Members};
use crate::session::{Operation, READ_PAUSES, Snapshot, new_version};

/// The request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoke(pub Change);

impl Revoke {
    pub(crate) fn parse(members: &mut Members) -> Result<Self, OperateError> {
        members.change(Action::Revoke).map(Self)
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevokeAnswer {
    /// The version that is current.
    pub version: VersionId,
    /// How many tokens are dead.
    pub(crate) tokens_revoked: usize,
    /// Whether the application has refused each of them.
    pub(crate) proven_refused: bool,
}

/// Tokens without repetition, less those that are in use: the current one, and the next one, which applications accept.
struct Dead {
    in_use: Vec<SecretText>,
    tokens: Vec<SecretText>,
}

impl Dead {
    /// Whether there was one that is new.
    fn add(&mut self, tokens: impl IntoIterator<Item = SecretText>) -> bool {
        let before = self.tokens.len();
        for token in tokens {
            if !self.in_use.contains(&token) && !self.tokens.contains(&token) {
                self.tokens.push(token);
            }
        }
        self.tokens.len() > before
    }
}

impl<I: Issuer, S: OperationStore> Operation<'_, IssuedCredential<I>, S> {
    /// Revokes every credential that is not current, by its issuer, without waiting for the overlap.
    ///
    /// # Errors
    /// [`OperateError::RotationOpen`]; [`OperateError::CurrentDoesNotVerify`]: nothing is revoked then;
    /// [`RotationError::NotDelivered`], and the errors of the issuer.
    ///
    /// [`RotationError::NotDelivered`]: rotation::error::RotationError::NotDelivered
    pub async fn revoke_issued(&self, secret: Described, rng: &mut StdRng) -> Result<RevokeAnswer, OperateError> {
        let snapshot = self.snapshot_to_change(secret).await?;
        let unused = self.revoke_issued_snapshot(&snapshot, rng).await?;
        let proven_refused = unused.later == 0;
        Ok(RevokeAnswer { version: snapshot.current_id, tokens_revoked: unused.gone, proven_refused })
    }

    /// The same for a secret that was read.
    pub(crate) async fn revoke_issued_snapshot(
        &self,
        snapshot: &Snapshot,
        rng: &mut StdRng,
    ) -> Result<Unused, OperateError> {
        snapshot.require_no_open_rotation()?;
        self.revoke_others(snapshot, rng).await
    }

    /// The same beside an open rotation: what is pending is not revoked.
    pub(crate) async fn revoke_others(&self, snapshot: &Snapshot, rng: &mut StdRng) -> Result<Unused, OperateError> {
        if may_be_put_back(snapshot) {
            let (name, version) = (snapshot.secret.name.clone(), snapshot.current_id.clone());
            return Err(OperateError::RotationOpen { name, version });
        }
        self.verify(snapshot, rng).await.map_err(|error| OperateError::CurrentDoesNotVerify(Box::new(error)))?;
        self.require_delivered(snapshot).await?;
        let in_use = InUse { current: Some((&snapshot.current, snapshot.created)), until: Until::Now };
        Ok(self.session.revoke_unused(snapshot, &snapshot.subject(), in_use, rng).await?)
    }
}

/// Whether what made the current version current may still put back the version before, whose credential has to live till
/// then: an action that has not come to its end, or a rotation that the service has not seen succeed. An old one is dead.
fn may_be_put_back(snapshot: &Snapshot) -> bool {
    let secret = &snapshot.secret;
    let is_young = secret.last_changed.is_none_or(|changed| secret.as_of < changed + DEFAULT_ABORT_AFTER);
    // `AWSPENDING` may have been taken off while the rotation went on.
    let is_rotated_to = secret.versions.holder(&Stage::issued(&snapshot.current_id)) == Some(&snapshot.current_id);
    let is_operated_to = secret.versions.stages(&snapshot.current_id).any(Stage::is_of_operation);
    is_young && (is_operated_to || is_rotated_to && !snapshot.has_succeeded())
}

impl<K: TokenKind, S: OperationStore> Operation<'_, K, S> {
    /// Ends the overlap now: the previous token is taken away, and proven dead.
    ///
    /// # Errors
    /// [`OperateError::RotationOpen`]; `NotDelivered` and [`OperateError::CurrentDoesNotVerify`]: nothing is taken away then; [`RotationError::TargetAcceptsRevoked`] when the application still accepts it.
    ///
    /// [`RotationError::TargetAcceptsRevoked`]: rotation::error::RotationError::TargetAcceptsRevoked
    pub async fn revoke(&self, secret: Described, rng: &mut StdRng) -> Result<RevokeAnswer, OperateError> {
        let snapshot = self.snapshot_to_change(secret).await?;
        self.revoke_snapshot(snapshot, &new_version(rng), rng).await
    }

    /// The same for a secret that was read. `version` is the one that a JSON value without its previous token gets.
    pub(crate) async fn revoke_snapshot(
        &self,
        snapshot: Snapshot,
        version: &VersionId,
        rng: &mut StdRng,
    ) -> Result<RevokeAnswer, OperateError> {
        self.require_revocable(&snapshot, rng).await?;
        self.revoke_verified(snapshot, version, rng).await
    }

    /// Requires that a token may be taken away: no rotation is open, every consumer has the current value, and that one verifies.
    ///
    /// # Errors
    /// Those of [`revoke`](Self::revoke).
    pub(crate) async fn require_revocable(&self, snapshot: &Snapshot, rng: &mut StdRng) -> Result<(), OperateError> {
        snapshot.require_no_open_rotation()?;
        self.require_delivered(snapshot).await?;
        self.verify(snapshot, rng).await.map_err(|error| OperateError::CurrentDoesNotVerify(Box::new(error)))
    }

    /// Takes the previous token away, and proves it dead.
    ///
    /// # Errors
    /// Those of [`revoke`](Self::revoke).
    pub(crate) async fn revoke_verified(
        &self,
        mut snapshot: Snapshot,
        version: &VersionId,
        rng: &mut StdRng,
    ) -> Result<RevokeAnswer, OperateError> {
        let mut dead = self.dead_by_markers(&snapshot).await?;
        dead.add(self.of_compromised(&snapshot).await?);
        let held = self.session.kind.previous_token(&snapshot.current)?;
        // A marker that is there already tells of the others. Without an application nothing is proven, now or later. A JSON value has its
        // markers all the same: the process may die between its publication and the end of AWSPREVIOUS.
        let proves = self.session.kind.has_target() || snapshot.current.field().is_some();
        if dead.add(held) && proves {
            let holder = snapshot.current_id.clone();
            self.mark(&mut snapshot, Marker::PreviousRevoked, &holder).await?;
        }
        let last = self.previous(&snapshot).await?.filter(|last| last.version != snapshot.current_id);
        if let Some(last) = &last
            && dead.add([last.value.secret()?])
            && proves
        {
            self.mark(&mut snapshot, Marker::Revoked, &last.version).await?;
        }
        let now = self.take_previous_away(snapshot, last.map(|last| last.version), version).await?;
        self.prove_dead(&now, &dead.tokens, rng).await?;
        let after =
            if now.current_id == *version { now } else { self.snapshot_without(&now.current_id, &dead.tokens).await? };
        self.detach(&[Marker::Revoked, Marker::PreviousRevoked], &after.secret).await?;
        Ok(RevokeAnswer {
            version: after.current_id,
            tokens_revoked: dead.tokens.len(),
            proven_refused: self.session.kind.has_target() && !dead.tokens.is_empty(),
        })
    }

    /// Attaches a marker that goes when the tokens are dead.
    async fn mark(&self, snapshot: &mut Snapshot, marker: Marker, holder: &VersionId) -> Result<(), OperateError> {
        self.attach(marker, holder).await?;
        snapshot.note_stage(marker.on(holder), Some(holder));
        Ok(())
    }

    /// Takes the previous token away: out of a JSON value, which gets a new version for that, or `AWSPREVIOUS` off the version `last`.
    async fn take_previous_away(
        &self,
        snapshot: Snapshot,
        last: Option<VersionId>,
        version: &VersionId,
    ) -> Result<Snapshot, OperateError> {
        if let Some(now) = self.take_out_of_value(&snapshot, version).await? {
            return Ok(now);
        }
        if let Some(last) = last {
            self.session.take_off(Stage::Previous, &last).await?;
        }
        Ok(snapshot)
    }

    /// Takes the previous token out of a JSON value, which gets the new version `version` for that; `None` when the value holds none.
    pub(crate) async fn take_out_of_value(
        &self,
        snapshot: &Snapshot,
        version: &VersionId,
    ) -> Result<Option<Snapshot>, OperateError> {
        let without = self.session.kind.without_previous(&snapshot.current)?;
        if without.text() == snapshot.current.text() {
            return Ok(None);
        }
        let now = self.publish_and_detach(snapshot, &without, version).await?;
        // AWSPREVIOUS has come to the version with the old token. When a rotation was faster, it belongs to that.
        self.session.take_off(Stage::Previous, &snapshot.current_id).await?;
        Ok(Some(now))
    }

    /// The secret once `version` is current and `AWSPREVIOUS` holds none of these tokens. A rotation that began meanwhile may have put back
    /// what was taken away.
    pub(crate) async fn snapshot_without(
        &self,
        version: &VersionId,
        dead: &[SecretText],
    ) -> Result<Snapshot, OperateError> {
        let mut pauses = READ_PAUSES.into_iter();
        loop {
            let after = self.value_snapshot().await?;
            if after.current_id == *version {
                after.require_no_open_rotation()?;
                let back = self.previous(&after).await?.map(|back| back.value.secret()).transpose()?;
                if !back.is_some_and(|back| dead.contains(&back)) {
                    return Ok(after);
                }
            }
            // Or this read shows it as it was before.
            match pauses.next() {
                Some(pause) if self.session.deadline.pause(pause).await => {}
                _ => return Err(after.changed().into()),
            }
        }
    }

    /// The tokens that a revocation took away, or was about to, and did not prove dead.
    async fn dead_by_markers(&self, snapshot: &Snapshot) -> Result<Dead, OperateError> {
        let mut in_use = vec![snapshot.current.secret()?];
        in_use.extend(self.session.kind.next_token(&snapshot.current)?);
        let mut dead = Dead { in_use, tokens: vec![] };
        for holder in self.versions_with(snapshot, Marker::Revoked).await? {
            dead.add([holder.value.secret()?]);
        }
        for holder in self.versions_with(snapshot, Marker::PreviousRevoked).await? {
            dead.add(self.session.kind.previous_token(&holder.value)?);
        }
        Ok(dead)
    }

    /// The tokens of the versions that a compromise has to replace. The token in use is not replaced yet.
    async fn of_compromised(&self, snapshot: &Snapshot) -> Result<Vec<SecretText>, OperateError> {
        let mut tokens = vec![];
        for holder in self.versions_with(snapshot, Marker::Compromised).await? {
            tokens.push(holder.value.secret()?);
            tokens.extend(self.session.kind.next_token(&holder.value)?);
            tokens.extend(self.session.kind.previous_token(&holder.value)?);
        }
        Ok(tokens)
    }

    /// The tokens that never become current again.
    pub(crate) async fn condemned(&self, snapshot: &Snapshot) -> Result<Vec<SecretText>, OperateError> {
        let mut condemned = self.dead_by_markers(snapshot).await?.tokens;
        condemned.extend(self.of_compromised(snapshot).await?);
        Ok(condemned)
    }

    /// Proves that tokens are refused which a revocation took away and did not prove. `false` when there is no such token, or one is still
    /// to be taken away: then the action has to be run again. An open overlap stays open.
    ///
    /// # Errors
    /// [`RotationError::TargetAcceptsRevoked`], and those of the kind.
    ///
    /// [`RotationError::TargetAcceptsRevoked`]: rotation::error::RotationError::TargetAcceptsRevoked
    pub async fn finish_revocation(&self, snapshot: &Snapshot, rng: &mut StdRng) -> Result<bool, OperateError> {
        let dead = self.dead_by_markers(snapshot).await?;
        if dead.tokens.is_empty() {
            return Ok(false);
        }
        let last = self.previous(snapshot).await?.map(|last| last.value.secret()).transpose()?;
        let held = [self.session.kind.previous_token(&snapshot.current)?, last];
        if dead.tokens.iter().any(|token| held.contains(&Some(token.clone()))) {
            return Ok(false);
        }
        // A server that reads at its start accepts them until it is started anew.
        if self.undelivered(snapshot).await?.is_some() {
            return Ok(false);
        }
        self.prove_dead(snapshot, &dead.tokens, rng).await?;
        self.detach(&[Marker::Revoked, Marker::PreviousRevoked], &snapshot.secret).await?;
        Ok(true)
    }

    /// Has the application load the secret, and proves that it accepts the current token and none of these.
    async fn prove_dead(&self, now: &Snapshot, dead: &[SecretText], rng: &mut StdRng) -> Result<(), OperateError> {
        self.settle(now, None, self.session.deadline, rng).await?;
        for token in dead {
            self.session.kind.prove_refused(&now.secret.name, token, self.session.deadline).await?;
        }
        Ok(())
    }
}
