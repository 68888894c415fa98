//! The names of tests: each says one promise, in at most 60 characters.
#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]

use std::fs;
use std::path::Path;

use verify::tools::workspace;

const LONGEST: usize = 60;

/// The names of the tests below a folder.
fn tests(folder: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names_in(&fs::read_to_string(path).unwrap(), names);
        }
    }
}

fn names_in(source: &str, names: &mut Vec<String>) {
    let mut is_test = false;
    for line in source.lines().map(str::trim_start) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let named = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some((name, _)) = named.filter(|_| is_test).and_then(|named| named.split_once('(')) {
            names.push(name.to_owned());
            is_test = false;
        }
    }
}

#[test]
fn names_of_tests_have_at_most_60_characters() {
    let root = workspace().unwrap();
    let mut names = vec![];
    for folder in ["functions", "shared", "tests"] {
        tests(&root.join(folder), &mut names);
    }
    assert!(names.len() > 900, "{} tests found", names.len());
    names.retain(|name| name.len() > LONGEST);
    assert!(names.is_empty(), "longer than {LONGEST} characters: {names:#?}");
}

#[test]
fn names_are_found_in_a_source() {
    let source = "#[test]\nfn one() {}\n\nfn no_test() {}\n\n    #[tokio::test(start_paused = true)]\n    #[ignore]\n    async fn two() {}\n";
    let mut names = vec![];
    names_in(source, &mut names);
    assert_eq!(names, ["one", "two"]);
}
