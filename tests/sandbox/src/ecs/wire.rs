//! ECS's requests and answers, in AWS JSON 1.1.
//!
//! The shapes are those of the API model (2014-11-13). The errors' texts were recorded on AWS, unless a comment says
//! otherwise.

use std::time::SystemTime;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::declaration::ServiceDeclaration;
use super::deployment::{DeploymentStatus, ServiceDeployment};
use super::service::Service;
use crate::lambda_host::{ACCOUNT, REGION};
use crate::secrets_manager::error::{ApiError, ApiResult};
use crate::secrets_manager::wire::seconds;

pub(crate) const DEFAULT_CLUSTER: &str = "default";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DescribeServices {
    pub(crate) cluster: Option<String>,
    #[serde(default)]
    pub(crate) services: Vec<String>,
    /// Tags, of which the sandbox has none.
    #[serde(default, rename = "include")]
    _include: Vec<String>,
}

/// The sandbox knows no other change of a service. It refuses the other members rather than ignore them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UpdateService {
    pub(crate) cluster: Option<String>,
    pub(crate) service: String,
    #[serde(default)]
    pub(crate) force_new_deployment: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ListServiceDeployments {
    pub(crate) cluster: Option<String>,
    pub(crate) service: String,
    #[serde(default)]
    pub(crate) status: Vec<String>,
    #[serde(default)]
    pub(crate) created_at: CreatedAt,
    pub(crate) next_token: Option<String>,
    pub(crate) max_results: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreatedAt {
    pub(crate) before: Option<f64>,
    pub(crate) after: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct StopServiceDeployment {
    pub(crate) service_deployment_arn: String,
    pub(crate) stop_type: Option<String>,
}

pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() && error.to_string().starts_with("unknown field") {
            invalid(format!("The sandbox does not serve this request: {error}"))
        } else {
            ApiError::new("SerializationException", error.to_string())
        }
    })
}

pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("InvalidParameterException", message)
}

pub(crate) fn cluster_not_found() -> ApiError {
    ApiError::new("ClusterNotFoundException", "Cluster not found.")
}

pub(crate) fn service_not_found() -> ApiError {
    ApiError::new("ServiceNotFoundException", "Service not found.")
}

pub(crate) fn not_active() -> ApiError {
    ApiError::new("ServiceNotActiveException", "Service was not ACTIVE.")
}

/// The cluster's name in a name or an ARN.
pub(crate) fn cluster_name(text: Option<&str>) -> &str {
    let text = text.filter(|text| !text.is_empty()).unwrap_or(DEFAULT_CLUSTER);
    text.strip_prefix(&format!("arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/")).unwrap_or(text)
}

/// The service's name in a name or an ARN. `None` when the ARN names another cluster.
pub(crate) fn service_name<'a>(text: &'a str, cluster: &str) -> Option<&'a str> {
    match text.strip_prefix(&format!("arn:aws:ecs:{REGION}:{ACCOUNT}:service/")) {
        // The old form has no cluster.
        Some(rest) => match rest.split_once('/') {
            Some((of, name)) => (of == cluster).then_some(name),
            None => Some(rest),
        },
        None => Some(text),
    }
}

fn arn(kind: &str, rest: &str) -> String {
    format!("arn:aws:ecs:{REGION}:{ACCOUNT}:{kind}/{rest}")
}

pub(crate) fn service_arn(cluster: &str, service: &str) -> String {
    arn("service", &format!("{cluster}/{service}"))
}

pub(crate) fn deployment_arn(declaration: &ServiceDeclaration, id: &str) -> String {
    arn("service-deployment", &format!("{}/{id}", declaration.id()))
}

fn revision_arn(declaration: &ServiceDeclaration, revision: u64) -> String {
    arn("service-revision", &format!("{}/{revision:019}", declaration.id()))
}

pub(crate) fn missing(cluster: &str, service: &str) -> Value {
    let arn = if service.starts_with("arn:") { service.to_owned() } else { service_arn(cluster, service) };
    json!({ "arn": arn, "reason": "MISSING" })
}

/// A service as DescribeServices and UpdateService answer it.
pub(crate) fn service(service: &Service) -> Value {
    let ServiceDeclaration { cluster, tasks, circuit_breaker, rollback, .. } = &service.declaration;
    let running = if service.active { service.tasks.len() } else { 0 };
    let mut answer = json!({
        "serviceArn": service_arn(cluster, &service.declaration.service),
        "serviceName": service.declaration.service,
        "clusterArn": arn("cluster", cluster),
        "loadBalancers": [],
        "serviceRegistries": [],
        "status": if service.active { "ACTIVE" } else { "INACTIVE" },
        "desiredCount": if service.active { *tasks } else { 0 },
        "runningCount": running,
        "pendingCount": service.pending_tasks(),
        "launchType": "FARGATE",
        "taskDefinition": task_definition(service),
        "deploymentConfiguration": {
            "deploymentCircuitBreaker": { "enable": circuit_breaker, "rollback": circuit_breaker & rollback },
            "maximumPercent": 200,
            "minimumHealthyPercent": 100,
            "strategy": "ROLLING",
        },
        "deployments": if service.active { deployments(service) } else { Vec::new() },
        "events": [],
        "createdAt": seconds(service.created),
        "placementConstraints": [],
        "placementStrategy": [],
        "schedulingStrategy": "REPLICA",
        "enableECSManagedTags": false,
        "propagateTags": "NONE",
        "enableExecuteCommand": false,
    });
    if let Some(controller) = service.declaration.controller {
        answer["deploymentController"] = json!({ "type": controller.as_str() });
    }
    answer
}

fn task_definition(service: &Service) -> String {
    arn("task-definition", &format!("{}:1", service.declaration.service))
}

/// The newest is `PRIMARY`. Older ones are `ACTIVE` as long as they have tasks.
fn deployments(service: &Service) -> Vec<Value> {
    let newest = service.last();
    let with_tasks = |deployment: &&ServiceDeployment| {
        let running = service.tasks.iter().any(|task| task.revision == deployment.revision);
        running || std::ptr::eq(*deployment, newest)
    };
    let shown = service.deployments.iter().rev().filter(with_tasks);
    shown.map(|deployment| deployment_of(service, deployment, std::ptr::eq(deployment, newest))).collect()
}

fn deployment_of(service: &Service, deployment: &ServiceDeployment, primary: bool) -> Value {
    let running = service.tasks.iter().filter(|task| task.revision == deployment.revision).count();
    let (state, reason) = match deployment.status {
        DeploymentStatus::Successful => ("COMPLETED", format!("ECS deployment {} completed.", deployment.id())),
        status if status.has_ended() => ("FAILED", "ECS deployment circuit breaker: task failed to start.".to_owned()),
        _ => ("IN_PROGRESS", format!("ECS deployment {} in progress.", deployment.id())),
    };
    json!({
        "id": deployment.id(),
        "status": if primary { "PRIMARY" } else { "ACTIVE" },
        "taskDefinition": task_definition(service),
        "desiredCount": if primary { service.declaration.tasks } else { 0 },
        "pendingCount": if primary { service.pending_tasks() } else { 0 },
        "runningCount": running,
        "failedTasks": deployment.failed_tasks,
        "createdAt": seconds(deployment.created),
        "updatedAt": seconds(deployment.changed),
        "launchType": "FARGATE",
        "rolloutState": state,
        "rolloutStateReason": reason,
    })
}

/// A deployment as ListServiceDeployments lists it.
pub(crate) fn brief(service: &Service, deployment: &ServiceDeployment) -> Value {
    let ServiceDeclaration { cluster, service: name, .. } = &service.declaration;
    let mut brief = json!({
        "serviceDeploymentArn": deployment.arn,
        "serviceArn": service_arn(cluster, name),
        "clusterArn": arn("cluster", cluster),
        "createdAt": seconds(deployment.created),
        "targetServiceRevisionArn": revision_arn(&service.declaration, deployment.revision),
        "status": deployment.status.as_str(),
    });
    let times = [("startedAt", deployment.started), ("finishedAt", deployment.finished)];
    for (member, time) in times.into_iter().filter_map(|(member, time)| Some((member, time?))) {
        brief[member] = json!(seconds(time));
    }
    if let Some(reason) = &deployment.reason {
        brief["statusReason"] = json!(reason);
    }
    brief
}

/// An event in the form that EventBridge delivers (ECS developer guide, "Amazon ECS service deployment state change
/// events").
pub(crate) fn state_change(service: &Service, notice: &super::service::Notice, now: SystemTime) -> Value {
    let time = jiff::Timestamp::try_from(now).map(|time| format!("{time:.0}")).unwrap_or_default();
    json!({
        "version": "0",
        "id": Uuid::new_v4().to_string(),
        "detail-type": "ECS Deployment State Change",
        "source": "aws.ecs",
        "account": ACCOUNT,
        "time": time,
        "region": REGION,
        "resources": [service_arn(&service.declaration.cluster, &service.declaration.service)],
        "detail": {
            "eventType": if notice.error { "ERROR" } else { "INFO" },
            "eventName": notice.name,
            "deploymentId": notice.deployment_id,
            "updatedAt": time,
            "reason": notice.reason,
        },
    })
}
