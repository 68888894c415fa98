//! The function for operators. Everything is in the library; this wires it to AWS Lambda.

use operate::Operator;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rotation::lambda::Error> {
    rotation::lambda::serve(Operator::from_environment, operate::answer).await
}
