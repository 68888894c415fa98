//! Moments at which two writers meet, each put in place by hand.

use std::time::Duration;

use rotation::event::digest;
use rotation::versions::Stage;
use serde_json::json;

use crate::timelines::token;
use crate::world::{HOUR, MINUTE, State, World, version};

const TOKEN: &str = "shop/token";
const APP: &str = "shop/app";

/// A token with a copy and a service that reads the copy, all delivered.
async fn delivered() -> World {
    let world = World::new(&json!({"token": [{"copy": "app"}, {"ecs": "blue/web"}]}));
    world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
    world.secret(APP, None, None, "{}");
    world.service("web", &[APP]);
    world.run_to_the_end().await;
    world
}

/// A rotation of the copy's secret is open.
fn block(world: &World) {
    world.lock().secrets.get_mut(APP).unwrap().stages.open_rotation(&version("open")).unwrap();
}

fn unblock(world: &World) {
    let mut state = world.lock();
    state.secrets.get_mut(APP).unwrap().stages.remove_version(&version("open"));
}

#[tokio::test(start_paused = true)]
async fn run_with_an_older_value_does_not_overwrite_a_newer_copy() {
    let world = delivered().await;
    world.store(TOKEN, &token("t2", None));
    // This run has read t2. Meanwhile t3 is promoted, and another run copies it.
    let meanwhile = |state: &mut State| {
        state.store(TOKEN, &token("t3", None));
        let copied = state.store(APP, r#"{"TOKEN":"t3"}"#);
        let label = Stage::Other(format!("ROTATION-COPY-{}", &digest([TOKEN])[..8]));
        let secret = state.secrets.get_mut(APP).unwrap();
        let holder = secret.stages.holder(&label).cloned();
        secret.stages.move_stage(&label, holder.as_ref(), Some(&copied), |_| true).unwrap();
    };
    // The label of the delivery is attached right before the copy is read.
    world.lock().before.push(("UpdateSecretVersionStage", Box::new(meanwhile)));
    let answer = world.run_within(30 * Duration::from_secs(1)).await;
    assert_eq!(answer["secrets"][0]["consumers"][0]["error"], "SourceChanged", "{answer}");
    assert_eq!(world.value(APP), r#"{"TOKEN":"t3"}"#);
    world.run_to_the_end().await;
    assert!(world.is_delivered(TOKEN) && world.running("web")[0].contains("t3"));
}

#[tokio::test(start_paused = true)]
async fn deployment_from_before_a_late_copy_never_counts() {
    for at in 0.. {
        let world = delivered().await;
        world.store(TOKEN, &token("t2", None));
        block(&world);
        world.run().await;
        // The service was deployed, and reads the old copy: the new one waits for hours.
        tokio::time::advance(HOUR).await;
        world.deploy("web");
        tokio::time::advance(HOUR).await;
        unblock(&world);
        let died = world.run_killed_at(at).await;
        world.run_to_the_end().await;
        assert!(world.is_delivered(TOKEN) && world.running("web")[0].contains("t2"), "killed before call {at}");
        if !died {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn deployment_of_a_person_during_the_wait_is_the_only_one() {
    let world = delivered().await;
    world.store(TOKEN, &token("t2", None));
    let before = world.deployments("web");
    let person = async {
        tokio::time::sleep(Duration::from_secs(64)).await;
        world.deploy("web");
    };
    tokio::join!(world.run(), person);
    world.run_to_the_end().await;
    assert_eq!(world.deployments("web"), before + 1);
    assert!(world.running("web")[0].contains("t2"));
}

#[tokio::test(start_paused = true)]
async fn copy_of_a_version_without_labels_is_still_known() {
    let world = delivered().await;
    world.store(TOKEN, &token("t2", None));
    world.run().await;
    assert_eq!(world.value(APP), r#"{"TOKEN":"t2"}"#);
    block(&world);
    // Compromises pass while nothing is delivered. The labels of a delivery leave the version of t2.
    for value in ["t3", "t4", "t5"] {
        world.store(TOKEN, &token(value, None));
        world.run().await;
    }
    let labels: Vec<_> = world.lock().secrets[TOKEN].stages.of(&version("v2")).into_iter().collect();
    assert!(labels.is_empty(), "{labels:?}");
    unblock(&world);
    tokio::time::advance(10 * MINUTE).await;
    world.run_to_the_end().await;
    assert!(world.is_delivered(TOKEN) && world.value(APP).contains("t5"));
}

#[tokio::test(start_paused = true)]
async fn two_secrets_are_copied_into_one_without_a_conflict() {
    let world = World::new(&json!({"token": [{"copy": "app"}], "key": [{"copy": "app"}]}));
    world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
    world.secret("shop/key", Some("admin-token"), Some("KEY"), r#"{"KEY":"k1"}"#);
    world.secret(APP, None, None, r#"{"URL":"u"}"#);
    for round in 2..12 {
        assert_eq!(world.run().await["delivered"], 2, "{round}");
        world.store(TOKEN, &token(&format!("t{round}"), None));
        world.store("shop/key", &format!(r#"{{"KEY":"k{round}"}}"#));
    }
    assert_eq!(world.run().await["delivered"], 2);
    assert_eq!(world.value(APP), r#"{"URL":"u","KEY":"k11","TOKEN":"t11"}"#);
}

#[tokio::test(start_paused = true)]
async fn runs_that_a_copy_causes_start_no_deployment() {
    for after in [5, 30, 60, 65, 70, 75, 90, 120] {
        let world = delivered().await;
        world.store(TOKEN, &token("t2", None));
        let before = world.deployments("web");
        let event = json!({
            "source": "aws.secretsmanager",
            "detail-type": "Secret Label Updated",
            "resources": ["arn:aws:secretsmanager:us-east-1:000000000000:secret:shop/app-AbCdEf"]
        });
        let caused = async {
            tokio::time::sleep(Duration::from_secs(after)).await;
            tokio::join!(world.request(event.clone()), world.request(event.clone()));
        };
        tokio::join!(world.run(), caused);
        world.run_to_the_end().await;
        assert_eq!(world.deployments("web"), before + 1, "after {after} s");
    }
}

#[tokio::test(start_paused = true)]
async fn copy_that_differs_keeps_no_other_secret_from_its_service() {
    let world = World::new(&json!({"token": [{"copy": "app"}, {"ecs": "blue/web"}], "key": [{"ecs": "blue/web"}]}));
    world.secret(TOKEN, Some("admin-token"), Some("TOKEN"), &token("t1", None));
    world.secret("shop/key", Some("admin-token"), Some("KEY"), r#"{"KEY":"k1"}"#);
    world.secret(APP, None, None, r#"{"TOKEN":"theirs"}"#);
    world.service("web", &[APP, "shop/key"]);
    for _ in 0..3 {
        let answer = world.run().await;
        assert_eq!(answer["failed"], 1, "{answer}");
        tokio::time::advance(10 * MINUTE).await;
    }
    assert!(world.is_delivered("shop/key") && !world.is_delivered(TOKEN));
    assert_eq!(world.deployments("web"), 1, "what differs restarts nobody again");
    world.store(APP, "{}");
    world.run_to_the_end().await;
    assert!(world.is_delivered(TOKEN) && world.running("web")[0].contains("t1"));
    assert_eq!(world.deployments("web"), 2);
}

#[tokio::test(start_paused = true)]
async fn secret_in_the_middle_of_its_rotation_is_delivered() {
    let world = delivered().await;
    world.store(TOKEN, &token("t2", None));
    let open =
        |state: &mut State| state.secrets.get_mut(TOKEN).unwrap().stages.open_rotation(&version("open")).unwrap();
    open(&mut world.lock());
    world.run_to_the_end().await;
    assert!(world.is_delivered(TOKEN) && world.running("web")[0].contains("t2"));
    let pending = world.lock().secrets[TOKEN].stages.holder(&Stage::Pending).cloned();
    assert_eq!(pending, Some(version("open")), "the rotation goes on");
}
