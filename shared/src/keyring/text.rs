//! Keys as base64 text, alone or in a list.

use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use zeroize::Zeroizing;

use super::{Key, KeyMaterial, KeyringError, Place};
use crate::document::FieldName;
use crate::secret::SecretText;

/// Longer than any key; what is longer is not decoded.
const LONGEST: usize = 1024;

/// A place in a member, or in the text of a secret.
pub(super) fn at(member: Option<&FieldName>, number: usize) -> Place {
    Place::Position { member: member.map(ToString::to_string), number }
}

/// The keys of a comma-separated list; there is at least one.
pub(super) fn decode_list(
    list: &SecretText,
    member: Option<&FieldName>,
    decode: impl Fn(&str, &dyn Fn() -> Place) -> Result<Key, KeyringError>,
) -> Result<Vec<Key>, KeyringError> {
    let texts = (1..).zip(list.expose().split(','));
    texts.map(|(number, text)| decode(text, &|| at(member, number))).collect()
}

/// Keys as a comma-separated list.
pub(super) fn list<'a>(keys: impl IntoIterator<Item = &'a Key>, encode: impl Fn(&Key) -> SecretText) -> SecretText {
    let texts: Vec<SecretText> = keys.into_iter().map(encode).collect();
    let exposed: Vec<&str> = texts.iter().map(SecretText::expose).collect();
    SecretText::new(exposed.join(","))
}

/// The key in a text of one of base64's alphabets, in the one way that its 32 bytes can be written.
pub(super) fn decode_with(
    alphabet: &impl base64::Engine,
    text: &str,
    expected: &'static str,
    place: &dyn Fn() -> Place,
) -> Result<Key, KeyringError> {
    let malformed = |problem: String| KeyringError::Malformed { place: place(), problem, expected };
    if text.len() > LONGEST {
        return Err(malformed(format!("{} characters long", text.len())));
    }
    let mut bytes = Zeroizing::new([0; LONGEST]);
    match alphabet.decode_slice(text, &mut bytes[..]) {
        // That of an empty text, which is base64 of no bytes.
        Ok(0) => Err(malformed(shape(text))),
        Ok(length) => match KeyMaterial::new(&bytes[..length]) {
            Some(material) => Ok(Key::new(material)),
            None => Err(malformed(format!("{length} bytes long"))),
        },
        Err(_) => Err(malformed(shape(text))),
    }
}

/// How many keys the comma-separated list `text` holds; none when an item is no key.
pub(super) fn count_keys(text: &str) -> usize {
    let is_key = |item: &str| {
        let place = || at(None, 1);
        decode_with(&STANDARD, item, "", &place).or_else(|_| decode_with(&URL_SAFE, item, "", &place)).is_ok()
    };
    let items = || text.split(',').map(str::trim);
    if items().all(is_key) { items().count() } else { 0 }
}

/// What keeps a text from being base64, without the text.
fn shape(text: &str) -> String {
    if text.is_empty() {
        "empty".to_owned()
    } else if text.trim().len() < text.len() {
        "surrounded by white space".to_owned()
    } else {
        format!("{} characters that are not of this form", text.len())
    }
}
