//! The formats by their names, and the signs that tell a keyring from a token.

use super::fernet::Fernet;
use super::raw::{Raw, previous_member, staged_member};
use super::states::ring_member;
use super::text;
use super::tink::Tink;
use super::wire::WireFormat;
use crate::document::{Document, FieldName};
use crate::error::RotationError;
use crate::policy::{OVERLAP, PROMOTION, RotationPolicy, Setting, Settings, VERIFY, one_of};

/// The wire format of a keyring: `raw`, `fernet` or `tink`.
pub const KEY_FORMAT: Setting<KeyFormat> = Setting {
    tag: "rotation:key-format",
    variable: Some("ROTATION_KEY_FORMAT"),
    default_text: "raw",
    default: |_| KeyFormat::Raw,
    read: |text, _| one_of(text, &[("raw", KeyFormat::Raw), ("fernet", KeyFormat::Fernet), ("tink", KeyFormat::Tink)]),
};
/// The settings of kinds that keep keyrings. The overlap is the time between two censuses.
pub const KEY_SETTINGS: Settings = &[&OVERLAP, &VERIFY, &KEY_FORMAT, &PROMOTION];

/// The wire formats, by their names in `rotation:key-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFormat {
    /// `raw`: keys in base64 or hexadecimal digits, one member per state.
    Raw,
    /// `fernet`: the list that Python's `MultiFernet` and Airflow's `FERNET_KEY` accept.
    Fernet,
    /// `tink`: a Tink JSON keyset.
    Tink,
}

impl KeyFormat {
    /// The format that a secret's policy chooses.
    #[must_use]
    pub fn of(policy: &RotationPolicy) -> Self {
        policy.get(&KEY_FORMAT)
    }

    /// The format's rules.
    #[must_use]
    pub fn wire(self) -> &'static dyn WireFormat {
        match self {
            Self::Raw => &Raw,
            Self::Fernet => &Fernet,
            Self::Tink => &Tink,
        }
    }
}

/// The sign that a value holds a keyring, though the function rotates it as a token; `None` if there is no sign.
///
/// A single key is no sign, because a token may look the same. A previous token has its end beside it
/// (`NAME_PREVIOUS_UNTIL`); a secondary key has no end.
///
/// # Errors
/// Those of [`Document::member`].
pub fn sign_of_keyring(document: &Document) -> Result<Option<String>, RotationError> {
    let text = document.secret()?;
    if Tink.parse(&Document::whole(text.clone())?).is_ok() {
        return Ok(Some("a Tink keyset".to_owned()));
    }
    let listed = text::count_keys(&text);
    let Some(field) = document.field() else {
        return Ok((listed > 1).then(|| "a list of keys".to_owned()));
    };
    let of_rings = [ring_member(field), staged_member(field)];
    if let Some(member) = of_rings.iter().find(|member| document.has_member(member)) {
        return Ok(Some(format!("member {member}")));
    }
    if document.has_member(&token_end_member(field)) {
        return Ok(None);
    }
    if listed > 1 {
        return Ok(Some(format!("member {field} is a list of keys")));
    }
    let previous = previous_member(field);
    let secondary = document.member(&previous).ok().flatten().map_or(0, |list| text::count_keys(&list));
    let is_ring = secondary > 1 || (secondary == 1 && listed == 1);
    Ok(is_ring.then(|| format!("member {previous} holds keys, and there is no {}", token_end_member(field))))
}

/// What a value holds that only a token has, and the member that shows it; `None` if no member does. A keyring with
/// `NAME_RING` may have a member `NAME_NEXT` of somebody else.
#[must_use]
pub fn sign_of_token(document: &Document) -> Option<(&'static str, FieldName)> {
    let field = document.field()?;
    let (end, next) = (token_end_member(field), token_next_member(field));
    if document.has_member(&end) {
        return Some(("a token with its previous one", end));
    }
    let is_next = document.has_member(&next) && !document.has_member(&ring_member(field));
    is_next.then_some(("a token with its next one", next))
}

/// The member with the next token of a secret with staged tokens.
#[must_use]
pub fn token_next_member(field: &FieldName) -> FieldName {
    field.with_suffix("_NEXT")
}

/// The member with the end of a previous token. No keyring has this member.
#[must_use]
pub fn token_end_member(field: &FieldName) -> FieldName {
    field.with_suffix("_PREVIOUS_UNTIL")
}
