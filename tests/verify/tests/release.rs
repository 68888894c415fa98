//! The files of a release.
#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]
#![allow(clippy::disallowed_methods, reason = "it makes programs of different ages")]

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use verify::tools::workspace;

#[test]
fn the_zip_of_a_program_has_the_same_bytes_each_time() {
    let folder = std::env::temp_dir().join(format!("release-{}", std::process::id()));
    let zip = |made: &str, program: &[u8], age: Duration| {
        let bootstrap = folder.join(made).join("lambda/operate/bootstrap");
        fs::create_dir_all(bootstrap.parent().unwrap()).unwrap();
        fs::write(&bootstrap, program).unwrap();
        fs::File::open(&bootstrap).unwrap().set_modified(SystemTime::now() - age).unwrap();
        let mut pack = Command::new("python3");
        pack.arg(workspace().unwrap().join("tests/verify/src/pack.py")).arg("zips").arg(folder.join(made));
        assert!(pack.arg("arm64").arg(&bootstrap).status().unwrap().success());
        fs::read(folder.join(made).join("operate-arm64.zip")).unwrap()
    };
    let program = b"\x7fELF a program".repeat(1000);
    let first = zip("first", &program, Duration::ZERO);
    assert_eq!(first, zip("second", &program, Duration::from_secs(86_400)));
    assert_ne!(first, zip("third", &program[1..], Duration::ZERO));
    fs::remove_dir_all(folder).unwrap();
}
