//! The promises hold in every schedule, for every kind of secret, and schedules are known in which a broken one is caught.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests; the lints know only those inside a test function"
)]

mod issued;
mod keyring;
mod operations;
mod rows;
mod staged;
mod support;
mod third;
mod token;
