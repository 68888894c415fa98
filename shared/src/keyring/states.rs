//! `NAME_RING`: the state of each key, and its dates. It holds no key.
//!
//! ```json
//! {"keys":[{"id":"1a2b3c4d","state":"primary","created":"2026-08-24T00:00:00Z","promoted":"2026-11-24T00:00:00Z"},
//!          {"id":"5e6f7081","state":"staged","created":"2026-11-24T00:00:00Z"}]}
//! ```
//!
//! The member is a string, like the keys beside it. So applications that read a JSON secret as a map of strings still
//! work. Unknown members stay as they are.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use serde_json::value::RawValue;

use super::ring::Keyring;
use crate::document::{self, Document, FieldName};
use crate::error::{KeyringError, RotationError};
use crate::key::{Dates, Key, KeyId, KeyState};
use crate::secret::SecretText;
use crate::time::{format_timestamp, parse_timestamp};

/// Unknown members, as they are written. They may hold a key, so their text is treated as secret.
type Unknown = Vec<SecretText>;

/// The states of a ring's keys, as `NAME_RING` lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct States {
    member: FieldName,
    unknown: Unknown,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    id: KeyId,
    state: KeyState,
    dates: Dates,
    unknown: Unknown,
}

/// The member with the states.
pub(crate) fn ring_member(field: &FieldName) -> FieldName {
    field.with_suffix("_RING")
}

impl States {
    /// Reads `NAME_RING`. A JSON secret without the member has no entries; a text secret has no states.
    ///
    /// # Errors
    /// [`RotationError::Keyring`] says what is wrong. The member must be an object with an array `keys` of objects.
    /// Each object has an `id` and a `state`. No id occurs twice, and at most one key is primary and one is staged.
    pub fn read(document: &Document) -> Result<Option<Self>, RotationError> {
        let Some(field) = document.field() else { return Ok(None) };
        let member = ring_member(field);
        let Some(text) = document.member(&member)? else {
            return Ok(Some(Self { member, unknown: vec![], entries: vec![] }));
        };
        let wrong = |problem: String| KeyringError::Ring { ring: member.to_string(), problem };
        let ([keys], unknown) = take(text.expose(), ["keys"]).map_err(wrong)?;
        let keys = keys.and_then(|keys| serde_json::from_str::<Vec<&RawValue>>(keys).ok());
        let keys = keys.ok_or_else(|| wrong("expected an array \"keys\"".to_owned()))?;
        let mut entries: Vec<Entry> = vec![];
        for (number, text) in (1..).zip(keys) {
            let entry = Entry::read(text.get()).map_err(|problem| wrong(format!("entry {number}: {problem}")))?;
            let same = |held: &&Entry| held.id == entry.id;
            if entries.iter().any(|held| same(&held)) {
                return Err(wrong(format!("key {} stands there twice", entry.id)).into());
            }
            if entry.state != KeyState::Secondary && entries.iter().any(|held| held.state == entry.state) {
                return Err(wrong(format!("entry {number} is a second key in its state")).into());
            }
            entries.push(entry);
        }
        Ok(Some(Self { member, unknown, entries }))
    }

    /// The key that the member lists as staged.
    #[must_use]
    pub fn staged(&self) -> Option<KeyId> {
        self.entries.iter().find(|entry| entry.state == KeyState::Staged).map(|entry| entry.id)
    }

    /// The key with its listed dates.
    #[must_use]
    pub fn dated(&self, key: Key) -> Key {
        let dates = self.entries.iter().find(|entry| entry.id == key.id()).map(|entry| entry.dates);
        key.with_dates(dates.unwrap_or_default())
    }

    /// Checks that the ring has all listed keys.
    ///
    /// # Errors
    /// [`KeyringError::KeyLost`]: the value lacks a key, and still has its entry.
    pub fn require_all_in(&self, ring: &Keyring) -> Result<(), KeyringError> {
        match self.entries.iter().find(|entry| ring.get(entry.id).is_none()) {
            None => Ok(()),
            Some(lost) => Err(KeyringError::KeyLost { ring: self.member.to_string(), id: lost.id }),
        }
    }

    /// The document with the states of `ring`. Everything else in `NAME_RING` stays.
    ///
    /// # Errors
    /// Those of [`Document::with_member`].
    pub fn write(&self, document: &Document, ring: &Keyring) -> Result<Document, RotationError> {
        let keys: Vec<String> = ring.keys().map(|(state, key)| self.entry(state, key)).collect();
        let keys = format!("[{}]", keys.join(","));
        document.with_member(&self.member, &SecretText::new(object(&[("keys", keys)], &self.unknown)))
    }

    fn entry(&self, state: KeyState, key: &Key) -> String {
        let held = self.entries.iter().find(|entry| entry.id == key.id());
        let mut known = vec![("id", json!(key.id()).to_string()), ("state", json!(state).to_string())];
        let Dates { created, promoted, compromised } = *key.dates();
        for (name, date) in [("created", created), ("promoted", promoted), ("compromised", compromised)] {
            known.extend(date.map(|date| (name, json!(format_timestamp(date)).to_string())));
        }
        object(&known, held.map_or(&[], |entry| &entry.unknown))
    }
}

impl Entry {
    /// `Err` says what is wrong with the entry.
    fn read(text: &str) -> Result<Self, String> {
        let ([id, state, created, promoted, compromised], unknown) =
            take(text, ["id", "state", "created", "promoted", "compromised"])?;
        let string = |text: &str| serde_json::from_str::<String>(text).ok();
        let id = id.and_then(string).and_then(|id| id.parse().ok());
        let id = id.ok_or("expected an \"id\" of 8 lower-case hexadecimal digits")?;
        let state = state.and_then(|state| serde_json::from_str(state).ok());
        let state = state.ok_or("expected a \"state\": primary, staged or secondary")?;
        let date = |name: &str, text: Option<&str>| -> Result<Option<SystemTime>, String> {
            let Some(text) = text else { return Ok(None) };
            // Dates are written in whole seconds. The same precision here makes a date equal after it is written and
            // read.
            let date = string(text).and_then(|date| parse_timestamp(&date)).map(whole_seconds);
            date.map(Some).ok_or_else(|| format!("expected a time such as 2026-11-24T00:00:00Z in \"{name}\""))
        };
        let dates = Dates {
            created: date("created", created)?,
            promoted: date("promoted", promoted)?,
            compromised: date("compromised", compromised)?,
        };
        Ok(Self { id, state, dates, unknown })
    }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs())
}

/// Splits the object in `text` into the values of the members `known`, and the other members. `Err` says what is wrong.
fn take<'a, const N: usize>(text: &'a str, known: [&str; N]) -> Result<([Option<&'a str>; N], Unknown), String> {
    let members = document::members(text).ok_or("expected a JSON object")?;
    let (mut values, mut unknown) = ([None; N], vec![]);
    for member in members {
        let (name, value) = (&text[member.key], &text[member.value]);
        let plain = serde_json::from_str::<String>(name).ok();
        match known.iter().position(|known| plain.as_deref() == Some(*known)) {
            None => unknown.push(SecretText::new([name, ":", value].concat())),
            Some(at) if values[at].is_some() => return Err(format!("\"{}\" stands there twice", known[at])),
            Some(at) => values[at] = Some(value),
        }
    }
    Ok((values, unknown))
}

fn object(known: &[(&str, String)], unknown: &[SecretText]) -> String {
    let mut members: Vec<String> = known.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    members.extend(unknown.iter().map(|member| member.expose().to_owned()));
    format!("{{{}}}", members.join(","))
}
