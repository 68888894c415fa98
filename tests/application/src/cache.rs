//! A cache of one secret's value, independent of the value's use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use crate::clock::Clock;
use crate::secrets::{LoadError, SecretReader, Unusable, Versions};

/// How long a value is kept, and how often a new value is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// The age at which the cache reads the secret again, by the cache's clock. If the read fails, the cache keeps the
    /// value.
    pub max_age: Duration,
    /// The least time between two reads without authorisation. [`SecretCache::refresh`] ignores this interval.
    pub reload_interval: Duration,
}

impl Default for CacheSettings {
    /// One hour, and at most one reload in a second.
    fn default() -> Self {
        Self { max_age: Duration::from_hours(1), reload_interval: Duration::from_secs(1) }
    }
}

/// A value made from a secret's versions.
#[derive(Debug)]
pub struct Cached<V> {
    /// The application's value.
    pub value: V,
    /// When the cache read the secret, by the cache's clock.
    pub loaded_at: SystemTime,
}

/// The results of the reads so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// The number of finished reads, with failed ones.
    pub loads: u64,
    /// The number of failed reads.
    pub failures: u64,
    /// The error of the last read; `None` if it succeeded.
    pub last_error: Option<LoadError>,
}

/// The outcome of a read, shared by all callers that waited for it.
pub type Loaded<V> = Result<Arc<Cached<V>>, LoadError>;

type Interpret<V> = dyn Fn(&Versions) -> Result<V, Unusable> + Send + Sync;

/// A secret that the cache reads at most once at a time, and keeps when a read fails.
///
/// `V` is the application's value of the versions. A clone is cheap and shares everything.
pub struct SecretCache<V> {
    shared: Arc<Shared<V>>,
}

struct Shared<V> {
    reader: SecretReader,
    interpret: Box<Interpret<V>>,
    settings: CacheSettings,
    clock: Clock,
    state: Mutex<State<V>>,
    /// Held during a read.
    reading: tokio::sync::Mutex<()>,
}

struct State<V> {
    held: Option<Arc<Cached<V>>>,
    status: CacheStatus,
    /// Number and time of the last started read.
    started: u64,
    started_at: Option<Instant>,
    /// Number and outcome of the last finished read.
    finished: Option<(u64, Loaded<V>)>,
}

/// The number of the last read that had started before a caller's request. Only a later read satisfies the caller. An
/// earlier read may have read a staging label before it moved.
#[derive(Clone, Copy)]
struct Asked(u64);

impl<V> Clone for SecretCache<V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<V: Send + Sync + 'static> SecretCache<V> {
    /// An empty cache. `interpret` makes the value from the versions. If `interpret` fails, the held value stays.
    pub fn new(
        reader: SecretReader,
        settings: CacheSettings,
        clock: Clock,
        interpret: impl Fn(&Versions) -> Result<V, Unusable> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                reader,
                interpret: Box::new(interpret),
                settings,
                clock,
                state: Mutex::new(State {
                    held: None,
                    status: CacheStatus::default(),
                    started: 0,
                    started_at: None,
                    finished: None,
                }),
                reading: tokio::sync::Mutex::new(()),
            }),
        }
    }

    /// The held value, however old.
    pub fn peek(&self) -> Option<Arc<Cached<V>>> {
        self.state().held.clone()
    }

    /// The results of the reads so far.
    pub fn status(&self) -> CacheStatus {
        self.state().status.clone()
    }

    /// The held value. The cache reads an old value again first, at most once per reload interval.
    ///
    /// The first caller that finds the value too old waits for the read. After a failed read no caller waits: the cache
    /// returns the old value, and reads in the background. `None` until a first read succeeds.
    pub async fn get(&self) -> Option<Arc<Cached<V>>> {
        let held = self.peek();
        if held.as_deref().is_some_and(|held| self.is_fresh(held)) || !self.time_until_due().is_zero() {
            return held;
        }
        let asked = self.ask();
        if held.is_some() && self.status().last_error.is_some() {
            if self.shared.reading.try_lock().is_ok() {
                let cache = self.clone();
                tokio::spawn(async move { cache.read_unless_read_since(asked).await });
            }
            return held;
        }
        // The read logs its own failure.
        let _ = self.read_unless_read_since(asked).await;
        self.peek()
    }

    /// Reads now.
    ///
    /// The result is from a read that started after this call. Calls during a read share the next read.
    ///
    /// # Errors
    /// The secret cannot be read, or its value cannot be used. The held value stays.
    pub async fn refresh(&self) -> Loaded<V> {
        self.read_unless_read_since(self.ask()).await
    }

    /// Like [`refresh`](Self::refresh), but waits until the reload interval since the last reading has passed.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub async fn refresh_when_due(&self) -> Loaded<V> {
        let asked = self.ask();
        loop {
            let wait = self.time_until_due();
            if !wait.is_zero() {
                sleep(wait).await;
                continue;
            }
            let _reading = self.shared.reading.lock().await;
            if let Some(outcome) = self.outcome_since(asked) {
                return outcome;
            }
            if self.time_until_due().is_zero() {
                return self.read().await;
            }
        }
    }

    async fn read_unless_read_since(&self, asked: Asked) -> Loaded<V> {
        let _reading = self.shared.reading.lock().await;
        match self.outcome_since(asked) {
            Some(outcome) => outcome,
            None => self.read().await,
        }
    }

    /// Reads the secret. The caller holds the lock `reading`.
    async fn read(&self) -> Loaded<V> {
        let number = {
            let mut state = self.state();
            state.started += 1;
            state.started_at = Some(Instant::now());
            state.started
        };
        let outcome = self.shared.reader.read().await.and_then(|versions| {
            let value = (self.shared.interpret)(&versions)?;
            tracing::info!(version_id = versions.current.id, "secret loaded");
            Ok(Arc::new(Cached { value, loaded_at: (self.shared.clock)() }))
        });

        let mut state = self.state();
        state.status.loads += 1;
        match &outcome {
            Ok(cached) => {
                state.held = Some(Arc::clone(cached));
                state.status.last_error = None;
            }
            Err(reason) => {
                tracing::warn!(%reason, kept = state.held.is_some(), "secret not loaded");
                state.status.failures += 1;
                state.status.last_error = Some(reason.clone());
            }
        }
        state.finished = Some((number, outcome.clone()));
        outcome
    }

    fn ask(&self) -> Asked {
        Asked(self.state().started)
    }

    fn outcome_since(&self, asked: Asked) -> Option<Loaded<V>> {
        match &self.state().finished {
            Some((number, outcome)) if *number > asked.0 => Some(outcome.clone()),
            _ => None,
        }
    }

    fn time_until_due(&self) -> Duration {
        let started_at = self.state().started_at;
        started_at.map_or(Duration::ZERO, |started_at| {
            self.shared.settings.reload_interval.saturating_sub(started_at.elapsed())
        })
    }

    /// Whether a value is young. A value from the future is suspect too: the clock was set back.
    fn is_fresh(&self, cached: &Cached<V>) -> bool {
        let age = match (self.shared.clock)().duration_since(cached.loaded_at) {
            Ok(age) => age,
            Err(ahead) => ahead.duration(),
        };
        age < self.shared.settings.max_age
    }

    fn state(&self) -> MutexGuard<'_, State<V>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
