//! The stack's configuration: the columns, the database, and the load that the database may carry.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use rotation::census::ColumnName;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::keyring::KEY_SETTINGS;
use rotation::policy::StackPolicy;
use rotation::rows::{Encoding, RowFormat};
use serde::Deserialize;

const COLUMNS: &str = "REENCRYPT_COLUMNS";
const KEY_SECRET: &str = "REENCRYPT_KEY_SECRET";
const BATCH_ROWS: &str = "REENCRYPT_BATCH_ROWS";
const BATCH_TIME: &str = "REENCRYPT_BATCH_TIME";
const ROWS_PER_SECOND: &str = "REENCRYPT_ROWS_PER_SECOND";
const LOCK_TIMEOUT: &str = "REENCRYPT_LOCK_TIMEOUT";
const STATEMENT_TIMEOUT: &str = "REENCRYPT_STATEMENT_TIMEOUT";
const SECRET: &str = "DATABASE_SECRET";
const HOST: &str = "DATABASE_HOST";
const PORT: &str = "DATABASE_PORT";
const DATABASE: &str = "DATABASE_NAME";
const CA_FILE: &str = "DATABASE_CA_FILE";

/// The most columns. No configuration that fits into an environment has more.
const MOST_COLUMNS: usize = 64;
/// PostgreSQL's longest identifier, in bytes (`NAMEDATALEN` - 1).
const LONGEST_NAME: usize = 63;
/// The longest wait for a lock. PostgreSQL looks for deadlocks after one second, unless `deadlock_timeout` says
/// otherwise. A session reads `deadlock_timeout` and waits less.
const LONGEST_LOCK_TIMEOUT: Duration = Duration::from_millis(900);

/// A column, with the form of its stored values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: ColumnName,
    /// The format of the ciphertexts.
    pub format: RowFormat,
    /// The encoding of the ciphertexts. `None` means base64 in a text, and the bytes themselves in a `bytea`.
    pub encoding: Option<Encoding>,
    /// The columns of the row in the associated data, see [`rotation::rows::aad`].
    pub aad: Vec<String>,
    /// Whether base64 is padded, for a column where no value shows it.
    pub padding: Option<bool>,
    /// The primary keys, as text, of rows that the function leaves unchanged.
    pub leave: BTreeSet<String>,
}

fn public() -> String {
    "public".to_owned()
}

/// An entry of `REENCRYPT_COLUMNS`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default = "public")]
    schema: String,
    table: String,
    column: String,
    format: Option<RowFormat>,
    encoding: Option<Encoding>,
    #[serde(default)]
    aad: Vec<String>,
    /// The reason why a column that looks like ciphertexts of the ring is not rewrapped.
    excused: Option<String>,
    padding: Option<bool>,
    #[serde(default)]
    leave: BTreeSet<String>,
}

/// The place of the database, and the secret with its user and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Name or ARN of the secret with `username` and `password`.
    pub secret: String,
    /// Host name, address, or the folder of a Unix socket.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The name of the database.
    pub name: String,
    /// A PEM file of root certificates, instead of the system's.
    pub ca_file: Option<String>,
}

impl Database {
    /// Whether the traffic stays on this machine and needs no TLS.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host.starts_with('/') || address.map_or(self.host == "localhost", |address| address.is_loopback())
    }
}

/// The load that the database may carry. No measurement of the worker can replace these limits. They depend on the
/// other users of the database, and on how long those users can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The most rows that one statement reads or writes. A batch is one transaction. Each follower of the database's
    /// changes holds it in memory as a whole: logical replication, change data capture, statement triggers.
    pub batch_rows: usize,
    /// The target time of one UPDATE. Its rows are locked for this time, and an application that wants one of them
    /// waits.
    pub batch_time: Duration,
    /// The most rows written in a second; `None` means no limit. Even short batches may be more than replicas, log
    /// backups and the vacuum can follow.
    pub rows_per_second: Option<u32>,
    /// How long a statement waits for another transaction's lock, while it holds the locks of its other rows. A shorter
    /// wait spares applications with short timeouts. A longer wait leaves fewer rows for a second try, if transactions
    /// are long.
    pub lock_timeout: Duration,
    /// How long a statement may take. A batch shrinks until it fits. A query of the catalogue of a slow or very large
    /// database cannot shrink, and would fail for ever.
    pub statement_timeout: Duration,
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The columns, in the order in which a census counts them.
    pub columns: Vec<Column>,
    /// Columns that look like ciphertexts, and that the function does not rewrap.
    pub excused: Vec<ColumnName>,
    /// Name or ARN of the secret with the keyring.
    pub key_secret: String,
    /// The stack's part of the policy for keyrings.
    pub policy: StackPolicy,
    /// The database.
    pub database: Database,
    /// The limits of the load.
    pub pace: Pace,
}

fn invalid(variable: &str, problem: impl Into<String>) -> RotationError {
    RotationError::InvalidConfiguration { variable: variable.to_owned(), problem: problem.into() }
}

impl Settings {
    /// Reads the variables of the function.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] or [`RotationError::InvalidPolicy`] with the variable's name.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let known = [COLUMNS, KEY_SECRET, BATCH_ROWS, BATCH_TIME, ROWS_PER_SECOND, LOCK_TIMEOUT, STATEMENT_TIMEOUT];
        environment.refuse_unknown("REENCRYPT_", &known)?;
        environment.refuse_unknown("DATABASE_", &[SECRET, HOST, PORT, DATABASE, CA_FILE])?;
        let database = Database {
            secret: environment.require(SECRET)?.to_owned(),
            host: environment.require(HOST)?.to_owned(),
            port: environment.parse(PORT, "a port")?.unwrap_or(5432),
            name: environment.require(DATABASE)?.to_owned(),
            ca_file: environment.get(CA_FILE).map(str::to_owned),
        };
        let duration = |variable, default, longest| {
            let duration = environment.duration(variable)?.unwrap_or(default);
            let problem = || format!("expected a duration from 1ms to {longest:?}");
            let fits = (Duration::from_millis(1)..=longest).contains(&duration);
            if fits { Ok(duration) } else { Err(invalid(variable, problem())) }
        };
        let rows = "a number of rows from 1 to 20000";
        let batch_rows = environment.parse(BATCH_ROWS, rows)?.unwrap_or(5000);
        if !(1..=20_000).contains(&batch_rows) {
            return Err(invalid(BATCH_ROWS, format!("expected {rows}")));
        }
        let rows_per_second = environment.parse(ROWS_PER_SECOND, "a number of rows, at least 1")?;
        if rows_per_second == Some(0) {
            return Err(invalid(ROWS_PER_SECOND, "expected a number of rows, at least 1"));
        }
        let minute = Duration::from_secs(60);
        let (columns, excused) = columns(environment.require(COLUMNS)?)?;
        Ok(Self {
            columns,
            excused,
            key_secret: environment.require(KEY_SECRET)?.to_owned(),
            policy: StackPolicy::from_environment(environment, KEY_SETTINGS)?,
            database,
            pace: Pace {
                batch_rows,
                batch_time: duration(BATCH_TIME, Duration::from_millis(250), minute)?,
                rows_per_second,
                lock_timeout: duration(LOCK_TIMEOUT, Duration::from_millis(200), LONGEST_LOCK_TIMEOUT)?,
                statement_timeout: duration(STATEMENT_TIMEOUT, Duration::from_secs(5), minute)?,
            },
        })
    }

    /// The configured column of this name.
    #[must_use]
    pub fn column(&self, name: &ColumnName) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == *name)
    }
}

fn columns(json: &str) -> Result<(Vec<Column>, Vec<ColumnName>), RotationError> {
    // The configuration holds no secret, so the parser's message may be shown.
    let entries: Vec<Entry> =
        serde_json::from_str(json).map_err(|error| invalid(COLUMNS, format!("is not as expected: {error}")))?;
    if !(1..=MOST_COLUMNS).contains(&entries.len()) {
        return Err(invalid(COLUMNS, format!("expected 1 to {MOST_COLUMNS} columns")));
    }
    let (mut columns, mut all): (Vec<Column>, Vec<ColumnName>) = (vec![], vec![]);
    let mut excused_names = vec![];
    for Entry { schema, table, column, format, encoding, aad, excused, padding, leave } in entries {
        let names = [&schema, &table, &column].into_iter().chain(&aad);
        if !names.into_iter().all(|name| is_name(name)) {
            return Err(invalid(COLUMNS, format!("expected names of 1 to {LONGEST_NAME} bytes, without a zero byte")));
        }
        let name = ColumnName { schema, table, column };
        let wrong = |problem: &str| Err(invalid(COLUMNS, format!("column {name} {problem}")));
        if all.contains(&name) {
            return wrong("stands there twice");
        }
        all.push(name.clone());
        let format = match (format, excused) {
            (Some(format), None) => format,
            (None, Some(_)) => {
                excused_names.push(name);
                continue;
            }
            _ => return wrong("needs a format, or the reason why it is excused"),
        };
        if !aad.is_empty() && !format.takes_aad() {
            return wrong("has aad, and Fernet tokens take no associated data");
        }
        if aad.contains(&name.column) {
            return wrong("is named in its own aad");
        }
        if encoding.is_some() && !format.takes_encoding() {
            return wrong("has an encoding, and its format is always written in the same way");
        }
        if padding.is_some() && (!format.takes_encoding() || encoding == Some(Encoding::Binary)) {
            return wrong("has a padding, and is not written in base64");
        }
        columns.push(Column { name, format, encoding, aad, padding, leave });
    }
    let Some(ring) = columns.first().map(|column| column.format.ring()) else {
        return Err(invalid(COLUMNS, "expected a column that is not excused"));
    };
    if columns.iter().any(|column| column.format.ring() != ring) {
        let problem = "expected columns of one keyring: fernet alone, tink alone, or aes-gcm and aes-gcm-hex";
        return Err(invalid(COLUMNS, problem));
    }
    Ok((columns, excused_names))
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len()) && !name.contains('\0')
}
