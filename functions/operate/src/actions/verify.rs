//! `verify`: whether the current value works.

use rand::rngs::StdRng;
use rotation::event::VersionId;
use rotation::store::{Described, OperationStore};
use serde::Serialize;

use crate::error::OperateError;
use crate::kinds::{OperatedKind, TokenKind};
use crate::members::{Inquiry, Members};
use crate::session::{Operation, Proof};

/// The request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify(pub Inquiry);

impl Verify {
    pub(crate) fn parse(members: &mut Members) -> Result<Self, OperateError> {
        members.inquiry().map(Self)
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyAnswer {
    /// The version that was proven.
    pub version: VersionId,
    /// What has proven it.
    #[serde(flatten)]
    pub proof: Proof,
}

impl<K: TokenKind, S: OperationStore> Operation<'_, K, S> {
    /// Proves the current token of a secret that was described, and the next token, if the value holds one.
    ///
    /// # Errors
    /// The proof's.
    pub async fn verify_tokens(&self, secret: Described, rng: &mut StdRng) -> Result<VerifyAnswer, OperateError> {
        let snapshot = self.snapshot_of(secret).await?;
        self.verify(&snapshot, rng).await?;
        self.session.kind.prove_next(&snapshot.subject(), &snapshot.current, self.session.deadline, rng).await?;
        Ok(VerifyAnswer { version: snapshot.current_id, proof: self.proof() })
    }
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Proves the current value of a secret that was described, by the same proofs as before a promotion.
    ///
    /// # Errors
    /// The proof's.
    pub async fn verify_current(&self, secret: Described, rng: &mut StdRng) -> Result<VerifyAnswer, OperateError> {
        let snapshot = self.snapshot_of(secret).await?;
        self.verify(&snapshot, rng).await?;
        Ok(VerifyAnswer { version: snapshot.current_id, proof: self.proof() })
    }
}
