//! The kinds of secrets that the actions know: what they need of both, of tokens alone, and of keyrings alone.

use std::future::Future;
use std::time::{Duration, SystemTime};

use admin_token::AdminToken;
use encryption_key::{EncryptionKey, LONGEST_INVOCATION};
use issued_credential::issuer::Issuer;
use issued_credential::{ISSUED_SETTINGS, IssuedCredential};
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::keyring::{KEY_SETTINGS, Key, KeyFormat, KeyId, KeyState, Keyring};
use rotation::kind::{Phase, SecretKind, Subject};
use rotation::policy::{RotationPolicy, Settings};
use rotation::secret::SecretText;
use rotation::store::Described;
use rotation::target::Target;
use rotation::target::refusal::{is_refused, prove_refused};
use rotation::time::format_timestamp;
use rotation::token::TOKEN_SETTINGS;
use serde::Serialize;

use crate::error::OperateError;

/// What a secret holds, by the name of the function that rotates it. A further kind is a variant here, and the compiler names the places
/// where it has to be told from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A token.
    Token,
    /// A keyring.
    Keyring,
    /// A credential that an issuer makes.
    Issued,
    /// Only the function that rotates it knows, or the service that does so by itself.
    Other,
}

impl Kind {
    /// Those that the actions know.
    pub const KNOWN: [Self; 3] = [Self::Token, Self::Keyring, Self::Issued];

    /// `None` when nobody rotates the secret.
    #[must_use]
    pub fn of(secret: &Described) -> Option<Self> {
        if secret.rotation_function.is_none() && !secret.rotation_enabled {
            return None;
        }
        Some(Self::KNOWN.into_iter().find(|kind| secret.is_rotated_by(kind.name())).unwrap_or(Self::Other))
    }

    /// Its name, by which the name of its function ends.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "admin-token",
            Self::Keyring => "encryption-key",
            Self::Issued => "issued-credential",
            Self::Other => "other",
        }
    }

    /// The settings that its function has.
    #[must_use]
    pub fn settings(self) -> Settings {
        match self {
            Self::Token => TOKEN_SETTINGS,
            Self::Keyring => KEY_SETTINGS,
            Self::Issued => ISSUED_SETTINGS,
            Self::Other => &[],
        }
    }
}

/// What there is to say of a current value; never the value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Summary {
    /// Of a token.
    #[serde(rename_all = "camelCase")]
    Token {
        /// Until when the previous token is accepted.
        previous_accepted_until: Option<String>,
        /// How long that is, in seconds.
        overlap_seconds_left: u64,
        /// Whether the value holds the token that the next rotation makes current.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        next_token_staged: bool,
    },
    /// Of an issued credential.
    Issued {
        /// When it ends, if its issuer said so.
        expires: Option<String>,
    },
    /// Of a keyring.
    Keyring {
        /// Its keys.
        keys: Vec<KeySummary>,
    },
}

/// A key of a ring, without its material.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeySummary {
    id: KeyId,
    state: KeyState,
    created: Option<String>,
    promoted: Option<String>,
    compromised: Option<String>,
}

impl KeySummary {
    fn of((state, key): (KeyState, &Key)) -> Self {
        let dates = key.dates();
        let [created, promoted, compromised] =
            [dates.created, dates.promoted, dates.compromised].map(|date| date.map(format_timestamp));
        Self { id: key.id(), state, created, promoted, compromised }
    }
}

/// A kind that the actions know.
pub trait OperatedKind: SecretKind {
    /// Which.
    const KIND: Kind;
    /// What [`SecretKind::test`] proves without an application to ask; `None` when that is nothing.
    const PROVEN_ALONE: Option<&'static str>;
    /// In which phase [`SecretKind::test`] proves a current value that nothing is being done with.
    const VERIFIED_AS: Phase;

    /// What there is to say of the current value.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn summary(&self, subject: &Subject<'_>, current: &Document) -> Result<Summary, RotationError>;

    /// Whether the same token, or the same primary key, is in use by both values.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn same_in_use(&self, policy: &RotationPolicy, one: &Document, other: &Document) -> Result<bool, RotationError>;

    /// Whether a compromise replaces the value at once, without a rotation. It does for staged tokens: the application reads them when it
    /// starts, and what a rotation would promote has leaked as well.
    fn replaces_at_once(&self, _: &RotationPolicy) -> bool {
        false
    }

    /// When the value ends by itself, if it does.
    fn expires(&self, _: &Document) -> Option<SystemTime> {
        None
    }

    /// Whether the current value alone says what a rollback makes current. Then the value of `AWSPREVIOUS` is not read.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn holds_value_before(&self, _: &RotationPolicy, _current: &Document) -> Result<bool, RotationError> {
        Ok(false)
    }

    /// The value that a rollback makes current: made from the current one, so that its other members stay. `previous` is the value of
    /// `AWSPREVIOUS`, unless the current one [says enough](Self::holds_value_before). `None` when there is nothing to go back to.
    ///
    /// # Errors
    /// [`OperateError::Compromised`] when that is marked as leaked, and a value that is not of this kind.
    fn value_before(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        previous: Option<&Document>,
    ) -> Result<Option<Document>, OperateError>;
}

/// A token: it can be revoked.
pub trait TokenKind: OperatedKind {
    /// The previous token that the value holds.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn previous_token(&self, value: &Document) -> Result<Option<SecretText>, RotationError>;

    /// The value without a previous token in it.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn without_previous(&self, value: &Document) -> Result<Document, RotationError>;

    /// The next token that the value holds.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn next_token(&self, value: &Document) -> Result<Option<SecretText>, RotationError>;

    /// The value with fresh tokens only.
    ///
    /// # Errors
    /// A value or a policy that is not of this kind.
    fn with_fresh_tokens(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        rng: &mut StdRng,
    ) -> Result<Document, RotationError>;

    /// Proves that the application accepts the next token, if the value holds one; nothing is proven without an application.
    ///
    /// # Errors
    /// Those of [`prove`](rotation::target::prove).
    fn prove_next(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> impl Future<Output = Result<(), RotationError>> + Send;

    /// Proves that the application refuses `token`; nothing is proven without an application.
    ///
    /// # Errors
    /// Those of [`prove_refused`].
    fn prove_refused(
        &self,
        name: &str,
        token: &SecretText,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), RotationError>> + Send;

    /// Whether the application refuses `token` already. `false` without an application: nothing is known then.
    ///
    /// # Errors
    /// Those of [`is_refused`].
    fn is_refused(
        &self,
        name: &str,
        token: &SecretText,
        deadline: Deadline,
    ) -> impl Future<Output = Result<bool, RotationError>> + Send;
}

/// A keyring: what is encrypted with an old key has to stay readable, until no row needs the key.
pub trait KeyringKind: OperatedKind {
    /// The keyring of a value.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn keyring(&self, policy: &RotationPolicy, value: &Document) -> Result<Keyring, RotationError>;

    /// The value with its primary and its staged key marked as leaked; `None` when there is no place for that, or it is done.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn as_compromised(&self, subject: &Subject<'_>, current: &Document) -> Result<Option<Document>, RotationError>;

    /// The time that has to pass between two censuses. After that time no consumer encrypts with an older ring, and no worker that began
    /// with one is at work.
    fn censuses_apart(&self, policy: &RotationPolicy) -> Duration;
}

impl<T: Target + Send> OperatedKind for AdminToken<T> {
    const KIND: Kind = Kind::Token;
    const PROVEN_ALONE: Option<&'static str> = None;
    const VERIFIED_AS: Phase = Phase::Configuration;

    fn summary(&self, subject: &Subject<'_>, current: &Document) -> Result<Summary, RotationError> {
        let created = subject.current_created.unwrap_or(subject.now);
        // A text value's previous token is the one of AWSPREVIOUS: without that there is none.
        let previous = current.field().is_some() || subject.admitted.previous().is_some();
        let until = self.overlap_end(subject, current, created).filter(|_| previous);
        let left = until.and_then(|until| until.duration_since(subject.now).ok());
        Ok(Summary::Token {
            previous_accepted_until: until.map(format_timestamp),
            overlap_seconds_left: left.map_or(0, |left| left.as_secs()),
            next_token_staged: Self::next(current)?.is_some(),
        })
    }

    fn same_in_use(&self, _: &RotationPolicy, one: &Document, other: &Document) -> Result<bool, RotationError> {
        Ok(one.secret()? == other.secret()?)
    }

    fn replaces_at_once(&self, policy: &RotationPolicy) -> bool {
        Self::is_staged(policy)
    }

    fn holds_value_before(&self, policy: &RotationPolicy, current: &Document) -> Result<bool, RotationError> {
        Ok(Self::is_staged(policy) || Self::previous(current)?.is_some())
    }

    fn value_before(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        previous: Option<&Document>,
    ) -> Result<Option<Document>, OperateError> {
        // A JSON value holds its previous token itself, whatever was edited since.
        let token = match Self::previous(current)? {
            Some(token) => Some(token),
            None => previous.map(Document::secret).transpose()?,
        };
        let in_use = current.secret()?;
        // A server that reads its environment when it starts refuses a previous token whose overlap is over.
        let is_over = || self.overlap_end(subject, current, subject.now).is_none_or(|end| end <= subject.now);
        let token = token.filter(|token| *token != in_use && !(Self::is_staged(subject.policy) && is_over()));
        Ok(token.map(|token| Self::with_token(subject, current, &token)).transpose()?)
    }
}

impl<T: Target + Send> TokenKind for AdminToken<T> {
    fn previous_token(&self, value: &Document) -> Result<Option<SecretText>, RotationError> {
        Self::previous(value)
    }

    fn without_previous(&self, value: &Document) -> Result<Document, RotationError> {
        Self::without_previous(value)
    }

    fn next_token(&self, value: &Document) -> Result<Option<SecretText>, RotationError> {
        Self::next(value)
    }

    fn with_fresh_tokens(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        rng: &mut StdRng,
    ) -> Result<Document, RotationError> {
        Self::with_fresh_tokens(subject, current, rng)
    }

    async fn prove_next(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        Self::prove_next(self, subject, current, deadline, rng).await
    }

    async fn prove_refused(&self, name: &str, token: &SecretText, deadline: Deadline) -> Result<(), RotationError> {
        match self.target() {
            Some(target) => prove_refused(target, name, token, deadline).await,
            None => Ok(()),
        }
    }

    async fn is_refused(&self, name: &str, token: &SecretText, deadline: Deadline) -> Result<bool, RotationError> {
        match self.target() {
            Some(target) => is_refused(target, name, token, deadline).await,
            None => Ok(false),
        }
    }
}

impl<I: Issuer> OperatedKind for IssuedCredential<I> {
    const KIND: Kind = Kind::Issued;
    const PROVEN_ALONE: Option<&'static str> = None;
    const VERIFIED_AS: Phase = Phase::Configuration;

    fn summary(&self, _: &Subject<'_>, current: &Document) -> Result<Summary, RotationError> {
        Ok(Summary::Issued { expires: Self::expires(current).map(format_timestamp) })
    }

    fn same_in_use(&self, policy: &RotationPolicy, one: &Document, other: &Document) -> Result<bool, RotationError> {
        self.needs_no_delivery(policy, one, other, SystemTime::UNIX_EPOCH)
    }

    fn expires(&self, value: &Document) -> Option<SystemTime> {
        Self::expires(value)
    }

    /// A version whose credential is revoked does not carry `AWSPREVIOUS` any more.
    fn value_before(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        previous: Option<&Document>,
    ) -> Result<Option<Document>, OperateError> {
        let Some(previous) = previous else { return Ok(None) };
        if self.same_in_use(subject.policy, current, previous)? {
            return Ok(None);
        }
        Ok(Some(Self::with_credential_of(subject.policy, current, previous)?))
    }
}

impl<T: Target + Send> OperatedKind for EncryptionKey<T> {
    const KIND: Kind = Kind::Keyring;
    const PROVEN_ALONE: Option<&'static str> = Some("canaries under every key");
    const VERIFIED_AS: Phase = Phase::AfterPromotion;

    fn summary(&self, subject: &Subject<'_>, current: &Document) -> Result<Summary, RotationError> {
        let ring = self.keyring(subject.policy, current)?;
        Ok(Summary::Keyring { keys: ring.keys().map(KeySummary::of).collect() })
    }

    fn same_in_use(&self, policy: &RotationPolicy, one: &Document, other: &Document) -> Result<bool, RotationError> {
        Ok(self.keyring(policy, one)?.primary().id() == self.keyring(policy, other)?.primary().id())
    }

    fn holds_value_before(&self, policy: &RotationPolicy, current: &Document) -> Result<bool, RotationError> {
        let ring = self.keyring(policy, current)?;
        let promoted = || ring.secondary().iter().map(|key| key.dates().promoted);
        let last = promoted().max().flatten();
        // Of keys without dates, or with the same one, only the version before can tell which was primary.
        Ok(ring.secondary().len() <= 1
            || last.is_some_and(|last| promoted().filter(|at| *at == Some(last)).count() == 1))
    }

    fn value_before(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        previous: Option<&Document>,
    ) -> Result<Option<Document>, OperateError> {
        let now = self.keyring(subject.policy, current)?;
        // The dates say which key was primary before, and without dates AWSPREVIOUS does. Where an edit has moved that, the newest key is it.
        let of_version =
            previous.and_then(|previous| Some(self.keyring(subject.policy, previous).ok()?.primary().id()));
        let before = of_version.and_then(|id| now.secondary().iter().find(|key| key.id() == id));
        let Some(before) = before.or_else(|| now.secondary().iter().rev().max_by_key(|key| key.dates().promoted))
        else {
            return Ok(None);
        };
        if before.dates().compromised.is_some() {
            return Err(OperateError::Compromised { what: format!("key {}", before.id()) });
        }
        let back = now.clone().reinstate(before.id(), subject.now).map_err(RotationError::from)?;
        Ok(Some(KeyFormat::of(subject.policy).wire().write(current, &back)?))
    }
}

impl<T: Target + Send> KeyringKind for EncryptionKey<T> {
    fn keyring(&self, policy: &RotationPolicy, value: &Document) -> Result<Keyring, RotationError> {
        KeyFormat::of(policy).wire().parse(value)
    }

    fn as_compromised(&self, subject: &Subject<'_>, current: &Document) -> Result<Option<Document>, RotationError> {
        let ring = self.keyring(subject.policy, current)?;
        let clean = |key: &Key| key.dates().compromised.is_none();
        if current.field().is_none() || !(clean(ring.primary()) || ring.staged().is_some_and(clean)) {
            return Ok(None);
        }
        let compromised = ring.mark_compromised(subject.now);
        KeyFormat::of(subject.policy).wire().write(current, &compromised).map(Some)
    }

    fn censuses_apart(&self, policy: &RotationPolicy) -> Duration {
        policy.overlap.max(self.cache_time()) + LONGEST_INVOCATION
    }
}
