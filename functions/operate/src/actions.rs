//! What changes something: rollback, revoke, abort, compromise. Each can be repeated when it died half way, and is refused
//! with a reason when it would break a promise.

use std::time::{Duration, SystemTime};

use admin_token::AdminToken;
use encryption_key::EncryptionKey;
use rand::Rng as _;
use rand::rngs::StdRng;
use rotation::event::VersionId;
use rotation::kind::SecretKind as _;
use rotation::secret::SecretText;
use rotation::store::{OperationStore, StoreErrorKind};
use rotation::target::http::HttpTarget;
use rotation::target::prove_refused;
use rotation::time::format_timestamp;
use rotation::versions::Stage;
use serde_json::{Map, Value, json};

use crate::error::OperateError;
use crate::operable::Operable;
use crate::request::Action;
use crate::secret::{COMPROMISED_STAGE, Desk, Seen};

/// What an action answers, as members of a JSON object.
pub type Answer = Map<String, Value>;

fn answer<const N: usize>(members: [(&str, Value); N]) -> Answer {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn new_version(rng: &mut StdRng) -> VersionId {
    VersionId::new(format!("{:032x}", rng.random::<u128>()))
}

impl<K: Operable, S: OperationStore> Desk<'_, K, S> {
    /// Whether the current value works, by the same proofs as before a promotion.
    ///
    /// # Errors
    /// The proof's.
    pub async fn verify_current(&self, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let seen = self.look().await?;
        self.verify(&seen, rng).await?;
        let asked = self.kind.has_target().then_some("the application");
        let by: Vec<&str> = [K::PROVEN_ALONE, asked].into_iter().flatten().collect();
        Ok(answer([("verified", json!(!by.is_empty())), ("version", json!(seen.current_id)), ("by", json!(by))]))
    }

    /// Makes the value before current again. The one that is current stays readable: as the previous token, for the
    /// overlap, or as a key of the ring. Other members that were edited since stay.
    ///
    /// # Errors
    /// [`OperateError::RotationOpen`], [`OperateError::NothingToGoBackTo`], [`OperateError::Compromised`],
    /// [`OperateError::DidNotVerify`].
    pub async fn rollback(&self, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let seen = self.look().await?;
        seen.require_no_open_rotation()?;
        let name = || seen.secret.name.clone();
        let compromised = seen.secret.versions.holder(&Stage::from(COMPROMISED_STAGE));
        let previous_id = seen.secret.versions.holder(&Stage::Previous);
        if let Some(version) = compromised.filter(|version| Some(*version) == previous_id) {
            return Err(OperateError::Compromised { what: format!("version {version}") });
        }
        let previous = self.previous(&seen).await?;
        let back = self.kind.back(&seen.subject(), &seen.current, previous.as_ref())?;
        let back = back.ok_or_else(|| OperateError::NothingToGoBackTo { name: name() })?;

        let version = new_version(rng);
        let now = self.publish(&seen, &back, &version).await?;
        if let Err(reason) = self.settle(&now, Some(&seen.current), rng).await {
            let outcome = match self.put_back(&seen, &version).await {
                Ok(()) => {
                    // Best effort: an instance that does not hear of it reads it when its cache is too old.
                    let _ = self.settle(&seen, Some(&now.current), rng).await;
                    format!("version {} is AWSCURRENT again", seen.current_id)
                }
                Err(error) => format!("putting version {} back FAILED ({error}): do it by hand now", seen.current_id),
            };
            return Err(OperateError::DidNotVerify { reason: Box::new(reason), outcome });
        }
        let mut told = answer([("version", json!(version)), ("rolledBackFrom", json!(seen.current_id))]);
        told.extend(self.kind.summary(&now.subject(), &now.current)?);
        Ok(told)
    }

    /// Gives up a rotation that does not come to its end, and has the application drop the pending value.
    ///
    /// # Errors
    /// [`OperateError::TooYoungToAbort`].
    pub async fn abort(&self, abort_after: Duration, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let secret = self.store.describe(self.secret_id).await?;
        self.stack.check_name(&secret.name)?;
        let Some(version) = crate::secret::open_rotation(&secret).cloned() else {
            return Ok(answer([("aborted", json!(null)), ("because", json!("no rotation is open"))]));
        };
        let ages = self.store.versions(self.secret_id).await?;
        let began = ages.into_iter().find(|age| age.version == version).and_then(|age| age.created);
        let began = began.unwrap_or(SystemTime::UNIX_EPOCH);
        let from = began + abort_after;
        if secret.as_of < from {
            return Err(OperateError::TooYoungToAbort { version, began, from });
        }
        self.drop_stage(&version, &Stage::Pending).await?;
        let mut told = answer([("aborted", json!(version)), ("began", json!(format_timestamp(began)))]);
        // Without a current value there is nothing that an application could load.
        if let Ok(seen) = self.look().await {
            let told_application = self.settle(&seen, None, rng).await;
            told.insert("verified".to_owned(), json!(told_application.is_ok()));
            if let Err(error) = told_application {
                told.insert("problem".to_owned(), json!(error.to_string()));
            }
        }
        Ok(told)
    }

    /// Starts a rotation to `version` and waits for its end.
    async fn rotate(&self, version: &VersionId) -> Result<(), OperateError> {
        match self.store.start_rotation(self.secret_id, version).await {
            // "A previous rotation isn't complete": it is taken up again.
            Err(error) if error.kind != StoreErrorKind::Rejected => return Err(error.into()),
            _ => {}
        }
        let pending = self.store.describe(self.secret_id).await?;
        let version = crate::secret::open_rotation(&pending).unwrap_or(version).clone();
        if self.wait_until_current(&version).await? {
            return Ok(());
        }
        let function = pending.rotation_function.unwrap_or_default();
        Err(OperateError::NotFinished { version, function })
    }
}

/// Whether the action was confirmed.
///
/// # Errors
/// [`OperateError::NotConfirmed`].
pub fn require_confirmed(name: &str, confirm: Option<&str>) -> Result<(), OperateError> {
    if confirm == Some(name) { Ok(()) } else { Err(OperateError::NotConfirmed { name: name.to_owned() }) }
}

impl<S: OperationStore> Desk<'_, AdminToken<HttpTarget>, S> {
    /// Ends the overlap now: the previous token is taken away, and proven dead.
    ///
    /// # Errors
    /// [`OperateError::RotationOpen`]; [`OperateError::CurrentDoesNotVerify`]: nothing is taken away then.
    pub async fn revoke(&self, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let seen = self.look().await?;
        seen.require_no_open_rotation()?;
        self.verify(&seen, rng).await.map_err(|error| OperateError::CurrentDoesNotVerify(Box::new(error)))?;
        let previous = self.previous(&seen).await?;
        let previous_id = seen.secret.versions.holder(&Stage::Previous).cloned();
        let mut dead: Vec<SecretText> = AdminToken::<HttpTarget>::previous(&seen.current)?.into_iter().collect();
        if let Some(previous) = &previous {
            dead.push(previous.secret()?);
            dead.extend(AdminToken::<HttpTarget>::previous(previous)?);
        }
        // Each once, and never the current one.
        let mut seen_tokens = vec![seen.current.secret()?];
        dead.retain(|token| {
            let new = !seen_tokens.contains(token);
            seen_tokens.extend(new.then(|| token.clone()));
            new
        });

        let without = AdminToken::<HttpTarget>::without_previous(&seen.current)?;
        let now = if without.text() == seen.current.text() {
            None
        } else {
            Some(self.publish(&seen, &without, &new_version(rng)).await?)
        };
        // AWSPREVIOUS is on the version that was just replaced, or still on the one before: neither is needed any more.
        let now = match now {
            Some(now) => now,
            None => self.look().await?,
        };
        for version in [Some(&seen.current_id), previous_id.as_ref()].into_iter().flatten() {
            if now.secret.versions.holder(&Stage::Previous) == Some(version) {
                self.drop_stage(version, &Stage::Previous).await?;
            }
        }
        self.settle(&now, None, rng).await?;
        if let Some(target) = self.kind.target() {
            for token in &dead {
                prove_refused(target, &now.secret.name, token, self.deadline).await?;
            }
        }
        let proven = self.kind.target().is_some();
        Ok(answer([
            ("version", json!(now.current_id)),
            ("tokensRevoked", json!(dead.len())),
            ("provenRefused", json!(proven)),
        ]))
    }

    /// Replaces the token at once and revokes the old one. Where it died half way it goes on: the stage
    /// [`COMPROMISED_STAGE`] stands on the version with the token that has to go, until it is gone.
    ///
    /// # Errors
    /// [`OperateError::NotConfirmed`], [`OperateError::NotFinished`], and those of [`revoke`](Self::revoke).
    pub async fn compromise(&self, confirm: Option<&str>, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let seen = self.look().await?;
        require_confirmed(&seen.secret.name, confirm)?;
        let stage = Stage::from(COMPROMISED_STAGE);
        let marked = match seen.secret.versions.holder(&stage) {
            Some(marked) => marked.clone(),
            None => {
                let current = &seen.current_id;
                self.store.move_stage(self.secret_id, stage.clone(), None, Some(current)).await?;
                current.clone()
            }
        };
        if seen.current_id == marked {
            self.rotate(&new_version(rng)).await?;
        }
        let mut told = self.revoke(rng).await?;
        self.drop_stage(&marked, &stage).await?;
        told.insert("replaced".to_owned(), json!(marked));
        Ok(told)
    }
}

impl<T: rotation::target::Target + Send, S: OperationStore> Desk<'_, EncryptionKey<T>, S> {
    /// A key is not revoked: what is encrypted with it has to stay readable.
    ///
    /// # Errors
    /// Always [`OperateError::NotForThisKind`].
    pub fn revoke_key(&self) -> Result<Answer, OperateError> {
        let instead = "what is encrypted with an old key has to stay readable; after an exposure use compromise";
        Err(OperateError::NotForThisKind { action: Action::Revoke, instead })
    }

    /// Marks the primary and the staged key as compromised and rotates: both are replaced at once by fresh ones, are never
    /// promoted again, and stay readable.
    ///
    /// # Errors
    /// [`OperateError::NotConfirmed`], [`OperateError::NotFinished`].
    pub async fn compromise_keys(&self, confirm: Option<&str>, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let seen = self.look().await?;
        require_confirmed(&seen.secret.name, confirm)?;
        let wire = seen.policy.key_format.wire();
        let compromised = wire.parse(&seen.current)?.primary().dates().compromised.is_some();
        if let Some(marked) = self.kind.marked(&seen.subject(), &seen.current)?
            && !compromised
            && !self.replaced_before(&seen)?
        {
            self.publish(&seen, &marked, &new_version(rng)).await?;
        }
        let seen = self.look().await?;
        if seen.current.field().is_none() || wire.parse(&seen.current)?.primary().dates().compromised.is_some() {
            self.rotate(&new_version(rng)).await?;
        }
        let now = self.look().await?;
        self.verify(&now, rng).await?;
        let mut told = answer([("version", json!(now.current_id))]);
        let report = self.kind.report(&now.subject(), None, &now.current);
        told.extend(report.into_iter().filter(|(name, _)| name != "remaining"));
        let left = "data under the secondary keys is as exposed as before until it is re-encrypted";
        told.insert("remaining".to_owned(), json!(left));
        Ok(told)
    }

    /// Whether the keys were replaced for a compromise within the last minutes: then the action is being repeated.
    fn replaced_before(&self, seen: &Seen) -> Result<bool, OperateError> {
        const REPEATED_WITHIN: Duration = Duration::from_secs(15 * 60);
        let ring = seen.policy.key_format.wire().parse(&seen.current)?;
        let marked = ring.secondary().iter().filter_map(|key| key.dates().compromised).max();
        let promoted = ring.primary().dates().promoted;
        Ok(marked.zip(promoted).is_some_and(|(marked, promoted)| {
            promoted >= marked && seen.secret.as_of.duration_since(marked).is_ok_and(|age| age < REPEATED_WITHIN)
        }))
    }
}
