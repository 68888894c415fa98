//! What all parts of a sweep go by.

use rotation::deadline::Deadline;

use crate::operator::Operator;
use crate::request;

/// One sweep.
#[derive(Clone, Copy, Debug)]
pub struct Sweep<'a> {
    pub(super) operator: &'a Operator,
    pub(super) request: &'a request::Sweep,
    pub(super) request_id: &'a str,
    pub(super) deadline: Deadline,
}

impl<'a> Sweep<'a> {
    /// The sweep that `request` asks for, with Lambda's id of the request for the record.
    #[must_use]
    pub fn new(operator: &'a Operator, request: &'a request::Sweep, request_id: &'a str, deadline: Deadline) -> Self {
        Self { operator, request, request_id, deadline }
    }
}
