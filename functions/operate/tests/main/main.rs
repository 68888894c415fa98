//! The promises of what operators ask for, in seconds and without a service.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

mod actions;
mod aws;
// Chromium is published for this processor only.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod browser;
mod by_hand;
mod delivery;
mod doctor;
mod errors;
mod issued;
mod layers;
#[path = "../../../../shared/tests/main/module_graph.rs"]
mod module_graph;
mod nonces;
mod overlap;
mod put;
mod report;
mod requests;
mod staged;
mod store;
mod sweep;

use operate::Operator;
use rotation::environment::Environment;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

/// A deployment that is for everything under `shop/`, and asks no application. Nothing answers where its services would be.
fn operator(variables: &[(&str, &str)]) -> Operator {
    Operator::from_environment(&environment(&[&DEPLOYMENT[..], variables].concat())).unwrap()
}

const DEPLOYMENT: [(&str, &str); 6] = [
    ("AWS_REGION", "us-east-1"),
    ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "example"),
    ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
    ("SECRET_NAME_PREFIX", "shop/"),
    ("ALLOWED_ACTIONS", "status,verify,rollback,revoke,abort,compromise,doctor,retire,restore,forget,put,sweep,report"),
];
