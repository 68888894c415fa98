//! The end of a token's overlap.
//!
//! The application enforces the end by itself: it goes by a date that stands in the value, or by the age of the current version. So a
//! sweep first asks the application with the previous token. When each instance refuses it, the token is dead before the sweep takes
//! anything away. Then the sweep attaches no marker, tells the application nothing, and describes the secret no second time.
//!
//! # Why that is safe
//!
//! - The refusal does not depend on `AWSPREVIOUS`. A rotation that began meanwhile and fails gives that label back to the old version. But
//!   the version that is current again is no younger than before, so the application goes on refusing the token. The next sweep takes the
//!   label off again. It asks again, too: an application may have refused the token for another reason than the date.
//! - The removal names the version that was read. When a rotation was faster, `AWSPREVIOUS` is on the version that it replaced, and stays
//!   there: the service refuses the removal. Then the secret is described once more, and the sweep tells that somebody changed it.
//! - A JSON value loses its member by a move that names the version before, as it does by `revoke`.
//! - A process that dies before the removal has changed nothing. One that dies later leaves nothing to prove. Of a JSON value it may leave
//!   labels: that of the new version, which the next sweep or action removes, and `AWSPREVIOUS`, on a version whose old token is dead.
//!
//! An application that still accepts the token is told first to load the secret without it. Until it refuses the token, a marker keeps a
//! later try from forgetting it: that is the way of `revoke`. The same holds where an earlier try has left a marker, and where there is
//! no application to ask.
//!
//! # What it costs
//!
//! A text takes four calls: DescribeSecret, GetSecretValue for both versions, and the removal. A JSON value takes eight. Its new version
//! needs a label of its own for the time between PutSecretValue and the move, and both that label and `AWSPENDING` go by calls of their
//! own. So does `AWSPREVIOUS`, which the move brings to the version with the old token.

use rand::rngs::StdRng;
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::kind::SecretKind;
use rotation::secret::SecretText;
use rotation::store::{Described, OperationStore, StoreErrorKind};
use rotation::versions::Stage;

use crate::actions::compromise::replaced_at_once;
use crate::error::OperateError;
use crate::kinds::{OperatedKind, TokenKind};
use crate::marker::{open_rotation, unfinished};
use crate::session::{Operation, Snapshot, new_version};
use crate::sweep::listing::{TRIED_FOR, is_to_be_finished};
use crate::sweep::timing::{QUIET, since};

/// What became of an overlap.
#[derive(Debug)]
pub enum OverlapEnd {
    /// It was over, and was ended: the version that is current since. Or an earlier revocation or compromise was proven: `None`.
    Ended(Option<VersionId>),
    /// Fresh tokens have replaced those that leaked, and servers do not hold them yet.
    ReplacementWaits,
    /// Nothing was taken away.
    Stays {
        /// The secret.
        snapshot: Box<Snapshot>,
        /// Whether it is over, and is ended when the secret has not been changed for a while, and is delivered.
        postponed: bool,
    },
}

impl<K: TokenKind, S: OperationStore> Operation<'_, K, S> {
    /// Ends the overlap of a listed secret, if it is over, and finishes what an earlier try has left.
    ///
    /// # Errors
    /// Those of [`revoke`](Self::revoke).
    pub async fn end_overlap(&self, listed: &Described, rng: &mut StdRng) -> Result<OverlapEnd, OperateError> {
        let snapshot = self.confirmed_snapshot(listed).await?;
        if self.session.kind.replaces_at_once(&snapshot.policy) && replaced_at_once(&snapshot.secret).is_some() {
            let finished = self.finish_compromise(snapshot, rng).await?;
            return Ok(if finished { OverlapEnd::Ended(None) } else { OverlapEnd::ReplacementWaits });
        }
        let over = is_overlap_over(self.session.kind, &snapshot);
        let postponed = over && self.has_to_wait(&snapshot).await?;
        if over && !postponed {
            return self.end_over(snapshot, rng).await.map(Some).map(OverlapEnd::Ended);
        }
        if !over && self.finish_revocation(&snapshot, rng).await? {
            return Ok(OverlapEnd::Ended(None));
        }
        Ok(OverlapEnd::Stays { snapshot: Box::new(snapshot), postponed })
    }

    /// What the listing says may be some minutes old: before anything is said against a secret, or taken away, it is described. A tag
    /// may have prolonged the overlap meanwhile, an edit may be in the making, or a rotation open, which a new version would abandon.
    async fn confirmed_snapshot(&self, listed: &Described) -> Result<Snapshot, OperateError> {
        match self.snapshot_of(listed.clone()).await {
            Ok(snapshot) if !(is_overlap_over(self.session.kind, &snapshot) || is_to_be_finished(&snapshot.secret)) => {
                Ok(snapshot)
            }
            _ => self.snapshot().await,
        }
    }

    /// Ends an overlap that is over. Answers the version that is current then.
    async fn end_over(&self, snapshot: Snapshot, rng: &mut StdRng) -> Result<VersionId, OperateError> {
        let version = new_version(rng);
        self.require_revocable(&snapshot, rng).await?;
        match self.refused_already(&snapshot).await? {
            Some(dead) => self.drop_previous(snapshot, &dead, &version).await,
            None => Ok(self.revoke_verified(snapshot, &version, rng).await?.version),
        }
    }

    /// The tokens that end with the overlap, if the application refuses all of them already. `None` also when an earlier try has left a
    /// marker.
    async fn refused_already(&self, snapshot: &Snapshot) -> Result<Option<Vec<SecretText>>, OperateError> {
        if !self.session.kind.has_target() || unfinished(&snapshot.secret).is_some() {
            return Ok(None);
        }
        let in_use = [Some(snapshot.current.secret()?), self.session.kind.next_token(&snapshot.current)?];
        let last = self.previous(snapshot).await?.map(|last| last.value.secret()).transpose()?;
        let held = self.session.kind.previous_token(&snapshot.current)?;
        let mut dead: Vec<SecretText> = held.into_iter().chain(last).collect();
        dead.retain(|token| !in_use.iter().flatten().any(|used| used == token));
        dead.dedup();
        for token in &dead {
            if !self.session.kind.is_refused(&snapshot.secret.name, token, self.session.deadline).await? {
                return Ok(None);
            }
        }
        Ok((!dead.is_empty()).then_some(dead))
    }

    /// Takes tokens away that are dead: out of a JSON value, or `AWSPREVIOUS` off the version that was read.
    async fn drop_previous(
        &self,
        snapshot: Snapshot,
        dead: &[SecretText],
        version: &VersionId,
    ) -> Result<VersionId, OperateError> {
        if let Some(now) = self.take_out_of_value(&snapshot, version).await? {
            return Ok(now.current_id);
        }
        if let Some(last) = snapshot.secret.versions.holder(&Stage::Previous) {
            match self.session.store.move_stage(self.session.secret_id, Stage::Previous, Some(last), None).await {
                // By an earlier try of the same call, or by somebody else.
                Err(error) if error.kind == StoreErrorKind::Conflict => {
                    self.snapshot_without(&snapshot.current_id, dead).await?;
                }
                removed => removed?,
            }
        }
        Ok(snapshot.current_id)
    }
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Whether the end of an overlap has to wait: for quiet, for the end of a rotation, or for a delivery.
    pub(super) async fn has_to_wait(&self, snapshot: &Snapshot) -> Result<bool, RotationError> {
        let quiet = since(&snapshot.secret, snapshot.secret.last_changed).is_some_and(|changed| changed >= QUIET);
        let waits = !quiet || open_rotation(&snapshot.secret).is_some();
        Ok(waits || self.undelivered(snapshot).await?.is_some())
    }
}

/// Whether the overlap has ended, by the value itself.
fn is_overlap_over<K: SecretKind>(kind: &K, snapshot: &Snapshot) -> bool {
    let end = snapshot.overlap_end(kind);
    match snapshot.current.field() {
        // A JSON value says itself whether there is one; AWSPREVIOUS may be a person's own way back.
        Some(_) => end.is_some_and(|end| end < snapshot.secret.as_of),
        None => {
            let previous = snapshot.secret.versions.holder(&Stage::Previous);
            previous.is_some() && end.is_none_or(|end| end < snapshot.secret.as_of) && is_of_rotation(snapshot)
        }
    }
}

/// Whether `AWSPREVIOUS` may be what the last rotation replaced. Long after it, a younger current value is a person's, and
/// `AWSPREVIOUS` the way back.
fn is_of_rotation(snapshot: &Snapshot) -> bool {
    let Some(rotated) = snapshot.secret.last_rotated else { return true };
    let age = since(&snapshot.secret, Some(rotated));
    snapshot.created <= rotated || age.is_some_and(|age| age < snapshot.policy.overlap + TRIED_FOR)
}
