//! The rotation function for admin tokens.

use admin_token::AdminToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rotation::lambda::Error> {
    rotation::lambda::run(AdminToken::from_environment).await
}
