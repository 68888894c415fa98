//! The application over HTTP: its URLs, its header, and one request.

use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use zeroize::Zeroizing;

use super::{Answer, Operation, ReportedKeys, Target, TargetSettings, Verdict};
use crate::document::FieldName;
use crate::environment::{Environment, invalid};
use crate::error::{RotationError, innermost};
use crate::kind::SecretReference;
use crate::pattern::{fill, secret_of};
use crate::secret::SecretText;

/// The longest time for one request, so that one silent instance does not use up the whole time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Enough for the ids of more keys than a secret can hold.
const MAX_REPORT_BYTES: usize = 64 * 1024;

/// All variables of a target. Any other variable with the same prefix is misspelt.
const VARIABLES: [&str; 6] = [
    "TARGET_VERIFY_URL",
    "TARGET_REFRESH_URL",
    "TARGET_HEADER",
    "TARGET_INSTANCES",
    "TARGET_INSTANCE_HEADER",
    "TARGET_TIMEOUT",
];
const TOKEN_SECRET: &str = "TARGET_TOKEN_SECRET";
const TOKEN_FIELD: &str = "TARGET_TOKEN_FIELD";

/// The stack's target over HTTP.
///
/// | variable | meaning | default |
/// | --- | --- | --- |
/// | `TARGET_VERIFY_URL` | GET; requires the token | no target |
/// | `TARGET_REFRESH_URL` | POST; makes the instance load the secret again | no refresh |
/// | `TARGET_HEADER` | the header with the token; `authorization` gets `Bearer ` before it (RFC 6750 §2.1) | `x-admin-token` |
/// | `TARGET_INSTANCES` | instances behind the address | the first answer counts for all |
/// | `TARGET_INSTANCE_HEADER` | the header with an instance's id | `x-instance-id` |
/// | `TARGET_TIMEOUT` | for a refresh, and for a verification, of all instances | `10s` |
///
/// In a URL, `{name}` stands for the secret's name and `{1}`, `{2}`, … for its parts between slashes. In the host name
/// a part must consist of lower-case letters, digits and hyphens, so that no name can lead to another domain. In the
/// path a part is percent-encoded. A name with a part `.` or `..` is refused, so that no name leads to another path.
#[derive(Debug)]
pub struct HttpTarget {
    verify: UrlPattern,
    refresh: Option<UrlPattern>,
    header: HeaderName,
    instance_header: HeaderName,
    settings: TargetSettings,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl HttpTarget {
    /// Reads the variables above; `None` if there is no target.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] and [`RotationError::InsecureUrl`] name the variable.
    pub fn from_environment(environment: &Environment) -> Result<Option<Self>, RotationError> {
        environment.refuse_unknown("TARGET_", &VARIABLES)?;
        Self::of(environment)
    }

    /// Reads the variables above and the secret with the token, for a kind whose value is not the target's credential.
    ///
    /// | variable | meaning | default |
    /// | --- | --- | --- |
    /// | `TARGET_TOKEN_SECRET` | name or ARN of that secret; placeholders as in a URL | required |
    /// | `TARGET_TOKEN_FIELD` | the member of its JSON object | the whole text |
    ///
    /// # Errors
    /// Those of [`HttpTarget::from_environment`].
    pub fn with_token_from_environment(
        environment: &Environment,
    ) -> Result<Option<(Self, TokenSecret)>, RotationError> {
        environment.refuse_unknown("TARGET_", &[&VARIABLES[..], &[TOKEN_SECRET, TOKEN_FIELD]].concat())?;
        let Some(target) = Self::of(environment)? else {
            let set = [TOKEN_SECRET, TOKEN_FIELD].into_iter().find(|name| environment.get(name).is_some());
            return match set {
                None => Ok(None),
                Some(name) => Err(invalid(name, "is set, but TARGET_VERIFY_URL is not: there is nobody to ask")),
            };
        };
        Ok(Some((target, TokenSecret::from_environment(environment)?)))
    }

    fn of(environment: &Environment) -> Result<Option<Self>, RotationError> {
        let pattern = |variable: &'static str| {
            environment.get(variable).map(|text| UrlPattern::parse(variable, text)).transpose()
        };
        let (verify, refresh) = (pattern("TARGET_VERIFY_URL")?, pattern("TARGET_REFRESH_URL")?);
        let Some(verify) = verify else {
            return match refresh {
                None => Ok(None),
                Some(_) => Err(invalid(
                    "TARGET_VERIFY_URL",
                    "is not set, but TARGET_REFRESH_URL is: nothing would be proven; name an endpoint that requires the token",
                )),
            };
        };
        let header = |variable, default| {
            let name = environment.get(variable).unwrap_or(default);
            name.parse::<HeaderName>().map_err(|_| invalid(variable, "expected the name of an HTTP header"))
        };
        let settings = TargetSettings::from_environment(environment, refresh.is_some())?;
        Ok(Some(Self {
            client: client(verify.is_https() || refresh.as_ref().is_some_and(UrlPattern::is_https))?,
            verify,
            refresh,
            header: header("TARGET_HEADER", "x-admin-token")?,
            instance_header: header("TARGET_INSTANCE_HEADER", "x-instance-id")?,
            settings,
        }))
    }

    fn request(&self, operation: Operation, name: &str, token: &SecretText) -> Result<Request<Empty<Bytes>>, String> {
        let (method, pattern) = match (operation, &self.refresh) {
            (Operation::Verify | Operation::Keys, _) => (Method::GET, &self.verify),
            (Operation::Refresh, Some(refresh)) => (Method::POST, refresh),
            (Operation::Refresh, None) => return Err("TARGET_REFRESH_URL is not set".to_owned()),
        };
        let text = if self.header == AUTHORIZATION {
            Zeroizing::new(["Bearer ", token.expose()].concat())
        } else {
            Zeroizing::new(token.expose().to_owned())
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| "the token has characters that no HTTP header takes".to_owned())?;
        value.set_sensitive(true);
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        *request.uri_mut() = pattern.uri(name)?;
        request.headers_mut().insert(&self.header, value);
        request.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        Ok(request)
    }
}

impl Target for HttpTarget {
    async fn ask(&self, operation: Operation, secret_name: &str, token: &SecretText) -> Result<Answer, String> {
        let request = self.request(operation, secret_name, token)?;
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let answered = async {
            let response = self.client.request(request).await?;
            let (head, body) = response.into_parts();
            let keys = match operation {
                Operation::Keys if head.status.is_success() => reported_keys(body).await,
                _ => Ok(None),
            };
            Ok::<_, hyper_util::client::legacy::Error>((head, keys))
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, answered).await {
            Err(_) => Err(format!("no answer from {host} within {} s", REQUEST_TIMEOUT.as_secs())),
            Ok(Err(error)) if error.is_connect() => Err(format!("no connection to {host}: {}", innermost(&error))),
            Ok(Err(error)) => Err(format!("no answer from {host}: {}", innermost(&error))),
            Ok(Ok((head, keys))) => {
                let id = head.headers.get(&self.instance_header);
                // The id is bounded, because the function keeps and counts ids.
                let instance = id.and_then(|id| id.to_str().ok()).map(|id| id.chars().take(128).collect());
                let keys = keys.map_err(|problem| format!("no answer from {host}: {problem}"))?;
                Ok(Answer { verdict: Verdict::of_status(head.status.as_u16()), instance, keys })
            }
        }
    }

    fn settings(&self) -> &TargetSettings {
        &self.settings
    }

    fn authority(&self, secret_name: &str) -> Option<String> {
        self.verify.uri(secret_name).ok()?.authority().map(ToString::to_string)
    }
}

/// The keys that an answer reports. `Err` if the answer breaks off, or is too long.
async fn reported_keys(body: Incoming) -> Result<Option<ReportedKeys>, String> {
    let body = Limited::new(body, MAX_REPORT_BYTES).collect().await;
    let body =
        body.map_err(|_| format!("the answer breaks off, or is longer than {MAX_REPORT_BYTES} bytes"))?.to_bytes();
    Ok(ReportedKeys::read(&body))
}

fn client(https: bool) -> Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, RotationError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let roots = rustls::RootCertStore::empty();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| invalid("TARGET_VERIFY_URL", "this build has no usable TLS version"))?;
    let tls = if https {
        let missing = |_| invalid("TARGET_VERIFY_URL", "no root certificates on this machine to check https:// with");
        tls.with_native_roots().map_err(missing)?.with_no_client_auth()
    } else {
        // To load 145 certificates takes 2 ms; a loopback target does not need them.
        tls.with_root_certificates(roots).with_no_client_auth()
    };
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    // No connection is kept: behind a load balancer every request may reach another instance.
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

/// The secret with the target's token, for each rotated secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSecret {
    pattern: String,
    field: Option<FieldName>,
}

impl TokenSecret {
    fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let needed =
            "is not set: name the secret with the token that TARGET_VERIFY_URL requires, such as {1}/{2}/admin-token";
        let pattern = environment.get(TOKEN_SECRET).ok_or_else(|| invalid(TOKEN_SECRET, needed))?;
        let field = environment.get(TOKEN_FIELD).map(|name| {
            FieldName::new(name)
                .ok_or_else(|| invalid(TOKEN_FIELD, "expected a member name of letters, digits, _, - and ."))
        });
        let secret = Self::new(pattern.to_owned(), field.transpose()?);
        // The check needs a name with enough parts for every placeholder.
        secret.of("a/b/c/d/e/f/g/h/i")?;
        Ok(secret)
    }

    /// The name of the secret or a pattern of names, and the member that holds the token.
    #[must_use]
    pub fn new(pattern: String, field: Option<FieldName>) -> Self {
        Self { pattern, field }
    }

    /// The secret with the token for a secret named `name`.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] if the name lacks a part for a placeholder.
    pub fn of(&self, name: &str) -> Result<SecretReference, RotationError> {
        let id = secret_of(TOKEN_SECRET, &self.pattern, name)?;
        Ok(SecretReference { id, field: self.field.clone() })
    }
}

/// A URL with placeholders for the secret's name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UrlPattern {
    origin: String,
    path: String,
}

impl UrlPattern {
    fn parse(variable: &'static str, text: &str) -> Result<Self, RotationError> {
        let refuse = |problem: &str| Err(invalid(variable, problem));
        let Some((scheme, rest)) = text.split_once("://") else {
            return refuse("expected a URL such as https://admin.example.com/admin/secrets/health");
        };
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        if authority.contains('@') || text.contains('#') {
            return refuse("expected a URL without user name, password and fragment");
        }
        let scheme = scheme.to_ascii_lowercase();
        let pattern = Self { origin: format!("{scheme}://{authority}"), path: path.to_owned() };
        // The result must be a URL for every name. The check needs a name with enough parts for every placeholder.
        let Ok(uri) = pattern.uri("a/b/c/d/e/f/g/h/i") else {
            return refuse("expected a URL; places are {name} (not in the host name) and {1} to {9}");
        };
        match uri.scheme_str() {
            Some("https") => Ok(pattern),
            // A placeholder could turn the loopback address into another host.
            Some("http") if is_loopback(&uri) && !authority.contains('{') => Ok(pattern),
            Some("http") => Err(RotationError::InsecureUrl { variable: variable.to_owned() }),
            _ => refuse("expected https://"),
        }
    }

    fn is_https(&self) -> bool {
        self.origin.starts_with("https:")
    }

    fn uri(&self, name: &str) -> Result<Uri, String> {
        let in_host = |part: &str| {
            let label = !part.is_empty()
                && part.len() <= 63
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            label.then(|| part.to_owned())
        };
        // Servers and proxies resolve dot segments (RFC 3986 §5.2.4), some of them around encoded slashes as well.
        let in_path = |part: &str| {
            let climbs = part.split('/').any(|segment| segment == "." || segment == "..");
            (!climbs).then(|| percent_encoded(part))
        };
        let url = fill(&self.origin, name, in_host)
            .zip(fill(&self.path, name, in_path))
            .map(|(origin, path)| origin + &path)
            .ok_or_else(|| format!("the target's URL cannot be made for a secret named {name}"))?;
        url.parse().map_err(|_| format!("the target's URL for a secret named {name} is not a URL"))
    }
}

/// Encodes every character except the unreserved ones (RFC 3986 §2.3), so that a name stays one segment of a path.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Whether the host is the loopback interface by address, or `localhost` (RFC 6761 §6.3), with at most a port beside it
/// in the authority.
pub(crate) fn is_loopback(uri: &Uri) -> bool {
    let (Some(host), Some(authority)) = (uri.host(), uri.authority()) else { return false };
    let rest = authority.as_str().strip_prefix(host);
    let port = |rest: &str| rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    if !rest.is_some_and(|rest| rest.is_empty() || port(rest)) {
        return false;
    }
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address.parse::<std::net::IpAddr>().map_or(host == "localhost", |address| address.is_loopback())
}
