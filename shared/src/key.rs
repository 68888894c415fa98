//! One key of a ring: its bytes, its public id, and its dates.

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

/// A prefix before the key in the hash. With it, the id is of no use against other hashes of the key.
const KEY_ID_DOMAIN: &[u8] = b"rotation.key-id.v1\0";

/// The public id of a key: the first 8 hexadecimal digits of a SHA-256 (FIPS 180-4). The hash is over
/// `rotation.key-id.v1`, a zero byte, and the 32 bytes of the key. An application computes the same id to report its
/// keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 4]);

impl KeyId {
    /// The id as a number. A new key of a Tink keyset takes it as its `keyId`.
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

/// A text that is not a key id.
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

/// The 32 bytes of a key. They are hidden in `Debug`, wiped on drop, and compared in constant time. A keyring refuses
/// bytes that are all zero.
#[derive(Clone)]
pub struct KeyMaterial(Box<Zeroizing<[u8; KEY_BYTES]>>);

impl KeyMaterial {
    /// Copies the bytes; `None` if there are not exactly 32.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut material = Self(Box::new(Zeroizing::new([0; KEY_BYTES])));
        (bytes.len() == KEY_BYTES).then(|| material.0.copy_from_slice(bytes))?;
        Some(material)
    }

    /// Makes a new key. All randomness comes from `rng`.
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

/// A key of a ring, with its dates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    id: KeyId,
    material: KeyMaterial,
    dates: Dates,
}

/// The dates of a key. A format without `NAME_RING` keeps none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dates {
    /// When the version was made that brought the key into the ring.
    pub created: Option<SystemTime>,
    /// When the version was made that made the key primary.
    pub promoted: Option<SystemTime>,
    /// Since when the key is leaked. A leaked key is never promoted.
    pub compromised: Option<SystemTime>,
}

impl Key {
    /// A key without dates.
    #[must_use]
    pub fn new(material: KeyMaterial) -> Self {
        Self { id: material.id(), material, dates: Dates::default() }
    }

    /// Makes a new key at the time `now`.
    pub fn generate(now: SystemTime, rng: &mut impl CryptoRng) -> Self {
        let dates = Dates { created: Some(now), ..Dates::default() };
        Self { dates, ..Self::new(KeyMaterial::generate(rng)) }
    }

    /// The same key with other dates.
    #[must_use]
    pub fn with_dates(self, dates: Dates) -> Self {
        Self { dates, ..self }
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key's bytes.
    #[must_use]
    pub fn material(&self) -> &KeyMaterial {
        &self.material
    }

    /// The key's dates.
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
