//! The three protocols of CloudWatch, because clients of different age are in use. They are rpcv2Cbor (the SDK for
//! Rust, AWS CLI 1.45, boto3 1.43), JSON 1.0, and the query protocol with XML answers. Each request becomes one
//! [`Value`], and each answer is written from one. `minicbor` reads CBOR, because the AWS SDK links that crate anyway.

mod cbor;
mod json;
mod query;

use std::collections::BTreeMap;
use std::io::Read as _;

use axum::body::{Body, Bytes};
use flate2::read::GzDecoder;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use uuid::Uuid;

/// The most bytes of a request.
const MAX_BODY: usize = 1 << 20;

/// The most bytes of a request after decompression. This bound is the sandbox's own: a small request must not fill the
/// memory.
const MAX_INFLATED: u64 = 16 << 20;

/// The answer of an operation; `None` where the API has none.
pub(crate) type Output = Option<Value>;

/// An error with a code, by which a client can tell it apart.
#[derive(Debug)]
pub(crate) struct ApiError {
    code: Code,
    message: String,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Code {
    InvalidParameterValue,
    InvalidParameterCombination,
    MissingParameter,
    ValidationError,
    MalformedInput,
    RequestEntityTooLarge,
    UnknownOperation,
}

impl ApiError {
    pub(crate) fn new(code: Code, message: String) -> Self {
        Self { code, message }
    }

    pub(crate) fn malformed(reason: impl std::fmt::Display) -> Self {
        Self::new(Code::MalformedInput, format!("The request can't be read: {reason}"))
    }
}

impl Code {
    /// The name in the query protocol, the name of the shape, and the status.
    fn names(self) -> (&'static str, &'static str, StatusCode) {
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Self::InvalidParameterValue => ("InvalidParameterValue", "InvalidParameterValueException", bad),
            Self::InvalidParameterCombination => {
                ("InvalidParameterCombination", "InvalidParameterCombinationException", bad)
            }
            Self::MissingParameter => ("MissingParameter", "MissingRequiredParameterException", bad),
            Self::ValidationError => ("ValidationError", "ValidationError", bad),
            Self::MalformedInput => ("MalformedInput", "SerializationException", bad),
            Self::RequestEntityTooLarge => {
                ("RequestEntityTooLarge", "RequestEntityTooLarge", StatusCode::PAYLOAD_TOO_LARGE)
            }
            Self::UnknownOperation => ("InvalidAction", "UnknownOperationException", bad),
        }
    }
}

/// The values that all three protocols can carry. A null member counts as absent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    /// Seconds since 1970.
    Time(f64),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn map<'a>(members: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        Self::Map(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    pub(crate) fn dimensions(dimensions: &BTreeMap<String, String>) -> Self {
        let dimension =
            |(name, value): (&String, &String)| Self::map([("Name", Self::text(name)), ("Value", Self::text(value))]);
        Self::List(dimensions.iter().map(dimension).collect())
    }

    /// The number in a value. The query protocol has texts only, and JSON can carry `NaN` only as a text.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Cbor,
    Json,
    Query,
}

const SERVICE: &str = "GraniteServiceVersion20100801";
const XML_NAMESPACE: &str = "http://monitoring.amazonaws.com/doc/2010-08-01/";

/// The deepest nesting of a request; the API needs 6.
const MAX_DEPTH: usize = 16;

impl Protocol {
    /// The protocol of a request to CloudWatch, and the operation unless the body names it.
    pub(crate) fn of(parts: &Parts) -> Option<(Self, Option<String>)> {
        if parts.method != Method::POST {
            return None;
        }
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let path = parts.uri.path().strip_prefix("/service/").and_then(|path| path.strip_prefix(SERVICE));
        if let Some(operation) = path.and_then(|path| path.strip_prefix("/operation/")) {
            return Some((Self::Cbor, Some(operation.to_owned())));
        }
        if let Some(target) = header("x-amz-target") {
            let operation = target.strip_prefix(SERVICE)?.strip_prefix('.')?;
            return Some((Self::Json, Some(operation.to_owned())));
        }
        let is_form = header(CONTENT_TYPE.as_str())?.starts_with("application/x-www-form-urlencoded");
        // Other services use this protocol too. The signature names the service.
        let is_ours = header(AUTHORIZATION.as_str()).is_none_or(|signature| signature.contains("/monitoring/"));
        (is_form && is_ours && parts.uri.path() == "/").then_some((Self::Query, None))
    }

    /// The operation and its input.
    pub(crate) fn read(
        self,
        headers: &HeaderMap,
        body: &Bytes,
        operation: Option<String>,
    ) -> Result<(String, BTreeMap<String, Value>), ApiError> {
        if body.len() > MAX_BODY {
            let message = format!("The request must not be larger than {MAX_BODY} bytes.");
            return Err(ApiError::new(Code::RequestEntityTooLarge, message));
        }
        let body = inflate(headers, body)?;
        let input = match self {
            Self::Cbor if body.is_empty() => Value::Map(BTreeMap::new()),
            Self::Cbor => cbor::read(&body)?,
            Self::Json => json::read(serde_json::from_slice(&body).map_err(ApiError::malformed)?),
            Self::Query => query::read(&body)?,
        };
        let Value::Map(input) = input else { return Err(ApiError::malformed("it is no structure")) };
        let operation = match (operation, input.get("Action")) {
            (Some(operation), _) => operation,
            (None, Some(Value::Text(operation))) => operation.clone(),
            _ => return Err(ApiError::new(Code::MissingParameter, "The parameter Action is required.".to_owned())),
        };
        Ok((operation, input))
    }

    pub(crate) fn write(self, operation: &str, output: Output) -> Response<Body> {
        match (self, output) {
            (Self::Cbor, None) => respond(StatusCode::OK, &[("smithy-protocol", "rpc-v2-cbor")], Vec::new()),
            (Self::Cbor, Some(output)) => cbor::respond(StatusCode::OK, &output, &[]),
            (Self::Json, output) => {
                let output = output.unwrap_or_else(|| Value::map([]));
                json::respond(StatusCode::OK, &output, &[])
            }
            (Self::Query, output) => {
                let mut result = String::new();
                if let Some(output) = output {
                    query::element(&mut result, &format!("{operation}Result"), &output);
                }
                query::respond(StatusCode::OK, &format!("{operation}Response"), &result)
            }
        }
    }

    pub(crate) fn write_error(self, error: &ApiError) -> Response<Body> {
        let (code, shape, status) = error.code.names();
        // Clients made for the query protocol read its codes.
        let query_error = format!("{code};Sender");
        let headers = [("x-amzn-query-error", query_error.as_str())];
        let output = Value::map([
            ("__type", Value::text(format!("com.amazonaws.cloudwatch#{shape}"))),
            ("message", Value::text(&error.message)),
        ]);
        match self {
            Self::Cbor => cbor::respond(status, &output, &headers),
            Self::Json => json::respond(status, &output, &headers),
            Self::Query => {
                let error = Value::map([
                    ("Code", Value::text(code)),
                    ("Message", Value::text(&error.message)),
                    ("Type", Value::text("Sender")),
                ]);
                let mut content = String::new();
                query::element(&mut content, "Error", &error);
                query::respond(status, "ErrorResponse", &content)
            }
        }
    }
}

fn inflate(headers: &HeaderMap, body: &Bytes) -> Result<Bytes, ApiError> {
    match headers.get(CONTENT_ENCODING).map(http::HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(body.clone()),
        Some(b"gzip") => {
            let mut inflated = Vec::new();
            let read = GzDecoder::new(&body[..]).take(MAX_INFLATED + 1).read_to_end(&mut inflated);
            if read.map_err(ApiError::malformed)? as u64 > MAX_INFLATED {
                let message = format!("The request must not inflate to more than {MAX_INFLATED} bytes.");
                return Err(ApiError::new(Code::RequestEntityTooLarge, message));
            }
            Ok(inflated.into())
        }
        Some(_) => Err(ApiError::malformed("only gzip is understood as Content-Encoding")),
    }
}

pub(crate) fn respond(status: StatusCode, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::builder().status(status).header("x-amzn-requestid", Uuid::new_v4().to_string());
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    // All headers are this file's own and well-formed.
    response.body(body.into()).unwrap_or_default()
}
