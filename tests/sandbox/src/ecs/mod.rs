//! ECS: services whose tasks are processes of this machine, and their rolling deployments on the sandbox's clock.
//!
//! DescribeServices, UpdateService (`forceNewDeployment`), ListServiceDeployments and StopServiceDeployment follow the
//! API reference and answers recorded on AWS. `tests/ecs.rs` has them, case by case. Services are declared to
//! [`Ecs::run`]. One address stands in front of a service's tasks.

mod api;
mod declaration;
mod deployment;
mod run;
mod service;
mod task;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use application::LoadBalancer;
use serde::Serialize;
use tokio::sync::watch;

pub use self::declaration::{Controller, ServiceDeclaration, member, secret};
pub use self::deployment::{DeploymentStatus, ServiceDeployment};

use self::service::Service;
use crate::state::Shared;

/// The services. Clones share them.
#[derive(Clone)]
pub struct Ecs {
    shared: Arc<Shared>,
    /// The environment of every task: where its AWS is.
    aws: Arc<BTreeMap<String, String>>,
    services: Arc<Mutex<BTreeMap<String, Entry>>>,
    /// Changes when a service begins to wait.
    idle: watch::Sender<()>,
}

struct Entry {
    service: Service,
    balancer: LoadBalancer,
    activity: Activity,
}

/// What the task that drives a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Busy,
    Waiting(Option<SystemTime>),
}

/// A service as the sandbox sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunningService {
    /// `cluster/service`.
    pub id: String,
    /// The address in front of the tasks.
    pub address: SocketAddr,
    /// The tasks' own addresses, oldest first.
    pub tasks: Vec<SocketAddr>,
    /// The status of each deployment in the API, oldest first.
    pub deployments: Vec<&'static str>,
    /// Why tasks ended or did not start, oldest first.
    pub stopped: Vec<String>,
}

/// No service has this id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no service {0}; its id is CLUSTER/SERVICE")]
pub struct NoSuchService(String);

impl Ecs {
    pub(crate) fn new(shared: Arc<Shared>, endpoint: String) -> Self {
        let aws = BTreeMap::from([
            ("AWS_ENDPOINT_URL".to_owned(), endpoint),
            ("AWS_REGION".to_owned(), crate::REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID".to_owned(), "task".to_owned()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), "task".to_owned()),
        ]);
        Self { shared, aws: Arc::new(aws), services: Arc::default(), idle: watch::Sender::new(()) }
    }

    /// Creates a service, and starts its tasks. Returns the address in front of them after the first try of each task.
    /// A task that does not start is tried again; [`Self::service`] tells why.
    ///
    /// # Errors
    ///
    /// ECS would refuse the declaration, the service exists, or no port is free.
    pub async fn run(&self, mut declaration: ServiceDeclaration) -> io::Result<SocketAddr> {
        let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidInput, problem);
        declaration.check().map_err(invalid)?;
        declaration.program = std::path::absolute(&declaration.program)?;
        let id = declaration.id();
        let balancer = LoadBalancer::start(Vec::new()).await?;
        let address = balancer.address();
        {
            let mut services = self.lock();
            if services.get(&id).is_some_and(|entry| entry.service.active) {
                return Err(invalid(format!("the service {id} exists")));
            }
            let service = Service::new(declaration, self.shared.clock.now());
            services.insert(id.clone(), Entry { service, balancer, activity: Activity::Busy });
        }
        self.shared.spawn(run::drive(self.clone(), id));
        self.settled().await;
        Ok(address)
    }

    /// A service and its tasks.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn service(&self, id: &str) -> Result<RunningService, NoSuchService> {
        self.with(id, |entry| entry.seen(id))
    }

    /// All services.
    #[must_use]
    pub fn services(&self) -> Vec<RunningService> {
        self.lock().iter().map(|(id, entry)| entry.seen(id)).collect()
    }

    /// The deployments of a service, oldest first.
    ///
    /// # Errors
    ///
    /// There is no such service.
    pub fn deployments(&self, id: &str) -> Result<Vec<ServiceDeployment>, NoSuchService> {
        self.with(id, |entry| entry.service.deployments.clone())
    }

    /// Makes every new task of the service fail, or no longer.
    ///
    /// # Errors
    ///
    /// There is no such service.
    pub fn fail_new_tasks(&self, id: &str, fail: bool) -> Result<(), NoSuchService> {
        self.change(id, |service| service.failing = fail)
    }

    /// Kills the oldest task of the service. ECS replaces it, without a deployment.
    ///
    /// # Errors
    ///
    /// There is no such service.
    pub fn kill_task(&self, id: &str) -> Result<(), NoSuchService> {
        self.with(id, |entry| {
            if let Some(task) = entry.service.tasks.first() {
                task.process.kill();
            }
        })
    }

    /// Deletes a service: it becomes `INACTIVE`, and its tasks end.
    ///
    /// # Errors
    ///
    /// There is no such service.
    pub fn delete(&self, id: &str) -> Result<(), NoSuchService> {
        self.change(id, |service| service.active = false)
    }

    /// The next moment at which a service does something.
    pub(crate) fn next_due(&self) -> Option<SystemTime> {
        self.lock().values().filter_map(|entry| entry.due()).min()
    }

    /// Waits until nothing is due in any service.
    pub(crate) async fn settled(&self) {
        let mut idle = self.idle.subscribe();
        loop {
            idle.mark_unchanged();
            if self.is_settled() {
                return;
            }
            // The sender lives in `self`.
            idle.changed().await.ok();
        }
    }

    pub(crate) fn is_settled(&self) -> bool {
        let now = self.shared.clock.now();
        self.lock().values().all(|entry| match entry.activity {
            Activity::Busy => false,
            Activity::Waiting(due) => due.is_none_or(|due| due > now),
        })
    }

    /// Ends every task.
    pub(crate) fn close(&self) {
        self.lock().clear();
    }

    fn with<T>(&self, id: &str, look: impl FnOnce(&mut Entry) -> T) -> Result<T, NoSuchService> {
        self.lock().get_mut(id).map(look).ok_or_else(|| NoSuchService(id.to_owned()))
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Service)) -> Result<(), NoSuchService> {
        self.with(id, |entry| entry.change(self.shared.clock.now(), change))?;
        self.shared.notify();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Changes the service, and makes its driver look at it.
    fn change<T>(&mut self, now: SystemTime, change: impl FnOnce(&mut Service) -> T) -> T {
        let result = change(&mut self.service);
        if self.activity != Activity::Busy {
            self.activity = Activity::Waiting(Some(now));
        }
        result
    }

    fn due(&self) -> Option<SystemTime> {
        match self.activity {
            Activity::Busy => None,
            Activity::Waiting(due) => due,
        }
    }

    fn seen(&self, id: &str) -> RunningService {
        RunningService {
            id: id.to_owned(),
            address: self.balancer.address(),
            tasks: self.service.tasks.iter().map(|task| task.process.address).collect(),
            deployments: self.service.deployments.iter().map(|deployment| deployment.status.as_str()).collect(),
            stopped: self.service.stopped.clone(),
        }
    }
}

impl std::fmt::Debug for Ecs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ecs").field("services", &self.lock().keys()).finish_non_exhaustive()
    }
}
