//! What the instances of the application answered while a secret was looked at.

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

/// The answers for the secrets that are watched, by secret and instance.
#[derive(Clone, Debug, Default)]
pub struct Views(Arc<Mutex<BTreeMap<String, BTreeMap<String, View>>>>);

impl Views {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<String, View>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the answers for this secret from now on.
    pub fn watch(&self, secret: &str) {
        self.lock().insert(secret.to_owned(), BTreeMap::new());
    }

    /// What was answered since then, by instance: how often a token was accepted and refused, and the keys that it reports.
    #[must_use]
    pub fn take(&self, secret: &str) -> Value {
        let views = self.lock().remove(secret).unwrap_or_default();
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
        let answer = self.target.ask(operation, secret_name, token).await?;
        if operation != Operation::Refresh
            && let Some(instances) = self.views.lock().get_mut(secret_name)
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
}
