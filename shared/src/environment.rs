//! The function's environment variables, captured once at start-up.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::error::RotationError;

/// The prefixes of the variables that only some kinds of secrets read.
const OF_KINDS: [&str; 4] = ["TARGET_", "CONSUMERS_", "KEY_ARCHIVE_", "ISSUER_"];

/// Environment variables. They include credentials, so `Debug` shows the names only.
#[derive(Clone)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variable's value. `None` if the variable is not set, or empty: templates cannot tell the two apart.
    #[must_use]
    pub fn get(&self, variable: &str) -> Option<&str> {
        self.0.get(variable).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Refuses variables that begin with `prefix` and are not `known`. A misspelt variable would silently not be in
    /// force.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] names the variable, and the known variables.
    pub fn refuse_unknown(&self, prefix: &str, known: &[&str]) -> Result<(), RotationError> {
        let set = self.0.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.as_str());
        match set.filter(|name| name.starts_with(prefix)).find(|name| !known.contains(name)) {
            None => Ok(()),
            Some(name) if known.is_empty() => Err(invalid(name, "is not a setting of this function")),
            Some(name) => {
                Err(invalid(name, &format!("is not a setting of this function; known are {}", known.join(", "))))
            }
        }
    }

    /// Refuses variables that only other kinds of secrets read. `read` lists the prefixes that this kind reads.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] names the variable.
    pub fn refuse_foreign(&self, read: &[&str]) -> Result<(), RotationError> {
        let mut foreign = OF_KINDS.iter().filter(|prefix| !read.contains(prefix));
        foreign.try_for_each(|prefix| self.refuse_unknown(prefix, &[]))
    }

    /// The variable's value.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] if the variable is not set.
    pub fn require(&self, variable: &str) -> Result<&str, RotationError> {
        self.get(variable).ok_or_else(|| invalid(variable, "is not set"))
    }

    /// The variable's value as another type.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] if the value does not parse; the message says what was `expected`.
    pub fn parse<T: FromStr>(&self, variable: &str, expected: &str) -> Result<Option<T>, RotationError> {
        self.get(variable)
            .map(|value| value.parse().map_err(|_| invalid(variable, &format!("expected {expected}"))))
            .transpose()
    }

    /// The variable's value as a duration such as `10s`.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] if the value is not a duration.
    pub fn duration(&self, variable: &str) -> Result<Option<std::time::Duration>, RotationError> {
        let duration = self.parse::<humantime::Duration>(variable, "a duration such as 500ms, 10s or 24h")?;
        Ok(duration.map(Into::into))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

pub(crate) fn invalid(variable: &str, problem: &str) -> RotationError {
    RotationError::InvalidConfiguration { variable: variable.to_owned(), problem: problem.to_owned() }
}
