//! What holds of `template.yaml` and `infra/`.
// In a test, what is missing is a failed test; what is measured is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod break_glass;
mod build;
mod costs;
mod definition;
mod deliver;
mod deliveries;
mod deployed;
mod documents;
mod emulator;
mod kinds;
mod metrics;
mod network;
mod parameters;
mod permissions;
mod policies;
mod put;
mod reencryption;
mod settings;
mod support;
mod tools;
