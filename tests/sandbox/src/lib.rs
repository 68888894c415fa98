//! An AWS for one machine, in one process. It has Secrets Manager with the rotation service that no emulator has, and
//! Lambda for native binaries. It has CloudWatch metrics and logs, SNS, ECS services, rules of EventBridge, and the
//! start of state machines. Its clock can be moved, and it makes faults on demand.
//!
//! One port on 127.0.0.1 serves the AWS CLI, the SDKs and a control API under `/_sandbox/`. The region is us-east-1,
//! the account 000000000000. The sandbox checks no signatures and enforces no permissions.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use sandbox::{Sandbox, Settings};
//!
//! let sandbox = Sandbox::start(Settings::default()).await?;
//! sandbox.register_function("admin-token", "target/debug/admin-token".into(), [])?;
//! println!("export AWS_ENDPOINT_URL={}", sandbox.endpoint());
//! // … aws secretsmanager rotate-secret …
//! let outcome = sandbox.wait_for_rotation("my-secret", Duration::from_secs(10)).await?;
//! assert!(outcome.is_success());
//! sandbox.advance(Duration::from_secs(90 * 86_400)).await?;
//! # Ok(())
//! # }
//! ```

mod clock;
mod cloudwatch;
mod control;
mod ecs;
mod event_bus;
mod events;
mod faults;
mod host;
mod invoker;
pub mod lambda_host;
mod logs;
mod programs;
mod rotation_service;
pub mod schedule;
mod scheduler;
mod secrets_manager;
mod server;
mod settings;
mod sns;
mod state;
mod state_machines;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::lambda_host::{ConfigurationError, FunctionConfig, LambdaHost};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

pub use rotation::testing::PrivatePut;

pub use crate::clock::Clock;
pub use crate::cloudwatch::{CloudWatch, Datum, StatisticSet};
pub use crate::ecs::{
    Controller, DeploymentStatus, Ecs, NoSuchService, RunningService, ServiceDeclaration, ServiceDeployment, member,
    secret,
};
pub use crate::event_bus::{BusInvocation, EventBus, EventRule};
pub use crate::events::{
    Event, EventKind, RotationAttempt, RotationOutcome, RotationTokenSeen, Step, StepError, StepRun,
};
pub use crate::faults::{Fault, FaultRule, Faults, Moment};
pub use crate::invoker::{Answer, InvokeFailure, Invoker, Invoking};
pub use crate::programs::program;
pub use crate::settings::{ConfigurationTest, Settings};
pub use crate::sns::Notification;
pub use crate::state_machines::Execution;

use crate::control::Control;
use crate::host::Host;
use crate::server::Server;
use crate::sns::Sns;
use crate::state::Shared;
use crate::state_machines::StateMachines;

/// The region of everything in the sandbox.
pub const REGION: &str = lambda_host::REGION;
/// The timeout of functions that [`Sandbox::register_function`] adds.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(60);
const FUNCTION_MEMORY_MB: u32 = 128;

/// A running sandbox. When it is dropped, the server, every rotation and every function's process end.
pub struct Sandbox {
    shared: Arc<Shared>,
    host: LambdaHost,
    cloudwatch: CloudWatch,
    sns: Sns,
    state_machines: StateMachines,
    ecs: Ecs,
    address: SocketAddr,
}

/// The reason why [`Sandbox::wait_for_rotation`] has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// No secret has this name or ARN.
    #[error("there is no secret {0}")]
    NoSuchSecret(String),
    /// No rotation has ended in time.
    #[error("no rotation of {0} has ended within {1:?}")]
    TimedOut(String, Duration),
}

impl Sandbox {
    /// Starts a sandbox within the current Tokio runtime, with time and I/O enabled.
    ///
    /// # Errors
    ///
    /// The port is taken, or the state directory can't be read.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port)).await?;
        let address = listener.local_addr()?;
        let clock = Clock::default();
        let now = || {
            let clock = clock.clone();
            move || clock.now()
        };
        let host = LambdaHost::with_log_clock(now());
        let cloudwatch = CloudWatch::new(now());
        let sns = Sns::default();
        let state_machines = StateMachines::default();
        let invoker = settings.invoker.clone().unwrap_or_else(|| Arc::new(Host(host.clone())));
        let shared = Arc::new(Shared::new(settings, invoker, clock)?);
        let ecs = Ecs::new(shared.clone(), format!("http://{address}"));
        let control = Control {
            shared: shared.clone(),
            ecs: ecs.clone(),
            host: host.clone(),
            cloudwatch: cloudwatch.clone(),
            sns: sns.clone(),
            state_machines: state_machines.clone(),
        };
        let router = host.router().merge(control::router(control));
        let server = Server {
            shared: shared.clone(),
            ecs: ecs.clone(),
            cloudwatch: cloudwatch.clone(),
            host: host.clone(),
            sns: sns.clone(),
            state_machines: state_machines.clone(),
            router,
        };
        shared.spawn(server.run(listener));
        shared.spawn(scheduler::keep(shared.clone()));
        Ok(Self { shared, host, cloudwatch, sns, state_machines, ecs, address })
    }

    /// `http://127.0.0.1:port`, for `AWS_ENDPOINT_URL`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The sandbox's clock. [`Self::advance`] moves it.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// The sandbox's time.
    pub fn now(&self) -> SystemTime {
        self.shared.clock.now()
    }

    /// Moves the time forward. Each rotation whose window opens meanwhile runs at its own time, one after the other.
    /// So do scheduled functions, functions that events invoke, and the steps of deployments. The clock waits for each
    /// of them, and this call returns when they have ended.
    ///
    /// # Errors
    ///
    /// The state cannot be saved. Or the clock would be further ahead than [`Clock::FURTHEST`]; then it does not move.
    pub async fn advance(&self, by: Duration) -> io::Result<()> {
        scheduler::advance(&self.shared, &self.ecs, by).await
    }

    /// The host that runs functions, and keeps their logs.
    pub fn host(&self) -> &LambdaHost {
        &self.host
    }

    /// Adds a function of 128 MB and 60 s with the sandbox as its AWS endpoint, and with `environment`. [`Self::host`]
    /// can register a function with other bounds.
    ///
    /// # Errors
    ///
    /// Lambda would refuse the configuration.
    pub fn register_function(
        &self,
        name: &str,
        executable: PathBuf,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigurationError> {
        let mut variables = BTreeMap::from([("AWS_ENDPOINT_URL".to_owned(), self.endpoint())]);
        variables.extend(environment);
        self.host.register(FunctionConfig {
            name: name.to_owned(),
            executable,
            environment: variables,
            timeout: FUNCTION_TIMEOUT,
            memory_mb: FUNCTION_MEMORY_MB,
        })
    }

    /// The metrics of all PutMetricData requests.
    pub fn cloudwatch(&self) -> &CloudWatch {
        &self.cloudwatch
    }

    /// The services of ECS.
    pub fn ecs(&self) -> &Ecs {
        &self.ecs
    }

    /// The rules of EventBridge, and the events.
    pub fn event_bus(&self) -> &EventBus {
        &self.shared.bus
    }

    /// Invokes a function every so often by the sandbox's clock, with this input. The first time is one interval from
    /// now.
    pub fn schedule(&self, function: &str, every: Duration, input: serde_json::Value) {
        self.shared.bus.schedule(function, every, input, self.now());
        self.shared.notify();
    }

    /// The messages published to SNS topics, oldest first.
    pub fn notifications(&self) -> Vec<Notification> {
        self.sns.notifications()
    }

    /// The started executions of state machines, oldest first.
    pub fn executions(&self) -> Vec<Execution> {
        self.state_machines.executions()
    }

    /// Ends the running execution of this name as `SUCCEEDED`, `FAILED`, `TIMED_OUT` or `ABORTED`. `false` when there
    /// is none.
    pub fn end_execution(&self, name: &str, status: &str) -> bool {
        self.state_machines.end(name, status, self.now())
    }

    /// The faults to inject.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The events so far, oldest first. [`EventKind::is_recorded_by_aws`] tells the service's events from finer ones.
    pub fn events(&self) -> Vec<Event> {
        self.shared.events()
    }

    /// The events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.shared.subscribe()
    }

    /// The number of calls to Secrets Manager, SNS and CloudWatch Logs by operation, since the start or
    /// [`Self::reset_calls`].
    pub fn calls(&self) -> BTreeMap<String, u64> {
        let mut total = BTreeMap::new();
        for (operation, count) in self.shared.calls().into_values().flatten() {
            *total.entry(operation).or_default() += count;
        }
        total
    }

    /// The number of calls of one caller: a function's name, or an access key id.
    pub fn calls_of(&self, caller: &str) -> BTreeMap<String, u64> {
        self.shared.calls().remove(caller).unwrap_or_default()
    }

    /// Counts calls from zero again.
    pub fn reset_calls(&self) {
        self.shared.reset_calls();
    }

    /// Every RotationToken that a function received, so that a test can search for it where it must not be.
    pub fn rotation_tokens_seen(&self) -> Vec<RotationTokenSeen> {
        self.shared.rotation_tokens()
    }

    /// Waits until no rotation of the secret is running. Returns the end of the last rotation. Before the first
    /// rotation, it waits for one. `secret` is a name or an ARN; `timeout` is real time.
    ///
    /// # Errors
    ///
    /// The secret is unknown, or no rotation ends in time.
    pub async fn wait_for_rotation(&self, secret: &str, timeout: Duration) -> Result<RotationOutcome, WaitError> {
        let arn = self.arn_of(secret).ok_or_else(|| WaitError::NoSuchSecret(secret.to_owned()))?;
        let ended = scheduler::wait_until(&self.shared, |shared| {
            shared.transact(|tx| tx.outcome(&arn).filter(|_| tx.running(&arn).is_none()))
        });
        tokio::time::timeout(timeout, ended).await.map_err(|_| WaitError::TimedOut(secret.to_owned(), timeout))
    }

    /// Every attempt at a rotation of the secret with its steps, oldest first. Empty for an unknown secret.
    pub fn rotation_attempts(&self, secret: &str) -> Vec<RotationAttempt> {
        self.arn_of(secret).map(|arn| self.shared.transact(|tx| tx.attempts(&arn))).unwrap_or_default()
    }

    fn arn_of(&self, secret: &str) -> Option<String> {
        self.shared.transact(|tx| tx.find(secret).map(|secret| secret.arn.clone()).ok())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shared.stop_tasks();
        self.ecs.close();
        self.host.close();
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("endpoint", &self.endpoint()).field("host", &self.host).finish_non_exhaustive()
    }
}
