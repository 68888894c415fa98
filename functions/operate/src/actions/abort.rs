//! `abort`: a rotation that does not come to its end is given up.

use std::time::Duration;

use rand::rngs::StdRng;
use rotation::event::VersionId;
use rotation::marked_ring;
use rotation::moves::move_if_there;
use rotation::rollback::FormerStages;
use rotation::session::Session;
use rotation::store::{Described, OperationStore};
use rotation::time::format_timestamp;
use rotation::versions::Stage;
use serde::Serialize;

use crate::action::Action;
use crate::error::{OperateError, Problem};
use crate::kinds::OperatedKind;
use crate::marker::open_rotation;
use crate::members::{Change, Members};
use crate::session::{Operation, Proof};

/// The age at which a rotation may be given up, unless the stack sets `ABORT_AFTER`. It covers the timeout of the rotation functions, times
/// the repetitions by Secrets Manager, and the pauses between them.
pub const DEFAULT_ABORT_AFTER: Duration = Duration::from_secs(15 * 60);

/// The request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort(pub Change);

impl Abort {
    pub(crate) fn parse(members: &mut Members) -> Result<Self, OperateError> {
        members.change(Action::Abort).map(Self)
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct AbortAnswer {
    /// The version that was given up.
    pub aborted: Option<VersionId>,
    /// Why none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'static str>,
    /// When the rotation to it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    began: Option<String>,
    /// Whether the application works with the current value.
    #[serde(flatten)]
    proof: Option<Proof>,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

impl AbortAnswer {
    fn nothing(because: &'static str) -> Self {
        Self { aborted: None, because: Some(because), began: None, proof: None, problem: None }
    }

    /// Gives up the open rotation of a secret of any kind, and says how the secret was described last. The application is not told.
    ///
    /// `AWSPENDING` and `AWSPREVIOUS` on one version are what a put-back leaves that died. A person who moves `AWSCURRENT` by hand leaves
    /// the same. `may_be_put_back` says that it was a put-back: then the other labels go back to where they were. Else they stay.
    ///
    /// # Errors
    /// [`OperateError::TooYoungToAbort`], also when the service does not say how old the rotation is.
    pub async fn rotation_of<S: OperationStore>(
        store: &S,
        secret_id: &str,
        secret: Described,
        abort_after: Duration,
        may_be_put_back: bool,
    ) -> Result<(Self, Described), OperateError> {
        let Some(version) = open_rotation(&secret) else { return Ok((Self::nothing("no rotation is open"), secret)) };
        let ages = store.versions(secret_id).await?;
        let began = ages.into_iter().find(|age| age.version == *version).and_then(|age| age.created);
        let began = began.or(secret.last_changed).unwrap_or(secret.as_of);
        // Taking a rotation up again changes nothing that tells of it, but its createSecret or its stages do.
        let changed = secret.last_changed.map_or(began, |changed| changed.max(began));
        let from = changed + abort_after;
        if secret.as_of < from {
            return Err(OperateError::TooYoungToAbort { version: version.clone(), began, changed, from });
        }
        if may_be_put_back && secret.versions.holder(&Stage::Previous) == Some(version) {
            FormerStages::of(&secret, version).restore(store, secret_id).await?;
        } else {
            let record = Stage::restored_after(version);
            if let Some(holder) = secret.versions.holder(&record) {
                // First: whoever dies then is asked again.
                move_if_there(store, secret_id, record, Some(holder), None).await?;
            }
            move_if_there(store, secret_id, Stage::Pending, Some(version), None).await?;
        }
        let now = store.describe(secret_id).await?;
        if now.versions.holder(&Stage::Current) == Some(version) {
            return Ok((Self::nothing(ENDED), now));
        }
        let began = Some(format_timestamp(began));
        Ok((Self { aborted: Some(version.clone()), because: None, began, proof: None, problem: None }, now))
    }
}

const ENDED: &str = "it has come to its end in this moment";

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Gives up a rotation that does not come to its end, and has the application drop the pending value. Without one, the
    /// application is told all the same: an earlier try may have died before that.
    ///
    /// # Errors
    /// [`OperateError::TooYoungToAbort`], also when the service does not say how old the rotation is.
    pub async fn abort(
        &self,
        secret: Described,
        abort_after: Duration,
        rng: &mut StdRng,
    ) -> Result<AbortAnswer, OperateError> {
        let Session { store, secret_id, deadline, .. } = self.session;
        let may_be_put_back = self.may_be_put_back(&secret).await;
        let (mut aborted, now) =
            AbortAnswer::rotation_of(store, secret_id, secret, abort_after, may_be_put_back).await?;
        // Without a current value there is nothing that an application could load.
        if aborted.because == Some(ENDED) || now.versions.holder(&Stage::Current).is_none() {
            return Ok(aborted);
        }
        let settled = async {
            let snapshot = self.snapshot_of(now).await?;
            Ok::<_, OperateError>(self.settle(&snapshot, None, deadline, rng).await?)
        };
        let settled = settled.await;
        let proof = self.proof();
        aborted.proof = Some(Proof { verified: settled.is_ok() && proof.verified, ..proof });
        aborted.problem = settled.err().as_ref().map(Problem::of);
        Ok(aborted)
    }

    /// Whether the open rotation may have been put back: no rotation puts a ring back for one that lacks its keys in use. Then a person
    /// moved `AWSCURRENT`, and the labels on the version are the only ones that keep its keys.
    async fn may_be_put_back(&self, secret: &Described) -> bool {
        let holder = secret.versions.holder(&marked_ring::stage());
        if open_rotation(secret).is_none() || open_rotation(secret) != holder {
            return true;
        }
        match self.value_snapshot_of(secret.clone()).await {
            Ok(snapshot) => self.require_all_keys(&snapshot).await.is_ok(),
            Err(_) => false,
        }
    }
}
