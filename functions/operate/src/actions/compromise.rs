//! `compromise`: what is current has leaked, and is replaced at once.
//!
//! A token is replaced by a rotation and revoked. Staged tokens are both replaced at once, without a rotation, see
//! the module `at_once`. Of a keyring, the primary and the staged key are marked and replaced by fresh ones, are
//! never promoted again, and stay readable. A credential is issued afresh. Where the action died half way it goes on.

use std::time::{Duration, SystemTime};

use issued_credential::IssuedCredential;
use issued_credential::issuer::Issuer;
use rand::Rng as _;
use rand::rngs::StdRng;
use rotation::error::RotationError;
use rotation::event::{VersionId, digest};
use rotation::issue::Unused;
use rotation::kind::{Phase, Values};
use rotation::store::{Described, OperationStore, StoreErrorKind};
use rotation::versions::Stage;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::action::Action;
use crate::actions::abort::DEFAULT_ABORT_AFTER;
use crate::actions::revoke::RevokeAnswer;
use crate::error::OperateError;
use crate::kinds::{KeyringKind, OperatedKind, TokenKind};
use crate::marker::{Marker, open_rotation};
use crate::members::{Change, Members};
use crate::session::{Operation, READ_PAUSES, Snapshot, StoredVersion, new_version};

/// A compromise that is asked for again within this time of the version that it made is the same one. Later it is another:
/// what is current by then is replaced as well, which is the safe side.
pub const SAME_INCIDENT: Duration = Duration::from_secs(60 * 60);
/// The same for a secret with consumers: the action is asked for again when the version that it made is delivered.
const SAME_INCIDENT_OF_CONSUMERS: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest that an answer waits for a rotation: whoever asked has to hear that it does not come to its end.
const LONGEST_WAIT: Duration = Duration::from_secs(150);
/// The longest that older credentials keep a leaked one from being replaced.
const LONGEST_ROOM: Duration = Duration::from_secs(60);
/// Waits between two reads of a rotation that runs.
const PAUSE: Duration = Duration::from_secs(1);
/// For so long a rotation that was just started may not be listed yet, because reads are eventually consistent.
const UNLISTED: u32 = 10;

/// The request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compromise {
    /// Of what, and why.
    pub change: Change,
    /// The secret's name once more.
    pub confirm: Option<String>,
}

impl Compromise {
    pub(crate) fn parse(members: &mut Members) -> Result<Self, OperateError> {
        Ok(Self { change: members.change(Action::Compromise)?, confirm: members.confirm() })
    }
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct CompromiseAnswer {
    /// The version that is current.
    pub version: VersionId,
    /// The version with what has leaked.
    pub replaced: VersionId,
    #[serde(flatten)]
    pub(crate) effect: Effect,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Effect {
    #[serde(rename_all = "camelCase")]
    Token { tokens_revoked: usize, proven_refused: bool },
    /// What the kind reports of a ring that has become current.
    Keyring(Map<String, Value>),
}

impl<K: TokenKind, S: OperationStore> Operation<'_, K, S> {
    /// Replaces the token by a rotation, and revokes it.
    ///
    /// # Errors
    /// [`OperateError::NotConfirmed`], [`OperateError::RotationFailed`], [`OperateError::NotFinished`], and those of
    /// [`revoke`](Self::revoke): the token is replaced, and is revoked by the same request after the delivery.
    pub async fn compromise_token(
        &self,
        secret: Described,
        confirm: Option<&str>,
        rng: &mut StdRng,
    ) -> Result<CompromiseAnswer, OperateError> {
        let snapshot = self.snapshot_to_replace(secret, confirm).await?;
        let replaced = self.replaced(&snapshot).await?;
        if self.session.kind.replaces_at_once(&snapshot.policy) {
            return self.compromise_staged(snapshot, replaced, rng).await;
        }
        if replaced.is_none() {
            self.mark_leaked(&snapshot, rng).await?;
        }
        let (exposed, now) = self.replace_by_rotation(&snapshot, replaced, rng).await?;
        let secret = now.secret.clone();
        let RevokeAnswer { version, tokens_revoked, proven_refused } =
            self.revoke_snapshot(now, &published_version(&exposed, rng), rng).await?;
        // Those of earlier incidents that had not come to their ends are replaced and revoked as well.
        self.detach(&[Marker::Compromised], &secret).await?;
        Ok(CompromiseAnswer { version, replaced: exposed, effect: Effect::Token { tokens_revoked, proven_refused } })
    }
}

impl<I: Issuer, S: OperationStore> Operation<'_, IssuedCredential<I>, S> {
    /// Has another credential issued by a rotation, and revokes every credential that is not current, without waiting for the overlap.
    ///
    /// # Errors
    /// [`OperateError::NotConfirmed`], [`OperateError::RotationFailed`], [`OperateError::NotFinished`], and those of
    /// [`revoke_issued`](Self::revoke_issued): the credential is replaced, and is revoked by the same request after the delivery.
    pub async fn compromise_issued(
        &self,
        secret: Described,
        confirm: Option<&str>,
        rng: &mut StdRng,
    ) -> Result<CompromiseAnswer, OperateError> {
        let snapshot = self.snapshot_to_replace(secret, confirm).await?;
        let replaced = self.replaced(&snapshot).await?;
        let mut earlier = Unused::default();
        if replaced.is_none() {
            // First: whoever dies then is asked again.
            self.mark_leaked(&snapshot, rng).await?;
            earlier = self.make_room(&snapshot, rng).await;
        }
        let (exposed, now) = self.replace_by_rotation(&snapshot, replaced, rng).await?;
        let unused = self.revoke_issued_snapshot(&now, rng).await?;
        // Until the issuer says that it is gone, the same request asks again.
        let proven_refused = unused.later == 0;
        if proven_refused {
            self.detach(&[Marker::Compromised], &now.secret).await?;
        }
        let tokens_revoked = earlier.gone + unused.gone;
        let version = now.current_id;
        Ok(CompromiseAnswer { version, replaced: exposed, effect: Effect::Token { tokens_revoked, proven_refused } })
    }

    /// Revokes what is older than a leaked credential, as far as that is possible in a short time. A provider may have room for two, and
    /// within an overlap there are two.
    async fn make_room(&self, snapshot: &Snapshot, rng: &mut StdRng) -> Unused {
        let deadline = self.session.deadline.within(LONGEST_ROOM, Duration::ZERO);
        // A rotation that found no room may be open.
        let revoked = deadline.bound(self.revoke_others(snapshot, rng)).await;
        let problem = match revoked {
            Some(Ok(unused)) => return unused,
            Some(Err(error)) => error.to_string(),
            None => "the issuer takes too long".to_owned(),
        };
        let secret = snapshot.secret.name.as_str();
        tracing::warn!(secret, problem, "older credentials are revoked after the rotation, and not before it");
        Unused::default()
    }
}

impl<K: KeyringKind, S: OperationStore> Operation<'_, K, S> {
    /// Replaces the primary and the staged key by fresh ones. They stay in the ring, marked, so that rows stay readable.
    ///
    /// # Errors
    /// [`OperateError::NotConfirmed`], [`OperateError::RotationFailed`], [`OperateError::NotFinished`], and those of the kind.
    pub async fn compromise_keyring(
        &self,
        secret: Described,
        confirm: Option<&str>,
        rng: &mut StdRng,
    ) -> Result<CompromiseAnswer, OperateError> {
        let mut snapshot = self.snapshot_to_replace(secret, confirm).await?;
        // No rotation goes on while keys are missing. What is in use now, and has leaked, becomes a secondary key that is marked.
        if !self.missing_keys(&snapshot).await?.in_use.is_empty() {
            let ring = self.session.kind.keyring(&snapshot.policy, &snapshot.current)?;
            snapshot = self.put_keys_back(&snapshot, &ring.mark_compromised(snapshot.secret.as_of), rng).await?;
        }
        let (exposed, version) = match self.replaced(&snapshot).await? {
            Some(exposed) => (exposed, snapshot.current_id.clone()),
            None => {
                let published = self.publish_as_compromised(&snapshot, rng).await?;
                self.rotate_away(published.as_ref().unwrap_or(&snapshot), rng).await?
            }
        };
        let now = self.replacement(&version, &snapshot).await?;
        self.verify(&now, rng).await?;
        let report = self.report_of_exposed(&now, &exposed).await?;
        // Those of earlier incidents that had not come to their ends are replaced as well.
        self.detach(&[Marker::Compromised], &now.secret).await?;
        Ok(CompromiseAnswer { version: now.current_id, replaced: exposed, effect: Effect::Keyring(report) })
    }

    /// Marks the current value as leaked, in the value itself where the format has a place for the mark. A rotation makes fresh keys from a
    /// marked value at once, whatever the policy says. Answers the version that is current then, if that is another one.
    async fn publish_as_compromised(
        &self,
        snapshot: &Snapshot,
        rng: &mut StdRng,
    ) -> Result<Option<Snapshot>, OperateError> {
        let Some(value) = self.session.kind.as_compromised(&snapshot.subject(), &snapshot.current)? else {
            self.mark_leaked(snapshot, rng).await?;
            return Ok(None);
        };
        self.session.kind.create(&snapshot.subject(), &value, rng)?;
        let version = new_version(rng);
        match self.publish(snapshot, &value, &[Marker::Compromised], &version).await {
            Ok(now) => Ok(Some(now)),
            Err(error) => {
                // Where nothing was stored there is nothing to take off.
                let _ = self.session.take_off(Marker::Compromised.on(&version), &version).await;
                Err(error)
            }
        }
    }

    /// What is exposed in a keyring, and what depends on it.
    async fn report_of_exposed(&self, now: &Snapshot, exposed: &VersionId) -> Result<Map<String, Value>, OperateError> {
        let value = self.find(exposed).await?;
        let old = value.map(|value| self.session.kind.parse(&now.policy, value.text)).transpose()?;
        if now.current.field().is_none() {
            // A text has no place to say that a key has leaked: the label keeps a rollback from it.
            self.attach(Marker::Exposed, exposed).await?;
        }
        Ok(self.session.kind.report(&now.subject(), old.as_ref(), &now.current))
    }
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Reads a secret whose value may be replaced at once.
    ///
    /// # Errors
    /// [`OperateError::NotConfirmed`], and what would refuse the rotation.
    async fn snapshot_to_replace(&self, secret: Described, confirm: Option<&str>) -> Result<Snapshot, OperateError> {
        let snapshot = self.snapshot_to_change(secret).await?;
        let name = || snapshot.secret.name.clone();
        snapshot.require_confirmed(confirm)?;
        if let Some(until) = snapshot.policy.hold_until {
            return Err(RotationError::OnHold { name: name(), until }.into());
        }
        if !snapshot.secret.rotation_enabled {
            return Err(RotationError::RotationNotEnabled { name: name() }.into());
        }
        if Marker::Compromised.holders(&snapshot.secret.versions).next().is_none() {
            // Those that say what has to die, AWSPENDING, and those of an attempt to issue.
            snapshot.secret.require_stages(if self.session.kind.is_issued() { 5 } else { 4 })?;
        }
        Ok(snapshot)
    }

    /// The version that has leaked, and the secret once a rotation has replaced it. `replaced` is the version that the
    /// current one has replaced already.
    async fn replace_by_rotation(
        &self,
        snapshot: &Snapshot,
        replaced: Option<VersionId>,
        rng: &mut StdRng,
    ) -> Result<(VersionId, Snapshot), OperateError> {
        let (exposed, version) = match replaced {
            Some(exposed) => (exposed, snapshot.current_id.clone()),
            None => self.rotate_away(snapshot, rng).await?,
        };
        Ok((exposed, self.replacement(&version, snapshot).await?))
    }

    /// Marks what is current as leaked. Where no rotation can follow, nothing is marked, and the refusal says what to change first.
    async fn mark_leaked(&self, snapshot: &Snapshot, rng: &mut StdRng) -> Result<(), OperateError> {
        self.session.kind.create(&snapshot.subject(), &snapshot.current, rng)?;
        self.attach(Marker::Compromised, &snapshot.current_id).await
    }

    /// The version that the current one has replaced, if an earlier try or another request has come so far.
    async fn replaced(&self, snapshot: &Snapshot) -> Result<Option<VersionId>, OperateError> {
        let mut replaced = None;
        for leaked in self.versions_with(snapshot, Marker::Compromised).await? {
            if self.has_replaced(snapshot, &leaked)? {
                replaced = Some(leaked.version);
            }
        }
        Ok(replaced)
    }

    /// Whether the current value is the one that replaced the leaked one, a moment ago. A rotation may have moved `AWSCURRENT` and never
    /// succeeded. When that rotation is old enough to be aborted, it is dead, and another rotation has to replace its version.
    fn has_replaced(&self, snapshot: &Snapshot, leaked: &StoredVersion) -> Result<bool, OperateError> {
        let age = |since: SystemTime| snapshot.secret.as_of.duration_since(since).unwrap_or_default();
        let same = if self.has_consumers(snapshot) { SAME_INCIDENT_OF_CONSUMERS } else { SAME_INCIDENT };
        // The delivery of staged tokens may take even longer.
        let recent = age(snapshot.created) < same || self.session.kind.replaces_at_once(&snapshot.policy);
        let alive = age(snapshot.secret.last_changed.unwrap_or(snapshot.created)) < DEFAULT_ABORT_AFTER;
        let ours = replaces(&snapshot.current_id, &leaked.version);
        let replaced = ours && recent && (is_published(&snapshot.current_id) || snapshot.has_succeeded() || alive);
        Ok(replaced && !self.session.kind.same_in_use(&snapshot.policy, &leaked.value, &snapshot.current)?)
    }

    /// Rotates away from what is current: the version that has leaked, and the one that replaces it.
    async fn rotate_away(&self, snapshot: &Snapshot, rng: &mut StdRng) -> Result<(VersionId, VersionId), OperateError> {
        self.tell(snapshot).await;
        let replacing = self.start_rotation(&snapshot.current_id, rng).await?;
        // No rotation ends at once.
        self.session.deadline.pause(PAUSE).await;
        Ok((snapshot.current_id.clone(), replacing))
    }

    /// The secret once `version` has replaced what leaked. What an earlier try has published, it has published after the rotation had
    /// succeeded.
    async fn replacement(&self, version: &VersionId, before: &Snapshot) -> Result<Snapshot, OperateError> {
        if is_published(version) {
            self.snapshot_once_current(version).await
        } else {
            self.wait_for(version, before).await
        }
    }

    /// Has the application load what is current. An action that died may have left it with the value before, and a rotation begins
    /// by asking with the current one. An application that cannot be told fails the rotation, which says why.
    async fn tell(&self, snapshot: &Snapshot) {
        if !self.session.kind.has_target() {
            return;
        }
        let previous = self.previous(snapshot).await.ok().flatten();
        let values = Values { old: previous.as_ref().map(|previous| &previous.value), new: &snapshot.current };
        let deadline = self.session.deadline_to_settle();
        let _ = self.session.kind.set(&snapshot.subject(), values, Phase::AfterPromotion, deadline).await;
    }

    /// Begins a rotation away from the version, and says to which. An open rotation was begun from a value that may be exposed too, so it
    /// is given up. The rotation that an earlier try or another request has begun goes on.
    async fn start_rotation(&self, from: &VersionId, rng: &mut StdRng) -> Result<VersionId, OperateError> {
        let new = VersionId::new(format!("{}{:032x}", replacing(from), rng.random::<u128>()));
        let wait = self.session.deadline.within(LONGEST_WAIT, Duration::ZERO);
        let mut pauses = READ_PAUSES.into_iter();
        loop {
            let secret = self.session.describe().await?;
            if !secret.rotation_enabled || secret.deleted {
                // No repetition makes it possible.
                return Err(RotationError::RotationNotEnabled { name: secret.name }.into());
            }
            match secret.versions.holder(&Stage::Current) {
                Some(current) if current == from => {}
                // Another request was faster.
                Some(current) if replaces(current, from) => return Ok(current.clone()),
                // What is current by now is not what was marked, or this read shows what was current before that was published.
                _ => match pauses.next() {
                    Some(pause) if wait.pause(pause).await => continue,
                    _ => return Err(RotationError::CurrentChanged { name: secret.name }.into()),
                },
            }
            let open = open_rotation(&secret);
            let ours = open.filter(|open| replaces(open, from));
            if let (Some(open), None) = (open, ours) {
                self.session.take_off(Stage::Pending, open).await?;
            }
            let version = ours.unwrap_or(&new);
            match self.session.store.start_rotation(self.session.secret_id, version).await {
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
    async fn wait_for(&self, version: &VersionId, before: &Snapshot) -> Result<Snapshot, OperateError> {
        let function = before.secret.rotation_function.clone().unwrap_or_default();
        let (mut listed_once, mut reads) = (false, 0);
        let wait = self.session.deadline.within(LONGEST_WAIT, Duration::ZERO);
        loop {
            let secret = self.session.describe().await?;
            let listed = secret.versions.contains(version);
            let gone = !listed && (listed_once || reads >= UNLISTED);
            listed_once |= listed;
            reads += 1;
            if gone {
                return Err(OperateError::RotationFailed { version: version.clone(), function, reason: None });
            }
            if secret.versions.holder(&Stage::Current) == Some(version) {
                let now = self.snapshot_of(secret).await?;
                if now.has_succeeded() {
                    return Ok(now);
                }
            }
            if !wait.pause(PAUSE).await {
                return Err(OperateError::NotFinished { version: version.clone(), function: Some(function) });
            }
        }
    }
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

/// The version that was replaced at once by the current one, if its tokens are not proven dead yet.
pub(crate) fn replaced_at_once(secret: &Described) -> Option<&VersionId> {
    let current = secret.versions.holder(&Stage::Current)?;
    let mut exposed = Marker::Compromised.holders(&secret.versions);
    exposed.find(|exposed| is_published(current) && replaces(current, exposed))
}

pub(crate) fn published_version(compromised: &VersionId, rng: &mut StdRng) -> VersionId {
    // At most 64 characters (Secrets Manager API reference, ClientRequestToken).
    VersionId::new(format!("{}{:016x}{PUBLISHED}", replacing(compromised), rng.random::<u64>()))
}

fn is_published(version: &VersionId) -> bool {
    version.as_str().ends_with(PUBLISHED)
}
