//! Keyrings and ciphertexts against software that nobody here wrote: Python's `cryptography` and `tink`, Node's `crypto`.
//! Each program answers one request per line.

use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use application::KeyFormat;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use end_to_end::{KEY_FIELD, Plan, Scene};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::aws_cli::tool;
use crate::keys::{bare_key, declared, key_bytes, key_secret, parsed, wire};
use crate::support::*;

struct Program {
    _process: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(interpreter: &str, script: &str) -> Self {
        let mut command = Command::new(tool(interpreter));
        command.arg(format!("{}/tests/main/interop/{script}", env!("CARGO_MANIFEST_DIR")));
        command.env_clear().env("PYTHONDONTWRITEBYTECODE", "1").kill_on_drop(true);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let requests = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { _process: process, requests, answers }
    }

    async fn ask(&mut self, request: Value) -> Value {
        self.requests.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let answer = self.answers.next_line().await.unwrap().expect("the program ended");
        serde_json::from_str(&answer).unwrap()
    }

    /// The member of an answer that has to be there.
    async fn expect(&mut self, request: Value, member: &str) -> String {
        let answer = self.ask(request).await;
        answer[member].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

/// What stands in the member, or the whole text.
async fn held(scene: &Scene, json: bool) -> String {
    let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
    if !json {
        return value;
    }
    let members: Value = serde_json::from_str(&value).unwrap();
    members[KEY_FIELD].as_str().unwrap().to_owned()
}

async fn started(format: KeyFormat, json: bool, ring: &str) -> Scene {
    let plan = if json { Plan::key_json(&key_secret(ring), format) } else { Plan::key_text(ring, format) };
    start(Plan { instances: 0, ..declared(plan) }).await
}

async fn next_period(scene: &Scene) {
    scene.sandbox.advance(Duration::from_secs(2 * 60 * 60)).await.unwrap();
    rotate(scene).await;
}

/// Encrypts under the value's primary key with this project's cipher.
pub(crate) fn sealed_here(format: KeyFormat, value: &str, json: bool, plaintext: &[u8]) -> Vec<u8> {
    let (document, ring) = parsed(format, value, json);
    let ciphers = wire(format).ciphers(&document).unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let now = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    ciphers.get(ring.primary().id()).unwrap().seal(plaintext, now, &mut rng).unwrap()
}

/// Decrypts with this project's cipher.
fn opened_here(format: KeyFormat, value: &str, json: bool, ciphertext: &[u8]) -> Vec<u8> {
    let (document, _) = parsed(format, value, json);
    let ciphers = wire(format).ciphers(&document).unwrap();
    let opened = ciphers.iter().find_map(|(_, cipher)| cipher.open(ciphertext));
    opened.expect("no key opens it").to_vec()
}

async fn value(scene: &Scene) -> String {
    scene.value("AWSCURRENT").await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn multi_fernet_and_rotation_read_each_others_tokens() {
    let mut python = Program::start("python3", "multi_fernet.py");
    for json in [true, false] {
        let key = python.expect(json!({ "op": "generate" }), "key").await;
        let scene = started(KeyFormat::Fernet, json, &key).await;
        let mut tokens = vec![];
        for round in 0..5 {
            let keys = held(&scene, json).await;
            let value = value(&scene).await;
            let text = format!("record {round}");
            let token = python
                .expect(json!({ "op": "encrypt", "keys": keys, "plaintext": STANDARD.encode(&text) }), "token")
                .await;
            assert_eq!(opened_here(KeyFormat::Fernet, &value, json, token.as_bytes()), text.as_bytes());
            let ours = sealed_here(KeyFormat::Fernet, &value, json, text.as_bytes());
            tokens.extend([(token, text.clone()), (String::from_utf8(ours).unwrap(), text)]);
            next_period(&scene).await;
            let keys = held(&scene, json).await;
            for (token, text) in &tokens {
                let request = json!({ "op": "decrypt", "keys": keys, "token": token });
                assert_eq!(python.expect(request, "plaintext").await, STANDARD.encode(text));
            }
        }
        // What MultiFernet re-encrypts under the new ring needs its primary key alone.
        let keys = held(&scene, json).await;
        let rotated = python.expect(json!({ "op": "rotate", "keys": keys, "token": tokens[0].0 }), "token").await;
        let primary = keys.split(',').next().unwrap();
        let request = json!({ "op": "decrypt", "keys": primary, "token": rotated });
        assert_eq!(python.expect(request, "plaintext").await, STANDARD.encode("record 0"));
        let stranger = json!({ "op": "decrypt", "keys": primary, "token": tokens[0].0 });
        assert_eq!(python.ask(stranger).await["error"], "InvalidToken", "the check can fail");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tink_and_rotation_open_each_others_ciphertexts() {
    let mut python = Program::start("python3", "tink_aead.py");
    for (template, json) in
        [("AES256_GCM", true), ("AES256_GCM_RAW", true), ("AES256_GCM", false), ("AES256_GCM_RAW", false)]
    {
        let keyset = python.expect(json!({ "op": "generate", "template": template }), "keyset").await;
        let scene = started(KeyFormat::Tink, json, &keyset).await;
        let mut ciphertexts: Vec<(String, String)> = vec![];
        for round in 0..4 {
            let keyset = held(&scene, json).await;
            let value = value(&scene).await;
            let text = STANDARD.encode(format!("record {round}"));
            let request = json!({ "op": "encrypt", "keyset": keyset, "plaintext": text });
            let theirs = python.expect(request, "ciphertext").await;
            let plain = STANDARD.decode(&text).unwrap();
            assert_eq!(opened_here(KeyFormat::Tink, &value, json, &STANDARD.decode(&theirs).unwrap()), plain);
            let ours = STANDARD.encode(sealed_here(KeyFormat::Tink, &value, json, &plain));
            ciphertexts.extend([(theirs, text.clone()), (ours, text)]);

            next_period(&scene).await;
            let keyset = held(&scene, json).await;
            for (ciphertext, text) in &ciphertexts {
                let request = json!({ "op": "decrypt", "keyset": keyset, "ciphertext": ciphertext });
                assert_eq!(python.expect(request, "plaintext").await, *text);
            }
            let info = python.ask(json!({ "op": "info", "keyset": keyset })).await;
            let written: Value = serde_json::from_str(&keyset).unwrap();
            assert_eq!(info["primary"], written["primaryKeyId"], "{info}");
            let prefix = if template == "AES256_GCM" { "TINK" } else { "RAW" };
            assert!(info["keys"].as_array().unwrap().iter().all(|key| key["prefix"] == prefix), "{info}");
            assert_eq!(info["keys"].as_array().unwrap().len(), written["key"].as_array().unwrap().len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keyset_written_by_tink_is_rotated_with_its_disabled_keys() {
    let mut python = Program::start("python3", "tink_aead.py");
    let (first, second) = (
        python.expect(json!({ "op": "generate", "template": "AES256_GCM" }), "keyset").await,
        python.expect(json!({ "op": "generate", "template": "AES256_GCM_RAW" }), "keyset").await,
    );
    let mut keyset: Value = serde_json::from_str(&first).unwrap();
    let mut disabled: Value = serde_json::from_str::<Value>(&second).unwrap()["key"][0].clone();
    disabled["status"] = json!("DISABLED");
    keyset["key"].as_array_mut().unwrap().push(disabled.clone());
    let rewritten = python.expect(json!({ "op": "rewrite", "keyset": keyset.to_string() }), "keyset").await;
    let scene = started(KeyFormat::Tink, false, &rewritten).await;
    let ciphertext = python
        .expect(json!({ "op": "encrypt", "keyset": rewritten, "plaintext": STANDARD.encode("kept") }), "ciphertext")
        .await;
    for _ in 0..2 {
        next_period(&scene).await;
        let keyset = held(&scene, false).await;
        let rewritten = python.expect(json!({ "op": "rewrite", "keyset": keyset }), "keyset").await;
        scene.client.put_secret_value().secret_id(scene.secret()).secret_string(&rewritten).send().await.unwrap();
        let again: Value = serde_json::from_str(&rewritten).unwrap();
        assert!(again["key"].as_array().unwrap().contains(&disabled), "the disabled key is gone");
        let request = json!({ "op": "decrypt", "keyset": rewritten, "ciphertext": ciphertext });
        assert_eq!(python.expect(request, "plaintext").await, STANDARD.encode("kept"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keyset_of_another_key_type_is_refused_and_nothing_is_written() {
    let mut python = Program::start("python3", "tink_aead.py");
    for (template, problem) in
        [("AES128_GCM", "16 bytes long"), ("AES256_CTR_HMAC_SHA256", "of the type AesCtrHmacAeadKey")]
    {
        let keyset = python.expect(json!({ "op": "generate", "template": template }), "keyset").await;
        let plan = Plan::key_text(&keyset, KeyFormat::Tink);
        let scene = start(once(Plan { instances: 0, ..declared(plan) })).await;
        let error = fail_to_rotate(&scene).await;
        assert_eq!(error.error_type, "KeyringInvalid");
        let id = serde_json::from_str::<Value>(&keyset).unwrap()["primaryKeyId"].to_string();
        assert!(error.message.contains(problem) && error.message.contains(&id), "{}", error.message);
        assert!(scene.value("AWSPENDING").await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_and_rotation_open_each_others_ciphertexts() {
    let mut node = Program::start("node", "aes_gcm.js");
    for json in [true, false] {
        let scene = started(KeyFormat::Raw, json, &bare_key(KeyFormat::Raw, 3)).await;
        let mut ciphertexts = vec![];
        for round in 0..5 {
            let value = value(&scene).await;
            let (_, ring) = parsed(KeyFormat::Raw, &value, json);
            let text = STANDARD.encode(format!("record {round}"));
            let primary = STANDARD.encode(ring.primary().material().expose());
            let request = json!({ "op": "encrypt", "key": primary, "plaintext": text });
            let theirs = node.expect(request, "ciphertext").await;
            let plain = STANDARD.decode(&text).unwrap();
            assert_eq!(opened_here(KeyFormat::Raw, &value, json, &STANDARD.decode(&theirs).unwrap()), plain);
            let ours = STANDARD.encode(sealed_here(KeyFormat::Raw, &value, json, &plain));
            ciphertexts.extend([(theirs, text.clone()), (ours, text)]);

            next_period(&scene).await;
            // The keys as an application finds them: members of their own, or a list.
            let keys = keys_as_written(&scene, json).await;
            for (ciphertext, text) in &ciphertexts {
                let request = json!({ "op": "decrypt", "keys": keys, "ciphertext": ciphertext });
                assert_eq!(node.expect(request, "plaintext").await, *text);
            }
        }
        let stranger = STANDARD.encode(key_bytes(99));
        let request = json!({ "op": "decrypt", "keys": [stranger], "ciphertext": ciphertexts[0].0 });
        assert!(node.ask(request).await["error"].is_string(), "the check can fail");
    }
}

async fn keys_as_written(scene: &Scene, json: bool) -> Vec<String> {
    let value = value(scene).await;
    if !json {
        return value.split(',').map(str::to_owned).collect();
    }
    let members: Value = serde_json::from_str(&value).unwrap();
    let member = |suffix: &str| members[format!("{KEY_FIELD}{suffix}")].as_str().map(str::to_owned);
    let lists = ["", "_STAGED", "_PREVIOUS"].into_iter().filter_map(member);
    lists.flat_map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>()).collect()
}
