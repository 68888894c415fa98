//! The functions for aarch64, the template's architecture: built on any Linux machine, and run through qemu.
//!
//! The Rust toolchain may lack the standard library for aarch64 (`rustup target add aarch64-unknown-linux-gnu` adds
//! it). Then the build takes the library of Debian 12, with the compiler that made it. The build unpacks Debian's
//! packages into `target` and installs nothing. The C compiler and the linker are those of cargo lambda.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use verify::cargo::BUILT_PROGRAMS;
use verify::progress::run;
use verify::tools::{OPERATOR, POSTGRES, TESTS};

use crate::release::FUNCTIONS;
use crate::tiers::step;
use crate::workshop::Workshop;

const TRIPLE: &str = "aarch64-unknown-linux-gnu";
/// Debian's compiler, the libraries that it is linked with, and the standard library.
const COMPILER: [&str; 10] = [
    "rustc-web",
    "libstd-rust-web-1.96",
    "libstd-rust-web-dev:amd64",
    "libstd-rust-web-dev:arm64",
    "libllvm22:amd64",
    "libz3-4:amd64",
    "libedit2:amd64",
    "libxml2:amd64",
    "libbsd0:amd64",
    "libicu72:amd64",
];
/// An emulator of aarch64, and its C library.
const PROCESSOR: [&str; 3] = ["qemu-user-static", "libc6-arm64-cross", "libgcc-s1-arm64-cross"];

/// Builds the functions for aarch64. The demo then runs them: rotations, operations, rewraps and censuses.
pub(crate) fn verify() -> Result<(), String> {
    let workshop = Workshop::open()?;
    for environment in [TESTS, OPERATOR, POSTGRES] {
        environment.install(step)?;
    }
    let toolchain = toolchain(&workshop)?;
    let processor = unpacked(&workshop, "processor", &PROCESSOR)?;
    let mut cargo = workshop.cargo("lambda build --locked --arm64 --skip-target-check");
    cargo.args(FUNCTIONS.iter().flat_map(|function| ["--package", function]));
    // This compiler differs from that of the other builds.
    let target = workshop.root.join("target/arm64/target");
    cargo.env("CARGO_TARGET_DIR", &target);
    toolchain.apply(&mut cargo);
    step("the functions for aarch64", cargo)?;
    workshop.build_programs()?;

    let folder = workshop.root.join("target/arm64/functions");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for function in FUNCTIONS {
        let program = target.join("lambda").join(function).join("bootstrap");
        check_machine(&program)?;
        let (qemu, libraries) =
            (processor.join("usr/bin/qemu-aarch64-static"), processor.join("usr/aarch64-linux-gnu"));
        let script =
            format!("#!/bin/sh\nexec '{}' -L '{}' '{}'\n", qemu.display(), libraries.display(), program.display());
        script_at(&folder.join(function), &script)?;
    }
    let mut demo = workshop.command(workshop.program("demo"));
    let folders = [folder.as_path(), &workshop.programs];
    demo.env(BUILT_PROGRAMS, std::env::join_paths(folders).map_err(|error| error.to_string())?);
    step("the demo, with functions for aarch64", demo)?;
    println!("\n{} were built for aarch64, and the demo ran", FUNCTIONS.join(", "));
    println!("{} passed, 0 failed", FUNCTIONS.len());
    Ok(())
}

/// A compiler with the standard library of aarch64.
pub(crate) struct Toolchain {
    /// The compiler, unless it is the toolchain's own.
    rustc: Option<PathBuf>,
}

impl Toolchain {
    pub(crate) fn apply(&self, cargo: &mut Command) {
        cargo.envs(self.rustc.as_ref().map(|rustc| ("RUSTC", rustc)));
    }
}

/// The toolchain's own compiler if it has the standard library, or else Debian's.
pub(crate) fn toolchain(workshop: &Workshop) -> Result<Toolchain, String> {
    let mut own = workshop.command("rustc");
    own.args(["--print", "target-libdir", "--target", TRIPLE]);
    let folder = own.output().map_err(|error| format!("rustc did not start: {error}"))?;
    if Path::new(String::from_utf8_lossy(&folder.stdout).trim()).is_dir() {
        return Ok(Toolchain { rustc: None });
    }
    let root = unpacked(workshop, "compiler", &COMPILER)
        .map_err(|problem| format!("{problem}\nelsewhere than on Debian 12: rustup target add {TRIPLE}"))?;
    let (libraries, compiler) = (root.join("usr/lib/x86_64-linux-gnu"), root.join("usr/bin/rustc"));
    let rustc = root.join("rustc");
    let (libraries, compiler) = (libraries.display(), compiler.display());
    script_at(&rustc, &format!("#!/bin/sh\nLD_LIBRARY_PATH='{libraries}' exec '{compiler}' \"$@\"\n"))?;
    Ok(Toolchain { rustc: Some(rustc) })
}

/// The folder below `target/arm64` with these packages of Debian. Unpacks them if they are not there.
fn unpacked(workshop: &Workshop, name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let folder = workshop.root.join("target/arm64").join(name);
    let (root, state, downloads) = (folder.join("root"), folder.join("apt"), folder.join("packages"));
    let stamp = folder.join("unpacked.txt");
    let wanted = packages.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|unpacked| unpacked == wanted) {
        return Ok(root);
    }
    let io = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    for folder in [&root, &downloads, &state.join("lists/partial"), &state.join("cache/archives/partial")] {
        fs::create_dir_all(folder).map_err(|error| io(folder, error))?;
    }
    fs::write(state.join("status"), "").map_err(|error| io(&state, error))?;
    // With package lists of its own, so that the machine's lists stay, and no root is needed.
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        let option = |name: &str, path: &str| format!("{name}={}", state.join(path).display());
        for option in [
            option("Dir::State", ""),
            option("Dir::State::status", "status"),
            option("Dir::Cache", "cache"),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures::=amd64".to_owned(),
            // Only Debian's own archive has all architectures at one address.
            if packages.iter().any(|package| package.ends_with(":arm64")) {
                "APT::Architectures::=arm64"
            } else {
                "APT::Architectures::=amd64"
            }
            .to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            apt.args(["-o", &option]);
        }
        apt.arg("-q").args(arguments).current_dir(&downloads);
        apt
    };
    step("lists of Debian's packages", apt(&["update"]))?;
    step(&format!("Debian's packages of the {name}"), apt(&[&["download"], packages].concat()))?;
    let files = fs::read_dir(&downloads).map_err(|error| io(&downloads, error))?;
    for file in files.flatten().filter(|file| file.path().extension().is_some_and(|extension| extension == "deb")) {
        let mut unpack = Command::new("dpkg");
        unpack.arg("-x").arg(file.path()).arg(&root);
        run("unpacking", unpack)?;
    }
    fs::write(&stamp, &wanted).map_err(|error| io(&stamp, error))?;
    Ok(root)
}

fn script_at(path: &Path, script: &str) -> Result<(), String> {
    let written = fs::write(path, script);
    let written = written.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

/// Fails unless the file is a program for aarch64. Source: ELF, `e_machine`.
fn check_machine(program: &Path) -> Result<(), String> {
    let bytes = fs::read(program).map_err(|error| format!("{}: {error}", program.display()))?;
    if bytes.starts_with(b"\x7fELF\x02") && bytes.get(18..20) == Some(&[183, 0]) {
        Ok(())
    } else {
        Err(format!("{} is no program for aarch64", program.display()))
    }
}
