//! The members that a token has in a JSON secret.

use std::time::SystemTime;

use rotation::document::{Document, FieldName};
use rotation::error::RotationError;
use rotation::keyring::{token_end_member, token_next_member};
use rotation::secret::SecretText;
use rotation::time::parse_timestamp;

/// The members beside the rotated one.
pub(crate) struct Members {
    /// The token that the next rotation promotes.
    pub(crate) next: FieldName,
    pub(crate) previous: FieldName,
    /// The end of the previous token.
    pub(crate) until: FieldName,
}

impl Members {
    pub(crate) fn of(field: &FieldName) -> Self {
        Self {
            next: token_next_member(field),
            previous: field.with_suffix("_PREVIOUS"),
            until: token_end_member(field),
        }
    }

    /// The end of the overlap, as `document` states it. `None` also for a text that is not a time: an application
    /// cannot read it either, and refuses the previous token.
    pub(crate) fn end(&self, document: &Document) -> Option<SystemTime> {
        parse_timestamp(document.member(&self.until).ok()??.expose())
    }

    /// The previous token, if applications accept it at the time `now`.
    pub(crate) fn accepted_previous(
        &self,
        document: &Document,
        now: SystemTime,
    ) -> Result<Option<SecretText>, RotationError> {
        match self.end(document) {
            Some(end) if end > now => document.member(&self.previous),
            _ => Ok(None),
        }
    }

    /// Whether both values have the same previous token, with the same end.
    pub(crate) fn same_previous(&self, one: &Document, other: &Document) -> Result<bool, RotationError> {
        for member in [&self.previous, &self.until] {
            if one.member(member)? != other.member(member)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
