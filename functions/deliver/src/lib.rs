//! Brings a promoted value to every consumer of a secret.

pub mod deliverer;
pub mod settings;

pub use deliverer::Deliverer;
