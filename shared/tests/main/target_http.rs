//! The application over HTTP: real sockets on the loopback interface.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use rotation::error::RotationError;
use rotation::target::http::HttpTarget;
use rotation::target::{Answer, Operation, ReportedKeys, Target, Verdict};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::{CANARY, assert_no_canary, assert_not_in, environment, secret};

mod addresses;

/// A request as the application got it.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    path: String,
    headers: HeaderMap,
    peer: SocketAddr,
}

type Reply = Arc<dyn Fn() -> Response + Send + Sync>;

/// An application that records what it gets; it ends with the runtime of its test.
#[derive(Clone)]
struct Application {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Application {
    async fn start<R: IntoResponse>(reply: impl Fn() -> R + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let reply: Reply = Arc::new(move || reply().into_response());
        let router = Router::new().fallback(record).with_state((application.clone(), reply));
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        application
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The target whose both URLs are `path` of this application.
    fn target(&self, path: &str, more: &[(&str, &str)]) -> HttpTarget {
        let url = self.url(path);
        target(&[&[("TARGET_VERIFY_URL", url.as_str()), ("TARGET_REFRESH_URL", &url)], more].concat()).unwrap().unwrap()
    }
}

async fn record(
    State((application, reply)): State<(Application, Reply)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    application.seen.lock().unwrap().push(Seen {
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        headers: parts.headers,
        peer,
    });
    reply()
}

fn target(variables: &[(&str, &str)]) -> Result<Option<HttpTarget>, RotationError> {
    HttpTarget::from_environment(&environment(variables))
}

fn verify_at(url: &str) -> Result<Option<HttpTarget>, RotationError> {
    target(&[("TARGET_VERIFY_URL", url)])
}

async fn verify(target: &HttpTarget, name: &str) -> Result<Answer, String> {
    target.ask(Operation::Verify, name, &secret(CANARY)).await
}

#[tokio::test]
async fn verify_is_get_and_refresh_is_post_with_the_token_in_a_header() {
    let application = Application::start(|| StatusCode::OK).await;
    let (verify, refresh) =
        (application.url("/admin/secrets/health?deep=1"), application.url("/admin/refresh-secrets"));
    let target = target(&[("TARGET_VERIFY_URL", &verify), ("TARGET_REFRESH_URL", &refresh)]).unwrap().unwrap();
    assert!(target.settings().can_refresh);
    for operation in [Operation::Verify, Operation::Refresh] {
        let answer = target.ask(operation, "shop/admin-token", &secret(CANARY)).await.unwrap();
        assert_eq!(answer, Answer { verdict: Verdict::Accepted, instance: None, keys: None });
    }
    let [get, post] = &application.seen()[..] else { panic!("two requests") };
    assert_eq!((get.method.as_str(), get.path.as_str()), ("GET", "/admin/secrets/health?deep=1"));
    assert_eq!((post.method.as_str(), post.path.as_str()), ("POST", "/admin/refresh-secrets"));
    for seen in [get, post] {
        assert_eq!(seen.headers["x-admin-token"], CANARY);
        assert_eq!(seen.headers["content-length"], "0");
        assert_eq!(seen.headers["host"], application.address.to_string());
        assert!(!seen.headers.contains_key("authorization"));
    }
}

#[tokio::test]
async fn the_header_is_chosen_and_authorization_is_a_bearer_token() {
    let application = Application::start(|| StatusCode::OK).await;
    for (header, expected) in [
        ("X-Api-Key", CANARY.to_owned()),
        ("authorization", format!("Bearer {CANARY}")),
        ("Authorization", format!("Bearer {CANARY}")),
    ] {
        verify(&application.target("/", &[("TARGET_HEADER", header)]), "x").await.unwrap();
        let seen = application.seen().pop().unwrap();
        assert_eq!(seen.headers[header], expected);
        assert!(!seen.headers.contains_key("x-admin-token"));
        assert_eq!(seen.headers.values().filter(|value| value.as_bytes().ends_with(CANARY.as_bytes())).count(), 1);
    }
}

#[tokio::test]
async fn the_token_stands_neither_in_the_path_nor_in_any_other_header() {
    let application = Application::start(|| StatusCode::OK).await;
    verify(&application.target("/{name}", &[]), "x").await.unwrap();
    let mut seen = application.seen().pop().unwrap();
    seen.headers.remove("x-admin-token").unwrap();
    assert_not_in(&format!("{seen:?}"));
}

#[tokio::test]
async fn an_answer_is_judged_by_its_status() {
    for (status, verdict) in [
        (200, Verdict::Accepted),
        (204, Verdict::Accepted),
        (401, Verdict::Refused),
        (403, Verdict::Refused),
        (404, Verdict::Failed(404)),
        (429, Verdict::Unwell(429)),
        (503, Verdict::Unwell(503)),
    ] {
        let application = Application::start(move || StatusCode::from_u16(status).unwrap()).await;
        assert_eq!(verify(&application.target("/", &[]), "x").await.unwrap().verdict, verdict);
    }
}

/// The keys that an application with this body reports, when it is asked for them.
async fn keys_in(body: impl Into<String>) -> Option<ReportedKeys> {
    let body = body.into();
    let application = Application::start(move || body.clone()).await;
    let answer = application.target("/", &[]).ask(Operation::Keys, "x", &secret(CANARY)).await.unwrap();
    assert_eq!(answer.verdict, Verdict::Accepted);
    assert_eq!(application.seen()[0].method, "GET");
    answer.keys
}

fn reported(decrypts_with: &[&str], encrypts_with: impl Into<Option<&'static [&'static str]>>) -> Option<ReportedKeys> {
    let ids = |ids: &[&str]| ids.iter().map(|id| id.parse().unwrap()).collect();
    Some(ReportedKeys { decrypts_with: ids(decrypts_with), encrypts_with: encrypts_with.into().map(ids) })
}

#[tokio::test]
async fn the_keys_of_an_instance_are_read_from_its_answer() {
    let body =
        r#"{"status":"ok","key_ids":["1a2b3c4d","00000001"],"more":{"key_ids":[]},"primary_key_ids":["00000001"]}"#;
    assert_eq!(keys_in(body).await, reported(&["1a2b3c4d", "00000001"], &["00000001"][..]));
    assert_eq!(keys_in(r#"{"key_ids":["1a2b3c4d"]}"#).await, reported(&["1a2b3c4d"], None));
    assert_eq!(keys_in(r#"{"key_ids":[],"primary_key_ids":[]}"#).await, reported(&[], &[][..]), "a report of no key");
}

#[tokio::test]
async fn an_answer_that_is_no_report_reports_nothing() {
    for body in [
        "",
        "ok",
        "{}",
        "[]",
        "{\"key_ids\":",
        r#"{"primary_key_ids":["1a2b3c4d"]}"#,
        r#"{"key_ids":["1a2b3c4d"]} and more"#,
    ] {
        assert_eq!(keys_in(body).await, None, "{body}");
    }
}

#[tokio::test]
async fn unreadable_report_of_keys_is_no_key_and_not_silence() {
    for body in [r#"{"key_ids":"1a2b3c4d"}"#, r#"{"key_ids":null}"#, r#"{"key_ids":[7, null]}"#] {
        assert_eq!(keys_in(body).await, reported(&[], None), "{body}");
    }
    let body = r#"{"key_ids":["1a2b3c4d", null],"primary_key_ids":"1a2b3c4d"}"#;
    assert_eq!(keys_in(body).await, reported(&["1a2b3c4d"], &[][..]));
}

#[tokio::test]
async fn an_id_that_is_none_is_no_key() {
    let body =
        r#"{"key_ids":["1A2B3C4D","1a2b3c4","1a2b3c4d5","","+a2b3c4d","0x2b3c4d","00000001"],"primary_key_ids":["x"]}"#;
    assert_eq!(keys_in(body).await, reported(&["00000001"], &[][..]));
}

#[tokio::test]
async fn a_report_has_64_kib_and_no_byte_more() {
    const MOST: usize = 64 * 1024;
    let report = r#"{"key_ids":["1a2b3c4d"]}"#;
    let padded = |length: usize| report.to_owned() + &" ".repeat(length - report.len());
    assert_eq!(keys_in(padded(MOST)).await, reported(&["1a2b3c4d"], None));
    for length in [MOST + 1, 64 * MOST] {
        let body = padded(length);
        let application = Application::start(move || body.clone()).await;
        let refused = application.target("/", &[]).ask(Operation::Keys, "x", &secret(CANARY)).await.unwrap_err();
        assert!(refused.ends_with("the answer breaks off, or is longer than 65536 bytes"), "{refused}");
    }
}

#[tokio::test]
async fn only_whoever_asks_for_keys_reads_a_body() {
    let body = r#"{"key_ids":["1a2b3c4d"]}"#;
    let application = Application::start(move || body).await;
    let target = application.target("/", &[]);
    for operation in [Operation::Verify, Operation::Refresh] {
        let answer = target.ask(operation, "x", &secret(CANARY)).await.unwrap();
        assert_eq!((answer.verdict, answer.keys), (Verdict::Accepted, None));
    }

    // A body that never ends holds up nobody who does not want it; whoever does gets no answer in the end.
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = vec![];
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{").await.unwrap();
            open.push(stream);
        }
    });
    let target = verify_at(&format!("http://{address}/")).unwrap().unwrap();
    let start = Instant::now();
    assert_eq!(verify(&target, "x").await.unwrap().verdict, Verdict::Accepted);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let problem = target.ask(Operation::Keys, "x", &secret(CANARY)).await.unwrap_err();
    assert_eq!(problem, format!("no answer from {address} within 3 s"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Application::start(|| StatusCode::OK).await;
    for status in [300, 301, 302, 303, 307, 308] {
        let location = elsewhere.url("/steal");
        let application =
            Application::start(move || (StatusCode::from_u16(status).unwrap(), [("location", location.clone())])).await;
        let target = application.target("/", &[]);
        for operation in [Operation::Verify, Operation::Refresh] {
            let answer = target.ask(operation, "x", &secret(CANARY)).await.unwrap();
            assert_eq!(answer.verdict, Verdict::Redirect(status));
        }
        assert_eq!(application.seen().len(), 2);
    }
    assert_eq!(elsewhere.seen().len(), 0, "nobody else got the token");
}

#[tokio::test]
async fn the_instance_id_is_read_from_its_header_and_bounded() {
    let long = "i".repeat(1_000);
    let application = Application::start(move || [("x-instance-id", "i-1".to_owned()), ("x-pod", long.clone())]).await;
    let instance = |variables: &'static [(&str, &str)]| {
        let target = application.target("/", variables);
        async move { verify(&target, "x").await.unwrap().instance }
    };
    assert_eq!(instance(&[]).await.as_deref(), Some("i-1"));
    assert_eq!(instance(&[("TARGET_INSTANCE_HEADER", "X-Instance-Id")]).await.as_deref(), Some("i-1"));
    assert_eq!(instance(&[("TARGET_INSTANCE_HEADER", "x-other")]).await, None);
    assert_eq!(instance(&[("TARGET_INSTANCE_HEADER", "x-pod")]).await, Some("i".repeat(128)));
}

#[tokio::test]
async fn every_request_has_a_connection_of_its_own() {
    let application = Application::start(|| StatusCode::OK).await;
    let target = application.target("/", &[]);
    for _ in 0..5 {
        verify(&target, "x").await.unwrap();
    }
    let peers: BTreeSet<_> = application.seen().into_iter().map(|seen| seen.peer).collect();
    assert_eq!(peers.len(), 5);
}

#[tokio::test]
async fn a_token_that_fits_no_header_is_not_sent_and_not_shown() {
    let application = Application::start(|| StatusCode::OK).await;
    let target = application.target("/", &[]);
    for odd in ["\r\nx-evil: 1", "\n", "\0", "\u{7f}"] {
        let problem = target.ask(Operation::Verify, "x", &secret(&format!("{CANARY}{odd}"))).await.unwrap_err();
        assert_eq!(problem, "the token has characters that no HTTP header takes");
    }
    assert_eq!(application.seen().len(), 0);
}

#[tokio::test]
async fn debug_of_a_target_shows_no_token() {
    let application = Application::start(|| StatusCode::OK).await;
    let target = application.target("/", &[]);
    verify(&target, "x").await.unwrap();
    assert_not_in(&format!("{target:?} {target:#?}"));
}

#[tokio::test]
async fn a_closed_port_is_named_with_the_reason() {
    // Port 1 is never given out by the system, so no other test can listen there.
    let address = "127.0.0.1:1";
    let problem = verify(&verify_at(&format!("http://{address}/")).unwrap().unwrap(), "x").await.unwrap_err();
    assert!(problem.starts_with(&format!("no connection to {address}: Connection refused")), "{problem}");
    let error = RotationError::TargetUnavailable { operation: "verify", problem };
    assert_no_canary(&error);
}

#[tokio::test]
async fn silent_target_is_left_after_three_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = verify_at(&format!("http://{address}/")).unwrap().unwrap();
    let start = Instant::now();
    let problem = verify(&target, "x").await.unwrap_err();
    assert_eq!(problem, format!("no answer from {address} within 3 s"));
    assert!((3..6).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_a_problem_without_its_content() {
    use tokio::io::AsyncWriteExt as _;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(format!("{CANARY}\r\n\r\n").as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    let problem = verify(&verify_at(&format!("http://{address}/")).unwrap().unwrap(), "x").await.unwrap_err();
    assert!(problem.starts_with(&format!("no answer from {address}: ")), "{problem}");
    assert_not_in(&problem);
}

#[tokio::test]
async fn unvouched_certificate_is_refused_before_anything_is_sent() {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handshake = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config)).accept(stream).await.map(drop)
    });

    let target = verify_at(&format!("https://{address}/")).unwrap().unwrap();
    let problem = verify(&target, "x").await.unwrap_err();
    assert!(problem.starts_with(&format!("no connection to {address}: ")), "{problem}");
    assert!(problem.contains("invalid peer certificate: UnknownIssuer"), "{problem}");
    assert_not_in(&problem);
    assert!(handshake.await.unwrap().is_err(), "the server saw the handshake fail");
}

#[tokio::test]
async fn a_server_without_tls_gets_no_token_over_https() {
    let application = Application::start(|| StatusCode::OK).await;
    let target = verify_at(&format!("https://{}/", application.address)).unwrap().unwrap();
    let problem = verify(&target, "x").await.unwrap_err();
    assert!(problem.starts_with("no connection to"), "{problem}");
    assert_eq!(application.seen().len(), 0);
}
