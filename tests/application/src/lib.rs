//! The sample application: an HTTP service with an admin API and encrypted records. A token from AWS Secrets Manager
//! guards the admin API. A keyring from there encrypts the records.
//!
//! Users of the rotation functions run such an application. It can run in three ways:
//!
//! - The first survives a rotation without a refused request or an unreadable record ([`Mode::AllStages`],
//!   [`KeyMode::Keyring`]).
//! - The second is the way of many existing applications ([`Mode::CurrentOnly`], [`KeyMode::NameOnly`]).
//! - The third reads its environment when it starts, and never Secrets Manager ([`Mode::AtStart`]). It survives
//!   rotations with staged tokens and staged keys.
//!
//! Three tools watch a rotation. A [`LoadBalancer`] puts several instances behind one address. A [`Load`] sends
//! requests, and counts the refused ones with their times. A [`RecordLoad`] writes records, and counts the unreadable
//! ones.
//!
//! The parts build on each other, in this order:
//!
//! - [`secrets`]: the client of Secrets Manager, and the reads of a secret's version stages;
//! - [`clock`]: the wall clock, corrected by the `Date` header in the answers of Secrets Manager;
//! - [`cache`]: the values read from a secret, kept for an hour;
//! - [`tokens`]: the tokens that authorise a request;
//! - [`keyring`]: the keys that encrypt and decrypt;
//! - [`database`]: the records' store, in memory or in PostgreSQL;
//! - [`records`]: the records and their endpoints;
//! - [`instance`]: the admin API and the server.
//!
//! No secret value is ever logged, shown in a `Debug`, or sent in an answer.

pub mod cache;
pub mod clock;
pub mod database;
pub mod instance;
pub mod keyring;
pub mod load;
pub mod load_balancer;
pub mod record_load;
pub mod records;
pub mod secrets;
pub mod tokens;

pub use cache::{CacheSettings, Cached, SecretCache};
pub use clock::{Clock, ServiceClock};
pub use database::{Database, DatabaseError, Record};
pub use instance::{AtStart, Instance, InstanceSettings, TOKEN_HEADER};
pub use keyring::{KeyFormat, KeyMode, Keyring};
pub use load::{Connections, Load, LoadReport, LoadSettings, RefusalWindow, TokenSource};
pub use load_balancer::LoadBalancer;
pub use record_load::{RecordLoad, RecordLoadSettings, RecordReport};
pub use records::{KeySettings, PROVIDER_HEADER};
pub use secrets::{LoadError, SecretReference, ServiceSettings, SettingsError, StartValue};
pub use tokens::{AdminTokens, Mode, Token};
