//! The Lambda host as the rotation service sees it.

use crate::lambda_host::{InvokeError, LambdaHost};
use axum::body::Bytes;

use crate::invoker::{Answer, InvokeFailure, Invoker, Invoking};

pub(crate) struct Host(pub(crate) LambdaHost);

impl Invoker for Host {
    fn has(&self, function: &str) -> bool {
        let name = function.split(':').next().unwrap_or(function);
        self.0.functions().iter().any(|known| known == name)
    }

    fn invoke(&self, function: &str, payload: Bytes) -> Invoking {
        let (host, function) = (self.0.clone(), function.to_owned());
        Box::pin(async move {
            match host.invoke(&function, payload).await {
                Ok(invocation) => Ok(Answer {
                    failed: invocation.function_error.is_some(),
                    cold: Some(invocation.cold),
                    payload: invocation.payload,
                }),
                Err(error) => Err(failure(&error)),
            }
        })
    }

    fn kill_running(&self, function: &str) {
        self.0.kill_running(function);
    }

    fn function_of_access_key(&self, access_key_id: &str) -> Option<String> {
        self.0.function_of_access_key(access_key_id)
    }
}

/// The error under its name in Lambda's Invoke.
fn failure(error: &InvokeError) -> InvokeFailure {
    let error_type = match error {
        InvokeError::FunctionNotFound { .. } => "ResourceNotFoundException",
        InvokeError::InvalidName(_) => "ValidationException",
        InvokeError::TooManyRequests => "TooManyRequestsException",
        InvokeError::RequestTooLarge { .. } => "RequestTooLargeException",
        InvokeError::InvalidRequestContent(_) => "InvalidRequestContentException",
        _ => "ServiceException",
    };
    InvokeFailure { error_type: error_type.to_owned(), message: error.to_string() }
}
