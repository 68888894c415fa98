//! The sweep of the schedule.

use super::*;

async fn sweep(scene: &Scene) -> Value {
    let answer = ask(scene, json!({ "action": "sweep" })).await;
    answer.unwrap_or_else(|error| panic!("{error:?}\n{}", operator_log(scene)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_tells_of_what_does_not_work_of_what_is_stuck_and_of_what_is_overdue_and_goes_on() {
    let scene = with_operator(once(json_plan())).await;
    rotate(&scene).await;
    scene.client.create_secret().name("shop/other").secret_string("nobody rotates me").send().await.unwrap();
    scene.instances.iter().for_each(|instance| instance.freeze_refresh(true));
    let value = json_secret("a-token-that-nobody-told-the-application-of-0123456789");
    scene.client.put_secret_value().secret_id(SECRET).secret_string(value).send().await.unwrap();
    let answer = sweep(&scene).await;
    println!("{answer:#}");
    assert_eq!((&answer["secrets"], &answer["managed"], &answer["failed"]), (&json!(2), &json!(1), &json!(1)));
    assert_eq!(answer["problems"][0]["error"], "TargetRefused");

    fail_to_rotate(&scene).await;
    assert_eq!(sweep(&scene).await["stuck"], json!([]), "it is young");
    scene.sandbox.advance(HOUR).await.unwrap();
    let answer = sweep(&scene).await;
    assert_eq!(answer["stuck"], json!([SECRET]), "{answer:#}");
    assert_eq!((total(&scene, "StuckPending"), total(&scene, "NotVerified")), (1.0, 1.0));
    assert_eq!((answer["complete"].as_bool(), total(&scene, "SweepCompleted")), (Some(true), 3.0));
    let log = operator_log(&scene);
    assert!(log.contains("\"message\":\"stuck\"") && log.contains("\"message\":\"does not verify\""), "{log}");

    // Where everything is well.
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    let answer = sweep(&scene).await;
    assert_eq!((&answer["managed"], &answer["verified"], &answer["failed"]), (&json!(1), &json!(1), &json!(0)));
    scene.sandbox.advance(26 * HOUR).await.unwrap();
    assert_eq!(sweep(&scene).await["verified"], 0, "it is long ago");
    assert!(total(&scene, "SecretAgeMax") > 25.9, "hours");
    // Nobody is asked: nothing is claimed.
    let scene = with_operator(no_target(json_plan())).await;
    rotate(&scene).await;
    let answer = sweep(&scene).await;
    assert_eq!((&answer["verified"], &answer["unproven"]), (&json!(0), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_starts_a_sweep_and_no_other_event_does() {
    let scene = with_operator(json_plan()).await;
    rotate(&scene).await;
    let event = |detail_type: &str| {
        json!({
            "version": "0", "id": "89d1a02d-5ec7-412e-82f5-13505f849b41", "detail-type": detail_type,
            "source": "aws.events", "account": "123456789012", "time": "2026-12-30T18:44:49Z", "region": "us-east-1",
            "resources": ["arn:aws:events:us-east-1:123456789012:rule/sweep"], "detail": {}
        })
    };
    assert_eq!(ask(&scene, event("Scheduled Event")).await.unwrap()["managed"], 1);
    assert_eq!(ask(&scene, event("Something else")).await.unwrap_err().error_type, "InvalidRequest");
    let wrong = ask(&scene, json!({ "action": "sweep", "secret_id": SECRET })).await.unwrap_err();
    assert_eq!(wrong.error_type, "InvalidRequest");
    let only_people = start(json_plan()).await.with_operator(&[("ALLOWED_ACTIONS", "status")]).await.unwrap();
    assert_eq!(ask(&only_people, event("Scheduled Event")).await.unwrap_err().error_type, "ActionNotAllowed");
}
