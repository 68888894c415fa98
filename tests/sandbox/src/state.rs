//! The sandbox's state behind one lock, and the transactions that change it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

use crate::Settings;
use crate::clock::Clock;
use crate::event_bus::{self, EventBus};
use crate::events::{Event, EventKind, RotationAttempt, RotationOutcome, RotationTokenSeen, Step, StepError, StepRun};
use crate::faults::Faults;
use crate::invoker::Invoker;
use crate::rotation_service::{self, Job};
use crate::secrets_manager::error::{ApiError, ApiResult};
use crate::secrets_manager::secret::{PENDING, PREVIOUS, Secret};

/// The most events for [`crate::Sandbox::events`]. Subscribers get all events.
const KEPT_EVENTS: usize = 100_000;
const SUBSCRIBER_BUFFER: usize = 4096;
const ARN_PREFIX: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:";

/// The reason why a running rotation has to stop before its next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Abandoned,
    Cancelled,
}

#[derive(Debug)]
struct Running {
    token: String,
    stop: Option<Stop>,
}

#[derive(Default)]
struct State {
    secrets: Vec<Secret>,
    /// Each secret as it was before its last write, for stale reads.
    previous: BTreeMap<String, Secret>,
    running: BTreeMap<String, Running>,
    outcomes: BTreeMap<String, RotationOutcome>,
    attempts: BTreeMap<String, Vec<RotationAttempt>>,
    rotation_tokens: Vec<RotationTokenSeen>,
    events: Vec<Event>,
    calls: BTreeMap<String, BTreeMap<String, u64>>,
}

/// The state that all parts of the sandbox share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) faults: Faults,
    pub(crate) invoker: Arc<dyn Invoker>,
    pub(crate) bus: EventBus,
    state: Mutex<State>,
    file: Option<StateFile>,
    changed: watch::Sender<()>,
    live: broadcast::Sender<Event>,
    tasks: Mutex<JoinSet<()>>,
}

impl Shared {
    pub(crate) fn new(settings: Settings, invoker: Arc<dyn Invoker>, clock: Clock) -> io::Result<Self> {
        let file = settings.state_dir.as_deref().map(StateFile::open).transpose()?;
        let stored = file.as_ref().map(StateFile::load).transpose()?.unwrap_or_default();
        clock.advance(Duration::from_millis(stored.clock_ahead_millis));
        Ok(Self {
            clock,
            settings,
            faults: Faults::default(),
            invoker,
            bus: EventBus::default(),
            state: Mutex::new(State { secrets: stored.secrets, ..State::default() }),
            file,
            changed: watch::Sender::new(()),
            live: broadcast::Sender::new(SUBSCRIBER_BUFFER),
            tasks: Mutex::new(JoinSet::new()),
        })
    }

    /// Runs one call alone against the state. Rotations that the call opens start after it, also when the call fails.
    pub(crate) fn transact<T>(self: &Arc<Self>, call: impl FnOnce(&mut Tx<'_>) -> T) -> T {
        let mut tx = Tx {
            state: self.state(),
            shared: self,
            now: self.clock.now(),
            jobs: Vec::new(),
            updates: Vec::new(),
            changed: false,
        };
        tx.purge();
        let answer = call(&mut tx);
        let Tx { state, jobs, updates, changed, .. } = tx;
        drop(state);
        for event in updates {
            self.publish(event);
        }
        for job in jobs {
            self.spawn(rotation_service::run(self.clone(), job));
        }
        if changed {
            self.notify();
        }
        answer
    }

    /// Runs a task that ends with the sandbox.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    pub(crate) fn stop_tasks(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// A receiver that wakes after every change. Watch it before you read the state.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn notify(&self) {
        self.changed.send_replace(());
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.live.subscribe()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }

    pub(crate) fn count_call(&self, caller: &str, operation: &str) {
        let mut state = self.state();
        let count = state.calls.entry(caller.to_owned()).or_default().entry(operation.to_owned()).or_default();
        *count += 1;
    }

    /// The number of calls by caller and operation.
    pub(crate) fn calls(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.state().calls.clone()
    }

    pub(crate) fn reset_calls(&self) {
        self.state().calls.clear();
    }

    pub(crate) fn rotation_tokens(&self) -> Vec<RotationTokenSeen> {
        self.state().rotation_tokens.clone()
    }

    /// Saves the clock. Moving the clock is no call to the service, so no call saves it.
    pub(crate) fn save(&self) -> io::Result<()> {
        let state = self.state();
        self.save_state(&state)
    }

    fn save_state(&self, state: &State) -> io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| !self.settings.state_is_read_only) else { return Ok(()) };
        let ahead = self.clock.ahead().as_millis();
        file.save(&Stored {
            clock_ahead_millis: u64::try_from(ahead).unwrap_or(u64::MAX),
            secrets: state.secrets.clone(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call's view of the state. Secrets are changed in a copy that [`Tx::commit`] puts in place whole.
pub(crate) struct Tx<'a> {
    state: MutexGuard<'a, State>,
    shared: &'a Shared,
    pub(crate) now: SystemTime,
    jobs: Vec<Job>,
    /// For EventBridge.
    updates: Vec<Value>,
    changed: bool,
}

impl Tx<'_> {
    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub(crate) fn invoker(&self) -> &dyn Invoker {
        &*self.shared.invoker
    }

    pub(crate) fn secrets(&self) -> &[Secret] {
        &self.state.secrets
    }

    /// A secret by name, ARN, or ARN without the random suffix.
    ///
    /// An ARN that looks complete is never taken for a partial one: "Do not end your secret name with a hyphen
    /// followed by six characters."
    pub(crate) fn find(&self, id: &str) -> ApiResult<&Secret> {
        let secrets = &self.state.secrets;
        let found = match id.strip_prefix(ARN_PREFIX) {
            Some(rest) if has_suffix(rest) => secrets.iter().find(|secret| secret.arn == id),
            Some(name) => secrets.iter().find(|secret| secret.name == name),
            None => secrets.iter().find(|secret| secret.name == id),
        };
        found.ok_or_else(ApiError::secret_not_found)
    }

    /// As [`Self::find`]. With `stale`, the secret as it was before its last write.
    pub(crate) fn find_to_read(&self, id: &str, stale: bool) -> ApiResult<&Secret> {
        let secret = self.find(id)?;
        Ok(self.state.previous.get(&secret.arn).filter(|_| stale).unwrap_or(secret))
    }

    /// A copy to change; the secret must not be marked for deletion.
    pub(crate) fn find_to_write(&self, id: &str) -> ApiResult<Secret> {
        let secret = self.find(id)?;
        secret.require_not_deleted()?;
        Ok(secret.clone())
    }

    pub(crate) fn new_arn(&self, name: &str) -> String {
        use rand::Rng as _;
        let mut random = rand::rng();
        let suffix: String = (0..6).map(|_| char::from(random.sample(rand::distr::Alphanumeric))).collect();
        format!("{ARN_PREFIX}{name}-{suffix}")
    }

    /// Puts a new or changed secret in place and on disk. After an error nothing has changed.
    pub(crate) fn commit(&mut self, secret: Secret) -> ApiResult<()> {
        self.changed = true;
        let old = match self.state.secrets.iter_mut().find(|other| other.arn == secret.arn) {
            Some(place) => Some(std::mem::replace(place, secret.clone())),
            None => {
                self.state.secrets.push(secret.clone());
                None
            }
        };
        if let Err(error) = self.shared.save_state(&self.state) {
            match old {
                Some(old) => self.restore(old),
                None => self.state.secrets.retain(|other| other.arn != secret.arn),
            }
            return Err(ApiError::internal(format!("The sandbox can't save its state: {error}")));
        }
        for (version_id, from, to) in stage_changes(old.as_ref(), &secret) {
            // "for all labels except AWSPENDING and AWSPREVIOUS"
            for label in to.difference(&from).filter(|label| *label != PENDING && *label != PREVIOUS) {
                let (arn, name) = (&secret.arn, &secret.name);
                self.updates.push(event_bus::label_updated(arn, name, label, &version_id, self.now));
            }
            self.emit(&secret.arn, &version_id, EventKind::StagesChanged { from, to });
        }
        if let Some(old) = old.filter(|old| *old != secret) {
            self.state.previous.insert(secret.arn, old);
        }
        Ok(())
    }

    fn restore(&mut self, old: Secret) {
        if let Some(place) = self.state.secrets.iter_mut().find(|other| other.arn == old.arn) {
            *place = old;
        }
    }

    /// Notes a read by its date in UTC. A read is no write, so that it does not end the staleness of other reads.
    pub(crate) fn touch(&mut self, arn: &str, version_id: &str) {
        let day = self.now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
        let day = SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400);
        if let Some(secret) = self.state.secrets.iter_mut().find(|secret| secret.arn == arn) {
            secret.last_accessed = Some(day);
            if let Some(version) = secret.version_mut(version_id) {
                version.last_accessed = Some(day);
            }
        }
    }

    /// Deletes a secret for good.
    pub(crate) fn remove(&mut self, arn: &str) -> ApiResult<()> {
        self.changed = true;
        let Some(index) = self.state.secrets.iter().position(|secret| secret.arn == arn) else { return Ok(()) };
        let secret = self.state.secrets.remove(index);
        if let Err(error) = self.shared.save_state(&self.state) {
            self.state.secrets.insert(index, secret);
            return Err(ApiError::internal(format!("The sandbox can't save its state: {error}")));
        }
        self.state.previous.remove(arn);
        self.stop(arn, Stop::Cancelled);
        Ok(())
    }

    /// The service's housekeeping: ended recovery windows and deprecated versions. In AWS it is background work of low
    /// priority. In the sandbox it runs before each call.
    fn purge(&mut self) {
        let now = self.now;
        self.state.secrets.retain(|secret| secret.deletion.is_none_or(|deletion| deletion > now));
        for secret in &mut self.state.secrets {
            secret.forget_old_versions(now);
        }
    }

    pub(crate) fn emit(&mut self, arn: &str, version_id: &str, kind: EventKind) {
        self.changed = true;
        let event = Event { time: self.now, secret_arn: arn.to_owned(), version_id: version_id.to_owned(), kind };
        // An event without subscribers is not an error.
        self.shared.live.send(event.clone()).ok();
        if self.state.events.len() >= KEPT_EVENTS {
            self.state.events.remove(0);
        }
        self.state.events.push(event);
    }

    pub(crate) fn running(&self, arn: &str) -> Option<&str> {
        self.state.running.get(arn).map(|running| running.token.as_str())
    }

    pub(crate) fn start(&mut self, job: Job) {
        self.changed = true;
        self.state.running.insert(job.secret_arn.clone(), Running { token: job.token.clone(), stop: None });
        self.state.rotation_tokens.push(RotationTokenSeen {
            secret_arn: job.secret_arn.clone(),
            version_id: job.token.clone(),
            token: job.rotation_token.clone(),
            passed_on: 0,
        });
        self.jobs.push(job);
    }

    /// Makes a running rotation stop before its next step. The first reason counts.
    pub(crate) fn stop(&mut self, arn: &str, reason: Stop) {
        self.changed = true;
        if let Some(running) = self.state.running.get_mut(arn) {
            running.stop.get_or_insert(reason);
        }
    }

    pub(crate) fn stop_reason(&self, arn: &str) -> Option<Stop> {
        self.state.running.get(arn).and_then(|running| running.stop)
    }

    pub(crate) fn finish(&mut self, arn: &str, outcome: RotationOutcome) {
        self.changed = true;
        self.state.running.remove(arn);
        self.state.outcomes.insert(arn.to_owned(), outcome);
    }

    pub(crate) fn outcome(&self, arn: &str) -> Option<RotationOutcome> {
        self.state.outcomes.get(arn).cloned()
    }

    pub(crate) fn attempts(&self, arn: &str) -> Vec<RotationAttempt> {
        self.state.attempts.get(arn).cloned().unwrap_or_default()
    }

    pub(crate) fn step_started(&mut self, job: &Job, attempt: u32, step: Step) {
        let attempts = self.state.attempts.entry(job.secret_arn.clone()).or_default();
        if !attempts.last().is_some_and(|last| last.version_id == job.token && last.attempt == attempt) {
            attempts.push(RotationAttempt { version_id: job.token.clone(), attempt, steps: Vec::new() });
        }
        self.emit(&job.secret_arn, &job.token, EventKind::StepStarted { attempt, step });
    }

    pub(crate) fn step_ended(&mut self, job: &Job, attempt: u32, run: StepRun) {
        let StepRun { step, cold, duration, error } = run.clone();
        if let Some(last) = self.state.attempts.get_mut(&job.secret_arn).and_then(|attempts| attempts.last_mut()) {
            last.steps.push(run);
        }
        self.emit(&job.secret_arn, &job.token, EventKind::StepEnded { attempt, step, cold, duration, error });
    }

    /// Counts a RotationToken that came back in PutSecretValue.
    pub(crate) fn rotation_token_passed_on(&mut self, arn: &str, token: &str) {
        let mut tokens = self.state.rotation_tokens.iter_mut();
        if let Some(seen) = tokens.find(|seen| seen.secret_arn == arn && seen.token == token) {
            seen.passed_on += 1;
        }
    }

    /// Records a rotation that ended without a step.
    pub(crate) fn fail_without_a_step(&mut self, arn: &str, version_id: &str, error: StepError) {
        self.emit(arn, version_id, EventKind::RotationFailed { error: error.clone() });
        let outcome = RotationOutcome::Failed { version_id: version_id.to_owned(), error };
        self.state.outcomes.insert(arn.to_owned(), outcome);
    }
}

/// `name-XXXXXX`
fn has_suffix(rest: &str) -> bool {
    rest.rsplit_once('-')
        .is_some_and(|(_, suffix)| suffix.len() == 6 && suffix.bytes().all(|b| b.is_ascii_alphanumeric()))
}

type Stages = BTreeSet<String>;

fn stage_changes(old: Option<&Secret>, new: &Secret) -> Vec<(String, Stages, Stages)> {
    let old_stages = |id: &str| old.map(|old| old.stages_of(id)).unwrap_or_default();
    let mut changes: Vec<_> = new
        .versions
        .iter()
        .map(|version| (version.id.clone(), old_stages(&version.id), new.stages_of(&version.id)))
        .filter(|(_, from, to)| from != to)
        .collect();
    let gone = old.into_iter().flat_map(|old| &old.versions).filter(|version| new.version(&version.id).is_none());
    changes.extend(
        gone.map(|version| (version.id.clone(), old_stages(&version.id), Stages::new()))
            .filter(|(_, from, _)| !from.is_empty()),
    );
    changes
}

#[derive(Default, Serialize, Deserialize)]
struct Stored {
    clock_ahead_millis: u64,
    secrets: Vec<Secret>,
}

/// `secrets.json` in the state directory. It holds the secret values in clear text, so only its owner can read it.
struct StateFile {
    dir: PathBuf,
}

impl StateFile {
    fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self) -> PathBuf {
        self.dir.join("secrets.json")
    }

    fn load(&self) -> io::Result<Stored> {
        match std::fs::read(self.path()) {
            // The parser's message may quote the file.
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let reason = format!("not a state file of the sandbox (line {})", error.line());
                io::Error::new(io::ErrorKind::InvalidData, reason)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Stored::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file in one step: after a crash, the file is the old one or the new one. A new temporary file has
    /// mode 0600.
    fn save(&self, stored: &Stored) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        serde_json::to_writer(&mut file, stored)?;
        file.as_file().sync_all()?;
        file.persist(self.path()).map_err(|error| error.error)?;
        Ok(())
    }
}
