//! One key of a ring: its bytes, its public id, and what is known of its life.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use rand::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The length of every key, in bytes: an AES-256 key, or the two AES-128 and HMAC keys of a Fernet key.
pub const KEY_BYTES: usize = 32;

/// What is hashed before the key, so that the id is of no use for anything else that hashes keys.
const KEY_ID_DOMAIN: &[u8] = b"rotation.key-id.v1\0";

/// The public name of a key: the first 8 hexadecimal digits of SHA-256 (FIPS 180-4) over `rotation.key-id.v1`, a zero
/// byte, and the 32 bytes of the key. An application computes the same id to report which keys it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 4]);

impl KeyId {
    /// The id as a number; a new key of a Tink keyset takes it as its keyset id.
    #[must_use]
    pub fn number(self) -> u32 {
        u32::from_be_bytes(self.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.number())
    }
}

/// A text that is no key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 8 lower-case hexadecimal digits")]
pub struct NotAKeyId;

impl FromStr for KeyId {
    type Err = NotAKeyId;

    fn from_str(text: &str) -> Result<Self, NotAKeyId> {
        let form = text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = u32::from_str_radix(text, 16).ok().filter(|_| form).ok_or(NotAKeyId)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The 32 bytes of a key: hidden in `Debug`, wiped on drop, compared in constant time. Never all zero.
#[derive(Clone)]
pub struct KeyMaterial(Box<Zeroizing<[u8; KEY_BYTES]>>);

impl KeyMaterial {
    /// Takes a copy of the bytes; `None` when there are not 32 of them.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut material = Self(Box::new(Zeroizing::new([0; KEY_BYTES])));
        (bytes.len() == KEY_BYTES).then(|| material.0.copy_from_slice(bytes))?;
        Some(material)
    }

    /// A new key, from `rng` alone.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut material = Self(Box::new(Zeroizing::new([0; KEY_BYTES])));
        rng.fill_bytes(&mut material.0[..]);
        material
    }

    /// The bytes themselves, for a cipher or the value of a secret.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let digest = Sha256::new().chain_update(KEY_ID_DOMAIN).chain_update(self.expose()).finalize();
        KeyId([digest[0], digest[1], digest[2], digest[3]])
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.expose().ct_eq(&[0; KEY_BYTES]).into()
    }
}

impl PartialEq for KeyMaterial {
    fn eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Eq for KeyMaterial {}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// A key of a ring, and what is known of its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    id: KeyId,
    material: KeyMaterial,
    dates: Dates,
}

/// What a ring remembers of a key. A format without `NAME_RING` remembers nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dates {
    /// When the version was made with which the key came into the ring.
    pub created: Option<SystemTime>,
    /// When the version was made with which it became primary.
    pub promoted: Option<SystemTime>,
    /// Since when it is known to others. Such a key is never promoted.
    pub compromised: Option<SystemTime>,
}

impl Key {
    /// A key that nothing is known of but its bytes.
    #[must_use]
    pub fn new(material: KeyMaterial) -> Self {
        Self { id: material.id(), material, dates: Dates::default() }
    }

    /// A key that is made at `now`.
    pub fn generate(now: SystemTime, rng: &mut impl CryptoRng) -> Self {
        let dates = Dates { created: Some(now), ..Dates::default() };
        Self { dates, ..Self::new(KeyMaterial::generate(rng)) }
    }

    /// The same key with other dates.
    #[must_use]
    pub fn with_dates(self, dates: Dates) -> Self {
        Self { dates, ..self }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Its bytes.
    #[must_use]
    pub fn material(&self) -> &KeyMaterial {
        &self.material
    }

    /// Its dates.
    #[must_use]
    pub fn dates(&self) -> &Dates {
        &self.dates
    }

    pub(crate) fn note_creation(&mut self, now: SystemTime) {
        self.dates.created.get_or_insert(now);
    }

    pub(crate) fn note_compromise(&mut self, since: Option<SystemTime>) {
        self.dates.compromised = self.dates.compromised.or(since);
    }

    /// The same key, primary since `now`.
    #[must_use]
    pub fn promoted_at(self, now: SystemTime) -> Self {
        let dates = Dates { promoted: Some(now), ..self.dates };
        self.with_dates(dates)
    }
}

/// The state of a key in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Encrypts.
    Primary,
    /// Decrypts, and is the next primary.
    Staged,
    /// Decrypts.
    Secondary,
}
