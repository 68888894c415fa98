//! The built programs of this workspace.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use verify::cargo::{BUILT_PROGRAMS, cargo};

/// The path of a program of this workspace. Unless an outer process has built the programs, Cargo builds all of them,
/// once for this process. Built together, they share the dependencies of the tests.
///
/// # Errors
/// Cargo fails, or no program has this name.
pub fn program(name: &str) -> io::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folders: Vec<PathBuf> = match env::var_os(BUILT_PROGRAMS) {
        Some(folders) => env::split_paths(&folders).collect(),
        None => {
            vec![BUILT.get_or_init(|| build().map_err(|error| error.to_string())).clone().map_err(io::Error::other)?]
        }
    };
    let found = folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file());
    found.ok_or_else(|| io::Error::other(format!("there is no program {name} in {folders:?}")))
}

/// Builds all programs in the profile of this one, and returns their folder.
fn build() -> io::Result<PathBuf> {
    let this = env::current_exe()?;
    // A test program is in a folder beside the programs.
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
