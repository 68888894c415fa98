//! What `reencrypt` decides without a database: what it is asked and configured to do, how it parts and paces its work.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

mod history;
mod marks;
#[path = "../../../../shared/tests/main/module_graph.rs"]
mod module_graph;
mod modules;
mod pace;
mod request;
mod settings;
mod understood;

use std::collections::BTreeMap;

use reencrypt::settings::Settings;
use rotation::environment::Environment;
use rotation::error::RotationError;
use serde_json::{Value, json};

/// Stands for what should not have been sent: wherever it is seen, a value would be seen.
const CANARY: &str = "c4naryVALUEc4nary";

/// The variables of a stack with these columns, and further ones.
fn environment(columns: &Value, variables: &[(&str, &str)]) -> Environment {
    let columns = columns.to_string();
    let mut environment: BTreeMap<&str, &str> = [
        ("REENCRYPT_COLUMNS", columns.as_str()),
        ("REENCRYPT_KEY_SECRET", "shop/production/encryption-key"),
        ("DATABASE_SECRET", "shop/production/database"),
        ("DATABASE_HOST", "127.0.0.1"),
        ("DATABASE_NAME", "postgres"),
    ]
    .into();
    environment.extend(variables.iter().copied());
    environment.into_iter().collect()
}

/// The settings that are read from them.
fn settings(columns: &Value, variables: &[(&str, &str)]) -> Result<Settings, RotationError> {
    Settings::from_environment(&environment(columns, variables))
}

/// The column `public.rows.token`, which holds Fernet tokens.
fn tokens_column() -> Value {
    json!({ "table": "rows", "column": "token", "format": "fernet" })
}
