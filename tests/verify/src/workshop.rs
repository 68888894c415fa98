//! The folders, and the calls of Cargo. A call always builds the whole workspace, so that each dependency is compiled
//! with one set of features.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use verify::cargo::{BUILT_PROGRAMS, command_beside_cargo};
use verify::progress::run;
use verify::tools::{TESTS, workspace};

pub(crate) struct Workshop {
    pub(crate) root: PathBuf,
    /// The folder of the programs that Cargo builds in this program's profile.
    pub(crate) programs: PathBuf,
    path: OsString,
}

impl Workshop {
    pub(crate) fn open() -> Result<Self, String> {
        let root = workspace()?;
        let this = env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
        let programs = this.parent().map(Path::to_path_buf).ok_or("this program has no folder")?;
        Self::at(root, programs)
    }

    /// The workspace in `root`, with Cargo's programs in `programs`.
    pub(crate) fn at(root: PathBuf, programs: PathBuf) -> Result<Self, String> {
        // The tools of the template are not in PATH: the tests call them by their paths.
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = [root.join(TESTS.folder).join("bin")].into_iter().chain(env::split_paths(&path));
        let path = env::join_paths(folders).map_err(|error| format!("PATH: {error}"))?;
        Ok(Self { root, programs, path })
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A program of the tests' Python environment.
    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.root.join(TESTS.folder).join("bin").join(name)
    }

    /// A program in the workspace's root, with the tests' tools first in its `PATH`.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = command_beside_cargo(program);
        command.current_dir(&self.root).env(BUILT_PROGRAMS, &self.programs);
        command
    }

    /// Cargo with these arguments, separated by blanks.
    pub(crate) fn cargo(&self, arguments: &str) -> Command {
        let mut command = self.command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments.split(' ')).env("PATH", &self.path);
        command
    }

    pub(crate) fn build_programs(&self) -> Result<(), String> {
        run("the build", self.cargo("build --workspace --bins --locked"))
    }
}
