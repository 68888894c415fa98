//! The operator's command, `infra/rotation`, with both major versions of the AWS CLI.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use aws_sdk_secretsmanager::types::{RotationRulesType, Tag};
use end_to_end::{FIELD, KEY_FIELD, SECRET, Scene};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::aws_cli::{tool, workspace};
use crate::stack;
use crate::support::*;

mod deliver;
mod help;
mod report;
mod rotate;
mod values;

const KEY: &str = "shop/production/encryption-key";
const COMMANDS: [&str; 16] = [
    "status",
    "verify",
    "doctor",
    "sweep",
    "report",
    "rotate",
    "rollback",
    "revoke",
    "abort",
    "compromise",
    "restore",
    "forget",
    "retire",
    "deliver",
    "put",
    "setup",
];

/// What a run of the command printed, and its exit code.
#[derive(Debug)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// An operator of a stack, with a folder of their own.
struct Person {
    scene: Scene,
    home: TempDir,
    cloudformation: String,
    /// Where the programs are, in order.
    path: Vec<PathBuf>,
    /// The variables that name the stack, or what its functions' names begin with: that takes a call less.
    names: Vec<(&'static str, &'static str)>,
}

impl Person {
    /// With the AWS CLI, version 1.
    async fn new() -> Self {
        let scene = start(no_target(json_plan())).await;
        stack::deploy(&scene).await;
        let (home, cloudformation) = (tempfile::tempdir().unwrap(), stack::cloudformation().await);
        let path = vec![tool("aws").parent().unwrap().to_owned()];
        let names =
            vec![("ROTATION_FUNCTIONS_PREFIX", "shop-production-"), ("ROTATION_NAME_PREFIX", "shop/production/")];
        Self { scene, home, cloudformation, path, names }
    }

    /// Who knows the name of the stack.
    fn of_stack(self) -> Self {
        Self { names: vec![("ROTATION_STACK", "shop-production-secret-rotation")], ..self }
    }

    /// With this folder's programs before the others.
    fn with_programs(mut self, folder: &Path) -> Self {
        self.path.insert(0, folder.to_owned());
        self
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let inherited = std::env::var_os("PATH").unwrap();
        let path = self.path.iter().cloned().chain(std::env::split_paths(&inherited));
        command.env_clear().env("PATH", std::env::join_paths(path).unwrap()).current_dir(self.home.path());
        command.envs([
            ("AWS_ENDPOINT_URL", self.scene.sandbox.endpoint().as_str()),
            ("AWS_ENDPOINT_URL_CLOUDFORMATION", &self.cloudformation),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "person"),
            ("AWS_SECRET_ACCESS_KEY", "person"),
        ]);
        command.envs(self.names.iter().copied());
        command.env("HOME", self.home.path()).env("TMPDIR", self.home.path()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the command without a terminal.
    async fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, "").await
    }

    async fn run_with(&self, arguments: &[&str], input: &str) -> Run {
        let mut command = self.command(workspace().join("infra/rotation"));
        command.args(arguments);
        // In a session of its own, so that the terminal of who runs the tests is out of reach.
        let mut detached = self.command("setsid");
        detached.arg("--wait").arg(command.as_std().get_program()).args(arguments);
        finish(detached, input).await
    }

    /// A secret as the template makes it: without a value, and with a function that rotates it.
    async fn empty(&self, name: &str, kind: &str, field: &str) {
        let client = &self.scene.client;
        let tags = [("rotation:field", field), ("owner", "the platform team")];
        let tags = tags.map(|(key, value)| Tag::builder().key(key).value(value).build()).to_vec();
        client.create_secret().name(name).secret_string("{}").set_tags(Some(tags)).send().await.unwrap();
        self.rotated_by(name, kind).await;
    }

    async fn rotated_by(&self, name: &str, kind: &str) {
        let function = format!("arn:aws:lambda:us-east-1:000000000000:function:shop-production-{kind}");
        let rules = RotationRulesType::builder().automatically_after_days(90).build();
        let begun = self.scene.client.rotate_secret().secret_id(name).rotation_lambda_arn(function);
        begun.rotation_rules(rules).rotate_immediately(false).send().await.unwrap();
        self.scene.sandbox.wait_for_rotation(name, end_to_end::ROTATION_TIMEOUT).await.unwrap();
    }

    /// The scene's own secret, with the stack's function.
    async fn with_token(self) -> Self {
        self.rotated_by(SECRET, "admin-token").await;
        self
    }

    async fn unmanaged(&self, name: &str, value: &str) {
        self.scene.client.create_secret().name(name).secret_string(value).send().await.unwrap();
    }

    async fn value(&self, name: &str) -> String {
        self.scene.client.get_secret_value().secret_id(name).send().await.unwrap().secret_string.unwrap()
    }
}

async fn finish(mut command: Command, input: &str) -> Run {
    let mut process = command.spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    // Who reads nothing may be gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = process.wait_with_output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Run { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// The folder with the AWS CLI, version 2. Its wheel holds an archive, which is unpacked once.
async fn version_2() -> PathBuf {
    let environment = verify::tools::AWS_CLI_2;
    let package =
        environment.package("aws_cdk/asset_awscli_v2").expect("`cargo verify` installs the AWS CLI, version 2");
    let folder = workspace().join(environment.folder).join("aws");
    if !folder.is_dir() {
        let script = workspace().join("tests/end-to-end/tests/main/command/unpack.py");
        let unpacked = Command::new(tool("python3")).arg(script).arg(package).arg(&folder).status().await.unwrap();
        assert!(unpacked.success());
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_day_is_one_command() {
    let person = Person::new().await.of_stack();
    person.empty("shop/production/first-token", "admin-token", FIELD).await;
    person.empty(KEY, "encryption-key", KEY_FIELD).await;
    person.unmanaged("shop/production/providers", "{}").await;
    let dotenv = "export META_APP_SECRET='meta-secret'\nOPENAI_API_KEY=sk-openai # comment\nSTRIPE_KEY=<your key>\n";
    std::fs::write(person.home.path().join(".env"), dotenv).unwrap();
    let setup = ["setup", "--env", ".env", "--into", "providers", "--yes", "--reason", "first day"];
    let run = person.run(&setup).await;
    assert_eq!(run.code, 4, "the placeholder is left: {run:?}");
    for line in [
        "shop/production/first-token: succeeded",
        "shop/production/encryption-key: succeeded",
        "META_APP_SECRET: stored in shop/production/providers",
        "STRIPE_KEY: skipped, line 3: it is a placeholder",
        "shop/production/encryption-key: verified by canaries under every key",
        "shop/production/first-token: not proven",
        "SECRET ",
    ] {
        assert!(run.out.contains(line), "{line}: {}", run.out);
    }
    let row = run.out.lines().find(|line| line.starts_with("shop/production/first-token  ")).unwrap();
    assert!(row.ends_with("the platform team"), "{row}");
    assert_eq!(
        person.value("shop/production/providers").await,
        r#"{"META_APP_SECRET":"meta-secret","OPENAI_API_KEY":"sk-openai"}"#
    );
    // A second day changes nothing.
    std::fs::write(person.home.path().join(".env"), "OPENAI_API_KEY=\"sk-openai\"\n").unwrap();
    let before = person.value(KEY).await;
    let again = person.run(&[&setup[..], &["--json"]].concat()).await;
    assert_eq!((again.code, &again.json()["complete"]), (0, &json!(true)), "{again:?}");
    assert_eq!(person.value(KEY).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_go_into_secrets_of_their_names() {
    let person = Person::new().await.with_token().await;
    person.unmanaged("shop/production/openai-api-key", "{}").await;
    std::fs::write(person.home.path().join("env"), "OPENAI_API_KEY=sk-1\nADMIN_TOKEN=abc\nREDIS_URL=redis://\n")
        .unwrap();
    let run = person.run(&["setup", "--env=env", "-y", "--reason", "import"]).await;
    assert_eq!(run.code, 4, "{run:?}");
    assert_eq!(person.value("shop/production/openai-api-key").await, "sk-1");
    assert!(run.out.contains("ADMIN_TOKEN: skipped: a function rotates shop/production/admin-token"), "{}", run.out);
    assert!(run.out.contains("create-secret --name shop/production/redis-url --secret-string '{}'"), "{}", run.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_is_asked_for_and_answered() {
    asks_for_every_action(&Person::new().await.with_token().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_is_answered_with_jaq_as_jq() {
    let programs = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(tool("jaq"), programs.path().join("jq")).unwrap();
    let person = Person::new().await.with_token().await.with_programs(programs.path());
    asks_for_every_action(&person).await;
    for table in [&["status"][..], &["status", SECRET], &["doctor", SECRET], &["report"]] {
        let run = person.run(table).await;
        assert!(run.out.contains(SECRET) && run.err.is_empty(), "{run:?}");
    }
}

async fn asks_for_every_action(person: &Person) {
    let why = ["--yes", "--json", "--reason", "a \"test\" of it"];
    for (arguments, code) in [
        (&["rotate", "admin-token", "--wait"][..], 0),
        (&["status", SECRET], 0),
        (&["verify", SECRET], 4),
        (&["doctor", SECRET], 4),
        (&["rollback", SECRET], 0),
        (&["revoke", SECRET], 0),
        (&["abort", SECRET], 0),
        (&["compromise", SECRET], 0),
        (&["sweep"], 0),
    ] {
        let run = person.run(&[arguments, &why].concat()).await;
        assert_eq!(run.code, code, "{arguments:?}: {run:?}");
        if arguments[0] != "status" {
            assert_eq!(run.json()["action"], arguments[0], "{run:?}");
        }
    }
    // A keyring that lacks keys.
    person.empty(KEY, "encryption-key", KEY_FIELD).await;
    assert_eq!(person.run(&["rotate", KEY, "--wait", "-y"]).await.code, 0);
    let ring = person.value(KEY).await;
    let stored = json!({ KEY_FIELD: "5e".repeat(32) }).to_string();
    person.scene.client.put_secret_value().secret_id(KEY).secret_string(stored).send().await.unwrap();
    let restored = person.run(&[&["restore", KEY][..], &why].concat()).await;
    assert_eq!(restored.code, 0, "{restored:?}");
    let id = restored.json()["restored"][0].as_str().unwrap().to_owned();
    assert!(ring.contains(&id) && person.value(KEY).await.contains(&id));
    let refused = person.run(&[&["forget", KEY, &id][..], &why].concat()).await;
    assert_eq!(refused.code, 1, "nothing is missing: {refused:?}");
    assert!(refused.err.contains(": "), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_secrets_are_a_table_or_json() {
    let person = Person::new().await.with_token().await;
    person.empty(KEY, "encryption-key", KEY_FIELD).await;
    let hostile = Tag::builder().key("owner").value("red \u{1b}[31m team").build();
    person.scene.client.tag_resource().secret_id(SECRET).tags(hostile).send().await.ok();
    let table = person.run(&["status"]).await;
    assert!(table.code == 0 && table.out.starts_with("SECRET ") && !table.out.contains('\u{1b}'), "{table:?}");
    let secrets = person.run(&["status", "--json"]).await.json()["secrets"].clone();
    assert_eq!(secrets.as_array().unwrap().len(), 2, "{secrets:#}");
    assert_eq!((&secrets[1]["secret"], &secrets[1]["owner"]), (&json!(KEY), &json!("the platform team")));
}
