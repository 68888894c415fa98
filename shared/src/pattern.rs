//! Patterns with placeholders for the name of a secret and its parts: `{name}`, and `{1}` to `{9}` for the parts
//! between slashes.

use crate::environment::invalid;
use crate::error::RotationError;

/// The secret that a variable names by a pattern; the placeholders stand for the name `name` of another secret.
pub(crate) fn secret_of(variable: &str, pattern: &str, name: &str) -> Result<String, RotationError> {
    let places = "places are {name} and {1} to {9}";
    let problem = || format!("has a place without a part in the secret's name {name}; {places}");
    fill(pattern, name, |part| Some(part.to_owned())).ok_or_else(|| invalid(variable, &problem()))
}

/// Puts the name and its parts into a pattern. `None` if a placeholder has no part, or if `allow` refuses the part.
pub(crate) fn fill(pattern: &str, name: &str, allow: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut parts = pattern.split('{');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (place, rest) = part.split_once('}')?;
        let value = match place {
            "name" => name,
            number => name.split('/').nth(number.parse::<usize>().ok()?.checked_sub(1)?)?,
        };
        text.push_str(&allow(value)?);
        text.push_str(rest);
    }
    Some(text)
}
