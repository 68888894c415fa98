//! `rollback`: the value before becomes current again, in a new version.

use issued_credential::IssuedCredential;
use issued_credential::issuer::Issuer;
use rand::rngs::StdRng;
use rotation::document::Document;
use rotation::event::VersionId;
use rotation::kind::{Phase, SecretKind as _, Values};
use rotation::store::{Described, OperationStore};
use serde::Serialize;

use crate::action::Action;
use crate::error::OperateError;
use crate::kinds::{KeyringKind, OperatedKind, Summary, TokenKind};
use crate::marker::{Marker, is_half_rolled_back};
use crate::members::{Change, Members};
use crate::publication::Before;
use crate::session::{Operation, Proof, Snapshot, new_version};

/// The request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback(pub Change);

impl Rollback {
    pub(crate) fn parse(members: &mut Members) -> Result<Self, OperateError> {
        members.change(Action::Rollback).map(Self)
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RollbackAnswer {
    /// The version with the value before.
    pub version: VersionId,
    /// The version that was current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back_from: Option<VersionId>,
    /// Whether an earlier request has made it current.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    already: bool,
    #[serde(flatten)]
    proof: Proof,
    #[serde(flatten)]
    summary: Option<Summary>,
}

impl RollbackAnswer {
    /// Of a secret that nobody rotates. Nobody is asked about its value, and nothing is known of what it holds.
    pub(crate) fn unproven(version: VersionId, rolled_back_from: Option<VersionId>) -> Self {
        let proof = Proof { verified: false, by: vec![] };
        Self { version, already: rolled_back_from.is_none(), rolled_back_from, proof, summary: None }
    }
}

impl<K: TokenKind, S: OperationStore> Operation<'_, K, S> {
    /// Makes the previous token current again. The token that is replaced stays accepted for the overlap. Edits of other members stay.
    /// Where an earlier rollback has done so already, only the application is told and asked once more.
    ///
    /// # Errors
    /// [`OperateError::RotationOpen`], [`OperateError::NothingToGoBackTo`], [`OperateError::Compromised`],
    /// [`OperateError::DidNotVerify`].
    pub async fn roll_back_token(&self, secret: Described, rng: &mut StdRng) -> Result<RollbackAnswer, OperateError> {
        let snapshot = self.snapshot_to_change(secret).await?;
        if let Some(already) = self.already_rolled_back(&snapshot, rng).await? {
            return Ok(already);
        }
        let back = self.value_before(&snapshot).await?;
        if self.condemned(&snapshot).await?.contains(&back.secret()?) {
            return Err(OperateError::Compromised { what: "the token before".to_owned() });
        }
        self.publish_value_before(&snapshot, &back, rng).await
    }
}

impl<K: KeyringKind, S: OperationStore> Operation<'_, K, S> {
    /// Makes the previous primary key primary again. The key that is replaced stays in the ring. Edits of other members stay. Where an
    /// earlier rollback has done so already, only the application is told and asked once more.
    ///
    /// # Errors
    /// [`OperateError::RotationOpen`], [`OperateError::NothingToGoBackTo`], [`OperateError::Compromised`],
    /// [`OperateError::DidNotVerify`]; of a keyring that lacks keys, [`RotationError::KeysMissing`].
    ///
    /// [`RotationError::KeysMissing`]: rotation::error::RotationError::KeysMissing
    pub async fn roll_back_keyring(&self, secret: Described, rng: &mut StdRng) -> Result<RollbackAnswer, OperateError> {
        let snapshot = self.snapshot_to_change(secret).await?;
        if let Some(already) = self.already_rolled_back(&snapshot, rng).await? {
            return Ok(already);
        }
        // Of a ring that lacks keys, another old key is no way back.
        self.require_all_keys(&snapshot).await?;
        let back = self.value_before(&snapshot).await?;
        self.publish_value_before(&snapshot, &back, rng).await
    }
}

impl<I: Issuer, S: OperationStore> Operation<'_, IssuedCredential<I>, S> {
    /// Makes the previous credential current again, if its issuer says that it works. The one that is replaced is revoked after its overlap.
    /// Edits of other members stay.
    ///
    /// # Errors
    /// [`OperateError::RotationOpen`], [`OperateError::NothingToGoBackTo`], [`OperateError::Compromised`],
    /// [`OperateError::DidNotVerify`].
    pub async fn roll_back_issued(&self, secret: Described, rng: &mut StdRng) -> Result<RollbackAnswer, OperateError> {
        let snapshot = self.snapshot_to_change(secret).await?;
        if let Some(already) = self.already_rolled_back(&snapshot, rng).await? {
            return Ok(already);
        }
        let back = self.value_before(&snapshot).await?;
        // It may have ended, or be revoked by somebody else.
        let values = Values { old: Some(&snapshot.current), new: &back };
        let subject = snapshot.subject();
        let tested = self.session.kind.test(&subject, values, Phase::AfterPromotion, self.session.deadline, rng).await;
        tested.map_err(|reason| OperateError::DidNotVerify {
            reason: Box::new(reason),
            outcome: format!("nothing was changed, and version {} is AWSCURRENT", snapshot.current_id),
        })?;
        // A credential that a person made has no label yet, and would never be revoked.
        self.session.mark_issued(&snapshot, &snapshot.current_id).await?;
        self.publish_value_before(&snapshot, &back, rng).await
    }
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// The answer, when a rollback has made the value in use.
    async fn already_rolled_back(
        &self,
        snapshot: &Snapshot,
        rng: &mut StdRng,
    ) -> Result<Option<RollbackAnswer>, OperateError> {
        snapshot.require_no_open_rotation()?;
        for made in self.versions_with(snapshot, Marker::RolledBack).await? {
            if self.session.kind.same_in_use(&snapshot.policy, &made.value, &snapshot.current)? {
                return self.roll_back_again(snapshot, rng).await.map(Some);
            }
        }
        Ok(None)
    }

    /// The value that becomes current again.
    async fn value_before(&self, snapshot: &Snapshot) -> Result<Document, OperateError> {
        let (kind, current) = (self.session.kind, &snapshot.current);
        let known = kind.holds_value_before(&snapshot.policy, current)?;
        let previous = if known { None } else { self.previous(snapshot).await? };
        let back =
            kind.value_before(&snapshot.subject(), current, previous.as_ref().map(|previous| &previous.value))?;
        let back = back.ok_or_else(|| OperateError::NothingToGoBackTo { name: snapshot.secret.name.clone() })?;
        for marker in [Marker::Compromised, Marker::Exposed] {
            for leaked in self.versions_with(snapshot, marker).await? {
                // What is current is to be replaced by something new.
                let being_replaced = marker == Marker::Compromised && leaked.version == snapshot.current_id;
                if being_replaced || self.session.kind.same_in_use(&snapshot.policy, &leaked.value, &back)? {
                    return Err(OperateError::Compromised { what: format!("version {}", leaked.version) });
                }
            }
        }
        Ok(back)
    }

    async fn publish_value_before(
        &self,
        snapshot: &Snapshot,
        back: &Document,
        rng: &mut StdRng,
    ) -> Result<RollbackAnswer, OperateError> {
        self.session.require_time()?;
        let version = new_version(rng);
        let now = match self.publish(snapshot, back, &[Marker::RolledBack, Marker::Operation], &version).await {
            Ok(now) => now,
            Err(error) => {
                // It may have become current, and not be visible yet: then its markers are still there. Or another request for the same
                // was faster, and replaced another version.
                let now = self.snapshot().await?;
                let moved = now.current_id != snapshot.current_id;
                if moved && self.session.kind.same_in_use(&now.policy, &now.current, back)? {
                    return self.roll_back_again(&now, rng).await;
                }
                return Err(error);
            }
        };
        let before = Before::of(snapshot);
        self.settle_or_put_back(&now, before, Some(&snapshot.current), rng).await?;
        // Those of earlier rollbacks tell nothing any more.
        self.detach(&[Marker::RolledBack], &snapshot.secret).await?;
        self.rolled_back(&now, &snapshot.current_id, false)
    }

    /// An earlier try, or another request, has made the value before current again. When it was not proven then, it is now, or
    /// put back; when it was, it stays.
    async fn roll_back_again(&self, snapshot: &Snapshot, rng: &mut StdRng) -> Result<RollbackAnswer, OperateError> {
        let half = is_half_rolled_back(&snapshot.secret);
        // AWSPREVIOUS is on what was rolled back.
        match self.previous(snapshot).await?.filter(|_| half) {
            Some(before) if !self.session.kind.same_in_use(&snapshot.policy, &before.value, &snapshot.current)? => {
                // An earlier try may have died before it told the application, which knows this value only.
                let (version, value) = (before.version.clone(), &before.value);
                self.settle_or_put_back(snapshot, Before { version, previous: None }, Some(value), rng).await?;
                self.rolled_back(snapshot, &before.version, true)
            }
            _ => {
                self.settle(snapshot, None, self.session.deadline, rng).await?;
                self.take_off_if_there(snapshot, Marker::Operation).await?;
                self.rolled_back(snapshot, &snapshot.current_id, true)
            }
        }
    }

    fn rolled_back(&self, now: &Snapshot, from: &VersionId, already: bool) -> Result<RollbackAnswer, OperateError> {
        Ok(RollbackAnswer {
            version: now.current_id.clone(),
            rolled_back_from: (*from != now.current_id).then(|| from.clone()),
            already,
            proof: self.proof(),
            summary: Some(self.session.kind.summary(&now.subject(), &now.current)?),
        })
    }
}
