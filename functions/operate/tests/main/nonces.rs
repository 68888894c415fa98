//! What doctor makes of the line that a census has logged.

use std::time::{Duration, SystemTime};

use operate::nonces::LoggedCensus;
use rotation::census::{LOGGED, MOST_VALUES};
use serde_json::{Value, json};

const AT: SystemTime = SystemTime::UNIX_EPOCH;

fn line(worn_keys: &Value) -> Value {
    json!({
        "level": "INFO", "message": LOGGED, "secret": "shop/key", "primary_key": "0a1b2c3d", "worn_keys": worn_keys.to_string()
    })
}

/// The finding, when the secret was last rotated so long after the census.
fn finding(worn_keys: &Value, rotated: Option<Duration>) -> Value {
    let census = LoggedCensus::read(&line(worn_keys).to_string(), AT).unwrap();
    let findings = census.findings(rotated.map(|rotated| AT + rotated));
    serde_json::to_value(findings).unwrap()[0].clone()
}

#[test]
fn doctor_names_the_worn_key_its_values_and_the_rotation() {
    let worn = finding(&json!({ "0a1b2c3d": MOST_VALUES / 2 + 7 }), None);
    assert_eq!((&worn["check"], &worn["ok"]), (&json!("nonces"), &json!(false)));
    let detail = worn["detail"].as_str().unwrap();
    for told in ["0a1b2c3d", "2147483655", "4294967296", "1970-01-01T00:00:00Z"] {
        assert!(detail.contains(told), "{detail}");
    }
    assert!(worn["repair"].as_str().unwrap().starts_with("aws secretsmanager rotate-secret --secret-id shop/key"));
}

#[test]
fn a_key_that_encrypts_nothing_any_more_is_not_worn() {
    for worn in [json!({}), json!({ "4e5f6071": MOST_VALUES })] {
        let finding = finding(&worn, None);
        assert_eq!(finding["ok"], true, "{finding}");
        assert!(finding["detail"].as_str().unwrap().contains("fewer than 2147483648"), "{finding}");
    }
    let worn = json!({ "0a1b2c3d": MOST_VALUES });
    assert_eq!(finding(&worn, Some(Duration::from_secs(1)))["ok"], true, "it was rotated since");
    assert_eq!(finding(&worn, Some(Duration::ZERO))["ok"], false);
}

#[test]
fn a_line_of_something_else_is_no_census() {
    let whole = line(&json!({}));
    assert!(LoggedCensus::read(&whole.to_string(), AT).is_some());
    for (member, value) in [
        ("message", json!("done")),
        ("secret", json!(null)),
        ("primary_key", json!("no key")),
        ("worn_keys", json!("{}x")),
        ("worn_keys", json!(null)),
    ] {
        let mut other = whole.clone();
        other[member] = value;
        assert_eq!(LoggedCensus::read(&other.to_string(), AT), None, "{other}");
    }
    assert_eq!(LoggedCensus::read("no JSON", AT), None);
}
