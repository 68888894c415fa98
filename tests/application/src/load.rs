//! Clients of the admin API that send requests all the time, and count the refusals with their times.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_secretsmanager::Client as SecretsManager;
use axum::body::Body;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::cache::{CacheSettings, SecretCache};
use crate::clock::Clock;
use crate::secrets::{LoadError, SecretReader, SecretReference, Stages};
use crate::tokens::Token;

/// How long a client waits for an answer.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The gap between two windows of refusals. Refusals that are closer belong to one window, whatever was accepted in
/// between. Behind one address, one instance may refuse what another accepts. An instance takes up to a second to look
/// for a newer token.
const WINDOW_GAP: Duration = Duration::from_secs(2);

/// The source of a client's token.
#[derive(Clone)]
pub struct TokenSource(SecretCache<Token>);

impl TokenSource {
    /// A client that reads `AWSCURRENT`, and reads it again when its copy is `max_age` old. The caching libraries of
    /// AWS do the same.
    pub fn current(client: SecretsManager, secret: &SecretReference, max_age: Duration, clock: Clock) -> Self {
        let reader = SecretReader::new(client, &secret.id, Stages::Current);
        let settings = CacheSettings { max_age, reload_interval: Duration::ZERO };
        let field = secret.field.clone();
        Self(SecretCache::new(reader, settings, clock, move |versions| {
            Token::read(&versions.current.value, field.as_deref())
        }))
    }

    /// A client that reads `AWSCURRENT` once and keeps the value: a consumer with an old cache.
    pub fn kept(client: SecretsManager, secret: &SecretReference) -> Self {
        // A clock that stands still, so that no value gets old.
        let clock: Clock = Arc::new(|| SystemTime::UNIX_EPOCH);
        Self::current(client, secret, Duration::MAX, clock)
    }
}

/// Whether a client keeps its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// The client uses connections again, as most clients do.
    Kept,
    /// The client opens a new connection for every request, so that a load balancer can pick another instance.
    PerRequest,
}

/// The settings of a load.
#[derive(Clone)]
pub struct LoadSettings {
    /// The address to GET; `http` only.
    pub url: Uri,
    /// The header that carries the token.
    pub header: HeaderName,
    /// The source of the token.
    pub tokens: TokenSource,
    /// The most requests under way at once.
    pub workers: NonZeroU32,
    /// Requests per second, over all workers.
    pub rate: NonZeroU32,
    /// Whether the client uses connections again.
    pub connections: Connections,
}

/// The results of the requests so far. `sent` is the sum of the three outcomes.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Requests with a known outcome.
    pub sent: u64,
    /// Requests with an answer 2xx.
    pub accepted: u64,
    /// Requests with an answer 401 or 403.
    pub refused: u64,
    /// All other requests: no token, no connection, no answer in time, another status.
    pub failed: u64,
    /// The text of the first failure.
    pub first_failure: Option<String>,
    /// The longest time from the start of a request to the end of its answer.
    pub slowest: Duration,
    /// The windows of refusals, in order.
    pub refusals: Vec<RefusalWindow>,
    accepted_since_refusal: bool,
}

/// A time in which requests were refused. It ends when two seconds pass without a refusal and with an acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalWindow {
    /// When the first refusal arrived.
    pub first: Instant,
    /// When the last refusal arrived.
    pub last: Instant,
    /// The number of refusals.
    pub refused: u64,
}

impl RefusalWindow {
    /// The time from the first refusal to the last.
    pub fn duration(&self) -> Duration {
        self.last.duration_since(self.first)
    }
}

/// A running load. It ends when it is stopped or dropped.
pub struct Load {
    report: Arc<Mutex<LoadReport>>,
    stop: watch::Sender<bool>,
    workers: JoinSet<()>,
}

impl Load {
    /// Reads the client's first token, and begins to send.
    ///
    /// # Errors
    /// The token cannot be read.
    pub async fn start(settings: LoadSettings) -> Result<Self, LoadError> {
        settings.tokens.0.refresh().await?;
        let report = Arc::new(Mutex::new(LoadReport::default()));
        let (stop, stopping) = watch::channel(false);
        let client = http_client(settings.connections);
        let pause = Duration::from_secs(1) / settings.rate.get();
        let mut workers = JoinSet::new();
        for number in 0..settings.workers.get() {
            let worker = Worker { client: client.clone(), settings: settings.clone(), report: Arc::clone(&report) };
            // The workers take turns, each with its share of the rate.
            workers.spawn(worker.run(pause * number, pause * settings.workers.get(), stopping.clone()));
        }
        Ok(Self { report, stop, workers })
    }

    /// The results of the requests so far.
    pub fn report(&self) -> LoadReport {
        lock(&self.report).clone()
    }

    /// Sends no more requests, waits for the open answers, and reports.
    pub async fn stop(self) -> LoadReport {
        self.stop.send_replace(true);
        self.workers.join_all().await;
        lock(&self.report).clone()
    }
}

enum Outcome {
    Accepted,
    Refused,
    Failed(String),
}

struct Worker {
    client: HttpClient<HttpConnector, Body>,
    settings: LoadSettings,
    report: Arc<Mutex<LoadReport>>,
}

impl Worker {
    async fn run(self, start: Duration, period: Duration, mut stopping: watch::Receiver<bool>) {
        let mut turns = tokio::time::interval_at(tokio::time::Instant::now() + start, period);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return,
                _ = turns.tick() => {}
            }
            let sent = Instant::now();
            let outcome = tokio::time::timeout(REQUEST_TIMEOUT, self.request())
                .await
                .unwrap_or_else(|_| Outcome::Failed("no answer in time".to_owned()));
            lock(&self.report).count(outcome, sent.elapsed(), Instant::now());
        }
    }

    async fn request(&self) -> Outcome {
        let Some(token) = self.settings.tokens.0.get().await else {
            return Outcome::Failed("no token".to_owned());
        };
        let Ok(mut token) = HeaderValue::from_str(token.value.expose()) else {
            return Outcome::Failed("the token can't be sent in a header".to_owned());
        };
        token.set_sensitive(true);
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = self.settings.url.clone();
        request.headers_mut().insert(self.settings.header.clone(), token);
        let answer = match self.client.request(request).await {
            Ok(answer) => answer,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let status = answer.status();
        // The whole answer, or else the connection cannot be used again.
        if let Err(error) = answer.into_body().collect().await {
            return Outcome::Failed(error.to_string());
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Outcome::Refused,
            status if status.is_success() => Outcome::Accepted,
            status => Outcome::Failed(status.to_string()),
        }
    }
}

impl LoadReport {
    /// Counts a request when its outcome is known.
    fn count(&mut self, outcome: Outcome, took: Duration, now: Instant) {
        self.sent += 1;
        self.slowest = self.slowest.max(took);
        match outcome {
            Outcome::Accepted => {
                self.accepted += 1;
                self.accepted_since_refusal = true;
            }
            Outcome::Refused => {
                self.refused += 1;
                self.extend_refusals(now);
                self.accepted_since_refusal = false;
            }
            Outcome::Failed(reason) => {
                self.failed += 1;
                self.first_failure.get_or_insert(reason);
            }
        }
    }

    fn extend_refusals(&mut self, now: Instant) {
        match self.refusals.last_mut() {
            Some(window) if !self.accepted_since_refusal || now - window.last < WINDOW_GAP => {
                window.last = now;
                window.refused += 1;
            }
            _ => self.refusals.push(RefusalWindow { first: now, last: now, refused: 1 }),
        }
    }
}

pub(crate) fn http_client(connections: Connections) -> HttpClient<HttpConnector, Body> {
    let mut builder = HttpClient::builder(TokioExecutor::new());
    if connections == Connections::PerRequest {
        builder.pool_max_idle_per_host(0);
    }
    builder.build_http()
}

fn lock(report: &Mutex<LoadReport>) -> MutexGuard<'_, LoadReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_ends_after_two_seconds_without_a_refusal() {
        let start = Instant::now();
        let mut report = LoadReport::default();
        for (second, refused) in [
            (0.0, false),
            // Refused by one of two instances only.
            (1.0, true),
            (1.5, false),
            (2.5, true),
            // Nobody was accepted for a while: still the same window.
            (7.0, true),
            (7.5, false),
            (9.5, true),
        ] {
            let outcome = if refused { Outcome::Refused } else { Outcome::Accepted };
            let now = start + Duration::from_secs_f64(second);
            report.count(outcome, Duration::from_millis(1), now);
        }
        let windows: Vec<_> =
            report.refusals.iter().map(|window| (window.duration().as_secs(), window.refused)).collect();
        assert_eq!(windows, [(6, 3), (0, 1)]);
        assert_eq!((report.sent, report.accepted, report.refused), (7, 3, 4));
    }
}
