//! A copy that differs, and what `infra/RUNBOOK-DELIVERY.md` says to do: its commands, as they stand there.

use application::KeyFormat;
use end_to_end::{FIELD, KEY_FIELD, KEY_SECRET, Plan, SECRET, Scene};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::aws_cli::workspace;
use crate::keys::{bare_key, declared, key_secret, parsed};
use crate::support::*;

const COPY: &str = "shop/production/app";
const THEIRS: &str = "a token that somebody stored in the copy";
/// What the page shows of a member that is missing.
const MISSING: &str = "74234e98afe7";

/// The commands of the section: compare; take the copy's token; take the copy's key; clear the copy; deliver.
fn blocks() -> Vec<String> {
    let page = std::fs::read_to_string(workspace().join("infra/RUNBOOK-DELIVERY.md")).unwrap();
    let (_, section) = page.split_once("\n## When a copy differs\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks: Vec<_> = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 5, "the section has other commands");
    blocks.into_iter().map(|block| block.lines().map(str::trim).collect::<Vec<_>>().join("\n")).collect()
}

/// A delivered secret with a copy.
struct Copied {
    scene: Scene,
    home: TempDir,
}

impl Copied {
    async fn new(plan: Plan, consumed: &str) -> Self {
        let consumers = json!({ consumed: [{ "copy": "production/app" }] });
        let scene = start(once(no_target(plan)).also(COPY, r#"{"URL":"u"}"#).consumers(consumers)).await;
        scene.configure().await.unwrap();
        scene.deliver_all().await.unwrap();
        Self { scene, home: tempfile::tempdir().unwrap() }
    }

    async fn members(&self, name: &str) -> Value {
        let value = self.scene.client.get_secret_value().secret_id(name).send().await.unwrap();
        serde_json::from_str(&value.secret_string.unwrap()).unwrap()
    }

    /// Somebody stores another value in the copy, and `deliver` refuses to overwrite it.
    async fn differs(&self, field: &str, value: &str) {
        let mut copy = self.members(COPY).await;
        copy[field] = json!(value);
        let stored = self.scene.client.put_secret_value().secret_id(COPY).secret_string(copy.to_string());
        stored.send().await.unwrap();
        self.scene.until_events_are_handled().await.unwrap();
        let told = self.scene.deliver(&json!({})).await.unwrap().unwrap();
        assert_eq!(told["secrets"][0]["consumers"][0]["error"], "CopyDiffers", "{told}");
    }

    /// What the commands print. None of them prints a value.
    async fn types(&self, commands: &str) -> String {
        let (secret, field) = if self.scene.secret() == SECRET { (SECRET, FIELD) } else { (KEY_SECRET, KEY_FIELD) };
        let defined: Vec<String> =
            blocks()[0].lines().filter(|line| !line.starts_with("for ")).map(str::to_owned).collect();
        let script = format!("{}\n{commands}", defined.join("\n")).replace(SECRET, secret).replace(FIELD, field);
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]).current_dir(self.home.path()).kill_on_drop(true);
        let (infra, tools) = (workspace().join("infra"), workspace().join("target/tools/bin"));
        let path = format!("{}:{}:{}", infra.display(), tools.display(), std::env::var("PATH").unwrap());
        command.env_clear().env("PATH", path).env("HOME", self.home.path()).env("ROTATION_YES", "1");
        command.env("AWS_ENDPOINT_URL", self.scene.sandbox.endpoint()).env("AWS_DEFAULT_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "person").env("AWS_SECRET_ACCESS_KEY", "person");
        let values = [self.members(secret).await[field].clone(), self.members(COPY).await[field].clone()];
        let output = command.output().await.unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{commands}\n{printed}\n{complained}");
        let told = |value: &Value| value.as_str().is_some_and(|value| printed.contains(value));
        assert!(!values.iter().any(told), "a value is printed: {printed}");
        printed
    }

    /// The steps of this choice, to the end of the delivery.
    async fn decides(&self, choice: Option<usize>) {
        for step in choice.into_iter().chain([3]) {
            self.types(&blocks()[step]).await;
        }
        let printed = self.types(&blocks()[4]).await;
        assert!(printed.contains(": delivered"), "{printed}");
        self.scene.until_events_are_handled().await.unwrap();
        assert!(self.scene.is_delivered().await.unwrap());
        assert_eq!(self.members(COPY).await["URL"], "u");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runbook_ends_a_difference_by_either_token() {
    let copied = Copied::new(json_plan(), "production/admin-token").await;
    let ours = copied.members(SECRET).await[FIELD].clone();
    copied.differs(FIELD, THEIRS).await;
    let compared = copied.types(&blocks()[0]).await;
    let lines: Vec<Vec<&str>> = compared.lines().map(|line| line.split(' ').collect()).collect();
    assert!(lines[0][0] == FIELD && lines[0][1] != lines[0][2] && lines[0][2] != MISSING, "{compared}");
    assert_eq!(lines[1][1..], [MISSING, MISSING], "{compared}");

    copied.decides(None).await;
    assert_eq!(copied.members(COPY).await[FIELD], ours);
    copied.differs(FIELD, THEIRS).await;
    copied.decides(Some(1)).await;
    assert_eq!(
        (&copied.members(COPY).await[FIELD], &copied.members(SECRET).await[FIELD]),
        (&json!(THEIRS), &json!(THEIRS))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn runbook_keeps_every_key_of_a_copy_that_differs() {
    let value = key_secret(&bare_key(KeyFormat::Raw, 1));
    let copied = Copied::new(declared(Plan::key_json(&value, KeyFormat::Raw)), "production/encryption-key").await;
    rotate(&copied.scene).await;
    copied.scene.deliver_all().await.unwrap();
    let before = copied.members(KEY_SECRET).await;
    // Twice: the secret has no secondary key at first, and then one.
    for seed in [8, 9] {
        let theirs = bare_key(KeyFormat::Raw, seed);
        copied.differs(KEY_FIELD, &theirs).await;
        copied.decides(Some(2)).await;
        let [source, copy] = [copied.members(KEY_SECRET).await, copied.members(COPY).await];
        assert_eq!((&source[KEY_FIELD], &copy[KEY_FIELD]), (&before[KEY_FIELD], &before[KEY_FIELD]));
        let (ring, previous) =
            (parsed(KeyFormat::Raw, &copy.to_string(), true).1, &copy["TOKEN_ENCRYPTION_KEY_PREVIOUS"]);
        assert!(previous.as_str().unwrap().ends_with(&theirs) && *previous == source["TOKEN_ENCRYPTION_KEY_PREVIOUS"]);
        assert_eq!(ring.keys().count(), 2 + usize::try_from(seed - 7).unwrap(), "primary, staged, and theirs");
    }
}
