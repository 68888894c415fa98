//! The function that re-encrypts rows. Everything is in the library; this wires it to AWS Lambda.

use reencrypt::Worker;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rotation::lambda::Error> {
    rotation::lambda::serve(Worker::from_environment, reencrypt::answer).await
}
