//! Metrics: what alarms and the dashboard look at is what the code publishes, under exactly that name and with those dimensions.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;
use serde_json::Value;
use template::{Stack, root, text};

use crate::settings::{deployed_sources, rust_sources};
use crate::support::*;

/// A metric's name, and the names of its dimensions.
pub(crate) type Metric = (String, Vec<String>);

const NAMESPACE: &str = "SecretRotation";

fn metric(name: &str, dimensions: &[&str]) -> Metric {
    (name.to_owned(), dimensions.iter().map(|dimension| (*dimension).to_owned()).collect())
}

/// What the code publishes, as its sources say it.
pub(crate) fn published() -> BTreeSet<Metric> {
    let telemetry = std::fs::read_to_string(root().join("shared/src/telemetry.rs")).unwrap();
    assert!(telemetry.contains(&format!("pub const NAMESPACE: &str = \"{NAMESPACE}\";")));
    // In telemetry.rs a metric is `count("Name", dimensions)` or `Datum { name: "Name", dimensions: … }`.
    let one = Regex::new(
        r#"(?:count\(|Datum \{ name: )"(\w+)", (?:dimensions: )?(vec!\[function\(\)\]|vec!\[\]|dimensions)"#,
    );
    let mut found = BTreeSet::new();
    for one in one.unwrap().captures_iter(&telemetry) {
        let dimensions: &[&str] = match &one[2] {
            "vec![]" => &[],
            "dimensions" => &["Function", "Step", "ErrorType"],
            _ => &["Function"],
        };
        found.insert(metric(&one[1], dimensions));
    }
    assert!(telemetry.contains("vec![function(), (\"Step\", step), (\"ErrorType\", "));
    assert!(found.len() >= 6, "telemetry.rs publishes in another way than this test reads: {found:?}");
    // operate publishes `datum("Name", …)`, under the function's name.
    let mut operate = String::new();
    rust_sources(&root().join("functions/operate/src"), &mut operate);
    assert!(operate.contains("dimensions: vec![(\"Function\", function.to_owned())]"));
    let before = found.len();
    let one = Regex::new(r#"\bdatum\(\s*"(\w+)""#).unwrap();
    found.extend(one.captures_iter(&operate).map(|one| metric(&one[1], &["Function"])));
    assert!(found.len() >= before + 5, "operate publishes in another way than this test reads: {found:?}");
    // And so does reencrypt.
    let reencrypt = std::fs::read_to_string(root().join("functions/reencrypt/src/lib.rs")).unwrap();
    assert!(reencrypt.contains("dimensions: vec![(\"Function\", function.to_owned())]"));
    let rows: Vec<Metric> = one.captures_iter(&reencrypt).map(|one| metric(&one[1], &["Function"])).collect();
    assert_eq!(rows.len(), 3, "reencrypt publishes in another way than this test reads: {rows:?}");
    found.extend(rows);
    // And deliver.
    let deliver = std::fs::read_to_string(root().join("functions/deliver/src/report.rs")).unwrap();
    assert!(deliver.contains("dimensions: vec![(\"Function\", function.to_owned())]"));
    let deliveries: Vec<Metric> = one.captures_iter(&deliver).map(|one| metric(&one[1], &["Function"])).collect();
    assert_eq!(deliveries.len(), 4, "deliver publishes in another way than this test reads: {deliveries:?}");
    found.extend(deliveries);
    found
}

/// What an alarm looks at: each metric with its namespace and the names of its dimensions.
pub(crate) fn of_alarm(alarm: &Value) -> Vec<(String, Metric)> {
    let dimensions = |of: &Value| -> Vec<String> { items(of).into_iter().map(|one| text(&one["Name"])).collect() };
    if alarm["MetricName"].is_string() {
        return vec![(text(&alarm["Namespace"]), (text(&alarm["MetricName"]), dimensions(&alarm["Dimensions"])))];
    }
    let metrics = items(&alarm["Metrics"]).into_iter().map(|one| &one["MetricStat"]["Metric"]);
    metrics
        .filter(|metric| metric.is_object())
        .map(|metric| (text(&metric["Namespace"]), (text(&metric["MetricName"]), dimensions(&metric["Dimensions"]))))
        .collect()
}

fn dashboard(stack: &Stack) -> Value {
    let dashboards = stack.of_type("AWS::CloudWatch::Dashboard");
    serde_json::from_str(dashboards["Dashboard"]["DashboardBody"].as_str().unwrap()).unwrap()
}

fn of_dashboard(stack: &Stack) -> Vec<(String, Metric)> {
    let mut found = vec![];
    let search = Regex::new(r#"SEARCH\('\{(\w+)((?:,\w+)*)\} MetricName="(\w+)"'"#).unwrap();
    for widget in items(&dashboard(stack)["widgets"]) {
        for metric in items(&widget["properties"]["metrics"]) {
            if let Some(expression) = metric[0]["expression"].as_str() {
                let one = search.captures(expression).unwrap_or_else(|| panic!("{expression}"));
                let dimensions = one[2].split(',').skip(1).map(str::to_owned).collect();
                found.push((one[1].to_owned(), (one[3].to_owned(), dimensions)));
            } else {
                // Namespace, name, then dimensions by name and value, then how to draw it.
                let parts: Vec<&str> = texts(metric);
                let dimensions = parts[2..].iter().step_by(2).map(|name| (*name).to_owned()).collect();
                found.push((parts[0].to_owned(), (parts[1].to_owned(), dimensions)));
            }
        }
    }
    found
}

#[test]
fn every_metric_of_an_alarm_or_the_dashboard_is_published() {
    let stack = most();
    let filters: BTreeSet<(String, Metric)> = stack
        .of_type("AWS::Logs::MetricFilter")
        .values()
        .flat_map(|filter| items(&filter["MetricTransformations"]))
        .map(|one| (text(&one["MetricNamespace"]), (text(&one["MetricName"]), vec![])))
        .collect();
    let alarms = stack.of_type("AWS::CloudWatch::Alarm");
    let mut named: BTreeSet<(String, Metric)> = alarms.values().flat_map(|alarm| of_alarm(alarm)).collect();
    named.extend(of_dashboard(&stack));
    let published = published();
    let mut looked_at = BTreeSet::new();
    let mut unknown = vec![];
    for (namespace, metric) in named {
        match namespace.as_str() {
            NAMESPACE if published.contains(&metric) => {
                looked_at.insert(metric);
            }
            // Lambda's own, by the name of the function (Lambda, types of metrics).
            "AWS/Lambda" if ["Errors", "Throttles", "Duration"].contains(&metric.0.as_str()) => {
                assert_eq!(metric.1, ["FunctionName"], "{metric:?}");
            }
            // Step Functions' own, by the ARN of the state machine (Step Functions, metrics in CloudWatch).
            "AWS/States"
                if ["Started", "Succeeded", "Failed", "TimedOut", "Aborted"]
                    .contains(&metric.0.trim_start_matches("Executions")) =>
            {
                assert_eq!(metric.1, ["StateMachineArn"], "{metric:?}");
            }
            // EventBridge's own, by the name of the rule (EventBridge, monitoring with CloudWatch).
            "AWS/Events" if metric.0 == "FailedInvocations" => assert_eq!(metric.1, ["RuleName"], "{metric:?}"),
            _ if filters.contains(&(namespace.clone(), metric.clone())) => {}
            _ => unknown.push((namespace, metric)),
        }
    }
    let unseen: Vec<_> = published.difference(&looked_at).collect();
    assert!(
        unknown.is_empty() && unseen.is_empty(),
        "an alarm or the dashboard looks at what nobody publishes: {unknown:?}; published, and nothing looks at it: {unseen:?}"
    );
}

/// The pages of the runbook.
pub(crate) const RUNBOOK: [&str; 3] = ["infra/RUNBOOK.md", "infra/RUNBOOK-DELIVERY.md", "infra/RUNBOOK-ROWS.md"];

/// The alarms that there are, in the order of the runbook's pages.
pub(crate) const ALARMS: [&str; 20] = [
    "rotation-failed",
    "rotation-overdue",
    "rotation-stuck",
    "not-verified",
    "old-token-accepted",
    "keys-missing",
    "unfinished-operations",
    "sweep-missing",
    "function-errors",
    "function-throttles",
    "function-slow",
    "events-lost",
    "delivery-late",
    "delivery-failed",
    "deliver-missing",
    "reencryption-failed",
    "rows-unreadable",
    "rows-stalled",
    "unusual-reads",
    "denied-reads",
];

/// How many of them depend on a parameter.
const CONDITIONAL: usize = 8;

pub(crate) fn alarms(stack: &Stack) -> BTreeMap<String, Value> {
    let alarms = stack.of_type("AWS::CloudWatch::Alarm").into_values();
    let name = |alarm: &Value| {
        let name = text(&alarm["AlarmName"]);
        name.strip_prefix("shop-staging-").or(name.strip_prefix("shop-production-")).unwrap().to_owned()
    };
    alarms.map(|alarm| (name(alarm), alarm.clone())).collect()
}

#[test]
fn every_alarm_tells_somebody_and_has_its_part_of_the_runbook() {
    let runbook = RUNBOOK.map(|page| (page, page_of(page)));
    let expected: BTreeSet<&str> = ALARMS.into_iter().collect();
    assert_eq!(alarms(&most()).keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    // Who reads is seen only with a trail, rows are re-encrypted only where there are columns, and values are delivered to consumers.
    assert_eq!(alarms(&least()).len(), ALARMS.len() - CONDITIONAL);
    for (name, alarm) in alarms(&most()) {
        assert_eq!(
            texts(&alarm["AlarmActions"]),
            ["arn:aws:sns:us-east-1:000000000000:shop-production-secret-rotation"]
        );
        let (page, _) =
            runbook.iter().find(|(_, text)| text.contains(&format!("\n## {name}\n"))).unwrap_or_else(|| {
                panic!("the runbook has no part on {name}");
            });
        let description = text(&alarm["AlarmDescription"]);
        assert!(description.ends_with(&format!(" Runbook: {page}#{name}")), "{name}: {description}");
        assert!(description.len() < 1024, "CloudWatch's limit: {name}");
        // Silence is no failure, but for heartbeats, which are there to be missed. What an hourly run measures stays as it was until
        // the next one: one that is a minute late leaves an hour out, and an alarm that ends and begins again tells nothing new.
        let measured = text(&alarm["Namespace"]) == NAMESPACE;
        let missing = match name.as_str() {
            "sweep-missing" | "deliver-missing" => "breaching",
            _ if measured => "ignore",
            _ => "notBreaching",
        };
        assert_eq!(alarm["TreatMissingData"], missing, "{name}");
    }
    // A part begins with what the alarm means and who is hurt. Other parts of these pages do not.
    let parts = runbook.iter().flat_map(|(_, text)| text.split("\n## ").skip(1));
    let parts = parts.filter(|part| part.contains("\n- **Means:** ") && part.contains("\n- **Hurt:** "));
    let parts: Vec<&str> =
        parts.filter(|part| part.contains("\n- **Call:** ")).filter_map(|part| part.lines().next()).collect();
    assert_eq!(parts, ALARMS);
}

fn page_of(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// What stands in a page under a heading, up to the next one.
pub(crate) fn part_of(page: &str, heading: &str) -> String {
    let text = page_of(page);
    let part = text.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("{page}: no {heading}"));
    part.split("\n#").next().unwrap().to_owned()
}

#[test]
fn the_runbook_shows_the_lines_that_it_speaks_of() {
    // A warning is no ERROR: a filter on those alone would hide it.
    let part = part_of("infra/RUNBOOK.md", "## sweep-missing");
    let sources = deployed_sources();
    let message = "metrics were not published";
    let logged =
        sources.split("tracing::").filter(|line| line.contains(message)).map(|line| line.split('!').next().unwrap());
    assert_eq!(logged.collect::<BTreeSet<_>>(), BTreeSet::from(["warn"]));
    assert!(
        part.contains(message) && part.contains("$.level = \"WARN\"") && part.contains("$.level = \"ERROR\""),
        "{part}"
    );
}

#[test]
fn the_runbooks_commands_ask_once_and_wait() {
    // Otherwise the AWS CLI sends a request again after a minute: a compromise would be asked for several times.
    for page in ["infra/RUNBOOK-ROWS.md", "functions/operate/README.md"] {
        let page = page_of(page);
        let invocations: Vec<&str> = page.lines().filter(|line| line.contains("aws lambda invoke")).collect();
        assert_eq!(invocations.len(), 1, "{invocations:?}");
        let asks = "AWS_MAX_ATTEMPTS=1 aws lambda invoke --cli-read-timeout 0 ";
        assert!(invocations[0].contains(asks), "{invocations:?}");
    }
    let command = page_of("infra/rotation.d/aws.sh");
    // No function runs longer than 900 seconds.
    assert!(command.contains("AWS_MAX_ATTEMPTS=1 aws_cli lambda invoke --cli-read-timeout 910 "), "{command}");
}

/// Datapoints that CloudWatch retrieves for an alarm that looks at three (CloudWatch user guide, "How alarm state is evaluated when data is
/// missing").
const RETRIEVED: usize = 5;

/// Whether an alarm on three of three datapoints rings, by those that CloudWatch retrieves, the oldest first. It looks at the latest three
/// that are there, and takes missing ones for breaching only where there are fewer.
fn rings(retrieved: &[Option<f64>], threshold: f64) -> bool {
    let there: Vec<f64> = retrieved.iter().rev().copied().flatten().take(3).collect();
    there.into_iter().all(|value| value < threshold)
}

#[test]
fn heartbeats_ring_three_hours_after_the_last_run() {
    let alarms = alarms(&most());
    for heartbeat in ["sweep-missing", "deliver-missing"] {
        assert_rings_three_hours_after_silence(heartbeat, &alarms[heartbeat]);
    }
}

fn assert_rings_three_hours_after_silence(name: &str, alarm: &Value) {
    assert_eq!((&alarm["ComparisonOperator"], text(&alarm["Threshold"])), (&"LessThanThreshold".into(), "1".into()));
    assert_eq!((&alarm["EvaluationPeriods"], &alarm["DatapointsToAlarm"]), (&3.into(), &3.into()));
    let metrics = items(&alarm["Metrics"]);
    let filled = metrics.iter().any(|one| one["Expression"] == "FILL(m0, 0)" && one["ReturnData"] != false);
    let metric = metrics.iter().find(|one| one["Id"] == "m0").map(|one| &one["MetricStat"]);
    let (period, statistic) =
        metric.map_or((&alarm["Period"], &alarm["Statistic"]), |metric| (&metric["Period"], &metric["Stat"]));
    assert_eq!((period, statistic), (&3_600.into(), &"Sum".into()));
    // An hour without a sweep has no datapoint, unless it is filled.
    let silence = filled.then_some(0.0);
    let after = |hours: usize| [vec![Some(1.0); RETRIEVED], vec![silence; hours]].concat()[hours..].to_vec();
    let hours = (1..=24).find(|hours| rings(&after(*hours), 1.0));
    assert_eq!(hours, Some(3), "{name}: hours without a run until it rings");
}

#[test]
fn the_alarm_on_slow_functions_follows_their_timeouts() {
    let stack = most();
    let alarm = &alarms(&stack)["function-slow"];
    let functions = stack.of_type("AWS::Serverless::Function");
    let timeout = |name: &str| functions[name]["Timeout"].as_u64().unwrap();
    assert_eq!(timeout("AdminTokenFunction"), 110);
    let rotating = rotation_functions(&stack);
    let mut watched = rotating.clone();
    watched.insert("SweepFunction".to_owned(), "shop-production-sweep".to_owned());
    watched.insert("DeliverFunction".to_owned(), "shop-production-deliver".to_owned());
    let measured = |one: &Value| text(&one["MetricStat"]["Metric"]["Dimensions"][0]["Value"]);
    // Milliseconds by seconds times ten is percent.
    let metrics = items(&alarm["Metrics"]).split_off(1);
    let percents = metrics.iter().map(|one| {
        let (resource, _) = watched.iter().find(|(_, name)| **name == measured(one)).unwrap();
        let (id, seconds) = (text(&one["Id"]), timeout(resource));
        if rotating.contains_key(resource) {
            format!("{id} / ({seconds} * 10)")
        } else {
            format!("{id} / {}", seconds * 10)
        }
    });
    let expected = format!("MAX([{}])", percents.collect::<Vec<_>>().join(", "));
    assert_eq!(alarm["Metrics"][0]["Expression"], expected);
    assert_eq!(text(&alarm["Threshold"]), "80");
    let functions: BTreeSet<String> = metrics.into_iter().map(measured).collect();
    assert_eq!(functions, watched.into_values().collect());
}

#[test]
fn dashboard_asks_the_audit_log_for_what_functions_write() {
    let stack = most();
    let dashboard = dashboard(&stack);
    let widgets = items(&dashboard["widgets"]);
    let log = widgets.iter().find(|widget| widget["type"] == "log").unwrap();
    let query = log["properties"]["query"].as_str().unwrap();
    assert!(query.starts_with("SOURCE '/secret-rotation/shop/production' |"), "{query}");
    let sources = deployed_sources();
    for message in ["step done", "step failed"] {
        assert!(query.contains(&format!("'{message}'")) && sources.contains(&format!("\"{message}\"")), "{message}");
    }
    for field in ["error_type", "outcome", "secret", "step"] {
        assert!(query.contains(field) && (sources.contains(&format!("{field} = ")) || field == "secret"), "{field}");
    }
    let shown = widgets.iter().find(|widget| widget["type"] == "alarm").unwrap();
    assert_eq!(items(&shown["properties"]["alarms"]).len(), ALARMS.len() - CONDITIONAL);
}

#[test]
fn failed_and_abandoned_rotations_of_the_stack_are_told() {
    let stack = most();
    let rules = stack.of_type("AWS::Events::Rule");
    let rule = rules["RotationEvents"];
    let pattern = &rule["EventPattern"];
    assert_eq!(texts(&pattern["detail"]["eventName"]), ["RotationFailed", "RotationAbandoned", "TestRotationFailed"]);
    let prefix = &pattern["detail"]["additionalEventData"]["SecretId"][0]["prefix"];
    assert_eq!(prefix, "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/production/");
    let topic = "arn:aws:sns:us-east-1:000000000000:shop-production-secret-rotation";
    for rule in rules.values() {
        assert_eq!(rule["Targets"][0]["Arn"], topic);
    }
    // The topic is encrypted, with a key that both may use.
    for topic in ["AlarmTopic", "EventTopic"] {
        assert_eq!(stack.of_type("AWS::SNS::Topic")[topic]["KmsMasterKeyId"], "OperationsKey");
    }
    let key = stack.of_type("AWS::KMS::Key")["OperationsKey"].clone();
    for service in ["cloudwatch.amazonaws.com", "events.amazonaws.com"] {
        let grants = items(&key["KeyPolicy"]["Statement"]).into_iter();
        let mut grants = grants.filter(|statement| statement["Principal"]["Service"] == service);
        assert_eq!(texts(&grants.next().unwrap()["Action"]), ["kms:Decrypt", "kms:GenerateDataKey*"], "{service}");
    }
}

/// The statement of a policy with this name.
fn statement<'a>(policy: &'a Value, sid: &str) -> &'a Value {
    items(&policy["Statement"]).into_iter().find(|statement| statement["Sid"] == sid).unwrap()
}

#[test]
fn eventbridge_publishes_without_a_condition() {
    // EventBridge user guide, resource-based policies, "Amazon SNS permissions": conditions in a topic's policy are not supported.
    let stack = most();
    let policy = &stack.of_type("AWS::SNS::TopicPolicy")["AlarmTopicPolicy"]["PolicyDocument"];
    let events = statement(policy, "Events");
    assert_eq!(events["Condition"], Value::Null);
    // CloudWatch has one, and names the alarms.
    assert!(statement(policy, "Alarms")["Condition"].is_object());
    let key = &stack.of_type("AWS::KMS::Key")["OperationsKey"]["KeyPolicy"];
    assert_eq!(statement(key, "EventsPublish")["Condition"], Value::Null);
}

#[test]
fn documents_show_the_policies_of_a_topic_of_your_own() {
    let stack = most();
    let part = part_of("infra/README.md", "## A topic of your own");
    let shown: Vec<Value> = part
        .split("```json\n")
        .skip(1)
        .map(|rest| serde_json::from_str(rest.split("```").next().unwrap()).unwrap())
        .collect();
    let [topic, key] = &shown[..] else { panic!("{part}") };
    let policy = &stack.of_type("AWS::SNS::TopicPolicy")["AlarmTopicPolicy"]["PolicyDocument"];
    let own = &stack.of_type("AWS::KMS::Key")["OperationsKey"]["KeyPolicy"];
    for (shown, policy, sids) in [(topic, policy, ["Alarms", "Events"]), (key, own, ["AlarmsPublish", "EventsPublish"])]
    {
        let shown: Vec<String> = items(shown).into_iter().map(Value::to_string).collect();
        let stacks = sids.map(|sid| statement(policy, sid).to_string().replace("000000000000", "123456789012"));
        assert_eq!(shown, stacks.map(|one| one.replace("shop-production-secret-rotation", "your-topic")));
    }
}

#[test]
fn every_rule_has_an_alarm_on_what_it_cannot_deliver() {
    for stack in [least(), most()] {
        let rules = stack.of_type("AWS::Events::Rule").into_values().map(|rule| text(&rule["Name"]));
        let schedules = stack.of_type("AWS::Serverless::Function").into_values();
        let schedules = schedules.filter_map(|function| function["Events"].as_object());
        let schedules = schedules.flat_map(|events| events.values()).map(|event| {
            let name = if event["Type"] == "Schedule" { "Name" } else { "RuleName" };
            text(&event["Properties"][name])
        });
        let rules: BTreeSet<String> = rules.chain(schedules).collect();
        assert!(rules.len() >= 3, "{rules:?}");
        let alarms = alarms(&stack);
        let alarm = alarms.get("events-lost").unwrap_or_else(|| panic!("no alarm on FailedInvocations of {rules:?}"));
        let metrics = items(&alarm["Metrics"]).into_iter().filter(|one| one["MetricStat"].is_object());
        let watched: BTreeSet<String> = metrics
            .map(|one| {
                let metric = &one["MetricStat"]["Metric"];
                assert_eq!(
                    (&metric["Namespace"], &metric["MetricName"]),
                    (&"AWS/Events".into(), &"FailedInvocations".into())
                );
                text(&metric["Dimensions"][0]["Value"])
            })
            .collect();
        assert_eq!(watched, rules);
    }
}

#[test]
fn the_query_in_the_stack_is_the_one_in_the_file() {
    let written = std::fs::read_to_string(root().join("infra/who-read-which-secret.logs-insights")).unwrap();
    let stack = most();
    let query = stack.of_type("AWS::Logs::QueryDefinition")["WhoReadWhichSecret"];
    assert_eq!(query["QueryString"], written);
    assert_eq!(texts(&query["LogGroupNames"]), ["trail"]);
}
