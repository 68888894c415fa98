//! The adapters to Secrets Manager, CloudWatch and the functions of users, and the shared settings for other clients.
//!
//! This module makes the configuration itself, from the variables that Lambda sets. The SDK's default chain needs 2.5
//! ms of every cold start for the same result. TLS is rustls with ring, because aws-lc gathers entropy for 40 ms at its
//! first use.

mod functions;
mod secrets_manager;

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum, StandardUnit};
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::config::{BehaviorVersion, IdentityCache, Region, StalledStreamProtectionConfig};
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::SdkConfig;
use aws_types::sdk_config::SharedCredentialsProvider;

use crate::deadline::Deadline;
use crate::environment::{Environment, invalid};
use crate::error::{RotationError, innermost};
use crate::target::http::is_loopback;
use crate::telemetry::{Datum, NAMESPACE, Unit};

use secrets_manager::{Service, ServiceClock};

pub use functions::{FunctionError, FunctionErrorKind, Functions};
pub use secrets_manager::SecretsManager;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_ATTEMPTS: u32 = 4;
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// The clients of one process: made once, used by every invocation.
#[derive(Clone, Debug)]
pub struct Clients {
    secrets_manager: Service,
    cloudwatch: aws_sdk_cloudwatch::Client,
}

impl Clients {
    /// Makes the clients; it sends nothing.
    ///
    /// It reads `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, which Lambda sets.
    /// It also reads the overrides `AWS_ENDPOINT_URL_SECRETS_MANAGER`, `AWS_ENDPOINT_URL_CLOUDWATCH`,
    /// `AWS_ENDPOINT_URL` and `AWS_USE_FIPS_ENDPOINT`. `machine` returns the time of this machine, which replaces the
    /// service's time if an answer has none.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] and [`RotationError::InsecureUrl`] name the variable.
    pub fn from_environment(environment: &Environment, machine: fn() -> SystemTime) -> Result<Self, RotationError> {
        let settings = SdkSettings::from_environment(environment)?;
        let secrets_manager = settings.config(environment, "AWS_ENDPOINT_URL_SECRETS_MANAGER")?;
        let cloudwatch = settings.config(environment, "AWS_ENDPOINT_URL_CLOUDWATCH")?;
        let endpoint = secrets_manager.endpoint_url().map(str::to_owned);
        let clock = ServiceClock::new(machine);
        let secrets_manager =
            aws_sdk_secretsmanager::config::Builder::from(&secrets_manager).interceptor(clock.clone()).build();
        let service = Service {
            client: aws_sdk_secretsmanager::Client::from_conf(secrets_manager),
            endpoint: endpoint.unwrap_or_else(|| format!("secretsmanager.{}", settings.region)),
            region: settings.region,
            clock,
        };
        Ok(Self { secrets_manager: service, cloudwatch: aws_sdk_cloudwatch::Client::new(&cloudwatch) })
    }

    /// Secrets Manager for one invocation. All calls and retries end by `deadline`.
    #[must_use]
    pub fn secrets_manager(&self, deadline: Deadline) -> SecretsManager<'_> {
        SecretsManager { service: &self.secrets_manager, deadline }
    }
}

/// The settings that all clients of one process share: Region, credentials, TLS, time limits and retries.
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

    /// The configuration for one service. `variable` overrides the service's endpoint, else `AWS_ENDPOINT_URL` does.
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

impl SdkSettings {
    /// Lambda, for functions of users. The variable `AWS_ENDPOINT_URL_LAMBDA` overrides the endpoint.
    ///
    /// # Errors
    /// Those of [`config`](Self::config).
    pub fn functions(&self, environment: &Environment) -> Result<Functions, RotationError> {
        Ok(Functions::new(&self.config(environment, "AWS_ENDPOINT_URL_LAMBDA")?))
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

/// The override of an endpoint: the service's own, else the one for all services. The URL must be HTTPS, or on the
/// loopback interface.
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

/// The reason why a call failed, in the service's words. It is only for calls whose requests hold no secret value.
pub fn reason<E: ProvideErrorMetadata + std::error::Error + 'static>(error: &SdkError<E>) -> String {
    error.code().map_or_else(
        || error.source().map_or("no answer".to_owned(), innermost),
        |code| format!("{code}: {}", error.message().unwrap_or_default()),
    )
}

/// Checks that the service gave any answer, even a refusal.
///
/// # Errors
/// The reason why there was no answer.
pub fn answered<T, E: ProvideErrorMetadata + std::error::Error + 'static>(
    result: Result<T, SdkError<E>>,
) -> Result<(), String> {
    match result {
        Ok(_) | Err(SdkError::ServiceError(_)) => Ok(()),
        Err(error) => Err(reason(&error)),
    }
}

impl Clients {
    /// Checks that CloudWatch answers. It sends a request without data, which CloudWatch refuses whether the role is
    /// allowed or not. Bound it with [`Deadline::bound`].
    ///
    /// # Errors
    /// The reason why there was no answer.
    pub async fn reach_cloudwatch(&self) -> Result<(), String> {
        answered(self.cloudwatch.put_metric_data().namespace(NAMESPACE).send().await)
    }

    /// Publishes all of `data` in one call. Bound it with [`Deadline::bound`].
    ///
    /// # Errors
    /// The service's words, or the reason why there was no answer.
    pub async fn publish(&self, data: Vec<Datum>) -> Result<(), String> {
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
