//! What `cargo demo`, `cargo sandbox` and `cargo verify` stand on: pinned tools in `target`, and commands that never
//! run in silence. The standard library alone, so that they start at once on a fresh machine.

pub mod cargo;
pub mod progress;
pub mod tools;
