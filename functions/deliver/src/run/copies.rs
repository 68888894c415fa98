//! The copies: the rotated members of a secret, in other secrets of the stack.
//!
//! A write is safe against every other writer. The copy's secret is read first, then the source is described again, and
//! only then `AWSCURRENT` of the copy is moved, in a call that names the version that was read. So a run with an older
//! value of the source loses against a run with a newer one: the newer value was promoted after the older run described
//! the source, so it was copied after the older run read the copy.

use std::time::Duration;

use rotation::document::{Document, FieldName, MAX_VALUE_BYTES};
use rotation::error::RotationError;
use rotation::event::{VersionId, digest};
use rotation::lambda::AUDIT;
use rotation::moves::{MoveOutcome, if_readable, move_current, move_if_there, read_version};
use rotation::store::{Described, Put, SecretStore, StoreError, StoreErrorKind};
use rotation::versions::Stage;

use super::context::Run;
use super::source::Source;
use crate::decision::copy::{CopyDecision, Original};
use crate::error::DeliverError;
use crate::kinds::SourceKind;
use crate::report::Progress;
use crate::settings::Consumer;

/// The beginning of the label under which a copy is stored before it becomes current. Eight digits of a digest of the
/// source's name follow. The label stays on the last copy: what this version holds was the source's, whatever labels
/// the source has lost since.
pub const COPY_STAGE: &str = "ROTATION-COPY-";

/// How old the label of a delivery may be when a copy is written. A write takes at most half a minute, and deployments
/// count a minute after the label's time.
const FRESH: Duration = Duration::from_secs(20);

/// How often a copy is tried while somebody else changes its secret.
const TRIES: usize = 3;

/// The secret of a copy, as it was read.
struct Target<'a> {
    name: &'a str,
    secret: Described,
    current: VersionId,
    value: Document,
}

impl<S: SecretStore, E, F, N> Run<'_, S, E, F, N> {
    /// Brings the value of a secret to its copies.
    ///
    /// # Errors
    /// The label cannot be attached anew after the last copy.
    pub(super) async fn copy_all(&self, source: &mut Source<'_>) -> Result<(), DeliverError> {
        let mut restarts = false;
        for (place, consumer) in source.consumers.iter().enumerate() {
            let Consumer::Copy { target } = consumer else { continue };
            let progress = if self.is_over() {
                Progress::Failed(DeliverError::TimeTooShort)
            } else {
                self.copy(source, target, &mut restarts).await.unwrap_or_else(Progress::Failed)
            };
            if let Progress::Failed(error) = &progress {
                let (secret, error_type) = (source.name, error.name());
                tracing::error!(target: AUDIT, request_id = self.request_id, secret, consumer = %consumer, error_type, %error, "not delivered");
            }
            source.progress[place] = progress;
        }
        // Deployments count from the last copy on that they have to read.
        if restarts { self.begin(source).await } else { Ok(()) }
    }

    async fn copy(&self, source: &mut Source<'_>, target: &str, restarts: &mut bool) -> Result<Progress, DeliverError> {
        if matches!(source.kind, SourceKind::ByHand) {
            return Err(DeliverError::CopySourceByHand { name: source.name.to_owned() });
        }
        let field = source.value.field().cloned();
        let field = field.ok_or_else(|| DeliverError::CopySourceIsText { name: source.name.to_owned() })?;
        for _ in 0..TRIES {
            let target = self.read_target(target, &field).await?;
            if let Some(progress) = self.copy_to(source, &field, &target, restarts).await? {
                return Ok(progress);
            }
        }
        Err(DeliverError::CopyTargetChanged { target: target.to_owned() })
    }

    /// Reads the secret of a copy. Two calls.
    async fn read_target<'t>(&self, name: &'t str, field: &FieldName) -> Result<Target<'t>, DeliverError> {
        let missing = || DeliverError::CopyTargetMissing { target: name.to_owned() };
        let secret = match self.ports.store.describe(name).await {
            Err(error) if error.kind == StoreErrorKind::SecretNotFound => return Err(missing()),
            secret => secret.map_err(|error| unusable(name, error))?,
        };
        self.clock.set(secret.as_of);
        if secret.deleted {
            return Err(DeliverError::CopyTargetDeleted { target: name.to_owned() });
        }
        if let Some(primary_region) = secret.replica_of.clone() {
            return Err(unusable(name, RotationError::ReplicaRegion { name: name.to_owned(), primary_region }));
        }
        let current = secret.versions.holder(&Stage::Current).cloned().ok_or_else(missing)?;
        if let Some(pending) = secret.versions.holder(&Stage::Pending).filter(|pending| **pending != current) {
            let version = pending.to_string();
            return Err(DeliverError::CopyTargetRotating { target: name.to_owned(), version });
        }
        let value = read_version(self.ports.store, name, &current, self.deadline).await;
        let value = value.map_err(|error| unusable(name, error))?.ok_or_else(missing)?;
        let value = Document::object(value.text, field).map_err(|error| match error {
            RotationError::NotAnObject { problem, .. } => {
                DeliverError::CopyTargetNotObject { target: name.to_owned(), problem }
            }
            error => unusable(name, error),
        })?;
        Ok(Target { name, secret, current, value })
    }

    /// Compares, and writes if the copy differs. `None` if somebody changed the copy's secret meanwhile.
    async fn copy_to(
        &self,
        source: &mut Source<'_>,
        field: &FieldName,
        target: &Target<'_>,
        any_restarts: &mut bool,
    ) -> Result<Option<Progress>, DeliverError> {
        let of_target = |error: RotationError| unusable(target.name, error);
        if original(self, source, field).is_equal(&target.value).map_err(of_target)? {
            return Ok(Some(Progress::Delivered));
        }
        let mut history = self.history(source).await?;
        history.extend(self.last_copy(source, field, target).await?);
        let (value, restarts) =
            match original(self, source, field).decide(&target.value, &history).map_err(of_target)? {
                CopyDecision::Equal => return Ok(Some(Progress::Delivered)),
                CopyDecision::Write { value, restarts } => (value, restarts),
                CopyDecision::Differs { what, restarts } => {
                    // The labels may say delivered, from a time before somebody changed the copy.
                    if restarts && source.began.is_none() {
                        self.begin(source).await?;
                    }
                    let (target, source_name) = (target.name.to_owned(), source.name.to_owned());
                    return Err(DeliverError::CopyDiffers { target, source_name, what });
                }
            };
        if value.text().len() > MAX_VALUE_BYTES {
            let (target, bytes) = (target.name.to_owned(), value.text().len());
            return Err(DeliverError::CopyTargetTooLarge { target, bytes });
        }
        if self.dry_run {
            *any_restarts |= restarts;
            return Ok(Some(Progress::Pending("the copy would be written".to_owned())));
        }
        // Before the write: whoever dies after it has told that deployments from before the write do not count.
        if restarts && source.began.is_none_or(|began| began + FRESH < self.clock.time()) {
            self.begin(source).await?;
        }
        if !self.is_current(source).await? {
            return Err(DeliverError::SourceChanged { name: source.name.to_owned() });
        }
        if !self.write(source, target, &value).await? {
            return Ok(None);
        }
        *any_restarts |= restarts;
        let secret = source.name;
        tracing::info!(target: AUDIT, request_id = self.request_id, secret, consumer = %format_args!("copy {}", target.name), result = "written", "delivery");
        Ok(Some(Progress::Delivered))
    }

    /// The value that was last copied from this source. At most one call.
    async fn last_copy(
        &self,
        source: &Source<'_>,
        field: &FieldName,
        target: &Target<'_>,
    ) -> Result<Option<Document>, DeliverError> {
        let Some(version) = target.secret.versions.holder(&copy_stage(source.name)) else { return Ok(None) };
        if *version == target.current {
            return Ok(Some(target.value.clone()));
        }
        let value = if_readable(self.ports.store.get(target.name, version).await);
        let value = value.map_err(|error| unusable(target.name, error))?;
        Ok(value.and_then(|value| Document::object(value.text, field).ok()))
    }

    /// Whether the version that was read is still the current one. One call.
    async fn is_current(&self, source: &Source<'_>) -> Result<bool, DeliverError> {
        let now = self.ports.store.describe(source.name).await?;
        self.clock.set(now.as_of);
        Ok(now.versions.holder(&Stage::Current) == Some(&source.labels.current))
    }

    /// Stores the value under a label of its own, and moves `AWSCURRENT` there. `false` if somebody changed the secret
    /// meanwhile: nothing was changed then. Two calls.
    async fn write(&self, source: &Source<'_>, target: &Target<'_>, value: &Document) -> Result<bool, DeliverError> {
        let of_target = |error: StoreError| unusable(target.name, error);
        let (store, stage) = (self.ports.store, copy_stage(source.name));
        let is_new = target.secret.versions.holder(&stage).is_none();
        target.secret.require_stages(usize::from(is_new)).map_err(|error| unusable(target.name, error))?;
        // The value follows from the two versions, so a repeated invocation stores the same under the same id.
        let parts = [self.request_id, source.name, source.labels.current.as_str(), target.current.as_str()];
        let version = VersionId::new(digest(parts));
        match store.put_private(target.name, &version, value.text(), std::slice::from_ref(&stage)).await {
            Ok(Put::Stored) => {}
            Ok(Put::Exists) => return Ok(false),
            Err(error) => return Err(of_target(error)),
        }
        match move_current(store, target.name, Some(&target.current), &version, self.deadline).await {
            MoveOutcome::Moved => Ok(true),
            MoveOutcome::NotMoved(error) if error.kind != StoreErrorKind::Conflict => Err(of_target(error)),
            MoveOutcome::Elsewhere | MoveOutcome::NotMoved(_) => {
                // What did not happen leaves nothing. A label that stays here moves to the next copy.
                let _ = move_if_there(store, target.name, stage, Some(&version), None).await;
                Ok(false)
            }
        }
    }
}

/// The label of the last copy of a secret.
fn copy_stage(source: &str) -> Stage {
    Stage::Other(format!("{COPY_STAGE}{}", &digest([source])[..8]))
}

fn original<'s, S, E, F, N>(run: &Run<'_, S, E, F, N>, source: &'s Source<'_>, field: &'s FieldName) -> Original<'s> {
    let Source { kind, policy, value, .. } = source;
    Original { kind: *kind, policy, value, field, now: run.clock.time() }
}

fn unusable(target: &str, error: impl Into<RotationError>) -> DeliverError {
    DeliverError::CopyTargetUnusable { target: target.to_owned(), reason: Box::new(error.into()) }
}
