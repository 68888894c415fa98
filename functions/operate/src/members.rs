//! The members of a request: each action takes its own, and what is left over is refused.

use rotation::document::FieldName;
use rotation::secret::SecretText;
use serde_json::{Map, Value};

use crate::action::Action;
use crate::error::OperateError;

/// The longest reason that is recorded, in characters.
const LONGEST_REASON: usize = 500;
/// The longest `SecretId` (Secrets Manager API reference).
const LONGEST_SECRET_ID: usize = 2048;
/// The longest name of a member, so that the key of its tag `rotation:done:NAME` has at most 128 characters.
const LONGEST_NAME: usize = 114;

/// A request that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inquiry {
    /// The secret's name or ARN.
    pub secret_id: String,
    /// Why, for the record.
    pub reason: Option<String>,
}

/// A request that changes a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The secret's name or ARN.
    pub secret_id: String,
    /// Why, for the record.
    pub reason: String,
}

/// The values that `put` stores. `Debug` shows names only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewValues {
    /// Members of a JSON object, by their names; at least one.
    Members(Vec<(FieldName, SecretText)>),
    /// A whole text.
    Whole(SecretText),
}

impl NewValues {
    fn read(members: Option<Value>, value: Option<Value>) -> Result<Option<Self>, OperateError> {
        match (members, value) {
            (None, None) => Ok(None),
            (None, Some(Value::String(text))) if !text.is_empty() => Ok(Some(Self::Whole(SecretText::new(text)))),
            (None, Some(_)) => Err(invalid("value", "expected a text that is not empty")),
            (Some(_), Some(_)) => Err(invalid("value", "put takes members, or the value of a text secret, not both")),
            (Some(Value::Object(members)), None) if !members.is_empty() => {
                let members =
                    members.into_iter().enumerate().map(|(n, (name, value))| Self::member(n + 1, &name, value));
                members.collect::<Result<_, _>>().map(Self::Members).map(Some)
            }
            (Some(_), None) => Err(invalid("members", "expected an object with at least one member")),
        }
    }

    /// A member. The name may be a value that stands in the wrong place, so it is told only when it has the form of a name.
    fn member(number: usize, name: &str, value: Value) -> Result<(FieldName, SecretText), OperateError> {
        let Some(field) = FieldName::new(name).filter(|name| name.as_str().len() <= LONGEST_NAME) else {
            let expected =
                format!("expected at most {LONGEST_NAME} letters, digits, _, - and ., not beginning with a digit");
            return Err(invalid("members", format!("the name of member {number}: {expected}")));
        };
        match value {
            Value::String(text) if !text.is_empty() => Ok((field, SecretText::new(text))),
            _ => Err(invalid("members", format!("member {field}: expected a text that is not empty"))),
        }
    }

    /// The names of the members; none for a whole text.
    #[must_use]
    pub fn names(&self) -> Vec<&FieldName> {
        match self {
            Self::Members(members) => members.iter().map(|(name, _)| name).collect(),
            Self::Whole(_) => vec![],
        }
    }
}

/// The members that the action has not taken yet.
#[derive(Debug)]
pub(crate) struct Members {
    secret_id: Option<String>,
    reason: Option<String>,
    confirm: Option<String>,
    from: Option<String>,
    format: Option<String>,
    censuses: Option<Value>,
    keys: Option<Value>,
    values: Option<NewValues>,
}

pub(crate) fn invalid(member: &str, problem: impl Into<String>) -> OperateError {
    OperateError::InvalidRequest { member: member.to_owned(), problem: problem.into() }
}

fn text(members: &mut Map<String, Value>, member: &str) -> Result<Option<String>, OperateError> {
    match members.remove(member) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text)),
        Some(_) => Err(invalid(member, "expected a text that is not empty")),
    }
}

impl Members {
    /// The action that an event asks for, and its other members.
    ///
    /// # Errors
    /// [`OperateError::InvalidRequest`]; a member that no action has is an error.
    pub(crate) fn read(event: Value) -> Result<(Action, Self), OperateError> {
        let Value::Object(mut members) = event else {
            return Err(invalid("(the event)", "expected a JSON object"));
        };
        let [censuses, keys, new, whole] = ["censuses", "keys", "members", "value"]
            .map(|member| members.remove(member).filter(|value| !value.is_null()));
        let action = text(&mut members, "action")?;
        let read = Self {
            secret_id: text(&mut members, "secret_id")?,
            reason: text(&mut members, "reason")?,
            confirm: text(&mut members, "confirm")?,
            from: text(&mut members, "from")?,
            format: text(&mut members, "format")?,
            censuses,
            keys,
            values: NewValues::read(new, whole)?,
        };
        if let Some(unknown) = members.keys().next() {
            let unknown: String = unknown.chars().take(64).collect();
            let problem = "is not known; known are action, secret_id, reason, confirm, from, format, censuses, keys, members, value";
            return Err(invalid(&unknown, problem));
        }
        let action = action.and_then(|action| action.parse().ok()).ok_or_else(|| {
            let names = Action::ALL.map(Action::name).join(", ");
            invalid("action", format!("expected one of {names}"))
        })?;
        Ok((action, read))
    }

    fn secret_id(&mut self) -> Result<String, OperateError> {
        let secret_id = self.secret_id.take().ok_or_else(|| invalid("secret_id", "expected a secret's name or ARN"))?;
        if secret_id.len() > LONGEST_SECRET_ID {
            return Err(invalid("secret_id", format!("expected at most {LONGEST_SECRET_ID} characters")));
        }
        Ok(secret_id)
    }

    /// Why, for the record.
    ///
    /// # Errors
    /// When it is too long to be recorded.
    pub(crate) fn reason(&mut self) -> Result<Option<String>, OperateError> {
        let reason = self.reason.take();
        if reason.as_ref().is_some_and(|reason| reason.chars().count() > LONGEST_REASON) {
            return Err(invalid("reason", format!("expected at most {LONGEST_REASON} characters")));
        }
        Ok(reason)
    }

    /// What an action takes that changes nothing.
    ///
    /// # Errors
    /// [`OperateError::InvalidRequest`].
    pub(crate) fn inquiry(&mut self) -> Result<Inquiry, OperateError> {
        Ok(Inquiry { secret_id: self.secret_id()?, reason: self.reason()? })
    }

    /// What an action takes that changes a secret.
    ///
    /// # Errors
    /// [`OperateError::InvalidRequest`], also without a reason.
    pub(crate) fn change(&mut self, action: Action) -> Result<Change, OperateError> {
        let secret_id = self.secret_id()?;
        let problem = || invalid("reason", format!("{action} changes something: say why, for the record"));
        Ok(Change { secret_id, reason: self.reason()?.ok_or_else(problem)? })
    }

    /// The secret's name once more, by which an action is confirmed. Whether it is the right one, the action finds out.
    pub(crate) fn confirm(&mut self) -> Option<String> {
        self.confirm.take()
    }

    /// Where a sweep or a report goes on.
    pub(crate) fn from(&mut self) -> Option<String> {
        self.from.take()
    }

    /// The form of a report.
    pub(crate) fn format(&mut self) -> Option<String> {
        self.format.take()
    }

    /// What a retirement goes by.
    pub(crate) fn censuses(&mut self) -> Option<Value> {
        self.censuses.take()
    }

    /// The keys that are given up.
    pub(crate) fn keys(&mut self) -> Option<Value> {
        self.keys.take()
    }

    /// The values that are stored.
    pub(crate) fn values(&mut self) -> Option<NewValues> {
        self.values.take()
    }

    /// Refuses what the action has not taken.
    ///
    /// # Errors
    /// [`OperateError::InvalidRequest`] says which action a member is for.
    pub(crate) fn require_nothing_else(self) -> Result<(), OperateError> {
        let Self { secret_id, reason: _, confirm, from, format, censuses, keys, values } = self;
        let left = [
            (secret_id.is_some(), "secret_id", "a sweep and a report look at all secrets: leave it out"),
            (from.is_some(), "from", "is for sweep and report only"),
            (format.is_some(), "format", "is for report only"),
            (confirm.is_some(), "confirm", "is for compromise, restore and forget only"),
            (keys.is_some(), "keys", "is for forget only"),
            (censuses.is_some(), "censuses", "is for retire only"),
            (values.is_some(), "members", "and value are for put only"),
        ];
        match left.into_iter().find(|(is_left, ..)| *is_left) {
            Some((_, member, problem)) => Err(invalid(member, problem)),
            None => Ok(()),
        }
    }
}
