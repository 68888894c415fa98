//! Keyrings as secrets hold them, and what an application stores under their keys.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use rotation::keyring::{Ciphers, Key, KeyFormat, KeyMaterial};
use rotation::rows::{Encoding, Opened, RowCodec, RowFormat};
use rotation::secret::SecretText;
use serde_json::{Value, json};

/// 32 bytes that look random and are the same in every run.
pub(crate) fn key(seed: u64) -> Key {
    let mut bytes = [0; 32];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    Key::new(KeyMaterial::new(&bytes).unwrap())
}

/// The id of the key of a seed, as answers tell it.
pub(crate) fn id(seed: u64) -> String {
    key(seed).id().to_string()
}

/// The text secret of a ring of these keys, the primary first.
pub(crate) fn ring(format: KeyFormat, seeds: &[u64]) -> String {
    let keys = seeds.iter().map(|seed| key(*seed));
    match format {
        KeyFormat::Raw => keys.map(|key| STANDARD.encode(key.material().expose())).collect::<Vec<_>>().join(","),
        KeyFormat::Fernet => keys.map(|key| URL_SAFE.encode(key.material().expose())).collect::<Vec<_>>().join(","),
        KeyFormat::Tink => {
            let entries: Vec<Value> = keys
                .map(|key| {
                    let message = STANDARD.encode([&[0x1a, 32][..], key.material().expose()].concat());
                    let data = json!({ "typeUrl": "type.googleapis.com/google.crypto.tink.AesGcmKey", "value": message, "keyMaterialType": "SYMMETRIC" });
                    json!({ "keyData": data, "status": "ENABLED", "keyId": key.id().number(), "outputPrefixType": "TINK" })
                })
                .collect();
            json!({ "primaryKeyId": key(seeds[0]).id().number(), "key": entries }).to_string()
        }
    }
}

pub(crate) fn tag(format: KeyFormat) -> &'static str {
    match format {
        KeyFormat::Raw => "raw",
        KeyFormat::Fernet => "fernet",
        KeyFormat::Tink => "tink",
    }
}

pub(crate) fn ciphers(format: KeyFormat, seeds: &[u64]) -> Ciphers {
    let document = format.wire().document(SecretText::new(ring(format, seeds)), None).unwrap();
    format.wire().ciphers(&document).unwrap()
}

/// What an application that encrypts with one key stores.
pub(crate) fn stored(format: RowFormat, seed: u64, text: &[u8], aad: &[u8], random: u64) -> Vec<u8> {
    let ciphers = ciphers(format.ring(), &[seed]);
    let cipher = ciphers.get(key(seed).id()).unwrap();
    let bytes = cipher.seal_bytes(text, aad, 1_700_000_000, &mut StdRng::seed_from_u64(random)).unwrap();
    match format {
        RowFormat::Fernet => URL_SAFE.encode(bytes).into_bytes(),
        RowFormat::Tink | RowFormat::AesGcm => STANDARD.encode(bytes).into_bytes(),
        RowFormat::AesGcmHex => panic!("rows in hexadecimal are written by Node"),
    }
}

/// A Fernet token under the key of a seed.
pub(crate) fn token(seed: u64, text: &str, random: u64) -> String {
    String::from_utf8(stored(RowFormat::Fernet, seed, text.as_bytes(), b"", random)).unwrap()
}

/// The text of a Fernet token, and the seed of its key.
pub(crate) fn opened(token: &str, seeds: &[u64]) -> Option<(u64, String)> {
    let ciphers = ciphers(KeyFormat::Fernet, seeds);
    match RowCodec::new(RowFormat::Fernet, Encoding::Base64Url, &ciphers).open(token.as_bytes(), b"") {
        Opened::Under(id, text) => {
            let seed = seeds.iter().find(|seed| key(**seed).id() == id)?;
            Some((*seed, String::from_utf8(text.to_vec()).unwrap()))
        }
        Opened::Unknown | Opened::Damaged | Opened::Foreign => None,
    }
}
