//! The time that is left of an invocation.

use std::time::Duration;

use tokio::time::Instant;

/// The end of the time for a piece of work.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline `left` from now.
    #[must_use]
    pub fn after(left: Duration) -> Self {
        Self(Instant::now() + left)
    }

    /// The time left; zero after the deadline.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// This deadline less `reserve`, and at most `longest` from now.
    #[must_use]
    pub fn within(&self, longest: Duration, reserve: Duration) -> Self {
        Self::after(longest.min(self.left().saturating_sub(reserve)))
    }

    /// Waits for `pause`, or until the deadline if that is sooner; `false` if the deadline has passed.
    pub async fn pause(&self, pause: Duration) -> bool {
        tokio::time::sleep(pause.min(self.left())).await;
        !self.left().is_zero()
    }

    /// The future's result; `None` if the deadline passes first.
    pub async fn bound<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::time::timeout_at(self.0, future).await.ok()
    }
}
