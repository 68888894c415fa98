//! Clients that keep writing records, reading them back and replacing what is in them, and count what the application could not
//! read and what it lost.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::request::Builder;
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

use crate::database::{Database, DatabaseError};
use crate::load::{Connections, REQUEST_TIMEOUT, http_client};
use crate::records::PROVIDER_HEADER;

/// The longest record that is written.
const MAX_BYTES: usize = 256;
/// Whose tokens the records are.
const PROVIDERS: [&str; 3] = ["github", "google", "slack"];

/// What to write and read.
#[derive(Clone, Copy, Debug)]
pub struct RecordLoadSettings {
    /// Where the application, or the load balancer before it, listens. Every request opens a connection of its own, so that
    /// what one instance writes another one reads.
    pub address: SocketAddr,
    /// Rounds that may be under way at the same time.
    pub workers: NonZeroU32,
    /// Rounds per second, over all workers: each writes a record and reads it, and reads an earlier one of its worker and replaces
    /// what is in it, as an application does that uses a refresh token and is given another one.
    pub rate: NonZeroU32,
    /// Records that each worker writes, as fast as it can, before its rounds begin.
    pub first: u32,
    /// Decides what is written, and which earlier record is read.
    pub seed: u64,
}

/// What came of the requests so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordReport {
    /// Records written.
    pub written: u64,
    /// Records whose plaintext was replaced.
    pub refreshed: u64,
    /// Records read, with the plaintext that was written last.
    pub read: u64,
    /// Records that the application can't decrypt, or gave back with a plaintext that was never in them.
    pub unreadable: u64,
    /// Records that the application gave back with a plaintext that had been replaced: an update was lost.
    pub lost: u64,
    /// Anything else: no connection, no answer in time, another status.
    pub failed: u64,
    /// What the first unreadable record, lost update or failure was.
    pub first_failure: Option<String>,
}

/// A load that is running. It ends when stopped or dropped.
pub struct RecordLoad {
    report: Arc<Mutex<RecordReport>>,
    stop: watch::Sender<bool>,
    workers: JoinSet<Vec<Written>>,
    requests: Requests,
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
            let (start, period) = (pause * number, pause * settings.workers.get());
            workers.spawn(worker.run(settings.first, start, period, stopping.clone()));
        }
        Self { report, stop, workers, requests }
    }

    /// What came of the requests so far.
    pub fn report(&self) -> RecordReport {
        lock(&self.report).clone()
    }

    /// Begins no more rounds, waits for those under way, and reports.
    pub async fn stop(self) -> RecordReport {
        self.finish(&[]).await
    }

    /// The same, and before it reports, it reads every record that it has written through each of these addresses.
    pub async fn finish(self, addresses: &[SocketAddr]) -> RecordReport {
        self.stop.send_replace(true);
        let records = self.workers.join_all().await.concat();
        for address in addresses {
            let requests = Requests { address: *address, ..self.requests.clone() };
            for record in &records {
                let outcome = requests.read(&record.id, Some(record)).await;
                lock(&self.report).count(outcome);
            }
        }
        lock(&self.report).clone()
    }

    /// Reads every record of the database through this address, that of one instance or of a load balancer.
    ///
    /// What was written is not known here: a record counts as read when it could be decrypted.
    ///
    /// # Errors
    /// When the database does not tell the ids.
    pub async fn read_all(address: SocketAddr, database: &Database) -> Result<RecordReport, DatabaseError> {
        let requests = Requests::new(address);
        let mut report = RecordReport::default();
        for id in database.ids().await? {
            report.count(requests.read(&id, None).await);
        }
        Ok(report)
    }
}

enum Outcome {
    Written,
    Refreshed,
    Read,
    Unreadable(String),
    Lost(String),
    Failed(String),
}

impl RecordReport {
    fn count(&mut self, outcome: Outcome) {
        let (counter, reason) = match outcome {
            Outcome::Written => (&mut self.written, None),
            Outcome::Refreshed => (&mut self.refreshed, None),
            Outcome::Read => (&mut self.read, None),
            Outcome::Unreadable(reason) => (&mut self.unreadable, Some(reason)),
            Outcome::Lost(reason) => (&mut self.lost, Some(reason)),
            Outcome::Failed(reason) => (&mut self.failed, Some(reason)),
        };
        *counter += 1;
        if self.first_failure.is_none() {
            self.first_failure = reason;
        }
    }
}

/// A record that was written.
#[derive(Clone)]
struct Written {
    id: String,
    /// Everything that was ever in it, the last at the end.
    texts: Vec<Vec<u8>>,
    /// How many at the end had no answer. Each of them may have replaced the one before, or not.
    unanswered: usize,
}

impl Written {
    fn is_now(&self, text: &[u8]) -> bool {
        self.texts.iter().rev().take(1 + self.unanswered).any(|last| last == text)
    }
}

struct Worker {
    requests: Requests,
    rng: StdRng,
    /// What this worker has written. Nobody else writes these records, so that it knows what is in them.
    records: Vec<Written>,
    report: Arc<Mutex<RecordReport>>,
}

impl Worker {
    async fn run(
        mut self,
        first: u32,
        start: Duration,
        period: Duration,
        mut stopping: watch::Receiver<bool>,
    ) -> Vec<Written> {
        for _ in 0..first {
            if *stopping.borrow() {
                return self.records;
            }
            self.write().await;
        }
        let mut turns = tokio::time::interval_at(tokio::time::Instant::now() + start, period);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return self.records,
                _ = turns.tick() => {}
            }
            self.round().await;
        }
    }

    async fn round(&mut self) {
        let earlier = (!self.records.is_empty()).then(|| self.rng.random_range(0..self.records.len()));
        self.write().await;
        if let Some(index) = earlier {
            self.refresh(index).await;
        }
    }

    /// Writes a record, and reads it.
    async fn write(&mut self) {
        let (provider, text) = (PROVIDERS[self.rng.random_range(0..PROVIDERS.len())], self.text());
        match self.requests.write(provider, &text).await {
            Ok(id) => {
                self.count(Outcome::Written);
                let record = Written { id, texts: vec![text], unanswered: 0 };
                self.count(self.requests.read(&record.id, Some(&record)).await);
                self.records.push(record);
            }
            Err(reason) => self.count(Outcome::Failed(reason)),
        }
    }

    /// Reads an earlier record and, if it could be used, replaces what is in it.
    async fn refresh(&mut self, index: usize) {
        let text = self.text();
        let Some(record) = self.records.get_mut(index) else { return };
        let read = self.requests.read(&record.id, Some(&*record)).await;
        let usable = matches!(read, Outcome::Read);
        lock(&self.report).count(read);
        if usable {
            let answer = self.requests.rewrite(&record.id, &text).await;
            record.texts.push(text);
            record.unanswered = if answer.is_ok() { 0 } else { record.unanswered + 1 };
            self.count(answer.map_or_else(Outcome::Failed, |()| Outcome::Refreshed));
        }
    }

    fn text(&mut self) -> Vec<u8> {
        let mut text = vec![0; self.rng.random_range(0..=MAX_BYTES)];
        self.rng.fill_bytes(&mut text);
        text
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
    async fn write(&self, provider: &str, plaintext: &[u8]) -> Result<String, String> {
        let request = Request::builder().method(Method::POST).header(PROVIDER_HEADER, provider);
        let (status, body) = self.send(request, "/records", plaintext.to_vec()).await?;
        if status != StatusCode::CREATED {
            return Err(format!("writing: {status}"));
        }
        let answer: Value = serde_json::from_slice(&body).map_err(|_| "writing: no JSON in the answer")?;
        answer["id"].as_str().map(str::to_owned).ok_or_else(|| "writing: no id in the answer".to_owned())
    }

    /// Replaces what is in a record.
    async fn rewrite(&self, id: &str, plaintext: &[u8]) -> Result<(), String> {
        let request = Request::builder().method(Method::PUT);
        let (status, _) = self.send(request, &format!("/records/{id}"), plaintext.to_vec()).await?;
        if status == StatusCode::NO_CONTENT { Ok(()) } else { Err(format!("rewriting record {id}: {status}")) }
    }

    /// Reads a record, of which is known what was written, or nothing.
    async fn read(&self, id: &str, written: Option<&Written>) -> Outcome {
        let request = Request::builder().method(Method::GET);
        let (status, body) = match self.send(request, &format!("/records/{id}"), vec![]).await {
            Ok(answer) => answer,
            Err(reason) => return Outcome::Failed(reason),
        };
        match status {
            StatusCode::OK if written.is_none_or(|written| written.is_now(&body)) => Outcome::Read,
            StatusCode::OK if written.is_some_and(|written| written.texts.iter().any(|text| *text == body)) => {
                Outcome::Lost(format!("record {id}: a plaintext that was replaced"))
            }
            StatusCode::OK => Outcome::Unreadable(format!("record {id}: another plaintext")),
            StatusCode::INTERNAL_SERVER_ERROR if is_unreadable(&body) => {
                Outcome::Unreadable(format!("record {id}: unreadable"))
            }
            status => Outcome::Failed(format!("record {id}: {status}")),
        }
    }

    async fn send(&self, request: Builder, path: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes), String> {
        let request = request.uri(format!("http://{}{path}", self.address));
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
