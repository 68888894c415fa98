//! How a keyring is written in a secret, and what its keys encrypt like: what every format can do.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use zeroize::Zeroizing;

use super::ring::Keyring;
use super::states::States;
use crate::document::{Document, FieldName};
use crate::error::{KeyringError, RotationError};
use crate::key::{Key, KeyId};
use crate::secret::SecretText;

/// A wire format: what it writes it can read back, and what another program wrote is lost by neither.
pub trait WireFormat: Sync {
    /// Takes a secret's value apart. A text secret is text whatever it begins with: a Tink keyset is a JSON object itself.
    ///
    /// # Errors
    /// Those of [`Document::parse`].
    fn document(&self, text: SecretText, field: Option<&FieldName>) -> Result<Document, RotationError> {
        Document::parse(text, field)
    }

    /// The members of a JSON secret that hold the ring, when `field` is its primary one.
    fn members(&self, field: &FieldName) -> Vec<FieldName>;

    /// The ring of a value.
    ///
    /// # Errors
    /// [`RotationError::Keyring`] names the key by id or position, never by value; those of [`Document::member`].
    fn parse(&self, document: &Document) -> Result<Keyring, RotationError>;

    /// The value with `ring` in it, whose keys that are there already stay as they are written.
    ///
    /// # Errors
    /// [`RotationError::Keyring`] when the value has no place for a staged key; those of [`Document::with_member`].
    fn write(&self, document: &Document, ring: &Keyring) -> Result<Document, RotationError>;

    /// The value `current` with `ring`, whose keys come from it and from `marked`, another value of the secret.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    fn restore(&self, current: &Document, _marked: &Document, ring: &Keyring) -> Result<Document, RotationError> {
        self.write(current, ring)
    }

    /// Whether `key`, which is new, can be written in the value so that whoever reads its other keys reads it too. Where no key shows
    /// which alphabet of base64 they are written in, that are keys without the characters in which the alphabets differ: of
    /// random keys about one in four, which costs two bits of their 256.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse).
    fn fits(&self, _document: &Document, _key: &Key) -> Result<bool, RotationError> {
        Ok(true)
    }

    /// The text of a ring with the one key `primary`: the first value of a secret, or of its member.
    fn first(&self, primary: &Key) -> SecretText;

    /// What each key of the value encrypts and decrypts with, the primary first.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse).
    fn ciphers(&self, document: &Document) -> Result<Ciphers, RotationError>;
}

/// One key at work.
///
/// A format's ciphertexts are bytes; `fernet` alone has a text form of its own, the token. [`seal`](Self::seal) and
/// [`open`](Self::open) speak the form that the format's specification gives, the other methods the bytes.
pub trait Cipher: Send + Sync {
    /// Encrypts, and binds the associated data to it. `seconds` is the Unix time that a Fernet token tells; the other formats
    /// tell none. `None` when the text is too long for the cipher, or the cipher takes no associated data and there is some.
    fn seal_bytes(&self, plaintext: &[u8], aad: &[u8], seconds: u64, rng: &mut StdRng) -> Option<Vec<u8>>;

    /// Decrypts; `None` when the ciphertext is not under this key with this associated data, or damaged.
    fn open_bytes(&self, ciphertext: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>>;

    /// Whether the ciphertext itself tells that it is under this key: by the key id before it, or by a signature.
    fn is_named_by(&self, ciphertext: &[u8]) -> bool;

    /// Encrypts; `None` when the text is too long for the cipher.
    fn seal(&self, plaintext: &[u8], now: SystemTime, rng: &mut StdRng) -> Option<Vec<u8>> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.seal_bytes(plaintext, &[], seconds, rng)
    }

    /// Decrypts; `None` when the ciphertext is not under this key, or damaged.
    fn open(&self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.open_bytes(ciphertext, &[])
    }
}

/// The keys of a value at work.
pub struct Ciphers(pub(crate) Vec<(KeyId, Box<dyn Cipher>)>);

impl std::fmt::Debug for Ciphers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

impl Ciphers {
    /// Every key with its id, the primary first.
    pub fn iter(&self) -> impl Iterator<Item = (KeyId, &dyn Cipher)> {
        self.0.iter().map(|(id, cipher)| (*id, &**cipher))
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&dyn Cipher> {
        self.iter().find_map(|(held, cipher)| (held == id).then_some(cipher))
    }
}

/// Where the staged key of a value stands.
pub(super) enum StagedKey {
    /// In a place of its own, if there is one.
    InPlace(Option<Key>),
    /// Among the others: `NAME_RING` names it.
    Listed,
}

/// A ring of keys from their texts: in the order given, the first one primary.
pub(super) fn assemble(
    primary: Key,
    staged: StagedKey,
    others: impl IntoIterator<Item = Key>,
    states: Option<&States>,
) -> Result<Keyring, KeyringError> {
    let dated = |key| states.map_or_else(|| Key::clone(&key), |states| states.dated(key.clone()));
    let mut ring = Keyring::new(dated(primary))?;
    let (staged, listed) = match staged {
        StagedKey::InPlace(key) => (key, None),
        StagedKey::Listed => (None, states.and_then(States::staged)),
    };
    if let Some(staged) = staged {
        ring = ring.stage(dated(staged))?;
    }
    for key in others {
        let is_staged = listed == Some(key.id()) && ring.staged().is_none();
        ring = if is_staged { ring.stage(dated(key))? } else { ring.with_secondary(dated(key))? };
    }
    if let Some(states) = states {
        states.require_all_in(&ring)?;
    }
    Ok(ring)
}
