//! Issued credentials: what an issuer is asked, what becomes of its answers, and what is alive at the provider.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

mod contract;
mod examples;
mod provider;
mod refusals;
mod rotation;
mod site;
mod store;

use serde_json::Value;

/// Stands for a secret value: wherever it is seen, a value would be seen.
const CANARY: &str = "c4naryVALUE";

/// The members of a JSON text.
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
