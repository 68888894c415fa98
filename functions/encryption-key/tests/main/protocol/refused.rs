//! Rotations that are refused or given up, and what they leave behind.

use super::*;

#[tokio::test(start_paused = true)]
async fn silent_application_keeps_a_primary_from_being_promoted() {
    for (variables, current) in
        [(STAGED, with_staged(&Rotation::of(STAGED))), (IMMEDIATE, Rotation::of(IMMEDIATE).bare(&key(1)))]
    {
        let store = Store::new(Some(&current));
        let (step, error) = store.rotate(&asking(Application::silent()), &stack(variables), "v1").await.unwrap_err();
        assert_eq!((step, error.name()), (Step::TestSecret, "ConsumersUnproven"));
        // testSecret is not believed.
        let finish = store.step(&asking(Application::silent()), &stack(variables), "v1", Step::FinishSecret).await;
        assert_eq!(finish.unwrap_err().name(), "ConsumersUnproven");
        assert_eq!((store.holder(&Stage::Current).as_deref(), store.calls("move")), (Some("v0"), 0));
    }
    let store = Store::new(Some(&Rotation::of(STAGED).bare(&key(1))));
    store.rotate(&asking(Application::silent()), &stack(STAGED), "v1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn oversized_ring_is_refused_before_anything_is_written() {
    for (name, _) in FORMATS {
        let variables = [("ROTATION_FIELD", FIELD), ("ROTATION_KEY_FORMAT", name)];
        let rotation = Rotation::of(&variables);
        let bare = rotation.bare(&key(1));
        let filler = FieldName::new("filler").unwrap();
        let filled = |bytes: usize| bare.with_member(&filler, &secret(&"x".repeat(bytes))).unwrap();
        let overhead = filled(1).text().len() - 1;
        let store = Store::new(Some(&filled(65_536 - overhead)));
        let (step, error) = store.rotate(&aware(), &stack(&variables), "v1").await.unwrap_err();
        assert_eq!(step, Step::CreateSecret);
        let RotationError::ValueTooLarge { bytes } = error else { panic!("{error}") };
        let growth = bytes - 65_536;
        assert_eq!((store.calls("put"), store.holder(&Stage::Current).as_deref()), (0, Some("v0")), "{name}");

        let store = Store::new(Some(&filled(65_536 - overhead - growth)));
        store.rotate(&aware(), &stack(&variables), "v1").await.unwrap();
        assert_eq!(
            store.document(&rotation, &Stage::Current).unwrap().text().len(),
            65_536,
            "{name}: to the last byte"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_somebody_adds_during_a_rotation_is_never_lost() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(Some(&with_staged(&rotation)));
    let (kind, stack) = (aware(), stack(STAGED));
    store.begin("v1");
    for step in &STEPS[..3] {
        store.step(&kind, &stack, "v1", *step).await.unwrap();
    }
    let edited = rotation.ring(&with_staged(&rotation)).with_secondary(key(7)).unwrap();
    store.edit("by hand", rotation.value(&edited).text());
    let error = store.step(&kind, &stack, "v1", Step::FinishSecret).await.unwrap_err();
    assert_eq!(error.name(), "CurrentChanged");
    assert_eq!(store.holder(&Stage::Current).as_deref(), Some("by hand"));
    assert_eq!(store.holder(&Stage::Pending), None, "given up");
    // What somebody stored may not have been seen by consumers before.
    store.change(|state| state.now += 2 * HOUR);
    store.rotate(&kind, &stack, "v2").await.unwrap();
    let ring = rotation.ring(&store.document(&rotation, &Stage::Current).unwrap());
    assert!(ring.holds_all_of(&edited), "the next rotation keeps it");
}

#[tokio::test(start_paused = true)]
async fn key_added_while_the_ring_is_stored_blocks_no_later_rotation() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(Some(&with_staged(&rotation)));
    let (kind, stack) = (asking(store.application(STAGED)), stack(STAGED));
    store.begin("v1");
    store.step(&kind, &stack, "v1", Step::CreateSecret).await.unwrap();
    let edited = rotation.ring(&with_staged(&rotation)).with_secondary(key(7)).unwrap();
    store.edit("by hand", rotation.value(&edited).text());
    // Every later try adopts what was stored, once the edit is old enough.
    store.change(|state| state.now += 2 * HOUR);
    let outcome = store.step(&kind, &stack, "v1", Step::CreateSecret).await;
    assert_eq!(outcome, Ok(Outcome::Adopted));
    let error = store.step(&kind, &stack, "v1", Step::TestSecret).await.unwrap_err();
    assert_eq!((error.name(), store.holder(&Stage::Pending)), ("CurrentChanged", None));
    store.rotate(&kind, &stack, "v2").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pending_ring_that_is_too_old_is_given_up() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(Some(&with_staged(&rotation)));
    let (kind, stack) = (aware(), stack(STAGED));
    store.begin("v1");
    for step in &STEPS[..3] {
        store.step(&kind, &stack, "v1", *step).await.unwrap();
    }
    store.change(|state| state.now += DAY + SECOND);
    let error = store.step(&kind, &stack, "v1", Step::FinishSecret).await.unwrap_err();
    assert_eq!(error, RotationError::PendingTooOld { name: NAME.to_owned(), created: now() });
    assert_eq!((store.holder(&Stage::Current).as_deref(), store.holder(&Stage::Pending)), (Some("v0"), None));
}

#[tokio::test(start_paused = true)]
async fn empty_secret_gets_its_first_ring_and_rotates_from_there() {
    let rotation = Rotation::of(STAGED);
    let store = Store::new(None);
    let stack = stack(STAGED);
    store.begin("v1");
    assert_eq!(store.step(&aware(), &stack, "v1", Step::CreateSecret).await, Ok(Outcome::Initialised));
    store.change(|state| {
        state.last_rotated = Some(state.now);
        state.now += 90 * DAY;
    });
    let first = rotation.ring(&store.document(&rotation, &Stage::Current).unwrap());
    store.rotate(&aware(), &stack, "v2").await.unwrap();
    let second = rotation.ring(&store.document(&rotation, &Stage::Current).unwrap());
    assert_eq!(Some(second.primary().id()), first.staged().map(Key::id));
}

#[tokio::test(start_paused = true)]
async fn unreadable_token_is_named_by_its_secret_and_never_shown() {
    let of_field = |store: &Store| {
        let token = TokenSecret::new("{1}/{2}/admin-token".to_owned(), FieldName::new("ADMIN_TOKEN"));
        Kind::new(Some((store.application(STAGED), token)), Consumers::default())
    };
    let of_text = |store: &Store| asking(store.application(STAGED));
    type Asks<'a> = &'a dyn Fn(&Store) -> Kind;
    for (kind, token, reason) in [
        (&of_text as Asks<'_>, Err(StoreErrorKind::SecretNotFound), "SecretNotFound"),
        (&of_text, Err(StoreErrorKind::AccessDenied), "AccessDenied"),
        (&of_text, Ok(String::new()), "EmptyValue"),
        (&of_text, Ok(format!(r#"{{"ADMIN_TOKEN":"{TOKEN}"}}"#)), "FieldNotChosen"),
        (&of_field, Ok(TOKEN.to_owned()), "NotAnObject"),
        (&of_field, Ok(format!(r#"{{"ADMIN_TOKENS":"{TOKEN}"}}"#)), "FieldMissing"),
        (&of_field, Ok(format!(r#"{{"ADMIN_TOKEN":["{TOKEN}"]}}"#)), "FieldNotText"),
    ] {
        let store = Store::new(Some(&with_staged(&Rotation::of(STAGED))));
        store.change(|state| state.token = token);
        let kind = kind(&store);
        let (step, error) = store.rotate(&kind, &stack(STAGED), "v1").await.unwrap_err();
        assert_eq!((step, error.name()), (Step::SetSecret, "CredentialUnavailable"));
        let RotationError::CredentialUnavailable { secret, reason: told } = &error else { panic!("{error}") };
        assert_eq!((secret.as_str(), told.name()), (TOKEN_SECRET, reason));
        assert!(!format!("{error} {error:?} {kind:?}").contains(TOKEN), "{error:?}");
        assert_eq!(store.holder(&Stage::Current).as_deref(), Some("v0"));
    }

    let store = Store::new(Some(&with_staged(&Rotation::of(STAGED))));
    store.change(|state| state.token = Ok(format!(r#"{{"ADMIN_TOKEN":"{TOKEN}","x":1}}"#)));
    store.rotate(&of_field(&store), &stack(STAGED), "v1").await.unwrap();

    let token = secret(TOKEN);
    let (rotation, rotated) = (Rotation::staged(), with_staged(&Rotation::staged()));
    let subject = Subject { credential: Some(&token), ..rotation.at(now(), None) };
    let shown = format!("{subject:?} {rotated:?} {:#?}", rotation.ring(&rotated));
    assert!(!shown.contains(TOKEN), "{shown}");
    assert_shows_no_key(&shown, [1, 2].map(key));
}

#[tokio::test(start_paused = true)]
async fn without_a_target_no_other_secret_is_read() {
    let store = Store::new(Some(&with_staged(&Rotation::of(STAGED))));
    store.change(|state| state.token = Err(StoreErrorKind::AccessDenied));
    store.rotate(&aware(), &stack(STAGED), "v1").await.unwrap();
    assert_eq!(aware().credential(NAME), Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_never_rotated_as_a_keyring() {
    let rotation = Rotation::of(STAGED);
    // Tokens that look like keys, as `openssl rand -base64 32` makes both.
    let [now, before] = [1, 2].map(|seed| KeyFormat::of(&rotation.policy).wire().first(&key(seed)));
    let (end, until) = ("TOKEN_ENCRYPTION_KEY_PREVIOUS_UNTIL", "2026-11-02T12:00:00Z");
    let [now, before] = [now.expose(), before.expose()];
    let with_previous = format!(r#"{{"{FIELD}":"{now}","{FIELD}_PREVIOUS":"{before}","{end}":"{until}"}}"#);
    let with_next = format!(r#"{{"{FIELD}":"{now}","{FIELD}_NEXT":"{before}"}}"#);
    for (value, step) in [
        (&with_previous, Step::CreateSecret),
        (&with_previous, Step::TestSecret),
        (&with_next, Step::CreateSecret),
        (&with_next, Step::TestSecret),
    ] {
        let token = Document::parse(secret(value), Some(&field())).unwrap();
        let store = Store::new(Some(&token));
        store.begin("v1");
        let error = store.step(&aware(), &stack(STAGED), "v1", step).await.unwrap_err();
        assert_eq!(error.name(), "WrongKind", "{step}: {error}");
        assert!(error.to_string().contains("admin-token"), "{error}");
        assert_eq!(store.calls("put"), 0);
        // A test of the configuration leaves the version to Secrets Manager, which made it.
        let pending = store.holder(&Stage::Pending);
        assert_eq!(pending.is_none(), step == Step::CreateSecret, "{step}");
    }
}
