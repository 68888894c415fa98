//! What the function is asked to do: a request of a person, or an event of EventBridge.

use serde_json::Value;

use crate::decision::function::one_line;
use crate::error::DeliverError;
use crate::settings::{Consumer, Consumers};

/// The secrets that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All secrets with consumers.
    All,
    /// One secret, by its full name, which has consumers.
    Secret(String),
    /// The secret with this name, and the secrets that are copied to it. It may have no consumers.
    Changed(String),
    /// The secrets that this service consumes.
    Service {
        /// The cluster.
        cluster: String,
        /// The service.
        service: String,
    },
}

/// A request, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which secrets.
    pub scope: Scope,
    /// Whether nothing is changed, and the plan is told.
    pub dry_run: bool,
}

/// The longest id of a secret (Secrets Manager API reference, `DescribeSecret`).
const LONGEST_ID: usize = 2_048;

fn invalid(member: &str, problem: &str) -> DeliverError {
    DeliverError::InvalidRequest { member: member.to_owned(), problem: problem.to_owned() }
}

impl Request {
    /// Reads `{}`, `{"secret_id":"NAME or ARN"}`, `{"dry_run":true}`, or an event of EventBridge.
    ///
    /// # Errors
    /// [`DeliverError::InvalidRequest`] names the member. An unknown member is an error.
    pub fn parse(event: &Value) -> Result<Self, DeliverError> {
        let members = event.as_object().ok_or_else(|| invalid("(all)", "expected a JSON object, such as {}"))?;
        if members.contains_key("detail-type") {
            return Ok(Self { scope: scope_of_event(event)?, dry_run: false });
        }
        let mut request = Self { scope: Scope::All, dry_run: false };
        for (name, value) in members {
            match (name.as_str(), value) {
                ("secret_id", Value::String(id)) if (1..=LONGEST_ID).contains(&id.len()) => {
                    request.scope = Scope::Secret(secret_name(id).to_owned());
                }
                ("secret_id", _) => return Err(invalid(name, "expected the name or the ARN of a secret")),
                ("dry_run", Value::Bool(dry_run)) => request.dry_run = *dry_run,
                ("dry_run", _) => return Err(invalid(name, "expected true or false")),
                _ => return Err(invalid(&one_line(name), "is not known; known are secret_id and dry_run")),
            }
        }
        Ok(request)
    }

    /// The full names of the secrets that are asked for, in alphabetical order.
    ///
    /// # Errors
    /// [`DeliverError::NotConsumed`].
    pub fn secrets<'a>(&self, consumers: &'a Consumers) -> Result<Vec<(&'a str, &'a [Consumer])>, DeliverError> {
        let asked: Vec<_> =
            consumers.secrets().filter(|(name, of_secret)| self.scope.contains(name, of_secret)).collect();
        match &self.scope {
            Scope::Secret(name) if asked.is_empty() => Err(DeliverError::NotConsumed { name: name.clone() }),
            _ => Ok(asked),
        }
    }
}

impl Scope {
    fn contains(&self, name: &str, consumers: &[Consumer]) -> bool {
        match self {
            Self::All => true,
            Self::Secret(asked) => asked == name,
            Self::Changed(changed) => {
                changed == name || consumers.contains(&Consumer::Copy { target: changed.clone() })
            }
            Self::Service { cluster, service } => {
                consumers.contains(&Consumer::Ecs { cluster: cluster.clone(), service: service.clone() })
            }
        }
    }
}

fn scope_of_event(event: &Value) -> Result<Scope, DeliverError> {
    let resource = event["resources"].get(0).and_then(Value::as_str).unwrap_or_default();
    match (event["source"].as_str(), event["detail-type"].as_str()) {
        (Some("aws.events"), Some("Scheduled Event")) => Ok(Scope::All),
        // Without a resource that can be read, all secrets are looked at: an event must not be lost.
        (Some("aws.secretsmanager"), Some("Secret Label Updated")) => Ok(match resource.split_once(":secret:") {
            Some(_) => Scope::Changed(secret_name(resource).to_owned()),
            None => Scope::All,
        }),
        (Some("aws.ecs"), Some("ECS Deployment State Change")) => {
            let service = resource.split_once(":service/").and_then(|(_, names)| names.split_once('/'));
            Ok(service.map_or(Scope::All, |(cluster, service)| Scope::Service {
                cluster: cluster.to_owned(),
                service: service.to_owned(),
            }))
        }
        _ => Err(invalid(
            "detail-type",
            "expected a Scheduled Event of aws.events, a Secret Label Updated of aws.secretsmanager, or an ECS Deployment State Change of aws.ecs",
        )),
    }
}

/// The name in an ARN, or the name itself.
fn secret_name(id: &str) -> &str {
    let Some((_, resource)) = id.strip_prefix("arn:").and_then(|arn| arn.split_once(":secret:")) else { return id };
    match resource.rsplit_once('-') {
        Some((name, suffix)) if suffix.len() == 6 && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric()) => name,
        _ => resource,
    }
}
