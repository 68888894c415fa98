//! Secrets that nobody rotates: people store their values, with `put`.

use encryption_key::LONGEST_INVOCATION;
use rand::rngs::StdRng;
use rotation::archive;
use rotation::deadline::Deadline;
use rotation::document::{Document, MAX_VALUE_BYTES, is_empty_object};
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::members::with_members;
use rotation::moves::{MoveOutcome, may_have_moved, move_current, move_if_there};
use rotation::secret::SecretText;
use rotation::store::{Described, OperationStore, Put as Stored, StoreError, StoreErrorKind};
use rotation::versions::Stage;

use crate::actions::put::{Put, PutAnswer};
use crate::error::OperateError;
use crate::marker::Marker;
use crate::members::{NewValues, invalid};
use crate::session::{Proof, new_version};

/// Nobody is asked about the value.
const UNPROVEN: Proof = Proof { verified: false, by: vec![] };

/// One request about such a secret.
pub(crate) struct Unmanaged<'a, S> {
    pub(crate) store: &'a S,
    pub(crate) secret_id: &'a str,
    pub(crate) deadline: Deadline,
}

impl<S: OperationStore> Unmanaged<'_, S> {
    /// Stores values. All other members stay, byte for byte. The version that is replaced becomes `AWSPREVIOUS`. The move of `AWSCURRENT`
    /// names it, so an edit in between stands.
    ///
    /// # Errors
    /// [`OperateError::InvalidRequest`], [`RotationError::CurrentChanged`], [`RotationError::ValueTooLarge`], and what the service refuses.
    pub(crate) async fn put(&self, secret: &Described, put: &Put, rng: &mut StdRng) -> Result<PutAnswer, OperateError> {
        require_usable(secret)?;
        let empty = || invalid("secret_id", "the secret has no value yet: store {} once, and send this again");
        let current_id = secret.versions.holder(&Stage::Current).ok_or_else(empty)?;
        let current = self.store.get(self.secret_id, current_id).await?;
        let current = current.ok_or_else(|| RotationError::ValueMissing { version: current_id.clone() })?.text;
        let value = merged(&current, &put.values)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(RotationError::ValueTooLarge { bytes: value.len() }.into());
        }
        self.tidy(secret).await?;
        let versions = if value == current {
            (current_id.clone(), None)
        } else {
            let version = new_version(rng);
            self.publish(secret, current_id, &value, &version).await?;
            (version, Some(current_id.clone()))
        };
        Ok(PutAnswer::record(self.store, secret, &put.values, versions, UNPROVEN).await)
    }

    /// Stores `value` under a label of its own, and moves `AWSCURRENT` there.
    async fn publish(
        &self,
        secret: &Described,
        current: &VersionId,
        value: &SecretText,
        version: &VersionId,
    ) -> Result<(), OperateError> {
        let changed = || RotationError::CurrentChanged { name: secret.name.clone() };
        let label = Marker::Operation.on(version);
        secret.require_stages(1)?;
        match self.store.put_private(self.secret_id, version, value, std::slice::from_ref(&label)).await? {
            Stored::Stored => {}
            Stored::Exists => return Err(changed().into()),
        }
        let error = match move_current(self.store, self.secret_id, Some(current), version, self.deadline).await {
            MoveOutcome::Moved => return Ok(self.take_off(&label, version).await?),
            MoveOutcome::Elsewhere => changed(),
            MoveOutcome::NotMoved(error) if may_have_moved(&error) => return Err(error.into()),
            MoveOutcome::NotMoved(error) if error.kind == StoreErrorKind::Conflict => {
                RotationError::PromotionConflict { name: secret.name.clone() }
            }
            MoveOutcome::NotMoved(error) => error.into(),
        };
        // What did not happen leaves nothing. A label that stays, the next request takes away.
        let _ = self.take_off(&label, version).await;
        Err(error.into())
    }

    /// Takes the labels away that requests left behind which died.
    async fn tidy(&self, secret: &Described) -> Result<(), StoreError> {
        for version in Marker::Operation.holders(&secret.versions) {
            let stored = self.store.get(self.secret_id, version).await?;
            let age = stored.and_then(|stored| secret.as_of.duration_since(stored.created).ok());
            if age.is_some_and(|age| age > LONGEST_INVOCATION) {
                self.take_off(&Marker::Operation.on(version), version).await?;
            }
        }
        Ok(())
    }

    async fn take_off(&self, label: &Stage, version: &VersionId) -> Result<(), StoreError> {
        move_if_there(self.store, self.secret_id, label.clone(), Some(version), None).await
    }
}

fn require_usable(secret: &Described) -> Result<(), OperateError> {
    let name = || secret.name.clone();
    if secret.deleted {
        return Err(RotationError::ScheduledForDeletion { name: name() }.into());
    }
    if let Some(primary_region) = secret.replica_of.clone() {
        return Err(RotationError::ReplicaRegion { name: name(), primary_region }.into());
    }
    if secret.versions.all().any(|(_, stage)| stage.as_str() == archive::STAGE) {
        return Err(invalid("secret_id", "the secret is the archive of keys: only rotations write it"));
    }
    Ok(())
}

/// The new value: the object with these members, or the text in place of a text.
fn merged(current: &SecretText, values: &NewValues) -> Result<SecretText, OperateError> {
    match values {
        NewValues::Members(members) => Ok(with_members(current, members)?),
        NewValues::Whole(text) => {
            let is_object = current.expose().trim_start().starts_with('{') && !is_empty_object(current);
            if is_object {
                let problem =
                    "the secret is a JSON object, whose members this would replace: name the member, in \"members\"";
                return Err(invalid("value", problem));
            }
            Ok(Document::whole(text.clone())?.text().clone())
        }
    }
}
