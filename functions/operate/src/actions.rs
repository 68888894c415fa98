//! `verify` proves what is current, and `abort` gives up a rotation that does not come to its end.

use std::time::Duration;

use rand::rngs::StdRng;
use rotation::store::OperationStore;
use rotation::time::format_timestamp;
use rotation::versions::Stage;
use serde_json::{Map, Value, json};

use crate::error::OperateError;
use crate::operable::Operable;
use crate::secret::{Desk, open_rotation};

/// What an action answers, as members of a JSON object.
pub type Answer = Map<String, Value>;

fn answer<const N: usize>(members: [(&str, Value); N]) -> Answer {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl<K: Operable, S: OperationStore> Desk<'_, K, S> {
    /// What proves a value of this kind here; nothing when nobody is asked and it cannot be proven alone.
    #[must_use]
    pub fn proofs(&self) -> Vec<&'static str> {
        let asked = self.kind.has_target().then_some("the application");
        [K::PROVEN_ALONE, asked].into_iter().flatten().collect()
    }

    /// Whether the current value works, by the same proofs as before a promotion.
    ///
    /// # Errors
    /// The proof's.
    pub async fn verify_current(&self, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let seen = self.look().await?;
        self.verify(&seen, rng).await?;
        let by = self.proofs();
        Ok(answer([("verified", json!(!by.is_empty())), ("version", json!(seen.current_id)), ("by", json!(by))]))
    }

    /// Gives up a rotation that does not come to its end, and has the application drop the pending value.
    ///
    /// # Errors
    /// [`OperateError::TooYoungToAbort`], also when the service does not say how old the rotation is.
    pub async fn abort(&self, abort_after: Duration, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let not_aborted = |because: &str| answer([("aborted", json!(null)), ("because", json!(because))]);
        let secret = self.store.describe(self.secret_id).await?;
        let Some(version) = open_rotation(&secret).cloned() else { return Ok(not_aborted("no rotation is open")) };
        let ages = self.store.versions(self.secret_id).await?;
        let began = ages.into_iter().find(|age| age.version == version).and_then(|age| age.created);
        let began = began.unwrap_or(secret.as_of);
        // Taking a rotation up again changes nothing that tells of it, but its createSecret or its stages do.
        let active = secret.last_changed.map_or(began, |changed| changed.max(began));
        let from = active + abort_after;
        if secret.as_of < from {
            return Err(OperateError::TooYoungToAbort { version, began: active, from });
        }
        self.drop_stage(&version, &Stage::Pending).await?;
        let now = self.store.describe(self.secret_id).await?;
        if now.versions.holder(&Stage::Current) == Some(&version) {
            return Ok(not_aborted("it has come to its end in this moment"));
        }
        let mut told = answer([("aborted", json!(version)), ("began", json!(format_timestamp(began)))]);
        // Without a current value there is nothing that an application could load.
        if now.versions.holder(&Stage::Current).is_some() {
            let settled = async { Ok::<_, OperateError>(self.settle(&self.look().await?, rng).await?) }.await;
            told.insert("verified".to_owned(), json!(settled.is_ok() && !self.proofs().is_empty()));
            if let Err(error) = settled {
                told.insert("problem".to_owned(), json!({ "error": error.name(), "message": error.to_string() }));
            }
        }
        Ok(told)
    }
}
