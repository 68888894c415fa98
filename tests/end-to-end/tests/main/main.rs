//! The built functions on the sandbox, driven as operators and consumers drive them. Every test has a sandbox, a
//! secret and instances of the application of its own.
// In a test, what is missing is a failed test; what is measured is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod adoption;
mod archive;
mod aws_cli;
mod boto3;
mod cargo_lambda;
mod command;
mod convergence;
mod deliver;
mod documents;
mod examples;
mod interop;
mod issued;
mod keys;
mod leaks;
mod no_downtime;
mod operate;
mod refusals;
mod rollback;
mod rotation;
mod stack;
mod stub;
mod support;
mod third_kind;
