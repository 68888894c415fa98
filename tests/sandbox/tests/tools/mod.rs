//! The programs that `cargo verify` installs, with nothing of this machine's AWS configuration.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program from `target/tools`, or else one of that name in `PATH`, with the sandbox at `endpoint` as its AWS.
///
/// # Panics
/// When there is none: without it the test would prove nothing.
pub(crate) fn tool(name: &str, endpoint: &str) -> Command {
    let mut command = Command::new(find(name));
    for (variable, _) in std::env::vars_os() {
        let upper = variable.to_string_lossy().to_uppercase();
        if upper.starts_with("AWS_") || upper.ends_with("_PROXY") {
            command.env_remove(variable);
        }
    }
    command.envs([
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "sandbox"),
        ("AWS_SECRET_ACCESS_KEY", "sandbox"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("AWS_PAGER", ""),
    ]);
    command
}

fn find(name: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [workspace.join("target/tools/bin")].into_iter().chain(std::env::split_paths(&path));
    let found = folders.map(|folder| folder.join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: `cargo verify` installs it into target/tools"))
}
