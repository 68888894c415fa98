//! What an application has stored under a keyring, one value of a row at a time: opened, and encrypted again under the
//! primary key.
//!
//! | format | a ring in the format | what is stored |
//! | --- | --- | --- |
//! | [`Fernet`](RowFormat::Fernet) | `fernet` | a Fernet token |
//! | [`Tink`](RowFormat::Tink) | `tink` | what Tink's AEAD returns: key id (output prefix `TINK`) or nothing (`RAW`), nonce, ciphertext, tag |
//! | [`AesGcm`](RowFormat::AesGcm) | `raw` | AES-256-GCM: 12 bytes of nonce, ciphertext, 16 bytes of tag |
//! | [`AesGcmHex`](RowFormat::AesGcmHex) | `raw` | the same as `nonce:tag:ciphertext`, each in hexadecimal |
//!
//! How the bytes stand in a column says an [`Encoding`]. What else is authenticated with them says [`aad`].
//!
//! A Tink ciphertext with a prefix names its key, and a Fernet token is signed. The others name none: the key that opened the value
//! before is tried first, and then those of the ring in their order, the primary first. So [`Opened::Damaged`] is certain, but a
//! damaged value of a format that names no key looks like one under a key that is not in the ring: both are [`Opened::Unknown`].

pub mod aad;
pub mod encoding;

use std::cell::Cell;
use std::iter;

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::keyring::fernet;
use crate::keyring::gcm::{NONCE_BYTES, TAG_BYTES};
use crate::keyring::{Ciphers, KeyFormat, KeyId};

pub use encoding::Encoding;

/// What a stored value is, whatever its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowFormat {
    /// `fernet`: a token, always in base64url with padding.
    Fernet,
    /// `tink`: a ciphertext of Tink's AEAD.
    Tink,
    /// `aes-gcm`: nonce, ciphertext, tag.
    AesGcm,
    /// `aes-gcm-hex`: `nonce:tag:ciphertext`, as programs around Node's `crypto` like to write it.
    AesGcmHex,
}

impl RowFormat {
    /// The format of the ring whose keys encrypt so.
    #[must_use]
    pub fn ring(self) -> KeyFormat {
        match self {
            Self::Fernet => KeyFormat::Fernet,
            Self::Tink => KeyFormat::Tink,
            Self::AesGcm | Self::AesGcmHex => KeyFormat::Raw,
        }
    }

    /// Whether associated data can be bound to a value.
    #[must_use]
    pub fn takes_aad(self) -> bool {
        self != Self::Fernet
    }

    /// Whether the format leaves open how its bytes are written.
    #[must_use]
    pub fn takes_encoding(self) -> bool {
        matches!(self, Self::Tink | Self::AesGcm)
    }

    /// Whether bytes can be a ciphertext of the format at all.
    fn fits(self, bytes: &[u8]) -> bool {
        match self {
            Self::Fernet => fernet::is_token(bytes),
            Self::Tink | Self::AesGcm | Self::AesGcmHex => bytes.len() >= NONCE_BYTES + TAG_BYTES,
        }
    }
}

/// What became of opening a stored value.
pub enum Opened {
    /// It is under this key.
    Under(KeyId, Zeroizing<Vec<u8>>),
    /// No key of the ring opens it, and it names none of them.
    Unknown,
    /// It is no ciphertext of the format, or it names a key of the ring that does not open it.
    Damaged,
}

/// What became of encrypting a stored value again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrapped {
    /// It is under the primary key already, and stays as it is.
    UnderPrimary,
    /// It was under `from`; this is to be stored instead.
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
}

/// The keys of a ring, and the way in which one column stores what they encrypt.
#[derive(Debug)]
pub struct RowCodec<'a> {
    format: RowFormat,
    encoding: Encoding,
    ciphers: &'a Ciphers,
    /// The place in the ring of the key that opened the value before: the next one is most likely under it as well.
    last: Cell<usize>,
}

impl<'a> RowCodec<'a> {
    /// A codec for the keys of a ring in the format that [`RowFormat::ring`] tells, the primary first.
    #[must_use]
    pub fn new(format: RowFormat, encoding: Encoding, ciphers: &'a Ciphers) -> Self {
        Self { format, encoding, ciphers, last: Cell::new(0) }
    }

    /// Decrypts a stored value, bound to this associated data.
    #[must_use]
    pub fn open(&self, stored: &[u8], aad: &[u8]) -> Opened {
        match self.decode(stored) {
            Some(bytes) => self.open_bytes(&bytes, aad),
            None => Opened::Damaged,
        }
    }

    /// Encrypts a stored value again, unless it is under the primary key already. What a ciphertext tells beside its text is
    /// kept: the time in a Fernet token, by which applications let tokens expire, and the padding of its base64.
    pub fn rewrap(&self, stored: &[u8], aad: &[u8], rng: &mut StdRng) -> Rewrapped {
        let Some(bytes) = self.decode(stored) else { return Rewrapped::Damaged };
        let (from, plaintext) = match self.open_bytes(&bytes, aad) {
            Opened::Under(from, plaintext) => (from, plaintext),
            Opened::Unknown => return Rewrapped::Unknown,
            Opened::Damaged => return Rewrapped::Damaged,
        };
        let Some((_, cipher)) = self.ciphers.iter().next().filter(|(primary, _)| *primary != from) else {
            return Rewrapped::UnderPrimary;
        };
        let seconds = match self.format {
            RowFormat::Fernet => fernet::made_at(&bytes).unwrap_or_default(),
            RowFormat::Tink | RowFormat::AesGcm | RowFormat::AesGcmHex => 0,
        };
        match cipher.seal_bytes(&plaintext, aad, seconds, rng) {
            Some(sealed) => Rewrapped::Anew { from, stored: self.encode(&sealed, stored) },
            // Longer than the cipher can encrypt, and so than any key can have encrypted.
            None => Rewrapped::Damaged,
        }
    }

    fn open_bytes(&self, bytes: &[u8], aad: &[u8]) -> Opened {
        if !self.format.fits(bytes) {
            return Opened::Damaged;
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

    /// Ciphertexts of the same text are equally long, so that the old one tells how the new one is padded.
    fn encode(&self, sealed: &[u8], old: &[u8]) -> Vec<u8> {
        match self.format {
            RowFormat::Fernet => Encoding::Base64Url.encode(sealed, true),
            RowFormat::Tink | RowFormat::AesGcm => self.encoding.encode(sealed, old.ends_with(b"=")),
            RowFormat::AesGcmHex => encoding::encode_hex_parts(sealed),
        }
    }
}
