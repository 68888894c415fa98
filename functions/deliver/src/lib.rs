//! Brings a promoted value to every consumer of a secret.

pub mod aws;
pub mod decision;
pub mod deliverer;
pub mod error;
mod invocation;
pub mod kinds;
pub mod ports;
pub mod report;
pub mod request;
pub mod run;
pub mod settings;

pub use deliverer::Deliverer;
pub use invocation::answer;
