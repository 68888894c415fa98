//! What the stack configures.

use std::time::Duration;

use reencrypt::Worker;
use reencrypt::settings::Pace;
use serde_json::{Value, json};

use crate::{CANARY, environment, settings, tokens_column};

/// Columns, variables, and a part of the message.
type Broken = (Value, &'static [(&'static str, &'static str)], &'static str);

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let with = |member: &str, value: Value| {
        let mut column = tokens_column();
        column[member] = value;
        json!([column])
    };
    let good = json!([tokens_column()]);
    let one = &good[0];
    let broken: Vec<Broken> = vec![
        (json!([]), &[], "REENCRYPT_COLUMNS"),
        (json!({}), &[], "REENCRYPT_COLUMNS"),
        (json!([one, one]), &[], "stands there twice"),
        (with("format", json!("aes-cbc")), &[], "REENCRYPT_COLUMNS"),
        (with("fromat", json!("fernet")), &[], "unknown field"),
        (with("table", json!("")), &[], "expected names"),
        (with("table", json!("x".repeat(64))), &[], "expected names"),
        (with("aad", json!(["id"])), &[], "Fernet tokens take no associated data"),
        (with("encoding", json!("base64")), &[], "always written in the same way"),
        (json!([one, { "table": "others", "column": "token", "format": "tink" }]), &[], "columns of one keyring"),
        (json!([{ "table": "t", "column": "c", "format": "tink", "aad": ["c"] }]), &[], "named in its own aad"),
        (with("excused", json!("why")), &[], "needs a format, or the reason why it is excused"),
        (json!([{ "table": "t", "column": "c" }]), &[], "needs a format, or the reason why it is excused"),
        (json!([{ "table": "t", "column": "c", "excused": "why" }]), &[], "a column that is not excused"),
        (with("padding", json!(true)), &[], "is not written in base64"),
        (good.clone(), &[("REENCRYPT_KEY_SECRET", "")], "REENCRYPT_KEY_SECRET"),
        (good.clone(), &[("REENCRYPT_BATCHROWS", "1")], "REENCRYPT_BATCHROWS"),
        (good.clone(), &[("REENCRYPT_BATCH_ROWS", "0")], "REENCRYPT_BATCH_ROWS"),
        (good.clone(), &[("REENCRYPT_ROWS_PER_SECOND", "0")], "REENCRYPT_ROWS_PER_SECOND"),
        (good.clone(), &[("REENCRYPT_LOCK_TIMEOUT", "1s")], "REENCRYPT_LOCK_TIMEOUT"),
        (good.clone(), &[("REENCRYPT_STATEMENT_TIMEOUT", "0s")], "REENCRYPT_STATEMENT_TIMEOUT"),
        (good.clone(), &[("DATABASE_HOST", "")], "DATABASE_HOST"),
        (good.clone(), &[("DATABASE_PASSWORD", CANARY)], "DATABASE_PASSWORD"),
        (good.clone(), &[("DATABASE_CA_FILE", "/nowhere.pem")], "DATABASE_CA_FILE"),
        (good.clone(), &[("DATABASE_CA_FILE", "/dev/null")], "DATABASE_CA_FILE"),
        (good.clone(), &[("ROTATION_KEY_FORMAT", "pem")], "ROTATION_KEY_FORMAT"),
    ];
    for (columns, variables, problem) in broken {
        let refused = Worker::from_environment(&environment(&columns, variables)).expect_err(problem);
        assert!(["InvalidConfiguration", "InvalidPolicy"].contains(&refused.name()), "{refused}");
        let message = refused.to_string();
        assert!(message.contains(problem), "{problem}: {message}");
        assert!(!message.contains(CANARY), "{message}");
    }
    let too_many: Vec<Value> =
        (0..65).map(|number| json!({ "table": format!("t{number}"), "column": "c", "format": "fernet" })).collect();
    assert!(settings(&json!(too_many[..64]), &[]).is_ok());
    assert!(settings(&json!(too_many), &[]).is_err());
}

#[test]
fn columns_are_in_the_schema_public_unless_said() {
    let excused = json!({ "schema": "audit", "table": "rows", "column": "token", "excused": "never decrypted" });
    let settings = settings(&json!([tokens_column(), excused]), &[]).unwrap();
    let names = |names: Vec<String>| names.join(" ");
    assert_eq!(names(settings.columns.iter().map(|column| column.name.to_string()).collect()), "public.rows.token");
    assert_eq!(names(settings.excused.iter().map(ToString::to_string).collect()), "audit.rows.token");
    assert_eq!(settings.column(&settings.columns[0].name), Some(&settings.columns[0]));
    assert_eq!(settings.column(&settings.excused[0]), None);
}

#[test]
fn the_pace_is_gentle_unless_the_stack_says_otherwise() {
    let columns = json!([tokens_column()]);
    let usual = Pace {
        batch_rows: 5000,
        batch_time: Duration::from_millis(250),
        rows_per_second: None,
        lock_timeout: Duration::from_millis(200),
        statement_timeout: Duration::from_secs(5),
    };
    assert_eq!(settings(&columns, &[]).unwrap().pace, usual);
    let variables = [
        ("REENCRYPT_BATCH_ROWS", "20000"),
        ("REENCRYPT_BATCH_TIME", "1ms"),
        ("REENCRYPT_ROWS_PER_SECOND", "1"),
        ("REENCRYPT_LOCK_TIMEOUT", "900ms"),
        ("REENCRYPT_STATEMENT_TIMEOUT", "60s"),
    ];
    let configured = Pace {
        batch_rows: 20_000,
        batch_time: Duration::from_millis(1),
        rows_per_second: Some(1),
        lock_timeout: Duration::from_millis(900),
        statement_timeout: Duration::from_secs(60),
    };
    assert_eq!(settings(&columns, &variables).unwrap().pace, configured);
}

#[test]
fn only_a_database_of_this_machine_needs_no_tls() {
    for (host, is_local) in [
        ("localhost", true),
        ("127.0.0.1", true),
        ("::1", true),
        ("/var/run/postgresql", true),
        ("10.0.0.1", false),
        ("localhost.example.com", false),
        ("database.example.com", false),
    ] {
        let settings = settings(&json!([tokens_column()]), &[("DATABASE_HOST", host)]).unwrap();
        assert_eq!(settings.database.is_local(), is_local, "{host}");
    }
}
