//! Sets and compares members of a JSON object, byte by byte: for values that a person stores, in objects that nothing
//! rotates.

use std::fmt;
use std::ops::Range;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::document::{FieldName, Member, members, not_an_object, other_than_text, quoted};
use crate::error::RotationError;
use crate::secret::SecretText;

/// The JSON object `text` with these members set. All other bytes stay as they were. A new member follows the last one,
/// with the same spacing.
///
/// # Errors
/// [`RotationError::NotAnObject`]. [`RotationError::FieldRepeated`] if a name occurs more than once in the object.
/// [`RotationError::FieldNotText`] if a member is neither a string nor null: a text is no replacement for it.
pub fn with_members(text: &SecretText, set: &[(FieldName, SecretText)]) -> Result<SecretText, RotationError> {
    let Some((first, _)) = set.first() else { return Ok(text.clone()) };
    let found = members(text.expose()).ok_or_else(|| not_an_object(first, text))?;
    let (mut edits, mut added) = (vec![], vec![]);
    for (name, value) in set {
        match holder(text, &found, name)? {
            Some(member) => edits.push((member.value.clone(), quoted(value.expose()))),
            None => added.push((name, value)),
        }
    }
    edits.sort_by_key(|(range, _)| range.start);
    let (at, new) = addition(text.expose(), &found, &added);
    edits.push((at..at, new));
    Ok(spliced(text.expose(), &edits))
}

/// Whether two values are the same text, or JSON objects with the same members. The order of the members and the space
/// between them do not count. Within a member's value every byte counts.
#[must_use]
pub fn is_same_value(one: &SecretText, other: &SecretText) -> bool {
    one == other || sorted(one).zip(sorted(other)).is_some_and(|(one, other)| one == other)
}

/// The members of a JSON object by name, with the raw texts of their values.
fn sorted(text: &SecretText) -> Option<Vec<(String, &str)>> {
    let text = text.expose();
    let name = |member: &Member| serde_json::from_str::<String>(&text[member.key.clone()]).ok();
    let named = |member: &Member| Some((name(member)?, &text[member.value.clone()]));
    let mut sorted: Vec<_> = members(text)?.iter().map(named).collect::<Option<_>>()?;
    sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
    Some(sorted)
}

/// The texts that a value holds: the strings of a JSON value at any depth, without the names of members. Any other text
/// is one itself.
#[must_use]
pub fn texts(value: &SecretText) -> Vec<SecretText> {
    let mut found = vec![];
    let mut json = serde_json::Deserializer::from_str(value.expose());
    let read = Texts(&mut found).deserialize(&mut json).and_then(|()| json.end());
    if read.is_err() || found.is_empty() { vec![value.clone()] } else { found }
}

struct Texts<'a>(&'a mut Vec<SecretText>);

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.0.push(SecretText::new(text.to_owned()));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Texts(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while members.next_key::<IgnoredAny>()?.is_some() {
            members.next_value_seed(Texts(self.0))?;
        }
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// The member of this name, which may be replaced by a text.
fn holder<'a>(text: &SecretText, found: &'a [Member], name: &FieldName) -> Result<Option<&'a Member>, RotationError> {
    let raw = |range: &Range<usize>| &text.expose()[range.clone()];
    let is_named =
        |member: &&Member| serde_json::from_str::<String>(raw(&member.key)).is_ok_and(|key| key == name.as_str());
    let mut holders = found.iter().filter(is_named);
    let (holder, another) = (holders.next(), holders.next());
    if another.is_some() {
        return Err(RotationError::FieldRepeated { field: name.to_string() });
    }
    match holder.map(|member| raw(&member.value)).filter(|value| *value != "null" && !value.starts_with('"')) {
        Some(value) => Err(RotationError::FieldNotText { field: name.to_string(), problem: other_than_text(value) }),
        None => Ok(holder),
    }
}

/// The new members as text, and its place: after the last member, or after the brace of an object without members.
fn addition(text: &str, found: &[Member], added: &[(&FieldName, &SecretText)]) -> (usize, SecretText) {
    let (at, lead, colon) = match found {
        [] => (text.find('{').map_or(0, |brace| brace + 1), "", ":"),
        [.., last] => {
            let before = found.len().checked_sub(2).map_or(0, |previous| found[previous].value.end);
            // The text before the last key, after the `{` or the `,`: a line break and indentation.
            let lead = text[before..last.key.start].trim_start_matches(|c: char| c != ',' && c != '{');
            (last.value.end, lead.get(1..).unwrap_or_default(), &text[last.key.end..last.value.start])
        }
    };
    let mut parts: Vec<SecretText> = vec![];
    for (name, value) in added {
        let comma = if found.is_empty() && parts.is_empty() { "" } else { "," };
        let (name, value) = (quoted(name.as_str()), quoted(value.expose()));
        parts.push(SecretText::new([comma, lead, name.expose(), colon, value.expose()].concat()));
    }
    (at, SecretText::new(parts.iter().map(SecretText::expose).collect()))
}

fn spliced(text: &str, edits: &[(Range<usize>, SecretText)]) -> SecretText {
    let (mut parts, mut from) = (vec![], 0);
    for (range, new) in edits {
        parts.extend([&text[from..range.start], new.expose()]);
        from = range.end;
    }
    parts.push(&text[from..]);
    SecretText::new(parts.concat())
}
