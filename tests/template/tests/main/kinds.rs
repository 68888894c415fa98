//! What a kind of secret must not be missing from: every list of rotation functions in the stack names all of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use template::Stack;

use crate::policies::policies;
use crate::support::*;

/// The resources with such lists, which a new kind is added to. The alarms add up the metrics of functions.
const LISTS: [&str; 10] = [
    "Dashboard",
    "DeliverRole",
    "FunctionErrorsAlarm",
    "FunctionSlowAlarm",
    "FunctionThrottlesAlarm",
    "IssuedCredentialRole",
    "OperateRole",
    "OperatorPolicy",
    "RotationFailedAlarm",
    "SweepRole",
];

/// The functions that a value names: by their names or ARNs, also within a text that is JSON itself.
fn named_in(value: &Value, functions: &BTreeSet<String>) -> BTreeSet<String> {
    match value {
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(inner) if inner.is_object() => named_in(&inner, functions),
            _ => functions.iter().filter(|name| text == *name || *text == function_arn(name)).cloned().collect(),
        },
        Value::Array(items) => items.iter().flat_map(|item| named_in(item, functions)).collect(),
        Value::Object(members) => members.values().flat_map(|member| named_in(member, functions)).collect(),
        _ => BTreeSet::new(),
    }
}

/// The lists of functions in a value, each with the functions that it names: lists in which two items or more name one each.
fn lists(value: &Value, functions: &BTreeSet<String>) -> Vec<BTreeSet<String>> {
    match value {
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(inner) if inner.is_object() => lists(&inner, functions),
            _ => vec![],
        },
        Value::Array(items) => {
            let named: Vec<_> = items.iter().map(|item| named_in(item, functions)).collect();
            let all: BTreeSet<String> = named.iter().flatten().cloned().collect();
            let inner = items.iter().flat_map(|item| lists(item, functions));
            let is_list = all.len() > 1 && named.iter().all(|names| names.len() < 2);
            inner.chain(is_list.then_some(all)).collect()
        }
        Value::Object(members) => members.values().flat_map(|member| lists(member, functions)).collect(),
        _ => vec![],
    }
}

fn all_resources(stack: &Stack) -> Vec<(&str, &Value)> {
    let own = stack.resources.iter().map(|(name, resource)| (name.as_str(), resource));
    own.chain(stack.nested.values().flat_map(all_resources)).collect()
}

/// The resources whose lists lack a function, and those that have lists at all.
fn look(resources: &[(&str, &Value)], functions: &BTreeSet<String>) -> (Vec<String>, BTreeSet<String>) {
    let (mut lacking, mut with_lists) = (vec![], BTreeSet::new());
    for (resource, value) in resources {
        for named in lists(value, functions) {
            with_lists.insert((*resource).to_owned());
            let lacks: Vec<_> = functions.difference(&named).cloned().collect();
            if !lacks.is_empty() {
                lacking.push(format!("{resource} lacks {}", lacks.join(", ")));
            }
        }
    }
    (lacking, with_lists)
}

#[test]
fn every_list_of_rotation_functions_names_all_of_them() {
    for (stack, is_most) in [(least(), false), (most(), true)] {
        let functions: BTreeSet<String> = rotation_functions(&stack).into_values().collect();
        assert_eq!(functions.len(), if is_most { 3 } else { 2 });
        let (lacking, with_lists) = look(&all_resources(&stack), &functions);
        assert!(lacking.is_empty(), "{lacking:#?}");
        let optional = ["DeliverRole", "IssuedCredentialRole"];
        let expected = LISTS.into_iter().filter(|list| is_most || !optional.contains(list)).map(str::to_owned);
        assert_eq!(with_lists, expected.collect());
    }
}

#[test]
fn a_function_that_a_list_lacks_is_found() {
    let stack = most();
    let mut functions: BTreeSet<String> = rotation_functions(&stack).into_values().collect();
    // As if one more had been added to the template, and to no list.
    functions.insert("shop-production-one-more".to_owned());
    let (lacking, _) = look(&all_resources(&stack), &functions);
    for resource in LISTS {
        assert!(lacking.contains(&format!("{resource} lacks shop-production-one-more")), "{resource}: {lacking:?}");
    }
}

/// A function whose role writes the secrets that it rotates is known to Secrets Manager, and the reverse.
#[test]
fn what_may_rotate_is_a_rotation_function() {
    for stack in [least(), most()] {
        let rotating = rotation_functions(&stack);
        let policies = policies(&stack);
        let own: BTreeMap<String, String> = stack
            .of_type("AWS::Serverless::Function")
            .into_iter()
            .map(|(resource, function)| (resource, template::text(&function["FunctionName"]), role_of(function)))
            .filter(|(_, name, role)| {
                items(&policies[role]["Statement"]).into_iter().any(|statement| {
                    let by = &statement["Condition"]["ArnEquals"]["secretsmanager:resource/AllowRotationLambdaArn"];
                    texts(&statement["Action"]).contains(&"secretsmanager:PutSecretValue") && *by == function_arn(name)
                })
            })
            .map(|(resource, name, _)| (resource.to_owned(), name))
            .collect();
        assert_eq!(own, rotating);
        let schedules = stack.of_type("AWS::SecretsManager::RotationSchedule").into_values();
        let scheduled: BTreeSet<String> = schedules.map(|one| template::text(&one["RotationLambdaARN"])).collect();
        assert_eq!(scheduled, rotating.values().map(|name| function_arn(name)).collect());
    }
}

#[test]
fn ci_cd_is_denied_every_function_whatever_it_is_called() {
    for stack in [least(), most()] {
        let denied: Vec<Value> = items(&policies(&stack)["DeliveryPolicy"]["Statement"])
            .into_iter()
            .filter(|one| {
                one["Effect"] == "Deny" && one["Action"] == "lambda:InvokeFunction" && one["Condition"].is_null()
            })
            .map(|one| one["Resource"].clone())
            .collect();
        for function in stack.of_type("AWS::Serverless::Function").into_values() {
            let arn = function_arn(&template::text(&function["FunctionName"]));
            for arn in [arn.clone(), format!("{arn}:$LATEST"), format!("{arn}:live")] {
                assert!(denied.iter().flat_map(texts).any(|pattern| names(pattern, &arn)), "{arn}");
            }
        }
        let other = json!(function_arn("other-production-worker"));
        assert!(!denied.iter().flat_map(texts).any(|pattern| names(pattern, other.as_str().unwrap())));
    }
}
