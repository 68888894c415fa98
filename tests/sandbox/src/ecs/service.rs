//! A service with its deployments and tasks: what is, and what comes next. No input or output.
//!
//! A deployment replaces tasks one after another. A new task takes its time to start. Then it joins the load balancer,
//! and one old task leaves. The rules are those of the ECS developer guide; the pauses are the sandbox's choice:
//!
//! - A newer deployment stops the one that is under way.
//! - The circuit breaker counts tasks in a row that did not start. It acts at half of the tasks, at least 3 and at most
//!   200. A rollback replaces the new tasks by tasks of the revision before, which read their secrets when they start.
//! - Without a circuit breaker, ECS tries again for ever, at growing intervals of at most 27 minutes.
//! - A task that ends is replaced, without a deployment.

use std::time::{Duration, SystemTime};

use rand::Rng as _;

use super::declaration::ServiceDeclaration;
use super::deployment::{DeploymentStatus, PENDING_FOR, ServiceDeployment};
use super::task::Process;
use super::wire;

const FIRST_RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY: Duration = Duration::from_secs(27 * 60);
pub(crate) const UNHEALTHY: &str = "Task failed container health checks";
const ROLLED_BACK: &str = "Service deployment rolled back because the circuit breaker threshold was exceeded.";
const STOPPED: &str = "Service deployment stopped because the circuit breaker threshold was exceeded.";
const NO_CANDIDATE: &str = "No rollback candidate was found to run the rollback.";

/// A task in the load balancer.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) revision: u64,
    pub(crate) process: Process,
}

/// A task that starts, or that will turn out not to.
#[derive(Debug)]
struct Launch {
    task: Result<Task, String>,
    revision: u64,
    due: SystemTime,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing, before this time or a change.
    Wait(Option<SystemTime>),
    /// Start a task of this revision, and tell [`Service::launched`].
    Launch(u64),
    /// Stop these tasks, which have left the load balancer, and ask again.
    Stop(Vec<Task>),
}

/// What EventBridge is told of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) name: &'static str,
    pub(crate) error: bool,
    pub(crate) deployment_id: String,
    pub(crate) reason: String,
}

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) declaration: ServiceDeclaration,
    pub(crate) created: SystemTime,
    pub(crate) active: bool,
    /// Oldest first; never empty.
    pub(crate) deployments: Vec<ServiceDeployment>,
    pub(crate) tasks: Vec<Task>,
    /// Why tasks ended or did not start, oldest first.
    pub(crate) stopped: Vec<String>,
    /// Whether new tasks fail.
    pub(crate) failing: bool,
    pub(crate) notices: Vec<Notice>,
    launch: Option<Launch>,
    /// The revision of the last deployment that succeeded.
    steady: Option<u64>,
    failures_in_a_row: u32,
    retry_at: Option<SystemTime>,
}

impl Service {
    /// With a first deployment that begins at once.
    pub(crate) fn new(declaration: ServiceDeclaration, now: SystemTime) -> Self {
        let mut service = Self {
            declaration,
            created: now,
            active: true,
            deployments: Vec::new(),
            tasks: Vec::new(),
            stopped: Vec::new(),
            failing: false,
            notices: Vec::new(),
            launch: None,
            steady: None,
            failures_in_a_row: 0,
            retry_at: None,
        };
        service.deploy(now);
        service.last_mut().enter(DeploymentStatus::InProgress, now);
        service
    }

    /// Begins a deployment. The one under way is asked to stop.
    pub(crate) fn deploy(&mut self, now: SystemTime) -> &ServiceDeployment {
        for deployment in self.deployments.iter_mut().filter(|deployment| !deployment.status.has_ended()) {
            deployment.enter(DeploymentStatus::StopRequested, now);
        }
        let mut random = rand::rng();
        let id: String = (0..21).map(|_| char::from(random.sample(rand::distr::Alphanumeric))).collect();
        let arn = wire::deployment_arn(&self.declaration, &id);
        let revision = random.random_range(1..i64::MAX.unsigned_abs());
        self.failures_in_a_row = 0;
        self.retry_at = None;
        self.deployments.push(ServiceDeployment::new(arn, revision, now));
        self.last()
    }

    /// Asks for a rollback, as StopServiceDeployment does. `false` when the last deployment has ended.
    pub(crate) fn request_rollback(&mut self, now: SystemTime) -> bool {
        let asked = matches!(self.last().status, DeploymentStatus::Pending | DeploymentStatus::InProgress);
        if asked {
            self.last_mut().enter(DeploymentStatus::RollbackRequested, now);
        }
        asked || !self.last().status.has_ended()
    }

    pub(crate) fn last(&self) -> &ServiceDeployment {
        &self.deployments[self.deployments.len() - 1]
    }

    fn last_mut(&mut self) -> &mut ServiceDeployment {
        let last = self.deployments.len() - 1;
        &mut self.deployments[last]
    }

    /// Whether a task is starting.
    pub(crate) fn pending_tasks(&self) -> usize {
        usize::from(self.launch.as_ref().is_some_and(|launch| launch.task.is_ok()))
    }

    /// A task of `revision` has begun to start, or has failed. Its time to start runs from now.
    pub(crate) fn launched(&mut self, revision: u64, process: Result<Process, String>, now: SystemTime) {
        // What a service begins with was deployed before the sandbox was there.
        let due = if self.steady.is_none() { now } else { now + self.declaration.start_time };
        let task = process.map(|process| Task { revision, process });
        self.launch = Some(Launch { task, revision, due });
    }

    /// Brings the state to `now` as far as that needs nothing from outside, and says what does.
    pub(crate) fn next(&mut self, now: SystemTime) -> Next {
        self.replace_ended_tasks();
        if !self.active {
            let tasks: Vec<Task> = self.tasks.drain(..).chain(self.launch.take().and_then(|l| l.task.ok())).collect();
            return if tasks.is_empty() { Next::Wait(None) } else { Next::Stop(tasks) };
        }
        if let Some(due) = self.begin(now) {
            return Next::Wait(Some(due));
        }
        let target = self.target();
        if let Some(launch) = self.launch.take() {
            if target != Some(launch.revision) {
                return Next::Stop(launch.task.into_iter().collect());
            }
            if now < launch.due {
                let due = launch.due;
                self.launch = Some(launch);
                return Next::Wait(Some(due));
            }
            return match self.settle(launch, now) {
                Some(unhealthy) => Next::Stop(vec![unhealthy]),
                None => self.next(now),
            };
        }
        let Some(target) = target else { return Next::Wait(None) };
        let new = self.tasks.iter().filter(|task| task.revision == target).count();
        let wanted = self.declaration.tasks;
        if self.tasks.len() > wanted && new > 0 {
            let excess = self.tasks.iter().position(|task| task.revision != target).unwrap_or(0);
            return Next::Stop(vec![self.tasks.remove(excess)]);
        }
        if new < wanted {
            return match self.retry_at.filter(|retry| now < *retry) {
                Some(retry) => Next::Wait(Some(retry)),
                None => Next::Launch(target),
            };
        }
        self.complete(now);
        Next::Wait(None)
    }

    /// Ends of pauses before a deployment or a rollback begins. Returns the end of a pause that lasts.
    fn begin(&mut self, now: SystemTime) -> Option<SystemTime> {
        let deployment = self.last();
        let due = deployment.changed + PENDING_FOR;
        match deployment.status {
            DeploymentStatus::Pending | DeploymentStatus::RollbackRequested if now < due => Some(due),
            DeploymentStatus::Pending => {
                for old in &mut self.deployments {
                    if old.status == DeploymentStatus::StopRequested {
                        old.enter(DeploymentStatus::Stopped, now);
                    }
                }
                self.last_mut().enter(DeploymentStatus::InProgress, now);
                let id = self.last().id();
                self.announce("SERVICE_DEPLOYMENT_IN_PROGRESS", format!("ECS deployment {id} in progress."));
                None
            }
            DeploymentStatus::RollbackRequested => {
                self.roll_back(now, None);
                None
            }
            _ => None,
        }
    }

    /// The revision that every task should have. `None` when nothing is to be done.
    fn target(&self) -> Option<u64> {
        match self.last().status {
            DeploymentStatus::InProgress | DeploymentStatus::Successful => Some(self.last().revision),
            DeploymentStatus::RollbackInProgress | DeploymentStatus::RollbackSuccessful => self.steady,
            _ => None,
        }
    }

    /// The end of a task's time to start. Returns a task that runs, but is not healthy.
    fn settle(&mut self, launch: Launch, now: SystemTime) -> Option<Task> {
        match launch.task {
            Ok(task) if self.failing => {
                self.failed(UNHEALTHY.to_owned(), now);
                return Some(task);
            }
            Ok(task) => {
                self.failures_in_a_row = 0;
                self.retry_at = None;
                self.tasks.push(task);
            }
            Err(reason) => self.failed(reason, now),
        }
        None
    }

    fn failed(&mut self, reason: String, now: SystemTime) {
        self.stopped.push(reason);
        self.failures_in_a_row += 1;
        let doublings = self.failures_in_a_row.saturating_sub(1).min(16);
        self.retry_at = Some(now + (FIRST_RETRY * 2_u32.pow(doublings)).min(LONGEST_RETRY));
        let status = self.last().status;
        if status.has_ended() {
            return;
        }
        self.last_mut().failed_tasks += 1;
        if self.failures_in_a_row < self.threshold() || self.steady.is_none() {
            return;
        }
        match status {
            DeploymentStatus::RollbackInProgress => self.last_mut().enter(DeploymentStatus::RollbackFailed, now),
            _ if !self.declaration.circuit_breaker => {}
            _ if self.declaration.rollback => self.roll_back(now, Some(ROLLED_BACK)),
            _ => {
                self.last_mut().reason = Some(STOPPED.to_owned());
                self.last_mut().enter(DeploymentStatus::Stopped, now);
                self.announce_failure();
            }
        }
    }

    fn roll_back(&mut self, now: SystemTime, reason: Option<&str>) {
        self.failures_in_a_row = 0;
        self.retry_at = None;
        self.announce_failure();
        self.last_mut().reason = reason.map(str::to_owned);
        if self.steady.is_none() {
            self.last_mut().reason = Some(NO_CANDIDATE.to_owned());
            self.last_mut().enter(DeploymentStatus::RollbackFailed, now);
            return;
        }
        self.last_mut().enter(DeploymentStatus::RollbackInProgress, now);
        let id = self.last().id();
        let told = format!("ECS deployment circuit breaker: rolling back to deploymentId {id}.");
        self.announce("SERVICE_DEPLOYMENT_IN_PROGRESS", told);
    }

    /// Every task is what it should be.
    fn complete(&mut self, now: SystemTime) {
        let ended = match self.last().status {
            DeploymentStatus::InProgress => DeploymentStatus::Successful,
            DeploymentStatus::RollbackInProgress => DeploymentStatus::RollbackSuccessful,
            _ => return,
        };
        if ended == DeploymentStatus::Successful {
            self.steady = Some(self.last().revision);
        }
        self.last_mut().enter(ended, now);
        let id = self.last().id();
        self.announce("SERVICE_DEPLOYMENT_COMPLETED", format!("ECS deployment {id} completed."));
    }

    /// "0.5 * desired task count", rounded up, at least 3 and at most 200.
    fn threshold(&self) -> u32 {
        u32::try_from(self.declaration.tasks.div_ceil(2)).unwrap_or(u32::MAX).clamp(3, 200)
    }

    fn replace_ended_tasks(&mut self) {
        let ended = self.tasks.extract_if(.., |task| task.process.has_exited()).count();
        self.stopped.extend(std::iter::repeat_n("Essential container in task exited".to_owned(), ended));
        if let Some(launch) = &mut self.launch
            && launch.task.as_ref().is_ok_and(|task| task.process.has_exited())
        {
            launch.task = Err("Essential container in task exited".to_owned());
        }
    }

    fn announce_failure(&mut self) {
        let told = "ECS deployment circuit breaker: task failed to start.".to_owned();
        self.announce("SERVICE_DEPLOYMENT_FAILED", told);
    }

    fn announce(&mut self, name: &'static str, reason: String) {
        let deployment_id = self.last().id();
        let error = name == "SERVICE_DEPLOYMENT_FAILED";
        self.notices.push(Notice { name, error, deployment_id, reason });
    }
}
