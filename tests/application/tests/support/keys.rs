//! Keyrings of keys that consist of one number, 32 times.

use application::KeyFormat;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

/// The ids of the keys 1 to 5, made outside of this program.
pub fn id(number: u8) -> &'static str {
    ["0fc6d896", "07efb8db", "2a50c719", "fdc26bb6", "ae906016"][usize::from(number) - 1]
}

pub fn raw(number: u8) -> String {
    STANDARD.encode([number; 32])
}

pub fn fernet(number: u8) -> String {
    URL_SAFE.encode([number; 32])
}

/// A Tink keyset whose first key is the primary one. Their Tink ids are their key ids.
pub fn keyset(numbers: &[u8]) -> String {
    let tink_id = |number| u32::from_str_radix(id(number), 16).unwrap();
    let entry = |number: &u8| tink_entry(&[*number; 32], tink_id(*number), "TINK");
    // A keyset grows at its end.
    let entries: Vec<Value> = numbers.iter().rev().map(entry).collect();
    json!({ "primaryKeyId": tink_id(numbers[0]), "key": entries }).to_string()
}

pub fn tink_entry(key: &[u8], id: u32, prefix: &str) -> Value {
    json!({
        "keyData": {
            "typeUrl": "type.googleapis.com/google.crypto.tink.AesGcmKey",
            "value": STANDARD.encode([&[0x1a, 0x20], key].concat()),
            "keyMaterialType": "SYMMETRIC",
        },
        "status": "ENABLED",
        "keyId": id,
        "outputPrefixType": prefix,
    })
}

/// The value of a JSON secret with the keyring in `KEYS`.
pub fn ring(format: KeyFormat, primary: u8, staged: Option<u8>, secondary: &[u8]) -> String {
    let all: Vec<u8> = [primary].into_iter().chain(staged).chain(secondary.iter().copied()).collect();
    let list =
        |numbers: &[u8], key: fn(u8) -> String| numbers.iter().map(|number| key(*number)).collect::<Vec<_>>().join(",");
    let mut value = json!({ "OTHER": "member", "KEYS_RING": r#"{"keys":[]}"# });
    match format {
        KeyFormat::Raw => {
            value["KEYS"] = json!(raw(primary));
            if let Some(staged) = staged {
                value["KEYS_STAGED"] = json!(raw(staged));
            }
            if !secondary.is_empty() {
                value["KEYS_PREVIOUS"] = json!(list(secondary, raw));
            }
        }
        KeyFormat::Fernet => value["KEYS"] = json!(list(&all, fernet)),
        KeyFormat::Tink => value["KEYS"] = json!(keyset(&all)),
    }
    value.to_string()
}
