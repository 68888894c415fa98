//! The value of a secret: plain text, or a JSON object. In a JSON object a rotation changes some members, and keeps
//! every other byte.
//!
//! A JSON object is never rotated as a whole, because that would destroy its other members. A JSON object without a
//! chosen member is an error.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::RotationError;
use crate::secret::SecretText;

/// The largest size of a value, in bytes (Secrets Manager quotas, "Secret value size").
pub const MAX_VALUE_BYTES: usize = 65_536;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// The name of a member of a JSON secret: 1 to 128 ASCII letters, digits, `_`, `-` and `.`. The first is a letter or
/// `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldName(String);

impl FieldName {
    /// Checks and takes a name; `None` if the name does not have the form.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let form = name.len() <= 128
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        form.then(|| Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a related member, for example `NAME_PREVIOUS`.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> Self {
        Self(format!("{}{suffix}", self.0))
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A parsed secret value.
///
/// ```
/// use rotation::document::{Document, FieldName};
/// use rotation::secret::SecretText;
///
/// let field = FieldName::new("ADMIN_TOKEN").unwrap();
/// let value = SecretText::new(r#"{ "ADMIN_TOKEN": "old", "port": 8080 }"#.into());
/// let document = Document::parse(value, Some(&field)).unwrap();
/// let rotated = document.with_secret(&SecretText::new("new".into())).unwrap();
/// assert_eq!(rotated.text().expose(), r#"{ "ADMIN_TOKEN": "new", "port": 8080 }"#);
/// ```
#[derive(Clone, Debug)]
pub struct Document {
    text: SecretText,
    json: Option<Json>,
}

#[derive(Clone)]
struct Json {
    field: FieldName,
    members: Vec<Member>,
}

/// Ranges of the text, so that memory holds the text only once.
#[derive(Clone)]
pub(crate) struct Member {
    /// The range includes the quotes.
    pub(crate) key: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// `Debug` shows no member names: the names in a foreign JSON object may be sensitive.
impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({}, {} members)", self.field, self.members.len())
    }
}

impl Document {
    /// Parses a value. With `field`, the value must be a JSON object, and this member a string that is not empty.
    /// Without `field`, the value is text.
    ///
    /// # Errors
    /// For JSON: [`RotationError::NotAnObject`], [`RotationError::FieldMissing`], [`RotationError::FieldNotText`],
    /// [`RotationError::FieldRepeated`]. Without `field`: [`RotationError::FieldNotChosen`] if the text begins like a
    /// JSON object or array, [`RotationError::EmptyValue`] if it is empty.
    pub fn parse(text: SecretText, field: Option<&FieldName>) -> Result<Self, RotationError> {
        let Some(field) = field else {
            // Broken JSON and JSON after a byte order mark count too: a rotation of the whole text would lose
            // everything beside the secret.
            let begins = text.expose().trim_start_matches(BYTE_ORDER_MARK).trim_start();
            if begins.starts_with(['{', '[']) {
                return Err(RotationError::FieldNotChosen);
            }
            return Self::whole(text);
        };
        let document = Self::object(text, field)?;
        if document.member(field)?.is_none() {
            return Err(missing(field));
        }
        Ok(document)
    }

    /// Parses a JSON object that may lack the member `field`. [`with_member`](Self::with_member) adds it as the last
    /// member.
    ///
    /// # Errors
    /// [`RotationError::NotAnObject`].
    pub fn object(text: SecretText, field: &FieldName) -> Result<Self, RotationError> {
        let members = members(text.expose()).ok_or_else(|| not_an_object(field, &text))?;
        Ok(Self { text, json: Some(Json { field: field.clone(), members }) })
    }

    /// A value that is one secret as a whole, whatever it begins with: some secrets are JSON texts themselves.
    ///
    /// # Errors
    /// [`RotationError::EmptyValue`].
    pub fn whole(text: SecretText) -> Result<Self, RotationError> {
        if text.is_empty() { Err(RotationError::EmptyValue) } else { Ok(Self { text, json: None }) }
    }

    /// The first value of a secret: the text itself, or a JSON object with one member.
    ///
    /// # Errors
    /// Those of [`Document::parse`], for example for an empty secret.
    pub fn first(secret: &SecretText, field: Option<&FieldName>) -> Result<Self, RotationError> {
        let text = match field {
            None => secret.clone(),
            Some(field) => SecretText::new(
                ["{", quoted(field.as_str()).expose(), ":", quoted(secret.expose()).expose(), "}"].concat(),
            ),
        };
        Self::parse(text, field)
    }

    /// The whole value.
    #[must_use]
    pub fn text(&self) -> &SecretText {
        &self.text
    }

    /// The rotated member; `None` if the whole text is rotated.
    #[must_use]
    pub fn field(&self) -> Option<&FieldName> {
        self.json.as_ref().map(|json| &json.field)
    }

    /// The rotated secret: the member's string, or the whole text.
    ///
    /// # Errors
    /// Those of [`Document::member`]. A parsed document always has the member.
    pub fn secret(&self) -> Result<SecretText, RotationError> {
        match self.field() {
            None => Ok(self.text.clone()),
            Some(field) => self.member(field)?.ok_or_else(|| missing(field)),
        }
    }

    /// The string in the member `name`; `None` if there is no such member, or the value is a text.
    ///
    /// # Errors
    /// [`RotationError::FieldNotText`] if the member is not a string, or is empty. [`RotationError::FieldRepeated`] if
    /// the member occurs more than once.
    pub fn member(&self, name: &FieldName) -> Result<Option<SecretText>, RotationError> {
        let Some(position) = self.position(name)? else { return Ok(None) };
        let raw = &self.text.expose()[self.members()[position].value.clone()];
        let not_text = |problem| RotationError::FieldNotText { field: name.to_string(), problem };
        match serde_json::from_str::<SecretText>(raw) {
            Ok(text) if text.is_empty() => Err(not_text("an empty string")),
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(not_text(other_than_text(raw))),
        }
    }

    /// This value with `secret` as its rotated secret.
    ///
    /// # Errors
    /// Those of [`Document::with_member`].
    pub fn with_secret(&self, secret: &SecretText) -> Result<Self, RotationError> {
        match self.field() {
            None => Self::parse(secret.clone(), None),
            Some(field) => self.with_member(&field.clone(), secret),
        }
    }

    /// This JSON value with the member `name` set. A new member follows the rotated one, with the same spacing. In an
    /// object without the rotated member, that member is set first, and becomes the last one.
    ///
    /// # Errors
    /// [`RotationError::NotAnObject`] if the value is a text. [`RotationError::FieldRepeated`] if `name` occurs more
    /// than once. [`RotationError::FieldMissing`] if the object would still lack the rotated member.
    pub fn with_member(&self, name: &FieldName, value: &SecretText) -> Result<Self, RotationError> {
        let not_an_object = || RotationError::NotAnObject { field: name.to_string(), problem: "text" };
        let json = self.json.as_ref().ok_or_else(not_an_object)?;
        let text = self.text.expose();
        let value = quoted(value.expose());
        let edited = if let Some(position) = self.position(name)? {
            let old = &json.members[position].value;
            [&text[..old.start], value.expose(), &text[old.end..]].concat()
        } else if json.members.is_empty() {
            let (head, tail) = text.split_at(text.rfind('}').unwrap_or_default());
            [head, quoted(name.as_str()).expose(), ":", value.expose(), tail].concat()
        } else {
            let anchor = self.position(&json.field)?.unwrap_or(json.members.len() - 1);
            let member = &json.members[anchor];
            let before = anchor.checked_sub(1).map_or(0, |previous| json.members[previous].value.end);
            // The text before the anchor's key, after the `{` or the `,`: a line break and indentation.
            let lead = text[before..member.key.start].trim_start_matches(|c: char| c != ',' && c != '{');
            let lead = lead.get(1..).unwrap_or_default();
            let colon = &text[member.key.end..member.value.start];
            let (head, tail) = text.split_at(member.value.end);
            [head, ",", lead, quoted(name.as_str()).expose(), colon, value.expose(), tail].concat()
        };
        Self::parse(SecretText::new(edited), Some(&json.field))
    }

    /// This JSON value without the member `name`. A text, and an object without the member, stay unchanged.
    ///
    /// # Errors
    /// [`RotationError::FieldRepeated`] if `name` occurs more than once.
    pub fn without_member(&self, name: &FieldName) -> Result<Self, RotationError> {
        let (Some(json), Some(position)) = (&self.json, self.position(name)?) else { return Ok(self.clone()) };
        let member = &json.members[position];
        let cut = match (position.checked_sub(1), json.members.get(position + 1)) {
            (_, Some(next)) => member.key.start..next.key.start,
            (Some(previous), None) => json.members[previous].value.end..member.value.end,
            (None, None) => member.key.start..member.value.end,
        };
        let text = self.text.expose();
        Self::parse(SecretText::new([&text[..cut.start], &text[cut.end..]].concat()), Some(&json.field))
    }

    /// Whether all members except those in `except` are equal, byte for byte and in the same order. Texts have no
    /// members.
    #[must_use]
    pub fn same_other_members(&self, other: &Self, except: &[FieldName]) -> bool {
        let rest = |document: &Self| -> Vec<(SecretText, SecretText)> {
            let slice = |range: &Range<usize>| SecretText::new(document.text.expose()[range.clone()].to_owned());
            let kept = document.members().iter().filter(|member| !except.iter().any(|name| document.is(member, name)));
            kept.map(|member| (slice(&member.key), slice(&member.value))).collect()
        };
        rest(self) == rest(other)
    }

    /// Whether the JSON object has the member `name`, whatever its value. A text has no members.
    #[must_use]
    pub fn has_member(&self, name: &FieldName) -> bool {
        self.members().iter().any(|member| self.is(member, name))
    }

    fn members(&self) -> &[Member] {
        self.json.as_ref().map_or(&[], |json| &json.members)
    }

    fn position(&self, name: &FieldName) -> Result<Option<usize>, RotationError> {
        let mut found = self.members().iter().enumerate().filter(|(_, member)| self.is(member, name));
        let first = found.next();
        if found.next().is_some() {
            return Err(RotationError::FieldRepeated { field: name.to_string() });
        }
        Ok(first.map(|(position, _)| position))
    }

    fn is(&self, member: &Member, name: &FieldName) -> bool {
        let raw = &self.text.expose()[member.key.clone()];
        serde_json::from_str::<String>(raw).is_ok_and(|key| key == name.0)
    }
}

fn missing(field: &FieldName) -> RotationError {
    RotationError::FieldMissing { field: field.to_string() }
}

/// Why a value has no members.
pub(crate) fn not_an_object(field: &FieldName, text: &SecretText) -> RotationError {
    let value = text.expose().strip_prefix(BYTE_ORDER_MARK).unwrap_or(text.expose());
    let json = serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok();
    let problem = if json { "JSON of another kind" } else { "not JSON" };
    RotationError::NotAnObject { field: field.to_string(), problem }
}

/// What a member holds that is no text, by its first byte.
pub(crate) fn other_than_text(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'"') => "a string that is no valid Unicode",
        _ => "a number",
    }
}

/// The text as a JSON string.
pub(crate) fn quoted(text: &str) -> SecretText {
    // At most six bytes for one (a control character as \u00XX). The buffer never grows, so no copy of the secret is
    // left behind.
    let mut quoted = Vec::with_capacity(6 * text.len() + 2);
    // A write of a string to memory cannot fail.
    let _ = serde_json::to_writer(&mut quoted, text);
    SecretText::new(String::from_utf8(quoted).unwrap_or_default())
}

/// Whether the value is a JSON object with no members.
#[must_use]
pub fn is_empty_object(value: &SecretText) -> bool {
    members(value.expose()).is_some_and(|members| members.is_empty())
}

/// The ranges of the members of a JSON object in `text`; `None` if `text` is not a JSON object.
pub(crate) fn members(text: &str) -> Option<Vec<Member>> {
    struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

    impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Collect;
            impl<'de> Visitor<'de> for Collect {
                type Value = Vec<(&'de RawValue, &'de RawValue)>;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    let mut members = Vec::new();
                    while let Some(member) = map.next_entry()? {
                        members.push(member);
                    }
                    Ok(members)
                }
            }
            deserializer.deserialize_map(Collect).map(Self)
        }
    }

    // Some editors begin a file with a byte order mark; the value keeps it.
    let Members(raw) = serde_json::from_str(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)).ok()?;
    let position = |raw: &RawValue| {
        let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
        start..start + raw.get().len()
    };
    Some(raw.into_iter().map(|(key, value)| Member { key: position(key), value: position(value) }).collect())
}
