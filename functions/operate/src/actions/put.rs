//! `put`: stores values that a person rotates.

use rand::rngs::StdRng;
use rotation::document::FieldName;
use rotation::event::VersionId;
use rotation::members::with_members;
use rotation::policy::done_tag;
use rotation::secret::SecretText;
use rotation::store::{Described, OperationStore};
use rotation::time::format_timestamp;
use rotation::versions::Stage;
use serde::Serialize;

use crate::action::Action;
use crate::error::OperateError;
use crate::kinds::OperatedKind;
use crate::marker::{Marker, unfinished};
use crate::members::{Change, Members, NewValues, invalid};
use crate::publication::Before;
use crate::session::{Operation, Proof, Snapshot, new_version};

/// The request. `Debug` shows no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Of what, and why.
    pub change: Change,
    /// What is stored.
    pub values: NewValues,
}

impl Put {
    pub(crate) fn parse(members: &mut Members) -> Result<Self, OperateError> {
        let change = members.change(Action::Put)?;
        let problem = "expected an object of members and their texts, or instead of it \"value\" for a text secret";
        let values = members.values().ok_or_else(|| invalid("members", problem))?;
        Ok(Self { change, values })
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PutAnswer {
    /// The version with the values.
    pub version: VersionId,
    /// The version that was current, which is `AWSPREVIOUS` now; `None` when it had these values already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<VersionId>,
    /// The names of the members; none for a text.
    pub(crate) members: Vec<String>,
    /// Whether the current version had these values already.
    pub(crate) already: bool,
    #[serde(flatten)]
    pub(crate) proof: Proof,
    /// The stored members. What is verified is the secret that a function rotates, never a member that people store.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) not_verified: Vec<String>,
    /// When it was stored, as the tags `rotation:done` say.
    pub(crate) done: String,
    /// Why the tags `rotation:done` were not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_recorded: Option<String>,
}

impl PutAnswer {
    /// The answer, once the time is recorded in the tags. A value is stored whether that succeeds or not.
    pub(crate) async fn record<S: OperationStore>(
        store: &S,
        secret: &Described,
        values: &NewValues,
        (version, replaced): (VersionId, Option<VersionId>),
        proof: Proof,
    ) -> Self {
        let done = format_timestamp(secret.as_of);
        let names = values.names();
        let members: Vec<Option<&FieldName>> =
            if names.is_empty() { vec![None] } else { names.iter().copied().map(Some).collect() };
        let tags: Vec<_> = members.into_iter().map(|member| (done_tag(member), done.clone())).collect();
        let not_recorded = store.tag(&secret.name, &tags).await.err().map(|error| error.to_string());
        let members: Vec<String> = names.into_iter().map(ToString::to_string).collect();
        let not_verified = members.clone();
        Self { version, already: replaced.is_none(), replaced, members, proof, not_verified, done, not_recorded }
    }
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Stores members beside the one that a function rotates. All other bytes stay. The application is told and asked; when it does not
    /// accept the secret, the version before is put back. Where the members have these values already, it is told and asked once more.
    ///
    /// # Errors
    /// [`OperateError::InvalidRequest`] for members that the rotation function owns, [`OperateError::RotationOpen`],
    /// [`OperateError::DidNotVerify`], and [`OperateError::Compromised`] while an action on a leaked value is not at its end.
    pub async fn put(&self, secret: Described, put: &Put, rng: &mut StdRng) -> Result<PutAnswer, OperateError> {
        let snapshot = self.snapshot_to_change(secret).await?;
        snapshot.require_no_open_rotation()?;
        if matches!(unfinished(&snapshot.secret), Some(Action::Compromise | Action::Revoke)) {
            return Err(OperateError::Compromised { what: "the current value".to_owned() });
        }
        let value = self.session.kind.parse(&snapshot.policy, self.merged(&snapshot, &put.values)?)?;
        if value.text() == snapshot.current.text() {
            self.settle(&snapshot, None, self.session.deadline, rng).await?;
            let versions = (snapshot.current_id.clone(), None);
            return Ok(
                PutAnswer::record(self.session.store, &snapshot.secret, &put.values, versions, self.proof()).await
            );
        }
        self.session.require_time()?;
        let version = new_version(rng);
        let now = self.publish(&snapshot, &value, &[Marker::Operation], &version).await?;
        let previous = snapshot.secret.versions.holder(&Stage::Previous).cloned();
        let before = Before { version: snapshot.current_id.clone(), previous };
        self.settle_or_put_back(&now, before, Some(&snapshot.current), rng).await?;
        let versions = (version, Some(snapshot.current_id.clone()));
        Ok(PutAnswer::record(self.session.store, &snapshot.secret, &put.values, versions, self.proof()).await)
    }

    /// The current value with these members, none of which the rotation function owns.
    fn merged(&self, snapshot: &Snapshot, values: &NewValues) -> Result<SecretText, OperateError> {
        let owned = self.session.kind.members(&snapshot.policy, &snapshot.current);
        match values {
            NewValues::Members(members) if snapshot.policy.field.is_some() => {
                if let Some((name, _)) = members.iter().find(|(name, _)| owned.contains(name)) {
                    return Err(invalid(
                        "members",
                        format!("{name} is rotated by a function: rotate-secret replaces it"),
                    ));
                }
                Ok(with_members(snapshot.current.text(), members)?)
            }
            _ => Err(invalid("secret_id", "a function rotates the whole text: rotate-secret replaces it")),
        }
    }
}
