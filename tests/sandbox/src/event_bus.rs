//! EventBridge: rules and schedules that invoke functions, by the sandbox's clock.
//!
//! Events come from Secrets Manager (`Secret Label Updated`) and from ECS (`ECS Deployment State Change`), in the
//! shapes that AWS documents. A rule invokes its function asynchronously, once. Lambda would retry a failed event; the
//! sandbox does not. [`EventBus::lose_events`] drops events, because AWS delivers these events by best effort.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::events::rfc3339;
use crate::lambda_host::{ACCOUNT, REGION};
use crate::state::Shared;

/// Real time between tries of an event whose function has no free process.
const THROTTLED_FOR: Duration = Duration::from_millis(50);

/// A rule: the events that it matches, and the function that it invokes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventRule {
    /// An event pattern: lists of texts, or of `{"prefix": "…"}`, nested as in the event.
    pub pattern: Value,
    /// The function's name.
    pub function: String,
    /// What the function receives instead of the event.
    #[serde(default)]
    pub input: Option<Value>,
}

impl EventRule {
    /// Events of Secrets Manager about a label that has moved to a version of a secret whose name begins so.
    #[must_use]
    pub fn secret_label(prefix: &str, label: &str, function: &str) -> Self {
        let pattern = json!({
            "source": ["aws.secretsmanager"],
            "detail-type": ["Secret Label Updated"],
            "detail": { "name": [{ "prefix": prefix }], "labelUpdated": [label] },
        });
        Self { pattern, function: function.to_owned(), input: None }
    }

    /// Events of ECS about deployments that have ended, well or not.
    #[must_use]
    pub fn deployment_ended(function: &str) -> Self {
        let pattern = json!({
            "source": ["aws.ecs"],
            "detail-type": ["ECS Deployment State Change"],
            "detail": { "eventName": ["SERVICE_DEPLOYMENT_COMPLETED", "SERVICE_DEPLOYMENT_FAILED"] },
        });
        Self { pattern, function: function.to_owned(), input: None }
    }

    /// With this input instead of the event.
    #[must_use]
    pub fn with_input(self, input: Value) -> Self {
        Self { input: Some(input), ..self }
    }
}

/// An invocation by a rule or a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BusInvocation {
    /// Its beginning, by the sandbox's clock.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The function's name.
    pub function: String,
    /// The `detail-type` of the event, or `Scheduled Event`.
    pub cause: String,
    /// The function's answer, or its error. `None` while it runs.
    pub answer: Option<Value>,
    /// Whether `answer` is an error.
    pub failed: bool,
}

#[derive(Debug)]
struct Timer {
    function: String,
    every: Duration,
    input: Value,
    due: SystemTime,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<EventRule>,
    timers: Vec<Timer>,
    published: Vec<Value>,
    invocations: Vec<BusInvocation>,
    lost: bool,
}

/// The rules, the schedules, and what they have done. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct EventBus(Arc<Mutex<State>>);

impl EventBus {
    /// Adds a rule.
    pub fn add_rule(&self, rule: EventRule) {
        self.lock().rules.push(rule);
    }

    /// Drops all events from now on, or delivers them again.
    pub fn lose_events(&self, lose: bool) {
        self.lock().lost = lose;
    }

    /// All events, oldest first, also those without a rule and those that were lost.
    #[must_use]
    pub fn published(&self) -> Vec<Value> {
        self.lock().published.clone()
    }

    /// The invocations by rules and schedules, oldest first.
    #[must_use]
    pub fn invocations(&self) -> Vec<BusInvocation> {
        self.lock().invocations.clone()
    }

    pub(crate) fn schedule(&self, function: &str, every: Duration, input: Value, now: SystemTime) {
        // A schedule without pauses would never let the clock go on.
        let every = every.max(Duration::from_secs(1));
        self.lock().timers.push(Timer { function: function.to_owned(), every, input, due: now + every });
    }

    pub(crate) fn next_due(&self) -> Option<SystemTime> {
        self.lock().timers.iter().map(|timer| timer.due).min()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.lock().invocations.iter().rev().all(|invocation| invocation.answer.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an invocation that begins, and returns its number.
    fn begin(&self, function: &str, cause: &str, now: SystemTime) -> usize {
        let mut state = self.lock();
        let (function, cause) = (function.to_owned(), cause.to_owned());
        state.invocations.push(BusInvocation { time: now, function, cause, answer: None, failed: false });
        state.invocations.len() - 1
    }

    fn end(&self, number: usize, answer: Value, failed: bool) {
        if let Some(invocation) = self.lock().invocations.get_mut(number) {
            (invocation.answer, invocation.failed) = (Some(answer), failed);
        }
    }
}

impl Shared {
    /// Delivers an event to the functions of the rules that match it.
    pub(crate) fn publish(self: &Arc<Self>, event: Value) {
        let matching: Vec<EventRule> = {
            let mut state = self.bus.lock();
            state.published.push(event.clone());
            let rules = state.rules.iter().filter(|rule| !state.lost && matches(&rule.pattern, &event));
            rules.cloned().collect()
        };
        for EventRule { function, input, .. } in matching {
            let cause = event["detail-type"].as_str().unwrap_or_default().to_owned();
            self.deliver(&function, &cause, &input.unwrap_or_else(|| event.clone()));
        }
    }

    /// Starts what schedules want by now.
    pub(crate) fn run_timers(self: &Arc<Self>) {
        let now = self.clock.now();
        let mut due = Vec::new();
        for timer in self.bus.lock().timers.iter_mut().filter(|timer| timer.due <= now) {
            timer.due = now + timer.every;
            due.push((timer.function.clone(), timer.input.clone()));
        }
        for (function, input) in due {
            self.deliver(&function, "Scheduled Event", &input);
        }
    }

    fn deliver(self: &Arc<Self>, function: &str, cause: &str, input: &Value) {
        let number = self.bus.begin(function, cause, self.clock.now());
        let (shared, function, payload) = (self.clone(), function.to_owned(), Bytes::from(input.to_string()));
        self.spawn(async move {
            let (answer, failed) = loop {
                match shared.invoker.invoke(&function, payload.clone()).await {
                    Ok(answer) => {
                        break (serde_json::from_slice(&answer.payload).unwrap_or_default(), answer.failed);
                    }
                    Err(error) if error.error_type == "TooManyRequestsException" => {
                        tokio::time::sleep(THROTTLED_FOR).await;
                    }
                    Err(error) => {
                        break (json!({ "errorType": error.error_type, "errorMessage": error.message }), true);
                    }
                }
            };
            shared.bus.end(number, answer, failed);
            shared.notify();
        });
    }
}

/// The event of Secrets Manager about a label that is attached to a version (Secrets Manager user guide, "Secret Label
/// Updated event").
pub(crate) fn label_updated(arn: &str, name: &str, label: &str, version_id: &str, now: SystemTime) -> Value {
    json!({
        "version": "0",
        "id": Uuid::new_v4().to_string(),
        "detail-type": "Secret Label Updated",
        "source": "aws.secretsmanager",
        "account": ACCOUNT,
        "time": jiff::Timestamp::try_from(now).map(|time| format!("{time:.0}")).unwrap_or_default(),
        "region": REGION,
        "resources": [arn],
        "detail": { "name": name, "labelUpdated": label, "versionId": version_id },
    })
}

/// Whether the pattern matches: each of its members, and one text of each list.
fn matches(pattern: &Value, event: &Value) -> bool {
    match pattern {
        Value::Object(members) => members.iter().all(|(name, inner)| matches(inner, &event[name])),
        Value::Array(choices) => {
            let found = event.as_array().map_or(std::slice::from_ref(event), Vec::as_slice);
            found.iter().any(|value| choices.iter().any(|choice| is_one(choice, value)))
        }
        _ => false,
    }
}

fn is_one(choice: &Value, value: &Value) -> bool {
    match choice["prefix"].as_str() {
        Some(prefix) => value.as_str().is_some_and(|value| value.starts_with(prefix)),
        None => choice == value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_lists_and_prefixes_member_by_member() {
        let now = SystemTime::UNIX_EPOCH;
        let event = |name: &str, label: &str| label_updated("arn", name, label, "v", now);
        let rule = EventRule::secret_label("shop/", "AWSCURRENT", "deliver");
        assert!(matches(&rule.pattern, &event("shop/key", "AWSCURRENT")));
        assert!(!matches(&rule.pattern, &event("other/key", "AWSCURRENT")));
        assert!(!matches(&rule.pattern, &event("shop/key", "ROTATION-DELIVERED")));
        assert!(!matches(&EventRule::deployment_ended("deliver").pattern, &event("shop/key", "AWSCURRENT")));
        assert!(matches(&json!({ "resources": ["x", "arn"] }), &event("a", "b")));
    }
}
