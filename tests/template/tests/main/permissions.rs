//! The roles of the template, tried: an emulator that enforces IAM runs the functions that `sam build` made, with the variables and
//! the policies of the template. A rotation passes with its function's role; without any one of the role's actions on secrets it fails.
//!
//! The emulator knows no `secretsmanager:*` and no `cloudwatch:namespace` condition, and enforces no KMS. The first are put in another way
//! here, and asserted as they are in `policies.rs`; what is not tried has its reason in SECURITY.md. Its listing does not tell which function
//! rotates a secret, nor any time in the past, so that a sweep would find nothing to do: that is told by a relay before it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use template::{Stack, root, text};

use crate::deployed::{Deployed, PREFIX};
use crate::emulator::{Emulator, Hands};
use crate::policies::policies;
use crate::support::*;

/// The policy of a role, with what the emulator cannot judge put in another way: "secrets that this function rotates" becomes
/// the names of those secrets. The namespace of metrics is left out, and the labels that a statement allows. The emulator judges
/// requests to ECS by the cluster.
pub(crate) fn policy_of(stack: &Stack, role: &str) -> Value {
    let mut policy = policies(stack)[role].clone();
    for statement in policy["Statement"].as_array_mut().unwrap() {
        let condition = &statement["Condition"]["ArnEquals"]["secretsmanager:resource/AllowRotationLambdaArn"];
        let functions: Vec<String> = texts(condition).into_iter().map(str::to_owned).collect();
        if !functions.is_empty() {
            let kinds = functions.iter().map(|arn| arn.rsplit(&PREFIX.replace('/', "-")).next().unwrap().to_owned());
            let secrets =
                kinds.map(|kind| format!("arn:aws:secretsmanager:us-east-1:000000000000:secret:{PREFIX}{kind}-*"));
            statement["Resource"] = secrets.collect::<Vec<_>>().into();
        }
        let services: Vec<String> = texts(&statement["Resource"]).into_iter().map(str::to_owned).collect();
        if services.iter().any(|arn| arn.contains(":service/")) {
            let cluster = |arn: &String| arn.replace(":service/", ":cluster/").rsplit_once('/').unwrap().0.to_owned();
            statement["Resource"] = services.iter().map(cluster).collect::<Vec<_>>().into();
        }
    }
    without_conditions(policy)
}

/// The policy without the conditions that the emulator does not know.
fn without_conditions(mut policy: Value) -> Value {
    for statement in policy["Statement"].as_array_mut().unwrap() {
        let conditions = statement["Condition"].to_string();
        let unknown = ["secretsmanager:resource/", "secretsmanager:VersionStage", "cloudwatch:namespace"];
        // A denial that the emulator cannot judge denies nothing.
        if statement["Effect"] == "Allow" && unknown.iter().any(|key| conditions.contains(key)) {
            statement.as_object_mut().unwrap().remove("Condition");
        }
    }
    policy
}

/// Each action on secrets that a policy allows, with the statement that does, and the policy without it.
pub(crate) fn without_each(policy: &Value) -> Vec<(String, String, Value)> {
    without_each_of(policy, &["secretsmanager:"])
}

/// The same for each action of these services.
pub(crate) fn without_each_of(policy: &Value, services: &[&str]) -> Vec<(String, String, Value)> {
    let mut found = vec![];
    for (index, statement) in items(&policy["Statement"]).into_iter().enumerate() {
        let actions = texts(&statement["Action"]);
        let is_theirs = |action: &&&str| services.iter().any(|service| action.starts_with(service));
        for action in actions.iter().filter(is_theirs).filter(|_| statement["Effect"] == "Allow") {
            let left: Vec<&str> = actions.iter().copied().filter(|other| other != action).collect();
            let mut less = policy.clone();
            let statements = less["Statement"].as_array_mut().unwrap();
            if left.is_empty() {
                statements.remove(index);
            } else {
                statements[index]["Action"] = json!(left);
            }
            found.push((statement["Sid"].as_str().unwrap().to_owned(), (*action).to_owned(), less));
        }
    }
    assert!(!found.is_empty());
    found
}

#[test]
fn rotations_pass_with_their_roles_and_with_nothing_less() {
    let mut deployed = Deployed::new();
    for (function, kind, role) in deployed.rotating() {
        let (function, kind, role) = (function.as_str(), kind.as_str(), role.as_str());
        let policy = deployed.policy(role);
        deployed.rotate(kind, function).unwrap_or_else(|(step, error)| panic!("{kind}, {step}: {error}"));
        println!("{kind}: createSecret, setSecret, testSecret, finishSecret pass with {role}");
        for (sid, action, less) in without_each(&policy) {
            deployed.give(role, &less);
            let failed = deployed.rotate(kind, function);
            let (step, error) =
                failed.expect_err(&format!("{kind} rotates without {action} ({sid}): it is superfluous"));
            let expected = match sid.as_str() {
                "TokenOfTheApplication" => "CredentialUnavailable: ",
                "KeyArchive" => "ArchiveUnavailable: ",
                _ => "AccessDenied: ",
            };
            assert!(error.starts_with(expected) && error.contains(&action), "{kind} without {action}, {step}: {error}");
            println!("{kind} without {action} ({sid}): {step} fails, {}", error.split(": ").next().unwrap());
        }
        deployed.give(role, &policy);
        deployed.rotate(kind, function).unwrap_or_else(|(step, error)| panic!("{kind}, {step}: {error}"));
        println!("{kind}: passes again with all of them");

        // The role of a rotation function is for rotations under the prefix, and for nothing else: with its resources as they are written.
        deployed.give(role, &without_conditions(policies(&deployed.stack)[role].clone()));
        let elsewhere = format!("other/staging/{kind}");
        let parameters = json!({ "Name": elsewhere, "SecretString": "{}" });
        deployed.hands.root("secretsmanager", "create_secret", parameters);
        let version = deployed.begin(&elsewhere);
        let event = json!({ "Step": "createSecret", "SecretId": elsewhere, "ClientRequestToken": version });
        let error = deployed.invoke(function, &event).unwrap_err();
        assert!(error.starts_with("AccessDenied: "), "{error}");
        println!("{kind}: a secret outside of {PREFIX} is denied");
        let arn = format!("arn:aws:iam::000000000000:role/{role}");
        let own = format!("{PREFIX}{kind}");
        for (service, operation, parameters) in [
            ("secretsmanager", "delete_secret", json!({ "SecretId": own })),
            ("secretsmanager", "list_secrets", json!({})),
            ("secretsmanager", "tag_resource", json!({ "SecretId": own, "Tags": [{ "Key": "a", "Value": "b" }] })),
            ("secretsmanager", "put_resource_policy", json!({ "SecretId": own, "ResourcePolicy": "{}" })),
            ("secretsmanager", "rotate_secret", json!({ "SecretId": own })),
            ("secretsmanager", "create_secret", json!({ "Name": format!("{PREFIX}new"), "SecretString": "x" })),
            ("secretsmanager", "get_secret_value", json!({ "SecretId": elsewhere })),
            ("lambda", "list_functions", json!({})),
            ("iam", "list_roles", json!({})),
        ] {
            let answer = deployed.hands.call(Some(&arn), service, operation, parameters);
            let error = answer.expect_err(&format!("{role} may {operation}"));
            assert!(error.starts_with("AccessDenied"), "{role}, {operation}: {error}");
            println!("{role}: {service} {operation} is denied");
        }
        // What the role may do it may do here as well: the denials are the policy's.
        let parameters = json!({ "SecretId": own });
        deployed.hands.call(Some(&arn), "secretsmanager", "describe_secret", parameters).unwrap();
    }
}

/// A secret that no function rotates.
const BY_HAND: &str = "providers";

/// What is asked of whom, and the actions on secrets without which it is refused.
fn asked(secret: &str) -> [(&'static str, &'static str, Value, Vec<&'static str>); 8] {
    [
        (
            "OperateFunction",
            "OperateRole",
            json!({ "action": "status", "secret_id": secret }),
            vec!["DescribeSecret", "ListSecretVersionIds"],
        ),
        ("OperateFunction", "OperateRole", json!({ "action": "verify", "secret_id": secret }), vec!["GetSecretValue"]),
        (
            "OperateFunction",
            "OperateRole",
            json!({ "action": "abort", "secret_id": secret, "reason": "it is stuck" }),
            vec!["UpdateSecretVersionStage"],
        ),
        (
            "OperateFunction",
            "OperateRole",
            json!({ "action": "rollback", "secret_id": secret, "reason": "it does not work" }),
            vec!["PutSecretValue", "UpdateSecretVersionStage"],
        ),
        (
            "OperateFunction",
            "OperateRole",
            json!({ "action": "revoke", "secret_id": secret, "reason": "the overlap is over" }),
            vec!["PutSecretValue", "UpdateSecretVersionStage"],
        ),
        (
            "OperateFunction",
            "OperateRole",
            json!({ "action": "compromise", "secret_id": secret, "reason": "it leaked", "confirm": secret }),
            vec!["RotateSecret"],
        ),
        (
            "OperateFunction",
            "OperateRole",
            json!({ "action": "put", "secret_id": format!("{PREFIX}{BY_HAND}"), "reason": "new", "members": { "KEY": "new" } }),
            vec!["DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage", "TagResource"],
        ),
        (
            "SweepFunction",
            "SweepRole",
            json!({ "action": "sweep" }),
            vec!["ListSecrets", "DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"],
        ),
    ]
}

#[test]
fn operators_and_the_sweep_have_what_they_need_and_nothing_less() {
    let mut deployed = Deployed::new();
    let secret = format!("{PREFIX}admin-token");
    let by_hand = json!({ "Name": format!("{PREFIX}{BY_HAND}"), "SecretString": "{}" });
    deployed.hands.root("secretsmanager", "create_secret", by_hand);
    let asked = asked(&secret);
    let function = format!("arn:aws:lambda:us-east-1:000000000000:function:{}", deployed.name_of("AdminTokenFunction"));
    deployed.hands.list(&secret, &function);
    // Every action on secrets of both roles is taken away somewhere.
    for role in ["OperateRole", "SweepRole"] {
        let tried = asked.iter().filter(|(_, of, ..)| *of == role).flat_map(|(.., needs)| needs);
        let tried: BTreeSet<String> = tried.map(|need| format!("secretsmanager:{need}")).collect();
        let granted = without_each(&deployed.policy(role)).into_iter().map(|(_, action, _)| action);
        assert_eq!(granted.collect::<BTreeSet<_>>(), tried, "{role}");
    }
    for (function, role, request, needs) in asked {
        refused_without_each(&mut deployed, &secret, (function, role), &request, &needs);
        passes_with_all(&mut deployed, &secret, (function, role), &request);
    }
}

fn prepare(deployed: &mut Deployed, secret: &str, action: &str) {
    if action == "put" {
        let value = json!({ "SecretId": format!("{PREFIX}{BY_HAND}"), "SecretString": r#"{"KEY":"old"}"# });
        deployed.hands.root("secretsmanager", "put_secret_value", value);
    } else {
        deployed.prepare(secret, action);
    }
}

fn refused_without_each(
    deployed: &mut Deployed,
    secret: &str,
    (function, role): (&str, &str),
    request: &Value,
    needs: &[&str],
) {
    let action = request["action"].as_str().unwrap();
    let policy = deployed.policy(role);
    for need in needs {
        let need = format!("secretsmanager:{need}");
        // The archive of keys has a test of its own, with the rows that it is for.
        let without = without_each(&policy).into_iter();
        let without: Vec<_> = without.filter(|(sid, removed, _)| *removed == need && sid != "KeyArchive").collect();
        assert!(!without.is_empty(), "{role} has no {need} that could be taken away");
        for (sid, removed, less) in without {
            prepare(deployed, secret, action);
            deployed.give(role, &less);
            let error = match deployed.ask(function, request) {
                Err(error) => error,
                // A value is stored whether its date is recorded or not.
                Ok(answer) => format!("AccessDenied: {}", text(&answer["notRecorded"])),
            };
            let denied = error.starts_with("AccessDenied: ") && error.contains(&removed);
            assert!(denied, "{action} without {removed}: {error}");
            println!("{action} without {removed} ({sid}): {}", error.split(": ").next().unwrap());
        }
    }
}

fn passes_with_all(deployed: &mut Deployed, secret: &str, (function, role): (&str, &str), request: &Value) {
    let action = request["action"].as_str().unwrap();
    let policy = deployed.policy(role);
    prepare(deployed, secret, action);
    deployed.give(role, &policy);
    if action == "compromise" {
        // The emulator's rotation is a stub, which a compromise does not take for the end of one.
        return;
    }
    let answer = deployed.ask(function, request).unwrap_or_else(|error| panic!("{action}: {error}"));
    assert!(action != "sweep" || answer["revokedSecrets"] == json!([secret]), "{answer}");
    assert!(action != "put" || answer["done"].is_string() && answer["notRecorded"].is_null(), "{answer}");
    println!("{action}: passes with {role}");
    // Each deployment does its own actions only.
    let foreign = if function == "SweepFunction" {
        json!({ "action": "status", "secret_id": secret })
    } else {
        json!({ "action": "sweep" })
    };
    let error = deployed.invoke(function, &foreign).unwrap_err();
    assert!(error.starts_with("ActionNotAllowed: "), "{error}");
}

/// The policies as they are written: what the emulator does not know of them is no obstacle here.
#[test]
fn applications_read_and_ci_cd_writes_all_but_the_key_archive() {
    let emulator = Emulator::start();
    let (archive, other) = (format!("{PREFIX}key-archive"), format!("{PREFIX}database"));
    let mut hands = Hands::new(emulator.endpoint(), &other, "none");
    for name in [&archive, &other] {
        hands.root("secretsmanager", "create_secret", json!({ "Name": name, "SecretString": r#"{"keys":[]}"# }));
    }
    let parameters = [&LEAST[..], &[("DeletionAllowed", "true")]].concat();
    let policies = policies(&templates().resolve(&parameters, &BTreeMap::new()).unwrap());
    let trust = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": { "AWS": "arn:aws:iam::000000000000:root" },
        "Action": "sts:AssumeRole",
    }]});
    // The last one ends it.
    let writes = [
        ("put_secret_value", json!({ "SecretString": "{}" })),
        ("update_secret", json!({ "Description": "another" })),
        ("delete_secret", json!({ "RecoveryWindowInDays": 30 })),
    ];
    for (name, calls) in
        [("ApplicationReadPolicy", vec![("get_secret_value", json!({}))]), ("DeliveryPolicy", writes.into())]
    {
        hands.root("iam", "create_role", json!({ "RoleName": name, "AssumeRolePolicyDocument": trust.to_string() }));
        let role = format!("arn:aws:iam::000000000000:role/{name}");
        let give = |hands: &mut Hands, policy: &Value| {
            let parameters = json!({ "RoleName": name, "PolicyName": "given", "PolicyDocument": policy.to_string() });
            hands.root("iam", "put_role_policy", parameters);
        };
        let policy = &policies[name];
        let mut less = policy.clone();
        less["Statement"].as_array_mut().unwrap().retain(|statement| statement["Sid"] != "DenyKeyArchive");
        for (operation, parameters) in calls {
            let call = |hands: &mut Hands, secret: &str| {
                let mut parameters = parameters.clone();
                parameters["SecretId"] = json!(secret);
                hands.call(Some(&role), "secretsmanager", operation, parameters)
            };
            give(&mut hands, policy);
            let error = call(&mut hands, &archive).expect_err(&format!("{name} may {operation} the archive"));
            assert!(error.starts_with("AccessDenied"), "{name}, {operation}: {error}");
            // The denial is what denies it, and denies nothing else.
            call(&mut hands, &other).unwrap_or_else(|error| panic!("{name}, {operation}: {error}"));
            give(&mut hands, &less);
            call(&mut hands, &archive).unwrap_or_else(|error| panic!("{name}, {operation}: {error}"));
            println!("{name}: {operation} is denied on the archive of keys, and on it alone");
        }
    }
}

#[test]
fn every_permission_of_a_function_is_listed_with_its_reason() {
    let security = std::fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let mut listed = BTreeSet::new();
    for line in security.lines() {
        // | `action` | roles | needed by |
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", action, roles, reason, ""] = cells[..]
            && action.starts_with('`')
            && roles.contains("Role")
        {
            assert!(reason.len() > 10, "{line}");
            for action in action.split(", ") {
                for role in roles.split(", ") {
                    listed.insert((role.to_owned(), action.trim_matches('`').to_owned()));
                }
            }
        }
    }
    let stack = most();
    let policies = policies(&stack);
    let mut granted = BTreeSet::new();
    for role in [
        "AdminTokenRole",
        "EncryptionKeyRole",
        "IssuedCredentialRole",
        "OperateRole",
        "SweepRole",
        "DeliverRole",
        "ReencryptRole",
        "StateMachineRole",
    ] {
        for statement in items(&policies[role]["Statement"]).into_iter().filter(|one| one["Effect"] == "Allow") {
            granted.extend(texts(&statement["Action"]).into_iter().map(|action| (role.to_owned(), action.to_owned())));
        }
    }
    let missing: Vec<_> = granted.difference(&listed).collect();
    let superfluous: Vec<_> = listed.difference(&granted).collect();
    assert!(missing.is_empty(), "not in SECURITY.md: {missing:?}");
    assert!(superfluous.is_empty(), "in SECURITY.md, and granted to nobody: {superfluous:?}");
}
