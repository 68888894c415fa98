//! The Invoke API answers as Lambda's does, whoever runs the function.

use crate::common::{host, json, until};
use axum::Json;
use axum::extract::Path;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use sandbox::lambda_host::{InvokeError, LambdaHost, MAX_PAYLOAD};
use serde_json::{Value, json};
use tokio::net::TcpListener;

async fn serve(router: axum::Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

struct Api(String);

impl Api {
    async fn of(host: &LambdaHost) -> Self {
        Self(serve(host.router()).await)
    }

    async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Response<Bytes> {
        let mut request = Request::builder().method(method).uri(format!("{}/2015-03-31/{path}", self.0));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request.body(Full::new(body)).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    }

    async fn invoke(&self, name: &str, headers: &[(&str, &str)], event: Value) -> Response<Bytes> {
        let path = format!("functions/{name}/invocations");
        self.call(Method::POST, &path, headers, event.to_string().into()).await
    }

    async fn get(&self, path: &str) -> Response<Bytes> {
        self.call(Method::GET, path, &[], Bytes::new()).await
    }
}

fn header<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn request_response_answers_the_payload_and_on_demand_the_log() {
    let host = host();
    let api = Api::of(&host).await;
    for name in ["function", "arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Afunction"] {
        let response = api.invoke(name, &[], json!({"a": 1})).await;
        assert_eq!((response.status(), &response.body()[..]), (StatusCode::OK, &br#"{"a":1}"#[..]));
        assert_eq!(header(&response, "x-amz-executed-version"), Some("$LATEST"));
        assert_eq!(header(&response, "x-amz-function-error"), None);
        assert_eq!(header(&response, "x-amz-log-result"), None);
    }
    let response = api.invoke("function", &[("x-amz-log-type", "Tail")], json!({"do": "say", "lines": 1})).await;
    let log = STANDARD.decode(header(&response, "x-amz-log-result").unwrap()).unwrap();
    let start = format!("START RequestId: {} ", header(&response, "x-amzn-requestid").unwrap());
    let log = String::from_utf8(log).unwrap();
    assert!(log.starts_with(&start) && log.contains("\nout 0\n"), "{log}");
}

#[tokio::test]
async fn a_function_error_is_a_success_with_a_header() {
    let host = host();
    let response = Api::of(&host).await.invoke("function", &[], json!({"do": "fail"})).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "x-amz-function-error"), Some("Unhandled"));
    assert_eq!(json(response.body())["errorMessage"], "it did not work");
}

#[tokio::test]
async fn a_dry_run_invokes_nothing() {
    let host = host();
    let api = Api::of(&host).await;
    let dry_run = [("x-amz-invocation-type", "DryRun")];
    let response = api.invoke("function", &dry_run, json!({})).await;
    assert_eq!((response.status(), response.body().len()), (StatusCode::NO_CONTENT, 0));
    assert_eq!(api.invoke("other", &dry_run, json!({})).await.status(), StatusCode::NOT_FOUND);
    assert!(host.logs("function").is_empty());
}

#[tokio::test]
async fn an_event_is_accepted_first_and_run_then() {
    let host = host();
    let api = Api::of(&host).await;
    let event = [("x-amz-invocation-type", "Event")];
    let response = api.invoke("function", &event, json!({"do": "fail"})).await;
    assert_eq!((response.status(), response.body().len()), (StatusCode::ACCEPTED, 0));
    let id = header(&response, "x-amzn-requestid").unwrap().to_owned();
    until("it ran", || host.logs("function").contains(&format!("END RequestId: {id}"))).await;
    let response = api.invoke("function", &event, json!("x".repeat(1024 * 1024))).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn errors_have_lambdas_status_type_and_message() {
    let host = host();
    let api = Api::of(&host).await;
    let check = |response: Response<Bytes>, status: u16, code: &str, message: &str| {
        assert_eq!((response.status().as_u16(), header(&response, "x-amzn-errortype")), (status, Some(code)));
        let body = json(response.body());
        assert_eq!((body["Message"].as_str(), body["Type"].as_str()), (Some(message), Some("User")));
    };
    let not_found = "Function not found: arn:aws:lambda:us-east-1:000000000000:function:";
    let response = api.invoke("other", &[], json!({})).await;
    check(response, 404, "ResourceNotFoundException", &format!("{not_found}other"));
    let response = api.get("functions/other").await;
    check(response, 404, "ResourceNotFoundException", &format!("{not_found}other"));
    let path = "functions/function/invocations";
    let response = api.call(Method::POST, &format!("{path}?Qualifier=live"), &[], Bytes::new()).await;
    check(response, 404, "ResourceNotFoundException", &format!("{not_found}function:live"));
    let response = api.call(Method::POST, &format!("{path}?Qualifier=%24LATEST"), &[], Bytes::new()).await;
    assert_eq!(response.status(), StatusCode::OK);

    let response = api.call(Method::POST, path, &[], Bytes::from_static(b"[1,")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(header(&response, "x-amzn-errortype"), Some("InvalidRequestContentException"));
    let response = api.call(Method::POST, path, &[], vec![b' '; MAX_PAYLOAD + 1].into()).await;
    let message = "Request must be smaller than 6291456 bytes for the InvokeFunction operation";
    check(response, 413, "RequestTooLargeException", message);

    host.set_reserved_concurrency("function", Some(0)).unwrap();
    let response = api.invoke("function", &[], json!({})).await;
    check(response, 429, "TooManyRequestsException", "Rate Exceeded.");
}

#[tokio::test]
async fn functions_can_be_listed_and_described() {
    let host = host();
    host.set_environment("function", "A", "b").unwrap();
    host.forward("elsewhere", "http://127.0.0.1:1").unwrap();
    let api = Api::of(&host).await;
    for path in ["functions", "functions/"] {
        let list = json(api.get(path).await.body());
        let names: Vec<&Value> =
            list["Functions"].as_array().unwrap().iter().map(|function| &function["FunctionName"]).collect();
        assert_eq!(names, ["elsewhere", "function"]);
    }
    let configuration = json(api.get("functions/function").await.body())["Configuration"].clone();
    assert_eq!(configuration["FunctionArn"], "arn:aws:lambda:us-east-1:000000000000:function:function");
    assert_eq!((&configuration["Timeout"], &configuration["MemorySize"]), (&json!(20), &json!(128)));
    assert_eq!(configuration["Environment"], json!({"Variables": {"A": "b"}}));
    assert!(configuration["CodeSize"].as_u64().unwrap() > 1000);
    assert_eq!(json(api.get("functions/function/configuration").await.body()), configuration);
}

/// Answers as `cargo lambda watch` 1.9 does.
async fn watch() -> String {
    let invoke = async |Path(name): Path<String>, Json(event): Json<Value>| match event["fail"].as_bool() {
        Some(true) => {
            let error = json!({"errorType": "Failed", "errorMessage": name});
            (StatusCode::INTERNAL_SERVER_ERROR, Json(error))
        }
        Some(false) => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!("the watcher itself failed"))),
        None => (StatusCode::OK, Json(event)),
    };
    serve(axum::Router::new().route("/2015-03-31/functions/{name}/invocations", post(invoke))).await
}

#[tokio::test]
async fn forwarded_invocations_look_like_the_others() {
    let host = LambdaHost::new();
    host.forward("function", &watch().await).unwrap();
    let api = Api::of(&host).await;
    let response = api.invoke("function", &[], json!({"a": 1})).await;
    assert_eq!((response.status(), &response.body()[..]), (StatusCode::OK, &br#"{"a":1}"#[..]));
    let response = api.invoke("function", &[], json!({"fail": true})).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "x-amz-function-error"), Some("Unhandled"));
    assert_eq!(json(response.body()), json!({"errorType": "Failed", "errorMessage": "function"}));
    let response = api.invoke("function", &[], json!({"fail": false})).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(header(&response, "x-amzn-errortype"), Some("ServiceException"));
}

#[tokio::test]
async fn an_address_without_a_watcher_is_named_in_the_error() {
    let host = LambdaHost::new();
    host.forward("function", "http://127.0.0.1:1").unwrap();
    let error = host.invoke("function", Bytes::new()).await.unwrap_err();
    assert!(matches!(error, InvokeError::Forward(_)));
    let message = error.to_string();
    assert!(message.contains("http://127.0.0.1:1/") && message.contains("Connection refused"), "{message}");
    for url in ["https://127.0.0.1:9000", "127.0.0.1:9000", "http://127.0.0.1:9000/path", ""] {
        assert!(host.forward("function", url).is_err(), "{url}");
    }
}
