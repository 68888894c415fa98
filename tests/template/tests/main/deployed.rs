//! The stack on the emulator: its functions, as `sam build` made them, with the variables and the policies of the template.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use template::Stack;
use uuid::Uuid;

use crate::build::{architecture, built};
use crate::emulator::{Emulator, Hands};
use crate::permissions::policy_of;
use crate::support::*;

pub(crate) const PREFIX: &str = "shop/staging/";

/// The stack on the emulator.
pub(crate) struct Deployed {
    pub(crate) stack: Stack,
    pub(crate) hands: Hands,
    _emulator: Emulator,
}

/// What became of a step or an operation: its answer, or its error's type.
pub(crate) type Outcome = Result<Value, String>;

impl Deployed {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With further parameters.
    pub(crate) fn with(further: &[(&str, &str)]) -> Self {
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
        parameters.extend(further);
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
    pub(crate) fn rotating(&self) -> Vec<(String, String, String)> {
        let role = |function: &str| role_of(self.stack.of_type("AWS::Serverless::Function")[function]);
        let functions = rotation_functions(&self.stack).into_keys();
        functions.map(|name| (name.clone(), binary_of(&self.stack, &name), role(&name))).collect()
    }

    pub(crate) fn name_of(&self, function: &str) -> String {
        self.stack.of_type("AWS::Serverless::Function")[function]["FunctionName"].as_str().unwrap().to_owned()
    }

    pub(crate) fn policy(&self, role: &str) -> Value {
        policy_of(&self.stack, role)
    }

    pub(crate) fn give(&mut self, role: &str, policy: &Value) {
        let parameters = json!({ "RoleName": role, "PolicyName": "rotation", "PolicyDocument": policy.to_string() });
        self.hands.root("iam", "put_role_policy", parameters);
    }

    pub(crate) fn invoke(&mut self, function: &str, payload: &Value) -> Outcome {
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
    pub(crate) fn ask(&mut self, function: &str, request: &Value) -> Outcome {
        let answer = self.invoke(function, request)?;
        match answer["problems"].get(0) {
            Some(problem) => {
                let of = |member: &str| problem[member].as_str().unwrap_or_default().to_owned();
                Err(format!("{}: {}", of("error"), of("message")))
            }
            None => Ok(answer),
        }
    }

    pub(crate) fn stages(&mut self, secret: &str) -> BTreeMap<String, String> {
        let described = self.hands.root("secretsmanager", "describe_secret", json!({ "SecretId": secret }));
        let versions = described["VersionIdsToStages"].as_object().unwrap().clone();
        let stages = versions.into_iter().flat_map(|(version, stages)| {
            let stages: Vec<String> = texts(&stages).into_iter().map(str::to_owned).collect();
            stages.into_iter().map(move |stage| (stage, version.clone()))
        });
        stages.collect()
    }

    /// Begins a rotation as Secrets Manager does: a version with `AWSPENDING` is there when the function is called.
    pub(crate) fn begin(&mut self, secret: &str) -> String {
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
    pub(crate) fn prepare(&mut self, secret: &str, action: &str) {
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
    pub(crate) fn rotate(&mut self, kind: &str, function: &str) -> Result<String, (&'static str, String)> {
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

fn key() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode([7; 32])
}
