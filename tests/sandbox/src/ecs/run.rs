//! Drives one service: starts and stops its tasks as the service says, by the sandbox's clock.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::declaration::{ServiceDeclaration, ValueFrom};
use super::service::{Next, Service, UNHEALTHY};
use super::task::Process;
use super::{Activity, Ecs, Entry, wire};
use crate::secrets_manager;

const LONGEST_SLEEP: Duration = Duration::from_secs(60);
const NO_SECRET: &str = "ResourceInitializationError: unable to pull secrets or registry auth: execution resource \
                         retrieval failed: unable to retrieve secret from asm";

/// Runs until the service is gone.
pub(super) async fn drive(ecs: Ecs, id: String) {
    let mut changes = ecs.shared.changes();
    loop {
        changes.mark_unchanged();
        let Some(next) = ecs.look(&id) else { return };
        match next {
            Next::Launch(revision) => {
                let started = ecs.start_task(&id).await;
                let now = ecs.shared.clock.now();
                if ecs.with(&id, |entry| entry.service.launched(revision, started, now)).is_err() {
                    return;
                }
            }
            Next::Stop(tasks) => {
                for task in tasks {
                    task.process.stop().await;
                }
            }
            Next::Wait(due) => {
                ecs.idle.send_replace(());
                let now = ecs.shared.clock.now();
                let left = due.map_or(LONGEST_SLEEP, |due| due.duration_since(now).unwrap_or_default());
                tokio::select! {
                    () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
                    _ = changes.changed() => {}
                }
            }
        }
    }
}

impl Ecs {
    /// What the service does next. `None` when it is gone.
    fn look(&self, id: &str) -> Option<Next> {
        let now = self.shared.clock.now();
        let (next, events) = self
            .with(id, |entry| {
                let next = entry.service.next(now);
                entry.activity = match &next {
                    Next::Wait(due) => Activity::Waiting(*due),
                    _ => Activity::Busy,
                };
                entry.balance();
                let service = &mut entry.service;
                let notices = std::mem::take(&mut service.notices);
                let events: Vec<Value> =
                    notices.iter().map(|notice| wire::state_change(service, notice, now)).collect();
                (next, events)
            })
            .ok()?;
        for event in events {
            self.shared.publish(event);
        }
        Some(next)
    }

    async fn start_task(&self, id: &str) -> Result<Process, String> {
        let declared = |entry: &mut Entry| (entry.service.declaration.clone(), entry.service.failing);
        let (declaration, failing) = self.with(id, declared).map_err(|error| error.to_string())?;
        let mut environment: BTreeMap<String, String> = (*self.aws).clone();
        environment.extend(declaration.environment.clone());
        environment.extend(self.injected(&declaration)?);
        if failing {
            return Err(UNHEALTHY.to_owned());
        }
        let (ecs, id) = (self.clone(), id.to_owned());
        // The driver looks at its service again, unless the service is gone.
        let ended = move || {
            ecs.change(&id, |_: &mut Service| ()).ok();
        };
        Process::start(&declaration, &environment, ended).await
    }

    /// The variables with secrets, read now.
    fn injected(&self, declaration: &ServiceDeclaration) -> Result<Vec<(String, String)>, String> {
        let read = |(variable, value_from): (&String, &String)| {
            self.shared.count_call(&declaration.service, "GetSecretValue");
            Ok((variable.clone(), self.value(value_from)?))
        };
        declaration.secrets.iter().map(read).collect()
    }

    fn value(&self, value_from: &str) -> Result<String, String> {
        let from = ValueFrom::parse(value_from)?;
        let mut request = json!({ "SecretId": from.secret_id });
        for (member, value) in [("VersionStage", from.stage), ("VersionId", from.version_id)] {
            if let Some(value) = value {
                request[member] = json!(value);
            }
        }
        let answer = secrets_manager::call(&self.shared, "GetSecretValue", request.to_string().as_bytes(), false);
        let answer = answer.map_err(|error| format!("{NO_SECRET}: {}: {}", error.kind, error.message))?;
        let text = answer["SecretString"].as_str().ok_or_else(|| format!("{NO_SECRET}: the value is not a text"))?;
        let Some(member) = from.member else { return Ok(text.to_owned()) };
        let members: Value = serde_json::from_str(text).unwrap_or_default();
        match &members[&member] {
            Value::Null => {
                Err(format!("{NO_SECRET}: retrieved secret from Secrets Manager did not contain json key {member}"))
            }
            Value::String(value) => Ok(value.clone()),
            other => Ok(other.to_string()),
        }
    }
}

impl Entry {
    /// Puts the service's tasks behind its address: new ones first, so that there is always one.
    fn balance(&self) {
        let tasks: Vec<_> = self.service.tasks.iter().map(|task| task.process.address).collect();
        for address in &tasks {
            self.balancer.add(*address);
        }
        for address in self.balancer.backends().into_iter().filter(|address| !tasks.contains(address)) {
            self.balancer.remove(address);
        }
    }
}
