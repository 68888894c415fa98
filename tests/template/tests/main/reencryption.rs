//! The state machine at work: on an emulator of Step Functions and Lambda that enforces the functions' roles, with the functions that
//! `sam build` made, on the rows of a real PostgreSQL.
//!
//! The emulator runs all waits and pauses at a hundredth of their length, so that less than the quarter of an hour passes between two censuses
//! that retiring a key asks for: on its way to operate the first one is made older. The emulator neither asks for the state machine's own role nor
//! scatters the pauses between attempts: these are asserted on the template and on the definition.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end::postgres::{PASSWORD, Postgres};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::document::FieldName;
use rotation::keyring::{Ciphers, Key, KeyFormat, KeyMaterial};
use rotation::rows::{Encoding, Opened, RowCodec, RowFormat};
use rotation::secret::SecretText;
use rotation::time::format_timestamp;
use serde_json::{Value, json};
use template::{Stack, root, text};
use tokio_postgres::Client;

use crate::build::{architecture, built};
use crate::definition::definition;
use crate::emulator::{Emulator, Hands};
use crate::permissions::{policy_of, without_each};
use crate::support::*;

mod rounds;

const KEY_SECRET: &str = "shop/staging/encryption-key";
const OLD: u8 = 1;
const NEW: u8 = 2;
const ARCHIVE: &str = "shop/staging/key-archive";
const WAIT_SCALE: f64 = 0.01;

/// Stands between the state machine and the sweep's deployment of operate. The first time the censuses come as they are, seconds apart, which
/// is less than the quarter of an hour that operate asks for; from then on the first one is an hour older.
const FASTER: &str = r#"
import boto3, datetime, json, os, pathlib, urllib.request

def post(path, answer):
    urllib.request.urlopen(urllib.request.Request(api + path, json.dumps(answer).encode(), method="POST")).read()

api = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/invocation/"
when = lambda text: datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
functions = boto3.client("lambda")
asked = pathlib.Path(os.environ["ASKED"])
while True:
    with urllib.request.urlopen(api + "next") as invocation:
        name, event = invocation.headers["Lambda-Runtime-Aws-Request-Id"], json.loads(invocation.read())
    first = event["censuses"][0]
    older = datetime.timedelta(hours=1 if asked.exists() else 0)
    asked.touch()
    for end in ("began", "ended"):
        first[end] = (when(first[end]) - older).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = functions.invoke(FunctionName=os.environ["OPERATE"], Payload=json.dumps(event))
    post(name + ("/error" if "FunctionError" in answer else "/response"), json.loads(answer["Payload"].read()))
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
        let mut create = |name: &str, value: &str| {
            let parameters = json!({ "Name": name, "SecretString": value });
            text(&hands.root("secretsmanager", "create_secret", parameters)["ARN"])
        };
        let database = create("shop/staging/database", &user);
        let keyring = create(KEY_SECRET, &ring(&[NEW, OLD]));
        // It begins without a value, and the emulator has no secret without one.
        let archive = create(ARCHIVE, r#"{"keys":[]}"#);
        hands.list(KEY_SECRET, "arn:aws:lambda:us-east-1:000000000000:function:shop-staging-encryption-key");
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
            ("ReencryptRetireWaitSeconds", "100"),
            ("ReencryptCensusWaitSeconds", "200"),
            ("Overlap", "0s"),
            ("ConsumersCacheTime", "0s"),
            ("ConsumersKeyringAware", "true"),
        ]);
        all.extend(parameters.iter().copied());
        let attributes = [("EncryptionKeySecret".to_owned(), keyring), ("KeyArchiveSecret".to_owned(), archive)].into();
        let stack = templates().resolve(&all.into_iter().collect::<Vec<_>>(), &attributes).unwrap();
        let mut machine = Self { hands, sql, schema, stack, arn: String::new(), queue: String::new(), emulator };
        machine.deploy();
        machine
    }

    fn deploy(&mut self) {
        for role in ["ReencryptRole", "SweepRole", "StateMachineRole"] {
            let trust = self.stack.of_type("AWS::IAM::Role")[role]["AssumeRolePolicyDocument"].to_string();
            self.hands.root("iam", "create_role", json!({ "RoleName": role, "AssumeRolePolicyDocument": trust }));
            let policy = self.policy(role);
            self.give(role, &policy);
        }
        for name in ["ReencryptFunction", "SweepFunction"] {
            let function = self.stack.of_type("AWS::Serverless::Function")[name].clone();
            let mut environment = function["Environment"].clone();
            // The emulator does not tell which function rotates a secret.
            let endpoint =
                if name == "SweepFunction" { self.hands.relay() } else { self.emulator.endpoint().to_owned() };
            environment["Variables"]["AWS_ENDPOINT_URL"] = json!(endpoint);
            for value in environment["Variables"].as_object_mut().unwrap().values_mut() {
                *value = json!(text(value));
            }
            let zip = self.hands.zip(&built()[name]);
            let parameters = json!({
                "FunctionName": function["FunctionName"],
                "Runtime": function["Runtime"],
                "Handler": function["Handler"],
                "Architectures": function["Architectures"],
                "MemorySize": text(&function["MemorySize"]).parse::<u64>().unwrap(),
                "Timeout": function["Timeout"],
                "Role": function["Role"],
                "Environment": environment,
                "Code": { "ZipFile": zip.base64 },
            });
            self.hands.root("lambda", "create_function", parameters);
        }
        self.deploy_faster();
        let machine = self.stack.of_type("AWS::Serverless::StateMachine")["Reencryption"].clone();
        self.deploy_queue(&text(&machine["DefinitionSubstitutions"]["TopicArn"]));
        self.deploy_machine(&machine);
    }

    /// The function between the state machine and the sweep, which lets time pass.
    fn deploy_faster(&mut self) {
        let between = tempfile::tempdir().unwrap();
        let bootstrap = between.path().join("bootstrap");
        let python = root().join("target/tools/bin/python");
        std::fs::write(&bootstrap, format!("#!{}\n{FASTER}", python.display())).unwrap();
        let zip = self.hands.zip(between.path());
        let asked = self.emulator.home().join("asked");
        let environment =
            json!({ "AWS_ENDPOINT_URL": self.emulator.endpoint(), "OPERATE": "shop-staging-sweep", "ASKED": asked });
        let parameters = json!({
            "FunctionName": "faster",
            "Runtime": "provided.al2023",
            "Handler": "bootstrap",
            "Role": "arn:aws:iam::000000000000:role/StateMachineRole",
            "Timeout": 60,
            "Environment": { "Variables": environment },
            "Code": { "ZipFile": zip.base64 },
        });
        self.hands.root("lambda", "create_function", parameters);
    }

    /// The queue that has what is published to the topic.
    fn deploy_queue(&mut self, topic: &str) {
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
    }

    fn deploy_machine(&mut self, machine: &Value) {
        // A test does something meanwhile.
        let mut written = definition().replace("\"Seconds\": 60,", "\"Seconds\": 300,");
        assert_ne!(written, definition());
        for (name, value) in machine["DefinitionSubstitutions"].as_object().unwrap() {
            let value = if name == "SweepFunctionArn" {
                assert_eq!(text(value), "arn:aws:lambda:us-east-1:000000000000:function:shop-staging-sweep");
                text(value).replace("shop-staging-sweep", "faster")
            } else {
                text(value)
            };
            written = written.replace(&format!("${{{name}}}"), &value);
        }
        let parameters =
            json!({ "name": machine["Name"], "definition": written, "roleArn": machine["Role"], "type": "STANDARD" });
        self.arn = text(&self.hands.root("stepfunctions", "create_state_machine", parameters)["stateMachineArn"]);
    }

    fn policy(&self, role: &str) -> Value {
        policy_of(&self.stack, role)
    }

    fn give(&mut self, role: &str, policy: &Value) {
        let parameters = json!({ "RoleName": role, "PolicyName": "rotation", "PolicyDocument": policy.to_string() });
        self.hands.root("iam", "put_role_policy", parameters);
    }

    /// What a function answers.
    fn invoke(&mut self, function: &str, request: &Value) -> Value {
        let parameters = json!({ "FunctionName": format!("shop-staging-{function}"), "Payload": request.to_string() });
        self.hands.root("lambda", "invoke", parameters)["Payload"].clone()
    }

    fn value(&mut self, secret: &str) -> Value {
        let value = self.hands.root("secretsmanager", "get_secret_value", json!({ "SecretId": secret }));
        serde_json::from_str(value["SecretString"].as_str().unwrap()).unwrap()
    }

    fn version(&mut self) -> String {
        let described = self.hands.root("secretsmanager", "describe_secret", json!({ "SecretId": KEY_SECRET }));
        let versions = described["VersionIdsToStages"].as_object().unwrap();
        versions.iter().find(|(_, stages)| texts(stages).contains(&"AWSCURRENT")).unwrap().0.clone()
    }

    /// Starts an execution as a sweep does.
    fn start(&mut self, version: &str) -> String {
        self.start_as(&format!("{version}-0"), version)
    }

    fn start_as(&mut self, name: &str, version: &str) -> String {
        let input = json!({ "secret_id": KEY_SECRET, "version": version }).to_string();
        let parameters = json!({ "stateMachineArn": self.arn, "name": name, "input": input });
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
                Opened::Unknown | Opened::Damaged | Opened::Foreign => None,
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
async fn sweep_has_rows_follow_the_key_despite_killed_workers() {
    let rows = 1_200;
    // Four slices, two at once, of some seconds each.
    let slow = [("ReencryptRowsPerSecond", "100"), ("ReencryptBatchRows", "10")];
    let mut machine = Machine::new(rows, &slow).await;
    let version = machine.version();
    let sweep = json!({ "action": "sweep" });
    let swept = machine.invoke("sweep", &sweep);
    let started = [&swept["reencryption"]["started"], &swept["reencryption"]["version"]];
    assert_eq!(started, [&json!(true), &json!(version)], "{swept}");
    assert_eq!(machine.invoke("sweep", &sweep)["problems"], json!([]), "one execution at a time");
    let executions = machine.hands.root("stepfunctions", "list_executions", json!({ "stateMachineArn": machine.arn }));
    assert_eq!(items(&executions["executions"]).len(), 1, "{executions}");
    let execution = text(&executions["executions"][0]["executionArn"]);

    let died = |history: &[String]| history.iter().filter(|one| *one == "Runtime.ExitError").count();
    let mut killed = BTreeSet::new();
    while died(&machine.history(&execution)) < 3 {
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

    let count = |state: &str| history.iter().filter(|one| *one == state).count();
    // Each slice was repeated where it was killed: nothing was left for another round.
    assert_eq!((count("Plan"), count("WaitForConsumers"), count("TellRetired")), (1, 1, 1), "{history:?}");
    // The censuses were too close at first: the second one alone was taken again.
    assert!(count("CensusesTooClose") >= 1 && count("CensusesTooClose") == count("WaitToRetire"), "{history:?}");

    let output: Value = serde_json::from_str(ended["output"].as_str().unwrap()).unwrap();
    let old = key(OLD).id().to_string();
    assert_eq!((&output["retired"], &output["kept"]), (&json!([old]), &json!([])), "{output}");
    let ring = machine.value(KEY_SECRET);
    assert_eq!(ring["TOKEN_ENCRYPTION_KEY"], STANDARD.encode([NEW; 32]));
    assert!(ring["TOKEN_ENCRYPTION_KEY_PREVIOUS"].is_null(), "{ring}");
    let archive = machine.value(ARCHIVE);
    let kept: Vec<_> =
        items(&archive["keys"]).into_iter().map(|one| (text(&one["id"]), one["retired"].is_string())).collect();
    assert!(kept.contains(&(old, true)) && kept.contains(&(key(NEW).id().to_string(), false)), "{kept:?}");
    assert_eq!(machine.subjects(), ["Re-encryption is complete"]);
    let swept = machine.invoke("sweep", &sweep);
    assert!(swept["reencryption"].is_null() && swept["complete"] == true, "there is nothing more to do: {swept}");
    println!("{rows} rows, {} workers killed: {}", died(&history), history.join(" "));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_ends_by_itself_when_its_version_is_superseded() {
    let slow = [("ReencryptRowsPerSecond", "20"), ("ReencryptBatchRows", "5")];
    let mut machine = Machine::new(400, &slow).await;
    // Before it began.
    let execution = machine.start("another");
    let ended = machine.wait(&execution);
    assert_eq!((&ended["status"], text(&ended["output"]).as_str()), (&json!("SUCCEEDED"), r#"{"superseded": true}"#));
    let look = ["Plan", "PlanGoesOn", "IsItStillThisVersion"];
    let looked_twice = [&["Begin"], &look[..], &["WaitForReads"], &look, &["Superseded"]].concat();
    assert_eq!(machine.history(&execution), looked_twice);
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
    assert!(history.ends_with(&["WhatIsLeft", "Superseded"].map(str::to_owned)), "{history:?}");
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
async fn an_execution_goes_on_whose_version_shows_at_the_second_look() {
    let mut machine = Machine::new(200, &[]).await;
    let version = machine.version();
    // As a read shows it that is behind.
    let other = json!({ "SecretId": KEY_SECRET, "SecretString": ring(&[OLD, NEW]) });
    let other = machine.hands.root("secretsmanager", "put_secret_value", other)["VersionId"].clone();
    let execution = machine.start(&version);
    let began = Instant::now();
    while !machine.history(&execution).contains(&"WaitForReads".to_owned()) {
        assert!(began.elapsed() < Duration::from_secs(120), "{:?}", machine.history(&execution));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let back = json!({
        "SecretId": KEY_SECRET, "VersionStage": "AWSCURRENT", "MoveToVersionId": version, "RemoveFromVersionId": other,
    });
    machine.hands.root("secretsmanager", "update_secret_version_stage", back);
    let ended = machine.wait(&execution);
    let history = machine.history(&execution);
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}\n{history:?}");
    let count = |state: &str| history.iter().filter(|one| *one == state).count();
    assert_eq!((count("WaitForReads"), count("Plan"), count("Superseded")), (1, 2, 0), "{history:?}");
    assert_eq!(machine.count(Some(NEW)).await, 200);
    let output: Value = serde_json::from_str(ended["output"].as_str().unwrap()).unwrap();
    assert_eq!(output["retired"], json!([key(OLD).id().to_string()]), "{output}");
}
