//! What people who operate a stack may do.

use super::*;

#[test]
fn operators_look_at_what_the_runbook_shows_and_read_no_value() {
    let (least, most) = (policies(&least()), policies(&most()));
    let denied = |action: &str| {
        let statements = speaking_of(&most["OperatorPolicy"], action);
        assert_eq!((statements.len(), &statements[0]["Effect"]), (1, &json!("Deny")), "{action}");
        texts(&statements[0]["Resource"]).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    // What else the same people may do is not this stack's: it denies its own secrets, and batches, which name none.
    let own = [format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:shop/production/*")];
    assert_eq!(denied("secretsmanager:GetSecretValue"), own);
    assert_eq!(denied("secretsmanager:PutSecretValue"), own);
    assert_eq!(denied("secretsmanager:BatchGetSecretValue"), ["*"]);

    // Each command of the runbook that OperatorPolicy is for. `infra/README.md` says what needs more.
    let page = |page: &str| std::fs::read_to_string(root().join(page)).unwrap();
    let runbook = crate::metrics::RUNBOOK.map(page).concat();
    let commands = Regex::new("aws ([a-z]+) ([a-z-]+)").unwrap();
    let commands: BTreeSet<(&str, &str)> = commands
        .captures_iter(&runbook)
        .map(|found| (found.get(1).unwrap().as_str(), found.get(2).unwrap().as_str()))
        .collect();
    assert!(commands.len() > 8, "{commands:?}");
    let who = page("infra/README.md");
    let who: String = who.split("\n| who | types |\n").nth(1).unwrap().split("\n\n").next().unwrap().to_owned();
    for (service, command) in commands {
        let action = action_of(service, command);
        let granted = speaking_of(&most["OperatorPolicy"], &action).iter().any(|statement| allows(statement));
        assert!(
            granted || who.contains(&format!("`{action}`")),
            "OperatorPolicy lacks {action}, and infra/README.md does not say so"
        );
    }
    let trail = |policies: &BTreeMap<String, Value>| {
        let queries = |policy: &str| {
            let queries = speaking_of(&policies[policy], "logs:StartQuery").into_iter();
            queries.flat_map(|statement| texts(&statement["Resource"])).collect::<Vec<_>>()
        };
        let of_operators = queries("OperatorPolicy").into_iter().any(|resource| resource.contains(":log-group:trail:"));
        // The report asks for nothing else.
        let of_sweep = queries("SweepRole");
        assert!(of_sweep.iter().all(|resource| resource.ends_with(":log-group:trail:*")), "{of_sweep:?}");
        assert_eq!(of_sweep.is_empty(), !of_operators);
        of_operators
    };
    assert!(trail(&most) && !trail(&least));
}

/// The action of a command of the AWS CLI.
fn action_of(service: &str, command: &str) -> String {
    let action: String = command.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
    match (service, action.as_str()) {
        ("lambda", "Invoke") => "lambda:InvokeFunction".to_owned(),
        ("ecs", "Wait") => "ecs:DescribeServices".to_owned(),
        ("stepfunctions", action) => format!("states:{action}"),
        _ => format!("{service}:{action}"),
    }
}

#[test]
fn operators_may_do_whatever_their_command_asks_of_aws() {
    let mut scripts = std::fs::read_to_string(root().join("infra/rotation")).unwrap();
    for part in std::fs::read_dir(root().join("infra/rotation.d")).unwrap() {
        scripts += &std::fs::read_to_string(part.unwrap().path()).unwrap();
    }
    let calls = Regex::new(r"aws_(?:cli|json) ([a-z]+) ([a-z-]+)").unwrap();
    // The settings of the AWS CLI are on the operator's machine.
    let calls = calls.captures_iter(&scripts).filter(|call| &call[1] != "configure");
    let actions: BTreeSet<String> = calls.map(|call| action_of(&call[1], &call[2])).collect();
    assert!(actions.len() >= 6 && actions.contains("secretsmanager:ListSecrets"), "{actions:?}");
    let policy = &policies(&most())["OperatorPolicy"];
    for action in actions {
        assert!(speaking_of(policy, &action).into_iter().any(allows), "{action}");
    }
}
