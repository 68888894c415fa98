//! One request at work, with its configuration, its ring and its deadline.

use std::time::Duration;

use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;

use crate::database::{Access, Session, User};
use crate::error::ReencryptError;
use crate::ring::Ring;
use crate::settings::Settings;

/// The target of this function's log lines, so that they have the level of the project's own lines.
pub(crate) const LOG: &str = "rotation::reencrypt";

/// The settings and the way to the database, made once from the environment.
#[derive(Debug)]
pub struct Worker {
    pub(crate) settings: Settings,
    pub(crate) access: Access,
}

impl Worker {
    /// Reads all variables of [`Settings`].
    ///
    /// # Errors
    /// The error names the unusable variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let settings = Settings::from_environment(environment)?;
        Ok(Self { access: Access::new(settings.database.clone())?, settings })
    }
}

/// One request at work.
pub(crate) struct Job<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) ring: Ring,
    pub(crate) deadline: Deadline,
}

impl Job<'_> {
    /// Opens a connection to the database.
    pub(crate) async fn session(&self, user: &User) -> Result<Session, ReencryptError> {
        self.worker.access.connect(user, &self.worker.settings.pace, self.deadline).await
    }

    /// When to start no new batch. The reserve is two statements and one second, at most half of the time left. It
    /// covers a statement in each stage, and rows that other transactions had locked.
    pub(crate) fn stop(&self) -> Deadline {
        let left = self.deadline.left();
        let reserve = self.worker.settings.pace.statement_timeout * 2 + Duration::from_secs(1);
        self.deadline.within(left, reserve.min(left / 2))
    }
}
