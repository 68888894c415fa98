//! Everything outside the function: Secrets Manager, the application, the clock, and the gates at which a schedule
//! intervenes. Every effect goes through [`World::commit`], which checks the promises.

mod caches;
mod history;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use rotation::event::VersionId;
use rotation::store::StoreErrorKind;
use rotation::versions::Stage;
use tokio::time::Instant;

use crate::invariants::{self, Checked, Promises};
use crate::model::{Model, Shape};
use crate::operations::Asked;
use crate::scenario::{Balancer, Defect, Sabotage, Scenario, Staleness, Start};
use crate::schedule::{Edit, Gate, Operation};
use crate::state::{Author, State};

/// What one call takes. The service's dates are finer than that, so no two versions are of the same time.
const CALL: Duration = Duration::from_millis(5);
/// How far apart the instances loaded the secret.
const CACHES_APART: Duration = Duration::from_secs(20 * 60);

/// The tags of the secret.
pub(crate) type Tags = BTreeMap<String, String>;

/// Who causes an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    Service,
    Person,
    /// An invocation for this version, which asked the service for the first time after so many writes, and was told these tags.
    Function {
        version: VersionId,
        admitted_at: usize,
        tags: Tags,
    },
    /// An operation that was told these tags.
    Operation {
        operation: Operation,
        tags: Tags,
    },
}

/// Shared by the invocations, and by the scheduler, which polls one of them at a time.
pub(crate) struct World<M: Model>(Mutex<Inner<M>>);

/// What is behind its lock.
pub struct Inner<M: Model> {
    pub(crate) scenario: Scenario<M>,
    begun: Instant,
    skew: Duration,
    /// The time at which something happened that is made up for now.
    looking_back: Option<SystemTime>,
    /// Every state that the secret was in, with the time from which on it was.
    history: Vec<(SystemTime, Arc<State>)>,
    /// The same of the secret in which keys are archived.
    archive: Vec<(SystemTime, Arc<State>)>,
    reads: usize,
    pub(crate) instances: Vec<M::Instance>,
    /// What the instances held at first.
    held_at_first: Vec<M::Instance>,
    /// When each of them loaded the secret by itself.
    loaded_at: Vec<SystemTime>,
    requests: u32,
    /// The value from before all rotations.
    pub(crate) first: Option<Arc<str>>,
    /// The version that had `AWSPREVIOUS` then.
    pub(crate) first_previous: Option<VersionId>,
    pub(crate) tags: Tags,
    /// When the service saw rotations succeed.
    pub(crate) rotated: Vec<SystemTime>,
    /// The rotations that operations have asked the service for, and that it has not begun yet.
    pub(crate) requested: Vec<VersionId>,
    pub(crate) asked: Asked,
    pub(crate) healed: bool,
    pub(crate) promises: Promises,
    pub(crate) memory: M::Memory,
    pub(crate) violation: Option<String>,
    pub(crate) calls: Vec<Gate>,
    trace: Option<Vec<String>>,
    versions_made: u32,
    /// Set by an invocation that has come to a gate; taken by the scheduler.
    arrived: Option<Gate>,
    /// Set by the scheduler before it lets an invocation pass.
    fault: Option<StoreErrorKind>,
}

impl<M: Model> World<M> {
    pub(crate) fn new(scenario: Scenario<M>, traced: bool) -> Self {
        let mut state = State::default();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let numbers = match scenario.start {
            Start::InUse => 0..2,
            Start::FirstValue => 1..2,
            Start::Empty => 0..0,
        };
        for number in numbers {
            let created = start - Duration::from_secs(86_400 * (90 - number));
            let value = scenario.model.initial(number, created);
            state
                .store_by_hand(&version_id("initial", number), value.into(), Author::Initial, created)
                .unwrap_or_default();
        }
        scenario.model.begin(&mut state);
        let loaded = scenario.model.loaded(&state).unwrap_or_default();
        let instances = vec![loaded; scenario.model.instances()];
        // Their caches do not become old all at once.
        let loaded_at = (0..scenario.model.instances() as u32).map(|number| start - CACHES_APART * number).collect();
        let first = state.value_at(&Stage::Current).cloned();
        let first_previous = state.holder(&Stage::Previous).cloned();
        let mut inner = Inner {
            scenario,
            begun: Instant::now(),
            skew: Duration::ZERO,
            looking_back: None,
            history: vec![(start, Arc::new(state))],
            archive: vec![(start, Arc::new(State::default()))],
            reads: 0,
            held_at_first: instances.clone(),
            instances,
            loaded_at,
            requests: 0,
            first,
            first_previous,
            tags: own_tags(scenario.model),
            rotated: vec![],
            requested: vec![],
            asked: Asked::default(),
            healed: false,
            promises: Promises::default(),
            memory: M::Memory::default(),
            violation: None,
            calls: vec![],
            trace: traced.then(Vec::new),
            versions_made: 0,
            arrived: None,
            fault: None,
        };
        inner.note_first_value();
        Self(Mutex::new(inner))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits at a gate until the scheduler lets it pass, with or without a fault.
    pub(crate) async fn gate(&self, gate: Gate) -> Option<StoreErrorKind> {
        let mut arrived = false;
        poll_fn(|_| {
            let mut world = self.lock();
            if arrived {
                return Poll::Ready(world.fault.take());
            }
            arrived = true;
            world.arrived = Some(gate);
            Poll::Pending
        })
        .await
    }

    /// The gate at which the invocation that was just polled stands.
    pub(crate) fn arrived(&self) -> Option<Gate> {
        self.lock().arrived.take()
    }

    /// RotateSecret: the version to rotate to. A rotation that is not complete is taken up again.
    pub(crate) fn rotate_secret(&self) -> VersionId {
        let mut world = self.lock();
        if let Some(incomplete) = world.state().incomplete_rotation() {
            return incomplete.clone();
        }
        world.versions_made += 1;
        let version = version_id("rotation", u64::from(world.versions_made));
        let mut state = world.changed();
        let opened = state.open_rotation(&version, world.now());
        world.found(opened.map_err(|_| "the staging labels are used up: no rotation can begin".to_owned()));
        world.commit(&Actor::Service, state);
        world.note(|| format!("RotateSecret opens {version}"));
        version
    }

    /// What a person does, at once.
    pub(crate) fn edit(&self, edit: Edit) {
        let mut world = self.lock();
        if edit == Edit::FirstValue && world.first.is_none() {
            return;
        }
        let number = u64::from(world.versions_made) + 1;
        world.versions_made += 1;
        let version = version_id("person", number);
        let current = world.state().value_at(&Stage::Current).cloned();
        let (model, now) = (world.scenario.model, world.now());
        let value = match (edit, &current) {
            (Edit::OtherMember, Some(old)) if model.shape() == Shape::Json => {
                old.replacen("\"port\": 8080", &format!("\"port\": 90{number:02}"), 1)
            }
            (Edit::FirstValue, _) if world.first.is_some() => {
                world.first.as_deref().map(str::to_owned).unwrap_or_default()
            }
            _ => model.edited(edit, current.as_ref(), number, now),
        };
        let mut state = world.changed();
        if state.store_by_hand(&version, value.into(), Author::Person, world.now()).is_err() {
            world.note(|| format!("a person may not store {version}: the staging labels are used up"));
            return;
        }
        // Who sets a secret of their own tells the application.
        if edit == Edit::Secret || model.shape() == Shape::Text {
            world.load_all(&state);
        }
        world.commit(&Actor::Person, state);
        world.note(|| format!("a person stores {version} ({edit:?})"));
    }

    /// The caches of all instances have become too old.
    pub(crate) fn reload(&self) {
        let mut world = self.lock();
        M::reload(&mut world);
        world.note(|| "the instances load the secret, their caches being old".to_owned());
        world.check_clients();
    }

    /// The function `deliver` does its next step.
    pub(crate) fn deliver(&self) {
        let mut world = self.lock();
        M::deliver(&mut world);
        world.note(|| "deliver does its next step".to_owned());
    }

    /// Nobody asks for anything special any more.
    pub(crate) fn reset_tags(&self) {
        let mut world = self.lock();
        world.tags = own_tags(world.scenario.model);
    }

    /// The cache of one instance has become too old.
    pub(crate) fn reload_one(&self, instance: usize) {
        let mut world = self.lock();
        if instance < world.instances.len() {
            world.load(instance);
            world.note(|| format!("instance {instance} loads the secret, its cache being old"));
        }
    }

    /// Somebody sets a tag, or takes it away.
    pub(crate) fn tag(&self, name: &str, value: Option<&str>) {
        let mut world = self.lock();
        match value {
            Some(value) => world.tags.insert(name.to_owned(), value.to_owned()),
            None => world.tags.remove(name),
        };
    }

    /// Time has passed.
    pub(crate) fn time_passed(&self) {
        let mut world = self.lock();
        world.load_what_is_old();
        world.check_clients();
    }

    /// The service has seen a rotation succeed.
    pub(crate) fn rotation_succeeded(&self) {
        let mut world = self.lock();
        let now = world.now();
        world.rotated.push(now);
        M::rotation_succeeded(&mut world);
    }

    /// The application is repaired, and started again.
    pub(crate) fn heal(&self) {
        self.lock().healed = true;
        self.reload();
    }

    /// Reads see every write before them again.
    pub(crate) fn end_staleness(&self) {
        self.lock().scenario.staleness = Staleness::None;
    }

    /// Gives the invocation that is polled next a fault at its gate.
    pub(crate) fn inject(&self, fault: StoreErrorKind) {
        self.lock().fault = Some(fault);
    }
}

impl<M: Model> Inner<M> {
    pub(crate) fn now(&self) -> SystemTime {
        self.looking_back.unwrap_or_else(|| self.history[0].0 + self.begun.elapsed() + self.skew)
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.history[self.history.len() - 1].1)
    }

    pub(crate) fn changed(&mut self) -> State {
        self.skew += CALL;
        self.load_what_is_old();
        State::clone(&self.state())
    }

    /// When an instance last loaded the secret.
    pub(crate) fn loaded_at(&self, instance: usize) -> SystemTime {
        self.loaded_at[instance]
    }

    /// Somebody waits until that time, unless it has come.
    pub(crate) fn wait_until(&mut self, time: SystemTime) {
        self.skew += time.duration_since(self.now()).unwrap_or_default();
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// What a read by a function sees, and since when it was so.
    pub(crate) fn read(&mut self) -> (SystemTime, Arc<State>) {
        self.skew += CALL;
        let read = self.reads;
        self.reads += 1;
        match self.scenario.staleness {
            Staleness::Once { read: which, back } if which == read => {
                let last = self.history.len() - 1;
                self.history[last.saturating_sub(back)].clone()
            }
            Staleness::Lag(lag) | Staleness::LagEverywhere(lag) => self.as_of(&self.history, lag),
            Staleness::Once { .. } | Staleness::None | Staleness::NeverRotated | Staleness::RotatedBefore => {
                self.history[self.history.len() - 1].clone()
            }
        }
    }

    /// How long ago the secret was changed.
    pub(crate) fn quiet(&self) -> Duration {
        let changed = self.history.last().map(|(changed, _)| *changed);
        changed.and_then(|changed| self.now().duration_since(changed).ok()).unwrap_or_default()
    }

    /// When a rotation last succeeded, as DescribeSecret says it.
    pub(crate) fn last_rotated(&self, seen: &State) -> Option<SystemTime> {
        let current = seen.holder(&Stage::Current).and_then(|current| seen.versions.get(current));
        if self.scenario.sabotage == Sabotage::SucceedsEarly && current.is_some_and(|of| of.author == Author::Rotation)
        {
            return Some(self.now());
        }
        if self.scenario.sabotage == Sabotage::AgesEverything {
            return None;
        }
        let back = match self.scenario.staleness {
            Staleness::NeverRotated => return None,
            Staleness::RotatedBefore => 1,
            _ => 0,
        };
        self.rotated.iter().rev().nth(back).copied()
    }

    fn as_of(&self, history: &[(SystemTime, Arc<State>)], lag: Duration) -> (SystemTime, Arc<State>) {
        let then = self.now() - lag;
        let seen = history.iter().rev().find(|(since, _)| *since <= then);
        seen.unwrap_or(&history[0]).clone()
    }

    /// What a read of the archive by a function sees, and since when it was so.
    pub(crate) fn read_archive(&mut self) -> (SystemTime, Arc<State>) {
        self.skew += CALL;
        match self.scenario.staleness {
            Staleness::Lag(lag) | Staleness::LagEverywhere(lag) => self.as_of(&self.archive, lag),
            _ => self.archive[self.archive.len() - 1].clone(),
        }
    }

    /// The archive as it is.
    pub(crate) fn archive(&self) -> &Arc<State> {
        &self.archive[self.archive.len() - 1].1
    }

    /// Changes the archive by the rules of the service.
    pub(crate) fn change_archive<T>(&mut self, change: impl FnOnce(&mut State, SystemTime) -> T) -> T {
        let (_, mut state) = (self.changed(), State::clone(self.archive()));
        let changed = change(&mut state, self.now());
        if *self.archive().as_ref() != state {
            self.archive.push((self.now(), Arc::new(state)));
            self.check_clients();
        }
        changed
    }

    /// RotateSecret to this version. A rotation that is not complete is taken up again instead. A version that was rotated to
    /// before is not rotated to again.
    pub(crate) fn start_rotation(&mut self, version: &VersionId) -> Result<(), StoreErrorKind> {
        let state = self.state();
        if let Some(incomplete) = state.incomplete_rotation() {
            self.requested.push(incomplete.clone());
            return Err(StoreErrorKind::NotNow);
        }
        if !state.versions.contains_key(version) {
            let mut state = self.changed();
            state.open_rotation(version, self.now()).map_err(|_| StoreErrorKind::Rejected)?;
            self.commit(&Actor::Service, state);
            self.requested.push(version.clone());
        }
        Ok(())
    }

    /// Takes over a new state, after the promises were checked on the way there.
    pub(crate) fn commit(&mut self, actor: &Actor, state: State) {
        let before = self.state();
        if *before == state {
            return;
        }
        self.history.push((self.now(), Arc::new(state)));
        let found = invariants::check(self, actor, &before);
        self.found(found);
        self.check_clients();
    }

    fn note_first_value(&mut self) {
        let state = self.state();
        let found = invariants::begin(self, &state);
        self.found(found);
        self.check_clients();
    }

    pub(crate) fn check_clients(&mut self) {
        if self.scenario.model.cache_age().is_some_and(|age| age.is_zero()) {
            let state = self.state();
            self.load_all(&state);
        }
        let found = M::judge(self);
        self.found(found);
    }

    pub(crate) fn found(&mut self, result: Checked) {
        if let (None, Err(violation)) = (&self.violation, result) {
            self.note(|| format!("VIOLATION: {violation}"));
            self.violation = Some(violation);
        }
    }

    /// Whether this instance is a broken one.
    pub(crate) fn is_broken(&self, instance: usize) -> bool {
        !self.is_healthy() && self.scenario.model.is_broken_in(instance)
    }

    /// The load balancer's choice.
    pub(crate) fn choose_instance(&mut self) -> usize {
        self.requests += 1;
        let choice = match self.scenario.balancer {
            Balancer::InTurn => self.requests,
            // The Thue-Morse sequence: as even as taking turns, and in step with nothing.
            Balancer::Mixed => self.requests.count_ones(),
        };
        choice as usize % self.scenario.model.asked_instances()
    }

    /// Whether the instance lets the token pass, after it has loaded the secret again if that is its way.
    pub(crate) fn asks(&mut self, instance: usize, token: &str) -> bool {
        let (model, now) = (self.scenario.model, self.now());
        if !model.accepts(&self.instances[instance], token, now) && model.reloads_when_asked() {
            self.load(instance);
        }
        model.accepts(&self.instances[instance], token, now)
    }

    /// Whether the application is expected to work. One that accepts too much does.
    pub(crate) fn is_healthy(&self) -> bool {
        self.healed || matches!(self.scenario.defect, None | Some(Defect::AcceptsRevoked))
    }
}

fn own_tags<M: Model>(model: M) -> Tags {
    model.tags().iter().map(|(tag, value)| ((*tag).to_owned(), (*value).to_owned())).collect()
}

fn version_id(kind: &str, number: u64) -> VersionId {
    VersionId::new(format!("{kind}-{number:0>width$}", width = 32 - kind.len()))
}
