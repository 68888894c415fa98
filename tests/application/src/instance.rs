//! One running instance of the service: its admin API, its records and its server.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_secretsmanager::Client;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cache::{CacheSettings, Cached, SecretCache};
use crate::clock::Clock;
use crate::records::{self, KeySettings, Records};
use crate::secrets::{SecretReader, SecretReference, StartValue};
use crate::tokens::{AdminTokens, Mode, Token, rfc3339};

/// The header that carries the admin token.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-admin-token");

/// How long a stopping instance waits for open requests.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The settings of an instance.
#[derive(Clone, Debug)]
pub struct InstanceSettings {
    /// The instance's name.
    pub instance_id: HeaderValue,
    /// The header that carries the name in every answer.
    pub instance_header: HeaderName,
    /// The address to listen on; port 0 takes a free port.
    pub address: SocketAddr,
    /// The secret with the admin token.
    pub secret: SecretReference,
    /// The accepted tokens.
    pub mode: Mode,
    /// How long the instance accepts a text secret's previous token, from the time the current token was made. It
    /// equals the secret's `rotation:overlap`. A JSON secret states its own end.
    pub overlap: Duration,
    /// How long the instance caches the tokens.
    pub cache: CacheSettings,
    /// The keyring and the records. Without it the instance keeps no records.
    pub keys: Option<KeySettings>,
    /// The values that the environment held at start. The instance reads none of these secrets from Secrets Manager.
    pub environment: AtStart,
}

/// The values in the environment of a process, read once when it starts.
#[derive(Clone, Debug, Default)]
pub struct AtStart {
    /// The value of the secret with the admin token. It goes with [`Mode::AtStart`].
    pub token: Option<StartValue>,
    /// The value of the secret with the keyring.
    pub keyring: Option<StartValue>,
}

/// The overlap of a secret without the tag `rotation:overlap`.
const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);

impl InstanceSettings {
    /// An instance in [`Mode::AllStages`] on a free port of 127.0.0.1. It caches tokens for an hour, has no records,
    /// and puts its name into `x-instance-id`.
    pub fn new(instance_id: HeaderValue, secret: SecretReference) -> Self {
        Self {
            instance_id,
            instance_header: HeaderName::from_static("x-instance-id"),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            secret,
            mode: Mode::AllStages,
            overlap: DEFAULT_OVERLAP,
            cache: CacheSettings::default(),
            keys: None,
            environment: AtStart::default(),
        }
    }

    /// The same with the token's secret from the environment, and [`Mode::AtStart`].
    #[must_use]
    pub fn started_with(mut self, token: StartValue) -> Self {
        self.mode = Mode::AtStart;
        self.environment.token = Some(token);
        self
    }
}

/// A running instance. It ends when it is stopped or dropped.
pub struct Instance {
    app: Arc<App>,
    address: SocketAddr,
    /// The server ends when this sender is dropped.
    running: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Instance {
    /// Starts an instance, and loads the tokens and the keyring.
    ///
    /// The instance starts even if a load fails. The first rotation may create a secret's value, and it must find the
    /// application running. Until then the instance refuses every admin request, and writes and reads no record.
    ///
    /// Without a `client` it reads only what [`InstanceSettings::environment`] holds.
    ///
    /// # Errors
    /// The instance cannot listen on the address.
    pub async fn start(
        settings: InstanceSettings,
        client: impl Into<Option<Client>>,
        clock: Clock,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.address).await?;
        let address = listener.local_addr()?;
        let app = Arc::new(App::new(settings, client.into(), clock));
        // The load logs its own failure.
        let _ = app.refresh().await;

        let (running, stopped) = oneshot::channel::<()>();
        let service = router(Arc::clone(&app));
        let server = tokio::spawn(async move {
            let stopped = async {
                // The sender never sends: it is dropped.
                let _ = stopped.await;
            };
            let served = axum::serve(listener, service).with_graceful_shutdown(stopped).await;
            if let Err(error) = served {
                tracing::error!(%error, "server ended");
            }
        });
        Ok(Self { app, address, running, server })
    }

    /// The address on which the instance listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The instance's name.
    pub fn id(&self) -> &HeaderValue {
        &self.app.instance_id
    }

    /// Makes the instance behave like a broken release. While frozen, the instance loads nothing, and its refresh
    /// endpoint still answers 200.
    pub fn freeze_refresh(&self, frozen: bool) {
        self.app.frozen.store(frozen, Ordering::SeqCst);
    }

    /// Makes the instance accept this token whatever the secret holds, like an instance with the token in a file of its
    /// own.
    pub fn also_accept(&self, token: Option<&str>) {
        let token = token.and_then(|token| Token::new(token.to_owned()).ok());
        *self.app.own.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Accepts no more requests, and waits at most two seconds for the open ones.
    pub async fn stop(self) {
        drop(self.running);
        if tokio::time::timeout(STOP_TIMEOUT, self.server).await.is_err() {
            tracing::warn!("stopped with requests under way");
        }
    }
}

/// The state that the handlers share.
struct App {
    instance_id: HeaderValue,
    instance_header: HeaderName,
    mode: Mode,
    tokens: SecretCache<AdminTokens>,
    records: Option<Arc<Records>>,
    clock: Clock,
    frozen: Arc<AtomicBool>,
    /// A token that does not come from the secret.
    own: Mutex<Option<Token>>,
}

impl App {
    fn new(settings: InstanceSettings, client: Option<Client>, clock: Clock) -> Self {
        let InstanceSettings {
            instance_id,
            instance_header,
            address: _,
            secret: SecretReference { id, field },
            mode,
            overlap,
            cache,
            keys,
            environment: AtStart { token, keyring },
        } = settings;
        let frozen = Arc::new(AtomicBool::new(false));
        let records = keys.map(|keys| {
            let reader = SecretReader::of(client.clone(), keyring, keys.secret.id.clone(), keys.mode.stages());
            Arc::new(Records::new(keys, reader, Arc::clone(&clock), Arc::clone(&frozen)))
        });
        let reader = SecretReader::of(client, token, id, mode.stages(field.as_deref()));
        let tokens = SecretCache::new(reader, cache, Arc::clone(&clock), move |versions| {
            AdminTokens::read(versions, field.as_deref(), mode, overlap)
        });
        Self { instance_id, instance_header, mode, tokens, records, clock, frozen, own: Mutex::new(None) }
    }

    fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// Loads the tokens and the keyring now. One failure does not prevent the other load. The tokens' error comes
    /// first.
    async fn refresh(&self) -> Result<Arc<Cached<AdminTokens>>, String> {
        let keyring = async {
            match &self.records {
                Some(records) => records.refresh().await,
                None => Ok(()),
            }
        };
        let (tokens, keyring) = tokio::join!(self.tokens.refresh(), keyring);
        let tokens = tokens.map_err(|reason| reason.to_string())?;
        keyring.map_err(|reason| format!("keyring: {reason}"))?;
        Ok(tokens)
    }

    /// Whether the instance accepts a token. In [`Mode::AllStages`] an unknown token causes a reload first.
    async fn accepts(&self, presented: &[u8]) -> bool {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if own.is_some_and(|own| own.matches(presented).into()) {
            return true;
        }
        if self.is_frozen() {
            return self.accepted_by(self.tokens.peek().as_deref(), presented);
        }
        if self.accepted_by(self.tokens.get().await.as_deref(), presented) {
            return true;
        }
        match self.mode {
            Mode::CurrentOnly | Mode::AtStart => false,
            // To refuse at once would be simpler. But a caller that guesses tokens could then use up the reloads, and
            // the holder of a new token needs them.
            Mode::AllStages => match self.tokens.refresh_when_due().await {
                Ok(loaded) => self.accepted_by(Some(&loaded), presented),
                Err(_) => false,
            },
        }
    }

    fn accepted_by(&self, loaded: Option<&Cached<AdminTokens>>, presented: &[u8]) -> bool {
        loaded.is_some_and(|loaded| loaded.value.accepts(presented, (self.clock)()))
    }

    fn instance(&self) -> &str {
        self.instance_id.to_str().unwrap_or_default()
    }

    fn describe(&self, loaded: Option<&Cached<AdminTokens>>) -> Value {
        let mut answer = json!({
            "instance": self.instance(),
            "mode": self.mode.to_string(),
            "loaded_at": loaded.and_then(|loaded| rfc3339(loaded.loaded_at)),
            "versions": loaded.map(|loaded| loaded.value.describe((self.clock)())),
        });
        if let Some(records) = &self.records {
            records.describe(&mut answer);
        }
        answer
    }
}

fn router(app: Arc<App>) -> Router {
    let admin = Router::new()
        .route("/secrets/health", get(secrets_health))
        .route("/refresh-secrets", post(refresh_secrets))
        .route("/jobs", get(jobs))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authorise));
    let records = app.records.clone().map(records::router).unwrap_or_default();
    Router::new()
        .route("/healthz", get(healthz))
        .nest("/admin", admin)
        .fallback(not_found)
        .with_state(Arc::clone(&app))
        .merge(records)
        .layer(middleware::from_fn_with_state(app, name_instance))
}

/// Puts the instance's name on every answer, also on refusals. A rotation counts instances by it.
async fn name_instance(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(app.instance_header.clone(), app.instance_id.clone());
    response
}

/// Lets a request with an accepted token pass. Absent and wrong tokens get the same answer.
async fn authorise(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let accepted = match request.headers().get(TOKEN_HEADER) {
        Some(presented) if !presented.is_empty() => app.accepts(presented.as_bytes()).await,
        _ => false,
    };
    if accepted { next.run(request).await } else { error(StatusCode::UNAUTHORIZED, "unauthorized") }
}

async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// The versions and keys that the instance holds, since when, and the last errors. No value and no key.
async fn secrets_health(State(app): State<Arc<App>>) -> Json<Value> {
    let mut health = app.describe(app.tokens.peek().as_deref());
    health["last_error"] = json!(app.tokens.status().last_error.map(|error| error.to_string()));
    Json(health)
}

/// Loads the secrets now. An instance that reads its environment only has nothing to load. If a load fails, answers 503 with the reason, and the instance keeps the held value.
async fn refresh_secrets(State(app): State<Arc<App>>) -> Response {
    if app.mode == Mode::AtStart {
        return not_found().await;
    }
    if app.is_frozen() {
        return Json(app.describe(app.tokens.peek().as_deref())).into_response();
    }
    match app.refresh().await {
        Ok(loaded) => Json(app.describe(Some(&loaded))).into_response(),
        Err(reason) => {
            let body = json!({
                "error": "refresh_failed",
                "instance": app.instance(),
                "reason": reason,
            });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// An ordinary admin endpoint: the instance's recurring jobs and their results.
async fn jobs(State(app): State<Arc<App>>) -> Json<Value> {
    let status = app.tokens.status();
    Json(json!({
        "instance": app.instance(),
        "jobs": [{ "name": "load-secrets", "runs": status.loads, "failures": status.failures }],
    }))
}

async fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "not_found")
}

pub(crate) async fn method_not_allowed() -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
}

pub(crate) fn error(status: StatusCode, name: &str) -> Response {
    (status, Json(json!({ "error": name }))).into_response()
}
