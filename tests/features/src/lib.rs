//! Nothing but features: every dependency of the workspace with every feature that a member asks of it.
//!
//! Cargo compiles a dependency once for each set of features, and chooses the set by the packages that it is told to
//! build. As a dev-dependency of every member this crate makes that set the same whichever tests are built, so that
//! the AWS SDK is compiled once. What is deployed does not depend on it. `tests/verify` holds the list complete.
