//! The keyring: one primary key that encrypts, at most one staged key that is the next primary, and any number of
//! secondary keys that only decrypt.
//!
//! A staged key lies in the ring for a whole period before it encrypts anything, so that every consumer can decrypt with
//! it by then. A rotation never drops a key; only [`Keyring::retire`] does, which no rotation calls. How a ring is written in a secret is
//! a [`WireFormat`], one per file: [`raw`], [`fernet`], [`tink`].

pub mod fernet;
pub mod format;
pub(crate) mod gcm;
pub mod raw;
pub mod states;
mod text;
pub mod tink;

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use rand::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

pub use format::{Cipher, Ciphers, KeyFormat, WireFormat, sign_of_keyring, token_end_member};
pub use states::States;

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

    fn is_zero(&self) -> bool {
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

/// A keyring. That there is one primary key and at most one staged key is its shape; that no two keys are the same, and
/// none is all zero, its methods see to.
///
/// ```
/// use std::time::SystemTime;
///
/// use rand::{SeedableRng, rngs::StdRng};
/// use rotation::keyring::{Key, Keyring};
///
/// let (mut rng, now) = (StdRng::seed_from_u64(1), SystemTime::UNIX_EPOCH);
/// let first = Key::generate(now, &mut rng);
/// let next = Key::generate(now, &mut rng);
/// let ring = Keyring::new(first.clone()).unwrap().stage(next.clone()).unwrap();
/// let promoted = ring.promote(now).unwrap();
/// assert_eq!(promoted.primary().id(), next.id());
/// assert_eq!(promoted.secondary()[0].id(), first.id());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    primary: Key,
    staged: Option<Key>,
    /// Newest first.
    secondary: Vec<Key>,
}

impl Keyring {
    /// A ring of one key.
    ///
    /// # Errors
    /// [`KeyringError::AllZero`].
    pub fn new(primary: Key) -> Result<Self, KeyringError> {
        refuse_zero(&primary)?;
        Ok(Self { primary, staged: None, secondary: vec![] })
    }

    /// The key that encrypts.
    #[must_use]
    pub fn primary(&self) -> &Key {
        &self.primary
    }

    /// The next primary key.
    #[must_use]
    pub fn staged(&self) -> Option<&Key> {
        self.staged.as_ref()
    }

    /// The keys that only decrypt, newest first.
    #[must_use]
    pub fn secondary(&self) -> &[Key] {
        &self.secondary
    }

    /// All keys with their states: the primary, the staged, the secondary ones from new to old.
    pub fn keys(&self) -> impl Iterator<Item = (KeyState, &Key)> {
        let staged = self.staged.iter().map(|key| (KeyState::Staged, key));
        let secondary = self.secondary.iter().map(|key| (KeyState::Secondary, key));
        std::iter::once((KeyState::Primary, &self.primary)).chain(staged).chain(secondary)
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&Key> {
        self.keys().map(|(_, key)| key).find(|key| key.id == id)
    }

    /// Whether every key of `other` is in this ring.
    #[must_use]
    pub fn holds_all_of(&self, other: &Self) -> bool {
        self.lacking(other).next().is_none()
    }

    /// The keys of `other` that are not in this ring.
    pub fn lacking<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (KeyState, &'a Key)> {
        other.keys().filter(|(_, key)| self.get(key.id).is_none_or(|held| held.material != key.material))
    }

    /// Adds the keys that only `other` holds as secondary keys, the oldest of all. What is marked as known to others there is so here.
    ///
    /// # Errors
    /// Those of [`Keyring::with_secondary`].
    pub fn with_keys_of(mut self, other: &Self) -> Result<Self, KeyringError> {
        for (_, key) in other.keys() {
            let known = std::iter::once(&mut self.primary).chain(&mut self.staged).chain(&mut self.secondary);
            match known.into_iter().find(|held| held.material == key.material) {
                Some(held) => held.dates.compromised = held.dates.compromised.or(key.dates.compromised),
                None => self = self.with_secondary(key.clone())?,
            }
        }
        Ok(self)
    }

    /// Adds a secondary key, the oldest of all.
    ///
    /// # Errors
    /// [`KeyringError::AllZero`], [`KeyringError::Duplicate`], [`KeyringError::SameId`].
    pub fn with_secondary(mut self, key: Key) -> Result<Self, KeyringError> {
        self.refuse(&key)?;
        self.secondary.push(key);
        Ok(self)
    }

    /// Adds the next primary key.
    ///
    /// # Errors
    /// [`KeyringError::AlreadyStaged`], and those of [`Keyring::with_secondary`].
    pub fn stage(mut self, key: Key) -> Result<Self, KeyringError> {
        if let Some(staged) = &self.staged {
            return Err(KeyringError::AlreadyStaged { id: staged.id });
        }
        self.refuse(&key)?;
        self.staged = Some(key);
        Ok(self)
    }

    /// Makes the staged key primary; the primary becomes secondary.
    ///
    /// # Errors
    /// [`KeyringError::NothingStaged`], [`KeyringError::Compromised`].
    pub fn promote(mut self, now: SystemTime) -> Result<Self, KeyringError> {
        let next = self.staged.take().ok_or(KeyringError::NothingStaged)?;
        if next.dates.compromised.is_some() {
            return Err(KeyringError::Compromised { id: next.id });
        }
        self.secondary.insert(0, self.primary);
        self.primary = next.promoted_at(now);
        Ok(self)
    }

    /// Counts the age of the staged key from `now`, when nothing says how old it is.
    #[must_use]
    pub fn date_staged(mut self, now: SystemTime) -> Self {
        if let Some(staged) = &mut self.staged {
            staged.dates.created.get_or_insert(now);
        }
        self
    }

    /// Makes `key` primary at once; the primary becomes secondary.
    ///
    /// # Errors
    /// Those of [`Keyring::with_secondary`].
    pub fn replace_primary(mut self, key: Key, now: SystemTime) -> Result<Self, KeyringError> {
        self.refuse(&key)?;
        self.secondary.insert(0, self.primary);
        self.primary = key.promoted_at(now);
        Ok(self)
    }

    /// Makes the staged key, if there is one, a secondary key: it was as exposed as the primary, and is never promoted.
    #[must_use]
    pub fn unstage(mut self) -> Self {
        if let Some(staged) = self.staged.take() {
            self.secondary.insert(0, staged);
        }
        self
    }

    /// Makes a secondary key primary again; the primary stays, as a secondary key, because data may be under it.
    ///
    /// # Errors
    /// [`KeyringError::NotSecondary`], [`KeyringError::NoSuchKey`], [`KeyringError::Compromised`].
    pub fn reinstate(self, id: KeyId, now: SystemTime) -> Result<Self, KeyringError> {
        let key = self.get(id).cloned().ok_or(KeyringError::NoSuchKey { id })?;
        if key.dates.compromised.is_some() {
            return Err(KeyringError::Compromised { id });
        }
        let mut ring = self.retire(id)?;
        ring.secondary.insert(0, ring.primary);
        ring.primary = key.promoted_at(now);
        Ok(ring)
    }

    /// Marks the keys that encrypt, or will, as known to others since `now`: neither is ever promoted again.
    #[must_use]
    pub fn mark_compromised(mut self, now: SystemTime) -> Self {
        for key in std::iter::once(&mut self.primary).chain(&mut self.staged) {
            key.dates.compromised.get_or_insert(now);
        }
        self
    }

    /// Takes a secondary key out of the ring, for whoever has counted that no row needs it any more.
    ///
    /// # Errors
    /// [`KeyringError::NotSecondary`], [`KeyringError::NoSuchKey`].
    pub fn retire(mut self, id: KeyId) -> Result<Self, KeyringError> {
        let Some(position) = self.secondary.iter().position(|key| key.id == id) else {
            return Err(match self.get(id) {
                Some(_) => KeyringError::NotSecondary { id },
                None => KeyringError::NoSuchKey { id },
            });
        };
        self.secondary.remove(position);
        Ok(self)
    }

    fn refuse(&self, key: &Key) -> Result<(), KeyringError> {
        refuse_zero(key)?;
        match self.get(key.id) {
            None => Ok(()),
            Some(held) if held.material == key.material => Err(KeyringError::Duplicate { id: key.id }),
            Some(_) => Err(KeyringError::SameId { id: key.id }),
        }
    }
}

fn refuse_zero(key: &Key) -> Result<(), KeyringError> {
    if key.material.is_zero() { Err(KeyringError::AllZero { id: key.id }) } else { Ok(()) }
}

/// Where a key stands that has no id yet, because its bytes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The key of this number, from 1, in a member, or in the text when there is no member.
    Position {
        /// The member.
        member: Option<String>,
        /// The number, from 1.
        number: usize,
    },
    /// The entry of a Tink keyset with this `keyId`.
    KeysetId(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position { member: Some(member), number } => write!(f, "key {number} of member {member}"),
            Self::Position { member: None, number } => write!(f, "key {number} of the value"),
            Self::KeysetId(id) => write!(f, "the key with keyId {id} of the keyset"),
        }
    }
}

/// What is wrong with a keyring, or what it does not allow. Names keys by id or position, never by value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// A text that is no key of the format.
    #[error("{place} is {problem}: expected {expected}")]
    Malformed {
        /// Which.
        place: Place,
        /// Its shape.
        problem: String,
        /// What a key looks like.
        expected: &'static str,
    },
    /// A key of zero bytes only: a placeholder that somebody forgot, or memory that was never filled.
    #[error("key {id} is all zero: it protects nothing; replace it")]
    AllZero {
        /// Which.
        id: KeyId,
    },
    /// The same key twice.
    #[error("key {id} stands in the keyring twice: remove one of them")]
    Duplicate {
        /// Which.
        id: KeyId,
    },
    /// Two different keys with the same id.
    #[error("two different keys have the id {id}: they could not be told apart; replace the one that no row needs")]
    SameId {
        /// The id.
        id: KeyId,
    },
    /// A key is staged already.
    #[error("key {id} is staged already")]
    AlreadyStaged {
        /// Which.
        id: KeyId,
    },
    /// No key is staged.
    #[error("no key is staged")]
    NothingStaged,
    /// The key is marked as compromised.
    #[error("key {id} is marked as compromised, and is never promoted")]
    Compromised {
        /// Which.
        id: KeyId,
    },
    /// The key encrypts, or will.
    #[error("key {id} is not secondary: only a key that no longer encrypts can be retired")]
    NotSecondary {
        /// Which.
        id: KeyId,
    },
    /// The ring has no such key.
    #[error("the keyring has no key {id}")]
    NoSuchKey {
        /// Which.
        id: KeyId,
    },
    /// `NAME_RING` lists a key that is not there: somebody took a key out by hand.
    #[error(
        "{ring} lists key {id}, which is not among the keys that the value can be decrypted with: put the key back from an earlier version, or, if no row needs it, take its entry out of {ring}"
    )]
    KeyLost {
        /// The member.
        ring: String,
        /// Which.
        id: KeyId,
    },
    /// `NAME_RING` cannot be read.
    #[error("{ring} is not as a rotation writes it: {problem}")]
    Ring {
        /// The member.
        ring: String,
        /// Where, and what.
        problem: String,
    },
    /// The text is not a Tink JSON keyset.
    #[error("the keyset {problem}")]
    Keyset {
        /// What is wrong.
        problem: String,
    },
    /// The format cannot hold the ring: a text secret has no place for a staged key.
    #[error("a text secret has no place for a staged key")]
    NoPlaceForStaged,
}
