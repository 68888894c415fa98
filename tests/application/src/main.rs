//! The sample application as a program: settings from flags and the environment, one instance, logs on stderr.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use application::{
    Database, Instance, InstanceSettings, KeyFormat, KeyMode, KeySettings, SecretReference, ServiceClock,
    ServiceSettings, StartValue,
};
use axum::http::{HeaderName, HeaderValue};
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

const USAGE: &str = "\
An HTTP service with an admin API whose token is a secret in AWS Secrets Manager, and with records that are
encrypted under a keyring from there.

Every setting is a variable of the environment, or a flag before it: SECRET_ID=x or --secret-id x.

  SECRET_ID              name or ARN of the secret with the admin token (required)
  FIELD                  member of the JSON object in the secret; without it the whole value is the token
  MODE                   all-stages (default) or current-only
  OVERLAP_SECONDS        how long a text secret's previous token is accepted (default: 86400)
  KEYRING_SECRET_ID      name or ARN of the secret with the keyring; without it there are no records
  KEYRING_FIELD          member of the JSON object in that secret; without it the whole value is the keyring
  KEYRING_FORMAT         raw (default), fernet or tink
  KEYRING_MODE           keyring (default), or name-only: one key, of the format raw
  KEYRING_CACHE_SECONDS  how long the keyring is kept (default: 3600)
  DATABASE_URL           postgres://… of a database on this machine with the table `connections` of the records; without it
                         they are in memory
  PORT                   port on 127.0.0.1; 0 (default) takes a free one and prints it
  INSTANCE_ID            name in the answers' instance header (default: a random one)
  INSTANCE_HEADER        name of that header (default: x-instance-id)
  CACHE_SECONDS          how long the token is kept (default: 3600)
  SECRET_JSON            the whole value of the secret with the token, as ECS injects it: then it is read once, at start,
                         and SECRET_ID and MODE are not needed. A variable only, never a flag
  KEYRING_JSON           the same of the secret with the keyring
  LOG_LEVEL              off, error, warn, info (default), debug or trace

AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_ENDPOINT_URL and
AWS_ENDPOINT_URL_SECRETS_MANAGER are taken from the environment. They are not needed when every secret comes from
SECRET_JSON and KEYRING_JSON.";

/// The settings that can be flags.
const SETTINGS: [&str; 15] = [
    "SECRET_ID",
    "FIELD",
    "MODE",
    "OVERLAP_SECONDS",
    "KEYRING_SECRET_ID",
    "KEYRING_FIELD",
    "KEYRING_FORMAT",
    "KEYRING_MODE",
    "KEYRING_CACHE_SECONDS",
    "DATABASE_URL",
    "PORT",
    "INSTANCE_ID",
    "INSTANCE_HEADER",
    "CACHE_SECONDS",
    "LOG_LEVEL",
];

/// The settings that have no effect without `KEYRING_SECRET_ID`.
const KEYRING_SETTINGS: [&str; 5] =
    ["KEYRING_FIELD", "KEYRING_FORMAT", "KEYRING_MODE", "KEYRING_CACHE_SECONDS", "DATABASE_URL"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("application: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Vec<String>) -> Result<(), Box<dyn Error>> {
    let settings = Settings { flags: flags(arguments)? };
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_max_level(settings.parsed("LOG_LEVEL", LevelFilter::INFO)?)
        .init();
    let clock = ServiceClock::default();
    let instance = settings.instance().await?;
    let at_start = &instance.environment;
    let asks = at_start.token.is_none() || (instance.keys.is_some() && at_start.keyring.is_none());
    let client = if asks { Some(ServiceSettings::from_environment(variable)?.client(&clock)) } else { None };
    let instance = Instance::start(instance, client, clock.clock()).await?;
    println!("listening on http://{}", instance.address());
    std::io::stdout().flush()?;

    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    instance.stop().await;
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "the program's environment is read here only")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The whole value of a secret in a variable.
fn value_at_start(name: &str) -> Option<StartValue> {
    variable(name).filter(|value| !value.is_empty()).map(|value| StartValue::new(value, SystemTime::now()))
}

/// Reads `--secret-id x` and `--secret-id=x` as the setting `SECRET_ID`.
fn flags(arguments: Vec<String>) -> Result<BTreeMap<String, String>, String> {
    let mut flags = BTreeMap::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let unknown = || format!("unknown argument {argument}; --help lists the settings");
        let flag = argument.strip_prefix("--").ok_or_else(unknown)?;
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let name = name.replace('-', "_").to_uppercase();
        if !SETTINGS.contains(&name.as_str()) {
            return Err(unknown());
        }
        let value = value.or_else(|| arguments.next()).ok_or_else(|| format!("--{flag} needs a value"))?;
        flags.insert(name, value);
    }
    Ok(flags)
}

/// Flags first, then the environment.
struct Settings {
    flags: BTreeMap<String, String>,
}

impl Settings {
    /// A setting as text; empty counts as absent.
    fn text(&self, name: &str) -> Option<String> {
        self.flags.get(name).cloned().or_else(|| variable(name)).filter(|value| !value.is_empty())
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, String>
    where
        T::Err: std::fmt::Display,
    {
        self.text(name).map_or(Ok(default), |value| value.parse().map_err(|error| format!("{name}={value}: {error}")))
    }

    async fn instance(&self) -> Result<InstanceSettings, String> {
        let at_start = value_at_start("SECRET_JSON");
        let id = match (&at_start, self.text("SECRET_ID")) {
            (None, None) => return Err("SECRET_ID is not set; --help lists the settings".to_owned()),
            (_, id) => id.unwrap_or_default(),
        };
        let secret = SecretReference { id, field: self.text("FIELD") };
        let random = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).map_err(|error| error.to_string())?;
        let instance_id = self.parsed("INSTANCE_ID", random)?;
        let mut settings = InstanceSettings::new(instance_id, secret);
        settings.mode = self.parsed("MODE", settings.mode)?;
        settings.overlap = Duration::from_secs(self.parsed("OVERLAP_SECONDS", settings.overlap.as_secs())?);
        settings.address = SocketAddr::from(([127, 0, 0, 1], self.parsed("PORT", 0)?));
        settings.instance_header = self.parsed::<HeaderName>("INSTANCE_HEADER", settings.instance_header)?;
        settings.cache.max_age = Duration::from_secs(self.parsed("CACHE_SECONDS", settings.cache.max_age.as_secs())?);
        settings.keys = self.keys().await?;
        settings.environment.keyring = value_at_start("KEYRING_JSON");
        Ok(match at_start {
            None => settings,
            Some(_) if self.text("MODE").is_some() => return Err("MODE is set beside SECRET_JSON".to_owned()),
            Some(value) => settings.started_with(value),
        })
    }

    async fn keys(&self) -> Result<Option<KeySettings>, String> {
        let at_start = value_at_start("KEYRING_JSON").map(|_| String::new());
        let Some(id) = self.text("KEYRING_SECRET_ID").or(at_start) else {
            let alone = KEYRING_SETTINGS.into_iter().find(|name| self.text(name).is_some());
            return alone.map_or(Ok(None), |name| Err(format!("{name} is set, and KEYRING_SECRET_ID is not")));
        };
        let secret = SecretReference { id, field: self.text("KEYRING_FIELD") };
        let format = self.parsed("KEYRING_FORMAT", KeyFormat::Raw)?;
        let mut keys = KeySettings::new(secret, format, self.database().await?);
        keys.mode = self.parsed("KEYRING_MODE", keys.mode)?;
        if keys.mode == KeyMode::NameOnly && format != KeyFormat::Raw {
            return Err(format!("KEYRING_MODE={}: only with KEYRING_FORMAT=raw", keys.mode));
        }
        let max_age = keys.cache.max_age.as_secs();
        keys.cache.max_age = Duration::from_secs(self.parsed("KEYRING_CACHE_SECONDS", max_age)?);
        Ok(Some(keys))
    }

    /// The error does not quote the setting, because it may hold a password.
    async fn database(&self) -> Result<Database, String> {
        let Some(url) = self.text("DATABASE_URL") else { return Ok(Database::default()) };
        let config = url.parse().map_err(|_| "DATABASE_URL is no connection string")?;
        Database::connect(config).await.map_err(|error| format!("DATABASE_URL: {error}"))
    }
}
