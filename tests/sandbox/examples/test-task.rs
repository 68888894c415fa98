//! The task that the tests of ECS run: it answers with a variable of its environment, and ends after SIGTERM.
//! `/admin/jobs` accepts the admin tokens of the JSON object in the variable `SECRET`, as read at the start.

#![allow(clippy::print_stdout, reason = "a task says where it listens")]
#![allow(clippy::disallowed_methods, reason = "its environment is what the tests ask for")]

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let router = Router::new().route("/{variable}", get(variable)).route("/slowly/{variable}", get(slowly));
    let router = router.route("/admin/jobs", get(jobs));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let terminated = async move {
        terminate.recv().await;
    };
    axum::serve(listener, router).with_graceful_shutdown(terminated).await
}

async fn variable(Path(variable): Path<String>) -> Result<String, StatusCode> {
    std::env::var(variable).map_err(|_| StatusCode::NOT_FOUND)
}

async fn jobs(headers: HeaderMap) -> StatusCode {
    let secret = std::env::var("SECRET").unwrap_or_default();
    let members: Value = serde_json::from_str(&secret).unwrap_or_default();
    let token = headers.get("x-admin-token").and_then(|token| token.to_str().ok());
    let accepted = ["ADMIN_TOKEN", "ADMIN_TOKEN_NEXT", "ADMIN_TOKEN_PREVIOUS"].map(|name| members[name].as_str());
    if token.is_some() && accepted.contains(&token) { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
}

async fn slowly(path: Path<String>) -> Result<String, StatusCode> {
    tokio::time::sleep(Duration::from_millis(1500)).await;
    variable(path).await
}
