//! Admin tokens: the bearer token of an application's admin API.
//!
//! The application accepts the current token, the pending token while a rotation is open, and the previous token during
//! the overlap. The place of the previous token depends on the secret:
//!
//! - Text secret: the previous token is the value of `AWSPREVIOUS`. It is accepted until the overlap has passed since
//!   the current version's CreatedDate.
//! - JSON secret with the rotated member `NAME`: the previous token is the member `NAME_PREVIOUS`. It is accepted until
//!   `NAME_PREVIOUS_UNTIL` (RFC 3339). `AWSPREVIOUS` cannot serve here, because any edit of another member moves it.
//!
//! With `rotation:promotion=staged` a JSON secret also holds the next token, in `NAME_NEXT`. A rotation promotes that
//! token and stages a fresh one, so servers accept it that read their environment only when they start. The first
//! rotation only stages. Delivery to all consumers proves that servers hold the next token, or every instance is asked.

mod members;
mod staged;

use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::{Document, FieldName};
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::keyring::sign_of_keyring;
use rotation::kind::{Phase, SecretKind, Subject, Values};
use rotation::policy::{RotationPolicy, Settings, VERIFY, Verify};
use rotation::secret::SecretText;
use rotation::target::http::HttpTarget;
use rotation::target::{Target, prove, refresh};
use rotation::time::format_timestamp;
use rotation::token::{TOKEN_SETTINGS, TokenFormat};
use serde_json::{Map, Value, json};

use crate::members::Members;
use crate::staged::{follows, is_staged, next_token, promotable, staged_field, with_fresh_next};

/// An instance does not accept the next token.
const NEXT_REFUSED: RotationError = RotationError::TargetRefused {
    which: "next",
    hint: ", which every instance holds that was started since the last rotation: restart the others, and have every instance accept the member NAME_NEXT; then run the same again",
};

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
        document.field().map_or(Ok(None), |field| document.member(&Members::of(field).previous))
    }

    /// The next token in a JSON value, which the next rotation promotes.
    ///
    /// # Errors
    /// Those of [`Document::member`].
    pub fn next(document: &Document) -> Result<Option<SecretText>, RotationError> {
        next_token(document)
    }

    /// The JSON value without its previous token, so that the overlap ends. A text value stays as it is.
    ///
    /// # Errors
    /// Those of [`Document::without_member`].
    pub fn without_previous(document: &Document) -> Result<Document, RotationError> {
        let Some(field) = document.field() else { return Ok(document.clone()) };
        let members = Members::of(field);
        document.without_member(&members.previous)?.without_member(&members.until)
    }

    /// The value with `token` as its token. A JSON value keeps its old token as the previous one, accepted for the
    /// policy's overlap from now on. Without an overlap, the value holds no previous token. A next token stays.
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
        let members = Members::of(field);
        let until = SecretText::new(format_timestamp(subject.now + subject.policy.overlap));
        next.with_member(&members.until, &until)?.with_member(&members.previous, &current.secret()?)
    }

    /// Whether the policy has a secret hold its next token.
    #[must_use]
    pub fn is_staged(policy: &RotationPolicy) -> bool {
        is_staged(policy)
    }

    /// The value with fresh tokens only, which nobody knows yet: a token, a next token if the policy stages tokens, and
    /// no previous one.
    ///
    /// # Errors
    /// Those of [`Document::with_member`], and [`RotationError::InvalidPolicy`].
    pub fn with_fresh_tokens(
        subject: &Subject<'_>,
        current: &Document,
        rng: &mut StdRng,
    ) -> Result<Document, RotationError> {
        let fresh = current.with_secret(&TokenFormat::of(subject.policy).generate(rng))?;
        let fresh = Self::without_previous(&fresh)?;
        match staged_field(subject.policy)? {
            Some(field) => with_fresh_next(subject, field, &fresh, rng),
            None => Self::without_next(&fresh),
        }
    }

    /// The JSON value without its next token.
    fn without_next(document: &Document) -> Result<Document, RotationError> {
        document.field().map_or_else(|| Ok(document.clone()), |field| document.without_member(&Members::of(field).next))
    }
}

impl<T: Target> AdminToken<T> {
    /// Proves that every instance accepts the next token of `current`. Nothing is proven without a target, or without
    /// a next token.
    ///
    /// # Errors
    /// Those of [`prove`].
    pub async fn prove_next(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        let (Some(target), Some(next)) = (&self.target, next_token(current)?) else { return Ok(()) };
        let random = TokenFormat::of(subject.policy).generate(rng);
        prove(target, subject.name, &next, &random, NEXT_REFUSED, deadline).await
    }

    /// Whether every instance has to accept the next token before a rotation promotes it. One answer for all instances
    /// would not prove it.
    fn asks_every_instance(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.settings().instances.is_some())
    }

    /// The value that follows `current` with staged promotion. The first rotation only stages a next token.
    fn staged_create(
        &self,
        subject: &Subject<'_>,
        field: &FieldName,
        current: &Document,
        rng: &mut StdRng,
    ) -> Result<Document, RotationError> {
        let Some(next) = promotable(current)? else { return with_fresh_next(subject, field, current, rng) };
        if !subject.delivered && !self.asks_every_instance() {
            let (name, member) = (subject.name.to_owned(), Members::of(field).next.to_string());
            return Err(RotationError::NextTokenUnproven { name, member });
        }
        with_fresh_next(subject, field, &Self::with_token(subject, current, &next)?, rng)
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
        staged_field(policy)?;
        period.map_or(Ok(()), |period| policy.check_overlap_fits(period))
    }

    fn first(&self, subject: &Subject<'_>, rng: &mut StdRng) -> Result<Document, RotationError> {
        let staged = staged_field(subject.policy)?;
        let first = Document::first(&TokenFormat::of(subject.policy).generate(rng), subject.policy.field.as_ref())?;
        staged.map_or_else(|| Ok(first.clone()), |field| with_fresh_next(subject, field, &first, rng))
    }

    /// With immediate promotion a next token goes, because no rotation promotes it any more.
    fn create(&self, subject: &Subject<'_>, current: &Document, rng: &mut StdRng) -> Result<Document, RotationError> {
        match staged_field(subject.policy)? {
            Some(field) => self.staged_create(subject, field, current, rng),
            None => {
                let token = TokenFormat::of(subject.policy).generate(rng);
                Self::without_next(&Self::with_token(subject, current, &token)?)
            }
        }
    }

    fn members(&self, _: &RotationPolicy, value: &Document) -> Vec<FieldName> {
        let Some(field) = value.field() else { return vec![] };
        let Members { next, previous, until } = Members::of(field);
        vec![field.clone(), next, previous, until]
    }

    /// The end of an overlap by its date needs no delivery: whoever holds the date refuses the previous token by itself.
    /// A revocation before that date does, and so does another next token.
    fn needs_no_delivery(
        &self,
        _: &RotationPolicy,
        delivered: &Document,
        current: &Document,
        now: SystemTime,
    ) -> Result<bool, RotationError> {
        if delivered.secret()? != current.secret()? || next_token(delivered)? != next_token(current)? {
            return Ok(false);
        }
        let Some(field) = current.field() else { return Ok(true) };
        let members = Members::of(field);
        Ok(members.accepted_previous(delivered, now)? == members.accepted_previous(current, now)?)
    }

    fn check_succession(
        &self,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        created: SystemTime,
    ) -> Result<(), RotationError> {
        let (same_token, next) = (old.secret()? == new.secret()?, next_token(new)?);
        if same_token && (next.is_none() || next_token(old)? == next) {
            return Err(RotationError::ValueUnchanged { version: subject.admitted.version().clone() });
        }
        let changed = || RotationError::CurrentChanged { name: subject.name.to_owned() };
        // The promotion of the policy may be another one than when the value was made.
        match staged_field(subject.policy)? {
            Some(field) if !follows(field, old, new)? => return Err(changed()),
            None if next.is_some() => return Err(changed()),
            Some(_) if same_token => return Ok(()),
            Some(_) | None => {}
        }
        let overlap = subject.policy.overlap;
        if overlap.is_zero() {
            return Ok(());
        }
        let until = match old.field().map(Members::of) {
            None => created + overlap,
            Some(members) => {
                if new.member(&members.previous)?.is_none_or(|kept| old.secret() != Ok(kept)) {
                    return Err(changed());
                }
                members.end(new).ok_or_else(changed)?
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
            Some(field) => Members::of(field).end(current),
            None => (!subject.policy.overlap.is_zero()).then(|| began + subject.policy.overlap),
        }
    }

    /// What a rotation with staged promotion did: the first one promotes no token.
    fn report(&self, subject: &Subject<'_>, old: Option<&Document>, new: &Document) -> Map<String, Value> {
        let mut report = Map::new();
        if is_staged(subject.policy) && next_token(new).is_ok_and(|next| next.is_some()) {
            let promoted = old.is_none_or(|old| old.secret() != new.secret());
            report.insert("nextTokenStaged".to_owned(), json!(true));
            report.insert("tokenPromoted".to_owned(), json!(promoted));
        }
        report
    }

    async fn set(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
    ) -> Result<(), RotationError> {
        let Some(target) = &self.target else { return Ok(()) };
        let reads_current_only = subject.policy.get(&VERIFY) == Verify::After || is_staged(subject.policy);
        if phase == Phase::BeforePromotion && reads_current_only {
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
        let random = TokenFormat::of(subject.policy).generate(rng);
        let promotes_next = is_staged(subject.policy)
            && values.old.map(promotable).transpose()?.flatten() == Some(values.new.secret()?);
        let (subjected, which, hint) = match (phase, subject.policy.get(&VERIFY), values.old) {
            (Phase::BeforePromotion, _, _) if promotes_next => {
                return prove(target, subject.name, &values.new.secret()?, &random, NEXT_REFUSED, deadline).await;
            }
            (Phase::BeforePromotion, verify, Some(old)) if verify == Verify::After || is_staged(subject.policy) => (
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
        let refused = RotationError::TargetRefused { which, hint };
        prove(target, subject.name, &subjected.secret()?, &random, refused, deadline).await
    }
}
