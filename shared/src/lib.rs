//! AWS Secrets Manager rotation functions for secrets that an application owns itself.
//!
//! Secrets Manager invokes a function four times per rotation. [`protocol::Rotator`] performs the steps. Each kind of
//! secret is one implementation of [`kind::SecretKind`]. [`lambda::run`] makes a function of an implementation:
//!
//! | step | what it does | calls to Secrets Manager |
//! | --- | --- | --- |
//! | createSecret | makes the new value and stores it as `AWSPENDING`, once | describe, get current, put, describe |
//! | setSecret | has the application load the new value | describe (and get both, with a target) |
//! | testSecret | proves that the application accepts the new value, and refuses a random one | describe, get pending (and current, with a target or an archive) |
//! | finishSecret | checks both values again, moves `AWSCURRENT`, proves again, or puts the old value back | describe, get both, move (and one more move for a keyring) |
//!
//! Modules stand in layers. A module depends only on modules of its own layer and of the layers below. The layers, from
//! the top:
//!
//! 1. `lambda`
//! 2. `aws`, `protocol` and `telemetry`
//! 3. `issue`, `report` and `rollback`
//! 4. `session`
//! 5. `kind`, `archive`, `marked_ring` and `target`
//! 6. `admission`, `moves`, `store` and `testing`
//! 7. `census`, `document`, `environment`, `event`, `keyring`, `pattern`, `policy`, `rows`, `schedule` and `token`
//! 8. `deadline`, `error`, `key`, `secret`, `time` and `versions`
//!
//! The last two layers do no I/O and read no time of day: time and randomness come in as arguments. Only `deadline`
//! measures elapsed time. No modules depend on each other in a circle. A test checks the layers.
//!
//! With the feature `testing`, the module `testing` has the rules of Secrets Manager for the fakes of tests.
//!
//! # A kind of secret
//!
//! The smallest kind asks no application:
//!
//! ```
//! use std::time::SystemTime;
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
pub mod delivery;
pub mod document;
pub mod environment;
pub mod error;
pub mod event;
pub mod issue;
pub mod key;
pub mod keyring;
pub mod kind;
pub mod lambda;
pub mod marked_ring;
pub mod members;
pub mod moves;
pub mod notification;
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
pub mod topic;
pub mod versions;
