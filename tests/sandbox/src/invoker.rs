//! The way from the rotation service to functions.

use std::future::Future;
use std::pin::Pin;

use axum::body::Bytes;

/// The future of an invocation.
pub type Invoking = Pin<Box<dyn Future<Output = Result<Answer, InvokeFailure>> + Send>>;

/// The result of a function. A failed function has a result, too.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The function's result, or its error as JSON with `errorType` and `errorMessage`.
    pub payload: Bytes,
    /// Whether `payload` is an error: the function returned one, crashed, or ran out of time.
    pub failed: bool,
    /// Whether the host started a process for it; `None` where that is unknown.
    pub cold: Option<bool>,
}

/// The reason why a function was not invoked.
#[derive(Clone, Debug)]
pub struct InvokeFailure {
    /// Lambda's name of the error, for example `TooManyRequestsException`.
    pub error_type: String,
    /// The error's message.
    pub message: String,
}

/// A place that runs functions: [`LambdaHost`](crate::lambda_host::LambdaHost), or a test that runs functions in
/// process.
pub trait Invoker: Send + Sync + 'static {
    /// Whether a function has this name. RotateSecret checks it.
    fn has(&self, function: &str) -> bool;

    /// Runs a function and waits for its answer.
    fn invoke(&self, function: &str, payload: Bytes) -> Invoking;

    /// Kills the function's running invocations, and returns afterwards.
    fn kill_running(&self, function: &str);

    /// The function whose role has this access key, so that a fault can hit one caller.
    fn function_of_access_key(&self, access_key_id: &str) -> Option<String>;
}

/// The function's name in its ARN, with or without a version or alias. `None` for any other ARN.
pub(crate) fn function_name(arn: &str) -> Option<&str> {
    let mut parts = arn.splitn(8, ':');
    let head = [parts.next()?, parts.next()?, parts.next()?];
    let (_region, _account, function, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    (head == ["arn", "aws", "lambda"] && function == "function" && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_functions_name_is_read_from_its_arn_only() {
        assert_eq!(function_name("arn:aws:lambda:us-east-1:000000000000:function:f"), Some("f"));
        assert_eq!(function_name("arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST"), Some("f"));
        assert_eq!(function_name("arn:aws:lambda:us-east-1:000000000000:layer:f"), None);
        assert_eq!(function_name("f"), None);
    }
}
