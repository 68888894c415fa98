//! What an operator can do with a kind of secret, beside what a rotation does.

use admin_token::AdminToken;
use encryption_key::EncryptionKey;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::keyring::Keyring;
use rotation::kind::{Phase, SecretKind, Subject};
use rotation::target::Target;
use rotation::target::http::HttpTarget;
use serde_json::{Map, Value, json};

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
}

impl Operable for AdminToken<HttpTarget> {
    const NAME: &'static str = "admin-token";
    const PROVEN_ALONE: Option<&'static str> = None;
    const VERIFIED_AS: Phase = Phase::Configuration;

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
}

fn ring(subject: &Subject<'_>, document: &Document) -> Result<Keyring, RotationError> {
    subject.policy.key_format.wire().parse(document)
}
