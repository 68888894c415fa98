//! One port for all services: it routes requests, applies faults, and puts the sandbox's time on every answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::lambda_host::LambdaHost;
use axum::body::{Body, Bytes};
use axum::response::IntoResponse as _;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::cloudwatch::CloudWatch;
use crate::ecs::Ecs;
use crate::faults::{Call, Fault, Moment};
use crate::logs;
use crate::secrets_manager;
use crate::secrets_manager::error::{ApiError, ApiResult};
use crate::sns::Sns;
use crate::state::Shared;
use crate::state_machines::StateMachines;

/// The most bytes of a body. No service accepts more; Lambda takes 6 MB.
const MAX_BODY: usize = 16 << 20;
const SECRETS_MANAGER: &str = "secretsmanager.";
const ECS: &str = "AmazonEC2ContainerServiceV20141113.";
const LOGS: &str = "Logs_20140328.";
const STATE_MACHINES: &str = "AWSStepFunctions.";

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox was told to lose this answer")]
struct AnswerLost;

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ecs: Ecs,
    pub(crate) cloudwatch: CloudWatch,
    pub(crate) host: LambdaHost,
    pub(crate) sns: Sns,
    pub(crate) state_machines: StateMachines,
    /// The Lambda API and the control API.
    pub(crate) router: axum::Router,
}

impl Server {
    /// Serves until the task is aborted; open connections end with it.
    pub(crate) async fn run(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(self.clone().serve(stream));
                }
                Err(error) => {
                    // For example, no file descriptor is free: an open connection must end first.
                    tracing::warn!(%error, "no connection accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    }

    async fn serve(self, stream: TcpStream) {
        stream.set_nodelay(true).ok();
        let service = service_fn(|request| self.clone().answer(request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        // A lost answer ends here, and so does a client that goes away.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, AnswerLost> {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return Ok(self.stamp(StatusCode::PAYLOAD_TOO_LARGE.into_response()));
        };
        let body = body.to_bytes();
        let response = if let Some(operation) = target(&parts, SECRETS_MANAGER) {
            let call = |stale| secrets_manager::call(&self.shared, operation, &body, stale);
            json_response(self.json_service(operation, &parts, call).await?)
        } else if let Some(operation) = target(&parts, ECS) {
            let result = self.json_service(operation, &parts, |_| self.ecs.call(operation, &body)).await?;
            // The same failure has another name in each service.
            json_response(result.map_err(ApiError::named_by_ecs))
        } else if let Some(operation) = target(&parts, LOGS) {
            json_response(self.json_service(operation, &parts, |_| logs::call(&self.host, operation, &body)).await?)
        } else if let Some(operation) = target(&parts, STATE_MACHINES) {
            let call = |_| self.state_machines.call(operation, &body, self.shared.clock.now());
            json_response(self.json_service(operation, &parts, call).await?)
        } else if Sns::accepts(&parts) {
            self.sns(&parts, &body).await?
        } else if CloudWatch::accepts(&parts) {
            self.cloudwatch(parts, body).await?
        } else {
            let answered = self.router.clone().oneshot(Request::from_parts(parts, Body::from(body))).await;
            answered.unwrap_or_else(|never: Infallible| match never {})
        };
        Ok(self.stamp(response))
    }

    fn stamp(&self, mut response: Response<Body>) -> Response<Body> {
        let date = httpdate::fmt_http_date(self.shared.clock.now());
        if let Ok(date) = HeaderValue::try_from(date) {
            response.headers_mut().insert(header::DATE, date);
        }
        response
    }

    /// A service that speaks awsJson1.1. The call is told whether its reads are to be stale.
    async fn json_service(
        &self,
        operation: &str,
        parts: &Parts,
        call: impl FnOnce(bool) -> ApiResult<Value>,
    ) -> Result<ApiResult<Value>, AnswerLost> {
        let caller = self.caller(parts);
        self.shared.count_call(&caller.name(), operation);
        Ok(match self.strike(operation, &caller).await {
            Verdict::Refuse(error) => Err(error),
            Verdict::LoseRequest => return Err(AnswerLost),
            Verdict::Serve { stale, lose_answer } => {
                let result = call(stale);
                self.lose(lose_answer)?;
                result
            }
        })
    }

    async fn sns(&self, parts: &Parts, body: &Bytes) -> Result<Response<Body>, AnswerLost> {
        let caller = self.caller(parts);
        let operation = Sns::operation(body);
        self.shared.count_call(&caller.name(), &operation);
        match self.strike(&operation, &caller).await {
            Verdict::Refuse(error) if error.status() == StatusCode::BAD_REQUEST => Ok(Sns::throttle()),
            Verdict::Refuse(_) => Ok(Sns::fail()),
            Verdict::LoseRequest => Err(AnswerLost),
            Verdict::Serve { lose_answer, .. } => {
                let response = self.sns.handle(body, self.shared.clock.now());
                self.lose(lose_answer)?;
                Ok(response)
            }
        }
    }

    async fn cloudwatch(&self, parts: Parts, body: Bytes) -> Result<Response<Body>, AnswerLost> {
        let caller = self.caller(&parts);
        let operation = cloudwatch_operation(&parts, &body);
        match self.strike(&operation, &caller).await {
            // An error without a body is understood in each of CloudWatch's protocols.
            Verdict::Refuse(error) if error.status() == StatusCode::BAD_REQUEST => {
                Ok(StatusCode::TOO_MANY_REQUESTS.into_response())
            }
            Verdict::Refuse(error) => Ok(error.status().into_response()),
            Verdict::LoseRequest => Err(AnswerLost),
            Verdict::Serve { lose_answer, .. } => {
                let response = self.cloudwatch.handle(parts, body).await;
                self.lose(lose_answer)?;
                Ok(response)
            }
        }
    }

    /// Applies the faults that come before a call's effect.
    async fn strike(&self, operation: &str, caller: &Caller) -> Verdict {
        let callers: Vec<&str> = caller.function.iter().chain(&caller.access_key).map(String::as_str).collect();
        let faults = self.shared.faults.strike(&Call { operation, callers: &callers, step: None });
        let (mut stale, mut lose_answer) = (false, None);
        for fault in faults {
            match fault {
                Fault::Throttle => return Verdict::Refuse(ApiError::throttled()),
                Fault::InternalServiceError => {
                    return Verdict::Refuse(ApiError::internal("An error occurred on the server side."));
                }
                Fault::Delay { millis } => tokio::time::sleep(Duration::from_millis(millis)).await,
                Fault::StaleRead => stale = true,
                Fault::LostAnswer => lose_answer = lose_answer.or(Some(Loss::Answer)),
                Fault::KillFunction { function, when: Moment::Before } => {
                    self.shared.invoker.kill_running(&function);
                    return Verdict::LoseRequest;
                }
                Fault::KillFunction { function, when: Moment::After } => lose_answer = Some(Loss::Killing(function)),
            }
        }
        Verdict::Serve { stale, lose_answer }
    }

    /// Applies the faults that come after a call's effect.
    fn lose(&self, loss: Option<Loss>) -> Result<(), AnswerLost> {
        match loss {
            None => Ok(()),
            Some(Loss::Answer) => Err(AnswerLost),
            Some(Loss::Killing(function)) => {
                self.shared.invoker.kill_running(&function);
                Err(AnswerLost)
            }
        }
    }

    /// The signer of the request. Signatures are not checked, because this AWS has one user.
    fn caller(&self, parts: &Parts) -> Caller {
        let authorization = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let access_key = authorization
            .and_then(|value| value.split_once("Credential="))
            .and_then(|(_, credential)| credential.split_once('/'))
            .map(|(access_key, _)| access_key.to_owned());
        let function =
            access_key.as_deref().and_then(|access_key| self.shared.invoker.function_of_access_key(access_key));
        Caller { function, access_key }
    }
}

struct Caller {
    function: Option<String>,
    access_key: Option<String>,
}

impl Caller {
    /// The function's name, or the access key id, or an empty text.
    fn name(&self) -> String {
        self.function.clone().or_else(|| self.access_key.clone()).unwrap_or_default()
    }
}

enum Verdict {
    Refuse(ApiError),
    LoseRequest,
    Serve { stale: bool, lose_answer: Option<Loss> },
}

enum Loss {
    Answer,
    Killing(String),
}

/// The operation in a request to a service of awsJson1.1.
fn target<'a>(parts: &'a Parts, service: &str) -> Option<&'a str> {
    parts.headers.get("x-amz-target")?.to_str().ok()?.strip_prefix(service)
}

/// The operation's name, from the place that CloudWatch's protocol of the request has for it.
fn cloudwatch_operation(parts: &Parts, body: &[u8]) -> String {
    let target = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    let path = parts.uri.path().split_once("/operation/").map(|(_, operation)| operation);
    let query = || {
        let form = std::str::from_utf8(body).ok()?;
        form.split('&').find_map(|pair| pair.strip_prefix("Action="))
    };
    target.and_then(|target| target.rsplit('.').next()).or(path).or_else(query).unwrap_or_default().to_owned()
}

fn json_response(result: ApiResult<Value>) -> Response<Body> {
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        // The service sends both spellings, depending on the exception; clients accept either.
        Err(error) => {
            (error.status(), json!({ "__type": error.kind, "Message": error.message, "message": error.message }))
        }
    };
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
    if let Ok(id) = HeaderValue::try_from(uuid::Uuid::new_v4().to_string()) {
        headers.insert("x-amzn-requestid", id);
    }
    response
}
