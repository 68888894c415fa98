//! The Runtime API of one process: <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>.

use std::sync::{Arc, Mutex};

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::lambda_host::lock;

/// The most bytes of a response. As on the real service, it is a little more than [`crate::lambda_host::MAX_PAYLOAD`].
const MAX_RESPONSE: usize = 6_291_556;

/// An event for a process.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) request_id: String,
    pub(crate) function_arn: String,
    pub(crate) trace_id: String,
    /// The deadline as Unix time in milliseconds.
    pub(crate) deadline_ms: u128,
    pub(crate) payload: Bytes,
}

/// A message of a process.
#[derive(Debug)]
pub(crate) enum Signal {
    /// The process asks for an event: its initialisation or its previous invocation has ended.
    Ready,
    /// The answer to the process's event.
    Answer(Result<Bytes, Failure>),
    /// Initialisation failed, and the process is about to end.
    InitError(Failure),
}

/// An error in the form for a caller of the function.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error_type: String,
    pub(crate) payload: Bytes,
}

impl Failure {
    /// An error of Lambda itself, not reported by the function.
    pub(crate) fn of_lambda(error_type: &str, message: &str) -> Self {
        let payload = json!({ "errorType": error_type, "errorMessage": message });
        Self { error_type: error_type.to_owned(), payload: payload.to_string().into() }
    }

    fn reported(headers: &HeaderMap, payload: Bytes) -> Self {
        let header = headers.get("lambda-runtime-function-error-type").and_then(|value| value.to_str().ok());
        let body = || {
            let value: Value = serde_json::from_slice(&payload).ok()?;
            Some(value.get("errorType")?.as_str()?.to_owned())
        };
        let error_type = header.map(str::to_owned).or_else(body).unwrap_or_else(|| "Runtime.Unknown".to_owned());
        Self { error_type, payload }
    }
}

/// The host's end of a process's Runtime API.
pub(crate) struct Conversation {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) signals: mpsc::UnboundedReceiver<Signal>,
}

struct Api {
    events: tokio::sync::Mutex<mpsc::Receiver<Event>>,
    signals: mpsc::UnboundedSender<Signal>,
    /// The request that has no answer yet.
    current: Mutex<Option<String>>,
}

/// The server of one process, and the host's end of it.
pub(crate) fn open() -> (Router, Conversation) {
    let (events, incoming) = mpsc::channel(1);
    let (outgoing, signals) = mpsc::unbounded_channel();
    let api = Arc::new(Api { events: incoming.into(), signals: outgoing, current: Mutex::default() });
    let router = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
        .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
        .route("/2018-06-01/runtime/init/error", post(init_error))
        .layer(DefaultBodyLimit::disable())
        .with_state(api);
    (router, Conversation { events, signals })
}

async fn next(State(api): State<Arc<Api>>) -> Response {
    if lock(&api.current).is_some() {
        let message = "Transition from Running to Ready is not allowed: the previous invocation has no response";
        return refuse(StatusCode::FORBIDDEN, "InvalidStateTransition", message);
    }
    // The receiver is gone when the host has given up this process. The host then kills it.
    let _ = api.signals.send(Signal::Ready);
    let Some(event) = api.events.lock().await.recv().await else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "the host has ended this process");
    };
    *lock(&api.current) = Some(event.request_id.clone());
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("lambda-runtime-aws-request-id", event.request_id),
        ("lambda-runtime-deadline-ms", event.deadline_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", event.function_arn),
        ("lambda-runtime-trace-id", event.trace_id),
    ];
    (headers, event.payload).into_response()
}

async fn response(State(api): State<Arc<Api>>, Path(id): Path<String>, payload: Bytes) -> Response {
    let size = payload.len();
    if size > MAX_RESPONSE {
        let message = format!(
            "Response payload size ({size} bytes) exceeded maximum allowed payload size ({MAX_RESPONSE} bytes)."
        );
        let failure = Failure::of_lambda("Function.ResponseSizeTooLarge", &message);
        return match api.answer(&id, Err(failure)) {
            Ok(()) => refuse(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message),
            Err(refusal) => refusal,
        };
    }
    api.answer(&id, Ok(payload)).map_or_else(|refusal| refusal, |()| accepted())
}

async fn error(State(api): State<Arc<Api>>, Path(id): Path<String>, headers: HeaderMap, payload: Bytes) -> Response {
    let failure = Failure::reported(&headers, payload);
    api.answer(&id, Err(failure)).map_or_else(|refusal| refusal, |()| accepted())
}

async fn init_error(State(api): State<Arc<Api>>, headers: HeaderMap, payload: Bytes) -> Response {
    let _ = api.signals.send(Signal::InitError(Failure::reported(&headers, payload)));
    accepted()
}

impl Api {
    #[allow(clippy::result_large_err, reason = "the error is the HTTP answer")]
    fn answer(&self, id: &str, answer: Result<Bytes, Failure>) -> Result<(), Response> {
        let mut current = lock(&self.current);
        if current.as_deref() != Some(id) {
            return Err(refuse(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID"));
        }
        *current = None;
        let _ = self.signals.send(Signal::Answer(answer));
        Ok(())
    }
}

fn accepted() -> Response {
    (StatusCode::ACCEPTED, Json(json!({ "status": "OK" }))).into_response()
}

fn refuse(status: StatusCode, error_type: &str, message: &str) -> Response {
    (status, Json(json!({ "errorType": error_type, "errorMessage": message }))).into_response()
}
