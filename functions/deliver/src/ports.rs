//! The ports to ECS, to the functions of users, and to the receivers of events.

use std::future::Future;
use std::time::{Duration, SystemTime};

use crate::decision::service::Deployment;
use crate::report::Event;

/// A service, as DescribeServices describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceState {
    /// `ACTIVE`, `DRAINING` or `INACTIVE`.
    pub status: String,
    /// The deployment controller: `ECS`, `CODE_DEPLOY` or `EXTERNAL`.
    pub controller: String,
}

/// Why ECS did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceProblem {
    /// There is no such service or cluster.
    Missing,
    /// The words of ECS, or why there was no answer.
    Refused(String),
}

/// ECS.
pub trait Services: Sync {
    /// DescribeServices, of one service.
    fn describe(
        &self,
        cluster: &str,
        service: &str,
    ) -> impl Future<Output = Result<ServiceState, ServiceProblem>> + Send;

    /// ListServiceDeployments: those that were created at `after` or later, the newest first.
    fn deployments(
        &self,
        cluster: &str,
        service: &str,
        after: SystemTime,
    ) -> impl Future<Output = Result<Vec<Deployment>, ServiceProblem>> + Send;

    /// UpdateService with `forceNewDeployment` and nothing else. It is sent once: a second one would start a second
    /// deployment. After a lost answer the caller looks at the deployments.
    fn force_deployment(&self, cluster: &str, service: &str)
    -> impl Future<Output = Result<(), ServiceProblem>> + Send;
}

/// Why a function gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FunctionProblem {
    /// There is no such function.
    Missing,
    /// The function raised an error of this type.
    Raised(String),
    /// There was no answer within the limit, or within the function's own timeout.
    TimedOut,
    /// The words of Lambda, or why there was no answer.
    Refused(String),
}

/// Lambda, for the functions of users.
pub trait Functions: Sync {
    /// Invoke, once, and wait for the answer for at most `limit`.
    fn invoke(
        &self,
        function: &str,
        payload: &str,
        limit: Duration,
    ) -> impl Future<Output = Result<Vec<u8>, FunctionProblem>> + Send;
}

/// The receivers of events.
pub trait Notifications: Sync {
    /// Sends one event. It may arrive more than once, with the same id.
    ///
    /// # Errors
    /// The reason why it was not sent. A failure never fails a delivery.
    fn notify(&self, event: &Event) -> impl Future<Output = Result<(), String>> + Send;
}
