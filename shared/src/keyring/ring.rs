//! The ring: one key encrypts, one key is next, and the other keys only decrypt.

use std::time::SystemTime;

use crate::error::KeyringError;
use crate::key::{Key, KeyId, KeyState};

/// A keyring. Its type allows only one primary key and at most one staged key. Its methods refuse equal keys and a key
/// of zero bytes only.
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

    /// All keys with their states: the primary, the staged, then the secondary keys from new to old.
    pub fn keys(&self) -> impl Iterator<Item = (KeyState, &Key)> {
        let staged = self.staged.iter().map(|key| (KeyState::Staged, key));
        let secondary = self.secondary.iter().map(|key| (KeyState::Secondary, key));
        std::iter::once((KeyState::Primary, &self.primary)).chain(staged).chain(secondary)
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&Key> {
        self.keys().map(|(_, key)| key).find(|key| key.id() == id)
    }

    /// Whether every key of `other` is in this ring.
    #[must_use]
    pub fn holds_all_of(&self, other: &Self) -> bool {
        self.lacking(other).next().is_none()
    }

    /// The keys of `other` that are not in this ring.
    pub fn lacking<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (KeyState, &'a Key)> {
        other.keys().filter(|(_, key)| self.get(key.id()).is_none_or(|held| held.material() != key.material()))
    }

    /// Adds the keys that only `other` holds, as the oldest secondary keys. A key that `other` marks as leaked is
    /// marked here too.
    ///
    /// # Errors
    /// Those of [`Keyring::with_secondary`].
    pub fn with_keys_of(mut self, other: &Self) -> Result<Self, KeyringError> {
        for (_, key) in other.keys() {
            let known = std::iter::once(&mut self.primary).chain(&mut self.staged).chain(&mut self.secondary);
            match known.into_iter().find(|held| held.material() == key.material()) {
                Some(held) => held.note_compromise(key.dates().compromised),
                None => self = self.with_secondary(key.clone())?,
            }
        }
        Ok(self)
    }

    /// Adds a secondary key, as the oldest one.
    ///
    /// # Errors
    /// [`KeyringError::AllZero`], [`KeyringError::Duplicate`], [`KeyringError::SameId`].
    pub fn with_secondary(mut self, key: Key) -> Result<Self, KeyringError> {
        self.refuse(&key)?;
        self.secondary.push(key);
        Ok(self)
    }

    /// Stages `key`: it is the next primary key.
    ///
    /// # Errors
    /// [`KeyringError::AlreadyStaged`], and those of [`Keyring::with_secondary`].
    pub fn stage(mut self, key: Key) -> Result<Self, KeyringError> {
        if let Some(staged) = &self.staged {
            return Err(KeyringError::AlreadyStaged { id: staged.id() });
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
        if next.dates().compromised.is_some() {
            return Err(KeyringError::Compromised { id: next.id() });
        }
        self.secondary.insert(0, self.primary);
        self.primary = next.promoted_at(now);
        Ok(self)
    }

    /// Counts the age of the staged key from `now` if its date is unknown.
    #[must_use]
    pub fn date_staged(mut self, now: SystemTime) -> Self {
        if let Some(staged) = &mut self.staged {
            staged.note_creation(now);
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

    /// Makes the staged key, if there is one, a secondary key. It was as exposed as the primary key, and is never
    /// promoted.
    #[must_use]
    pub fn unstage(mut self) -> Self {
        if let Some(staged) = self.staged.take() {
            self.secondary.insert(0, staged);
        }
        self
    }

    /// Makes a secondary key primary again. The old primary key stays as a secondary key, because data may be under it.
    ///
    /// # Errors
    /// [`KeyringError::NotSecondary`], [`KeyringError::NoSuchKey`], [`KeyringError::Compromised`].
    pub fn reinstate(self, id: KeyId, now: SystemTime) -> Result<Self, KeyringError> {
        let key = self.get(id).cloned().ok_or(KeyringError::NoSuchKey { id })?;
        if key.dates().compromised.is_some() {
            return Err(KeyringError::Compromised { id });
        }
        let mut ring = self.retire(id)?;
        ring.secondary.insert(0, ring.primary);
        ring.primary = key.promoted_at(now);
        Ok(ring)
    }

    /// Marks the primary and the staged key as leaked since `now`. Neither key is ever promoted again.
    #[must_use]
    pub fn mark_compromised(mut self, now: SystemTime) -> Self {
        for key in std::iter::once(&mut self.primary).chain(&mut self.staged) {
            key.note_compromise(Some(now));
        }
        self
    }

    /// Takes a secondary key out of the ring. The caller has counted that no row needs the key.
    ///
    /// # Errors
    /// [`KeyringError::NotSecondary`], [`KeyringError::NoSuchKey`].
    pub fn retire(mut self, id: KeyId) -> Result<Self, KeyringError> {
        let Some(position) = self.secondary.iter().position(|key| key.id() == id) else {
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
        match self.get(key.id()) {
            None => Ok(()),
            Some(held) if held.material() == key.material() => Err(KeyringError::Duplicate { id: key.id() }),
            Some(_) => Err(KeyringError::SameId { id: key.id() }),
        }
    }
}

fn refuse_zero(key: &Key) -> Result<(), KeyringError> {
    if key.material().is_zero() { Err(KeyringError::AllZero { id: key.id() }) } else { Ok(()) }
}
