//! `sweep`: all secrets of the stack, every hour. The listing shows which secrets need a closer check; only that costs further calls.

mod context;
pub mod digest;
mod follow;
mod inspection;
mod listing;
mod report;
mod run;
mod timing;

pub use crate::sweep::context::Sweep;
pub use crate::sweep::report::{SweepAnswer, SweepResult};
