//! Requests in awsJson1.1, and the bounds of their members.
//!
//! Bounds are those of the service's API model. A member out of bounds is a `ValidationException` in the words of the
//! service's framework. The error never repeats the value, because any member may be sensitive.

use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::{ApiError, ApiResult};
use super::secret::{SecretValue, Tag};
use crate::schedule::RotationRules;

pub(crate) const MAX_SECRET_BYTES: usize = 65_536;
const TOKEN_LENGTH: RangeInclusive<usize> = 32..=64;

macro_rules! request {
    ($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? }) => {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        pub(crate) struct $name {
            $($(#[$attribute])* pub(crate) $field: Option<$type>,)*
        }
    };
}

request!(CreateSecret {
    name: String,
    client_request_token: String,
    description: String,
    kms_key_id: String,
    secret_binary: String,
    secret_string: String,
    tags: Vec<Tag>,
    #[serde(rename = "Type")]
    partner: String,
    add_replica_regions: Vec<Value>,
});
request!(BySecretId { secret_id: String });
request!(GetSecretValue { secret_id: String, version_id: String, version_stage: String });
request!(PutSecretValue {
    secret_id: String,
    client_request_token: String,
    secret_binary: String,
    secret_string: String,
    version_stages: Vec<String>,
    rotation_token: String,
});
request!(UpdateSecret {
    secret_id: String,
    client_request_token: String,
    description: String,
    kms_key_id: String,
    secret_binary: String,
    secret_string: String,
});
request!(UpdateSecretVersionStage {
    secret_id: String,
    version_stage: String,
    remove_from_version_id: String,
    move_to_version_id: String,
});
request!(RotateSecret {
    secret_id: String,
    client_request_token: String,
    #[serde(rename = "RotationLambdaARN")]
    rotation_lambda_arn: String,
    rotation_rules: RotationRules,
    rotate_immediately: bool,
    external_secret_rotation_metadata: Vec<Value>,
    external_secret_rotation_role_arn: String,
});
request!(Filter { key: String, values: Vec<String>, });
request!(ListSecrets {
    include_planned_deletion: bool,
    max_results: i64,
    next_token: String,
    filters: Vec<Filter>,
    sort_order: String,
    sort_by: String,
});
request!(BatchGetSecretValue {
    secret_id_list: Vec<String>,
    filters: Vec<Filter>,
    max_results: i64,
    next_token: String,
});
request!(ListSecretVersionIds { secret_id: String, max_results: i64, next_token: String, include_deprecated: bool });
request!(DeleteSecret { secret_id: String, recovery_window_in_days: i64, force_delete_without_recovery: bool });
request!(TagResource { secret_id: String, tags: Vec<Tag>, });
request!(UntagResource { secret_id: String, tag_keys: Vec<String>, });
request!(PutResourcePolicy { secret_id: String, resource_policy: String });
request!(GetRandomPassword {
    password_length: i64,
    exclude_characters: String,
    exclude_numbers: bool,
    exclude_punctuation: bool,
    exclude_uppercase: bool,
    exclude_lowercase: bool,
    include_space: bool,
    require_each_included_type: bool,
});

pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    // The parser's message may quote the body.
    serde_json::from_slice(body).map_err(|error| {
        ApiError::serialization(format!("The request is not the JSON of this operation (column {}).", error.column()))
    })
}

/// Refuses a member that the sandbox does not support: replicas, and secrets of partners. It must not be ignored
/// silently.
pub(crate) fn unsupported<T>(member: &str, value: Option<&T>) -> ApiResult<()> {
    match value {
        Some(_) => Err(ApiError::invalid_parameter(format!("The sandbox does not support {member}."))),
        None => Ok(()),
    }
}

fn failed(member: &str, constraint: &str) -> ApiError {
    ApiError::validation(format!(
        "1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must {constraint}"
    ))
}

pub(crate) fn required<T>(member: &str, value: Option<T>) -> ApiResult<T> {
    value.ok_or_else(|| failed(member, "not be null"))
}

pub(crate) fn length(member: &str, actual: usize, bounds: RangeInclusive<usize>) -> ApiResult<()> {
    if actual < *bounds.start() {
        Err(failed(member, &format!("have length greater than or equal to {}", bounds.start())))
    } else if actual > *bounds.end() {
        Err(failed(member, &format!("have length less than or equal to {}", bounds.end())))
    } else {
        Ok(())
    }
}

pub(crate) fn text_length(member: &str, value: Option<&str>, bounds: RangeInclusive<usize>) -> ApiResult<()> {
    value.map_or(Ok(()), |value| length(member, value.chars().count(), bounds))
}

pub(crate) fn number(member: &str, value: Option<i64>, bounds: RangeInclusive<i64>) -> ApiResult<Option<usize>> {
    let Some(value) = value else { return Ok(None) };
    if value < *bounds.start() {
        Err(failed(member, &format!("have value greater than or equal to {}", bounds.start())))
    } else if value > *bounds.end() {
        Err(failed(member, &format!("have value less than or equal to {}", bounds.end())))
    } else {
        Ok(usize::try_from(value).ok())
    }
}

pub(crate) fn secret_id(value: Option<String>) -> ApiResult<String> {
    let id = required("secretId", value)?;
    text_length("secretId", Some(&id), 1..=2048)?;
    Ok(id)
}

pub(crate) fn version_id(member: &str, value: Option<String>) -> ApiResult<Option<String>> {
    text_length(member, value.as_deref(), 32..=64)?;
    Ok(value)
}

/// The token of a write. The SDKs and the CLI fill it in. Over plain HTTP its absence is an error, and RotateSecret has
/// an error of its own.
pub(crate) fn token(value: Option<String>, absent: fn(String) -> ApiError) -> ApiResult<String> {
    let token = value
        .ok_or_else(|| absent("You must provide a ClientRequestToken value. We recommend a UUID-type value.".into()))?;
    length("clientRequestToken", token.chars().count(), TOKEN_LENGTH)?;
    Ok(token)
}

pub(crate) fn value(text: Option<String>, binary: Option<String>) -> ApiResult<Option<SecretValue>> {
    match (text, binary) {
        (Some(_), Some(_)) => Err(ApiError::invalid_parameter(
            "You can't specify both a binary secret value and a string secret value in the same secret.",
        )),
        (Some(text), None) => {
            length("secretString", text.len(), 1..=MAX_SECRET_BYTES)?;
            Ok(Some(SecretValue::Text(text)))
        }
        (None, Some(binary)) => {
            let bytes = BASE64.decode(&binary).map_err(|_| ApiError::serialization("SecretBinary is not base64."))?;
            length("secretBinary", bytes.len(), 1..=MAX_SECRET_BYTES)?;
            Ok(Some(SecretValue::Binary(BASE64.encode(bytes))))
        }
        (None, None) => Ok(None),
    }
}

pub(crate) fn stages(stages: Option<Vec<String>>) -> ApiResult<Option<Vec<String>>> {
    if let Some(stages) = &stages {
        length("versionStages", stages.len(), 1..=20)?;
        for stage in stages {
            length("versionStages", stage.chars().count(), 1..=256)?;
        }
    }
    Ok(stages)
}

pub(crate) fn rotation_token(token: Option<&str>) -> ApiResult<()> {
    text_length("rotationToken", token, 36..=256)?;
    match token {
        Some(token) if !token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
            Err(failed("rotationToken", "satisfy regular expression pattern: ^[a-zA-Z0-9\\-]+$"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn filter_value(value: &str) -> ApiResult<()> {
    text_length("filters.values", Some(value), 0..=512)?;
    if value.bytes().all(|b| b.is_ascii_alphanumeric() || b" :_@/+=.-!".contains(&b)) {
        Ok(())
    } else {
        let pattern = "satisfy regular expression pattern: ^\\!?[a-zA-Z0-9 :_@\\/\\+\\=\\.\\-\\!]*$";
        Err(failed("filters.values", pattern))
    }
}

pub(crate) fn tags(tags: &[Tag]) -> ApiResult<()> {
    let mut keys: Vec<&str> = Vec::new();
    for tag in tags {
        text_length("tags", Some(&tag.key), 1..=128)?;
        text_length("tags", Some(&tag.value), 0..=256)?;
        if tag.key.starts_with("aws:") {
            return Err(ApiError::invalid_parameter("Tag keys that start with aws: are reserved."));
        }
        if keys.contains(&tag.key.as_str()) {
            return Err(ApiError::invalid_parameter("Duplicate tag keys are not allowed."));
        }
        keys.push(&tag.key);
    }
    Ok(())
}

/// The name rule, in the service's words.
pub(crate) fn name(value: Option<String>) -> ApiResult<String> {
    let name = required("name", value)?;
    text_length("name", Some(&name), 1..=512)?;
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-/_+=.@!".contains(&b)) {
        Ok(name)
    } else {
        Err(ApiError::validation(
            "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!",
        ))
    }
}

pub(crate) fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Milliseconds, as the service sends.
    #[allow(clippy::cast_precision_loss)] // 2^53 milliseconds are 285,000 years.
    let millis = since.as_millis() as f64;
    millis / 1000.0
}

/// The members of an answer, without those that have no value.
pub(crate) fn answer(members: Value) -> Value {
    match members {
        Value::Object(members) => {
            Value::Object(members.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        }
        other => other,
    }
}
