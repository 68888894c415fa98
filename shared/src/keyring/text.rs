//! Keys as text, alone or in a list. A key that is read stays as it is written; a new key is written like the other
//! keys.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::document::FieldName;
use crate::error::{KeyringError, Place};
use crate::key::{KEY_BYTES, Key, KeyMaterial};
use crate::secret::SecretText;

/// Longer than any key. A longer text is not decoded.
const LONGEST: usize = 1024;

/// Laravel's prefix of a key (`APP_KEY`, `APP_PREVIOUS_KEYS`).
const LARAVEL: &str = "base64:";

const RAW: &str = "32 bytes in base64 (openssl rand -base64 32), base64url or hex";
const NO_RAW_KEY: &str = "32 bytes in base64 (openssl rand -base64 32), base64url or hex; a passphrase or a key of another length is not rotated: let the application encrypt with a new key, and encrypt again what is under this one";
const RAW_TEXT: &str = "32 bytes in base64 (openssl rand -base64 32), base64url or hex; if the application takes these characters themselves for the key, have it decode base64, and store the base64 of them";
const RAW_BARE: &str = "32 bytes in base64 (openssl rand -base64 32), base64url or hex, and nothing around it (printf writes no line break, echo does): which readers take it differs";
const FERNET: &str = "a Fernet key: 32 bytes in base64url or base64 with padding, 44 characters";

/// The texts that are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// Base64 of either alphabet, with or without padding, with or without Laravel's prefix; or hexadecimal digits.
    Raw,
    /// Base64 of either alphabet, with padding.
    Fernet,
}

/// The form in which a text writes the bytes of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    digits: Digits,
    laravel: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    Hex { upper: bool },
    Base64 { alphabet: Option<Alphabet>, padded: bool },
}

/// The alphabets of base64 (RFC 4648 §4 and §5). They differ in two characters, and not every key has one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alphabet {
    Standard,
    UrlSafe,
}

impl Form {
    /// Base64 with padding, in the alphabet that the format's own software writes.
    pub(super) fn usual(accepted: Accepted) -> Self {
        let alphabet = Some(match accepted {
            Accepted::Raw => Alphabet::Standard,
            Accepted::Fernet => Alphabet::UrlSafe,
        });
        Self { digits: Digits::Base64 { alphabet, padded: true }, laravel: false }
    }

    /// The form of `text`, on the assumption that it is a key.
    fn of(text: &str) -> Self {
        let (laravel, rest) = text.strip_prefix(LARAVEL).map_or((false, text), |rest| (true, rest));
        let is_hex = rest.len() == 2 * KEY_BYTES && rest.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hex && !laravel {
            let has = |case: fn(&u8) -> bool| rest.bytes().any(|b| case(&b));
            let upper = has(u8::is_ascii_uppercase) && !has(u8::is_ascii_lowercase);
            return Self { digits: Digits::Hex { upper }, laravel };
        }
        let alphabet = if rest.contains(['-', '_']) {
            Some(Alphabet::UrlSafe)
        } else {
            rest.contains(['+', '/']).then_some(Alphabet::Standard)
        };
        Self { digits: Digits::Base64 { alphabet, padded: rest.ends_with('=') }, laravel }
    }

    /// Decodes `text` into `bytes`, and returns the number of bytes. `None` if the text does not have this form.
    fn decode(self, text: &str, bytes: &mut [u8]) -> Option<usize> {
        let text = if self.laravel { text.strip_prefix(LARAVEL)? } else { text };
        match self.digits {
            Digits::Hex { .. } => {
                for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let digit =
                        |at: usize| char::from(digits[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                    *byte = (digit(0)? << 4) | digit(1)?;
                }
                Some(text.len() / 2)
            }
            Digits::Base64 { alphabet: Some(Alphabet::UrlSafe), padded: true } => {
                URL_SAFE.decode_slice(text, bytes).ok()
            }
            Digits::Base64 { alphabet: Some(Alphabet::UrlSafe), padded: false } => {
                URL_SAFE_NO_PAD.decode_slice(text, bytes).ok()
            }
            Digits::Base64 { padded: true, .. } => STANDARD.decode_slice(text, bytes).ok(),
            Digits::Base64 { padded: false, .. } => STANDARD_NO_PAD.decode_slice(text, bytes).ok(),
        }
    }

    /// The text of a key. If the form's alphabet is unknown, it is the alphabet `usual`.
    fn encode(self, key: &Key, usual: Alphabet) -> SecretText {
        let bytes = key.material().expose();
        let mut text = Zeroizing::new(String::with_capacity(LARAVEL.len() + 2 * KEY_BYTES));
        if self.laravel {
            text.push_str(LARAVEL);
        }
        match self.digits {
            Digits::Hex { upper } => {
                for nibble in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
                    let digit = char::from_digit(nibble.into(), 16).unwrap_or_default();
                    text.push(if upper { digit.to_ascii_uppercase() } else { digit });
                }
            }
            Digits::Base64 { alphabet, padded } => match (alphabet.unwrap_or(usual), padded) {
                (Alphabet::Standard, true) => STANDARD.encode_string(bytes, &mut text),
                (Alphabet::Standard, false) => STANDARD_NO_PAD.encode_string(bytes, &mut text),
                (Alphabet::UrlSafe, true) => URL_SAFE.encode_string(bytes, &mut text),
                (Alphabet::UrlSafe, false) => URL_SAFE_NO_PAD.encode_string(bytes, &mut text),
            },
        }
        SecretText::new(std::mem::take(&mut *text))
    }

    fn alphabet(self) -> Option<Alphabet> {
        match self.digits {
            Digits::Base64 { alphabet, .. } => alphabet,
            Digits::Hex { .. } => None,
        }
    }
}

/// A key with its text in a value.
pub(super) struct Written {
    pub(super) key: Key,
    text: SecretText,
    form: Form,
}

/// The place of key `number` in a member, or in the text of a secret.
pub(super) fn at(member: Option<&FieldName>, number: usize) -> Place {
    Place::Position { member: member.map(ToString::to_string), number }
}

/// The keys of a comma-separated list, with or without white space after the commas. The list has at least one key.
pub(super) fn read_list(
    list: &SecretText,
    member: Option<&FieldName>,
    accepted: Accepted,
) -> Result<Vec<Written>, KeyringError> {
    let texts = (1..).zip(list.expose().split(','));
    let texts = texts.map(|(number, text)| (number, if number == 1 { text } else { text.trim_ascii_start() }));
    texts.map(|(number, text)| read(text, &|| at(member, number), accepted)).collect()
}

/// Reads the key in a text, in one of the forms that `accepted` allows.
pub(super) fn read(text: &str, place: &dyn Fn() -> Place, accepted: Accepted) -> Result<Written, KeyringError> {
    let malformed = |problem: String| KeyringError::Malformed {
        place: place(),
        expected: match accepted {
            Accepted::Fernet => FERNET,
            Accepted::Raw => expected(text),
        },
        problem,
    };
    if text.len() > LONGEST {
        return Err(malformed(format!("{} characters long", text.len())));
    }
    let form = Form::of(text);
    let padded = matches!(form, Form { digits: Digits::Base64 { padded: true, .. }, laravel: false });
    let mut bytes = Zeroizing::new([0; LONGEST]);
    match form.decode(text, &mut bytes[..]) {
        // An empty text decodes to no bytes.
        None | Some(0) => Err(malformed(shape(text))),
        Some(_) if is_text(text) => Err(malformed(shape(text))),
        Some(length) => match KeyMaterial::new(&bytes[..length]) {
            Some(_) if accepted == Accepted::Fernet && !padded => Err(malformed(shape(text))),
            Some(material) => Ok(Written { key: Key::new(material), text: SecretText::new(text.to_owned()), form }),
            None => Err(malformed(format!("{length} bytes long"))),
        },
    }
}

/// Texts of 32 characters are base64 of 24 bytes. But such a text may be meant as 32 bytes, or as 16 bytes in
/// hexadecimal digits.
fn is_text(text: &str) -> bool {
    text.len() == KEY_BYTES
}

/// The number of keys in the comma-separated list `text`; zero if any item is not a key.
pub(super) fn count_keys(text: &SecretText) -> usize {
    read_list(text, None, Accepted::Raw).map_or(0, |keys| keys.len())
}

/// The form of the keys in a value, for the keys that are added.
pub(super) struct Style {
    keys: Vec<(KeyMaterial, SecretText)>,
    form: Form,
    usual: Form,
    separator: String,
}

impl Style {
    /// The style of the keys in a value, the primary first, and of `list`, if there is one.
    pub(super) fn of<'a>(
        keys: impl IntoIterator<Item = &'a Written>,
        list: Option<&SecretText>,
        accepted: Accepted,
    ) -> Self {
        let usual = Form::usual(accepted);
        let (mut texts, mut form, mut shown) = (vec![], None, vec![]);
        for written in keys {
            texts.push((written.key.material().clone(), written.text.clone()));
            form.get_or_insert(written.form);
            shown.extend(written.form.alphabet());
        }
        let mut form = form.unwrap_or(usual);
        // A key may show no alphabet where another key shows one.
        if let Digits::Base64 { alphabet: alphabet @ None, .. } = &mut form.digits
            && let Some(first) = shown.first()
        {
            *alphabet = shown.iter().all(|other| other == first).then_some(*first);
        }
        let after_comma = list.and_then(|list| list.expose().split(',').nth(1));
        let space = after_comma.map_or("", |text| &text[..text.len() - text.trim_ascii_start().len()]);
        Self { keys: texts, form, usual, separator: format!(",{space}") }
    }

    /// Whether readers of the existing keys can read `key` too, whichever alphabet they use.
    pub(super) fn fits(&self, key: &Key) -> bool {
        let unknown = matches!(self.form.digits, Digits::Base64 { alphabet: None, .. });
        !unknown || Form::of(self.text(key).expose()).alphabet().is_none()
    }

    /// The text of a key: its text in the value, or for a new key the form of the primary key.
    pub(super) fn text(&self, key: &Key) -> SecretText {
        let held = self.keys.iter().find(|(material, _)| material == key.material());
        let usual = self.usual.alphabet().unwrap_or(Alphabet::Standard);
        held.map_or_else(|| self.form.encode(key, usual), |(_, text)| text.clone())
    }

    /// The keys as a comma-separated list.
    pub(super) fn list<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) -> SecretText {
        let texts: Vec<SecretText> = keys.into_iter().map(|key| self.text(key)).collect();
        let exposed: Vec<&str> = texts.iter().map(SecretText::expose).collect();
        SecretText::new(exposed.join(&self.separator))
    }
}

/// The text of a key in a value without other keys.
pub(super) fn first(key: &Key, accepted: Accepted) -> SecretText {
    Style::of([], None, accepted).text(key)
}

/// The expected form, with the remedy for a text that is not a raw key.
fn expected(text: &str) -> &'static str {
    if text.trim().len() < text.len() {
        RAW_BARE
    } else if is_text(text) {
        RAW_TEXT
    } else if text.is_empty() {
        RAW
    } else {
        NO_RAW_KEY
    }
}

/// The reason why a text is not a key, without the text.
fn shape(text: &str) -> String {
    if text.is_empty() {
        "empty".to_owned()
    } else if text.trim().len() < text.len() {
        "surrounded by white space".to_owned()
    } else if is_text(text) && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        "32 characters of text, or 16 bytes in hex".to_owned()
    } else if is_text(text) {
        "32 characters of text".to_owned()
    } else {
        format!("{} characters that are not of this form", text.len())
    }
}
