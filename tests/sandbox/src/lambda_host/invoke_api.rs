//! The part of Lambda's API that `aws lambda invoke` and similar clients use:
//! <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html>.

use axum::Json;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::lambda_host::{
    ACCOUNT, Backend, FunctionConfig, FunctionName, InvokeError, LambdaHost, MAX_PAYLOAD, check_payload, function_arn,
};

/// The largest payload of an asynchronous invocation, in bytes.
const MAX_EVENT_PAYLOAD: usize = 1024 * 1024;

pub(crate) fn router(host: LambdaHost) -> Router {
    Router::new()
        .route("/2015-03-31/functions", get(list))
        .route("/2015-03-31/functions/", get(list))
        .route("/2015-03-31/functions/{name}", get(describe))
        .route("/2015-03-31/functions/{name}/configuration", get(configuration))
        .route("/2015-03-31/functions/{name}/invocations", post(invoke))
        .with_state(host)
}

async fn invoke(
    State(host): State<LambdaHost>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request_id = Uuid::new_v4().to_string();
    let name = with_qualifier(name, query.as_deref());
    let kind = header(&headers, "x-amz-invocation-type").unwrap_or("RequestResponse");
    let limit = if kind == "Event" { MAX_EVENT_PAYLOAD } else { MAX_PAYLOAD };
    let payload = to_bytes(body, limit).await.map_err(|_| InvokeError::RequestTooLarge { limit })?;
    match kind {
        "DryRun" => {
            host.backend(&name)?;
            Ok((StatusCode::NO_CONTENT, [("x-amzn-requestid", request_id)]).into_response())
        }
        "Event" => {
            host.backend(&name)?;
            let payload = check_payload(payload)?;
            let answer = (StatusCode::ACCEPTED, [("x-amzn-requestid", request_id.clone())]).into_response();
            // Lambda would retry a failed event twice, minutes later. The sandbox does not.
            tokio::spawn(async move { host.invoke_with_id(request_id, &name, payload).await });
            Ok(answer)
        }
        "RequestResponse" => {
            let invocation = host.invoke_with_id(request_id, &name, payload).await?;
            let mut response = Response::builder()
                .header("content-type", "application/json")
                .header("x-amzn-requestid", invocation.request_id)
                .header("x-amz-executed-version", "$LATEST");
            if let Some(error) = invocation.function_error {
                response = response.header("x-amz-function-error", error);
            }
            if header(&headers, "x-amz-log-type") == Some("Tail") {
                response = response.header("x-amz-log-result", STANDARD.encode(invocation.log_tail));
            }
            let response = response.body(Body::from(invocation.payload));
            response.map_err(|error| ApiError::from(InvokeError::Service(error.to_string())))
        }
        other => Err(ApiError {
            status: StatusCode::BAD_REQUEST,
            code: "InvalidParameterValueException",
            message: format!("invocation type {other:?} must be RequestResponse, Event or DryRun"),
        }),
    }
}

async fn list(State(host): State<LambdaHost>) -> Response {
    let functions: Vec<Value> =
        host.functions().iter().filter_map(|name| Some(summary(name, &host.backend(name).ok()?))).collect();
    Json(json!({ "Functions": functions })).into_response()
}

async fn describe(
    State(host): State<LambdaHost>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let configuration = find(&host, name, query)?;
    Ok(Json(json!({ "Configuration": configuration, "Tags": {} })).into_response())
}

async fn configuration(
    State(host): State<LambdaHost>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Ok(Json(find(&host, name, query)?).into_response())
}

fn find(host: &LambdaHost, name: String, query: Option<String>) -> Result<Value, ApiError> {
    let name = with_qualifier(name, query.as_deref());
    let backend = host.backend(&name)?;
    let name = FunctionName::parse(&name)?;
    Ok(summary(name.as_str(), &backend))
}

/// A function in the form of FunctionConfiguration.
fn summary(name: &str, backend: &Backend) -> Value {
    let mut summary = json!({
        "FunctionName": name,
        "FunctionArn": function_arn(name),
        "Role": format!("arn:aws:iam::{ACCOUNT}:role/{name}"),
        "Runtime": "provided.al2023",
        "Handler": "bootstrap",
        "PackageType": "Zip",
        "Version": "$LATEST",
        "State": "Active",
        "LastUpdateStatus": "Successful",
    });
    if let Backend::Processes(function) = backend {
        let FunctionConfig { executable, environment, timeout, memory_mb, .. } = function.config();
        summary["Timeout"] = json!(timeout.as_millis().div_ceil(1000) as u64);
        summary["MemorySize"] = json!(memory_mb);
        summary["Environment"] = json!({ "Variables": environment });
        if let Ok(metadata) = std::fs::metadata(executable) {
            summary["CodeSize"] = json!(metadata.len());
            let modified = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
            if let Some(time) = modified {
                summary["LastModified"] = json!(time.strftime("%Y-%m-%dT%H:%M:%S.%3f+0000").to_string());
            }
        }
    }
    summary
}

/// Adds the version or alias from the query to the name.
fn with_qualifier(name: String, query: Option<&str>) -> String {
    let qualifier = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("Qualifier="));
    match qualifier {
        // `$LATEST`, as clients encode it.
        None | Some("%24LATEST" | "$LATEST") => name,
        Some(other) => format!("{name}:{other}"),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An error as Lambda's REST protocol writes it.
struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl From<InvokeError> for ApiError {
    fn from(error: InvokeError) -> Self {
        let (status, code) = match &error {
            InvokeError::FunctionNotFound { .. } => (StatusCode::NOT_FOUND, "ResourceNotFoundException"),
            InvokeError::InvalidName(_) => (StatusCode::BAD_REQUEST, "ValidationException"),
            InvokeError::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException"),
            InvokeError::RequestTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException"),
            InvokeError::InvalidRequestContent(_) => (StatusCode::BAD_REQUEST, "InvalidRequestContentException"),
            InvokeError::Forward(_) | InvokeError::Service(_) | InvokeError::Closed => {
                (StatusCode::INTERNAL_SERVER_ERROR, "ServiceException")
            }
        };
        Self { status, code, message: error.to_string() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let fault = if self.status.is_server_error() { "Service" } else { "User" };
        // The models of this API spell the member both ways, depending on the error.
        let mut body = json!({ "Type": fault, "Message": self.message, "message": self.message });
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            body["Reason"] = json!("ReservedFunctionConcurrentInvocationLimitExceeded");
        }
        let headers = [("x-amzn-errortype", self.code.to_owned()), ("x-amzn-requestid", Uuid::new_v4().to_string())];
        (self.status, headers, Json(body)).into_response()
    }
}
