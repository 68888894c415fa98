//! Rotation of secrets that an application owns itself, as AWS Secrets Manager rotation functions.
//!
//! Secrets Manager invokes a function four times per rotation. [`protocol::Rotator`] performs the steps; what is
//! particular to a kind of secret is one implementation of [`kind::SecretKind`]; [`lambda::run`] makes a function of it:
//!
//! | step | what it does | calls to Secrets Manager |
//! | --- | --- | --- |
//! | createSecret | makes the new value and stores it as `AWSPENDING`, once | describe, get current, put, describe |
//! | setSecret | has the application load it | describe (and get both, with a target) |
//! | testSecret | proves that the application accepts it, and refuses a random one | describe, get pending (and current, with a target or an archive) |
//! | finishSecret | looks at both once more, moves `AWSCURRENT`, proves again, or puts the old value back | describe, get both, move (and one more move for a keyring) |
//!
//! Modules stand in layers. Each depends on its own layer and on those below it: `lambda`; then `aws`, `protocol` and `telemetry`; then
//! `report` and `rollback`; then `session`; then `kind`, `archive`, `marked_ring` and `target`; then `admission`, `moves` and `store`; then `event`, `policy`, `document`, `keyring`, `rows` and
//! others; at the bottom `error`, `key` and `versions`. The last two layers do no I/O and read no clock: time and randomness come in as
//! arguments. No modules depend on each other in a circle. A test keeps it so.
//!
//! With the feature `testing`, `testing` has the rules of Secrets Manager for the fakes of tests.
//!
//! # A kind of secret
//!
//! A kind without an application to ask needs no more than this:
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use rand::rngs::StdRng;
//! use rotation::deadline::Deadline;
//! use rotation::document::Document;
//! use rotation::error::RotationError;
//! use rotation::kind::{Phase, SecretKind, Subject, Values};
//! use rotation::token::TokenFormat;
//!
//! struct SigningKey;
//!
//! impl SecretKind for SigningKey {
//!     fn has_target(&self) -> bool {
//!         false
//!     }
//!
//!     fn settle_time(&self) -> Duration {
//!         Duration::ZERO
//!     }
//!
//!     fn first(&self, subject: &Subject<'_>, rng: &mut StdRng) -> Result<Document, RotationError> {
//!         Document::first(&TokenFormat::of(subject.policy).generate(rng), subject.policy.field.as_ref())
//!     }
//!
//!     fn create(&self, subject: &Subject<'_>, current: &Document, rng: &mut StdRng) -> Result<Document, RotationError> {
//!         current.with_secret(&TokenFormat::of(subject.policy).generate(rng))
//!     }
//!
//!     fn check_succession(
//!         &self,
//!         _: &Subject<'_>,
//!         _old: &Document,
//!         _new: &Document,
//!         _created: SystemTime,
//!     ) -> Result<(), RotationError> {
//!         Ok(())
//!     }
//!
//!     async fn set(&self, _: &Subject<'_>, _: Values<'_>, _: Phase, _: Deadline) -> Result<(), RotationError> {
//!         Ok(())
//!     }
//!
//!     async fn test(
//!         &self,
//!         _: &Subject<'_>,
//!         _: Values<'_>,
//!         _: Phase,
//!         _: Deadline,
//!         _: &mut StdRng,
//!     ) -> Result<(), RotationError> {
//!         Ok(())
//!     }
//! }
//! ```

pub mod admission;
pub mod archive;
pub mod aws;
pub mod census;
pub mod deadline;
pub mod document;
pub mod environment;
pub mod error;
pub mod event;
pub mod key;
pub mod keyring;
pub mod kind;
pub mod lambda;
pub mod marked_ring;
pub mod moves;
mod pattern;
pub mod policy;
pub mod protocol;
pub mod report;
pub mod rollback;
pub mod rows;
pub mod schedule;
pub mod secret;
pub mod session;
pub mod store;
pub mod target;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
pub mod token;
pub mod versions;
