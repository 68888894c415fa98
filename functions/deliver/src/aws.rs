//! The adapters to ECS, Lambda and SNS. No request and no answer of them holds a secret value.

use std::time::{Duration, SystemTime};

use aws_sdk_ecs::config::retry::RetryConfig;
use aws_sdk_ecs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ecs::types::{CreatedAt, DeploymentControllerType, ServiceDeploymentBrief};
use rotation::aws::{FunctionErrorKind, SdkSettings, reason};
use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::secret::SecretText;
use rotation::topic::Topic;

use crate::decision::function::one_line;
use crate::decision::service::{Deployment, DeploymentStatus};
use crate::ports::{FunctionProblem, Functions, Notifications, ServiceProblem, ServiceState, Services};
use crate::report::Event;

/// The most pages of deployments that are read: 100 deployments each, created since a label was attached.
const MAX_PAGES: usize = 10;
const PAGE: i32 = 100;
/// The longest answer of a function that is read.
const LONGEST_ANSWER: usize = 16_384;

/// The clients of the function: made once, beside [`rotation::aws::Clients`].
#[derive(Clone, Debug)]
pub struct DeliveryClients {
    ecs: aws_sdk_ecs::Client,
    functions: rotation::aws::Functions,
    /// Without a topic, events go nowhere.
    events: Option<Topic>,
}

impl DeliveryClients {
    /// Makes the clients from the variables that [`rotation::aws::Clients::from_environment`] and
    /// [`Topic::from_environment`] read, with the overrides `AWS_ENDPOINT_URL_ECS`, `AWS_ENDPOINT_URL_LAMBDA` and
    /// `AWS_ENDPOINT_URL`. It sends nothing.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] and [`RotationError::InsecureUrl`] name the variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let settings = SdkSettings::from_environment(environment)?;
        let ecs = settings.config(environment, "AWS_ENDPOINT_URL_ECS")?;
        Ok(Self {
            ecs: aws_sdk_ecs::Client::new(&ecs),
            functions: settings.functions(environment)?,
            events: Topic::from_environment(environment)?,
        })
    }
}

fn problem<E: ProvideErrorMetadata + std::error::Error + 'static>(error: &SdkError<E>) -> ServiceProblem {
    match error.code() {
        Some("ServiceNotFoundException" | "ClusterNotFoundException") => ServiceProblem::Missing,
        _ => ServiceProblem::Refused(reason(error)),
    }
}

fn deployment(brief: &ServiceDeploymentBrief) -> Option<Deployment> {
    Some(Deployment {
        created: SystemTime::try_from(*brief.created_at()?).ok()?,
        status: DeploymentStatus::from(brief.status()?.as_str()),
        reason: brief.status_reason().map(one_line),
    })
}

impl Services for DeliveryClients {
    async fn describe(&self, cluster: &str, service: &str) -> Result<ServiceState, ServiceProblem> {
        let call = self.ecs.describe_services().cluster(cluster).services(service).send();
        let described = call.await.map_err(|error| problem(&error))?;
        // A service that does not exist is a failure in a successful answer.
        let found = described.services().first().ok_or(ServiceProblem::Missing)?;
        let controller = found.deployment_controller().map(|controller| controller.r#type().as_str());
        Ok(ServiceState {
            status: found.status().unwrap_or("without a status").to_owned(),
            // A service without a controller in its description has the one of ECS (ECS API reference, Service).
            controller: controller.unwrap_or(DeploymentControllerType::Ecs.as_str()).to_owned(),
        })
    }

    async fn deployments(
        &self,
        cluster: &str,
        service: &str,
        after: SystemTime,
    ) -> Result<Vec<Deployment>, ServiceProblem> {
        // "After this time" leaves open whether that time itself is meant.
        let after = CreatedAt::builder().after((after - Duration::from_secs(1)).into()).build();
        let call = self.ecs.list_service_deployments().cluster(cluster).service(service).created_at(after);
        let call = call.max_results(PAGE);
        let mut deployments = Vec::new();
        let mut next = None;
        for _ in 0..MAX_PAGES {
            let page = call.clone().set_next_token(next).send().await.map_err(|error| problem(&error))?;
            deployments.extend(page.service_deployments().iter().filter_map(deployment));
            next = page.next_token;
            if next.is_none() {
                deployments.sort_by_key(|deployment| std::cmp::Reverse(deployment.created));
                return Ok(deployments);
            }
        }
        Err(ServiceProblem::Refused(format!("more than {MAX_PAGES} pages of service deployments")))
    }

    async fn force_deployment(&self, cluster: &str, service: &str) -> Result<(), ServiceProblem> {
        let once = aws_sdk_ecs::config::Builder::new().retry_config(RetryConfig::disabled());
        let call = self.ecs.update_service().cluster(cluster).service(service).force_new_deployment(true);
        let sent = call.customize().config_override(once).send().await;
        sent.map(drop).map_err(|error| problem(&error))
    }
}

impl Functions for DeliveryClients {
    async fn invoke(&self, function: &str, payload: &str, limit: Duration) -> Result<Vec<u8>, FunctionProblem> {
        let (payload, bounds) = (SecretText::new(payload.to_owned()), (limit, Deadline::after(limit)));
        let answered = self.functions.invoke(function, &payload, bounds, LONGEST_ANSWER).await;
        match answered.map_err(|error| error.kind) {
            Ok(answer) => Ok(answer.expose().as_bytes().to_vec()),
            Err(FunctionErrorKind::Missing) => Err(FunctionProblem::Missing),
            Err(FunctionErrorKind::TimedOut) => Err(FunctionProblem::TimedOut),
            Err(FunctionErrorKind::Threw(name)) => {
                Err(FunctionProblem::Raised(name.unwrap_or_else(|| "an error".to_owned())))
            }
            Err(kind) => Err(FunctionProblem::Refused(kind.to_string())),
        }
    }
}

impl Notifications for DeliveryClients {
    async fn notify(&self, event: &Event) -> Result<(), String> {
        match &self.events {
            Some(topic) => topic.send(&event.into()).await,
            None => Ok(()),
        }
    }
}
