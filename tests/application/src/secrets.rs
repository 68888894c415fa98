//! The application's access to Secrets Manager: one client, and the versions of one secret by their stages.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use http::Uri;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::clock::{LearnFromDate, ServiceClock};

/// How long a call waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one attempt of a call may take. A busy machine needs this time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a call may take with its second attempt. A request that waits for a reload must not wait long.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// The Secrets Manager to use, with region, endpoint and credentials.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    region: String,
    credentials: Credentials,
    endpoint: Option<String>,
}

/// A missing or unusable setting. The text states the repair, and holds no credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A required variable is not set.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// The endpoint would send a secret over the network in clear text, or is no URL.
    #[error("{0} must be an https:// URL; http:// is for loopback addresses only")]
    Endpoint(&'static str),
}

impl ServiceSettings {
    /// Reads the settings from the environment through `variable`. An empty value counts as absent.
    ///
    /// `AWS_REGION` (or `AWS_DEFAULT_REGION`), `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` are required.
    /// `AWS_SESSION_TOKEN` is optional, and so is the endpoint: `AWS_ENDPOINT_URL_SECRETS_MANAGER`, or else
    /// `AWS_ENDPOINT_URL`.
    ///
    /// # Errors
    /// A required variable is missing, or an endpoint is neither HTTPS nor on a loopback address.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let optional = |name: &str| variable(name).filter(|value| !value.is_empty());
        let required = |name: &'static str| optional(name).ok_or(SettingsError::Missing(name));

        let region = optional("AWS_REGION")
            .or_else(|| optional("AWS_DEFAULT_REGION"))
            .ok_or(SettingsError::Missing("AWS_REGION"))?;
        let credentials = Credentials::new(
            required("AWS_ACCESS_KEY_ID")?,
            required("AWS_SECRET_ACCESS_KEY")?,
            optional("AWS_SESSION_TOKEN"),
            None,
            "environment",
        );
        let endpoint = ["AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"]
            .into_iter()
            .find_map(|name| optional(name).map(|url| (name, url)))
            .map(|(name, url)| checked_endpoint(&url).then_some(url).ok_or(SettingsError::Endpoint(name)))
            .transpose()?;
        Ok(Self { region, credentials, endpoint })
    }

    /// A client with short timeouts and one retry. Its answers correct `clock`.
    pub fn client(&self, clock: &ServiceClock) -> Client {
        let connections = aws_smithy_http_client::Builder::new();
        let connections = match &self.endpoint {
            Some(endpoint) if endpoint.starts_with("http://") => connections.build_http(),
            _ => connections.tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https(),
        };
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .credentials_provider(self.credentials.clone())
            .http_client(connections)
            .retry_config(RetryConfig::standard().with_max_attempts(2).with_initial_backoff(Duration::from_millis(100)))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .operation_timeout(CALL_TIMEOUT)
                    .build(),
            )
            .interceptor(LearnFromDate(clock.clone()));
        config.set_endpoint_url(self.endpoint.clone());
        Client::from_conf(config.build())
    }
}

/// Whether the application may request secrets at this URL: HTTPS, or HTTP on a loopback address.
fn checked_endpoint(url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else {
        return false;
    };
    match (url.scheme_str(), url.host()) {
        (Some("https"), Some(_)) => true,
        (Some("http"), Some(host)) => {
            host == "localhost"
                || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        _ => false,
    }
}

/// A secret, and the part of its value that the application uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretReference {
    /// The secret's name or ARN.
    pub id: String,
    /// The member of the JSON object in the secret; `None` means the whole value.
    pub field: Option<String>,
}

/// A secret's whole value as the environment held it when the process started, for example from an ECS task definition.
/// It is wiped from memory when dropped, and hidden in `Debug`.
#[derive(Clone)]
pub struct StartValue {
    value: Zeroizing<String>,
    read_at: SystemTime,
}

impl StartValue {
    /// Takes the value, which was read at this time.
    pub fn new(value: impl Into<Zeroizing<String>>, read_at: SystemTime) -> Self {
        Self { value: value.into(), read_at }
    }

    fn version(&self) -> Version {
        Version { id: "environment".to_owned(), value: self.value.clone(), created: self.read_at }
    }
}

impl fmt::Debug for StartValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("StartValue(redacted)")
    }
}

/// A version stage that AWS moves during a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// `AWSCURRENT`.
    Current,
    /// `AWSPENDING`.
    Pending,
    /// `AWSPREVIOUS`.
    Previous,
}

impl fmt::Display for Stage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Current => "AWSCURRENT",
            Self::Pending => "AWSPENDING",
            Self::Previous => "AWSPREVIOUS",
        })
    }
}

/// One version of a secret, with its value.
pub struct Version {
    /// The version's id. Not a secret.
    pub id: String,
    /// The version's value. It is wiped from memory when dropped.
    pub value: Zeroizing<String>,
    /// When the version was made, by the service's clock.
    pub created: SystemTime,
}

impl fmt::Debug for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Version").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The versions that carry the requested stages of a secret.
#[derive(Debug)]
pub struct Versions {
    /// The version of `AWSCURRENT`.
    pub current: Version,
    /// The version of `AWSPENDING`, if it has a value. It may be the current version, because AWS can leave the label
    /// there.
    pub pending: Option<Version>,
    /// The version of `AWSPREVIOUS`, if there is one.
    pub previous: Option<Version>,
}

/// The stages that a read covers. Each costs one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stages {
    /// `AWSCURRENT` alone.
    Current,
    /// `AWSCURRENT` and `AWSPENDING`.
    CurrentAndPending,
    /// `AWSCURRENT`, `AWSPENDING` and `AWSPREVIOUS`.
    All,
}

/// The reason why a secret could not be loaded. It holds no value, so anyone who may know the secret's name may read
/// it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Secrets Manager gave no answer, or an unreadable one.
    #[error("Secrets Manager could not be reached: {0}")]
    Unreachable(String),
    /// Secrets Manager answered with an error other than "absent".
    #[error("Secrets Manager refused to give the {stage} version: {code}")]
    Refused {
        /// The requested stage.
        stage: Stage,
        /// The error's code, such as `AccessDeniedException`.
        code: String,
    },
    /// The secret does not exist, or has no value yet.
    #[error("the secret does not exist or has no AWSCURRENT value")]
    NoCurrentValue,
    /// The value of `AWSCURRENT` does not have the expected form.
    #[error("the AWSCURRENT value can't be used: {0}")]
    Unusable(#[from] Unusable),
}

/// The fault of a value. It names the expected form, and never the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The value is a `SecretBinary`.
    #[error("it is binary, not text")]
    Binary,
    /// A field is configured, and the value is no JSON object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// A field is configured, and the object has no such member.
    #[error("the configured member is missing")]
    NoMember,
    /// The member holds no text.
    #[error("the configured member is not a string")]
    NotAString,
    /// The token is the empty text, which would protect nothing.
    #[error("the token is empty")]
    Empty,
    /// A key of a keyring is not 32 bytes in the encoding of its format.
    #[error("it holds a key that is not 32 bytes in the encoding of the format")]
    NotAKey,
    /// The format is a Tink keyset, and the text is none.
    #[error("it is not a Tink keyset in JSON")]
    NotAKeyset,
    /// An enabled key of a Tink keyset is of another type, or has another output prefix.
    #[error("the Tink keyset has a key that is not AES-GCM with the output prefix TINK or RAW")]
    UnknownTinkKey,
    /// The primary key of a Tink keyset can't encrypt.
    #[error("the primary key of the Tink keyset is missing or not enabled")]
    NoPrimaryKey,
    /// The application reads one key, but the format holds several.
    #[error("only the format raw can be read as one key")]
    NotOneKey,
}

/// The members of a JSON object, each as unparsed text. Only a requested member is copied.
pub(crate) struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Members<'a> {
    pub(crate) fn parse(value: &'a str) -> Result<Self, Unusable> {
        // Some editors begin a file with a byte order mark.
        serde_json::from_str(value.strip_prefix('\u{feff}').unwrap_or(value))
            .map(Self)
            .map_err(|_| Unusable::NotAnObject)
    }

    /// The text in a member.
    pub(crate) fn text(&self, name: &str) -> Result<Zeroizing<String>, Unusable> {
        let raw = self.0.get(name).ok_or(Unusable::NoMember)?;
        serde_json::from_str(raw.get()).map(Zeroizing::new).map_err(|_| Unusable::NotAString)
    }

    /// The text in a member that may be absent.
    pub(crate) fn optional_text(&self, name: &str) -> Result<Option<Zeroizing<String>>, Unusable> {
        match self.text(name) {
            Err(Unusable::NoMember) => Ok(None),
            text => text.map(Some),
        }
    }
}

/// Reads the versions of one secret.
#[derive(Clone, Debug)]
pub struct SecretReader {
    source: Source,
    secret_id: String,
    stages: Stages,
}

/// Where a secret is read.
#[derive(Clone, Debug)]
enum Source {
    Service(Client),
    /// The environment at the start of the process, which never changes.
    Environment(StartValue),
    Nowhere,
}

impl SecretReader {
    /// A reader of the secret with this name or ARN.
    pub fn new(client: Client, secret_id: impl Into<String>, stages: Stages) -> Self {
        Self { source: Source::Service(client), secret_id: secret_id.into(), stages }
    }

    /// The same with `at_start`, if there is one: the reader gives that value as `AWSCURRENT`, and never calls Secrets
    /// Manager.
    pub(crate) fn of(client: Option<Client>, at_start: Option<StartValue>, secret_id: String, stages: Stages) -> Self {
        let source = match (at_start, client) {
            (Some(value), _) => Source::Environment(value),
            (None, Some(client)) => Source::Service(client),
            (None, None) => Source::Nowhere,
        };
        Self { source, secret_id, stages }
    }

    /// Reads the stages, one call each.
    ///
    /// The read is safe beside a rotation. A version moves from pending to current to previous, and the calls have the
    /// same order. So the read finds a version at one of the stages, even if the version moves meanwhile.
    ///
    /// # Errors
    /// A call fails, or there is no current value. A pending or previous version may be absent, without a value or
    /// binary: that is no error.
    pub async fn read(&self) -> Result<Versions, LoadError> {
        if let Source::Environment(value) = &self.source {
            return Ok(Versions { current: value.version(), pending: None, previous: None });
        }
        let pending = match self.stages {
            Stages::Current => None,
            Stages::CurrentAndPending | Stages::All => self.read_optional(Stage::Pending).await?,
        };
        let current = self.read_stage(Stage::Current).await?.ok_or(LoadError::NoCurrentValue)?;
        let previous = match self.stages {
            Stages::Current | Stages::CurrentAndPending => None,
            Stages::All => self.read_optional(Stage::Previous).await?,
        };
        Ok(Versions { current, pending, previous })
    }

    /// Reads a stage whose version may be unusable.
    async fn read_optional(&self, stage: Stage) -> Result<Option<Version>, LoadError> {
        match self.read_stage(stage).await {
            Err(LoadError::Unusable(reason)) => {
                tracing::warn!(secret = self.secret_id, %stage, %reason, "version ignored");
                Ok(None)
            }
            other => other,
        }
    }

    /// Reads the version of a stage; `None` when no version with a value carries it.
    async fn read_stage(&self, stage: Stage) -> Result<Option<Version>, LoadError> {
        let Source::Service(client) = &self.source else {
            return Err(LoadError::Unreachable("the instance was started without a client".to_owned()));
        };
        let answer = client.get_secret_value().secret_id(&self.secret_id).version_stage(stage.to_string()).send().await;
        match answer {
            Ok(output) => Ok(Some(Version {
                id: output.version_id.unwrap_or_default(),
                value: Zeroizing::new(output.secret_string.ok_or(Unusable::Binary)?),
                // A version without a date counts as old.
                created: output
                    .created_date
                    .and_then(|date| SystemTime::try_from(date).ok())
                    .unwrap_or(SystemTime::UNIX_EPOCH),
            })),
            Err(error)
                if error.as_service_error().is_some_and(GetSecretValueError::is_resource_not_found_exception) =>
            {
                Ok(None)
            }
            Err(error) => Err(load_error(stage, &error)),
        }
    }
}

/// The error without the SDK's own text, which would quote an unreadable answer.
fn load_error<R>(stage: Stage, error: &SdkError<GetSecretValueError, R>) -> LoadError {
    match error {
        SdkError::ServiceError(service) => {
            LoadError::Refused { stage, code: service.err().code().unwrap_or("unknown error").to_owned() }
        }
        SdkError::TimeoutError(_) => LoadError::Unreachable("no answer in time".to_owned()),
        SdkError::DispatchFailure(failure) => LoadError::Unreachable(
            failure.as_connector_error().map_or_else(|| "the request was not sent".to_owned(), |error| causes(error)),
        ),
        SdkError::ResponseError(_) => LoadError::Unreachable("its answer could not be read".to_owned()),
        _ => LoadError::Unreachable("the request could not be made".to_owned()),
    }
}

/// The text of an error and of its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
