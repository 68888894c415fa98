//! Encryption keys: the keyring that encrypts an application's stored data.
//!
//! With `rotation:promotion=staged` a rotation makes the staged key primary and stages a new key. So every consumer has
//! held a key for a whole period before the key encrypts anything. The first rotation of a bare key only adds the
//! staged key.
//!
//! A rotation makes a new key primary at once with `immediate`, or when `NAME_RING` marks the primary key as
//! compromised. It also replaces a staged key, because the staged key was equally exposed.
//!
//! No rotation drops a key, so all stored data stays readable.
//!
//! A new primary key needs consumers that read the whole keyring. The application reports the ids of its keys, or the
//! stack declares it (`CONSUMERS_KEYRING_AWARE`). The function asks the application with a token from a secret of its
//! own.
//!
//! # Why it is so
//!
//! - The age of a staged key counts from the rotation that is known to have succeeded. `created` is the time at which
//!   the key's version was made, but consumers see the key only when that version becomes current. LastRotatedDate is
//!   the latest time at which that can have happened.
//! - Without a LastRotatedDate at or after `created`, a retry may have promoted the version. Then the age counts from
//!   `created` plus [`MAX_PENDING_AGE`] plus [`LONGEST_INVOCATION`].
//! - A value that a person stored may not have held the key before. So the age never counts from before the current
//!   version's CreatedDate.
//! - A pending ring has to follow the current ring exactly. A person may change a key, a mark or a note in `NAME_RING`,
//!   or disable a Tink key, while the rotation is open. The rotation then fails with `CurrentChanged`.
//! - With `TARGET_INSTANCES` each instance has to report every key before promotion, and the age check is skipped. One
//!   instance that lacks a key stops the promotion, whatever the others report.
//! - With `immediate` the replaced version does not hold the new primary key. A rollback does not make that version
//!   current again, because data may be encrypted with the new key. The failure is reported as `RollbackFailed`, and
//!   the retry verifies again.

mod consumers;
mod proof;
mod report;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rotation::archive::{ArchiveSettings, ToArchive};
use rotation::deadline::Deadline;
use rotation::document::{Document, FieldName};
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::keyring::{KEY_SETTINGS, Key, KeyFormat, KeyId, Keyring, sign_of_token};
use rotation::kind::{Phase, SecretKind, SecretReference, Subject, Values};
use rotation::policy::{PROMOTION, Promotion, RotationPolicy, Settings, VERIFY, Verify};
use rotation::secret::SecretText;
use rotation::target::http::{HttpTarget, TokenSecret};
use rotation::target::{NeededKeys, Target, prove_keys, refresh};
use serde_json::{Map, Value, json};

use crate::consumers::KEYRING_AWARE;
use crate::proof::prove_ring;
use crate::report::remaining;

pub use crate::consumers::{Consumers, DEFAULT_CACHE_TIME};

/// How long a pending ring may wait for its promotion. The age of a staged key counts from the time its version was
/// made. This bound limits how much later consumers can have seen the key.
pub const MAX_PENDING_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Lambda's longest timeout (Lambda quotas). A promotion can come so much later than the check that found it in time.
pub const LONGEST_INVOCATION: Duration = Duration::from_secs(15 * 60);

/// The keyring's kind, with the application that uses the keyring, if the stack names one.
#[derive(Debug)]
pub struct EncryptionKey<T = HttpTarget> {
    target: Option<(T, TokenSecret)>,
    consumers: Consumers,
    archive: Option<ArchiveSettings>,
}

impl EncryptionKey {
    /// Reads the target ([`HttpTarget::with_token_from_environment`]), the consumers ([`Consumers::from_environment`])
    /// and the archive ([`ArchiveSettings::from_environment`]).
    ///
    /// # Errors
    /// The error names the unusable variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let target = HttpTarget::with_token_from_environment(environment)?;
        let archive = ArchiveSettings::from_environment(environment)?;
        Ok(Self::new(target, Consumers::from_environment(environment)?).with_archive(archive))
    }
}

impl<T: Target> EncryptionKey<T> {
    /// Makes the kind. `target` is the application, with the secret of the token that it wants. With `None`, no
    /// application is asked.
    #[must_use]
    pub fn new(target: Option<(T, TokenSecret)>, consumers: Consumers) -> Self {
        Self { target, consumers, archive: None }
    }

    /// Sets the archive of the keys.
    #[must_use]
    pub fn with_archive(self, archive: Option<ArchiveSettings>) -> Self {
        Self { archive, ..self }
    }

    /// Replaces the target by `way` of it; the rest stays.
    pub fn map_target<U>(self, way: impl FnOnce(T) -> U) -> EncryptionKey<U> {
        let Self { target, consumers, archive } = self;
        EncryptionKey { target: target.map(|(target, token)| (way(target), token)), consumers, archive }
    }

    /// The longest time for which a consumer caches a secret.
    #[must_use]
    pub fn cache_time(&self) -> Duration {
        self.consumers.cache_time
    }

    /// Whether every instance has to report the keys of a ring before its promotion. The age check is skipped then.
    fn asks_every_instance(&self) -> bool {
        let counted = self.target.as_ref().is_some_and(|(target, _)| target.settings().instances.is_some());
        counted && !self.consumers.keyring_aware
    }

    /// The ring that follows `ring`, the ring of `current`.
    fn next(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        ring: &Keyring,
        rng: &mut StdRng,
    ) -> Result<Keyring, RotationError> {
        let now = subject.now;
        let mut new_key = |ring: &Keyring| new_key(subject, current, ring, rng);
        let next = match (promotion_of(subject.policy, ring), ring.staged()) {
            (Promotion::Immediate, staged) => {
                let primary = new_key(ring)?;
                let next = ring.clone().unstage().replace_primary(primary, now)?;
                match staged {
                    None => next,
                    Some(_) => {
                        let staged = new_key(&next)?;
                        next.stage(staged)?
                    }
                }
            }
            (Promotion::Staged, None) => ring.clone().stage(new_key(ring)?)?,
            (Promotion::Staged, Some(staged)) if staged.dates().compromised.is_some() => {
                ring.clone().unstage().stage(new_key(ring)?)?
            }
            (Promotion::Staged, Some(staged)) => match staged.dates().created {
                _ if self.asks_every_instance() => promote(ring, now, &mut new_key)?,
                // A person put the key there by hand, so its age is not known.
                None => ring.clone().date_staged(now),
                Some(created) => {
                    // A value that a person stored after `created` may not have held the key before.
                    let seen = seen_by(created, subject.last_rotated).max(subject.current_created.unwrap_or(created));
                    let from = seen + self.consumers.cache_time;
                    if now < from {
                        let name = subject.name.to_owned();
                        return Err(RotationError::StagedTooYoung { name, key: staged.id(), from });
                    }
                    promote(ring, now, &mut new_key)?
                }
            },
        };
        if needs_ring_readers(subject.policy, ring, &next) && !self.consumers.keyring_aware {
            if self.target.is_none() {
                let problem = format!(
                    "nobody is asked (TARGET_VERIFY_URL is not set); declare with {KEYRING_AWARE}=true that every consumer reads the whole keyring"
                );
                return Err(RotationError::ConsumersUnproven { problem });
            }
            require_provable(subject.policy, ring, &next)?;
        }
        Ok(next)
    }
}

/// How a ring gets its next primary key: at once when the primary key is leaked, otherwise as the policy says.
fn promotion_of(policy: &RotationPolicy, ring: &Keyring) -> Promotion {
    match ring.primary().dates().compromised {
        Some(_) => Promotion::Immediate,
        None => policy.get(&PROMOTION),
    }
}

/// Refuses `staged` for a text secret, because a text has no place for a staged key.
fn check_policy(policy: &RotationPolicy) -> Result<(), RotationError> {
    if policy.field.is_some() || policy.get(&PROMOTION) == Promotion::Immediate {
        return Ok(());
    }
    let problem = "is staged, and a text secret has no place for a staged key: store a JSON object and name its member with rotation:field, or choose immediate";
    Err(RotationError::InvalidPolicy { setting: PROMOTION.to_string(), problem: problem.to_owned() })
}

/// Whether a consumer that reads a single key, and could work with `old`, fails with `new`.
fn needs_ring_readers(policy: &RotationPolicy, old: &Keyring, new: &Keyring) -> bool {
    // A Fernet list with a second key is not a Fernet key any more.
    let became_list = KeyFormat::of(policy) == KeyFormat::Fernet && old.keys().count() == 1 && new.keys().count() > 1;
    old.primary().id() != new.primary().id() || became_list
}

fn promote(
    ring: &Keyring,
    now: SystemTime,
    new_key: &mut impl FnMut(&Keyring) -> Result<Key, RotationError>,
) -> Result<Keyring, RotationError> {
    let next = ring.clone().promote(now)?;
    let staged = new_key(&next)?;
    Ok(next.stage(staged)?)
}

/// A key with an id that is new in the ring, in a form that readers of the value `current` can read.
fn new_key(subject: &Subject<'_>, current: &Document, ring: &Keyring, rng: &mut StdRng) -> Result<Key, RotationError> {
    let wire = KeyFormat::of(subject.policy).wire();
    loop {
        let key = key_without(subject.now, rng, |id| ring.get(id).is_some());
        if wire.fits(current, &key)? {
            return Ok(key);
        }
    }
}

/// A key with an id that is not `taken`, and not 0, because Tink treats 0 as no id.
fn key_without(now: SystemTime, rng: &mut StdRng, taken: impl Fn(KeyId) -> bool) -> Key {
    loop {
        let key = Key::generate(now, rng);
        if key.id().number() != 0 && !taken(key.id()) {
            return key;
        }
    }
}

/// The latest time at which a key made at `created` came into the current value. A rotation that succeeded since
/// `created` has promoted the key. Without such a rotation, the bound is the latest promotion that any version may
/// have.
fn seen_by(created: SystemTime, last_rotated: Option<SystemTime>) -> SystemTime {
    let succeeded = last_rotated.filter(|rotated| *rotated >= created);
    succeeded.unwrap_or(created + MAX_PENDING_AGE + LONGEST_INVOCATION)
}

fn parse(subject: &Subject<'_>, document: &Document) -> Result<Keyring, RotationError> {
    KeyFormat::of(subject.policy).wire().parse(document)
}

fn ids(ring: &Keyring) -> BTreeSet<KeyId> {
    ring.keys().map(|(_, key)| key.id()).collect()
}

/// Fails with `CurrentChanged`, unless `old` and `new` differ only in what a rotation changes.
fn require_made_from(subject: &Subject<'_>, old: &Document, new: &Document) -> Result<(), RotationError> {
    let (was, is) = (parse(subject, old)?, parse(subject, new)?);
    let (primary, staged) = (is.primary().id(), is.staged().map(Key::id));
    // At once means a fresh primary key, and no staged key from the old ring.
    let succeeds = match promotion_of(subject.policy, &was) {
        Promotion::Immediate => was.get(primary).is_none() && staged.is_none_or(|staged| was.get(staged).is_none()),
        Promotion::Staged => primary == was.primary().id() || was.staged().is_some_and(|staged| staged.id() == primary),
    };
    // Since then nobody has removed a key, or marked one.
    let added_by_us =
        is.keys().all(|(_, key)| was.get(key.id()).is_some() || [Some(primary), staged].contains(&Some(key.id())));
    let same_dates = was.keys().all(|(_, key)| {
        let Some(now) = is.get(key.id()) else { return false };
        let (then, now) = (key.dates(), now.dates());
        let created = then.created == now.created || (then.created.is_none() && staged == Some(key.id()));
        let promoted = then.promoted == now.promoted || (primary == key.id() && primary != was.primary().id());
        created && promoted && then.compromised == now.compromised
    });
    let promotable = is.primary().dates().compromised.is_none() || primary == was.primary().id();
    let follows = is.holds_all_of(&was) && succeeds && added_by_us && same_dates && promotable;
    // The ring does not tell everything, such as a disabled key. With the old ring written over both values, they must
    // be equal.
    let wire = KeyFormat::of(subject.policy).wire();
    let rest = |document: &Document| -> Result<Vec<Option<SecretText>>, RotationError> {
        let document = wire.write(document, &was)?;
        let Some(field) = document.field() else { return Ok(vec![Some(document.text().clone())]) };
        wire.members(field).iter().map(|member| document.member(member)).collect()
    };
    let made_from = follows && rest(old)? == rest(new)?;
    if made_from { Ok(()) } else { Err(RotationError::CurrentChanged { name: subject.name.to_owned() }) }
}

/// Fails with `ConsumersUnproven`, unless the application can prove before promotion that it knows the new primary key.
fn require_provable(policy: &RotationPolicy, old: &Keyring, new: &Keyring) -> Result<(), RotationError> {
    if policy.get(&VERIFY) == Verify::Before || old.get(new.primary().id()).is_some() {
        return Ok(());
    }
    let problem = format!(
        "with rotation:verify=after the application cannot know the new key before it encrypts; choose rotation:verify=before, or declare {KEYRING_AWARE}=true"
    );
    Err(RotationError::ConsumersUnproven { problem })
}

impl<T: Target + Send> SecretKind for EncryptionKey<T> {
    const SETTINGS: Settings = KEY_SETTINGS;
    const VARIABLES: &'static [&'static str] = &["TARGET_", "CONSUMERS_", "KEY_ARCHIVE_"];

    fn has_target(&self) -> bool {
        self.target.is_some()
    }

    fn settle_time(&self) -> Duration {
        // One refresh, and the reports of all instances.
        self.target.as_ref().map_or(Duration::ZERO, |(target, _)| 2 * target.settings().timeout)
    }

    fn credential(&self, name: &str) -> Result<Option<SecretReference>, RotationError> {
        self.target.as_ref().map(|(_, token)| token.of(name)).transpose()
    }

    fn parse(&self, policy: &RotationPolicy, text: SecretText) -> Result<Document, RotationError> {
        let document = KeyFormat::of(policy).wire().document(text, policy.field.as_ref())?;
        let Some((found, member)) = sign_of_token(&document) else { return Ok(document) };
        let (sign, rotates, function) = (format!("member {member}"), "keyrings", "…admin-token");
        Err(RotationError::WrongKind { found, sign, rotates, function })
    }

    fn check_configuration(&self, policy: &RotationPolicy, _: Option<Duration>) -> Result<(), RotationError> {
        check_policy(policy)
    }

    fn first(&self, subject: &Subject<'_>, rng: &mut StdRng) -> Result<Document, RotationError> {
        check_policy(subject.policy)?;
        let (policy, now) = (subject.policy, subject.now);
        let wire = KeyFormat::of(policy).wire();
        let primary = key_without(now, rng, |_| false);
        let text = wire.first(&primary);
        let Some(field) = &policy.field else { return wire.document(text, None) };
        let (value, ring) = (Document::first(&text, Some(field))?, Keyring::new(primary.promoted_at(now))?);
        let ring = match policy.get(&PROMOTION) {
            Promotion::Immediate => ring,
            Promotion::Staged => {
                let staged = new_key(subject, &value, &ring, rng)?;
                ring.stage(staged)?
            }
        };
        wire.write(&value, &ring)
    }

    fn create(&self, subject: &Subject<'_>, current: &Document, rng: &mut StdRng) -> Result<Document, RotationError> {
        check_policy(subject.policy)?;
        let next = self.next(subject, current, &parse(subject, current)?, rng)?;
        KeyFormat::of(subject.policy).wire().write(current, &next)
    }

    fn members(&self, policy: &RotationPolicy, value: &Document) -> Vec<FieldName> {
        value.field().map_or(vec![], |field| KeyFormat::of(policy).wire().members(field))
    }

    /// A retirement needs no delivery: consumers only hold a key too many.
    fn needs_no_delivery(
        &self,
        policy: &RotationPolicy,
        delivered: &Document,
        current: &Document,
        _: SystemTime,
    ) -> Result<bool, RotationError> {
        let wire = KeyFormat::of(policy).wire();
        let (held, needed) = (wire.parse(delivered)?, wire.parse(current)?);
        let holds = |key: &Key| held.get(key.id()).is_some_and(|held| held.material() == key.material());
        Ok(held.primary().id() == needed.primary().id() && needed.keys().all(|(_, key)| holds(key)))
    }

    fn check_succession(
        &self,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        created: SystemTime,
    ) -> Result<(), RotationError> {
        if old.text() == new.text() {
            return Err(RotationError::ValueUnchanged { version: subject.admitted.version().clone() });
        }
        require_made_from(subject, old, new)?;
        if subject.now > created + MAX_PENDING_AGE {
            return Err(RotationError::PendingTooOld { name: subject.name.to_owned(), created });
        }
        Ok(())
    }

    fn may_be_put_back(&self, subject: &Subject<'_>, old: &Document, new: &Document) -> bool {
        let (Ok(old), Ok(new)) = (parse(subject, old), parse(subject, new)) else { return false };
        // The staged key may be missing in `old`: it has encrypted nothing.
        let in_use = std::iter::once(new.primary()).chain(new.secondary());
        in_use.into_iter().all(|key| old.get(key.id()).is_some_and(|held| held.material() == key.material()))
    }

    fn archive(&self, subject: &Subject<'_>, value: &Document) -> Result<Option<ToArchive>, RotationError> {
        let Some(settings) = &self.archive else { return Ok(None) };
        settings.of(subject.name, parse(subject, value)?, vec![]).map(Some)
    }

    fn ring(&self, policy: &RotationPolicy, value: &Document) -> Result<Option<Keyring>, RotationError> {
        KeyFormat::of(policy).wire().parse(value).map(Some)
    }

    fn report(&self, subject: &Subject<'_>, old: Option<&Document>, new: &Document) -> Map<String, Value> {
        let Ok(ring) = parse(subject, new) else { return Map::new() };
        let old = old.and_then(|old| parse(subject, old).ok());
        let secondary: Vec<KeyId> = ring.secondary().iter().map(Key::id).collect();
        let mut report = Map::new();
        report.insert("primaryKey".to_owned(), json!(ring.primary().id()));
        report.insert("stagedKey".to_owned(), json!(ring.staged().map(Key::id)));
        report.insert("secondaryKeys".to_owned(), json!(secondary));
        report.insert("remaining".to_owned(), json!(remaining(old.as_ref(), &ring)));
        report
    }

    async fn set(
        &self,
        subject: &Subject<'_>,
        _: Values<'_>,
        phase: Phase,
        deadline: Deadline,
    ) -> Result<(), RotationError> {
        let Some((target, _)) = &self.target else { return Ok(()) };
        if phase == Phase::BeforePromotion && subject.policy.get(&VERIFY) == Verify::After {
            // The application reads AWSCURRENT only: it has nothing to load yet.
            return Ok(());
        }
        let tokens: Vec<_> = subject.credential.into_iter().collect();
        refresh(target, subject.name, &tokens, deadline).await
    }

    async fn test(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        let new = parse(subject, values.new)?;
        let old = values.old.map(|old| parse(subject, old)).transpose()?;
        if let (Phase::BeforePromotion, Some(old)) = (phase, values.old) {
            // If the current ring has changed, no retry can make this pending ring follow it.
            require_made_from(subject, old, values.new)?;
        }
        prove_ring(subject, values.old, (values.new, &new), rng)?;
        let (Some((target, _)), Some(token)) = (&self.target, subject.credential) else { return Ok(()) };
        let aware = self.consumers.keyring_aware;
        let silence_is_accepted =
            aware || !old.as_ref().is_some_and(|old| needs_ring_readers(subject.policy, old, &new));
        let needed = match (phase, subject.policy.get(&VERIFY), &old) {
            (Phase::Configuration, _, _) => NeededKeys { silence_is_accepted: true, ..NeededKeys::default() },
            (Phase::AfterPromotion, _, _) => {
                let encrypts_with = Some(new.primary().id());
                NeededKeys { decrypts_with: ids(&new), encrypts_with, silence_is_accepted }
            }
            // The application knows the current ring only, so that ring must hold the next primary key.
            (Phase::BeforePromotion, Verify::After, Some(old)) => {
                if !aware {
                    require_provable(subject.policy, old, &new)?;
                }
                NeededKeys { decrypts_with: ids(old), encrypts_with: None, silence_is_accepted }
            }
            (Phase::BeforePromotion, _, _) => {
                NeededKeys { decrypts_with: ids(&new), encrypts_with: None, silence_is_accepted }
            }
        };
        let refused = RotationError::TargetRefused {
            which: "admin",
            hint: ": is it the one in TARGET_TOKEN_SECRET, and TARGET_HEADER right?",
        };
        prove_keys(target, subject.name, token, &needed, refused, deadline).await
    }
}
