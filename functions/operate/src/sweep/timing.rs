//! How long ago something was, and the times that a sweep goes by.

use std::time::{Duration, SystemTime};

use rotation::store::Described;

/// For so long after a promotion it is verified again.
pub(super) const RECENT: Duration = Duration::from_secs(24 * 60 * 60);
/// Nothing is revoked by itself so soon after a change: consumers and people may be in the middle of something.
pub(super) const QUIET: Duration = Duration::from_secs(60 * 60);
/// Waits before a call is repeated that was throttled.
pub(super) const THROTTLED_PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];

/// How long ago a time was, by the service's clock, which tells whole seconds: what has just been lies in its future.
pub(super) fn since(secret: &Described, time: Option<SystemTime>) -> Option<Duration> {
    time.map(|time| secret.as_of.duration_since(time).unwrap_or_default())
}
