//! Who may do what: what no tool knows of.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;
use serde_json::{Value, json};
use template::{ACCOUNT, MAIN, REGION, Stack, root, text};

use crate::support::*;

mod operators;

/// Every identity-based policy of the stack, with everything switched off and on, by name.
pub(crate) fn documents() -> BTreeMap<String, Value> {
    let mut documents = BTreeMap::new();
    for (which, stack) in [("least", least()), ("most", most())] {
        documents.extend(policies(&stack).into_iter().map(|(name, document)| (format!("{which}-{name}"), document)));
    }
    assert!(documents.len() > 16, "{:?}", documents.keys());
    documents
}

/// The identity-based policies of a stack, by the role or the managed policy.
pub(crate) fn policies(stack: &Stack) -> BTreeMap<String, Value> {
    let roles = stack.of_type("AWS::IAM::Role").into_iter().flat_map(|(name, role)| {
        let documents = items(&role["Policies"]).into_iter().map(|policy| policy["PolicyDocument"].clone());
        documents.map(move |document| (name.to_owned(), document)).collect::<Vec<_>>()
    });
    let managed = stack.of_type("AWS::IAM::ManagedPolicy").into_iter();
    roles.chain(managed.map(|(name, policy)| (name.to_owned(), policy["PolicyDocument"].clone()))).collect()
}

pub(crate) fn statements(document: &Value) -> Vec<&Value> {
    items(&document["Statement"])
}

fn allows(statement: &Value) -> bool {
    statement["Effect"] == "Allow"
}

/// Permissions that name no resource, by statement, and why they cannot.
const EVERY_RESOURCE: [(&str, &str); 6] = [
    ("Metrics", "PutMetricData has no resources; the namespace is a condition"),
    ("Traces", "X-Ray has no resources"),
    ("LogDelivery", "the delivery of a state machine's log has no resources"),
    ("List", "ListSecrets has no resources; it tells names and dates, no value"),
    ("AccountLimits", "GetAccountSettings has no resources; it tells quotas"),
    ("NetworkOfLambda", "Lambda asks for these actions on every resource, and the function's code is denied them"),
];

#[test]
fn no_permission_is_on_every_resource_without_a_reason() {
    let mut used = BTreeSet::new();
    for (name, document) in documents() {
        for statement in statements(&document).into_iter().filter(|statement| allows(statement)) {
            let sid = statement["Sid"].as_str().unwrap();
            let actions = texts(&statement["Action"]);
            assert!(!actions.is_empty() && statement["NotAction"].is_null() && statement["NotResource"].is_null());
            assert!(actions.iter().all(|action| !action.contains('*')), "{name}, {sid}: {actions:?}");
            for resource in texts(&statement["Resource"]) {
                if resource == "*" {
                    assert!(EVERY_RESOURCE.iter().any(|(known, _)| *known == sid), "{name}, {sid}");
                    used.insert(sid.to_owned());
                } else {
                    let everything = ["secret:*", "function:*", "log-group:*", ":*:*:"];
                    assert!(!everything.iter().any(|end| resource.ends_with(end)), "{name}, {sid}: {resource}");
                }
            }
        }
    }
    assert_eq!(used.len(), EVERY_RESOURCE.len(), "{used:?}");
}

#[test]
fn policies_fit_into_what_iam_takes() {
    for (name, document) in documents() {
        // A managed policy holds 6,144 characters, the inline policies of a role 10,240 (IAM quotas).
        let characters = document.to_string().len();
        assert!(characters < 6_144, "{name}: {characters} characters");
    }
}

#[test]
fn metrics_are_published_in_one_namespace_only() {
    for (name, document) in documents() {
        for statement in statements(&document) {
            if texts(&statement["Action"]).contains(&"cloudwatch:PutMetricData") {
                let namespace = &statement["Condition"]["StringEquals"]["cloudwatch:namespace"];
                assert_eq!(namespace, "SecretRotation", "{name}");
            }
        }
    }
}

#[test]
fn values_are_accessed_only_where_a_function_rotates_them() {
    let sensitive = [
        "secretsmanager:GetSecretValue",
        "secretsmanager:PutSecretValue",
        "secretsmanager:UpdateSecretVersionStage",
        "secretsmanager:RotateSecret",
    ];
    for (environment, stack) in [("staging", least()), ("production", most())] {
        let policies = policies(&stack);
        // Where no application is asked, nobody needs its token.
        let token = statements(&policies["EncryptionKeyRole"]).into_iter();
        let token = token.filter(|statement| statement["Sid"] == "TokenOfTheApplication").count();
        assert_eq!(token, usize::from(environment == "production"));
        let rotating = rotation_functions(&stack);
        for (resource, function) in stack.of_type("AWS::Serverless::Function") {
            let role = &role_of(function);
            for statement in statements(&policies[role]).into_iter().filter(|statement| allows(statement)) {
                if !texts(&statement["Action"]).iter().any(|action| sensitive.contains(action)) {
                    continue;
                }
                let prefix = format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:shop/{environment}/");
                for resource in texts(&statement["Resource"]) {
                    assert!(resource.starts_with(&prefix), "{role}: {resource}");
                }
                if statement["Sid"] == "TokenOfTheApplication" {
                    // One secret, and reading alone.
                    assert_eq!(texts(&statement["Action"]), ["secretsmanager:GetSecretValue"]);
                    assert_eq!(statement["Resource"], format!("{prefix}admin-token-AbCdEf"));
                    continue;
                }
                if role == "ReencryptRole" {
                    // Two secrets, and reading alone.
                    let secret = if statement["Sid"] == "Keyring" { "encryption-key" } else { "database" };
                    let reads = ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"];
                    assert!(texts(&statement["Action"]).iter().all(|action| reads.contains(action)), "{statement}");
                    assert_eq!(statement["Resource"], format!("{prefix}{secret}-AbCdEf"));
                    continue;
                }
                if ["Copies", "CopiesBecomeCurrent"].contains(&text(&statement["Sid"]).as_str()) {
                    // The secrets that the stack names as copies.
                    assert_eq!((role.as_str(), environment), ("DeliverRole", "production"));
                    assert_eq!(texts(&statement["Resource"]), [format!("{prefix}app-AbCdEf")]);
                    continue;
                }
                if statement["Sid"] == "KeyArchive" {
                    // One secret, which nothing rotates.
                    assert_eq!(statement["Resource"], format!("{prefix}key-archive-AbCdEf"));
                    continue;
                }
                // Its own secrets alone, for a rotation function.
                let expected: BTreeSet<String> = match rotating.get(resource) {
                    Some(own) => [function_arn(own)].into(),
                    None => rotating.values().map(|name| function_arn(name)).collect(),
                };
                assert_eq!(rotated_by(role, statement), expected, "{role}");
            }
        }
    }
}

/// The functions one of which has to rotate a secret so that the statement is on it. operate also stores what people rotate, in secrets
/// without a function.
fn rotated_by(role: &str, statement: &Value) -> BTreeSet<String> {
    let how = match statement["Sid"].as_str() {
        Some("SecretsOfNoOtherFunction") if role == "OperateRole" => "ArnEqualsIfExists",
        _ => "ArnEquals",
    };
    let by = &statement["Condition"][how]["secretsmanager:resource/AllowRotationLambdaArn"];
    texts(by).into_iter().map(str::to_owned).collect()
}

#[test]
fn keys_are_used_through_a_service_and_for_named_things_only() {
    let mut seen = 0;
    for (name, document) in documents() {
        for statement in statements(&document).into_iter().filter(|statement| allows(statement)) {
            let actions = texts(&statement["Action"]);
            if !actions.iter().any(|action| action.starts_with("kms:")) {
                continue;
            }
            seen += 1;
            assert!(actions.iter().all(|action| ["kms:Decrypt", "kms:GenerateDataKey"].contains(action)), "{name}");
            match statement["Condition"]["StringEquals"]["kms:ViaService"].as_str().unwrap() {
                "secretsmanager.us-east-1.amazonaws.com" => {
                    let secret = ["StringLike", "StringEquals"]
                        .into_iter()
                        .find_map(|how| statement["Condition"][how]["kms:EncryptionContext:SecretARN"].as_str());
                    assert!(secret.unwrap().contains(":secret:shop/"), "{name}");
                }
                // The sweep, deliver and the state machine alone send messages.
                via => {
                    assert_eq!(via, "sns.us-east-1.amazonaws.com", "{name}");
                    let senders = ["-SweepRole", "-DeliverRole", "-StateMachineRole"];
                    assert!(senders.iter().any(|sender| name.ends_with(sender)), "{name}");
                }
            }
        }
    }
    assert!(seen > 10);
}

#[test]
fn invokers_of_a_rotation_function_write_no_pending_version() {
    // SECURITY.md: who may do both can promote a value of their own. operate is the one exception: it has no such action.
    // The others that invoke functions of the user's are denied those of the stack.
    for (name, document) in documents() {
        let granted: Vec<&str> = statements(&document)
            .into_iter()
            .filter(|statement| allows(statement))
            .flat_map(|statement| texts(&statement["Action"]))
            .collect();
        let both = granted.contains(&"lambda:InvokeFunction") && granted.contains(&"secretsmanager:PutSecretValue");
        let denied = ["most-DeliverRole", "most-IssuedCredentialRole", "most-SweepRole"];
        let expected = [&["least-OperateRole", "most-OperateRole"], &denied[..]].concat();
        assert_eq!(both, expected.contains(&name.as_str()), "{name}");
        if denied.contains(&name.as_str()) {
            assert_denied_functions_of_the_stack(&name, &document);
        }
    }
}

fn assert_denied_functions_of_the_stack(role: &str, document: &Value) {
    let denials = speaking_of(document, "lambda:InvokeFunction").into_iter().filter(|one| !allows(one));
    let denials = denials.filter(|one| one["Condition"].is_null());
    let patterns: Vec<&str> = denials.flat_map(|one| texts(&one["Resource"])).collect();
    for function in most().of_type("AWS::Serverless::Function").into_values() {
        let arn = function_arn(&text(&function["FunctionName"]));
        for arn in [arn.clone(), format!("{arn}:live")] {
            assert!(patterns.iter().any(|pattern| names(pattern, &arn)), "{role}: {arn}");
        }
    }
    assert!(!patterns.iter().any(|pattern| names(pattern, &function_arn("shop-production-issuer"))), "{role}");
}

#[test]
fn applications_read_ci_cd_writes_and_neither_does_more() {
    let actions = |document: &Value, effect: &str| -> BTreeSet<String> {
        let of = statements(document).into_iter().filter(|statement| statement["Effect"] == effect);
        of.flat_map(|statement| texts(&statement["Action"])).map(str::to_owned).collect()
    };
    let set = |actions: &[&str]| actions.iter().map(|action| (*action).to_owned()).collect::<BTreeSet<_>>();
    let (least, most) = (policies(&least()), policies(&most()));
    let reads = ["kms:Decrypt", "secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"];
    assert_eq!(actions(&least["ApplicationReadPolicy"], "Allow"), set(&reads));
    let stages = statements(&least["ApplicationReadPolicy"])
        .into_iter()
        .find(|statement| statement["Sid"] == "ReadTheStagesThatAreInUse")
        .unwrap()["Condition"]["ForAnyValue:StringEqualsIfExists"]["secretsmanager:VersionStage"]
        .clone();
    assert_eq!(texts(&stages), ["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"]);

    let writes = [
        "kms:Decrypt",
        "kms:GenerateDataKey",
        "secretsmanager:CreateSecret",
        "secretsmanager:DescribeSecret",
        "secretsmanager:PutSecretValue",
        "secretsmanager:TagResource",
        "secretsmanager:UntagResource",
        "secretsmanager:UpdateSecret",
    ];
    // Without the parameter, as in production, deletion is not only missing but denied.
    assert_eq!(actions(&least["DeliveryPolicy"], "Allow"), set(&writes));
    assert!(actions(&least["DeliveryPolicy"], "Deny").contains("secretsmanager:DeleteSecret"));
    let deletes = actions(&most["DeliveryPolicy"], "Allow");
    assert_eq!(deletes.difference(&set(&writes)).collect::<Vec<_>>(), ["secretsmanager:DeleteSecret"]);
    for denied in ["lambda:InvokeFunction", "secretsmanager:TagResource"] {
        assert!(actions(&most["DeliveryPolicy"], "Deny").contains(denied), "{denied}");
    }
}

/// The statements of a policy that speak of an action.
fn speaking_of<'a>(document: &'a Value, action: &str) -> Vec<&'a Value> {
    let of = statements(document).into_iter();
    of.filter(|statement| texts(&statement["Action"]).contains(&action)).collect()
}

#[test]
fn a_deletion_can_be_regretted() {
    // The request that names no ForceDeleteWithoutRecovery is the common one, and has no such key: Bool "false" would not match it.
    for (name, stack) in [("DenyDeletion", least()), ("DeleteWithTimeToRegret", most())] {
        let policy = &policies(&stack)["DeliveryPolicy"];
        let deletes = speaking_of(policy, "secretsmanager:DeleteSecret");
        let statements: Vec<_> = deletes.iter().map(|one| text(&one["Sid"])).collect();
        assert_eq!(statements, [name, "DenyDeletionForGood", "DenyKeyArchive"]);
        assert!(deletes[0]["Condition"].is_null(), "{name}");
        assert_eq!(deletes[1]["Effect"], "Deny");
        let condition = json!({ "Bool": { "secretsmanager:ForceDeleteWithoutRecovery": "true" } });
        assert_eq!(deletes[1]["Condition"], condition);
    }
}

#[test]
fn who_rotates_cannot_choose_another_function() {
    let key = "secretsmanager:RotationLambdaARN";
    for (environment, stack) in [("staging", least()), ("production", most())] {
        let policies = policies(&stack);
        let mut rotating = vec![];
        for (name, document) in &policies {
            for statement in speaking_of(document, "secretsmanager:RotateSecret").into_iter().filter(|one| allows(one))
            {
                rotating.push(name.as_str());
                assert_eq!(
                    texts(&statement["Action"]),
                    ["secretsmanager:RotateSecret"],
                    "{name}: its condition is for it alone"
                );
            }
        }
        assert_eq!(rotating, ["OperateRole", "OperatorPolicy"]);
        // With the one that is there, and with no other: a token function would destroy a keyring.
        let functions: BTreeSet<String> = rotation_functions(&stack).values().map(|name| function_arn(name)).collect();
        for name in ["OperateRole", "OperatorPolicy"] {
            let condition = &speaking_of(&policies[name], "secretsmanager:RotateSecret")[0]["Condition"];
            assert_eq!(condition["Null"][key], "true", "{name}");
            let by = texts(&condition["ArnEquals"]["secretsmanager:resource/AllowRotationLambdaArn"]);
            assert_eq!(by.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), functions, "{environment}: {name}");
            assert_eq!(condition.as_object().unwrap().len(), 2, "{name}");
        }
    }
    let mut requests = String::new();
    crate::settings::rust_sources(&root().join("functions/operate/src"), &mut requests);
    crate::settings::rust_sources(&root().join("shared/src"), &mut requests);
    assert!(
        requests.contains(".rotate_secret()") && !requests.contains("rotation_lambda_arn("),
        "operate names a function"
    );
}

#[test]
fn rotation_tags_are_for_named_principals() {
    let (least, most) = (least(), most());
    let guard = |stack: &Stack| statements(&policies(stack)["RotationTagGuardPolicy"])[0]["Condition"].clone();
    assert_eq!(guard(&least)["ForAnyValue:StringLike"]["aws:TagKeys"], "rotation:*");
    // Nobody is named: it holds for everybody.
    assert!(guard(&least)["ArnNotLike"].as_object().is_none_or(serde_json::Map::is_empty));
    let named = ["arn:aws:iam::000000000000:role/platform", "arn:aws:iam::000000000000:role/deploy"];
    assert_eq!(texts(&guard(&most)["ArnNotLike"]["aws:PrincipalArn"]), named);
    for (name, policy) in most.of_type("AWS::SecretsManager::ResourcePolicy") {
        let tags = statements(&policy["ResourcePolicy"])[1].clone();
        assert_eq!(tags["Effect"], "Deny", "{name}");
        // put records in a secret's tags when a value was stored. Nobody stores one in the archive of keys.
        let operate = (name != "KeyArchivePolicy").then(|| format!("arn:aws:iam::{ACCOUNT}:role/OperateRole"));
        let expected: Vec<&str> = named.into_iter().chain(operate.as_deref()).collect();
        assert_eq!(texts(&tags["Condition"]["ArnNotLike"]["aws:PrincipalArn"]), expected, "{name}");
    }
}

#[test]
fn iam_users_cannot_read_and_nobody_is_locked_out() {
    let written = std::fs::read_to_string(root().join("infra/secret-resource-policy.json")).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    let stack = least();
    let policies = stack.of_type("AWS::SecretsManager::ResourcePolicy");
    assert_eq!(policies.len(), stack.of_type("AWS::SecretsManager::Secret").len());
    for (name, policy) in policies {
        assert_eq!(policy["BlockPublicPolicy"], true, "{name}");
        // What is attached to adopted secrets is what the stack's own have.
        assert_eq!(policy["ResourcePolicy"], written, "{name}");
    }
    for statement in statements(&written) {
        let users = texts(&statement["Condition"]["ArnLike"]["aws:PrincipalArn"]);
        assert_eq!(users, ["arn:*:iam::*:user/*", "arn:*:sts::*:federated-user/*"]);
    }
}

#[test]
fn the_secrets_key_serves_nothing_but_secrets_manager() {
    let stack = least();
    let key = stack.of_type("AWS::KMS::Key")["SecretsKey"];
    let deny = statements(&key["KeyPolicy"]).into_iter().find(|statement| statement["Effect"] == "Deny").unwrap();
    assert_eq!(deny["Principal"]["AWS"], "*");
    for action in ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"] {
        assert!(texts(&deny["Action"]).contains(&action), "{action}");
    }
    let via = &deny["Condition"]["StringNotEquals"]["kms:ViaService"];
    assert_eq!(via, "secretsmanager.us-east-1.amazonaws.com");
    for (name, key) in stack.of_type("AWS::KMS::Key") {
        assert_eq!(key["EnableKeyRotation"], true, "{name}");
        let services = statements(&key["KeyPolicy"]).into_iter().filter(|statement| allows(statement));
        for statement in services.filter(|statement| statement["Principal"]["AWS"].is_string()) {
            assert_eq!(statement["Principal"]["AWS"], format!("arn:aws:iam::{ACCOUNT}:root"), "{name}");
        }
    }
}

#[test]
fn the_archive_of_keys_has_a_key_that_nobody_else_may_use() {
    let stack = most();
    let archive = stack.of_type("AWS::SecretsManager::Secret")["KeyArchiveSecret"];
    let key = "arn:aws:kms:us-east-1:000000000000:key/KeyArchiveKey";
    assert_eq!(archive["KmsKeyId"], key);
    let may: BTreeSet<String> = policies(&stack)
        .into_iter()
        .filter(|(_, document)| {
            let allowed = statements(document).into_iter().filter(|statement| allows(statement));
            allowed.flat_map(|statement| texts(&statement["Resource"])).any(|resource| resource == key)
        })
        .map(|(name, _)| name)
        .collect();
    assert_eq!(may, ["BreakGlassRole", "EncryptionKeyRole", "OperateRole", "SweepRole"].map(str::to_owned).into());
    assert!(!least().of_type("AWS::SecretsManager::Secret").contains_key("KeyArchiveSecret"));
}

#[test]
fn key_archive_is_only_for_those_who_make_rings_current() {
    for (environment, stack, expected) in [
        // Where nothing is re-encrypted any more it stays, without a key that leads to it.
        ("staging", least(), vec![]),
        ("production", most(), vec!["BreakGlassRole", "EncryptionKeyRole", "OperateRole", "SweepRole"]),
    ] {
        let archive = format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:shop/{environment}/key-archive-AbCdEf");
        let policies = policies(&stack);
        let never = ["UpdateSecret", "DeleteSecret", "RotateSecret"];
        for action in [&["GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"], &never[..]].concat() {
            let may = policies.iter().filter(|(_, document)| {
                let speaking = speaking_of(document, &format!("secretsmanager:{action}")).into_iter();
                let speaking: Vec<_> = speaking
                    .filter(|one| texts(&one["Resource"]).into_iter().any(|pattern| names(pattern, &archive)))
                    // Nothing rotates it.
                    .filter(|one| {
                        one["Condition"]["ArnEquals"]["secretsmanager:resource/AllowRotationLambdaArn"].is_null()
                    })
                    .collect();
                let denied = speaking.iter().any(|one| !allows(one) && one["Condition"].is_null());
                !denied && speaking.into_iter().any(allows)
            });
            let may: Vec<&str> = may.map(|(name, _)| name.as_str()).collect();
            assert_eq!(may, if never.contains(&action) { &[] } else { &expected[..] }, "{environment}: {action}");
        }
    }
}

#[test]
fn every_function_has_a_role_of_its_own_that_no_other_can_take() {
    let stack = most();
    let roles = stack.of_type("AWS::IAM::Role");
    let functions = stack.of_type("AWS::Serverless::Function");
    for (function, properties) in &functions {
        let role = role_of(properties);
        assert_eq!(properties["Role"], format!("arn:aws:iam::{ACCOUNT}:role/{role}"));
        assert_eq!(role, function.replace("Function", "Role"));
        let role = role.as_str();
        let trust = &roles[role]["AssumeRolePolicyDocument"]["Statement"];
        assert_eq!(items(trust).len(), 1);
        assert_eq!(trust[0]["Principal"]["Service"], "lambda.amazonaws.com");
        assert!(roles[role]["ManagedPolicyArns"].is_null(), "{role} has what this file does not show");
    }
    let taken: BTreeSet<String> = functions.values().map(|function| role_of(function)).collect();
    assert_eq!(taken.len(), functions.len());
}

#[test]
fn secrets_manager_alone_invokes_the_rotation_functions() {
    let stack = least();
    let permissions = stack.of_type("AWS::Lambda::Permission");
    assert_eq!(permissions.len(), rotation_functions(&stack).len());
    for (name, permission) in permissions {
        assert_eq!(permission["Principal"], "secretsmanager.amazonaws.com", "{name}");
        assert_eq!(permission["SourceAccount"], ACCOUNT, "{name}");
    }
    let written = templates().written(MAIN)["Resources"].clone();
    for schedule in stack.of_type("AWS::SecretsManager::RotationSchedule").into_keys() {
        // Secrets Manager tries the function when rotation is switched on.
        let permission = schedule.replace("Schedule", "Permission");
        assert!(texts(&written[schedule]["DependsOn"]).contains(&permission.as_str()), "{schedule}");
    }
}
