//! What was read from a secret, kept for a while, whatever it is used for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use crate::clock::Clock;
use crate::secrets::{LoadError, SecretReader, Unusable, Versions};

/// How long a value is kept, and how often a new one is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Age at which a value is read again, by the cache's clock. A value is kept beyond it when reading fails.
    pub max_age: Duration,
    /// Least time between two readings that nobody authorised asked for. [`SecretCache::refresh`] is not bound by it.
    pub reload_interval: Duration,
}

impl Default for CacheSettings {
    /// An hour, and at most one reload in a second.
    fn default() -> Self {
        Self { max_age: Duration::from_hours(1), reload_interval: Duration::from_secs(1) }
    }
}

/// A value that was read from a secret.
#[derive(Debug)]
pub struct Cached<V> {
    /// What the application made of the secret's versions.
    pub value: V,
    /// When it was read, by the cache's clock.
    pub loaded_at: SystemTime,
}

/// How reading went so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// Readings finished since the start, failed ones included.
    pub loads: u64,
    /// Readings that failed.
    pub failures: u64,
    /// Why the last reading failed; `None` if it did not.
    pub last_error: Option<LoadError>,
}

/// The outcome of a reading, shared by all that waited for it.
pub type Loaded<V> = Result<Arc<Cached<V>>, LoadError>;

type Interpret<V> = dyn Fn(&Versions) -> Result<V, Unusable> + Send + Sync;

/// A secret, read at most once at a time and kept when reading fails.
///
/// `V` is what the application makes of the versions. Cheap to clone; the clones share everything.
pub struct SecretCache<V> {
    shared: Arc<Shared<V>>,
}

struct Shared<V> {
    reader: SecretReader,
    interpret: Box<Interpret<V>>,
    settings: CacheSettings,
    clock: Clock,
    state: Mutex<State<V>>,
    /// Held by the one reading under way.
    reading: tokio::sync::Mutex<()>,
}

struct State<V> {
    held: Option<Arc<Cached<V>>>,
    status: CacheStatus,
    /// Number and time of the last reading that started.
    started: u64,
    started_at: Option<Instant>,
    /// Number and outcome of the last reading that finished.
    finished: Option<(u64, Loaded<V>)>,
}

/// The number of the last reading that had started when somebody asked for one. Only a later one is an answer: an earlier
/// one may have read a stage before it was moved.
#[derive(Clone, Copy)]
struct Asked(u64);

impl<V> Clone for SecretCache<V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<V: Send + Sync + 'static> SecretCache<V> {
    /// An empty cache. `interpret` makes the value out of the versions; what it refuses does not replace what is held.
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

    /// What is held, however old.
    pub fn peek(&self) -> Option<Arc<Cached<V>>> {
        self.state().held.clone()
    }

    /// How reading went so far.
    pub fn status(&self) -> CacheStatus {
        self.state().status.clone()
    }

    /// What is held, read again first if it is too old, at most once per reload interval.
    ///
    /// The first caller to find it too old waits for the reading. While readings fail nobody waits: the old value is given
    /// out, and the next attempt is made beside it. `None` until a first reading succeeds.
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
        // Its failure is logged where it happens.
        let _ = self.read_unless_read_since(asked).await;
        self.peek()
    }

    /// Reads now.
    ///
    /// The answer is of a reading that started after this call; calls that come while one is under way share the next.
    ///
    /// # Errors
    /// When the secret can't be read or its value can't be used. What is held stays.
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

    /// Reads. The caller holds the lock `reading`.
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

    /// A value from the future is as suspect as an old one: the clock was set back.
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
