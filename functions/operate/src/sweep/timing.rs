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
pub(crate) fn since(secret: &Described, time: Option<SystemTime>) -> Option<Duration> {
    time.map(|time| secret.as_of.duration_since(time).unwrap_or_default())
}

/// Whether the secret was not changed for `abort_after`: what is open there is in nobody's hands.
pub(crate) fn is_left(secret: &Described, abort_after: Duration) -> bool {
    since(secret, secret.last_changed).is_some_and(|changed| changed >= abort_after)
}

/// How late the rotation of a secret is; `None` when it is not.
pub(crate) fn overdue_by(secret: &Described) -> Option<Duration> {
    since(secret, secret.next_rotation).filter(|overdue| !overdue.is_zero())
}
