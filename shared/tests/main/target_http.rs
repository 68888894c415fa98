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
async fn a_name_stays_one_segment_of_the_path() {
    let application = Application::start(|| StatusCode::OK).await;
    let target = application.target("/apps/{name}/verify?of={name}", &[]);
    for (name, encoded) in [
        ("admin-token", "admin-token"),
        ("shop/admin-token", "shop%2Fadmin-token"),
        ("/prod/shop", "%2Fprod%2Fshop"),
        ("a.b_c~d", "a.b_c~d"),
        ("...", "..."),
        ("evil.com", "evil.com"),
        ("x@y", "x%40y"),
        ("a+b=c", "a%2Bb%3Dc"),
        ("%2f", "%252f"),
        ("%2e%2e", "%252e%252e"),
        ("a?b#c", "a%3Fb%23c"),
        ("//evil.com", "%2F%2Fevil.com"),
        ("\\evil", "%5Cevil"),
        ("é😀", "%C3%A9%F0%9F%98%80"),
        ("a\r\nx-evil: 1\r\n\r\n", "a%0D%0Ax-evil%3A%201%0D%0A%0D%0A"),
        ("{name}{1}", "%7Bname%7D%7B1%7D"),
        ("\0", "%00"),
    ] {
        verify(&target, name).await.unwrap();
        let seen = application.seen().pop().unwrap();
        assert_eq!(seen.path, format!("/apps/{encoded}/verify?of={encoded}"), "{name:?}");
        assert!(!seen.headers.contains_key("x-evil"));
    }
}

#[tokio::test]
async fn parts_of_a_name_are_numbered_from_one() {
    let application = Application::start(|| StatusCode::OK).await;
    let target = application.target("/{2}/of/{1}", &[]);
    for (name, path) in
        [("shop/admin", "/admin/of/shop"), ("shop/admin/token", "/admin/of/shop"), ("/shop", "/shop/of/")]
    {
        verify(&target, name).await.unwrap();
        assert_eq!(application.seen().pop().unwrap().path, path);
    }
    let requests = application.seen().len();
    let problem = verify(&target, "shop").await.unwrap_err();
    assert!(problem.contains("URL cannot be made for a secret named shop"), "{problem}");
    assert_eq!(application.seen().len(), requests, "nothing is sent to half a URL");
}

#[tokio::test]
async fn no_name_climbs_out_of_its_place_in_the_path() {
    // Servers and proxies resolve dot segments (RFC 3986 §5.2.4), encoded slashes around them often included.
    let application = Application::start(|| StatusCode::OK).await;
    let whole = application.target("/apps/{name}/verify", &[]);
    let part = application.target("/apps/{2}/verify", &[]);
    for name in ["a/../b", "a/..", "../b", "..", ".", "a/./b", "a/../../admin"] {
        let problem = verify(&whole, name).await.unwrap_err();
        assert!(problem.contains("URL cannot be made"), "{problem}");
    }
    for name in ["a/../b", "a/.."] {
        let problem = verify(&part, name).await.unwrap_err();
        assert!(problem.contains("URL cannot be made"), "{problem}");
    }
    assert_eq!(application.seen().len(), 0);
    verify(&part, "a/b..").await.unwrap();
    assert_eq!(application.seen().pop().unwrap().path, "/apps/b../verify");
}

#[tokio::test]
async fn in_the_host_name_stands_one_plain_label_or_nothing() {
    let target = verify_at("https://{1}.localhost:1/verify").unwrap().unwrap();
    for hostile in [
        "",
        "evil.com",
        "evil.com/x",
        "x@y",
        "a@evil.com",
        "evil.com#",
        "evil.com?",
        "a:80",
        "%2f",
        "é",
        "a\r\nb",
        "a b",
        "A",
        "..",
        ".",
        "a_b",
        "/shop",
        "[::1]",
        "a\\b",
        "a,b",
    ] {
        let problem = verify(&target, hostile).await.unwrap_err();
        assert!(problem.starts_with("the target's URL cannot be made for a secret named"), "{hostile:?}: {problem}");
    }
    let long = "x".repeat(64);
    assert!(verify(&target, &long).await.unwrap_err().contains("cannot be made"));
    for label in ["shop", "shop-2/admin-token", &long[..63]] {
        let problem = verify(&target, label).await.unwrap_err();
        let host = format!("{}.localhost:1", label.split('/').next().unwrap());
        assert!(problem.contains(&host) && !problem.contains("cannot be made"), "{problem}");
    }
}

#[test]
fn an_authority_tells_one_application_from_another() {
    let target = verify_at("https://{1}.example.com:8443/{2}/verify").unwrap().unwrap();
    let authority = |name: &str| target.authority(name);
    assert_eq!(authority("shop/a").as_deref(), Some("shop.example.com:8443"));
    assert_eq!(authority("shop/a"), authority("shop/b"));
    assert_ne!(authority("shop/a"), authority("mail/a"));
    assert_eq!(authority("no.label/a"), None);
}

#[test]
fn a_whole_name_may_not_stand_in_the_host_name() {
    for url in ["https://{name}.example.com/", "https://{name}/", "https://example.{name}/"] {
        let error = verify_at(url).unwrap_err();
        assert_eq!(error.name(), "InvalidConfiguration", "{url}");
        assert!(error.to_string().contains("{name} (not in the host name)"), "{error}");
    }
}

#[test]
fn http_is_for_the_loopback_interface_only() {
    for loopback in [
        "http://127.0.0.1:8080/verify",
        "http://127.9.8.7/verify",
        "http://[::1]:8080/verify",
        "http://[::1]",
        "http://localhost:8080/{name}",
    ] {
        assert!(verify_at(loopback).unwrap().is_some(), "{loopback}");
    }
    for insecure in [
        "http://example.com/verify",
        "http://127.0.0.1.evil.com/verify",
        "http://localhost.evil.com/verify",
        "http://evil.com/localhost",
        "http://evil.com:80/?127.0.0.1",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://[::2]/",
        "http://[::1].evil.com/",
        "http://[::1]:80.evil.com/",
        "http://127.0.0.1:80.evil.com/",
        "http://169.254.169.254/latest/meta-data",
        "http://{1}/",
        "http://{1}.example.com/",
        "http://127.0.0.1.{1}/",
        // With the name that patterns are tried with, this would be localhost; with others it is not.
        "http://loc{1}lhost/",
        "HTTP://example.com/",
    ] {
        for variable in ["TARGET_VERIFY_URL", "TARGET_REFRESH_URL"] {
            let error = target(&[("TARGET_VERIFY_URL", "https://ok.example.com/"), (variable, insecure)]).unwrap_err();
            assert_eq!(error, RotationError::InsecureUrl { variable: variable.to_owned() }, "{insecure}");
        }
    }
}

#[test]
fn a_url_that_is_none_is_refused_with_what_to_write() {
    for (url, expected) in [
        ("example.com/verify", "expected a URL such as https://"),
        ("https:/example.com", "expected a URL such as https://"),
        ("http://localhost@evil.com/", "without user name, password and fragment"),
        ("https://user:password@example.com/", "without user name, password and fragment"),
        ("https://example.com/#x", "without user name, password and fragment"),
        ("ftp://example.com/", "expected https://"),
        ("{1}://example.com/", "expected https://"),
        ("https://", "expected a URL"),
        ("https:///verify", "expected a URL"),
        ("https://exa mple.com/", "expected a URL"),
        ("https://example.com/{10}", "{1} to {9}"),
        ("https://example.com/{0}", "{1} to {9}"),
        ("https://example.com/{}", "{1} to {9}"),
        ("https://example.com/{host}", "{1} to {9}"),
        ("https://example.com/{name", "{1} to {9}"),
    ] {
        let error = verify_at(url).unwrap_err();
        assert_eq!(error.name(), "InvalidConfiguration", "{url}");
        let message = error.to_string();
        assert!(message.starts_with("environment variable TARGET_VERIFY_URL: "), "{message}");
        assert!(message.contains(expected), "{url}: {message}");
    }
}

#[test]
fn no_url_means_no_target_and_a_refresh_alone_is_an_error() {
    assert!(target(&[]).unwrap().is_none());
    assert!(target(&[("TARGET_HEADER", "x-admin-token"), ("TARGET_VERIFY_URL", "")]).unwrap().is_none());
    let error = target(&[("TARGET_REFRESH_URL", "https://example.com/refresh")]).unwrap_err();
    assert!(
        error.to_string().starts_with("environment variable TARGET_VERIFY_URL: is not set, but TARGET_REFRESH_URL is")
    );
    let misspelt = target(&[("TARGET_VERIFYURL", "https://example.com/")]).unwrap_err().to_string();
    assert!(misspelt.starts_with("environment variable TARGET_VERIFYURL: is not a setting"), "{misspelt}");
    let verify_only = verify_at("https://example.com/").unwrap().unwrap();
    assert!(!verify_only.settings().can_refresh);
}

#[test]
fn a_header_that_is_none_is_refused() {
    for variable in ["TARGET_HEADER", "TARGET_INSTANCE_HEADER"] {
        for bad in ["x admin", "x-admin:", "é", "x\r\ny"] {
            let error = target(&[("TARGET_VERIFY_URL", "https://example.com/"), (variable, bad)]).unwrap_err();
            let expected = format!("environment variable {variable}: expected the name of an HTTP header");
            assert_eq!(error.to_string(), expected, "{bad:?}");
        }
    }
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
