//! What actions left behind that died: a secret has 20 staging labels in all, and rotations need some of them.

use std::collections::BTreeSet;

use encryption_key::LONGEST_INVOCATION;
use rotation::event::VersionId;
use rotation::store::{Described, OperationStore, StoreError};
use rotation::versions::{Stage, Versions};

use crate::error::OperateError;
use crate::operable::Operable;
use crate::secret::{Desk, Mark, Seen, put_back};

/// Whether the version is in use by nobody: what its stages tell is all that keeps it.
pub(crate) fn is_dead(versions: &Versions, version: &VersionId) -> bool {
    versions.stages(version).all(|stage| matches!(stage, Stage::Other(_)))
}

/// The versions that actions stored and that are not current.
fn begun(secret: &Described) -> impl Iterator<Item = &VersionId> {
    let current = secret.versions.holder(&Stage::Current);
    Mark::Operation.holders(&secret.versions).filter(move |version| Some(*version) != current)
}

/// Every time at which a keyring was put back but the last, which says all.
fn earlier_times(secret: &Described) -> impl Iterator<Item = (VersionId, Stage)> {
    let last = put_back(&secret.versions).map(|(_, _, at)| at).max();
    let earlier = put_back(&secret.versions).filter(move |(_, _, at)| Some(*at) != last);
    earlier.map(|(version, stage, _)| (version.clone(), stage.clone()))
}

/// Where `AWSPREVIOUS` was before rotations of which nothing is left.
fn old_records(secret: &Described) -> impl Iterator<Item = (VersionId, Stage)> {
    let records = secret.versions.all().filter(|(_, stage)| stage.is_restored_after_any());
    let is_left = |stage: &Stage| secret.versions.all().any(|(version, _)| Stage::restored_after(version) == *stage);
    let old = records.filter(move |(_, stage)| !is_left(stage));
    old.map(|(version, stage)| (version.clone(), stage.clone()))
}

/// Whether [`Desk::tidy`] may find something to do, by what the listing tells.
pub(crate) fn is_untidy(secret: &Described) -> bool {
    begun(secret).next().is_some() || earlier_times(secret).chain(old_records(secret)).next().is_some()
}

impl<K: Operable, S: OperationStore> Desk<'_, K, S> {
    /// Looks at a secret that is about to be changed, and takes away what actions left behind that died.
    ///
    /// # Errors
    /// Those of [`look`](Self::look).
    pub(crate) async fn look_to_change(&self) -> Result<Seen, OperateError> {
        let seen = self.look().await?;
        let tidied = self.tidy(&seen).await;
        match tidied {
            Ok(false) => return Ok(seen),
            Ok(true) => {}
            Err(error) => {
                let secret = seen.secret.name.as_str();
                tracing::warn!(secret, %error, "stages that tell nothing any more were not taken away");
            }
        }
        self.look().await
    }

    /// Takes the stages away that tell nothing any more: of actions that died, on versions that are so old that no action is at work with
    /// them. Whether there were any.
    ///
    /// # Errors
    /// When the service refuses.
    pub(crate) async fn tidy(&self, seen: &Seen) -> Result<bool, StoreError> {
        let versions = &seen.secret.versions;
        let rolled_back = Mark::RolledBack.holders(versions).filter(|version| is_dead(versions, version));
        let candidates: BTreeSet<&VersionId> = begun(&seen.secret).chain(rolled_back).collect();
        let mut gone: BTreeSet<(VersionId, Stage)> =
            earlier_times(&seen.secret).chain(old_records(&seen.secret)).collect();
        for version in candidates {
            let Some(value) = self.store.get(self.secret_id, version).await? else { continue };
            let age = seen.secret.as_of.duration_since(value.created).unwrap_or_default();
            if age < LONGEST_INVOCATION {
                continue;
            }
            gone.insert((version.clone(), Mark::Operation.on(version)));
            // While what it holds is in use, a rollback that is asked for again has nothing to do. Of a value that cannot be read,
            // nobody knows.
            let value = self.kind.parse(&seen.policy, value.text);
            let same = value.and_then(|value| self.kind.same_in_use(&seen.policy, &value, &seen.current));
            if is_dead(versions, version) && same.is_ok_and(|same| !same) {
                gone.insert((version.clone(), Mark::RolledBack.on(version)));
            }
        }
        gone.retain(|(version, stage)| versions.stages(version).any(|held| held == stage));
        for (version, stage) in &gone {
            self.drop_stage(version, stage).await?;
        }
        Ok(!gone.is_empty())
    }

    /// Takes everything off a version that was stored and never became current: what did not happen leaves nothing. What cannot be
    /// taken off now, a later look takes.
    pub(crate) async fn give_up(&self, seen: &Seen, version: &VersionId, stages: &[Stage]) {
        for stage in stages {
            let _ = self.drop_stage(version, stage).await;
        }
        if let Some(marked) = self.marked_ring(&seen.secret).version() {
            let ring = rotation::marked_ring::stage();
            let _ = self.store.move_stage(self.secret_id, ring, Some(version), Some(marked)).await;
        }
    }
}
