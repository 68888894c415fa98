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
use crate::secrets::{SecretReader, SecretReference};
use crate::tokens::{AdminTokens, Mode, Token, rfc3339};

/// The header that carries the admin token.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-admin-token");

/// How long a stopping instance waits for the requests that it is working on.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What an instance needs to know.
#[derive(Clone, Debug)]
pub struct InstanceSettings {
    /// The name under which the instance answers.
    pub instance_id: HeaderValue,
    /// The header that carries that name in every answer.
    pub instance_header: HeaderName,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Where the admin token is.
    pub secret: SecretReference,
    /// Which tokens are accepted.
    pub mode: Mode,
    /// How long a text secret's previous token is accepted, from the making of the current one: the secret's
    /// `rotation:overlap`. A JSON secret says it itself.
    pub overlap: Duration,
    /// How long they are kept.
    pub cache: CacheSettings,
    /// The keyring and the records; without it the instance keeps none.
    pub keys: Option<KeySettings>,
}

/// The overlap of a secret without the tag `rotation:overlap`.
const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);

impl InstanceSettings {
    /// An instance in [`Mode::AllStages`] on a free port of 127.0.0.1, that keeps tokens for an hour, has no records,
    /// and names itself in `x-instance-id`.
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
        }
    }
}

/// A running instance. It ends when stopped or dropped.
pub struct Instance {
    app: Arc<App>,
    address: SocketAddr,
    /// Dropped to stop the server.
    running: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Instance {
    /// Starts an instance, and loads the tokens and the keyring.
    ///
    /// It also starts when they can't be loaded: the first rotation of a secret may be what gives it a value, and has to find
    /// the application running. Until then every admin request is refused, and no record is written or read.
    ///
    /// # Errors
    /// When the address can't be listened on.
    pub async fn start(settings: InstanceSettings, client: Client, clock: Clock) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.address).await?;
        let address = listener.local_addr()?;
        let app = Arc::new(App::new(settings, client, clock));
        // Its failure is logged where it happens.
        let _ = app.refresh().await;

        let (running, stopped) = oneshot::channel::<()>();
        let service = router(Arc::clone(&app));
        let server = tokio::spawn(async move {
            let stopped = async {
                // Nothing is ever sent: the sender is dropped.
                let _ = stopped.await;
            };
            let served = axum::serve(listener, service).with_graceful_shutdown(stopped).await;
            if let Err(error) = served {
                tracing::error!(%error, "server ended");
            }
        });
        Ok(Self { app, address, running, server })
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The name under which it answers.
    pub fn id(&self) -> &HeaderValue {
        &self.app.instance_id
    }

    /// Makes the instance behave like a broken release: while frozen it loads nothing, on whatever occasion, and its refresh
    /// endpoint answers 200 all the same.
    pub fn freeze_refresh(&self, frozen: bool) {
        self.app.frozen.store(frozen, Ordering::SeqCst);
    }

    /// Makes the instance accept this token whatever the secret says, as one does that has it in a file of its own.
    pub fn also_accept(&self, token: Option<&str>) {
        let token = token.and_then(|token| Token::new(token.to_owned()).ok());
        *self.app.own.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Stops accepting requests, and waits at most two seconds for those under way.
    pub async fn stop(self) {
        drop(self.running);
        if tokio::time::timeout(STOP_TIMEOUT, self.server).await.is_err() {
            tracing::warn!("stopped with requests under way");
        }
    }
}

/// What the handlers share.
struct App {
    instance_id: HeaderValue,
    instance_header: HeaderName,
    mode: Mode,
    tokens: SecretCache<AdminTokens>,
    records: Option<Arc<Records>>,
    clock: Clock,
    frozen: Arc<AtomicBool>,
    /// A token from elsewhere than the secret.
    own: Mutex<Option<Token>>,
}

impl App {
    fn new(settings: InstanceSettings, client: Client, clock: Clock) -> Self {
        let InstanceSettings {
            instance_id,
            instance_header,
            address: _,
            secret: SecretReference { id, field },
            mode,
            overlap,
            cache,
            keys,
        } = settings;
        let frozen = Arc::new(AtomicBool::new(false));
        let records =
            keys.map(|keys| Arc::new(Records::new(keys, client.clone(), Arc::clone(&clock), Arc::clone(&frozen))));
        let reader = SecretReader::new(client, id, mode.stages(field.as_deref()));
        let tokens = SecretCache::new(reader, cache, Arc::clone(&clock), move |versions| {
            AdminTokens::read(versions, field.as_deref(), mode, overlap)
        });
        Self { instance_id, instance_header, mode, tokens, records, clock, frozen, own: Mutex::new(None) }
    }

    fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// Loads the tokens and the keyring now. Neither keeps the other from being loaded; the error is the first one's.
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

    /// Whether a token is accepted; in [`Mode::AllStages`] after a reload, if it was unknown before.
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
            Mode::CurrentOnly => false,
            // Waiting for the interval to pass, where it would be simpler to refuse, keeps whoever guesses tokens from
            // using up the reloads that the holder of a new token needs.
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

/// Puts the instance's name on every answer, refusals included: a rotation counts instances by it.
async fn name_instance(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(app.instance_header.clone(), app.instance_id.clone());
    response
}

/// Lets a request pass that carries an accepted token. Absent and wrong tokens get the same answer.
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

/// Which versions and keys the instance holds, since when, and whether it could load them. No value, no key.
async fn secrets_health(State(app): State<Arc<App>>) -> Json<Value> {
    let mut health = app.describe(app.tokens.peek().as_deref());
    health["last_error"] = json!(app.tokens.status().last_error.map(|error| error.to_string()));
    Json(health)
}

/// Loads the secrets now; 503 and a reason when that fails for one, with what was held of it before.
async fn refresh_secrets(State(app): State<Arc<App>>) -> Response {
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

/// An admin endpoint like any other: the instance's recurring jobs and how they went.
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
