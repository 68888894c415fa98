//! The commands of the documents, run from the pages as they stand, on a sandbox with the names of a deployed stack.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use aws_sdk_secretsmanager::types::{RotationRulesType, Tag};
use end_to_end::{FIELD, KEY_FIELD, Plan, Scene};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::aws_cli::workspace;
use crate::keys::{bare_key, key_secret};
use crate::stack;
use crate::support::*;

/// Commands that the sandbox does not serve, and why.
const NOT_RUN: [(&str, &str); 18] = [
    ("aws cloudformation ", "there is no stack"),
    ("aws cloudwatch describe-alarms", "there are no alarms"),
    ("aws ecs ", "there is no service"),
    ("aws events ", "there is no schedule"),
    ("aws lambda get-", "a sandbox has no limits"),
    ("aws logs create-export-task", "there is no archive"),
    ("aws logs get-query-results", "Logs Insights is not served"),
    ("aws logs put-log-group-deletion-protection", "log groups are not made"),
    ("aws logs start-query", "Logs Insights is not served"),
    ("aws secretsmanager put-resource-policy", "there is no IAM"),
    ("aws sns get-topic-attributes", "there is no topic"),
    ("aws stepfunctions ", "tests/template runs the state machine"),
    ("cargo ", "it starts a sandbox, or is run by tests/verify"),
    ("reencrypt", "it needs a database: the program rows has one"),
    ("sam ", "tests/template runs it"),
    ("> 40000", "the sandbox's filters compare for equality only"),
    ("!= \"success\"", "the sandbox's filters compare for equality only"),
    ("export PATH", "the test has a path of its own"),
];

/// A block of commands, under its heading.
struct Block {
    heading: String,
    commands: Vec<String>,
}

/// The blocks in `sh` of a page, their continued lines joined; commands that cannot be run are left out, and counted.
fn blocks(path: &str, left_out: &mut BTreeMap<&str, usize>) -> Vec<Block> {
    let page = std::fs::read_to_string(workspace().join(path)).unwrap();
    let (mut heading, mut code, mut blocks) = (String::new(), None, vec![]);
    for line in page.lines() {
        let text = line.trim();
        match &mut code {
            None if text == "```sh" => code = Some(vec![String::new()]),
            None if text.starts_with("```") => code = Some(vec!["```".to_owned()]),
            None => heading = line.strip_prefix("## ").map_or(heading, str::to_owned),
            Some(lines) if text == "```" => {
                let commands: Vec<String> = std::mem::take(lines);
                code = None;
                if commands[0] != "```" {
                    blocks.push(Block { heading: heading.clone(), commands });
                }
            }
            Some(lines) => {
                let continued = lines.last().is_some_and(|last| last.ends_with('\\') || last.ends_with('|'));
                if continued {
                    let last = lines.last_mut().unwrap();
                    *last = format!("{}{text}", last.trim_end_matches('\\'));
                } else if lines[0] != "```" {
                    lines.push(text.to_owned());
                }
            }
        }
    }
    for block in &mut blocks {
        block.commands.retain(|command| {
            let excuse = NOT_RUN.iter().find(|(part, _)| command.contains(part));
            excuse.into_iter().for_each(|(part, _)| *left_out.entry(*part).or_default() += 1);
            excuse.is_none() && !command.is_empty()
        });
    }
    blocks.retain(|block| !block.commands.is_empty());
    assert!(!blocks.is_empty(), "{path} has no commands");
    blocks
}

/// The operator's command ends with 4 when it is done, and something needs attention.
const ATTENTION: &str = r#"rotation() { command rotation "$@" || [ $? -eq 4 ]; }"#;

/// What a stack has, by the names of the documents, and a shell to type in.
struct Terminal {
    scene: Scene,
    folder: TempDir,
    /// What every block can count on.
    prelude: String,
    replaced: Vec<(&'static str, String)>,
    cloudformation: String,
}

impl Terminal {
    async fn new() -> Self {
        Self::of(no_target(json_plan())).await
    }

    async fn of(plan: Plan) -> Self {
        let scene = start(plan).await;
        stack::deploy(&scene).await;
        let folder = tempfile::tempdir().unwrap();
        for part in ["infra", "tests"] {
            std::os::unix::fs::symlink(workspace().join(part), folder.path().join(part)).unwrap();
        }
        let replaced = vec![("http://127.0.0.1:4566", scene.sandbox.endpoint())];
        let cloudformation = stack::cloudformation().await;
        Self { scene, folder, prelude: String::new(), replaced, cloudformation }
    }

    fn replacing(mut self, text: &'static str, by: &str) -> Self {
        self.replaced.push((text, by.to_owned()));
        self
    }

    /// A secret that the stack's function of its kind rotates, with its first value replaced once.
    async fn secret(&self, name: &str, kind: &str) {
        let (field, value) = match kind {
            "admin-token" => (FIELD, json_secret(FIRST)),
            _ => (KEY_FIELD, key_secret(&bare_key(application::KeyFormat::Raw, 1))),
        };
        let tag = Tag::builder().key("rotation:field").value(field).build();
        let made = self.scene.client.create_secret().name(name).secret_string(value).tags(tag).send().await;
        // The scene has made the first one.
        assert!(made.is_ok() || name == self.scene.secret(), "{made:?}");
        let function = format!("arn:aws:lambda:us-east-1:000000000000:function:shop-production-{kind}");
        let rules = RotationRulesType::builder().automatically_after_days(90).build();
        let begun = self.scene.client.rotate_secret().secret_id(name).rotation_lambda_arn(function);
        begun.rotation_rules(rules).send().await.unwrap();
        self.settled(name).await;
    }

    /// A secret whose values people store, and a new one.
    async fn providers(&self) {
        self.scene.client.create_secret().name("shop/production/providers").secret_string("{}").send().await.unwrap();
        std::fs::write(self.folder.path().join("new-key.txt"), "sk-new\n").unwrap();
        std::fs::write(self.folder.path().join(".env"), "META_APP_SECRET=meta\n").unwrap();
    }

    async fn settled(&self, name: &str) {
        self.scene.sandbox.wait_for_rotation(name, end_to_end::ROTATION_TIMEOUT).await.unwrap();
    }

    /// Types a block, and tells what it printed. A command that fails fails the test.
    async fn types(&self, block: &Block) -> String {
        let mut script = format!("{ATTENTION}\n{}\n{}\n", self.prelude, block.commands.join("\n"));
        for (text, by) in &self.replaced {
            script = script.replace(text, by);
        }
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]).current_dir(self.folder.path()).kill_on_drop(true);
        let tools = workspace().join("target/tools/bin");
        let infra = workspace().join("infra");
        let path = format!("{}:{}:{}", infra.display(), tools.display(), std::env::var("PATH").unwrap());
        command.env_clear().env("PATH", path).env("HOME", self.folder.path()).env("AWS_PAGER", "");
        command.env("AWS_ENDPOINT_URL", self.scene.sandbox.endpoint()).env("AWS_DEFAULT_REGION", "us-east-1");
        // A person types the name on a terminal.
        command.env("AWS_ENDPOINT_URL_CLOUDFORMATION", &self.cloudformation).env("ROTATION_YES", "1");
        command.env("AWS_ACCESS_KEY_ID", "person").env("AWS_SECRET_ACCESS_KEY", "person");
        let output = command.output().await.unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        // RotateSecret continues a rotation while it answers with this error.
        let continued = complained.contains("A previous rotation isn't complete");
        assert!(output.status.success() || continued, "{}: {script}\n{complained}", block.heading);
        assert!(!printed.contains("\"errorType\""), "{}: {script}\n{printed}", block.heading);
        printed
    }

    /// Asks operate, outside of a page.
    async fn operates(&self, request: Value) -> Value {
        let invoked = self.scene.sandbox.host().invoke("operate", request.to_string().into()).await.unwrap();
        serde_json::from_slice(&invoked.payload).unwrap()
    }

    async fn tag(&self, name: &str, key: &str, value: Option<&str>) {
        match value {
            Some(value) => {
                let tag = Tag::builder().key(key).value(value).build();
                self.scene.client.tag_resource().secret_id(name).tags(tag).send().await.unwrap();
            }
            None => {
                self.scene.client.untag_resource().secret_id(name).tag_keys(key).send().await.unwrap();
            }
        }
    }
}

/// The log of a stack.
const LOG: &str = "/secret-rotation/shop/production";
const TOKEN: &str = "shop/production/admin-token";
const KEY: &str = "shop/production/encryption-key";

/// Every rotation that a page begins comes to its end before the next block.
async fn type_all(terminal: &Terminal, path: &str, secrets: &[&str]) -> Vec<String> {
    let mut printed = vec![];
    for block in blocks(path, &mut BTreeMap::new()) {
        printed.push(terminal.types(&block).await);
        for secret in secrets {
            terminal.settled(secret).await;
        }
    }
    printed
}

/// Brings about what a section of the runbook is for, before its block of this number.
async fn bring_about(terminal: &mut Terminal, heading: &str, number: usize) {
    let client = terminal.scene.client.clone();
    match (heading, number) {
        ("rotation-failed" | "rotation-stuck", 0) => {
            terminal.tag(TOKEN, "rotation:overlap", Some("for ever")).await;
            client.rotate_secret().secret_id(TOKEN).send().await.unwrap();
            terminal.settled(TOKEN).await;
        }
        ("rotation-failed" | "rotation-stuck", 1) => {
            terminal.tag(TOKEN, "rotation:overlap", None).await;
            terminal.scene.sandbox.advance(Duration::from_secs(20 * 60)).await.unwrap();
        }
        ("keys-missing", _) => {
            // The staged key becomes primary, and then somebody stores the first value again.
            terminal.scene.sandbox.advance(Duration::from_secs(2 * 60 * 60)).await.unwrap();
            client.rotate_secret().secret_id(KEY).send().await.unwrap();
            terminal.settled(KEY).await;
            let first = key_secret(&bare_key(application::KeyFormat::Raw, 1));
            client.put_secret_value().secret_id(KEY).secret_string(first).send().await.unwrap();
            assert_eq!(terminal.operates(json!({ "action": "sweep" })).await["keysMissing"], json!([KEY]));
        }
        // In a stack all functions have one log.
        ("unfinished-operations", _) => {
            terminal.prelude = terminal.prelude.replace(LOG, "/aws/lambda/shop-production-operate");
        }
        _ => {}
    }
}

/// What the section promises of its block of this number.
async fn assert_promised(terminal: &Terminal, heading: &str, number: usize, printed: &str) {
    match (heading, number) {
        ("rotation-failed", 0) => assert!(printed.contains("\"error_type\":\"InvalidPolicy\""), "{printed}"),
        ("rotation-stuck", 0) => {
            assert!(printed.contains("last failure") && printed.contains("InvalidPolicy"), "{printed}")
        }
        ("rotation-stuck" | "rotation-failed", 1) => {
            let status = terminal.operates(json!({ "action": "status", "secret_id": TOKEN })).await;
            assert_eq!(status["rotation"]["open"], Value::Null, "{heading}: {printed}");
        }
        ("keys-missing", _) => {
            assert!(printed.contains("\nrestored ") && printed.contains("BAD  ring: "), "{printed}");
            assert_eq!(terminal.operates(json!({ "action": "sweep" })).await["keysMissing"], json!([]));
        }
        ("unfinished-operations", _) => assert!(printed.contains("\"result\":\"begun\""), "{printed}"),
        ("sweep-missing", _) => assert!(printed.contains("complete         true"), "{printed}"),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_runbook_run() {
    let mut terminal = Terminal::new().await.replacing(LOG, "/aws/lambda/shop-production-admin-token");
    terminal.secret(TOKEN, "admin-token").await;
    terminal.secret(KEY, "encryption-key").await;
    let pages = ["infra/RUNBOOK.md", "infra/RUNBOOK-ROWS.md"];
    let mut sections: BTreeMap<String, usize> = BTreeMap::new();
    for mut block in pages.iter().flat_map(|page| blocks(page, &mut BTreeMap::new())) {
        let number = *sections.entry(block.heading.clone()).and_modify(|number| *number += 1).or_insert(0);
        let heading = block.heading.clone();
        let secret = if heading == "keys-missing" { KEY } else { TOKEN };
        block.commands.iter_mut().for_each(|command| *command = command.replace("SECRET", secret));
        if heading == "Type this first" {
            terminal.prelude = block.commands.join("\n");
            continue;
        }
        bring_about(&mut terminal, &heading, number).await;
        let printed = terminal.types(&block).await;
        terminal.settled(secret).await;
        assert_promised(&terminal, &heading, number, &printed).await;
    }
    for alarm in
        ["rotation-overdue", "not-verified", "old-token-accepted", "rows-stalled", "keys-missing", "sweep-missing"]
    {
        assert!(sections.contains_key(alarm), "nothing of {alarm} was run: {sections:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_operates_actions_run() {
    let mut terminal = Terminal::new().await;
    terminal.secret(TOKEN, "admin-token").await;
    terminal.secret(KEY, "encryption-key").await;
    let typed = blocks("functions/operate/ACTIONS.md", &mut BTreeMap::new());
    let (first, sections) = typed.split_first().unwrap();
    terminal.prelude = first.commands.join("\n");
    terminal.providers().await;
    let mut answered = vec![];
    for block in sections {
        let printed = terminal.types(block).await;
        let answer: Value =
            serde_json::from_str(&printed[printed.find("}{").map_or(0, |at| at + 1)..]).unwrap_or_default();
        let told = if answer.is_null() { printed.clone() } else { answer["action"].to_string() };
        assert!(told.contains(&block.heading), "{}: {printed}", block.heading);
        answered.push(block.heading.clone());
        terminal.settled(TOKEN).await;
    }
    assert_eq!(
        answered,
        [
            "status",
            "verify",
            "doctor",
            "rollback",
            "revoke",
            "abort",
            "compromise",
            "restore",
            "forget",
            "put",
            "report"
        ]
    );
    let readme = type_all(&terminal, "functions/operate/README.md", &[]).await.concat();
    assert!(readme.contains("\"action\": \"status\""), "{readme}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_operators_page_run() {
    let terminal = Terminal::new().await;
    terminal.secret(TOKEN, "admin-token").await;
    terminal.secret(KEY, "encryption-key").await;
    terminal.providers().await;
    let mut terminal = terminal;
    let mut printed = String::new();
    for block in blocks("infra/COMMAND.md", &mut BTreeMap::new()) {
        printed += &terminal.types(&block).await;
        // What the first block exports holds for the others.
        if terminal.prelude.is_empty() {
            terminal.prelude = block.commands[..2].join("\n");
        }
    }
    for shown in
        ["SECRET ", "finishSecret done", "META_APP_SECRET: stored in shop/production/providers", "OPENAI_API_KEY"]
    {
        assert!(printed.contains(shown), "{shown}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_an_adoption_run() {
    let mut terminal =
        Terminal::new().await.replacing("/secret-rotation/shop/production", "/aws/lambda/shop-production-admin-token");
    terminal.prelude = "function=arn:aws:lambda:us-east-1:000000000000:function:shop-production-admin-token".to_owned();
    let partner = "shop/production/partner";
    let value =
        r#"{"MONGO_URI": "mongodb://…", "PARTNER_TOKEN":"a token of a partner, of 38 characters",  "LIMIT": 1.0}"#;
    terminal.scene.client.create_secret().name(partner).secret_string(value).send().await.unwrap();
    let mut printed = vec![];
    for block in blocks("infra/ADOPT.md", &mut BTreeMap::new()) {
        printed.push(terminal.types(&block).await);
        if !block.commands[0].contains("tag-resource") {
            terminal.settled(partner).await;
        }
    }
    let [_, _, tested, rotated] = &printed[..] else { panic!("{printed:?}") };
    assert!(tested.contains("\"outcome\":\"configurationTested\""), "{tested}");
    assert!(rotated.contains("finishSecret done") && rotated.contains("rotated; the previous value"), "{rotated}");
    let now = terminal.scene.client.get_secret_value().secret_id(partner).send().await.unwrap().secret_string.unwrap();
    let members = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_ne!(members(&now)["PARTNER_TOKEN"], members(value)["PARTNER_TOKEN"]);
    assert_eq!(members(&now)["PARTNER_TOKEN_PREVIOUS"], members(value)["PARTNER_TOKEN"]);
    assert!(now.ends_with(r#",  "LIMIT": 1.0}"#) && now.starts_with(r#"{"MONGO_URI": "mongodb://…", "#), "{now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_a_deployment_run() {
    let terminal = Terminal::new().await;
    for (name, kind, field) in [
        ("shop/staging/admin-token", "admin-token", FIELD),
        ("shop/staging/encryption-key", "encryption-key", KEY_FIELD),
    ] {
        // As the template makes it.
        let tag = Tag::builder().key("rotation:field").value(field).build();
        terminal.scene.client.create_secret().name(name).secret_string("{}").tags(tag).send().await.unwrap();
        let function = format!("arn:aws:lambda:us-east-1:000000000000:function:shop-staging-{kind}");
        let rules = RotationRulesType::builder().schedule_expression("rate(90 days)").build();
        let tested =
            terminal.scene.client.rotate_secret().secret_id(name).rotation_lambda_arn(function).rotation_rules(rules);
        tested.rotate_immediately(false).send().await.unwrap();
        terminal.settled(name).await;
    }
    let staging = ["shop/staging/admin-token", "shop/staging/encryption-key"];
    for page in ["README.md", "infra/README.md"] {
        type_all(&terminal, page, &staging).await;
        for secret in staging {
            let value = terminal.scene.client.get_secret_value().secret_id(secret).send().await.unwrap();
            assert!(value.secret_string.unwrap().len() > 40, "{page} has given {secret} no value");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_after_a_keys_leak_run() {
    let terminal = Terminal::new().await;
    terminal.secret(KEY, "encryption-key").await;
    let ring = async || {
        let value =
            terminal.scene.client.get_secret_value().secret_id(KEY).send().await.unwrap().secret_string.unwrap();
        crate::keys::parsed(application::KeyFormat::Raw, &value, true).1
    };
    let before = ring().await;
    type_all(&terminal, "functions/encryption-key/README.md", &[KEY]).await;
    let after = ring().await;
    let fresh = |id| before.keys().all(|(_, key)| key.id() != id);
    assert!(fresh(after.primary().id()) && fresh(after.staged().unwrap().id()), "both were replaced");
    assert_eq!(after.keys().count(), before.keys().count() + 2, "and stay readable");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_sandboxs_page_run() {
    // The function that allows the member has the name of a stack's.
    let allows = "function=arn:aws:lambda:us-east-1:000000000000:function:shop-production-admin-token";
    let named = "function=arn:aws:lambda:us-east-1:000000000000:function:admin-token";
    let terminal = Terminal::new().await.replacing(named, allows);
    let mut printed = vec![];
    for block in blocks("tests/README.md", &mut BTreeMap::new()) {
        // What cargo lambda does has a test of its own.
        if !["The sandbox, with the AWS CLI", "Practise an adoption or a failure"].contains(&block.heading.as_str()) {
            continue;
        }
        printed.push(terminal.types(&block).await);
        for secret in ["shop/staging/admin-token", "shop/staging/encryption-key", "shop/production/partner"] {
            let _ = terminal.scene.sandbox.wait_for_rotation(secret, end_to_end::ROTATION_TIMEOUT).await;
        }
    }
    let printed = printed.concat();
    for shown in [
        "AWSPREVIOUS",
        "RotationSucceeded",
        "\"ahead_seconds\": 7776000",
        "\"state\":\"staged\"",
        "PARTNER_TOKEN_PREVIOUS_UNTIL",
    ] {
        assert!(printed.contains(shown), "{shown}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_examples_page_run() {
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port().to_string();
    // The variables of the sandbox that the page starts.
    let page = std::fs::read_to_string(workspace().join("infra/examples/README.md")).unwrap();
    let variables = page.split("--env admin-token:").skip(1).map(|rest| rest.split_whitespace().next().unwrap());
    let variables = variables.map(|variable| variable.split_once('=').unwrap());
    let variables: Vec<(&'static str, String)> = variables
        .filter_map(|(name, value)| {
            let known = ["TARGET_VERIFY_URL", "TARGET_REFRESH_URL", "ALLOWED_FIELDS"];
            Some((known.into_iter().find(|known| *known == name)?, value.replace("8080", &port)))
        })
        .collect();
    assert_eq!(variables.len(), 3);
    let plan = Plan { secret: "shop/another", environment: variables, ..no_target(json_plan()) };
    let mut terminal = Terminal::of(plan).await.replacing("PORT=8080", &format!("PORT={port}"));
    // The application ends with the shell, which waits for the rotation.
    terminal.prelude = "trap 'kill $(jobs -p)' EXIT".to_owned();
    let mut blocks = blocks("infra/examples/README.md", &mut BTreeMap::new());
    let [block] = &mut blocks[..] else { panic!("one block of commands") };
    let stages = format!("aws secretsmanager describe-secret --secret-id {TOKEN} --query VersionIdsToStages");
    block.commands.push(format!("until {stages} | grep -q AWSPREVIOUS; do sleep 0.2; done"));
    terminal.types(block).await;
    terminal.settled(TOKEN).await;
    let attempts = terminal.scene.sandbox.rotation_attempts(TOKEN);
    assert_eq!(attempts.len(), 1, "the application accepted the pending token at once");
}

#[test]
fn every_excuse_for_a_command_is_needed() {
    let mut left_out = BTreeMap::new();
    for page in [
        "README.md",
        "functions/encryption-key/README.md",
        "functions/operate/ACTIONS.md",
        "functions/operate/README.md",
        "infra/ADOPT.md",
        "infra/COMMAND.md",
        "infra/README.md",
        "infra/examples/README.md",
        "infra/RUNBOOK-ROWS.md",
        "infra/RUNBOOK.md",
        "tests/README.md",
    ] {
        assert!(Path::new(workspace()).join(page).is_file());
        blocks(page, &mut left_out);
    }
    let unused: Vec<_> = NOT_RUN.iter().filter(|(part, _)| !left_out.contains_key(part)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}
