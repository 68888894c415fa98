//! What the stack has for deliveries: parameters that fit together, what starts a delivery, and what the role of `deliver` may do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use deliver::settings::{Consumer, Settings};
use regex_lite::Regex;
use rotation::environment::Environment;
use rotation::keyring::KEY_SETTINGS;
use rotation::policy::StackPolicy;
use rotation::token::TOKEN_SETTINGS;
use serde_json::{Value, json};
use template::{MAIN, Stack, root, text};

use crate::policies::{policies, statements};
use crate::settings::variables;
use crate::support::*;

/// The least with these parameters.
fn least_with(parameters: &[(&str, &str)]) -> Result<Stack, String> {
    templates().resolve(&[&LEAST[..], parameters].concat(), &BTreeMap::new())
}

/// A parameter of [`MOST`].
fn most_has(name: &str) -> (&str, &'static str) {
    (name, MOST.into_iter().find(|(parameter, _)| *parameter == name).unwrap().1)
}

#[test]
fn consumers_need_their_names_and_arns_and_the_reverse() {
    let consumers = ["Consumers", "ConsumedSecrets"].map(most_has);
    for (parameters, says) in [
        (vec![consumers[0], most_has("ConsumerServiceArns")], "Consumers needs ConsumedSecrets"),
        (vec![consumers[1]], "ConsumedSecrets needs Consumers"),
        (consumers.to_vec(), "Consumers needs the ARNs"),
        (vec![most_has("ConsumerSecretArns")], "ConsumerSecretArns needs Consumers"),
        (vec![most_has("ConsumerServiceArns")], "ConsumerServiceArns needs Consumers"),
        (vec![most_has("ConsumerFunctionArns")], "ConsumerFunctionArns needs Consumers"),
    ] {
        let refused = least_with(&parameters).err().unwrap_or_else(|| panic!("{parameters:?} are accepted"));
        assert!(refused.contains(says), "{parameters:?}: {refused}");
    }
    for arns in ["ConsumerSecretArns", "ConsumerServiceArns", "ConsumerFunctionArns"] {
        least_with(&[&consumers[..], &[most_has(arns)]].concat()).unwrap();
    }
}

#[test]
fn nothing_of_deliveries_exists_without_consumers() {
    let least = least();
    assert!(!least.of_type("AWS::Serverless::Function").contains_key("DeliverFunction"));
    assert!(!least.of_type("AWS::IAM::Role").contains_key("DeliverRole"));
    assert!(!least.of_type("AWS::CloudWatch::Alarm").keys().any(|name| name.starts_with("Deliver")));
    for (name, function) in least.of_type("AWS::Serverless::Function") {
        assert!(!variables(function).contains_key("CONSUMED_SECRETS"), "{name}");
    }
}

#[test]
fn every_function_that_waits_for_deliveries_has_the_names() {
    let most = most();
    let with: BTreeSet<String> = most
        .of_type("AWS::Serverless::Function")
        .into_iter()
        .filter(|(_, function)| variables(function).contains_key("CONSUMED_SECRETS"))
        .map(|(name, _)| name.to_owned())
        .collect();
    let mut expected: BTreeSet<String> = rotation_functions(&most).into_keys().collect();
    expected.extend(["OperateFunction", "SweepFunction", "DeliverFunction"].map(str::to_owned));
    assert_eq!(with, expected);
}

#[test]
fn a_delivery_starts_by_the_hour_and_by_two_events() {
    let most = most();
    let function = most.of_type("AWS::Serverless::Function")["DeliverFunction"];
    let event = |name: &str| &function["Events"][name]["Properties"];
    assert_eq!(event("Hourly")["Schedule"], "rate(1 hour)");
    // Secrets Manager user guide, Secret Label Updated event.
    let pattern = &event("LabelMoved")["Pattern"];
    let example = json!({
        "detail-type": "Secret Label Updated",
        "source": "aws.secretsmanager",
        "resources": ["arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/production/admin-token-a1b2c3"],
        "detail": {
            "name": "shop/production/admin-token",
            "labelUpdated": "AWSCURRENT",
            "versionId": "a1b2c3d4-5678-90ab-cdef-EXAMPLE11111",
        },
    });
    assert!(matches(pattern, &example));
    for (member, other) in [("name", "shop/staging/admin-token"), ("labelUpdated", "ROTATION-DELIVERED")] {
        let mut other_event = example.clone();
        other_event["detail"][member] = json!(other);
        assert!(!matches(pattern, &other_event), "{other}");
    }
    // ECS developer guide, service deployment state change events.
    let pattern = &event("DeploymentEnded")["Pattern"];
    let of = |service: &str, name: &str| {
        json!({
            "detail-type": "ECS Deployment State Change",
            "source": "aws.ecs",
            "resources": [format!("arn:aws:ecs:us-east-1:000000000000:service/shop/{service}")],
            "detail": { "eventType": "INFO", "eventName": name, "deploymentId": "ecs-svc/123" },
        })
    };
    assert!(matches(pattern, &of("api", "SERVICE_DEPLOYMENT_COMPLETED")));
    assert!(matches(pattern, &of("api", "SERVICE_DEPLOYMENT_FAILED")));
    assert!(!matches(pattern, &of("api", "SERVICE_DEPLOYMENT_IN_PROGRESS")));
    assert!(!matches(pattern, &of("other", "SERVICE_DEPLOYMENT_COMPLETED")));
    // A repetition of a run is worth nothing: the next one does the same.
    assert_eq!(function["EventInvokeConfig"]["MaximumRetryAttempts"], 0);
    assert_eq!(event("DeploymentEnded")["State"], "ENABLED");
    let parameters = ["Consumers", "ConsumedSecrets", "ConsumerSecretArns"].map(most_has);
    let copies = least_with(&parameters).unwrap();
    let function = copies.of_type("AWS::Serverless::Function")["DeliverFunction"];
    assert_eq!(function["Events"]["DeploymentEnded"]["Properties"]["State"], "DISABLED");
}

/// Whether EventBridge hands an event to a rule, for the patterns that this stack has: texts that are equal, and prefixes.
fn matches(pattern: &Value, event: &Value) -> bool {
    match pattern {
        Value::Object(members) => members.iter().all(|(name, pattern)| matches(pattern, &event[name])),
        Value::Array(any) => items(event).into_iter().any(|value| {
            any.iter().any(|wanted| match wanted["prefix"].as_str() {
                Some(prefix) => value.as_str().is_some_and(|text| text.starts_with(prefix)),
                None => wanted == value,
            })
        }),
        _ => false,
    }
}

#[test]
fn events_go_to_a_topic_that_only_roles_publish_to() {
    let most = most();
    let topics = most.of_type("AWS::SNS::Topic");
    let topic = format!("arn:aws:sns:us-east-1:000000000000:{}", text(&topics["EventTopic"]["TopicName"]));
    let functions = most.of_type("AWS::Serverless::Function");
    let [deliver, sweep] = ["DeliverFunction", "SweepFunction"].map(|function| variables(functions[function]));
    assert_eq!((&deliver["EVENT_TOPIC_ARN"], &sweep["EVENT_TOPIC_ARN"]), (&topic, &topic));
    assert_eq!(most.outputs["EventTopic"], topic);
    let policy = &most.of_type("AWS::SNS::TopicPolicy")["EventTopicPolicy"]["PolicyDocument"]["Statement"];
    assert!(items(policy).into_iter().all(|statement| statement["Effect"] == "Deny"), "{policy}");
    let own = "arn:aws:sns:us-east-1:000000000000:events";
    let parameters = ["Consumers", "ConsumedSecrets", "ConsumerServiceArns"].map(most_has);
    let stack = least_with(&[&parameters[..], &[("EventTopicArn", own)]].concat()).unwrap();
    assert!(!stack.of_type("AWS::SNS::Topic").contains_key("EventTopic"));
    for role in ["DeliverRole", "SweepRole"] {
        let policy = policies(&stack)[role].clone();
        let publish = statements(&policy).into_iter().find(|statement| statement["Action"] == "sns:Publish").unwrap();
        assert!(texts(&publish["Resource"]).contains(&own), "{role}");
    }
}

/// The parameters of each block in TOML of a page, as `sam` reads them from `samconfig.toml`.
fn shown_parameters(page: &str) -> Vec<Vec<(String, String)>> {
    const READ: &str = "
import json, sys, tomllib
from samcli.cli.types import CfnParameterOverridesType
for block in json.load(sys.stdin):
    values = tomllib.loads('a = [' + block + ']')['a']
    print(json.dumps([list(CfnParameterOverridesType().convert((value,), None, None).items())[0] for value in values]))
";
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let (mut blocks, mut block) = (vec![], None::<String>);
    for line in text.lines() {
        match (&mut block, line.trim()) {
            (None, "```toml") => block = Some(String::new()),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(block), _) => block.extend([line, "\n"]),
            (None, _) => {}
        }
    }
    let mut python = template::tool("python").unwrap();
    python.args(["-c", READ]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    serde_json::to_writer(python.stdin.take().unwrap(), &blocks).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn documents_show_parameters_that_the_stack_accepts() {
    let shown: Vec<_> =
        ["infra/CONSUMERS.md", "infra/ADOPT-LAYOUTS.md"].into_iter().flat_map(shown_parameters).collect();
    let mut delivering = 0;
    for shown in &shown {
        let mut parameters: BTreeMap<&str, &str> = LEAST.into_iter().collect();
        parameters.insert("Environment", "production");
        parameters.extend(shown.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        for (name, value) in &parameters {
            let declared = &templates().written(MAIN)["Parameters"][*name];
            if let Some(pattern) = declared["AllowedPattern"].as_str() {
                assert!(Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(value), "{name}={value}");
            }
        }
        let stack = templates().resolve(&parameters.into_iter().collect::<Vec<_>>(), &BTreeMap::new());
        let stack = stack.unwrap_or_else(|refused| panic!("{shown:?}: {refused}"));
        if let Some(function) = stack.of_type("AWS::Serverless::Function").get("DeliverFunction") {
            assert_accepted(&stack, function);
            delivering += 1;
        }
    }
    assert_eq!((shown.len(), delivering), (6, 4));
}

/// Whether `deliver` accepts the variables of its function, and its role may reach all of its consumers.
fn assert_accepted(stack: &Stack, function: &Value) {
    let environment: Environment = variables(function).into_iter().collect();
    StackPolicy::from_environment(&environment, &[TOKEN_SETTINGS, KEY_SETTINGS].concat()).unwrap();
    let settings = Settings::from_environment(&environment).unwrap();
    let role = policies(stack)["DeliverRole"].clone();
    let reach = |sid: &str| -> Vec<String> {
        let allowing = statements(&role).into_iter().find(|statement| statement["Sid"] == sid);
        allowing.into_iter().flat_map(|one| texts(&one["Resource"])).map(str::to_owned).collect()
    };
    for consumer in settings.consumers.secrets().flat_map(|(_, consumers)| consumers) {
        let (sid, pattern) = match consumer {
            Consumer::Copy { target } => ("Copies", format!(":secret:{target}-")),
            Consumer::Ecs { cluster, service } => ("RedeployWithoutChange", format!(":service/{cluster}/{service}")),
            Consumer::Function { function } => ("Functions", format!(":function:{function}")),
        };
        assert!(reach(sid).iter().any(|arn| arn.contains(&pattern)), "{consumer}: {:?}", reach(sid));
    }
}

#[test]
fn deliver_accepts_its_variables() {
    let most = most();
    assert_accepted(&most, most.of_type("AWS::Serverless::Function")["DeliverFunction"]);
}

/// A request to AWS: who makes it, with the keys that the service hands to IAM.
pub(crate) struct Request<'a> {
    pub(crate) role: &'a str,
    pub(crate) action: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) keys: Value,
}

/// What IAM says to the requests, by the evaluator of the emulator, which we did not write: `Allow`, `Deny` or `ImplicitDeny`.
fn judged(policies: &BTreeMap<String, Value>, requests: &[Request<'_>]) -> Vec<String> {
    let python = root().join("target/emulator-tools/bin/python");
    assert!(python.is_file(), "ministack is missing: `cargo verify` installs it into target/emulator-tools");
    let mut command = Command::new(python);
    command.arg("-B").arg(root().join("tests/template/tests/main/judge.py")).env_clear();
    let mut judge = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut questions = judge.stdin.take().unwrap();
    for request in requests {
        let policy = &policies[request.role];
        let question =
            json!({ "policy": policy, "action": request.action, "resource": request.resource, "keys": request.keys });
        writeln!(questions, "{question}").unwrap();
    }
    drop(questions);
    let output = judge.wait_with_output().unwrap();
    assert!(output.status.success());
    let decisions: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(decisions.len(), requests.len());
    decisions
}

pub(crate) const ALLOWED: bool = true;
pub(crate) const REFUSED: bool = false;

/// Asserts what each request gets.
pub(crate) fn assert_judged(policies: &BTreeMap<String, Value>, asked: Vec<(Request<'_>, bool)>) {
    let (requests, expected): (Vec<Request<'_>>, Vec<bool>) = asked.into_iter().unzip();
    let decisions = judged(policies, &requests);
    for ((request, expected), decision) in requests.iter().zip(expected).zip(&decisions) {
        let Request { role, action, resource, keys } = request;
        assert_eq!(decision == "Allow", expected, "{role}, {action} on {resource} with {keys}: {decision}");
    }
}

const ROTATED: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/production/admin-token-AbCdEf";
const TARGET: &str = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/production/app-AbCdEf";
const SERVICE: &str = "arn:aws:ecs:us-east-1:000000000000:service/shop/api";

/// The keys of a request that moves a label of a secret.
fn label(stage: &str, rotated_by: Option<&str>) -> Value {
    let by = rotated_by.map(|function| function_arn(&format!("shop-production-{function}")));
    let mut keys = json!({ "secretsmanager:versionstage": stage });
    keys.as_object_mut()
        .unwrap()
        .extend(by.map(|by| ("secretsmanager:resource/allowrotationlambdaarn".to_owned(), json!(by))));
    keys
}

#[test]
fn deliver_moves_its_own_labels_and_promotes_copies_only() {
    let policies = policies(&most());
    let moves = |resource, stage: &str, by| Request {
        role: "DeliverRole",
        action: "secretsmanager:UpdateSecretVersionStage",
        resource,
        keys: label(stage, by),
    };
    let token = Some("admin-token");
    assert_judged(
        &policies,
        vec![
            (moves(ROTATED, "ROTATION-DELIVERED", token), ALLOWED),
            (moves(ROTATED, "ROTATION-DELIVERING-1790000000", token), ALLOWED),
            (moves(ROTATED, "AWSCURRENT", token), REFUSED),
            (moves(ROTATED, "AWSPENDING", token), REFUSED),
            (moves(ROTATED, "ROTATION-COMPROMISED-1790000000", token), REFUSED),
            (moves(ROTATED, "ROTATION-DELIVERED", Some("another")), REFUSED),
            (moves(ROTATED, "ROTATION-DELIVERED", None), REFUSED),
            (moves(TARGET, "AWSCURRENT", None), ALLOWED),
            // A copy that lost against an edit leaves no label behind.
            (moves(TARGET, "ROTATION-COPY-0a1b2c3d", None), ALLOWED),
            (moves(ROTATED, "ROTATION-COPY-0a1b2c3d", token), REFUSED),
            (moves(TARGET, "ROTATION-DELIVERED", None), REFUSED),
            (moves(TARGET, "ROTATION-RING", None), REFUSED),
        ],
    );
}

#[test]
fn nobody_else_says_what_is_delivered() {
    let policies = policies(&most());
    let mut asked = vec![];
    for (role, by) in [
        ("AdminTokenRole", "admin-token"),
        ("EncryptionKeyRole", "encryption-key"),
        ("IssuedCredentialRole", "issued-credential"),
        ("OperateRole", "admin-token"),
        ("SweepRole", "encryption-key"),
    ] {
        let moves = |stage: &str| Request {
            role,
            action: "secretsmanager:UpdateSecretVersionStage",
            resource: ROTATED,
            keys: label(stage, Some(by)),
        };
        asked.extend([
            (moves("AWSCURRENT"), ALLOWED),
            (moves("ROTATION-RESTORE-1"), ALLOWED),
            (moves("ROTATION-DELIVERED"), REFUSED),
            (moves("ROTATION-DELIVERING-1790000000"), REFUSED),
        ]);
    }
    assert_judged(&policies, asked);
    let may: BTreeSet<&str> = policies
        .iter()
        .filter(|(_, document)| {
            items(&document["Statement"]).into_iter().any(|statement| {
                statement["Effect"] == "Allow"
                    && texts(&statement["Action"]).contains(&"secretsmanager:UpdateSecretVersionStage")
            })
        })
        .map(|(name, _)| name.as_str())
        .collect();
    // Break-glass moves every label by hand.
    let expected = [
        "AdminTokenRole",
        "BreakGlassRole",
        "DeliverRole",
        "EncryptionKeyRole",
        "IssuedCredentialRole",
        "OperateRole",
        "SweepRole",
    ];
    assert_eq!(may, expected.into());
}

#[test]
fn deliver_redeploys_a_service_and_changes_nothing_of_it() {
    let policies = policies(&most());
    let updates = |resource, keys| Request { role: "DeliverRole", action: "ecs:UpdateService", resource, keys };
    let mut asked = vec![
        (updates(SERVICE, json!({})), ALLOWED),
        (updates(SERVICE, json!({ "ecs:cluster": "arn:aws:ecs:us-east-1:000000000000:cluster/shop" })), ALLOWED),
        (updates("arn:aws:ecs:us-east-1:000000000000:service/shop/other", json!({})), REFUSED),
        (updates("arn:aws:ecs:us-east-1:000000000000:service/other/api", json!({})), REFUSED),
    ];
    for (key, value) in [
        ("ecs:task-definition", json!("arn:aws:ecs:us-east-1:000000000000:task-definition/evil:1")),
        ("ecs:enable-execute-command", json!("true")),
        ("ecs:subnet", json!(["subnet-01234567", "subnet-89abcdef"])),
        ("ecs:auto-assign-public-ip", json!("true")),
        ("ecs:capacity-provider", json!(["arn:aws:ecs:us-east-1:000000000000:capacity-provider/FARGATE_SPOT"])),
        ("ecs:enable-ebs-volumes", json!("true")),
        ("ecs:enable-service-connect", json!("true")),
        ("ecs:enable-vpc-lattice", json!("true")),
        ("ecs:namespace", json!("arn:aws:servicediscovery:us-east-1:000000000000:namespace/ns-1")),
    ] {
        asked.push((updates(SERVICE, json!({ key: value })), REFUSED));
    }
    assert_judged(&policies, asked);
}

#[test]
fn deliver_invokes_your_functions_and_none_of_the_stack() {
    // Even if the stack names one of its own as a consumer.
    let own =
        [function_arn("shop-production-admin-token"), function_arn("shop-production-operate") + ":live"].join(",");
    let mut parameters: BTreeMap<&str, &str> = MOST.into_iter().collect();
    let named = [function_arn("restart-pods"), own].join(",");
    parameters.insert("ConsumerFunctionArns", &named);
    let stack = templates().resolve(&parameters.into_iter().collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
    let policies = policies(&stack);
    let arns =
        ["restart-pods", "another", "shop-production-admin-token", "shop-production-operate:live"].map(function_arn);
    let asked = arns.iter().enumerate().map(|(index, arn)| {
        let request = Request { role: "DeliverRole", action: "lambda:InvokeFunction", resource: arn, keys: json!({}) };
        (request, index == 0)
    });
    assert_judged(&policies, asked.collect());
}

#[test]
fn the_issuer_is_asked_and_no_other_function() {
    for (named, allowed) in [("issuer:live", ALLOWED), ("shop-production-encryption-key", REFUSED)] {
        let mut parameters: BTreeMap<&str, &str> = MOST.into_iter().collect();
        let issuer = function_arn(named);
        parameters.insert("IssuerFunctionArn", &issuer);
        let stack = templates().resolve(&parameters.into_iter().collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
        let others = ["issuer", "issuer:other", "another", "shop-production-admin-token"].map(function_arn);
        let mut asked = vec![];
        for role in ["IssuedCredentialRole", "SweepRole"] {
            let invokes = |resource| Request { role, action: "lambda:InvokeFunction", resource, keys: json!({}) };
            // Even if the stack names one of its own as the issuer.
            asked.push((invokes(issuer.as_str()), allowed));
            asked.extend(others.iter().map(|other| (invokes(other.as_str()), REFUSED)));
        }
        assert_judged(&policies(&stack), asked);
    }
}
