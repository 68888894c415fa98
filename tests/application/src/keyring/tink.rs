//! `tink`: a Tink keyset in JSON, in a JSON secret as a string. Only enabled keys count.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::{Cipher, Key, KeyMaterial};
use crate::secrets::Unusable;

const AES_GCM_KEY: &str = "type.googleapis.com/google.crypto.tink.AesGcmKey";
/// The bytes before the key in the message `AesGcmKey`: field 3, 32 bytes long.
const KEY_VALUE: [u8; 2] = [0x1a, 32];
/// The first byte of a ciphertext that names its key. The key id follows, big-endian.
const NAMED: u8 = 1;

#[derive(Deserialize)]
struct Keyset {
    #[serde(rename = "primaryKeyId", alias = "primary_key_id")]
    primary_key_id: u32,
    key: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    /// The key's data. A destroyed key has none.
    #[serde(rename = "keyData", alias = "key_data")]
    data: Option<KeyData>,
    status: String,
    #[serde(rename = "keyId", alias = "key_id")]
    id: u32,
    #[serde(rename = "outputPrefixType", alias = "output_prefix_type")]
    prefix: String,
}

#[derive(Deserialize)]
struct KeyData {
    #[serde(rename = "typeUrl", alias = "type_url")]
    kind: String,
    #[serde(deserialize_with = "secret_text")]
    value: Zeroizing<String>,
}

fn secret_text<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

/// The enabled keys: the primary key first, then the newest first. A keyset grows at its end.
pub(super) fn keys(text: &str) -> Result<Vec<Key>, Unusable> {
    // serde's message could quote a key.
    let Keyset { primary_key_id, key: entries } = serde_json::from_str(text).map_err(|_| Unusable::NotAKeyset)?;
    let enabled = entries.iter().rev().filter(|entry| entry.status == "ENABLED");
    let (primary, others): (Vec<_>, Vec<_>) = enabled.partition(|entry| entry.id == primary_key_id);
    if primary.is_empty() {
        return Err(Unusable::NoPrimaryKey);
    }
    primary.into_iter().chain(others).map(Entry::read).collect()
}

impl Entry {
    fn read(&self) -> Result<Key, Unusable> {
        let data = self.data.as_ref().filter(|data| data.kind == AES_GCM_KEY).ok_or(Unusable::UnknownTinkKey)?;
        let message = Zeroizing::new(STANDARD.decode(data.value.as_str()).map_err(|_| Unusable::NotAKey)?);
        let material = message.strip_prefix(&KEY_VALUE).and_then(KeyMaterial::new).ok_or(Unusable::NotAKey)?;
        let cipher = match self.prefix.as_str() {
            "TINK" => {
                let [a, b, c, d] = self.id.to_be_bytes();
                Cipher::TinkGcm([NAMED, a, b, c, d])
            }
            "RAW" => Cipher::Gcm,
            _ => return Err(Unusable::UnknownTinkKey),
        };
        Ok(Key::new(material, cipher))
    }
}
