//! A history of rotations, operations, workers and censuses that run beside one another, while the application reads and writes.

use std::sync::Arc;
use std::time::Duration;

use encryption_key::LONGEST_INVOCATION;
use rotation::deadline::Deadline;
use rotation::store::StoreErrorKind;
use rotation::versions::Stage;

use super::invocation::{Invocation, Progress, Rotating};
use super::{BETWEEN_ATTEMPTS, Rotated, Service};
use crate::histories::{Event, Job};
use crate::model::Refusal;
use crate::model::keyring::{ADDS_SECONDARY, CACHE_TIME, Keyring, rows};
use crate::ports::Store;
use crate::schedule::{Operation, Task, Worker};

/// By so much: the consumers' cache time, the longest invocation, and the service's clock, which has whole seconds.
const CENSUSES_APART: Duration = Duration::from_secs(76 * 60);

/// How old a second census may be, and an invocation that has looked at it.
const FRESH: Duration = Duration::from_secs(61 * 60).saturating_add(LONGEST_INVOCATION);

/// What runs beside others.
enum Process {
    /// A rotation, with the repetitions of the rotation service.
    Rotation(Rotating<Keyring>),
    /// An operation, a worker, a census.
    Alone(Invocation<Keyring>),
}

impl Process {
    /// The invocation that stands at a gate.
    fn standing(&self) -> Option<&Invocation<Keyring>> {
        let invocation = match self {
            Self::Rotation(rotating) => rotating.invocation.as_ref(),
            Self::Alone(invocation) => Some(invocation),
        };
        invocation.filter(|invocation| invocation.at.is_some())
    }
}

impl Service<'_, Keyring> {
    /// Lets one thing happen after the other, and then brings the rows under one key, and every other key out of the ring.
    pub(super) async fn history(&mut self, events: &[Event]) -> Result<(), String> {
        let mut processes = vec![];
        for event in events {
            self.world.lock().note(|| format!("! {event:?}"));
            self.happens(*event, &mut processes).await?;
            self.check_violation()?;
        }
        self.world.lock().note(|| "! all that is under way comes to its end".to_owned());
        while !processes.is_empty() {
            self.go_on_with(&mut processes, 0, usize::MAX).await?;
        }
        self.end_background().await;
        self.check_violation()?;
        self.settles().await
    }

    async fn happens(&mut self, event: Event, processes: &mut Vec<Process>) -> Result<(), String> {
        // The newest is number 0.
        let newest = |number: usize| (number < processes.len()).then(|| processes.len() - 1 - number);
        match event {
            Event::Write { instance, row } => rows::write(&mut self.world.lock(), instance, row),
            Event::GiveAway(row) => rows::give_away(&mut self.world.lock(), row),
            Event::Begin { instance, row } => rows::begin(&mut self.world.lock(), instance, row),
            Event::Commit => rows::commit(&mut self.world.lock()),
            Event::Trigger(acts) => rows::trigger(&mut self.world.lock(), acts),
            Event::Restore(row) => {
                // Sessions end with the database that was, and whoever puts another in its place has no key retired while evidence of
                // the one before is fresh.
                processes.retain(|process| matches!(process, Process::Rotation(_)));
                rows::restore(&mut self.world.lock(), row);
                self.pass(FRESH).await;
            }
            Event::Load(instance) => self.world.reload_one(instance),
            Event::Edit(edit) => {
                self.world.edit(edit);
                if edit == ADDS_SECONDARY {
                    // Who adds a key by hand does nothing with it before every cache has it.
                    self.pass(2 * CACHE_TIME).await;
                }
            }
            Event::Wait(time) => self.pass(time).await,
            Event::Start(job) => {
                if matches!(job, Job::Operation(_)) {
                    // Nobody asks for something in the moment in which reads may still show what was there before.
                    self.pass(BETWEEN_ATTEMPTS).await;
                }
                let process = self.start(job);
                processes.push(process);
            }
            Event::Go { process, gates } => {
                if let Some(position) = newest(process) {
                    self.go_on_with(processes, position, gates).await?;
                }
            }
            Event::Fail { process, kind } => {
                if let Some(position) = newest(process) {
                    self.fails(processes, position, kind).await?;
                }
            }
            Event::Die(process) => {
                if let Some(position) = newest(process) {
                    self.dies(processes, position).await;
                }
            }
        }
        Ok(())
    }

    async fn fails(
        &mut self,
        processes: &mut Vec<Process>,
        position: usize,
        kind: StoreErrorKind,
    ) -> Result<(), String> {
        let gate = processes[position].standing().and_then(|invocation| invocation.at);
        // What changes nothing at all cannot be in conflict.
        if gate.is_some_and(|gate| crate::families::plausible_failures(&gate).contains(&kind)) {
            self.world.inject(kind);
            self.go_on_with(processes, position, 1).await?;
        }
        Ok(())
    }

    async fn dies(&mut self, processes: &mut Vec<Process>, position: usize) {
        if let Process::Rotation(mut rotating) = processes.remove(position) {
            // The service begins again.
            rotating.invocation = None;
            if self.repeat(&mut rotating, "Killed").await.is_none() {
                processes.insert(position, Process::Rotation(rotating));
            }
        }
    }

    fn start(&mut self, job: Job) -> Process {
        match job {
            Job::Rotation => Process::Rotation(Rotating::new(self.world.rotate_secret(), None)),
            Job::Operation(operation) => Process::Alone(self.ask(operation)),
            Job::Worker(worker) => Process::Alone(self.work(worker)),
        }
    }

    fn work(&mut self, worker: Worker) -> Invocation<Keyring> {
        let task = Task::Worker(worker);
        let caller = self.caller(task, None);
        let (number, world) = (caller.invocation, Arc::clone(&self.world));
        // How long a worker may live it knows from the world's clock; it does not outlive the store's in an undisturbed world.
        let store = Store { caller: Arc::clone(&caller), deadline: Deadline::after(100 * LONGEST_INVOCATION) };
        let future = async move {
            match worker {
                Worker::Rewrap => rows::rewrap(store).await,
                Worker::Census => rows::census(store).await,
            }
        };
        Invocation { number, task, caller, at: None, world, future: Box::pin(future) }
    }

    /// Lets a process pass so many gates. When it comes to its end, it is no longer one of those that are under way.
    async fn go_on_with(&mut self, processes: &mut Vec<Process>, position: usize, gates: usize) -> Result<(), String> {
        for _ in 0..gates {
            let ended = match &mut processes[position] {
                Process::Rotation(rotating) => self.go_on_rotating(rotating).await.is_some(),
                Process::Alone(invocation) => match self.advance(invocation).await {
                    Progress::At(_) => false,
                    Progress::Ended(answer) => {
                        let caller = Arc::clone(&invocation.caller);
                        self.answered(&caller, &answer, false);
                        true
                    }
                },
            };
            self.check_violation()?;
            if ended {
                processes.remove(position);
                break;
            }
        }
        Ok(())
    }

    /// Whatever happened: the secret can be rotated, every row can be brought under the primary key, and every older key be retired.
    async fn settles(&mut self) -> Result<(), String> {
        self.world.lock().note(|| "! nothing disturbs any more".to_owned());
        self.world.end_staleness();
        rows::trigger(&mut self.world.lock(), false);
        rows::commit(&mut self.world.lock());
        rows::put_in_order(&mut self.world.lock());
        if !self.rotates_on().await? {
            // Such an application can never be rotated so.
            return Ok(());
        }
        self.be_patient().await?;
        self.alone(Job::Worker(Worker::Rewrap)).await?;
        rows::require_all_under_the_primary_key(&self.world.lock())?;
        rows::forget_censuses(&mut self.world.lock());
        self.alone(Job::Worker(Worker::Census)).await?;
        self.pass(CENSUSES_APART).await;
        self.alone(Job::Worker(Worker::Census)).await?;
        self.alone(Job::Operation(Operation::Retire)).await?;
        rows::require_no_old_key(&self.world.lock())
    }

    async fn rotates_on(&mut self) -> Result<bool, String> {
        for _ in 0..4 {
            let next = self.world.rotate_secret();
            let rotated = self.rotate_alone(&next).await?;
            if rotated == Rotated::Done && self.world.lock().state().is_at(&next, &Stage::Current) {
                return Ok(true);
            }
            if self.refusal() == Refusal::ForGood {
                return Ok(false);
            }
            self.restore_what_is_missed().await?;
            self.be_patient().await?;
        }
        Err("no later rotation succeeds".to_owned())
    }

    /// Something that nothing disturbs, and that has to succeed.
    async fn alone(&mut self, job: Job) -> Result<(), String> {
        let Process::Alone(mut invocation) = self.start(job) else { return Ok(()) };
        loop {
            let progress = self.advance(&mut invocation).await;
            self.check_violation()?;
            if let Progress::Ended(answer) = progress {
                let caller = Arc::clone(&invocation.caller);
                self.answered(&caller, &answer, true);
                self.check_violation()?;
                return answer.map(drop).map_err(|error| format!("nothing stood against {job:?}: {error}"));
            }
        }
    }
}
