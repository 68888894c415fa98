//! Issued credentials: what a provider issues, and an issuer, a Lambda function of the user's, asks the provider for.
//! Examples are session cookies, API keys and client secrets.
//!
//! Several members of a JSON secret are one credential and rotate together (`rotation:fields`). Only these members are
//! handed to the issuer. All others stay byte for byte. If the issuer says when the credential ends, the member
//! `NAME_EXPIRES` holds that time, where `NAME` is the first of the members.
//!
//! A credential works from the moment at which it is issued. The issuer makes it beside the one in use, and the old one
//! is revoked when the overlap has passed, see [`rotation::issue`].

pub mod contract;
pub mod issuer;

use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::document::{Document, FieldName, MAX_VALUE_BYTES};
use rotation::environment::Environment;
use rotation::error::{IssuerError, RotationError};
use rotation::keyring::{sign_of_keyring, token_end_member};
use rotation::kind::{Phase, Revocation, SecretKind, Subject, Values};
use rotation::policy::{FIELDS, OVERLAP, RotationPolicy, Settings};
use rotation::secret::SecretText;
use rotation::time::{format_timestamp, parse_timestamp};
use rotation::versions::VersionId;
use serde_json::{Map, Value, json};

use crate::contract::{Created, Members, Request, created, status};
use crate::issuer::{Issuer, LambdaIssuer, ask};

/// The wait before a question without an answer is repeated.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The kind of secret that an issuer makes.
#[derive(Debug)]
pub struct IssuedCredential<I = LambdaIssuer> {
    issuer: I,
}

impl IssuedCredential {
    /// Reads the issuer from the environment, see [`LambdaIssuer`].
    ///
    /// # Errors
    /// The error names the unusable variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        Ok(Self::new(LambdaIssuer::from_environment(environment)?))
    }
}

impl<I> IssuedCredential<I> {
    /// Makes the kind with the issuer.
    #[must_use]
    pub fn new(issuer: I) -> Self {
        Self { issuer }
    }

    /// The value with the credential of another value. All other members stay.
    ///
    /// # Errors
    /// Those of [`Document::with_member`].
    pub fn with_credential_of(
        policy: &RotationPolicy,
        current: &Document,
        other: &Document,
    ) -> Result<Document, RotationError> {
        let end = other.field().map(expiry_member);
        let mut value = current.clone();
        for name in policy.fields.iter().chain(&end) {
            value = match other.member(name)? {
                Some(text) => value.with_member(name, &text)?,
                None => value.without_member(name)?,
            };
        }
        Ok(value)
    }

    /// When the credential of a value ends, if its issuer said so.
    #[must_use]
    pub fn expires(value: &Document) -> Option<SystemTime> {
        parse_timestamp(value.member(&expiry_member(value.field()?)).ok()??.expose())
    }
}

/// The settings of issued credentials.
pub const ISSUED_SETTINGS: Settings = &[&FIELDS, &OVERLAP];

/// The member with the end of a credential.
fn expiry_member(field: &FieldName) -> FieldName {
    field.with_suffix("_EXPIRES")
}

impl<I: Issuer> IssuedCredential<I> {
    /// Whether the issuer says that a credential works. It is asked a second time if it gave no answer: the question has
    /// no effect, and one lost answer must not undo a promotion.
    async fn works(&self, secret: &str, members: &Members, deadline: Deadline) -> Result<bool, RotationError> {
        let once = async || {
            let request = Request::Verify { members };
            ask(&self.issuer, secret, request, deadline, |answer| status(answer, ["ok", "refused"])).await
        };
        match once().await {
            Err(RotationError::Issuer(error)) if error.may_pass() && deadline.pause(ASK_AGAIN).await => once().await,
            answer => answer,
        }
    }

    async fn revoke_members(
        &self,
        secret: &str,
        members: &Members,
        deadline: Deadline,
    ) -> Result<Revocation, RotationError> {
        let gone = |answer: &SecretText| status(answer, ["gone", "later"]);
        let gone = ask(&self.issuer, secret, Request::Revoke { members }, deadline, gone).await?;
        Ok(if gone { Revocation::Gone } else { Revocation::Later })
    }

    /// Requires that the issuer refuses a damaged copy of a credential: otherwise its answers prove nothing.
    async fn require_proof(&self, secret: &str, members: &Members, deadline: Deadline) -> Result<(), RotationError> {
        if self.works(secret, &members.damaged(), deadline).await? {
            return Err(IssuerError::IssuerAcceptsAny { function: self.issuer.name().to_owned() }.into());
        }
        Ok(())
    }

    /// The value with the members that the issuer has made.
    fn with_issued(
        subject: &Subject<'_>,
        current: Option<&Document>,
        issued: &Created,
    ) -> Result<Document, RotationError> {
        let policy = subject.policy;
        let field = policy.field.as_ref().ok_or_else(no_members)?;
        let text = |name: &FieldName| {
            issued.members.get(name).ok_or_else(|| RotationError::FieldMissing { field: name.to_string() })
        };
        let mut value = match current {
            Some(current) => current.clone(),
            None => Document::first(text(field)?, Some(field))?,
        };
        // A new member follows the first one, so that the last to be added stands first.
        let others = policy.fields.iter().filter(|name| *name != field);
        for name in others.rev().chain([field]) {
            value = value.with_member(name, text(name)?)?;
        }
        let end = expiry_member(field);
        let value = match issued.expires {
            Some(expires) => value.with_member(&end, &SecretText::new(format_timestamp(expires)))?,
            None => value.without_member(&end)?,
        };
        let bytes = value.text().len();
        if bytes > MAX_VALUE_BYTES { Err(RotationError::ValueTooLarge { bytes }) } else { Ok(value) }
    }

    /// The value for a credential that was just issued, if the credential can be used.
    fn accept(
        &self,
        subject: &Subject<'_>,
        current: Option<&Document>,
        issued: &Created,
    ) -> Result<Document, RotationError> {
        if issued.expires.is_some_and(|expires| expires <= subject.now) {
            let (function, version) = (self.issuer.name().to_owned(), subject.admitted.version().clone());
            return Err(IssuerError::CredentialExpired { function, version }.into());
        }
        Self::with_issued(subject, current, issued)
    }
}

fn no_members() -> RotationError {
    let problem = "is not set: name the members that the issuer makes, separated by spaces".to_owned();
    RotationError::InvalidPolicy { setting: format!("tag {FIELDS}"), problem }
}

impl<I: Issuer> SecretKind for IssuedCredential<I> {
    const SETTINGS: Settings = ISSUED_SETTINGS;
    const VARIABLES: &'static [&'static str] = &["ISSUER_"];

    /// The issuer proves a credential, as an application does for other kinds.
    fn has_target(&self) -> bool {
        true
    }

    fn settle_time(&self) -> Duration {
        2 * self.issuer.timeout() + ASK_AGAIN
    }

    /// Refuses values of other kinds: the issuer would get a key or a token, and the rotation would destroy it.
    fn parse(&self, policy: &RotationPolicy, text: SecretText) -> Result<Document, RotationError> {
        let field = policy.field.as_ref().ok_or_else(no_members)?;
        let document = Document::parse(text, Some(field))?;
        for name in &policy.fields {
            document.member(name)?;
        }
        let (rotates, end) = ("issued credentials", token_end_member(field));
        if document.has_member(&end) {
            let (found, function) = ("a token with its previous one", "…admin-token");
            return Err(RotationError::WrongKind { found, sign: format!("member {end}"), rotates, function });
        }
        if let Some(sign) = sign_of_keyring(&document)? {
            return Err(RotationError::WrongKind { found: "a keyring", sign, rotates, function: "…encryption-key" });
        }
        Ok(document)
    }

    /// A credential is revoked when the overlap has passed since the current one was made: with a longer overlap than
    /// period, never.
    fn check_configuration(&self, policy: &RotationPolicy, period: Option<Duration>) -> Result<(), RotationError> {
        period.map_or(Ok(()), |period| policy.check_overlap_fits(period))
    }

    /// Nothing can be made without the issuer, see [`issue`](SecretKind::issue).
    fn first(&self, subject: &Subject<'_>, _: &mut StdRng) -> Result<Document, RotationError> {
        let field = subject.policy.field.as_ref().ok_or_else(no_members)?;
        Err(RotationError::FieldMissing { field: field.to_string() })
    }

    /// A rehearsal: nothing is issued, and the value stays as it is.
    fn create(&self, _: &Subject<'_>, current: &Document, _: &mut StdRng) -> Result<Document, RotationError> {
        Ok(current.clone())
    }

    fn is_issued(&self) -> bool {
        true
    }

    async fn issue(
        &self,
        subject: &Subject<'_>,
        current: Option<&Document>,
        deadline: Deadline,
        _: &mut StdRng,
    ) -> Result<Document, RotationError> {
        let names = &subject.policy.fields;
        let now = current.map_or(Ok(Members::default()), |current| Members::of(current, names))?;
        let version_id = subject.admitted.version().as_str();
        let request = Request::Create { version_id, members: &now };
        let read = |answer: &SecretText| created(answer, names);
        let issued = ask(&self.issuer, subject.name, request, deadline, read).await?;
        if issued.members == now {
            return Err(IssuerError::CredentialUnchanged { function: self.issuer.name().to_owned() }.into());
        }
        let accepted = self.accept(subject, current, &issued);
        // A provider may give one of the members again, but what is current must not be revoked.
        let is_apart = names.iter().all(|name| issued.members.get(name) != now.get(name));
        if accepted.is_err() && is_apart {
            // The version's label stays: if this fails, a later run discards the credential.
            let _ = self.revoke_members(subject.name, &issued.members, deadline).await;
        }
        accepted
    }

    async fn revoke(
        &self,
        subject: &Subject<'_>,
        value: &Document,
        deadline: Deadline,
    ) -> Result<Revocation, RotationError> {
        let members = Members::of(value, &subject.policy.fields)?;
        if members == Members::default() {
            // The tag named other members when this was made. Its label stays: nothing else remembers the credential.
            let field = subject.policy.fields.first().map(FieldName::to_string).unwrap_or_default();
            return Err(RotationError::FieldMissing { field });
        }
        self.revoke_members(subject.name, &members, deadline).await
    }

    async fn discard(
        &self,
        subject: &Subject<'_>,
        of: &VersionId,
        keep: &[&Document],
        deadline: Deadline,
    ) -> Result<Revocation, RotationError> {
        let keep = keep.iter().map(|value| Members::of(value, &subject.policy.fields));
        let keep = keep.collect::<Result<Vec<_>, _>>()?;
        let request = Request::Discard { version_id: of.as_str(), keep: &keep };
        let gone = |answer: &SecretText| status(answer, ["gone", "later"]);
        let gone = ask(&self.issuer, subject.name, request, deadline, gone).await?;
        Ok(if gone { Revocation::Gone } else { Revocation::Later })
    }

    fn members(&self, policy: &RotationPolicy, value: &Document) -> Vec<FieldName> {
        let end = value.field().map(expiry_member);
        policy.fields.iter().cloned().chain(end).collect()
    }

    /// The end of a credential changes with the credential alone, and asks nothing of a consumer.
    fn needs_no_delivery(
        &self,
        policy: &RotationPolicy,
        delivered: &Document,
        current: &Document,
        _: SystemTime,
    ) -> Result<bool, RotationError> {
        Ok(Members::of(delivered, &policy.fields)? == Members::of(current, &policy.fields)?)
    }

    fn check_succession(
        &self,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        _: SystemTime,
    ) -> Result<(), RotationError> {
        if self.needs_no_delivery(subject.policy, old, new, subject.now)? {
            return Err(RotationError::ValueUnchanged { version: subject.admitted.version().clone() });
        }
        Ok(())
    }

    fn report(&self, _: &Subject<'_>, _: Option<&Document>, new: &Document) -> Map<String, Value> {
        let expires = Self::expires(new);
        expires.map(|expires| ("expires".to_owned(), json!(format_timestamp(expires)))).into_iter().collect()
    }

    fn overlap_end(&self, subject: &Subject<'_>, _: &Document, began: SystemTime) -> Option<SystemTime> {
        let overlap = subject.policy.overlap;
        (!overlap.is_zero()).then(|| began + overlap)
    }

    /// Proves once in a rotation that the issuer's answers mean something, and tells if the credential in use does not work
    /// any more. Nothing is brought anywhere: a credential works as soon as it is issued.
    async fn set(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
    ) -> Result<(), RotationError> {
        if phase != Phase::BeforePromotion {
            return Ok(());
        }
        let members = Members::of(values.new, &subject.policy.fields)?;
        self.require_proof(subject.name, &members, deadline).await?;
        let Some(old) = values.old else { return Ok(()) };
        let old = Members::of(old, &subject.policy.fields)?;
        if let Ok(false) = self.works(subject.name, &old, deadline).await {
            let error = IssuerError::CurrentRefused { function: self.issuer.name().to_owned() };
            tracing::warn!(secret = subject.name, error_type = error.name(), %error, "consumers fail");
        }
        Ok(())
    }

    async fn test(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
        _: &mut StdRng,
    ) -> Result<(), RotationError> {
        let members = Members::of(values.new, &subject.policy.fields)?;
        if !self.works(subject.name, &members, deadline).await? {
            let which = match phase {
                Phase::BeforePromotion => "pending",
                Phase::AfterPromotion => "new",
                Phase::Configuration => "current",
            };
            let function = self.issuer.name().to_owned();
            return Err(IssuerError::CredentialRefused { function, which }.into());
        }
        match phase {
            Phase::Configuration => {
                let missing = subject.policy.fields.iter().find(|name| members.get(name).is_none());
                if let Some(field) = missing {
                    return Err(RotationError::FieldMissing { field: field.to_string() });
                }
                self.require_proof(subject.name, &members, deadline).await
            }
            Phase::BeforePromotion | Phase::AfterPromotion => Ok(()),
        }
    }
}
