//! The contract with an issuer, version 1: what it is asked, and what it may answer. The files in `contract/` have the
//! same as JSON Schema.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rotation::document::{Document, FieldName};
use rotation::error::RotationError;
use rotation::secret::SecretText;
use rotation::time::parse_timestamp;
use serde::{Deserialize, Serialize};

/// The version of the contract that this function speaks.
pub const VERSION: u64 = 1;

/// The longest answer, in bytes: the longest value of a secret.
pub const LONGEST_ANSWER: usize = rotation::document::MAX_VALUE_BYTES;

/// The members of a credential, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Members(BTreeMap<String, SecretText>);

impl Members {
    /// The members `names` of a value, as far as the value has them.
    ///
    /// # Errors
    /// Those of [`Document::member`].
    pub fn of(value: &Document, names: &[FieldName]) -> Result<Self, RotationError> {
        let mut members = BTreeMap::new();
        for name in names {
            if let Some(text) = value.member(name)? {
                members.insert(name.to_string(), text);
            }
        }
        Ok(Self(members))
    }

    /// The text of a member.
    #[must_use]
    pub fn get(&self, name: &FieldName) -> Option<&SecretText> {
        self.0.get(name.as_str())
    }

    /// A copy that no provider accepts: in every member, one letter in the middle is another one.
    #[must_use]
    pub fn damaged(&self) -> Self {
        Self(self.0.iter().map(|(name, text)| (name.clone(), damaged(text))).collect())
    }

    fn exposed(&self) -> BTreeMap<&str, &str> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.expose())).collect()
    }
}

/// Changes a letter or digit in the middle, so that the end of a base64 text, which may carry no bits, does not hide the
/// damage. A text without letters and digits gets one.
fn damaged(text: &SecretText) -> SecretText {
    let text = text.expose();
    let letters: Vec<_> = text.char_indices().filter(|(_, letter)| letter.is_ascii_alphanumeric()).collect();
    let Some((at, letter)) = letters.get(letters.len() / 2) else { return SecretText::new([text, "x"].concat()) };
    // No letter that differs in its case alone.
    let other = if letter.eq_ignore_ascii_case(&'A') { "B" } else { "A" };
    let mut damaged = String::with_capacity(text.len());
    damaged.push_str(&text[..*at]);
    damaged.push_str(other);
    damaged.push_str(&text[at + 1..]);
    SecretText::new(damaged)
}

/// What an issuer is asked.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Makes a credential for a version, beside the one in use.
    Create {
        /// The version.
        version_id: &'a str,
        /// The members of the current value; empty for the first value of a secret.
        members: &'a Members,
    },
    /// Says whether a credential works.
    Verify {
        /// Its members.
        members: &'a Members,
    },
    /// Revokes a credential.
    Revoke {
        /// Its members.
        members: &'a Members,
    },
    /// Revokes everything that was made for a version, except some credentials.
    Discard {
        /// The version.
        version_id: &'a str,
        /// The credentials that stay.
        keep: &'a [Members],
    },
}

#[derive(Serialize)]
struct Payload<'a> {
    version: u64,
    operation: &'static str,
    secret: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<BTreeMap<&'a str, &'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep: Option<Vec<BTreeMap<&'a str, &'a str>>>,
}

impl Request<'_> {
    /// The name of the operation.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Verify { .. } => "verify",
            Self::Revoke { .. } => "revoke",
            Self::Discard { .. } => "discard",
        }
    }

    /// The payload of the invocation, for the secret with this name.
    #[must_use]
    pub fn payload(&self, secret: &str) -> SecretText {
        let (version_id, members, keep) = match self {
            Self::Create { version_id, members } => (Some(*version_id), Some(members.exposed()), None),
            Self::Verify { members } | Self::Revoke { members } => (None, Some(members.exposed()), None),
            Self::Discard { version_id, keep } => {
                (Some(*version_id), None, Some(keep.iter().map(Members::exposed).collect()))
            }
        };
        let payload = Payload { version: VERSION, operation: self.operation(), secret, version_id, members, keep };
        // The buffer seldom grows, so that few copies of the values are left behind.
        let mut text = Vec::with_capacity(2 * LONGEST_ANSWER);
        // A write of texts to memory cannot fail.
        let _ = serde_json::to_writer(&mut text, &payload);
        SecretText::new(String::from_utf8(text).unwrap_or_default())
    }
}

/// The answer to `create`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The members of the new credential.
    pub members: Members,
    /// When it ends, if the provider says so.
    pub expires: Option<SystemTime>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateAnswer {
    #[serde(rename = "version")]
    _version: u64,
    members: Members,
    expires: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusAnswer {
    #[serde(rename = "version")]
    _version: u64,
    status: String,
    /// What the issuer's people read in its own log. It may hold anything, so nothing repeats it.
    #[serde(rename = "reason")]
    _reason: Option<SecretText>,
}

/// Reads an answer of the contract's version. A problem names the shape, never a text of the answer.
fn read<T: serde::de::DeserializeOwned>(answer: &SecretText, schema: &str) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let text = answer.expose();
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return Err("a text that is no JSON".to_owned());
    }
    match serde_json::from_str::<Version>(text) {
        Ok(Version { version: VERSION }) => {}
        Ok(Version { version }) => {
            return Err(format!("version {version}, and this function speaks version {VERSION}"));
        }
        Err(_) => return Err(format!("JSON without the member version ({VERSION})")),
    }
    serde_json::from_str(text).map_err(|_| format!("JSON of another form than {schema}"))
}

/// Reads the answer to `create`. It has exactly the members `names`, and each is a text that is not empty.
///
/// # Errors
/// The shape of the answer, never its content.
pub fn created(answer: &SecretText, names: &[FieldName]) -> Result<Created, String> {
    let CreateAnswer { members, expires, .. } = read(answer, "create-answer.json")?;
    if let Some(name) = names.iter().find(|name| members.get(name).is_none()) {
        return Err(format!("no member {name}"));
    }
    if members.0.len() != names.len() {
        let asked: Vec<_> = names.iter().map(FieldName::as_str).collect();
        return Err(format!("more members than {}", asked.join(", ")));
    }
    if let Some((name, _)) = members.0.iter().find(|(_, text)| text.is_empty()) {
        return Err(format!("an empty member {name}"));
    }
    let read = |text: String| {
        parse_timestamp(&text).ok_or_else(|| "an expires that is no time such as 2026-12-24T18:00:00Z".to_owned())
    };
    Ok(Created { members, expires: expires.map(read).transpose()? })
}

/// Reads an answer that says one of two words: whether it is the first one.
///
/// # Errors
/// The shape of the answer, never its content.
pub fn status(answer: &SecretText, [yes, no]: [&str; 2]) -> Result<bool, String> {
    let StatusAnswer { status, .. } =
        read(answer, if yes == "ok" { "verify-answer.json" } else { "revoke-answer.json" })?;
    match status.as_str() {
        status if status == yes => Ok(true),
        status if status == no => Ok(false),
        _ => Err(format!("a status other than {yes} and {no}")),
    }
}
