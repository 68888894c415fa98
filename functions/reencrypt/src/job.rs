//! One request at work: by which configuration, with which keys, and for how long.

use std::time::Duration;

use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;

use crate::database::{Access, Session, User};
use crate::error::ReencryptError;
use crate::ring::Ring;
use crate::settings::Settings;

/// What the log calls this function's lines: at the level of the project's own.
pub(crate) const LOG: &str = "rotation::reencrypt";

/// What is made from the environment, once.
#[derive(Debug)]
pub struct Worker {
    pub(crate) settings: Settings,
    pub(crate) access: Access,
}

impl Worker {
    /// Reads all variables of [`Settings`].
    ///
    /// # Errors
    /// An unusable variable, by name.
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
    /// A connection to the database.
    pub(crate) async fn session(&self, user: &User) -> Result<Session, ReencryptError> {
        self.worker.access.connect(user, &self.worker.settings.pace, self.deadline).await
    }

    /// When to begin nothing new: what is under way takes a statement for each of the stages, and rows that were in the way.
    pub(crate) fn stop(&self) -> Deadline {
        let left = self.deadline.left();
        let reserve = self.worker.settings.pace.statement_timeout * 2 + Duration::from_secs(1);
        self.deadline.within(left, reserve.min(left / 2))
    }
}
