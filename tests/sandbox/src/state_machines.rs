//! Step Functions: takes StartExecution and ListExecutions, and keeps the started executions. Nothing runs. An
//! execution is `RUNNING` until [`crate::Sandbox::end_execution`]. Every state machine of the sandbox's region and
//! account exists.
//!
//! Bounds follow the API reference
//! (<https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html>).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::lambda_host::{ACCOUNT, REGION};
use serde::Serialize;
use serde_json::{Value, json};

use crate::events::rfc3339;
use crate::secrets_manager::error::{ApiError, ApiResult};

const LONGEST_NAME: usize = 80;
const LONGEST_INPUT: usize = 262_144;

/// A started execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Execution {
    /// The start, by the sandbox's clock.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The state machine's ARN.
    pub state_machine_arn: String,
    /// The execution's name.
    pub name: String,
    /// The execution's input, as JSON.
    pub input: String,
    /// `RUNNING`, or the status at the end.
    pub status: String,
    /// The time of the end.
    #[serde(skip)]
    stopped: Option<SystemTime>,
}

/// The started executions. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct StateMachines {
    executions: Arc<Mutex<Vec<Execution>>>,
}

impl StateMachines {
    /// The executions so far, oldest first.
    pub(crate) fn executions(&self) -> Vec<Execution> {
        self.lock().clone()
    }

    /// Ends the running execution of this name.
    pub(crate) fn end(&self, name: &str, status: &str, now: SystemTime) -> bool {
        let mut executions = self.lock();
        let held = executions.iter_mut().find(|held| held.name == name && held.stopped.is_none());
        held.map(|held| (held.status, held.stopped) = (status.to_owned(), Some(now))).is_some()
    }

    /// Answers a call of the service's API.
    pub(crate) fn call(&self, operation: &str, body: &[u8], now: SystemTime) -> ApiResult<Value> {
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        match operation {
            "StartExecution" => self.start(&request, now),
            "ListExecutions" => self.list(&request),
            _ => {
                Err(refused("UnknownOperationException", "The sandbox serves StartExecution and ListExecutions alone."))
            }
        }
    }

    fn start(&self, request: &Value, now: SystemTime) -> ApiResult<Value> {
        let text = |member: &str| request[member].as_str().unwrap_or_default().to_owned();
        let (arn, name, input) = (text("stateMachineArn"), text("name"), text("input"));
        let Some(machine) = arn.strip_prefix(&format!("arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:")) else {
            return Err(refused("StateMachineDoesNotExist", "There is no such state machine."));
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || "<>{}[]?*\"#%\\^|~`$&,;:/".contains(c);
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(odd) {
            return Err(refused("InvalidName", "The execution's name is not one."));
        }
        if input.len() > LONGEST_INPUT || serde_json::from_str::<Value>(&input).is_err() {
            return Err(refused("InvalidExecutionInput", "The input is not JSON, or too long."));
        }
        let mut executions = self.lock();
        let same = executions.iter().find(|held| held.state_machine_arn == arn && held.name == name);
        let time = match same {
            // "If StartExecution is called with the same name and input as a running execution, the call succeeds and
            // return the same response as the original request. If the execution is closed or if the input is
            // different, it returns a 400 ExecutionAlreadyExists error."
            Some(held) if held.input == input && held.stopped.is_none() => held.time,
            Some(_) => return Err(refused("ExecutionAlreadyExists", "Another execution has this name.")),
            None => {
                let (state_machine_arn, status) = (arn.clone(), "RUNNING".to_owned());
                let name = name.clone();
                executions.push(Execution { time: now, state_machine_arn, name, input, status, stopped: None });
                now
            }
        };
        Ok(json!({ "executionArn": execution_arn(machine, &name), "startDate": seconds(time) }))
    }

    /// All executions in one page, "with the most recent execution first" (Step Functions API reference,
    /// ListExecutions).
    fn list(&self, request: &Value) -> ApiResult<Value> {
        let arn = request["stateMachineArn"].as_str().unwrap_or_default();
        let machine = arn.rsplit(':').next().unwrap_or_default();
        let executions = self.lock();
        let of_machine = executions.iter().rev().filter(|held| held.state_machine_arn == arn).map(|held| {
            json!({
                "executionArn": execution_arn(machine, &held.name),
                "stateMachineArn": arn,
                "name": held.name,
                "status": held.status,
                "startDate": seconds(held.time),
                "stopDate": held.stopped.map(seconds),
            })
        });
        let most = request["maxResults"].as_u64().and_then(|most| usize::try_from(most).ok()).unwrap_or(100);
        Ok(json!({ "executions": of_machine.take(most).collect::<Vec<_>>() }))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Execution>> {
        self.executions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn execution_arn(machine: &str, name: &str) -> String {
    format!("arn:aws:states:{REGION}:{ACCOUNT}:execution:{machine}:{name}")
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn refused(kind: &'static str, message: &str) -> ApiError {
    ApiError::new(kind, message)
}
