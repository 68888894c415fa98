//! Clients that write, read and replace records all the time. They count unreadable records and lost updates.

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

/// The most bytes of a record that a client writes.
const MAX_BYTES: usize = 256;
/// The providers of the records' tokens.
const PROVIDERS: [&str; 3] = ["github", "google", "slack"];

/// The settings of a load.
#[derive(Clone, Copy, Debug)]
pub struct RecordLoadSettings {
    /// The address of the application, or of its load balancer. Every request opens a new connection, so that one
    /// instance reads what another writes.
    pub address: SocketAddr,
    /// The most rounds under way at once.
    pub workers: NonZeroU32,
    /// Rounds per second, over all workers. A round writes a record and reads it. Then it reads an earlier record of
    /// its worker and replaces the plaintext, like an application that uses a refresh token and receives another.
    pub rate: NonZeroU32,
    /// The number of records that each worker writes at full speed before its rounds begin.
    pub first: u32,
    /// The seed for the plaintexts, and for the choice of the earlier record.
    pub seed: u64,
}

/// The results of the requests so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordReport {
    /// Records written.
    pub written: u64,
    /// Records with a replaced plaintext.
    pub refreshed: u64,
    /// Records with the plaintext that was written last.
    pub read: u64,
    /// Records that the application cannot decrypt, or returns with a plaintext that was never in them.
    pub unreadable: u64,
    /// Records that the application returns with a replaced plaintext: an update was lost.
    pub lost: u64,
    /// All other requests: no connection, no answer in time, another status.
    pub failed: u64,
    /// The text of the first unreadable record, lost update or failure.
    pub first_failure: Option<String>,
}

/// A running load. It ends when it is stopped or dropped.
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

    /// The results of the requests so far.
    pub fn report(&self) -> RecordReport {
        lock(&self.report).clone()
    }

    /// Begins no more rounds, waits for the open ones, and reports.
    pub async fn stop(self) -> RecordReport {
        self.finish(&[]).await
    }

    /// As [`stop`](Self::stop). Before it reports, it reads every written record through each of these addresses.
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

    /// Reads every record of the database through this address of an instance or a load balancer.
    ///
    /// The plaintexts are not known here: a record counts as read when the application could decrypt it.
    ///
    /// # Errors
    /// The database does not list the ids.
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

/// A written record.
#[derive(Clone)]
struct Written {
    id: String,
    /// Every plaintext of the record, the last at the end.
    texts: Vec<Vec<u8>>,
    /// The number of writes at the end without an answer. Each of them may or may not have replaced the plaintext
    /// before it.
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
    /// The records of this worker. No other worker writes them, so this worker knows their plaintexts.
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

    /// Reads an earlier record. If the record is readable, replaces its plaintext.
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

    /// Writes a record, and returns its id or the reason of the failure.
    async fn write(&self, provider: &str, plaintext: &[u8]) -> Result<String, String> {
        let request = Request::builder().method(Method::POST).header(PROVIDER_HEADER, provider);
        let (status, body) = self.send(request, "/records", plaintext.to_vec()).await?;
        if status != StatusCode::CREATED {
            return Err(format!("writing: {status}"));
        }
        let answer: Value = serde_json::from_slice(&body).map_err(|_| "writing: no JSON in the answer")?;
        answer["id"].as_str().map(str::to_owned).ok_or_else(|| "writing: no id in the answer".to_owned())
    }

    /// Replaces the plaintext of a record.
    async fn rewrite(&self, id: &str, plaintext: &[u8]) -> Result<(), String> {
        let request = Request::builder().method(Method::PUT);
        let (status, _) = self.send(request, &format!("/records/{id}"), plaintext.to_vec()).await?;
        if status == StatusCode::NO_CONTENT { Ok(()) } else { Err(format!("rewriting record {id}: {status}")) }
    }

    /// Reads a record. With `written`, compares the plaintext.
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
