//! Running Cargo from a program that Cargo itself may have started, and the programs that it builds.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The variable with the folders of built programs, as `PATH` has them: `cargo demo`, `cargo sandbox` and `cargo verify`
/// build first, and set it.
const PROGRAMS: &str = "BUILT_PROGRAMS";

/// The path of a program of this workspace. Unless it was built before by whoever started this process, Cargo builds all
/// programs of the workspace: once for this process, and together, so that they have the dependencies of the tests.
///
/// # Errors
/// When Cargo fails, or there is no such program.
pub fn program(name: &str) -> io::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folders: Vec<PathBuf> = match env::var_os(PROGRAMS) {
        Some(folders) => env::split_paths(&folders).collect(),
        None => {
            vec![BUILT.get_or_init(|| build().map_err(|error| error.to_string())).clone().map_err(io::Error::other)?]
        }
    };
    let found = folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file());
    found.ok_or_else(|| io::Error::other(format!("there is no program {name} in {folders:?}")))
}

/// Builds all programs in the profile of this one, and tells their folder.
fn build() -> io::Result<PathBuf> {
    let this = env::current_exe()?;
    // A test is in a folder of its own beside them.
    let beside = |folder: &Path| {
        if folder.ends_with("deps") { folder.parent().map(Path::to_owned) } else { Some(folder.to_owned()) }
    };
    let folder = this.parent().and_then(beside).ok_or_else(|| io::Error::other("this program has no folder"))?;
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked", "--workspace", "--bins", "--examples"]);
    build.args(folder.ends_with("release").then_some("--release")).current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = build.status()?;
    if status.success() { Ok(folder) } else { Err(io::Error::other(format!("{build:?} failed ({status})"))) }
}

/// Cargo: the one that started this program, or else the one in `PATH`, as [`command_beside_cargo`] starts it.
pub fn cargo() -> Command {
    command_beside_cargo(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A program that runs Cargo, without the variables by which an outer Cargo describes the program that it runs
/// (<https://doc.rust-lang.org/cargo/reference/environment-variables.html>).
///
/// Build scripts watch some of them, such as `CARGO_PKG_NAME` and `CARGO_MANIFEST_DIR`: passed on, they would have those
/// dependencies, and everything above them, built anew each time Cargo is started from a shell and from a program in turn.
/// Settings such as `CARGO_HOME` and `CARGO_TARGET_DIR` are passed on.
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
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_"].iter().any(|prefix| variable.starts_with(prefix))
        || ["CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"].contains(&variable)
}

#[cfg(test)]
mod tests {
    use super::describes_a_package;

    #[test]
    fn a_nested_cargo_keeps_its_settings_and_loses_the_outer_package() {
        for variable in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PRIMARY_PACKAGE"] {
            assert!(describes_a_package(variable), "{variable}");
        }
        for variable in ["CARGO", "CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_TERM_COLOR", "CARGO_INCREMENTAL", "PATH"] {
            assert!(!describes_a_package(variable), "{variable}");
        }
    }
}
