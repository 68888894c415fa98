//! Functions of users: each failure has its class, nothing is repeated, and no answer is shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, Uri};
use axum::routing::post;
use rotation::aws::{FunctionError, FunctionErrorKind as Kind, Functions, SdkSettings};
use rotation::deadline::Deadline;
use rotation::secret::SecretText;
use tokio::net::TcpListener;

use crate::{CANARY, assert_not_in, environment, secret};

/// A Lambda that answers every invocation with one status, headers and body, and counts them.
#[derive(Clone)]
struct Lambda {
    status: u16,
    header: (&'static str, &'static str),
    body: String,
    pause: Duration,
    invocations: Arc<AtomicUsize>,
}

impl Lambda {
    fn answering(status: u16, header: (&'static str, &'static str), body: &str) -> Self {
        let (body, pause, invocations) = (body.to_owned(), Duration::ZERO, Arc::default());
        Self { status, header, body, pause, invocations }
    }

    async fn answer(State(lambda): State<Self>, uri: Uri, payload: String) -> Response<Body> {
        lambda.invocations.fetch_add(1, Ordering::SeqCst);
        assert_eq!(uri.path(), "/2015-03-31/functions/issuer%3Alive/invocations");
        assert_eq!(payload, r#"{"version":1}"#);
        tokio::time::sleep(lambda.pause).await;
        let (name, value) = lambda.header;
        Response::builder().status(lambda.status).header(name, value).body(Body::from(lambda.body)).unwrap()
    }

    async fn start(self) -> Functions {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(post(Self::answer)).with_state(self);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let variables = environment(&[
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("AWS_ENDPOINT_URL_LAMBDA", &endpoint),
        ]);
        SdkSettings::from_environment(&variables).unwrap().functions(&variables).unwrap()
    }
}

async fn invoke(lambda: Lambda) -> Result<SecretText, FunctionError> {
    invoke_within(lambda, Duration::from_millis(1500)).await
}

async fn invoke_within(lambda: Lambda, limit: Duration) -> Result<SecretText, FunctionError> {
    let invocations = Arc::clone(&lambda.invocations);
    let functions = lambda.start().await;
    let deadline = Deadline::after(Duration::from_secs(20));
    let time = (limit, deadline);
    let answer = functions.invoke("issuer:live", &secret(r#"{"version":1}"#), time, 50).await;
    assert_eq!(invocations.load(Ordering::SeqCst), 1, "an invocation is never repeated");
    answer
}

const NONE: (&str, &str) = ("x-test", "1");
const THREW: (&str, &str) = ("x-amz-function-error", "Unhandled");

fn code(code: &'static str) -> (&'static str, &'static str) {
    ("x-amzn-errortype", code)
}

#[tokio::test]
async fn the_answer_of_a_function_is_passed_on() {
    let answer = invoke(Lambda::answering(200, NONE, r#"{"status":"ok"}"#)).await.unwrap();
    assert_eq!(answer.expose(), r#"{"status":"ok"}"#);
}

#[tokio::test]
async fn each_failure_of_a_function_has_its_class() {
    let threw = |of_type: &str, message: &str| format!(r#"{{"errorType":"{of_type}","errorMessage":"{message}"}}"#);
    let secret_type = threw(&CANARY.repeat(2), CANARY);
    let denied = r#"{"Message":"User: arn:…:role/x is not authorized to perform: lambda:InvokeFunction"}"#;
    let message = "User: arn:…:role/x is not authorized to perform: lambda:InvokeFunction".to_owned();
    for (status, header, body, kind, ran) in [
        (404, code("ResourceNotFoundException"), r#"{"Message":"x"}"#, Kind::Missing, false),
        (403, code("AccessDeniedException"), denied, Kind::Denied(message), false),
        (429, code("TooManyRequestsException"), r#"{"Message":"x"}"#, Kind::Throttled, false),
        (
            400,
            code("InvalidParameterValueException"),
            r#"{"Message":"x"}"#,
            Kind::Rejected("InvalidParameterValueException".to_owned()),
            false,
        ),
        (500, code("ServiceException"), r#"{"Message":"x"}"#, Kind::Unreachable("ServiceException".to_owned()), true),
        (200, THREW, &threw("KeyError", CANARY), Kind::Threw(Some("KeyError".to_owned())), true),
        (200, THREW, &secret_type, Kind::Threw(None), true),
        (200, THREW, CANARY, Kind::Threw(None), true),
        (200, THREW, &threw("Sandbox.Timedout", CANARY), Kind::TimedOut, true),
        (200, THREW, r#"{"errorMessage":"2026-11-29 Task timed out after 3.00 seconds"}"#, Kind::TimedOut, true),
        (200, NONE, &"x".repeat(51), Kind::TooLarge { bytes: 51 }, true),
    ] {
        let error = invoke(Lambda::answering(status, header, body)).await.unwrap_err();
        assert_eq!((&error.kind, error.function.as_str()), (&kind, "issuer:live"));
        assert_eq!(!error.kind.had_no_effect(), ran, "{kind:?}");
        assert_not_in(&format!("{error:?} {}", error.kind));
    }
}

#[tokio::test]
async fn function_may_take_longer_than_a_call_of_aws() {
    // An attempt of every other client ends after three seconds.
    let slow = Lambda { pause: Duration::from_millis(3500), ..Lambda::answering(200, NONE, "{}") };
    assert_eq!(invoke_within(slow, Duration::from_secs(15)).await.unwrap().expose(), "{}");
}

#[tokio::test]
async fn a_function_that_is_silent_is_given_up_in_time() {
    let slow = Lambda { pause: Duration::from_secs(10), ..Lambda::answering(200, NONE, "{}") };
    assert_eq!(invoke(slow).await.unwrap_err().kind, Kind::TimedOut);
}
