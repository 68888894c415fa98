//! Values that people rotate: when each was last stored (`rotation:done:MEMBER`), and how often it is due
//! (`rotation:remind`). Every secret may have these tags, whoever rotates its other members.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::document::FieldName;
use crate::error::RotationError;
use crate::time::parse_timestamp;

/// The tag with the members that people rotate, and how often: `META_APP_SECRET:90d OPENAI_API_KEY:180d`. A period alone
/// is that of the whole text.
pub const REMIND: &str = "rotation:remind";
const DONE: &str = "rotation:done";
/// A day, and ten years.
const SHORTEST: Duration = Duration::from_secs(24 * 60 * 60);
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
const EXPECTED: &str = "expected members with periods, such as META_APP_SECRET:90d OPENAI_API_KEY:180d, or a period alone for a whole text; each from 1d to 3650d, and each member once";

/// The tag with the time at which a person last stored a member; `None` stands for the whole text.
#[must_use]
pub fn done_tag(member: Option<&FieldName>) -> String {
    member.map_or_else(|| DONE.to_owned(), |member| format!("{DONE}:{member}"))
}

/// Whether a tag `rotation:*` is one of these.
pub(super) fn is_by_hand(tag: &str) -> bool {
    tag == REMIND || tag == DONE || tag.strip_prefix(DONE).is_some_and(|rest| rest.starts_with(':'))
}

/// A value that a person rotates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByHand {
    /// The member; `None` if it is the whole text.
    pub member: Option<FieldName>,
    /// How often it is due.
    pub period: Duration,
    /// When it was last stored, if that was recorded.
    pub done: Option<SystemTime>,
}

impl ByHand {
    /// When it is due; `None` if nothing was recorded yet, and it is due since ever.
    #[must_use]
    pub fn due(&self) -> Option<SystemTime> {
        self.done.and_then(|done| done.checked_add(self.period))
    }

    /// Whether it is due at the time `now`.
    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> bool {
        self.due().is_none_or(|due| due <= now)
    }
}

/// The values that people rotate in a secret with these tags, in the order of `rotation:remind`.
///
/// # Errors
/// [`RotationError::InvalidPolicy`] if `rotation:remind` has another form, or a `rotation:done` is no time.
pub fn by_hand(tags: &BTreeMap<String, String>) -> Result<Vec<ByHand>, RotationError> {
    let refuse = |tag: &str, problem: &str| RotationError::InvalidPolicy {
        setting: format!("tag {tag}"),
        problem: problem.to_owned(),
    };
    for (tag, text) in tags.iter().filter(|(tag, _)| is_by_hand(tag) && *tag != REMIND) {
        let member = tag.strip_prefix(DONE).and_then(|rest| rest.strip_prefix(':'));
        if member.is_some_and(|member| FieldName::new(member).is_none()) || parse_timestamp(text).is_none() {
            return Err(refuse(tag, "expected a member's name, and a time such as 2026-12-24T18:00:00Z"));
        }
    }
    let Some(text) = tags.get(REMIND) else { return Ok(vec![]) };
    let mut all: Vec<ByHand> = vec![];
    for entry in text.split_whitespace() {
        let (member, period) = entry.rsplit_once(':').map_or((None, entry), |(member, period)| (Some(member), period));
        let member = match member.map(FieldName::new) {
            Some(None) => return Err(refuse(REMIND, EXPECTED)),
            Some(Some(member)) => Some(member),
            None => None,
        };
        let period = humantime::parse_duration(period).ok().filter(|period| (SHORTEST..=LONGEST).contains(period));
        let Some(period) = period.filter(|_| all.iter().all(|other| other.member != member)) else {
            return Err(refuse(REMIND, EXPECTED));
        };
        let done = tags.get(&done_tag(member.as_ref())).and_then(|text| parse_timestamp(text));
        all.push(ByHand { member, period, done });
    }
    if all.is_empty() { Err(refuse(REMIND, EXPECTED)) } else { Ok(all) }
}
