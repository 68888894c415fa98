//! Reads a keyring of the format raw: AES-256-GCM, stored as base64 of nonce, ciphertext and tag.
use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead as _, KeyInit as _, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::key_id::key_id;
use super::secret::{Secret, text};

/// Opens nonce, ciphertext and tag; `None` when it is another key.
pub(crate) fn open(key: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = bytes.split_at_checked(12)?;
    let nonce = Nonce::<Aes256Gcm>::try_from(nonce).ok()?;
    Aes256Gcm::new_from_slice(key).ok()?.decrypt(&nonce, sealed).ok()
}

/// The keys, the primary one first.
pub(crate) struct Keyring(Vec<Vec<u8>>);

impl Keyring {
    /// Keys are base64, as of `openssl rand -base64 32`; `None` when one is not.
    pub(crate) fn read(secret: &Secret, member: &str) -> Option<Self> {
        let [staged, previous] = ["STAGED", "PREVIOUS"].map(|what| text(secret, &format!("{member}_{what}")));
        let secondary = previous.unwrap_or_default().split(',').filter(|one| !one.is_empty());
        let texts = [text(secret, member)?].into_iter().chain(staged).chain(secondary);
        texts.map(|one| STANDARD.decode(one).ok()).collect::<Option<_>>().map(Self)
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.0.iter().map(|key| key_id(key)).collect()
    }

    /// `None` when no key of this keyring opens it.
    pub(crate) fn decrypt(&self, stored: &str) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(stored).ok()?;
        self.0.iter().find_map(|key| open(key, &bytes))
    }
}
