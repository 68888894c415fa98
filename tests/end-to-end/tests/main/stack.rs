//! A deployed stack, as the documents and the operator's command know it: functions with a stack's names, and a
//! CloudFormation that tells its outputs.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use end_to_end::{FIELD, KEY_FIELD, Scene, program};
use sandbox::lambda_host::FunctionConfig;

/// The actions that `operate` may be asked for.
pub(crate) const ACTIONS: &str =
    "status,verify,rollback,revoke,abort,compromise,doctor,retire,restore,forget,put,sweep,report";

/// What the names of stacks end with.
const STACK_NAME: &str = "-secret-rotation";

/// The outputs of `template.yaml` that the documents and the operator's command read, without `AuditLogGroup`: in the sandbox, each
/// function has a log of its own.
fn outputs(application: &str, environment: &str) -> [(&'static str, String); 5] {
    let function = |name: &str| format!("{application}-{environment}-{name}");
    let arn = |name: &str| format!("arn:aws:lambda:us-east-1:000000000000:function:{}", function(name));
    [
        ("OperateFunction", function("operate")),
        ("SweepFunction", function("sweep")),
        ("SecretNamePrefix", format!("{application}/{environment}/")),
        ("AdminTokenFunctionArn", arn("admin-token")),
        ("EncryptionKeyFunctionArn", arn("encryption-key")),
    ]
}

/// Registers the functions of a stack, with its names and with those of the sandbox.
pub(crate) async fn deploy(scene: &Scene) {
    let environment: BTreeMap<String, String> = [
        ("AWS_ENDPOINT_URL", scene.sandbox.endpoint()),
        ("SECRET_NAME_PREFIX", "shop/".to_owned()),
        ("ALLOWED_FIELDS", [FIELD, KEY_FIELD, "PARTNER_TOKEN"].join(",")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for (name, function) in [
        ("encryption-key", "encryption-key"),
        ("operate", "operate"),
        ("shop-production-admin-token", "admin-token"),
        ("shop-production-encryption-key", "encryption-key"),
        ("shop-production-operate", "operate"),
        ("shop-production-sweep", "operate"),
        ("shop-staging-admin-token", "admin-token"),
        ("shop-staging-encryption-key", "encryption-key"),
        ("shop-staging-operate", "operate"),
        ("shop-staging-sweep", "operate"),
    ] {
        let mut environment = environment.clone();
        if function != "admin-token" {
            environment.insert("CONSUMERS_KEYRING_AWARE".to_owned(), "true".to_owned());
        }
        if function == "operate" {
            environment.insert("ALLOWED_ACTIONS".to_owned(), ACTIONS.to_owned());
        }
        let executable = program(function).await.unwrap();
        let (name, timeout) = (name.to_owned(), Duration::from_secs(60));
        let config = FunctionConfig { name, executable, environment, timeout, memory_mb: 128 };
        scene.sandbox.host().register(config).unwrap();
    }
}

fn described(application: &str, environment: &str) -> String {
    let member = |(key, value): &(&str, String)| {
        format!("<member><OutputKey>{key}</OutputKey><OutputValue>{value}</OutputValue></member>")
    };
    let outputs: String = outputs(application, environment).iter().map(member).collect();
    format!(
        "<DescribeStacksResponse xmlns=\"http://cloudformation.amazonaws.com/doc/2010-05-15/\"><DescribeStacksResult>\
         <Stacks><member><StackName>stack</StackName><CreationTime>2026-01-01T00:00:00Z</CreationTime>\
         <StackStatus>CREATE_COMPLETE</StackStatus><Outputs>{outputs}</Outputs></member></Stacks>\
         </DescribeStacksResult></DescribeStacksResponse>"
    )
}

/// Answers DescribeStacks for stacks `{application}-{environment}-secret-rotation`, at the address that it tells
/// (`AWS_ENDPOINT_URL_CLOUDFORMATION`).
pub(crate) async fn cloudformation() -> String {
    let answer = async |request: String| {
        let name = request.split('&').find_map(|part| part.strip_prefix("StackName=")?.strip_suffix(STACK_NAME));
        let (application, environment) = name.and_then(|name| name.rsplit_once('-')).unwrap_or_default();
        ([("content-type", "text/xml")], described(application, environment))
    };
    let routes = Router::new().route("/", post(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}
