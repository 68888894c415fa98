//! The tokens and the keyrings that a process holds.
use std::sync::{Arc, RwLock};

use aws_sdk_secretsmanager::Client;

use super::keyring_raw::Keyring; // or keyring_fernet, keyring_tink
use super::secret::{Failure, read};
use super::tokens::Tokens;

/// The client, and what was loaded last.
pub(crate) type Loaded = Arc<(Client, RwLock<(Tokens, Vec<Keyring>)>)>;

pub(crate) async fn load(client: &Client) -> Result<(Tokens, Vec<Keyring>), Failure> {
    let mut keyrings = vec![];
    for stage in ["AWSCURRENT", "AWSPENDING"] {
        let secret = read(client, "shop/production/encryption-key", stage).await?;
        keyrings.extend(secret.and_then(|secret| Keyring::read(&secret, "TOKEN_ENCRYPTION_KEY")));
    }
    Ok((Tokens::read(client, "shop/production/admin-token", "ADMIN_TOKEN").await?, keyrings))
}
