//! The roles of the template, tried: an emulator that enforces IAM runs the functions that `sam build` made, with the variables and
//! the policies of the template. A rotation passes with its function's role; without any one of the role's actions on secrets it fails.
//!
//! The emulator knows no `secretsmanager:*` and no `cloudwatch:namespace` condition, and enforces no KMS. The first are put in another way
//! here, and asserted as they are in `policies.rs`; what is not tried has its reason in SECURITY.md. Its listing does not tell which function
//! rotates a secret, nor any time in the past, so that a sweep would find nothing to do: that is told by a relay before it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use template::{Stack, root};
use uuid::Uuid;

use crate::build::{architecture, built};
use crate::emulator::{Emulator, Hands};
use crate::policies::policies;
use crate::support::*;

const PREFIX: &str = "shop/staging/";

/// The stack on the emulator.
struct Deployed {
    stack: Stack,
    hands: Hands,
    _emulator: Emulator,
}

/// What became of a step or an operation: its answer, or its error's type.
type Outcome = Result<Value, String>;

impl Deployed {
    fn new() -> Self {
        let emulator = Emulator::start();
        let token = format!("{PREFIX}admin-token");
        let mut hands = Hands::new(emulator.endpoint(), &token, "ADMIN_TOKEN");
        let application = hands.application();
        let templates = templates();
        let (verify, refresh) = (format!("{application}/verify"), format!("{application}/refresh"));
        let mut parameters = LEAST.to_vec();
        parameters.extend([
            ("Architecture", architecture()),
            ("TargetVerifyUrl", &verify),
            ("TargetRefreshUrl", &refresh),
            // Nobody reports keys here.
            ("ConsumersKeyringAware", "true"),
            ("Promotion", "immediate"),
            ("AbortAfter", "0s"),
            // Gives the archive of keys. Nobody works on rows here.
            ("ReencryptColumns", r#"[{"table":"t","column":"c","format":"aes-gcm"}]"#),
            ("DatabaseSecretArn", "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/staging/database-AbCdEf"),
            ("DatabaseHost", "127.0.0.1"),
            ("DatabaseName", "shop"),
        ]);
        let values = [
            ("AdminTokenSecret", "ADMIN_TOKEN", "t".repeat(64)),
            ("EncryptionKeySecret", "TOKEN_ENCRYPTION_KEY", key()),
        ];
        let mut attributes = BTreeMap::new();
        let before = templates.resolve(&parameters, &attributes).unwrap();
        for (name, field, value) in values {
            let secret = &before.of_type("AWS::SecretsManager::Secret")[name];
            let value = json!({ field: value, "other": "stays" }).to_string();
            let parameters = json!({ "Name": secret["Name"], "Tags": secret["Tags"], "SecretString": value });
            let made = hands.root("secretsmanager", "create_secret", parameters);
            attributes.insert(name.to_owned(), made["ARN"].as_str().unwrap().to_owned());
        }
        // It begins without a value, and the emulator has no secret without one.
        let archive = json!({ "Name": format!("{PREFIX}key-archive"), "SecretString": r#"{"keys":[]}"# });
        let made = hands.root("secretsmanager", "create_secret", archive);
        attributes.insert("KeyArchiveSecret".to_owned(), made["ARN"].as_str().unwrap().to_owned());
        let stack = templates.resolve(&parameters, &attributes).unwrap();
        let mut deployed = Self { stack, hands, _emulator: emulator };
        deployed.deploy();
        deployed
    }

    fn deploy(&mut self) {
        let functions: Vec<(String, Value)> = self
            .stack
            .of_type("AWS::Serverless::Function")
            .into_iter()
            .filter(|(name, _)| *name != "ReencryptFunction")
            .map(|(name, properties)| (name.to_owned(), properties.clone()))
            .collect();
        for (name, function) in &functions {
            let role = role_of(function);
            // The emulator lets only who is trusted take a role; the test takes it too, to try what it may not do.
            let trust = json!({ "Version": "2012-10-17", "Statement": [{
                "Effect": "Allow",
                "Principal": { "Service": "lambda.amazonaws.com", "AWS": "arn:aws:iam::000000000000:root" },
                "Action": "sts:AssumeRole",
            }]});
            let parameters = json!({ "RoleName": role, "AssumeRolePolicyDocument": trust.to_string() });
            self.hands.root("iam", "create_role", parameters);
            let policy = self.policy(&role);
            self.give(&role, &policy);

            let zip = self.hands.zip(&built()[name.as_str()]);
            let mut environment = function["Environment"].clone();
            // A sweep begins with the listing.
            let endpoint =
                if name == "SweepFunction" { self.hands.relay() } else { self._emulator.endpoint().to_owned() };
            environment["Variables"]["AWS_ENDPOINT_URL"] = json!(endpoint);
            for value in environment["Variables"].as_object_mut().unwrap().values_mut() {
                *value = json!(template::text(value));
            }
            self.hands.root(
                "lambda",
                "create_function",
                json!({
                    "FunctionName": function["FunctionName"],
                    "Runtime": function["Runtime"],
                    "Handler": function["Handler"],
                    "Architectures": function["Architectures"],
                    "MemorySize": function["MemorySize"],
                    "Timeout": function["Timeout"],
                    "Role": function["Role"],
                    "Environment": environment,
                    "Code": { "ZipFile": zip.base64 },
                }),
            );
        }
        for (function, kind, _) in self.rotating() {
            let arn = format!("arn:aws:lambda:us-east-1:000000000000:function:{}", self.name_of(&function));
            // The emulator's own rotation switches rotation on, and makes a current version with the same value.
            let parameters = json!({ "SecretId": format!("{PREFIX}{kind}"), "RotationLambdaARN": arn });
            self.hands.root("secretsmanager", "rotate_secret", parameters);
        }
    }

    /// The rotation functions, each with its kind and its role. A kind without a value above has no secret here.
    fn rotating(&self) -> Vec<(String, String, String)> {
        let role = |function: &str| role_of(self.stack.of_type("AWS::Serverless::Function")[function]);
        let functions = rotation_functions(&self.stack).into_keys();
        functions.map(|name| (name.clone(), binary_of(&self.stack, &name), role(&name))).collect()
    }

    fn name_of(&self, function: &str) -> String {
        self.stack.of_type("AWS::Serverless::Function")[function]["FunctionName"].as_str().unwrap().to_owned()
    }

    fn policy(&self, role: &str) -> Value {
        policy_of(&self.stack, role)
    }

    fn give(&mut self, role: &str, policy: &Value) {
        let parameters = json!({ "RoleName": role, "PolicyName": "rotation", "PolicyDocument": policy.to_string() });
        self.hands.root("iam", "put_role_policy", parameters);
    }

    fn invoke(&mut self, function: &str, payload: &Value) -> Outcome {
        let parameters = json!({ "FunctionName": self.name_of(function), "Payload": payload.to_string() });
        let answer = self.hands.root("lambda", "invoke", parameters);
        match answer["FunctionError"].as_str() {
            None => Ok(answer["Payload"].clone()),
            Some(_) => {
                let error = &answer["Payload"];
                let of = |member: &str| error[member].as_str().unwrap_or_default().to_owned();
                Err(format!("{}: {}", of("errorType"), of("errorMessage")))
            }
        }
    }

    /// Asks operate, or a sweep, which answers with what is wrong with single secrets.
    fn ask(&mut self, function: &str, request: &Value) -> Outcome {
        let answer = self.invoke(function, request)?;
        match answer["problems"].get(0) {
            Some(problem) => {
                let of = |member: &str| problem[member].as_str().unwrap_or_default().to_owned();
                Err(format!("{}: {}", of("error"), of("message")))
            }
            None => Ok(answer),
        }
    }

    fn stages(&mut self, secret: &str) -> BTreeMap<String, String> {
        let described = self.hands.root("secretsmanager", "describe_secret", json!({ "SecretId": secret }));
        let versions = described["VersionIdsToStages"].as_object().unwrap().clone();
        let stages = versions.into_iter().flat_map(|(version, stages)| {
            let stages: Vec<String> = texts(&stages).into_iter().map(str::to_owned).collect();
            stages.into_iter().map(move |stage| (stage, version.clone()))
        });
        stages.collect()
    }

    /// Begins a rotation as Secrets Manager does: a version with `AWSPENDING` is there when the function is called.
    fn begin(&mut self, secret: &str) -> String {
        if let Some(version) = self.stages(secret).get("AWSPENDING") {
            let parameters =
                json!({ "SecretId": secret, "VersionStage": "AWSPENDING", "RemoveFromVersionId": version });
            self.hands.root("secretsmanager", "update_secret_version_stage", parameters);
        }
        let version = Uuid::new_v4().to_string();
        self.hands.root(
            "secretsmanager",
            "put_secret_value",
            json!({
                "SecretId": secret,
                "ClientRequestToken": version,
                // The emulator has no version without a value. createSecret writes its own over this one.
                "SecretString": "{}",
                "VersionStages": ["AWSPENDING"],
            }),
        );
        version
    }

    /// What an action finds: a rotation that is stuck, or an overlap that is open, or over.
    fn prepare(&mut self, secret: &str, action: &str) {
        let pending = self.begin(secret);
        if !["rollback", "revoke", "compromise", "sweep"].contains(&action) {
            return;
        }
        let parameters = json!({ "SecretId": secret, "VersionStage": "AWSPENDING", "RemoveFromVersionId": pending });
        self.hands.root("secretsmanager", "update_secret_version_stage", parameters);
        // A sweep takes away what is over, people what is not.
        let until = if action == "sweep" { "2020-01-01T00:00:00Z" } else { "2099-01-01T00:00:00Z" };
        let token = Uuid::new_v4().simple().to_string().repeat(2);
        let value = json!({
            "ADMIN_TOKEN": token,
            "ADMIN_TOKEN_PREVIOUS": "the-token-before-this-one-0123456789",
            "ADMIN_TOKEN_PREVIOUS_UNTIL": until,
        });
        self.hands.root(
            "secretsmanager",
            "put_secret_value",
            json!({ "SecretId": secret, "SecretString": value.to_string() }),
        );
    }

    /// The four steps. The first that fails ends it.
    fn rotate(&mut self, kind: &str, function: &str) -> Result<String, (&'static str, String)> {
        let secret = format!("{PREFIX}{kind}");
        let version = self.begin(&secret);
        for step in ["createSecret", "setSecret", "testSecret", "finishSecret"] {
            let event = json!({ "Step": step, "SecretId": secret, "ClientRequestToken": version });
            self.invoke(function, &event).map_err(|error| (step, error))?;
        }
        assert_eq!(self.stages(&secret)["AWSCURRENT"], version, "{kind}");
        Ok(version)
    }
}

/// The policy of a role, with what the emulator cannot judge put in another way: "secrets that this function rotates" becomes
/// the names of those secrets. The namespace of metrics is left out.
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
    }
    without_conditions(policy)
}

/// The policy without the conditions that the emulator does not know.
fn without_conditions(mut policy: Value) -> Value {
    for statement in policy["Statement"].as_array_mut().unwrap() {
        let conditions = statement["Condition"].to_string();
        if conditions.contains("secretsmanager:resource/") || conditions.contains("cloudwatch:namespace") {
            statement.as_object_mut().unwrap().remove("Condition");
        }
    }
    policy
}

fn key() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode([7; 32])
}

/// Each action on secrets that a policy allows, with the statement that does, and the policy without it.
pub(crate) fn without_each(policy: &Value) -> Vec<(String, String, Value)> {
    let mut found = vec![];
    for (index, statement) in items(&policy["Statement"]).into_iter().enumerate() {
        let actions = texts(&statement["Action"]);
        for action in actions.iter().filter(|action| action.starts_with("secretsmanager:")) {
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

/// What is asked of whom, and the actions on secrets without which it is refused.
fn asked(secret: &str) -> [(&'static str, &'static str, Value, Vec<&'static str>); 7] {
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
            deployed.prepare(secret, action);
            deployed.give(role, &less);
            let error = deployed.ask(function, request).expect_err(&format!("{action} without {removed}"));
            let denied = error.starts_with("AccessDenied: ") && error.contains(&removed);
            assert!(denied, "{action} without {removed}: {error}");
            println!("{action} without {removed} ({sid}): {}", error.split(": ").next().unwrap());
        }
    }
}

fn passes_with_all(deployed: &mut Deployed, secret: &str, (function, role): (&str, &str), request: &Value) {
    let action = request["action"].as_str().unwrap();
    let policy = deployed.policy(role);
    deployed.prepare(secret, action);
    deployed.give(role, &policy);
    if action == "compromise" {
        // The emulator's rotation is a stub, which a compromise does not take for the end of one.
        return;
    }
    let answer = deployed.ask(function, request).unwrap_or_else(|error| panic!("{action}: {error}"));
    assert!(action != "sweep" || answer["revokedSecrets"] == json!([secret]), "{answer}");
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
    for role in ["AdminTokenRole", "EncryptionKeyRole", "OperateRole", "SweepRole", "ReencryptRole", "StateMachineRole"]
    {
        for statement in items(&policies[role]["Statement"]).into_iter().filter(|one| one["Effect"] == "Allow") {
            granted.extend(texts(&statement["Action"]).into_iter().map(|action| (role.to_owned(), action.to_owned())));
        }
    }
    let missing: Vec<_> = granted.difference(&listed).collect();
    let superfluous: Vec<_> = listed.difference(&granted).collect();
    assert!(missing.is_empty(), "not in SECURITY.md: {missing:?}");
    assert!(superfluous.is_empty(), "in SECURITY.md, and granted to nobody: {superfluous:?}");
}
