//! `raw`: keys in base64 (RFC 4648 §4, with padding), one member per state beside the other members of a JSON secret.
//!
//! | member | holds |
//! | --- | --- |
//! | `NAME` | the primary key |
//! | `NAME_STAGED` | the staged key |
//! | `NAME_PREVIOUS` | the secondary keys, comma-separated, newest first |
//! | `NAME_RING` | states and dates, see [`states`](super::states) |
//!
//! A secret that has only `NAME` is a ring of one key. In a text secret the keys stand comma-separated, the primary first.
//! Where a key stands is its state, whatever `NAME_RING` says: that is where the application takes it from.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::format::{StagedKey, assemble};
use super::gcm::AesGcm;
use super::states::ring_member;
use super::text::{at, decode_list, decode_with, list};
use super::{Cipher, Ciphers, Key, Keyring, KeyringError, Place, States, WireFormat};
use crate::document::{Document, FieldName};
use crate::error::RotationError;
use crate::secret::SecretText;

const EXPECTED: &str = "32 bytes in base64 with padding, 44 characters (openssl rand -base64 32)";

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

pub(super) fn staged_member(field: &FieldName) -> FieldName {
    field.with_suffix("_STAGED")
}

pub(super) fn previous_member(field: &FieldName) -> FieldName {
    field.with_suffix("_PREVIOUS")
}

impl WireFormat for Raw {
    fn members(&self, field: &FieldName) -> Vec<FieldName> {
        vec![field.clone(), staged_member(field), previous_member(field), ring_member(field)]
    }

    fn parse(&self, document: &Document) -> Result<Keyring, RotationError> {
        let Some(field) = document.field() else {
            let mut keys = decode_list(&document.secret()?, None, decode)?.into_iter();
            // A list has at least one item.
            let primary = keys.next().ok_or(RotationError::EmptyValue)?;
            return Ok(assemble(primary, StagedKey::InPlace(None), keys, None)?);
        };
        let primary = decode(document.secret()?.expose(), &|| at(Some(field), 1))?;
        let staged = match document.member(&staged_member(field))? {
            None => None,
            Some(text) => Some(decode(text.expose(), &|| at(Some(&staged_member(field)), 1))?),
        };
        let previous = match document.member(&previous_member(field))? {
            None => vec![],
            Some(list) => decode_list(&list, Some(&previous_member(field)), decode)?,
        };
        Ok(assemble(primary, StagedKey::InPlace(staged), previous, States::read(document)?.as_ref())?)
    }

    fn write(&self, document: &Document, ring: &Keyring) -> Result<Document, RotationError> {
        let Some(field) = document.field() else {
            if ring.staged().is_some() {
                return Err(KeyringError::NoPlaceForStaged.into());
            }
            let keys = ring.keys().map(|(_, key)| key);
            return document.with_secret(&list(keys, encode));
        };
        let (staged, previous) = (staged_member(field), previous_member(field));
        // A new member follows NAME, so the last one is added first.
        let states = States::read(document)?;
        let document = states.map_or_else(|| Ok(document.clone()), |states| states.write(document, ring))?;
        let document = match ring.secondary() {
            [] => document.without_member(&previous)?,
            keys => document.with_member(&previous, &list(keys, encode))?,
        };
        let document = match ring.staged() {
            None => document.without_member(&staged)?,
            Some(key) => document.with_member(&staged, &encode(key))?,
        };
        document.with_secret(&encode(ring.primary()))
    }

    fn first(&self, primary: &Key) -> SecretText {
        encode(primary)
    }

    fn ciphers(&self, document: &Document) -> Result<Ciphers, RotationError> {
        let ring = self.parse(document)?;
        let cipher = |key: &Key| Box::new(AesGcm::new(key.material(), vec![])) as Box<dyn Cipher>;
        Ok(Ciphers(ring.keys().map(|(_, key)| (key.id(), cipher(key))).collect()))
    }
}

fn encode(key: &Key) -> SecretText {
    SecretText::new(STANDARD.encode(key.material().expose()))
}

fn decode(text: &str, place: &dyn Fn() -> Place) -> Result<Key, KeyringError> {
    decode_with(&STANDARD, text, EXPECTED, place)
}
