//! Connections to the database, and the meaning of its errors.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use rotation::deadline::Deadline;
use rotation::error::{RotationError, innermost};
use rotation::secret::SecretText;
use rotation::store::SecretStore;
use serde::Deserialize;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row};

use crate::error::ReencryptError;
use crate::settings::{Database, Pace};
use crate::tls::Tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of rows that one statement may return into memory. The next statement reads the rest.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The prefix of a setting that PostgreSQL does not know. A row's key and [`CHANGED_END`] follow the prefix. A
/// statement that reads this setting fails, so PostgreSQL undoes the batch before any other session sees it. No
/// transaction has to wait for this process.
pub(crate) const CHANGED: &str = "reencrypt.changed:";
/// See [`CHANGED`].
pub(crate) const CHANGED_END: &str = ":reencrypt";

/// The way to the database.
#[derive(Debug)]
pub(crate) struct Access {
    database: Database,
    tls: Option<Tls>,
}

/// Why a statement failed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Another transaction is in the way, or the statement took too long. A retry can succeed.
    Busy(String),
    /// The stored value of the row with this key is not the written one: see [`CHANGED`].
    Changed(String),
    /// A retry now cannot succeed.
    Failed(ReencryptError),
}

impl From<Trouble> for ReencryptError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Busy(problem) => Self::DatabaseBusy { problem },
            Trouble::Changed(row) => Self::DatabaseRefused { problem: format!("row {row} changes when it is written") },
            Trouble::Failed(error) => error,
        }
    }
}

/// The name and password of a database user.
pub(crate) struct User {
    name: String,
    password: SecretText,
}

#[derive(Deserialize)]
struct UserSecret {
    username: String,
    password: SecretText,
}

impl Access {
    pub(crate) fn new(database: Database) -> Result<Self, RotationError> {
        Ok(Self { tls: Tls::of(&database)?, database })
    }

    /// Reads the secret with the database user.
    pub(crate) async fn user(&self, store: &impl SecretStore) -> Result<User, ReencryptError> {
        let secret = &self.database.secret;
        let value = store.get_current(secret).await.map_err(|error| RotationError::CredentialUnavailable {
            secret: secret.clone(),
            reason: Box::new(error.into()),
        })?;
        // The parser's message could quote the password.
        let invalid = |_| ReencryptError::DatabaseSecretInvalid { secret: secret.clone() };
        let UserSecret { username, password } = serde_json::from_str(value.text.expose()).map_err(invalid)?;
        Ok(User { name: username, password })
    }

    /// Connects, and sets the parameters that all statements of the session rely on.
    pub(crate) async fn connect(
        &self,
        user: &User,
        pace: &Pace,
        deadline: Deadline,
    ) -> Result<Session, ReencryptError> {
        let Database { host, port, name, .. } = &self.database;
        let mut config = Config::new();
        config.host(host).port(*port).dbname(name).user(&user.name).password(user.password.expose());
        config.application_name("reencrypt").connect_timeout(CONNECT_TIMEOUT);
        let place = if host.starts_with('/') { host.clone() } else { format!("{host}:{port}") };
        let connecting = async {
            match &self.tls {
                Some(tls) => {
                    let (client, connection) = config.ssl_mode(SslMode::Require).connect(tls.clone()).await?;
                    tokio::spawn(connection);
                    Ok(client)
                }
                None => {
                    let (client, connection) = config.ssl_mode(SslMode::Disable).connect(NoTls).await?;
                    tokio::spawn(connection);
                    Ok::<_, tokio_postgres::Error>(client)
                }
            }
        };
        let session = |client| Session { client, place: place.clone(), deadline };
        let late =
            || ReencryptError::DatabaseUnavailable { place: place.clone(), problem: "no answer in time".to_owned() };
        let client = deadline.bound(connecting).await.ok_or_else(late)?;
        let client = client.map_err(|error| ReencryptError::from(trouble(&place, &error)))?;
        let session = session(client);
        session.set(pace).await?;
        Ok(session)
    }
}

/// One connection, with the deadline of its statements.
pub(crate) struct Session {
    client: Client,
    place: String,
    deadline: Deadline,
}

/// A parameter of a statement, with its type.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Rows, and whether the statement had more rows than fit into memory.
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) cut_short: bool,
}

impl Session {
    async fn set(&self, pace: &Pace) -> Result<(), Trouble> {
        let milliseconds = |duration: Duration| duration.as_millis().max(1);
        // With row security off, a statement fails instead of hiding rows; a hidden row would never be counted.
        // Texts of keys and of associated data must not depend on the settings of the server or the role. PostgreSQL
        // looks for a deadlock only after `deadlock_timeout`. A shorter wait for locks never makes it cancel another
        // transaction.
        self.execute(&format!(
            "SELECT pg_catalog.set_config('lock_timeout', GREATEST(1, LEAST({}, setting::pg_catalog.int8 * 9 / 10))::pg_catalog.text, false) \
             FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'; \
             SET statement_timeout = {}; SET row_security = off; \
             SET default_transaction_isolation = 'read committed'; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; \
             SET IntervalStyle = 'postgres'; SET extra_float_digits = 1; SET bytea_output = 'hex'; \
             SET idle_in_transaction_session_timeout = {}",
            milliseconds(pace.lock_timeout),
            milliseconds(pace.statement_timeout),
            milliseconds(pace.statement_timeout),
        ))
        .await
    }

    pub(crate) async fn execute(&self, statements: &str) -> Result<(), Trouble> {
        self.bound(self.client.batch_execute(statements)).await
    }

    /// The rows that a statement returns. PostgreSQL plans the text for these parameters. A plan for any
    /// number of rows would read the whole table in each statement.
    pub(crate) async fn query(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Trouble> {
        self.bound(self.client.query_typed(statement, parameters)).await
    }

    /// As [`query`](Self::query), for as many rows as fit into memory ([`MOST_BYTES`]).
    pub(crate) async fn query_some(&self, statement: &str, parameters: &[Parameter<'_>]) -> Result<Rows, Trouble> {
        self.bound(async {
            let parameters = parameters.iter().map(|(value, kind)| (*value, kind.clone()));
            let mut stream = std::pin::pin!(self.client.query_typed_raw(statement, parameters).await?);
            let (mut rows, mut bytes) = (vec![], 0);
            while let Some(row) = stream.try_next().await? {
                bytes += row.raw_size_bytes();
                rows.push(row);
                if bytes >= MOST_BYTES {
                    return Ok(Rows { rows, cut_short: true });
                }
            }
            Ok(Rows { rows, cut_short: false })
        })
        .await
    }

    async fn bound<T>(&self, call: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Trouble> {
        let late = || ReencryptError::DatabaseUnavailable {
            place: self.place.clone(),
            problem: "no answer in the time that this invocation had left".to_owned(),
        };
        let result = self.deadline.bound(call).await.ok_or_else(|| Trouble::Failed(late()))?;
        result.map_err(|error| trouble(&self.place, &error))
    }
}

/// Classifies a database error. Its message is kept only when it cannot hold a value: about rights, names, or the
/// server's state.
fn trouble(place: &str, error: &tokio_postgres::Error) -> Trouble {
    let unavailable =
        |problem: String| Trouble::Failed(ReencryptError::DatabaseUnavailable { place: place.to_owned(), problem });
    let Some(refused) = error.as_db_error() else {
        return unavailable(innermost(error));
    };
    let code = refused.code();
    let changed = refused.message().split_once(CHANGED).and_then(|(_, rest)| rest.rsplit_once(CHANGED_END));
    if let (&SqlState::UNDEFINED_OBJECT, Some((row, _))) = (code, changed) {
        return Trouble::Changed(row.to_owned());
    }
    let named = || format!("SQLSTATE {}", code.code());
    match code {
        &SqlState::LOCK_NOT_AVAILABLE
        | &SqlState::T_R_DEADLOCK_DETECTED
        | &SqlState::T_R_SERIALIZATION_FAILURE
        | &SqlState::QUERY_CANCELED => Trouble::Busy(named()),
        &SqlState::ADMIN_SHUTDOWN
        | &SqlState::CRASH_SHUTDOWN
        | &SqlState::CANNOT_CONNECT_NOW
        | &SqlState::TOO_MANY_CONNECTIONS => unavailable(format!("{}: {}", named(), refused.message())),
        code => {
            let tells_no_value = ["25", "28", "3D", "42"].iter().any(|class| code.code().starts_with(class));
            let message = if tells_no_value { format!(": {}", refused.message()) } else { String::new() };
            Trouble::Failed(ReencryptError::DatabaseRefused { problem: format!("{}{message}", named()) })
        }
    }
}
