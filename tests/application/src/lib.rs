//! The sample application: an HTTP service whose admin API is guarded by a token from AWS Secrets Manager, and which keeps
//! records encrypted under a keyring from there.
//!
//! It is what the users of the rotation functions run, written the way that survives a rotation without a refused
//! request or an unreadable record ([`Mode::AllStages`], [`KeyMode::Keyring`]) and the way that many existing applications
//! are written ([`Mode::CurrentOnly`], [`KeyMode::NameOnly`]). Beside it are the things that a rotation is watched with: a
//! [`LoadBalancer`] that puts several instances behind one address, a [`Load`] of requests that counts who was refused, and
//! when, and a [`RecordLoad`] that writes records and counts which could not be read.
//!
//! The parts stand on each other from the bottom up:
//!
//! - [`secrets`]: the client of Secrets Manager and the reading of a secret's version stages;
//! - [`clock`]: the wall clock, corrected by the `Date` header of Secrets Manager's answers;
//! - [`cache`]: what was read, kept for an hour, whatever it is used for;
//! - [`tokens`]: what of it authorises a request;
//! - [`keyring`]: what of it encrypts and decrypts;
//! - [`database`]: where records are, in memory or in PostgreSQL;
//! - [`records`]: the records and their endpoints;
//! - [`instance`]: the admin API and the server.
//!
//! No secret value is ever logged, shown in a `Debug`, or answered to anybody.

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
pub use instance::{Instance, InstanceSettings, TOKEN_HEADER};
pub use keyring::{KeyFormat, KeyMode, Keyring};
pub use load::{Connections, Load, LoadReport, LoadSettings, RefusalWindow, TokenSource};
pub use load_balancer::LoadBalancer;
pub use record_load::{RecordLoad, RecordLoadSettings, RecordReport};
pub use records::{KeySettings, PROVIDER_HEADER};
pub use secrets::{LoadError, SecretReference, ServiceSettings, SettingsError};
pub use tokens::{AdminTokens, Mode, Token};
