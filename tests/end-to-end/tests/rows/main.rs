//! The built function `reencrypt` on the sandbox, at work on the rows of a real PostgreSQL. Every test has a sandbox and a schema of
//! its own; all have one server.
// In a test, what is missing is a failed test; what is measured is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod application;
mod bench;
mod census;
mod concurrency;
mod interop;
mod keys;
mod kills;
mod names;
mod programs;
mod refusals;
mod server;
mod tls;
mod triggers;
mod understood;
mod worker;
