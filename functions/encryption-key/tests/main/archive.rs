//! The archive of keys, as Secrets Manager keeps it.

use rotation::archive::{Archive, DEFAULT_RETENTION, ToArchive};
use rotation::deadline::Deadline;

use crate::protocol::Store;
use crate::*;

const ARCHIVE: &str = "shop/production/key-archive";

/// The secret of the archive, which begins without a version; `strict` when a stage that is attached has to be named,
/// also when it stays where it is.
fn store(strict: bool) -> Store {
    let store = Store::new(None);
    store.change(|state| state.lenient = !strict);
    store
}

fn held(store: &Store) -> Vec<String> {
    let text = store.change(|state| state.values[&state.holder(&Stage::Current).unwrap()].text.clone());
    Archive::parse(&text).unwrap().keys().iter().map(|key| key.material.id().to_string()).collect()
}

fn versions(store: &Store) -> usize {
    store.change(|state| state.values.len())
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
async fn first_archive_version_is_current_and_its_move_may_fail() {
    for strict in [false, true] {
        let store = store(strict);
        keys(1, []).keep(&store, deadline()).await.unwrap();
        assert_eq!(held(&store), [key(1).id().to_string()]);
        assert_eq!((versions(&store), store.calls("refused")), (1, usize::from(strict)), "written once");
    }
}

#[tokio::test(start_paused = true)]
async fn two_first_writers_of_an_archive_lose_no_key() {
    for strict in [false, true] {
        let store = store(strict);
        let (one, other) = (keys(1, []), keys(2, []));
        let both = tokio::join!(one.keep(&store, deadline()), other.keep(&store, deadline()));
        assert_eq!(both, (Ok(()), Ok(())));
        assert_eq!(held(&store), [1, 2].map(|seed| key(seed).id().to_string()));
        assert!(store.calls("refused") > 0, "the second found the archive not as it had seen it");
    }
}

#[tokio::test(start_paused = true)]
async fn full_archive_says_what_fills_it_and_nothing_is_written() {
    let store = store(true);
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
    assert_eq!(held(&store).len(), 1);
    assert_eq!(versions(&store), 1);
}
