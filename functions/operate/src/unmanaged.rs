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
use crate::actions::rollback::RollbackAnswer;
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
        let (current_id, current) = self.current(secret).await?;
        let value = merged(&current, &put.values)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(RotationError::ValueTooLarge { bytes: value.len() }.into());
        }
        self.tidy(secret).await?;
        let versions = if value == current {
            (current_id.clone(), None)
        } else {
            let version = new_version(rng);
            self.publish(secret, current_id, &value, (&version, &[Marker::Operation])).await?;
            (version, Some(current_id.clone()))
        };
        Ok(PutAnswer::record(self.store, secret, &put.values, versions, UNPROVEN).await)
    }

    /// Makes the value of `AWSPREVIOUS` current again, in a new version. The move of `AWSCURRENT` names the version that is replaced, so
    /// an edit in between stands. Where a rollback has made the current version, nothing changes. The tags `rotation:done` stay.
    ///
    /// # Errors
    /// [`OperateError::NothingToGoBackTo`], [`RotationError::CurrentChanged`], and what the service refuses.
    pub(crate) async fn roll_back(&self, secret: &Described, rng: &mut StdRng) -> Result<RollbackAnswer, OperateError> {
        let (current_id, current) = self.current(secret).await?;
        self.tidy(secret).await?;
        if Marker::RolledBack.holders(&secret.versions).any(|made| made == current_id) {
            return Ok(RollbackAnswer::unproven(current_id.clone(), None));
        }
        let back = match secret.versions.holder(&Stage::Previous).filter(|previous| *previous != current_id) {
            Some(previous) => self.store.get(self.secret_id, previous).await?.map(|value| value.text),
            None => None,
        };
        // Before its first value a JSON secret is an empty object.
        let back = back.filter(|back| *back != current && !is_empty_object(back));
        let back = back.ok_or_else(|| OperateError::NothingToGoBackTo { name: secret.name.clone() })?;
        let version = new_version(rng);
        self.publish(secret, current_id, &back, (&version, &[Marker::RolledBack, Marker::Operation])).await?;
        // Those of earlier rollbacks tell nothing any more.
        for made in Marker::RolledBack.holders(&secret.versions) {
            self.take_off(&Marker::RolledBack.on(made), made).await?;
        }
        Ok(RollbackAnswer::unproven(version, Some(current_id.clone())))
    }

    /// The current version and its value.
    async fn current<'s>(&self, secret: &'s Described) -> Result<(&'s VersionId, SecretText), OperateError> {
        require_usable(secret)?;
        let empty = || invalid("secret_id", "the secret has no value yet: store {} once, and send this again");
        let current_id = secret.versions.holder(&Stage::Current).ok_or_else(empty)?;
        let current = self.store.get(self.secret_id, current_id).await?;
        let current = current.ok_or_else(|| RotationError::ValueMissing { version: current_id.clone() })?;
        Ok((current_id, current.text))
    }

    /// Stores `value` under labels of its own, and moves `AWSCURRENT` there.
    async fn publish(
        &self,
        secret: &Described,
        current: &VersionId,
        value: &SecretText,
        (version, markers): (&VersionId, &[Marker]),
    ) -> Result<(), OperateError> {
        let changed = || RotationError::CurrentChanged { name: secret.name.clone() };
        let labels: Vec<Stage> = markers.iter().map(|marker| marker.on(version)).collect();
        secret.require_stages(labels.len())?;
        match self.store.put_private(self.secret_id, version, value, &labels).await? {
            Stored::Stored => {}
            Stored::Exists => return Err(changed().into()),
        }
        let error = match move_current(self.store, self.secret_id, Some(current), version, self.deadline).await {
            MoveOutcome::Moved => return Ok(self.take_off(&Marker::Operation.on(version), version).await?),
            MoveOutcome::Elsewhere => changed(),
            MoveOutcome::NotMoved(error) if may_have_moved(&error) => return Err(error.into()),
            MoveOutcome::NotMoved(error) if error.kind == StoreErrorKind::Conflict => {
                RotationError::PromotionConflict { name: secret.name.clone() }
            }
            MoveOutcome::NotMoved(error) => error.into(),
        };
        // What did not happen leaves nothing. A label that stays, a later request takes away.
        for label in &labels {
            let _ = self.take_off(label, version).await;
        }
        Err(error.into())
    }

    /// Takes the labels away that requests left behind which died.
    async fn tidy(&self, secret: &Described) -> Result<(), StoreError> {
        for version in Marker::Operation.holders(&secret.versions) {
            let stored = self.store.get(self.secret_id, version).await?;
            let age = stored.and_then(|stored| secret.as_of.duration_since(stored.created).ok());
            if age.is_some_and(|age| age > LONGEST_INVOCATION) {
                self.take_off(&Marker::Operation.on(version), version).await?;
                let rolled_back = Marker::RolledBack.on(version);
                if secret.versions.holder(&Stage::Current) != Some(version)
                    && secret.versions.holder(&rolled_back).is_some()
                {
                    self.take_off(&rolled_back, version).await?;
                }
            }
        }
        Ok(())
    }

    async fn take_off(&self, label: &Stage, version: &VersionId) -> Result<(), StoreError> {
        move_if_there(self.store, self.secret_id, label.clone(), Some(version), None).await
    }
}

fn require_usable(secret: &Described) -> Result<(), OperateError> {
    secret.require_usable()?;
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
