//! ECS's answers against the API model that botocore brings, and against a second emulator for the calls that it
//! knows.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, what is missing is a failed test")]

mod common;
mod ministack;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::post;
use common::services::{CLUSTER, ID, World, world};
use ministack::Ministack;
use sandbox::{Controller, ServiceDeclaration};
use serde_json::{Value, json};

const TARGET: &str = "AmazonEC2ContainerServiceV20141113";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn declaration() -> ServiceDeclaration {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/test-task");
    ServiceDeclaration { controller: Some(Controller::Ecs), ..ServiceDeclaration::new(CLUSTER, "web", program) }
}

/// The API model of ECS.
struct Model(Value);

impl Model {
    fn read() -> Self {
        let pattern = workspace().join("target/tools/lib");
        let python = std::fs::read_dir(&pattern).unwrap().next().unwrap().unwrap().path();
        let file = python.join("site-packages/botocore/data/ecs/2014-11-13/service-2.json.gz");
        let file = std::fs::File::open(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        Self(serde_json::from_str(&text).unwrap())
    }

    /// What in a value is not of the shape.
    fn problems(&self, shape: &str, value: &Value, path: &str) -> Vec<String> {
        let model = &self.0["shapes"][shape];
        let wrong = |what: &str| vec![format!("{path}: {value} is no {what}")];
        match model["type"].as_str().unwrap() {
            "structure" => {
                let Some(members) = value.as_object() else { return wrong("structure") };
                let member = |(name, value): (&String, &Value)| match model["members"][name]["shape"].as_str() {
                    Some(shape) => self.problems(shape, value, &format!("{path}.{name}")),
                    None => vec![format!("{path}.{name} is not in the model")],
                };
                members.iter().flat_map(member).collect()
            }
            "list" => {
                let Some(items) = value.as_array() else { return wrong("list") };
                let shape = model["member"]["shape"].as_str().unwrap();
                items.iter().flat_map(|item| self.problems(shape, item, path)).collect()
            }
            "string" => match (value.as_str(), model["enum"].as_array()) {
                (None, _) => wrong("string"),
                (Some(_), Some(choices)) if !choices.contains(value) => wrong("choice of the model"),
                _ => vec![],
            },
            "integer" | "timestamp" if value.is_number() => vec![],
            "boolean" if value.is_boolean() => vec![],
            other => wrong(other),
        }
    }

    fn check(&self, operation: &str, answer: &Value) {
        let shape = self.0["operations"][operation]["output"]["shape"].as_str().unwrap();
        assert_eq!(self.problems(shape, answer, operation), Vec::<String>::new());
    }

    /// Whether the model names the error for the operation.
    fn names(&self, operation: &str, error: &str) -> bool {
        let errors = self.0["operations"][operation]["errors"].as_array().unwrap();
        errors.iter().any(|known| known["shape"] == error)
    }
}

async fn call(endpoint: &str, operation: &str, body: Value) -> (u16, Value) {
    post(endpoint, &format!("{TARGET}.{operation}"), &body.to_string()).await
}

async fn asked(world: &World, operation: &str, body: Value) -> Value {
    let (status, answer) = call(&world.sandbox.endpoint(), operation, body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

#[tokio::test]
async fn every_answer_has_the_shape_of_the_model() {
    let (world, model) = (world(declaration()).await, Model::read());
    let service = json!({ "cluster": CLUSTER, "service": "web" });
    let describe = json!({ "cluster": CLUSTER, "services": ["web", "other"] });
    for fail in [false, true] {
        world.sandbox.ecs().fail_new_tasks(ID, fail).unwrap();
        let force = json!({ "cluster": CLUSTER, "service": "web", "forceNewDeployment": true });
        model.check("UpdateService", &asked(&world, "UpdateService", force).await);
        for _ in 0..8 {
            model.check("ListServiceDeployments", &asked(&world, "ListServiceDeployments", service.clone()).await);
            model.check("DescribeServices", &asked(&world, "DescribeServices", describe.clone()).await);
            world.sandbox.advance(Duration::from_secs(20)).await.unwrap();
        }
    }
    let listed = asked(&world, "ListServiceDeployments", service).await;
    let newest = &listed["serviceDeployments"][0]["serviceDeploymentArn"];
    let (status, refused) = call(
        &world.sandbox.endpoint(),
        "StopServiceDeployment",
        json!({ "serviceDeploymentArn": newest, "stopType": "ROLLBACK" }),
    )
    .await;
    assert_eq!((status, &refused["__type"]), (400, &json!("ConflictException")));
}

#[tokio::test]
async fn every_error_is_one_of_the_model() {
    let (world, model) = (world(declaration()).await, Model::read());
    let cases = [
        ("UpdateService", json!({ "cluster": "other", "service": "web" })),
        ("UpdateService", json!({ "cluster": CLUSTER, "service": "other" })),
        ("UpdateService", json!({ "cluster": CLUSTER, "service": "web", "desiredCount": 3 })),
        ("DescribeServices", json!({ "cluster": "other", "services": ["web"] })),
        ("DescribeServices", json!({ "cluster": CLUSTER, "services": [] })),
        ("DescribeServices", json!({ "cluster": CLUSTER, "services": vec!["web"; 11] })),
        ("ListServiceDeployments", json!({ "cluster": CLUSTER, "service": "other" })),
        ("ListServiceDeployments", json!({ "cluster": CLUSTER, "service": "web", "maxResults": 0 })),
        ("StopServiceDeployment", json!({ "serviceDeploymentArn": "arn:aws:ecs:x" })),
    ];
    for (operation, body) in cases {
        let (status, answer) = call(&world.sandbox.endpoint(), operation, body.clone()).await;
        let error = answer["__type"].as_str().unwrap();
        assert_eq!(status, 400, "{body}");
        assert!(model.names(operation, error), "{operation} {body}: {error}");
        assert!(!answer["message"].as_str().unwrap().is_empty(), "{operation} {body}");
    }
}

/// `null` for each value, so that only the members and their types are compared.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(items) => items.iter().take(1).map(shape).collect(),
        Value::String(_) => json!("text"),
        Value::Bool(_) => json!(true),
        Value::Number(_) => json!(0),
        Value::Null => Value::Null,
    }
}

/// The members that both have with different types.
fn differences(ours: &Value, theirs: &Value, path: &str) -> Vec<String> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let both = ours.iter().filter_map(|(name, ours)| Some((name, ours, theirs.get(name)?)));
            both.flat_map(|(name, ours, theirs)| differences(ours, theirs, &format!("{path}.{name}"))).collect()
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.iter().zip(theirs).flat_map(|(ours, theirs)| differences(ours, theirs, path)).collect()
        }
        (_, Value::Null) => vec![],
        _ if ours == theirs => vec![],
        _ => vec![format!("{path}: {ours} here, {theirs} there")],
    }
}

#[tokio::test]
async fn a_second_emulator_answers_in_the_same_shape() {
    let world = world(declaration()).await;
    let other = Ministack::start(&workspace()).await;
    let create = async |operation: &str, body: Value| {
        let (status, answer) = call(other.endpoint(), operation, body).await;
        assert_eq!(status, 200, "{operation}: {answer}");
    };
    create("CreateCluster", json!({ "clusterName": CLUSTER })).await;
    let container = json!({ "name": "web", "image": "web" });
    create("RegisterTaskDefinition", json!({ "family": "web", "containerDefinitions": [container] })).await;
    let service = json!({ "cluster": CLUSTER, "serviceName": "web", "taskDefinition": "web", "desiredCount": 0 });
    create("CreateService", service).await;
    let cases = [
        ("DescribeServices", json!({ "cluster": CLUSTER, "services": ["web", "other"] })),
        ("DescribeServices", json!({ "cluster": "other", "services": ["web"] })),
        ("UpdateService", json!({ "cluster": CLUSTER, "service": "web", "forceNewDeployment": true })),
        ("UpdateService", json!({ "cluster": CLUSTER, "service": "other" })),
        // The second emulator lists none, so that only the answer's own member is compared.
        ("ListServiceDeployments", json!({ "cluster": CLUSTER, "service": "web" })),
    ];
    for (operation, body) in cases {
        let ours = call(&world.sandbox.endpoint(), operation, body.clone()).await;
        let theirs = call(other.endpoint(), operation, body.clone()).await;
        assert_eq!(ours.0, theirs.0, "{operation} {body}: {} {}", ours.1, theirs.1);
        let told = differences(&shape(&ours.1), &shape(&theirs.1), operation);
        assert_eq!(told, Vec::<String>::new(), "{body}");
        if ours.0 != 200 {
            assert_eq!((&ours.1["__type"], &ours.1["message"]), (&theirs.1["__type"], &theirs.1["message"]), "{body}");
        }
    }
}
