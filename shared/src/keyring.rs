//! The keyring: one primary key that encrypts, at most one staged key, and any number of secondary keys that only
//! decrypt. The staged key is the next primary.
//!
//! A staged key lies in the ring for a whole period before it encrypts anything. By then every consumer can decrypt
//! with it. A rotation never drops a key. Only [`Keyring::retire`] drops a key, and no rotation calls it. A
//! [`WireFormat`] writes a ring into a secret; each format has one file: [`raw`], [`fernet`], [`tink`].

pub mod fernet;
pub mod format;
pub(crate) mod gcm;
pub mod raw;
pub mod ring;
pub mod states;
mod text;
pub mod tink;
pub mod wire;

pub use format::{
    KEY_FORMAT, KEY_SETTINGS, KeyFormat, sign_of_keyring, sign_of_token, token_end_member, token_next_member,
};
pub use ring::Keyring;
pub use states::States;
pub use wire::{Cipher, Ciphers, WireFormat};

pub use crate::error::{KeyringError, Place};
pub use crate::key::{Dates, KEY_BYTES, Key, KeyId, KeyMaterial, KeyState, NotAKeyId};
