//! Applications that behave badly in one way, and count what reaches them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::response::IntoResponse;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server that gives every request the same answer. It ends when dropped.
pub(crate) struct Stub {
    pub(crate) url: String,
    requests: Arc<AtomicU64>,
    server: JoinHandle<()>,
}

impl Stub {
    pub(crate) async fn answering<A: IntoResponse + Clone + Send + Sync + 'static>(answer: A) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&requests);
        let router = Router::new().fallback(move || async move {
            seen.fetch_add(1, Ordering::SeqCst);
            answer
        });
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, requests, server }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// The variables that make it the function's target.
    pub(crate) fn as_target(&self) -> Vec<(&'static str, String)> {
        vec![
            ("TARGET_VERIFY_URL", format!("{}/verify", self.url)),
            ("TARGET_REFRESH_URL", format!("{}/refresh", self.url)),
            ("TARGET_TIMEOUT", "1500ms".to_owned()),
        ]
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}
