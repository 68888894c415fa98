//! A wrong configuration is found at start-up, and its error says which variable to change, and to what.

use std::time::{Duration, SystemTime};

use rotation::aws::Clients;
use rotation::error::RotationError;

use crate::{CANARY, assert_no_canary, assert_not_in, environment};

/// What Lambda sets. The key's id is no secret: AWS prints it in its own logs.
fn lambda() -> Vec<(&'static str, &'static str)> {
    vec![
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", CANARY),
        ("AWS_SESSION_TOKEN", CANARY),
    ]
}

fn start(variables: &[(&str, &str)]) -> Result<Clients, RotationError> {
    Clients::from_environment(&environment(&[&lambda()[..], variables].concat()), || SystemTime::UNIX_EPOCH)
}

#[test]
fn a_variable_that_is_empty_counts_as_not_set() {
    let environment = environment(&[("EMPTY", ""), ("BLANK", " "), ("SET", "x")]);
    assert_eq!(environment.get("EMPTY"), None);
    assert_eq!(environment.get("BLANK"), Some(" "));
    assert_eq!(environment.get("MISSING"), None);
    assert_eq!(environment.require("SET"), Ok("x"));
    for missing in ["EMPTY", "MISSING"] {
        let error = environment.require(missing).unwrap_err();
        assert_eq!(error.name(), "InvalidConfiguration");
        assert_eq!(error.to_string(), format!("environment variable {missing}: is not set"));
    }
}

#[test]
fn unparsed_variable_is_named_with_what_to_write_not_its_value() {
    let environment = environment(&[("COUNT", CANARY), ("WAIT", CANARY), ("GOOD", "3"), ("LONG", "1h 30m")]);
    let error = environment.parse::<u32>("COUNT", "a number of instances").unwrap_err();
    assert_eq!(error.to_string(), "environment variable COUNT: expected a number of instances");
    assert_no_canary(&error);
    let error = environment.duration("WAIT").unwrap_err();
    assert_eq!(error.to_string(), "environment variable WAIT: expected a duration such as 500ms, 10s or 24h");
    assert_no_canary(&error);
    assert_eq!(environment.parse::<u32>("GOOD", "a number"), Ok(Some(3)));
    assert_eq!(environment.parse::<u32>("MISSING", "a number"), Ok(None));
    assert_eq!(environment.duration("LONG"), Ok(Some(Duration::from_secs(5400))));
    assert_eq!(environment.duration("MISSING"), Ok(None));
}

#[test]
fn variables_that_a_kind_does_not_read_are_refused() {
    let set = environment(&[("TARGET_VERIFY_URL", "https://app"), ("CONSUMERS_CACHE_TIME", ""), ("TARGETS", "x")]);
    assert_eq!(set.refuse_foreign(&["TARGET_"]), Ok(()));
    let refused = set.refuse_foreign(&["CONSUMERS_", "KEY_ARCHIVE_"]).unwrap_err();
    assert_eq!(refused.name(), "InvalidConfiguration");
    assert!(refused.to_string().ends_with("TARGET_VERIFY_URL: is not a setting of this function"), "{refused}");
    let kept = environment(&[("KEY_ARCHIVE_SECRET", "shop/archive"), ("CONSUMERS_CACHE_TIME", "1h")]);
    assert!(kept.refuse_foreign(&["KEY_ARCHIVE_"]).unwrap_err().to_string().contains("CONSUMERS_CACHE_TIME"));
}

#[test]
fn debug_shows_the_names_of_variables_and_no_credential() {
    let shown = format!("{:?}", environment(&lambda()));
    assert!(shown.contains("AWS_SECRET_ACCESS_KEY"), "{shown}");
    assert_not_in(&shown);
    let clients = start(&[]).unwrap();
    assert_not_in(&format!("{clients:?} {clients:#?}"));
}

#[test]
fn clients_need_region_and_credentials_and_say_what_is_missing() {
    assert!(start(&[]).is_ok());
    for missing in ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        let rest = lambda().into_iter().filter(|(name, _)| *name != missing).collect();
        let error = Clients::from_environment(&rest, || SystemTime::UNIX_EPOCH).unwrap_err();
        assert_eq!(error.to_string(), format!("environment variable {missing}: is not set"));
        assert_no_canary(&error);
    }
    let fips = ("AWS_USE_FIPS_ENDPOINT", "true");
    let error = start(&[fips, ("AWS_ENDPOINT_URL", "https://vpce-1.amazonaws.com")]).unwrap_err();
    assert!(error.to_string().starts_with("environment variable AWS_USE_FIPS_ENDPOINT: "), "{error}");
    assert!(start(&[fips]).is_ok());
    let error = start(&[("AWS_USE_FIPS_ENDPOINT", "perhaps")]).unwrap_err();
    assert_eq!(error.to_string(), "environment variable AWS_USE_FIPS_ENDPOINT: expected true or false");
}

#[test]
fn an_endpoint_of_aws_is_https_or_loopback() {
    const VARIABLES: [&str; 3] =
        ["AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL_CLOUDWATCH", "AWS_ENDPOINT_URL"];
    for variable in VARIABLES {
        for good in [
            "https://vpce-1.secretsmanager.us-east-1.vpce.amazonaws.com",
            "http://127.0.0.1:4566",
            "http://[::1]:4566",
            "http://localhost:4566",
        ] {
            assert!(start(&[(variable, good)]).is_ok(), "{variable}={good}");
        }
        for insecure in [
            "http://sandbox.example.com",
            "http://127.0.0.1.evil.com",
            "http://localhost@evil.com",
            "http://localhost.evil.com",
            "http://0.0.0.0:4566",
            "http://10.0.0.1:4566",
            "http://[::1].evil.com",
            "http://[::1]:80.evil.com",
        ] {
            let error = start(&[(variable, insecure)]).unwrap_err();
            assert_eq!(error, RotationError::InsecureUrl { variable: variable.to_owned() }, "{insecure}");
            assert!(error.to_string().contains(variable) && error.to_string().contains("https://"), "{error}");
        }
        let error = start(&[(variable, "https://user:hunter2@vpce-1.amazonaws.com")]).unwrap_err();
        assert!(error.to_string().contains("without user name") && !error.to_string().contains("hunter2"), "{error}");
        for bad in ["vpce-1.amazonaws.com", "ftp://vpce-1.amazonaws.com", "https://", "not a url"] {
            let error = start(&[(variable, bad)]).unwrap_err();
            assert_eq!(error.name(), "InvalidConfiguration", "{bad}");
            assert!(error.to_string().contains(variable) && error.to_string().contains("https://vpce-"), "{error}");
        }
    }
}

#[test]
fn the_endpoint_of_a_service_wins_over_the_one_for_all() {
    let both = [("AWS_ENDPOINT_URL", "http://evil.com"), ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1")];
    let error = start(&both).unwrap_err();
    assert_eq!(error, RotationError::InsecureUrl { variable: "AWS_ENDPOINT_URL".to_owned() }, "CloudWatch falls back");
    assert!(start(&[&both[..], &[("AWS_ENDPOINT_URL_CLOUDWATCH", "http://127.0.0.1:1")]].concat()).is_ok());
}
