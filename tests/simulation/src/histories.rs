//! Histories of stored rows, by chance: rotations, operations, workers and censuses that run beside one another, die, and come late;
//! an application of several instances, each with a ring as old as its cache, that writes; people, and time.
//!
//! What makes a retirement wrong is several things at once, hours apart, and there is no list of them all: hence chance, and not every
//! schedule. Keys, ciphers, forms of rows, the kind, the protocol, the archive and the decision to retire are the real ones. PostgreSQL
//! is a map with compare-and-swap; worker and census are the model's own. After every effect each row tells the current ring, and every
//! instance, what the application wrote last. In the end every row is under the primary key, and no older key is in the ring. Excused
//! are instances that have not loaded a ring whose primary key was replaced at once, for the time of their caches. The same search has
//! to catch variants that are broken on purpose.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rotation::policy::Promotion;
use rotation::store::StoreErrorKind;

use crate::model::Model as _;
use crate::model::keyring::{ADDS_SECONDARY, Application, Keyring, rows};
use crate::run::{Lived, Simulator, Violation};
use crate::scenario::{RotationService, Scenario, Staleness, Start};
use crate::schedule::{Edit, Operation, Worker};

/// More than anything has, unless it waits for ever.
const TO_THE_END: usize = 500;

/// What begins, and goes on beside what is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// RotateSecret.
    Rotation,
    /// An operator asks for something.
    Operation(Operation),
    /// Work on rows.
    Worker(Worker),
}

/// What happens. Of those that are under way the newest has the number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An instance writes a row.
    Write {
        /// Which instance.
        instance: usize,
        /// Which row.
        row: u32,
    },
    /// The column that a row's value is bound to changes, or changes back.
    GiveAway(u32),
    /// A row is as a backup has it, under an older key, and nothing that worked on rows goes on.
    Restore(u32),
    /// An instance inserts a row in a transaction that stays open.
    Begin {
        /// Which instance.
        instance: usize,
        /// Which row, of those that only transactions insert.
        row: u32,
    },
    /// All open transactions are committed.
    Commit,
    /// From now on, or no longer, a trigger changes the column that a value is bound to, whenever a row is updated.
    Trigger(bool),
    /// An instance loads the secret.
    Load(usize),
    /// A person stores a value of their own.
    Edit(Edit),
    /// Time passes.
    Wait(Duration),
    /// Something begins.
    Start(Job),
    /// One that is under way goes on for so many gates.
    Go {
        /// Which.
        process: usize,
        /// How many.
        gates: usize,
    },
    /// The call at which one stands fails, or its answer is lost.
    Fail {
        /// Which.
        process: usize,
        /// With what.
        kind: StoreErrorKind,
    },
    /// One of them dies; the service begins a rotation again.
    Die(usize),
}

/// A history in which a promise did not hold.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it ran against.
    pub scenario: String,
    /// What happened.
    pub events: Vec<Event>,
    /// The promise, and the trace.
    pub violation: Violation,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\nscenario: {}\nhistory: {:?}", self.violation.promise, self.scenario, self.events)?;
        self.violation.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// The scenario of a history, from its seed.
#[must_use]
pub fn scenario_of(seed: u64) -> Scenario<Keyring> {
    let mut rng = StdRng::seed_from_u64(!seed);
    let quiet = |scenario: &Scenario<Keyring>| {
        let undisturbed =
            (scenario.defect, scenario.staleness, scenario.start) == (None, Staleness::None, Start::InUse);
        undisturbed && scenario.model.application != Application::NameOnly
    };
    let all: Vec<_> = Keyring::scenarios().into_iter().filter(quiet).collect();
    let silent = Keyring::scenario(Promotion::Staged, Application::Silent);
    let scenario = if rng.random_bool(0.5) { silent } else { *all.choose(&mut rng).unwrap_or(&silent) };
    let scenario = match rng.random_range(0..4) {
        0 => scenario.with_staleness(Staleness::Lag(Duration::from_millis(rng.random_range(1..1500)))),
        _ => scenario,
    };
    let scenario = if rng.random_bool(0.3) { scenario.with_service(RotationService::InTurns) } else { scenario };
    Keyring::archived(if rng.random_bool(0.5) { scenario.leaving_rotations() } else { scenario })
}

/// What happens in the history of a seed.
#[must_use]
pub fn events_of(seed: u64, scenario: &Scenario<Keyring>) -> Vec<Event> {
    let mut chance = Chance { rng: StdRng::seed_from_u64(seed), model: scenario.model, events: vec![] };
    for _ in 0..chance.rng.random_range(3..12) {
        chance.episode();
    }
    chance.events
}

/// Runs a history.
///
/// # Errors
/// The history in which a promise did not hold, made as short as possible, with its trace.
pub fn run_history(simulator: &Simulator, scenario: &Scenario<Keyring>, events: &[Event]) -> Result<Lived, Box<Found>> {
    simulator.live(scenario, events, false).map_err(|_| shortest(simulator, scenario, events.to_vec()))
}

/// Leaves out of a history what is not needed for a promise to be broken.
fn shortest(simulator: &Simulator, scenario: &Scenario<Keyring>, mut events: Vec<Event>) -> Box<Found> {
    let mut length = events.len().div_ceil(2);
    while length > 0 {
        let mut from = 0;
        while from < events.len() {
            let mut shorter = events.clone();
            shorter.drain(from..(from + length).min(events.len()));
            if simulator.live(scenario, &shorter, false).is_err() {
                events = shorter;
            } else {
                from += length;
            }
        }
        length /= 2;
    }
    let undetermined = || Violation { promise: "the run is not deterministic".to_owned(), trace: vec![] };
    let violation = simulator.live(scenario, &events, true).err().unwrap_or_else(undetermined);
    Box::new(Found { scenario: scenario.to_string(), events, violation })
}

struct Chance {
    rng: StdRng,
    model: Keyring,
    events: Vec<Event>,
}

impl Chance {
    /// Something that makes sense, with anything in between.
    fn episode(&mut self) {
        match self.rng.random_range(0..13) {
            10 => self.keeps_a_transaction_open(),
            11 => self.restores_a_backup(),
            12 => {
                self.then(Event::Trigger(true));
                self.begin(Job::Worker(Worker::Rewrap));
                self.then(Event::Trigger(false));
            }
            0..3 => {
                if self.rng.random_bool(0.2) {
                    // A worker has the ring in hand that is about to be replaced.
                    let gates = self.rng.random_range(5..15);
                    let worker = Event::Start(Job::Worker(Worker::Rewrap));
                    self.events.extend([worker, Event::Go { process: 0, gates }]);
                }
                self.begin(Job::Rotation);
            }
            3 => self.begin_operation(),
            4..6 => self.begin(Job::Worker(Worker::Rewrap)),
            _ => {
                if self.rng.random_bool(0.8) {
                    self.begin(Job::Worker(Worker::Rewrap));
                }
                if self.rng.random_bool(0.8) {
                    self.begin(Job::Worker(Worker::Census));
                    let enough = Duration::from_secs(60 * self.rng.random_range(76..100));
                    let pause = if self.rng.random_bool(0.8) { enough } else { self.pause() };
                    self.then(Event::Wait(pause));
                }
                if self.rng.random_bool(0.15) {
                    self.rolls_back_for_a_moment();
                }
                self.begin(Job::Worker(Worker::Census));
                self.begin(Job::Operation(Operation::Retire));
            }
        }
        if self.rng.random_bool(0.6) {
            let pause = self.pause();
            self.then(Event::Wait(pause));
        }
    }

    /// A transaction under the key that is primary now stays open while the key is replaced, and may be committed too late for a census.
    fn keeps_a_transaction_open(&mut self) {
        let (instance, row) =
            (self.rng.random_range(0..self.model.instances()), rows::ROWS + self.rng.random_range(0..rows::INSERTED));
        self.then(Event::Begin { instance, row });
        if self.rng.random_bool(0.5) {
            for _ in 0..self.rng.random_range(1..3) {
                self.begin(Job::Rotation);
                self.waits(60);
            }
            self.begin(Job::Worker(Worker::Rewrap));
            self.begin(Job::Worker(Worker::Census));
            self.waits(76);
            self.begin(Job::Worker(Worker::Census));
            self.begin(Job::Operation(Operation::Retire));
        }
        if self.rng.random_bool(0.5) {
            self.then(Event::Commit);
        }
    }

    /// Every row is under the primary key, twice, and then one is not.
    fn restores_a_backup(&mut self) {
        self.begin(Job::Worker(Worker::Rewrap));
        self.begin(Job::Worker(Worker::Census));
        self.waits(76);
        self.begin(Job::Worker(Worker::Census));
        let row = self.rng.random_range(0..rows::ROWS);
        self.then(Event::Restore(row));
        self.begin(Job::Operation(Operation::Retire));
    }

    /// At least so many minutes.
    fn waits(&mut self, minutes: u64) {
        let time = Duration::from_secs(60 * self.rng.random_range(minutes..minutes + 24));
        self.then(Event::Wait(time));
    }

    /// A rollback that may be put back because the application takes its time; a worker may have its ring in hand.
    fn rolls_back_for_a_moment(&mut self) {
        let rollback = Event::Start(Job::Operation(Operation::Rollback));
        let (moved, asks) = (self.rng.random_range(16..32), self.rng.random_range(0..12));
        self.events.extend([rollback, Event::Go { process: 0, gates: moved }]);
        let process = usize::from(self.rng.random_bool(0.7));
        if process == 1 {
            let worker = Event::Start(Job::Worker(Worker::Rewrap));
            self.events.extend([worker, Event::Go { process: 0, gates: self.rng.random_range(4..9) }]);
        }
        self.events.extend([Event::Go { process, gates: asks }, Event::Wait(Duration::from_secs(10))]);
        self.events.push(Event::Go { process, gates: TO_THE_END });
    }

    fn begin_operation(&mut self) {
        let all = [Operation::Rollback, Operation::Rollback, Operation::Compromise, Operation::Abort];
        let operation = *all.choose(&mut self.rng).unwrap_or(&Operation::Rollback);
        self.begin(Job::Operation(operation));
    }

    fn begin(&mut self, job: Job) {
        self.then(Event::Start(job));
        self.goes_on();
    }

    /// What was begun last goes on: to its end, or with something in between, or to be taken up later.
    fn goes_on(&mut self) {
        let is_worker = matches!(self.events.last(), Some(Event::Start(Job::Worker(_))));
        if is_worker && self.rng.random_bool(0.4) {
            // The application writes what the worker has in hand.
            for _ in 0..self.rng.random_range(1..8) {
                let gates = self.rng.random_range(1..5);
                let write = self.write();
                self.events.extend([Event::Go { process: 0, gates }, write]);
            }
        }
        for _ in 0..2 {
            if self.rng.random_bool(0.3) {
                let gates = self.rng.random_range(1..30);
                self.then(Event::Go { process: 0, gates });
            }
        }
        if self.rng.random_bool(0.85) {
            self.then(Event::Go { process: 0, gates: TO_THE_END });
        }
    }

    fn write(&mut self) -> Event {
        let instance = self.rng.random_range(0..self.model.instances());
        Event::Write { instance, row: self.rng.random_range(0..rows::ROWS) }
    }

    fn then(&mut self, event: Event) {
        while self.rng.random_bool(0.25) {
            let between = self.anything();
            self.events.push(between);
        }
        self.events.push(event);
    }

    fn anything(&mut self) -> Event {
        let process = self.rng.random_range(0..3);
        match self.rng.random_range(0..100) {
            0..40 => self.write(),
            40..50 => Event::Load(self.rng.random_range(0..self.model.instances())),
            50..62 => Event::Wait(self.pause()),
            62..78 => Event::Go { process, gates: self.rng.random_range(1..60) },
            78..83 => Event::Die(process),
            83..90 => {
                use StoreErrorKind::{Conflict, Service, Throttled, Unreachable};
                let kind = *[Unreachable, Service, Throttled, Conflict].choose(&mut self.rng).unwrap_or(&Service);
                Event::Fail { process, kind }
            }
            90 => Event::GiveAway(self.rng.random_range(0..rows::ROWS)),
            91 => Event::Commit,
            92..94 => {
                let edits = [Edit::OtherMember, ADDS_SECONDARY, Edit::FirstValue];
                Event::Edit(*edits.choose(&mut self.rng).unwrap_or(&Edit::OtherMember))
            }
            94..97 => Event::Start(Job::Worker(Worker::Rewrap)),
            97 => Event::Start(Job::Rotation),
            98 => Event::Start(Job::Operation(Operation::Retire)),
            _ => Event::Start(Job::Worker(Worker::Census)),
        }
    }

    /// Seconds, or about as long as invocations and caches live, or days.
    fn pause(&mut self) -> Duration {
        let minutes = match self.rng.random_range(0..10) {
            0..2 => self.rng.random_range(0.05..1.0),
            2..4 => self.rng.random_range(1.0..20.0),
            4..8 => self.rng.random_range(20.0..180.0),
            _ => self.rng.random_range(180.0..6000.0),
        };
        Duration::from_secs_f64(60.0 * minutes)
    }
}
