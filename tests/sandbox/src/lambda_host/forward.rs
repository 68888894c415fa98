//! Invocations that `cargo lambda watch` runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::lambda_host::{ConfigurationError, Invocation, InvokeError};

/// Lambda's longest timeout. `cargo lambda watch` compiles the function before its first invocation, so a shorter limit
/// would be wrong.
const LIMIT: Duration = Duration::from_secs(900);

pub(crate) struct Forward {
    uri: Uri,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Forward {
    pub(crate) fn new(name: &str, base_url: &str) -> Result<Self, ConfigurationError> {
        let refused = || ConfigurationError::ForwardAddress { url: base_url.to_owned() };
        let base: Uri = base_url.parse().map_err(|_| refused())?;
        let plain = base.scheme_str() == Some("http") && base.path() == "/" && base.query().is_none();
        let authority = base.authority().filter(|_| plain).ok_or_else(refused)?;
        let uri = format!("http://{authority}/2015-03-31/functions/{name}/invocations");
        let uri = uri.parse().map_err(|_| refused())?;
        Ok(Self { uri, client: Client::builder(TokioExecutor::new()).build_http() })
    }

    pub(crate) async fn invoke(self: Arc<Self>, request_id: String, payload: Bytes) -> Result<Invocation, InvokeError> {
        let begin = Instant::now();
        let failed = |reason: String| InvokeError::Forward(format!("{}: {reason}", self.uri));
        let (status, payload) = tokio::time::timeout(LIMIT, self.post(payload))
            .await
            .map_err(|_| failed(format!("no answer within {LIMIT:?}")))?
            .map_err(failed)?;
        // `cargo lambda watch` reports a function error as a server error. The Invoke API answers 200 with a header.
        let function_error = match status {
            StatusCode::OK => None,
            StatusCode::INTERNAL_SERVER_ERROR if is_function_error(&payload) => Some("Unhandled".to_owned()),
            _ => {
                let text: String = String::from_utf8_lossy(&payload).chars().take(300).collect();
                return Err(failed(format!("answered {status}: {text}")));
            }
        };
        Ok(Invocation {
            request_id,
            payload,
            function_error,
            cold: false,
            duration: begin.elapsed(),
            init_duration: None,
            usage: None,
            log_tail: String::new(),
        })
    }

    async fn post(&self, payload: Bytes) -> Result<(StatusCode, Bytes), String> {
        let request = Request::post(self.uri.clone())
            .header("content-type", "application/json")
            .body(Full::new(payload))
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| with_causes(&error))?;
        let status = response.status();
        let payload = response.into_body().collect().await.map_err(|error| with_causes(&error))?;
        Ok((status, payload.to_bytes()))
    }
}

fn is_function_error(payload: &[u8]) -> bool {
    serde_json::from_slice::<Value>(payload).is_ok_and(|value| value.get("errorType").is_some())
}

/// The text of an error and of its causes: hyper names the reason ("connection refused") only in the causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
