//! Errors in the form of Secrets Manager and of other services with its protocol.

use http::StatusCode;

/// An error answer: the exception's name and its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    pub(crate) fn invalid_parameter(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterException", message)
    }

    pub(crate) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new("InvalidRequestException", message)
    }

    pub(crate) fn invalid_next_token() -> Self {
        Self::new("InvalidNextTokenException", "The NextToken value is invalid.")
    }

    pub(crate) fn exists(message: impl Into<String>) -> Self {
        Self::new("ResourceExistsException", message)
    }

    pub(crate) fn limit_exceeded(message: impl Into<String>) -> Self {
        Self::new("LimitExceededException", message)
    }

    pub(crate) fn malformed_policy() -> Self {
        Self::new("MalformedPolicyDocumentException", "This resource policy contains invalid Json.")
    }

    /// The rotation function does not exist, or must not be invoked. The service does not tell these two apart.
    pub(crate) fn cannot_invoke() -> Self {
        Self::new(
            "AccessDeniedException",
            "Secrets Manager cannot invoke the specified Lambda function. Ensure that the function policy grants \
             access to the principal secretsmanager.amazonaws.com.",
        )
    }

    pub(crate) fn secret_not_found() -> Self {
        Self::new("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
    }

    pub(crate) fn value_not_found_by_id(version_id: &str) -> Self {
        let message = format!("Secrets Manager can't find the specified secret value for VersionId: {version_id}");
        Self::new("ResourceNotFoundException", message)
    }

    pub(crate) fn value_not_found_by_stage(stage: &str) -> Self {
        let message = format!("Secrets Manager can't find the specified secret value for staging label: {stage}");
        Self::new("ResourceNotFoundException", message)
    }

    pub(crate) fn marked_for_deletion() -> Self {
        Self::invalid_request("You can't perform this operation on the secret because it was marked for deletion.")
    }

    pub(crate) fn token_in_use(token: &str, arn: &str) -> Self {
        Self::exists(format!(
            "You can't use ClientRequestToken {token} because that value is already in use for a version of secret \
             {arn}."
        ))
    }

    pub(crate) fn serialization(message: impl Into<String>) -> Self {
        Self::new("SerializationException", message)
    }

    pub(crate) fn unknown_operation(operation: &str) -> Self {
        Self::new("UnknownOperationException", format!("The sandbox does not serve {operation}."))
    }

    pub(crate) fn throttled() -> Self {
        Self::new("ThrottlingException", "Rate exceeded")
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new("InternalServiceError", message)
    }

    /// A failure of the service, as ECS names it.
    pub(crate) fn named_by_ecs(self) -> Self {
        match self.kind {
            "InternalServiceError" => Self { kind: "ServerException", ..self },
            _ => self,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self.kind {
            "InternalServiceError" | "ServerException" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
