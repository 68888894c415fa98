//! A compromise of staged tokens: the token and the next one are replaced at once by fresh ones, and no previous token stays.
//!
//! No rotation can do that. It would promote the next token, which has leaked with the value, and no server knows a fresh one before it is
//! restarted. So requests are refused until every server and client is restarted. Then the tokens that have leaked are proven dead, by the
//! same request or by a sweep.

use rand::rngs::StdRng;
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::kind::{Phase, Values};
use rotation::store::OperationStore;
use rotation::versions::Stage;

use crate::actions::compromise::{CompromiseAnswer, Effect, published_version, replaced_at_once};
use crate::actions::revoke::RevokeAnswer;
use crate::error::OperateError;
use crate::kinds::TokenKind;
use crate::marker::{Marker, open_rotation};
use crate::session::{Operation, Snapshot, new_version};

impl<K: TokenKind, S: OperationStore> Operation<'_, K, S> {
    /// Replaces the tokens of a snapshot at once, unless an earlier try has: then `replaced` is the version that has leaked.
    ///
    /// # Errors
    /// [`OperateError::NotFinished`] until every server holds the fresh tokens, and those of [`revoke`](Self::revoke).
    pub(crate) async fn compromise_staged(
        &self,
        snapshot: Snapshot,
        replaced: Option<VersionId>,
        rng: &mut StdRng,
    ) -> Result<CompromiseAnswer, OperateError> {
        let (exposed, now) = match replaced {
            Some(exposed) => (exposed, snapshot),
            None => (snapshot.current_id.clone(), self.replace_at_once(&snapshot, rng).await?),
        };
        self.finish_replacement(exposed, now, rng).await
    }

    /// Publishes fresh tokens in place of the current ones. An open rotation would promote a token that has leaked, and is given up.
    async fn replace_at_once(&self, snapshot: &Snapshot, rng: &mut StdRng) -> Result<Snapshot, OperateError> {
        let fresh = self.session.kind.with_fresh_tokens(&snapshot.subject(), &snapshot.current, rng)?;
        self.attach(Marker::Compromised, &snapshot.current_id).await?;
        if let Some(open) = open_rotation(&snapshot.secret) {
            self.session.take_off(Stage::Pending, open).await?;
        }
        let version = published_version(&snapshot.current_id, rng);
        self.publish_and_detach(snapshot, &fresh, &version).await?;
        let now = self.snapshot_once_current(&version).await?;
        // Best effort: most applications of staged tokens cannot load anything before they are restarted.
        let values = Values { old: Some(&snapshot.current), new: &now.current };
        let deadline = self.session.deadline_to_settle();
        let _ = self.session.kind.set(&now.subject(), values, Phase::AfterPromotion, deadline).await;
        Ok(now)
    }

    /// Proves dead what `now` has replaced at once, when every server holds the fresh tokens.
    ///
    /// # Errors
    /// Those of [`compromise_staged`](Self::compromise_staged).
    async fn finish_replacement(
        &self,
        exposed: VersionId,
        now: Snapshot,
        rng: &mut StdRng,
    ) -> Result<CompromiseAnswer, OperateError> {
        let not_finished = OperateError::NotFinished { version: now.current_id.clone(), function: None };
        match self.require_delivered(&now).await {
            Err(RotationError::NotDelivered { .. }) => return Err(not_finished),
            delivered => delivered?,
        }
        let secret = now.secret.clone();
        let revoked = match self.revoke_snapshot(now, &new_version(rng), rng).await {
            Err(OperateError::CurrentDoesNotVerify(reason))
                if matches!(*reason, RotationError::TargetRefused { .. }) =>
            {
                return Err(not_finished);
            }
            revoked => revoked?,
        };
        self.detach(&[Marker::Compromised], &secret).await?;
        let RevokeAnswer { version, tokens_revoked, proven_refused } = revoked;
        Ok(CompromiseAnswer { version, replaced: exposed, effect: Effect::Token { tokens_revoked, proven_refused } })
    }

    /// The same for a sweep. `false` when servers do not hold the fresh tokens yet.
    ///
    /// # Errors
    /// Those of [`compromise_staged`](Self::compromise_staged).
    pub(crate) async fn finish_compromise(&self, now: Snapshot, rng: &mut StdRng) -> Result<bool, OperateError> {
        let Some(exposed) = replaced_at_once(&now.secret).cloned() else { return Ok(false) };
        match self.finish_replacement(exposed, now, rng).await {
            Ok(_) => Ok(true),
            Err(OperateError::NotFinished { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
