//! The records: encrypted data, such as the OAuth tokens of the users, kept in a database as ciphertexts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cache::{CacheSettings, Cached, SecretCache};
use crate::clock::Clock;
use crate::database::{Database, DatabaseError, Record};
use crate::instance::{error, method_not_allowed};
use crate::keyring::{KeyFormat, KeyMode, Keyring, TooLong};
use crate::secrets::{LoadError, SecretReader, SecretReference};
use crate::tokens::rfc3339;

/// The longest record.
const MAX_RECORD_BYTES: usize = 64 * 1024;

/// The header that names the provider of a record.
pub const PROVIDER_HEADER: HeaderName = HeaderName::from_static("x-provider");

/// The settings of an instance's records.
#[derive(Clone, Debug)]
pub struct KeySettings {
    /// The secret with the keyring.
    pub secret: SecretReference,
    /// The format of the keyring.
    pub format: KeyFormat,
    /// The part of the keyring that the instance reads.
    pub mode: KeyMode,
    /// How long the instance caches the keyring.
    pub cache: CacheSettings,
    /// Whether a record that no key opens makes the instance load the keyring again and try once more. That happens at
    /// most once per reload interval. It helps an application that is not told about rotations. A staged key does not
    /// need it: every instance has the key before the key encrypts the first record.
    pub reload_on_unknown_key: bool,
    /// The store of the records.
    pub database: Database,
}

impl KeySettings {
    /// Every key, cached for an hour. A record that no key opens causes a reload.
    pub fn new(secret: SecretReference, format: KeyFormat, database: Database) -> Self {
        Self {
            secret,
            format,
            mode: KeyMode::Keyring,
            cache: CacheSettings::default(),
            reload_on_unknown_key: true,
            database,
        }
    }
}

/// The records of an instance, with its keyring.
pub(crate) struct Records {
    format: KeyFormat,
    mode: KeyMode,
    keyring: SecretCache<Keyring>,
    reload_on_unknown_key: bool,
    database: Database,
    clock: Clock,
    /// While set, the instance loads nothing.
    frozen: Arc<AtomicBool>,
}

impl Records {
    pub(crate) fn new(settings: KeySettings, reader: SecretReader, clock: Clock, frozen: Arc<AtomicBool>) -> Self {
        let KeySettings {
            secret: SecretReference { id: _, field },
            format,
            mode,
            cache,
            reload_on_unknown_key,
            database,
        } = settings;
        let keyring = SecretCache::new(reader, cache, Arc::clone(&clock), move |versions| {
            Keyring::read(versions, field.as_deref(), format, mode)
        });
        Self { format, mode, keyring, reload_on_unknown_key, database, clock, frozen }
    }

    /// Loads the keyring now.
    pub(crate) async fn refresh(&self) -> Result<(), LoadError> {
        self.keyring.refresh().await.map(|_| ())
    }

    /// Adds the held key ids and dates to an answer, and no key. An application that reads only the member does not
    /// know key ids.
    pub(crate) fn describe(&self, answer: &mut Value) {
        let loaded = self.keyring.peek();
        let loaded = loaded.as_deref();
        answer["keyring"] = json!({
            "format": self.format.to_string(),
            "mode": self.mode.to_string(),
            "loaded_at": loaded.and_then(|loaded| rfc3339(loaded.loaded_at)),
            "last_error": self.keyring.status().last_error.map(|error| error.to_string()),
        });
        if self.mode == KeyMode::Keyring {
            let ring = loaded.map(|loaded| &loaded.value);
            answer["key_ids"] = json!(ring.map(Keyring::key_ids).unwrap_or_default());
            answer["primary_key_ids"] = json!(ring.map(Keyring::primary_key_id).into_iter().collect::<Vec<_>>());
        }
    }

    async fn write(&self, provider: &str, plaintext: &[u8]) -> Result<String, RecordError> {
        let ciphertext = self.encrypt(plaintext).await?;
        Ok(self.database.insert(Record { provider: provider.to_owned(), ciphertext }).await?)
    }

    /// Replaces the plaintext of a record, as after a provider has given out another token.
    async fn rewrite(&self, id: &str, plaintext: &[u8]) -> Result<(), RecordError> {
        let ciphertext = self.encrypt(plaintext).await?;
        if self.database.replace(id, ciphertext).await? { Ok(()) } else { Err(RecordError::NotFound) }
    }

    async fn encrypt(&self, plaintext: &[u8]) -> Result<String, RecordError> {
        let keyring = self.keyring().await.ok_or(RecordError::NoKeyring)?;
        Ok(keyring.value.encrypt(plaintext, (self.clock)(), &mut rand::rng())?)
    }

    /// The provider and the plaintext of a record.
    async fn read(&self, id: &str) -> Result<(String, Zeroizing<Vec<u8>>), RecordError> {
        let Record { provider, ciphertext } = self.database.get(id).await?.ok_or(RecordError::NotFound)?;
        Ok((provider, self.decrypt(id, &ciphertext).await?))
    }

    async fn decrypt(&self, id: &str, ciphertext: &str) -> Result<Zeroizing<Vec<u8>>, RecordError> {
        let keyring = self.keyring().await.ok_or(RecordError::NoKeyring)?;
        if let Some(plaintext) = keyring.value.decrypt(ciphertext) {
            return Ok(plaintext);
        }
        if self.reload_on_unknown_key && !self.is_frozen() {
            // The load logs its own failure.
            if let Ok(loaded) = self.keyring.refresh_when_due().await
                && let Some(plaintext) = loaded.value.decrypt(ciphertext)
            {
                return Ok(plaintext);
            }
        }
        tracing::error!(record = id, "no key opens the record");
        Err(RecordError::Unreadable)
    }

    async fn keyring(&self) -> Option<Arc<Cached<Keyring>>> {
        if self.is_frozen() { self.keyring.peek() } else { self.keyring.get().await }
    }

    fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }
}

/// The reason why a record was not written or read.
#[derive(Clone, Copy)]
enum RecordError {
    NotFound,
    TooLarge,
    Unreadable,
    NoKeyring,
    NoDatabase,
    UnreadableBody(StatusCode),
}

impl From<DatabaseError> for RecordError {
    fn from(error: DatabaseError) -> Self {
        // The driver's message names statements and constraints, and could quote a value. The class of the error is
        // enough.
        tracing::error!(sqlstate = error.state(), "the database failed");
        Self::NoDatabase
    }
}

impl From<TooLong> for RecordError {
    fn from(TooLong: TooLong) -> Self {
        Self::TooLarge
    }
}

impl IntoResponse for RecordError {
    fn into_response(self) -> Response {
        match self {
            Self::NotFound => error(StatusCode::NOT_FOUND, "not_found"),
            Self::TooLarge => error(StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::Unreadable => error(StatusCode::INTERNAL_SERVER_ERROR, "unreadable"),
            Self::NoKeyring => error(StatusCode::SERVICE_UNAVAILABLE, "no_keyring"),
            Self::UnreadableBody(status) => error(status, "unreadable_body"),
            Self::NoDatabase => error(StatusCode::SERVICE_UNAVAILABLE, "no_database"),
        }
    }
}

/// The endpoints of the records.
pub(crate) fn router(records: Arc<Records>) -> Router {
    Router::new()
        .route("/records", post(write))
        .route("/records/{id}", get(read).put(rewrite))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_RECORD_BYTES))
        .with_state(records)
}

async fn write(
    State(records): State<Arc<Records>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, RecordError> {
    let provider = headers.get(PROVIDER_HEADER).and_then(|provider| provider.to_str().ok()).unwrap_or_default();
    let id = records.write(provider, &plaintext(body)?).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))).into_response())
}

async fn rewrite(
    State(records): State<Arc<Records>>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, RecordError> {
    records.rewrite(&id, &plaintext(body)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn read(State(records): State<Arc<Records>>, Path(id): Path<String>) -> Result<Response, RecordError> {
    let (provider, mut plaintext) = records.read(&id).await?;
    Ok(([(PROVIDER_HEADER, provider)], std::mem::take(&mut *plaintext)).into_response())
}

fn plaintext(body: Result<Bytes, BytesRejection>) -> Result<Bytes, RecordError> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => RecordError::TooLarge,
        status => RecordError::UnreadableBody(status),
    })
}
