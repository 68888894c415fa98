//! The host runs built functions as Lambda does, and answers as Lambda's Invoke API.

#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod common;
mod hosting;
mod invoke_api;
