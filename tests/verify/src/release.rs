//! The files of a release: a zip of each function and a list of its contents (SBOM). One toolchain makes the same bytes
//! each time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use verify::tools::TESTS;

use crate::arm64;
use crate::tiers::step;
use crate::workshop::Workshop;

/// The deployed functions.
pub(crate) const FUNCTIONS: [&str; 6] =
    ["admin-token", "deliver", "encryption-key", "issued-credential", "operate", "reencrypt"];
/// The program that makes zips and the SBOM.
const PACK: &str = "tests/verify/src/pack.py";

/// Makes the files in `target/release-files`.
pub(crate) fn make() -> Result<(), String> {
    let workshop = Workshop::open()?;
    let files = build(&workshop, &workshop.root)?;
    println!("\nin {}:", files.display());
    println!("{}", fs::read_to_string(files.join("SHA256SUMS")).map_err(|error| error.to_string())?.trim_end());
    Ok(())
}

/// Makes the files here, and again from a copy of the committed tree in another folder. Compares both.
pub(crate) fn compare() -> Result<(), String> {
    let workshop = Workshop::open()?;
    let mut status = workshop.command("git");
    let status = status.args(["status", "--porcelain"]).output().map_err(|error| format!("git: {error}"))?;
    if !status.stdout.is_empty() {
        return Err("commit first: the other build is of what is committed".to_owned());
    }
    let copy = workshop.root.join("target/another-clone");
    if copy.exists() {
        fs::remove_dir_all(&copy).map_err(|error| format!("{}: {error}", copy.display()))?;
    }
    let mut clone = workshop.command("git");
    clone.args(["clone", "--quiet", "."]).arg(&copy);
    step("another clone", clone)?;
    let sums = |root: &Path| {
        let file = build(&workshop, root)?.join("SHA256SUMS");
        fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
    };
    let (here, there) = (sums(&workshop.root)?, sums(&copy)?);
    if here != there {
        return Err(format!("two builds differ:\n{here}\n{there}"));
    }
    println!("\ntwo builds in different folders, the same bytes:\n{here}");
    Ok(())
}

/// Builds the functions of the workspace in `root` for both architectures, and packs them.
fn build(workshop: &Workshop, root: &Path) -> Result<PathBuf, String> {
    TESTS.install(step)?;
    let cross = arm64::toolchain(workshop)?;
    let files = root.join("target/release-files");
    if files.exists() {
        fs::remove_dir_all(&files).map_err(|error| format!("{}: {error}", files.display()))?;
    }
    for (architecture, triple, processor) in
        [("x86_64", "x86_64-unknown-linux-gnu", "haswell"), ("arm64", "aarch64-unknown-linux-gnu", "neoverse-n1")]
    {
        let mut cargo = workshop.cargo("lambda build --release --locked --skip-target-check");
        cargo.current_dir(root).args(["--target", triple]);
        cargo.args(FUNCTIONS.iter().flat_map(|function| ["--package", function]));
        cargo.env("CARGO_TARGET_DIR", root.join("target")).env("CARGO_ENCODED_RUSTFLAGS", flags(root, processor));
        if architecture == "arm64" {
            cross.apply(&mut cargo);
        }
        step(&format!("the functions for {architecture}"), cargo)?;
        let mut pack = Command::new("python3");
        pack.arg(workshop.root.join(PACK)).arg("zips").arg(&files).arg(architecture);
        pack.args(FUNCTIONS.map(|function| root.join("target/lambda").join(function).join("bootstrap")));
        step(&format!("the zips for {architecture}"), pack)?;
    }
    let mut list = Command::new("python3");
    list.arg(workshop.root.join(PACK)).arg("sbom").arg(&files).args(FUNCTIONS).current_dir(root);
    step("SBOM and sums", list)?;
    Ok(files)
}

/// Compiler flags that keep this machine's paths out of a binary. `processor` is the one that cargo lambda would name.
fn flags(root: &Path, processor: &str) -> String {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"))).unwrap_or_default();
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    [format!("-Ctarget-cpu={processor}"), remap(root, "."), remap(&home, "cargo")].join("\x1f")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use verify::tools::workspace;

    use super::FUNCTIONS;

    #[test]
    #[allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]
    fn every_function_is_deployed_and_released() {
        let root = workspace().unwrap();
        let folders = std::fs::read_dir(root.join("functions")).unwrap().map(|entry| entry.unwrap());
        let folders = folders.filter(|folder| folder.path().join("src/main.rs").exists());
        let there: BTreeSet<String> = folders.map(|folder| folder.file_name().into_string().unwrap()).collect();
        assert_eq!(FUNCTIONS.map(str::to_owned).into_iter().collect::<BTreeSet<_>>(), there, "FUNCTIONS, here");
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let deployed = manifest.split("default-members = [").nth(1).unwrap().split(']').next().unwrap();
        let deployed = deployed.split('"').filter_map(|text| text.strip_prefix("functions/"));
        assert_eq!(deployed.map(str::to_owned).collect::<BTreeSet<_>>(), there, "default-members of Cargo.toml");
    }
}
