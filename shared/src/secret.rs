//! Secret text: redacted when printed, wiped when dropped, compared in constant time.

use std::fmt;

use serde::{Deserialize, Deserializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret value, or a part of one: a token, a member of a JSON secret, or the whole `SecretString`.
///
/// `Debug` prints `[REDACTED]` and nothing about the value. There is no `Display`. The memory is wiped on drop, and the
/// time of `==` depends on the lengths alone.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes ownership of `text`, without a copy.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The value itself. The value may leave the process at every call of this method, so there are few calls.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The length in bytes. Errors may name it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the text is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl PartialEq for SecretText {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for SecretText {}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_the_value_nor_its_length() {
        let shown = format!("{:?} {:#?}", SecretText::new("hunter2".into()), Some(SecretText::new("hunter2".into())));
        assert!(!shown.contains("hunter") && !shown.contains('7'), "{shown}");
    }

    #[test]
    fn equality_is_equality_of_the_whole_text() {
        let text = |t: &str| SecretText::new(t.into());
        assert_eq!(text("abc"), text("abc"));
        assert_ne!(text("abc"), text("abd"));
        assert_ne!(text("abc"), text("abcd"));
        assert_ne!(text(""), text("a"));
    }
}
