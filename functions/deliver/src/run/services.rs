//! The ECS services: one look at each, and one deployment for all secrets that it lacks.
//!
//! A copy that is written causes an event, and the event another run. Only the run that attached the label waits until
//! a deployment counts, and starts it if its label is still there. Otherwise each of these runs would start one.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rotation::event::digest;
use rotation::lambda::AUDIT;
use rotation::store::SecretStore;
use rotation::time::format_timestamp;

use super::context::{RESERVE, Run};
use super::source::Source;
use crate::decision::service::{CLOCK_MARGIN, Deployment, SETTLED, ServiceDecision, decide};
use crate::error::DeliverError;
use crate::ports::{ServiceProblem, Services};
use crate::report::Progress;
use crate::settings::Consumer;

/// How long a deployment that may be started is left to the run that attached the label.
const GRACE: Duration = Duration::from_secs(30);

/// A service, by its names.
type Name<'a> = (&'a str, &'a str);

/// A secret that a service lacks: its place among the sources, that of the consumer, and from when on deployments count.
#[derive(Clone, Copy)]
struct Need {
    source: usize,
    consumer: usize,
    counts_from: SystemTime,
}

impl<S: SecretStore, E: Services, F, N> Run<'_, S, E, F, N> {
    /// Brings the values of all secrets that are being delivered to their services.
    pub(super) async fn serve_all(&self, sources: &mut [Source<'_>]) {
        let mut needs: BTreeMap<Name<'_>, Vec<Need>> = BTreeMap::new();
        for (place, source) in sources.iter().enumerate() {
            let Some(began) = source.began else { continue };
            for (consumer, of_source) in source.consumers.iter().enumerate() {
                if let Consumer::Ecs { cluster, service } = of_source {
                    let need = Need { source: place, consumer, counts_from: began + SETTLED };
                    needs.entry((cluster, service)).or_default().push(need);
                }
            }
        }
        let mut jitter = self.jitter();
        for (name, needs) in needs {
            let result = if self.is_over() {
                Err(DeliverError::TimeTooShort)
            } else {
                self.serve(name, &needs, sources, &mut jitter).await
            };
            let progress = result.unwrap_or_else(|error| {
                let ((cluster, service), error_type) = (name, error.name());
                tracing::error!(target: AUDIT, request_id = self.request_id, cluster, service, error_type, %error, "not delivered");
                vec![Progress::Failed(error); needs.len()]
            });
            for (need, progress) in needs.iter().zip(progress) {
                sources[need.source].progress[need.consumer] = progress;
            }
        }
    }

    /// How far each need is, after a deployment was started if there has to be one.
    async fn serve(
        &self,
        name: Name<'_>,
        needs: &[Need],
        sources: &[Source<'_>],
        jitter: &mut Duration,
    ) -> Result<Vec<Progress>, DeliverError> {
        let mut deployments = self.deployments(name, needs).await?;
        let Some(from) = self.starts_from(&deployments, needs) else {
            return Ok(self.progress(name, &deployments, needs));
        };
        self.require_deployable(name).await?;
        if self.dry_run {
            return Ok(self.pending(name, &deployments, needs, "a deployment would be started"));
        }
        let now = self.clock.time();
        let pause = from.duration_since(now).unwrap_or_default() + *jitter;
        let left_to_another = now < from + GRACE && !needs.iter().any(|need| sources[need.source].is_ours);
        if left_to_another || self.deadline.left() < pause + RESERVE {
            let until = format!("a later run starts a deployment, at {} or later", format_timestamp(from));
            return Ok(self.pending(name, &deployments, needs, &until));
        }
        self.deadline.pause(pause).await;
        // Two runs that are apart once stay apart.
        *jitter = Duration::ZERO;
        for need in needs {
            if !self.is_still_marked(&sources[need.source]).await? {
                return Ok(self.pending(name, &deployments, needs, "another run goes on"));
            }
        }
        // Somebody else may have started one meanwhile.
        deployments = self.deployments(name, needs).await?;
        if self.starts_from(&deployments, needs).is_none() {
            return Ok(self.progress(name, &deployments, needs));
        }
        let (cluster, service) = name;
        if let Err(problem) = self.ports.services.force_deployment(cluster, service).await {
            // The answer may be lost, and the service deployed all the same.
            let now = self.deployments(name, needs).await?;
            return match self.starts_from(&now, needs) {
                None => Ok(self.progress(name, &now, needs)),
                Some(_) => Err(told(name, problem)),
            };
        }
        tracing::info!(target: AUDIT, request_id = self.request_id, cluster, service, result = "deployed", "delivery");
        Ok(self.pending(name, &deployments, needs, "a deployment was started"))
    }

    /// 0 to 7 seconds, another number for each request. Two runs at the same moment look again one after the other, and
    /// the second one sees the deployment of the first.
    fn jitter(&self) -> Duration {
        let digit = u64::from_str_radix(&digest([self.request_id])[..1], 16).unwrap_or_default();
        Duration::from_secs(digit % 8)
    }

    /// The deployments that may count. One call.
    async fn deployments(&self, name: Name<'_>, needs: &[Need]) -> Result<Vec<Deployment>, DeliverError> {
        let after = needs.iter().map(|need| need.counts_from).min().unwrap_or(SystemTime::UNIX_EPOCH);
        let found = self.ports.services.deployments(name.0, name.1, after).await;
        found.map_err(|problem| told(name, problem))
    }

    /// From when on a deployment may be started, if one has to be.
    fn starts_from(&self, deployments: &[Deployment], needs: &[Need]) -> Option<SystemTime> {
        let lacking = needs.iter().filter(|need| self.decide(deployments, need) == ServiceDecision::Start);
        lacking.map(|need| need.counts_from + CLOCK_MARGIN).max()
    }

    fn decide(&self, deployments: &[Deployment], need: &Need) -> ServiceDecision {
        decide(deployments, need.counts_from, self.clock.time(), self.deliverer.settings.delivery_limit)
    }

    /// How far each need is. `start` is told for a need that lacks a deployment.
    fn pending(&self, name: Name<'_>, deployments: &[Deployment], needs: &[Need], start: &str) -> Vec<Progress> {
        let (cluster, service) = (name.0.to_owned(), name.1.to_owned());
        let progress = |need: &Need| match self.decide(deployments, need) {
            ServiceDecision::HasIt => Progress::Delivered,
            ServiceDecision::Start => Progress::Pending(start.to_owned()),
            ServiceDecision::Rolling { created } => {
                Progress::Pending(format!("the deployment of {} is in progress", format_timestamp(created)))
            }
            ServiceDecision::Late { created } => {
                let (cluster, service, limit) =
                    (cluster.clone(), service.clone(), self.deliverer.settings.delivery_limit);
                Progress::Failed(DeliverError::DeploymentLate { cluster, service, created, limit })
            }
            ServiceDecision::Failed { created, status, reason } => {
                let (cluster, service, problem) = (cluster.clone(), service.clone(), reason);
                Progress::Failed(DeliverError::DeploymentFailed { cluster, service, status, created, problem })
            }
        };
        needs.iter().map(progress).collect()
    }

    fn progress(&self, name: Name<'_>, deployments: &[Deployment], needs: &[Need]) -> Vec<Progress> {
        let progress = self.pending(name, deployments, needs, "a deployment has to be started");
        for failed in &progress {
            if let Progress::Failed(error) = failed {
                let ((cluster, service), error_type) = (name, error.name());
                tracing::error!(target: AUDIT, request_id = self.request_id, cluster, service, error_type, %error, "not delivered");
            }
        }
        progress
    }

    /// Refuses a service that cannot be deployed, or whose deployments prove nothing. One call.
    async fn require_deployable(&self, name: Name<'_>) -> Result<(), DeliverError> {
        let state = self.ports.services.describe(name.0, name.1).await.map_err(|problem| told(name, problem))?;
        let (cluster, service) = (name.0.to_owned(), name.1.to_owned());
        if state.status != "ACTIVE" {
            return Err(DeliverError::ServiceInactive { cluster, service, status: state.status });
        }
        if state.controller != "ECS" {
            return Err(DeliverError::ServiceController { cluster, service, controller: state.controller });
        }
        Ok(())
    }
}

fn told((cluster, service): Name<'_>, problem: ServiceProblem) -> DeliverError {
    let (cluster, service) = (cluster.to_owned(), service.to_owned());
    match problem {
        ServiceProblem::Missing => DeliverError::ServiceMissing { cluster, service },
        ServiceProblem::Refused(problem) => DeliverError::ServiceUnavailable { cluster, service, problem },
    }
}
