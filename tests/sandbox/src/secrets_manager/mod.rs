//! Secrets Manager's operations, with the answers of the service.
//!
//! Storage and wire are the sandbox's own. The `rustack-secretsmanager-*` crates did not fit:
//!
//! - Their provider reads the machine's clock in every operation, so tests cannot move the clock.
//! - Their store is private. Neither a version without a value nor the compare-and-swap of UpdateSecretVersionStage can
//!   be added from outside.
//! - Their rotation is a stub.
//!
//! The rest, the types of some twenty operations, is less than the code to adapt them.
//!
//! Every answer follows the API reference, and answers recorded on AWS. `tests/recorded_facts.rs` has them, case by
//! case. Some of the service's texts are not on record. Then the exception is documented, and the text is ours.

pub(crate) mod error;
mod list;
mod password;
pub(crate) mod secret;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use rotation::testing::{Stages, Written};
use serde_json::{Map, Value, json};

use self::error::{ApiError, ApiResult};
use self::secret::{CURRENT, PENDING, Secret, SecretValue, Tag, Version};
use self::wire::{answer, seconds};
use crate::rotation_service;
use crate::state::{Shared, Stop, Tx};

const DAY: Duration = Duration::from_secs(86_400);
const MAX_TAGS: usize = 50;

/// Answers one operation. A stale read sees each secret as it was before its last write.
pub(crate) fn call(shared: &Arc<Shared>, operation: &str, body: &[u8], stale: bool) -> ApiResult<Value> {
    shared.transact(|tx| match operation {
        "BatchGetSecretValue" => list::batch_get_secret_value(tx, wire::parse(body)?, stale),
        "CancelRotateSecret" => rotation_service::cancel_rotate_secret(tx, wire::parse(body)?),
        "CreateSecret" => create_secret(tx, wire::parse(body)?),
        "DeleteResourcePolicy" => delete_resource_policy(tx, wire::parse(body)?),
        "DeleteSecret" => delete_secret(tx, wire::parse(body)?),
        "DescribeSecret" => describe_secret(tx, wire::parse(body)?, stale),
        "GetRandomPassword" => password::get_random_password(&wire::parse(body)?),
        "GetResourcePolicy" => get_resource_policy(tx, wire::parse(body)?),
        "GetSecretValue" => get_secret_value(tx, wire::parse(body)?, stale),
        "ListSecretVersionIds" => list::list_secret_version_ids(tx, wire::parse(body)?, stale),
        "ListSecrets" => list::list_secrets(tx, wire::parse(body)?),
        "PutResourcePolicy" => put_resource_policy(tx, wire::parse(body)?),
        "PutSecretValue" => put_secret_value(tx, wire::parse(body)?),
        "RestoreSecret" => restore_secret(tx, wire::parse(body)?),
        "RotateSecret" => rotation_service::rotate_secret(tx, wire::parse(body)?),
        "TagResource" => tag_resource(tx, wire::parse(body)?),
        "UntagResource" => untag_resource(tx, wire::parse(body)?),
        "UpdateSecret" => update_secret(tx, wire::parse(body)?),
        "UpdateSecretVersionStage" => update_secret_version_stage(tx, wire::parse(body)?),
        _ => Err(ApiError::unknown_operation(operation)),
    })
}

fn create_secret(tx: &mut Tx<'_>, request: wire::CreateSecret) -> ApiResult<Value> {
    let name = wire::name(request.name)?;
    let token = wire::token(request.client_request_token, ApiError::invalid_request)?;
    wire::text_length("description", request.description.as_deref(), 0..=2048)?;
    wire::text_length("kmsKeyId", request.kms_key_id.as_deref(), 0..=2048)?;
    wire::unsupported("AddReplicaRegions", request.add_replica_regions.as_ref().filter(|regions| !regions.is_empty()))?;
    wire::unsupported("Type", request.partner.as_ref())?;
    let value = wire::value(request.secret_string, request.secret_binary)?;
    let tags = request.tags.unwrap_or_default();
    wire::tags(&tags)?;
    require_few_tags(&tags)?;
    if let Some(existing) = tx.secrets().iter().find(|secret| secret.name == name) {
        if existing.deletion.is_some() {
            return Err(ApiError::invalid_request(
                "You can't create this secret because a secret with this name is already scheduled for deletion.",
            ));
        }
        let same_request = value.is_some() && existing.version(&token).is_some_and(|version| version.value == value);
        return if same_request {
            Ok(json!({ "ARN": existing.arn, "Name": existing.name, "VersionId": token }))
        } else {
            Err(ApiError::exists(format!("The operation failed because the secret {name} already exists.")))
        };
    }
    let mut secret = Secret {
        arn: tx.new_arn(&name),
        name,
        description: request.description.filter(|text| !text.is_empty()),
        kms_key_id: request.kms_key_id.filter(|id| !id.is_empty()),
        tags: (!tags.is_empty()).then_some(tags),
        policy: None,
        created: tx.now,
        last_changed: tx.now,
        last_accessed: None,
        deletion: None,
        versions: Vec::new(),
        stages: Stages::default(),
        rotation: None,
    };
    let version_id = value.is_some().then_some(token);
    if let (Some(value), Some(token)) = (value, &version_id) {
        secret.put(token, value, None, tx.settings().private_put, tx.now)?;
    }
    let created = json!({ "ARN": secret.arn, "Name": secret.name, "VersionId": version_id });
    tx.commit(secret)?;
    Ok(answer(created))
}

fn describe_secret(tx: &mut Tx<'_>, request: wire::BySecretId, stale: bool) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let secret = tx.find_to_read(&id, stale)?;
    let mut description = metadata(secret);
    if let (Some(members), Some(stages)) = (description.as_object_mut(), versions_to_stages(secret)) {
        members.insert("VersionIdsToStages".into(), stages);
    }
    Ok(description)
}

/// The members that DescribeSecret and ListSecrets share.
fn metadata(secret: &Secret) -> Value {
    let rotation = secret.rotation.as_ref();
    let enabled = rotation.filter(|rotation| rotation.enabled);
    let rules = rotation.map(|rotation| {
        let mut rules = rotation.rules.clone();
        if rules.schedule_expression.is_some() {
            // "This value is calculated from the rotation schedule after every successful rotation."
            let schedule = rotation.schedule();
            rules.automatically_after_days =
                rotation.last_rotated.and_then(|last| schedule.and_then(|schedule| schedule.days_after(last)));
        }
        rules
    });
    answer(json!({
        "ARN": secret.arn,
        "Name": secret.name,
        "Description": secret.description,
        "KmsKeyId": secret.kms_key_id,
        "RotationEnabled": rotation.map(|rotation| rotation.enabled),
        "RotationLambdaARN": rotation.map(|rotation| &rotation.lambda_arn),
        "RotationRules": rules,
        "LastRotatedDate": enabled.and_then(|rotation| rotation.last_rotated).map(seconds),
        "LastChangedDate": seconds(secret.last_changed),
        "LastAccessedDate": secret.last_accessed.map(seconds),
        "DeletedDate": secret.deletion.map(seconds),
        "NextRotationDate": enabled.and_then(|rotation| rotation.next).map(seconds),
        "Tags": secret.tags,
        "CreatedDate": seconds(secret.created),
    }))
}

fn versions_to_stages(secret: &Secret) -> Option<Value> {
    let stages: Map<String, Value> = secret
        .versions
        .iter()
        .map(|version| (version.id.clone(), secret.stages_of(&version.id)))
        .filter(|(_, stages)| !stages.is_empty())
        .map(|(id, stages)| (id, json!(stages)))
        .collect();
    (!stages.is_empty()).then_some(Value::Object(stages))
}

fn get_secret_value(tx: &mut Tx<'_>, request: wire::GetSecretValue, stale: bool) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let version_id = wire::version_id("versionId", request.version_id)?;
    wire::text_length("versionStage", request.version_stage.as_deref(), 1..=256)?;
    read_value(tx, &id, version_id.as_deref(), request.version_stage.as_deref(), stale)
}

fn read_value(
    tx: &mut Tx<'_>,
    id: &str,
    version_id: Option<&str>,
    stage: Option<&str>,
    stale: bool,
) -> ApiResult<Value> {
    let secret = tx.find_to_read(id, stale)?;
    secret.require_not_deleted()?;
    let version = select(secret, version_id, stage)?;
    let Some(value) = &version.value else {
        return Err(match version_id {
            Some(version_id) => ApiError::value_not_found_by_id(version_id),
            None => ApiError::value_not_found_by_stage(stage.unwrap_or(CURRENT)),
        });
    };
    let (member, value) = match value {
        SecretValue::Text(text) => ("SecretString", text),
        SecretValue::Binary(base64) => ("SecretBinary", base64),
    };
    let stages = secret.stages_of(&version.id);
    let found = answer(json!({
        "ARN": secret.arn,
        "Name": secret.name,
        "VersionId": version.id,
        member: value,
        "VersionStages": (!stages.is_empty()).then_some(stages),
        "CreatedDate": seconds(version.created),
    }));
    let (arn, version_id) = (secret.arn.clone(), version.id.clone());
    tx.touch(&arn, &version_id);
    Ok(found)
}

fn select<'a>(secret: &'a Secret, version_id: Option<&str>, stage: Option<&str>) -> ApiResult<&'a Version> {
    let Some(version_id) = version_id else {
        let stage = stage.unwrap_or(CURRENT);
        return secret.holder(stage).ok_or_else(|| ApiError::value_not_found_by_stage(stage));
    };
    let version = secret.version(version_id).ok_or_else(|| ApiError::value_not_found_by_id(version_id))?;
    if stage.is_some_and(|stage| !secret.is_at(version_id, stage)) {
        return Err(ApiError::invalid_request(
            "You provided a VersionStage that is not associated to the provided VersionId.",
        ));
    }
    Ok(version)
}

fn put_secret_value(tx: &mut Tx<'_>, request: wire::PutSecretValue) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let token = wire::token(request.client_request_token, ApiError::invalid_request)?;
    let value = wire::value(request.secret_string, request.secret_binary)?;
    let value =
        value.ok_or_else(|| ApiError::invalid_request("You must provide either SecretString or SecretBinary."))?;
    let stages = wire::stages(request.version_stages)?;
    wire::rotation_token(request.rotation_token.as_deref())?;
    let mut secret = tx.find_to_write(&id)?;
    write_value(tx, &mut secret, &token, value, stages.as_deref(), request.rotation_token.as_deref())?;
    let secret = tx.find(&id)?;
    let stages = secret.version(&token).map(|version| secret.stages_of(&version.id));
    Ok(answer(json!({ "ARN": secret.arn, "Name": secret.name, "VersionId": token, "VersionStages": stages })))
}

/// Writes a value, and ends the rotation that a new version abandons.
fn write_value(
    tx: &mut Tx<'_>,
    secret: &mut Secret,
    token: &str,
    value: SecretValue,
    stages: Option<&[String]>,
    rotation_token: Option<&str>,
) -> ApiResult<()> {
    let incomplete =
        secret.incomplete_rotation().filter(|version| version.by_rotation).map(|version| version.id.clone());
    let put = secret.put(token, value, stages, tx.settings().private_put, tx.now)?;
    tx.commit(secret.clone())?;
    if let Some(rotation_token) = rotation_token {
        tx.rotation_token_passed_on(&secret.arn, rotation_token);
    }
    if let (Written::Created, Some(version_id)) = (put, incomplete)
        && !secret.is_at(&version_id, PENDING)
    {
        rotation_service::abandon(tx, &secret.arn, &version_id);
    }
    Ok(())
}

fn update_secret(tx: &mut Tx<'_>, request: wire::UpdateSecret) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let value = wire::value(request.secret_string, request.secret_binary)?;
    let token = wire::token(request.client_request_token, ApiError::invalid_request)?;
    wire::text_length("description", request.description.as_deref(), 0..=2048)?;
    wire::text_length("kmsKeyId", request.kms_key_id.as_deref(), 0..=2048)?;
    let mut secret = tx.find_to_write(&id)?;
    if let Some(description) = request.description {
        secret.description = Some(description).filter(|text| !text.is_empty());
    }
    if let Some(key) = request.kms_key_id {
        secret.kms_key_id = Some(key).filter(|key| !key.is_empty());
    }
    secret.last_changed = tx.now;
    let members = json!({
        "ARN": secret.arn,
        "Name": secret.name,
        "VersionId": value.is_some().then_some(&token),
    });
    match value {
        // "If you call this operation with a ClientRequestToken that matches an existing version's VersionId, the
        // operation results in an error."
        Some(_) if secret.version(&token).is_some() => return Err(ApiError::token_in_use(&token, &secret.arn)),
        Some(value) => write_value(tx, &mut secret, &token, value, None, None)?,
        None => tx.commit(secret)?,
    }
    Ok(answer(members))
}

fn update_secret_version_stage(tx: &mut Tx<'_>, request: wire::UpdateSecretVersionStage) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let stage = wire::required("versionStage", request.version_stage)?;
    wire::text_length("versionStage", Some(&stage), 1..=256)?;
    let remove_from = wire::version_id("removeFromVersionId", request.remove_from_version_id)?;
    let move_to = wire::version_id("moveToVersionId", request.move_to_version_id)?;
    let mut secret = tx.find_to_write(&id)?;
    secret.move_stage(&stage, remove_from.as_deref(), move_to.as_deref(), tx.now)?;
    let updated = json!({ "ARN": secret.arn, "Name": secret.name });
    tx.commit(secret)?;
    Ok(updated)
}

fn delete_secret(tx: &mut Tx<'_>, request: wire::DeleteSecret) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let force = request.force_delete_without_recovery.unwrap_or(false);
    let days = match request.recovery_window_in_days {
        Some(_) if force => {
            return Err(ApiError::invalid_parameter(
                "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.",
            ));
        }
        None => 30,
        Some(days) => u32::try_from(days).ok().filter(|days| (7..=30).contains(days)).ok_or_else(|| {
            ApiError::invalid_parameter("RecoveryWindowInDays value must be between 7 and 30 days (inclusive).")
        })?,
    };
    if force {
        return force_delete(tx, &id);
    }
    let mut secret = tx.find(&id)?.clone();
    if secret.deletion.is_some() {
        return Err(ApiError::marked_for_deletion());
    }
    let deletion = tx.now + DAY * days;
    secret.deletion = Some(deletion);
    secret.last_changed = tx.now;
    let deleted = json!({ "ARN": secret.arn, "Name": secret.name, "DeletionDate": seconds(deletion) });
    let arn = secret.arn.clone();
    tx.commit(secret)?;
    tx.stop(&arn, Stop::Cancelled);
    Ok(deleted)
}

/// "If you forcibly delete an already deleted or nonexistent secret, the operation does not return
/// ResourceNotFoundException."
fn force_delete(tx: &mut Tx<'_>, id: &str) -> ApiResult<Value> {
    let (arn, name) = match tx.find(id) {
        Ok(secret) => (secret.arn.clone(), secret.name.clone()),
        Err(_) => (tx.new_arn(id), id.to_owned()),
    };
    tx.remove(&arn)?;
    Ok(json!({ "ARN": arn, "Name": name, "DeletionDate": seconds(tx.now) }))
}

fn restore_secret(tx: &mut Tx<'_>, request: wire::BySecretId) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let mut secret = tx.find(&id)?.clone();
    secret.deletion = None;
    secret.last_changed = tx.now;
    let restored = json!({ "ARN": secret.arn, "Name": secret.name });
    tx.commit(secret)?;
    Ok(restored)
}

fn require_few_tags(tags: &[Tag]) -> ApiResult<()> {
    if tags.len() > MAX_TAGS {
        return Err(ApiError::invalid_parameter("A secret can have at most 50 tags."));
    }
    Ok(())
}

fn tag_resource(tx: &mut Tx<'_>, request: wire::TagResource) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let new = wire::required("tags", request.tags)?;
    wire::tags(&new)?;
    let mut secret = tx.find_to_write(&id)?;
    let tags = secret.tags.get_or_insert_default();
    for tag in new {
        match tags.iter_mut().find(|old| old.key == tag.key) {
            Some(old) => *old = tag,
            None => tags.push(tag),
        }
    }
    require_few_tags(tags)?;
    secret.last_changed = tx.now;
    tx.commit(secret)?;
    Ok(json!({}))
}

fn untag_resource(tx: &mut Tx<'_>, request: wire::UntagResource) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let keys = wire::required("tagKeys", request.tag_keys)?;
    let mut secret = tx.find_to_write(&id)?;
    if let Some(tags) = &mut secret.tags {
        tags.retain(|tag| !keys.contains(&tag.key));
    }
    secret.last_changed = tx.now;
    tx.commit(secret)?;
    Ok(json!({}))
}

fn get_resource_policy(tx: &mut Tx<'_>, request: wire::BySecretId) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let secret = tx.find(&id)?;
    secret.require_not_deleted()?;
    Ok(answer(json!({ "ARN": secret.arn, "Name": secret.name, "ResourcePolicy": secret.policy })))
}

fn put_resource_policy(tx: &mut Tx<'_>, request: wire::PutResourcePolicy) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let policy = wire::required("resourcePolicy", request.resource_policy)?;
    wire::text_length("resourcePolicy", Some(&policy), 1..=20_480)?;
    if !serde_json::from_str::<Value>(&policy).is_ok_and(|policy| policy.is_object()) {
        return Err(ApiError::malformed_policy());
    }
    set_policy(tx, &id, Some(policy))
}

fn delete_resource_policy(tx: &mut Tx<'_>, request: wire::BySecretId) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    set_policy(tx, &id, None)
}

fn set_policy(tx: &mut Tx<'_>, id: &str, policy: Option<String>) -> ApiResult<Value> {
    let mut secret = tx.find_to_write(id)?;
    secret.policy = policy;
    secret.last_changed = tx.now;
    let changed = json!({ "ARN": secret.arn, "Name": secret.name });
    tx.commit(secret)?;
    Ok(changed)
}
