//! Staged tokens: a JSON secret holds its next token one period ahead.
//!
//! A server that reads its environment only when it starts cannot load a pending token. It accepts the token, the next
//! token and the previous one. A rotation promotes the next token, which every server already holds.

use rand::rngs::StdRng;
use rotation::document::{Document, FieldName};
use rotation::error::RotationError;
use rotation::kind::Subject;
use rotation::policy::{OVERLAP, Promotion, RotationPolicy, TOKEN_PROMOTION};
use rotation::secret::SecretText;
use rotation::token::TokenFormat;

use crate::members::Members;

/// Whether the policy has a secret hold its next token.
pub(crate) fn is_staged(policy: &RotationPolicy) -> bool {
    policy.get(&TOKEN_PROMOTION) == Promotion::Staged
}

/// The member whose next token the policy has the secret hold. `None` with immediate promotion.
///
/// # Errors
/// [`RotationError::InvalidPolicy`]: a text has no place for a next token, and without an overlap a rotation would lock
/// out every client that holds the token from its start.
pub(crate) fn staged_field(policy: &RotationPolicy) -> Result<Option<&FieldName>, RotationError> {
    if !is_staged(policy) {
        return Ok(None);
    }
    let refused =
        |setting: String, problem: &str| RotationError::InvalidPolicy { setting, problem: problem.to_owned() };
    let Some(field) = &policy.field else {
        let problem = "is staged, and a text secret has no place for the next token: store a JSON object and name its member with rotation:field, or choose immediate";
        return Err(refused(TOKEN_PROMOTION.to_string(), problem));
    };
    if policy.overlap.is_zero() {
        let problem = "is 0s, and with rotation:promotion=staged clients keep the previous token until they are restarted: choose a time in which every client is restarted";
        return Err(refused(OVERLAP.to_string(), problem));
    }
    Ok(Some(field))
}

/// The next token of a value, if the value has one.
///
/// # Errors
/// Those of [`Document::member`].
pub(crate) fn next_token(value: &Document) -> Result<Option<SecretText>, RotationError> {
    value.field().map_or(Ok(None), |field| value.member(&Members::of(field).next))
}

/// The next token that a rotation promotes. One that is the token already, as a person may have stored it, is none.
///
/// # Errors
/// Those of [`Document::member`].
pub(crate) fn promotable(value: &Document) -> Result<Option<SecretText>, RotationError> {
    let token = value.secret()?;
    Ok(next_token(value)?.filter(|next| *next != token))
}

/// The value with a fresh next token.
///
/// # Errors
/// Those of [`Document::with_member`].
pub(crate) fn with_fresh_next(
    subject: &Subject<'_>,
    field: &FieldName,
    value: &Document,
    rng: &mut StdRng,
) -> Result<Document, RotationError> {
    value.with_member(&Members::of(field).next, &TokenFormat::of(subject.policy).generate(rng))
}

/// Whether `new` follows `old` as a rotation with staged promotion makes it.
///
/// # Errors
/// A value is not of this kind.
pub(crate) fn follows(field: &FieldName, old: &Document, new: &Document) -> Result<bool, RotationError> {
    let Some(fresh) = next_token(new)? else { return Ok(false) };
    let (was, is) = (old.secret()?, new.secret()?);
    Ok(match promotable(old)? {
        // The first rotation changes nothing that is in use.
        None => is == was && Members::of(field).same_previous(old, new)?,
        Some(promoted) => is == promoted && ![was, promoted].contains(&fresh),
    })
}
