//! Rotations on a store: edits, puts-back, values that rotate nothing, and the room for labels.

use crate::target::{Application, asked};

use super::*;

/// A secret with the versions of [`stages`], as finishSecret finds them; moves are kept.
pub(crate) struct Store {
    pub(crate) stages: Mutex<Stages>,
    pub(crate) current: String,
    pub(crate) pending: Option<String>,
    pub(crate) rules: RotationRules,
    pub(crate) moves: Mutex<Vec<Move>>,
}

impl SecretStore for Store {
    async fn describe(&self, _: &str) -> Result<Described, StoreError> {
        Ok(Described {
            name: NAME.to_owned(),
            rotation_enabled: true,
            deleted: false,
            replica_of: None,
            tags: BTreeMap::new(),
            versions: self.stages.lock().unwrap().listed(),
            last_rotated: None,
            next_rotation: None,
            last_changed: None,
            rotation_function: None,
            rotation_rules: self.rules.clone(),
            as_of: now(),
        })
    }

    async fn get(&self, _: &str, version: &VersionId) -> Result<Option<VersionValue>, StoreError> {
        let text = if version.as_str() == "old" { Some(&self.current) } else { self.pending.as_ref() };
        Ok(text.map(|text| VersionValue { text: secret(text), created: now() }))
    }

    async fn get_current(&self, _: &str) -> Result<VersionValue, StoreError> {
        panic!("a token needs no other secret")
    }

    async fn put_pending(
        &self,
        _: &str,
        _: &VersionId,
        _: &SecretText,
        _: Option<&RotationToken>,
    ) -> Result<Put, StoreError> {
        Ok(Put::Stored)
    }

    async fn put_private(&self, _: &str, _: &VersionId, _: &SecretText, _: &[Stage]) -> Result<Put, StoreError> {
        panic!("a token is kept in no archive")
    }

    async fn move_stage(
        &self,
        _: &str,
        stage: Stage,
        from: Option<&VersionId>,
        to: Option<&VersionId>,
    ) -> Result<(), StoreError> {
        let id = |version: Option<&VersionId>| version.map(ToString::to_string);
        let known = |version: &VersionId| ["older", "old", "new"].contains(&version.as_str());
        self.stages.lock().unwrap().move_stage(&stage, from, to, known).expect("the stage is where the step saw it");
        self.moves.lock().unwrap().push((stage, id(from), id(to)));
        Ok(())
    }
}

#[tokio::test]
async fn edit_of_another_member_is_never_overwritten() {
    let variables = [("ROTATION_FIELD", "ADMIN_TOKEN")];
    let (rotation, stack) = (Rotation::of(&variables), stack(&variables));
    let old = r#"{"ADMIN_TOKEN":"old","port":1}"#;
    let pending = text(&rotation.create(&rotation.parse(old))).to_owned();
    let event = RotationEvent {
        step: Step::FinishSecret,
        secret_id: NAME.to_owned(),
        version: version("new"),
        rotation_token: None,
    };
    let finish = async |current: &str| {
        let store = Store {
            stages: Mutex::new(stages()),
            current: current.to_owned(),
            pending: Some(pending.clone()),
            rules: RotationRules::default(),
            moves: Mutex::default(),
        };
        let rotator = Rotator { kind: &kind(), store: &store, stack: &stack };
        let result = rotator.perform(&event, Deadline::after(60 * SECOND), &mut StdRng::seed_from_u64(2)).await;
        (result.map(|report| report.outcome), store.moves.into_inner().unwrap())
    };

    let (outcome, moves) = finish(old).await;
    assert!(matches!(outcome, Ok(Outcome::Promoted(_))), "{outcome:?}");
    assert_eq!(moves, [(Stage::Current, Some("old".to_owned()), Some("new".to_owned()))]);

    for edited in [
        r#"{"ADMIN_TOKEN":"old","port":2}"#,
        r#"{"ADMIN_TOKEN":"old","port":1.0}"#,
        r#"{"ADMIN_TOKEN":"old"}"#,
        r#"{"ADMIN_TOKEN":"old","port":1,"more":true}"#,
        r#"{"ADMIN_TOKEN":"old","PORT":1}"#,
        r#"{"ADMIN_TOKEN":"somebody's","port":1}"#,
    ] {
        let (outcome, moves) = finish(edited).await;
        assert_eq!(outcome, Err(RotationError::CurrentChanged { name: NAME.to_owned() }), "{edited}");
        assert_eq!(moves, [(Stage::Pending, Some("new".to_owned()), None)], "given up, and nothing else moved");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_finishes_a_half_done_rollback_and_tells_the_target() {
    let half_done =
        [(Stage::Current, version("old")), (Stage::Pending, version("new")), (Stage::Previous, version("new"))];
    let store = Store {
        stages: Mutex::new(half_done.into_iter().collect()),
        current: "old".to_owned(),
        pending: Some("new".to_owned()),
        rules: RotationRules::default(),
        moves: Mutex::default(),
    };
    let event = RotationEvent {
        step: Step::CreateSecret,
        secret_id: NAME.to_owned(),
        version: version("new"),
        rotation_token: None,
    };
    // An instance that loaded the failed token, and knows no other.
    let kind = Application::accepting(&["new"]);
    let rotator = Rotator { kind: &kind, store: &store, stack: &stack(&[]) };
    let result = rotator.perform(&event, Deadline::after(60 * SECOND), &mut StdRng::seed_from_u64(2)).await;
    assert_eq!(result.map(|report| report.outcome), Err(RotationError::RolledBack { version: version("new") }));
    let off = |stage| (stage, Some("new".to_owned()), None);
    assert_eq!(*store.moves.lock().unwrap(), [off(Stage::Pending), off(Stage::Previous)]);
    asked(&kind, &["refresh new"]);
}

#[tokio::test]
async fn a_pending_value_that_rotates_nothing_is_given_up() {
    let store = Store {
        stages: Mutex::new(stages()),
        current: "the same".to_owned(),
        pending: Some("the same".to_owned()),
        rules: RotationRules::default(),
        moves: Mutex::default(),
    };
    let event = RotationEvent {
        step: Step::FinishSecret,
        secret_id: NAME.to_owned(),
        version: version("new"),
        rotation_token: None,
    };
    let rotator = Rotator { kind: &kind(), store: &store, stack: &stack(&[]) };
    let result = rotator.perform(&event, Deadline::after(60 * SECOND), &mut StdRng::seed_from_u64(2)).await;
    assert_eq!(result.map(|report| report.outcome), Err(RotationError::ValueUnchanged { version: version("new") }));
    assert_eq!(*store.moves.lock().unwrap(), [(Stage::Pending, Some("new".to_owned()), None)]);
}

/// A text secret's promotion records where `AWSPREVIOUS` was, where an application is asked.
#[tokio::test(start_paused = true)]
async fn the_stage_that_records_awsprevious_is_counted_first() {
    let create = async |others: usize, value: &str, variables: &[(&str, &str)], kind: &AdminToken<Application>| {
        let others = (0..others).map(|number| Stage::Other(format!("OTHER-{number}")));
        let others = others.map(|stage| (stage, version("older")));
        let all = stages().all().map(|(stage, version)| (stage.clone(), version.clone())).chain(others).collect();
        let store = Store {
            stages: Mutex::new(all),
            current: value.to_owned(),
            pending: None,
            rules: RotationRules::default(),
            moves: Mutex::default(),
        };
        let secret_id = NAME.to_owned();
        let event =
            RotationEvent { step: Step::CreateSecret, secret_id, version: version("new"), rotation_token: None };
        let rotator = Rotator { kind, store: &store, stack: &stack(variables) };
        let result = rotator.perform(&event, Deadline::after(60 * SECOND), &mut StdRng::seed_from_u64(2)).await;
        result.map(drop)
    };
    let asks = Application::accepting(&["first"]);
    let too_few = RotationError::TooFewStages { name: NAME.to_owned(), used: 20, needed: 1 };
    assert_eq!(create(17, "first", &[], &asks).await, Err(too_few));
    assert_eq!(create(16, "first", &[], &asks).await, Ok(()));
    // Nothing is recorded where the value holds its previous token.
    let json = r#"{"ADMIN_TOKEN":"first"}"#;
    assert_eq!(create(17, json, &[("ROTATION_FIELD", "ADMIN_TOKEN")], &asks).await, Ok(()));
}
