//! The base of `cargo demo`, `cargo sandbox` and `cargo verify`: pinned tools in `target`, and commands that never run
//! in silence. It uses the standard library alone, so that the commands start at once on a fresh machine.

pub mod browser;
pub mod cargo;
pub mod progress;
pub mod tools;
