//! The templates, resolved with everything switched off and with everything switched on.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex_lite::Regex;
use serde_json::Value;
use template::{ACCOUNT, REGION, Stack, Templates};

/// The least that a stack is told.
pub(crate) const LEAST: [(&str, &str); 4] =
    [("Application", "shop"), ("Environment", "staging"), ("Owner", "platform"), ("CostCentre", "platform")];

/// Everything that is optional.
pub(crate) const MOST: [(&str, &str); 43] = [
    ("Application", "shop"),
    ("Environment", "production"),
    ("Owner", "platform"),
    ("CostCentre", "platform"),
    ("AdoptedTokenFields", "OTHER_TOKEN"),
    ("AdoptedKeyFields", "OTHER_KEY"),
    ("Hold", "2026-12-24"),
    ("TokenEncoding", "base62"),
    ("TokenPrefix", "shop"),
    ("TargetVerifyUrl", "https://{1}.{2}.example.com/admin/whoami"),
    ("TargetRefreshUrl", "https://{1}.{2}.example.com/admin/refresh"),
    ("TargetInstances", "2"),
    ("TargetTimeout", "30s"),
    ("ReencryptColumns", r#"[{"table":"connections","column":"token","format":"aes-gcm","aad":["id"]}]"#),
    ("DatabaseSecretArn", "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/production/database-AbCdEf"),
    ("DatabaseHost", "database.example.com"),
    ("DatabaseName", "shop"),
    ("DatabaseCaFile", "/opt/rds.pem"),
    ("DatabaseCaLayerArn", "arn:aws:lambda:us-east-1:000000000000:layer:rds:1"),
    ("ReencryptRowsPerSecond", "2000"),
    (
        "Consumers",
        r#"{"admin-token":[{"ecs":"shop/api"},{"function":"restart-pods"}],"encryption-key":[{"copy":"app"},{"ecs":"shop/api"}]}"#,
    ),
    ("ConsumedSecrets", "admin-token,encryption-key"),
    ("ConsumerSecretArns", "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/production/app-AbCdEf"),
    ("ConsumerServiceArns", "arn:aws:ecs:us-east-1:000000000000:service/shop/api"),
    ("ConsumerFunctionArns", "arn:aws:lambda:us-east-1:000000000000:function:restart-pods"),
    ("IssuerFunctionArn", "arn:aws:lambda:us-east-1:000000000000:function:issuer:live"),
    ("CredentialFields", "CLIENT_SECRET,CLIENT_SECRET_ID"),
    ("AdoptedCredentialFields", "SESSION_COOKIE"),
    ("SweepTag", "service=shop"),
    ("AlarmEmail", "platform@example.com"),
    ("CloudTrailLogGroup", "trail"),
    ("ReservedConcurrency", "5"),
    ("VpcId", "vpc-01234567"),
    ("SubnetIds", "subnet-01234567,subnet-89abcdef"),
    ("SecurityGroupId", "sg-01234567"),
    ("CreateVpcEndpoints", "true"),
    ("VpcCidr", "10.20.0.0/16"),
    ("AdoptedKeyArns", "arn:aws:kms:us-east-1:000000000000:key/adopted"),
    ("DeletionAllowed", "true"),
    ("TagPrincipalArns", "arn:aws:iam::000000000000:role/platform,arn:aws:iam::000000000000:role/deploy"),
    ("BreakGlassPrincipalArns", "arn:aws:iam::000000000000:user/alice"),
    ("CreateArchive", "true"),
    ("ArchiveMode", "COMPLIANCE"),
];

/// The templates, read once.
pub(crate) fn templates() -> &'static Templates {
    static TEMPLATES: OnceLock<Templates> = OnceLock::new();
    TEMPLATES.get_or_init(|| Templates::load().unwrap())
}

/// The stack with only what it needs.
pub(crate) fn least() -> Stack {
    templates().resolve(&LEAST, &BTreeMap::new()).unwrap()
}

/// The stack with all that it can have.
pub(crate) fn most() -> Stack {
    templates().resolve(&MOST, &BTreeMap::new()).unwrap()
}

/// The names of the rotation functions, by their resources: those that Secrets Manager may invoke.
pub(crate) fn rotation_functions(stack: &Stack) -> BTreeMap<String, String> {
    let invoked = stack.of_type("AWS::Lambda::Permission").into_values();
    let invoked: Vec<&Value> = invoked
        .filter(|permission| permission["Principal"] == "secretsmanager.amazonaws.com")
        .map(|permission| &permission["FunctionName"])
        .collect();
    let functions = stack.of_type("AWS::Serverless::Function").into_iter();
    functions
        .filter(|(_, function)| invoked.contains(&&function["FunctionName"]))
        .map(|(resource, function)| (resource.to_owned(), template::text(&function["FunctionName"])))
        .collect()
}

/// The program of a function, by its resource: a folder of `functions/`.
pub(crate) fn binary_of(stack: &Stack, function: &str) -> String {
    template::text(&stack.resources[function]["Metadata"]["BuildProperties"]["Binary"])
}

/// The folders of the rotation functions.
pub(crate) fn rotation_folders() -> Vec<String> {
    let stack = most();
    rotation_functions(&stack).keys().map(|function| binary_of(&stack, function)).collect()
}

/// The stack with all that it can have but these parameters.
pub(crate) fn most_without(left_out: &[&str]) -> Stack {
    let parameters: Vec<_> = MOST.into_iter().filter(|(name, _)| !left_out.contains(name)).collect();
    templates().resolve(&parameters, &BTreeMap::new()).unwrap()
}

/// The parameters of consumers that [`MOST`] has.
pub(crate) const OF_CONSUMERS: [&str; 5] =
    ["Consumers", "ConsumedSecrets", "ConsumerSecretArns", "ConsumerServiceArns", "ConsumerFunctionArns"];

/// The parameters of issued credentials that [`MOST`] has.
pub(crate) const OF_ISSUER: [&str; 3] = ["IssuerFunctionArn", "CredentialFields", "AdoptedCredentialFields"];

/// The ARN of a function, by its name.
pub(crate) fn function_arn(name: &str) -> String {
    format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}")
}

/// The role of a function.
pub(crate) fn role_of(function: &Value) -> String {
    let arn = template::text(&function["Role"]);
    arn.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Whether an ARN is one of those that a policy names.
pub(crate) fn names(pattern: &str, arn: &str) -> bool {
    let pattern = pattern.replace('.', "[.]").replace('*', ".*").replace('?', ".");
    Regex::new(&format!("^{pattern}$")).unwrap().is_match(arn)
}

/// The items of a list, or the one item that stands without a list.
pub(crate) fn items(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Null => vec![],
        one => vec![one],
    }
}

/// The texts among them.
pub(crate) fn texts(value: &Value) -> Vec<&str> {
    items(value).into_iter().filter_map(Value::as_str).collect()
}
