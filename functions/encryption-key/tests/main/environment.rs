//! What a stack sets, and what is found out at start-up.

use rotation::archive::ArchiveSettings;
use rotation::kind::{SecretKind as _, SecretReference};
use rotation::policy::MAX_OVERLAP;

use crate::*;

const URL: (&str, &str) = ("TARGET_VERIFY_URL", "https://shop.example.com/admin/secrets/health");
const PATTERN: (&str, &str) = ("TARGET_TOKEN_SECRET", "{1}/{2}/admin-token");

fn read(variables: &[(&str, &str)]) -> Result<EncryptionKey, RotationError> {
    EncryptionKey::from_environment(&environment(variables))
}

#[track_caller]
fn assert_refused(variables: &[(&str, &str)], variable: &str, problem: &str) {
    match read(variables) {
        Err(RotationError::InvalidConfiguration { variable: named, problem: told }) => {
            assert_eq!(named, variable, "{told}");
            assert!(told.contains(problem), "{told}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_said_of_consumers_is_read_and_bounded() {
    let consumers = |variables: &[(&str, &str)]| format!("{:?}", read(variables).unwrap());
    let expected = |cache_time, keyring_aware| format!("{:?}", Consumers { cache_time, keyring_aware });
    assert!(consumers(&[]).contains(&expected(HOUR, false)), "an hour, and nothing declared");
    for (text, cache_time) in [("0s", Duration::ZERO), ("90m", 90 * 60 * SECOND), ("30d", MAX_OVERLAP)] {
        assert!(consumers(&[("CONSUMERS_CACHE_TIME", text)]).contains(&expected(cache_time, false)), "{text}");
    }
    for (text, aware) in [("true", true), ("false", false), ("", false)] {
        assert!(consumers(&[("CONSUMERS_KEYRING_AWARE", text)]).contains(&expected(HOUR, aware)), "{text}");
    }
    assert_eq!(Consumers::default(), Consumers { cache_time: DEFAULT_CACHE_TIME, keyring_aware: false });

    for bad in ["1", "an hour", "-1s", "30 minutes and a bit"] {
        let expected = "expected a duration such as 500ms, 10s or 24h";
        assert_refused(&[("CONSUMERS_CACHE_TIME", bad)], "CONSUMERS_CACHE_TIME", expected);
    }
    assert_refused(&[("CONSUMERS_CACHE_TIME", "30d 1s")], "CONSUMERS_CACHE_TIME", "expected at most 30d");
    for bad in ["yes", "1", "True", "TRUE "] {
        assert_refused(&[("CONSUMERS_KEYRING_AWARE", bad)], "CONSUMERS_KEYRING_AWARE", "expected true or false");
    }
}

#[test]
fn a_misspelt_variable_is_named_with_those_that_are_known() {
    for misspelt in ["CONSUMERS_CACHETIME", "CONSUMERS_KEYRING_AWARE_", "CONSUMERS_"] {
        assert_refused(&[(misspelt, "1h")], misspelt, "known are CONSUMERS_CACHE_TIME, CONSUMERS_KEYRING_AWARE");
    }
    for misspelt in ["TARGET_TOKENSECRET", "TARGET_TOKEN", "TARGET_URL"] {
        let known = "TARGET_TIMEOUT, TARGET_TOKEN_SECRET, TARGET_TOKEN_FIELD";
        assert_refused(&[URL, PATTERN, (misspelt, "x")], misspelt, known);
    }
    assert!(read(&[("CONSUMER_CACHE_TIME", "x"), ("TARGETS", "x")]).is_ok(), "other people's variables");
}

#[test]
fn application_is_asked_with_a_token_from_a_named_secret() {
    let kind = read(&[]).unwrap();
    assert!(!kind.has_target());
    assert_eq!(kind.credential(NAME), Ok(None));

    let kind = read(&[URL, PATTERN, ("TARGET_TIMEOUT", "4s")]).unwrap();
    assert!(kind.has_target());
    assert_eq!(kind.settle_time(), 8 * SECOND, "a refresh, and the reports of all instances");

    assert_refused(&[URL], "TARGET_TOKEN_SECRET", "is not set: name the secret with the token");
    assert_refused(&[PATTERN], "TARGET_TOKEN_SECRET", "TARGET_VERIFY_URL is not: there is nobody to ask");
    let error = read(&[("TARGET_VERIFY_URL", "http://shop.example.com/"), PATTERN]).unwrap_err();
    assert_eq!(error, RotationError::InsecureUrl { variable: "TARGET_VERIFY_URL".to_owned() });
}

#[test]
fn the_name_of_the_tokens_secret_is_made_of_the_name_of_the_key() {
    let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:admin-token-AbCdEf";
    for (pattern, name, id) in [
        ("{1}/{2}/admin-token", NAME, "shop/production/admin-token"),
        ("{1}/{2}/admin-token", "a/b", "a/b/admin-token"),
        ("{name}/token", NAME, "shop/production/encryption-key/token"),
        ("tokens/{3}", NAME, "tokens/encryption-key"),
        (arn, NAME, arn),
    ] {
        let reference = |field: Option<&str>| {
            let id = id.to_owned();
            Ok(Some(SecretReference { id, field: field.and_then(FieldName::new) }))
        };
        let pattern = ("TARGET_TOKEN_SECRET", pattern);
        assert_eq!(read(&[URL, pattern]).unwrap().credential(name), reference(None));
        let kind = read(&[URL, pattern, ("TARGET_TOKEN_FIELD", "ADMIN_TOKEN")]).unwrap();
        assert_eq!(kind.credential(name), reference(Some("ADMIN_TOKEN")));
    }
    for bad in ["{10}", "{0}", "{}", "{host}/token", "{1"] {
        assert_refused(&[URL, ("TARGET_TOKEN_SECRET", bad)], "TARGET_TOKEN_SECRET", "places are {name} and {1} to {9}");
    }
    for bad in ["two words", "1st", "a\"b"] {
        assert_refused(&[URL, PATTERN, ("TARGET_TOKEN_FIELD", bad)], "TARGET_TOKEN_FIELD", "expected a member name");
    }
    let error = read(&[URL, PATTERN]).unwrap().credential("shop").unwrap_err();
    assert_eq!(error.name(), "InvalidConfiguration");
    assert!(error.to_string().contains("a place without a part in the secret's name shop"), "{error}");
}

#[test]
fn retired_key_stays_in_the_archive_a_month_to_ten_years() {
    const RETENTION: &str = "KEY_ARCHIVE_RETENTION";
    let archive = ("KEY_ARCHIVE_SECRET", "{name}-archive");
    for (text, days) in [("", 400), ("30d", 30), ("720h", 30), ("400d", 400), ("3650d", 3650)] {
        let settings = ArchiveSettings::from_environment(&environment(&[archive, (RETENTION, text)])).unwrap().unwrap();
        assert_eq!(settings, ArchiveSettings::new(archive.1.to_owned(), days * DAY), "{text}");
    }
    for text in ["0d", "0s", "29d", "719h", "3650d 1s", "500000000000y"] {
        assert_refused(&[archive, (RETENTION, text)], RETENTION, "expected 30d to 3650d");
    }
    assert_refused(&[(RETENTION, "400d")], RETENTION, "is set, but KEY_ARCHIVE_SECRET is not");
}
