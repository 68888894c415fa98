//! The secrets that a sweep covers: those under the stack's prefix, and of these the ones with `SWEEP_TAG`, if the stack sets it.
//!
//! `SWEEP_TAG` stays beside the prefix: teams keep secrets of several services under one prefix, and the sweep of a service tells its own
//! team. Without it, each would be told of the others'.

use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::store::{Described, ListFilter};

const SWEEP_TAG: &str = "SWEEP_TAG";
/// The longest key and value of a tag (Secrets Manager API reference, Tag).
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;

/// Whether a filter of ListSecrets takes this text and means it: what begins with `!` it means the reverse of (Secrets Manager API
/// reference, Filter).
fn is_filter(text: &str, longest: usize) -> bool {
    let taken = |c: char| c.is_ascii_alphanumeric() || " :_@/+=.-!".contains(c);
    (1..=longest).contains(&text.len()) && text.chars().all(taken) && !text.starts_with('!')
}

/// The secrets that a sweep covers, as the stack chooses them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// A tag that they have, with this value if there is one (`SWEEP_TAG`).
    pub tag: Option<(String, Option<String>)>,
}

impl Scope {
    /// Reads `SWEEP_TAG`: `key` or `key=value`, in characters that a filter of ListSecrets takes.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`].
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let Some(text) = environment.get(SWEEP_TAG) else { return Ok(Self::default()) };
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
        if !is_filter(key, LONGEST_KEY) || value.is_some_and(|value| !is_filter(value, LONGEST_VALUE)) {
            let problem = format!(
                "expected key or key=value, at most {LONGEST_KEY} and {LONGEST_VALUE} ASCII letters, digits, blanks and :_@/+=.-! \
                 and no ! at their beginning: ListSecrets filters by nothing else"
            );
            return Err(RotationError::InvalidConfiguration { variable: SWEEP_TAG.to_owned(), problem });
        }
        Ok(Self { tag: Some((key.to_owned(), value.map(str::to_owned))) })
    }

    pub(crate) fn filter(&self, prefix: Option<&str>) -> ListFilter {
        let (tag_key, tag_value) = self.tag.clone().unzip();
        ListFilter { prefix: prefix.map(str::to_owned), tag_key, tag_value: tag_value.flatten() }
    }

    /// The service finds beginnings, and keys and values in different tags.
    pub(crate) fn contains(&self, secret: &Described, prefix: Option<&str>) -> bool {
        let named = prefix.is_none_or(|prefix| secret.name.starts_with(prefix));
        let tagged = self.tag.as_ref().is_none_or(|(key, value)| {
            secret.tags.get(key).is_some_and(|tagged| value.as_ref().is_none_or(|value| value == tagged))
        });
        named && tagged
    }
}
