//! Step Functions: takes StartExecution and keeps what was started; nothing runs. Every state machine of the sandbox's region
//! and account is there.
//!
//! Bounds are those of the API reference
//! (<https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html>).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lambda_host::{ACCOUNT, REGION};
use serde::Serialize;
use serde_json::{Value, json};

use crate::events::rfc3339;
use crate::secrets_manager::error::{ApiError, ApiResult};

const LONGEST_NAME: usize = 80;
const LONGEST_INPUT: usize = 262_144;

/// An execution that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Execution {
    /// When, in the sandbox's time.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The state machine's ARN.
    pub state_machine_arn: String,
    /// The execution's name.
    pub name: String,
    /// Its input, JSON.
    pub input: String,
}

/// What was started. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct StateMachines {
    executions: Arc<Mutex<Vec<Execution>>>,
}

impl StateMachines {
    /// The executions so far, the oldest first.
    pub(crate) fn executions(&self) -> Vec<Execution> {
        self.lock().clone()
    }

    /// Answers a call of the service's API.
    pub(crate) fn call(&self, operation: &str, body: &[u8], now: SystemTime) -> ApiResult<Value> {
        if operation != "StartExecution" {
            return Err(refused("UnknownOperationException", "The sandbox serves StartExecution alone."));
        }
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
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
            // "StartExecution is idempotent for STANDARD workflows": all of these are at work for ever.
            Some(held) if held.input == input => held.time,
            Some(_) => return Err(refused("ExecutionAlreadyExists", "Another execution has this name.")),
            None => {
                let execution = Execution { time: now, state_machine_arn: arn.clone(), name: name.clone(), input };
                executions.push(execution);
                now
            }
        };
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(json!({
            "executionArn": format!("arn:aws:states:{REGION}:{ACCOUNT}:execution:{machine}:{name}"),
            "startDate": seconds,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Execution>> {
        self.executions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(kind: &'static str, message: &str) -> ApiError {
    ApiError::new(kind, message)
}
