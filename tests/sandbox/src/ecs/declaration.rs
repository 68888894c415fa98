//! What a service is made of: its cluster, its tasks, and what their task definition injects.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::lambda_host::{ACCOUNT, REGION};

/// How long an image takes to arrive and a health check to succeed, unless the declaration says otherwise.
const START_TIME: Duration = Duration::from_secs(30);
const SECRET_ARN_PARTS: usize = 7;

/// What deploys a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Controller {
    /// Rolling deployments of ECS itself.
    Ecs,
    /// Deployments of AWS CodeDeploy.
    CodeDeploy,
    /// Task sets of somebody else's controller.
    External,
}

impl Controller {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ecs => "ECS",
            Self::CodeDeploy => "CODE_DEPLOY",
            Self::External => "EXTERNAL",
        }
    }
}

/// A service for [`crate::Ecs::run`]. Each task is a process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceDeclaration {
    /// The cluster's name.
    pub cluster: String,
    /// The service's name.
    pub service: String,
    /// How many tasks run. The default is 2.
    #[serde(default = "two")]
    pub tasks: usize,
    /// The time on the sandbox's clock from the start of a task until it is healthy. The default is 30 s.
    #[serde(default = "start_time", deserialize_with = "duration")]
    pub start_time: Duration,
    /// The program. It prints `listening on http://127.0.0.1:PORT` as its first line, and ends after SIGTERM.
    pub program: PathBuf,
    /// The program's arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Plain variables of the task definition.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The variables that the task definition injects, by name: `valueFrom`, the ARN of a secret, or
    /// `arn:…:secret:NAME:MEMBER::` for one member. [`secret`] and [`member`] write both.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// What deploys the service. `None`, the default, is ECS, which DescribeServices then leaves out.
    #[serde(default)]
    pub controller: Option<Controller>,
    /// Whether the circuit breaker is on, and then whether it rolls back. The default is on, with rollback.
    #[serde(default = "yes")]
    pub circuit_breaker: bool,
    /// Whether the circuit breaker rolls back.
    #[serde(default = "yes")]
    pub rollback: bool,
}

/// `valueFrom` for the whole value of a secret.
#[must_use]
pub fn secret(name: &str) -> String {
    format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}")
}

/// `valueFrom` for one member of a JSON secret.
#[must_use]
pub fn member(name: &str, member: &str) -> String {
    format!("{}:{member}::", secret(name))
}

impl ServiceDeclaration {
    /// Two tasks that start in 30 s, under a circuit breaker that rolls back.
    #[must_use]
    pub fn new(cluster: &str, service: &str, program: PathBuf) -> Self {
        Self {
            cluster: cluster.to_owned(),
            service: service.to_owned(),
            tasks: two(),
            start_time: START_TIME,
            program,
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            secrets: BTreeMap::new(),
            controller: None,
            circuit_breaker: true,
            rollback: true,
        }
    }

    /// With this injected variable.
    #[must_use]
    pub fn with_secret(mut self, variable: &str, value_from: &str) -> Self {
        self.secrets.insert(variable.to_owned(), value_from.to_owned());
        self
    }

    /// With this plain variable.
    #[must_use]
    pub fn with_variable(mut self, variable: &str, value: &str) -> Self {
        self.environment.insert(variable.to_owned(), value.to_owned());
        self
    }

    /// `cluster/service`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.cluster, self.service)
    }

    /// What ECS would refuse in a task definition or a service.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (member, name) in [("cluster", &self.cluster), ("service", &self.service)] {
            if !is_name(name) {
                return Err(format!("{member}: 1 to 255 letters, digits, hyphens and underscores"));
            }
        }
        for (variable, value_from) in &self.secrets {
            ValueFrom::parse(value_from).map_err(|problem| format!("secrets.{variable}: {problem}"))?;
        }
        let both = self.secrets.keys().find(|variable| self.environment.contains_key(*variable));
        match both {
            // ECS refuses it: "The secret name must be unique and not shared with any new or existing environment
            // variables set on the container".
            Some(variable) => Err(format!("{variable} stands in environment and in secrets")),
            None => Ok(()),
        }
    }
}

/// A `valueFrom`: `arn:aws:secretsmanager:region:account:secret:NAME:json-key:version-stage:version-id`, of which the
/// last three may be missing or empty (ECS developer guide, "Pass Secrets Manager secrets through environment
/// variables").
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ValueFrom {
    pub(crate) secret_id: String,
    pub(crate) member: Option<String>,
    pub(crate) stage: Option<String>,
    pub(crate) version_id: Option<String>,
}

impl ValueFrom {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let parts: Vec<&str> = text.split(':').collect();
        let (arn, rest) = parts.split_at(parts.len().min(SECRET_ARN_PARTS));
        let optional = |index: usize| rest.get(index).filter(|part| !part.is_empty()).map(|part| (*part).to_owned());
        match arn {
            ["arn", "aws", "secretsmanager", _, _, "secret", name]
                if !name.is_empty() && matches!(rest.len(), 0 | 3) =>
            {
                let (member, stage, version_id) = (optional(0), optional(1), optional(2));
                Ok(Self { secret_id: arn.join(":"), member, stage, version_id })
            }
            _ => Err("the ARN of a secret, alone or followed by MEMBER:STAGE:VERSION, of which each may be empty"),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn two() -> usize {
    2
}

fn yes() -> bool {
    true
}

fn start_time() -> Duration {
    START_TIME
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_from_names_a_secret_and_what_it_takes_of_it() {
        let whole = ValueFrom::parse(&secret("shop/app")).unwrap();
        assert_eq!((whole.secret_id, whole.member), (secret("shop/app"), None));
        let one = ValueFrom::parse(&member("shop/app", "TOKEN")).unwrap();
        assert_eq!((one.secret_id, one.member, one.stage), (secret("shop/app"), Some("TOKEN".to_owned()), None));
        let versioned = ValueFrom::parse(&format!("{}::AWSPREVIOUS:", secret("shop/app"))).unwrap();
        assert_eq!((versioned.member, versioned.stage.as_deref()), (None, Some("AWSPREVIOUS")));
        for bad in ["shop/app", "arn:aws:ssm:us-east-1:0:parameter:x", &format!("{}:TOKEN", secret("shop/app"))] {
            assert!(ValueFrom::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn declarations_are_read_from_json_and_checked() {
        let read = |text: &str| serde_json::from_str::<ServiceDeclaration>(text);
        let declared = read(r#"{"cluster":"c","service":"s","program":"p","start_time":"5s"}"#).unwrap();
        let expected = ServiceDeclaration {
            start_time: Duration::from_secs(5),
            ..ServiceDeclaration::new("c", "s", PathBuf::from("p"))
        };
        assert_eq!(declared, expected);
        assert!(read(r#"{"cluster":"c","service":"s","program":"p","taks":1}"#).is_err());
        let twice = expected.clone().with_secret("TOKEN", &secret("x")).with_variable("TOKEN", "y");
        assert_eq!(twice.check().unwrap_err(), "TOKEN stands in environment and in secrets");
        let named = ServiceDeclaration { cluster: "a/b".to_owned(), ..expected.clone() };
        assert!(named.check().unwrap_err().starts_with("cluster:"));
        let odd = expected.with_secret("TOKEN", "shop/app");
        assert!(odd.check().unwrap_err().starts_with("secrets.TOKEN:"));
    }
}
