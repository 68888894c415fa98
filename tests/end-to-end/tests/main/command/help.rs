//! Help, completion, exit codes, and what is asked before a change.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_command_has_help_with_an_example() {
    let person = Person::new().await;
    let all = person.run(&["--help"]).await;
    assert_eq!(all.code, 0, "{all:?}");
    for command in COMMANDS {
        assert!(all.out.contains(&format!("\n  {command} ")), "{command}: {}", all.out);
        let help = person.run(&[command, "--help"]).await;
        assert!(help.code == 0 && help.out.starts_with("Usage: rotation "), "{help:?}");
        assert!(help.out.contains(&format!("\n\n  rotation {command}")), "an example: {}", help.out);
        assert_eq!(person.run(&["help", command]).await.out, help.out);
    }
    for line in all.out.lines() {
        assert!(line.chars().count() <= 120, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn completion_knows_every_command_and_its_options() {
    let person = Person::new().await;
    let complete = async |words: &str| {
        let mut shell = person.command("bash");
        let file = workspace().join("infra/rotation-completion.bash");
        let script = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _rotation; echo ${{COMPREPLY[*]}}",
            file.display()
        );
        shell.args(["-uc", &script]);
        let run = finish(shell, "").await;
        assert_eq!(run.code, 0, "{run:?}");
        run.out.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut commands = complete("rotation ''").await;
    commands.retain(|command| command != "help");
    commands.sort();
    let mut expected = COMMANDS.map(str::to_owned);
    expected.sort();
    assert_eq!(commands, expected);
    assert_eq!(complete("rotation ro").await, ["rotate", "rollback"]);
    assert_eq!(complete("rotation rotate --wa").await, ["--wait"]);
    assert!(complete("rotation verify --wa").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_told_before_anything_is_asked() {
    let person = Person::new().await;
    for arguments in [
        &["rotat"][..],
        &["rotate"],
        &["rotate", "a", "b"],
        &["verify", "a", "--wait"],
        &["rotate", "a", "--timeout", "soon"],
        &["rotate", "a", "--unknown"],
        &["put", "a", "--into", "b"],
        &["sweep", "a"],
        &["report", "--reason"],
        &["report", "--html", "--json"],
        &["sweep", "--from", "x"],
    ] {
        let run = person.run(arguments).await;
        assert!(run.code == 2 && run.err.contains("--help shows how"), "{arguments:?}: {run:?}");
    }
    assert_eq!(person.run(&[]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_without_confirmation() {
    let person = Person::new().await.with_token().await;
    let before = person.value(SECRET).await;
    for arguments in [
        &["rotate", SECRET][..],
        &["rollback", SECRET, "--reason", "x"],
        &["compromise", SECRET, "--reason", "x"],
        &["forget", SECRET, "5e6f7081", "--reason", "x"],
        &["setup"],
    ] {
        let run = person.run(arguments).await;
        assert!(run.code == 6 && run.err.contains("--yes"), "{arguments:?}: {run:?}");
    }
    let run = person.run(&["revoke", SECRET, "--yes"]).await;
    assert!(run.code == 2 && run.err.contains("--reason"), "{run:?}");
    assert_eq!(person.value(SECRET).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_yes_means_yes() {
    let mut person = Person::new().await.with_token().await;
    let before = person.value(SECRET).await;
    for word in ["no", "false", "off", "n", ""] {
        person.names.push(("ROTATION_YES", word));
        let run = person.run(&["rotate", SECRET]).await;
        assert_eq!(run.code, 6, "{word}: {run:?}");
    }
    let run = person.run(&["rotate", SECRET, "--yes=false"]).await;
    assert!(run.code == 2 && run.err.contains("--yes takes no value"), "{run:?}");
    assert_eq!(person.value(SECRET).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_option_is_about_no_stack_of_a_variable() {
    let mut person = Person::new().await.with_token().await;
    person.names = vec![("ROTATION_FUNCTIONS_PREFIX", "shop-staging-"), ("ROTATION_NAME_PREFIX", "shop/staging/")];
    let run = person.run(&["status", "admin-token", "--stack", "shop-production-secret-rotation", "--json"]).await;
    assert!(run.code == 0 && run.json()["secret"] == SECRET, "{run:?}");
}

/// What a person types on a terminal.
pub(super) async fn types(person: &Person, arguments: &[&str], typed: &str) -> Run {
    let mut python = person.command(tool("python3"));
    python.arg(workspace().join("tests/end-to-end/tests/main/command/terminal.py")).arg(typed);
    python.arg(workspace().join("infra/rotation")).args(arguments);
    finish(python, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_types_the_name_and_the_reason() {
    let person = Person::new().await.with_token().await;
    let before = person.value(SECRET).await;
    let wrong = types(&person, &["rotate", SECRET, "--wait"], "shop/production/other\n").await;
    assert!(wrong.code == 6 && wrong.out.contains("Type shop/production/admin-token"), "{wrong:?}");
    assert_eq!(person.value(SECRET).await, before);
    let right = types(&person, &["rotate", SECRET, "--wait"], &format!("{SECRET}\n")).await;
    assert_eq!(right.code, 0, "{right:?}");
    assert!(right.out.contains("finishSecret done"), "{right:?}");
    let back = types(&person, &["rollback", "admin-token"], &format!("{SECRET}\n\tthe importer breaks\n")).await;
    assert!(back.code == 0 && back.out.contains("rolledBackFrom"), "{back:?}");
    let log = person.scene.sandbox.host().logs("shop-production-operate").join("\n");
    assert!(log.contains("the importer breaks"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_with_the_way_to_it() {
    let person = Person::new().await.of_stack();
    type Prepare = fn(&mut Command) -> &mut Command;
    let cases: [(Prepare, &str); 3] = [
        (|command| command.env_remove("ROTATION_STACK").env_remove("AWS_ENDPOINT_URL"), "--stack"),
        (|command| command.env_remove("AWS_ACCESS_KEY_ID").env("AWS_EC2_METADATA_DISABLED", "true"), "aws sso login"),
        (|command| command.env("AWS_ENDPOINT_URL_CLOUDFORMATION", "http://127.0.0.1:9"), "127.0.0.1:9"),
    ];
    for (prepare, told) in cases {
        let mut command = person.command(workspace().join("infra/rotation"));
        command.args(["status", SECRET]).env("AWS_MAX_ATTEMPTS", "1");
        prepare(&mut command);
        let run = finish(command, "").await;
        assert!(run.code == 3 && run.err.contains(told), "{told}: {run:?}");
    }
    // A folder with everything but one program.
    let programs = tempfile::tempdir().unwrap();
    for name in ["bash", "dirname", "readlink", "jq", "env"] {
        std::os::unix::fs::symlink(tool(name), programs.path().join(name)).unwrap();
    }
    let mut command = person.command(workspace().join("infra/rotation"));
    command.args(["status", SECRET]).env("PATH", programs.path());
    let run = finish(command, "").await;
    assert!(run.code == 3 && run.err.contains("pip install awscli"), "{run:?}");
}
