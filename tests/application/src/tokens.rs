//! The tokens that authorise a request: the current token, the pending token while a rotation is open, and the previous
//! token during the overlap.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Value, json};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::secrets::{Members, Stages, Unusable, Version, Versions};

/// A bearer token. It is wiped from memory when dropped, hidden in `Debug`, and compared in constant time.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes the text as a token.
    ///
    /// # Errors
    /// [`Unusable::Empty`] when the text is empty.
    pub fn new(text: impl Into<Zeroizing<String>>) -> Result<Self, Unusable> {
        let text = text.into();
        if text.is_empty() {
            return Err(Unusable::Empty);
        }
        Ok(Self(text))
    }

    /// The token in a secret's value: the whole text, or the string in this member of the JSON object.
    ///
    /// # Errors
    /// The value holds no token in that place.
    pub fn read(value: &str, field: Option<&str>) -> Result<Self, Unusable> {
        match field {
            None => Self::new(value.to_owned()),
            Some(field) => Self::new(Members::parse(value)?.text(field)?),
        }
    }

    /// The token itself, for the header of a request. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn matches(&self, presented: &[u8]) -> Choice {
        self.0.as_bytes().ct_eq(presented)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token(redacted)")
    }
}

/// The tokens that the application accepts during a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Accepts the current, the pending and the previous token. An unknown token causes a reload.
    AllStages,
    /// Accepts only `AWSCURRENT` as last loaded. Many existing applications do this.
    CurrentOnly,
    /// Accepts the token, the next token and the previous one of the value in the environment. The instance reads that
    /// value when it starts, and never again.
    AtStart,
}

impl Mode {
    /// The stages that the mode reads. A JSON secret carries the previous token in its current value.
    pub(crate) fn stages(self, field: Option<&str>) -> Stages {
        match (self, field) {
            (Self::CurrentOnly | Self::AtStart, _) => Stages::Current,
            (Self::AllStages, Some(_)) => Stages::CurrentAndPending,
            (Self::AllStages, None) => Stages::All,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::AllStages => "all-stages",
            Self::CurrentOnly => "current-only",
            Self::AtStart => "at-start",
        })
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all-stages" => Ok(Self::AllStages),
            "current-only" => Ok(Self::CurrentOnly),
            _ => Err(UnknownMode),
        }
    }
}

/// A text that names no [`Mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mode is all-stages or current-only")]
pub struct UnknownMode;

/// The tokens that authorise a request.
#[derive(Debug)]
pub struct AdminTokens {
    current: Held,
    /// The token that the next rotation makes current. Only a JSON secret with staged tokens has one.
    next: Option<Token>,
    pending: Option<Held>,
    previous: Option<Previous>,
}

#[derive(Debug)]
struct Held {
    version_id: String,
    token: Token,
}

#[derive(Debug)]
struct Previous {
    /// The version's id. Unknown for a JSON secret, whose previous token is a member of the current value.
    version_id: Option<String>,
    token: Token,
    /// The first moment at which the application refuses the token.
    until: Option<SystemTime>,
}

impl AdminTokens {
    /// Takes the tokens out of a secret's versions.
    ///
    /// The previous token of a JSON secret is the current value's member `FIELD_PREVIOUS`, until `FIELD_PREVIOUS_UNTIL`
    /// (RFC 3339). `AWSPREVIOUS` cannot serve there, because any edit of another member moves it. Without a readable
    /// date, the application does not accept the previous token. The previous token of a text secret is the value of
    /// `AWSPREVIOUS`, until `overlap` has passed since the current version was made.
    ///
    /// The next token of a JSON secret is the current value's member `FIELD_NEXT`, if there is one.
    ///
    /// # Errors
    /// The current value holds no token. A pending or previous value without a token is ignored with a warning.
    pub fn read(versions: &Versions, field: Option<&str>, mode: Mode, overlap: Duration) -> Result<Self, Unusable> {
        let current = Held::read(&versions.current, field)?;
        if mode == Mode::CurrentOnly {
            return Ok(Self { current, next: None, pending: None, previous: None });
        }
        let pending = versions
            .pending
            .as_ref()
            .filter(|pending| pending.id != current.version_id)
            .and_then(|pending| usable(&pending.id, Held::read(pending, field)));
        let previous = match field {
            Some(field) => Previous::in_current(&versions.current, field)?,
            None => versions.previous.as_ref().and_then(|previous| {
                let held = usable(&previous.id, Held::read(previous, None))?;
                let until = versions.current.created.checked_add(overlap);
                Some(Previous { version_id: Some(held.version_id), token: held.token, until })
            }),
        };
        let next = match field {
            Some(field) => Members::parse(&versions.current.value)?.optional_text(&format!("{field}_NEXT")).transpose(),
            None => None,
        };
        let next = next.and_then(|text| usable(&current.version_id, text.and_then(Token::new)));
        Ok(Self { current, next, pending, previous })
    }

    /// Whether this token authorises a request at this time. Each accepted token is compared, in constant time.
    pub fn accepts(&self, presented: &[u8], now: SystemTime) -> bool {
        let pending = self.pending.as_ref().map(|pending| &pending.token);
        let previous = self.previous_at(now).map(|previous| &previous.token);
        [Some(&self.current.token), self.next.as_ref(), pending, previous]
            .into_iter()
            .flatten()
            .fold(Choice::from(0), |accepted, token| accepted | token.matches(presented))
            .into()
    }

    /// The held tokens by version ids and dates, for an answer to an operator. No value.
    pub fn describe(&self, now: SystemTime) -> Value {
        let until = self.previous.as_ref().and_then(|previous| previous.until);
        json!({
            "current": { "held": true, "version_id": self.current.version_id },
            "next": { "held": self.next.is_some() },
            "pending": {
                "held": self.pending.is_some(),
                "version_id": self.pending.as_ref().map(|pending| &pending.version_id),
            },
            "previous": {
                "held": self.previous_at(now).is_some(),
                "version_id": self.previous.as_ref().and_then(|previous| previous.version_id.as_ref()),
            },
            "previous_until": until.and_then(rfc3339),
        })
    }

    fn previous_at(&self, now: SystemTime) -> Option<&Previous> {
        self.previous.as_ref().filter(|previous| previous.until.is_none_or(|until| now < until))
    }
}

impl Held {
    fn read(version: &Version, field: Option<&str>) -> Result<Self, Unusable> {
        Ok(Self { version_id: version.id.clone(), token: Token::read(&version.value, field)? })
    }
}

impl Previous {
    fn in_current(current: &Version, field: &str) -> Result<Option<Self>, Unusable> {
        let members = Members::parse(&current.value)?;
        let text = members.optional_text(&format!("{field}_PREVIOUS")).transpose();
        let Some(token) = text.and_then(|text| usable(&current.id, text.and_then(Token::new))) else {
            return Ok(None);
        };
        let until: Option<Timestamp> =
            members.text(&format!("{field}_PREVIOUS_UNTIL")).ok().and_then(|until| until.parse().ok());
        if until.is_none() {
            tracing::warn!(
                version_id = current.id,
                "previous token ignored: the date until which it is accepted is missing or not RFC 3339"
            );
        }
        Ok(until.map(|until| Self { version_id: None, token, until: Some(until.into()) }))
    }
}

/// Returns a readable value, and logs the reason for an unreadable one.
fn usable<T>(version_id: &str, read: Result<T, Unusable>) -> Option<T> {
    read.inspect_err(|reason| tracing::warn!(version_id, %reason, "token ignored")).ok()
}

/// A time as RFC 3339, in UTC and whole seconds; `None` outside the years -9999 to 9999.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    let timestamp = Timestamp::try_from(time).ok()?;
    Some(format!("{timestamp:.0}"))
}
