//! One file per action: what its request has, what it does, and what it answers.

pub mod abort;
pub(crate) mod at_once;
pub mod compromise;
pub mod doctor;
pub mod forget;
pub mod put;
pub mod restore;
pub mod retire;
pub mod revoke;
pub mod rollback;
pub mod status;
pub mod verify;
