//! The archive of keys, as Secrets Manager keeps it.

use rotation::archive::{Archive, DEFAULT_RETENTION, ToArchive};
use rotation::deadline::Deadline;
use rotation::event::RotationToken;
use rotation::store::{Described, Put, SecretStore, StoreError, StoreErrorKind, VersionValue};
use rotation::versions::Versions;

use crate::*;

const ARCHIVE: &str = "shop/production/key-archive";

/// The secret of the archive. It begins without a version.
#[derive(Default)]
struct Store {
    /// Whether a stage that is attached has to be named, also when it stays where it is.
    strict: bool,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    values: BTreeMap<VersionId, SecretText>,
    stages: BTreeMap<Stage, VersionId>,
    refused: usize,
}

impl Store {
    /// Others get their turn between any two calls.
    async fn call<T>(&self, answer: impl FnOnce(&mut Held) -> T) -> T {
        tokio::task::yield_now().await;
        answer(&mut self.held.lock().unwrap())
    }

    fn keys(&self) -> Vec<String> {
        let held = self.held.lock().unwrap();
        let text = &held.values[&held.stages[&Stage::Current]];
        Archive::parse(text).unwrap().keys().iter().map(|key| key.material.id().to_string()).collect()
    }
}

impl SecretStore for Store {
    async fn describe(&self, _: &str) -> Result<Described, StoreError> {
        let stages = self.call(|held| held.stages.clone()).await;
        let of = |version: &VersionId| {
            stages.iter().filter(|(_, holder)| *holder == version).map(|(stage, _)| stage.clone()).collect()
        };
        Ok(Described {
            name: ARCHIVE.to_owned(),
            rotation_enabled: false,
            deleted: false,
            replica_of: None,
            tags: BTreeMap::new(),
            versions: stages.values().map(|version| (version.clone(), of(version))).collect::<Versions>(),
            last_rotated: None,
            next_rotation: None,
            last_changed: None,
            rotation_function: None,
            as_of: now(),
        })
    }

    async fn get(&self, _: &str, version: &VersionId) -> Result<Option<VersionValue>, StoreError> {
        let text = self.call(|held| held.values.get(version).cloned()).await;
        Ok(text.map(|text| VersionValue { text, created: now() }))
    }

    async fn get_current(&self, _: &str) -> Result<VersionValue, StoreError> {
        panic!("versions are read by their ids")
    }

    async fn put_pending(
        &self,
        _: &str,
        _: &VersionId,
        _: &SecretText,
        _: Option<&RotationToken>,
    ) -> Result<Put, StoreError> {
        panic!("nothing rotates the archive")
    }

    async fn put_private(
        &self,
        _: &str,
        version: &VersionId,
        value: &SecretText,
        stages: &[Stage],
    ) -> Result<Put, StoreError> {
        let put = |held: &mut Held| {
            // "If this operation creates the first version for the secret, then Secrets Manager automatically attaches the staging
            // label AWSCURRENT to it" (API reference, PutSecretValue).
            if held.values.is_empty() {
                held.stages.insert(Stage::Current, version.clone());
            }
            if held.values.get(version).is_some_and(|there| there != value) {
                return Put::Exists;
            }
            held.values.insert(version.clone(), value.clone());
            held.stages.extend(stages.iter().map(|stage| (stage.clone(), version.clone())));
            Put::Stored
        };
        Ok(self.call(put).await)
    }

    async fn move_stage(
        &self,
        _: &str,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> Result<(), StoreError> {
        let moved = |held: &mut Held| {
            let holder = held.stages.get(&stage);
            let stays = !self.strict && from.is_none() && holder == to;
            if holder != from && !stays {
                held.refused += 1;
                return Err(StoreError {
                    operation: "UpdateSecretVersionStage",
                    kind: StoreErrorKind::Conflict,
                    detail: None,
                });
            }
            held.stages.extend(to.map(|to| (stage, to.clone())));
            Ok(())
        };
        self.call(moved).await
    }
}

fn keys(primary: u64, retired: impl IntoIterator<Item = u64>) -> ToArchive {
    ToArchive {
        secret: ARCHIVE.to_owned(),
        retention: DEFAULT_RETENTION,
        ring: ring(key(primary)),
        retired: retired.into_iter().map(key).collect(),
    }
}

fn deadline() -> Deadline {
    Deadline::after(60 * SECOND)
}

#[tokio::test(start_paused = true)]
async fn the_first_version_of_an_archive_is_current_by_itself_and_the_move_to_it_may_be_refused() {
    for strict in [false, true] {
        let store = Store { strict, ..Store::default() };
        keys(1, []).keep(&store, deadline()).await.unwrap();
        assert_eq!(store.keys(), [key(1).id().to_string()]);
        let held = store.held.lock().unwrap();
        assert_eq!((held.values.len(), held.refused), (1, usize::from(strict)), "written once");
    }
}

#[tokio::test(start_paused = true)]
async fn two_that_write_the_first_version_of_an_archive_at_once_lose_no_key_of_each_other() {
    for strict in [false, true] {
        let store = Store { strict, ..Store::default() };
        let (one, other) = (keys(1, []), keys(2, []));
        let both = tokio::join!(one.keep(&store, deadline()), other.keep(&store, deadline()));
        assert_eq!(both, (Ok(()), Ok(())));
        assert_eq!(store.keys(), [1, 2].map(|seed| key(seed).id().to_string()));
        assert!(store.held.lock().unwrap().refused > 0, "the second found the archive not as it had seen it");
    }
}

#[tokio::test(start_paused = true)]
async fn an_archive_that_is_full_says_what_fills_it_and_what_to_do_and_nothing_is_written() {
    let store = Store::default();
    keys(1, []).keep(&store, deadline()).await.unwrap();
    let error = keys(1, 2..500).keep(&store, deadline()).await.unwrap_err();
    let told = error.to_string();
    assert!(
        told.starts_with(&format!("the archive of keys, secret {ARCHIVE}, cannot be used: it would have ")),
        "{told}"
    );
    assert!(
        told.contains("no backup needs") && told.contains("KEY_ARCHIVE_SECRET") && !told.contains("members"),
        "{told}"
    );
    assert_eq!(store.keys().len(), 1);
    assert_eq!(store.held.lock().unwrap().values.len(), 1);
}
