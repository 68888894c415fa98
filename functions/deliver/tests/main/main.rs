//! The promises of deliveries, in seconds and without a service.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

mod by_hand;
mod changed_consumers;
mod consumers;
mod copies;
mod fakes;
mod issued;
mod keyrings;
mod killed;
mod layers;
#[path = "../../../../shared/tests/main/module_graph.rs"]
mod module_graph;
mod races;
mod readme;
mod requests;
mod settings;
mod timelines;
mod wire;
mod world;
