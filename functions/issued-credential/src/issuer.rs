//! The port to an issuer, and the adapter to a Lambda function.

use std::future::Future;
use std::time::Duration;

use rotation::aws::{FunctionErrorKind, Functions, SdkSettings};
use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::{IssuerError, RotationError};
use rotation::secret::SecretText;

use crate::contract::{LONGEST_ANSWER, Request};

/// How long an answer is waited for, unless the stack says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest time that a stack can choose. A rotation asks up to four times in a step.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Somebody who makes, verifies and revokes credentials.
pub trait Issuer: Sync {
    /// The name for errors.
    fn name(&self) -> &str;

    /// The longest time until an answer.
    fn timeout(&self) -> Duration;

    /// Asks once, without a repetition: an issuer may have made something although its answer is lost.
    fn invoke(
        &self,
        payload: &SecretText,
        deadline: Deadline,
    ) -> impl Future<Output = Result<SecretText, FunctionErrorKind>> + Send;
}

/// An issuer that is a Lambda function of the user's.
#[derive(Debug)]
pub struct LambdaIssuer {
    functions: Functions,
    function: String,
    timeout: Duration,
}

impl LambdaIssuer {
    /// Reads `ISSUER_FUNCTION` (the name or ARN of the function, with an alias or without) and `ISSUER_TIMEOUT` (1 s to
    /// 120 s, default 15 s).
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] names the variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let function = environment.require("ISSUER_FUNCTION")?.to_owned();
        let timeout = environment.duration("ISSUER_TIMEOUT")?.unwrap_or(DEFAULT_TIMEOUT);
        if !(Duration::from_secs(1)..=LONGEST_TIMEOUT).contains(&timeout) {
            let (variable, problem) = ("ISSUER_TIMEOUT".to_owned(), "expected 1s to 120s".to_owned());
            return Err(RotationError::InvalidConfiguration { variable, problem });
        }
        let functions = SdkSettings::from_environment(environment)?.functions(environment)?;
        Ok(Self { functions, function, timeout })
    }
}

impl Issuer for LambdaIssuer {
    fn name(&self) -> &str {
        &self.function
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    async fn invoke(&self, payload: &SecretText, deadline: Deadline) -> Result<SecretText, FunctionErrorKind> {
        let time = (self.timeout, deadline);
        let answer = self.functions.invoke(&self.function, payload, time, LONGEST_ANSWER).await;
        answer.map_err(|error| error.kind)
    }
}

/// Nobody to ask: for who reads values, and makes, verifies and revokes none.
#[derive(Clone, Copy, Debug)]
pub struct NoIssuer;

impl Issuer for NoIssuer {
    fn name(&self) -> &str {
        "none"
    }

    fn timeout(&self) -> Duration {
        Duration::ZERO
    }

    async fn invoke(&self, _: &SecretText, _: Deadline) -> Result<SecretText, FunctionErrorKind> {
        Err(FunctionErrorKind::Missing)
    }
}

/// Asks the issuer, and reads its answer with `read`.
///
/// # Errors
/// The error with the issuer's name.
pub(crate) async fn ask<I: Issuer, T>(
    issuer: &I,
    secret: &str,
    request: Request<'_>,
    deadline: Deadline,
    read: impl FnOnce(&SecretText) -> Result<T, String>,
) -> Result<T, RotationError> {
    let operation = request.operation();
    let answer = issuer.invoke(&request.payload(secret), deadline).await;
    let answer = answer.map_err(|kind| failed(issuer.name(), operation, kind))?;
    let wrong = |problem| IssuerError::IssuerAnswer { function: issuer.name().to_owned(), operation, problem };
    read(&answer).map_err(|problem| wrong(problem).into())
}

fn failed(function: &str, operation: &'static str, kind: FunctionErrorKind) -> IssuerError {
    use FunctionErrorKind as Kind;
    let (function, problem) = (function.to_owned(), kind.to_string());
    match kind {
        Kind::Missing => IssuerError::IssuerMissing { function },
        Kind::Denied(_) | Kind::Rejected(_) => IssuerError::IssuerDenied { function, problem },
        Kind::Throttled => IssuerError::IssuerThrottled { function },
        Kind::TimedOut => IssuerError::IssuerTimedOut { function, operation },
        Kind::TooLarge { bytes } => {
            let problem = format!("{bytes} bytes, and a value has at most {LONGEST_ANSWER}");
            IssuerError::IssuerAnswer { function, operation, problem }
        }
        Kind::NotText => {
            IssuerError::IssuerAnswer { function, operation, problem: "bytes that are no text".to_owned() }
        }
        _ => IssuerError::IssuerFailed { function, operation, problem },
    }
}
