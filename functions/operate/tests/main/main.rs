//! The promises of what operators ask for, in seconds and without a service.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

mod aws;

use rotation::environment::Environment;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}
