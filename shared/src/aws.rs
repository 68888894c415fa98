//! The adapters to Secrets Manager and CloudWatch, and what clients of other services are made from.
//!
//! The configuration is made by hand, from the variables that Lambda sets: the SDK's default chain costs 2.5 ms of every
//! cold start to arrive at the same. TLS is rustls with ring, because aws-lc gathers entropy for 40 ms at its first use.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum, StandardUnit};
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::config::{
    BehaviorVersion, ConfigBag, IdentityCache, Intercept, Region, RuntimeComponents, StalledStreamProtectionConfig,
};
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::builders::GetSecretValueFluentBuilder;
use aws_sdk_secretsmanager::primitives::DateTime;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, RotationRulesType, SecretListEntry, Tag};
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_types::date_time::Format;
use aws_types::SdkConfig;
use aws_types::sdk_config::SharedCredentialsProvider;

use crate::deadline::Deadline;
use crate::environment::{Environment, invalid};
use crate::error::{RotationError, innermost};
use crate::event::{RotationToken, VersionId};
use crate::schedule::RotationRules;
use crate::secret::SecretText;
use crate::store::{
    Described, ListFilter, OperationStore, Page, Put, SecretStore, StoreError, StoreErrorKind, VersionAge, VersionValue,
};
use crate::target::http::is_loopback;
use crate::telemetry::{Datum, MetricSink, NAMESPACE, Unit};
use crate::versions::{Stage, Versions};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_ATTEMPTS: u32 = 4;
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// The clients of one process: made once, used by every invocation.
#[derive(Clone, Debug)]
pub struct Clients {
    secrets_manager: aws_sdk_secretsmanager::Client,
    cloudwatch: aws_sdk_cloudwatch::Client,
    endpoint: String,
    region: String,
    clock: ServiceClock,
}

impl Clients {
    /// Makes the clients from `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, which
    /// Lambda sets, and the overrides `AWS_ENDPOINT_URL_SECRETS_MANAGER`, `AWS_ENDPOINT_URL_CLOUDWATCH`,
    /// `AWS_ENDPOINT_URL` and `AWS_USE_FIPS_ENDPOINT`. Nothing is sent. `machine` tells the time of this machine, which is
    /// taken for the service's where an answer has none.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] and [`RotationError::InsecureUrl`] name the variable.
    pub fn from_environment(environment: &Environment, machine: fn() -> SystemTime) -> Result<Self, RotationError> {
        let settings = SdkSettings::from_environment(environment)?;
        let secrets_manager = settings.config(environment, "AWS_ENDPOINT_URL_SECRETS_MANAGER")?;
        let cloudwatch = settings.config(environment, "AWS_ENDPOINT_URL_CLOUDWATCH")?;
        let endpoint = secrets_manager.endpoint_url().map(str::to_owned);
        let clock = ServiceClock { answered: Arc::default(), machine };
        let secrets_manager =
            aws_sdk_secretsmanager::config::Builder::from(&secrets_manager).interceptor(clock.clone()).build();
        Ok(Self {
            secrets_manager: aws_sdk_secretsmanager::Client::from_conf(secrets_manager),
            cloudwatch: aws_sdk_cloudwatch::Client::new(&cloudwatch),
            endpoint: endpoint.unwrap_or_else(|| format!("secretsmanager.{}", settings.region)),
            region: settings.region,
            clock,
        })
    }

    /// Secrets Manager for one invocation, whose calls and retries end by `deadline`.
    #[must_use]
    pub fn secrets_manager(&self, deadline: Deadline) -> SecretsManager<'_> {
        SecretsManager { clients: self, deadline }
    }
}

/// What the clients of one process have in common, whatever their service: Region, credentials, TLS, time limits and retries.
#[derive(Debug)]
pub struct SdkSettings {
    region: String,
    credentials: Credentials,
    fips: bool,
    http: SharedHttpClient,
}

impl SdkSettings {
    /// Reads the variables that Lambda sets, and `AWS_USE_FIPS_ENDPOINT`, see [`Clients::from_environment`].
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] names the variable.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let credentials = Credentials::new(
            environment.require("AWS_ACCESS_KEY_ID")?,
            environment.require("AWS_SECRET_ACCESS_KEY")?,
            environment.get("AWS_SESSION_TOKEN").map(str::to_owned),
            None,
            "environment",
        );
        Ok(Self {
            region: environment.require("AWS_REGION")?.to_owned(),
            credentials,
            fips: environment.parse("AWS_USE_FIPS_ENDPOINT", "true or false")?.unwrap_or(false),
            http: aws_smithy_http_client::Builder::new()
                .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
                .build_https(),
        })
    }

    /// The configuration for the service whose endpoint `variable` overrides, else `AWS_ENDPOINT_URL`.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] and [`RotationError::InsecureUrl`] name the variable.
    pub fn config(&self, environment: &Environment, variable: &str) -> Result<SdkConfig, RotationError> {
        let endpoint = endpoint(environment, variable)?;
        if self.fips && endpoint.is_some() {
            let problem = "the SDK takes it only without an AWS_ENDPOINT_URL; name the FIPS endpoint there instead";
            return Err(invalid("AWS_USE_FIPS_ENDPOINT", problem));
        }
        let mut config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .credentials_provider(SharedCredentialsProvider::new(self.credentials.clone()))
            .identity_cache(IdentityCache::no_cache())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .http_client(self.http.clone())
            .timeout_config(timeouts())
            .retry_config(retries())
            .use_fips(self.fips)
            .disable_request_compression(true);
        config.set_endpoint_url(endpoint);
        Ok(config.build())
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(ATTEMPT_TIMEOUT).build()
}

fn retries() -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(MAX_ATTEMPTS)
        .with_initial_backoff(INITIAL_BACKOFF)
        .with_max_backoff(MAX_BACKOFF)
}

/// The override of an endpoint: for the service, else for all. HTTPS, or the loopback interface.
fn endpoint(environment: &Environment, variable: &str) -> Result<Option<String>, RotationError> {
    let chosen = [variable, "AWS_ENDPOINT_URL"].into_iter().find_map(|name| Some((name, environment.get(name)?)));
    let Some((name, url)) = chosen else { return Ok(None) };
    let uri: http::Uri =
        url.parse().map_err(|_| invalid(name, "expected a URL such as https://vpce-….amazonaws.com"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
            Err(invalid(name, "expected a URL without user name and password"))
        }
        (Some("https"), Some(_)) => Ok(Some(url.to_owned())),
        (Some("http"), Some(_)) if is_loopback(&uri) => Ok(Some(url.to_owned())),
        (Some("http"), Some(_)) => Err(RotationError::InsecureUrl { variable: name.to_owned() }),
        _ => Err(invalid(name, "expected a URL such as https://vpce-….amazonaws.com")),
    }
}

/// The time that the service stamped on its last answer (RFC 9110 §6.6.1, `Date`).
#[derive(Clone, Debug)]
struct ServiceClock {
    answered: Arc<Mutex<Option<SystemTime>>>,
    machine: fn() -> SystemTime,
}

impl ServiceClock {
    /// The time of the answer that has just come; by this machine when it told none.
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
        // Also without one: the last answer may have been that of an earlier invocation.
        let time = date.and_then(|date| SystemTime::try_from(date).ok());
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = time;
        Ok(())
    }
}

/// Secrets Manager through the SDK, within one invocation's deadline.
#[derive(Clone, Copy, Debug)]
pub struct SecretsManager<'a> {
    clients: &'a Clients,
    deadline: Deadline,
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
                detail: Some(format!("{}, in the time that this invocation had left", self.clients.endpoint)),
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
            .clients
            .secrets_manager
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
        let at_endpoint = |reason: String| Some(format!("{}: {reason}", self.clients.endpoint));
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
                // Who was denied what is said only there, and holds no value. Other messages may repeat their input.
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

/// Why a call failed, in the service's words, for calls whose requests hold no value.
pub fn reason<E: ProvideErrorMetadata + std::error::Error + 'static>(error: &SdkError<E>) -> String {
    error.code().map_or_else(
        || error.source().map_or("no answer".to_owned(), innermost),
        |code| format!("{code}: {}", error.message().unwrap_or_default()),
    )
}

/// Whether the service gave any answer, be it a refusal.
///
/// # Errors
/// Why there was none.
pub fn answered<T, E: ProvideErrorMetadata + std::error::Error + 'static>(
    result: Result<T, SdkError<E>>,
) -> Result<(), String> {
    match result {
        Ok(_) | Err(SdkError::ServiceError(_)) => Ok(()),
        Err(error) => Err(reason(&error)),
    }
}

fn time(date: Option<DateTime>) -> Option<SystemTime> {
    date.and_then(|date| SystemTime::try_from(date).ok())
}

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
        let call = self.clients.secrets_manager.describe_secret().secret_id(secret_id).send();
        let secret = self.within_deadline(OPERATION, call).await?;
        let incomplete = |what| StoreError {
            operation: OPERATION,
            kind: StoreErrorKind::Service,
            detail: Some(format!("{what} is missing")),
        };
        let as_of = self.clients.clock.now();
        Ok(Described {
            name: secret.name.ok_or_else(|| incomplete("Name"))?,
            rotation_enabled: secret.rotation_enabled.unwrap_or(false),
            deleted: secret.deleted_date.is_some(),
            replica_of: secret.primary_region.filter(|primary| *primary != self.clients.region),
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
        let call = self.clients.secrets_manager.get_secret_value().secret_id(secret_id).version_id(version.as_str());
        match self.read(call).await {
            Err(error) if error.kind == StoreErrorKind::SecretNotFound => Ok(None),
            result => result.map(Some),
        }
    }

    async fn get_current(&self, secret_id: &str) -> Result<VersionValue, StoreError> {
        self.read(self.clients.secrets_manager.get_secret_value().secret_id(secret_id)).await
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
            .clients
            .secrets_manager
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
            let call = self.clients.secrets_manager.list_secret_version_ids().secret_id(secret_id);
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
        let call = self.clients.secrets_manager.rotate_secret().secret_id(secret_id);
        let call = call.client_request_token(version.as_str()).send();
        self.within_deadline(ROTATE, call).await.map(drop)
    }

    async fn list(&self, filter: &ListFilter, from: Option<&str>) -> Result<Page, StoreError> {
        const OPERATION: &str = "ListSecrets";
        let chosen = [
            (FilterNameStringType::Name, &filter.prefix),
            (FilterNameStringType::TagKey, &filter.tag_key),
            (FilterNameStringType::TagValue, &filter.tag_value),
        ];
        let mut call = self.clients.secrets_manager.list_secrets().max_results(100);
        for (key, value) in chosen.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))) {
            call = call.filters(Filter::builder().key(key).values(value).build());
        }
        let page = self.within_deadline(OPERATION, call.set_next_token(from.map(str::to_owned)).send()).await?;
        let incomplete = |what: &str| StoreError {
            operation: OPERATION,
            kind: StoreErrorKind::Service,
            detail: Some(format!("{what} is missing")),
        };
        let as_of = self.clients.clock.now();
        let described = |secret: SecretListEntry| {
            Ok(Described {
                name: secret.name.ok_or_else(|| incomplete("Name"))?,
                rotation_enabled: secret.rotation_enabled.unwrap_or(false),
                deleted: secret.deleted_date.is_some(),
                replica_of: secret.primary_region.filter(|primary| *primary != self.clients.region),
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

impl Clients {
    /// Whether CloudWatch answers: it is sent a request without data, which it refuses, allowed or not. Bound it with
    /// [`Deadline::bound`].
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn reach_cloudwatch(&self) -> Result<(), String> {
        answered(self.cloudwatch.put_metric_data().namespace(NAMESPACE).send().await)
    }
}

impl MetricSink for Clients {
    async fn publish(&self, data: Vec<Datum>) -> Result<(), String> {
        let data = data.into_iter().map(|datum| {
            let dimensions = datum
                .dimensions
                .into_iter()
                .map(|(name, value)| Dimension::builder().name(name).value(value).build())
                .collect();
            let unit = match datum.unit {
                Unit::Count => StandardUnit::Count,
                Unit::Seconds => StandardUnit::Seconds,
                Unit::Hours => StandardUnit::None,
            };
            MetricDatum::builder()
                .metric_name(datum.name)
                .set_dimensions(Some(dimensions))
                .value(datum.value)
                .unit(unit)
                .build()
        });
        let call = self.cloudwatch.put_metric_data().namespace(NAMESPACE).set_metric_data(Some(data.collect()));
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(reason(&error)),
        }
    }
}
