//! The function that rewraps rows.

use reencrypt::Worker;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rotation::lambda::Error> {
    rotation::lambda::serve(Worker::from_environment, reencrypt::answer).await
}
