//! Times as text: RFC 3339 in UTC, to the second, wherever people or applications read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The last second that RFC 3339 can express, in seconds of Unix time.
const END_OF_9999: Duration = Duration::from_secs(253_402_300_799);

/// Writes a time such as `2026-12-24T18:00:00Z`. It cuts off fractions of a second, and limits the time to the years
/// 1970 to 9999.
#[must_use]
pub fn format_timestamp(time: SystemTime) -> String {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(END_OF_9999);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since_epoch).to_string()
}

/// Parses an RFC 3339 time in UTC; `None` if the text is not such a time.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// A time with this text form in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(pub SystemTime);

impl TryFrom<String> for Timestamp {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        parse_timestamp(&text).map(Self).ok_or("expected a time such as 2026-12-24T18:00:00Z")
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        format_timestamp(time.0)
    }
}
