//! Signing secrets: what senders compute the HMAC of a message with, and receivers check it with. A kind of a team's own, to
//! show that one more is one folder.
//!
//! The member `NAME` of a JSON secret holds 32 random bytes in base64, which senders sign with; `NAME_PREVIOUS` the ones
//! before, which receivers accept too, without an end. Receivers accept the pending secret while a rotation is open, and
//! report the ids of all that they accept, which are computed as those of encryption keys.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::{Document, FieldName};
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::keyring::{Key, KeyFormat, KeyId};
use rotation::kind::{Phase, SecretKind, SecretReference, Subject, Values};
use rotation::policy::{RotationPolicy, Settings, VERIFY, Verify};
use rotation::secret::SecretText;
use rotation::target::http::{HttpTarget, TokenSecret};
use rotation::target::{NeededKeys, Target, prove_keys, refresh};

/// The kind of secret that messages are signed with, with the application that receives them, if the stack names one.
#[derive(Debug)]
pub struct SigningSecret<T = HttpTarget> {
    target: Option<(T, TokenSecret)>,
}

impl SigningSecret {
    /// Reads the target, see [`HttpTarget::with_token_from_environment`].
    ///
    /// # Errors
    /// An unusable variable, by name.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        Ok(Self::new(HttpTarget::with_token_from_environment(environment)?))
    }
}

impl<T> SigningSecret<T> {
    /// With the application `target` and the secret with the token that it wants, or with nobody to ask.
    #[must_use]
    pub fn new(target: Option<(T, TokenSecret)>) -> Self {
        Self { target }
    }
}

/// The id that a receiver reports for a signing secret.
///
/// # Errors
/// [`RotationError::Keyring`] when it is not 32 bytes in base64.
pub fn id(secret: &SecretText) -> Result<KeyId, RotationError> {
    let ring = KeyFormat::Raw.wire().parse(&Document::whole(secret.clone())?)?;
    Ok(ring.primary().id())
}

fn generate(now: SystemTime, rng: &mut StdRng) -> SecretText {
    KeyFormat::Raw.wire().first(&Key::generate(now, rng))
}

fn previous_member(field: &FieldName) -> FieldName {
    field.with_suffix("_PREVIOUS")
}

/// The member that is rotated: a text secret has no place for the previous one.
fn field(policy: &RotationPolicy) -> Result<&FieldName, RotationError> {
    policy.field.as_ref().ok_or_else(|| RotationError::InvalidPolicy {
        setting: "tag rotation:field".to_owned(),
        problem: "is not set: store a JSON object and name the member with the signing secret".to_owned(),
    })
}

impl<T: Target + Send> SecretKind for SigningSecret<T> {
    const SETTINGS: Settings = &[&VERIFY];
    const VARIABLES: &'static [&'static str] = &["TARGET_"];

    fn has_target(&self) -> bool {
        self.target.is_some()
    }

    fn settle_time(&self) -> Duration {
        // A refresh, and the reports of all instances.
        self.target.as_ref().map_or(Duration::ZERO, |(target, _)| 2 * target.settings().timeout)
    }

    fn credential(&self, name: &str) -> Result<Option<SecretReference>, RotationError> {
        self.target.as_ref().map(|(_, token)| token.of(name)).transpose()
    }

    fn first(&self, subject: &Subject<'_>, rng: &mut StdRng) -> Result<Document, RotationError> {
        Document::first(&generate(subject.now, rng), Some(field(subject.policy)?))
    }

    fn create(&self, subject: &Subject<'_>, current: &Document, rng: &mut StdRng) -> Result<Document, RotationError> {
        let previous = previous_member(field(subject.policy)?);
        let old = current.secret()?;
        id(&old)?;
        current.with_secret(&generate(subject.now, rng))?.with_member(&previous, &old)
    }

    fn members(&self, _: &RotationPolicy, value: &Document) -> Vec<FieldName> {
        value.field().map_or(vec![], |field| vec![field.clone(), previous_member(field)])
    }

    fn check_succession(
        &self,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        _: SystemTime,
    ) -> Result<(), RotationError> {
        let (was, is) = (old.secret()?, new.secret()?);
        if was == is {
            return Err(RotationError::ValueUnchanged { version: subject.admitted.version().clone() });
        }
        match new.member(&previous_member(field(subject.policy)?))? {
            Some(kept) if kept == was => Ok(()),
            _ => Err(RotationError::CurrentChanged { name: subject.name.to_owned() }),
        }
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
            // The application reads AWSCURRENT only: there is nothing that it could load yet.
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
        _: &mut StdRng,
    ) -> Result<(), RotationError> {
        let (Some((target, _)), Some(token)) = (&self.target, subject.credential) else { return Ok(()) };
        let accepted = match (phase, subject.policy.get(&VERIFY), values.old) {
            (Phase::Configuration, _, _) => None,
            (Phase::BeforePromotion, Verify::After, Some(old)) => Some(old),
            _ => Some(values.new),
        };
        let accepted = accepted.map(|document| id(&document.secret()?)).transpose()?;
        let needed = NeededKeys {
            decrypts_with: BTreeSet::from_iter(accepted),
            encrypts_with: None,
            silence_is_accepted: accepted.is_none(),
        };
        let refused = RotationError::TargetRefused { which: "admin", hint: ": is it the one in TARGET_TOKEN_SECRET?" };
        prove_keys(target, subject.name, token, &needed, refused, deadline).await
    }
}
