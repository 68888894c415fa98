//! The function that delivers. Everything is in the library; this wires it to AWS Lambda.

use deliver::Deliverer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rotation::lambda::Error> {
    rotation::lambda::serve(Deliverer::from_environment, deliver::answer).await
}
