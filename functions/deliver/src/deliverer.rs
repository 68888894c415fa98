//! What is made from the environment, once per process.

use admin_token::AdminToken;
use encryption_key::{Consumers as Declared, EncryptionKey};
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::keyring::KEY_SETTINGS;
use rotation::policy::StackPolicy;
use rotation::target::http::HttpTarget;
use rotation::token::TOKEN_SETTINGS;

use crate::settings::Settings;

/// The settings, the policy of the stack and the kinds of secrets. No kind asks an application.
#[derive(Debug)]
pub struct Deliverer {
    pub(crate) settings: Settings,
    pub(crate) stack: StackPolicy,
    pub(crate) token: AdminToken<HttpTarget>,
    pub(crate) keys: EncryptionKey<HttpTarget>,
}

impl Deliverer {
    /// Reads `CONSUMERS`, `CONSUMED_SECRETS`, `DELIVERY_LIMIT`, `NOTIFY_TOPIC_ARN` and the variables of
    /// [`StackPolicy::from_environment`].
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] and [`RotationError::InvalidPolicy`] name the variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        Ok(Self {
            settings: Settings::from_environment(environment)?,
            stack: StackPolicy::from_environment(environment, &[TOKEN_SETTINGS, KEY_SETTINGS].concat())?,
            token: AdminToken::new(None),
            keys: EncryptionKey::new(None, Declared::default()),
        })
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
