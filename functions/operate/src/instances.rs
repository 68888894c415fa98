//! What the instances of the application answered during an action or a sweep, and which applications do not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rotation::keyring::KeyId;
use rotation::secret::SecretText;
use rotation::target::{Answer, Operation, ReportedKeys, Target, TargetSettings, Verdict};
use serde::Serialize;

/// What one instance answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct InstanceAnswers {
    /// How often it accepted a token.
    accepted: u32,
    /// How often it refused one.
    refused: u32,
    #[serde(flatten)]
    keys: Option<InstanceKeys>,
}

/// The keys that an instance reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct InstanceKeys {
    decrypts_with: BTreeSet<KeyId>,
    encrypts_with: Option<BTreeSet<KeyId>>,
}

/// What one instance answered, as an answer tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceReport {
    instance: String,
    #[serde(flatten)]
    answers: InstanceAnswers,
}

/// The answers for the secrets that are observed, by secret and instance, and the applications, by their authority.
#[derive(Clone, Debug, Default)]
pub struct Observations(Arc<Mutex<Notes>>);

#[derive(Debug, Default)]
struct Notes {
    secrets: BTreeMap<String, BTreeMap<String, InstanceAnswers>>,
    applications: BTreeMap<Option<String>, Application>,
}

/// What is known of an application.
#[derive(Clone, Copy, Debug, Default)]
struct Application {
    /// It has answered a request, be it with an error: to ask it once more costs no time.
    answers: bool,
    given_up: bool,
}

impl Observations {
    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for every application again.
    pub(crate) fn wait_for_all(&self) {
        self.lock().applications.clear();
    }

    /// Waits no more for the application with this authority: it did not answer in time.
    pub(crate) fn give_up(&self, authority: Option<String>) {
        self.lock().applications.entry(authority).or_default().given_up = true;
    }

    /// Takes note of the answers for this secret from now on.
    pub fn observe(&self, secret: &str) {
        self.lock().secrets.insert(secret.to_owned(), BTreeMap::new());
    }

    /// What was answered since then, by instance.
    #[must_use]
    pub fn take(&self, secret: &str) -> Vec<InstanceReport> {
        let instances = self.lock().secrets.remove(secret).unwrap_or_default();
        instances.into_iter().map(|(instance, answers)| InstanceReport { instance, answers }).collect()
    }
}

/// A target whose answers are noted.
#[derive(Debug)]
pub struct ObservedTarget<T> {
    target: T,
    observations: Observations,
}

impl<T> ObservedTarget<T> {
    /// The target, with where its answers are noted.
    #[must_use]
    pub fn new(target: T, observations: Observations) -> Self {
        Self { target, observations }
    }
}

impl<T: Target + Send> Target for ObservedTarget<T> {
    async fn ask(&self, operation: Operation, secret_name: &str, token: &SecretText) -> Result<Answer, String> {
        let authority = self.target.authority(secret_name);
        let known = self.observations.lock().applications.get(&authority).copied().unwrap_or_default();
        if known.given_up && !known.answers {
            let place = authority.as_deref().unwrap_or("the application");
            return Err(format!("{place} did not answer for another secret a moment ago, and was not asked"));
        }
        let answer = self.target.ask(operation, secret_name, token).await?;
        self.observations.lock().applications.entry(authority).or_default().answers = true;
        if operation != Operation::Refresh
            && let Some(instances) = self.observations.lock().secrets.get_mut(secret_name)
        {
            let answers = instances.entry(answer.instance.clone().unwrap_or_default()).or_default();
            match answer.verdict {
                Verdict::Accepted => answers.accepted += 1,
                Verdict::Refused => answers.refused += 1,
                Verdict::Redirect(_) | Verdict::Unwell(_) | Verdict::Failed(_) => {}
            }
            if let Some(ReportedKeys { decrypts_with, encrypts_with }) = answer.keys.clone() {
                answers.keys = Some(InstanceKeys { decrypts_with, encrypts_with });
            }
        }
        Ok(answer)
    }

    fn settings(&self) -> &TargetSettings {
        self.target.settings()
    }

    fn authority(&self, secret_name: &str) -> Option<String> {
        self.target.authority(secret_name)
    }

    fn is_given_up(&self, secret_name: &str) -> bool {
        let known = self.observations.lock().applications.get(&self.target.authority(secret_name)).copied();
        known.is_some_and(|known| known.given_up)
    }
}
