//! What an operator can do with a kind of secret, beside what a rotation does.

use admin_token::AdminToken;
use encryption_key::EncryptionKey;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::keyring::{Key, Keyring};
use rotation::kind::{Phase, SecretKind, Subject};
use rotation::secret::SecretText;
use rotation::target::Target;
use rotation::target::http::HttpTarget;
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

    /// What there is to say of the current value.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn summary(&self, subject: &Subject<'_>, current: &Document) -> Result<Map<String, Value>, RotationError>;

    /// The value to go back to: made from the current one, so that its other members stay. `previous` is the value of
    /// `AWSPREVIOUS`. `None` when there is nothing to go back to.
    ///
    /// # Errors
    /// [`OperateError::Compromised`], and a value that is not of this kind.
    fn back(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        previous: Option<&Document>,
    ) -> Result<Option<Document>, OperateError>;

    /// Marks what the value holds as known to others; `None` when there is no place for that, or it is done.
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn marked(&self, subject: &Subject<'_>, current: &Document) -> Result<Option<Document>, RotationError>;
}

impl Operable for AdminToken<HttpTarget> {
    const NAME: &'static str = "admin-token";
    const PROVEN_ALONE: Option<&'static str> = None;
    const VERIFIED_AS: Phase = Phase::Configuration;

    fn summary(&self, subject: &Subject<'_>, current: &Document) -> Result<Map<String, Value>, RotationError> {
        let created = subject.current_created.unwrap_or(subject.now);
        let until = self.overlap_end(subject, current, created);
        let left = until.and_then(|until| until.duration_since(subject.now).ok());
        let mut summary = Map::new();
        summary.insert("previousAcceptedUntil".into(), json!(until.map(rotation::time::format_timestamp)));
        summary.insert("overlapSecondsLeft".into(), json!(left.map_or(0, |left| left.as_secs())));
        Ok(summary)
    }

    fn back(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        previous: Option<&Document>,
    ) -> Result<Option<Document>, OperateError> {
        // A JSON value holds its previous token itself, whatever was edited since.
        let token = match (Self::previous(current)?, previous) {
            (Some(token), _) => Some(token),
            (None, Some(previous)) => Some(previous.secret()?),
            (None, None) => None,
        };
        let now = current.secret()?;
        let token: Option<SecretText> = token.filter(|token| *token != now);
        Ok(token.map(|token| Self::with_token(subject, current, &token)).transpose()?)
    }

    fn marked(&self, _: &Subject<'_>, _: &Document) -> Result<Option<Document>, RotationError> {
        Ok(None)
    }
}

impl<T: Target + Send> Operable for EncryptionKey<T> {
    const NAME: &'static str = "encryption-key";
    const PROVEN_ALONE: Option<&'static str> = Some("canaries under every key");
    const VERIFIED_AS: Phase = Phase::AfterPromotion;

    fn summary(&self, subject: &Subject<'_>, current: &Document) -> Result<Map<String, Value>, RotationError> {
        let ring = ring(subject, current)?;
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

    fn back(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        _: Option<&Document>,
    ) -> Result<Option<Document>, OperateError> {
        let ring = ring(subject, current)?;
        // The one that was primary last; without dates, the newest.
        let before = ring.secondary().iter().rev().max_by_key(|key| key.dates().promoted);
        let Some(before) = before else { return Ok(None) };
        if before.dates().compromised.is_some() {
            return Err(OperateError::Compromised { what: format!("key {}", before.id()) });
        }
        let ring = ring.clone().reinstate(before.id(), subject.now).map_err(RotationError::from)?;
        Ok(Some(subject.policy.key_format.wire().write(current, &ring)?))
    }

    fn marked(&self, subject: &Subject<'_>, current: &Document) -> Result<Option<Document>, RotationError> {
        let ring = ring(subject, current)?;
        let clean = |key: &Key| key.dates().compromised.is_none();
        if current.field().is_none() || !(clean(ring.primary()) || ring.staged().is_some_and(clean)) {
            return Ok(None);
        }
        let marked = ring.mark_compromised(subject.now);
        subject.policy.key_format.wire().write(current, &marked).map(Some)
    }
}

fn ring(subject: &Subject<'_>, document: &Document) -> Result<Keyring, RotationError> {
    subject.policy.key_format.wire().parse(document)
}
