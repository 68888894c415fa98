//! The verify URL and the refresh URL. A rotation asks both: `TARGET_VERIFY_URL`, `TARGET_REFRESH_URL`.
use std::sync::{Arc, PoisonError, RwLock};

use aws_sdk_secretsmanager::Client;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::keyring_raw::Keyring; // or keyring_fernet, keyring_tink
use super::loaded::{Loaded, load};
use super::secret::Failure;

type Answer = (StatusCode, Json<Value>);

async fn health(State(loaded): State<Loaded>, headers: HeaderMap) -> Answer {
    let token = headers.get("x-admin-token").and_then(|token| token.to_str().ok()).unwrap_or_default();
    let (tokens, keyrings) = &*loaded.1.read().unwrap_or_else(PoisonError::into_inner);
    let ids: Vec<String> = keyrings.iter().flat_map(Keyring::ids).collect();
    let report = json!({ "primary_key_ids": ids.iter().take(1).collect::<Vec<_>>(), "key_ids": ids });
    if tokens.accepts(token) { (StatusCode::OK, Json(report)) } else { (StatusCode::UNAUTHORIZED, Json(json!({}))) }
}

async fn refresh(State(loaded): State<Loaded>, headers: HeaderMap) -> Answer {
    let answer = health(State(Arc::clone(&loaded)), headers).await;
    if answer.0 == StatusCode::OK {
        let Ok(read) = load(&loaded.0).await else { return (StatusCode::BAD_GATEWAY, Json(json!({}))) };
        *loaded.1.write().unwrap_or_else(PoisonError::into_inner) = read;
    }
    answer // after the reload, not before it
}

/// With several instances, add the response header `x-instance-id`.
pub(crate) async fn admin(client: Client) -> Result<Router, Failure> {
    let loaded = load(&client).await?;
    let routes = Router::new().route("/admin/health", get(health)).route("/admin/refresh", post(refresh));
    Ok(routes.with_state(Arc::new((client, RwLock::new(loaded)))))
}
