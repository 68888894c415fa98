//! `rotate --wait`, and both major versions of the AWS CLI.

use super::*;

/// A rotation that succeeds, one that fails, and the one that continues it.
async fn rotates(person: &Person) {
    let run = person.run(&["rotate", SECRET, "--wait", "--yes"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    let lines: Vec<&str> = run.out.lines().collect();
    for (line, step) in lines[1..].iter().zip(["createSecret", "setSecret", "testSecret", "finishSecret"]) {
        assert!(line.contains(&format!(" s  {step}")) && line.ends_with("done"), "{run:?}");
    }
    assert!(lines[5].starts_with("rotated; the previous value is accepted until 20"), "{run:?}");

    tag(&person.scene, "rotation:overlap", "for ever").await;
    let run = person.run(&["rotate", SECRET, "--wait", "--yes"]).await;
    assert_eq!(run.code, 1, "{run:?}");
    for told in [
        "createSecret FAILED  InvalidPolicy: tag rotation:overlap",
        "repair: aws secretsmanager untag-resource --secret-id shop/production/admin-token --tag-keys rotation:overlap",
    ] {
        assert!(run.out.contains(told), "{told}: {run:?}");
    }

    tag(&person.scene, "rotation:overlap", "1h").await;
    person.scene.sandbox.wait_for_rotation(SECRET, end_to_end::ROTATION_TIMEOUT).await.unwrap();
    let run = person.run(&["rotate", SECRET, "--wait", "--yes", "--json"]).await;
    let answer = run.json();
    assert_eq!((run.code, &answer["state"]), (0, &json!("succeeded")), "{run:?}");
    let steps: Vec<_> = answer["steps"].as_array().unwrap().iter().map(|step| step["ok"].clone()).collect();
    assert_eq!(steps, vec![json!(true); 4], "{run:?}");
    assert!(run.err.is_empty(), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_followed_with_version_1_of_the_cli() {
    let person = Person::new().await.with_token().await;
    let version = finish(
        {
            let mut aws = person.command("aws");
            aws.arg("--version");
            aws
        },
        "",
    )
    .await;
    assert!(version.out.starts_with("aws-cli/1."), "{version:?}");
    rotates(&person).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_followed_with_version_2_of_the_cli() {
    let person = Person::new().await.with_token().await.with_programs(&version_2().await);
    let version = finish(
        {
            let mut aws = person.command("aws");
            aws.arg("--version");
            aws
        },
        "",
    )
    .await;
    assert!(version.out.starts_with("aws-cli/2."), "{version:?}");
    rotates(&person).await;
    person.unmanaged("shop/production/providers", "{}").await;
    let put = ["put", "providers", "OPENAI_API_KEY", "--yes", "--reason", "new key", "--json"];
    let run = person.run_with(&put, "sk-\"ä\"\n\n").await;
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(person.value("shop/production/providers").await, json!({ "OPENAI_API_KEY": "sk-\"ä\"\n" }).to_string());
    let table = person.run(&["status", "--json"]).await.json();
    let rotated = |n: usize| table["secrets"][n]["lastRotated"].as_str().unwrap().to_owned();
    for n in 0..2 {
        assert!(rotated(n).len() == 20 && rotated(n).ends_with('Z'), "{table:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_does_not_end_is_not_waited_for_ever() {
    let person = Person::new().await.with_token().await;
    hold_before(&person.scene, sandbox::Step::Set, 60_000);
    let run = person.run(&["rotate", SECRET, "--wait", "--yes", "--timeout", "1"]).await;
    assert!(run.code == 5 && run.out.contains("not finished after 1 s"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_followed_without_its_log() {
    let person = Person::new().await.with_token().await;
    let logless = ["rotate", SECRET, "--wait", "--yes", "--log-group", "/none"];
    let run = person.run(&logless).await;
    assert!(run.code == 0 && run.out.contains("rotated"), "{run:?}");
    tag(&person.scene, "rotation:overlap", "for ever").await;
    let run = person.run(&logless).await;
    assert!(run.code == 1 && run.out.contains("InvalidPolicy"), "{run:?}");
}
