//! What has to be done for a secret, a copy, a service and a function: data in, data out. No I/O, no clock.

pub mod copy;
pub mod function;
pub mod labels;
pub mod service;
