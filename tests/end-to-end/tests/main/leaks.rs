//! No byte of a secret value, nor of a RotationToken, is in any output, at any log level.

use application::KeyFormat;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use end_to_end::{ADMIN_TOKEN, FUNCTION, KEY_FIELD, Plan, SECRET, Scene};
use sandbox::{Fault, FaultRule, Step};
use serde_json::{Value, json};

use crate::archive::{ARCHIVE, with_archive};
use crate::aws_cli::Cli;
use crate::keys::{bare_key, declared, failed, key_bytes, key_secret, parsed, rotate_while_the_application_breaks};
use crate::support::*;

/// The ways in which a text may be written: as it is, in hexadecimal, and in base64 wherever it stands in what is encoded.
fn forms(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![secret.to_owned(), hex.to_uppercase(), hex, format!("{:?}", secret.as_bytes())];
    for shift in 0..3 {
        let shifted = ["\0".repeat(shift).as_bytes(), secret.as_bytes()].concat();
        for alphabet in [&STANDARD, &URL_SAFE] {
            let encoded = alphabet.encode(&shifted);
            // The first and the last characters depend on what stands beside it.
            let (start, end) = (if shift == 0 { 0 } else { 4 }, encoded.len() - 4);
            forms.push(encoded[start..end].to_owned());
        }
    }
    forms
}

fn leaked<'a>(needles: &'a [String], haystack: &str) -> Vec<&'a String> {
    needles.iter().filter(|needle| forms(needle).iter().any(|form| haystack.contains(form))).collect()
}

/// Every value that any version of the secret has, its members, and every RotationToken.
async fn secrets(scene: &Scene) -> Vec<String> {
    let versions =
        scene.client.list_secret_version_ids().secret_id(scene.secret()).include_deprecated(true).send().await.unwrap();
    let mut secrets: Vec<_> = scene.sandbox.rotation_tokens_seen().into_iter().map(|seen| seen.token).collect();
    assert!(!secrets.is_empty());
    for version in versions.versions.unwrap_or_default() {
        let value = scene
            .client
            .get_secret_value()
            .secret_id(scene.secret())
            .version_id(version.version_id.unwrap())
            .send()
            .await;
        let Some(text) = value.ok().and_then(|value| value.secret_string) else { continue };
        let members: Value = serde_json::from_str(&text).unwrap_or_default();
        let members = members.as_object().into_iter().flatten();
        // When the overlap ends is no secret, and is announced.
        let members = members.filter(|(name, _)| !name.ends_with("_UNTIL"));
        secrets.extend(members.filter_map(|(_, value)| value.as_str().map(str::to_owned)));
        secrets.push(text);
    }
    secrets
}

/// All that the function, the rotation service and CloudWatch show to anybody.
fn shown(scene: &Scene) -> String {
    let events = serde_json::to_string(&scene.sandbox.events()).unwrap();
    [
        log(scene),
        events,
        format!("{:?}", metrics(scene)),
        format!("{:?}", scene.sandbox.rotation_attempts(scene.secret())),
    ]
    .concat()
}

async fn assert_no_leak(scene: &Scene, more: &str) {
    let (secrets, shown) = (secrets(scene).await, shown(scene) + more);
    let leaked = leaked(&secrets, &shown);
    assert!(leaked.is_empty(), "{} of {} secrets are in the output", leaked.len(), secrets.len());
    assert!(shown.contains("REPORT RequestId"), "there is nothing to search");
}

fn at_trace(plan: Plan) -> Plan {
    let mut environment = plan.environment.clone();
    environment.extend([("AWS_LAMBDA_LOG_LEVEL", "TRACE".to_owned()), ("RUST_LOG", "trace".to_owned())]);
    Plan { environment, ..once(plan) }
}

#[test]
fn the_search_finds_a_token_in_every_form() {
    let needles = ["a-token-of-some-length".to_owned()];
    let hex = "612d746f6b656e2d6f662d736f6d652d6c656e677468";
    for planted in ["x a-token-of-some-length y", hex, &hex.to_uppercase()] {
        assert_eq!(leaked(&needles, planted).len(), 1, "{planted}");
    }
    for before in ["", "1", "12", "123"] {
        for alphabet in [&STANDARD, &URL_SAFE] {
            assert_eq!(leaked(&needles, &alphabet.encode(format!("{before}a-token-of-some-length?~"))).len(), 1);
        }
    }
    assert!(leaked(&needles, "a-token-of-some-lengt").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_and_its_commands_show_no_value_at_any_log_level() {
    let mut plan = json_plan();
    plan.environment = vec![("RUST_LOG", "trace".to_owned()), ("AWS_LAMBDA_LOG_FORMAT", "JSON".to_owned())];
    let scene = start(once(plan)).await;
    let cli = Cli::new(&scene);
    let arn = scene.function_arn();
    let mut printed = String::new();
    for level in ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"] {
        scene.sandbox.host().set_environment(FUNCTION, "AWS_LAMBDA_LOG_LEVEL", level).unwrap();
        let lines = scene.sandbox.host().logs(FUNCTION).len();
        let command = ["secretsmanager", "rotate-secret", "--secret-id", SECRET, "--rotation-lambda-arn", &arn];
        let started = cli.json(&command).await;
        assert!(end(&scene).await.is_success());
        printed += &started.to_string();
        let logged = scene.sandbox.host().logs(FUNCTION)[lines..].join("\n");
        let informs = ["INFO", "DEBUG", "TRACE"].contains(&level);
        assert_eq!(logged.contains("step done"), informs, "{level} is not in force");

        // An event that is not ours may hold anything.
        let token = scene.token("AWSCURRENT").await.unwrap();
        let rotation_token = scene.sandbox.rotation_tokens_seen().last().unwrap().token.clone();
        for event in [
            json!({ "Step": token, "SecretId": SECRET, "RotationToken": rotation_token }),
            json!({ "Step": "createSecret", "SecretId": [token], "RotationToken": rotation_token }),
            json!({ "Step": "createSecret", "SecretId": SECRET, "ClientRequestToken": &token[..20], "Other": token }),
            json!({ "Step": "createSecret", "SecretId": SECRET, "ClientRequestToken": "0".repeat(32), "RotationToken": &rotation_token[..35] }),
            json!([token, rotation_token]),
        ] {
            let error = invoke(&scene, &event).await.unwrap_err();
            printed += &format!("{error:?}");
        }
        assert_eq!(
            leaked(&[token[..20].to_owned(), rotation_token[..35].to_owned()], &(shown(&scene) + &printed)).len(),
            0
        );
    }
    let version = current(&scene).await.unwrap().0;
    let payload = event(Step::Finish, &version);
    let tail = scene.sandbox.host().invoke(FUNCTION, payload.to_string().into()).await.unwrap();
    printed += &tail.log_tail;
    printed += &String::from_utf8_lossy(&tail.payload);
    let (status, answer) = cli.invoke(FUNCTION, &payload).await;
    printed += &format!("{status} {answer}");
    printed += &cli.json(&["secretsmanager", "describe-secret", "--secret-id", SECRET]).await.to_string();
    printed += &cli
        .failure(&["secretsmanager", "rotate-secret", "--secret-id", "shop/none", "--rotation-lambda-arn", &arn])
        .await;
    assert_no_leak(&scene, &printed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_that_fail_show_no_value_at_the_finest_log_level() {
    let short = vec![("TARGET_TIMEOUT", "1500ms".to_owned())];
    let frozen = Plan { environment: short.clone(), ..json_plan() };
    let after = Plan { tags: vec![("rotation:verify", "after")], ..frozen.clone() };
    for (plan, error_type) in [(frozen, "TargetRefused"), (after, "VerificationFailed")] {
        let scene = start(at_trace(plan)).await;
        rotate(&scene).await;
        scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
        assert_eq!(fail_to_rotate(&scene).await.error_type, error_type);
        assert_no_leak(&scene, "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_calls_show_no_value_at_the_finest_log_level() {
    let scene = start(at_trace(no_target(json_plan()))).await;
    rotate(&scene).await;
    for operation in ["DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"] {
        for (fault, error_type) in [
            (Fault::Throttle, "Throttled"),
            (Fault::InternalServiceError, "ServiceFailure"),
            (Fault::LostAnswer, "Unreachable"),
        ] {
            let stuck = scene.stages().await.unwrap().into_values().any(|stages| stages == ["AWSPENDING"]);
            let rule = FaultRule::on(operation, fault).from_caller(FUNCTION).times(4);
            let rule = scene.sandbox.faults().add(rule);
            let outcome = if stuck { take_up(&scene).await } else { scene.rotate().await.unwrap() };
            scene.sandbox.faults().remove(rule);
            let error = format!("{outcome:?}");
            // A value whose answer was lost is there: the rotation goes on.
            assert!(outcome.is_success() || error.contains(error_type), "{operation}: {error}");
            if !outcome.is_success() {
                assert!(take_up(&scene).await.is_success(), "{operation}: {}", log(&scene));
            }
        }
    }
    assert_no_leak(&scene, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_values_are_not_shown_at_the_finest_log_level() {
    for value in [
        r#"{"ADMIN_TOKEN": ["a-canary-of-a-value-0001"]}"#,
        r#"{"ADMIN_TOKEN": "a-canary-of-a-value-0002", "ADMIN_TOKEN": "a-canary-of-a-value-0003"}"#,
        r#"{"OTHER": "a-canary-of-a-value-0004"}"#,
        r#"{"ADMIN_TOKEN": "a-canary-of-a-value-0005""#,
        "a-canary-of-a-value-0006",
    ] {
        let scene = start(at_trace(no_target(Plan { value: Some(value.to_owned()), ..json_plan() }))).await;
        fail_to_rotate(&scene).await;
        assert!(!shown(&scene).contains("a-canary-of-a-value"), "{}", log(&scene));
        assert_no_leak(&scene, "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_panics_with_a_value_in_its_hands_shows_none() {
    for plan in [text_plan(), json_plan()] {
        let executable = Some(env!("CARGO_BIN_EXE_panicking-kind").into());
        let scene = start(at_trace(no_target(Plan { executable, ..plan }))).await;
        let before = current(&scene).await;
        let error = fail_to_rotate(&scene).await;
        assert!(error.message.contains("a bug met"), "it did not panic: {error:?}");
        assert!(log(&scene).contains("[REDACTED]"), "{}", log(&scene));
        assert_eq!(current(&scene).await, before);
        assert!(scene.value("AWSPENDING").await.unwrap().is_some(), "there was a value to leak");
        assert_no_leak(&scene, &format!("{error:?}")).await;
    }
}

/// The ways in which the bytes of a key may be written, by themselves and in a Tink keyset.
fn key_forms(key: &[u8; 32]) -> Vec<String> {
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let message = [&[0x1a, 32][..], key].concat();
    let encoded = [&key[..], &message].map(|bytes| [STANDARD.encode(bytes), URL_SAFE.encode(bytes)]).concat();
    let raw = String::from_utf8_lossy(key).into_owned();
    let mut forms =
        vec![hex.to_uppercase(), hex, format!("{key:?}"), raw, format!("{:?}", String::from_utf8_lossy(key))];
    forms.extend(encoded.iter().map(|text| text.trim_end_matches('=').to_owned()));
    forms
}

/// Every key that any version of the secret has.
async fn keys(scene: &Scene, format: KeyFormat) -> Vec<[u8; 32]> {
    let versions = scene.client.list_secret_version_ids().secret_id(scene.secret()).include_deprecated(true);
    let mut keys = vec![];
    for version in versions.send().await.unwrap().versions.unwrap_or_default() {
        let read = scene.client.get_secret_value().secret_id(scene.secret()).version_id(version.version_id.unwrap());
        let Some(text) = read.send().await.ok().and_then(|value| value.secret_string) else { continue };
        let (_, ring) = parsed(format, &text, text.contains(KEY_FIELD));
        keys.extend(ring.keys().map(|(_, key)| *key.material().expose()));
    }
    keys
}

async fn assert_no_key(scene: &Scene, format: KeyFormat, more: &str) {
    let (keys, shown) = (keys(scene, format).await, shown(scene) + more);
    assert!(!keys.is_empty() && shown.contains("REPORT RequestId"), "there is nothing to search, or to search for");
    let leaked = keys.iter().filter(|key| key_forms(key).iter().any(|form| shown.contains(form))).count();
    assert_eq!(leaked, 0, "{leaked} of {} keys are in the output", keys.len());
    assert!(!shown.contains(ADMIN_TOKEN), "the admin token is in the output");
    let tokens: Vec<_> = scene.sandbox.rotation_tokens_seen().into_iter().map(|seen| seen.token).collect();
    assert!(!tokens.is_empty() && leaked_tokens(&tokens, &shown) == 0);
}

fn leaked_tokens(tokens: &[String], shown: &str) -> usize {
    leaked(tokens, shown).len()
}

#[test]
fn the_search_finds_a_key_in_every_form() {
    let key = key_bytes(7);
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let message = [&[0x1a, 32][..], &key].concat();
    for planted in [
        hex.to_uppercase(),
        hex,
        STANDARD.encode(key),
        URL_SAFE.encode(key),
        STANDARD.encode(&message),
        format!("{key:?}"),
        String::from_utf8_lossy(&key).into_owned(),
    ] {
        let shown = format!("x {planted} y");
        assert!(key_forms(&key).iter().any(|form| shown.contains(form)), "{planted}");
    }
    assert!(!key_forms(&key).iter().any(|form| STANDARD.encode(key_bytes(8)).contains(form)));
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_of_a_keyring_show_no_key_at_any_log_level() {
    for format in [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink] {
        let mut plan = Plan::key_json(&key_secret(&bare_key(format, 1)), format);
        plan.environment = vec![("RUST_LOG", "trace".to_owned()), ("AWS_LAMBDA_LOG_FORMAT", "JSON".to_owned())];
        let scene = with_archive(once(plan)).await;
        let mut printed = String::new();
        for level in ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"] {
            scene.sandbox.host().set_environment(scene.function(), "AWS_LAMBDA_LOG_LEVEL", level).unwrap();
            rotate(&scene).await;
        }
        tag(&scene, "rotation:promotion", "immediate").await;
        let version = rotate(&scene).await;
        // Archives that are not one: with a key where none belongs.
        let held = scene.client.get_secret_value().secret_id(ARCHIVE).send().await.unwrap().secret_string.unwrap();
        for (from, to) in [
            ("\"archived\":\"", "\"archived\":\"x"),
            ("\"id\":\"", "\"id\":\"f"),
            ("\"key\":", "\"note\":"),
            ("]}", ""),
        ] {
            let broken = held.replacen(from, to, 1);
            scene.client.put_secret_value().secret_id(ARCHIVE).secret_string(broken).send().await.unwrap();
            let began = printed.contains("ArchiveUnavailable");
            let error = if began { failed(take_up(&scene).await) } else { fail_to_rotate(&scene).await };
            assert_eq!(error.error_type, "ArchiveUnavailable");
            printed += &format!("{error:?}");
        }
        let event = json!({ "Step": "finishSecret", "SecretId": scene.secret(), "ClientRequestToken": version });
        let tail = scene.sandbox.host().invoke(scene.function(), event.to_string().into()).await.unwrap();
        printed += &tail.log_tail;
        printed += &String::from_utf8_lossy(&tail.payload);
        printed += &format!("{:?}", scene.health().await.unwrap());
        assert_no_key(&scene, format, &printed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_key_rotations_show_no_key_at_the_finest_level() {
    let format = KeyFormat::Raw;
    let mut plan = Plan::key_json(&key_secret(&bare_key(format, 1)), format);
    plan.environment.push(("TARGET_TIMEOUT", "1500ms".to_owned()));
    let scene = start(at_trace(plan)).await;
    rotate(&scene).await;
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
    let error = fail_to_rotate(&scene).await;
    assert_eq!(error.error_type, "ConsumersUnproven");
    assert_no_key(&scene, format, &format!("{error:?}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unverified_key_promotions_show_no_key_at_the_finest_level() {
    let format = KeyFormat::Raw;
    for (promotion, error_type) in [("staged", "VerificationFailed"), ("immediate", "RollbackFailed")] {
        let mut plan = Plan::key_json(&key_secret(&bare_key(format, 1)), format);
        plan.environment.push(("TARGET_TIMEOUT", "1500ms".to_owned()));
        let scene = start(at_trace(plan)).await;
        rotate(&scene).await;
        tag(&scene, "rotation:promotion", promotion).await;
        let error = rotate_while_the_application_breaks(&scene).await;
        assert_eq!(error.error_type, error_type, "{}", error.message);
        assert_no_key(&scene, format, &format!("{error:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_keyrings_are_not_shown_at_the_finest_log_level() {
    let key = key_bytes(1);
    let (good, short) = (STANDARD.encode(key), STANDARD.encode(&key[..31]));
    let message = STANDARD.encode([&[0x1a, 31][..], &key[..31]].concat());
    let keyset = |kind: &str, value: &str| {
        json!({ "primaryKeyId": 1, "key": [{ "keyData": { "typeUrl": kind, "value": value, "keyMaterialType": "SYMMETRIC" }, "status": "ENABLED", "keyId": 1, "outputPrefixType": "TINK" }] }).to_string()
    };
    for (format, value) in [
        (KeyFormat::Raw, short.clone()),
        (KeyFormat::Raw, format!("{good}\n")),
        (KeyFormat::Raw, format!("{good},{good}")),
        (KeyFormat::Raw, format!("key={good}")),
        (KeyFormat::Fernet, short),
        (KeyFormat::Fernet, format!("{good},")),
        (KeyFormat::Tink, keyset("type.googleapis.com/google.crypto.tink.AesGcmKey", &message)),
        (KeyFormat::Tink, keyset(&good, &message)),
        (KeyFormat::Tink, format!("{{\"primaryKeyId\": \"{good}\"")),
    ] {
        let scene = start(at_trace(no_target(declared(Plan::key_text(&value, format))))).await;
        let error = fail_to_rotate(&scene).await;
        assert_eq!(error.error_type, "KeyringInvalid", "{}", error.message);
        let shown = shown(&scene) + &format!("{error:?}");
        let partial = [&good[..20], &good[20..40], &message[..20], &message[20..36]];
        assert!(!partial.iter().any(|part| shown.contains(part)), "{}", error.message);
    }
}
