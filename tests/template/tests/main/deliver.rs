//! The role of `deliver`, tried on the emulator as the others are in `permissions.rs`: a delivery passes with it, and without any one of its
//! actions on secrets, services and functions it fails. The emulator deploys no service, so that each delivery to one stays pending.

use serde_json::{Value, json};

use crate::deployed::{Deployed, PREFIX};
use crate::permissions::without_each_of;
use crate::support::texts;

/// The function of a user, in Python.
const RESTART: &str = "def handler(event, context):\n    return {'status': 'done'}\n";

/// What the stack names, beside the parameters of the others.
const CONSUMERS: [(&str, &str); 5] = [
    ("Consumers", r#"{"admin-token":[{"copy":"app"},{"function":"restart"}],"encryption-key":[{"ecs":"shop/api"}]}"#),
    ("ConsumedSecrets", "admin-token,encryption-key"),
    ("ConsumerSecretArns", "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/staging/app-??????"),
    ("ConsumerServiceArns", "arn:aws:ecs:us-east-1:000000000000:service/shop/api"),
    ("ConsumerFunctionArns", "arn:aws:lambda:us-east-1:000000000000:function:restart"),
];

/// What a delivery of one secret, or of all, says of each consumer and of each secret: its state, and why.
fn delivered(deployed: &mut Deployed, request: &Value) -> Vec<(String, String)> {
    let answer = deployed.invoke("DeliverFunction", request).unwrap_or_else(|error| panic!("{request}: {error}"));
    let mut found = vec![];
    for secret in answer["secrets"].as_array().unwrap() {
        let consumers = secret["consumers"].as_array().unwrap();
        for one in consumers.iter().chain([secret]) {
            found.push((
                one["state"].as_str().unwrap().to_owned(),
                one["reason"].as_str().unwrap_or_default().to_owned(),
            ));
        }
    }
    found
}

/// The consumers that the stack names.
fn make_consumers(deployed: &mut Deployed) {
    let hands = &mut deployed.hands;
    let app = json!({ "Name": format!("{PREFIX}app"), "SecretString": r#"{"DATABASE_URL": "postgresql://…"}"# });
    hands.root("secretsmanager", "create_secret", app);
    hands.root("ecs", "create_cluster", json!({ "clusterName": "shop" }));
    let containers = json!([{ "name": "api", "image": "api", "memory": 64 }]);
    let definition = json!({ "family": "api", "containerDefinitions": containers });
    hands.root("ecs", "register_task_definition", definition);
    let service = json!({ "cluster": "shop", "serviceName": "api", "taskDefinition": "api", "desiredCount": 0 });
    hands.root("ecs", "create_service", service);
    let trust = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": { "Service": "lambda.amazonaws.com" },
        "Action": "sts:AssumeRole",
    }]});
    let role = json!({ "RoleName": "restart", "AssumeRolePolicyDocument": trust.to_string() });
    hands.root("iam", "create_role", role);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("index.py"), RESTART).unwrap();
    let zip = hands.zip(folder.path());
    let function = json!({
        "FunctionName": "restart",
        "Runtime": "python3.12",
        "Handler": "index.handler",
        "Role": "arn:aws:iam::000000000000:role/restart",
        "Code": { "ZipFile": zip.base64 },
    });
    hands.root("lambda", "create_function", function);
}

/// Makes a delivery necessary: somebody removes the copy's members, and the token has another value.
fn make_undelivered(deployed: &mut Deployed) {
    // The label of a delivery has whole seconds: another one in the same second is left to the next run.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let token = uuid::Uuid::new_v4().simple().to_string().repeat(2);
    for (secret, value) in [("app", json!({ "LIMIT": 1 })), ("admin-token", json!({ "ADMIN_TOKEN": token }))] {
        let parameters = json!({ "SecretId": format!("{PREFIX}{secret}"), "SecretString": value.to_string() });
        deployed.hands.root("secretsmanager", "put_secret_value", parameters);
    }
}

/// Has the delivery of a secret begun an hour ago. Reads are eventually consistent, so `deliver` starts no deployment within a minute of
/// the label.
fn begin_an_hour_ago(deployed: &mut Deployed, secret: &str) {
    let current = deployed.stages(secret)["AWSCURRENT"].clone();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let label = format!("ROTATION-DELIVERING-{}", now - 3_600);
    let parameters = json!({ "SecretId": secret, "VersionStage": label, "MoveToVersionId": current });
    deployed.hands.root("secretsmanager", "update_secret_version_stage", parameters);
}

#[test]
fn deliveries_pass_with_their_role_and_with_nothing_less() {
    let mut deployed = Deployed::with(&CONSUMERS);
    make_consumers(&mut deployed);
    let policy = deployed.policy("DeliverRole");
    let [token, key] = ["admin-token", "encryption-key"].map(|name| json!({ "secret_id": format!("{PREFIX}{name}") }));
    // The copy, the function, and with them the secret.
    make_undelivered(&mut deployed);
    let states = delivered(&mut deployed, &token);
    assert!(states.iter().all(|(state, _)| state == "delivered"), "{states:?}");
    assert!(deployed.stages(&format!("{PREFIX}admin-token")).contains_key("ROTATION-DELIVERED"));
    // The service: the emulator never tells of a deployment.
    begin_an_hour_ago(&mut deployed, &format!("{PREFIX}encryption-key"));
    let states = delivered(&mut deployed, &key);
    assert!(states.iter().all(|(state, _)| state == "pending"), "{states:?}");
    assert!(states.iter().any(|(_, why)| why == "a deployment was started"), "{states:?}");
    println!("copy and function are delivered, the service is pending, with DeliverRole");
    let mut taken = vec![];
    for (sid, action, less) in without_each_of(&policy, &["secretsmanager:", "ecs:", "lambda:"]) {
        let request = if action.starts_with("ecs:") { &key } else { &token };
        if request == &token {
            make_undelivered(&mut deployed);
        }
        deployed.give("DeliverRole", &less);
        let states = delivered(&mut deployed, request);
        let refused = |why: &str| why.to_lowercase().contains("denied") || why.contains("is not authorized to perform");
        let denied = states.iter().any(|(_, why)| why.contains(&action) && refused(why));
        assert!(denied, "without {action} ({sid}): {states:?}");
        assert!(states.iter().all(|(state, _)| state != "delivered") || sid != "DeliveryLabels", "{states:?}");
        println!("without {action} ({sid}): {states:?}");
        taken.push(action);
    }
    deployed.give("DeliverRole", &policy);
    make_undelivered(&mut deployed);
    let states = delivered(&mut deployed, &token);
    assert!(states.iter().all(|(state, _)| state == "delivered"), "{states:?}");
    assert!(taken.len() >= 10 && taken.iter().any(|action| action == "ecs:UpdateService"), "{taken:?}");
}

#[test]
fn role_of_deliver_is_for_its_consumers_only() {
    let mut deployed = Deployed::with(&CONSUMERS);
    make_consumers(&mut deployed);
    let role = "arn:aws:iam::000000000000:role/DeliverRole";
    let other = json!({ "Name": format!("{PREFIX}database"), "SecretString": "{}" });
    deployed.hands.root("secretsmanager", "create_secret", other);
    let other = format!("{PREFIX}database");
    let token = format!("{PREFIX}admin-token");
    for (service, operation, parameters) in [
        ("secretsmanager", "get_secret_value", json!({ "SecretId": other })),
        ("secretsmanager", "put_secret_value", json!({ "SecretId": other, "SecretString": "{}" })),
        // What is delivered is read, and never written.
        ("secretsmanager", "put_secret_value", json!({ "SecretId": token, "SecretString": "{}" })),
        ("secretsmanager", "rotate_secret", json!({ "SecretId": token })),
        ("secretsmanager", "delete_secret", json!({ "SecretId": format!("{PREFIX}app") })),
        ("secretsmanager", "list_secrets", json!({})),
        ("ecs", "run_task", json!({ "cluster": "shop", "taskDefinition": "api" })),
        ("ecs", "delete_service", json!({ "cluster": "shop", "service": "api" })),
        ("ecs", "update_service", json!({ "cluster": "other", "service": "api", "forceNewDeployment": true })),
        ("lambda", "invoke", json!({ "FunctionName": "shop-staging-admin-token", "Payload": "{}" })),
        ("lambda", "list_functions", json!({})),
        ("iam", "list_roles", json!({})),
    ] {
        let answer = deployed.hands.call(Some(role), service, operation, parameters);
        let error = answer.expect_err(&format!("DeliverRole may {operation}"));
        assert!(error.starts_with("AccessDenied"), "{operation}: {error}");
        println!("DeliverRole: {service} {operation} is denied");
    }
    // What the role may do it may do here as well: the denials are the policy's.
    let described = deployed.hands.call(Some(role), "secretsmanager", "describe_secret", json!({ "SecretId": token }));
    assert!(texts(&described.unwrap()["Name"]).contains(&token.as_str()));
}
