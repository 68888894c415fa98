//! The keys of the records: one encrypts, all decrypt.
//!
//! A rotation stages the next key before it makes the key primary. A staged key only decrypts. A rotation also keeps
//! the old keys. So an instance reads what any other instance writes, if it decrypts with every key of `AWSCURRENT`,
//! and of `AWSPENDING` while a rotation is open. `NAME_RING` has the states of the keys, and an instance does not need
//! it.

mod fernet;
mod gcm;
mod raw;
mod tink;

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::CryptoRng;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::secrets::{Members, Stages, Unusable, Versions};

/// The format of the keys in the secret, with their cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFormat {
    /// Keys in base64, one member for each state, with AES-256-GCM.
    Raw,
    /// A list of Fernet keys in the form for Python's `MultiFernet`.
    Fernet,
    /// A Tink keyset in JSON, with AES-256-GCM.
    Tink,
}

impl fmt::Display for KeyFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Raw => "raw",
            Self::Fernet => "fernet",
            Self::Tink => "tink",
        })
    }
}

impl FromStr for KeyFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "raw" => Ok(Self::Raw),
            "fernet" => Ok(Self::Fernet),
            "tink" => Ok(Self::Tink),
            _ => Err(UnknownFormat),
        }
    }
}

/// A text that names no [`KeyFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the format is raw, fernet or tink")]
pub struct UnknownFormat;

/// The part of a keyring that the application reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyMode {
    /// Every key of `AWSCURRENT` and `AWSPENDING`.
    Keyring,
    /// The one key of `AWSCURRENT`, from the member alone, as in applications without keyrings. [`KeyFormat::Raw`]
    /// only. Such an application reports no key ids.
    NameOnly,
}

impl KeyMode {
    /// The stages that the mode reads.
    pub(crate) fn stages(self) -> Stages {
        match self {
            Self::Keyring => Stages::CurrentAndPending,
            Self::NameOnly => Stages::Current,
        }
    }
}

impl fmt::Display for KeyMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Keyring => "keyring",
            Self::NameOnly => "name-only",
        })
    }
}

impl FromStr for KeyMode {
    type Err = UnknownKeyMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "keyring" => Ok(Self::Keyring),
            "name-only" => Ok(Self::NameOnly),
            _ => Err(UnknownKeyMode),
        }
    }
}

/// A text that names no [`KeyMode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mode is keyring or name-only")]
pub struct UnknownKeyMode;

/// The plaintext is too long for the cipher: AES-GCM ends at 64 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plaintext is too long to be encrypted")]
pub struct TooLong;

/// The keys of a secret. The primary key of `AWSCURRENT` comes first, then the others of `AWSCURRENT`, then those that
/// only `AWSPENDING` has.
pub struct Keyring {
    primary: Key,
    others: Vec<Key>,
}

impl Keyring {
    /// Takes the keys out of a secret's versions.
    ///
    /// # Errors
    /// The current value is not a keyring of this format. A pending value in another form is ignored with a warning.
    pub fn read(versions: &Versions, field: Option<&str>, format: KeyFormat, mode: KeyMode) -> Result<Self, Unusable> {
        let mut ring = match mode {
            KeyMode::NameOnly => return Self::name_only(&versions.current.value, field, format),
            KeyMode::Keyring => Self::in_value(&versions.current.value, field, format)?,
        };
        if let Some(pending) = versions.pending.as_ref().filter(|pending| pending.id != versions.current.id) {
            match Self::in_value(&pending.value, field, format) {
                Ok(pending) => ring.extend([pending.primary].into_iter().chain(pending.others)),
                Err(reason) => tracing::warn!(version_id = pending.id, %reason, "keyring ignored"),
            }
        }
        Ok(ring)
    }

    fn in_value(value: &str, field: Option<&str>, format: KeyFormat) -> Result<Self, Unusable> {
        let Some(field) = field else {
            return Self::in_text(value, format);
        };
        let members = Members::parse(value)?;
        let text = members.text(field)?;
        if format != KeyFormat::Raw {
            return Self::in_text(&text, format);
        }
        let mut ring = Self { primary: raw::key(&text)?, others: vec![] };
        if let Some(staged) = members.optional_text(&format!("{field}_STAGED"))? {
            ring.extend([raw::key(&staged)?]);
        }
        if let Some(secondary) = members.optional_text(&format!("{field}_PREVIOUS"))? {
            ring.extend(raw::keys(&secondary)?);
        }
        Ok(ring)
    }

    fn in_text(text: &str, format: KeyFormat) -> Result<Self, Unusable> {
        let keys = match format {
            KeyFormat::Raw => raw::keys(text)?,
            KeyFormat::Fernet => fernet::keys(text)?,
            KeyFormat::Tink => tink::keys(text)?,
        };
        let mut keys = keys.into_iter();
        let mut ring = Self { primary: keys.next().ok_or(Unusable::NotAKey)?, others: vec![] };
        ring.extend(keys);
        Ok(ring)
    }

    fn name_only(value: &str, field: Option<&str>, format: KeyFormat) -> Result<Self, Unusable> {
        if format != KeyFormat::Raw {
            return Err(Unusable::NotOneKey);
        }
        let primary = match field {
            None => raw::key(value)?,
            Some(field) => raw::key(&Members::parse(value)?.text(field)?)?,
        };
        Ok(Self { primary, others: vec![] })
    }

    /// Adds the keys that are new.
    fn extend(&mut self, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            if !self.keys().any(|other| *other == key) {
                self.others.push(key);
            }
        }
    }

    /// The primary key, then the other keys.
    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.primary).chain(&self.others)
    }

    /// Encrypts with the primary key. The result is a Fernet token, or the base64 of the bytes that Tink and users of
    /// AES-GCM store.
    ///
    /// `now` is the time in a Fernet token; the other formats have none.
    ///
    /// # Errors
    /// The plaintext is too long for the cipher.
    pub fn encrypt(&self, plaintext: &[u8], now: SystemTime, rng: &mut impl CryptoRng) -> Result<String, TooLong> {
        let Key { material, cipher, .. } = &self.primary;
        match cipher {
            Cipher::Gcm => gcm::seal(material, &[], plaintext, rng).map(|sealed| STANDARD.encode(sealed)),
            Cipher::TinkGcm(prefix) => {
                gcm::seal(material, prefix, plaintext, rng).map(|sealed| STANDARD.encode(sealed))
            }
            Cipher::Fernet => fernet::seal(material, plaintext, now, rng),
        }
        .ok_or(TooLong)
    }

    /// Decrypts with the first key that fits, starting with the primary key; `None` when no key fits. A Tink key that
    /// marks its ciphertexts is tried on those only.
    pub fn decrypt(&self, ciphertext: &str) -> Option<Zeroizing<Vec<u8>>> {
        let bytes = STANDARD.decode(ciphertext).ok();
        let bytes = bytes.as_deref();
        self.keys().find_map(|Key { material, cipher, .. }| match cipher {
            Cipher::Gcm => gcm::open(material, bytes?),
            Cipher::TinkGcm(prefix) => gcm::open(material, bytes?.strip_prefix(prefix)?),
            Cipher::Fernet => fernet::open(material, ciphertext),
        })
    }

    /// The ids of all keys, the primary key's first.
    pub fn key_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = vec![];
        for Key { id, .. } in self.keys() {
            // Two entries of a Tink keyset may hold the same key.
            if !ids.contains(id) {
                ids.push(id.clone());
            }
        }
        ids
    }

    /// The id of the primary key.
    pub fn primary_key_id(&self) -> &str {
        &self.primary.id
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Keyring").field("key_ids", &self.key_ids()).finish_non_exhaustive()
    }
}

/// A key with its id and its cipher.
#[derive(PartialEq)]
struct Key {
    id: String,
    material: KeyMaterial,
    cipher: Cipher,
}

impl Key {
    fn new(material: KeyMaterial, cipher: Cipher) -> Self {
        Self { id: material.id(), material, cipher }
    }
}

#[derive(PartialEq)]
enum Cipher {
    /// AES-256-GCM.
    Gcm,
    /// AES-256-GCM behind the prefix with which Tink names the key.
    TinkGcm([u8; 5]),
    Fernet,
}

/// The 32 bytes of a key. They are wiped from memory when dropped, and compared in constant time.
struct KeyMaterial(Zeroizing<[u8; 32]>);

impl KeyMaterial {
    fn new(bytes: &[u8]) -> Option<Self> {
        let mut material = Zeroizing::new([0; 32]);
        if bytes.len() != material.len() {
            return None;
        }
        material.copy_from_slice(bytes);
        Some(Self(material))
    }

    /// The key's name in every log, every answer and `NAME_RING`. It reveals nothing of the key.
    fn id(&self) -> String {
        let digest = Sha256::new().chain_update(b"rotation.key-id.v1\0").chain_update(self.0.as_slice()).finalize();
        digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl PartialEq for KeyMaterial {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}
