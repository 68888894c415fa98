//! nextest's report of a run, in the format of JUnit.

use std::collections::BTreeMap;

/// A run of tests.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tests {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Name, number of tests and their seconds of each test program, the longest first.
    pub(crate) programs: Vec<(String, u64, f64)>,
}

/// Reads a report.
pub(crate) fn read(report: &str) -> Tests {
    let mut tests = Tests::default();
    let mut programs = BTreeMap::<&str, (u64, f64)>::new();
    for tag in report.split('<') {
        if let Some(of) = tag.strip_prefix("testcase ") {
            let program = programs.entry(attribute(of, "classname").unwrap_or_default()).or_default();
            program.0 += 1;
            program.1 += attribute(of, "time").and_then(|time| time.parse().ok()).unwrap_or(0.0);
        } else if let Some(of) = tag.strip_prefix("testsuites ") {
            let count = |name| attribute(of, name).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
            tests.failed = count("failures") + count("errors");
            tests.passed = count("tests").saturating_sub(tests.failed);
        }
    }
    tests.programs = programs.into_iter().map(|(name, (tests, time))| (name.to_owned(), tests, time)).collect();
    tests.programs.sort_by(|one, other| other.2.total_cmp(&one.2));
    tests
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_what_passed_and_the_time_of_each_program() {
        let report = r#"<?xml version="1.0"?>
<testsuites name="nextest-run" tests="3" failures="1" errors="0" uuid="u" time="2.5">
  <testsuite name="a" tests="2" disabled="0" errors="0" failures="1">
    <testcase name="x::y" classname="a" timestamp="t" time="0.5"><failure message="thread &apos;x&apos;"/></testcase>
    <testcase name="z" classname="a" timestamp="t" time="0.25"></testcase>
  </testsuite>
  <testsuite name="b::main" tests="1" disabled="0" errors="0" failures="0">
    <testcase name="z" classname="b::main" timestamp="t" time="2.0"></testcase>
  </testsuite>
</testsuites>"#;
        let programs = vec![("b::main".to_owned(), 1, 2.0), ("a".to_owned(), 2, 0.75)];
        assert_eq!(read(report), Tests { passed: 2, failed: 1, programs });
    }
}
