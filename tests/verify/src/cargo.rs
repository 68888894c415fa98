//! Starts Cargo from a program that Cargo itself may have started.

use std::env;
use std::ffi::OsStr;
use std::process::Command;

/// The variable with the folders of built programs, in the form of `PATH`. `cargo demo`, `cargo sandbox` and `cargo
/// verify` build first, and set it. Without it, Cargo builds the programs for the demo, the sandbox and the tests.
pub const BUILT_PROGRAMS: &str = "BUILT_PROGRAMS";

/// The prefixes of the variables by which Cargo describes the program that it runs
/// (<https://doc.rust-lang.org/cargo/reference/environment-variables.html>).
const OUTER_PACKAGE: [&str; 6] =
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_", "CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];

/// The Cargo that started this program, or else the one in `PATH`, started as by [`command_beside_cargo`].
#[must_use]
pub fn cargo() -> Command {
    command_beside_cargo(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A program that may run Cargo, without the variables by which an outer Cargo describes the program that it runs.
///
/// Build scripts watch some of them, such as `CARGO_PKG_NAME` and `CARGO_MANIFEST_DIR`. If they were passed on, Cargo
/// would rebuild those dependencies at each change between a shell and a program, and everything above them. Settings
/// such as `CARGO_HOME` and `CARGO_TARGET_DIR` are passed on.
#[must_use]
pub fn command_beside_cargo(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(describes_a_package) {
            command.env_remove(name);
        }
    }
    command
}

fn describes_a_package(variable: &str) -> bool {
    OUTER_PACKAGE.iter().any(|prefix| variable.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::describes_a_package;

    #[test]
    fn nested_cargo_loses_the_outer_package_and_keeps_its_settings() {
        for variable in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PRIMARY_PACKAGE"] {
            assert!(describes_a_package(variable), "{variable}");
        }
        for variable in ["CARGO", "CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_TERM_COLOR", "CARGO_INCREMENTAL", "PATH"] {
            assert!(!describes_a_package(variable), "{variable}");
        }
    }
}
