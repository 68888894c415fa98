//! `report`: all secrets of the stack for people, as data or as one page. It goes by the listing alone, and reads no value.

mod fleet;
mod gather;
mod page;
mod row;
mod timeline;

pub use crate::report::fleet::FleetReport;
pub use crate::report::gather::{ReportAnswer, Reporter};
pub use crate::report::row::{HandRow, OpenProblem, Row};
