//! `raw`: 32 bytes in base64 of either alphabet, with or without padding, or in hexadecimal digits. `openssl rand
//! -base64 32` and `openssl rand -hex 32` print such keys. Laravel's prefix `base64:` may precede them.
//!
//! A JSON secret has the primary key in `NAME`, the staged key in `NAME_STAGED`, and the secondary keys comma-separated
//! in `NAME_PREVIOUS`. A text secret has all keys comma-separated, the primary key first.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::{Cipher, Key, KeyMaterial};
use crate::secrets::Unusable;

/// Parses comma-separated keys.
pub(super) fn keys(list: &str) -> Result<Vec<Key>, Unusable> {
    list.split(',').map(key).collect()
}

pub(super) fn key(text: &str) -> Result<Key, Unusable> {
    let text = text.trim_ascii();
    let bytes = if text.len() == 64 { hex(text) } else { base64(text.strip_prefix("base64:").unwrap_or(text)) };
    let material = bytes.and_then(|bytes| KeyMaterial::new(&bytes)).ok_or(Unusable::NotAKey)?;
    Ok(Key::new(material, Cipher::Gcm))
}

fn hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>().map(Zeroizing::new)
}

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Bytes in base64 of either alphabet.
pub(super) fn base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok().map(Zeroizing::new)
}
