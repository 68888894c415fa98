//! `verify` proves what is current, `abort` gives up a rotation that does not come to its end, `rollback` makes the value
//! before current again.

use std::time::Duration;

use rand::rngs::StdRng;
use rotation::document::Document;
use rotation::event::VersionId;
use rotation::kind::{Phase, Values};
use rotation::moves::{current_after_move, may_have_moved};
use rotation::protocol::ROLLBACK_RESERVE;
use rotation::store::{Described, OperationStore, StoreError};
use rotation::time::format_timestamp;
use rotation::versions::Stage;
use serde_json::{Map, Value, json};

use crate::error::OperateError;
use crate::operable::Operable;
use crate::secret::{Desk, Mark, Seen, is_half_rolled_back, new_version, open_rotation, put_back, put_back_at};

/// What an action answers, as members of a JSON object.
pub type Answer = Map<String, Value>;

pub(crate) fn answer<const N: usize>(members: [(&str, Value); N]) -> Answer {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl<K: Operable, S: OperationStore> Desk<'_, K, S> {
    /// What proves a value of this kind here; nothing when nobody is asked and it cannot be proven alone.
    #[must_use]
    pub fn proofs(&self) -> Vec<&'static str> {
        let asked = self.kind.has_target().then_some("the application");
        [K::PROVEN_ALONE, asked].into_iter().flatten().collect()
    }

    /// Whether the current value of a secret that was described works, by the same proofs as before a promotion.
    ///
    /// # Errors
    /// The proof's.
    pub async fn verify_current(&self, secret: Described, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let seen = self.see(secret).await?;
        self.verify(&seen, rng).await?;
        let by = self.proofs();
        Ok(answer([("verified", json!(!by.is_empty())), ("version", json!(seen.current_id)), ("by", json!(by))]))
    }

    /// Gives up a rotation that does not come to its end, and has the application drop the pending value. Without one, the
    /// application is told all the same: an earlier try may have died before that.
    ///
    /// # Errors
    /// [`OperateError::TooYoungToAbort`], also when the service does not say how old the rotation is.
    pub async fn abort(&self, abort_after: Duration, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let secret = self.store.describe(self.secret_id).await?;
        let mut told = match open_rotation(&secret).cloned() {
            None => answer([("aborted", json!(null)), ("because", json!("no rotation is open"))]),
            Some(version) => {
                let ages = self.store.versions(self.secret_id).await?;
                let began = ages.into_iter().find(|age| age.version == version).and_then(|age| age.created);
                let began = began.or(secret.last_changed).unwrap_or(secret.as_of);
                // Taking a rotation up again changes nothing that tells of it, but its createSecret or its stages do.
                let changed = secret.last_changed.map_or(began, |changed| changed.max(began));
                let from = changed + abort_after;
                if secret.as_of < from {
                    return Err(OperateError::TooYoungToAbort { version, began, changed, from });
                }
                self.drop_stage(&version, &Stage::Pending).await?;
                if secret.versions.holder(&Stage::Previous) == Some(&version) {
                    // A rollback of it died half way.
                    let record = Stage::restored_after(&version);
                    match secret.versions.holder(&record) {
                        Some(previous) => {
                            let moved =
                                self.store.move_stage(self.secret_id, Stage::Previous, Some(&version), Some(previous));
                            match moved.await {
                                Err(error) if !may_have_moved(&error) => return Err(error.into()),
                                _ => self.drop_stage(previous, &record).await?,
                            }
                        }
                        None => self.drop_stage(&version, &Stage::Previous).await?,
                    }
                }
                let now = self.store.describe(self.secret_id).await?;
                if now.versions.holder(&Stage::Current) == Some(&version) {
                    let because = "it has come to its end in this moment";
                    return Ok(answer([("aborted", json!(null)), ("because", json!(because))]));
                }
                answer([("aborted", json!(version)), ("began", json!(format_timestamp(began)))])
            }
        };
        // Without a current value there is nothing that an application could load.
        if secret.versions.holder(&Stage::Current).is_some() {
            let settled = async {
                let seen = self.look().await?;
                Ok::<_, OperateError>(self.settle(&seen, None, self.deadline, rng).await?)
            };
            let settled = settled.await;
            told.insert("verified".to_owned(), json!(settled.is_ok() && !self.proofs().is_empty()));
            told.insert("by".to_owned(), json!(self.proofs()));
            if let Err(error) = settled {
                told.insert("problem".to_owned(), json!({ "error": error.name(), "message": error.to_string() }));
            }
        }
        Ok(told)
    }

    /// Makes the value before current again, in a new version. The one that is current stays readable: as the previous
    /// token, for the overlap, or as a key of the ring. Other members that were edited since stay. When that is how it is
    /// already, the application is told and asked once more, and nothing else happens.
    ///
    /// # Errors
    /// [`OperateError::RotationOpen`], [`OperateError::NothingToGoBackTo`], [`OperateError::Compromised`],
    /// [`OperateError::DidNotVerify`]; of a keyring that lacks keys, [`RotationError::KeysMissing`].
    ///
    /// [`RotationError::KeysMissing`]: rotation::error::RotationError::KeysMissing
    pub async fn rollback(&self, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let seen = self.look_to_change().await?;
        seen.require_no_open_rotation()?;
        for made in self.marked(&seen, Mark::RolledBack).await? {
            if self.kind.same_in_use(&seen.policy, &made.value, &seen.current)? {
                return self.roll_back_again(&seen, rng).await;
            }
        }
        // Of a ring that lacks keys, another old key is no way back.
        self.require_all_keys(&seen).await?;
        let previous = self.previous(&seen).await?;
        let back = self.kind.back(&seen.subject(), &seen.current, previous.as_ref().map(|previous| &previous.value))?;
        let back = back.ok_or_else(|| OperateError::NothingToGoBackTo { name: seen.secret.name.clone() })?;
        for mark in [Mark::Compromised, Mark::Exposed] {
            for marked in self.marked(&seen, mark).await? {
                // What is current is to be replaced by something new.
                let being_replaced = mark == Mark::Compromised && marked.version == seen.current_id;
                if being_replaced || self.kind.same_in_use(&seen.policy, &marked.value, &back)? {
                    return Err(OperateError::Compromised { what: format!("version {}", marked.version) });
                }
            }
        }
        if let Some(token) = self.kind.token(&back)?
            && self.condemned(&seen).await?.contains(&token)
        {
            return Err(OperateError::Compromised { what: "the token before".to_owned() });
        }
        self.require_time()?;

        let version = new_version(rng);
        let now = match self.publish(&seen, &back, &[Mark::RolledBack, Mark::Operation], &version).await {
            Ok(now) => now,
            Err(error) => {
                // It may have become current, and not be seen yet: then its marks are still there. Or another request for the same was
                // faster, and replaced another version.
                let now = self.look().await?;
                let moved = now.current_id != seen.current_id;
                if moved && self.kind.same_in_use(&now.policy, &now.current, &back)? {
                    return self.roll_back_again(&now, rng).await;
                }
                return Err(error);
            }
        };
        let before = Before { version: seen.current_id.clone(), previous: previous.map(|previous| previous.version) };
        self.settle_or_put_back(&now, before, Some(&seen.current), rng).await?;
        // Those of earlier rollbacks tell nothing any more.
        self.unmark(&[Mark::RolledBack], &seen.secret).await?;
        self.rolled_back(&now, &seen.current_id, false)
    }

    /// An earlier try, or another request, has made the value before current again. When it was not proven then, it is now, or
    /// put back; when it was, it stays.
    async fn roll_back_again(&self, seen: &Seen, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let half = is_half_rolled_back(&seen.secret);
        // AWSPREVIOUS is on what was rolled back.
        match self.previous(seen).await?.filter(|_| half) {
            Some(before) if !self.kind.same_in_use(&seen.policy, &before.value, &seen.current)? => {
                // An earlier try may have died before it told the application, which knows this value only.
                let (version, value) = (before.version.clone(), &before.value);
                self.settle_or_put_back(seen, Before { version, previous: None }, Some(value), rng).await?;
                self.rolled_back(seen, &before.version, true)
            }
            _ => {
                self.settle(seen, None, self.deadline, rng).await?;
                self.rolled_back(seen, &seen.current_id, true)
            }
        }
    }

    fn rolled_back(&self, now: &Seen, from: &VersionId, already: bool) -> Result<Answer, OperateError> {
        let by = self.proofs();
        let mut told =
            answer([("version", json!(now.current_id)), ("verified", json!(!by.is_empty())), ("by", json!(by))]);
        if *from != now.current_id {
            told.insert("rolledBackFrom".to_owned(), json!(from));
        }
        if already {
            told.insert("already".to_owned(), json!(true));
        }
        told.extend(self.kind.summary(&now.subject(), &now.current)?);
        Ok(told)
    }

    /// Brings what is current to the application; when it does not verify, the version before is put back.
    /// `old` is what the application may know still.
    pub(crate) async fn settle_or_put_back(
        &self,
        now: &Seen,
        before: Before,
        old: Option<&Document>,
        rng: &mut StdRng,
    ) -> Result<(), OperateError> {
        let deadline = self.deadline.within(self.kind.settle_time(), ROLLBACK_RESERVE);
        let Err(reason) = self.settle(now, old, deadline, rng).await else {
            return Ok(self.drop_stage(&now.current_id, &Mark::Operation.on(&now.current_id)).await?);
        };
        // Of a keyring, others may have loaded the one that is put away, and encrypt with its primary key.
        let in_use_meanwhile = old.is_some() && !matches!(self.kind.ring(&now.policy, &now.current), Ok(None));
        let outcome = match self.put_back(now, &before, in_use_meanwhile).await {
            Ok(false) => "the secret was changed since, and that change stands".to_owned(),
            Ok(true) => {
                if let Ok(restored) = self.look().await {
                    let values = Values { old: Some(&now.current), new: &restored.current };
                    // Best effort: an instance that does not hear of it reads it when its cache is too old.
                    let _ = self.kind.set(&restored.subject(), values, Phase::AfterPromotion, self.deadline).await;
                }
                format!("version {} is AWSCURRENT again", before.version)
            }
            Err(error) => format!(
                "putting version {} back FAILED ({error}): do it by hand, or run the same request again",
                before.version
            ),
        };
        Err(OperateError::DidNotVerify { reason: Box::new(reason), outcome })
    }

    /// Moves `AWSCURRENT` back, and the other stages to where they were; `false` when somebody changed the secret since.
    /// With a stage that tells when, if a retirement has to know.
    async fn put_back(&self, now: &Seen, before: &Before, tells_when: bool) -> Result<bool, StoreError> {
        let (failed, secret_id) = (&now.current_id, self.secret_id);
        if tells_when {
            // Beforehand: who dies after the move has told it.
            let stage = put_back_at(now.secret.as_of);
            self.store.move_stage(secret_id, stage, None, Some(&before.version)).await?;
        }
        let moved = self.store.move_stage(secret_id, Stage::Current, Some(failed), Some(&before.version)).await;
        if let Err(error) = moved {
            if !may_have_moved(&error) {
                return Err(error);
            }
            let holder = current_after_move(self.store, secret_id, Some(failed), self.deadline).await?;
            match holder {
                Some(holder) if holder == before.version => {}
                Some(holder) if holder == *failed => return Err(error),
                _ => return Ok(false),
            }
        }
        // Where it was is not known to a later try: on the failed version it keeps the same token accepted.
        if let Some(previous) = &before.previous {
            match self.store.move_stage(secret_id, Stage::Previous, Some(failed), Some(previous)).await {
                Err(error) if !may_have_moved(&error) => return Err(error),
                _ => {}
            }
        }
        if self.marked_ring(&now.secret).version() == Some(failed) {
            self.marked_ring(&now.secret).move_to(&before.version).await?;
        }
        for mark in [Mark::RolledBack, Mark::Operation] {
            self.drop_stage(failed, &mark.on(failed)).await?;
        }
        if tells_when {
            // The last time says all.
            for (version, stage, at) in put_back(&now.secret.versions) {
                if at < now.secret.as_of {
                    self.drop_stage(version, stage).await?;
                }
            }
        }
        Ok(true)
    }
}

/// What was current before an action, and what was `AWSPREVIOUS` then.
pub(crate) struct Before {
    pub(crate) version: VersionId,
    pub(crate) previous: Option<VersionId>,
}
