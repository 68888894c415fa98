//! One service deployment, as ListServiceDeployments lists it.

use std::time::{Duration, SystemTime};

/// The time between the creation and the start of a deployment. Examples in the AWS CLI's manual show two seconds.
pub(crate) const PENDING_FOR: Duration = Duration::from_secs(2);

/// The state of a service deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeploymentStatus {
    /// It is created, and has not begun.
    Pending,
    /// Tasks are being replaced.
    InProgress,
    /// A newer deployment takes its place.
    StopRequested,
    /// A newer deployment has taken its place, or the circuit breaker has stopped it without a rollback.
    Stopped,
    /// Somebody has asked for a rollback.
    RollbackRequested,
    /// Its tasks are being replaced by tasks of the revision before it.
    RollbackInProgress,
    /// The rollback has ended.
    RollbackSuccessful,
    /// The rollback has failed too.
    RollbackFailed,
    /// Every task is of this deployment.
    Successful,
}

impl DeploymentStatus {
    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::InProgress => "IN_PROGRESS",
            Self::StopRequested => "STOP_REQUESTED",
            Self::Stopped => "STOPPED",
            Self::RollbackRequested => "ROLLBACK_REQUESTED",
            Self::RollbackInProgress => "ROLLBACK_IN_PROGRESS",
            Self::RollbackSuccessful => "ROLLBACK_SUCCESSFUL",
            Self::RollbackFailed => "ROLLBACK_FAILED",
            Self::Successful => "SUCCESSFUL",
        }
    }

    /// Whether the deployment has ended.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Stopped | Self::RollbackSuccessful | Self::RollbackFailed | Self::Successful)
    }
}

/// A service deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDeployment {
    /// `arn:aws:ecs:…:service-deployment/CLUSTER/SERVICE/ID`.
    pub arn: String,
    /// The state.
    pub status: DeploymentStatus,
    /// Why it is in this state.
    pub reason: Option<String>,
    /// The time of UpdateService, by the sandbox's clock.
    pub created: SystemTime,
    /// The beginning of the first task.
    pub started: Option<SystemTime>,
    /// The end.
    pub finished: Option<SystemTime>,
    /// How many of its tasks did not start.
    pub failed_tasks: u32,
    /// The service revision that it brings.
    pub(crate) revision: u64,
    /// The last change of the state.
    pub(crate) changed: SystemTime,
}

impl ServiceDeployment {
    pub(crate) fn new(arn: String, revision: u64, now: SystemTime) -> Self {
        Self {
            arn,
            status: DeploymentStatus::Pending,
            reason: None,
            created: now,
            started: None,
            finished: None,
            failed_tasks: 0,
            revision,
            changed: now,
        }
    }

    pub(crate) fn enter(&mut self, status: DeploymentStatus, now: SystemTime) {
        self.status = status;
        self.changed = now;
        if status == DeploymentStatus::InProgress {
            self.started = Some(now);
        }
        if status.has_ended() {
            self.finished = Some(now);
        }
    }

    /// The id of the deployment in DescribeServices and in events.
    pub(crate) fn id(&self) -> String {
        format!("ecs-svc/{:019}", self.revision)
    }
}
