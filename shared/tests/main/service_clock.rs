//! The time that a rotation goes by: the service's, and the machine's where an answer has none.

use std::time::{Duration, SystemTime};

use rotation::aws::Clients;
use rotation::deadline::Deadline;
use rotation::store::{ListFilter, OperationStore as _, SecretStore as _};
use rotation::time::parse_timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::environment;

fn machine() -> SystemTime {
    parse_timestamp("2030-01-01T00:00:00Z").unwrap()
}

/// A Secrets Manager that answers each connection with the next of these headers.
async fn answering(headers: &'static [&'static str]) -> Clients {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for header in headers {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 65_536];
            let mut length = 0;
            // To the end of the body, which is a JSON object.
            while !request[..length].ends_with(b"}") {
                length += connection.read(&mut request[length..]).await.unwrap();
            }
            let body = r#"{"Name":"shop/token","SecretList":[{"Name":"shop/token"}]}"#;
            let (kind, length) = ("application/x-amz-json-1.1", body.len());
            let answer = format!(
                "HTTP/1.1 200 OK\r\n{header}content-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let variables = [
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_ENDPOINT_URL", &endpoint),
    ];
    Clients::from_environment(&environment(&variables), machine).unwrap()
}

#[tokio::test]
async fn a_missing_date_is_never_that_of_an_earlier_answer() {
    let clients = answering(&[
        "date: Sun, 01 Nov 2026 12:00:00 GMT\r\n",
        "",
        "date: yesterday\r\n",
        "date: Mon, 02 Nov 2026 12:00:00 GMT\r\n",
        "",
    ])
    .await;
    // Each by itself, as the invocations of one process are.
    let store = || clients.secrets_manager(Deadline::after(Duration::from_secs(20)));
    let mut seen = vec![];
    for _ in 0..4 {
        seen.push(store().describe("shop/token").await.unwrap().as_of);
    }
    seen.push(store().list(&ListFilter::default(), None).await.unwrap().secrets[0].as_of);
    let service = |day| parse_timestamp(&format!("2026-11-0{day}T12:00:00Z")).unwrap();
    assert_eq!(seen, [service(1), machine(), machine(), service(2), machine()]);
}
