//! Faults on demand: failures of AWS, aimed at one call.
//!
//! A rule names an operation: `PutSecretValue`, `PutMetricData`, `Publish`, `FilterLogEvents`, or another of these
//! services. `*` means every call of these services. `Invoke` means the rotation service's own invocations. A rule can
//! also name a caller, the first matching call that it hits, and the number of calls that it hits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The failure of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Fault {
    /// `ThrottlingException` (`Throttling` in SNS); the call has no effect. For `Invoke`: `TooManyRequestsException`.
    Throttle,
    /// `InternalServiceError` (`InternalError` in SNS), status 500; the call has no effect.
    InternalServiceError,
    /// The call takes effect, but the connection is closed without an answer.
    LostAnswer,
    /// The call waits first, in real time.
    Delay {
        /// The wait in milliseconds.
        millis: u64,
    },
    /// A read returns the state before the last write to the secret.
    StaleRead,
    /// The sandbox kills the function, and the call gets no answer.
    KillFunction {
        /// The function's name.
        function: String,
        /// Whether the call takes effect first.
        when: Moment,
    },
}

/// A moment relative to a call's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    /// Before the effect: the call has none.
    Before,
    /// After the effect.
    After,
}

/// A rule: the calls that it hits, and their fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// The operation's name, `*`, or `Invoke`.
    pub operation: String,
    /// Hits only calls of this function, or with this access key id. For `Invoke`: the function's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// For `Invoke`: hits only this step, for example `testSecret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The number of the first matching call that the rule hits, counted from 1.
    #[serde(default = "one")]
    pub first: u64,
    /// How many matching calls the rule hits, counted from the first. With only `for_millis` there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// How long after its first hit the rule hits calls, in real time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_millis: Option<u64>,
    /// The fault.
    pub fault: Fault,
}

const fn one() -> u64 {
    1
}

impl FaultRule {
    /// A rule that hits the first matching call, once.
    pub fn on(operation: impl Into<String>, fault: Fault) -> Self {
        let operation = operation.into();
        Self { operation, caller: None, step: None, first: 1, times: None, for_millis: None, fault }
    }

    /// Hits only calls of this function, or with this access key id.
    #[must_use]
    pub fn from_caller(mut self, caller: impl Into<String>) -> Self {
        self.caller = Some(caller.into());
        self
    }

    /// For `Invoke`: hits only this step.
    #[must_use]
    pub fn at_step(mut self, step: crate::Step) -> Self {
        self.step = Some(step.as_str().to_owned());
        self
    }

    /// Hits from the n-th matching call, counted from 1.
    #[must_use]
    pub fn nth(mut self, first: u64) -> Self {
        self.first = first;
        self
    }

    /// Hits this number of calls.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Hits calls for this time after the first hit, in real time.
    #[must_use]
    pub fn lasting(mut self, duration: Duration) -> Self {
        self.for_millis = Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        self
    }

    fn matches(&self, call: &Call<'_>) -> bool {
        let operation = self.operation == call.operation || (self.operation == "*" && call.step.is_none());
        let caller = self.caller.as_deref().is_none_or(|caller| call.callers.contains(&caller));
        operation && caller && self.step.as_deref().is_none_or(|step| call.step == Some(step))
    }
}

/// The facts of a call that rules match.
pub(crate) struct Call<'a> {
    pub(crate) operation: &'a str,
    pub(crate) callers: &'a [&'a str],
    pub(crate) step: Option<&'a str>,
}

struct Armed {
    id: u64,
    rule: FaultRule,
    matched: u64,
    first_hit: Option<Instant>,
}

impl Armed {
    fn strike(&mut self, call: &Call<'_>) -> Option<Fault> {
        if !self.rule.matches(call) {
            return None;
        }
        self.matched += 1;
        if self.matched < self.rule.first {
            return None;
        }
        let times = match (self.rule.times, self.rule.for_millis) {
            (Some(times), _) => times,
            (None, Some(_)) => u64::MAX,
            (None, None) => 1,
        };
        let hits = self.matched - self.rule.first;
        let first_hit = *self.first_hit.get_or_insert_with(Instant::now);
        let in_time = self.rule.for_millis.is_none_or(|millis| first_hit.elapsed() < Duration::from_millis(millis));
        (hits < times && in_time).then(|| self.rule.fault.clone())
    }
}

/// The sandbox's fault rules. Clones share them.
#[derive(Clone, Default)]
pub struct Faults {
    armed: Arc<Mutex<Vec<Armed>>>,
}

impl Faults {
    /// Arms a rule, and counts its matches from now. Returns its id for [`Self::remove`].
    pub fn add(&self, rule: FaultRule) -> u64 {
        let mut armed = self.armed();
        let id = armed.iter().map(|armed| armed.id).max().unwrap_or(0) + 1;
        armed.push(Armed { id, rule, matched: 0, first_hit: None });
        id
    }

    /// Disarms one rule; `false` when no rule has this id.
    pub fn remove(&self, id: u64) -> bool {
        let mut armed = self.armed();
        let before = armed.len();
        armed.retain(|armed| armed.id != id);
        armed.len() < before
    }

    /// Disarms all rules.
    pub fn clear(&self) {
        self.armed().clear();
    }

    /// The rules with their ids and the number of calls that matched so far.
    pub fn list(&self) -> Vec<(u64, FaultRule, u64)> {
        self.armed().iter().map(|armed| (armed.id, armed.rule.clone(), armed.matched)).collect()
    }

    /// Counts a call, and returns its faults.
    pub(crate) fn strike(&self, call: &Call<'_>) -> Vec<Fault> {
        self.armed().iter_mut().filter_map(|armed| armed.strike(call)).collect()
    }

    fn armed(&self) -> MutexGuard<'_, Vec<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call<'a>(operation: &'a str, callers: &'a [&'a str]) -> Call<'a> {
        Call { operation, callers, step: None }
    }

    #[test]
    fn a_rule_hits_from_its_first_match_as_often_as_it_says() {
        let faults = Faults::default();
        faults.add(FaultRule::on("PutSecretValue", Fault::Throttle).nth(2).times(2));
        let hits: Vec<bool> = (0..5).map(|_| !faults.strike(&call("PutSecretValue", &[])).is_empty()).collect();
        assert_eq!(hits, [false, true, true, false, false]);
        assert!(faults.strike(&call("GetSecretValue", &[])).is_empty());
    }

    #[test]
    fn a_rule_for_a_caller_spares_the_others() {
        let faults = Faults::default();
        faults.add(FaultRule::on("*", Fault::LostAnswer).from_caller("admin-token"));
        assert!(faults.strike(&call("GetSecretValue", &["someone"])).is_empty());
        assert_eq!(faults.strike(&call("GetSecretValue", &["AKIA", "admin-token"])), [Fault::LostAnswer]);
    }

    #[test]
    fn a_removed_rule_hits_no_more() {
        let faults = Faults::default();
        let id = faults.add(FaultRule::on("*", Fault::Throttle).times(9));
        assert!(faults.remove(id));
        assert!(!faults.remove(id));
        assert!(faults.strike(&call("GetSecretValue", &[])).is_empty());
    }
}
