//! Keys for the tests of keyrings, and what none of them may ever show.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::document::Document;
use rotation::keyring::{Key, KeyFormat, KeyMaterial, Keyring};

use crate::{field, secret};

/// A key that can be recognised wherever it is shown: printable, and with `+` and `/` in its base64.
pub(crate) const CANARY_KEY: &[u8; 32] = b"canary>>>c4nary???KEYc4nary~~~00";

pub(crate) const FORMATS: [KeyFormat; 3] = [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink];

/// The member with the primary key.
pub(crate) const FIELD: &str = "K";

pub(crate) fn key_from(bytes: &[u8]) -> Key {
    Key::new(KeyMaterial::new(bytes).unwrap())
}

/// The key of a seed.
pub(crate) fn key(seed: u64) -> Key {
    Key::new(KeyMaterial::generate(&mut StdRng::seed_from_u64(seed)))
}

pub(crate) fn canary_key() -> Key {
    key_from(CANARY_KEY)
}

/// Two keys with the same id, found by hashing 52951 keys: SHA-256 of `collision 20096` and of `collision 52950`.
pub(crate) fn same_id() -> [Key; 2] {
    [
        "30ff2de6a458ad467505e63fa4957056afd0733ef4fa4b877dcf23ef7429c053",
        "ab94d84e20ba0269178e89bcf4b48019bd3ec333c58e96f07a8f65be84a3bcdc",
    ]
    .map(|hex| key_from(&from_hex(hex)))
}

pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn standard(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn url_safe(bytes: &[u8]) -> String {
    URL_SAFE.encode(bytes)
}

/// The value of a secret that is the key alone, as text or in the member `K`.
pub(crate) fn bare(format: KeyFormat, in_json: bool, key: &Key) -> Document {
    let text = format.wire().first(key);
    let field = field(FIELD);
    if in_json { Document::first(&text, Some(&field)).unwrap() } else { format.wire().document(text, None).unwrap() }
}

/// A JSON secret in this format.
pub(crate) fn in_json(format: KeyFormat, text: &str) -> Document {
    format.wire().document(secret(text), Some(&field(FIELD))).unwrap()
}

pub(crate) fn write(format: KeyFormat, document: &Document, ring: &Keyring) -> Document {
    format.wire().write(document, ring).unwrap()
}

pub(crate) fn parse(format: KeyFormat, document: &Document) -> Keyring {
    format.wire().parse(document).unwrap()
}

/// Up to `most` keys, no two the same, and none all zero.
pub(crate) fn keys(most: usize) -> impl Strategy<Value = Vec<Key>> {
    let key = any::<[u8; 32]>().prop_filter("all zero", |bytes| bytes != &[0; 32]);
    prop::collection::vec(key, 1..=most).prop_map(|all| {
        let mut keys: Vec<Key> = vec![];
        for key in all.iter().map(|bytes| key_from(bytes)) {
            if keys.iter().all(|held| held.id() != key.id()) && key.id().number() != 0 {
                keys.push(key);
            }
        }
        keys
    })
}

/// Panics when any part of the key that is long enough to be told from chance is shown: its bytes, base64 at every
/// alignment in both alphabets, hexadecimal or decimal digits.
#[track_caller]
pub(crate) fn assert_shows_no_part_of(key: &[u8], shown: &str) {
    let aligned = (0..3).flat_map(|at| {
        let rest = &key[at..];
        let whole = &rest[..rest.len() / 3 * 3];
        [standard(whole), url_safe(whole)]
    });
    let others = [to_hex(key), to_hex(key).to_uppercase(), String::from_utf8_lossy(key).into_owned()];
    let forms = aligned.chain(others).map(|form| (form, 8));
    // An id is printed as four numbers, of which two may be those of a key by chance.
    for (form, window) in forms.chain([(format!("{key:?}"), 16)]) {
        let characters: Vec<char> = form.chars().collect();
        for part in characters.windows(window).map(String::from_iter) {
            assert!(!shown.contains(&part), "shows {part:?} of a key: {shown}");
        }
    }
}
