//! The keyring that opens rows.

use std::time::SystemTime;

use rotation::delivery::Delivery;
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::keyring::{Ciphers, KeyFormat, KeyId};
use rotation::store::SecretStore;
use rotation::versions::Stage;

use crate::error::ReencryptError;
use crate::settings::Settings;

/// The current keyring.
pub(crate) struct Ring {
    pub(crate) secret: String,
    pub(crate) version: VersionId,
    pub(crate) primary: KeyId,
    pub(crate) ciphers: Ciphers,
    /// When this ring was current, by the time of Secrets Manager.
    pub(crate) as_of: SystemTime,
    /// Whether every consumer had this version then, by the labels of the function `deliver`.
    pub(crate) delivered: bool,
}

/// The state of a ring after the work.
pub(crate) struct Since {
    /// The present, by the time of Secrets Manager.
    pub(crate) as_of: SystemTime,
    /// Whether another version has become current.
    pub(crate) superseded: bool,
}

impl Ring {
    /// Reads the current ring. This function never writes the secret.
    pub(crate) async fn current(settings: &Settings, store: &impl SecretStore) -> Result<Self, ReencryptError> {
        let described = store.describe(&settings.key_secret).await?;
        settings.policy.check_name(&described.name)?;
        let policy = settings.policy.for_secret(&described.tags, described.as_of)?;
        let expected = settings.columns.first().map(|column| column.format.ring());
        if expected != Some(KeyFormat::of(&policy)) {
            return Err(RotationError::InvalidConfiguration {
                variable: "REENCRYPT_COLUMNS".to_owned(),
                problem: format!(
                    "names formats of another kind of ring than that of secret {}: check rotation:key-format",
                    described.name
                ),
            }
            .into());
        }
        let version = described.versions.holder(&Stage::Current).cloned();
        let version = version.ok_or_else(|| missing(&described.name))?;
        let value = store.get(&settings.key_secret, &version).await?;
        let value = value.ok_or(RotationError::ValueMissing { version: version.clone() })?;
        let wire = KeyFormat::of(&policy).wire();
        let ciphers = wire.ciphers(&wire.document(value.text, policy.field.as_ref())?)?;
        let primary = ciphers.iter().next().map(|(primary, _)| primary);
        let primary = primary.ok_or(RotationError::EmptyValue)?;
        let delivered = Delivery::of(&described.versions) == Delivery::Delivered;
        Ok(Self { secret: described.name, version, primary, ciphers, as_of: described.as_of, delivered })
    }

    /// Describes the secret again.
    pub(crate) async fn since(&self, settings: &Settings, store: &impl SecretStore) -> Result<Since, ReencryptError> {
        let described = store.describe(&settings.key_secret).await?;
        let superseded = described.versions.holder(&Stage::Current) != Some(&self.version);
        Ok(Since { as_of: described.as_of, superseded })
    }
}

fn missing(name: &str) -> RotationError {
    RotationError::InvalidConfiguration {
        variable: "REENCRYPT_KEY_SECRET".to_owned(),
        problem: format!("names secret {name}, which has no current value"),
    }
}
