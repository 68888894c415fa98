//! What operators do with rotated secrets: one Lambda function, invoked with `{"action": …, "secret_id": …}`.
//!
//! | action | does |
//! | --- | --- |
//! | `status` | tells versions, policy, schedule, overlap and keyring |
//! | `verify` | proves the current value |
//! | `rollback` | makes the value before current again |
//! | `revoke` | ends the overlap now, and proves that the old token is refused |
//! | `abort` | gives up a rotation that does not come to its end |
//! | `compromise` | replaces what has leaked |
//! | `doctor` | finds what keeps rotations from working, with the commands that repair it |
//! | `retire` | takes keys out of a ring that no row needs any more |
//! | `restore` | puts keys back that disappeared from a ring by somebody else's hand |
//! | `forget` | gives such keys up |
//! | `sweep` | all secrets, on a schedule: ends overlaps that are over, verifies recent promotions, finds stuck and overdue ones, measures the fleet |
//!
//! Every request is recorded in the log under the target `audit`: the action, the secret, the reason, the request id and the
//! result, never a value. Who made it is in CloudTrail, under the request id.
//!
//! An action is one file of [`actions`]: its request, what it does, and its answer. What is particular to tokens or to keyrings is in
//! [`kinds`]. All actions on one secret stand on [`session`], which reads it, and on `publication`, which changes what is current. Modules
//! depend on each other without a circle; a test keeps it so.

pub mod action;
pub mod actions;
pub mod aws;
mod census;
pub mod dispatch;
pub mod error;
mod evidence;
mod findings;
pub mod instances;
mod invocation;
pub mod kinds;
pub mod marker;
pub mod members;
pub mod nonces;
mod operator;
mod publication;
pub mod request;
pub mod response;
pub mod scope;
pub mod services;
pub mod session;
pub mod sweep;
mod tidy;

pub use invocation::answer;
pub use operator::{AllowedActions, DEFAULT_SWEEP_PERIOD, Operator};
