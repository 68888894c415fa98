//! The control API under `/_sandbox/`: the clock, the events, and the faults.

use std::io;
use std::sync::Arc;

use crate::lambda_host::LambdaHost;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cloudwatch::CloudWatch;
use crate::ecs::{Ecs, ServiceDeclaration};
use crate::event_bus::EventRule;
use crate::events;
use crate::faults::FaultRule;
use crate::scheduler;
use crate::sns::Sns;
use crate::state::Shared;
use crate::state_machines::StateMachines;

#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ecs: Ecs,
    pub(crate) host: LambdaHost,
    pub(crate) cloudwatch: CloudWatch,
    pub(crate) sns: Sns,
    pub(crate) state_machines: StateMachines,
}

const JSON: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

pub(crate) fn router(control: Control) -> Router {
    Router::new()
        .route("/_sandbox/clock", get(clock).post(advance))
        .route("/_sandbox/events", get(event_log))
        .route("/_sandbox/calls", get(calls).delete(reset_calls))
        .route("/_sandbox/metrics", get(metrics))
        .route("/_sandbox/notifications", get(notifications))
        .route("/_sandbox/executions", get(executions))
        .route("/_sandbox/services", get(services).post(run_service))
        .route("/_sandbox/services/{cluster}/{service}", axum::routing::post(change_service).delete(delete_service))
        .route("/_sandbox/rules", axum::routing::post(add_rule))
        .route("/_sandbox/schedules", axum::routing::post(add_schedule))
        .route("/_sandbox/invocations", get(invocations))
        .route("/_sandbox/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/_sandbox/faults/{id}", axum::routing::delete(remove_fault))
        .route("/_sandbox/logs/{function}", get(logs))
        .layer(middleware::from_fn(refuse_web_pages))
        .with_state(control)
}

/// Refuses requests of web pages. A page in a browser can reach 127.0.0.1, but its requests name their origin.
async fn refuse_web_pages(request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::ORIGIN) {
        return refuse(StatusCode::FORBIDDEN, "The control API is not for web pages.");
    }
    next.run(request).await
}

fn answer(body: &Value) -> Response {
    (JSON, format!("{body:#}\n")).into_response()
}

fn refuse(status: StatusCode, reason: &str) -> Response {
    (status, JSON, format!("{:#}\n", json!({ "error": reason }))).into_response()
}

fn time(shared: &Shared) -> Response {
    match events::rfc3339(&shared.clock.now(), serde_json::value::Serializer) {
        Ok(now) => answer(&json!({ "now": now, "ahead_seconds": shared.clock.ahead().as_secs() })),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn clock(State(control): State<Control>) -> Response {
    time(&control.shared)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance: String,
}

/// Answers after every rotation that fell due has ended.
async fn advance(State(control): State<Control>, body: Bytes) -> Response {
    let request: Advance = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!(r#"expected {{"advance": "90d"}}: {error}"#)),
    };
    match humantime::parse_duration(&request.advance) {
        Ok(by) => match scheduler::advance(&control.shared, &control.ecs, by).await {
            Ok(()) => time(&control.shared),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                refuse(StatusCode::BAD_REQUEST, &error.to_string())
            }
            Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("the state can't be saved: {error}")),
        },
        Err(error) => refuse(StatusCode::BAD_REQUEST, &format!("{}: {error}", request.advance)),
    }
}

async fn event_log(State(control): State<Control>) -> Response {
    answer(&json!(control.shared.events()))
}

async fn calls(State(control): State<Control>) -> Response {
    answer(&json!(control.shared.calls()))
}

async fn reset_calls(State(control): State<Control>) -> Response {
    control.shared.reset_calls();
    StatusCode::NO_CONTENT.into_response()
}

async fn metrics(State(control): State<Control>) -> Response {
    answer(&json!(control.cloudwatch.data()))
}

async fn notifications(State(control): State<Control>) -> Response {
    answer(&json!(control.sns.notifications()))
}

async fn executions(State(control): State<Control>) -> Response {
    answer(&json!(control.state_machines.executions()))
}

async fn services(State(control): State<Control>) -> Response {
    answer(&json!(control.ecs.services()))
}

/// Answers when each task has started or failed once.
async fn run_service(State(control): State<Control>, body: Bytes) -> Response {
    let declaration: ServiceDeclaration = match serde_json::from_slice(&body) {
        Ok(declaration) => declaration,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let id = declaration.id();
    match control.ecs.run(declaration).await {
        Ok(_) => told(control.ecs.service(&id)),
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    fail_new_tasks: bool,
}

async fn change_service(State(control): State<Control>, Path(path): Path<(String, String)>, body: Bytes) -> Response {
    match serde_json::from_slice::<Change>(&body) {
        Ok(Change { fail_new_tasks }) => {
            let id = format!("{}/{}", path.0, path.1);
            told(control.ecs.fail_new_tasks(&id, fail_new_tasks).and_then(|()| control.ecs.service(&id)))
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &format!(r#"expected {{"fail_new_tasks": true}}: {error}"#)),
    }
}

async fn delete_service(State(control): State<Control>, Path((cluster, service)): Path<(String, String)>) -> Response {
    match control.ecs.delete(&format!("{cluster}/{service}")) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refuse(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

fn told(service: Result<crate::ecs::RunningService, crate::ecs::NoSuchService>) -> Response {
    match service {
        Ok(service) => answer(&json!(service)),
        Err(error) => refuse(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

async fn add_rule(State(control): State<Control>, body: Bytes) -> Response {
    match serde_json::from_slice::<EventRule>(&body) {
        Ok(rule) => {
            control.shared.bus.add_rule(rule);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSchedule {
    function: String,
    every: String,
    #[serde(default)]
    input: Value,
}

async fn add_schedule(State(control): State<Control>, body: Bytes) -> Response {
    let NewSchedule { function, every, input } = match serde_json::from_slice(&body) {
        Ok(schedule) => schedule,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match humantime::parse_duration(&every) {
        Ok(every) => {
            control.shared.bus.schedule(&function, every, input, control.shared.clock.now());
            control.shared.notify();
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &format!("{every}: {error}")),
    }
}

async fn invocations(State(control): State<Control>) -> Response {
    answer(&json!(control.shared.bus.invocations()))
}

async fn faults(State(control): State<Control>) -> Response {
    let rules: Vec<Value> = control
        .shared
        .faults
        .list()
        .into_iter()
        .map(|(id, rule, matched)| json!({ "id": id, "rule": rule, "matched": matched }))
        .collect();
    answer(&json!(rules))
}

async fn add_fault(State(control): State<Control>, body: Bytes) -> Response {
    match serde_json::from_slice::<FaultRule>(&body) {
        Ok(rule) => answer(&json!({ "id": control.shared.faults.add(rule) })),
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn clear_faults(State(control): State<Control>) -> Response {
    control.shared.faults.clear();
    StatusCode::NO_CONTENT.into_response()
}

async fn remove_fault(State(control): State<Control>, Path(id): Path<u64>) -> Response {
    if control.shared.faults.remove(id) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        refuse(StatusCode::NOT_FOUND, "There is no such fault.")
    }
}

async fn logs(State(control): State<Control>, Path(function): Path<String>) -> Response {
    if !control.host.functions().contains(&function) {
        return refuse(StatusCode::NOT_FOUND, "There is no such function.");
    }
    let mut text = control.host.logs(&function).join("\n");
    text.push('\n');
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}
