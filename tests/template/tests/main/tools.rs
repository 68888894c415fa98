//! What the field's tools find: nothing. What they are told not to ask for stands in `infra/checkov.yaml`, with the reason.

use std::process::Command;

use serde_json::Value;
use template::{ALL, MAIN, tool};

use crate::policies::documents;

fn found_nothing(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn sam_validate_finds_nothing() {
    let mut sam = tool("sam").unwrap();
    sam.args(["validate", "--lint", "--template", MAIN]);
    let text = found_nothing(sam);
    assert!(text.contains("is a valid SAM Template"), "{text}");
    println!("{}", text.trim());
}

#[test]
fn cfn_lint_finds_nothing_in_any_template() {
    let mut lint = tool("cfn-lint").unwrap();
    lint.args(["--format", "json", "--"]).args(ALL);
    let text = found_nothing(lint);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), Value::Array(vec![]));
    println!("cfn-lint: {} templates, no finding", ALL.len());
}

#[test]
fn checkov_finds_nothing_in_any_template() {
    let mut checkov = tool("checkov").unwrap();
    checkov.args(["--config-file", "infra/checkov.yaml", "--skip-download", "--output", "json"]);
    ALL.iter().for_each(|path| {
        checkov.args(["--file", path]);
    });
    let text = found_nothing(checkov);
    let report: Value = serde_json::from_str(&text).unwrap();
    let count = |what: &str| report["summary"][what].as_u64().unwrap();
    assert_eq!((count("failed"), count("skipped"), count("parsing_errors")), (0, 0, 0), "{report}");
    assert!(count("passed") > 0, "{report}");
    println!("checkov: {} passed, none failed or skipped in place", count("passed"));
}

/// What parliament asks for and does not get, and why.
const ALLOWED: [(&str, &str, &str); 4] = [
    (
        "RESOURCE_STAR",
        "ec2:CreateNetworkInterface",
        "Lambda itself makes and deletes the interfaces, and asks for these actions on every resource (Lambda, configuring VPC access)",
    ),
    (
        "RESOURCE_MISMATCH",
        "states:ListExecutions",
        "it is of a state machine or of a map run, and parliament wants both (Service Authorization Reference, Step Functions)",
    ),
    (
        "RESOURCE_MISMATCH",
        "states:DescribeExecution",
        "it is of an execution or of an express one, and parliament wants both (Service Authorization Reference, Step Functions)",
    ),
    (
        "UNKNOWN_CONDITION_FOR_ACTION",
        "lambda:SourceFunctionArn",
        "a key of every request that is made with a function's credentials (Lambda, using the source function ARN)",
    ),
];

#[test]
fn parliament_finds_nothing_in_any_policy() {
    let folder = tempfile::tempdir().unwrap();
    let documents = documents();
    for (name, document) in &documents {
        std::fs::write(folder.path().join(format!("{name}.json")), document.to_string()).unwrap();
    }
    let mut parliament = tool("parliament").unwrap();
    parliament.args(["--json", "--directory"]).arg(folder.path());
    let output = parliament.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let findings: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // It ends with success when it found nothing: a crash would look like nothing found.
    assert_eq!(output.status.success(), findings.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let allowed = |finding: &Value, (issue, detail, _): &(&str, &str, &str)| {
        finding["issue"] == *issue && finding["detail"].to_string().contains(detail)
    };
    let left: Vec<_> =
        findings.iter().filter(|finding| !ALLOWED.iter().any(|exception| allowed(finding, exception))).collect();
    assert!(left.is_empty(), "{left:#?}");
    for exception in &ALLOWED {
        assert!(findings.iter().any(|finding| allowed(finding, exception)), "{} is not needed", exception.0);
    }
    println!("parliament: {} policies, no finding beside {} kinds with a reason", documents.len(), ALLOWED.len());
}
