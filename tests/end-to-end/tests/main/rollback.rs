//! A promoted token that does not verify: the old one is put back, and stays.

use application::Mode;
use end_to_end::{Plan, Scene};
use sandbox::{EventKind, RotationOutcome, Step};

use crate::support::*;

fn plan(base: Plan, mode: Mode) -> Plan {
    let environment = vec![("TARGET_TIMEOUT", "1500ms".to_owned())];
    Plan { mode, environment, tags: vec![("rotation:verify", "after")], ..base }
}

fn freeze(scene: &Scene, frozen: bool) {
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(frozen));
}

async fn the_old_token_comes_back(plan: Plan) {
    let scene = start(plan).await;
    rotate(&scene).await;
    let (stages, before) = (scene.stages().await.unwrap(), current(&scene).await.unwrap());
    let token = scene.token("AWSCURRENT").await.unwrap();
    let previous = scene.value("AWSPREVIOUS").await.unwrap();
    let seen = scene.sandbox.events().len();

    freeze(&scene, true);
    let stale = scene.load(scene.stale_clients(), 50).await.unwrap();
    let outcome = scene.rotate().await.unwrap();
    let RotationOutcome::Failed { version_id: failed, error } = outcome else { panic!("{outcome:?}") };

    // Secrets Manager repeats the rotation with the same token: it must end, not promote again and again.
    let events = scene.sandbox.events().split_off(seen);
    let errors = step_errors(&events);
    assert_eq!(errors[0].0, Step::Finish, "{errors:?}");
    assert_eq!(errors[0].1.error_type, "VerificationFailed", "{errors:?}");
    let message = &errors[0].1.message;
    assert!(message.contains(&format!("version {} is AWSCURRENT again", before.0)), "{message}");
    assert_eq!(errors.len(), 5, "the attempts of the rotation service: {errors:?}");
    for (step, error) in &errors[1..] {
        // The version has no stage left, so Secrets Manager does not list it.
        assert_eq!((*step, error.error_type.as_str()), (Step::Create, "UnknownVersion"), "{error:?}");
        assert!(error.message.contains("rolled back"), "{error:?}");
    }
    assert_eq!(error.error_type, "UnknownVersion");
    let promoted = events.iter().filter(|event| {
        matches!(&event.kind, EventKind::StagesChanged { to, .. } if event.version_id == failed && to.contains("AWSCURRENT"))
    });
    assert_eq!(promoted.count(), 1, "promoted again after the rollback");

    assert_eq!(current(&scene).await.unwrap(), before);
    assert_eq!(scene.value("AWSPREVIOUS").await.unwrap(), previous);
    let mut expected = stages.clone();
    expected.values_mut().for_each(|stages| stages.retain(|stage| stage != "AWSPENDING"));
    let mut stages = scene.stages().await.unwrap();
    stages.retain(|_, stages| !stages.is_empty());
    assert_eq!(stages, expected, "AWSPREVIOUS where it was, the failed version without a stage");
    let report = stale.stop().await;
    assert_eq!((report.refused, report.failed), (0, 0), "{report:?}");
    assert!(report.accepted > 10);

    freeze(&scene, false);
    assert_eq!(scene.accepted(&token).await.unwrap(), [true, true]);
    rotate(&scene).await;
    let new = scene.token("AWSCURRENT").await.unwrap();
    assert_ne!(new, token);
    assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unverified_text_token_is_rolled_back_once_and_the_next_works() {
    the_old_token_comes_back(plan(text_plan(), Mode::AllStages)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unverified_json_token_is_rolled_back_once_and_the_next_works() {
    the_old_token_comes_back(plan(json_plan(), Mode::CurrentOnly)).await;
}
