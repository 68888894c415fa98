//! The members of a request. Errors have the service's own words.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::wire::{ApiError, Code, Value};

/// A structure of a request.
pub(crate) struct Input<'a> {
    /// The structure's name in error messages, as the service writes it: `MetricData.member.1`. Empty for the request
    /// itself.
    path: String,
    members: &'a BTreeMap<String, Value>,
}

impl<'a> Input<'a> {
    pub(crate) fn of_request(members: &'a BTreeMap<String, Value>) -> Self {
        Self { path: String::new(), members }
    }

    /// Whether a member has content; an empty list has none.
    pub(crate) fn has(&self, member: &str) -> bool {
        match self.members.get(member) {
            Some(Value::List(values)) => !values.is_empty(),
            other => other.is_some(),
        }
    }

    pub(crate) fn name(&self, member: &str) -> String {
        if self.path.is_empty() { member.to_owned() } else { format!("{}.{member}", self.path) }
    }

    pub(crate) fn missing(&self, member: &str) -> ApiError {
        ApiError::new(Code::MissingParameter, format!("The parameter {} is required.", self.name(member)))
    }

    pub(crate) fn invalid_value(&self, member: &str, value: &str) -> ApiError {
        let message = format!("The value {value} for parameter {} is invalid.", self.name(member));
        ApiError::new(Code::InvalidParameterValue, message)
    }

    fn wrong_type(&self, member: &str) -> ApiError {
        ApiError::malformed(format!("{} has another type", self.name(member)))
    }

    pub(crate) fn check_length(&self, member: &str, text: &str, max: usize) -> Result<(), ApiError> {
        if (1..=max).contains(&text.chars().count()) {
            return Ok(());
        }
        let message = format!("The parameter {} must have 1 to {max} characters.", self.name(member));
        Err(ApiError::new(Code::InvalidParameterValue, message))
    }

    pub(crate) fn check_size(&self, member: &str, size: usize, max: usize) -> Result<(), ApiError> {
        if size <= max {
            return Ok(());
        }
        let message = format!("The collection {} must not have a size greater than {max}.", self.name(member));
        Err(ApiError::new(Code::InvalidParameterValue, message))
    }

    pub(crate) fn text(&self, member: &str) -> Result<Option<&'a str>, ApiError> {
        match self.members.get(member) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong_type(member)),
        }
    }

    pub(crate) fn required_text(&self, member: &str) -> Result<&'a str, ApiError> {
        self.text(member)?.ok_or_else(|| self.missing(member))
    }

    pub(crate) fn flag(&self, member: &str) -> Result<Option<bool>, ApiError> {
        match self.members.get(member) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::Text(text)) => text.parse().map(Some).map_err(|_| self.wrong_type(member)),
            Some(_) => Err(self.wrong_type(member)),
        }
    }

    pub(crate) fn number(&self, member: &str) -> Result<Option<f64>, ApiError> {
        let number = self.members.get(member).map(|value| value.number().ok_or_else(|| self.wrong_type(member)));
        number.transpose()
    }

    /// A value of a metric: -2^360 to 2^360, no NaN.
    pub(crate) fn required_value(&self, member: &str) -> Result<f64, ApiError> {
        let value = self.number(member)?.ok_or_else(|| self.missing(member))?;
        self.check_value(member, value)
    }

    fn check_value(&self, member: &str, value: f64) -> Result<f64, ApiError> {
        let bound = 2f64.powi(360);
        if (-bound..=bound).contains(&value) { Ok(value) } else { Err(self.invalid_value(member, &value.to_string())) }
    }

    pub(crate) fn values(&self, member: &str) -> Result<Vec<f64>, ApiError> {
        let values = self.list(member)?.iter();
        values.map(|value| self.check_value(member, value.number().ok_or_else(|| self.wrong_type(member))?)).collect()
    }

    pub(crate) fn required_time(&self, member: &str) -> Result<SystemTime, ApiError> {
        self.time(member)?.ok_or_else(|| self.missing(member))
    }

    pub(crate) fn time(&self, member: &str) -> Result<Option<SystemTime>, ApiError> {
        let Some(value) = self.members.get(member) else { return Ok(None) };
        let time = match value {
            Value::Time(seconds) | Value::Number(seconds) => {
                // Rounded to whole milliseconds, as the service keeps them.
                let since = Duration::try_from_secs_f64((seconds * 1000.0).round() / 1000.0).ok();
                since.and_then(|since| UNIX_EPOCH.checked_add(since))
            }
            Value::Text(text) => text.parse::<Timestamp>().ok().map(SystemTime::from),
            _ => return Err(self.wrong_type(member)),
        };
        time.map(Some).ok_or_else(|| {
            let message = format!("The parameter {} must be a time since 1970.", self.name(member));
            ApiError::new(Code::InvalidParameterValue, message)
        })
    }

    pub(crate) fn list(&self, member: &str) -> Result<&'a [Value], ApiError> {
        match self.members.get(member) {
            None => Ok(&[]),
            Some(Value::List(values)) => Ok(values),
            Some(_) => Err(self.wrong_type(member)),
        }
    }

    pub(crate) fn texts(&self, member: &str) -> Result<Vec<&'a str>, ApiError> {
        let text = |value: &'a Value| match value {
            Value::Text(text) => Ok(text.as_str()),
            _ => Err(self.wrong_type(member)),
        };
        self.list(member)?.iter().map(text).collect()
    }

    pub(crate) fn structure(&self, member: &str) -> Result<Option<Input<'a>>, ApiError> {
        match self.members.get(member) {
            None => Ok(None),
            Some(Value::Map(members)) => Ok(Some(Input { path: self.name(member), members })),
            Some(_) => Err(self.wrong_type(member)),
        }
    }

    pub(crate) fn structures(&self, member: &str) -> Result<Vec<Input<'a>>, ApiError> {
        let structure = |(index, value): (usize, &'a Value)| match value {
            Value::Map(members) => Ok(Input { path: format!("{}.member.{}", self.name(member), index + 1), members }),
            _ => Err(self.wrong_type(member)),
        };
        self.list(member)?.iter().enumerate().map(structure).collect()
    }
}
