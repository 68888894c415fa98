//! Signing secrets: what senders compute the HMAC of a message with, and receivers check it with. A kind of a team's own, to
//! show that one more is one folder.
//!
//! The member `NAME` of a JSON secret holds 32 random bytes in base64, which senders sign with; `NAME_PREVIOUS` the ones
//! before, and `NAME_PREVIOUS_2` and so on older ones, as many as `rotation:kept` says. Receivers accept them too, without an
//! end. Receivers accept the pending secret while a rotation is open, and report the ids of all that they accept, which are
//! computed as those of encryption keys.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::{Document, FieldName};
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::keyring::{Key, KeyFormat, KeyId};
use rotation::kind::{Phase, SecretKind, SecretReference, Subject, Values};
use rotation::policy::{RotationPolicy, Setting, Settings, VERIFY, Verify};
use rotation::secret::SecretText;
use rotation::target::http::{HttpTarget, TokenSecret};
use rotation::target::{NeededKeys, Target, prove_keys, refresh};
use serde_json::{Map, Value, json};

/// The most older secrets that are kept: a receiver tries each of them for a signature that none has made.
const MOST_KEPT: usize = 9;

/// How many older secrets receivers accept beside the current one, 1 to 9.
pub const KEPT: Setting<usize> = Setting {
    tag: "rotation:kept",
    variable: Some("ROTATION_KEPT"),
    default_text: "1",
    default: |_| 1,
    read: |text, _| {
        let kept = text.parse().ok().filter(|kept| (1..=MOST_KEPT).contains(kept));
        kept.ok_or_else(|| format!("expected a number from 1 to {MOST_KEPT}"))
    },
};

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
/// [`RotationError::InvalidValue`] when it is not 32 bytes in base64.
pub fn id(secret: &SecretText) -> Result<KeyId, RotationError> {
    let ring = KeyFormat::Raw.wire().parse(&Document::whole(secret.clone())?);
    let expected = "signing secret of 32 bytes in base64";
    let ring = ring.map_err(|error| RotationError::InvalidValue { expected, problem: error.to_string() })?;
    Ok(ring.primary().id())
}

fn generate(now: SystemTime, rng: &mut StdRng) -> SecretText {
    KeyFormat::Raw.wire().first(&Key::generate(now, rng))
}

/// The members for older secrets, the newest first.
fn older_members(field: &FieldName) -> impl Iterator<Item = FieldName> {
    (1..=MOST_KEPT).map(|number| match number {
        1 => field.with_suffix("_PREVIOUS"),
        number => field.with_suffix(&format!("_PREVIOUS_{number}")),
    })
}

/// The older secrets that the value holds, the newest first.
fn older(field: &FieldName, value: &Document) -> Result<Vec<SecretText>, RotationError> {
    older_members(field).filter_map(|member| value.member(&member).transpose()).collect()
}

/// The older secrets of the value that follows `old`.
fn older_after(policy: &RotationPolicy, old: &Document) -> Result<Vec<SecretText>, RotationError> {
    let mut older = older(field(policy)?, old)?;
    older.insert(0, old.secret()?);
    older.truncate(policy.get(&KEPT));
    Ok(older)
}

/// The member that is rotated: a text secret has no place for the previous one.
fn field(policy: &RotationPolicy) -> Result<&FieldName, RotationError> {
    policy.field.as_ref().ok_or_else(|| RotationError::InvalidPolicy {
        setting: "tag rotation:field".to_owned(),
        problem: "is not set: store a JSON object and name the member with the signing secret".to_owned(),
    })
}

impl<T: Target + Send> SecretKind for SigningSecret<T> {
    const SETTINGS: Settings = &[&VERIFY, &KEPT];
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

    /// What is no signing secret is refused wherever a value is looked at.
    fn parse(&self, policy: &RotationPolicy, text: SecretText) -> Result<Document, RotationError> {
        let value = Document::parse(text, policy.field.as_ref())?;
        id(&value.secret()?)?;
        Ok(value)
    }

    fn check_configuration(&self, policy: &RotationPolicy, _: Option<Duration>) -> Result<(), RotationError> {
        field(policy).map(drop)
    }

    fn first(&self, subject: &Subject<'_>, rng: &mut StdRng) -> Result<Document, RotationError> {
        Document::first(&generate(subject.now, rng), Some(field(subject.policy)?))
    }

    fn create(&self, subject: &Subject<'_>, current: &Document, rng: &mut StdRng) -> Result<Document, RotationError> {
        let mut next = current.with_secret(&generate(subject.now, rng))?;
        let mut older = older_after(subject.policy, current)?.into_iter();
        for member in older_members(field(subject.policy)?) {
            next = match older.next() {
                Some(secret) => next.with_member(&member, &secret)?,
                None => next.without_member(&member)?,
            };
        }
        Ok(next)
    }

    /// Those that the value has: another `NAME_PREVIOUS_…` is somebody else's.
    fn members(&self, _: &RotationPolicy, value: &Document) -> Vec<FieldName> {
        let Some(field) = value.field() else { return vec![] };
        let older = older_members(field).filter(|member| value.has_member(member));
        [field.clone()].into_iter().chain(older).collect()
    }

    fn check_succession(
        &self,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        _: SystemTime,
    ) -> Result<(), RotationError> {
        if old.secret()? == new.secret()? {
            return Err(RotationError::ValueUnchanged { version: subject.admitted.version().clone() });
        }
        if older(field(subject.policy)?, new)? == older_after(subject.policy, old)? {
            return Ok(());
        }
        Err(RotationError::CurrentChanged { name: subject.name.to_owned() })
    }

    fn report(&self, _: &Subject<'_>, _: Option<&Document>, new: &Document) -> Map<String, Value> {
        let ids = |secrets: Vec<SecretText>| secrets.iter().filter_map(|secret| id(secret).ok()).collect::<Vec<_>>();
        let older = new.field().and_then(|field| older(field, new).ok()).unwrap_or_default();
        let mut report = Map::new();
        report.insert("signsWith".to_owned(), json!(ids(new.secret().into_iter().collect())));
        report.insert("acceptsToo".to_owned(), json!(ids(older)));
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
