//! `sweep`: all secrets of the stack, every hour. The listing shows which secrets need a closer check; only that costs further calls.

mod context;
mod delivery;
pub mod digest;
mod events;
mod follow;
mod inspection;
mod listing;
mod overlap;
mod report;
mod run;
mod timing;

pub use crate::sweep::context::Sweep;
pub(crate) use crate::sweep::listing::list_page;
pub use crate::sweep::overlap::OverlapEnd;
pub use crate::sweep::report::{SweepAnswer, SweepResult};
pub(crate) use crate::sweep::timing::{is_left, overdue_by, since};
