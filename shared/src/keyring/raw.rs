//! `raw`: keys as text, one member per state beside the other members of a JSON secret.
//!
//! A key is base64 (RFC 4648 §4 or §5, with or without padding, with or without Laravel's prefix `base64:`) or
//! hexadecimal digits. Existing keys stay as they are written; a new key is written like the primary key. If no key
//! shows its base64 alphabet, a new key must do without the characters in which the alphabets differ
//! ([`WireFormat::fits`]).
//!
//! | member | holds |
//! | --- | --- |
//! | `NAME` | the primary key |
//! | `NAME_STAGED` | the staged key |
//! | `NAME_PREVIOUS` | the secondary keys, comma-separated, newest first |
//! | `NAME_RING` | states and dates, see [`states`](super::states) |
//!
//! A secret with only `NAME` is a ring of one key. A text secret holds the keys comma-separated, the primary first. The
//! place of a key is its state, whatever `NAME_RING` says, because the application reads the key from that place.

use super::gcm::AesGcm;
use super::ring::Keyring;
use super::states::{States, ring_member};
use super::text::{self, Accepted, Style, Written, at, read, read_list};
use super::wire::{Cipher, Ciphers, StagedKey, WireFormat, assemble};
use crate::document::{Document, FieldName};
use crate::error::{KeyringError, RotationError};
use crate::key::Key;
use crate::secret::SecretText;

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
        let Texts { mut primary, staged, previous } = Texts::read(document)?;
        let key = |written: Written| written.key;
        // A list has at least one item.
        let others = primary.split_off(1).into_iter().chain(previous).map(key);
        let primary = primary.pop().map(key).ok_or(RotationError::EmptyValue)?;
        Ok(assemble(primary, StagedKey::InPlace(staged.map(key)), others, States::read(document)?.as_ref())?)
    }

    fn write(&self, document: &Document, ring: &Keyring) -> Result<Document, RotationError> {
        let style = Texts::read(document)?.style(document)?;
        let Some(field) = document.field() else {
            if ring.staged().is_some() {
                return Err(KeyringError::NoPlaceForStaged.into());
            }
            return document.with_secret(&style.list(ring.keys().map(|(_, key)| key)));
        };
        let (staged, previous) = (staged_member(field), previous_member(field));
        // A new member follows `NAME`, so the last member is added first.
        let states = States::read(document)?;
        let document = states.map_or_else(|| Ok(document.clone()), |states| states.write(document, ring))?;
        let document = match ring.secondary() {
            [] => document.without_member(&previous)?,
            keys => document.with_member(&previous, &style.list(keys))?,
        };
        let document = match ring.staged() {
            None => document.without_member(&staged)?,
            Some(key) => document.with_member(&staged, &style.text(key))?,
        };
        document.with_secret(&style.text(ring.primary()))
    }

    fn first(&self, primary: &Key) -> SecretText {
        text::first(primary, Accepted::Raw)
    }

    fn fits(&self, document: &Document, key: &Key) -> Result<bool, RotationError> {
        Ok(Texts::read(document)?.style(document)?.fits(key))
    }

    fn ciphers(&self, document: &Document) -> Result<Ciphers, RotationError> {
        let ring = self.parse(document)?;
        let cipher = |key: &Key| Box::new(AesGcm::new(key.material(), vec![])) as Box<dyn Cipher>;
        Ok(Ciphers(ring.keys().map(|(_, key)| (key.id(), cipher(key))).collect()))
    }
}

/// The keys of a value, with their texts.
struct Texts {
    /// The key of `NAME`, or all keys of a text secret.
    primary: Vec<Written>,
    staged: Option<Written>,
    previous: Vec<Written>,
}

impl Texts {
    fn read(document: &Document) -> Result<Self, RotationError> {
        let text = document.secret()?;
        let Some(field) = document.field() else {
            return Ok(Self { primary: read_list(&text, None, Accepted::Raw)?, staged: None, previous: vec![] });
        };
        let one = |member: &FieldName, text: &SecretText| read(text.expose(), &|| at(Some(member), 1), Accepted::Raw);
        let (staged, previous) = (staged_member(field), previous_member(field));
        let primary = vec![one(field, &text)?];
        let staged = document.member(&staged)?.map(|text| one(&staged, &text)).transpose()?;
        let listed = document.member(&previous)?.map(|list| read_list(&list, Some(&previous), Accepted::Raw));
        Ok(Self { primary, staged, previous: listed.transpose()?.unwrap_or_default() })
    }

    fn style(&self, document: &Document) -> Result<Style, RotationError> {
        let list = match document.field() {
            None => Some(document.text().clone()),
            Some(field) => document.member(&previous_member(field))?,
        };
        let keys = self.primary.iter().chain(&self.staged).chain(&self.previous);
        Ok(Style::of(keys, list.as_ref(), Accepted::Raw))
    }
}
