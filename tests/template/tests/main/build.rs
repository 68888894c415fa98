//! `sam build`: once for all tests, for the processor of this machine. It builds for debugging, which takes a tenth of the time;
//! `cargo verify release` builds what is released.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use template::{MAIN, root, settle, tool};
use verify::cargo::command_beside_cargo;

use crate::support::most;

/// The folder of each function that `sam build` made, by the function's name in the template.
pub(crate) fn built() -> &'static BTreeMap<String, PathBuf> {
    static BUILT: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = root().join("target/sam");
        std::fs::create_dir_all(&folder).unwrap();
        // nextest runs each test as a process of its own: the first one builds, for all of that run.
        let lock = File::create(root().join("target/sam.lock")).unwrap();
        lock.lock().unwrap();
        let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| std::process::id().to_string());
        let stamp = root().join("target/sam.run");
        if std::fs::read_to_string(&stamp).ok().as_ref() != Some(&run) {
            build(&folder);
            std::fs::write(&stamp, run).unwrap();
        }
        functions().into_iter().map(|name| (name.clone(), folder.join(name))).collect()
    })
}

fn functions() -> Vec<String> {
    most().of_type("AWS::Serverless::Function").into_keys().map(str::to_owned).collect()
}

/// The processor of this machine, as Lambda calls it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        other => other,
    }
}

fn build(folder: &Path) {
    let sam = tool("sam").unwrap();
    let mut build = command_beside_cargo(sam.get_program());
    build.args(["build", "--no-cached", "--template", MAIN, "--build-dir"]).arg(folder);
    build.args(["--parameter-overrides", &format!("Architecture={}", architecture())]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    // sam looks for cargo-lambda in PATH.
    let folders = [root().join("target/template-tools/bin")].into_iter().chain(std::env::split_paths(&path));
    build.env("PATH", std::env::join_paths(folders).unwrap());
    // A target that is not installed is an error here, and nothing to be downloaded.
    build.env("RUSTUP_AUTO_INSTALL", "0").env("SAM_BUILD_MODE", "debug");
    // It builds for a named processor, with the features of a deployment, and build scripts with features of their own.
    build.env("CARGO_TARGET_DIR", root().join("target/sam-cargo"));
    settle(&mut build);
    let started = Instant::now();
    let output = build.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    println!("sam build: {:.0} s", started.elapsed().as_secs_f64());
    // As the release profile does.
    let mut strip = Command::new("strip");
    strip.args(functions().into_iter().map(|name| folder.join(name).join("bootstrap")));
    assert!(strip.status().unwrap().success());
}

#[test]
fn sam_builds_every_function_and_the_zip_has_its_binary_alone() {
    let mut hands = crate::emulator::Hands::without_an_emulator();
    for (name, folder) in built() {
        let zip = hands.zip(folder);
        assert_eq!(zip.names, ["bootstrap"], "{name}");
        let bootstrap = folder.join("bootstrap");
        let binary = std::fs::read(&bootstrap).unwrap();
        assert!(binary.starts_with(b"\x7fELF\x02"), "{name} is no 64-bit ELF");
        // ELF, e_machine.
        let machine = u16::from_le_bytes([binary[18], binary[19]]);
        assert_eq!(machine, if architecture() == "arm64" { 183 } else { 62 }, "{name}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&bootstrap).unwrap().permissions());
        assert!(mode & 0o111 != 0, "{name} cannot be executed");
        let (binary, zip) = (binary.len(), zip.bytes);
        println!("{name}: {:.1} MB, zip {:.1} MB", binary as f64 / 1e6, zip as f64 / 1e6);
        // Lambda takes 50 MB; more than a fifth of it would be a mistake.
        assert!(zip < 10_000_000, "{name}: {zip} bytes");
    }
}

#[test]
fn a_panic_stays_an_error_that_can_be_alarmed_on() {
    // cargo lambda build chooses panic=abort unless the profile says otherwise.
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let release = manifest.split("[profile.release]").nth(1).unwrap();
    assert!(release.lines().any(|line| line == "panic = \"unwind\""));
}
