//! The encodings of a ciphertext's bytes in a column.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose};
use serde::{Deserialize, Serialize};

use super::form::{Form, Layout, Untold, shows_alphabet};
use crate::keyring::gcm::{NONCE_BYTES, TAG_BYTES};

/// The encoding of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// `binary`: the bytes themselves. Only a `bytea` can hold them.
    Binary,
    /// `base64`: RFC 4648 §4, with or without padding, in one line or in several of equal length.
    Base64,
    /// `base64url`: RFC 4648 §5, with the same choices.
    #[serde(rename = "base64url")]
    Base64Url,
}

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

impl Encoding {
    /// The bytes of a value, if the whole value is in this encoding.
    pub(super) fn decode(self, stored: &[u8]) -> Option<Vec<u8>> {
        let engine = match self {
            Self::Binary => return Some(stored.to_vec()),
            Self::Base64 => STANDARD,
            Self::Base64Url => URL_SAFE,
        };
        let layout = Layout::of(stored)?;
        let half_padded = layout.is_padded() && !layout.text.len().is_multiple_of(4);
        engine.decode(&*layout.text).ok().filter(|_| !half_padded)
    }

    /// Writes bytes in the way of the value `old`. If `old` does not show it, the column's other values do.
    pub(super) fn encode(self, bytes: &[u8], old: &[u8], form: Form) -> Result<Vec<u8>, Untold> {
        let engine = match self {
            Self::Binary => return Ok(bytes.to_vec()),
            Self::Base64 => general_purpose::STANDARD_NO_PAD,
            Self::Base64Url => general_purpose::URL_SAFE_NO_PAD,
        };
        let old = Layout::of(old).ok_or(Untold::Lines)?;
        let mut text = engine.encode(bytes).into_bytes();
        if !form.alphabet && !old.shows_alphabet() && shows_alphabet(&text) {
            return Err(Untold::Alphabet);
        }
        let missing = text.len().wrapping_neg() % 4;
        if missing > 0 && old.padding().or(form.padding()).ok_or(Untold::Padding)? {
            text.resize(text.len() + missing, b'=');
        }
        old.lay_out(text, form)
    }
}

/// The bytes of a Fernet token, which has only one form.
pub(super) fn decode_padded_base64url(stored: &[u8]) -> Option<Vec<u8>> {
    general_purpose::URL_SAFE.decode(stored).ok()
}

/// The inverse of [`decode_padded_base64url`].
pub(super) fn encode_padded_base64url(bytes: &[u8]) -> Vec<u8> {
    general_purpose::URL_SAFE.encode(bytes).into_bytes()
}

/// The bytes of `nonce:tag:ciphertext`, in the order nonce, ciphertext, tag. The digits are all in lower case or all in
/// upper case.
pub(super) fn decode_hex_parts(stored: &[u8]) -> Option<Vec<u8>> {
    let mut parts = stored.split(|&byte| byte == b':');
    let (Some(nonce), Some(tag), Some(text), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let in_both_cases = is_upper_case(stored) && stored.iter().any(u8::is_ascii_lowercase);
    if nonce.len() != 2 * NONCE_BYTES || tag.len() != 2 * TAG_BYTES || in_both_cases {
        return None;
    }
    let mut bytes = Vec::with_capacity(stored.len() / 2);
    [nonce, text, tag].into_iter().try_for_each(|part| decode_hex(part, &mut bytes))?;
    Some(bytes)
}

/// The inverse of [`decode_hex_parts`], in the case of the old value.
pub(super) fn encode_hex_parts(bytes: &[u8], old: &[u8]) -> Vec<u8> {
    let digits: &[u8; 16] = if is_upper_case(old) { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
    let (nonce, sealed) = bytes.split_at(NONCE_BYTES.min(bytes.len()));
    let (text, tag) = sealed.split_at(sealed.len().saturating_sub(TAG_BYTES));
    let mut stored = Vec::with_capacity(2 * bytes.len() + 2);
    for (number, part) in [nonce, tag, text].into_iter().enumerate() {
        if number > 0 {
            stored.push(b':');
        }
        stored.extend(part.iter().flat_map(|byte| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]));
    }
    stored
}

fn is_upper_case(digits: &[u8]) -> bool {
    digits.iter().any(u8::is_ascii_uppercase)
}

fn decode_hex(digits: &[u8], into: &mut Vec<u8>) -> Option<()> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    for pair in pairs {
        into.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(())
}
