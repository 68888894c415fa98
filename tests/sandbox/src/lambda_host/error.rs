use std::time::Duration;

/// The reason why a function was not invoked. The display form is Lambda's message.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvokeError {
    /// No function has that name, version or alias.
    #[error("Function not found: {arn}")]
    FunctionNotFound {
        /// The ARN for the requested name.
        arn: String,
    },
    /// The name is neither a function name nor an ARN of one.
    #[error(
        "1 validation error detected: Value '{0}' at 'functionName' failed to satisfy constraint: Member must be a \
         function name, a partial ARN or an ARN"
    )]
    InvalidName(String),
    /// The function's reserved concurrency is used up.
    #[error("Rate Exceeded.")]
    TooManyRequests,
    /// The payload is larger than `limit` bytes.
    #[error("Request must be smaller than {limit} bytes for the InvokeFunction operation")]
    RequestTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The payload is not JSON.
    #[error("Could not parse request body into json: {0}")]
    InvalidRequestContent(String),
    /// The forward address gave no answer, or an answer that `cargo lambda watch` never gives.
    #[error("{0}")]
    Forward(String),
    /// The machine cannot start a process: it has no free file, port or memory.
    #[error("{0}")]
    Service(String),
    /// The host has been closed.
    #[error("the Lambda host is closed")]
    Closed,
}

/// A configuration that Lambda refuses. The display form says how to change it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// No function has that name.
    #[error("Function not found: {arn}")]
    FunctionNotFound {
        /// The ARN of the name.
        arn: String,
    },
    /// The function runs elsewhere, so it is configured there.
    #[error("function {name} is forwarded, configure it where it runs")]
    Forwarded {
        /// The function.
        name: String,
    },
    /// The name is not 1 to 64 of `[a-zA-Z0-9-_]`.
    #[error("function name {0:?} must be 1 to 64 letters, digits, hyphens and underscores")]
    Name(String),
    /// The timeout is out of bounds.
    #[error("timeout of {0:?} must be more than zero and at most 900 s")]
    Timeout(Duration),
    /// The memory is out of bounds.
    #[error("memory of {0} MB must be 128 to 10240 MB")]
    Memory(u32),
    /// Names of variables that no process can have.
    #[error(
        "environment variable {0:?} must start with a letter, have letters, digits and underscores only, and no NUL in \
         its value"
    )]
    Variable(String),
    /// Variables that Lambda sets itself.
    #[error(
        "Lambda was unable to configure your environment variables because the environment variables you have \
         provided contains reserved keys that are currently not supported for modification. Reserved keys used in this \
         request: {}", .0.join(", ")
    )]
    ReservedVariables(Vec<String>),
    /// The variables take more than 4 KB.
    #[error(
        "Lambda was unable to configure your environment variables because the environment variables you have provided \
         exceeded the 4KB limit. Measured: {measured} bytes"
    )]
    EnvironmentTooLarge {
        /// Size of the names and values as one JSON object, in bytes.
        measured: usize,
    },
    /// The address to forward to is not usable.
    #[error("{url:?} must be http://host:port without a path")]
    ForwardAddress {
        /// The refused URL.
        url: String,
    },
}
