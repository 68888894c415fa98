//! The sample application's table on a server, and the function `reencrypt` at work on it, in a scene.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{Failure, KEY_FIELD, KEY_SECRET, PREFIX, Scene};
use application::KeyFormat;
use application::database::TABLE;
use sandbox::lambda_host::FunctionConfig;
use serde_json::{Value, json};
use tokio_postgres::{Client, Config};

use crate::postgres::{PASSWORD, Postgres};

/// The function.
pub const REENCRYPT: &str = "reencrypt";
/// The secret with the user and the password that it opens the database with.
pub const DATABASE_SECRET: &str = "shop/production/database";

/// A database with the table `connections`, a role of the application, and one of the function, each with the rights that it needs.
pub struct Connections {
    /// A session of the superuser.
    pub sql: Client,
    port: u16,
    /// The database, whose name begins those of the roles.
    name: String,
}

/// What slices did together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrapped {
    /// Rows that are encrypted anew.
    pub rewrapped: u64,
    /// Rows that the application wrote meanwhile, and that were looked at again.
    pub overtaken: u64,
    /// Invocations that it took.
    pub invocations: u64,
}

impl Connections {
    /// Makes the database.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create(server: &Postgres) -> Result<Self, Failure> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("shop_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        server.connect().await?.execute(&format!("CREATE DATABASE {name}"), &[]).await?;
        let sql = server.connect_to(&name).await?;
        sql.batch_execute(&format!(
            "{TABLE}; \
             CREATE ROLE {name}_application LOGIN PASSWORD '{PASSWORD}'; \
             GRANT SELECT, INSERT, UPDATE ON connections TO {name}_application; \
             CREATE ROLE {name}_reencrypt LOGIN PASSWORD '{PASSWORD}'; \
             GRANT SELECT, UPDATE (refresh_token) ON connections TO {name}_reencrypt"
        ))
        .await?;
        Ok(Self { sql, port: server.port(), name })
    }

    /// How the application opens it.
    #[must_use]
    pub fn application(&self) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).dbname(&self.name);
        config.user(format!("{}_application", self.name)).password(PASSWORD);
        config
    }

    /// The same as a URL.
    #[must_use]
    pub fn application_url(&self) -> String {
        let Self { port, name, .. } = self;
        format!("postgres://{name}_application:{PASSWORD}@127.0.0.1:{port}/{name}")
    }

    /// Stores the function's user and password as a secret of the scene, and registers the function there for rows under a ring of
    /// this format, with further variables.
    ///
    /// # Errors
    /// When either is refused.
    pub async fn register(
        &self,
        scene: &Scene,
        executable: PathBuf,
        format: KeyFormat,
        variables: &[(&str, &str)],
    ) -> Result<(), Failure> {
        let user = json!({ "username": format!("{}_reencrypt", self.name), "password": PASSWORD });
        scene.client.create_secret().name(DATABASE_SECRET).secret_string(user.to_string()).send().await?;
        let format = match format {
            KeyFormat::Raw => "aes-gcm",
            KeyFormat::Fernet => "fernet",
            KeyFormat::Tink => "tink",
        };
        let columns = json!([{ "table": "connections", "column": "refresh_token", "format": format }]).to_string();
        let (endpoint, port) = (scene.sandbox.endpoint(), self.port.to_string());
        let own = [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("SECRET_NAME_PREFIX", PREFIX),
            ("ALLOWED_FIELDS", KEY_FIELD),
            ("REENCRYPT_COLUMNS", columns.as_str()),
            ("REENCRYPT_KEY_SECRET", KEY_SECRET),
            ("DATABASE_SECRET", DATABASE_SECRET),
            ("DATABASE_HOST", "127.0.0.1"),
            ("DATABASE_PORT", port.as_str()),
            ("DATABASE_NAME", self.name.as_str()),
        ];
        let environment = own.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        scene.sandbox.host().register(FunctionConfig {
            name: REENCRYPT.to_owned(),
            executable,
            environment: environment.collect(),
            timeout: Duration::from_secs(60),
            memory_mb: 128,
        })?;
        Ok(())
    }
}

/// Invokes the function once.
///
/// # Errors
/// When it fails, with its error.
pub async fn ask(scene: &Scene, request: &Value) -> Result<Value, Failure> {
    let invocation = scene.sandbox.host().invoke(REENCRYPT, request.to_string().into()).await?;
    let answer: Value = serde_json::from_slice(&invocation.payload)?;
    if invocation.function_error.is_some() {
        return Err(format!("reencrypt {request}: {answer}").into());
    }
    Ok(answer)
}

/// Encrypts all rows again that are not under the primary key: makes a plan, and has all slices worked on at once, each to its end.
///
/// # Errors
/// When an invocation fails, or leaves a row as it was.
pub async fn rewrap(scene: &Scene, slices: u64) -> Result<Rewrapped, Failure> {
    let plan = to_its_end(scene, json!({ "action": "plan", "slices": slices })).await?;
    let ranges = plan["ranges"].as_array().ok_or("the plan has no ranges")?;
    let slices = ranges.iter().map(|range| slice(scene, range));
    let mut sum = Rewrapped::default();
    for Rewrapped { rewrapped, overtaken, invocations } in futures_util::future::try_join_all(slices).await? {
        sum.rewrapped += rewrapped;
        sum.overtaken += overtaken;
        sum.invocations += invocations;
    }
    Ok(sum)
}

async fn slice(scene: &Scene, range: &Value) -> Result<Rewrapped, Failure> {
    let (mut request, mut sum) = (json!({ "action": "slice", "range": range }), Rewrapped::default());
    while !request.is_null() {
        let mut answer = ask(scene, &request).await?;
        let count = |member: &str| answer[member].as_u64().unwrap_or_default();
        if count("unknown") + count("damaged") + count("busy") > 0 {
            return Err(format!("rows stay as they are: {answer}").into());
        }
        sum.rewrapped += count("rewrapped");
        sum.overtaken += count("overtaken");
        sum.invocations += 1;
        request = answer["next"].take();
    }
    Ok(sum)
}

/// Counts all rows by key: the answer that ends the census.
///
/// # Errors
/// When an invocation fails.
pub async fn census(scene: &Scene) -> Result<Value, Failure> {
    to_its_end(scene, json!({ "action": "census" })).await
}

async fn to_its_end(scene: &Scene, mut request: Value) -> Result<Value, Failure> {
    loop {
        let answer = ask(scene, &request).await?;
        if answer["next"].is_null() {
            return Ok(answer);
        }
        request = answer["next"].clone();
    }
}

/// The rows under each key of the ring, by its id.
#[must_use]
pub fn rows_by_key(census: &Value) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    let columns = census["columns"].as_array().into_iter().flatten();
    for (key, count) in columns.filter_map(|column| column["keys"].as_object()).flatten() {
        *rows.entry(key.clone()).or_default() += count.as_u64().unwrap_or_default();
    }
    rows
}

/// The rows that no key of the ring opens.
#[must_use]
pub fn rows_unreadable(census: &Value) -> u64 {
    let columns = census["columns"].as_array().into_iter().flatten();
    columns.flat_map(|column| [&column["unknown"], &column["damaged"]]).filter_map(Value::as_u64).sum()
}
