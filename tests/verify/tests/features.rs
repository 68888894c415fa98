//! The tests of one member compile no dependency that those of the whole workspace have compiled.
#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]
#![allow(clippy::disallowed_methods, reason = "it starts Cargo")]

use std::collections::BTreeSet;
use std::process::Command;

use verify::tools::workspace;

/// The dependencies of the tests of these packages, each with its features.
fn dependencies(packages: &[&str]) -> BTreeSet<String> {
    let mut tree = Command::new(std::env::var_os("CARGO").unwrap());
    tree.current_dir(workspace().unwrap()).args(["tree", "--locked", "--offline", "--edges", "normal,build,dev"]);
    tree.args(["--prefix", "none", "--format", "{p} with {f}"]).args(packages);
    let output = tree.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    // Members stand with their paths.
    let dependencies = lines.lines().filter(|line| !line.contains("(/"));
    dependencies.map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

#[test]
fn tests_of_a_member_compile_no_dependency_again() {
    let manifest = std::fs::read_to_string(workspace().unwrap().join("Cargo.toml")).unwrap();
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() > 10, "{members:?}");
    let all = dependencies(&["--workspace"]);
    for member in members {
        let name = if member == "shared" { "rotation" } else { member.rsplit('/').next().unwrap() };
        let others: Vec<_> = dependencies(&["--package", name]).difference(&all).cloned().collect();
        assert!(others.is_empty(), "{name}: other features, which tests/features has to name: {others:#?}");
    }
}
