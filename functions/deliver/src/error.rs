//! Why a consumer does not have the value. Every error is of one consumer, and the others are delivered all the same.

use std::time::{Duration, SystemTime};

use lambda_runtime::Diagnostic;
use rotation::error::RotationError;
use rotation::store::{StoreError, function_name};
use rotation::time::format_timestamp;

rotation::named_errors! {
    /// Why a consumer does not have the value, or why a request failed.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    #[non_exhaustive]
    pub enum DeliverError {
        /// The event is not a request.
        #[error("event member {member}: {problem}")]
        InvalidRequest {
            /// The member of the event.
            member: String,
            /// The rule that it breaks.
            problem: String,
        },
        /// The secret has no consumers.
        #[error("secret {name} has no consumers: name them in CONSUMERS and CONSUMED_SECRETS")]
        NotConsumed {
            /// The secret's name.
            name: String,
        },
        /// The function does not know what the secret holds.
        #[error(
            "secret {name} is rotated by something else than a function whose name ends with admin-token, encryption-key or issued-credential, so its members are not known: attach one of them, or remove the secret from CONSUMERS"
        )]
        SourceUnknown {
            /// The secret's name.
            name: String,
        },
        /// Another run, or a rotation, changed the secret at the same moment.
        #[error("another run or a rotation changed secret {name} at the same moment: the next run goes on")]
        SourceChanged {
            /// The secret's name.
            name: String,
        },
        /// A text has no members that could be copied.
        #[error("the value of secret {name} is a text, and only members of a JSON object are copied: store a JSON object, and name its member with the tag rotation:field")]
        CopySourceIsText {
            /// The secret's name.
            name: String,
        },
        /// No function rotates the secret, so no members of it are known that could be copied.
        #[error("no function rotates secret {name}, and only the members that a function rotates are copied: remove the copy from CONSUMERS, or have a function rotate the secret")]
        CopySourceByHand {
            /// The secret's name.
            name: String,
        },
        /// The copy holds a value that its source never had.
        #[error("copy {target} holds {what} that {source_name} does not hold, so nothing was written: if the copy is right, store it in {source_name}; else remove it from the copy")]
        CopyDiffers {
            /// The secret with the copy.
            target: String,
            /// The secret that is copied.
            source_name: String,
            /// The member that differs, never its value.
            what: String,
        },
        /// A rotation of the copy's secret is open.
        #[error("a rotation of {target} to version {version} is open: the copy waits for its end")]
        CopyTargetRotating {
            /// The secret with the copy.
            target: String,
            /// The version of the rotation.
            version: String,
        },
        /// The copy's secret does not exist, or has no value.
        #[error("secret {target} does not exist, or has no value: create it with a JSON object, or correct CONSUMERS")]
        CopyTargetMissing {
            /// The secret with the copy.
            target: String,
        },
        /// The copy's secret is scheduled for deletion.
        #[error("secret {target} is scheduled for deletion: restore it, or remove it from CONSUMERS")]
        CopyTargetDeleted {
            /// The secret with the copy.
            target: String,
        },
        /// The copy's secret is not a JSON object.
        #[error("the value of {target} is {problem}: store a JSON object")]
        CopyTargetNotObject {
            /// The secret with the copy.
            target: String,
            /// The shape of the value.
            problem: &'static str,
        },
        /// The copy's secret would be longer than Secrets Manager accepts.
        #[error("{target} would have {bytes} bytes with the copy, and Secrets Manager takes 65536: remove members, or retire keys that no row needs")]
        CopyTargetTooLarge {
            /// The secret with the copy.
            target: String,
            /// The size that it would have.
            bytes: usize,
        },
        /// The copy's secret cannot be read or written for another reason.
        #[error("copy {target}: {reason}")]
        CopyTargetUnusable {
            /// The secret with the copy.
            target: String,
            /// The reason.
            reason: Box<RotationError>,
        },
        /// Somebody changed the copy's secret at the same moment, three times.
        #[error("somebody changed {target} at the same moment: the next run writes the copy")]
        CopyTargetChanged {
            /// The secret with the copy.
            target: String,
        },
        /// The service does not exist.
        #[error("there is no service {service} in cluster {cluster}: correct CONSUMERS, or create the service")]
        ServiceMissing {
            /// The cluster.
            cluster: String,
            /// The service.
            service: String,
        },
        /// The service is being deleted, or is deleted.
        #[error("service {cluster}/{service} is {status}: remove it from CONSUMERS, or create it again")]
        ServiceInactive {
            /// The cluster.
            cluster: String,
            /// The service.
            service: String,
            /// Its status, as ECS names it.
            status: String,
        },
        /// The service has another deployment controller than ECS.
        #[error("service {cluster}/{service} has the deployment controller {controller}, and only ECS proves a deployment: deploy it by a function of yours, as a consumer of the kind function")]
        ServiceController {
            /// The cluster.
            cluster: String,
            /// The service.
            service: String,
            /// The controller, as ECS names it.
            controller: String,
        },
        /// ECS refused a call, or did not answer.
        #[error("service {cluster}/{service}: {problem}")]
        ServiceUnavailable {
            /// The cluster.
            cluster: String,
            /// The service.
            service: String,
            /// The words of ECS, or why there was no answer.
            problem: String,
        },
        /// The deployment failed. It is not repeated for this value.
        #[error("the deployment of {cluster}/{service} of {} ended as {status} ({problem}): fix the cause, then deploy the service again", format_timestamp(*.created))]
        DeploymentFailed {
            /// The cluster.
            cluster: String,
            /// The service.
            service: String,
            /// The status, as ECS names it.
            status: String,
            /// When the deployment was created.
            created: SystemTime,
            /// The reason that ECS gives.
            problem: String,
        },
        /// The deployment has been in progress for too long.
        #[error("the deployment of {cluster}/{service} of {} has not ended after {} (DELIVERY_LIMIT): look at the events of the service", format_timestamp(*.created), humantime(*.limit))]
        DeploymentLate {
            /// The cluster.
            cluster: String,
            /// The service.
            service: String,
            /// When the deployment was created.
            created: SystemTime,
            /// The limit.
            limit: Duration,
        },
        /// The function does not exist.
        #[error("there is no function {function}: correct CONSUMERS, or create the function")]
        FunctionMissing {
            /// The function.
            function: String,
        },
        /// The function answered `failed`, or raised an error.
        #[error("function {function} failed: {problem}")]
        FunctionFailed {
            /// The function.
            function: String,
            /// The reason in its answer, or the type of its error.
            problem: String,
        },
        /// The function did not answer in time.
        #[error("function {function} did not answer within {} s or ran into its own timeout: have it answer pending, and go on in the background", .limit.as_secs())]
        FunctionTimedOut {
            /// The function.
            function: String,
            /// The time that it had.
            limit: Duration,
        },
        /// The function's answer is not of the expected form.
        #[error(r#"function {function} answered {problem}: expected {{"status":"done"}}, or "pending" or "failed" with a "reason""#)]
        FunctionAnswer {
            /// The function.
            function: String,
            /// The shape of the answer.
            problem: String,
        },
        /// Lambda refused the call, or did not answer.
        #[error("function {function} could not be invoked: {problem}")]
        FunctionUnavailable {
            /// The function.
            function: String,
            /// The words of Lambda, or why there was no answer.
            problem: String,
        },
        /// The invocation has no time left. The next run goes on.
        #[error("no time was left: the next run goes on; raise the function's timeout if this repeats")]
        TimeTooShort,
        /// An error that also ends rotations.
        #[error(transparent)]
        Rotation(#[from] RotationError),
    }
}

fn humantime(duration: Duration) -> String {
    let minutes = duration.as_secs() / 60;
    if minutes.is_multiple_of(60) { format!("{} h", minutes / 60) } else { format!("{minutes} min") }
}

impl From<StoreError> for DeliverError {
    fn from(error: StoreError) -> Self {
        Self::Rotation(error.into())
    }
}

impl From<DeliverError> for Diagnostic {
    fn from(error: DeliverError) -> Self {
        Self { error_type: error.name().to_owned(), error_message: error.to_string() }
    }
}

impl DeliverError {
    /// The stable name: `errorType` of the invocation, and `error` of a consumer in the answer.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rotation(error) => error.name(),
            own => own.variant(),
        }
    }

    /// Whether the next run may go on without a repair. Then the consumer is pending, and has not failed.
    #[must_use]
    pub fn waits(&self) -> bool {
        matches!(
            self,
            Self::CopyTargetRotating { .. }
                | Self::CopyTargetChanged { .. }
                | Self::SourceChanged { .. }
                | Self::TimeTooShort
        )
    }

    /// The command that repairs it, or shows its cause. `None` if the message says everything.
    #[must_use]
    pub fn repair(&self) -> Option<String> {
        let manager = |command: &str, target: &str| Some(format!("aws secretsmanager {command} --secret-id {target}"));
        match self {
            // No repair prints a value.
            Self::CopyTargetRotating { target, .. }
            | Self::CopyTargetUnusable { target, .. }
            | Self::CopyDiffers { target, .. } => manager("describe-secret", target),
            Self::CopyTargetMissing { target } => {
                Some(format!("aws secretsmanager create-secret --name {target} --secret-string '{{}}'"))
            }
            Self::CopyTargetDeleted { target } => manager("restore-secret", target),
            Self::ServiceMissing { cluster, .. } => Some(format!("aws ecs list-services --cluster {cluster}")),
            Self::ServiceInactive { cluster, service, .. }
            | Self::ServiceController { cluster, service, .. }
            | Self::ServiceUnavailable { cluster, service, .. }
            | Self::DeploymentLate { cluster, service, .. } => {
                Some(format!("aws ecs describe-services --cluster {cluster} --services {service}"))
            }
            Self::DeploymentFailed { cluster, service, .. } => {
                Some(format!("aws ecs update-service --cluster {cluster} --service {service} --force-new-deployment"))
            }
            Self::FunctionMissing { .. } => Some("aws lambda list-functions".to_owned()),
            Self::FunctionFailed { function, .. }
            | Self::FunctionTimedOut { function, .. }
            | Self::FunctionAnswer { function, .. } => {
                Some(format!("aws logs tail /aws/lambda/{} --since 1h", function_name(function)))
            }
            Self::FunctionUnavailable { function, .. } => {
                Some(format!("aws lambda get-function --function-name {function}"))
            }
            _ => None,
        }
    }
}
