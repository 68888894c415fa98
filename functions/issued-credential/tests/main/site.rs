//! A small provider over HTTP: client secrets of which two are alive at most, and sessions with cookies. It also serves
//! the two interfaces by which the examples read their own secret.

use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the provider has made and not revoked: the label, the id, the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) label: String,
    pub(crate) id: String,
    pub(crate) secret: String,
}

#[derive(Clone, Default)]
pub(crate) struct Site {
    alive: Arc<Mutex<(usize, Vec<Made>)>>,
}

type Answer = Result<Json<Value>, StatusCode>;

const MOST_SECRETS: usize = 2;
const ADMIN: &str = "Bearer admin-token";

impl Site {
    /// With one credential that a person made.
    pub(crate) fn with(secret: &str) -> Self {
        let site = Self::default();
        site.make("by hand", |_| secret.to_owned());
        site
    }

    pub(crate) fn alive(&self) -> Vec<Made> {
        self.alive.lock().unwrap().1.clone()
    }

    fn make(&self, label: &str, secret: impl FnOnce(usize) -> String) -> Made {
        let mut alive = self.alive.lock().unwrap();
        alive.0 += 1;
        let (label, id, secret) = (label.to_owned(), format!("s{}", alive.0), secret(alive.0));
        let made = Made { label, id, secret };
        alive.1.push(made.clone());
        made
    }

    fn remove(&self, id: &str) -> Answer {
        let mut alive = self.alive.lock().unwrap();
        let before = alive.1.len();
        alive.1.retain(|made| made.id != id);
        if alive.1.len() < before { Ok(Json(Value::Null)) } else { Err(StatusCode::NOT_FOUND) }
    }

    /// The session of a cookie.
    fn session(&self, headers: &HeaderMap) -> Result<Made, StatusCode> {
        let cookie = header(headers, "cookie");
        self.alive().into_iter().find(|made| made.secret == cookie).ok_or(StatusCode::UNAUTHORIZED)
    }

    /// Serves on a port of the loopback interface; the URL.
    pub(crate) async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new()
            .route("/", post(async || Json(json!({ "Name": "x", "SecretString": own_secret() }))))
            .route("/secretsmanager/get", get(async || Json(json!({ "SecretString": "admin-token" }))))
            .route("/clients/shop/secrets", post(create).get(list))
            .route("/clients/shop/secrets/{id}", delete(remove))
            .route("/token", post(token))
            .route("/login", post(login))
            .route("/me", get(me))
            .route("/sessions", get(sessions))
            .route("/logout", post(logout))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }
}

/// The one secret of both examples: a token, and a login, which the one for cookies parses.
fn own_secret() -> String {
    r#"{"user":"shop","password":"hunter2"}"#.to_owned()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn require_admin(headers: &HeaderMap) -> Result<(), StatusCode> {
    let of_python = format!("Bearer {}", own_secret());
    let allowed = [ADMIN, &of_python].contains(&header(headers, "authorization"));
    if allowed { Ok(()) } else { Err(StatusCode::FORBIDDEN) }
}

async fn create(State(site): State<Site>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    require_admin(&headers)?;
    if site.alive().len() >= MOST_SECRETS {
        return Err(StatusCode::CONFLICT);
    }
    let made = site.make(body["label"].as_str().unwrap(), |number| format!("client-secret-{number}"));
    Ok(Json(json!({ "id": made.id, "secret": made.secret })))
}

async fn list(State(site): State<Site>, headers: HeaderMap) -> Answer {
    require_admin(&headers)?;
    Ok(Json(site.alive().iter().map(|made| json!({ "id": made.id, "label": made.label })).collect()))
}

async fn remove(State(site): State<Site>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    require_admin(&headers)?;
    site.remove(&id)
}

async fn token(State(site): State<Site>, headers: HeaderMap) -> Answer {
    use base64::Engine as _;
    let basic = |secret: &str| base64::engine::general_purpose::STANDARD.encode(format!("shop:{secret}"));
    let given = header(&headers, "authorization").trim_start_matches("Basic ");
    let known = site.alive().iter().any(|made| basic(&made.secret) == given);
    if known { Ok(Json(json!({ "access_token": "t" }))) } else { Err(StatusCode::UNAUTHORIZED) }
}

async fn login(State(site): State<Site>, Json(body): Json<Value>) -> Answer {
    if body["password"] != "hunter2" {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let made = site.make(body["device"].as_str().unwrap(), |number| format!("session=cookie-{number}"));
    Ok(Json(json!({ "cookie": made.secret, "expires": "2099-01-01T00:00:00Z" })))
}

async fn me(State(site): State<Site>, headers: HeaderMap) -> Answer {
    Ok(Json(json!({ "session": site.session(&headers)?.id })))
}

async fn sessions(State(site): State<Site>, headers: HeaderMap) -> Answer {
    site.session(&headers)?;
    Ok(Json(site.alive().iter().map(|made| json!({ "id": made.id, "device": made.label })).collect()))
}

async fn logout(State(site): State<Site>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    let own = site.session(&headers)?;
    site.remove(body["session"].as_str().unwrap_or(&own.id))
}
