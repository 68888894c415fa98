//! Parameters: what they accept, and what they are called.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;
use serde_json::json;
use template::{MAIN, REGION, root};

use crate::settings::variables;
use crate::support::*;

#[test]
fn names_are_not_longer_than_what_they_name_may_be_called() {
    let longest = ["abcdefghijklmnopqrst", "abcdefghijklmnopqrsu"];
    let mut parameters: BTreeMap<&str, &str> = MOST.into_iter().collect();
    parameters.extend([("Application", longest[0]), ("Environment", longest[1])]);
    let pattern = templates().written(MAIN)["Parameters"]["Application"]["AllowedPattern"].clone();
    let pattern = Regex::new(&format!("^(?:{})$", pattern.as_str().unwrap())).unwrap();
    assert!(longest.iter().all(|name| pattern.is_match(name) && !pattern.is_match(&format!("{name}v"))));
    let stack = templates().resolve(&parameters.into_iter().collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
    // The longest name of a Region is that much longer than the one of these tests.
    let region = "ap-southeast-1".len() - REGION.len();
    let mut named = 0;
    for (kind, property, limit) in [
        ("AWS::Serverless::Function", "FunctionName", 64),
        ("AWS::Serverless::StateMachine", "Name", 80),
        ("AWS::IAM::Role", "RoleName", 64),
        ("AWS::S3::Bucket", "BucketName", 63),
        ("AWS::CloudWatch::Alarm", "AlarmName", 255),
        ("AWS::CloudWatch::Dashboard", "DashboardName", 255),
        ("AWS::Events::Rule", "Name", 64),
        ("AWS::SNS::Topic", "TopicName", 256),
        ("AWS::KMS::Alias", "AliasName", 256),
    ] {
        for (name, resource) in stack.of_type(kind) {
            if let Some(called) = resource[property].as_str() {
                let characters = called.len() + if called.contains(REGION) { region } else { 0 };
                assert!(characters <= limit, "{name}: {called} has {characters} characters");
                named += 1;
            }
        }
    }
    assert!(named > 20, "{named}");
}

#[test]
fn windows_are_hours_of_one_day() {
    for name in ["TokenWindow", "KeyWindow", "CredentialWindow"] {
        let parameter = &templates().written(MAIN)["Parameters"][name];
        let pattern = Regex::new(&format!("^(?:{})$", parameter["AllowedPattern"].as_str().unwrap())).unwrap();
        assert!((1..=24).all(|hours| pattern.is_match(&format!("{hours}h"))), "{name}");
        assert!(["0h", "25h", "99h", "04h", "4"].iter().all(|window| !pattern.is_match(window)), "{name}");
    }
}

#[test]
fn retired_key_is_kept_a_month_to_ten_years() {
    let parameter = &templates().written(MAIN)["Parameters"]["KeyArchiveRetention"];
    let pattern = Regex::new(&format!("^(?:{})$", parameter["AllowedPattern"].as_str().unwrap())).unwrap();
    for days in 0..=11_000 {
        // What the functions take.
        assert_eq!(pattern.is_match(&format!("{days}d")), (30..=3650).contains(&days), "{days}d");
    }
    assert!(["400", "9600h", "0400d", "400d 1h", ""].iter().all(|retention| !pattern.is_match(retention)));
}

#[test]
fn samconfig_names_parameters_that_exist() {
    let config = std::fs::read_to_string(root().join("samconfig.toml")).unwrap();
    let templates = templates();
    let parameters = templates.written(MAIN)["Parameters"].as_object().unwrap();
    let named = Regex::new("\"([A-Z][A-Za-z]+)=([^\"]*)\"").unwrap();
    let mut environments = BTreeMap::<String, Vec<(String, String)>>::new();
    let mut regions = BTreeSet::new();
    let mut section = String::new();
    for line in config.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix("]")) {
            section = name.to_owned();
        }
        if line.starts_with("region = \"") {
            regions.insert(section.clone());
        }
        if let Some(found) = named.captures(line).filter(|_| !line.trim_start().starts_with('#')) {
            assert!(parameters.contains_key(&found[1]), "{line}");
            environments.entry(section.clone()).or_default().push((found[1].to_owned(), found[2].to_owned()));
        }
    }
    assert_eq!(environments.keys().collect::<Vec<_>>(), ["production.deploy.parameters", "staging.deploy.parameters"]);
    // sam reads the sections of the environment that it is called with, and no others.
    assert!(environments.keys().all(|section| regions.contains(section)), "no region: {regions:?}");
    for (name, given) in &environments {
        let given: Vec<(&str, &str)> = given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let stack = templates.resolve(&given, &BTreeMap::new()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!stack.of_type("AWS::Serverless::Function").contains_key("ReencryptFunction"), "{name}");
        for (name, value) in given {
            if let Some(pattern) = parameters[name]["AllowedPattern"].as_str() {
                assert!(Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(value), "{name}={value}");
            }
        }
    }
}

#[test]
fn a_sweep_tag_is_what_listsecrets_takes() {
    let pattern = templates().written(MAIN)["Parameters"]["SweepTag"]["AllowedPattern"].clone();
    let pattern = Regex::new(&format!("^(?:{})$", pattern.as_str().unwrap())).unwrap();
    // The values of a filter (Secrets Manager API reference, Filter). One that begins with ! is what a secret must not have.
    let takes = Regex::new(r"^\!?[a-zA-Z0-9 :_@/+=.\-!]*$").unwrap();
    for good in ["", "service", "service=shop", "cost centre=a=b", "owner=team@example.com", "a:b/c=d+e.f-g"] {
        assert!(pattern.is_match(good), "{good}");
        assert!(good.splitn(2, '=').all(|part| takes.is_match(part) && !part.starts_with('!')), "{good}");
    }
    let long = format!("{}=x", "k".repeat(129));
    for bad in ["service=café", "tag,other", "a=b;c", "!service", "service=!shop", "=shop", "service=", "k[0]=v", &long]
    {
        assert!(!pattern.is_match(bad), "{bad}");
    }
}

#[test]
fn parameters_are_described_checked_and_grouped() {
    let templates = templates();
    let template = templates.written(MAIN);
    let groups = &template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"];
    let grouped: Vec<&str> = items(groups).into_iter().flat_map(|group| texts(&group["Parameters"])).collect();
    let parameters = template["Parameters"].as_object().unwrap();
    assert_eq!(grouped.iter().collect::<BTreeSet<_>>().len(), grouped.len(), "one is in two groups");
    assert_eq!(grouped.len(), parameters.len(), "one is in no group");
    for (name, parameter) in parameters {
        assert!(grouped.contains(&name.as_str()), "{name} is in no group");
        assert!(parameter["Description"].as_str().is_some_and(|text| text.len() > 10), "{name}");
        let checked = ["AllowedPattern", "AllowedValues", "MinValue"].iter().any(|check| !parameter[*check].is_null());
        assert!(checked || parameter["Type"] == "CommaDelimitedList", "{name} takes anything");
    }
}

#[test]
fn a_secret_of_yours_takes_the_place_of_the_stacks() {
    for (parameter, own, name, variable) in [
        ("TokenSecretArn", "AdminToken", "admin-token", "TARGET_TOKEN_SECRET"),
        ("KeySecretArn", "EncryptionKey", "encryption-key", "REENCRYPT_KEY_SECRET"),
    ] {
        let arn = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/production/mine-AbCdEf";
        let stack = templates().resolve(&[&MOST[..], &[(parameter, arn)]].concat(), &BTreeMap::new()).unwrap();
        for part in ["Secret", "Policy", "Schedule"] {
            assert!(!stack.resources.contains_key(&format!("{own}{part}")), "{own}{part}");
        }
        assert_eq!(stack.outputs[&format!("{own}Secret")], arn);
        assert_eq!(variables(stack.of_type("AWS::Serverless::Function")["SweepFunction"])[variable], arn);
        // What is left of the stack's own is in no policy.
        let policies = json!(crate::policies::policies(&stack)).to_string();
        assert!(policies.contains(arn) && !policies.contains(&format!("shop/production/{name}-AbCdEf")));
    }
}

#[test]
fn issuer_and_fields_need_each_other() {
    let least = least();
    for kind in ["AWS::Serverless::Function", "AWS::SecretsManager::Secret", "AWS::IAM::Role"] {
        assert!(!least.of_type(kind).keys().any(|name| name.starts_with("Issue")), "{kind}");
    }
    let issuer = ("IssuerFunctionArn", "arn:aws:lambda:us-east-1:000000000000:function:issuer");
    let secret = "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/staging/mine-AbCdEf";
    let resolve =
        |parameters: &[(&str, &str)]| templates().resolve(&[&LEAST[..], parameters].concat(), &BTreeMap::new());
    let refused = resolve(&[issuer]).err().unwrap();
    assert!(refused.contains("IssuerFunctionArn needs CredentialFields"), "{refused}");
    for without in [("CredentialFields", "KEY"), ("AdoptedCredentialFields", "KEY"), ("CredentialSecretArn", secret)] {
        let refused = resolve(&[without]).err().unwrap();
        assert!(refused.contains(&format!("{} needs IssuerFunctionArn", without.0)), "{refused}");
    }
    let fields = ("CredentialFields", "KEY,KEY_ID");
    let stack = resolve(&[issuer, fields]).unwrap();
    let tags = &stack.of_type("AWS::SecretsManager::Secret")["IssuedCredentialSecret"]["Tags"];
    let tag = items(tags).into_iter().find(|tag| tag["Key"] == "rotation:fields").unwrap();
    assert_eq!(tag["Value"], "KEY KEY_ID");
    // A secret of yours takes the place of the stack's, and keeps its own tags.
    let stack = resolve(&[issuer, fields, ("CredentialSecretArn", secret)]).unwrap();
    assert!(!stack.resources.keys().any(|name| name.starts_with("IssuedCredentialS")), "secret or schedule");
    assert_eq!(stack.outputs["IssuedCredentialSecret"], secret);
}

#[test]
fn a_step_has_time_to_ask_the_issuer_four_times() {
    let choices = templates().written(MAIN)["Parameters"]["IssuerTimeout"]["AllowedValues"].clone();
    for choice in texts(&choices) {
        let stack = templates().resolve(&[&MOST[..], &[("IssuerTimeout", choice)]].concat(), &BTreeMap::new()).unwrap();
        let function = stack.of_type("AWS::Serverless::Function")["IssuedCredentialFunction"];
        let seconds: u64 = choice.trim_end_matches('s').parse().unwrap();
        assert_eq!(function["Timeout"].as_u64(), Some(4 * seconds + 20), "{choice}");
        assert_eq!(variables(function)["ISSUER_TIMEOUT"], choice);
    }
}

#[test]
fn columns_need_a_database_and_nothing_exists_without_columns() {
    let least = least();
    assert!(!least.of_type("AWS::Serverless::Function").contains_key("ReencryptFunction"));
    assert!(least.of_type("AWS::Serverless::StateMachine").is_empty());
    assert!(!least.of_type("AWS::IAM::Role").keys().any(|name| name.starts_with("Re") || name.starts_with("State")));
    let columns = r#"[{"table":"t","column":"c","format":"fernet"}]"#;
    let database = [
        ("DatabaseSecretArn", "arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/staging/database-AbCdEf"),
        ("DatabaseHost", "database.example.com"),
        ("DatabaseName", "shop"),
    ];
    for missing in 0..database.len() {
        let mut parameters = LEAST.to_vec();
        parameters.push(("ReencryptColumns", columns));
        parameters.extend(database.iter().enumerate().filter(|(index, _)| *index != missing).map(|(_, one)| *one));
        let refused = templates().resolve(&parameters, &BTreeMap::new()).err().unwrap();
        assert!(
            refused.contains("ReencryptColumns needs DatabaseSecretArn, DatabaseHost and DatabaseName"),
            "{refused}"
        );
    }
    let mut parameters = LEAST.to_vec();
    parameters.push(("ReencryptColumns", columns));
    parameters.extend(database);
    let stack = templates().resolve(&parameters, &BTreeMap::new()).unwrap();
    assert!(stack.of_type("AWS::Serverless::Function").contains_key("ReencryptFunction"));
    let worker = stack.of_type("AWS::Serverless::Function")["ReencryptFunction"];
    assert_eq!((&worker["Timeout"], &worker["MemorySize"]), (&json!(900), &json!("128")));
    assert!(worker["Layers"].is_null() && worker["Environment"]["Variables"]["DATABASE_CA_FILE"].is_null());
}
