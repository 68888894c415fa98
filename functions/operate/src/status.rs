//! `status`: what is there, without a proof of anything.

use rotation::policy::StackPolicy;
use rotation::store::{Described, OperationStore};
use rotation::time::format_timestamp;
use rotation::versions::Stage;
use serde_json::{Map, Value, json};

use crate::actions::Answer;
use crate::error::OperateError;
use crate::operable::Operable;
use crate::secret::{Desk, open_rotation, unfinished};

impl<K: Operable, S: OperationStore> Desk<'_, K, S> {
    /// Versions with their stages and ages, the policy and where each setting comes from, the schedule, and what the current
    /// value tells of itself. A value or a policy that is not usable is a `problem` in the answer and no error.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn status(&self, secret: &Described) -> Result<Answer, OperateError> {
        let ages = self.store.versions(self.secret_id).await?;
        let mut versions: Vec<Value> = vec![];
        for age in &ages {
            let stages: Vec<&str> = secret.versions.stages(&age.version).map(Stage::as_str).collect();
            let days = age.created.and_then(|created| secret.as_of.duration_since(created).ok());
            versions.push(json!({
                "version": age.version,
                "stages": stages,
                "created": age.created.map(format_timestamp),
                "ageDays": days.map(|age| age.as_secs() / 86_400),
            }));
        }
        let mut status = Map::new();
        status.insert("kind".into(), json!(K::NAME));
        status.insert("now".into(), json!(format_timestamp(secret.as_of)));
        status.insert("versions".into(), Value::Array(versions));
        status.insert("policy".into(), policy(self.stack, secret));
        status.insert("rotation".into(), rotation(secret));
        let told = async {
            let seen = self.see(secret.clone()).await?;
            status.extend(self.kind.summary(&seen.subject(), &seen.current)?);
            let missing = self.require_all_keys(&seen).await?;
            status.extend(missing.staged.map(|staged| ("missingStagedKey".to_owned(), json!(staged))));
            Ok::<_, OperateError>(())
        };
        if let Err(error) = told.await {
            status.insert("problem".into(), json!({ "error": error.name(), "message": error.to_string() }));
        }
        Ok(status)
    }
}

fn policy(stack: &StackPolicy, secret: &Described) -> Value {
    let sources = stack.sources(&secret.tags).into_iter();
    let sources =
        sources.map(|(setting, value, source)| (setting.to_owned(), json!({ "value": value, "from": source })));
    Value::Object(sources.collect())
}

fn rotation(secret: &Described) -> Value {
    let overdue = secret.next_rotation.and_then(|next| secret.as_of.duration_since(next).ok());
    json!({
        "enabled": secret.rotation_enabled,
        "function": secret.rotation_function,
        "last": secret.last_rotated.map(format_timestamp),
        "next": secret.next_rotation.map(format_timestamp),
        "hoursOverdue": overdue.map_or(0, |overdue| overdue.as_secs() / 3_600),
        "open": open_rotation(secret),
        "unfinished": unfinished(secret),
    })
}
