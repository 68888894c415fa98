//! The promises of deliveries, in seconds and without a service.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

mod settings;
