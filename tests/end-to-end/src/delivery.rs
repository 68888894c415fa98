//! Consumers in a scene: services of ECS, the function `deliver`, and the rules that invoke it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use application::{Load, TokenSource};
use sandbox::lambda_host::FunctionConfig;
use sandbox::{EventRule, RunningService, Sandbox, ServiceDeclaration};
use serde_json::{Value, json};

use crate::{Failure, PREFIX, Plan, Scene, load_at, program};

/// The function that brings a value to its consumers.
pub const DELIVER: &str = "deliver";
/// The topic of its events.
pub const EVENT_TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:deliveries";
/// The interval of its schedule.
const HOURLY: Duration = Duration::from_secs(3600);
/// The longest time of a run. It is less than the minute for which deliver waits between a label and a deployment, so
/// that a run ends with `pending`, and the next one deploys. The clock moves between them.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How far the clock moves between two runs.
const BETWEEN_RUNS: Duration = Duration::from_secs(120);
/// The most runs that a delivery takes, with services of a few tasks.
const MOST_RUNS: u32 = 12;
/// The longest real time that a run may take in a scene.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where values go, and the function that brings them.
#[derive(Clone, Debug)]
pub struct ConsumerPlan {
    /// `CONSUMERS`: names of secrets without [`PREFIX`], with lists of consumers.
    pub consumers: Value,
    /// The program; `None` builds and runs `deliver`.
    pub executable: Option<PathBuf>,
    /// How often it runs without an event; `None` for never. A long advance of the clock then takes less time.
    pub schedule: Option<Duration>,
    /// The longest time of a run. With more than two minutes a run waits in real time until it may deploy.
    pub timeout: Duration,
    /// Whether events invoke it.
    pub events: bool,
    /// Variables of `deliver`, over those that the scene sets.
    pub environment: Vec<(&'static str, String)>,
}

impl Plan {
    /// With the function `deliver`, which brings values to these consumers: names of secrets without [`PREFIX`], with
    /// lists of consumers. Every function has `CONSUMED_SECRETS`. Events and an hourly schedule invoke `deliver`.
    #[must_use]
    pub fn consumers(self, consumers: Value) -> Self {
        let (schedule, environment) = (Some(HOURLY), vec![]);
        let plan = ConsumerPlan { consumers, executable: None, schedule, timeout: TIMEOUT, events: true, environment };
        Self { consumers: Some(plan), ..self }
    }

    /// With this service, which starts after the secrets are there.
    #[must_use]
    pub fn service(mut self, service: ServiceDeclaration) -> Self {
        self.services.push(service);
        self
    }

    /// With another secret, by its name and value.
    #[must_use]
    pub fn also(mut self, name: &'static str, value: &str) -> Self {
        self.others.push((name, value.to_owned()));
        self
    }

    /// `CONSUMED_SECRETS`, for every function.
    pub(crate) fn consumed(&self) -> Option<(String, String)> {
        let consumers = self.consumers.as_ref()?.consumers.as_object()?;
        let names: Vec<&str> = consumers.keys().map(String::as_str).collect();
        Some(("CONSUMED_SECRETS".to_owned(), names.join(",")))
    }
}

/// Starts the services, and fails if a task does not start.
pub(crate) async fn start_services(plan: &Plan, sandbox: &Sandbox) -> Result<(), Failure> {
    for declaration in &plan.services {
        let (id, tasks) = (declaration.id(), declaration.tasks);
        sandbox.ecs().run(declaration.clone()).await?;
        let service = sandbox.ecs().service(&id)?;
        if service.tasks.len() != tasks {
            return Err(format!("tasks of {id} do not start: {:?}", service.stopped).into());
        }
    }
    Ok(())
}

/// Registers `deliver` with the rotation function's variables, and what invokes it.
pub(crate) async fn register(
    plan: &Plan,
    sandbox: &Sandbox,
    rotation: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let Some(consumers) = &plan.consumers else { return Ok(()) };
    let executable = match consumers.executable.clone() {
        Some(executable) => executable,
        None => program(DELIVER).await?,
    };
    let mut environment = rotation.clone();
    // It asks no application.
    environment.retain(|name, _| !name.starts_with("TARGET_"));
    environment.insert("CONSUMERS".to_owned(), consumers.consumers.to_string());
    environment.insert("EVENT_TOPIC_ARN".to_owned(), EVENT_TOPIC.to_owned());
    environment.extend(consumers.environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let (name, timeout) = (DELIVER.to_owned(), consumers.timeout);
    sandbox.host().register(FunctionConfig { name, executable, environment, timeout, memory_mb: 128 })?;
    if consumers.events {
        sandbox.event_bus().add_rule(EventRule::secret_label(PREFIX, "AWSCURRENT", DELIVER));
        sandbox.event_bus().add_rule(EventRule::deployment_ended(DELIVER));
    }
    if let Some(every) = consumers.schedule {
        sandbox.schedule(DELIVER, every, json!({}));
    }
    Ok(())
}

impl Scene {
    /// Invokes `deliver`: its answer, or its error as Lambda tells it. `{}` delivers every secret.
    ///
    /// # Errors
    /// When it cannot be invoked, or answers no JSON.
    pub async fn deliver(&self, request: &Value) -> Result<Result<Value, Value>, Failure> {
        let invocation = self.sandbox.host().invoke(DELIVER, request.to_string().into()).await?;
        let answer = serde_json::from_slice(&invocation.payload)?;
        Ok(if invocation.function_error.is_none() { Ok(answer) } else { Err(answer) })
    }

    /// Moves the clock and runs `deliver`, until the current value of the secret is delivered. Returns the number of
    /// runs besides those of events.
    ///
    /// # Errors
    /// When a run fails, or too many runs do not deliver it: the last answer.
    pub async fn deliver_all(&self) -> Result<u32, Failure> {
        let mut last = json!(null);
        for runs in 0..MOST_RUNS {
            self.until_events_are_handled().await?;
            if self.is_delivered().await? {
                return Ok(runs);
            }
            self.sandbox.advance(BETWEEN_RUNS).await?;
            last = self.deliver(&json!({})).await?.map_err(|error| error.to_string())?;
        }
        Err(format!("not delivered: {last}").into())
    }

    /// A service, by `cluster/service`.
    ///
    /// # Errors
    /// When there is none.
    pub fn service(&self, id: &str) -> Result<RunningService, Failure> {
        Ok(self.sandbox.ecs().service(id)?)
    }

    /// A load of requests to the address of a service, as [`Scene::load`].
    ///
    /// # Errors
    /// When the token cannot be read, or there is no such service.
    pub async fn service_load(&self, id: &str, tokens: TokenSource, rate: u32) -> Result<Load, Failure> {
        let address: SocketAddr = self.service(id)?.address;
        load_at(address, tokens, rate).await
    }

    /// Waits in real time until no function runs for an event or a schedule.
    ///
    /// # Errors
    /// When one runs too long.
    pub async fn until_events_are_handled(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        while self.sandbox.event_bus().invocations().iter().any(|invocation| invocation.answer.is_none()) {
            if begun.elapsed() > PATIENCE {
                return Err("a function that an event invoked does not end".into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Whether the current version of the secret carries the label `ROTATION-DELIVERED`, and none is being delivered.
    ///
    /// # Errors
    /// When the secret cannot be described.
    pub async fn is_delivered(&self) -> Result<bool, Failure> {
        let stages = self.stages().await?;
        let delivering = stages.values().flatten().any(|stage| stage.starts_with("ROTATION-DELIVERING-"));
        let has = |stages: &[String], stage: &str| stages.iter().any(|held| held == stage);
        let delivered = stages.values().any(|held| has(held, "AWSCURRENT") && has(held, "ROTATION-DELIVERED"));
        Ok(delivered && !delivering)
    }
}
