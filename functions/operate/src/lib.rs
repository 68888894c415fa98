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
//! | `put` | stores a value that a person rotates |
//! | `sweep` | all secrets, on a schedule: ends overlaps that are over, verifies recent promotions, finds stuck and overdue ones, measures the fleet |
//! | `report` | all secrets, for people: owners, dates, open problems, who read what, as JSON or as a page |
//!
//! Every request is recorded in the log under the target `audit`. The line has the action, the secret, the reason, the request id and the
//! result, never a value. CloudTrail knows the caller under the request id.
//!
//! An action is one file of [`actions`]: its request, what it does, and its answer. What is particular to tokens or to keyrings is in
//! [`kinds`]. All actions on one secret stand on [`session`], which reads it, and on `publication`, which changes what is current. Modules
//! depend on each other without a circle; a test keeps it so.
//!
//! # Why it is so
//!
//! - In a secret with consumers nothing is revoked or retired before its current value is delivered. A compromise lifts that for
//!   the rotation only.
//! - An action writes down what it began as a version stage. Nothing else survives a process that dies, and every action can be sent
//!   again. A stage is on one version only, so each version has stages of its own: a late request takes no mark away from another.
//! - A rollback makes a new version. Moving `AWSCURRENT` back would undo edits of other members. It would also end the overlap of a
//!   text secret at once, because that counts from the CreatedDate of the current version.
//! - Whether a rollback has been done is decided by value, because an edit makes a new version.
//! - `compromise` waits for LastRotatedDate. The new version is current before finishSecret has verified it; a rollback after the
//!   revocation would make the revoked value current again. An open rotation is given up, because it began beside what leaked.
//! - An overlap is ended by taking the old token away, for JSON secrets too, although applications refuse the token by its date. So
//!   a sweep sees from the stages in the listing that nothing is left to do, and reads no value. The new version moves
//!   `AWSCURRENT`, which Secrets Manager may count as a rotation for `AutomaticallyAfterDays`.
//! - A sweep remembers nothing. What is new is what happened between two times of the schedule. It lists everything first, and reads
//!   the flagged secrets in another order each time: otherwise the end of the listing would never have a turn.
//! - Before a sweep reports a secret it describes it: the listing may be minutes old.
//! - Each sweep archives the keyring as it is. If that fails, no re-encryption starts: all rows would follow a key that nobody else
//!   has.
//! - The sweep's deployment retires keys, and people's does not. It acts by itself, and has the right to write keyrings already; the
//!   state machine's role then writes no secret.

pub mod action;
pub mod actions;
pub mod aws;
mod census;
mod delivery;
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
pub mod reads;
pub mod report;
pub mod request;
pub mod response;
pub mod scope;
pub mod services;
pub mod session;
pub mod sweep;
mod tidy;
mod unmanaged;

pub use invocation::answer;
pub use operator::{AllowedActions, DEFAULT_SWEEP_PERIOD, Operator};
