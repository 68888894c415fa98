//! A team that adopts a layout: its sandbox, its stack, and its terminal.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::types::{RotationRulesType, Tag};
use end_to_end::{FIELD, KEY_FIELD, ROTATION_TIMEOUT, program};
use sandbox::lambda_host::FunctionConfig;
use sandbox::{EventRule, RotationOutcome, Sandbox, Settings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::page::Section;
use crate::aws_cli::workspace;
use crate::stack;
use crate::support::eventually;

/// The longest time of a run of `deliver`. It is less than the minute for which deliver waits between a label and a
/// deployment, so that the run ends with `pending`. The clock moves, and the next run deploys.
const DELIVER_TIMEOUT: Duration = Duration::from_secs(30);
const BETWEEN_RUNS: Duration = Duration::from_secs(120);
/// The most runs until a value is delivered.
const MOST_RUNS: usize = 15;
/// The period of the secrets that the stack makes.
pub(super) const QUARTER: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A team at work.
pub(super) struct Team {
    pub(super) sandbox: Sandbox,
    pub(super) client: Client,
    home: TempDir,
    /// The shell functions that the page defines before its sections, and what commands have set: it holds for those
    /// that follow.
    prelude: Mutex<String>,
    cloudformation: String,
    /// The address of Parameter Store, which the sandbox does not have.
    pub(super) parameter_store: Option<String>,
    pub(super) replaced: Vec<(&'static str, String)>,
}

impl Team {
    pub(super) async fn new() -> Self {
        let sandbox = Sandbox::start(Settings { rotation_attempts: 1, ..Settings::default() }).await.unwrap();
        let client = end_to_end::client(&sandbox.endpoint()).unwrap();
        let mut before = Section::of("Before you begin");
        let prelude = Mutex::new(before.commands());
        before.ends();
        let home = tempfile::tempdir().unwrap();
        let cloudformation = stack::cloudformation().await;
        Self { sandbox, client, home, prelude, cloudformation, parameter_store: None, replaced: vec![] }
    }

    pub(super) async fn has(&self, name: &str, value: &str) {
        self.client.create_secret().name(name).secret_string(value).send().await.unwrap();
    }

    pub(super) fn has_file(&self, name: &str, content: &str) {
        std::fs::write(self.home.path().join(name), content).unwrap();
    }

    pub(super) async fn value(&self, name: &str) -> String {
        self.client.get_secret_value().secret_id(name).send().await.unwrap().secret_string.unwrap()
    }

    pub(super) async fn stores(&self, name: &str, value: &str) {
        self.client.put_secret_value().secret_id(name).secret_string(value).send().await.unwrap();
    }

    pub(super) async fn members(&self, name: &str) -> Value {
        serde_json::from_str(&self.value(name).await).unwrap()
    }

    /// Types commands, and returns what they print. A command that fails fails the test.
    pub(super) async fn types(&self, commands: &str) -> String {
        let mut script = format!("{}\n{commands}", self.prelude.lock().unwrap());
        for (text, by) in &self.replaced {
            script = script.replace(text, by);
        }
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]).current_dir(self.home.path()).kill_on_drop(true);
        let (tools, infra) = (workspace().join("target/tools/bin"), workspace().join("infra"));
        let path = format!("{}:{}:{}", infra.display(), tools.display(), std::env::var("PATH").unwrap());
        command.env_clear().env("PATH", path).env("HOME", self.home.path()).env("AWS_PAGER", "");
        command.env("AWS_ENDPOINT_URL", self.sandbox.endpoint()).env("AWS_DEFAULT_REGION", "us-east-1");
        command.env("AWS_ENDPOINT_URL_CLOUDFORMATION", &self.cloudformation).env("ROTATION_YES", "1");
        command.envs(self.parameter_store.iter().map(|address| ("AWS_ENDPOINT_URL_SSM", address)));
        command.env("AWS_ACCESS_KEY_ID", "person").env("AWS_SECRET_ACCESS_KEY", "person");
        let output = command.output().await.unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{commands}\n{printed}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(!printed.contains("\"errorType\""), "{commands}\n{printed}");
        let set = commands.lines().filter(|line| line.starts_with("export "));
        self.prelude.lock().unwrap().extend(set.flat_map(|line| [line, "\n"]));
        printed
    }

    /// Deploys the stack with these parameters, or deploys it again with others.
    pub(super) async fn deploys(&self, parameters: &BTreeMap<String, String>) {
        let parameter = |name: &str| parameters.get(name).cloned();
        let (application, environment) = (&parameters["Application"], &parameters["Environment"]);
        let (functions, secrets) = (format!("{application}-{environment}-"), format!("{application}/{environment}/"));
        let mut common: BTreeMap<String, String> =
            [("AWS_ENDPOINT_URL", self.sandbox.endpoint()), ("SECRET_NAME_PREFIX", secrets.clone())]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
        for (variable, name) in [
            ("ROTATION_VERIFY", "Verify"),
            ("CONSUMED_SECRETS", "ConsumedSecrets"),
            ("TARGET_VERIFY_URL", "TargetVerifyUrl"),
            ("TARGET_REFRESH_URL", "TargetRefreshUrl"),
        ] {
            let value = parameter(name).map(|value| self.replaced.iter().fold(value, |v, (t, by)| v.replace(t, by)));
            common.extend(value.map(|value| (variable.to_owned(), value)));
        }
        let fields = |own: &str, adopted: &str| [Some(own.to_owned()), parameter(adopted)].into_iter().flatten();
        let tokens: Vec<String> = fields(FIELD, "AdoptedTokenFields").collect();
        let keys: Vec<String> = fields(KEY_FIELD, "AdoptedKeyFields").collect();
        let aware = parameter("ConsumersKeyringAware").unwrap_or_default();
        let actions = stack::ACTIONS.to_owned();
        for (name, built, allowed, variable) in [
            ("admin-token", "admin-token", tokens.clone(), None),
            ("encryption-key", "encryption-key", keys.clone(), Some(("CONSUMERS_KEYRING_AWARE", aware.clone()))),
            ("operate", "operate", [tokens.clone(), keys.clone()].concat(), Some(("ALLOWED_ACTIONS", actions.clone()))),
            ("sweep", "operate", [tokens.clone(), keys.clone()].concat(), Some(("ALLOWED_ACTIONS", actions))),
        ] {
            let mut environment = common.clone();
            environment.insert("ALLOWED_FIELDS".to_owned(), allowed.join(","));
            environment.extend(variable.filter(|(_, value)| !value.is_empty()).map(|(n, v)| (n.to_owned(), v)));
            self.registers(&format!("{functions}{name}"), built, environment, Duration::from_secs(60)).await;
        }
        if let Some(consumers) = parameter("Consumers") {
            let mut environment = common.clone();
            environment.retain(|name, _| !name.starts_with("TARGET_"));
            environment.insert("ALLOWED_FIELDS".to_owned(), [tokens, keys].concat().join(","));
            environment.insert("CONSUMERS".to_owned(), consumers);
            let deliver = format!("{functions}deliver");
            self.registers(&deliver, "deliver", environment, DELIVER_TIMEOUT).await;
            self.sandbox.event_bus().add_rule(EventRule::secret_label(&secrets, "AWSCURRENT", &deliver));
            self.sandbox.event_bus().add_rule(EventRule::deployment_ended(&deliver));
        }
        if !parameters.contains_key("TokenSecretArn") {
            self.makes(&format!("{secrets}admin-token"), FIELD, &format!("{functions}admin-token")).await;
        }
        self.makes(&format!("{secrets}encryption-key"), KEY_FIELD, &format!("{functions}encryption-key")).await;
    }

    async fn registers(
        &self,
        name: &str,
        built: &'static str,
        environment: BTreeMap<String, String>,
        timeout: Duration,
    ) {
        let executable = program(built).await.unwrap();
        let config = FunctionConfig { name: name.to_owned(), executable, environment, timeout, memory_mb: 128 };
        self.sandbox.host().register(config).unwrap();
    }

    /// A secret of the stack, as the template makes it, unless an earlier deployment has made it.
    async fn makes(&self, name: &str, field: &str, function: &str) {
        let tag = Tag::builder().key("rotation:field").value(field).build();
        if self.client.create_secret().name(name).secret_string("{}").tags(tag).send().await.is_err() {
            return;
        }
        let function = format!("arn:aws:lambda:us-east-1:000000000000:function:{function}");
        let rules = RotationRulesType::builder().schedule_expression("rate(90 days)").build();
        let rotate = self.client.rotate_secret().secret_id(name).rotation_lambda_arn(function).rotation_rules(rules);
        rotate.rotate_immediately(false).send().await.unwrap();
        self.rotated(name).await;
    }

    /// Waits for the end of the rotation, or of the test of the configuration, that has begun.
    pub(super) async fn rotated(&self, name: &str) {
        let outcome = self.sandbox.wait_for_rotation(name, ROTATION_TIMEOUT).await.unwrap();
        assert!(!matches!(outcome, RotationOutcome::Failed { .. }), "{name}: {outcome:?}");
    }

    /// The stack's own secrets that the application does not use are off: their rotations would fail one day.
    pub(super) async fn uses_none_of(&self, secrets: &[&str]) {
        for secret in secrets {
            let described = self.client.describe_secret().secret_id(*secret).send().await.unwrap();
            assert!(!described.rotation_enabled.unwrap_or_default(), "{secret} rotates, and nobody uses it");
        }
    }

    pub(super) async fn advances(&self, by: Duration) {
        self.sandbox.advance(by).await.unwrap();
    }

    /// Invokes a function of the stack.
    pub(super) async fn invokes(&self, function: &str, request: &Value) -> Value {
        let invoked = self.sandbox.host().invoke(function, request.to_string().into()).await.unwrap();
        assert!(invoked.function_error.is_none(), "{function}: {:?}", invoked.payload);
        serde_json::from_slice(&invoked.payload).unwrap()
    }

    /// Waits until no function runs for an event.
    pub(super) async fn until_events_are_handled(&self) {
        eventually("the end of a function that an event has invoked", || async {
            self.sandbox.event_bus().invocations().iter().all(|invocation| invocation.answer.is_some())
        })
        .await;
    }

    /// The clock goes on, and the hourly run of `deliver` comes, until every one of the secrets is delivered.
    pub(super) async fn until_delivered(&self, deliver: &str, secrets: &[&str]) {
        let mut last = Value::Null;
        for _ in 0..MOST_RUNS {
            self.until_events_are_handled().await;
            let mut delivered = true;
            for secret in secrets {
                delivered &= self.is_delivered(secret).await;
            }
            if delivered {
                return;
            }
            self.advances(BETWEEN_RUNS).await;
            last = self.invokes(deliver, &serde_json::json!({})).await;
        }
        panic!("{secrets:?} are not delivered: {last}");
    }

    pub(super) async fn is_delivered(&self, secret: &str) -> bool {
        let described = self.client.describe_secret().secret_id(secret).send().await.unwrap();
        let stages: Vec<Vec<String>> = described.version_ids_to_stages.unwrap_or_default().into_values().collect();
        let delivering = stages.iter().flatten().any(|stage| stage.starts_with("ROTATION-DELIVERING-"));
        let has = |held: &[String], stage: &str| held.iter().any(|one| one == stage);
        !delivering && stages.iter().any(|held| has(held, "AWSCURRENT") && has(held, "ROTATION-DELIVERED"))
    }
}
