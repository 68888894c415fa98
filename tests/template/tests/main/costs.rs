//! What the stack costs, as the documents say it.

use regex_lite::Regex;
use serde_json::Value;

use crate::metrics::{alarms, of_alarm, part_of, published};
use crate::support::*;

/// What CloudWatch bills of an alarm: each metric that it looks at, and for a band two more.
fn billed(alarm: &Value) -> usize {
    let bands = items(&alarm["Metrics"]).into_iter();
    let bands = bands.filter(|one| one["Expression"].as_str().is_some_and(|text| text.contains("ANOMALY_DETECTION")));
    of_alarm(alarm).len() + 2 * bands.count()
}

#[test]
fn documented_costs_are_those_of_the_stack() {
    let costs = part_of("infra/README.md", "## What it costs a month");
    let rows: Vec<Vec<&str>> = costs
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let row = |what: &str| cost(&rows, what);
    let (always, by_trail) =
        (alarms(&least()), alarms(&most()).into_iter().filter(|(name, _)| name.ends_with("-reads")));
    let (metrics_always, count) = (always.values().map(billed).sum::<usize>(), always.len());
    let (arithmetic, sum) = row("per stack: alarms");
    assert_eq!(arithmetic, format!("{metrics_always} metrics in {count} alarms × 0.10"));
    assert!(near(sum, metrics_always as f64 * 0.10));
    let by_trail: Vec<usize> = by_trail.map(|(_, alarm)| billed(&alarm)).collect();
    let (arithmetic, sum) = row("with `CloudTrailLogGroup`");
    let (metrics, count) = (by_trail.iter().sum::<usize>(), by_trail.len());
    assert_eq!(arithmetic, format!("2 metrics × 0.30, {metrics} metrics in {count} alarms × 0.10"));
    assert!(near(sum, 0.60 + metrics as f64 * 0.10));
    let (arithmetic, sum) = row("with `Consumers`");
    let (count, metrics) = added_by(&OF_CONSUMERS);
    let deliveries = published().into_iter().filter(|(name, _)| name.starts_with("Deliver")).count();
    let expected = format!("{deliveries} metrics × 0.30, {metrics} metrics in {count} alarms × 0.10");
    assert!(arithmetic.starts_with(&expected), "{arithmetic}: {expected}");
    // And its runs.
    assert!(near(sum, deliveries as f64 * 0.30 + metrics as f64 * 0.10 + 0.01), "{sum}");
    let (arithmetic, sum) = row("with `IssuerFunctionArn`");
    let (count, metrics) = added_by(&OF_ISSUER);
    assert!(count == 0 && arithmetic.starts_with(&format!("{metrics} metrics in alarms × 0.10;")), "{arithmetic}");
    assert!(near(sum, metrics as f64 * 0.10), "{sum}");
    let (arithmetic, sum) = row("with `ReencryptColumns`");
    let (count, metrics) = added_by(&["ReencryptColumns"]);
    let rows_published = published().into_iter().filter(|(name, _)| name.starts_with("Rows")).count();
    let expected = format!("{rows_published} metrics × 0.30, {metrics} metrics in {count} alarms × 0.10");
    assert!(arithmetic.starts_with(&expected), "{arithmetic}: {expected}");
    // And a secret and a KMS key, for the archive.
    assert!(near(sum, rows_published as f64 * 0.30 + metrics as f64 * 0.10 + 1.40), "{sum}");
    let others = ["Rotation", "Rows", "Deliver", "OverlapShortened"];
    let sweeps =
        published().into_iter().filter(|(name, _)| !others.iter().any(|other| name.starts_with(other))).count();
    let (arithmetic, sum) = row("per stack: metrics");
    assert!(arithmetic.starts_with(&format!("{sweeps} that the sweep publishes every hour × 0.30;")), "{arithmetic}");
    assert!(near(sum, sweeps as f64 * 0.30));
    let endpoints = most().of_type("AWS::EC2::VPCEndpoint").len();
    assert!(row("with `CreateVpcEndpoints`").0.starts_with(&format!("{endpoints} endpoints × ")));

    sums_are_right(&costs, &rows);
}

/// The alarms and the billed metrics that parameters add, also to alarms that are always there.
fn added_by(parameters: &[&str]) -> (usize, usize) {
    let [with, without] = [most(), most_without(parameters)].map(|stack| {
        let alarms = alarms(&stack);
        (alarms.len(), alarms.values().map(billed).sum::<usize>())
    });
    (with.0 - without.0, with.1 - without.1)
}

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() < 0.006
}

/// A row of the table of costs: how it is worked out, and the sum.
fn cost<'a>(rows: &[Vec<&'a str>], what: &str) -> (&'a str, f64) {
    let row = rows.iter().find(|row| row[1].trim_matches('*') == what).unwrap_or_else(|| panic!("no row {what}"));
    (row[2], row[3].trim_matches('*').parse::<f64>().unwrap())
}

fn sums_are_right(costs: &str, rows: &[Vec<&str>]) {
    let row = |what: &str| cost(rows, what);
    // Each row is rounded: so many halves of a cent may a sum be off.
    let sum_of = |kind: &str| {
        let rows: Vec<f64> =
            rows.iter().filter(|row| row[1].starts_with(kind)).map(|row| row[3].parse::<f64>().unwrap()).collect();
        (rows.iter().sum::<f64>(), 0.006 * rows.len() as f64)
    };
    for (kind, total) in [("per secret: ", "a secret"), ("per stack: ", "a stack")] {
        let ((sum, off), total) = (sum_of(kind), row(total).1);
        assert!((sum - total).abs() <= off, "{kind}{sum} and {total}");
    }
    let words = Regex::new(
        "Two secrets in a stack come to ([0-9.]+), or ([0-9.]+) each; twenty to ([0-9.]+), or ([0-9.]+) each",
    )
    .unwrap();
    let words = words.captures(costs).unwrap();
    let number = |index: usize| words[index].parse::<f64>().unwrap();
    for (secrets, all, each) in [(2.0, number(1), number(2)), (20.0, number(3), number(4))] {
        let sum = row("a stack").1 + secrets * row("a secret").1;
        assert!(
            (sum - all).abs() <= 0.005 * (secrets + 1.0) && near(all / secrets, each),
            "{secrets}: {sum}, {all}, {each}"
        );
    }
}
