//! Reads a keyring of the format tink: a keyset of AES-256-GCM keys. By <https://developers.google.com/tink/wire-format>.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::key_id::key_id;
use super::keyring_raw::open;
use super::secret::{Secret, text};

/// The enabled keys, each with what its ciphertexts begin with, the primary one first.
pub(crate) struct Keyring(Vec<(Vec<u8>, Vec<u8>)>);

impl Keyring {
    pub(crate) fn read(secret: &Secret, member: &str) -> Option<Self> {
        let keyset: Value = serde_json::from_str(text(secret, member)?).ok()?;
        let enabled = keyset["key"].as_array()?.iter().filter(|entry| entry["status"] == "ENABLED");
        let (primary, others): (Vec<_>, Vec<_>) = enabled.partition(|entry| entry["keyId"] == keyset["primaryKeyId"]);
        let keys = primary.into_iter().chain(others).map(|entry| {
            // The key is the last field of the message AesGcmKey, 32 bytes long.
            let message = STANDARD.decode(entry["keyData"]["value"].as_str()?).ok()?;
            let key = message.get(message.len().checked_sub(32)?..)?.to_vec();
            let id = u32::try_from(entry["keyId"].as_u64()?).ok()?.to_be_bytes();
            let named = entry["outputPrefixType"] == "TINK";
            Some((if named { [&[1][..], &id].concat() } else { vec![] }, key))
        });
        keys.collect::<Option<_>>().map(Self)
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.0.iter().map(|(_, key)| key_id(key)).collect()
    }

    /// `None` when no key of this keyring opens it.
    pub(crate) fn decrypt(&self, stored: &str) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(stored).ok()?;
        self.0.iter().find_map(|(prefix, key)| open(key, bytes.strip_prefix(&prefix[..])?))
    }
}
