//! What a test works with: the server, a schema, a sandbox with the secrets, and the built function.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_sdk_secretsmanager::types::Tag;
use end_to_end::postgres::{PASSWORD, Postgres};
use rotation::keyring::KeyFormat;
use sandbox::lambda_host::FunctionConfig;
use sandbox::{Sandbox, Settings};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::keys::{ring, tag};

pub(crate) const FUNCTION: &str = "reencrypt";
pub(crate) const KEY_SECRET: &str = "shop/production/encryption-key";
pub(crate) const DATABASE_SECRET: &str = "shop/production/database";

/// The server of all tests of this process. It never sees a crash of its own: nothing is synchronised.
pub(crate) fn server() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    let settings = [
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "log_statement=none",
        "max_prepared_transactions=10",
        "shared_preload_libraries=pg_stat_statements",
    ];
    SERVER.get_or_init(|| Postgres::start(&settings).unwrap())
}

pub(crate) struct Bench {
    pub(crate) sandbox: Sandbox,
    pub(crate) secrets: aws_sdk_secretsmanager::Client,
    /// The superuser's connection.
    pub(crate) sql: Client,
    /// The schema, which is the name of the function's role too.
    pub(crate) schema: String,
}

impl Bench {
    /// A bench whose ring has the keys of these seeds, the primary first.
    pub(crate) async fn new(format: KeyFormat, seeds: &[u64]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let schema = format!("bench_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let sql = server().connect().await.unwrap();
        let role = format!(
            "CREATE SCHEMA {schema}; CREATE ROLE {schema} LOGIN PASSWORD '{PASSWORD}'; GRANT USAGE ON SCHEMA {schema} TO {schema}"
        );
        sql.batch_execute(&role).await.unwrap();
        let sandbox = Sandbox::start(Settings::default()).await.unwrap();
        let secrets = end_to_end::client(&sandbox.endpoint()).unwrap();
        let tag = Tag::builder().key("rotation:key-format").value(tag(format)).build();
        let keyring = secrets.create_secret().name(KEY_SECRET).secret_string(ring(format, seeds)).tags(tag);
        keyring.send().await.unwrap();
        let user = json!({ "username": schema, "password": PASSWORD, "engine": "postgres" });
        secrets.create_secret().name(DATABASE_SECRET).secret_string(user.to_string()).send().await.unwrap();
        Self { sandbox, secrets, sql, schema }
    }

    /// A bench with the table `rows (id bigint, token text)` whose column holds Fernet tokens.
    pub(crate) async fn with_tokens(seeds: &[u64], tokens: &[(i64, Option<String>)]) -> Self {
        let bench = Self::new(KeyFormat::Fernet, seeds).await;
        bench.run("CREATE TABLE {schema}.rows (id bigint PRIMARY KEY, token text)").await;
        bench.fill(tokens).await;
        bench.grant("rows", "token").await;
        bench.register(json!([bench.tokens_column()]), &[]);
        bench
    }

    pub(crate) async fn fill(&self, tokens: &[(i64, Option<String>)]) {
        let (ids, tokens): (Vec<i64>, Vec<Option<String>>) = tokens.iter().cloned().unzip();
        let insert = format!("INSERT INTO {}.rows SELECT * FROM unnest($1::int8[], $2::text[])", self.schema);
        self.sql.execute(&insert, &[&ids, &tokens]).await.unwrap();
    }

    /// The configuration of the table that [`with_tokens`](Self::with_tokens) makes.
    pub(crate) fn tokens_column(&self) -> Value {
        json!({ "schema": self.schema, "table": "rows", "column": "token", "format": "fernet" })
    }

    /// Runs statements as superuser, with the schema's name for `{schema}`.
    pub(crate) async fn run(&self, statements: &str) {
        let statements = statements.replace("{schema}", &self.schema);
        self.sql.batch_execute(&statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// What the function's role needs: to read the table, and to write one column.
    pub(crate) async fn grant(&self, table: &str, column: &str) {
        let grant = format!("GRANT SELECT, UPDATE ({column}) ON {{schema}}.{table} TO {{schema}}");
        self.run(&grant).await;
    }

    /// Registers the function with these columns and further variables.
    pub(crate) fn register(&self, columns: Value, variables: &[(&str, &str)]) {
        self.register_as(FUNCTION, columns, variables);
    }

    pub(crate) fn register_as(&self, name: &str, columns: Value, variables: &[(&str, &str)]) {
        let port = server().port().to_string();
        let mut environment: BTreeMap<String, String> = [
            ("AWS_ENDPOINT_URL", self.sandbox.endpoint().as_str()),
            ("REENCRYPT_COLUMNS", columns.to_string().as_str()),
            ("REENCRYPT_KEY_SECRET", KEY_SECRET),
            ("DATABASE_SECRET", DATABASE_SECRET),
            ("DATABASE_HOST", "127.0.0.1"),
            ("DATABASE_PORT", port.as_str()),
            ("DATABASE_NAME", "postgres"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let executable = sandbox::program(FUNCTION).unwrap();
        let timeout = Duration::from_secs(60);
        let config = FunctionConfig { name: name.to_owned(), executable, environment, timeout, memory_mb: 128 };
        self.sandbox.host().register(config).unwrap();
    }

    /// Invokes the function: its answer, or the name and the message of its error.
    pub(crate) async fn invoke(&self, request: &Value) -> Result<Value, (String, String)> {
        self.invoke_as(FUNCTION, request).await
    }

    pub(crate) async fn invoke_as(&self, name: &str, request: &Value) -> Result<Value, (String, String)> {
        let invocation = self.sandbox.host().invoke(name, request.to_string().into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&invocation.payload).unwrap();
        if invocation.function_error.is_none() {
            return Ok(answer);
        }
        let text = |member: &str| answer[member].as_str().unwrap_or_default().to_owned();
        Err((text("errorType"), text("errorMessage")))
    }

    /// The answer to a request that succeeds.
    pub(crate) async fn ask(&self, request: Value) -> Value {
        self.invoke(&request).await.unwrap_or_else(|error| panic!("{request}: {error:?}\n{}", self.log()))
    }

    /// The error of a request that fails.
    pub(crate) async fn refusal(&self, request: Value) -> (String, String) {
        self.invoke(&request).await.expect_err("it succeeded")
    }

    /// The range of all rows of the table `rows`.
    pub(crate) fn all(&self) -> Value {
        json!({ "schema": self.schema, "table": "rows", "column": "token" })
    }

    /// The same range, as a plan makes it of the first column that is registered.
    pub(crate) async fn planned(&self) -> Value {
        self.ask(json!({ "action": "plan", "slices": 1 })).await["ranges"][0].clone()
    }

    /// Re-encrypts all rows of the table `rows`.
    pub(crate) async fn slice(&self) -> Value {
        self.slice_of(&self.planned().await).await
    }

    /// Re-encrypts the rows of a range.
    pub(crate) async fn slice_of(&self, range: &Value) -> Value {
        let answer = self.ask(json!({ "action": "slice", "range": range })).await;
        assert_adds_up(&answer);
        answer
    }

    /// Counts all rows.
    pub(crate) async fn census(&self) -> Value {
        self.ask(json!({ "action": "census" })).await
    }

    /// The rows of the table `rows`.
    pub(crate) async fn tokens(&self) -> Vec<(i64, Option<String>)> {
        let select = format!("SELECT id, token FROM {}.rows ORDER BY id", self.schema);
        let rows = self.sql.query(&select, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    pub(crate) fn log(&self) -> String {
        self.sandbox.host().logs(FUNCTION).join("\n")
    }
}

/// Every row that a slice has read became something.
#[track_caller]
pub(crate) fn assert_adds_up(answer: &Value) {
    let count = |member: &str| answer[member].as_u64().unwrap_or_else(|| panic!("{member}: {answer}"));
    let outcomes = ["nulls", "underPrimary", "rewrapped", "unknown", "damaged", "deleted", "left", "busy"];
    assert_eq!(count("rows"), outcomes.into_iter().map(count).sum::<u64>(), "{answer}");
    let keys: u64 = answer["keys"].as_object().unwrap().values().map(|rows| rows.as_u64().unwrap()).sum();
    assert_eq!(count("rewrapped"), keys, "{answer}");
}
