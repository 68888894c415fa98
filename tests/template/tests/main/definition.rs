//! The definition of the state machine, by the rules of the Amazon States Language that the emulator does not enforce.

use std::collections::BTreeSet;

use operate::error::OperateError;
use reencrypt::error::ReencryptError;
use reencrypt::history;
use regex_lite::Regex;
use serde_json::{Map, Value};
use template::{MAIN, root, text};

use crate::support::*;

const PATH: &str = "infra/reencryption.asl.json";

pub(crate) fn definition() -> String {
    std::fs::read_to_string(root().join(PATH)).unwrap()
}

/// Every list of states: that of the machine, and those of its maps.
fn machines(definition: &Value) -> Vec<&Value> {
    let states = definition["States"].as_object().unwrap().values();
    let maps = states.filter(|state| state["Type"] == "Map").flat_map(|state| machines(&state["ItemProcessor"]));
    std::iter::once(definition).chain(maps).collect()
}

fn states(definition: &Value) -> Vec<(&String, &Map<String, Value>)> {
    machines(definition)
        .into_iter()
        .flat_map(|machine| machine["States"].as_object().unwrap())
        .map(|(name, state)| (name, state.as_object().unwrap()))
        .collect()
}

/// Where a state goes to.
fn next(state: &Map<String, Value>) -> Vec<String> {
    let choices = state.get("Choices").map(items).unwrap_or_default();
    let caught = state.get("Catch").map(items).unwrap_or_default();
    let further = choices.into_iter().chain(caught).map(|rule| &rule["Next"]);
    let own = ["Next", "Default"].into_iter().filter_map(|field| state.get(field));
    own.chain(further).map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_state_is_there_and_can_be_reached_and_ends() {
    let definition: Value = serde_json::from_str(&definition()).unwrap();
    for machine in machines(&definition) {
        let states = machine["States"].as_object().unwrap();
        let mut reached = BTreeSet::new();
        let mut open = vec![machine["StartAt"].as_str().unwrap().to_owned()];
        while let Some(name) = open.pop() {
            let state = states.get(&name).unwrap_or_else(|| panic!("there is no state {name}"));
            let state = state.as_object().unwrap();
            let further = next(state);
            let ends = state.get("End").is_some_and(|end| end == true)
                || ["Succeed", "Fail"].contains(&state["Type"].as_str().unwrap());
            assert_ne!(further.is_empty(), !ends, "{name} goes on or ends");
            assert!(state["Type"] != "Choice" || state.contains_key("Default"), "{name} may know no way on");
            if reached.insert(name) {
                open.extend(further);
            }
        }
        assert_eq!(reached, states.keys().cloned().collect(), "states that nothing leads to");
    }
}

#[test]
fn states_have_only_the_fields_that_states_of_jsonata_may_have() {
    let definition: Value = serde_json::from_str(&definition()).unwrap();
    assert_eq!(definition["QueryLanguage"], "JSONata");
    for (name, state) in states(&definition) {
        let own: &[&str] = match state["Type"].as_str().unwrap() {
            "Task" => &["Resource", "Arguments", "Output", "Assign", "TimeoutSeconds", "Retry", "Catch", "Next"],
            "Map" => &["Items", "ItemSelector", "ItemProcessor", "MaxConcurrency", "Output", "Next"],
            "Choice" => &["Choices", "Default"],
            "Wait" => &["Seconds", "Output", "Assign", "Next"],
            "Pass" => &["Output", "Assign", "Next", "End"],
            "Succeed" => &["Output"],
            "Fail" => &["Error", "Cause"],
            other => panic!("{name}: {other}"),
        };
        for field in state.keys() {
            assert!(["Type", "Comment"].contains(&field.as_str()) || own.contains(&field.as_str()), "{name}: {field}");
        }
        for rule in state.get("Choices").map(items).unwrap_or_default() {
            let rule = rule.as_object().unwrap();
            assert!(rule.contains_key("Condition") && rule.contains_key("Next"), "{name}: {rule:?}");
            let known = ["Condition", "Next", "Assign", "Output"];
            assert!(rule.keys().all(|field| known.contains(&field.as_str())), "{name}: {rule:?}");
        }
    }
    // What begins an expression ends it, and nothing stands around it: otherwise it would be a text.
    for text in Regex::new(r#""([^"]*(?:\{%|%\})[^"]*)""#).unwrap().captures_iter(&self::definition()) {
        assert!(text[1].starts_with("{%") && text[1].ends_with("%}"), "{}", &text[1]);
    }
}

#[test]
fn task_ends_in_time_and_is_repeated_with_growing_pauses() {
    let definition: Value = serde_json::from_str(&definition()).unwrap();
    let tasks: Vec<_> = states(&definition).into_iter().filter(|(_, state)| state["Type"] == "Task").collect();
    assert!(tasks.len() >= 5, "{}", tasks.len());
    for (name, state) in tasks {
        // Without it a task whose answer is lost waits for years. Lambda's longest invocation is 900 s.
        let timeout = state["TimeoutSeconds"].as_u64().unwrap();
        assert!(timeout <= 960 && (timeout > 900 || name.starts_with("Tell")), "{name}: {timeout}");
        let retriers = items(&state["Retry"]);
        let last = retriers.last().unwrap();
        assert_eq!(texts(&last["ErrorEquals"]), ["States.ALL"], "{name}");
        assert_eq!((&last["BackoffRate"], &last["JitterStrategy"]), (&2.into(), &"FULL".into()), "{name}");
        assert!(last["MaxAttempts"].as_u64().unwrap() >= 4 && last["MaxDelaySeconds"].is_u64(), "{name}");
        let before = &retriers[..retriers.len() - 1];
        if let Some(permanent) = before.first() {
            assert_eq!(permanent["MaxAttempts"], 0, "{name}: what does not change by itself is not repeated");
        }
        for waiting in before.iter().skip(1) {
            assert_eq!((&waiting["BackoffRate"], &waiting["JitterStrategy"]), (&2.into(), &"FULL".into()), "{name}");
        }
    }
    assert!(definition["TimeoutSeconds"].as_u64().unwrap() <= 31_536_000);
}

#[test]
fn errors_that_the_definition_names_are_errors_of_the_functions() {
    let shared = crate::documents::errors_of_shared();
    let own = [OperateError::VARIANTS, ReencryptError::VARIANTS].concat();
    let definition: Value = serde_json::from_str(&definition()).unwrap();
    let mut named = 0;
    for (name, state) in states(&definition) {
        let rules = ["Retry", "Catch"].into_iter().flat_map(|field| state.get(field).map(items).unwrap_or_default());
        // Those of Lambda and Step Functions themselves (Step Functions, "Handling errors" and "Lambda service exceptions").
        let of_aws = |error: &&str| error.starts_with("Lambda.") || error.starts_with("States.");
        for error in rules.flat_map(|rule| texts(&rule["ErrorEquals"])).filter(|error| !of_aws(error)) {
            let known = shared.contains(error) || own.contains(&error);
            assert!(known, "{name}: nothing fails with {error}");
            named += 1;
        }
    }
    assert!(named > 10, "{named}");
}

#[test]
fn what_the_definition_leaves_open_the_template_fills_in() {
    let definition = definition();
    let place = Regex::new(r"\$\{(\w+)\}").unwrap();
    let places: BTreeSet<String> = place.captures_iter(&definition).map(|found| found[1].to_owned()).collect();
    let most = most();
    let machine = most.of_type("AWS::Serverless::StateMachine")["Reencryption"];
    let filled = machine["DefinitionSubstitutions"].as_object().unwrap();
    assert_eq!(places, filled.keys().cloned().collect());
    assert_eq!(machine["DefinitionUri"], PATH);
    assert_eq!((&machine["Tracing"]["Enabled"], &machine["Logging"]["Level"]), (&true.into(), &"ALL".into()));
    // Primary keys of rows do not go to the log.
    assert_eq!(machine["Logging"]["IncludeExecutionData"], false);
    assert_eq!(machine["Role"], "arn:aws:iam::000000000000:role/StateMachineRole");
    // The name that roles, alarms and the sweep are told is its own.
    let arn = "arn:aws:states:us-east-1:000000000000:stateMachine:shop-production-reencryption";
    assert!(arn.ends_with(&format!(":{}", machine["Name"].as_str().unwrap())));
    assert_eq!(most.outputs["ReencryptionArn"], arn);
    let alarm = most.of_type("AWS::CloudWatch::Alarm")["ReencryptionFailedAlarm"];
    assert_eq!(alarm["Metrics"][1]["MetricStat"]["Metric"]["Dimensions"][0]["Value"], arn);
    // By default the censuses are as far apart as retiring a key asks for: the overlap, and the longest invocation.
    let defaults = &templates().written(MAIN)["Parameters"];
    assert_eq!(
        (&defaults["Overlap"]["Default"], &defaults["ConsumersCacheTime"]["Default"]),
        (&"24h".into(), &"1h".into())
    );
    assert_eq!(defaults["ReencryptCensusWaitSeconds"]["Default"], 24 * 3600 + 15 * 60);
}

#[test]
fn a_slice_that_fails_does_not_end_the_others() {
    let definition: Value = serde_json::from_str(&definition()).unwrap();
    let map = &definition["States"]["Rewrap"];
    assert_eq!(map["ItemProcessor"]["ProcessorConfig"]["Mode"], "INLINE");
    assert_eq!(map["MaxConcurrency"], "{% ${Concurrency} %}");
    let caught = items(&map["ItemProcessor"]["States"]["Slice"]["Catch"]);
    assert_eq!(texts(&caught[0]["ErrorEquals"]), ["States.ALL"]);
}

#[test]
fn an_execution_looks_twice_before_it_begins_or_is_superseded() {
    // A read may be stale.
    let definition: Value = serde_json::from_str(&definition()).unwrap();
    let choices = items(&definition["States"]["IsItStillThisVersion"]["Choices"]);
    let [it_is, doubted] = choices[..] else { panic!("{choices:?}") };
    assert_eq!((&it_is["Condition"], &it_is["Next"]), (&"{% $version = $asked %}".into(), &"Census".into()));
    assert_eq!((&doubted["Condition"], &doubted["Next"]), (&"{% $doubted %}".into(), &"Superseded".into()));
    let wait = &definition["States"]["WaitForReads"];
    assert_eq!((&wait["Assign"], &wait["Next"]), (&serde_json::json!({ "doubted": true }), &"Plan".into()));
    // Once it works, another version ends it: who loaded that one may encrypt with it, and the next execution counts from the beginning.
    let left = items(&definition["States"]["WhatIsLeft"]["Choices"]);
    assert_eq!(left[0]["Condition"], "{% $states.input.superseded or $states.input.version != $asked %}");
    assert_eq!(left[0]["Next"], "Superseded");
}

#[test]
fn an_execution_is_one_round() {
    let definition: Value = serde_json::from_str(&definition()).unwrap();
    let of = |name: &str| &definition["States"][name];
    let leading_to = |target: &str| -> Vec<String> {
        let states = states(&definition).into_iter();
        let leading = states.filter(|(_, state)| next(state).contains(&target.to_owned()));
        leading.map(|(name, _)| name.clone()).collect()
    };
    // Plan, census, and then at most one time over the rows.
    assert_eq!(leading_to("Rewrap"), ["WhatIsLeft"]);
    let left = items(&of("WhatIsLeft")["Choices"]);
    let rewraps = left.iter().find(|choice| choice["Next"] == "Rewrap").unwrap();
    assert!(text(&rewraps["Condition"]).ends_with("and $rewrapped = false %}"), "{rewraps}");
    assert_eq!(rewraps["Assign"], serde_json::json!({ "rewrapped": true, "first": false }));
    assert_eq!(definition["States"]["Begin"]["Assign"]["rewrapped"], false);
    // A plan may take several invocations.
    assert_eq!(leading_to("Plan"), ["Begin", "PlanGoesOn", "WaitForReads"]);
    // Rows that remain are no failure: the next sweep starts another.
    let remaining = left.iter().find(|choice| choice["Condition"] == "{% $states.input.onOldKeys > 0 %}").unwrap();
    assert_eq!(of(remaining["Next"].as_str().unwrap())["Type"], "Succeed");
}

/// The events of one attempt of a task, and of those that repeat it: it is scheduled and started, and ends.
fn events_of_attempts(task: &Map<String, Value>) -> u64 {
    let repetitions: u64 = items(&task["Retry"]).iter().map(|rule| rule["MaxAttempts"].as_u64().unwrap()).sum();
    3 * (1 + repetitions)
}

#[test]
fn the_history_of_an_execution_holds_what_it_does() {
    // A state is entered and left; a map's iteration begins and ends (Step Functions API reference, HistoryEvent).
    const STATE: u64 = 2;
    /// Step Functions quotas: the history of a standard execution.
    const HISTORY: u64 = 25_000;
    // So many, of a quarter of an hour each, may a census of all columns take.
    const INVOCATIONS_OF_CENSUS: u64 = 27;
    let definition: Value = serde_json::from_str(&definition()).unwrap();
    let slices = &definition["States"]["Rewrap"]["ItemProcessor"]["States"];
    let invocation = STATE + events_of_attempts(slices["Slice"].as_object().unwrap()) + STATE;
    assert_eq!(invocation, history::EVENTS_OF_INVOCATION, "a slice, and the choice whether it goes on");
    assert_eq!(2 + STATE, history::EVENTS_OF_RANGE, "the iteration, and its last state");
    for ranges in 1..=history::MOST_RANGES {
        let invocations = history::invocations(ranges);
        let events = ranges * (history::EVENTS_OF_RANGE + invocations * history::EVENTS_OF_INVOCATION);
        assert!(invocations >= 1 && events <= history::EVENTS_OF_SLICES, "{ranges} ranges: {events} events");
    }
    let goes_on = text(&slices["SliceGoesOn"]["Choices"][0]["Condition"]);
    assert!(goes_on.contains("$states.input.invocation >= $invocations"), "{goes_on}");
    let most = templates().written(MAIN)["Parameters"]["ReencryptSlices"]["MaxValue"].as_u64();
    assert_eq!(most, Some(history::MOST_RANGES), "one column may have them all");

    let page = std::fs::read_to_string(root().join("functions/reencrypt/README.md")).unwrap();
    let [few, some, most] = [16, 100, history::MOST_RANGES].map(history::invocations);
    assert_eq!(most, 1);
    let told = format!("{few} with 16 ranges, {some} with 100, one with {}", history::MOST_RANGES);
    assert!(page.contains(&told), "the page of reencrypt does not say: {told}");
    assert!(page.contains(&format!("about {INVOCATIONS_OF_CENSUS} invocations")));

    // What is left is for all other states: the second census is taken so often again, by so many invocations, and each task may have been
    // repeated to the end a few times.
    let late = text(&definition["States"]["IsItTooLate"]["Choices"][0]["Condition"]);
    let late: u64 = late.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    // A plan of two looks at the version, a census before and after the slices and another one, and those that are late.
    let censuses = (5 + late) * INVOCATIONS_OF_CENSUS * (STATE + 3 + STATE);
    let around = (3 + late) * (STATE + 3 + 4 * STATE);
    let worst = states(&definition).into_iter().filter(|(name, state)| state["Type"] == "Task" && *name != "Slice");
    let repeated: u64 = worst.map(|(_, task)| events_of_attempts(task)).sum();
    let events = history::EVENTS_OF_SLICES + censuses + around + 2 * repeated + 20;
    assert!(events <= HISTORY, "{events} events");
}

#[test]
fn an_execution_waits_hours_for_a_database_or_a_service() {
    let definition: Value = serde_json::from_str(&definition()).unwrap();
    for (name, errors) in [
        ("Plan", &["DatabaseUnavailable", "DatabaseBusy", "Unreachable", "Throttled", "ServiceFailure"][..]),
        ("Census", &["DatabaseUnavailable", "DatabaseBusy", "Unreachable", "Throttled", "ServiceFailure"]),
        ("Retire", &["Unreachable", "Throttled", "ServiceFailure", "TargetUnavailable"]),
    ] {
        let errors =
            errors.iter().chain(&["Lambda.ServiceException", "Lambda.TooManyRequestsException", "States.Timeout"]);
        for error in errors {
            let retriers = items(&definition["States"][name]["Retry"]);
            let rule = retriers
                .iter()
                .find(|rule| texts(&rule["ErrorEquals"]).iter().any(|one| one == error || *one == "States.ALL"))
                .unwrap();
            let number = |field: &str| rule[field].as_u64().unwrap();
            // A pause is anything from nothing to its length: half of it in the middle.
            let pauses = (0..number("MaxAttempts")).map(|attempt| {
                let pause = number("IntervalSeconds").saturating_mul(1 << attempt.min(32));
                pause.min(number("MaxDelaySeconds"))
            });
            let hours = pauses.sum::<u64>() as f64 / 2.0 / 3_600.0;
            assert!(hours > 4.0, "{name} waits {hours:.1} hours for {error}");
        }
    }
}
