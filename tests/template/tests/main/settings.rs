//! Settings: what the functions are given is what their code reads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use admin_token::AdminToken;
use encryption_key::EncryptionKey;
use issued_credential::IssuedCredential;
use regex_lite::Regex;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::kind::SecretKind;
use rotation::policy::StackPolicy;
use sandbox::schedule::{RotationRules, Schedule};
use serde_json::{Value, json};
use template::{MAIN, REGION, Stack, root, text};

use crate::support::*;

/// Variables that the code reads and the template does not set, and why.
const NOT_SET: [(&str, &str); 10] = [
    ("AWS_ACCESS_KEY_ID", "Lambda sets it"),
    ("AWS_ENDPOINT_URL", "for tests, and for endpoints without private DNS"),
    ("AWS_ENDPOINT_URL_", "the same for one service"),
    ("AWS_LAMBDA_FUNCTION_NAME", "Lambda sets it"),
    ("AWS_LAMBDA_LOG_LEVEL", "Lambda sets it, from ApplicationLogLevel"),
    ("AWS_REGION", "Lambda sets it"),
    ("AWS_SECRET_ACCESS_KEY", "Lambda sets it"),
    ("AWS_SESSION_TOKEN", "Lambda sets it"),
    ("ROTATION_FIELD", "operate serves all kinds of secrets: each secret's tag rotation:field names its own"),
    ("ROTATION_FIELDS", "the same for the tag rotation:fields"),
];

/// Texts in the code that look like variables: a member, and states of deployments.
const NO_VARIABLES: [&str; 3] = ["ADMIN_TOKEN", "ROLLBACK_FAILED", "ROLLBACK_SUCCESSFUL"];

/// Variables that do not look like one.
const OF_ONE_WORD: [&str; 1] = ["CONSUMERS"];

pub(crate) fn variables(function: &Value) -> BTreeMap<String, String> {
    let variables = function["Environment"]["Variables"].as_object().unwrap();
    variables.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// The code of a folder, without comments: an example in a comment reads, names and fails nothing.
pub(crate) fn rust_sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            into.extend(text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]));
        }
    }
}

/// The sources of what is deployed.
pub(crate) fn deployed_sources() -> String {
    let mut sources = String::new();
    rust_sources(&root().join("shared/src"), &mut sources);
    for function in std::fs::read_dir(root().join("functions")).unwrap() {
        rust_sources(&function.unwrap().path().join("src"), &mut sources);
    }
    sources
}

pub(crate) fn variables_that_the_code_reads() -> BTreeSet<String> {
    let name = Regex::new("\"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\"").unwrap();
    let sources = deployed_sources();
    let names = name.captures_iter(&sources).map(|found| found[1].to_owned());
    let of_one_word = OF_ONE_WORD.into_iter().filter(|name| sources.contains(&format!("\"{name}\"")));
    let names = names.chain(of_one_word.map(str::to_owned));
    names.filter(|name| !NO_VARIABLES.contains(&name.as_str())).collect()
}

fn excused(name: &str) -> bool {
    NOT_SET.iter().any(|(known, _)| name == *known || (known.ends_with('_') && name.starts_with(known)))
}

#[test]
fn every_variable_that_the_code_reads_is_set_and_the_reverse() {
    let read = variables_that_the_code_reads();
    let stack = most();
    let functions = stack.of_type("AWS::Serverless::Function");
    let set: BTreeSet<String> = functions.values().flat_map(|function| variables(function).into_keys()).collect();
    let missing: Vec<_> = read.difference(&set).filter(|name| !excused(name)).collect();
    let unread: Vec<_> = set.difference(&read).collect();
    assert!(
        missing.is_empty() && unread.is_empty(),
        "read by the code, and not set by the template: {missing:?}; set by it, and read by no code: {unread:?}"
    );
    for (name, reason) in NOT_SET {
        assert!(read.iter().any(|read| read.starts_with(name)), "{name} ({reason}) is read no more");
        assert!(!set.contains(name), "{name} is set: {reason}");
    }
}

/// What [`rotation::lambda::run`] reads at start.
fn accepted<K: SecretKind>(environment: &Environment, kind: impl FnOnce(&Environment) -> Result<K, RotationError>) {
    environment.refuse_foreign(K::VARIABLES).unwrap();
    kind(environment).unwrap();
    StackPolicy::from_environment(environment, K::SETTINGS).unwrap();
}

/// What the tests know of a kind: whether its function accepts these variables, and its own tags.
pub(crate) struct KindOfStack {
    accepted: fn(&Environment),
    pub(crate) tags: Vec<&'static str>,
}

/// The kind of a rotation function, by the name of its folder.
pub(crate) fn kind_of(folder: &str) -> KindOfStack {
    fn tags<K: SecretKind>() -> Vec<&'static str> {
        K::SETTINGS.iter().map(|setting| setting.tag()).collect()
    }
    match folder {
        "admin-token" => KindOfStack {
            accepted: |environment| accepted(environment, AdminToken::from_environment),
            tags: tags::<AdminToken>(),
        },
        "encryption-key" => KindOfStack {
            accepted: |environment| accepted(environment, EncryptionKey::from_environment),
            tags: tags::<EncryptionKey>(),
        },
        "issued-credential" => KindOfStack {
            accepted: |environment| accepted(environment, IssuedCredential::from_environment),
            tags: tags::<IssuedCredential>(),
        },
        _ => panic!("add the kind of {folder} here"),
    }
}

#[test]
fn the_rotation_functions_accept_their_variables() {
    for stack in [least(), most()] {
        let functions = stack.of_type("AWS::Serverless::Function");
        for name in rotation_functions(&stack).into_keys() {
            let mut variables = variables(functions[name.as_str()]);
            for of_lambda in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"] {
                variables.insert(of_lambda.to_owned(), "x".to_owned());
            }
            let environment: Environment = variables.into_iter().collect();
            (kind_of(&binary_of(&stack, &name)).accepted)(&environment);
        }
    }
}

#[test]
fn the_worker_accepts_its_variables() {
    let stack = most();
    let variables = variables(stack.of_type("AWS::Serverless::Function")["ReencryptFunction"]);
    let environment: Environment = variables.into_iter().collect();
    let settings = reencrypt::settings::Settings::from_environment(&environment).unwrap();
    assert_eq!(settings.columns[0].name.table, "connections");
    // With the parameters' own defaults it has the code's.
    let pace = |json: &str| {
        let needed = [
            ("REENCRYPT_COLUMNS", json),
            ("REENCRYPT_KEY_SECRET", "key"),
            ("DATABASE_SECRET", "database"),
            ("DATABASE_HOST", "127.0.0.1"),
            ("DATABASE_NAME", "shop"),
        ];
        let needed = needed.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment: Environment = needed.collect();
        reencrypt::settings::Settings::from_environment(&environment).unwrap()
    };
    let mut defaults = pace(r#"[{"table":"t","column":"c","format":"fernet"}]"#);
    assert_eq!(settings.database.port, defaults.database.port);
    defaults.pace.rows_per_second = Some(2000);
    assert_eq!(settings.pace, defaults.pace);
}

#[test]
fn no_variable_is_set_to_nothing() {
    for stack in [least(), most()] {
        for (name, function) in stack.of_type("AWS::Serverless::Function") {
            for (variable, value) in variables(function) {
                assert!(!value.trim().is_empty(), "{name}: {variable}");
            }
        }
    }
}

/// A value of a parameter that is as long as its declaration allows, and has the most quotes, which JSON writes with two characters.
fn longest(name: &str, parameter: &Value) -> Option<String> {
    if let Some(values) = parameter["AllowedValues"].as_array() {
        return values.iter().map(text).max_by_key(String::len);
    }
    if parameter["Type"] == "Number" {
        return parameter["MaxValue"].as_u64().map(|most| most.to_string());
    }
    let length = usize::try_from(parameter["MaxLength"].as_u64()?).unwrap();
    let of = |begin: &str, fill: &str, end: &str| {
        let middle = fill.repeat(length).chars().take(length - begin.len() - end.len()).collect::<String>();
        format!("{begin}{middle}{end}")
    };
    Some(match name {
        // The shortest consumers have the most quotes.
        "Consumers" => of(r#"{"s":[{"copy":"c"}]"#, r#","s":[{"copy":"c"}]"#, "}"),
        // Half of an array of short names are quotes.
        "ReencryptColumns" => of(r#"[{"table":"t","column":"c","format":"tink","aad":["i""#, r#","i""#, "]}]"),
        "TargetVerifyUrl" | "TargetRefreshUrl" => of("https://", "u", ""),
        _ => of("", "v", ""),
    })
}

/// What another kind of secret needs in a list of members: a member of the stack's own secret, and adopted ones.
const ROOM_FOR_A_KIND: usize = 64 + 64 + ",,".len();

#[test]
fn the_longest_parameters_fit_into_the_environment() {
    let template = templates().written(MAIN)["Parameters"].as_object().unwrap();
    // What reaches the functions' environments, and has to be bounded: found by a value that nothing else has.
    let mut parameters: BTreeMap<String, String> =
        MOST.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    parameters
        .extend([("Application", "a"), ("Environment", "e")].map(|(name, fill)| (name.to_owned(), fill.repeat(20))));
    for (name, parameter) in template {
        let marked = resolved(&parameters, name, "<MARK>");
        if !marked.is_some_and(|stack| environments(&stack).iter().any(|(_, json)| json.contains("<MARK>"))) {
            continue;
        }
        if ["Application", "Environment", "TargetTimeout"].contains(&name.as_str()) {
            continue;
        }
        let longest = longest(name, parameter).unwrap_or_else(|| panic!("nothing bounds how long {name} is"));
        if let Some(pattern) = parameter["AllowedPattern"].as_str() {
            let pattern = Regex::new(&format!("^(?:{pattern})$")).unwrap();
            let more = format!("{longest}v");
            assert!(parameter["MaxLength"].is_u64() || !pattern.is_match(&more), "{name} may be longer");
        }
        parameters.insert(name.clone(), longest);
    }
    let given: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let stack = templates().resolve(&given, &BTreeMap::new()).unwrap();
    for (name, json) in environments(&stack) {
        // The longest name of a Region, and of a partition, is that much longer than those of these tests.
        let bytes =
            json.len() + json.matches("arn:aws:").count() * ("ap-southeast-1".len() - REGION.len() + "-us-gov".len());
        println!("{name}: {bytes} bytes at most");
        // 4 KB for all variables of a function, as JSON (Lambda quotas; its error shows the text that it measured).
        let serves_all_kinds = ["OperateFunction", "SweepFunction", "DeliverFunction"].contains(&name.as_str());
        let room = if serves_all_kinds { ROOM_FOR_A_KIND } else { 0 };
        assert!(bytes + room <= 4_096, "{name}: {bytes} bytes, and {room} for another kind");
    }
}

/// The stack with another value for a parameter; nothing where a rule or a mapping does not take it.
fn resolved(parameters: &BTreeMap<String, String>, name: &str, value: &str) -> Option<Stack> {
    let mut parameters = parameters.clone();
    parameters.insert(name.to_owned(), value.to_owned());
    let given: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    templates().resolve(&given, &BTreeMap::new()).ok()
}

/// The environment of each function, as Lambda measures it: as JSON.
fn environments(stack: &Stack) -> Vec<(String, String)> {
    let functions = stack.of_type("AWS::Serverless::Function").into_iter();
    functions.map(|(name, function)| (name.to_owned(), json!(variables(function)).to_string())).collect()
}

#[test]
fn operate_has_all_that_the_rotation_functions_have() {
    let stack = most();
    let functions = stack.of_type("AWS::Serverless::Function");
    let [token, key, issued, operate, sweep] =
        ["AdminTokenFunction", "EncryptionKeyFunction", "IssuedCredentialFunction", "OperateFunction", "SweepFunction"]
            .map(|name| variables(functions[name]));
    // Its members are those of all, see each_function_rotates_its_own_members_only.
    let of_kinds = token.iter().chain(&key).chain(&issued);
    for (name, value) in of_kinds.filter(|(name, _)| *name != "ALLOWED_FIELDS") {
        assert_eq!(operate.get(name), Some(value), "{name}");
    }
    for (name, value) in &operate {
        // A sweep searches no log of a failure.
        let own = ["ALLOWED_ACTIONS", "LOG_GROUP"].contains(&name.as_str());
        assert!(own || sweep.get(name) == Some(value), "{name}");
    }
    assert_eq!(sweep["CLOUDTRAIL_LOG_GROUP"], "trail");
    let without_trail = variables(least().of_type("AWS::Serverless::Function")["SweepFunction"]);
    assert!(!without_trail.contains_key("CLOUDTRAIL_LOG_GROUP"));
    // The schedule's sweep sends messages, and nothing else does.
    let topic = |variables: &BTreeMap<String, String>| variables.contains_key("NOTIFY_TOPIC_ARN");
    assert_eq!([&token, &key, &issued, &operate, &sweep].map(topic), [false, false, false, false, true]);
    let actions = |variables: &BTreeMap<String, String>| variables["ALLOWED_ACTIONS"].clone();
    assert_eq!(actions(&operate), "status,verify,rollback,revoke,abort,compromise,doctor,restore,forget,put");
    assert_eq!(actions(&sweep), "sweep,report,retire");
    assert_eq!(
        variables(least().of_type("AWS::Serverless::Function")["SweepFunction"])["ALLOWED_ACTIONS"],
        "sweep,report"
    );
    // The rows of one keyring, and the state machine by its own name.
    let worker = variables(functions["ReencryptFunction"]);
    assert_eq!(sweep["REENCRYPT_KEY_SECRET"], worker["REENCRYPT_KEY_SECRET"]);
    assert_eq!(json!(sweep["REENCRYPT_STATE_MACHINE"]), stack.outputs["ReencryptionArn"]);
    assert!(!operate.contains_key("REENCRYPT_STATE_MACHINE"), "people do not sweep");
    // How often it says that it is started is how often it is.
    assert_eq!(sweep["SWEEP_PERIOD"], "1h");
    assert_eq!(functions["SweepFunction"]["Events"]["Hourly"]["Properties"]["Schedule"], "rate(1 hour)");
}

#[test]
fn each_function_rotates_its_own_members_only() {
    for (stack, adopted) in [(least(), false), (most(), true)] {
        let functions = stack.of_type("AWS::Serverless::Function");
        let members = |function: &str| -> BTreeSet<String> {
            variables(functions[function])["ALLOWED_FIELDS"].split(',').map(str::to_owned).collect()
        };
        let (token, key) = (members("AdminTokenFunction"), members("EncryptionKeyFunction"));
        assert_eq!((token.len(), key.len()), if adopted { (2, 2) } else { (1, 1) });
        let mut all = BTreeSet::new();
        for function in rotation_functions(&stack).keys() {
            for member in members(function) {
                assert!(all.insert(member.clone()), "{function}: {member} is another function's too");
            }
        }
        assert_eq!((members("OperateFunction"), members("SweepFunction")), (all.clone(), all.clone()));
        if adopted {
            assert_eq!((members("ReencryptFunction"), members("DeliverFunction")), (key, all));
        }
    }
}

#[test]
fn functions_are_what_the_readme_says() {
    let stack = least();
    let functions = stack.of_type("AWS::Serverless::Function");
    for (name, function) in &functions {
        assert_eq!(function["Runtime"], "provided.al2023", "{name}");
        assert_eq!(function["Handler"], "bootstrap", "{name}");
        assert_eq!(function["Architectures"], json!(["arm64"]), "{name}");
        assert_eq!(function["MemorySize"], 128, "{name}");
        assert_eq!(function["Tracing"], "Active", "{name}");
        assert_eq!(function["LoggingConfig"]["LogFormat"], "JSON", "{name}");
        assert_eq!(
            function["LoggingConfig"]["LogGroup"],
            variables(functions["OperateFunction"])["LOG_GROUP"],
            "{name}"
        );
        assert!(function["ReservedConcurrentExecutions"].is_null() && function["VpcConfig"].is_null(), "{name}");
        assert_eq!(stack.resources[*name]["Metadata"]["BuildMethod"], "rust-cargolambda", "{name}");
    }
    // operate tells kinds by these names.
    assert!(text(&functions["AdminTokenFunction"]["FunctionName"]).ends_with("admin-token"));
    assert!(text(&functions["EncryptionKeyFunction"]["FunctionName"]).ends_with("encryption-key"));
    let most = most();
    let issued = most.of_type("AWS::Serverless::Function")["IssuedCredentialFunction"];
    assert!(text(&issued["FunctionName"]).ends_with("issued-credential"));
    for (name, function) in most.of_type("AWS::Serverless::Function") {
        assert_eq!(text(&function["ReservedConcurrentExecutions"]), "5", "{name}");
        assert_eq!(texts(&function["VpcConfig"]["SubnetIds"]).len(), 2, "{name}");
        assert_eq!(texts(&function["VpcConfig"]["SecurityGroupIds"]), ["sg-01234567"], "{name}");
    }
    // Lambda drops lines below the level: the audit records are INFO.
    let levels = templates().written(MAIN)["Parameters"]["LogLevel"]["AllowedValues"].clone();
    assert_eq!(texts(&levels), ["TRACE", "DEBUG", "INFO"]);
}

#[test]
fn timeouts_leave_room_for_three_targets_and_twenty_seconds() {
    let templates = templates();
    let choices = templates.written(MAIN)["Parameters"]["TargetTimeout"]["AllowedValues"].clone();
    for choice in texts(&choices) {
        let mut parameters = LEAST.to_vec();
        parameters.push(("TargetTimeout", choice));
        let stack = templates.resolve(&parameters, &BTreeMap::new()).unwrap();
        let functions = stack.of_type("AWS::Serverless::Function");
        let seconds: u64 = choice.trim_end_matches('s').parse().unwrap();
        for name in rotation_functions(&stack).into_keys() {
            let timeout = functions[name.as_str()]["Timeout"].as_u64().unwrap();
            assert!(timeout >= (3 * seconds + 20).max(60) && timeout <= 900, "{name}, {choice}: {timeout} s");
        }
        assert_eq!(
            (&functions["OperateFunction"]["Timeout"], &functions["SweepFunction"]["Timeout"]),
            (&json!(900), &json!(900))
        );
    }
}

fn rules(stack: &Stack, schedule: &str) -> RotationRules {
    let rules = &stack.of_type("AWS::SecretsManager::RotationSchedule")[schedule]["RotationRules"];
    let text = |name: &str| rules[name].as_str().map(str::to_owned);
    assert!(rules["AutomaticallyAfterDays"].is_null());
    RotationRules {
        automatically_after_days: None,
        duration: text("Duration"),
        schedule_expression: text("ScheduleExpression"),
    }
}

#[test]
fn schedules_are_valid_and_deployments_rotate_nothing() {
    let stack = least();
    let token = rules(&stack, "AdminTokenSchedule");
    assert_eq!(token.schedule_expression.as_deref(), Some("rate(90 days)"));
    let key = rules(&stack, "EncryptionKeySchedule");
    for rules in [&token, &key] {
        assert!(Schedule::parse(rules).unwrap().is_some(), "{rules:?}");
        assert_eq!(rules.duration.as_deref(), Some("4h"));
    }
    // Quarterly: from any day of ten years the next rotation is at most a quarter and a week away.
    let schedule = Schedule::parse(&key).unwrap().unwrap();
    let day = std::time::Duration::from_secs(86_400);
    let mut opened = BTreeSet::new();
    for since in 0..3_650 {
        let from = std::time::UNIX_EPOCH + (20_454 + since) * day;
        let window = schedule.next_window(from).unwrap();
        assert!(window.opens.duration_since(from).unwrap_or_default() <= 99 * day, "{from:?}");
        opened.insert(window.opens);
    }
    assert!((40..=42).contains(&opened.len()), "{}", opened.len());
    for (name, schedule) in stack.of_type("AWS::SecretsManager::RotationSchedule") {
        assert_eq!(schedule["RotateImmediatelyOnUpdate"], false, "{name}");
    }
}

#[test]
fn secrets_and_keys_outlive_the_stack_and_say_whose_they_are() {
    let stack = most();
    let stack = &stack;
    for kind in ["AWS::SecretsManager::Secret", "AWS::KMS::Key", "AWS::Logs::LogGroup"] {
        for name in stack.of_type(kind).keys() {
            let resource = &stack.resources[*name];
            assert!(text(&resource["DeletionPolicy"]).starts_with("Retain"), "{name}");
            assert_eq!(resource["UpdateReplacePolicy"], "Retain", "{name}");
        }
    }
    for (name, secret) in stack.of_type("AWS::SecretsManager::Secret") {
        assert!(text(&secret["Name"]).starts_with("shop/production/"), "{name}");
        assert!(secret["GenerateSecretString"].is_null(), "{name}: the first rotation gives it a value");
        let tags: BTreeMap<String, String> =
            items(&secret["Tags"]).into_iter().map(|tag| (text(&tag["Key"]), text(&tag["Value"]))).collect();
        for tag in ["service", "environment", "owner", "cost-centre"] {
            assert!(tags.contains_key(tag), "{name}: {tag}");
        }
        let fields = tags.get("rotation:field").or(tags.get("rotation:fields"));
        // Nothing rotates the archive of keys.
        assert_eq!(fields.is_some(), name != "KeyArchiveSecret", "{name}");
        let Some(fields) = fields else { continue };
        let function = name.replace("Secret", "Function");
        let allowed = &variables(stack.of_type("AWS::Serverless::Function")[function.as_str()])["ALLOWED_FIELDS"];
        assert!(fields.split(' ').all(|named| allowed.split(',').any(|field| field == named)), "{name}: {fields}");
    }
}

#[test]
fn a_failed_first_deployment_can_be_repeated() {
    let most = most();
    let resources = std::iter::once(&most).chain(most.nested.values()).flat_map(|stack| &stack.resources);
    let mut seen = 0;
    for (name, resource) in resources.filter(|(_, resource)| resource["DeletionPolicy"].is_string()) {
        // What stays of a failed creation has its name taken (CloudFormation, DeletionPolicy attribute).
        assert_eq!(resource["DeletionPolicy"], "RetainExceptOnCreate", "{name}");
        // Deletion protection blocks every deletion, that of a rollback too (CloudWatch Logs, protecting log groups from deletion).
        assert_ne!(text(&resource["Properties"]["DeletionProtectionEnabled"]), "true", "{name}");
        seen += 1;
    }
    assert!(seen >= 5, "{seen}");
    let mut parameters = LEAST.to_vec();
    parameters.push(("LogDeletionProtection", "true"));
    let protected = templates().resolve(&parameters, &BTreeMap::new()).unwrap();
    assert_eq!(protected.of_type("AWS::Logs::LogGroup")["AuditLogGroup"]["DeletionProtectionEnabled"], "true");
}

#[test]
fn a_rotated_secret_starts_with_an_empty_object() {
    // What Secrets Manager does when a schedule is made for a secret without any version is documented nowhere.
    let stack = most();
    for (name, secret) in stack.of_type("AWS::SecretsManager::Secret") {
        let expected = if name == "KeyArchiveSecret" { Value::Null } else { json!("{}") };
        assert_eq!(secret["SecretString"], expected, "{name}");
    }
}

#[test]
fn the_audit_log_is_kept_for_a_year_at_least_and_encrypted() {
    for stack in [least(), most()] {
        for (name, group) in stack.of_type("AWS::Logs::LogGroup") {
            let days: u64 = text(&group["RetentionInDays"]).parse().unwrap();
            assert!(days >= 365, "{name}: {days} days");
            assert!(text(&group["KmsKeyId"]).contains(":key/OperationsKey"), "{name}");
        }
    }
    let choices = templates().written(MAIN)["Parameters"]["LogRetentionDays"]["AllowedValues"].clone();
    assert!(items(&choices).into_iter().all(|days| days.as_u64().unwrap() >= 365));
    let most = most();
    let bucket = most.of_type("AWS::S3::Bucket")["Bucket"];
    let retention = &bucket["ObjectLockConfiguration"]["Rule"]["DefaultRetention"];
    assert_eq!((&retention["Mode"], &retention["Years"]), (&json!("COMPLIANCE"), &json!(7)));
}
