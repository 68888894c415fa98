//! The application that uses the token, as far as tokens matter: what its instances hold, and whom they let pass.

use std::sync::Arc;
use std::time::SystemTime;

use rotation::time::parse_timestamp;
use rotation::versions::Stage;
use serde_json::Value;

use crate::scenario::{Application, Defect, FIELD, Scenario};
use crate::state::State;

/// What one instance holds: tokens, each until a time or until it loads again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Instance(Vec<(Arc<str>, Option<SystemTime>)>);

impl Instance {
    pub(crate) fn accepts(&self, token: &str, now: SystemTime) -> bool {
        self.0.iter().any(|(held, until)| **held == *token && until.is_none_or(|until| now < until))
    }

    /// What an instance without a defect holds once it has loaded the secret.
    pub(crate) fn loaded(scenario: &Scenario, state: &State) -> Self {
        let token = |stage| token(scenario, state.value_at(&stage)?);
        let mut tokens: Vec<_> = token(Stage::Current).map(|token| (token, None)).into_iter().collect();
        if scenario.application != Application::CurrentOnly {
            tokens.extend(token(Stage::Pending).map(|token| (token, None)));
            tokens.extend(match scenario.field() {
                None => token(Stage::Previous).map(|token| (token, None)),
                Some(_) => previous_member(state.value_at(&Stage::Current)),
            });
        }
        Self(tokens)
    }

    /// Loads the secret, or does what the defect does instead. `first` is the token from before all rotations.
    pub(crate) fn load(&mut self, scenario: &Scenario, state: &State, first: Option<&Arc<str>>) {
        let current = state.value_at(&Stage::Current).and_then(|value| token(scenario, value));
        match scenario.defect {
            Some(Defect::Frozen) => {}
            Some(Defect::DropsPromoted) if current.as_ref() != first => {
                self.0 = first.map(|token| (Arc::clone(token), None)).into_iter().collect();
            }
            // A value that cannot be loaded does not replace what is held.
            _ if current.is_none() => {}
            _ => *self = Self::loaded(scenario, state),
        }
    }
}

/// The token that a value holds.
pub(crate) fn token(scenario: &Scenario, value: &Arc<str>) -> Option<Arc<str>> {
    match scenario.field() {
        None => Some(Arc::clone(value)),
        Some(field) => member(value, field),
    }
}

/// A member of a JSON value that is a string.
pub(crate) fn member(value: &str, name: &str) -> Option<Arc<str>> {
    let value: Value = serde_json::from_str(value).ok()?;
    value.get(name)?.as_str().map(Arc::from)
}

fn previous_member(current: Option<&Arc<str>>) -> Option<(Arc<str>, Option<SystemTime>)> {
    let current = current?;
    let until = parse_timestamp(&member(current, &format!("{FIELD}_PREVIOUS_UNTIL"))?)?;
    Some((member(current, &format!("{FIELD}_PREVIOUS"))?, Some(until)))
}
