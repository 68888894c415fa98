//! The functions of users, which this project invokes: issuers, and functions that restart consumers.

use std::fmt;
use std::time::Duration;

use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::timeout::TimeoutConfig;
use aws_sdk_lambda::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeOutput};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use aws_types::SdkConfig;
use serde::Deserialize;

use crate::deadline::Deadline;
use crate::error::innermost;
use crate::secret::SecretText;

/// The longest name of an exception that an error repeats.
const LONGEST_TYPE: usize = 64;

/// Why an invocation gave no answer. It never holds a payload: an answer may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionError {
    /// The function, as the caller named it.
    pub function: String,
    /// The class.
    pub kind: FunctionErrorKind,
}

/// The classes of a failed invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FunctionErrorKind {
    /// The function, or the alias, does not exist. Nothing ran.
    Missing,
    /// The role may not invoke the function. Nothing ran. The text is the service's message.
    Denied(String),
    /// The service throttled the call, or the function's concurrency is used up. Nothing ran.
    Throttled,
    /// The service refused the call. Nothing ran. The text is the error code.
    Rejected(String),
    /// The function did not answer within the limit of the call, or ran into its own timeout. It may have had an effect.
    TimedOut,
    /// The function threw. The text is the type of its error, if it has one. It may have had an effect.
    Threw(Option<String>),
    /// There was no connection, or the service failed. The function may have had an effect. The text is the reason.
    Unreachable(String),
    /// The answer has more bytes than the caller takes.
    TooLarge {
        /// The bytes.
        bytes: usize,
    },
    /// The answer is no UTF-8 text.
    NotText,
}

impl FunctionErrorKind {
    /// Whether the function is known not to have run.
    #[must_use]
    pub fn had_no_effect(&self) -> bool {
        matches!(self, Self::Missing | Self::Denied(_) | Self::Throttled | Self::Rejected(_))
    }
}

impl fmt::Display for FunctionErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the function does not exist"),
            Self::Denied(message) => write!(f, "the role may not invoke the function ({message})"),
            Self::Throttled => f.write_str("the function is throttled"),
            Self::Rejected(code) => write!(f, "Lambda refused the call ({code})"),
            Self::TimedOut => f.write_str("the function did not answer in time"),
            Self::Threw(Some(of_type)) => write!(f, "the function threw {of_type}"),
            Self::Threw(None) => f.write_str("the function threw"),
            Self::Unreachable(reason) => write!(f, "no answer from Lambda ({reason})"),
            Self::TooLarge { bytes } => write!(f, "the answer has {bytes} bytes"),
            Self::NotText => f.write_str("the answer is no text"),
        }
    }
}

/// Lambda, for synchronous invocations without retries: an invocation may have had its effect although its answer is
/// lost, and only the caller knows whether it may be repeated.
#[derive(Clone, Debug)]
pub struct Functions {
    client: aws_sdk_lambda::Client,
}

impl Functions {
    /// Makes the client; it sends nothing.
    pub(super) fn new(config: &SdkConfig) -> Self {
        // The caller's limit bounds the call; the attempts of other clients are too short for a function. What is not
        // disabled here keeps the value of `config`.
        let limits = TimeoutConfig::builder().disable_operation_attempt_timeout().build();
        let config = aws_sdk_lambda::config::Builder::from(config)
            .retry_config(RetryConfig::disabled())
            .timeout_config(limits)
            .build();
        Self { client: aws_sdk_lambda::Client::from_conf(config) }
    }

    /// Invokes `function` (a name, or an ARN, with an alias or without) with `payload`, a JSON text, and waits for its
    /// answer: at most for `limit`, and at most until `deadline`. The answer has at most `most` bytes. One call.
    ///
    /// # Errors
    /// [`FunctionError`]; [`FunctionErrorKind::had_no_effect`] says whether the function may have run.
    pub async fn invoke(
        &self,
        function: &str,
        payload: &SecretText,
        (limit, deadline): (Duration, Deadline),
        most: usize,
    ) -> Result<SecretText, FunctionError> {
        let call = self
            .client
            .invoke()
            .function_name(function)
            .invocation_type(InvocationType::RequestResponse)
            .payload(Blob::new(payload.expose()))
            .send();
        let answer = match deadline.within(limit, Duration::ZERO).bound(call).await {
            None => Err(FunctionErrorKind::TimedOut),
            Some(Err(error)) => Err(classify(&error)),
            Some(Ok(output)) => read(output, most),
        };
        answer.map_err(|kind| FunctionError { function: function.to_owned(), kind })
    }
}

fn read(output: InvokeOutput, most: usize) -> Result<SecretText, FunctionErrorKind> {
    let bytes = output.payload.map(Blob::into_inner).unwrap_or_default();
    if output.function_error.is_some() {
        return Err(thrown(&bytes));
    }
    if bytes.len() > most {
        return Err(FunctionErrorKind::TooLarge { bytes: bytes.len() });
    }
    String::from_utf8(bytes).map(SecretText::new).map_err(|_| FunctionErrorKind::NotText)
}

/// What the runtime says of a function that threw (Lambda Developer Guide, "Understanding retry behavior"). The message
/// may hold anything, so only the form of one message is looked at, and the type is told.
fn thrown(payload: &[u8]) -> FunctionErrorKind {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Thrown {
        error_type: Option<String>,
        error_message: Option<SecretText>,
    }
    let thrown: Thrown = serde_json::from_slice(payload).unwrap_or_default();
    let timed_out = |message: &SecretText| message.expose().contains("Task timed out after ");
    if thrown.error_type.as_deref() == Some("Sandbox.Timedout") || thrown.error_message.as_ref().is_some_and(timed_out)
    {
        return FunctionErrorKind::TimedOut;
    }
    let is_name = |name: &String| {
        name.len() <= LONGEST_TYPE && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:".contains(&byte))
    };
    FunctionErrorKind::Threw(thrown.error_type.filter(|name| !name.is_empty()).filter(is_name))
}

fn classify(error: &SdkError<InvokeError>) -> FunctionErrorKind {
    let SdkError::ServiceError(refused) = error else {
        return match error {
            SdkError::TimeoutError(_) => FunctionErrorKind::Unreachable("timed out".to_owned()),
            error => {
                FunctionErrorKind::Unreachable(std::error::Error::source(error).map_or_else(String::new, innermost))
            }
        };
    };
    let code = refused.err().code().unwrap_or("without an error code");
    match code {
        "ResourceNotFoundException" => FunctionErrorKind::Missing,
        "AccessDeniedException" => {
            // Only this message says which role was denied which action. It does not repeat the payload.
            FunctionErrorKind::Denied(refused.err().message().unwrap_or_default().chars().take(400).collect())
        }
        "TooManyRequestsException" | "ThrottlingException" | "EC2ThrottledException" => FunctionErrorKind::Throttled,
        code if refused.raw().status().is_server_error() => FunctionErrorKind::Unreachable(code.to_owned()),
        code => FunctionErrorKind::Rejected(code.to_owned()),
    }
}
