//! Secrets Manager: its calls, the classes of its errors, and its clock.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_sdk_secretsmanager::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::builders::GetSecretValueFluentBuilder;
use aws_sdk_secretsmanager::primitives::DateTime;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, RotationRulesType, SecretListEntry, Tag};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_types::date_time::Format;

use crate::deadline::Deadline;
use crate::error::innermost;
use crate::event::{RotationToken, VersionId};
use crate::schedule::RotationRules;
use crate::secret::SecretText;
use crate::store::{
    Described, ListFilter, OperationStore, Page, Put, SecretStore, StoreError, StoreErrorKind, VersionAge, VersionValue,
};
use crate::versions::{Stage, Versions};

/// The time that the service stamped on its last answer (RFC 9110 §6.6.1, `Date`).
#[derive(Clone, Debug)]
pub(super) struct ServiceClock {
    answered: Arc<Mutex<Option<SystemTime>>>,
    machine: fn() -> SystemTime,
}

impl ServiceClock {
    /// A clock that falls back on this machine's clock.
    pub(super) fn new(machine: fn() -> SystemTime) -> Self {
        Self { answered: Arc::default(), machine }
    }

    /// The time of the last answer, or this machine's time if the answer had none.
    fn now(&self) -> SystemTime {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.unwrap_or_else(|| {
            tracing::warn!("the answer of Secrets Manager has no usable header Date: going by this machine's clock");
            (self.machine)()
        })
    }
}

impl Intercept for ServiceClock {
    fn name(&self) -> &'static str {
        "ServiceClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        // An answer without a date clears the time too: the stored time may come from an earlier invocation.
        let time = date.and_then(|date| SystemTime::try_from(date).ok());
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = time;
        Ok(())
    }
}

/// Secrets Manager for one process.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) client: aws_sdk_secretsmanager::Client,
    /// The service's address, for errors.
    pub(super) endpoint: String,
    pub(super) region: String,
    pub(super) clock: ServiceClock,
}

/// Secrets Manager through the SDK, within one invocation's deadline.
#[derive(Clone, Copy, Debug)]
pub struct SecretsManager<'a> {
    pub(super) service: &'a Service,
    pub(super) deadline: Deadline,
}

impl SecretsManager<'_> {
    async fn within_deadline<T, E>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, StoreError>
    where
        E: ProvideErrorMetadata + fmt::Debug,
    {
        match self.deadline.bound(call).await {
            Some(result) => result.map_err(|error| self.classify(operation, &error)),
            None => Err(StoreError {
                operation,
                kind: StoreErrorKind::Unreachable,
                detail: Some(format!("{}, in the time that this invocation had left", self.service.endpoint)),
            }),
        }
    }

    async fn read(&self, call: GetSecretValueFluentBuilder) -> Result<VersionValue, StoreError> {
        const OPERATION: &str = "GetSecretValue";
        let value = self.within_deadline(OPERATION, call.send()).await?;
        let failed = |kind, detail: &str| StoreError { operation: OPERATION, kind, detail: Some(detail.to_owned()) };
        let created = value.created_date.and_then(|date| SystemTime::try_from(date).ok());
        match value.secret_string {
            Some(text) => Ok(VersionValue {
                text: SecretText::new(text),
                created: created.ok_or_else(|| failed(StoreErrorKind::Service, "CreatedDate is missing"))?,
            }),
            None => {
                Err(failed(StoreErrorKind::Binary, "store it as a SecretString: this function rotates text and JSON"))
            }
        }
    }

    async fn put(
        &self,
        secret_id: &str,
        version: &VersionId,
        value: &SecretText,
        stages: &[Stage],
        rotation_token: Option<&RotationToken>,
    ) -> Result<Put, StoreError> {
        let call = self
            .service
            .client
            .put_secret_value()
            .secret_id(secret_id)
            .client_request_token(version.as_str())
            .secret_string(value.expose())
            .set_version_stages(Some(stages.iter().map(|stage| stage.as_str().to_owned()).collect()))
            .set_rotation_token(rotation_token.map(|token| token.expose().to_owned()))
            .send();
        match self.within_deadline("PutSecretValue", call).await {
            Ok(_) => Ok(Put::Stored),
            Err(error) if error.detail.as_deref() == Some("ResourceExistsException") => Ok(Put::Exists),
            Err(error) => Err(error),
        }
    }

    fn classify<E: ProvideErrorMetadata + fmt::Debug>(
        &self,
        operation: &'static str,
        error: &SdkError<E>,
    ) -> StoreError {
        use StoreErrorKind as Kind;
        let at_endpoint = |reason: String| Some(format!("{}: {reason}", self.service.endpoint));
        let (kind, detail) = match error {
            SdkError::TimeoutError(_) => (Kind::Unreachable, at_endpoint("timed out".to_owned())),
            SdkError::DispatchFailure(failure) => {
                let error = failure.as_connector_error();
                let reason = error.and_then(|error| error.source()).map_or("no connection".to_owned(), innermost);
                (Kind::Unreachable, at_endpoint(reason))
            }
            SdkError::ServiceError(refused) => {
                let code = refused.err().code().unwrap_or("without an error code");
                let message = refused.err().message().unwrap_or_default();
                let kind = match code {
                    "ResourceNotFoundException" => Kind::SecretNotFound,
                    "InvalidParameterException" | "InvalidRequestException" if operation == MOVE => Kind::Conflict,
                    "InvalidRequestException" if operation == ROTATE => Kind::NotNow,
                    "DecryptionFailure" | "EncryptionFailure" => Kind::Kms,
                    "AccessDeniedException" if message.starts_with("Access to KMS") => Kind::Kms,
                    "AccessDeniedException" => Kind::AccessDenied,
                    "ThrottlingException" | "Throttling" | "TooManyRequestsException" => Kind::Throttled,
                    _ if refused.raw().status().is_server_error() => Kind::Service,
                    _ => Kind::Rejected,
                };
                // Only this message says which role was denied which action, and it holds no secret value. Other
                // messages may repeat their input.
                let detail = match kind {
                    Kind::AccessDenied | Kind::Kms => {
                        format!("{code}: {}", message.chars().take(400).collect::<String>())
                    }
                    _ => code.to_owned(),
                };
                (kind, Some(detail))
            }
            _ => (Kind::Service, Some("an answer that is not Secrets Manager's".to_owned())),
        };
        StoreError { operation, kind, detail }
    }
}

const MOVE: &str = "UpdateSecretVersionStage";
const ROTATE: &str = "RotateSecret";

fn rotation_rules(rules: Option<RotationRulesType>) -> RotationRules {
    let rules = rules.map(|rules| RotationRules {
        days: rules.automatically_after_days,
        expression: rules.schedule_expression,
        window: rules.duration,
    });
    rules.unwrap_or_default()
}

fn tags(tags: Option<Vec<Tag>>) -> BTreeMap<String, String> {
    let tags = tags.into_iter().flatten();
    tags.filter_map(|tag| Some((tag.key?, tag.value.unwrap_or_default()))).collect()
}

fn versions(stages: Option<HashMap<String, Vec<String>>>) -> Versions {
    let versions = stages.into_iter().flatten();
    let stages = |stages: Vec<String>| stages.iter().map(|stage| Stage::from(stage.as_str())).collect();
    versions.map(|(id, names)| (VersionId::new(id), stages(names))).collect()
}

impl SecretStore for SecretsManager<'_> {
    async fn describe(&self, secret_id: &str) -> Result<Described, StoreError> {
        const OPERATION: &str = "DescribeSecret";
        let call = self.service.client.describe_secret().secret_id(secret_id).send();
        let secret = self.within_deadline(OPERATION, call).await?;
        let incomplete = |what| StoreError {
            operation: OPERATION,
            kind: StoreErrorKind::Service,
            detail: Some(format!("{what} is missing")),
        };
        let as_of = self.service.clock.now();
        Ok(Described {
            name: secret.name.ok_or_else(|| incomplete("Name"))?,
            rotation_enabled: secret.rotation_enabled.unwrap_or(false),
            deleted: secret.deleted_date.is_some(),
            replica_of: secret.primary_region.filter(|primary| *primary != self.service.region),
            tags: tags(secret.tags),
            versions: versions(secret.version_ids_to_stages),
            last_rotated: time(secret.last_rotated_date),
            next_rotation: time(secret.next_rotation_date),
            last_changed: time(secret.last_changed_date),
            rotation_function: secret.rotation_lambda_arn,
            rotation_rules: rotation_rules(secret.rotation_rules),
            as_of,
        })
    }

    async fn get(&self, secret_id: &str, version: &VersionId) -> Result<Option<VersionValue>, StoreError> {
        let call = self.service.client.get_secret_value().secret_id(secret_id).version_id(version.as_str());
        match self.read(call).await {
            Err(error) if error.kind == StoreErrorKind::SecretNotFound => Ok(None),
            result => result.map(Some),
        }
    }

    async fn get_current(&self, secret_id: &str) -> Result<VersionValue, StoreError> {
        self.read(self.service.client.get_secret_value().secret_id(secret_id)).await
    }

    async fn put_pending(
        &self,
        secret_id: &str,
        version: &VersionId,
        value: &SecretText,
        rotation_token: Option<&RotationToken>,
    ) -> Result<Put, StoreError> {
        self.put(secret_id, version, value, &[Stage::Pending], rotation_token).await
    }

    async fn put_private(
        &self,
        secret_id: &str,
        version: &VersionId,
        value: &SecretText,
        stages: &[Stage],
    ) -> Result<Put, StoreError> {
        self.put(secret_id, version, value, stages, None).await
    }

    async fn move_stage(
        &self,
        secret_id: &str,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> Result<(), StoreError> {
        let call = self
            .service
            .client
            .update_secret_version_stage()
            .secret_id(secret_id)
            .version_stage(stage.as_str())
            .set_remove_from_version_id(from.map(ToString::to_string))
            .set_move_to_version_id(to.map(ToString::to_string))
            .send();
        self.within_deadline(MOVE, call).await.map(drop)
    }
}

impl OperationStore for SecretsManager<'_> {
    async fn versions(&self, secret_id: &str) -> Result<Vec<VersionAge>, StoreError> {
        let (mut found, mut from) = (vec![], None);
        loop {
            let call = self.service.client.list_secret_version_ids().secret_id(secret_id);
            let page = self.within_deadline("ListSecretVersionIds", call.set_next_token(from).send()).await?;
            found.extend(page.versions.into_iter().flatten().filter_map(|version| {
                let created = time(version.created_date);
                Some(VersionAge { version: VersionId::new(version.version_id?), created })
            }));
            from = page.next_token;
            if from.is_none() {
                return Ok(found);
            }
        }
    }

    async fn start_rotation(&self, secret_id: &str, version: &VersionId) -> Result<(), StoreError> {
        let call = self.service.client.rotate_secret().secret_id(secret_id);
        let call = call.client_request_token(version.as_str()).send();
        self.within_deadline(ROTATE, call).await.map(drop)
    }

    async fn tag(&self, secret_id: &str, tags: &[(String, String)]) -> Result<(), StoreError> {
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let call = self.service.client.tag_resource().secret_id(secret_id).set_tags(Some(tags)).send();
        self.within_deadline("TagResource", call).await.map(drop)
    }

    async fn list(&self, filter: &ListFilter, from: Option<&str>) -> Result<Page, StoreError> {
        const OPERATION: &str = "ListSecrets";
        let chosen = [
            (FilterNameStringType::Name, &filter.prefix),
            (FilterNameStringType::TagKey, &filter.tag_key),
            (FilterNameStringType::TagValue, &filter.tag_value),
        ];
        let mut call = self.service.client.list_secrets().max_results(100);
        for (key, value) in chosen.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))) {
            call = call.filters(Filter::builder().key(key).values(value).build());
        }
        let page = self.within_deadline(OPERATION, call.set_next_token(from.map(str::to_owned)).send()).await?;
        let incomplete = |what: &str| StoreError {
            operation: OPERATION,
            kind: StoreErrorKind::Service,
            detail: Some(format!("{what} is missing")),
        };
        let as_of = self.service.clock.now();
        let described = |secret: SecretListEntry| {
            Ok(Described {
                name: secret.name.ok_or_else(|| incomplete("Name"))?,
                rotation_enabled: secret.rotation_enabled.unwrap_or(false),
                deleted: secret.deleted_date.is_some(),
                replica_of: secret.primary_region.filter(|primary| *primary != self.service.region),
                tags: tags(secret.tags),
                versions: versions(secret.secret_versions_to_stages),
                last_rotated: time(secret.last_rotated_date),
                next_rotation: time(secret.next_rotation_date),
                last_changed: time(secret.last_changed_date),
                rotation_function: secret.rotation_lambda_arn,
                rotation_rules: rotation_rules(secret.rotation_rules),
                as_of,
            })
        };
        let secrets: Result<Vec<_>, StoreError> = page.secret_list.into_iter().flatten().map(described).collect();
        Ok(Page { secrets: secrets?, next: page.next_token })
    }
}

fn time(date: Option<DateTime>) -> Option<SystemTime> {
    date.and_then(|date| SystemTime::try_from(date).ok())
}
