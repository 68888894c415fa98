//! Everything outside the function: Secrets Manager, the application, the clock, and the gates at which a schedule
//! intervenes. Every effect goes through [`World::commit`], which checks the promises.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use rotation::event::VersionId;
use rotation::store::StoreErrorKind;
use rotation::versions::Stage;
use tokio::time::Instant;

use crate::application::Instance;
use crate::invariants::{self, Promises};
use crate::scenario::{Application, Balancer, Defect, FIELD, Scenario, Shape, Staleness, Start};
use crate::schedule::{Edit, Gate};
use crate::state::{Author, State};

/// What one call takes. The service's dates are finer than that, so no two versions are of the same time.
const CALL: Duration = Duration::from_millis(5);
const INSTANCES: usize = 2;

/// Who causes an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    Service,
    Person,
    /// An invocation for this version, which asked the service for the first time after so many writes.
    Function {
        version: VersionId,
        admitted_at: usize,
    },
}

/// Shared by the invocations, and by the scheduler, which polls one of them at a time.
pub(crate) struct World(Mutex<Inner>);

pub(crate) struct Inner {
    pub(crate) scenario: Scenario,
    begun: Instant,
    skew: Duration,
    /// Every state that the secret was in, with the time from which on it was.
    history: Vec<(SystemTime, Arc<State>)>,
    reads: usize,
    pub(crate) instances: Vec<Instance>,
    requests: u32,
    pub(crate) first_token: Option<Arc<str>>,
    pub(crate) healed: bool,
    pub(crate) promises: Promises,
    pub(crate) violation: Option<String>,
    pub(crate) calls: Vec<Gate>,
    trace: Option<Vec<String>>,
    versions_made: u32,
    /// Set by an invocation that has come to a gate; taken by the scheduler.
    arrived: Option<Gate>,
    /// Set by the scheduler before it lets an invocation pass.
    fault: Option<StoreErrorKind>,
}

impl World {
    pub(crate) fn new(scenario: Scenario, traced: bool) -> Self {
        let mut state = State::default();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        if scenario.start == Start::InUse {
            for number in 0..2 {
                let value = match scenario.shape {
                    Shape::Text => format!("initial-token-{number}"),
                    Shape::Json => format!(r#"{{ "port": 8080, "{FIELD}": "initial-token-{number}", "note": "a b" }}"#),
                };
                let created = start - Duration::from_secs(86_400 * (90 - number));
                state.store_by_hand(&version_id("initial", number), value.into(), Author::Initial, created);
            }
        }
        let mut instances = vec![Instance::default(); INSTANCES];
        for instance in &mut instances {
            *instance = Instance::loaded(&scenario, &state);
        }
        if scenario.application == Application::None {
            instances.clear();
        }
        let first_token = state.value_at(&Stage::Current).and_then(|value| crate::application::token(&scenario, value));
        Self(Mutex::new(Inner {
            scenario,
            begun: Instant::now(),
            skew: Duration::ZERO,
            history: vec![(start, Arc::new(state))],
            reads: 0,
            instances,
            requests: 0,
            first_token,
            healed: false,
            promises: Promises::default(),
            violation: None,
            calls: vec![],
            trace: traced.then(Vec::new),
            versions_made: 0,
            arrived: None,
            fault: None,
        }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
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
        state.open_rotation(&version, world.now());
        world.commit(&Actor::Service, state);
        world.note(|| format!("RotateSecret opens {version}"));
        version
    }

    /// What a person does, at once.
    pub(crate) fn edit(&self, edit: Edit) {
        let mut world = self.lock();
        let number = u64::from(world.versions_made) + 1;
        world.versions_made += 1;
        let version = version_id("person", number);
        let token = format!("token-of-a-person-{number}");
        let current = world.state().value_at(&Stage::Current).cloned();
        let value = match (world.scenario.shape, edit, current) {
            (Shape::Text, ..) => token,
            (Shape::Json, _, None) => format!(r#"{{"{FIELD}":"{token}","port":8080}}"#),
            (Shape::Json, Edit::OtherMember, Some(old)) => {
                old.replacen("\"port\": 8080", &format!("\"port\": 90{number:02}"), 1)
            }
            (Shape::Json, Edit::Token, Some(old)) => match crate::application::token(&world.scenario, &old) {
                Some(old_token) => old.replacen(&format!("\"{old_token}\""), &format!("\"{token}\""), 1),
                None => old.to_string(),
            },
        };
        let mut state = world.changed();
        state.store_by_hand(&version, value.into(), Author::Person, world.now());
        // Who sets a token of their own tells the application.
        let mut instances = world.instances.clone();
        if edit == Edit::Token || world.scenario.shape == Shape::Text {
            world.load_all(&mut instances, &state);
        }
        world.instances = instances;
        world.commit(&Actor::Person, state);
        world.note(|| format!("a person stores {version} ({edit:?})"));
    }

    /// The caches of all instances have become too old.
    pub(crate) fn reload(&self) {
        let mut world = self.lock();
        let (mut instances, state) = (world.instances.clone(), world.state());
        world.load_all(&mut instances, &state);
        world.instances = instances;
        world.note(|| "the instances load the secret, their caches being old".to_owned());
        world.check_clients();
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

impl Inner {
    pub(crate) fn now(&self) -> SystemTime {
        self.history[0].0 + self.begun.elapsed() + self.skew
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.history[self.history.len() - 1].1)
    }

    pub(crate) fn changed(&mut self) -> State {
        self.skew += CALL;
        State::clone(&self.state())
    }

    /// How often the secret was written to so far.
    pub(crate) fn writes(&self) -> usize {
        self.history.len()
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// What a read by the function sees.
    pub(crate) fn read(&mut self) -> Arc<State> {
        self.skew += CALL;
        let read = self.reads;
        self.reads += 1;
        match self.scenario.staleness {
            Staleness::Once { read: which, back } if which == read => {
                let last = self.history.len() - 1;
                self.history[last.saturating_sub(back)].1.clone()
            }
            Staleness::Lag(lag) | Staleness::LagEverywhere(lag) => self.as_of(lag),
            Staleness::Once { .. } | Staleness::None => self.state(),
        }
    }

    fn as_of(&self, lag: Duration) -> Arc<State> {
        let then = self.now() - lag;
        let seen = self.history.iter().rev().find(|(since, _)| *since <= then);
        Arc::clone(&seen.unwrap_or(&self.history[0]).1)
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

    fn check_clients(&mut self) {
        let found = invariants::invariant_authorised_clients_are_accepted(self);
        self.found(found);
    }

    fn found(&mut self, result: Result<(), String>) {
        if let (None, Err(violation)) = (&self.violation, result) {
            self.note(|| format!("VIOLATION: {violation}"));
            self.violation = Some(violation);
        }
    }

    fn effective_scenario(&self) -> Scenario {
        if self.healed { Scenario { defect: None, ..self.scenario } } else { self.scenario }
    }

    fn load_all(&self, instances: &mut [Instance], state: &State) {
        for instance in instances {
            instance.load(&self.effective_scenario(), state, self.first_token.as_ref());
        }
    }

    /// The load balancer's choice.
    pub(crate) fn choose_instance(&mut self) -> usize {
        self.requests += 1;
        let choice = match self.scenario.balancer {
            Balancer::InTurn => self.requests,
            // The Thue-Morse sequence: as even as taking turns, and in step with nothing.
            Balancer::Mixed => self.requests.count_ones(),
        };
        choice as usize % self.instances.len()
    }

    /// Whether the instance lets the token pass, after it has loaded the secret again if that is its way.
    pub(crate) fn asks(&mut self, instance: usize, token: &str) -> bool {
        let now = self.now();
        if !self.instances[instance].accepts(token, now) && self.scenario.application == Application::Reloading {
            self.load(instance);
        }
        self.instances[instance].accepts(token, now)
    }

    pub(crate) fn load(&mut self, instance: usize) {
        let state = match self.scenario.staleness {
            Staleness::LagEverywhere(lag) => self.as_of(lag),
            _ => self.state(),
        };
        let mut loaded = self.instances[instance].clone();
        loaded.load(&self.effective_scenario(), &state, self.first_token.as_ref());
        self.instances[instance] = loaded;
        self.check_clients();
    }

    /// Whether the application is expected to work.
    pub(crate) fn is_healthy(&self) -> bool {
        self.healed || self.scenario.defect.is_none()
    }

    /// Whether every instance lets the token pass by what it holds, or would after loading.
    pub(crate) fn accepted_everywhere(&self, token: &str) -> bool {
        let now = self.now();
        let fresh = Instance::loaded(&self.scenario, &self.state());
        let reloads = self.scenario.application == Application::Reloading && self.is_healthy();
        self.instances.iter().all(|held| held.accepts(token, now) || (reloads && fresh.accepts(token, now)))
    }

    /// Whether an instance that starts now would let the token pass.
    pub(crate) fn accepted_by_a_new_instance(&self, token: &str) -> bool {
        let defect = self.effective_scenario().defect;
        match defect {
            None => Instance::loaded(&self.scenario, &self.state()).accepts(token, self.now()),
            Some(Defect::Frozen | Defect::DropsPromoted) => true,
        }
    }
}

fn version_id(kind: &str, number: u64) -> VersionId {
    VersionId::new(format!("{kind}-{number:0>width$}", width = 32 - kind.len()))
}
