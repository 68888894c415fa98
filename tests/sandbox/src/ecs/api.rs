//! The operations of ECS.

use serde_json::{Value, json};

use super::declaration::Controller;
use super::deployment::ServiceDeployment;
use super::service::Service;
use super::{Ecs, Entry, wire};
use crate::secrets_manager::error::{ApiError, ApiResult};
use crate::secrets_manager::wire::seconds;

const MOST_DESCRIBED: usize = 10;
const PAGE: usize = 20;
const LARGEST_PAGE: usize = 100;

impl Ecs {
    /// Answers a call of the service's API.
    pub(crate) fn call(&self, operation: &str, body: &[u8]) -> ApiResult<Value> {
        match operation {
            "DescribeServices" => self.describe_services(&wire::parse(body)?),
            "UpdateService" => self.update_service(&wire::parse(body)?),
            "ListServiceDeployments" => self.list_service_deployments(&wire::parse(body)?),
            "StopServiceDeployment" => self.stop_service_deployment(&wire::parse(body)?),
            _ => Err(ApiError::unknown_operation(operation)),
        }
    }

    fn describe_services(&self, request: &wire::DescribeServices) -> ApiResult<Value> {
        let cluster = self.cluster(request.cluster.as_deref())?;
        if request.services.is_empty() {
            return Err(wire::invalid("Services cannot be empty."));
        }
        if request.services.len() > MOST_DESCRIBED {
            // The bound is documented; its text is not on record.
            return Err(wire::invalid(format!("Services can have at most {MOST_DESCRIBED} items.")));
        }
        let (mut services, mut failures) = (Vec::new(), Vec::new());
        for asked in &request.services {
            match self.find(cluster, asked, |entry| wire::service(&entry.service)) {
                Ok(service) => services.push(service),
                Err(_) => failures.push(wire::missing(cluster, asked)),
            }
        }
        Ok(json!({ "services": services, "failures": failures }))
    }

    fn update_service(&self, request: &wire::UpdateService) -> ApiResult<Value> {
        let cluster = self.cluster(request.cluster.as_deref())?;
        let now = self.shared.clock.now();
        let updated = self.find(cluster, &request.service, |entry| {
            if !entry.service.active {
                return Err(wire::not_active());
            }
            if request.force_new_deployment {
                refuse_other_controllers(&entry.service)?;
                entry.change(now, |service| {
                    service.deploy(now);
                });
            }
            Ok(json!({ "service": wire::service(&entry.service) }))
        })?;
        self.shared.notify();
        updated
    }

    /// The newest deployment first.
    fn list_service_deployments(&self, request: &wire::ListServiceDeployments) -> ApiResult<Value> {
        let cluster = self.cluster(request.cluster.as_deref())?;
        let size = request.max_results.unwrap_or(PAGE);
        if !(1..=LARGEST_PAGE).contains(&size) {
            return Err(wire::invalid(format!("maxResults: from 1 to {LARGEST_PAGE}")));
        }
        // The page begins after the deployment that the token names.
        let after = request.next_token.as_deref();
        self.find(cluster, &request.service, |entry| {
            let found = entry.service.deployments.iter().rev().filter(|deployment| matches(request, deployment));
            let found: Vec<&ServiceDeployment> = found.collect();
            let begin = match after {
                None => 0,
                Some(token) => {
                    let last = found.iter().position(|deployment| deployment.arn.ends_with(&format!("/{token}")));
                    last.ok_or_else(|| wire::invalid("Invalid token."))? + 1
                }
            };
            let page = &found[begin..found.len().min(begin + size)];
            let mut answer = json!({
                "serviceDeployments": page.iter().map(|shown| wire::brief(&entry.service, shown)).collect::<Vec<_>>()
            });
            if let Some(last) = page.last().filter(|_| begin + page.len() < found.len()) {
                answer["nextToken"] = json!(last.arn.rsplit('/').next());
            }
            Ok(answer)
        })?
    }

    fn stop_service_deployment(&self, request: &wire::StopServiceDeployment) -> ApiResult<Value> {
        if request.stop_type.as_deref().is_some_and(|kind| kind != "ROLLBACK") {
            return Err(wire::invalid("The sandbox serves the stop type ROLLBACK alone."));
        }
        let arn = &request.service_deployment_arn;
        let now = self.shared.clock.now();
        let stopped = self.lock().values_mut().find_map(|entry| {
            let is_last = entry.service.last().arn == *arn;
            let known = entry.service.deployments.iter().any(|deployment| deployment.arn == *arn);
            known.then(|| is_last && entry.change(now, |service| service.request_rollback(now)))
        });
        self.shared.notify();
        match stopped {
            Some(true) => Ok(json!({ "serviceDeploymentArn": arn })),
            // The exception is documented; its text is not on record.
            Some(false) => Err(ApiError::new("ConflictException", "The service deployment has ended.")),
            None => Err(ApiError::new("ServiceDeploymentNotFoundException", "Service deployment not found.")),
        }
    }

    /// The cluster's name, if there is such a cluster.
    fn cluster<'a>(&self, text: Option<&'a str>) -> ApiResult<&'a str> {
        let name = wire::cluster_name(text);
        let known = self.lock().values().any(|entry| entry.service.declaration.cluster == name);
        if known || name == wire::DEFAULT_CLUSTER { Ok(name) } else { Err(wire::cluster_not_found()) }
    }

    fn find<T>(&self, cluster: &str, service: &str, look: impl FnOnce(&mut Entry) -> T) -> ApiResult<T> {
        let name = wire::service_name(service, cluster).ok_or_else(wire::service_not_found)?;
        self.with(&format!("{cluster}/{name}"), look).map_err(|_| wire::service_not_found())
    }
}

fn matches(request: &wire::ListServiceDeployments, deployment: &ServiceDeployment) -> bool {
    let created = seconds(deployment.created);
    (request.status.is_empty() || request.status.iter().any(|status| status == deployment.status.as_str()))
        && request.created_at.before.is_none_or(|before| created < before)
        && request.created_at.after.is_none_or(|after| created > after)
}

/// The text about CodeDeploy was recorded on AWS (aws/aws-sdk#406). The other one is made after it: the API reference
/// says that such a service is deployed by a new task set.
fn refuse_other_controllers(service: &Service) -> ApiResult<()> {
    match service.declaration.controller {
        None | Some(Controller::Ecs) => Ok(()),
        Some(Controller::CodeDeploy) => Err(wire::invalid(
            "Cannot force a new deployment on services with a CODE_DEPLOY deployment controller. Use AWS CodeDeploy \
             to trigger a new deployment.",
        )),
        Some(Controller::External) => Err(wire::invalid(
            "Cannot force a new deployment on services with an EXTERNAL deployment controller. Use a new task set.",
        )),
    }
}
