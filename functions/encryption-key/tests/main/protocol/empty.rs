//! Secrets that begin with an empty object, and copies of the current value.

use super::*;

/// A secret that was made with `{}` and nothing else, and an application whose token is not there yet either.
fn made_empty() -> Store {
    let store = Store::new(None);
    store.edit("v0", &secret(" { }\n"));
    store.change(|state| state.token = Err(StoreErrorKind::SecretNotFound));
    store
}

#[tokio::test(start_paused = true)]
async fn an_empty_object_is_filled_by_the_first_rotation() {
    for asks in [false, true] {
        let (store, rotation) = (made_empty(), Rotation::of(STAGED));
        let kind = if asks { asking(store.application(STAGED)) } else { aware() };
        // A deployment tests the configuration, and rotates nothing.
        store.begin("test");
        let tested = store.step(&kind, &stack(STAGED), "test", Step::TestSecret).await;
        assert_eq!(tested, Ok(Outcome::ConfigurationTested), "{asks}");
        store.begin("v1");
        for (step, outcome) in STEPS.into_iter().zip([
            Outcome::Initialised,
            Outcome::NothingToDo,
            Outcome::NothingToDo,
            Outcome::FirstValue,
        ]) {
            assert_eq!(store.step(&kind, &stack(STAGED), "v1", step).await, Ok(outcome), "{asks}, {step}");
        }
        let ring = rotation.ring(&store.document(&rotation, &Stage::Current).unwrap());
        assert_eq!((store.holder(&Stage::Current).as_deref(), ring.keys().count()), (Some("v1"), 2));
        // And from then on like any other.
        store.change(|state| {
            state.token = Ok(TOKEN.to_owned());
            state.now += 90 * DAY;
        });
        store.rotate(&kind, &stack(STAGED), "v2").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_value_survives_a_death_at_any_step() {
    // createSecret died after it had stored the value: whatever step comes next.
    for step in STEPS {
        let (store, rotation) = (made_empty(), Rotation::of(STAGED));
        let first = aware().first(&rotation.at(now(), None), &mut rng(1)).unwrap();
        store.begin("v1");
        store.change(|state| {
            state.values.insert(version("v1"), VersionValue { text: first.text().clone(), created: now() });
        });
        store.step(&aware(), &stack(STAGED), "v1", step).await.unwrap();
        store.step(&aware(), &stack(STAGED), "v1", Step::FinishSecret).await.unwrap();
        let current = store.document(&rotation, &Stage::Current).unwrap();
        assert_eq!(current.text(), first.text(), "{step}: written once");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_object_in_place_of_a_ring_is_refused() {
    let rotation = Rotation::of(STAGED);
    for step in [Step::CreateSecret, Step::TestSecret] {
        let store = Store::new(Some(&with_staged(&rotation)));
        store.edit("v1", &secret("{}"));
        store.begin("v2");
        let error = store.step(&aware(), &stack(STAGED), "v2", step).await.unwrap_err();
        assert_eq!(error.name(), "ValueLost", "{error}");
        let told = error.to_string();
        assert!(told.contains("version v0 had TOKEN_ENCRYPTION_KEY, TOKEN_ENCRYPTION_KEY_STAGED"), "{told}");
        assert!(told.contains("--remove-from-version-id v1 --move-to-version-id v0"), "{told}");
        assert_eq!(store.calls("put"), 0);
        assert_eq!(store.holder(&Stage::Pending).is_none(), step == Step::CreateSecret, "{step}");
    }
    // A text secret is no object: nobody chose a member.
    let text = [("ROTATION_PROMOTION", "immediate")];
    let refused = made_empty().rotate(&aware(), &stack(&text), "v1").await.unwrap_err();
    assert_eq!(refused.1.name(), "FieldNotChosen");
    // One that an operation has marked had a value too.
    let store = made_empty();
    let mark = |state: &mut State| {
        state.stages.move_stage(&Stage::from("ROTATION-RING"), None, Some(&version("v0")), |_| true)
    };
    store.change(mark).unwrap();
    assert_eq!(store.rotate(&aware(), &stack(STAGED), "v1").await.unwrap_err().1.name(), "ValueLost");
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_the_current_value_is_tested_as_the_configuration() {
    let archived: Environment = [("KEY_ARCHIVE_SECRET", "shop/production/key-archive")].into_iter().collect();
    let archive = rotation::archive::ArchiveSettings::from_environment(&archived).unwrap();
    for copied in [false, true] {
        let test = async |variables: &[(&str, &str)], kind: Kind| {
            let rotation = Rotation::of(variables);
            let store = Store::new(Some(&rotation.bare(&key(1))));
            store.begin("v1");
            store.change(|state| {
                let current = state.values[&version("v0")].clone();
                copied.then(|| state.values.insert(version("v1"), VersionValue { created: state.now, ..current }));
            });
            store.step(&kind, &stack(variables), "v1", Step::TestSecret).await
        };
        // A text secret has no place for a staged key.
        assert_eq!(test(&[], aware()).await.unwrap_err().name(), "InvalidPolicy", "{copied}");
        // What is read as the archive here is none.
        let unreadable = test(STAGED, aware().with_archive(archive.clone())).await.unwrap_err();
        assert_eq!(unreadable.name(), "ArchiveUnavailable", "{copied}");
        assert!(test(STAGED, aware()).await.is_ok(), "{copied}");
    }
}
