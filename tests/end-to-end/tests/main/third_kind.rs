//! A kind of secret that this project does not ship, from its own folder: `tests/signing-secret`.

use application::KeyFormat;
use end_to_end::{KEY_FIELD, Plan, program};
use serde_json::Value;

use crate::keys::{bare_key, key_secret};
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn kind_from_its_own_folder_is_rotated_by_the_same_protocol() {
    let executable = program("signing-secret").await.unwrap();
    let mut plan = Plan::key_json(&key_secret(&bare_key(KeyFormat::Raw, 1)), KeyFormat::Raw);
    // The settings of another kind are none of its own.
    plan.tags.clear();
    let plan = Plan { function: "signing-secret", executable: Some(executable), ..plan };
    let scene = start(once(plan)).await;
    let member = |value: &str, name: &str| {
        let members: Value = serde_json::from_str(value).unwrap();
        members[name].as_str().map(str::to_owned)
    };
    let mut held = vec![member(&scene.value("AWSCURRENT").await.unwrap().unwrap(), KEY_FIELD).unwrap()];
    for _ in 0..3 {
        rotate(&scene).await;
        let value = scene.value("AWSCURRENT").await.unwrap().unwrap();
        let secret = member(&value, KEY_FIELD).unwrap();
        assert!(!held.contains(&secret), "the secret is new");
        assert_eq!(member(&value, &format!("{KEY_FIELD}_PREVIOUS")), held.last().cloned());
        assert!(value.ends_with(",\r\n  \"pool\": [1.0, 2e3,  null]\r\n}"), "the other members stay");
        held.push(secret);
        // Every instance reports the new one and the one before.
        for health in scene.health().await.unwrap() {
            assert_eq!(health["key_ids"].as_array().unwrap().len(), 2, "{health}");
        }
    }
    // What the kind reports of a promotion is in the log.
    let log = log(&scene);
    assert!(log.contains(r#""report":"{\"acceptsToo\":[\""#), "{log}");
    // An instance that does not load it keeps it from being promoted.
    scene.instances[0].freeze_refresh(true);
    let before = current(&scene).await;
    assert_eq!(fail_to_rotate(&scene).await.error_type, "ConsumersUnproven");
    assert_eq!(current(&scene).await, before);
    // And a setting of another kind is refused.
    tag(&scene, "rotation:promotion", "immediate").await;
    let outcome = take_up(&scene).await;
    assert!(format!("{outcome:?}").contains("is not a setting of this function"), "{outcome:?}");
}
