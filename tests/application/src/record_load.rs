//! Clients that keep writing records and reading them back, and count what the application could not read.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::load::{Connections, REQUEST_TIMEOUT, http_client};
use crate::records::Database;

/// The longest record that is written.
const MAX_BYTES: usize = 256;

/// What to write and read.
#[derive(Clone, Copy, Debug)]
pub struct RecordLoadSettings {
    /// Where the application, or the load balancer before it, listens. Every request opens a connection of its own, so that
    /// what one instance writes another one reads.
    pub address: SocketAddr,
    /// Rounds that may be under way at the same time.
    pub workers: NonZeroU32,
    /// Rounds per second, over all workers: each writes a record, and reads that one and an earlier one of its worker.
    pub rate: NonZeroU32,
    /// Decides what is written, and which earlier record is read.
    pub seed: u64,
}

/// What came of the requests so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordReport {
    /// Records written.
    pub written: u64,
    /// Records read, with the plaintext that was written.
    pub read: u64,
    /// Records that the application can't decrypt, or gave back with another plaintext.
    pub unreadable: u64,
    /// Anything else: no connection, no answer in time, another status.
    pub failed: u64,
    /// What the first unreadable record or failure was.
    pub first_failure: Option<String>,
}

/// A load that is running. It ends when stopped or dropped.
pub struct RecordLoad {
    report: Arc<Mutex<RecordReport>>,
    stop: watch::Sender<bool>,
    workers: JoinSet<()>,
}

impl RecordLoad {
    /// Begins to write and read.
    pub fn start(settings: RecordLoadSettings) -> Self {
        let report = Arc::new(Mutex::new(RecordReport::default()));
        let (stop, stopping) = watch::channel(false);
        let requests = Requests::new(settings.address);
        let pause = Duration::from_secs(1) / settings.rate.get();
        let mut workers = JoinSet::new();
        for number in 0..settings.workers.get() {
            let worker = Worker {
                requests: requests.clone(),
                rng: StdRng::seed_from_u64(settings.seed.wrapping_add(number.into())),
                records: vec![],
                report: Arc::clone(&report),
            };
            // The workers take turns, each with its share of the rate.
            workers.spawn(worker.run(pause * number, pause * settings.workers.get(), stopping.clone()));
        }
        Self { report, stop, workers }
    }

    /// What came of the requests so far.
    pub fn report(&self) -> RecordReport {
        lock(&self.report).clone()
    }

    /// Begins no more rounds, waits for those under way, and reports.
    pub async fn stop(self) -> RecordReport {
        self.stop.send_replace(true);
        self.workers.join_all().await;
        lock(&self.report).clone()
    }

    /// Reads every record of the database through this address, that of one instance or of a load balancer.
    ///
    /// What was written is not known here: a record counts as read when it could be decrypted.
    pub async fn read_all(address: SocketAddr, database: &Database) -> RecordReport {
        let requests = Requests::new(address);
        let mut report = RecordReport::default();
        for id in database.ids() {
            report.count(requests.read(&id, None).await);
        }
        report
    }
}

enum Outcome {
    Written,
    Read,
    Unreadable(String),
    Failed(String),
}

impl RecordReport {
    fn count(&mut self, outcome: Outcome) {
        let (counter, reason) = match outcome {
            Outcome::Written => (&mut self.written, None),
            Outcome::Read => (&mut self.read, None),
            Outcome::Unreadable(reason) => (&mut self.unreadable, Some(reason)),
            Outcome::Failed(reason) => (&mut self.failed, Some(reason)),
        };
        *counter += 1;
        if self.first_failure.is_none() {
            self.first_failure = reason;
        }
    }
}

struct Worker {
    requests: Requests,
    rng: StdRng,
    /// Ids and plaintexts of what this worker has written.
    records: Vec<(String, Vec<u8>)>,
    report: Arc<Mutex<RecordReport>>,
}

impl Worker {
    async fn run(mut self, start: Duration, period: Duration, mut stopping: watch::Receiver<bool>) {
        let mut turns = tokio::time::interval_at(tokio::time::Instant::now() + start, period);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return,
                _ = turns.tick() => {}
            }
            self.round().await;
        }
    }

    async fn round(&mut self) {
        let mut plaintext = vec![0; self.rng.random_range(0..=MAX_BYTES)];
        self.rng.fill_bytes(&mut plaintext);
        let earlier = (!self.records.is_empty()).then(|| self.rng.random_range(0..self.records.len()));
        match self.requests.write(&plaintext).await {
            Ok(id) => {
                self.count(Outcome::Written);
                self.count(self.requests.read(&id, Some(&plaintext)).await);
                self.records.push((id, plaintext));
            }
            Err(reason) => self.count(Outcome::Failed(reason)),
        }
        if let Some((id, plaintext)) = earlier.and_then(|index| self.records.get(index)) {
            self.count(self.requests.read(id, Some(plaintext)).await);
        }
    }

    fn count(&self, outcome: Outcome) {
        lock(&self.report).count(outcome);
    }
}

/// The client of the records' endpoints.
#[derive(Clone)]
struct Requests {
    client: HttpClient<HttpConnector, Body>,
    address: SocketAddr,
}

impl Requests {
    fn new(address: SocketAddr) -> Self {
        Self { client: http_client(Connections::PerRequest), address }
    }

    /// Writes a record and gives back its id, or what went wrong.
    async fn write(&self, plaintext: &[u8]) -> Result<String, String> {
        let (status, body) = self.send(Method::POST, "/records", plaintext.to_vec()).await?;
        if status != StatusCode::CREATED {
            return Err(format!("writing: {status}"));
        }
        let answer: Value = serde_json::from_slice(&body).map_err(|_| "writing: no JSON in the answer")?;
        answer["id"].as_str().map(str::to_owned).ok_or_else(|| "writing: no id in the answer".to_owned())
    }

    /// Reads a record; another plaintext than the expected one, if that is known, counts as unreadable.
    async fn read(&self, id: &str, expected: Option<&[u8]>) -> Outcome {
        let (status, body) = match self.send(Method::GET, &format!("/records/{id}"), vec![]).await {
            Ok(answer) => answer,
            Err(reason) => return Outcome::Failed(reason),
        };
        match status {
            StatusCode::OK if expected.is_none_or(|expected| expected == body) => Outcome::Read,
            StatusCode::OK => Outcome::Unreadable(format!("record {id}: another plaintext")),
            StatusCode::INTERNAL_SERVER_ERROR if is_unreadable(&body) => {
                Outcome::Unreadable(format!("record {id}: unreadable"))
            }
            status => Outcome::Failed(format!("record {id}: {status}")),
        }
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes), String> {
        let request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        let request = request.body(Body::from(body)).map_err(|error| error.to_string())?;
        let answer = async {
            let answer = self.client.request(request).await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(REQUEST_TIMEOUT, answer).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

fn is_unreadable(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|answer| answer["error"] == "unreadable")
}

fn lock(report: &Mutex<RecordReport>) -> MutexGuard<'_, RecordReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}
