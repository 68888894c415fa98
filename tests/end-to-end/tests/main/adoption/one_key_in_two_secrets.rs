//! A service of two halves with one JSON secret each. Both secrets hold the key of the rows in PostgreSQL, and a script
//! edits other members at any moment.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use application::{KeyFormat, RecordLoad, RecordLoadSettings};
use end_to_end::connections::Connections;
use end_to_end::postgres::{PASSWORD, Postgres};
use end_to_end::{KEY_FIELD, program};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rotation::keyring::Keyring;
use sandbox::{Fault, FaultRule, ServiceDeclaration, member, secret};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::page::Section;
use super::team::{QUARTER, Team};
use crate::keys::{bare_key, parsed};
use crate::support::eventually;

const APP: &str = "autorepost/staging/app";
const WORKER: &str = "autorepost/staging/worker";
const KEY: &str = "autorepost/staging/encryption-key";
const DELIVER: &str = "autorepost-staging-deliver";
/// Where the members of the key begin in both secrets, and the member behind them.
const OWN: &str = "\"TOKEN_ENCRYPTION_KEY\"";
const BEHIND: &str = "\"TIKTOK_COOKIE\"";
/// How long a call of `deliver` waits while the script edits.
const HELD: Duration = Duration::from_millis(300);
/// The seed of the moments of the edits.
const SEED: u64 = 16;

/// What the team has: all members, as a person has typed them.
fn layout(database: &str, key: &str, further: &str) -> String {
    format!(
        r#"{{
  "DATABASE_URL": "{database}?application_name=edit-0",
  "REDIS_URL" : "rediss://cache.internal:6380/0",
  "TOKEN_ENCRYPTION_KEY": "{key}",
  "TIKTOK_COOKIE": "[{{\"name\":\"sessionid\",\"value\":\"0\"}}]",
  "TIKTOK_SESSION_ID": "session-0",
  "TIKTOK_WEBID": "verify_0",
  "S3_ENDPOINT": "https://objects.internal", "S3_BUCKET": "clips",
  "S3_ACCESS_KEY_ID": "an-access-key", "S3_SECRET_ACCESS_KEY": "a-secret-access-key",
  "INSTAGRAM_APP_ID": "1000000000000001", "INSTAGRAM_APP_SECRET": "an-app-secret",
  "YOUTUBE_CLIENT_ID": "a-client.example", "YOUTUBE_CLIENT_SECRET": "a-client-secret",
  "TWITTER_CONSUMER_KEY": "a-consumer-key", "TWITTER_CONSUMER_SECRET": "a-consumer-secret",
  "PROMETHEUS_PUSH_URL": "https://push.internal/\u00e4",
  "SUPABASE_URL": "https://project.internal", "SUPABASE_SERVICE_ROLE_KEY": "a-service-role-key",
  "SUPABASE_JWT_SECRET": "a-jwt-secret",  "SUPABASE_ANON_KEY": "an-anon-key"{further}
}}
"#
    )
}

/// All that is not of the key, byte for byte.
fn others(text: &str) -> (String, String) {
    let (before, rest) = text.split_once(OWN).unwrap();
    let (own, behind) = rest.split_once(BEHIND).unwrap();
    assert!(!own.contains("_URL") && !own.contains("TIKTOK"), "the members of the key stand together");
    (before.to_owned(), behind.to_owned())
}

/// The text with another value of a member.
fn with(text: &str, member: &str, value: &str) -> String {
    let start = text.find(&format!("\"{member}\": \"")).unwrap() + member.len() + 5;
    let mut escaped = false;
    let end = text[start..].find(|character| {
        let ends = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        ends
    });
    format!("{}{value}{}", &text[..start], &text[start + end.unwrap()..])
}

/// The script that replaces members. It remembers what it wrote last.
struct Script {
    team: Arc<Team>,
    database: String,
    number: Mutex<u32>,
    written: Mutex<BTreeMap<&'static str, (String, String)>>,
}

impl Script {
    /// The text with new members.
    async fn edited(&self, text: &str) -> String {
        let mut number = self.number.lock().await;
        *number += 1;
        let cookie = format!(r#"[{{\"name\":\"sessionid\",\"value\":\"{number}\"}}]"#);
        let text = with(text, "DATABASE_URL", &format!("{}?application_name=edit-{number}", self.database));
        let text = with(&text, "TIKTOK_COOKIE", &cookie);
        let text = with(&text, "TIKTOK_SESSION_ID", &format!("session-{number}"));
        with(&text, "TIKTOK_WEBID", &format!("verify_{number}"))
    }

    /// Reads a secret, and writes it.
    async fn edits(&self, name: &'static str) {
        self.writes(name, &self.team.value(name).await).await;
    }

    /// Writes a secret from what was read of it before.
    async fn writes(&self, name: &'static str, read: &str) {
        let mut written = self.written.lock().await;
        let text = self.edited(read).await;
        self.team.stores(name, &text).await;
        written.insert(name, others(&text));
    }

    /// Edits at seeded moments until it is stopped.
    fn runs(self: &Arc<Self>, seed: u64) -> JoinHandle<()> {
        let (script, mut rng) = (Arc::clone(self), StdRng::seed_from_u64(seed));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(rng.random_range(400..2500))).await;
                let name = if rng.random() { APP } else { WORKER };
                script.edits(name).await;
            }
        })
    }

    /// Edits both secrets while the next call of this operation by `deliver`, or one of those after it, waits.
    fn edits_during(self: &Arc<Self>, operation: &'static str, nth: u64) -> JoinHandle<()> {
        let held = Fault::Delay { millis: HELD.as_millis().try_into().unwrap() };
        let rule = FaultRule::on(operation, held).from_caller(DELIVER).nth(nth);
        let (script, rule) = (Arc::clone(self), self.team.sandbox.faults().add(rule));
        tokio::spawn(async move {
            let waits = || async {
                let rules = script.team.sandbox.faults().list();
                rules.iter().any(|(id, _, matched)| *id == rule && *matched >= nth)
            };
            eventually("a call of deliver", waits).await;
            script.edits(APP).await;
            script.edits(WORKER).await;
        })
    }

    async fn assert_kept(&self) {
        for (name, written) in &*self.written.lock().await {
            assert_eq!(others(&self.team.value(name).await), *written, "{name}");
        }
    }
}

/// A half of the service: its tasks read the environment when they start.
async fn service(name: &str, of: &str) -> ServiceDeclaration {
    ServiceDeclaration::new("autorepost", name, program("application").await.unwrap())
        .with_variable("SECRET_JSON", "a token of an admin interface that nobody asks")
        .with_variable("KEYRING_FIELD", KEY_FIELD)
        .with_variable("LOG_LEVEL", "error")
        .with_secret("KEYRING_JSON", &secret(of))
        .with_secret("DATABASE_URL", &member(of, "DATABASE_URL"))
}

/// The layout before the adoption, and a load of rows.
struct Adoption {
    team: Arc<Team>,
    script: Arc<Script>,
    rows: RecordLoad,
    first_key: String,
    _server: Postgres,
}

impl Adoption {
    async fn begin() -> Self {
        let quick = ["fsync=off", "synchronous_commit=off", "full_page_writes=off"];
        let server = tokio::task::spawn_blocking(move || Postgres::start(&quick).unwrap()).await.unwrap();
        let database = Connections::create(&server).await.unwrap().application();
        let (user, name) = (database.get_user().unwrap(), database.get_dbname().unwrap());
        let database = format!("postgresql://{user}:{PASSWORD}@127.0.0.1:{}/{name}", server.port());
        let (team, first_key) = (Arc::new(Team::new().await), bare_key(KeyFormat::Raw, SEED));
        let mut written = BTreeMap::new();
        for (name, further) in [(APP, ""), (WORKER, ",\n  \"METRICS_PORT\": \"9400\"")] {
            let text = layout(&database, &first_key, further);
            team.has(name, &text).await;
            written.insert(name, others(&text));
        }
        for (name, of) in [("app", APP), ("worker", WORKER)] {
            team.sandbox.ecs().run(service(name, of).await).await.unwrap();
        }
        let address = team.sandbox.ecs().service("autorepost/app").unwrap().address;
        let [workers, rate] = [4, 5].map(|number| NonZeroU32::new(number).unwrap());
        let rows = RecordLoad::start(RecordLoadSettings { address, workers, rate, first: 5, seed: SEED });
        let (number, written) = (Mutex::default(), Mutex::new(written));
        let script = Arc::new(Script { team: Arc::clone(&team), database, number, written });
        Self { team, script, rows, first_key, _server: server }
    }

    async fn ring(&self) -> Keyring {
        parsed(KeyFormat::Raw, &self.team.value(KEY).await, true).1
    }

    /// A rotation and its delivery while the script edits: at seeded moments, and between the read of a copy and the
    /// move to the new one. Then both secrets hold the source's keys.
    async fn delivers_under_edits<T>(&self, seed: u64, rotation: impl Future<Output = T>) -> T {
        let puts = self.puts();
        let mut rng = StdRng::seed_from_u64(seed);
        let running = self.script.runs(seed);
        let mut held = vec![self.script.edits_during("PutSecretValue", 1)];
        for operation in ["GetSecretValue", "DescribeSecret", "UpdateSecretVersionStage"] {
            held.push(self.script.edits_during(operation, rng.random_range(1..=6)));
        }
        let rotated = rotation.await;
        self.team.rotated(KEY).await;
        self.team.until_delivered(DELIVER, &[KEY]).await;
        for one in held {
            one.await.unwrap();
        }
        running.abort();
        let _ = running.await;
        self.team.until_delivered(DELIVER, &[KEY]).await;
        self.assert_copied().await;
        assert!(self.puts() > puts + 2, "the edit of the first copy has it written again");
        rotated
    }

    async fn assert_copied(&self) {
        let source = self.team.members(KEY).await;
        for name in [APP, WORKER] {
            let copy = self.team.members(name).await;
            let own = |value: &Value| -> BTreeMap<String, Value> {
                let members = value.as_object().unwrap().clone().into_iter();
                members.filter(|(name, _)| name.starts_with(KEY_FIELD)).collect()
            };
            assert_eq!(own(&copy), own(&source), "{name}");
        }
        self.script.assert_kept().await;
    }

    fn puts(&self) -> u64 {
        self.team.sandbox.calls_of(DELIVER).get("PutSecretValue").copied().unwrap_or_default()
    }

    /// Steps 1 to 5: the key moves without a change.
    async fn moves_the_key(&self, section: &mut Section) {
        let same = |printed: &str, lines: usize| {
            let sums: Vec<&str> = printed.lines().filter(|line| line.ends_with(" -")).collect();
            assert!(sums.len() == lines && sums.iter().all(|sum| *sum == sums[0]), "{printed}");
        };
        same(&self.team.types(&section.commands()).await, 2);
        self.team.deploys(&section.parameters()).await;
        same(&self.team.types(&section.commands()).await, 3);
        self.team.deploys(&section.parameters()).await;
        self.team.uses_none_of(&["autorepost/staging/admin-token"]).await;
        let before = self.puts();
        let answers = self.team.types(&section.commands()).await;
        assert!(answers.contains("a deployment would be started"), "{answers}");
        self.team.until_delivered(DELIVER, &[KEY]).await;
        assert_eq!(self.puts(), before, "both copies are equal already");
        assert_eq!(self.team.members(KEY).await, json!({ KEY_FIELD: self.first_key }));
        self.assert_copied().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_of_two_secrets_rotates_while_a_script_edits_both() {
    let adoption = Adoption::begin().await;
    let (team, script) = (Arc::clone(&adoption.team), Arc::clone(&adoption.script));
    let mut section = Section::of("One key in two JSON secrets");
    adoption.moves_the_key(&mut section).await;

    // Step 6 stages the next key, and step 7 delivers it.
    let rotate = section.commands();
    let stages = adoption.delivers_under_edits(1, team.types(&rotate)).await;
    assert!(stages.contains("ROTATION-DELIVERED"), "{stages}");
    let printed = team.types(&section.commands()).await;
    assert_eq!(printed.matches("\"TOKEN_ENCRYPTION_KEY_STAGED\"").count(), 2, "{printed}");
    section.ends();

    // Each quarter the staged key becomes primary, and nobody types anything.
    for quarter in 2..=3 {
        let (before, old) = (adoption.ring().await, team.value(WORKER).await);
        adoption.delivers_under_edits(quarter, team.advances(QUARTER)).await;
        let after = adoption.ring().await;
        assert_eq!(Some(after.primary().id()), before.staged().map(|key| key.id()));
        // A run of the script that began before the rotation: it writes the keys of then.
        script.writes(WORKER, &old).await;
        team.until_events_are_handled().await;
        team.until_delivered(DELIVER, &[KEY]).await;
        adoption.assert_copied().await;
    }
    let previous = team.members(APP).await["TOKEN_ENCRYPTION_KEY_PREVIOUS"].as_str().unwrap().to_owned();
    assert!(previous.contains(&adoption.first_key), "the rows of the first key stay readable");

    let addresses = ["app", "worker"].map(|half| team.sandbox.ecs().service(&format!("autorepost/{half}")).unwrap());
    let report = adoption.rows.finish(&addresses.map(|service| service.address)).await;
    assert_eq!((report.unreadable, report.lost, report.failed), (0, 0, 0), "{report:?}");
    assert!(report.written > 50, "{report:?}");
    println!("edits: {}; rows: {report:?}", *script.number.lock().await);
}
