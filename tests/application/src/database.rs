//! The store of the application's records: in memory, or in a table of PostgreSQL.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

/// The table of records in PostgreSQL. A record is a user's connection to a provider, with the provider's refresh
/// token, encrypted.
pub const TABLE: &str =
    "CREATE TABLE connections (id uuid PRIMARY KEY, provider text NOT NULL, refresh_token text NOT NULL)";

/// A stored record.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The provider that gave out the token.
    pub provider: String,
    /// The encrypted token.
    pub ciphertext: String,
}

impl fmt::Debug for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Record").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// Encrypted records. The clones share them, as instances share a database.
#[derive(Clone)]
pub enum Database {
    /// A table in memory.
    Memory(Memory),
    /// A table in PostgreSQL.
    Postgres(Arc<Postgres>),
}

impl Default for Database {
    /// An empty table in memory.
    fn default() -> Self {
        Self::Memory(Memory::default())
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Memory(_) => "Memory",
            Self::Postgres(_) => "Postgres",
        })
    }
}

/// The reason why the database failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The database cannot be reached, or refuses.
    #[error("the database failed")]
    Failed(#[from] tokio_postgres::Error),
    /// The session would cross a network in clear text.
    #[error("the database is not on this machine, and the session would not be encrypted")]
    Remote,
}

impl DatabaseError {
    /// The class of the error (SQLSTATE), if the database sent one.
    pub(crate) fn state(&self) -> Option<&str> {
        match self {
            Self::Failed(error) => error.code().map(tokio_postgres::error::SqlState::code),
            Self::Remote => None,
        }
    }
}

impl Database {
    /// A database in PostgreSQL on this machine, with [`TABLE`] in it. The session is not encrypted.
    ///
    /// # Errors
    /// The database is on another machine, or cannot be reached.
    pub async fn connect(config: Config) -> Result<Self, DatabaseError> {
        if !is_local(&config) {
            return Err(DatabaseError::Remote);
        }
        let client = tokio::sync::Mutex::new(Arc::new(session(&config).await?));
        Ok(Self::Postgres(Arc::new(Postgres { config, client })))
    }

    /// Stores a record under a new id.
    ///
    /// # Errors
    /// The database fails.
    pub async fn insert(&self, record: Record) -> Result<String, DatabaseError> {
        let id = Uuid::new_v4().to_string();
        match self {
            Self::Memory(memory) => {
                memory.table().insert(id.clone(), record);
            }
            Self::Postgres(postgres) => {
                let insert = "INSERT INTO connections VALUES ($1::text::uuid, $2, $3)";
                postgres.client().await?.execute(insert, &[&id, &record.provider, &record.ciphertext]).await?;
            }
        }
        Ok(id)
    }

    /// The record with this id, if there is one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn get(&self, id: &str) -> Result<Option<Record>, DatabaseError> {
        match self {
            Self::Memory(memory) => Ok(memory.table().get(id).cloned()),
            Self::Postgres(_) if Uuid::parse_str(id).is_err() => Ok(None),
            Self::Postgres(postgres) => {
                let select = "SELECT provider, refresh_token FROM connections WHERE id = $1::text::uuid";
                let row = postgres.client().await?.query_opt(select, &[&id]).await?;
                let record = row.map(|row| Ok(Record { provider: row.try_get(0)?, ciphertext: row.try_get(1)? }));
                record.transpose()
            }
        }
    }

    /// Replaces the ciphertext of a record. `false` when no record has this id.
    ///
    /// # Errors
    /// The database fails.
    pub async fn replace(&self, id: &str, ciphertext: String) -> Result<bool, DatabaseError> {
        match self {
            Self::Memory(memory) => {
                let replaced = memory.table().get_mut(id).map(|record| record.ciphertext = ciphertext);
                Ok(replaced.is_some())
            }
            Self::Postgres(_) if Uuid::parse_str(id).is_err() => Ok(false),
            Self::Postgres(postgres) => {
                let update = "UPDATE connections SET refresh_token = $2 WHERE id = $1::text::uuid";
                Ok(postgres.client().await?.execute(update, &[&id, &ciphertext]).await? > 0)
            }
        }
    }

    /// The ids of all records.
    ///
    /// # Errors
    /// The database fails.
    pub async fn ids(&self) -> Result<Vec<String>, DatabaseError> {
        match self {
            Self::Memory(memory) => Ok(memory.table().keys().cloned().collect()),
            Self::Postgres(postgres) => {
                let rows = postgres.client().await?.query("SELECT id::text FROM connections", &[]).await?;
                rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
            }
        }
    }
}

/// A table in memory.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<String, Record>>>);

impl Memory {
    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A table in PostgreSQL.
pub struct Postgres {
    config: Config,
    client: tokio::sync::Mutex<Arc<Client>>,
}

impl Postgres {
    /// The session. A new session replaces one that has ended.
    async fn client(&self) -> Result<Arc<Client>, DatabaseError> {
        let mut client = self.client.lock().await;
        if client.is_closed() {
            *client = Arc::new(session(&self.config).await?);
        }
        Ok(Arc::clone(&client))
    }
}

fn is_local(config: &Config) -> bool {
    let local = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name.parse::<IpAddr>().map_or(name == "localhost", |address| address.is_loopback()),
    };
    config.get_hosts().iter().all(local) && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

async fn session(config: &Config) -> Result<Client, DatabaseError> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "the session with the database ended");
        }
    });
    Ok(client)
}
