//! First rings, limits of size, and tests of the configuration.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn empty_secret_gets_its_first_ring_and_is_rotated_on() {
    for format in FORMATS {
        let json = Plan { value: None, ..plan(format) };
        let text = Plan { value: None, ..text(format) };
        for (plan, keys) in [(json, 2), (text, 1)] {
            let scene = start(Plan { instances: 0, ..declared(plan) }).await;
            rotate(&scene).await;
            let first = ring(&scene, format).await;
            assert_eq!(first.keys().count(), keys);
            scene.sandbox.advance(2 * HOUR).await.unwrap();
            rotate(&scene).await;
            let second = ring(&scene, format).await;
            assert!(second.holds_all_of(&first));
            assert_ne!(second.primary().id(), first.primary().id());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_ring_is_refused_before_anything_is_written() {
    let filler = "x".repeat(65_536 - 200);
    let value = json!({ KEY_FIELD: bare_key(KeyFormat::Raw, 1), "filler": filler }).to_string();
    assert!(value.len() <= 65_536);
    let scene = start(once(Plan { instances: 0, value: Some(value), ..declared(plan(KeyFormat::Raw)) })).await;
    let before = current(&scene).await;
    let puts = Counter::of(&scene, "PutSecretValue");
    let error = fail_to_rotate(&scene).await;
    assert_eq!(error.error_type, "ValueTooLarge");
    assert!(error.message.contains("retire keys that no row needs; nothing was written"), "{}", error.message);
    assert_eq!(puts.count(&scene), 0);
    assert_eq!(current(&scene).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_token_that_cannot_be_read_is_named_by_its_secret() {
    let scene = start(once(plan(KeyFormat::Raw))).await;
    scene.client.delete_secret().secret_id(SECRET).force_delete_without_recovery(true).send().await.unwrap();
    let error = fail_to_rotate(&scene).await;
    assert_eq!(error.error_type, "CredentialUnavailable");
    assert!(error.message.contains(SECRET), "{}", error.message);
    assert!(!error.message.contains(ADMIN_TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_test_proves_ring_and_target_changes_nothing() {
    let scene = start(plan(KeyFormat::Tink)).await;
    let before = current(&scene).await;
    let outcome = scene.configure().await.unwrap();
    assert!(matches!(outcome, sandbox::RotationOutcome::TestSucceeded { .. }), "{outcome:?}");
    assert_eq!(current(&scene).await, before);
    let text = start(Plan { tags: vec![("rotation:promotion", "staged")], ..text(KeyFormat::Raw) }).await;
    let outcome = text.configure().await.unwrap();
    assert!(format!("{outcome:?}").contains("a text secret has no place for a staged key"), "{outcome:?}");
}

/// As a first deployment leaves them: the key and the admin token have no value, and there is an application to ask.
#[tokio::test(flavor = "multi_thread")]
async fn configuration_test_and_first_key_need_no_admin_token() {
    for configuration_test in [ConfigurationTest::WithoutValue, ConfigurationTest::WithCurrentValue] {
        let mut plan = Plan { value: None, instances: 0, ..once(plan(KeyFormat::Raw)) };
        plan.sandbox.configuration_test = configuration_test;
        // Nobody listens there: whoever asks fails.
        let environment = [
            ("TARGET_VERIFY_URL", "http://127.0.0.1:1/admin/secrets/health"),
            ("TARGET_TOKEN_SECRET", "{1}/{2}/admin-token"),
            ("TARGET_TIMEOUT", "1500ms"),
        ];
        plan.environment = environment.map(|(name, value)| (name, value.to_owned())).to_vec();
        let scene = start(plan).await;
        scene.client.delete_secret().secret_id(SECRET).force_delete_without_recovery(true).send().await.unwrap();
        scene.client.create_secret().name(SECRET).send().await.unwrap();

        let outcome = scene.configure().await.unwrap();
        assert!(matches!(outcome, RotationOutcome::TestSucceeded { .. }), "{configuration_test:?}: {outcome:?}");
        assert_eq!(current(&scene).await, None, "{configuration_test:?}");
        rotate(&scene).await;
        assert_eq!(ring(&scene, KeyFormat::Raw).await.keys().count(), 2);
        // From then on there is somebody to ask, with a token.
        scene.sandbox.advance(2 * HOUR).await.unwrap();
        let error = fail_to_rotate(&scene).await;
        assert_eq!(error.error_type, "CredentialUnavailable");
        assert!(error.message.contains(SECRET), "{}", error.message);
    }
}
