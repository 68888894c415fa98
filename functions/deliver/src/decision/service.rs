//! Whether a service has the value, by its service deployments.

use std::time::{Duration, SystemTime};

/// The state of a service deployment, as ECS names it (ECS API reference, `ServiceDeployment`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeploymentStatus {
    /// It has not ended: `PENDING`, `IN_PROGRESS`, `STOP_REQUESTED`, `ROLLBACK_REQUESTED`, `ROLLBACK_IN_PROGRESS`, or a
    /// state that this version does not know.
    Open(String),
    /// `SUCCESSFUL`
    Successful,
    /// It ended without success: `STOPPED`, `ROLLBACK_SUCCESSFUL`, `ROLLBACK_FAILED`.
    Failed(String),
}

impl From<&str> for DeploymentStatus {
    fn from(name: &str) -> Self {
        match name {
            "SUCCESSFUL" => Self::Successful,
            "STOPPED" | "ROLLBACK_SUCCESSFUL" | "ROLLBACK_FAILED" => Self::Failed(name.to_owned()),
            _ => Self::Open(name.to_owned()),
        }
    }
}

/// A service deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// When ECS created it.
    pub created: SystemTime,
    /// Its state.
    pub status: DeploymentStatus,
    /// The reason of its state, in the words of ECS.
    pub reason: Option<String>,
}

/// What has to be done for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceDecision {
    /// The service has the value.
    HasIt,
    /// A deployment that counts is in progress.
    Rolling {
        /// When it was created.
        created: SystemTime,
    },
    /// The same for longer than the limit.
    Late {
        /// When it was created.
        created: SystemTime,
    },
    /// The newest deployment that counts failed. It is not repeated for this value.
    Failed {
        /// When it was created.
        created: SystemTime,
        /// Its state, as ECS names it.
        status: String,
        /// The reason, in the words of ECS.
        reason: String,
    },
    /// No deployment counts: one has to be started.
    Start,
}

/// How long after the label's time a deployment has to be created to count. Reads of a secret are eventually consistent,
/// and the clocks of two services differ.
pub const SETTLED: Duration = Duration::from_secs(60);
/// How much later than that a deployment is started, so that it counts by the clock of ECS too.
pub const CLOCK_MARGIN: Duration = Duration::from_secs(5);

/// Decides. `counts_from` is the label's time and [`SETTLED`]. The deployments may stand in any order.
#[must_use]
pub fn decide(
    deployments: &[Deployment],
    counts_from: SystemTime,
    now: SystemTime,
    limit: Duration,
) -> ServiceDecision {
    let counts = || deployments.iter().filter(|deployment| deployment.created >= counts_from);
    if counts().any(|deployment| deployment.status == DeploymentStatus::Successful) {
        return ServiceDecision::HasIt;
    }
    let Some(newest) = counts().max_by_key(|deployment| deployment.created) else { return ServiceDecision::Start };
    let created = newest.created;
    match &newest.status {
        DeploymentStatus::Failed(status) => ServiceDecision::Failed {
            created,
            status: status.clone(),
            reason: newest.reason.clone().unwrap_or_else(|| "ECS gives no reason".to_owned()),
        },
        _ if now.duration_since(created).is_ok_and(|age| age > limit) => ServiceDecision::Late { created },
        _ => ServiceDecision::Rolling { created },
    }
}
