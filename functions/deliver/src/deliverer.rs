//! What is made from the environment, once per process.

use issued_credential::ISSUED_SETTINGS;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::keyring::KEY_SETTINGS;
use rotation::policy::StackPolicy;
use rotation::token::TOKEN_SETTINGS;

use crate::aws::DeliveryClients;
use crate::kinds::Kinds;
use crate::settings::Settings;

/// The settings, the policy of the stack, the clients and the kinds of secrets. No kind asks an application.
#[derive(Debug)]
pub struct Deliverer {
    pub(crate) settings: Settings,
    pub(crate) stack: StackPolicy,
    pub(crate) clients: DeliveryClients,
    pub(crate) kinds: Kinds,
}

impl Deliverer {
    /// Reads `CONSUMERS`, `CONSUMED_SECRETS`, `DELIVERY_LIMIT` and the variables of
    /// [`StackPolicy::from_environment`] and [`DeliveryClients::from_environment`].
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`], [`RotationError::InvalidPolicy`] and [`RotationError::InsecureUrl`] name
    /// the variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        Ok(Self {
            settings: Settings::from_environment(environment)?,
            stack: StackPolicy::from_environment(
                environment,
                &[TOKEN_SETTINGS, KEY_SETTINGS, ISSUED_SETTINGS].concat(),
            )?,
            clients: DeliveryClients::from_environment(environment)?,
            kinds: Kinds::default(),
        })
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
