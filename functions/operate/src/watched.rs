//! What the instances of the application answered while a secret was looked at, and which applications answer nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rotation::keyring::KeyId;
use rotation::secret::SecretText;
use rotation::target::{Answer, Operation, ReportedKeys, Target, TargetSettings, Verdict};
use serde_json::{Value, json};

/// What one instance answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    accepted: u32,
    refused: u32,
    keys: Option<ReportedKeys>,
}

/// The answers for the secrets that are watched, by secret and instance, and the applications, by their authority.
#[derive(Clone, Debug, Default)]
pub struct Views(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    secrets: BTreeMap<String, BTreeMap<String, View>>,
    applications: BTreeMap<Option<String>, Application>,
}

/// What is known of an application.
#[derive(Clone, Copy, Debug, Default)]
struct Application {
    /// It has answered a request, be it with an error: to ask it once more costs no time.
    answers: bool,
    given_up: bool,
}

impl Views {
    fn lock(&self) -> MutexGuard<'_, Noted> {
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
    pub fn watch(&self, secret: &str) {
        self.lock().secrets.insert(secret.to_owned(), BTreeMap::new());
    }

    /// What was answered since then, by instance: how often a token was accepted and refused, and the keys that it reports.
    #[must_use]
    pub fn take(&self, secret: &str) -> Value {
        let views = self.lock().secrets.remove(secret).unwrap_or_default();
        let ids = |ids: &BTreeSet<KeyId>| ids.iter().copied().collect::<Vec<_>>();
        let told = views.into_iter().map(|(instance, view)| {
            let mut told = json!({ "instance": instance, "accepted": view.accepted, "refused": view.refused });
            if let (Some(keys), Some(members)) = (view.keys, told.as_object_mut()) {
                members.insert("decryptsWith".to_owned(), json!(ids(&keys.decrypts_with)));
                members.insert("encryptsWith".to_owned(), json!(keys.encrypts_with.as_ref().map(ids)));
            }
            told
        });
        Value::Array(told.collect())
    }
}

/// A target whose answers are noted.
#[derive(Debug)]
pub struct Watched<T> {
    target: T,
    views: Views,
}

impl<T> Watched<T> {
    /// The target, with where its answers are noted.
    #[must_use]
    pub fn new(target: T, views: Views) -> Self {
        Self { target, views }
    }
}

impl<T: Target + Send> Target for Watched<T> {
    async fn ask(&self, operation: Operation, secret_name: &str, token: &SecretText) -> Result<Answer, String> {
        let authority = self.target.authority(secret_name);
        let known = self.views.lock().applications.get(&authority).copied().unwrap_or_default();
        if known.given_up && !known.answers {
            let place = authority.as_deref().unwrap_or("the application");
            return Err(format!("{place} did not answer for another secret a moment ago, and was not asked"));
        }
        let answer = self.target.ask(operation, secret_name, token).await?;
        self.views.lock().applications.entry(authority).or_default().answers = true;
        if operation != Operation::Refresh
            && let Some(instances) = self.views.lock().secrets.get_mut(secret_name)
        {
            let view = instances.entry(answer.instance.clone().unwrap_or_default()).or_default();
            match answer.verdict {
                Verdict::Accepted => view.accepted += 1,
                Verdict::Refused => view.refused += 1,
                Verdict::Redirect(_) | Verdict::Unwell(_) | Verdict::Failed(_) => {}
            }
            view.keys = answer.keys.clone().or(view.keys.take());
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
        let known = self.views.lock().applications.get(&self.target.authority(secret_name)).copied();
        known.is_some_and(|known| known.given_up)
    }
}
