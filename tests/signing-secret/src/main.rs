//! The rotation function for signing secrets. Everything is in the library; this wires it to AWS Lambda.

use signing_secret::SigningSecret;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rotation::lambda::Error> {
    rotation::lambda::run(SigningSecret::from_environment).await
}
