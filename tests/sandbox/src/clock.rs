//! The sandbox's own time: the machine's clock plus an offset that only grows.
//!
//! Every date that a client sees comes from this clock. Every answer carries the sandbox's time in its `Date` header. A
//! client that takes its wall clock from that header follows a moved clock by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// A clock that runs at the speed of the machine's clock and can be moved forward. Clones share one time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ahead_millis: Arc<AtomicU64>,
}

impl Clock {
    /// The largest offset of the clock, 100 years. It is beyond any schedule, and far from the end of [`SystemTime`].
    pub const FURTHEST: Duration = Duration::from_secs(100 * 365 * 86_400);

    /// A clock with the offset `ahead`, to the millisecond.
    pub fn ahead_by(ahead: Duration) -> Self {
        let clock = Self::default();
        clock.advance(ahead);
        clock
    }

    /// The sandbox's time.
    pub fn now(&self) -> SystemTime {
        SystemTime::now() + self.ahead()
    }

    /// The offset of the clock.
    pub fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_millis.load(Ordering::SeqCst))
    }

    /// Moves the time forward, and starts nothing. [`crate::Sandbox::advance`] also runs the rotations that fall due.
    pub(crate) fn advance(&self, by: Duration) {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.ahead_millis
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |ahead| {
                Some(ahead.saturating_add(millis(by)).min(millis(Self::FURTHEST)))
            })
            .ok();
    }

    /// Moves the time forward to `target`. A clock that is already past `target` stays.
    pub(crate) fn advance_to(&self, target: SystemTime) {
        if let Ok(missing) = target.duration_since(self.now()) {
            // Rounded up, so that the clock does not stop just before the target.
            self.advance(missing + Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_moved_time() {
        let clock = Clock::default();
        let other = clock.clone();
        let before = other.now();
        clock.advance(Duration::from_secs(90 * 86_400));
        assert!(other.now().duration_since(before).unwrap() >= Duration::from_secs(90 * 86_400));
    }

    #[test]
    fn advancing_to_a_moment_reaches_it_and_never_goes_back() {
        let clock = Clock::default();
        let target = clock.now() + Duration::from_secs(3600);
        clock.advance_to(target);
        assert!(clock.now() >= target);
        clock.advance_to(target - Duration::from_secs(1800));
        assert!(clock.now() >= target);
    }
}
