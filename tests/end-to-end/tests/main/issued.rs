//! Credentials of a provider, with the built functions: the issuers of the examples run as Lambda functions.

use std::path::Path;
use std::time::Duration;

use end_to_end::{Plan, Scene};
use sandbox::{Fault, FaultRule, Moment};
use serde_json::{Value, json};

use crate::support::*;

#[path = "../../../../functions/issued-credential/tests/main/site.rs"]
mod site;

use site::Site;

const FUNCTION: &str = "issued-credential";
const SECRET: &str = "shop/production/provider";
const COPY: &str = "shop/production/app";
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A client secret that rotates by an issuer of the examples, with a copy of it as its consumer.
async fn scene(example: &str, site: &Site) -> Scene {
    let value = json!({ "CLIENT_SECRET": "first", "CLIENT_SECRET_ID": "s1", "CLIENT_ID": "shop" });
    let plan = Plan {
        function: FUNCTION,
        secret: SECRET,
        tags: vec![("rotation:fields", "CLIENT_SECRET CLIENT_SECRET_ID")],
        environment: vec![
            ("ALLOWED_FIELDS", "CLIENT_SECRET,CLIENT_SECRET_ID".to_owned()),
            ("ISSUER_FUNCTION", "issuer".to_owned()),
        ],
        ..once(no_target(Plan { value: Some(value.to_string()), ..text_plan() }))
    };
    let plan = plan.consumers(json!({ "production/provider": [{ "copy": "production/app" }] }));
    let plan = plan.also(COPY, r#"{"PORT":"80"}"#).also("shop/provider-admin", "admin-token");
    let scene = start(plan).await.with_operator(&[]).await.unwrap();
    register_issuer(&scene, example, &site.serve().await);
    scene.configure().await.unwrap();
    scene.deliver_all().await.unwrap();
    scene
}

fn register_issuer(scene: &Scene, example: &str, provider: &str) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../functions/issued-credential/examples");
    let (_, extension) = example.split_once('.').unwrap();
    let (issuer, endpoint) = (examples.join(example), scene.sandbox.endpoint());
    // Python with boto3, and Node.
    let path = std::env::var("PATH").unwrap();
    let variables = [
        ("PATH", path.as_str()),
        ("ISSUER", issuer.to_str().unwrap()),
        ("PROVIDER_URL", provider),
        ("CLIENT_ID", "shop"),
        ("ADMIN_SECRET", "shop/provider-admin"),
        ("AWS_ENDPOINT_URL", &endpoint),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let program = examples.join(format!("run.{extension}"));
    scene.sandbox.register_function("issuer", program, variables).unwrap();
}

fn alive(site: &Site) -> Vec<String> {
    site.alive().into_iter().map(|made| made.secret).collect()
}

async fn ask(scene: &Scene, action: &str) -> Value {
    let request = match action {
        "sweep" => json!({ "action": action }),
        _ => json!({ "action": action, "secret_id": SECRET, "reason": "a test" }),
    };
    scene.operate(&request).await.unwrap().unwrap_or_else(|error| panic!("{action}: {error}"))
}

async fn copy(scene: &Scene) -> Value {
    let value = scene.client.get_secret_value().secret_id(COPY).send().await.unwrap();
    serde_json::from_str(&value.secret_string.unwrap()).unwrap()
}

async fn current_value(scene: &Scene) -> Value {
    serde_json::from_str(&scene.value("AWSCURRENT").await.unwrap().unwrap()).unwrap()
}

/// A rotation, its delivery, and the end of the overlap.
async fn rotates_and_revokes(example: &str) {
    let site = Site::with("first");
    let scene = scene(example, &site).await;
    rotate(&scene).await;
    assert_eq!(alive(&site), ["first", "client-secret-2"]);
    let expected = json!({ "CLIENT_SECRET": "client-secret-2", "CLIENT_SECRET_ID": "s2", "CLIENT_ID": "shop" });
    assert_eq!(current_value(&scene).await, expected);
    scene.deliver_all().await.unwrap();
    let copied = json!({ "PORT": "80", "CLIENT_SECRET": "client-secret-2", "CLIENT_SECRET_ID": "s2" });
    assert_eq!(copy(&scene).await, copied, "the named members alone");
    assert_eq!(ask(&scene, "verify").await["verified"], true);
    // Consumers may hold the old one until the overlap is over.
    assert_eq!(ask(&scene, "sweep").await["revoked"], 0);
    assert_eq!(alive(&site), ["first", "client-secret-2"]);
    scene.sandbox.advance(26 * HOUR).await.unwrap();
    let swept = ask(&scene, "sweep").await;
    assert_eq!(swept["revokedSecrets"], json!([SECRET]), "{swept:#}");
    assert_eq!(alive(&site), ["client-secret-2"]);
    for function in [FUNCTION, "deliver", "operate", "issuer"] {
        let log = scene.sandbox.host().logs(function).join("\n");
        assert!(!log.contains("client-secret-") && !log.contains("admin-token\""), "{function}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_of_python_issuer_rotates_and_is_revoked() {
    rotates_and_revokes("oauth_issuer.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_of_node_issuer_rotates_and_is_revoked() {
    rotates_and_revokes("oauth_issuer.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaked_credential_is_replaced_and_revoked_after_delivery() {
    let site = Site::with("first");
    let scene = scene("oauth_issuer.py", &site).await;
    // The copy waits for the next run.
    scene.sandbox.event_bus().lose_events(true);
    let request = json!({ "action": "compromise", "secret_id": SECRET, "reason": "a test", "confirm": SECRET });
    let early = scene.operate(&request).await.unwrap().unwrap_err();
    assert_eq!(early["errorType"], "NotDelivered", "{early}");
    assert_eq!(current_value(&scene).await["CLIENT_SECRET"], "client-secret-2");
    assert_eq!(alive(&site), ["first", "client-secret-2"], "the copy holds the first one");
    scene.deliver_all().await.unwrap();
    let answer = scene.operate(&request).await.unwrap().unwrap();
    assert_eq!((&answer["tokensRevoked"], &answer["provenRefused"]), (&json!(1), &json!(true)), "{answer}");
    assert_eq!(alive(&site), ["client-secret-2"], "without waiting for the overlap");
    assert_eq!(copy(&scene).await["CLIENT_SECRET"], "client-secret-2");
    let labels = format!("{:?}", scene.stages().await.unwrap());
    assert!(!labels.contains("ROTATION-COMPROMISED-"), "{labels}");
    rotate(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn function_killed_after_it_issued_leaves_no_orphan() {
    let site = Site::with("first");
    let scene = scene("oauth_issuer.py", &site).await;
    let killed = Fault::KillFunction { function: FUNCTION.to_owned(), when: Moment::Before };
    scene.sandbox.faults().add(FaultRule::on("PutSecretValue", killed).from_caller(FUNCTION));
    fail_to_rotate(&scene).await;
    assert_eq!(alive(&site), ["first", "client-secret-2"], "it is issued, and no version holds it");
    assert_eq!(current_value(&scene).await["CLIENT_SECRET"], "first");

    // The provider takes no third one: the orphan goes first, when no attempt can be under way any more.
    scene.sandbox.advance(17 * HOUR / 60).await.unwrap();
    ask(&scene, "abort").await;
    rotate(&scene).await;
    assert_eq!(alive(&site), ["first", "client-secret-3"]);
    assert_eq!(current_value(&scene).await["CLIENT_SECRET"], "client-secret-3");
    let labels = scene.stages().await.unwrap();
    assert!(!format!("{labels:?}").contains("ROTATION-ISSUING-"), "{labels:?}");
}
