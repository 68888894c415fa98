//! `raw`: 32 bytes in base64 with padding, what `openssl rand -base64 32` prints.
//!
//! A JSON secret has the primary key in `NAME`, the staged one in `NAME_STAGED`, the secondary ones comma-separated in
//! `NAME_PREVIOUS`. A text secret has all of them comma-separated, the primary one first.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{Cipher, Key, KeyMaterial};
use crate::secrets::Unusable;

/// Comma-separated keys.
pub(super) fn keys(list: &str) -> Result<Vec<Key>, Unusable> {
    list.split(',').map(key).collect()
}

pub(super) fn key(text: &str) -> Result<Key, Unusable> {
    let bytes = Zeroizing::new(STANDARD.decode(text.trim_ascii()).map_err(|_| Unusable::NotAKey)?);
    let material = KeyMaterial::new(&bytes).ok_or(Unusable::NotAKey)?;
    Ok(Key::new(material, Cipher::Gcm))
}
