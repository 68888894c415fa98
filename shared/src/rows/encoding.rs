//! How the bytes of a ciphertext stand in a column.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose};
use serde::{Deserialize, Serialize};

use crate::keyring::gcm::{NONCE_BYTES, TAG_BYTES};

/// The encoding of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// `binary`: the bytes themselves, which only a `bytea` can hold.
    Binary,
    /// `base64`: RFC 4648 §4, with or without padding.
    Base64,
    /// `base64url`: RFC 4648 §5, with or without padding.
    #[serde(rename = "base64url")]
    Base64Url,
}

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

impl Encoding {
    pub(super) fn decode(self, stored: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Binary => Some(stored.to_vec()),
            Self::Base64 => STANDARD.decode(stored).ok(),
            Self::Base64Url => URL_SAFE.decode(stored).ok(),
        }
    }

    pub(super) fn encode(self, bytes: &[u8], padded: bool) -> Vec<u8> {
        match (self, padded) {
            (Self::Binary, _) => bytes.to_vec(),
            (Self::Base64, true) => general_purpose::STANDARD.encode(bytes).into_bytes(),
            (Self::Base64, false) => general_purpose::STANDARD_NO_PAD.encode(bytes).into_bytes(),
            (Self::Base64Url, true) => general_purpose::URL_SAFE.encode(bytes).into_bytes(),
            (Self::Base64Url, false) => general_purpose::URL_SAFE_NO_PAD.encode(bytes).into_bytes(),
        }
    }
}

/// A Fernet token has one form only.
pub(super) fn decode_padded_base64url(stored: &[u8]) -> Option<Vec<u8>> {
    general_purpose::URL_SAFE.decode(stored).ok()
}

/// `nonce:tag:ciphertext` as nonce, ciphertext, tag.
pub(super) fn decode_hex_parts(stored: &[u8]) -> Option<Vec<u8>> {
    let mut parts = stored.split(|&byte| byte == b':');
    let (Some(nonce), Some(tag), Some(text), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    if nonce.len() != 2 * NONCE_BYTES || tag.len() != 2 * TAG_BYTES {
        return None;
    }
    let mut bytes = Vec::with_capacity(stored.len() / 2);
    [nonce, text, tag].into_iter().try_for_each(|part| decode_hex(part, &mut bytes))?;
    Some(bytes)
}

/// The inverse of [`decode_hex_parts`], in lower case.
pub(super) fn encode_hex_parts(bytes: &[u8]) -> Vec<u8> {
    let (nonce, sealed) = bytes.split_at(NONCE_BYTES.min(bytes.len()));
    let (text, tag) = sealed.split_at(sealed.len().saturating_sub(TAG_BYTES));
    let mut stored = Vec::with_capacity(2 * bytes.len() + 2);
    encode_hex(nonce, &mut stored);
    stored.push(b':');
    encode_hex(tag, &mut stored);
    stored.push(b':');
    encode_hex(text, &mut stored);
    stored
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

fn encode_hex(bytes: &[u8], into: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        into.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}
