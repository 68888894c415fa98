//! One secret that is operated on: what was seen of it, and what all actions do with it.

use std::time::SystemTime;

use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::event::{Step, VersionId};
use rotation::kind::{Phase, Subject, Values};
use rotation::policy::{RotationPolicy, StackPolicy};
use rotation::protocol::read_credential;
use rotation::secret::SecretText;
use rotation::store::{Described, OperationStore, StoreError, StoreErrorKind};
use rotation::versions::{Admission, Admitted, Stage};

use crate::error::OperateError;
use crate::operable::Operable;

/// A kind, a store and a stack's policy, for one request.
#[derive(Debug)]
pub struct Desk<'a, K, S> {
    /// What is particular to the kind of secret.
    pub kind: &'a K,
    /// Secrets Manager.
    pub store: &'a S,
    /// The bounds that the stack sets.
    pub stack: &'a StackPolicy,
    /// The secret, by the name or ARN that was asked for.
    pub secret_id: &'a str,
    /// The end of the time for the work.
    pub deadline: Deadline,
}

/// A secret with a current value, as it was seen.
#[derive(Debug)]
pub struct Seen {
    /// What DescribeSecret tells.
    pub secret: Described,
    /// The policy in force.
    pub policy: RotationPolicy,
    /// The proof that the current version may be acted on.
    pub admitted: Admitted,
    /// The version of the current value.
    pub current_id: VersionId,
    /// The current value, taken apart.
    pub current: Document,
    /// When it was created.
    pub created: SystemTime,
    /// What the application is asked with, when that is in another secret.
    pub credential: Option<SecretText>,
}

impl Seen {
    /// What a kind is told.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            admitted: &self.admitted,
            name: &self.secret.name,
            policy: &self.policy,
            now: self.secret.as_of,
            last_rotated: self.secret.last_rotated,
            current_created: Some(self.created),
            credential: self.credential.as_ref(),
        }
    }
}

/// The version with `AWSPENDING`, when it is not the current one.
#[must_use]
pub fn open_rotation(secret: &Described) -> Option<&VersionId> {
    let current = secret.versions.holder(&Stage::Current);
    secret.versions.holder(&Stage::Pending).filter(|pending| Some(*pending) != current)
}

impl<K: Operable, S: OperationStore> Desk<'_, K, S> {
    /// Looks at the secret and reads its current value.
    ///
    /// # Errors
    /// What also refuses a rotation: a name outside the stack's prefix, a secret that is scheduled for deletion, a replica, a
    /// policy or a value that is not usable; no current value.
    pub async fn look(&self) -> Result<Seen, OperateError> {
        let secret = self.store.describe(self.secret_id).await?;
        self.see(secret).await
    }

    async fn see(&self, secret: Described) -> Result<Seen, OperateError> {
        let name = || secret.name.clone();
        if secret.deleted {
            return Err(RotationError::ScheduledForDeletion { name: name() }.into());
        }
        if let Some(primary_region) = secret.replica_of.clone() {
            return Err(RotationError::ReplicaRegion { name: name(), primary_region }.into());
        }
        self.stack.check_name(&secret.name)?;
        let policy = self.stack.for_secret(&secret.tags, secret.as_of)?;
        let current_id = secret.versions.holder(&Stage::Current).cloned().ok_or(RotationError::EmptyValue)?;
        // Finishing a version that is current is what an operation on it amounts to.
        let Ok(Admission::RepeatAfterPromotion(admitted)) = secret.versions.admit(&current_id, Step::FinishSecret)
        else {
            return Err(RotationError::EmptyValue.into());
        };
        let value = self.store.get(self.secret_id, &current_id).await?;
        let value = value.ok_or_else(|| RotationError::ValueMissing { version: current_id.clone() })?;
        let current = self.kind.parse(&policy, value.text)?;
        let credential = read_credential(self.kind, self.store, &secret, self.secret_id, &policy).await?;
        Ok(Seen { secret, policy, admitted, current_id, current, created: value.created, credential })
    }

    /// Proves the current value, with nothing being done to it.
    ///
    /// # Errors
    /// Those of the kind.
    pub async fn verify(&self, seen: &Seen, rng: &mut StdRng) -> Result<(), RotationError> {
        let values = Values { old: None, new: &seen.current };
        self.kind.test(&seen.subject(), values, K::VERIFIED_AS, self.deadline, rng).await
    }

    /// Has the application load what is current, and proves it.
    ///
    /// # Errors
    /// Those of the kind.
    pub async fn settle(&self, seen: &Seen, rng: &mut StdRng) -> Result<(), RotationError> {
        let values = Values { old: None, new: &seen.current };
        self.kind.set(&seen.subject(), values, Phase::AfterPromotion, self.deadline).await?;
        self.verify(seen, rng).await
    }

    /// Takes a stage off a version; it may be gone already.
    ///
    /// # Errors
    /// When the service refuses for another reason.
    pub async fn drop_stage(&self, version: &VersionId, stage: &Stage) -> Result<(), StoreError> {
        match self.store.move_stage(self.secret_id, stage.clone(), Some(version), None).await {
            Err(error) if error.kind == StoreErrorKind::Conflict => Ok(()),
            result => result,
        }
    }
}
