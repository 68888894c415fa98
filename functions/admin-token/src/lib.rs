//! Admin tokens: the bearer token of an application's admin API.
//!
//! The application accepts the current token, the pending token while a rotation is open, and the previous token during
//! the overlap. The place of the previous token depends on the secret:
//!
//! - Text secret: the previous token is the value of `AWSPREVIOUS`. It is accepted until the overlap has passed since
//!   the current version's CreatedDate.
//! - JSON secret with the rotated member `NAME`: the previous token is the member `NAME_PREVIOUS`. It is accepted until
//!   `NAME_PREVIOUS_UNTIL` (RFC 3339). `AWSPREVIOUS` cannot serve here, because any edit of another member moves it.

use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::{Document, FieldName};
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::keyring::{sign_of_keyring, token_end_member};
use rotation::kind::{Phase, SecretKind, Subject, Values};
use rotation::policy::{RotationPolicy, Settings, VERIFY, Verify};
use rotation::secret::SecretText;
use rotation::target::http::HttpTarget;
use rotation::target::{Target, prove, refresh};
use rotation::time::{format_timestamp, parse_timestamp};
use rotation::token::{TOKEN_SETTINGS, TokenFormat};

/// The admin token's kind, with the application that uses the token, if the stack names one.
#[derive(Debug)]
pub struct AdminToken<T = HttpTarget> {
    target: Option<T>,
}

impl AdminToken {
    /// Reads the target from the environment, see [`HttpTarget`].
    ///
    /// # Errors
    /// The error names the unusable variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        Ok(Self::new(HttpTarget::from_environment(environment)?))
    }
}

impl<T> AdminToken<T> {
    /// Makes the kind. Without a target, no application is told about a new token.
    #[must_use]
    pub fn new(target: Option<T>) -> Self {
        Self { target }
    }
}

impl<T> AdminToken<T> {
    /// The application that this kind refreshes and verifies.
    #[must_use]
    pub fn target(&self) -> Option<&T> {
        self.target.as_ref()
    }

    /// The previous token in a JSON value, even when its overlap is over. A text value holds none.
    ///
    /// # Errors
    /// Those of [`Document::member`].
    pub fn previous(document: &Document) -> Result<Option<SecretText>, RotationError> {
        document.field().map_or(Ok(None), |field| document.member(&PreviousMembers::of(field).token))
    }

    /// The JSON value without its previous token, so that the overlap ends. A text value stays as it is.
    ///
    /// # Errors
    /// Those of [`Document::without_member`].
    pub fn without_previous(document: &Document) -> Result<Document, RotationError> {
        let Some(field) = document.field() else { return Ok(document.clone()) };
        let previous = PreviousMembers::of(field);
        document.without_member(&previous.token)?.without_member(&previous.until)
    }

    /// The value with `token` as its token. A JSON value keeps its old token as the previous one, accepted for the
    /// policy's overlap from now on. Without an overlap, the value holds no previous token.
    ///
    /// # Errors
    /// Those of [`Document::with_member`].
    pub fn with_token(
        subject: &Subject<'_>,
        current: &Document,
        token: &SecretText,
    ) -> Result<Document, RotationError> {
        let next = current.with_secret(token)?;
        let Some(field) = current.field() else { return Ok(next) };
        if subject.policy.overlap.is_zero() {
            return Self::without_previous(&next);
        }
        let previous = PreviousMembers::of(field);
        let until = SecretText::new(format_timestamp(subject.now + subject.policy.overlap));
        next.with_member(&previous.until, &until)?.with_member(&previous.token, &current.secret()?)
    }
}

/// The members beside the rotated one in a JSON secret.
struct PreviousMembers {
    token: FieldName,
    until: FieldName,
}

impl PreviousMembers {
    fn of(field: &FieldName) -> Self {
        Self { token: field.with_suffix("_PREVIOUS"), until: token_end_member(field) }
    }

    /// The end of the overlap, as `document` states it. `None` also for a text that is not a time: an application
    /// cannot read it either, and refuses the previous token.
    fn until(&self, document: &Document) -> Option<SystemTime> {
        parse_timestamp(document.member(&self.until).ok()??.expose())
    }
}

impl<T: Target + Send> SecretKind for AdminToken<T> {
    const SETTINGS: Settings = TOKEN_SETTINGS;
    const VARIABLES: &'static [&'static str] = &["TARGET_"];

    fn has_target(&self) -> bool {
        self.target.is_some()
    }

    fn settle_time(&self) -> Duration {
        // One refresh, one proof that the new token is accepted, one proof that a random token is refused.
        self.target.as_ref().map_or(Duration::ZERO, |target| 3 * target.settings().timeout)
    }

    /// Refuses a keyring, in every step: this kind would take the keyring's keys for a previous token.
    fn parse(&self, policy: &RotationPolicy, text: SecretText) -> Result<Document, RotationError> {
        let field = policy.field.as_ref();
        let document = match field {
            None => Document::whole(text.clone())?,
            Some(_) => Document::parse(text.clone(), field)?,
        };
        if let Some(sign) = sign_of_keyring(&document)? {
            let (found, rotates, function) = ("a keyring", "tokens", "…encryption-key");
            return Err(RotationError::WrongKind { found, sign, rotates, function });
        }
        Document::parse(text, field)
    }

    fn check_configuration(&self, policy: &RotationPolicy, period: Option<Duration>) -> Result<(), RotationError> {
        period.map_or(Ok(()), |period| policy.check_overlap_fits(period))
    }

    fn first(&self, subject: &Subject<'_>, rng: &mut StdRng) -> Result<Document, RotationError> {
        Document::first(&TokenFormat::of(subject.policy).generate(rng), subject.policy.field.as_ref())
    }

    fn create(&self, subject: &Subject<'_>, current: &Document, rng: &mut StdRng) -> Result<Document, RotationError> {
        Self::with_token(subject, current, &TokenFormat::of(subject.policy).generate(rng))
    }

    fn members(&self, _: &RotationPolicy, value: &Document) -> Vec<FieldName> {
        let Some(field) = value.field() else { return vec![] };
        let previous = PreviousMembers::of(field);
        vec![field.clone(), previous.token, previous.until]
    }

    /// The end of an overlap by its date needs no delivery: whoever holds the date refuses the previous token by itself.
    /// A revocation before that date does.
    fn needs_no_delivery(
        &self,
        _: &RotationPolicy,
        delivered: &Document,
        current: &Document,
        now: SystemTime,
    ) -> Result<bool, RotationError> {
        if delivered.secret()? != current.secret()? {
            return Ok(false);
        }
        let Some(field) = current.field() else { return Ok(true) };
        let previous = PreviousMembers::of(field);
        // The application refuses a previous token whose end has passed, and one whose end it cannot read.
        let accepted = |value: &Document| match previous.until(value) {
            Some(until) if until > now => value.member(&previous.token),
            _ => Ok(None),
        };
        Ok(accepted(delivered)? == accepted(current)?)
    }

    fn check_succession(
        &self,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        created: SystemTime,
    ) -> Result<(), RotationError> {
        if old.secret()? == new.secret()? {
            return Err(RotationError::ValueUnchanged { version: subject.admitted.version().clone() });
        }
        let overlap = subject.policy.overlap;
        if overlap.is_zero() {
            return Ok(());
        }
        let changed = || RotationError::CurrentChanged { name: subject.name.to_owned() };
        let until = match old.field().map(PreviousMembers::of) {
            None => created + overlap,
            Some(previous) => {
                if new.member(&previous.token)?.is_none_or(|kept| old.secret() != Ok(kept)) {
                    return Err(changed());
                }
                previous.until(new).ok_or_else(changed)?
            }
        };
        // A rotation fixes the end of the overlap when it makes the token. A retry much later would cut the overlap
        // short.
        if subject.now + overlap / 2 > until {
            return Err(RotationError::OverlapTooShort { name: subject.name.to_owned(), until });
        }
        Ok(())
    }

    fn overlap_end(&self, subject: &Subject<'_>, current: &Document, began: SystemTime) -> Option<SystemTime> {
        match current.field() {
            Some(field) => PreviousMembers::of(field).until(current),
            None => (!subject.policy.overlap.is_zero()).then(|| began + subject.policy.overlap),
        }
    }

    async fn set(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
    ) -> Result<(), RotationError> {
        let Some(target) = &self.target else { return Ok(()) };
        if phase == Phase::BeforePromotion && subject.policy.get(&VERIFY) == Verify::After {
            // The application reads AWSCURRENT only: it has nothing to load yet.
            return Ok(());
        }
        let old = values.old.map(Document::secret).transpose()?;
        let new = values.new.secret()?;
        let tokens: Vec<_> = old.iter().chain([&new]).collect();
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
        let Some(target) = &self.target else { return Ok(()) };
        let (subjected, which, hint) = match (phase, subject.policy.get(&VERIFY), values.old) {
            (Phase::BeforePromotion, Verify::After, Some(old)) => (
                old,
                "current",
                ", which it should accept before a rotation: is TARGET_VERIFY_URL this secret's application?",
            ),
            (Phase::BeforePromotion, _, _) => (
                values.new,
                "pending",
                ": if the application reads AWSCURRENT only, tag the secret rotation:verify=after",
            ),
            (Phase::AfterPromotion, _, _) => (values.new, "new", ""),
            (Phase::Configuration, _, _) => {
                (values.new, "current", ": is TARGET_VERIFY_URL this secret's application, and TARGET_HEADER right?")
            }
        };
        let random = TokenFormat::of(subject.policy).generate(rng);
        let refused = RotationError::TargetRefused { which, hint };
        prove(target, subject.name, &subjected.secret()?, &random, refused, deadline).await
    }
}
