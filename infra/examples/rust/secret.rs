//! Reads a version of a JSON secret, with the SDK.
use aws_sdk_secretsmanager::Client;
use serde_json::{Map, Value};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Secret = Map<String, Value>;

/// The members of a version; `None` if no version has the label, or the version has no value yet.
pub(crate) async fn read(client: &Client, secret_id: &str, stage: &str) -> Result<Option<Secret>, Failure> {
    match client.get_secret_value().secret_id(secret_id).version_stage(stage).send().await {
        Ok(answer) => Ok(Some(serde_json::from_str(answer.secret_string().unwrap_or_default())?)),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn text<'a>(secret: &'a Secret, member: &str) -> Option<&'a str> {
    secret.get(member)?.as_str()
}
