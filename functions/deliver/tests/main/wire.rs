//! What is sent to ECS, Lambda and SNS, and how their answers are read. A server on the loopback interface answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deliver::aws::DeliveryClients;
use deliver::decision::service::{Deployment, DeploymentStatus};
use deliver::ports::{FunctionProblem, Functions, Notifications as _, ServiceProblem, ServiceState, Services};
use deliver::report::{Event, EventState};
use serde_json::{Value, json};

/// An answer: status, headers and body.
type Answer = (u16, &'static str, String);

/// A request: its first line, the header `X-Amz-Target`, and its body.
type Request = (String, String, Vec<u8>);

/// Clients without a topic of events, see [`serve_with`].
fn serve(answers: Vec<Answer>, delay: Duration) -> (DeliveryClients, Receiver<Request>) {
    serve_with(answers, delay, "")
}

/// Answers one request after the other, each on a connection of its own. The last answer stays.
fn serve_with(answers: Vec<Answer>, delay: Duration, topic: &str) -> (DeliveryClients, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for number in 0.. {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut lines, mut length, mut target) = (Vec::new(), 0, String::new());
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.trim().to_owned();
                match line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())) {
                    Some((name, value)) if name == "content-length" => length = value.parse().unwrap(),
                    Some((name, value)) if name == "x-amz-target" => target = value,
                    _ => {}
                }
                if line.is_empty() {
                    break;
                }
                lines.push(line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            if sender.send((lines[0].clone(), target, body)).is_err() {
                return;
            }
            std::thread::sleep(delay);
            let (status, headers, body) = &answers[number.min(answers.len() - 1)];
            let head =
                format!("HTTP/1.1 {status} .\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
    let variables = [
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "example"),
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("EVENT_TOPIC_ARN", topic),
    ];
    (DeliveryClients::from_environment(&variables.into_iter().collect()).unwrap(), received)
}

fn answering(answers: &[(u16, Value)]) -> (DeliveryClients, Receiver<Request>) {
    let answers = answers.iter().map(|(status, body)| (*status, "", body.to_string()));
    serve(answers.collect(), Duration::ZERO)
}

fn json_of(request: &Request) -> Value {
    serde_json::from_slice(&request.2).unwrap()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[tokio::test]
async fn update_service_sets_nothing_but_the_new_deployment() {
    let (clients, received) = answering(&[(200, json!({"service": {}}))]);
    clients.force_deployment("blue", "web").await.unwrap();
    let request = received.recv().unwrap();
    assert_eq!(request.1, "AmazonEC2ContainerServiceV20141113.UpdateService");
    assert_eq!(json_of(&request), json!({"cluster": "blue", "service": "web", "forceNewDeployment": true}));
}

#[tokio::test]
async fn update_service_is_sent_once_whatever_the_answer() {
    let (clients, received) = answering(&[(500, json!({"__type": "ServerException", "message": "oops"}))]);
    let refused = clients.force_deployment("blue", "web").await;
    assert_eq!(refused, Err(ServiceProblem::Refused("ServerException: oops".to_owned())));
    assert_eq!(received.try_iter().count(), 1);
    let missing = json!({"__type": "ServiceNotFoundException", "message": "no"});
    let (clients, _received) = answering(&[(400, missing)]);
    assert_eq!(clients.force_deployment("blue", "web").await, Err(ServiceProblem::Missing));
}

#[tokio::test]
async fn deployments_are_asked_for_by_time_and_read_to_the_last_page() {
    let brief = |created: f64, status: &str| json!({"createdAt": created, "status": status, "statusReason": "a\nb"});
    let first = json!({"serviceDeployments": [brief(1000.0, "STOPPED")], "nextToken": "more"});
    let last = json!({"serviceDeployments": [brief(2000.0, "IN_PROGRESS"), brief(1500.0, "SUCCESSFUL")]});
    let (clients, received) = answering(&[(200, first), (200, last)]);
    let listed = clients.deployments("blue", "web", at(900)).await.unwrap();
    let reason = Some("a b".to_owned());
    let expected = [
        (2000, DeploymentStatus::Open("IN_PROGRESS".to_owned())),
        (1500, DeploymentStatus::Successful),
        (1000, DeploymentStatus::Failed("STOPPED".to_owned())),
    ];
    let expected =
        expected.map(|(created, status)| Deployment { created: at(created), status, reason: reason.clone() });
    assert_eq!(listed, expected);
    let requests: Vec<Value> = received.try_iter().map(|request| json_of(&request)).collect();
    assert_eq!(requests[0]["createdAt"], json!({"after": 899}));
    assert_eq!((&requests[0]["cluster"], &requests[0]["service"]), (&json!("blue"), &json!("web")));
    assert_eq!(requests[1]["nextToken"], "more");
}

#[tokio::test]
async fn cluster_that_does_not_exist_is_a_missing_service() {
    let missing = json!({"__type": "ClusterNotFoundException", "message": "no"});
    let (clients, _received) = answering(&[(400, missing)]);
    assert_eq!(clients.deployments("blue", "web", at(900)).await, Err(ServiceProblem::Missing));
}

#[tokio::test]
async fn service_is_described_with_its_controller() {
    let service = |controller: Value| json!({"services": [{"status": "ACTIVE", "deploymentController": controller}], "failures": []});
    let missing = json!({"services": [], "failures": [{"reason": "MISSING"}]});
    let answers = [(200, service(json!({"type": "CODE_DEPLOY"}))), (200, service(Value::Null)), (200, missing)];
    let (clients, _received) = answering(&answers);
    let state = |controller: &str| ServiceState { status: "ACTIVE".to_owned(), controller: controller.to_owned() };
    assert_eq!(Services::describe(&clients, "blue", "web").await, Ok(state("CODE_DEPLOY")));
    assert_eq!(Services::describe(&clients, "blue", "web").await, Ok(state("ECS")));
    assert_eq!(Services::describe(&clients, "blue", "web").await, Err(ServiceProblem::Missing));
}

#[tokio::test]
async fn function_is_invoked_once_and_its_answer_is_read() {
    let (clients, received) = answering(&[(200, json!({"status": "done"}))]);
    let limit = Duration::from_secs(10);
    let answer = clients.invoke("restart:live", r#"{"version":1}"#, limit).await.unwrap();
    assert_eq!(answer, br#"{"status":"done"}"#);
    let (line, _, body) = received.recv().unwrap();
    assert!(line.contains("/functions/restart%3Alive/invocations"), "{line}");
    assert_eq!(body, br#"{"version":1}"#);
    for (answer, expected) in [
        ((404, "x-amzn-errortype: ResourceNotFoundException\r\n", "{}".to_owned()), FunctionProblem::Missing),
        (
            (500, "x-amzn-errortype: ServiceException\r\n", r#"{"message":"oops"}"#.to_owned()),
            FunctionProblem::Refused("no answer from Lambda (ServiceException)".to_owned()),
        ),
        (
            (
                200,
                "x-amz-function-error: Unhandled\r\n",
                r#"{"errorType":"KeyError","errorMessage":"s3cret"}"#.to_owned(),
            ),
            FunctionProblem::Raised("KeyError".to_owned()),
        ),
        (
            (200, "x-amz-function-error: Unhandled\r\n", r#"{"errorType":"<s3cret>"}"#.to_owned()),
            FunctionProblem::Raised("an error".to_owned()),
        ),
        (
            (200, "x-amz-function-error: Unhandled\r\n", r#"{"errorType":"Sandbox.Timedout"}"#.to_owned()),
            FunctionProblem::TimedOut,
        ),
        ((200, "", "x".repeat(16_385)), FunctionProblem::Refused("the answer has 16385 bytes".to_owned())),
    ] {
        let (clients, received) = serve(vec![answer], Duration::ZERO);
        assert_eq!(clients.invoke("restart", "{}", limit).await, Err(expected));
        assert_eq!(received.try_iter().count(), 1, "it is not invoked again");
    }
}

#[tokio::test]
async fn function_that_is_too_slow_has_timed_out() {
    let (clients, received) = serve(vec![(200, "", "{}".to_owned())], Duration::from_secs(5));
    let answer = clients.invoke("restart", "{}", Duration::from_millis(500)).await;
    assert_eq!(answer, Err(FunctionProblem::TimedOut));
    assert_eq!(received.try_iter().count(), 1);
}

#[tokio::test]
async fn event_goes_to_the_topic_if_there_is_one() {
    let answer = "<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>";
    let event = Event {
        id: "v1-Delivered".to_owned(),
        state: EventState::Delivered,
        secret: "shop/key".to_owned(),
        version: "v1".to_owned(),
        since: None,
        consumers: vec![],
        at: std::time::SystemTime::UNIX_EPOCH,
    };
    let answers = || vec![(200, "", answer.to_owned())];
    let (clients, received) = serve(answers(), Duration::ZERO);
    clients.notify(&event).await.unwrap();
    assert_eq!(received.try_iter().count(), 0);
    let topic = "arn:aws:sns:us-east-1:000000000000:events";
    let (clients, received) = serve_with(answers(), Duration::ZERO, topic);
    clients.notify(&event).await.unwrap();
    let body = String::from_utf8(received.recv().unwrap().2).unwrap();
    assert!(body.contains(&format!("TopicArn={}", topic.replace(':', "%3A"))), "{body}");
    assert!(
        body.contains("Action=Publish") && body.contains("MessageAttributes") && body.contains("Secret%20delivered"),
        "{body}"
    );
}
