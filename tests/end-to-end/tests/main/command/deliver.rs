//! `deliver`, what `put` and `rotate --wait` have to do with it, and an incident.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use end_to_end::{Plan, program};
use sandbox::{ServiceDeclaration, secret};

use super::*;

const PROVIDERS: &str = "shop/production/providers";
const WEB: &str = "shop/web";
const WORKER: &str = "shop/worker";
const STEP: Duration = Duration::from_secs(120);
const SETTLED: Duration = Duration::from_secs(600);

/// An operator of the sandbox. One service reads the token, another one what a provider issues.
async fn person() -> Person {
    let task = program("examples/test-task").await.unwrap();
    let service = |id: &str| {
        let (cluster, service) = id.split_once('/').unwrap();
        ServiceDeclaration::new(cluster, service, task.clone()).with_secret("SECRET", &secret(SECRET))
    };
    let consumers = json!({ "production/admin-token": [{ "ecs": WEB }], "production/providers": [{ "ecs": WORKER }] });
    let plan: Plan = once(no_target(json_plan())).also(PROVIDERS, r#"{"OPENAI_API_KEY":"sk-1", "PORT":1.0}"#);
    let plan = plan.service(service(WEB)).service(service(WORKER).with_secret("PROVIDERS", &secret(PROVIDERS)));
    let scene = start(plan.consumers(consumers)).await;
    let scene = scene.with_operator(&[("ALLOWED_ACTIONS", stack::ACTIONS)]).await.unwrap();
    scene.configure().await.unwrap();
    let (home, cloudformation) = (tempfile::tempdir().unwrap(), stack::cloudformation().await);
    Person { scene, home, cloudformation, path: vec![tool("aws").parent().unwrap().to_owned()], names: vec![] }
}

/// A run of the command, while the clock moves on.
async fn run_while_time_passes(person: &Person, arguments: &[&str]) -> Run {
    let ended = AtomicBool::new(false);
    let command = async {
        let run = person.run(arguments).await;
        ended.store(true, Ordering::Relaxed);
        run
    };
    let clock = async {
        while !ended.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            person.scene.sandbox.advance(STEP).await.unwrap();
        }
    };
    tokio::join!(command, clock).0
}

fn deployments(person: &Person, id: &str) -> usize {
    person.scene.service(id).unwrap().deployments.iter().filter(|status| **status == "SUCCESSFUL").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_put_stores_is_delivered_and_can_be_taken_back() {
    let person = person().await;
    let first = run_while_time_passes(&person, &["deliver", PROVIDERS, "--wait", "--yes"]).await;
    assert_eq!(first.code, 0, "{first:?}");
    person.scene.until_events_are_handled().await.unwrap();
    let before = deployments(&person, WORKER);

    let put = ["put", PROVIDERS, "OPENAI_API_KEY", "--yes", "--reason", "quarterly"];
    let run = person.run_with(&put, "sk-2\n").await;
    assert!(run.code == 0 && run.out.contains("notVerified"), "{run:?}");
    let plan = person.run(&["deliver", PROVIDERS, "--dry-run"]).await;
    assert_eq!(plan.code, 5, "{plan:?}");
    for told in ["CONSUMER", "ecs shop/worker  pending", "shop/production/providers: pending, not delivered since 20"] {
        assert!(plan.out.contains(told), "{told}: {plan:?}");
    }
    let run = run_while_time_passes(&person, &["deliver", PROVIDERS, "--wait", "--yes", "--json"]).await;
    assert_eq!((run.code, &run.json()["delivered"]), (0, &json!(1)), "{run:?}");
    assert_eq!(deployments(&person, WORKER), before + 1, "{:?}", person.scene.service(WORKER));

    let back = person.run(&["rollback", PROVIDERS, "--yes", "--reason", "it is refused", "--json"]).await;
    assert_eq!((back.code, &back.json()["verified"]), (0, &json!(false)), "{back:?}");
    assert_eq!(person.value(PROVIDERS).await, r#"{"OPENAI_API_KEY":"sk-1", "PORT":1.0}"#);
    let now = person.run(&["deliver", PROVIDERS, "--yes"]).await;
    assert_eq!(now.code, 5, "a deployment begins a minute later: {now:?}");
    let run = run_while_time_passes(&person, &["deliver", PROVIDERS, "--wait", "--yes"]).await;
    assert!(run.code == 0 && run.out.ends_with("shop/production/providers: delivered\n"), "{run:?}");
    assert_eq!(deployments(&person, WORKER), before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_delivered_is_refused_by_name() {
    let person = person().await;
    let run = person.run(&["deliver", KEY, "--yes"]).await;
    assert!(run.code == 1 && run.err.contains("NotConsumed"), "{run:?}");
    let run = person.run(&["deliver", SECRET]).await;
    assert!(run.code == 6 && run.err.contains("--yes"), "{run:?}");
    for wrong in [&["rotate", SECRET, "--dry-run"][..], &["deliver", SECRET, "--dry-run", "--wait"]] {
        assert_eq!(person.run(wrong).await.code, 2, "{wrong:?}");
    }
    // Nobody re-encrypts rows in the sandbox, and a token has no keys.
    let run = person.run(&["retire", SECRET, "--yes", "--reason", "r"]).await;
    assert!(run.code == 3 && run.err.contains("ReencryptColumns"), "{run:?}");
    let run = person.run(&["forget", SECRET, "5e6f7081", "--yes", "--reason", "r"]).await;
    assert!(run.code == 1 && run.err.contains("NotForThisKind"), "{run:?}");
}

/// What a person types and sees, and how long the commands took.
struct Session {
    person: Person,
    typed: usize,
    took: Duration,
}

impl Session {
    /// A command, as a person types or pastes it.
    async fn types(&mut self, line: &str, code: i32) -> String {
        println!("$ {line}");
        let began = Instant::now();
        let mut shell = self.person.command("setsid");
        let infra = workspace().join("infra");
        shell.args(["--wait", "bash", "-c", &format!("PATH={}:$PATH; {line}", infra.display())]);
        // Version 1 of the AWS CLI reads the other name.
        shell.env("ROTATION_YES", "1").env("AWS_DEFAULT_REGION", "us-east-1");
        let run = finish(shell, "").await;
        self.took += began.elapsed();
        self.typed += 1;
        print!("{}{}", run.out, run.err);
        assert_eq!(run.code, code, "{line}: {run:?}");
        run.out
    }

    fn ends(&self, what: &str) {
        println!("{what}: {} commands, {:.1} s of machine time\n", self.typed, self.took.as_secs_f64());
        assert!(self.typed <= 3 && self.took < Duration::from_secs(60), "{what}: {} {:?}", self.typed, self.took);
    }
}

/// The command that is printed as the repair of a finding or consumer.
fn repair(printed: &str, of: &str) -> String {
    let from = printed.find(of).unwrap_or_else(|| panic!("{of}: {printed}"));
    let mut repairs = printed[from..].lines().filter(|line| line.trim_start().starts_with("repair"));
    let (_, command) = repairs.next().and_then(|line| line.split_once(": ")).unwrap_or_else(|| panic!("{printed}"));
    command.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn printed_repair_heals_a_rotation_that_fails() {
    let person = Person::new().await.with_token().await;
    tag(&person.scene, "rotation:overlap", "for ever").await;
    person.scene.client.rotate_secret().secret_id(SECRET).send().await.unwrap();
    person.scene.sandbox.wait_for_rotation(SECRET, end_to_end::ROTATION_TIMEOUT).await.unwrap();
    let failed = total_of(&person.scene, "shop-production-admin-token", "RotationFailed");
    assert!(failed > 0.0, "the alarm has its figure");
    println!("02:00, the alarm rotation-failed: RotationFailed of shop-production-admin-token is {failed}");
    let mut session = Session { person, typed: 0, took: Duration::ZERO };
    let found = session.types(&format!("rotation doctor {SECRET}"), 4).await;
    session.types(&repair(&found, "BAD  policy"), 0).await;
    let rotated = session.types(&format!("rotation rotate {SECRET} --wait"), 0).await;
    assert!(rotated.contains("rotated; the previous value is accepted until"), "{rotated}");
    session.ends("healed");
}

#[tokio::test(flavor = "multi_thread")]
async fn printed_repair_heals_a_delivery_that_fails() {
    let person = person().await;
    person.scene.deliver_all().await.unwrap();
    person.scene.sandbox.ecs().fail_new_tasks(WEB, true).unwrap();
    let run = run_while_time_passes(&person, &["rotate", SECRET, "--wait", "--yes"]).await;
    assert_eq!(run.code, 4, "{run:?}");
    for told in ["rotated; the previous value is accepted until", "ROLLBACK_SUCCESSFUL", "admin-token: failed"] {
        assert!(run.out.contains(told), "{told}: {run:?}");
    }
    person.scene.deliver(&json!({})).await.unwrap().unwrap();
    let failed = total_of(&person.scene, "deliver", "DeliveryFailed");
    assert!(failed > 0.0, "the alarm has its figure");
    println!("02:00, the alarm delivery-failed: DeliveryFailed of deliver is {failed}");
    // Somebody repairs the image of the service.
    person.scene.sandbox.ecs().fail_new_tasks(WEB, false).unwrap();
    let mut session = Session { person, typed: 0, took: Duration::ZERO };
    let found = session.types(&format!("rotation deliver {SECRET}"), 4).await;
    session.types(&format!("{} --query service.status", repair(&found, "repair of ecs shop/web")), 0).await;
    session.person.scene.sandbox.advance(SETTLED).await.unwrap();
    let delivered = session.types(&format!("rotation deliver {SECRET}"), 0).await;
    assert!(delivered.contains("ecs shop/web  delivered"), "{delivered}");
    session.ends("healed");
    let rotated = run_while_time_passes(&session.person, &["rotate", SECRET, "--wait", "--yes", "--json"]).await;
    let answer = rotated.json();
    assert_eq!((rotated.code, &answer["delivery"]["state"]), (0, &json!("delivered")), "{rotated:?}");
    assert_eq!((&answer["state"], answer["steps"].as_array().unwrap().len()), (&json!("succeeded"), 4), "{rotated:?}");
}
