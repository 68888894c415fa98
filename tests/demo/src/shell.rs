//! The shell of an operator: `infra/rotation`, the AWS CLI and jq, with the sandbox as their AWS.

use std::ffi::OsString;
use std::process::Stdio;

use end_to_end::{Failure, Scene};
use tempfile::TempDir;
use tokio::process::Command;
use verify::tools::{OPERATOR, workspace};

use crate::stage::Output;

pub(crate) struct Shell {
    out: Output,
    endpoint: String,
    path: OsString,
    home: TempDir,
}

impl Shell {
    pub(crate) fn open(scene: &Scene, out: &Output) -> Result<Self, Failure> {
        let programs = OPERATOR.programs()?;
        if !programs.join("aws").is_file() {
            let folder = OPERATOR.folder;
            let missing = format!("the AWS CLI is missing: `cargo demo` and `cargo verify` install it into {folder}");
            return Err(missing.into());
        }
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let folders = [workspace()?.join("infra"), programs].into_iter().chain(std::env::split_paths(&inherited));
        let (path, home) = (std::env::join_paths(folders)?, tempfile::tempdir()?);
        Ok(Self { out: out.clone(), endpoint: scene.sandbox.endpoint(), path, home })
    }

    /// Runs a line as it stands, and prints it. Returns what it printed, if it ends with `code`.
    pub(crate) async fn types(&self, line: &str, code: i32) -> Result<String, Failure> {
        self.out.line(&format!("  $ {line}"));
        let mut bash = Command::new("bash");
        bash.args(["-c", line]).current_dir(self.home.path()).stdin(Stdio::null()).kill_on_drop(true);
        bash.env_clear().env("PATH", &self.path).env("HOME", self.home.path()).envs([
            ("AWS_ENDPOINT_URL", self.endpoint.as_str()),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "person"),
            ("AWS_SECRET_ACCESS_KEY", "person"),
            // A person confirms on the terminal.
            ("ROTATION_YES", "1"),
        ]);
        let output = bash.output().await?;
        let printed = String::from_utf8(output.stdout)?;
        printed.lines().for_each(|line| self.out.detail(&format!("    {line}")));
        if output.status.code() == Some(code) {
            return Ok(printed);
        }
        let complained = String::from_utf8_lossy(&output.stderr);
        Err(format!("{line}: {}, expected {code}\n{printed}{complained}", output.status).into())
    }

    /// Prints lines of what a command printed. `-v` has shown them already.
    pub(crate) fn show<'a>(&self, lines: impl IntoIterator<Item = &'a str>) {
        lines.into_iter().for_each(|line| self.out.brief(&format!("    {line}")));
    }
}

/// The command that is printed as the repair of what `of` names.
pub(crate) fn repair<'a>(printed: &'a str, of: &str) -> Result<&'a str, Failure> {
    let mut lines = printed.lines().skip_while(|line| !line.starts_with(of));
    let repairs = lines.find_map(|line| line.trim_start().strip_prefix("repair")?.split_once(": "));
    Ok(repairs.ok_or_else(|| format!("no repair of {of}:\n{printed}"))?.1)
}
