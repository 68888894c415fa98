//! The variable `CONSUMERS`: the secrets that are delivered, and the consumers of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::policy::consumed_secrets;
use serde_json::Value;

use super::entries::Members;

/// The variable that names the consumers.
pub const CONSUMERS: &str = "CONSUMERS";

/// The longest name of a secret (Secrets Manager API reference, `CreateSecret`).
const LONGEST_SECRET: usize = 512;
/// The longest name of a cluster and of a service (ECS API reference, `CreateCluster`, `CreateService`).
const LONGEST_ECS: usize = 255;
/// The longest name of a function, and of an alias (Lambda API reference, `Invoke`).
const LONGEST_FUNCTION: usize = 64;
const LONGEST_ALIAS: usize = 128;

const EXPECTED: &str = r#"expected one of {"copy":"NAME"}, {"ecs":"CLUSTER/SERVICE"} and {"function":"NAME or ARN, with :ALIAS or without"}"#;

/// A place that holds the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consumer {
    /// The rotated members, in another JSON secret of the stack.
    Copy {
        /// The full name of the other secret.
        target: String,
    },
    /// An ECS service that reads the secret when a task starts.
    Ecs {
        /// The name of the cluster.
        cluster: String,
        /// The name of the service.
        service: String,
    },
    /// A Lambda function of the user's, which brings the value to a place that this project does not know.
    Function {
        /// Its name or ARN, with an alias or without.
        function: String,
    },
}

impl fmt::Display for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy { target } => write!(f, "copy {target}"),
            Self::Ecs { cluster, service } => write!(f, "ecs {cluster}/{service}"),
            Self::Function { function } => write!(f, "function {function}"),
        }
    }
}

impl Consumer {
    /// Reads one entry. Names of secrets get `prefix`.
    fn read(entry: &Value, prefix: &str) -> Result<Self, String> {
        // The outer parser has checked that no member is repeated.
        let member = entry.as_object().filter(|members| members.len() == 1).and_then(|members| members.iter().next());
        let Some((kind, Value::String(name))) = member else { return Err(EXPECTED.to_owned()) };
        match kind.as_str() {
            "copy" => secret_name(prefix, name).map(|target| Self::Copy { target }),
            "ecs" => service(name),
            "function" if is_function(name) => Ok(Self::Function { function: name.clone() }),
            "function" => {
                Err("function: expected the name of a Lambda function or its ARN, with :ALIAS or without".to_owned())
            }
            _ => Err(format!("{kind:?} is not a kind of consumer: {EXPECTED}")),
        }
    }
}

/// The full name of a secret, whose name without the prefix is `name`.
fn secret_name(prefix: &str, name: &str) -> Result<String, String> {
    let full = format!("{prefix}{name}");
    let taken = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+=.@-".contains(&byte);
    if name.is_empty() || full.len() > LONGEST_SECRET || !name.bytes().all(taken) {
        return Err(format!(
            "{name:?} is not the name of a secret without SECRET_NAME_PREFIX: expected letters, digits and /_+=.@-, at most {LONGEST_SECRET} with the prefix"
        ));
    }
    if !prefix.is_empty() && name.starts_with(prefix) {
        return Err(format!("{name:?} begins with SECRET_NAME_PREFIX: leave {prefix:?} away"));
    }
    Ok(full)
}

fn service(name: &str) -> Result<Consumer, String> {
    let is_name = |name: &str| {
        let taken = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        (1..=LONGEST_ECS).contains(&name.len()) && name.bytes().all(taken)
    };
    match name.split_once('/') {
        Some((cluster, service)) if is_name(cluster) && is_name(service) => {
            Ok(Consumer::Ecs { cluster: cluster.to_owned(), service: service.to_owned() })
        }
        _ => Err("ecs: expected CLUSTER/SERVICE, two names of letters, digits, _ and -, and no ARN".to_owned()),
    }
}

/// Whether the text is the name or the ARN of a function. A version number is an alias here: it is never another code.
fn is_function(text: &str) -> bool {
    let part = |part: &str, longest: usize| {
        let taken = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        (1..=longest).contains(&part.len()) && part.bytes().all(taken)
    };
    let name = match text.split_once(":function:") {
        None => text,
        Some((arn, name)) => {
            let parts: Vec<&str> = arn.split(':').collect();
            let [arn, partition, lambda, region, account] = parts[..] else { return false };
            let is_arn = arn == "arn" && lambda == "lambda" && part(partition, 32) && part(region, 32);
            if !is_arn || account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
                return false;
            }
            name
        }
    };
    match name.split_once(':') {
        None => part(name, LONGEST_FUNCTION),
        Some((name, alias)) => part(name, LONGEST_FUNCTION) && part(alias, LONGEST_ALIAS),
    }
}

/// The consumers of every secret that the stack delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumers(BTreeMap<String, Vec<Consumer>>);

impl Consumers {
    /// Reads `CONSUMERS`, and compares its secrets with `CONSUMED_SECRETS`.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] names the secret, and the number of the entry.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let prefix = environment.get("SECRET_NAME_PREFIX").unwrap_or_default();
        let consumers =
            Self::parse(environment.require(CONSUMERS)?, prefix).map_err(|problem| invalid(CONSUMERS, problem))?;
        consumers.check_consumed(&consumed_secrets(environment)?)?;
        Ok(consumers)
    }

    fn parse(text: &str, prefix: &str) -> Result<Self, String> {
        const FORM: &str = r#"expected a JSON object such as {"NAME":[{"ecs":"CLUSTER/SERVICE"}]}"#;
        let Members(secrets) =
            serde_json::from_str::<Members<Value>>(text).map_err(|error| match error.classify() {
                serde_json::error::Category::Data => FORM.to_owned(),
                _ => format!("is not JSON (line {}, column {}): {FORM}", error.line(), error.column()),
            })?;
        if secrets.is_empty() {
            return Err(format!("names no secret: {FORM}"));
        }
        refuse_repeated_members(text)?;
        let mut consumers = BTreeMap::new();
        for (name, list) in secrets {
            let full = secret_name(prefix, &name)?;
            let of_secret = entries(&full, &name, &list, prefix)?;
            if consumers.insert(full, of_secret).is_some() {
                return Err(format!("secret {name:?} stands twice: write all its consumers into one list"));
            }
        }
        let consumers = Self(consumers);
        match consumers.circle() {
            None => Ok(consumers),
            Some(circle) => Err(format!("copies go in a circle: {}", circle.join(" -> "))),
        }
    }

    /// Compares the secrets with `CONSUMED_SECRETS`, by which the other functions wait for deliveries.
    fn check_consumed(&self, consumed: &BTreeSet<String>) -> Result<(), RotationError> {
        let missing = self.0.keys().find(|name| !consumed.contains(*name));
        if let Some(name) = missing {
            let problem =
                format!("lacks {name}, which CONSUMERS names: the stack's functions would not wait for its delivery");
            return Err(invalid("CONSUMED_SECRETS", problem));
        }
        match consumed.iter().find(|name| !self.0.contains_key(*name)) {
            None => Ok(()),
            Some(name) => {
                let problem = format!("names {name}, which CONSUMERS lacks: it would never count as delivered");
                Err(invalid("CONSUMED_SECRETS", problem))
            }
        }
    }

    /// The secrets of a circle of copies, if there is one. The first is also the last.
    fn circle(&self) -> Option<Vec<&str>> {
        fn follow<'a>(consumers: &'a Consumers, path: &mut Vec<&'a str>) -> bool {
            let Some(last) = path.last().copied() else { return false };
            for target in consumers.copies(last) {
                let is_circle = path.contains(&target);
                path.push(target);
                if is_circle || follow(consumers, path) {
                    return true;
                }
                path.pop();
            }
            false
        }
        self.0.keys().find_map(|source| {
            let mut path = vec![source.as_str()];
            if !follow(self, &mut path) {
                return None;
            }
            let first = path.iter().position(|name| Some(name) == path.last()).unwrap_or_default();
            Some(path.split_off(first))
        })
    }

    fn copies<'a>(&'a self, source: &str) -> impl Iterator<Item = &'a str> {
        self.of(source).iter().filter_map(|consumer| match consumer {
            Consumer::Copy { target } => Some(target.as_str()),
            _ => None,
        })
    }

    /// The consumers of the secret with the full name `source`; none if it has none.
    #[must_use]
    pub fn of(&self, source: &str) -> &[Consumer] {
        self.0.get(source).map_or(&[], Vec::as_slice)
    }

    /// The full names of the secrets that are delivered, with their consumers.
    pub fn secrets(&self) -> impl Iterator<Item = (&str, &[Consumer])> {
        self.0.iter().map(|(name, consumers)| (name.as_str(), consumers.as_slice()))
    }
}

/// The consumers of one secret.
fn entries(full: &str, name: &str, list: &Value, prefix: &str) -> Result<Vec<Consumer>, String> {
    let list = list.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| format!("secret {name:?}: expected a list with at least one consumer"))?;
    let mut consumers: Vec<Consumer> = Vec::new();
    for (number, entry) in list.iter().enumerate() {
        let refused = |problem: &str| format!("secret {name:?}, entry {}: {problem}", number + 1);
        let consumer = Consumer::read(entry, prefix).map_err(|problem| refused(&problem))?;
        if consumer == (Consumer::Copy { target: full.to_owned() }) {
            return Err(refused("a secret cannot be copied onto itself"));
        }
        if consumers.contains(&consumer) {
            return Err(refused(&format!("{consumer} stands twice")));
        }
        consumers.push(consumer);
    }
    Ok(consumers)
}

/// Refuses an entry with a repeated member, of which a map keeps only the last.
fn refuse_repeated_members(text: &str) -> Result<(), String> {
    type Entries = Vec<Members<serde::de::IgnoredAny>>;
    // What is not of this form is refused by the caller, which can say where.
    let Ok(Members(secrets)) = serde_json::from_str::<Members<Entries>>(text) else { return Ok(()) };
    for (name, entries) in secrets {
        if let Some(number) = entries.iter().position(|Members(members)| members.len() != 1) {
            return Err(format!("secret {name:?}, entry {}: {EXPECTED}", number + 1));
        }
    }
    Ok(())
}

pub(super) fn invalid(variable: &str, problem: impl Into<String>) -> RotationError {
    RotationError::InvalidConfiguration { variable: variable.to_owned(), problem: problem.into() }
}
