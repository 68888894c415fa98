//! The state machine at work: on an emulator of Step Functions and Lambda that enforces the worker's role, with the function that `sam
//! build` made, on the rows of a real PostgreSQL.
//!
//! The emulator runs all waits and pauses at a hundredth of their length. It neither asks for the state machine's own role nor scatters
//! the pauses between attempts: these are asserted on the template and on the definition.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::document::FieldName;
use rotation::keyring::{Ciphers, Key, KeyFormat, KeyMaterial};
use rotation::rows::{Encoding, Opened, RowCodec, RowFormat};
use rotation::secret::SecretText;
use serde_json::{Value, json};
use stored_rows::{PASSWORD, Postgres};
use template::{Stack, root, text};
use tokio_postgres::Client;

use crate::build::{architecture, built};
use crate::definition::definition;
use crate::emulator::{Emulator, Hands};
use crate::permissions::{without_conditions, without_each};
use crate::policies::policies;
use crate::support::*;

const KEY_SECRET: &str = "shop/staging/encryption-key";
const OLD: u8 = 1;
const NEW: u8 = 2;
const WAIT_SCALE: f64 = 0.01;

/// Stands in for the sweep's deployment of operate, as far as the state machine knows it: two censuses, and when they are apart. It answers
/// with what it was asked.
const RETIRES: &str = r#"
import datetime, json, os, urllib.request

def post(path, answer):
    urllib.request.urlopen(urllib.request.Request(api + path, json.dumps(answer).encode(), method="POST")).read()

api = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/invocation/"
when = lambda text: datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
while True:
    with urllib.request.urlopen(api + "next") as invocation:
        name, event = invocation.headers["Lambda-Runtime-Aws-Request-Id"], json.loads(invocation.read())
    first, second = event["censuses"]
    if when(second["began"]) - when(first["ended"]) < datetime.timedelta(seconds=3):
        post(name + "/error", {"errorType": "CensusesTooClose", "errorMessage": "wait for 3 seconds"})
    else:
        post(name + "/response", {"retired": ["0badcafe"], "asked": event})
"#;

fn server() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| Postgres::start(&["fsync=off", "synchronous_commit=off", "full_page_writes=off"]).unwrap())
}

fn key(seed: u8) -> Key {
    Key::new(KeyMaterial::new(&[seed; 32]).unwrap())
}

/// The JSON secret of a raw ring, the primary first.
fn ring(seeds: &[u8]) -> String {
    let keys: Vec<String> = seeds.iter().map(|seed| STANDARD.encode(key(*seed).material().expose())).collect();
    let mut ring = json!({ "TOKEN_ENCRYPTION_KEY": keys[0] });
    if keys.len() > 1 {
        ring["TOKEN_ENCRYPTION_KEY_PREVIOUS"] = json!(keys[1..].join(","));
    }
    ring.to_string()
}

fn ciphers(seeds: &[u8]) -> Ciphers {
    let wire = KeyFormat::Raw.wire();
    let field = FieldName::new("TOKEN_ENCRYPTION_KEY");
    let document = wire.document(SecretText::new(ring(seeds)), field.as_ref()).unwrap();
    wire.ciphers(&document).unwrap()
}

fn sealed(seed: u8, text: &str, random: u64) -> String {
    let ciphers = ciphers(&[seed]);
    let (_, cipher) = ciphers.iter().next().unwrap();
    STANDARD.encode(cipher.seal_bytes(text.as_bytes(), b"", 0, &mut StdRng::seed_from_u64(random)).unwrap())
}

/// The stack on the emulator: the worker, and the state machine.
struct Machine {
    hands: Hands,
    sql: Client,
    schema: String,
    stack: Stack,
    arn: String,
    queue: String,
    emulator: Emulator,
}

impl Machine {
    /// With `rows` values under the old key, the primary key being the new one. `parameters` are further ones of the template.
    async fn new(rows: i64, parameters: &[(&str, &str)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let schema = format!("machine_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let sql = server().connect().await.unwrap();
        let made = format!(
            "CREATE SCHEMA {schema}; CREATE ROLE {schema} LOGIN PASSWORD '{PASSWORD}'; GRANT USAGE ON SCHEMA {schema} TO {schema};
             CREATE TABLE {schema}.rows (id bigint PRIMARY KEY, token text);
             GRANT SELECT, UPDATE (token) ON {schema}.rows TO {schema}"
        );
        sql.batch_execute(&made).await.unwrap();
        let (ids, tokens): (Vec<i64>, Vec<String>) =
            (1..=rows).map(|id| (id, sealed(OLD, &format!("text {id}"), id.unsigned_abs()))).unzip();
        let insert = format!("INSERT INTO {schema}.rows SELECT * FROM unnest($1::int8[], $2::text[])");
        sql.execute(&insert, &[&ids, &tokens]).await.unwrap();

        let emulator = Emulator::start_with(&[("SFN_WAIT_SCALE", &WAIT_SCALE.to_string())]);
        let mut hands = Hands::new(emulator.endpoint(), "none", "none");
        let user = json!({ "username": schema, "password": PASSWORD }).to_string();
        let create = |hands: &mut Hands, name: &str, value: &str| {
            let parameters = json!({ "Name": name, "SecretString": value });
            text(&hands.root("secretsmanager", "create_secret", parameters)["ARN"])
        };
        let database = create(&mut hands, "shop/staging/database", &user);
        let keyring = create(&mut hands, KEY_SECRET, &ring(&[NEW, OLD]));
        let tag =
            json!({ "SecretId": KEY_SECRET, "Tags": [{ "Key": "rotation:field", "Value": "TOKEN_ENCRYPTION_KEY" }] });
        hands.root("secretsmanager", "tag_resource", tag);

        let column = json!([{ "schema": schema, "table": "rows", "column": "token", "format": "aes-gcm" }]).to_string();
        let port = server().port().to_string();
        let mut all: BTreeMap<&str, &str> = LEAST.into_iter().collect();
        all.extend([
            ("Architecture", architecture()),
            ("ReencryptColumns", column.as_str()),
            ("DatabaseSecretArn", &database),
            ("DatabaseHost", "127.0.0.1"),
            ("DatabasePort", &port),
            ("DatabaseName", "postgres"),
            ("ReencryptSlices", "4"),
            ("ReencryptRounds", "2"),
            ("ReencryptRoundWaitSeconds", "100"),
            ("ReencryptCensusWaitSeconds", "200"),
        ]);
        all.extend(parameters.iter().copied());
        let attributes = [("EncryptionKeySecret".to_owned(), keyring)].into();
        let stack = templates().resolve(&all.into_iter().collect::<Vec<_>>(), &attributes).unwrap();
        let mut machine = Self { hands, sql, schema, stack, arn: String::new(), queue: String::new(), emulator };
        machine.deploy();
        machine
    }

    fn deploy(&mut self) {
        for role in ["ReencryptRole", "StateMachineRole"] {
            let trust = self.stack.of_type("AWS::IAM::Role")[role]["AssumeRolePolicyDocument"].to_string();
            self.hands.root("iam", "create_role", json!({ "RoleName": role, "AssumeRolePolicyDocument": trust }));
            let policy = without_conditions(policies(&self.stack)[role].clone()).to_string();
            let parameters = json!({ "RoleName": role, "PolicyName": "rotation", "PolicyDocument": policy });
            self.hands.root("iam", "put_role_policy", parameters);
        }

        let functions = self.stack.of_type("AWS::Serverless::Function");
        let worker = functions["ReencryptFunction"].clone();
        let sweep = functions["SweepFunction"]["FunctionName"].clone();
        let mut environment = worker["Environment"].clone();
        environment["Variables"]["AWS_ENDPOINT_URL"] = json!(self.emulator.endpoint());
        for value in environment["Variables"].as_object_mut().unwrap().values_mut() {
            *value = json!(text(value));
        }
        let zip = self.hands.zip(&built()["ReencryptFunction"]);
        let parameters = json!({
            "FunctionName": worker["FunctionName"],
            "Runtime": worker["Runtime"],
            "Handler": worker["Handler"],
            "Architectures": worker["Architectures"],
            "MemorySize": text(&worker["MemorySize"]).parse::<u64>().unwrap(),
            "Timeout": worker["Timeout"],
            "Role": worker["Role"],
            "Environment": environment,
            "Code": { "ZipFile": zip.base64 },
        });
        self.hands.root("lambda", "create_function", parameters);
        let stand_in = tempfile::tempdir().unwrap();
        let bootstrap = stand_in.path().join("bootstrap");
        let python = root().join("target/tools/bin/python");
        std::fs::write(&bootstrap, format!("#!{}\n{RETIRES}", python.display())).unwrap();
        let zip = self.hands.zip(stand_in.path());
        let parameters = json!({
            "FunctionName": sweep,
            "Runtime": "provided.al2023",
            "Handler": "bootstrap",
            "Role": worker["Role"],
            "Code": { "ZipFile": zip.base64 },
        });
        self.hands.root("lambda", "create_function", parameters);

        let machine = self.stack.of_type("AWS::Serverless::StateMachine")["Reencryption"].clone();
        let topic = text(&machine["DefinitionSubstitutions"]["TopicArn"]);
        let made = self.hands.root("sns", "create_topic", json!({ "Name": topic.rsplit(':').next().unwrap() }));
        assert_eq!(made["TopicArn"], topic);
        let admits = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": { "Service": "sns.amazonaws.com" }, "Action": "sqs:SendMessage", "Resource": "*",
        }]});
        let parameters = json!({ "QueueName": "messages", "Attributes": { "Policy": admits.to_string() } });
        let queue = self.hands.root("sqs", "create_queue", parameters);
        self.queue = text(&queue["QueueUrl"]);
        let endpoint = "arn:aws:sqs:us-east-1:000000000000:messages";
        let parameters = json!({ "TopicArn": topic, "Protocol": "sqs", "Endpoint": endpoint });
        self.hands.root("sns", "subscribe", parameters);
        let mut written = definition();
        for (name, value) in machine["DefinitionSubstitutions"].as_object().unwrap() {
            written = written.replace(&format!("${{{name}}}"), &text(value));
        }
        let parameters =
            json!({ "name": machine["Name"], "definition": written, "roleArn": machine["Role"], "type": "STANDARD" });
        self.arn = text(&self.hands.root("stepfunctions", "create_state_machine", parameters)["stateMachineArn"]);
    }

    fn version(&mut self) -> String {
        let described = self.hands.root("secretsmanager", "describe_secret", json!({ "SecretId": KEY_SECRET }));
        let versions = described["VersionIdsToStages"].as_object().unwrap();
        versions.iter().find(|(_, stages)| texts(stages).contains(&"AWSCURRENT")).unwrap().0.clone()
    }

    /// Starts an execution as a sweep does.
    fn start(&mut self, version: &str) -> String {
        let input = json!({ "secret_id": KEY_SECRET, "version": version }).to_string();
        let parameters = json!({ "stateMachineArn": self.arn, "name": format!("0-{version}"), "input": input });
        text(&self.hands.root("stepfunctions", "start_execution", parameters)["executionArn"])
    }

    fn describe(&mut self, execution: &str) -> Value {
        self.hands.root("stepfunctions", "describe_execution", json!({ "executionArn": execution }))
    }

    /// The execution at its end.
    fn wait(&mut self, execution: &str) -> Value {
        let began = Instant::now();
        loop {
            let described = self.describe(execution);
            if described["status"] != "RUNNING" {
                return described;
            }
            if began.elapsed() > Duration::from_secs(180) {
                panic!("it does not end: {:?}", self.history(execution));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The states that were entered, and the errors of tasks.
    fn history(&mut self, execution: &str) -> Vec<String> {
        let parameters = json!({ "executionArn": execution, "maxResults": 1000 });
        let history = self.hands.root("stepfunctions", "get_execution_history", parameters);
        let told = |event: &Value| {
            let entered = event["stateEnteredEventDetails"]["name"].as_str();
            entered.or(event["taskFailedEventDetails"]["error"].as_str()).map(str::to_owned)
        };
        items(&history["events"]).into_iter().filter_map(told).collect()
    }

    /// The subjects of the messages that came.
    fn subjects(&mut self) -> Vec<String> {
        let parameters = json!({ "QueueUrl": self.queue, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 2 });
        let messages = self.hands.root("sqs", "receive_message", parameters);
        let subject = |message: &Value| {
            let body: Value = serde_json::from_str(message["Body"].as_str().unwrap()).unwrap();
            text(&body["Subject"])
        };
        items(&messages["Messages"]).into_iter().map(subject).collect()
    }

    /// Under which key each row is; every row that was given can be read as it was.
    async fn under(&self) -> BTreeMap<i64, Option<u8>> {
        let select = format!("SELECT id, token FROM {}.rows ORDER BY id", self.schema);
        let rows = self.sql.query(&select, &[]).await.unwrap();
        let ciphers = ciphers(&[3, NEW, OLD]);
        let codec = RowCodec::new(RowFormat::AesGcm, Encoding::Base64, &ciphers);
        let under = rows.iter().map(|row| {
            let (id, token) = (row.get::<_, i64>(0), row.get::<_, String>(1));
            let under = match codec.open(token.as_bytes(), b"") {
                Opened::Under(key_id, opened) => {
                    assert_eq!(std::str::from_utf8(&opened).unwrap(), format!("text {id}"));
                    [3, NEW, OLD].into_iter().find(|seed| key(*seed).id() == key_id)
                }
                Opened::Unknown | Opened::Damaged => None,
            };
            (id, under)
        });
        under.collect()
    }

    async fn count(&self, seed: Option<u8>) -> usize {
        self.under().await.values().filter(|under| **under == seed).count()
    }

    async fn run(&self, statements: &str) {
        self.sql.batch_execute(&statements.replace("{schema}", &self.schema)).await.unwrap();
    }

    /// The processes of the worker that are there now.
    fn workers(&self) -> Vec<u32> {
        let home = self.emulator.home();
        let processes =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let program = |process: &u32| std::fs::read_link(format!("/proc/{process}/exe")).unwrap_or_default();
        let ours = |path: PathBuf| path.starts_with(home) && path.file_name().is_some_and(|name| name == "bootstrap");
        processes.filter(|process| ours(program(process))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_follow_the_key_though_workers_are_killed_and_then_it_is_retired() {
    let rows = 1_200;
    // Four slices, two at once, of some seconds each.
    let slow = [("ReencryptRowsPerSecond", "100"), ("ReencryptBatchRows", "10")];
    let mut machine = Machine::new(rows, &slow).await;
    let version = machine.version();
    let execution = machine.start(&version);
    let mut killed = BTreeSet::new();
    while killed.len() < 3 {
        // In the middle of the work: some rows are rewrapped since the last time, and some are left.
        let before = machine.count(Some(NEW)).await;
        let began = Instant::now();
        while machine.count(Some(NEW)).await < before + 60 {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", machine.history(&execution));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if let Some(process) = machine.workers().into_iter().find(|process| !killed.contains(process)) {
            let status = std::process::Command::new("kill").args(["-KILL", &process.to_string()]).status().unwrap();
            assert!(status.success());
            killed.insert(process);
        }
    }
    assert!(machine.count(Some(OLD)).await > 0, "they were killed in the middle of the work");
    let ended = machine.wait(&execution);
    let history = machine.history(&execution);
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}\n{history:?}");
    assert_eq!(machine.count(Some(NEW)).await, rows as usize, "no row is lost, and none is left");

    let died = history.iter().filter(|one| one.starts_with("Runtime.") || one.starts_with("Lambda.")).count();
    assert_eq!(died, killed.len(), "{history:?}");
    // The censuses were too close at first: the second one alone was taken again.
    assert!(history.contains(&"CensusesTooClose".to_owned()) && history.contains(&"WaitToRetire".to_owned()));
    let count = |state: &str| history.iter().filter(|one| *one == state).count();
    // Each slice was repeated where it was killed: nothing was left for another round.
    assert_eq!((count("Plan"), count("WaitForConsumers"), count("TellRetired")), (1, 1, 1), "{history:?}");

    let output: Value = serde_json::from_str(ended["output"].as_str().unwrap()).unwrap();
    let asked = &output["asked"];
    assert_eq!((&asked["action"], &asked["secret_id"]), (&json!("retire"), &json!(KEY_SECRET)));
    assert!(asked["reason"].as_str().unwrap().ends_with(&format!("execution 0-{version}")), "{asked}");
    let censuses = items(&asked["censuses"]);
    assert_eq!(censuses.len(), 2);
    for census in &censuses {
        assert_eq!(
            (&census["onOldKeys"], &census["version"], &census["next"]),
            (&json!(0), &json!(version), &Value::Null)
        );
        assert_eq!(census["columns"][0]["rows"], rows);
    }
    assert!(censuses[0]["ended"].as_str() < censuses[1]["began"].as_str());
    assert_eq!(machine.subjects(), ["Re-encryption is complete"]);
    println!("{rows} rows, {} workers killed: {}", killed.len(), history.join(" "));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_ends_by_itself_when_its_version_is_superseded() {
    let slow = [("ReencryptRowsPerSecond", "20"), ("ReencryptBatchRows", "5")];
    let mut machine = Machine::new(400, &slow).await;
    // Before it began.
    let execution = machine.start("another");
    let ended = machine.wait(&execution);
    assert_eq!((&ended["status"], text(&ended["output"]).as_str()), (&json!("SUCCEEDED"), r#"{"superseded": true}"#));
    assert_eq!(machine.history(&execution), ["Begin", "Plan", "IsItStillThisVersion", "Superseded"]);
    assert_eq!(machine.count(Some(OLD)).await, 400, "it touched nothing");

    // While it works: the workers take the new ring, and the slices that come to an end are not gone on with.
    let version = machine.version();
    let execution = machine.start(&version);
    while machine.count(Some(NEW)).await < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    machine.hands.root(
        "secretsmanager",
        "put_secret_value",
        json!({ "SecretId": KEY_SECRET, "SecretString": ring(&[3, NEW, OLD]) }),
    );
    let ended = machine.wait(&execution);
    let history = machine.history(&execution);
    assert_eq!((&ended["status"], text(&ended["output"]).as_str()), (&json!("SUCCEEDED"), r#"{"superseded": true}"#));
    assert!(!history.contains(&"Retire".to_owned()), "{history:?}");
    assert_eq!(machine.count(None).await, 0);
    assert!(machine.subjects().is_empty(), "nothing to tell anybody");
    // The execution of the next version does what is left.
    let version = machine.version();
    let execution = machine.start(&version);
    let ended = machine.wait(&execution);
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    assert_eq!(machine.count(Some(3)).await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_opened_are_told_and_the_others_are_rewrapped() {
    let mut machine = Machine::new(200, &[]).await;
    machine.run("UPDATE {schema}.rows SET token = 'damaged' WHERE id = 42").await;
    let foreign = sealed(99, "text 43", 1);
    machine.run(&format!("UPDATE {{schema}}.rows SET token = '{foreign}' WHERE id = 43")).await;
    let version = machine.version();
    let execution = machine.start(&version);
    let ended = machine.wait(&execution);
    assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("RowsUnreadable")), "{ended}");
    assert!(text(&ended["cause"]).starts_with("rows under no key of the ring: 1, damaged: 1;"), "{ended}");
    assert_eq!((machine.count(Some(NEW)).await, machine.count(None).await), (198, 2));
    let history = machine.history(&execution);
    assert!(!history.contains(&"Retire".to_owned()), "{history:?}");
    assert_eq!(machine.subjects(), ["Rows cannot be opened"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_that_fails_for_good_loses_no_other_and_rounds_are_bounded() {
    let mut machine = Machine::new(400, &[]).await;
    machine
        .run(
            "CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF NEW.id = 77 THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON {schema}.rows FOR EACH ROW EXECUTE FUNCTION {schema}.refuse();",
        )
        .await;
    let version = machine.version();
    let execution = machine.start(&version);
    let ended = machine.wait(&execution);
    let history = machine.history(&execution);
    assert_eq!(
        (&ended["status"], &ended["error"]),
        (&json!("FAILED"), &json!("RowsStayOnOldKeys")),
        "{ended}\n{history:?}"
    );
    let count = |state: &str| history.iter().filter(|one| *one == state).count();
    assert_eq!((count("Plan"), count("DatabaseRefused"), count("WaitForWriters")), (2, 2, 1), "{history:?}");
    let under = machine.under().await;
    let left: Vec<i64> = under.iter().filter(|(_, seed)| **seed == Some(OLD)).map(|(id, _)| *id).collect();
    assert!(
        left.contains(&77) && left.len() <= 100 && left.iter().all(|id| (1..=100).contains(id)),
        "one slice: {left:?}"
    );
    assert_eq!(machine.count(Some(NEW)).await, 400 - left.len());
    assert_eq!(machine.subjects(), ["Rows stay on old keys"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_needs_its_permissions_and_has_no_others() {
    let mut machine = Machine::new(10, &[]).await;
    let plan = json!({ "FunctionName": "shop-staging-reencrypt", "Payload": r#"{"action":"plan"}"# });
    let answer = machine.hands.root("lambda", "invoke", plan.clone());
    assert_eq!(answer["Payload"]["rowsEstimated"], 10, "{answer}");
    let policy = without_conditions(policies(&machine.stack)["ReencryptRole"].clone());
    let give = |policy: &Value| json!({ "RoleName": "ReencryptRole", "PolicyName": "rotation", "PolicyDocument": policy.to_string() });
    let mut tried = vec![];
    for (sid, action, less) in without_each(&policy) {
        machine.hands.root("iam", "put_role_policy", give(&less));
        let answer = machine.hands.root("lambda", "invoke", plan.clone());
        let error = text(&answer["Payload"]["errorType"]);
        assert!(
            ["AccessDenied", "CredentialUnavailable"].contains(&error.as_str()),
            "without {action} ({sid}): {answer}"
        );
        assert!(text(&answer["Payload"]["errorMessage"]).contains(&action), "without {action} ({sid}): {answer}");
        tried.push(sid);
    }
    assert_eq!(tried, ["Keyring", "Keyring", "PasswordOfTheDatabase"]);
    machine.hands.root("iam", "put_role_policy", give(&policy));
    assert_eq!(machine.hands.root("lambda", "invoke", plan)["Payload"]["rowsEstimated"], 10);
}
