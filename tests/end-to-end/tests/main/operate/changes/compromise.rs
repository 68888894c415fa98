//! Compromises of tokens and keyrings.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn compromise_of_a_token_replaces_it_and_revokes_the_old_one() {
    for plan in [json_plan(), text_plan()] {
        let scene = with_operator(plan).await;
        rotate(&scene).await;
        let known = scene.token("AWSCURRENT").await.unwrap();
        let event =
            json!({ "action": "compromise", "secret_id": SECRET, "reason": "leaked in a log", "confirm": "yes" });
        assert_eq!(ask(&scene, event).await.unwrap_err().error_type, "NotConfirmed");
        let answer = done(&scene, "compromise").await;
        println!("{answer:#}");
        assert_eq!(answer["provenRefused"], true);
        let new = scene.token("AWSCURRENT").await.unwrap();
        assert_ne!(new, known);
        assert_eq!(scene.accepted(&known).await.unwrap(), [false, false]);
        assert_eq!(scene.accepted(FIRST).await.unwrap(), [false, false]);
        assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
        assert_eq!(marks(&scene).await, [""; 0]);
        assert_eq!(refused(&scene, "rollback").await.error_type, "NothingToGoBackTo");
        // Another incident is another rotation.
        done(&scene, "compromise").await;
        assert_eq!(scene.accepted(&new).await.unwrap(), [false, false]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compromise_of_a_keyring_replaces_marks_and_keeps_both_keys() {
    for format in [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink] {
        let scene = with_operator(keys(format)).await;
        rotate(&scene).await;
        let load = scene.records(60, 2);
        eventually("records are written", || async { load.report().written >= 20 }).await;
        let before = ring(&scene, format).await;
        let answer = done(&scene, "compromise").await;
        println!("{answer:#}");
        let after = ring(&scene, format).await;
        let written = load.report().written;
        eventually("more records are written", || async { load.report().written >= written + 20 }).await;
        let report = load.stop().await;
        assert_eq!((report.unreadable, report.failed), (0, 0), "{report:?}");
        let fresh = [Some(after.primary()), after.staged()].into_iter().flatten();
        assert_eq!(fresh.filter(|key| before.get(key.id()).is_none()).count(), 2, "both are fresh");
        for (_, key) in before.keys() {
            let held = after.get(key.id()).expect("no key was dropped");
            assert!(held.dates().compromised.is_some(), "it is marked");
            assert!(answer["remaining"].as_str().unwrap().contains(&key.id().to_string()), "{answer:#}");
        }
        assert_eq!(refused(&scene, "rollback").await.error_type, "Compromised");
        assert_eq!(marks(&scene).await, [""; 0]);
        rotate(&scene).await;
        let later = ring(&scene, format).await;
        assert!(before.get(later.primary().id()).is_none(), "none of the two is ever primary again");
    }
}

/// A text has no place for dates; the mark on the version says it then.
/// With verify=after and no declaration no application can know a fresh key in time. A ring that was marked all the same could be
/// rotated by nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn compromise_without_a_possible_rotation_marks_nothing() {
    let mut plan = keys(KeyFormat::Raw);
    plan.tags.push(("rotation:verify", "after"));
    let scene = with_operator(plan).await;
    rotate(&scene).await;
    let before = current(&scene).await;
    let error = refused(&scene, "compromise").await;
    assert_eq!(error.error_type, "ConsumersUnproven");
    assert!(error.message.contains("rotation:verify=before"), "{}", error.message);
    assert_eq!(current(&scene).await, before);
    assert_eq!(marks(&scene).await, [""; 0]);
    rotate(&scene).await;
    tag(&scene, "rotation:verify", "before").await;
    assert_eq!(done(&scene, "compromise").await["secret"], scene.secret());
}

#[tokio::test(flavor = "multi_thread")]
async fn compromised_key_of_a_text_secret_is_not_primary_again() {
    let format = KeyFormat::Fernet;
    let scene = with_operator(Plan::key_text(&bare_key(format, 1), format)).await;
    rotate(&scene).await;
    let text = |value: &str| value.split(',').next().unwrap().to_owned();
    let known = text(&scene.value("AWSCURRENT").await.unwrap().unwrap());
    done(&scene, "compromise").await;
    let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
    assert_ne!(text(&value), known);
    assert!(value.contains(&known), "it decrypts");
    assert_eq!(refused(&scene, "rollback").await.error_type, "Compromised");
    assert_eq!(scene.value("AWSCURRENT").await.unwrap().unwrap(), value);
}

#[tokio::test(flavor = "multi_thread")]
async fn compromise_ends_an_open_rotation_and_is_refused_on_hold() {
    let scene = with_operator(once(json_plan())).await;
    rotate(&scene).await;
    freeze(&scene, true);
    fail_to_rotate(&scene).await;
    freeze(&scene, false);
    let (known, pending) = (scene.token("AWSCURRENT").await.unwrap(), scene.token("AWSPENDING").await.unwrap());
    tag(&scene, "rotation:hold", "2027-01-15").await;
    assert_eq!(refused(&scene, "compromise").await.error_type, "OnHold");
    scene.client.untag_resource().secret_id(SECRET).tag_keys("rotation:hold").send().await.unwrap();
    done(&scene, "compromise").await;
    for dead in [&*known, &*pending, FIRST] {
        assert_eq!(scene.accepted(dead).await.unwrap(), [false, false]);
    }
    let current = scene.token("AWSCURRENT").await.unwrap();
    assert_eq!(scene.accepted(&current).await.unwrap(), [true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_compromise_says_so_and_the_same_request_finishes_it() {
    let plan = Plan { environment: vec![("ROTATION_VERIFY", "after".to_owned())], ..once(json_plan()) };
    let scene = with_operator(plan).await;
    rotate(&scene).await;
    let known = scene.token("AWSCURRENT").await.unwrap();
    freeze(&scene, true);
    let error = refused(&scene, "compromise").await;
    assert_eq!(error.error_type, "RotationFailed", "{}", error.message);
    assert_eq!(marks(&scene).await, ["ROTATION-COMPROMISED"]);
    assert_eq!(refused(&scene, "rollback").await.error_type, "Compromised");
    freeze(&scene, false);
    done(&scene, "compromise").await;
    let new = scene.token("AWSCURRENT").await.unwrap();
    assert_eq!(scene.accepted(&known).await.unwrap(), [false, false]);
    assert_eq!(scene.accepted(&new).await.unwrap(), [true, true]);
    assert_eq!(marks(&scene).await, [""; 0]);
}
