//! `revoke` ends an overlap and proves that the old token is dead; `compromise` replaces what is known to others first.
//!
//! What has to be dead is written down before anything is taken away: a mark on the version that holds the token
//! ([`Mark::Revoked`], [`Mark::PreviousRevoked`], [`Mark::Compromised`]). It goes only when every such token was refused, so that a proof that failed, or a
//! process that died, is not forgotten by the next try.

use std::time::{Duration, SystemTime};

use rand::Rng as _;
use rand::rngs::StdRng;
use rotation::error::RotationError;
use rotation::event::{VersionId, digest};
use rotation::kind::{Phase, Values};
use rotation::protocol::ROLLBACK_RESERVE;
use rotation::secret::SecretText;
use rotation::store::{OperationStore, StoreErrorKind};
use rotation::versions::Stage;
use serde_json::json;

use crate::DEFAULT_ABORT_AFTER;
use crate::actions::{Answer, answer};
use crate::error::OperateError;
use crate::operable::Operable;
use crate::request::Action;
use crate::secret::{Desk, LOOK_PAUSES, Mark, Marked, Seen, new_version, open_rotation};

/// A compromise that is asked for again within this time of the version that it made is the same one. Later it is another:
/// what is current by then is replaced as well, which is the safe side.
pub const SAME_INCIDENT: Duration = Duration::from_secs(60 * 60);

/// The longest that an answer waits for a rotation: whoever asked has to hear that it does not come to its end.
const LONGEST_WAIT: Duration = Duration::from_secs(150);
/// Waits between two looks at a rotation that runs.
const PAUSE: Duration = Duration::from_secs(1);
/// For so long a rotation that was just started may not be listed yet, because reads are eventually consistent.
const UNLISTED: u32 = 10;

/// Tokens without repetition, less the one that is in use.
struct Dead {
    in_use: SecretText,
    tokens: Vec<SecretText>,
}

impl Dead {
    /// Whether there was one that is new.
    fn add(&mut self, tokens: impl IntoIterator<Item = SecretText>) -> bool {
        let before = self.tokens.len();
        for token in tokens {
            if token != self.in_use && !self.tokens.contains(&token) {
                self.tokens.push(token);
            }
        }
        self.tokens.len() > before
    }
}

impl<K: Operable, S: OperationStore> Desk<'_, K, S> {
    /// Ends the overlap now: the previous token is taken away, and proven dead.
    ///
    /// # Errors
    /// [`OperateError::NotForThisKind`], [`OperateError::RotationOpen`]; [`OperateError::CurrentDoesNotVerify`]: nothing is
    /// taken away then; [`RotationError::TargetAcceptsRevoked`] when the application still accepts it.
    pub async fn revoke(&self, rng: &mut StdRng) -> Result<Answer, OperateError> {
        if !K::REVOCABLE {
            let instead = "what is encrypted with an old key has to stay readable; after an exposure use compromise";
            return Err(OperateError::NotForThisKind { action: Action::Revoke, instead });
        }
        let seen = self.look_to_change().await?;
        self.revoke_seen(seen, &new_version(rng), rng).await
    }

    /// The same for a secret that was looked at. `version` is the one that a JSON value without its previous token gets.
    pub(crate) async fn revoke_seen(
        &self,
        seen: Seen,
        version: &VersionId,
        rng: &mut StdRng,
    ) -> Result<Answer, OperateError> {
        seen.require_no_open_rotation()?;
        self.verify(&seen, rng).await.map_err(|error| OperateError::CurrentDoesNotVerify(Box::new(error)))?;
        let mut dead = self.dead_by_marks(&seen).await?;
        dead.add(self.of_compromised(&seen).await?);
        let held = self.kind.previous_token(&seen.current)?;
        if held.as_ref().is_some_and(|held| *held != dead.in_use) {
            self.mark(Mark::PreviousRevoked, &seen.current_id).await?;
        }
        dead.add(held);
        let last = self.previous(&seen).await?.filter(|last| last.version != seen.current_id);
        if let Some(last) = &last
            && dead.add(self.kind.token(&last.value)?)
        {
            self.mark(Mark::Revoked, &last.version).await?;
        }

        let without = self.kind.without_previous(&seen.current)?;
        let now = if without.text() == seen.current.text() {
            if let Some(last) = &last {
                self.drop_stage(&last.version, &Stage::Previous).await?;
            }
            seen
        } else {
            let published = self.publish(&seen, &without, &[Mark::Operation], version).await;
            let unmarked = self.drop_stage(version, &Mark::Operation.on(version)).await;
            // Why nothing was published says more than that there is nothing to unmark.
            let now = published?;
            unmarked?;
            // AWSPREVIOUS has come to the version with the old token. When a rotation was faster, it belongs to that.
            self.drop_stage(&seen.current_id, &Stage::Previous).await?;
            now
        };
        self.prove_dead(&now, &dead.tokens, rng).await?;

        // A rotation that began meanwhile may have put back what was taken away.
        let mut pauses = LOOK_PAUSES.into_iter();
        let after = loop {
            let after = self.look_at(&now.current_id).await?;
            after.require_no_open_rotation()?;
            let back = self.previous(&after).await?;
            let back = back.map(|back| self.kind.token(&back.value)).transpose()?.flatten();
            if !back.is_some_and(|back| dead.tokens.contains(&back)) {
                break after;
            }
            // Or this read shows it as it was before.
            match pauses.next() {
                Some(pause) if self.deadline.pause(pause).await => {}
                _ => return Err(after.changed()),
            }
        };
        self.unmark(&[Mark::Revoked, Mark::PreviousRevoked], &after.secret).await?;
        Ok(answer([
            ("version", json!(now.current_id)),
            ("tokensRevoked", json!(dead.tokens.len())),
            ("provenRefused", json!(self.kind.has_target() && !dead.tokens.is_empty())),
        ]))
    }

    /// The tokens that a revocation took away, or was about to, and did not prove dead.
    async fn dead_by_marks(&self, seen: &Seen) -> Result<Dead, OperateError> {
        let mut dead = Dead { in_use: seen.current.secret()?, tokens: vec![] };
        for marked in self.marked(seen, Mark::Revoked).await? {
            dead.add(self.kind.token(&marked.value)?);
        }
        for marked in self.marked(seen, Mark::PreviousRevoked).await? {
            dead.add(self.kind.previous_token(&marked.value)?);
        }
        Ok(dead)
    }

    /// The tokens of what a compromise has to replace. The one that is in use is not replaced yet.
    async fn of_compromised(&self, seen: &Seen) -> Result<Vec<SecretText>, OperateError> {
        let mut tokens = vec![];
        for marked in self.marked(seen, Mark::Compromised).await? {
            tokens.extend(self.kind.token(&marked.value)?);
            tokens.extend(self.kind.previous_token(&marked.value)?);
        }
        Ok(tokens)
    }

    /// What never becomes current again.
    pub(crate) async fn condemned(&self, seen: &Seen) -> Result<Vec<SecretText>, OperateError> {
        let mut condemned = self.dead_by_marks(seen).await?.tokens;
        condemned.extend(self.of_compromised(seen).await?);
        Ok(condemned)
    }

    /// Proves what a revocation took away and did not prove. `false` when there is none, or something of it is still to be taken
    /// away: then the action has to be run again. An overlap that is open meanwhile stays so.
    ///
    /// # Errors
    /// [`RotationError::TargetAcceptsRevoked`], and those of the kind.
    pub async fn finish_revocation(&self, seen: &Seen, rng: &mut StdRng) -> Result<bool, OperateError> {
        let dead = self.dead_by_marks(seen).await?;
        if dead.tokens.is_empty() {
            return Ok(false);
        }
        let last = self.previous(seen).await?.map(|last| self.kind.token(&last.value)).transpose()?.flatten();
        let held = [self.kind.previous_token(&seen.current)?, last];
        if dead.tokens.iter().any(|token| held.contains(&Some(token.clone()))) {
            return Ok(false);
        }
        self.prove_dead(seen, &dead.tokens, rng).await?;
        self.unmark(&[Mark::Revoked, Mark::PreviousRevoked], &seen.secret).await?;
        Ok(true)
    }

    /// Has the application load the secret, and proves that it accepts the current token and none of these.
    async fn prove_dead(&self, now: &Seen, dead: &[SecretText], rng: &mut StdRng) -> Result<(), OperateError> {
        self.settle(now, None, self.deadline, rng).await?;
        for token in dead {
            self.kind.prove_refused(&now.secret.name, token, self.deadline).await?;
        }
        Ok(())
    }

    /// Replaces what is current at once: a token is replaced by a rotation and revoked; of a keyring, the primary and the
    /// staged key are marked and replaced by fresh ones, are never promoted again, and stay readable. Where it died half way it
    /// goes on.
    ///
    /// # Errors
    /// [`OperateError::NotConfirmed`], [`OperateError::RotationFailed`], [`OperateError::NotFinished`], and those of
    /// [`revoke`](Self::revoke).
    pub async fn compromise(&self, confirm: Option<&str>, rng: &mut StdRng) -> Result<Answer, OperateError> {
        let seen = self.look_to_change().await?;
        let name = || seen.secret.name.clone();
        seen.require_confirmed(confirm)?;
        if let Some(until) = seen.policy.hold_until {
            return Err(RotationError::OnHold { name: name(), until }.into());
        }
        if !seen.secret.rotation_enabled {
            return Err(RotationError::RotationNotEnabled { name: name() }.into());
        }
        if Mark::Compromised.holders(&seen.secret.versions).next().is_none() {
            // Those that say what has to die, and AWSPENDING.
            seen.secret.require_stages(4)?;
        }
        // No rotation goes on while keys are missing. What is in use now, and known to others, becomes a secondary key that is marked.
        let seen = match self.kind.ring(&seen.policy, &seen.current)? {
            Some(ring) if !self.missing_keys(&seen).await?.in_use.is_empty() => {
                self.put_keys_back(&seen, &ring.mark_compromised(seen.secret.as_of), rng).await?
            }
            _ => seen,
        };
        let mut replaced = None;
        for marked in self.marked(&seen, Mark::Compromised).await? {
            if self.has_replaced(&seen, &marked)? {
                replaced = Some(marked.version);
            }
        }
        let (exposed, version) = match replaced {
            Some(exposed) => (exposed, seen.current_id.clone()),
            None => {
                let published = self.mark_as_compromised(&seen, rng).await?;
                let from = published.as_ref().unwrap_or(&seen);
                self.tell(from).await;
                (from.current_id.clone(), self.rotate_away(&from.current_id, rng).await?)
            }
        };
        // What an earlier try has published, it has published after the rotation had succeeded.
        let now =
            if is_published(&version) { self.look_at(&version).await? } else { self.wait_for(&version, &seen).await? };
        let secret = now.secret.clone();
        let mut told = if K::REVOCABLE {
            self.revoke_seen(now, &published_version(&exposed, rng), rng).await?
        } else {
            self.verify(&now, rng).await?;
            self.tell_of_exposed_keys(&now, &exposed).await?
        };
        // Those of earlier incidents that had not come to their ends are replaced and revoked as well.
        self.unmark(&[Mark::Compromised], &secret).await?;
        told.insert("replaced".to_owned(), json!(exposed));
        Ok(told)
    }

    /// Whether the current value is the one that replaced the marked one, a moment ago. A rotation that moved `AWSCURRENT`, was
    /// not seen to succeed and has come to no end for so long that it can be aborted is dead: another one has to replace what it
    /// left.
    fn has_replaced(&self, seen: &Seen, marked: &Marked) -> Result<bool, OperateError> {
        let age = |since: SystemTime| seen.secret.as_of.duration_since(since).unwrap_or_default();
        let recent = age(seen.created) < SAME_INCIDENT;
        let alive = age(seen.secret.last_changed.unwrap_or(seen.created)) < DEFAULT_ABORT_AFTER;
        let ours = replaces(&seen.current_id, &marked.version);
        let replaced = ours && recent && (is_published(&seen.current_id) || has_succeeded(seen) || alive);
        Ok(replaced && !self.kind.same_in_use(&seen.policy, &marked.value, &seen.current)?)
    }

    /// Says of the current value that it is known to others, in the value itself where there is a place for it: from that a
    /// rotation makes fresh keys at once, whatever the policy is. What is current then, if that is another version.
    async fn mark_as_compromised(&self, seen: &Seen, rng: &mut StdRng) -> Result<Option<Seen>, OperateError> {
        let marked = self.kind.marked(&seen.subject(), &seen.current)?;
        // A rehearsal: where no rotation can follow, nothing is marked, and the refusal says what to change first.
        self.kind.create(&seen.subject(), marked.as_ref().unwrap_or(&seen.current), rng)?;
        let Some(value) = marked else {
            self.mark(Mark::Compromised, &seen.current_id).await?;
            return Ok(None);
        };
        let version = new_version(rng);
        match self.publish(seen, &value, &[Mark::Compromised], &version).await {
            Ok(now) => Ok(Some(now)),
            Err(error) => {
                // Where nothing was stored there is nothing to unmark.
                let _ = self.drop_stage(&version, &Mark::Compromised.on(&version)).await;
                Err(error)
            }
        }
    }

    /// Has the application load what is current. An action that died may have left it with the value before, and a rotation begins
    /// by asking with the current one. Whoever cannot be told fails the rotation, which says why.
    async fn tell(&self, seen: &Seen) {
        if !self.kind.has_target() {
            return;
        }
        let previous = self.previous(seen).await.ok().flatten();
        let values = Values { old: previous.as_ref().map(|previous| &previous.value), new: &seen.current };
        let deadline = self.deadline.within(self.kind.settle_time(), ROLLBACK_RESERVE);
        let _ = self.kind.set(&seen.subject(), values, Phase::AfterPromotion, deadline).await;
    }

    /// Begins a rotation away from the version, and says to which. One that is open was begun from a value that may be as
    /// exposed: it is given up, unless it is the one that an earlier try, or another request, has begun.
    async fn rotate_away(&self, from: &VersionId, rng: &mut StdRng) -> Result<VersionId, OperateError> {
        let new = VersionId::new(format!("{}{:032x}", replacing(from), rng.random::<u128>()));
        let wait = self.deadline.within(LONGEST_WAIT, Duration::ZERO);
        loop {
            let secret = self.store.describe(self.secret_id).await?;
            if !secret.rotation_enabled || secret.deleted {
                // No repetition makes it possible.
                return Err(RotationError::RotationNotEnabled { name: secret.name }.into());
            }
            match secret.versions.holder(&Stage::Current) {
                Some(current) if current == from => {}
                // Another request was faster.
                Some(current) if replaces(current, from) => return Ok(current.clone()),
                // What is current by now is not what was marked.
                _ => return Err(RotationError::CurrentChanged { name: secret.name }.into()),
            }
            let open = open_rotation(&secret);
            let ours = open.filter(|open| replaces(open, from));
            if let (Some(open), None) = (open, ours) {
                self.drop_stage(open, &Stage::Pending).await?;
            }
            let version = ours.unwrap_or(&new);
            match self.store.start_rotation(self.secret_id, version).await {
                Ok(()) => return Ok(version.clone()),
                // It is being done.
                Err(error) if error.kind == StoreErrorKind::NotNow && ours.is_some() => return Ok(version.clone()),
                // Another one has not ended yet, though it has nothing to promote any more.
                Err(error) if error.kind == StoreErrorKind::NotNow => {
                    if !wait.pause(PAUSE).await {
                        return Err(error.into());
                    }
                }
                // What else is refused is so for good.
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the service has seen the rotation to `version` succeed: until then finishSecret may still put back what it
    /// replaced.
    async fn wait_for(&self, version: &VersionId, before: &Seen) -> Result<Seen, OperateError> {
        let function = before.secret.rotation_function.clone().unwrap_or_default();
        let (mut seen_once, mut looks) = (false, 0);
        let wait = self.deadline.within(LONGEST_WAIT, Duration::ZERO);
        loop {
            let secret = self.store.describe(self.secret_id).await?;
            let listed = secret.versions.contains(version);
            let gone = !listed && (seen_once || looks >= UNLISTED);
            seen_once |= listed;
            looks += 1;
            if gone {
                return Err(OperateError::RotationFailed { version: version.clone(), function, reason: None });
            }
            if secret.versions.holder(&Stage::Current) == Some(version) {
                let now = self.see(secret).await?;
                if has_succeeded(&now) {
                    return Ok(now);
                }
            }
            if !wait.pause(PAUSE).await {
                return Err(OperateError::NotFinished { version: version.clone(), function });
            }
        }
    }

    /// What is exposed in a keyring, and what depends on it.
    async fn tell_of_exposed_keys(&self, now: &Seen, exposed: &VersionId) -> Result<Answer, OperateError> {
        let value = self.store.get(self.secret_id, exposed).await?;
        let old = value.map(|value| self.kind.parse(&now.policy, value.text)).transpose()?;
        if now.current.field().is_none() {
            // A text has no place for the mark that keeps a rollback from it.
            self.mark(Mark::Exposed, exposed).await?;
        }
        let mut told = answer([("version", json!(now.current_id))]);
        told.extend(self.kind.report(&now.subject(), old.as_ref(), &now.current));
        Ok(told)
    }
}

/// Whether the service has seen the rotation to the current version succeed.
fn has_succeeded(seen: &Seen) -> bool {
    seen.secret.last_rotated.is_some_and(|rotated| rotated >= seen.created)
}

/// By this the id of a version begins that replaces a compromised one.
fn replacing(version: &VersionId) -> String {
    digest(["rotation.replaces.v1", version.as_str()])
}

fn replaces(version: &VersionId, compromised: &VersionId) -> bool {
    version.as_str().starts_with(&replacing(compromised))
}

/// By this the id of such a version ends that no rotation has made: the value without its previous token.
const PUBLISHED: &str = "-published";

fn published_version(compromised: &VersionId, rng: &mut StdRng) -> VersionId {
    // At most 64 characters (Secrets Manager API reference, ClientRequestToken).
    VersionId::new(format!("{}{:016x}{PUBLISHED}", replacing(compromised), rng.random::<u64>()))
}

fn is_published(version: &VersionId) -> bool {
    version.as_str().ends_with(PUBLISHED)
}
