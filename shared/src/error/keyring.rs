//! What can be wrong with a keyring.

use std::fmt;

use crate::key::KeyId;

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
