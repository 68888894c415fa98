//! `cargo demo` without a terminal.
#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]

use std::process::Command;

#[test]
fn the_demo_proves_every_claim_and_fits_three_screens() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = text.lines().count();
    assert!(lines <= 180, "{lines} lines");
    for act in [
        "Result for the token",
        "Result for the key",
        "Result for the rows",
        "Result for the cookie",
        "Result for the incident",
        "Result for the consumers",
    ] {
        assert!(text.contains(act), "{act}");
    }
    // The drill, and the deployment that was rolled back.
    assert_eq!(text.matches("healed by three commands").count(), 2, "healed");
    assert_eq!(text.lines().filter(|line| line.starts_with("  $ ")).count(), 6, "commands");
    // The README shows an act of it, whatever the ids and times were.
    let shape = |line: &str| {
        let word = |word: &str| if word.contains(|one: char| one.is_ascii_digit()) { "#" } else { word }.to_owned();
        line.split_whitespace().map(word).collect::<Vec<String>>()
    };
    let readme = include_str!("../../../README.md");
    let shown = readme.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    for line in shown.lines() {
        assert!(text.lines().any(|one| shape(one) == shape(line)), "the demo does not print: {line}");
    }
    // What -v shows.
    assert!(!text.contains(" \u{2192} AWSCURRENT") && !text.contains("no stage"), "moves of staging labels");
}

#[test]
fn an_unknown_option_of_the_demo_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).arg("--fast").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "usage: cargo demo [-v]\n");
}
