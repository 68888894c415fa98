//! The task that the tests of ECS run: it answers with a variable of its environment, and ends after SIGTERM.

#![allow(clippy::print_stdout, reason = "a task says where it listens")]
#![allow(clippy::disallowed_methods, reason = "its environment is what the tests ask for")]

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let router = Router::new().route("/{variable}", get(variable)).route("/slowly/{variable}", get(slowly));
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

async fn slowly(path: Path<String>) -> Result<String, StatusCode> {
    tokio::time::sleep(Duration::from_millis(1500)).await;
    variable(path).await
}
