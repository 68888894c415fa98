//! A provider, behind an issuer that keeps the contract, until a test has it answer something else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use issued_credential::issuer::Issuer;
use rotation::aws::FunctionErrorKind;
use rotation::deadline::Deadline;
use rotation::secret::SecretText;
use serde_json::{Value, json};

/// What the issuer does with one request instead of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// It does what is asked, and its answer is lost.
    Lost,
    /// It does what is asked, and all other credentials die.
    Replaces,
    /// It does nothing, and its time runs out.
    Hangs,
    /// It does nothing.
    Fails(FunctionErrorKind),
    /// It does nothing, and answers this.
    Says(String),
    /// It does what is asked, and answers this with the key that it made in the place of `MADE`.
    Adds(&'static str),
}

#[derive(Default)]
pub(crate) struct State {
    /// The keys that work, with the version that each was made for.
    pub(crate) alive: BTreeMap<String, String>,
    made: usize,
    /// Every request, in order.
    pub(crate) requests: Vec<Value>,
    replies: BTreeMap<&'static str, VecDeque<Reply>>,
}

/// The issuer.
#[derive(Default)]
pub(crate) struct Provider(Mutex<State>);

impl Provider {
    /// With one credential that a person made.
    pub(crate) fn with(key: &str) -> Self {
        let provider = Self::default();
        provider.state().alive.insert(key.to_owned(), String::new());
        provider
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The next request for this operation is answered so.
    pub(crate) fn reply(&self, operation: &'static str, reply: Reply) {
        self.state().replies.entry(operation).or_default().push_back(reply);
    }

    pub(crate) fn alive(&self) -> Vec<String> {
        self.state().alive.keys().cloned().collect()
    }

    /// How often the operation was asked for.
    pub(crate) fn asked(&self, operation: &str) -> usize {
        self.state().requests.iter().filter(|request| request["operation"] == operation).count()
    }
}

impl State {
    fn perform(&mut self, request: &Value) -> Value {
        let key = |members: &Value| members["KEY"].as_str().unwrap_or_default().to_owned();
        let version = request["version_id"].as_str().unwrap_or_default();
        match request["operation"].as_str() {
            Some("create") => {
                self.made += 1;
                let made = format!("made-{}-c4naryVALUE", self.made);
                self.alive.insert(made.clone(), version.to_owned());
                json!({ "version": 1, "members": { "KEY": made, "KEY_ID": format!("id-{}", self.made) } })
            }
            Some("verify") => {
                let works = self.alive.contains_key(&key(&request["members"]));
                json!({ "version": 1, "status": if works { "ok" } else { "refused" }, "reason": "c4naryVALUE" })
            }
            Some("revoke") => {
                self.alive.remove(&key(&request["members"]));
                json!({ "version": 1, "status": "gone" })
            }
            _ => {
                let keep: Vec<_> = request["keep"].as_array().unwrap().iter().map(key).collect();
                self.alive.retain(|alive, of| of != version || keep.contains(alive));
                json!({ "version": 1, "status": "gone" })
            }
        }
    }
}

impl Issuer for &Provider {
    fn name(&self) -> &str {
        "issuer"
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn invoke(&self, payload: &SecretText, deadline: Deadline) -> Result<SecretText, FunctionErrorKind> {
        let request = crate::json(payload.expose());
        let operation = request["operation"].as_str().unwrap();
        let reply = self.state().replies.get_mut(operation).and_then(VecDeque::pop_front);
        self.state().requests.push(request.clone());
        if deadline.left().is_zero() {
            return Err(FunctionErrorKind::TimedOut);
        }
        if let Some(Reply::Hangs) = reply {
            deadline.within(self.timeout(), Duration::ZERO).bound(std::future::pending::<()>()).await;
        }
        let mut state = self.state();
        let answer = match reply {
            Some(Reply::Hangs) => return Err(FunctionErrorKind::TimedOut),
            Some(Reply::Fails(kind)) => return Err(kind),
            Some(Reply::Says(text)) => text,
            Some(Reply::Lost) => {
                state.perform(&request);
                return Err(FunctionErrorKind::TimedOut);
            }
            Some(Reply::Replaces) => {
                state.alive.clear();
                state.perform(&request).to_string()
            }
            Some(Reply::Adds(text)) => {
                let made = state.perform(&request);
                text.replace("MADE", made["members"]["KEY"].as_str().unwrap())
            }
            None => state.perform(&request).to_string(),
        };
        Ok(SecretText::new(answer))
    }
}
