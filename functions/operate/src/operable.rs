//! What an operator can do with a kind of secret, beside what a rotation does.

use std::future::Future;
use std::time::Duration;

use admin_token::AdminToken;
use encryption_key::{EncryptionKey, LONGEST_INVOCATION};
use rotation::deadline::Deadline;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::keyring::{Key, KeyFormat, Keyring};
use rotation::kind::{Phase, SecretKind, Subject};
use rotation::policy::RotationPolicy;
use rotation::secret::SecretText;
use rotation::target::{Target, prove_refused};
use serde_json::{Map, Value, json};

use crate::error::OperateError;

/// A kind of secret, as the actions use it.
pub trait Operable: SecretKind {
    /// The kind's name.
    const NAME: &'static str;
    /// What [`SecretKind::test`] proves without an application to ask; `None` when that is nothing.
    const PROVEN_ALONE: Option<&'static str>;
    /// In which phase [`SecretKind::test`] proves a current value that nothing is being done with.
    const VERIFIED_AS: Phase;
    /// Whether an old value can be revoked. What is encrypted with an old key has to stay readable.
    const REVOCABLE: bool;

    /// What there is to say of the current value.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn summary(&self, subject: &Subject<'_>, current: &Document) -> Result<Map<String, Value>, RotationError>;

    /// Whether the same token, or the same primary key, is in use by both values.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn same_in_use(&self, policy: &RotationPolicy, one: &Document, other: &Document) -> Result<bool, RotationError>;

    /// The value to go back to: made from the current one, so that its other members stay. `previous` is the value of
    /// `AWSPREVIOUS`. `None` when there is nothing to go back to.
    ///
    /// # Errors
    /// [`OperateError::Compromised`] when that is marked, and a value that is not of this kind.
    fn back(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        previous: Option<&Document>,
    ) -> Result<Option<Document>, OperateError>;

    /// The value with what it holds marked as known to others; `None` when there is no place for that, or it is done.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn marked(&self, subject: &Subject<'_>, current: &Document) -> Result<Option<Document>, RotationError>;

    /// The token of the value; a keyring has none.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn token(&self, value: &Document) -> Result<Option<SecretText>, RotationError>;

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

    /// How far apart two censuses have to be: by then nobody encrypts with an older ring, and no worker that began with one is
    /// still at work.
    fn censuses_apart(&self, policy: &RotationPolicy) -> Duration {
        policy.overlap
    }

    /// Proves that the application refuses `token`; nothing is proven where nobody is asked.
    ///
    /// # Errors
    /// Those of [`prove_refused`].
    fn prove_refused(
        &self,
        name: &str,
        token: &SecretText,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), RotationError>> + Send;
}

impl<T: Target + Send> Operable for AdminToken<T> {
    const NAME: &'static str = "admin-token";
    const PROVEN_ALONE: Option<&'static str> = None;
    const VERIFIED_AS: Phase = Phase::Configuration;
    const REVOCABLE: bool = true;

    fn summary(&self, subject: &Subject<'_>, current: &Document) -> Result<Map<String, Value>, RotationError> {
        let created = subject.current_created.unwrap_or(subject.now);
        // A text value's previous token is the one of AWSPREVIOUS: without that there is none.
        let previous = current.field().is_some() || subject.admitted.previous().is_some();
        let until = self.overlap_end(subject, current, created).filter(|_| previous);
        let left = until.and_then(|until| until.duration_since(subject.now).ok());
        let mut summary = Map::new();
        summary.insert("previousAcceptedUntil".into(), json!(until.map(rotation::time::format_timestamp)));
        summary.insert("overlapSecondsLeft".into(), json!(left.map_or(0, |left| left.as_secs())));
        Ok(summary)
    }

    fn same_in_use(&self, _: &RotationPolicy, one: &Document, other: &Document) -> Result<bool, RotationError> {
        Ok(one.secret()? == other.secret()?)
    }

    fn back(
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
        let token = token.filter(|token| *token != in_use);
        Ok(token.map(|token| Self::with_token(subject, current, &token)).transpose()?)
    }

    fn marked(&self, _: &Subject<'_>, _: &Document) -> Result<Option<Document>, RotationError> {
        Ok(None)
    }

    fn token(&self, value: &Document) -> Result<Option<SecretText>, RotationError> {
        value.secret().map(Some)
    }

    fn previous_token(&self, value: &Document) -> Result<Option<SecretText>, RotationError> {
        Self::previous(value)
    }

    fn without_previous(&self, value: &Document) -> Result<Document, RotationError> {
        Self::without_previous(value)
    }

    async fn prove_refused(&self, name: &str, token: &SecretText, deadline: Deadline) -> Result<(), RotationError> {
        match self.target() {
            Some(target) => prove_refused(target, name, token, deadline).await,
            None => Ok(()),
        }
    }
}

impl<T: Target + Send> Operable for EncryptionKey<T> {
    const NAME: &'static str = "encryption-key";
    const PROVEN_ALONE: Option<&'static str> = Some("canaries under every key");
    const VERIFIED_AS: Phase = Phase::AfterPromotion;
    const REVOCABLE: bool = false;

    fn summary(&self, subject: &Subject<'_>, current: &Document) -> Result<Map<String, Value>, RotationError> {
        let ring = ring(subject.policy, current)?;
        let keys = ring.keys().map(|(state, key)| {
            let date = |date: Option<std::time::SystemTime>| date.map(rotation::time::format_timestamp);
            let dates = key.dates();
            json!({
                "id": key.id(),
                "state": state,
                "created": date(dates.created),
                "promoted": date(dates.promoted),
                "compromised": date(dates.compromised),
            })
        });
        let mut summary = Map::new();
        summary.insert("keys".into(), Value::Array(keys.collect()));
        Ok(summary)
    }

    fn same_in_use(&self, policy: &RotationPolicy, one: &Document, other: &Document) -> Result<bool, RotationError> {
        Ok(ring(policy, one)?.primary().id() == ring(policy, other)?.primary().id())
    }

    fn back(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        previous: Option<&Document>,
    ) -> Result<Option<Document>, OperateError> {
        let now = ring(subject.policy, current)?;
        // The one that was primary before; a version that is in the way of nobody may say which, else the dates do, and
        // without those the newest is it.
        let of_version = previous.and_then(|previous| Some(ring(subject.policy, previous).ok()?.primary().id()));
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

    fn marked(&self, subject: &Subject<'_>, current: &Document) -> Result<Option<Document>, RotationError> {
        let ring = ring(subject.policy, current)?;
        let clean = |key: &Key| key.dates().compromised.is_none();
        if current.field().is_none() || !(clean(ring.primary()) || ring.staged().is_some_and(clean)) {
            return Ok(None);
        }
        let marked = ring.mark_compromised(subject.now);
        KeyFormat::of(subject.policy).wire().write(current, &marked).map(Some)
    }

    fn token(&self, _: &Document) -> Result<Option<SecretText>, RotationError> {
        Ok(None)
    }

    fn previous_token(&self, _: &Document) -> Result<Option<SecretText>, RotationError> {
        Ok(None)
    }

    fn without_previous(&self, value: &Document) -> Result<Document, RotationError> {
        Ok(value.clone())
    }

    fn censuses_apart(&self, policy: &RotationPolicy) -> Duration {
        policy.overlap.max(self.cache_time()) + LONGEST_INVOCATION
    }

    async fn prove_refused(&self, _: &str, _: &SecretText, _: Deadline) -> Result<(), RotationError> {
        Ok(())
    }
}

fn ring(policy: &RotationPolicy, document: &Document) -> Result<Keyring, RotationError> {
    KeyFormat::of(policy).wire().parse(document)
}
