//! Several instances behind one address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Gives every new connection to the next backend. When it is dropped, it ends with its connections.
#[derive(Debug)]
pub struct LoadBalancer {
    address: SocketAddr,
    backends: Arc<Mutex<Backends>>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Backends {
    addresses: Vec<SocketAddr>,
    next: usize,
}

impl LoadBalancer {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(backends: Vec<SocketAddr>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let backends = Arc::new(Mutex::new(Backends { addresses: backends, next: 0 }));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&backends)));
        Ok(Self { address, backends, accepting })
    }

    /// The load balancer's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The backends that receive connections now.
    pub fn backends(&self) -> Vec<SocketAddr> {
        lock(&self.backends).addresses.clone()
    }

    /// Adds a backend. A backend that is already there stays as it is.
    pub fn add(&self, backend: SocketAddr) {
        let mut backends = lock(&self.backends);
        if !backends.addresses.contains(&backend) {
            backends.addresses.push(backend);
        }
    }

    /// Gives a backend no more new connections. Its open connections continue. `false` if the backend was not there.
    pub fn remove(&self, backend: SocketAddr) -> bool {
        let mut backends = lock(&self.backends);
        let before = backends.addresses.len();
        backends.addresses.retain(|address| *address != backend);
        backends.addresses.len() < before
    }
}

impl Drop for LoadBalancer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Backends {
    /// All backends, in turn from the next one.
    fn in_turn(&mut self) -> Vec<SocketAddr> {
        let mut turn = self.addresses.clone();
        if !turn.is_empty() {
            turn.rotate_left(self.next % self.addresses.len());
            self.next = self.next.wrapping_add(1);
        }
        turn
    }
}

fn lock(backends: &Mutex<Backends>) -> MutexGuard<'_, Backends> {
    backends.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, backends: Arc<Mutex<Backends>>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let turn = lock(&backends).in_turn();
                connections.spawn(forward(client, turn));
            }
            // A client that left again, or no free file descriptor: neither is a reason to end.
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::task::yield_now().await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Carries a connection to the first backend that accepts it. If none does, closes the client's connection.
async fn forward(mut client: TcpStream, turn: Vec<SocketAddr>) {
    for address in turn {
        if let Ok(mut backend) = TcpStream::connect(address).await {
            // Small requests and answers must not wait for each other.
            let _ = (client.set_nodelay(true), backend.set_nodelay(true));
            // Either side may break off the connection at any time, and both sides see it themselves.
            let _ = copy_bidirectional(&mut client, &mut backend).await;
            return;
        }
    }
}
