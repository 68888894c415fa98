//! `tink`: a Tink JSON keyset (`proto/tink.proto` and `proto/aes_gcm.proto` of Tink). Its `primaryKeyId` names the
//! primary key.
//!
//! The keys of the ring are the enabled ones: AES-256-GCM, output prefix `TINK` or `RAW`. Disabled keys, destroyed keys
//! and unknown members stay as they are written. Member names are read in camel case and in snake case. A new key is
//! written in the keyset's case, with the primary's output prefix, and with its key id as `keyId`.
//!
//! A keyset cannot say which key is staged. In a JSON secret the member `NAME_RING` says it; keys that `NAME_RING` does
//! not list are secondary.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::gcm::AesGcm;
use super::ring::Keyring;
use super::states::{States, ring_member};
use super::wire::{Cipher, Ciphers, StagedKey, WireFormat, assemble};
use crate::document::{self, Document, FieldName};
use crate::error::{KeyringError, Place, RotationError};
use crate::key::{KEY_BYTES, Key, KeyMaterial};
use crate::secret::SecretText;

const TYPE_PREFIX: &str = "type.googleapis.com/google.crypto.tink.";
const AES_GCM_KEY: &str = "AesGcmKey";
const EXPECTED: &str = "an AES-256-GCM key";

/// The JSON form of protocol buffers writes bytes in base64, and reads them with and without padding.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// The format.
#[derive(Clone, Copy, Debug)]
pub struct Tink;

impl WireFormat for Tink {
    fn document(&self, text: SecretText, field: Option<&FieldName>) -> Result<Document, RotationError> {
        match field {
            None => Document::whole(text),
            Some(_) => Document::parse(text, field),
        }
    }

    fn members(&self, field: &FieldName) -> Vec<FieldName> {
        vec![field.clone(), ring_member(field)]
    }

    fn parse(&self, document: &Document) -> Result<Keyring, RotationError> {
        let text = document.secret()?;
        let keyset = Keyset::parse(text.expose())?;
        let primary = keyset.primary()?.clone();
        // Keysets get new keys at their end, so the reversed order is newest first.
        let others = keyset.enabled().rev().filter(|(entry, _)| entry.id != keyset.primary_id);
        let others: Vec<Key> = others.map(|(_, key)| key.clone()).collect();
        Ok(assemble(primary, StagedKey::Listed, others, States::read(document)?.as_ref())?)
    }

    fn write(&self, document: &Document, ring: &Keyring) -> Result<Document, RotationError> {
        let states = States::read(document)?;
        if states.is_none() && ring.staged().is_some() {
            return Err(KeyringError::NoPlaceForStaged.into());
        }
        let document = states.map_or_else(|| Ok(document.clone()), |states| states.write(document, ring))?;
        let text = document.secret()?;
        let keyset = Keyset::parse(text.expose())?.with(ring)?;
        match document.field() {
            None => Document::whole(keyset),
            Some(_) => document.with_secret(&keyset),
        }
    }

    /// Ciphertexts begin with the prefix and the `keyId` of their entry. So each entry stays as it is written,
    /// whichever value it comes from.
    fn restore(&self, current: &Document, marked: &Document, ring: &Keyring) -> Result<Document, RotationError> {
        let (of_current, of_marked) = (current.secret()?, marked.secret()?);
        let joined = Keyset::parse(of_marked.expose())?.joined(&Keyset::parse(of_current.expose())?);
        let joined = match current.field() {
            None => Document::whole(joined)?,
            Some(_) => current.with_secret(&joined)?,
        };
        self.write(&joined, ring)
    }

    fn first(&self, primary: &Key) -> SecretText {
        let id = primary.id().number();
        let key = Names::Camel.entry(primary, Prefix::Tink);
        SecretText::new([r#"{"primaryKeyId":"#, &id.to_string(), r#","key":["#, key.expose(), "]}"].concat())
    }

    fn ciphers(&self, document: &Document) -> Result<Ciphers, RotationError> {
        let text = document.secret()?;
        let keyset = Keyset::parse(text.expose())?;
        keyset.primary()?;
        let cipher = |(entry, key): (&Entry<'_>, &Key)| {
            let prefix = match entry.prefix {
                Prefix::Tink => [&[1][..], &entry.id.to_be_bytes()].concat(),
                Prefix::Raw => vec![],
            };
            (key.id(), Box::new(AesGcm::new(key.material(), prefix)) as Box<dyn Cipher>)
        };
        let is_primary = |entry: &Entry<'_>| entry.id == keyset.primary_id;
        let (primary, others): (Vec<_>, Vec<_>) = keyset.enabled().partition(|(entry, _)| is_primary(entry));
        Ok(Ciphers(primary.into_iter().chain(others).map(cipher).collect()))
    }
}

/// The names of a keyset's members: `keyData`, or `key_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Camel,
    Snake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefix {
    Tink,
    Raw,
}

/// A keyset, with the ranges of its parts in the text.
struct Keyset<'a> {
    text: &'a str,
    names: Names,
    primary_id: u32,
    primary_at: std::ops::Range<usize>,
    keys_at: std::ops::Range<usize>,
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    text: &'a str,
    id: u32,
    prefix: Prefix,
    /// `None` if the key is disabled or destroyed.
    key: Option<Key>,
}

#[derive(Deserialize)]
struct WireEntry {
    #[serde(alias = "key_data", rename = "keyData")]
    data: Option<WireData>,
    status: Option<String>,
    #[serde(alias = "key_id", rename = "keyId")]
    id: Option<u32>,
    #[serde(alias = "output_prefix_type", rename = "outputPrefixType")]
    prefix: Option<String>,
}

#[derive(Deserialize)]
struct WireData {
    #[serde(alias = "type_url", rename = "typeUrl")]
    kind: Option<String>,
    value: Option<SecretText>,
}

fn wrong(problem: impl Into<String>) -> KeyringError {
    KeyringError::Keyset { problem: problem.into() }
}

impl<'a> Keyset<'a> {
    fn parse(text: &'a str) -> Result<Self, KeyringError> {
        let members = document::members(text).ok_or_else(|| wrong("is not a JSON object"))?;
        let find = |camel: &str, snake: &str| {
            // Readers compare the unescaped name.
            let named = |range: &std::ops::Range<usize>, name: &str| {
                serde_json::from_str::<String>(&text[range.clone()]).is_ok_and(|key| key == name)
            };
            let mut found = members.iter().filter(|member| named(&member.key, camel) || named(&member.key, snake));
            match (found.next(), found.next()) {
                (Some(member), None) => Ok((member.value.clone(), named(&member.key, snake) && camel != snake)),
                (Some(_), Some(_)) => Err(wrong(format!("has {camel} twice"))),
                (None, _) => Err(wrong(format!("has no {camel}"))),
            }
        };
        let (primary_at, snake) = find("primaryKeyId", "primary_key_id")?;
        let (keys_at, _) = find("key", "key")?;
        let primary_id = serde_json::from_str(&text[primary_at.clone()]);
        let primary_id = primary_id.map_err(|_| wrong("has a primaryKeyId that is not a number of 32 bits"))?;
        let entries: Vec<&'a RawValue> =
            serde_json::from_str(&text[keys_at.clone()]).map_err(|_| wrong("has a key that is not an array"))?;
        let entries = (1..).zip(entries).map(|(number, entry)| Entry::parse(entry.get(), number));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        for (position, entry) in entries.iter().enumerate() {
            if entries[..position].iter().any(|before| before.id == entry.id) {
                return Err(wrong(format!("has two keys with keyId {}", entry.id)));
            }
        }
        let names = if snake { Names::Snake } else { Names::Camel };
        Ok(Self { text, names, primary_id, primary_at, keys_at, entries })
    }

    fn enabled(&self) -> impl DoubleEndedIterator<Item = (&Entry<'a>, &Key)> {
        self.entries.iter().filter_map(|entry| Some((entry, entry.key.as_ref()?)))
    }

    fn primary(&self) -> Result<&Key, KeyringError> {
        let id = self.primary_id;
        let entry = self.entries.iter().find(|entry| entry.id == id);
        let entry = entry.ok_or_else(|| wrong(format!("has no key with its primaryKeyId {id}")))?;
        let disabled = || wrong(format!("has a primary key, keyId {id}, that is not enabled: nobody can encrypt"));
        entry.key.as_ref().ok_or_else(disabled)
    }

    /// The text with the entries that only `other` has. Two different entries with the same `keyId` make a keyset that
    /// [`Keyset::parse`] refuses.
    fn joined(&self, other: &Keyset<'_>) -> SecretText {
        // For a disabled key, only the id is known.
        let same =
            |one: &Entry<'_>, other: &Entry<'_>| one.key == other.key && (one.key.is_some() || one.id == other.id);
        let new = other.entries.iter().filter(|entry| !self.entries.iter().any(|held| same(held, entry)));
        let entries: Vec<&str> = self.entries.iter().chain(new).map(|entry| entry.text).collect();
        let entries = Zeroizing::new(["[", &entries.join(","), "]"].concat());
        let (text, at) = (self.text, &self.keys_at);
        SecretText::new([&text[..at.start], entries.as_str(), &text[at.end..]].concat())
    }

    /// The text with the keys of `ring`. Existing keys stay as they are written, new keys go to the end, and disabled
    /// keys stay.
    fn with(&self, ring: &Keyring) -> Result<SecretText, KeyringError> {
        let held = |entry: &&Entry<'_>| entry.key.as_ref().is_none_or(|key| ring.get(key.id()).is_some());
        let kept: Vec<&Entry<'_>> = self.entries.iter().filter(held).collect();
        let is_new = |key: &Key| !self.enabled().any(|(_, held)| held.id() == key.id());
        let like = self.entries.iter().find(|entry| entry.id == self.primary_id).map_or(Prefix::Tink, |key| key.prefix);
        let mut new: Vec<SecretText> = vec![];
        let added: Vec<&Key> = ring.keys().map(|(_, key)| key).filter(|key| is_new(key)).collect();
        // Keysets get new keys at their end.
        for key in added.into_iter().rev() {
            let number = key.id().number();
            if number == 0 || self.entries.iter().any(|entry| entry.id == number) {
                return Err(wrong(format!("has a key with the keyId {number} of a new one: rotate again")));
            }
            new.push(self.names.entry(key, like));
        }
        let entries: Vec<&str> =
            kept.iter().map(|entry| entry.text).chain(new.iter().map(SecretText::expose)).collect();
        let primary_id = self.enabled().find(|(_, key)| key.id() == ring.primary().id()).map(|(entry, _)| entry.id);
        let primary_id = primary_id.unwrap_or(ring.primary().id().number()).to_string();
        let entries = Zeroizing::new(["[", &entries.join(","), "]"].concat());

        let mut edits = [(&self.primary_at, primary_id.as_str()), (&self.keys_at, entries.as_str())];
        edits.sort_by_key(|(at, _)| at.start);
        let [(first, first_text), (second, second_text)] = edits;
        let text = self.text;
        let parts =
            [&text[..first.start], first_text, &text[first.end..second.start], second_text, &text[second.end..]];
        Ok(SecretText::new(parts.concat()))
    }
}

impl<'a> Entry<'a> {
    fn parse(text: &'a str, number: usize) -> Result<Self, KeyringError> {
        // The message of serde could quote the key.
        let entry: WireEntry =
            serde_json::from_str(text).map_err(|_| wrong(format!("has an entry {number} that is not a key")))?;
        let id =
            entry.id.filter(|id| *id != 0).ok_or_else(|| wrong(format!("has an entry {number} without a keyId")))?;
        let malformed =
            |problem: String| KeyringError::Malformed { place: Place::KeysetId(id), problem, expected: EXPECTED };
        let prefix = match entry.prefix.as_deref() {
            Some("TINK") => Ok(Prefix::Tink),
            Some("RAW") => Ok(Prefix::Raw),
            Some("LEGACY") => Err("with the output prefix LEGACY"),
            Some("CRUNCHY") => Err("with the output prefix CRUNCHY"),
            _ => Err("without a known outputPrefixType"),
        };
        match entry.status.as_deref() {
            Some("ENABLED") => {}
            Some("DISABLED" | "DESTROYED") => {
                return Ok(Self { text, id, prefix: prefix.unwrap_or(Prefix::Tink), key: None });
            }
            _ => return Err(malformed("without a known status".to_owned())),
        }
        let prefix = prefix.map_err(|problem| malformed(format!("{problem}: only TINK and RAW are read")))?;
        let data = entry.data.ok_or_else(|| malformed("without keyData".to_owned()))?;
        match data.kind.as_deref().unwrap_or_default().strip_prefix(TYPE_PREFIX) {
            Some(AES_GCM_KEY) => {}
            Some(kind) if kind.len() <= 64 && kind.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                return Err(malformed(format!("of the type {kind}")));
            }
            _ => return Err(malformed("of an unknown type".to_owned())),
        }
        let value = data.value.ok_or_else(|| malformed("without a value".to_owned()))?;
        let mut bytes = Zeroizing::new(vec![0; value.len()]);
        let decoded = STANDARD.decode_slice(value.expose(), &mut bytes);
        let length = decoded.or_else(|_| URL_SAFE.decode_slice(value.expose(), &mut bytes));
        let length = length.map_err(|_| malformed("not in base64".to_owned()))?;
        let material = aes_gcm_key(&bytes[..length]).map_err(malformed)?;
        Ok(Self { text, id, prefix, key: Some(Key::new(material)) })
    }
}

impl Names {
    /// The text of a new entry.
    fn entry(self, key: &Key, prefix: Prefix) -> SecretText {
        let [data, kind, material, id, output] = match self {
            Self::Camel => ["keyData", "typeUrl", "keyMaterialType", "keyId", "outputPrefixType"],
            Self::Snake => ["key_data", "type_url", "key_material_type", "key_id", "output_prefix_type"],
        };
        let message = Zeroizing::new([&[KEY_VALUE, KEY_BYTES as u8][..], key.material().expose()].concat());
        let value = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(&*message));
        let prefix = match prefix {
            Prefix::Tink => "TINK",
            Prefix::Raw => "RAW",
        };
        let number = key.id().number().to_string();
        let parts = [
            r#"{""#,
            data,
            r#"":{""#,
            kind,
            r#"":""#,
            TYPE_PREFIX,
            AES_GCM_KEY,
            r#"","value":""#,
            &value,
            r#"",""#,
            material,
            r#"":"SYMMETRIC"},"status":"ENABLED",""#,
            id,
            r#"":"#,
            &number,
            r#",""#,
            output,
            r#"":""#,
            prefix,
            r#""}"#,
        ];
        // One allocation, so that no copy of the key is left behind.
        SecretText::new(parts.concat())
    }
}

/// Tag of the field `version`, a number.
const VERSION: u8 = 1 << 3;
/// Tag of the field `key_value`, bytes.
const KEY_VALUE: u8 = (3 << 3) | 2;

/// The key in a message `AesGcmKey`. `Err` says what is wrong with the message.
fn aes_gcm_key(mut message: &[u8]) -> Result<KeyMaterial, String> {
    let (mut key, not_a_key) = (None, || "not a message AesGcmKey".to_owned());
    // Both fields are short, so every number in such a message takes one byte.
    while let [tag, number, rest @ ..] = message {
        if *number >= 0x80 {
            return Err(not_a_key());
        }
        message = match *tag {
            VERSION if *number == 0 => rest,
            VERSION => return Err("of a version that is not known".to_owned()),
            KEY_VALUE if key.is_none() => {
                let (value, rest) = rest.split_at_checked((*number).into()).ok_or_else(not_a_key)?;
                key = Some(KeyMaterial::new(value).ok_or_else(|| format!("{number} bytes long"))?);
                rest
            }
            _ => return Err(not_a_key()),
        };
    }
    if message.is_empty() { key.ok_or_else(not_a_key) } else { Err(not_a_key()) }
}
