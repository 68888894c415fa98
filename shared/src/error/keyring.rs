//! The errors of a keyring.

use std::fmt;

use crate::key::KeyId;

/// The place of a key that has no id yet, because its bytes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A key by its number, in a member, or in the text if there is no member.
    Position {
        /// The member.
        member: Option<String>,
        /// The number; the first is 1.
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

/// What is wrong with a keyring, or which change its state does not allow. Messages name keys by id or position, never
/// by value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// A text is not a key of the format.
    #[error("{place} is {problem}: expected {expected}")]
    Malformed {
        /// The place of the text.
        place: Place,
        /// The shape of the text.
        problem: String,
        /// The form of a key.
        expected: &'static str,
    },
    /// A key has zero bytes only. It is a forgotten placeholder, or memory that was never filled.
    #[error("key {id} is all zero: it protects nothing; replace it")]
    AllZero {
        /// The key.
        id: KeyId,
    },
    /// The keyring has the same key twice.
    #[error("key {id} stands in the keyring twice: remove one of them")]
    Duplicate {
        /// The key.
        id: KeyId,
    },
    /// Two different keys have the same id.
    #[error("two different keys have the id {id}: they could not be told apart; replace the one that no row needs")]
    SameId {
        /// The id.
        id: KeyId,
    },
    /// The ring has a staged key already.
    #[error("key {id} is staged already")]
    AlreadyStaged {
        /// The key.
        id: KeyId,
    },
    /// No key is staged.
    #[error("no key is staged")]
    NothingStaged,
    /// The key is marked as compromised.
    #[error("key {id} is marked as compromised, and is never promoted")]
    Compromised {
        /// The key.
        id: KeyId,
    },
    /// The key is primary or staged, and cannot be retired.
    #[error("key {id} is not secondary: only a key that no longer encrypts can be retired")]
    NotSecondary {
        /// The key.
        id: KeyId,
    },
    /// The ring has no such key.
    #[error("the keyring has no key {id}")]
    NoSuchKey {
        /// The id.
        id: KeyId,
    },
    /// `NAME_RING` lists a key that the value does not hold: a writer removed the key by hand.
    #[error(
        "{ring} lists key {id}, which is not among the keys that the value can be decrypted with: put the key back from an earlier version, or, if no row needs it, take its entry out of {ring}"
    )]
    KeyLost {
        /// The member.
        ring: String,
        /// The key.
        id: KeyId,
    },
    /// `NAME_RING` cannot be read.
    #[error("{ring} is not as a rotation writes it: {problem}")]
    Ring {
        /// The member.
        ring: String,
        /// The place of the fault, and what is wrong there.
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
