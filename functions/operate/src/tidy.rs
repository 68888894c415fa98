//! Staging labels that actions left behind which died: a secret has 20 staging labels in all, and rotations need some of them.

use std::collections::BTreeSet;

use encryption_key::LONGEST_INVOCATION;
use rotation::event::VersionId;
use rotation::store::{Described, OperationStore, StoreError};
use rotation::versions::Stage;

use crate::error::OperateError;
use crate::kinds::OperatedKind;
use crate::marker::{Marker, is_dead, is_half_rolled_back, put_back_times};
use crate::session::{Operation, Snapshot};

/// The versions that actions stored and did not come to an end with. A rollback that made the current one is ended by the next request.
fn begun(secret: &Described) -> impl Iterator<Item = &VersionId> {
    let rolled_back = secret.versions.holder(&Stage::Current).filter(|_| is_half_rolled_back(secret));
    Marker::Operation.holders(&secret.versions).filter(move |version| Some(*version) != rolled_back)
}

/// Every time at which a keyring was put back but the last, which says all.
fn earlier_times(secret: &Described) -> impl Iterator<Item = (VersionId, Stage)> {
    let last = put_back_times(&secret.versions).map(|(_, _, at)| at).max();
    let earlier = put_back_times(&secret.versions).filter(move |(_, _, at)| Some(*at) != last);
    earlier.map(|(version, stage, _)| (version.clone(), stage.clone()))
}

/// Where `AWSPREVIOUS` was before rotations of which nothing is left.
fn old_records(secret: &Described) -> impl Iterator<Item = (VersionId, Stage)> {
    let records = secret.versions.all().filter(|(_, stage)| stage.is_restored_after_any());
    let is_left = |stage: &Stage| secret.versions.all().any(|(version, _)| Stage::restored_after(version) == *stage);
    let old = records.filter(move |(_, stage)| !is_left(stage));
    old.map(|(version, stage)| (version.clone(), stage.clone()))
}

/// Whether [`Operation::tidy`] may find something to do, by what the listing tells.
pub(crate) fn is_untidy(secret: &Described) -> bool {
    begun(secret).next().is_some() || earlier_times(secret).chain(old_records(secret)).next().is_some()
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Reads a secret that was described and is about to be changed, and takes away what actions left behind that died.
    ///
    /// # Errors
    /// Those of [`snapshot`](Self::snapshot).
    pub(crate) async fn snapshot_to_change(&self, secret: Described) -> Result<Snapshot, OperateError> {
        let snapshot = self.snapshot_of(secret).await?;
        let tidied = self.tidy(&snapshot).await;
        match tidied {
            Ok(false) => return Ok(snapshot),
            Ok(true) => {}
            Err(error) => {
                let secret = snapshot.secret.name.as_str();
                tracing::warn!(secret, %error, "stages that tell nothing any more were not taken away");
            }
        }
        self.snapshot().await
    }

    /// Takes staging labels away that tell nothing any more, and tells whether there were any. They are those of actions that died, on
    /// versions so old that no action is at work with them.
    ///
    /// # Errors
    /// When the service refuses.
    pub(crate) async fn tidy(&self, snapshot: &Snapshot) -> Result<bool, StoreError> {
        let versions = &snapshot.secret.versions;
        let rolled_back = Marker::RolledBack.holders(versions).filter(|version| is_dead(versions, version));
        let candidates: BTreeSet<&VersionId> = begun(&snapshot.secret).chain(rolled_back).collect();
        let mut gone: BTreeSet<(VersionId, Stage)> =
            earlier_times(&snapshot.secret).chain(old_records(&snapshot.secret)).collect();
        for version in candidates {
            let Some(value) = self.find(version).await? else { continue };
            let age = snapshot.secret.as_of.duration_since(value.created).unwrap_or_default();
            if age < LONGEST_INVOCATION {
                continue;
            }
            gone.insert((version.clone(), Marker::Operation.on(version)));
            // While what it holds is in use, a rollback that is asked for again has nothing to do. Of a value that cannot be read,
            // nobody knows.
            let value = self.session.kind.parse(&snapshot.policy, value.text);
            let same =
                value.and_then(|value| self.session.kind.same_in_use(&snapshot.policy, &value, &snapshot.current));
            if is_dead(versions, version) && same.is_ok_and(|same| !same) {
                gone.insert((version.clone(), Marker::RolledBack.on(version)));
            }
        }
        gone.retain(|(version, stage)| versions.stages(version).any(|held| held == stage));
        for (version, stage) in &gone {
            self.session.take_off(stage.clone(), version).await?;
        }
        Ok(!gone.is_empty())
    }
}
