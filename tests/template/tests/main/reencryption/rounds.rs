//! Rounds that leave rows, and the permissions that an execution needs.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_rows_are_told_and_the_others_are_rewrapped() {
    let mut machine = Machine::new(200, &[]).await;
    let foreign = sealed(99, "text 43", 1);
    machine.run(&format!("UPDATE {{schema}}.rows SET token = '{foreign}' WHERE id = 43")).await;
    let version = machine.version();
    let execution = machine.start(&version);
    let ended = machine.wait(&execution);
    assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("RowsUnreadable")), "{ended}");
    assert!(text(&ended["cause"]).starts_with("rows under no key of the ring: 1, damaged: 0;"), "{ended}");
    assert_eq!((machine.count(Some(NEW)).await, machine.count(None).await), (199, 1));
    let history = machine.history(&execution);
    assert!(!history.contains(&"Retire".to_owned()), "{history:?}");
    assert_eq!(machine.subjects(), ["Rows cannot be opened"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_value_ends_an_execution_before_it_writes() {
    let mut machine = Machine::new(200, &[]).await;
    machine.run("UPDATE {schema}.rows SET token = 'something else' WHERE id = 42").await;
    let version = machine.version();
    let execution = machine.start(&version);
    let ended = machine.wait(&execution);
    assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("ColumnNotUnderstood")), "{ended}");
    assert_eq!((machine.count(Some(OLD)).await, machine.count(None).await), (199, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_leaves_rows_ends_well_and_the_next_goes_on() {
    let mut machine = Machine::new(400, &[]).await;
    machine
        .run(
            "CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF NEW.id = 77 THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON {schema}.rows FOR EACH ROW EXECUTE FUNCTION {schema}.refuse();",
        )
        .await;
    let version = machine.version();
    let round = |machine: &mut Machine, name: &str| {
        let execution = machine.start_as(name, &version);
        let ended = machine.wait(&execution);
        let history = machine.history(&execution);
        assert_eq!(ended["status"], "SUCCEEDED", "{ended}\n{history:?}");
        history
    };
    let history = round(&mut machine, "first");
    let count = |state: &str| history.iter().filter(|one| *one == state).count();
    assert_eq!(
        (count("Plan"), count("Census"), count("Rewrap"), count("DatabaseRefused")),
        (1, 2, 1, 1),
        "{history:?}"
    );
    assert_eq!(history.last().map(String::as_str), Some("RowsLeft"));
    let under = machine.under().await;
    let left: Vec<i64> = under.iter().filter(|(_, seed)| **seed == Some(OLD)).map(|(id, _)| *id).collect();
    assert!(
        left.contains(&77) && left.len() <= 100 && left.iter().all(|id| (1..=100).contains(id)),
        "one slice: {left:?}"
    );
    assert_eq!(machine.count(Some(NEW)).await, 400 - left.len());
    assert!(machine.subjects().is_empty(), "an alarm tells it when it stays so");
    // What kept them is repaired.
    machine.run("DROP TRIGGER refuse ON {schema}.rows").await;
    let history = round(&mut machine, "second");
    assert_eq!(machine.count(Some(NEW)).await, 400);
    assert_eq!(history.last().map(String::as_str), Some("Retired"), "{history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_needs_its_permissions_and_has_no_others() {
    let mut machine = Machine::new(10, &[]).await;
    let plan = json!({ "action": "plan" });
    assert_eq!(machine.invoke("reencrypt", &plan)["rows"], 10);
    let policy = machine.policy("ReencryptRole");
    let mut tried = vec![];
    for (sid, action, less) in without_each(&policy) {
        machine.give("ReencryptRole", &less);
        let answer = machine.invoke("reencrypt", &plan);
        let denied = ["AccessDenied", "CredentialUnavailable"].contains(&text(&answer["errorType"]).as_str());
        assert!(denied && text(&answer["errorMessage"]).contains(&action), "without {action} ({sid}): {answer}");
        tried.push(sid);
    }
    assert_eq!(tried, ["Keyring", "Keyring", "PasswordOfTheDatabase"]);
    machine.give("ReencryptRole", &policy);
    assert_eq!(machine.invoke("reencrypt", &plan)["rows"], 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_retired_only_with_every_permission_on_the_archive() {
    let mut machine = Machine::new(10, &[]).await;
    let version = machine.version();
    let policy = machine.policy("SweepRole");
    let archive: Vec<_> = without_each(&policy).into_iter().filter(|(sid, ..)| sid == "KeyArchive").collect();
    assert_eq!(archive.len(), 4);
    let census = |began: &str, ended: &str| {
        let (old, new) = (key(OLD).id().to_string(), key(NEW).id().to_string());
        let keys: Value = [(old, json!(0)), (new, json!(10))].into_iter().collect::<serde_json::Map<_, _>>().into();
        let counted = json!({
            "schema": "public", "table": "rows", "column": "token", "rows": 10, "nulls": 0, "keys": keys, "unknown": 0, "damaged": 0,
        });
        json!({ "secret": KEY_SECRET, "version": version, "began": began, "ended": ended, "columns": [counted], "settled": true, "next": null })
    };
    // Evidence is an hour old at most.
    let now = format_timestamp(SystemTime::now() - Duration::from_secs(60));
    let censuses = [census("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"), census(&now, &now)];
    let retire = json!({ "action": "retire", "secret_id": KEY_SECRET, "reason": "a test", "censuses": censuses });
    for (sid, action, less) in archive {
        machine.give("SweepRole", &less);
        let answer = machine.invoke("sweep", &retire);
        assert_eq!(answer["errorType"], "ArchiveUnavailable", "without {action} ({sid}): {answer}");
        assert!(text(&answer["errorMessage"]).contains(&action), "without {action}: {answer}");
        assert!(machine.value(KEY_SECRET)["TOKEN_ENCRYPTION_KEY_PREVIOUS"].is_string(), "nothing was retired");
    }
    machine.give("SweepRole", &policy);
    assert_eq!(machine.invoke("sweep", &retire)["retired"], json!([key(OLD).id().to_string()]));
    // Without the right to start the state machine, or to look at what became of others, a sweep says so.
    machine.hands.root(
        "secretsmanager",
        "put_secret_value",
        json!({ "SecretId": KEY_SECRET, "SecretString": ring(&[NEW, OLD]) }),
    );
    let sweep = json!({ "action": "sweep" });
    let actions = ["states:ListExecutions", "states:StartExecution"];
    for (action, other) in [(actions[0], actions[1]), (actions[1], actions[0])] {
        let mut less = policy.clone();
        let statements = less["Statement"].as_array_mut().unwrap();
        let statement = statements.iter_mut().find(|statement| statement["Sid"] == "Reencryption").unwrap();
        assert_eq!(statement["Action"], json!(actions));
        statement["Action"] = json!(other);
        machine.give("SweepRole", &less);
        let swept = machine.invoke("sweep", &sweep);
        assert_eq!(swept["problems"][0]["error"], "NotStarted", "{swept}");
        assert!(text(&swept["problems"][0]["message"]).contains(action), "without {action}: {swept}");
    }
    machine.give("SweepRole", &policy);
    let execution = text(&machine.invoke("sweep", &sweep)["reencryption"]["execution"]);
    let arn = format!("{}:{execution}", machine.arn.replace(":stateMachine:", ":execution:"));
    machine.hands.root("stepfunctions", "stop_execution", json!({ "executionArn": arn }));
    let swept = machine.invoke("sweep", &sweep);
    assert_eq!(
        (&swept["reencryption"]["started"], &swept["reencryption"]["ended"]),
        (&json!(false), &json!("ABORTED")),
        "{swept}"
    );
}
