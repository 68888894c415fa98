//! Times as text: RFC 3339 in UTC, to the second, wherever people or applications read them.

use std::time::SystemTime;

/// A time such as `2026-12-24T18:00:00Z`; a fraction of a second is cut off.
#[must_use]
pub fn format_timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Reads an RFC 3339 time in UTC; `None` when it is not one.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}
