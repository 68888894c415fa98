//! How a secret holds a keyring, and how its keys encrypt: the rules that every format implements.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use zeroize::Zeroizing;

use super::ring::Keyring;
use super::states::States;
use crate::document::{Document, FieldName};
use crate::error::{KeyringError, RotationError};
use crate::key::{Key, KeyId};
use crate::secret::SecretText;

/// A wire format. It reads back everything that it writes, and loses nothing that another program wrote.
pub trait WireFormat: Sync {
    /// Parses a secret's value. A text secret is a text, whatever it begins with: a Tink keyset is itself a JSON
    /// object.
    ///
    /// # Errors
    /// Those of [`Document::parse`].
    fn document(&self, text: SecretText, field: Option<&FieldName>) -> Result<Document, RotationError> {
        Document::parse(text, field)
    }

    /// The members of a JSON secret that hold the ring; `field` is the primary one.
    fn members(&self, field: &FieldName) -> Vec<FieldName>;

    /// The ring of a value.
    ///
    /// # Errors
    /// [`RotationError::Keyring`] names the key by id or position, never by value. Also, the errors of
    /// [`Document::member`].
    fn parse(&self, document: &Document) -> Result<Keyring, RotationError>;

    /// The value with `ring` in it. Existing keys stay as they are written.
    ///
    /// # Errors
    /// [`RotationError::Keyring`] if the value has no place for a staged key. Also, the errors of
    /// [`Document::with_member`].
    fn write(&self, document: &Document, ring: &Keyring) -> Result<Document, RotationError>;

    /// The value `current` with `ring`. The keys of `ring` come from `current` and from `marked`, another value of the
    /// secret.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    fn restore(&self, current: &Document, _marked: &Document, ring: &Keyring) -> Result<Document, RotationError> {
        self.write(current, ring)
    }

    /// Whether every reader of the existing keys can also read the new `key`. If no key shows its base64 alphabet, a
    /// new key must do without the characters in which the alphabets differ. Of random keys about one in four does,
    /// which costs two bits of their 256.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse).
    fn fits(&self, _document: &Document, _key: &Key) -> Result<bool, RotationError> {
        Ok(true)
    }

    /// The text of a ring with the one key `primary`: the first value of a secret, or of its member.
    fn first(&self, primary: &Key) -> SecretText;

    /// The cipher of each key of the value, the primary first.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse).
    fn ciphers(&self, document: &Document) -> Result<Ciphers, RotationError>;
}

/// The cipher of one key.
///
/// A format's ciphertexts are bytes; only `fernet` has a text form of its own, the token. [`seal`](Self::seal) and
/// [`open`](Self::open) use the form of the format's specification. The other methods use the bytes.
pub trait Cipher: Send + Sync {
    /// Encrypts, and binds the associated data. `seconds` is the Unix time in a Fernet token; the other formats hold no
    /// time. `None` if the text is too long for the cipher, or if the cipher takes no associated data and `aad` is not
    /// empty.
    fn seal_bytes(&self, plaintext: &[u8], aad: &[u8], seconds: u64, rng: &mut StdRng) -> Option<Vec<u8>>;

    /// Decrypts. `None` if the ciphertext is damaged, or is not under this key with this associated data.
    fn open_bytes(&self, ciphertext: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>>;

    /// Whether the ciphertext itself names this key: by the key id before it, or by a signature.
    fn is_named_by(&self, ciphertext: &[u8]) -> bool;

    /// Encrypts; `None` if the text is too long for the cipher.
    fn seal(&self, plaintext: &[u8], now: SystemTime, rng: &mut StdRng) -> Option<Vec<u8>> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.seal_bytes(plaintext, &[], seconds, rng)
    }

    /// Decrypts; `None` if the ciphertext is damaged, or is not under this key.
    fn open(&self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.open_bytes(ciphertext, &[])
    }
}

/// The ciphers of a value's keys.
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

/// The place of the staged key in a value.
pub(super) enum StagedKey {
    /// A place of its own, with its key if there is one.
    InPlace(Option<Key>),
    /// Among the other keys; `NAME_RING` names it.
    Listed,
}

/// Makes a ring of keys, with `primary` and the other keys in the order given.
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
