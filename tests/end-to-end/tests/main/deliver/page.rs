//! The functions of `infra/CONSUMERS.md`, as they stand there. Stand-ins take the place of Systems Manager and Lambda.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path as UrlPath, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use end_to_end::Scene;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::aws_cli::workspace;
use crate::support::*;

/// What a page of ListCommands holds at most.
const PAGE: usize = 50;

/// A scene whose token has a function of the page as its consumer.
struct Consumed {
    scene: Scene,
    _folder: TempDir,
}

impl Consumed {
    /// The first example for `place`, with an AWS of its own at this address.
    async fn new(place: &str, service: &str, address: String) -> Self {
        let page = std::fs::read_to_string(workspace().join("infra/CONSUMERS.md")).unwrap();
        let (_, rest) = page.split_once(&format!("\n**{place}")).unwrap();
        let (_, example) = rest.split_once("```python\n").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("consumer.py");
        std::fs::write(&file, example.split("```").next().unwrap()).unwrap();
        let consumers = json!({ "production/admin-token": [{ "function": "restart" }] });
        let scene = start(once(no_target(json_plan())).consumers(consumers)).await;
        let tools = workspace().join("target/tools/bin");
        let variables = [
            ("PATH".to_owned(), format!("{}:{}", tools.display(), std::env::var("PATH").unwrap())),
            ("ISSUER".to_owned(), file.display().to_string()),
            (format!("AWS_ENDPOINT_URL_{service}"), address),
        ];
        let runtime = Path::new("functions/issued-credential/examples/run.py");
        scene.sandbox.register_function("restart", workspace().join(runtime), variables).unwrap();
        // The test counts the runs.
        scene.sandbox.event_bus().lose_events(true);
        scene.configure().await.unwrap();
        Self { scene, _folder: folder }
    }

    /// A run of `deliver`: how far the function is, and the reason.
    async fn delivers(&self) -> (String, String) {
        let answer = self.scene.deliver(&json!({})).await.unwrap().unwrap();
        let secret = &answer["secrets"][0];
        assert_eq!(secret["state"] == "delivered", self.scene.is_delivered().await.unwrap(), "{answer}");
        let told = &secret["consumers"][0];
        (secret["state"].as_str().unwrap().to_owned(), told["reason"].as_str().unwrap_or_default().to_owned())
    }

    async fn state(&self) -> String {
        self.delivers().await.0
    }

    /// A rotation is put back: the version before is current again.
    async fn goes_back(&self, to: &str) {
        // Two deliveries that begin in the same second would have the same label, and the next run would go on.
        self.scene.sandbox.advance(Duration::from_secs(2)).await.unwrap();
        let current = current(&self.scene).await.unwrap().0;
        let moved = self.scene.client.update_secret_version_stage().secret_id(self.scene.secret());
        let moved = moved.version_stage("AWSCURRENT").remove_from_version_id(current).move_to_version_id(to);
        moved.send().await.unwrap();
    }
}

async fn serve(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

/// The commands of an account, the newest first.
#[derive(Clone, Default)]
struct Commands(Arc<Mutex<Vec<Value>>>);

impl Commands {
    fn send(&self, comment: &str) {
        let mut commands = self.0.lock().unwrap();
        let requested = 1_700_000_000 + commands.len();
        let command = json!({ "Comment": comment, "RequestedDateTime": requested, "Status": "Pending", "StatusDetails": "Pending" });
        commands.insert(0, command);
    }

    /// More commands of others than a page holds.
    fn others(&self) {
        for number in 0..=PAGE {
            self.send(&format!("a command of others, {number}"));
        }
    }

    fn ours(&self) -> Vec<Value> {
        let mut commands = self.0.lock().unwrap().clone();
        commands.retain(|command| !command["Comment"].as_str().unwrap().contains("of others"));
        commands
    }

    /// The newest command of ours is in this state.
    fn is_now(&self, status: &str, details: &str) {
        let ours = self.ours()[0].clone();
        let mut commands = self.0.lock().unwrap();
        let newest = commands.iter_mut().find(|command| **command == ours).unwrap();
        (newest["Status"], newest["StatusDetails"]) = (json!(status), json!(details));
    }

    fn answer(&self, operation: &str, request: &Value) -> Value {
        if operation == "AmazonSSM.SendCommand" {
            assert_eq!(request["DocumentName"], "AWS-RunShellScript");
            assert!(request["Comment"].as_str().unwrap().len() <= 100 && request["Targets"].is_array(), "{request}");
            self.send(request["Comment"].as_str().unwrap());
            return json!({});
        }
        assert_eq!((operation, &request["Filters"][0]["key"]), ("AmazonSSM.ListCommands", &json!("DocumentName")));
        let from: usize = request["NextToken"].as_str().map_or(0, |token| token.parse().unwrap());
        let commands = self.0.lock().unwrap();
        let page: Vec<&Value> = commands.iter().skip(from).take(PAGE).collect();
        let more = (commands.len() > from + PAGE).then(|| (from + PAGE).to_string());
        let mut answer = json!({ "Commands": page });
        answer.as_object_mut().unwrap().extend(more.map(|token| ("NextToken".to_owned(), json!(token))));
        answer
    }

    async fn serve(&self) -> String {
        let answer = async |State(commands): State<Self>, headers: HeaderMap, body: String| {
            let request = serde_json::from_str(&body).unwrap();
            Json(commands.answer(headers["x-amz-target"].to_str().unwrap(), &request))
        };
        serve(Router::new().route("/", post(answer)).with_state(self.clone())).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_of_the_page_is_sent_again_until_it_succeeds() {
    let commands = Commands::default();
    commands.others();
    let consumed = Consumed::new("EC2", "SSM", commands.serve().await).await;
    let first = current(&consumed.scene).await.unwrap().0;
    assert_eq!(consumed.state().await, "pending");
    commands.others();
    for (status, details, state, sent) in [
        ("Pending", "Pending", "pending", 1),
        ("InProgress", "InProgress", "pending", 1),
        ("Failed", "Failed", "failed", 2),
        ("TimedOut", "DeliveryTimedOut", "failed", 3),
        ("Success", "NoInstancesInTag", "failed", 4),
        ("Success", "Success", "delivered", 4),
    ] {
        commands.is_now(status, details);
        let (told, reason) = consumed.delivers().await;
        assert_eq!((told.as_str(), commands.ours().len()), (state, sent), "{details}: {reason}");
        assert!(state != "failed" || reason.contains(details), "{details}: {reason}");
    }
    let second = rotate(&consumed.scene).await;
    assert_eq!((consumed.state().await.as_str(), commands.ours().len()), ("pending", 5));
    commands.is_now("Success", "Success");
    assert_eq!(consumed.state().await, "delivered");
    // The command of the first version has succeeded long ago, and proves nothing any more.
    consumed.goes_back(&first).await;
    assert_eq!((consumed.state().await.as_str(), commands.ours().len()), ("pending", 6));
    let comments: Vec<String> = commands.ours().iter().map(|command| command["Comment"].to_string()).collect();
    assert!(comments[0].contains(&first) && comments[1].contains(&second), "{comments:?}");
}

/// The configuration of a function.
#[derive(Clone)]
struct Configuration(Arc<Mutex<Value>>);

impl Configuration {
    fn is_now(&self, status: &str) {
        let mut now = self.0.lock().unwrap();
        (now["LastUpdateStatus"], now["LastUpdateStatusReason"]) = (json!(status), json!("no room"));
    }

    fn update(&self, request: &Value) -> Value {
        let mut now = self.0.lock().unwrap();
        assert_eq!(request["RevisionId"], now["RevisionId"], "of the configuration that was read");
        now["Environment"] = request["Environment"].clone();
        now["RevisionId"] = json!(format!("{}+", now["RevisionId"].as_str().unwrap()));
        now["LastUpdateStatus"] = json!("InProgress");
        now.clone()
    }

    async fn serve(&self) -> String {
        let read = async |State(this): State<Self>| Json(this.0.lock().unwrap().clone());
        let update = async |State(this): State<Self>, UrlPath(name): UrlPath<String>, body: String| {
            assert_eq!(name, "shop-worker");
            Json(this.update(&serde_json::from_str(&body).unwrap()))
        };
        let path = "/2015-03-31/functions/{name}/configuration";
        serve(Router::new().route(path, get(read).put(update)).with_state(self.clone())).await
    }

    fn variables(&self) -> Value {
        self.0.lock().unwrap()["Environment"]["Variables"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn function_of_the_page_is_updated_again_until_it_succeeds() {
    let before = json!({
        "LastUpdateStatus": "Successful", "RevisionId": "one", "Environment": { "Variables": { "LEVEL": "info" } }
    });
    let configuration = Configuration(Arc::new(Mutex::new(before)));
    let consumed = Consumed::new("Lambda", "LAMBDA", configuration.serve().await).await;
    let first = current(&consumed.scene).await.unwrap().0;
    for (status, state) in [
        ("Successful", "pending"),
        ("InProgress", "pending"),
        ("Failed", "failed"),
        ("InProgress", "pending"),
        ("Successful", "delivered"),
    ] {
        configuration.is_now(status);
        let (told, reason) = consumed.delivers().await;
        assert_eq!(told, state, "{status}: {reason}");
        assert!(state != "failed" || reason.contains("no room"), "{reason}");
    }
    let held = |version: &str| json!({ "LEVEL": "info", "shop_production_admin_token": version });
    assert_eq!(configuration.variables(), held(&first));
    let second = rotate(&consumed.scene).await;
    assert_eq!(consumed.state().await, "pending");
    assert_eq!(configuration.variables(), held(&second));
    consumed.goes_back(&first).await;
    configuration.is_now("Successful");
    let told = consumed.delivers().await;
    assert_eq!(told, ("pending".to_owned(), "the function is updated".to_owned()));
    assert_eq!(configuration.variables(), held(&first));
}
