//! The rotation function for encryption keys.

use encryption_key::EncryptionKey;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rotation::lambda::Error> {
    rotation::lambda::run(EncryptionKey::from_environment).await
}
