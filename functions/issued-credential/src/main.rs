//! The rotation function for credentials that a provider issues.

use issued_credential::IssuedCredential;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rotation::lambda::Error> {
    rotation::lambda::run(IssuedCredential::from_environment).await
}
