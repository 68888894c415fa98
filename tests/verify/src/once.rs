//! Each dependency is compiled once in each profile, and checked once for the lints.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use crate::workshop::Workshop;

/// The kind of a compiled file: a library, or only its metadata, as for lints and documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Compiled {
    Library,
    Metadata,
}

/// Checks every library that Cargo has compiled since `began`, in every profile, whatever started Cargo.
pub(crate) fn check(workshop: &Workshop, began: SystemTime) -> Result<(), String> {
    let lock = workshop.root.join("Cargo.lock");
    let lock = fs::read_to_string(&lock).map_err(|error| format!("{}: {error}", lock.display()))?;
    let versions = versions(&lock);
    let target = workshop.programs.parent().unwrap_or(&workshop.programs);
    let mut total = 0;
    let mut more = vec![];
    for profile in profiles(target) {
        for ((name, compiled), times) in compiled_since(&profile.join("deps"), began) {
            // Cargo compiles a name with several versions in Cargo.lock once for each version.
            let Some(versions) = versions.get(&name) else { continue };
            total += times;
            if times > *versions {
                more.push(format!("{name} {times} times as {compiled:?} in {}", profile.display()));
            }
        }
    }
    if more.is_empty() {
        println!("   {total} compiled");
        Ok(())
    } else {
        Err(format!("compiled more than once, for different features (see tests/features): {}", more.join("; ")))
    }
}

/// The number of versions of each dependency in `Cargo.lock`, by the name of its library. Members have no source.
fn versions(lock: &str) -> BTreeMap<String, usize> {
    let mut versions = BTreeMap::new();
    for package in lock.split("[[package]]").filter(|package| package.contains("\nsource = ")) {
        if let Some(name) = package.split("name = \"").nth(1).and_then(|rest| rest.split('"').next()) {
            *versions.entry(name.replace('-', "_")).or_default() += 1;
        }
    }
    versions
}

/// The folders of profiles below `target`, for this machine's architecture and for others.
fn profiles(target: &Path) -> Vec<std::path::PathBuf> {
    let folders = |of: &Path| {
        let entries = fs::read_dir(of).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    // A profile's folder can be below the folder of an architecture, and that one below a further target folder.
    let first = folders(target);
    let second: Vec<_> = first.iter().flat_map(|folder| folders(folder)).collect();
    let third = second.iter().flat_map(|folder| folders(folder));
    third.chain(first.clone()).chain(second.clone()).filter(|folder| folder.join("deps").is_dir()).collect()
}

/// How often Cargo compiled each library since `began`: one file each, named by the library and its build.
fn compiled_since(folder: &Path, began: SystemTime) -> BTreeMap<(String, Compiled), usize> {
    let mut compiled = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let made = entry.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let name = path.file_stem().and_then(|stem| stem.to_str()?.strip_prefix("lib")?.rsplit_once('-'));
        let Some((name, _)) = name.filter(|_| made >= began) else { continue };
        let kind = match path.extension().and_then(|extension| extension.to_str()) {
            Some("rlib" | "so") => Compiled::Library,
            Some("rmeta") if !path.with_extension("rlib").exists() => Compiled::Metadata,
            _ => continue,
        };
        *compiled.entry((name.to_owned(), kind)).or_default() += 1;
    }
    compiled
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, remove_dir_all, write};

    use super::*;

    #[test]
    fn a_dependency_compiled_twice_in_a_profile_is_found() {
        let root = std::env::temp_dir().join(format!("compiled-{}", std::process::id()));
        let lock = "[[package]]\nname = \"the-sdk\"\nsource = \"registry\"\n\n[[package]]\nname = \"syn\"\nsource = \"r\"\n\n\
                    [[package]]\nname = \"syn\"\nsource = \"r\"\n\n[[package]]\nname = \"member\"\nversion = \"1\"\n";
        let workshop = Workshop::at(root.clone(), root.join("target/debug")).unwrap();
        // The clock of a file system is some milliseconds behind.
        let began = SystemTime::now() - std::time::Duration::from_secs(1);
        for folder in ["target/debug/deps", "target/x86_64-unknown-linux-gnu/release/deps"] {
            create_dir_all(root.join(folder)).unwrap();
        }
        write(root.join("Cargo.lock"), lock).unwrap();
        let compile = |file: &str| write(root.join("target").join(file), "").unwrap();
        for file in ["libthe_sdk-1.rlib", "libthe_sdk-1.rmeta", "libsyn-1.rlib", "libsyn-2.rlib", "libmember-1.rlib"] {
            compile(&format!("debug/deps/{file}"));
        }
        compile("debug/deps/libmember-2.rlib");
        // For the lints, and in another profile.
        compile("debug/deps/libthe_sdk-2.rmeta");
        compile("x86_64-unknown-linux-gnu/release/deps/libthe_sdk-3.rlib");
        assert_eq!(check(&workshop, began), Ok(()));

        compile("x86_64-unknown-linux-gnu/release/deps/libthe_sdk-4.rlib");
        let found = check(&workshop, began).unwrap_err();
        assert!(found.contains("the_sdk 2 times as Library in") && found.contains("release"), "{found}");
        assert_eq!(check(&workshop, SystemTime::now() + std::time::Duration::from_secs(60)), Ok(()));
        remove_dir_all(root).unwrap();
    }
}
