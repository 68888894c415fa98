//! The promises of the pure modules, and of the target over HTTP, through the public surface of the crate.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

mod admission;
mod census;
mod ciphers;
mod delivery;
mod document;
mod environment;
mod errors;
mod event;
mod fields;
mod functions;
mod fuzzed;
mod key_formats;
mod keyring;
mod keys;
mod layers;
mod members;
mod module_graph;
mod notification;
mod object;
mod policy;
mod rows;
mod schedule;
mod service_clock;
mod target;
mod target_http;
mod testing;
mod token;
mod topic;

use std::fmt::{Debug, Display};

use rotation::document::FieldName;
use rotation::environment::Environment;
use rotation::secret::SecretText;

/// Stands for a secret value: wherever it is seen, a value would be seen.
const CANARY: &str = "c4naryVALUEc4naryVALUEc4naryVALUEc4nary";

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn field(name: &str) -> FieldName {
    FieldName::new(name).unwrap()
}

fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

/// Panics when any part of the canary that is long enough to be told from chance is printed.
#[track_caller]
fn assert_no_canary<E: Debug + Display>(error: &E) {
    for shown in [format!("{error}"), format!("{error:?}"), format!("{error:#?}")] {
        assert_not_in(&shown);
    }
}

#[track_caller]
fn assert_not_in(shown: &str) {
    let lower = shown.to_lowercase();
    assert!(!lower.contains("c4nary") && !lower.contains("value_c4"), "shows the value: {shown}");
}
