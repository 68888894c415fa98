//! What all parts of a run go by.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rotation::deadline::Deadline;
use tokio::time::Instant;

use crate::deliverer::Deliverer;

/// Kept free at the end of a run, so that a call that is under way comes to its end.
pub(super) const RESERVE: std::time::Duration = std::time::Duration::from_secs(5);

/// The services that a run talks to.
#[derive(Debug)]
pub struct Ports<'a, S, E, F, N> {
    /// Secrets Manager.
    pub store: &'a S,
    /// ECS.
    pub services: &'a E,
    /// Lambda.
    pub functions: &'a F,
    /// The receivers of events.
    pub notifications: &'a N,
}

/// One run.
#[derive(Debug)]
pub struct Run<'a, S, E, F, N> {
    pub(super) deliverer: &'a Deliverer,
    pub(super) ports: Ports<'a, S, E, F, N>,
    pub(super) request_id: &'a str,
    pub(super) dry_run: bool,
    pub(super) deadline: Deadline,
    pub(super) clock: Clock,
}

impl<'a, S, E, F, N> Run<'a, S, E, F, N> {
    /// A run. `request_id` is Lambda's id of the request, for the record and for the ids of new versions.
    #[must_use]
    pub fn new(
        deliverer: &'a Deliverer,
        ports: Ports<'a, S, E, F, N>,
        request_id: &'a str,
        deadline: Deadline,
    ) -> Self {
        Self { deliverer, ports, request_id, dry_run: false, deadline, clock: Clock::default() }
    }

    /// Whether there is no time left for another piece of work.
    pub(super) fn is_over(&self) -> bool {
        self.deadline.left() < RESERVE
    }
}

/// The time of Secrets Manager: its last answer, and what has elapsed since.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<(SystemTime, Instant)>>);

impl Clock {
    /// Takes the time of an answer. A time in the past of this clock is that of an answer that came late.
    pub(super) fn set(&self, as_of: SystemTime) {
        let now = self.now();
        let mut answered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.is_none_or(|now| as_of > now) {
            *answered = Some((as_of, Instant::now()));
        }
    }

    fn now(&self) -> Option<SystemTime> {
        let answered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answered.map(|(as_of, at)| as_of + at.elapsed())
    }

    /// The time. Before the first answer it is the epoch, when nothing is compared with it.
    pub(super) fn time(&self) -> SystemTime {
        self.now().unwrap_or(SystemTime::UNIX_EPOCH)
    }
}
