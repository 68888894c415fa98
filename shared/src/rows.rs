//! The values that an application has stored under a keyring, one value of a row at a time. A codec opens a value, and
//! encrypts it again under the primary key.
//!
//! | format | a ring in the format | what is stored |
//! | --- | --- | --- |
//! | [`Fernet`](RowFormat::Fernet) | `fernet` | a Fernet token |
//! | [`Tink`](RowFormat::Tink) | `tink` | the output of Tink's AEAD: key id (output prefix `TINK`) or nothing (`RAW`), nonce, ciphertext, tag |
//! | [`AesGcm`](RowFormat::AesGcm) | `raw` | AES-256-GCM: 12 bytes of nonce, ciphertext, 16 bytes of tag |
//! | [`AesGcmHex`](RowFormat::AesGcmHex) | `raw` | the same as `nonce:tag:ciphertext`, each in hexadecimal |
//!
//! An [`Encoding`] says how a column writes the bytes. [`aad`] says which associated data is authenticated with them. A
//! new value is written like the old one, to the last byte that is not ciphertext. If the old value does not show how,
//! the column's other values do: the codec gets their [`Form`].
//!
//! A Tink ciphertext with a prefix names its key, and a Fernet token is signed. The other formats name no key. For
//! these, the codec first tries the key that opened the last value. Then it tries the keys of the ring in their order,
//! the primary first. So [`Opened::Damaged`] is certain. But in a format that names no key, a damaged value looks like
//! a value under a key outside the ring: both are [`Opened::Unknown`].

pub mod aad;
pub mod encoding;
pub mod form;

use std::cell::Cell;
use std::iter;

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::keyring::fernet;
use crate::keyring::gcm::{NONCE_BYTES, TAG_BYTES};
use crate::keyring::{Ciphers, KeyFormat, KeyId};

pub use encoding::Encoding;
pub use form::{Form, Lines, Untold};

/// The bound for new ciphertexts of one value. If no value of a column shows its alphabet, the codec encrypts again
/// until the text shows none either.
const MOST_DRAWS: usize = 1000;

/// The format of a stored value, whatever its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowFormat {
    /// `fernet`: a token, always in base64url with padding.
    Fernet,
    /// `tink`: a ciphertext of Tink's AEAD.
    Tink,
    /// `aes-gcm`: nonce, ciphertext, tag.
    AesGcm,
    /// `aes-gcm-hex`: `nonce:tag:ciphertext`, as programs with Node's `crypto` often write it.
    AesGcmHex,
}

impl RowFormat {
    /// The format of the ring whose keys encrypt values of this format.
    #[must_use]
    pub fn ring(self) -> KeyFormat {
        match self {
            Self::Fernet => KeyFormat::Fernet,
            Self::Tink => KeyFormat::Tink,
            Self::AesGcm | Self::AesGcmHex => KeyFormat::Raw,
        }
    }

    /// Whether a value can be bound to associated data.
    #[must_use]
    pub fn takes_aad(self) -> bool {
        self != Self::Fernet
    }

    /// Whether the format allows more than one encoding of its bytes.
    #[must_use]
    pub fn takes_encoding(self) -> bool {
        matches!(self, Self::Tink | Self::AesGcm)
    }

    /// Whether the bytes can be a ciphertext of the format at all.
    fn fits(self, bytes: &[u8]) -> bool {
        match self {
            Self::Fernet => fernet::is_token(bytes),
            Self::Tink | Self::AesGcm | Self::AesGcmHex => bytes.len() >= NONCE_BYTES + TAG_BYTES,
        }
    }
}

/// The result of opening a stored value.
pub enum Opened {
    /// The value is under this key.
    Under(KeyId, Zeroizing<Vec<u8>>),
    /// No key of the ring opens the value, and the value names none of them.
    Unknown,
    /// The value names a key of the ring, and that key does not open it.
    Damaged,
    /// The value is not in the configured encoding, or is not a ciphertext of the format.
    Foreign,
}

/// The result of encrypting a stored value again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrapped {
    /// The value is under the primary key already, and stays as it is.
    UnderPrimary,
    /// The value was under `from`; `stored` replaces it.
    Anew {
        /// The key that opened it.
        from: KeyId,
        /// The new value, written as the old one was.
        stored: Vec<u8>,
    },
    /// As [`Opened::Unknown`].
    Unknown,
    /// As [`Opened::Damaged`].
    Damaged,
    /// As [`Opened::Foreign`].
    Foreign,
    /// Neither the value nor the column's [`Form`] shows how the new value must be written.
    Untold(Untold),
}

/// The keys of a ring, and the way in which one column stores ciphertexts.
#[derive(Debug)]
pub struct RowCodec<'a> {
    format: RowFormat,
    encoding: Encoding,
    ciphers: &'a Ciphers,
    form: Form,
    /// The position in the ring of the key that opened the last value. The next value is most likely under the same
    /// key.
    last: Cell<usize>,
}

impl<'a> RowCodec<'a> {
    /// A codec for the ciphers of a ring, the primary first. The ring has the format of [`RowFormat::ring`].
    #[must_use]
    pub fn new(format: RowFormat, encoding: Encoding, ciphers: &'a Ciphers) -> Self {
        let form = Form { alphabet: true, ..Form::default() };
        Self { format, encoding, ciphers, form, last: Cell::new(0) }
    }

    /// Gives the codec the form of the column's other values.
    #[must_use]
    pub fn knowing(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// The form that one value shows of its column.
    #[must_use]
    pub fn form_of(&self, stored: &[u8]) -> Form {
        let is_base64 = self.format.takes_encoding() && self.encoding != Encoding::Binary;
        if is_base64 { Form::of(stored) } else { Form::default() }
    }

    /// Decrypts a stored value that is bound to this associated data.
    #[must_use]
    pub fn open(&self, stored: &[u8], aad: &[u8]) -> Opened {
        match self.decode(stored) {
            Some(bytes) => self.open_bytes(&bytes, aad),
            None => Opened::Foreign,
        }
    }

    /// Encrypts a stored value again, unless it is under the primary key already.
    ///
    /// Properties of the old value beside its plaintext stay. The time in a Fernet token stays, because applications
    /// let tokens expire by it. The alphabet, the padding and the line breaks of base64 stay, and so does the case of
    /// hexadecimal digits.
    pub fn rewrap(&self, stored: &[u8], aad: &[u8], rng: &mut StdRng) -> Rewrapped {
        let Some(bytes) = self.decode(stored) else { return Rewrapped::Foreign };
        let (from, plaintext) = match self.open_bytes(&bytes, aad) {
            Opened::Under(from, plaintext) => (from, plaintext),
            Opened::Unknown => return Rewrapped::Unknown,
            Opened::Damaged => return Rewrapped::Damaged,
            Opened::Foreign => return Rewrapped::Foreign,
        };
        let Some((_, cipher)) = self.ciphers.iter().next().filter(|(primary, _)| *primary != from) else {
            return Rewrapped::UnderPrimary;
        };
        let seconds = match self.format {
            RowFormat::Fernet => fernet::made_at(&bytes).unwrap_or_default(),
            RowFormat::Tink | RowFormat::AesGcm | RowFormat::AesGcmHex => 0,
        };
        for _ in 0..MOST_DRAWS {
            // A text that is too long for the cipher is longer than any key can have encrypted.
            let Some(sealed) = cipher.seal_bytes(&plaintext, aad, seconds, rng) else { return Rewrapped::Damaged };
            match self.encode(&sealed, stored) {
                Ok(stored) => return Rewrapped::Anew { from, stored },
                Err(Untold::Alphabet) => {}
                Err(untold) => return Rewrapped::Untold(untold),
            }
        }
        Rewrapped::Untold(Untold::Alphabet)
    }

    fn open_bytes(&self, bytes: &[u8], aad: &[u8]) -> Opened {
        if !self.format.fits(bytes) {
            return Opened::Foreign;
        }
        let last = self.last.get();
        let places = iter::once(last).chain((0..).filter(|place| *place != last));
        let ring = places.map_while(|place| Some((place, self.ciphers.iter().nth(place)?)));
        for (place, (id, cipher)) in ring {
            if let Some(plaintext) = cipher.open_bytes(bytes, aad) {
                self.last.set(place);
                return Opened::Under(id, plaintext);
            }
        }
        let named = self.ciphers.iter().any(|(_, cipher)| cipher.is_named_by(bytes));
        if named { Opened::Damaged } else { Opened::Unknown }
    }

    fn decode(&self, stored: &[u8]) -> Option<Vec<u8>> {
        match self.format {
            RowFormat::Fernet => encoding::decode_padded_base64url(stored),
            RowFormat::Tink | RowFormat::AesGcm => self.encoding.decode(stored),
            RowFormat::AesGcmHex => encoding::decode_hex_parts(stored),
        }
    }

    fn encode(&self, sealed: &[u8], old: &[u8]) -> Result<Vec<u8>, Untold> {
        match self.format {
            RowFormat::Fernet => Ok(encoding::encode_padded_base64url(sealed)),
            RowFormat::Tink | RowFormat::AesGcm => self.encoding.encode(sealed, old, self.form),
            RowFormat::AesGcmHex => Ok(encoding::encode_hex_parts(sealed, old)),
        }
    }
}
