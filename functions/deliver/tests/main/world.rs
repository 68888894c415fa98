//! Secrets Manager, ECS and Lambda in memory, on one movable clock: the paused clock of tokio.
//!
//! The rules of the staging labels are those of [`rotation::testing`]. Every call takes a moment, which a seed chooses,
//! so that two runs interleave in another way for each seed. A run can be killed before any call.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deliver::Deliverer;
use deliver::report::Answer;
use deliver::request::Request;
use deliver::run::{Ports, Run};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rotation::deadline::Deadline;
use rotation::event::VersionId;
use rotation::secret::SecretText;
use rotation::store::StoreErrorKind;
use rotation::testing::{Existing, PrivatePut, Stages};
use rotation::versions::Stage;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The beginning of the label of the consumers that have the delivered version.
const TO: &str = "ROTATION-DELIVERED-TO-";

tokio::task_local! {
    /// How many calls a run makes before it dies, and who is told of its death.
    static KILL: (Cell<usize>, Arc<Notify>);
}

/// A secret.
pub(crate) struct Secret {
    pub(crate) function: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) deleted: bool,
    pub(crate) replica_of: Option<String>,
    pub(crate) values: BTreeMap<VersionId, (SecretText, SystemTime)>,
    pub(crate) stages: Stages,
    pub(crate) refuses: Option<StoreErrorKind>,
    /// The version that the service does not read, and its error.
    pub(crate) unreadable: Option<(VersionId, StoreErrorKind)>,
}

/// How a deployment ends, and after how long.
#[derive(Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) status: &'static str,
    pub(crate) takes: Duration,
}

pub(crate) const WELL: Ending = Ending { status: "SUCCESSFUL", takes: Duration::from_secs(120) };
pub(crate) const BROKEN: Ending = Ending { status: "ROLLBACK_SUCCESSFUL", takes: Duration::from_secs(300) };

/// A deployment, and what its tasks read when they started.
pub(crate) struct Begun {
    pub(crate) created: SystemTime,
    pub(crate) ending: Ending,
    pub(crate) stopped: Option<SystemTime>,
    pub(crate) read: Vec<String>,
}

impl Begun {
    pub(crate) fn status(&self, now: SystemTime) -> &'static str {
        let ended = self.created + self.ending.takes;
        match self.stopped {
            Some(stopped) if stopped < ended => "STOPPED",
            _ if now < ended => "IN_PROGRESS",
            _ => self.ending.status,
        }
    }
}

/// A service, and the secrets that its tasks read when they start.
pub(crate) struct Service {
    pub(crate) status: &'static str,
    pub(crate) controller: &'static str,
    pub(crate) reads: Vec<&'static str>,
    pub(crate) next: Ending,
    pub(crate) deployments: Vec<Begun>,
    /// Answers of UpdateService that get lost although the deployment begins.
    pub(crate) lost_answers: usize,
}

/// What a function answers, one answer for each invocation; the last one stays.
pub(crate) type Answers = VecDeque<Result<Vec<u8>, deliver::ports::FunctionProblem>>;

pub(crate) type Hook = Box<dyn FnOnce(&mut State) + Send>;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) secrets: BTreeMap<String, Secret>,
    pub(crate) services: BTreeMap<(String, String), Service>,
    pub(crate) functions: BTreeMap<String, Answers>,
    pub(crate) invoked: Vec<(String, String)>,
    pub(crate) events: Vec<Value>,
    pub(crate) calls: Vec<&'static str>,
    /// Happens right before the next call of this operation.
    pub(crate) before: Vec<(&'static str, Hook)>,
    pub(crate) now: Option<SystemTime>,
    versions: usize,
}

/// Everything outside of the function.
pub(crate) struct World {
    pub(crate) state: Mutex<State>,
    pub(crate) deliverer: Deliverer,
    began: Instant,
    rng: Mutex<StdRng>,
    pub(crate) private_put: PrivatePut,
}

pub(crate) fn version(name: &str) -> VersionId {
    VersionId::new(name.to_owned())
}

/// The settings of a deployment with these consumers.
pub(crate) fn deliverer(consumers: &Value) -> Deliverer {
    let names: Vec<&str> = consumers.as_object().unwrap().keys().map(String::as_str).collect();
    let (consumers, consumed) = (consumers.to_string(), names.join(","));
    let variables = [
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "example"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("SECRET_NAME_PREFIX", "shop/"),
        ("ALLOWED_FIELDS", "TOKEN,KEY"),
        ("CONSUMERS", &consumers),
        ("CONSUMED_SECRETS", &consumed),
    ];
    Deliverer::from_environment(&variables.into_iter().collect()).unwrap()
}

impl World {
    pub(crate) fn new(consumers: &Value) -> Self {
        Self {
            state: Mutex::default(),
            deliverer: deliverer(consumers),
            began: Instant::now(),
            rng: Mutex::new(StdRng::seed_from_u64(1)),
            private_put: PrivatePut::default(),
        }
    }

    /// The same world, in which the calls take other moments.
    pub(crate) fn seeded(self, seed: u64) -> Self {
        *self.rng.lock().unwrap() = StdRng::seed_from_u64(seed);
        self
    }

    pub(crate) fn now(&self) -> SystemTime {
        UNIX_EPOCH + 20_000 * DAY + self.began.elapsed()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        let now = self.now();
        let mut state = self.state.lock().unwrap();
        state.now = Some(now);
        state
    }

    /// Every call takes a moment, and may be the one before which the process dies.
    pub(crate) async fn call(&self, operation: &'static str) {
        let moment = Duration::from_millis(self.rng.lock().unwrap().random_range(1..400));
        tokio::time::sleep(moment).await;
        let dies = KILL.try_with(|(left, killed)| {
            if left.get() == 0 {
                killed.notify_one();
            }
            left.replace(left.get().saturating_sub(1)) == 0
        });
        if dies.unwrap_or(false) {
            std::future::pending::<()>().await;
        }
        let mut state = self.lock();
        if let Some(place) = state.before.iter().position(|(hooked, _)| *hooked == operation) {
            let (_, hook) = state.before.remove(place);
            hook(&mut state);
        }
        state.calls.push(operation);
    }

    async fn perform(&self, request: &Value, limit: Duration) -> Result<Answer, deliver::error::DeliverError> {
        let ports = Ports { store: self, services: self, functions: self, notifications: self };
        let id = format!("request-{}", self.rng.lock().unwrap().random::<u64>());
        Run::new(&self.deliverer, ports, &id, Deadline::after(limit)).perform(&Request::parse(request)?).await
    }

    /// One run, with an invocation of five minutes.
    pub(crate) async fn run(&self) -> Value {
        self.request(json!({})).await
    }

    pub(crate) async fn request(&self, request: Value) -> Value {
        serde_json::to_value(self.perform(&request, 5 * MINUTE).await.unwrap()).unwrap()
    }

    pub(crate) async fn run_within(&self, limit: Duration) -> Value {
        serde_json::to_value(self.perform(&json!({}), limit).await.unwrap()).unwrap()
    }

    /// A run that dies before its call number `at`. `false` if it came to its end before.
    pub(crate) async fn run_killed_at(&self, at: usize) -> bool {
        let (request, killed) = (json!({}), Arc::new(Notify::new()));
        let run = KILL.scope((Cell::new(at), killed.clone()), self.perform(&request, 5 * MINUTE));
        tokio::select! {
            answer = run => { answer.unwrap(); false }
            () = killed.notified() => true,
        }
    }

    /// Runs until everything is delivered, every ten minutes. Returns the number of runs.
    pub(crate) async fn run_to_the_end(&self) -> usize {
        for runs in 1..30 {
            let answer = self.run().await;
            if answer["pending"] == 0 && answer["failed"] == 0 {
                return runs;
            }
            tokio::time::advance(10 * MINUTE).await;
        }
        panic!("not delivered after 30 runs: {}", self.run().await);
    }

    /// Adds a secret with a first value, as its version `v1`, that was made a year ago.
    pub(crate) fn secret(&self, name: &str, function: Option<&str>, field: Option<&str>, value: &str) {
        let created = self.now() - 365 * DAY;
        let (first, text) = (version("v1"), SecretText::new(value.to_owned()));
        let arn = |name| format!("arn:aws:lambda:us-east-1:000000000000:function:{name}");
        let field = field.map(|field| ("rotation:field".to_owned(), field.to_owned()));
        let secret = Secret {
            function: function.map(arn),
            tags: field.into_iter().collect(),
            deleted: false,
            replica_of: None,
            values: [(first.clone(), (text, created))].into(),
            stages: [(Stage::Current, first)].into_iter().collect(),
            refuses: None,
            unreadable: None,
        };
        self.lock().secrets.insert(name.to_owned(), secret);
    }

    pub(crate) fn service(&self, service: &str, reads: &[&'static str]) {
        let service_of = Service {
            status: "ACTIVE",
            controller: "ECS",
            reads: reads.to_vec(),
            next: WELL,
            deployments: vec![],
            lost_answers: 0,
        };
        self.lock().services.insert(("blue".to_owned(), service.to_owned()), service_of);
    }

    pub(crate) fn function(&self, name: &str, answers: &[&str]) {
        let answers = answers.iter().map(|answer| Ok(answer.as_bytes().to_vec())).collect();
        self.lock().functions.insert(name.to_owned(), answers);
    }

    pub(crate) fn next_ends(&self, service: &str, ending: Ending) {
        self.lock().services.get_mut(&("blue".to_owned(), service.to_owned())).unwrap().next = ending;
    }

    /// Makes a value current, as a rotation or a person does.
    pub(crate) fn store(&self, name: &str, value: &str) {
        self.lock().store(name, value);
    }

    /// A person forces a deployment.
    pub(crate) fn deploy(&self, service: &str) {
        self.lock().deploy("blue", service);
    }

    pub(crate) fn value(&self, name: &str) -> String {
        self.lock().value(name)
    }

    /// The labels that say whether the value is delivered.
    pub(crate) fn labels(&self, name: &str) -> Vec<String> {
        let state = self.lock();
        let stages = state.secrets[name].stages.all().map(|(stage, _)| stage.as_str().to_owned());
        let counts = |stage: &str| stage.starts_with("ROTATION-DELIVER") && !stage.starts_with(TO);
        stages.filter(|stage| counts(stage)).collect()
    }

    /// The labels of consumers, each with its version.
    pub(crate) fn labels_of_consumers(&self, name: &str) -> Vec<(String, VersionId)> {
        let state = self.lock();
        let stages = state.secrets[name].stages.all();
        let stages = stages.filter(|(stage, _)| stage.as_str().starts_with(TO));
        stages.map(|(stage, version)| (stage.as_str().to_owned(), version.clone())).collect()
    }

    pub(crate) fn deployments(&self, service: &str) -> usize {
        self.lock().services[&("blue".to_owned(), service.to_owned())].deployments.len()
    }

    /// What the tasks of the last successful deployment read.
    pub(crate) fn running(&self, service: &str) -> Vec<String> {
        let now = self.now();
        let state = self.lock();
        let service = &state.services[&("blue".to_owned(), service.to_owned())];
        let mut newest_first = service.deployments.iter().rev();
        newest_first.find(|one| one.status(now) == "SUCCESSFUL").map(|one| one.read.clone()).unwrap_or_default()
    }

    /// Whether the labels say that the current version is delivered.
    pub(crate) fn is_delivered(&self, name: &str) -> bool {
        let state = self.lock();
        rotation::delivery::Delivery::of(&state.secrets[name].stages.listed())
            == rotation::delivery::Delivery::Delivered
    }

    pub(crate) fn take_calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.lock().calls)
    }
}

impl State {
    pub(crate) fn value(&self, name: &str) -> String {
        let secret = &self.secrets[name];
        secret.values[secret.stages.holder(&Stage::Current).unwrap()].0.expose().to_owned()
    }

    pub(crate) fn store(&mut self, name: &str, value: &str) -> VersionId {
        self.versions += 1;
        let id = version(&format!("v{}", self.versions + 1));
        let now = self.now.unwrap();
        let secret = self.secrets.get_mut(name).unwrap();
        let text = SecretText::new(value.to_owned());
        let existing = if secret.values.is_empty() { Existing::Nothing } else { Existing::Others };
        secret.stages.put(&id, existing, &text, Some(&[Stage::Current]), PrivatePut::default()).unwrap();
        secret.values.insert(id.clone(), (text, now));
        id
    }

    pub(crate) fn deploy(&mut self, cluster: &str, service: &str) {
        let now = self.now.unwrap();
        let reads = self.services[&(cluster.to_owned(), service.to_owned())].reads.clone();
        let read = reads.iter().map(|name| self.value(name)).collect();
        let service = self.services.get_mut(&(cluster.to_owned(), service.to_owned())).unwrap();
        for earlier in service.deployments.iter_mut().filter(|earlier| earlier.stopped.is_none()) {
            earlier.stopped = Some(now);
        }
        let ending = service.next;
        service.deployments.push(Begun { created: now, ending, stopped: None, read });
    }
}
