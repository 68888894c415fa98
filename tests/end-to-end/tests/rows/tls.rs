//! TLS to the database. The server of the wheel is built without it, so that a proxy stands before it which has it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::bench::{Bench, server};
use crate::keys::token;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn file(&self) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        let certificate = STANDARD.encode(self.0.der());
        write!(file, "-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n").unwrap();
        file
    }

    /// A server's side of TLS, for this name.
    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// The length of a request for TLS, and its code (PostgreSQL, "Message Formats", SSLRequest).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// A proxy that offers TLS, or refuses it; it counts the bytes that a client sends beyond the handshake.
async fn proxy(acceptor: Option<TlsAcceptor>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (acceptor, counter) = (acceptor.clone(), counter.clone());
            tokio::spawn(async move {
                let mut request = [0; 8];
                client.read_exact(&mut request).await.unwrap();
                assert_eq!(request, SSL_REQUEST, "the first thing that is sent");
                let Some(acceptor) = acceptor else {
                    client.write_all(b"N").await.unwrap();
                    counter.fetch_add(client.read(&mut [0; 100]).await.unwrap_or(0), Ordering::Relaxed);
                    return;
                };
                client.write_all(b"S").await.unwrap();
                let Ok(mut secured) = acceptor.accept(client).await else { return };
                let mut database = TcpStream::connect(("127.0.0.1", server().port())).await.unwrap();
                let (from_client, _) = copy_bidirectional(&mut secured, &mut database).await.unwrap_or_default();
                counter.fetch_add(usize::try_from(from_client).unwrap(), Ordering::Relaxed);
            });
        }
    });
    (address, sent)
}

fn register(bench: &Bench, address: SocketAddr, roots: &NamedTempFile) {
    let port = address.port().to_string();
    let file = roots.path().to_str().unwrap();
    bench.register(json!([bench.tokens_column()]), &[("DATABASE_PORT", &port), ("DATABASE_CA_FILE", file)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_rewritten_over_tls_of_the_configured_authority() {
    let bench = Bench::with_tokens(&[2, 1], &[(1, Some(token(1, "text 1", 1)))]).await;
    let authority = Authority::new();
    let (address, _) = proxy(Some(authority.acceptor("127.0.0.1"))).await;
    let roots = authority.file();
    register(&bench, address, &roots);
    assert_eq!(bench.slice().await["rewrapped"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_without_tls_and_a_right_certificate() {
    let bench = Bench::with_tokens(&[2, 1], &[]).await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let roots = authority.file();
    for (acceptor, problem) in [
        (Some(stranger.acceptor("127.0.0.1")), "invalid peer certificate"),
        (Some(authority.acceptor("127.0.0.2")), "not valid for name"),
        (None, "server does not support TLS"),
    ] {
        let (address, sent) = proxy(acceptor).await;
        register(&bench, address, &roots);
        let (kind, message) = bench.refusal(json!({ "action": "plan" })).await;
        assert_eq!(kind, "DatabaseUnavailable");
        assert!(message.contains(problem), "{message}");
        assert_eq!(sent.load(Ordering::Relaxed), 0);
    }
}
