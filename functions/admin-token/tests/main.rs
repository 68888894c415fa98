//! What is particular to admin tokens: the next value, what stands beside it, and whom the application is asked about.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

mod delivery;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use admin_token::AdminToken;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::admission::{Admission, Admitted};
use rotation::deadline::Deadline;
use rotation::document::{Document, FieldName};
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::event::{RotationEvent, RotationToken, Step, VersionId};
use rotation::kind::{Phase, SecretKind, Subject, Values};
use rotation::policy::{RotationPolicy, StackPolicy};
use rotation::protocol::{Outcome, Rotator};
use rotation::schedule::RotationRules;
use rotation::secret::SecretText;
use rotation::store::{Described, Put, SecretStore, StoreError, VersionValue};
use rotation::target::{Answer, Operation, Target, TargetSettings, Verdict};
use rotation::testing::Stages;
use rotation::time::{format_timestamp, parse_timestamp};
use rotation::token::{TOKEN_SETTINGS, TokenFormat};
use rotation::versions::Stage;

const NAME: &str = "shop/admin-token";
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SECOND: Duration = Duration::from_secs(1);

fn now() -> SystemTime {
    parse_timestamp("2026-11-01T12:00:00Z").unwrap()
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn stack(variables: &[(&str, &str)]) -> StackPolicy {
    StackPolicy::from_environment(&environment(variables), TOKEN_SETTINGS).unwrap()
}

fn version(id: &str) -> VersionId {
    VersionId::new(id.to_owned())
}

fn stages() -> Stages {
    let stages = [("old", Stage::Current), ("new", Stage::Pending), ("older", Stage::Previous)];
    stages.into_iter().map(|(id, stage)| (stage, version(id))).collect()
}

/// A rotation in which steps are admitted, under a policy.
struct Rotation {
    admitted: Admitted,
    policy: RotationPolicy,
}

impl Rotation {
    fn of(variables: &[(&str, &str)]) -> Self {
        let policy = stack(variables).for_secret(&BTreeMap::new(), now()).unwrap();
        let Ok(Admission::Perform(admitted)) = stages().listed().admit(&version("new"), Step::CreateSecret) else {
            panic!()
        };
        Self { admitted, policy }
    }

    /// Of the member `ADMIN_TOKEN`, with an overlap.
    fn json(overlap: &str) -> Self {
        Self::of(&[("ROTATION_FIELD", "ADMIN_TOKEN"), ("ROTATION_OVERLAP", overlap)])
    }

    fn at(&self, now: SystemTime) -> Subject<'_> {
        Subject {
            admitted: &self.admitted,
            name: NAME,
            policy: &self.policy,
            now,
            last_rotated: None,
            current_created: None,
            credential: None,
            delivered: false,
        }
    }

    fn parse(&self, text: &str) -> Document {
        Document::parse(secret(text), self.policy.field.as_ref()).unwrap()
    }

    fn create(&self, current: &Document) -> Document {
        self.create_at(now(), current, 1)
    }

    fn create_at(&self, now: SystemTime, current: &Document, seed: u64) -> Document {
        kind().create(&self.at(now), current, &mut StdRng::seed_from_u64(seed)).unwrap()
    }

    /// The token that a value made with the seed 1 has.
    fn token(&self) -> String {
        TokenFormat::of(&self.policy).generate(&mut StdRng::seed_from_u64(1)).expose().to_owned()
    }
}

fn kind() -> AdminToken {
    AdminToken::new(None)
}

fn secret(text: &str) -> SecretText {
    SecretText::new(text.to_owned())
}

fn field(name: &str) -> FieldName {
    FieldName::new(name).unwrap()
}

fn text(document: &Document) -> &str {
    document.text().expose()
}

#[test]
fn a_text_secret_becomes_the_new_token_alone() {
    let rotation = Rotation::of(&[]);
    let new = rotation.create(&rotation.parse("old token"));
    assert_eq!(text(&new), rotation.token());
    assert_eq!(text(&new).len(), 64, "48 bytes in base64url");
    assert_eq!(new.field(), None);
}

#[test]
fn a_token_has_the_format_of_the_policy() {
    let rotation = Rotation::of(&[("ROTATION_TOKEN_PREFIX", "acme"), ("ROTATION_TOKEN_BYTES", "32")]);
    let new = rotation.create(&rotation.parse("old"));
    assert!(text(&new).starts_with("acme_") && text(&new).len() == "acme_".len() + 43 + 6);
    let first = kind().first(&rotation.at(now()), &mut StdRng::seed_from_u64(1)).unwrap();
    assert_eq!(first.text(), new.text(), "the first value as well");
}

#[test]
fn the_first_value_has_the_token_and_no_previous_one() {
    let rotation = Rotation::json("24h");
    let first = kind().first(&rotation.at(now()), &mut StdRng::seed_from_u64(1)).unwrap();
    assert_eq!(text(&first), format!(r#"{{"ADMIN_TOKEN":"{}"}}"#, rotation.token()));
}

#[test]
fn previous_token_and_its_end_follow_the_token_and_nothing_else() {
    let rotation = Rotation::json("24h");
    let current =
        rotation.parse("{\n  \"port\" : 8080.0,\n  \"ADMIN_TOKEN\" : \"old\\\"\\u00e9\",\n  \"port\" : -0\n}\n");
    let expected = format!(
        "{{\n  \"port\" : 8080.0,\n  \"ADMIN_TOKEN\" : \"{}\",\n  \"ADMIN_TOKEN_PREVIOUS\" : \"old\\\"é\",\n  \"ADMIN_TOKEN_PREVIOUS_UNTIL\" : \"2026-11-02T12:00:00Z\",\n  \"port\" : -0\n}}\n",
        rotation.token()
    );
    assert_eq!(text(&rotation.create(&current)), expected);
}

#[test]
fn overlap_ends_by_service_time_and_policy_length() {
    for (overlap, until) in
        [("1s", "2026-11-01T12:00:01Z"), ("90m", "2026-11-01T13:30:00Z"), ("30d", "2026-12-01T12:00:00Z")]
    {
        let rotation = Rotation::json(overlap);
        let new = rotation.create(&rotation.parse(r#"{"ADMIN_TOKEN":"old"}"#));
        assert_eq!(new.member(&field("ADMIN_TOKEN_PREVIOUS_UNTIL")).unwrap(), Some(secret(until)));
    }
}

#[test]
fn the_next_rotation_changes_three_members_where_they_stand() {
    let rotation = Rotation::json("24h");
    let current = rotation.parse(
        r#"{"ADMIN_TOKEN_PREVIOUS_UNTIL": "2026-01-01T00:00:00Z","x":1, "ADMIN_TOKEN_PREVIOUS":null , "ADMIN_TOKEN":"old"}"#,
    );
    let expected = format!(
        r#"{{"ADMIN_TOKEN_PREVIOUS_UNTIL": "2026-11-02T12:00:00Z","x":1, "ADMIN_TOKEN_PREVIOUS":"old" , "ADMIN_TOKEN":"{}"}}"#,
        rotation.token()
    );
    assert_eq!(text(&rotation.create(&current)), expected);
}

#[test]
fn without_an_overlap_the_previous_members_are_removed() {
    let with_overlap = Rotation::json("24h");
    let without = Rotation::json("0s");
    let pretty = "{\n  \"user\": \"admin\",\n  \"ADMIN_TOKEN\": \"old\",\n  \"port\": 1\n}";
    let rotated = with_overlap.create(&with_overlap.parse(pretty));
    assert!(text(&rotated).contains("ADMIN_TOKEN_PREVIOUS_UNTIL"));
    let expected = pretty.replace("old", &without.token());
    assert_eq!(text(&without.create(&rotated)), expected);
    assert_eq!(text(&without.create(&without.parse(pretty))), expected, "also where there were none");
}

#[test]
fn ten_rotations_keep_one_previous_token_and_every_other_byte() {
    let rotation = Rotation::json("24h");
    let secret_of =
        |token: &str, rest: &str| format!("{{ \"a\": [1e400], \"ADMIN_TOKEN\": \"{token}\"{rest}, \"z\": {{}} }}");
    let mut current = rotation.parse(&secret_of("first", ""));
    for day in 1..=10_u32 {
        let old = current.secret().unwrap();
        let at = now() + DAY * day;
        current = rotation.create_at(at, &current, u64::from(day));
        let until = format_timestamp(at + DAY);
        let rest = format!(r#", "ADMIN_TOKEN_PREVIOUS": "{}", "ADMIN_TOKEN_PREVIOUS_UNTIL": "{until}""#, old.expose());
        assert_eq!(text(&current), secret_of(current.secret().unwrap().expose(), &rest));
    }
}

#[test]
fn a_previous_member_that_stands_twice_is_refused() {
    let rotation = Rotation::json("24h");
    for member in ["ADMIN_TOKEN_PREVIOUS", "ADMIN_TOKEN_PREVIOUS_UNTIL"] {
        let current = rotation.parse(&format!(r#"{{"ADMIN_TOKEN":"old","{member}":"a","{member}":"b"}}"#));
        let error = kind().create(&rotation.at(now()), &current, &mut StdRng::seed_from_u64(1)).unwrap_err();
        assert_eq!(error, RotationError::FieldRepeated { field: member.to_owned() });
    }
}

#[test]
fn a_rotation_writes_four_members_and_no_other() {
    let rotation = Rotation::json("24h");
    let old = rotation.parse(r#"{"ADMIN_TOKEN":"old","x":1}"#);
    let members = kind().members(&rotation.policy, &old);
    let names: Vec<_> = members.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["ADMIN_TOKEN", "ADMIN_TOKEN_NEXT", "ADMIN_TOKEN_PREVIOUS", "ADMIN_TOKEN_PREVIOUS_UNTIL"]);
    assert!(old.same_other_members(&rotation.create(&old), &members));
}

#[test]
fn a_value_made_from_the_current_one_may_follow_it() {
    for rotation in [Rotation::json("24h"), Rotation::json("0s"), Rotation::json("1s")] {
        let old = rotation.parse(r#"{"ADMIN_TOKEN":"old"}"#);
        assert_eq!(kind().check_succession(&rotation.at(now()), &old, &rotation.create(&old), now()), Ok(()));
    }
    let plain = Rotation::of(&[]);
    let old = plain.parse("old");
    assert_eq!(kind().check_succession(&plain.at(now()), &old, &plain.create(&old), now()), Ok(()));
}

#[test]
fn a_value_made_from_another_token_may_not_follow() {
    let rotation = Rotation::json("24h");
    let new = rotation.create(&rotation.parse(r#"{"ADMIN_TOKEN":"old"}"#));
    let edited = rotation.parse(r#"{"ADMIN_TOKEN":"somebody's"}"#);
    let changed = RotationError::CurrentChanged { name: NAME.to_owned() };
    assert_eq!(kind().check_succession(&rotation.at(now()), &edited, &new, now()), Err(changed.clone()));

    let old = rotation.parse(r#"{"ADMIN_TOKEN":"old"}"#);
    for until in ["", r#","ADMIN_TOKEN_PREVIOUS_UNTIL":"soon""#, r#","ADMIN_TOKEN_PREVIOUS_UNTIL":7"#] {
        let odd = rotation.parse(&format!(r#"{{"ADMIN_TOKEN":"new","ADMIN_TOKEN_PREVIOUS":"old"{until}}}"#));
        assert_eq!(kind().check_succession(&rotation.at(now()), &old, &odd, now()), Err(changed.clone()), "{until}");
    }
}

#[test]
fn late_retry_may_use_half_of_the_overlap_and_no_more() {
    for (rotation, old) in [(Rotation::json("24h"), r#"{"ADMIN_TOKEN":"old"}"#), (Rotation::of(&[]), "old")] {
        let old = rotation.parse(old);
        let new = rotation.create(&old);
        let check = |late| kind().check_succession(&rotation.at(now() + late), &old, &new, now());
        assert_eq!(check(12 * HOUR - SECOND), Ok(()));
        assert_eq!(check(12 * HOUR), Ok(()));
        let too_short = RotationError::OverlapTooShort { name: NAME.to_owned(), until: now() + DAY };
        for late in [12 * HOUR + SECOND, DAY, 90 * DAY] {
            assert_eq!(check(late), Err(too_short.clone()), "{late:?}");
        }
    }
}

#[test]
fn json_value_without_the_old_token_may_not_follow() {
    let old = Rotation::json("0s").parse(r#"{"ADMIN_TOKEN":"old"}"#);
    let new = Rotation::json("0s").create(&old);
    let changed = RotationError::CurrentChanged { name: NAME.to_owned() };
    let longer = Rotation::json("24h");
    assert_eq!(kind().check_succession(&longer.at(now()), &old, &new, now()), Err(changed));
}

#[test]
fn the_overlap_of_a_json_secret_ends_when_the_secret_says() {
    let rotation = Rotation::json("24h");
    let end = |json: &str| kind().overlap_end(&rotation.at(now()), &rotation.parse(json), now());
    let new = rotation.create(&rotation.parse(r#"{"ADMIN_TOKEN":"old"}"#));
    assert_eq!(end(text(&new)), Some(now() + DAY));
    assert_eq!(
        end(r#"{"ADMIN_TOKEN":"t","ADMIN_TOKEN_PREVIOUS_UNTIL":"2026-12-24T18:00:00Z"}"#),
        parse_timestamp("2026-12-24T18:00:00Z")
    );
    for none in [
        r#"{"ADMIN_TOKEN":"t"}"#,
        r#"{"ADMIN_TOKEN":"t","ADMIN_TOKEN_PREVIOUS_UNTIL":"whenever"}"#,
        r#"{"ADMIN_TOKEN":"t","ADMIN_TOKEN_PREVIOUS_UNTIL":1}"#,
        r#"{"ADMIN_TOKEN":"t","ADMIN_TOKEN_PREVIOUS_UNTIL":"2026-12-24T18:00:00Z","ADMIN_TOKEN_PREVIOUS_UNTIL":"2026-12-25T18:00:00Z"}"#,
    ] {
        assert_eq!(end(none), None, "{none}");
    }
}

#[test]
fn the_overlap_of_a_text_secret_counts_from_its_promotion() {
    let end = |overlap| {
        let rotation = Rotation::of(&[("ROTATION_OVERLAP", overlap)]);
        kind().overlap_end(&rotation.at(now()), &rotation.parse("token"), now() - HOUR)
    };
    assert_eq!(end("24h"), Some(now() - HOUR + DAY));
    assert_eq!(end("0s"), None);
}

/// A stage, the version that it left and the one that it went to.
type Move = (Stage, Option<String>, Option<String>);

/// A secret with the versions of [`stages`], as finishSecret finds them; moves are kept.
struct Store {
    stages: Mutex<Stages>,
    current: String,
    pending: Option<String>,
    rules: RotationRules,
    moves: Mutex<Vec<Move>>,
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

/// An application that accepts some tokens, and what it was asked.
struct Application {
    accepts: &'static [&'static str],
    asked: Mutex<Vec<(Operation, String)>>,
    settings: TargetSettings,
}

impl Application {
    fn accepting(accepts: &'static [&'static str]) -> AdminToken<Self> {
        let settings = TargetSettings { can_refresh: true, instances: None, timeout: 2 * SECOND };
        AdminToken::new(Some(Self { accepts, asked: Mutex::default(), settings }))
    }
}

impl Target for Application {
    async fn ask(&self, operation: Operation, secret_name: &str, token: &SecretText) -> Result<Answer, String> {
        assert_eq!(secret_name, NAME);
        let token = token.expose();
        let accepted = self.accepts.contains(&token) || self.accepts == ["*"];
        let known = if ["old", "new"].contains(&token) { token } else { "random" };
        self.asked.lock().unwrap().push((operation, known.to_owned()));
        Ok(Answer { verdict: if accepted { Verdict::Accepted } else { Verdict::Refused }, instance: None, keys: None })
    }

    fn settings(&self) -> &TargetSettings {
        &self.settings
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

const BEFORE: &[(&str, &str)] = &[];
const AFTER: &[(&str, &str)] = &[("ROTATION_VERIFY", "after")];

async fn set(kind: &AdminToken<Application>, variables: &[(&str, &str)], phase: Phase) -> Result<(), RotationError> {
    let rotation = Rotation::of(variables);
    let (old, new) = (rotation.parse("old"), rotation.parse("new"));
    let values = Values { old: Some(&old), new: &new };
    kind.set(&rotation.at(now()), values, phase, Deadline::after(60 * SECOND)).await
}

async fn test(kind: &AdminToken<Application>, variables: &[(&str, &str)], phase: Phase) -> Result<(), RotationError> {
    let rotation = Rotation::of(variables);
    let (old, new) = (rotation.parse("old"), rotation.parse("new"));
    let old = (phase != Phase::Configuration).then_some(&old);
    let mut rng = StdRng::seed_from_u64(1);
    let values = Values { old, new: &new };
    kind.test(&rotation.at(now()), values, phase, Deadline::after(60 * SECOND), &mut rng).await
}

/// What the application was asked, as `verify old`.
fn asked(kind: &AdminToken<Application>, asked: &[&str]) {
    let shown = format!("{kind:?}");
    let expected = format!("{asked:?}");
    assert!(shown.contains(&expected), "{shown} {expected}");
}

impl std::fmt::Debug for Application {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let asked = self.asked.lock().unwrap();
        f.debug_list().entries(asked.iter().map(|(operation, token)| format!("{} {token}", operation.name()))).finish()
    }
}

#[tokio::test(start_paused = true)]
async fn refresh_uses_the_old_token_then_the_new_where_refused() {
    for phase in [Phase::BeforePromotion, Phase::AfterPromotion] {
        let kind = Application::accepting(&["old", "new"]);
        set(&kind, BEFORE, phase).await.unwrap();
        asked(&kind, &["refresh old"]);
        let kind = Application::accepting(&["new"]);
        set(&kind, BEFORE, phase).await.unwrap();
        asked(&kind, &["refresh old", "refresh new"]);
    }
    let nobody = Application::accepting(&[]);
    assert_eq!(set(&nobody, BEFORE, Phase::BeforePromotion).await, Err(RotationError::RefreshRefused));
}

#[tokio::test(start_paused = true)]
async fn reader_of_awscurrent_is_refreshed_after_promotion_alone() {
    let kind = Application::accepting(&["old"]);
    set(&kind, AFTER, Phase::BeforePromotion).await.unwrap();
    asked(&kind, &[]);
    set(&kind, AFTER, Phase::AfterPromotion).await.unwrap();
    asked(&kind, &["refresh old"]);
}

#[tokio::test(start_paused = true)]
async fn needed_token_is_proven_and_a_random_one_refused() {
    for (variables, phase, accepted, proven) in [
        (BEFORE, Phase::BeforePromotion, &["old", "new"] as &[_], "verify new"),
        (AFTER, Phase::BeforePromotion, &["old"], "verify old"),
        (BEFORE, Phase::AfterPromotion, &["new"], "verify new"),
        (AFTER, Phase::AfterPromotion, &["new"], "verify new"),
        (BEFORE, Phase::Configuration, &["new"], "verify new"),
        (AFTER, Phase::Configuration, &["new"], "verify new"),
    ] {
        let kind = Application::accepting(accepted);
        assert_eq!(test(&kind, variables, phase).await, Ok(()), "{phase:?}");
        asked(&kind, &[proven, "verify random"]);
        let open = Application::accepting(&["*"]);
        assert_eq!(test(&open, variables, phase).await, Err(RotationError::TargetAcceptsAnyToken), "{phase:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_which_token_and_what_to_do() {
    for (variables, phase, message) in [
        (
            BEFORE,
            Phase::BeforePromotion,
            "the target refuses the pending token: if the application reads AWSCURRENT only, tag the secret rotation:verify=after",
        ),
        (
            AFTER,
            Phase::BeforePromotion,
            "the target refuses the current token, which it should accept before a rotation: is TARGET_VERIFY_URL this secret's application?",
        ),
        (BEFORE, Phase::AfterPromotion, "the target refuses the new token"),
        (AFTER, Phase::AfterPromotion, "the target refuses the new token"),
        (
            BEFORE,
            Phase::Configuration,
            "the target refuses the current token: is TARGET_VERIFY_URL this secret's application, and TARGET_HEADER right?",
        ),
    ] {
        let error = test(&Application::accepting(&[]), variables, phase).await.unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(error.name(), "TargetRefused");
    }
}

#[tokio::test]
async fn without_a_target_nobody_is_asked_and_nothing_takes_time() {
    let rotation = Rotation::of(&[]);
    let (old, new) = (rotation.parse("old"), rotation.parse("new"));
    let values = Values { old: Some(&old), new: &new };
    let deadline = Deadline::after(Duration::ZERO);
    for phase in [Phase::BeforePromotion, Phase::AfterPromotion, Phase::Configuration] {
        assert_eq!(kind().set(&rotation.at(now()), values, phase, deadline).await, Ok(()));
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(kind().test(&rotation.at(now()), values, phase, deadline, &mut rng).await, Ok(()));
    }
    assert!(!kind().has_target());
    assert_eq!(kind().settle_time(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn token_comes_into_use_within_the_settle_time() {
    // Refreshed in the last moment, accepted in the last moment, and silent about the random token.
    struct Slow(TargetSettings);
    impl Target for Slow {
        async fn ask(&self, _: Operation, _: &str, token: &SecretText) -> Result<Answer, String> {
            tokio::time::sleep(Duration::from_millis(9_900)).await;
            let known = ["old", "new"].contains(&token.expose());
            let verdict = if known { Verdict::Accepted } else { Verdict::Unwell(503) };
            Ok(Answer { verdict, instance: None, keys: None })
        }
        fn settings(&self) -> &TargetSettings {
            &self.0
        }
    }
    let kind = AdminToken::new(Some(Slow(TargetSettings { can_refresh: true, instances: None, timeout: 10 * SECOND })));
    let rotation = Rotation::of(&[]);
    let (old, new) = (rotation.parse("old"), rotation.parse("new"));
    let values = Values { old: Some(&old), new: &new };
    let (start, deadline) = (tokio::time::Instant::now(), Deadline::after(DAY));
    kind.set(&rotation.at(now()), values, Phase::AfterPromotion, deadline).await.unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let error = kind.test(&rotation.at(now()), values, Phase::AfterPromotion, deadline, &mut rng).await.unwrap_err();
    assert_eq!(error.name(), "TargetUnavailable");
    let taken = start.elapsed();
    assert!(taken > 29 * SECOND && taken <= kind.settle_time(), "{taken:?} of {:?}", kind.settle_time());
}

#[test]
fn wrong_target_in_the_environment_is_named_at_start() {
    assert!(!AdminToken::from_environment(&environment(&[])).unwrap().has_target());
    let variables = [("TARGET_VERIFY_URL", "https://admin.example.com/health"), ("TARGET_TIMEOUT", "4s")];
    let kind = AdminToken::from_environment(&environment(&variables)).unwrap();
    assert!(kind.has_target());
    assert_eq!(kind.settle_time(), 12 * SECOND);
    let error =
        AdminToken::from_environment(&environment(&[("TARGET_VERIFY_URL", "http://admin.example.com")])).unwrap_err();
    assert_eq!(error, RotationError::InsecureUrl { variable: "TARGET_VERIFY_URL".to_owned() });
}

/// Two keys of 32 bytes, as other programs write them.
const KEYS: [&str; 2] =
    ["3q2+7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=", "3q2+7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI="];

/// Values that hold a keyring in `TOKEN_ENCRYPTION_KEY`, and one that is a keyset as a whole.
fn keyrings() -> Vec<(&'static str, String)> {
    let [one, other] = KEYS;
    let [web_one, web_other] = KEYS.map(|key| key.replace('+', "-"));
    let keyset = r#"{"primaryKeyId":1,"key":[{"keyData":{"typeUrl":"type.googleapis.com/google.crypto.tink.AesGcmKey","value":"GiDerb7vAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAQ==","keyMaterialType":"SYMMETRIC"},"status":"ENABLED","keyId":1,"outputPrefixType":"TINK"}]}"#;
    let member = |rest: &str| format!(r#"{{"TOKEN_ENCRYPTION_KEY":"{one}"{rest}}}"#);
    vec![
        ("NAME_RING", member(r#","TOKEN_ENCRYPTION_KEY_RING":"{\"keys\":[]}""#)),
        ("NAME_STAGED", member(&format!(r#","TOKEN_ENCRYPTION_KEY_STAGED":"{other}""#))),
        ("a secondary key", member(&format!(r#","TOKEN_ENCRYPTION_KEY_PREVIOUS":"{other}""#))),
        ("secondary keys", member(&format!(r#","TOKEN_ENCRYPTION_KEY_PREVIOUS":"{other},{other}""#))),
        ("a list", format!(r#"{{"TOKEN_ENCRYPTION_KEY":"{web_one},{web_other}"}}"#)),
        ("a keyset", format!(r#"{{"TOKEN_ENCRYPTION_KEY":"{}"}}"#, keyset.replace('"', "\\\""))),
        ("a keyset as a whole", keyset.to_owned()),
        ("a list as a whole", format!("{one},{other}")),
    ]
}

async fn step_on(value: &str, step: Step, pending: Option<&str>) -> (Result<Outcome, RotationError>, Vec<Move>) {
    let whole = !value.contains("TOKEN_ENCRYPTION_KEY");
    let variables: &[_] = if whole { &[] } else { &[("ROTATION_FIELD", "TOKEN_ENCRYPTION_KEY")] };
    let store = Store {
        stages: Mutex::new(stages()),
        current: value.to_owned(),
        pending: pending.map(str::to_owned),
        rules: RotationRules::default(),
        moves: Mutex::default(),
    };
    let event = RotationEvent { step, secret_id: NAME.to_owned(), version: version("new"), rotation_token: None };
    let (kind, stack) = (kind(), stack(variables));
    let rotator = Rotator { kind: &kind, store: &store, stack: &stack };
    let result = rotator.perform(&event, Deadline::after(60 * SECOND), &mut StdRng::seed_from_u64(2)).await;
    (result.map(|report| report.outcome), store.moves.into_inner().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_keyring_is_never_rotated_as_a_token() {
    for (what, value) in keyrings() {
        let (refused, moves) = step_on(&value, Step::CreateSecret, None).await;
        let error = refused.unwrap_err();
        assert_eq!(error.name(), "WrongKind", "{what}: {error}");
        assert!(error.to_string().contains("encryption-key") && !error.to_string().contains("3q2"), "{what}: {error}");
        assert_eq!(moves, [(Stage::Pending, Some("new".to_owned()), None)], "{what}: given up");
    }
}

#[tokio::test(start_paused = true)]
async fn a_test_of_the_configuration_finds_a_keyring() {
    for (what, value) in keyrings() {
        for pending in [None, Some(value.as_str())] {
            let (refused, moves) = step_on(&value, Step::TestSecret, pending).await;
            assert_eq!(refused.unwrap_err().name(), "WrongKind", "{what}");
            assert_eq!(moves, [], "{what}: Secrets Manager takes its own version away");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_looks_like_one_key_is_rotated() {
    let until = "2026-11-02T12:00:00Z";
    let [one, other] = KEYS;
    for value in [
        one.to_owned(),
        "a,b".to_owned(),
        format!(r#"{{"TOKEN_ENCRYPTION_KEY":"{one}"}}"#),
        format!(
            r#"{{"TOKEN_ENCRYPTION_KEY":"{one}","TOKEN_ENCRYPTION_KEY_PREVIOUS":"{other}","TOKEN_ENCRYPTION_KEY_PREVIOUS_UNTIL":"{until}"}}"#
        ),
        format!(r#"{{"TOKEN_ENCRYPTION_KEY":"{one}","TOKEN_ENCRYPTION_KEY_PREVIOUS":"by hand"}}"#),
    ] {
        assert_eq!(
            step_on(&value, Step::TestSecret, None).await,
            (Ok(Outcome::ConfigurationTested), vec![]),
            "{value}"
        );
    }
}

fn rules(days: Option<i64>, expression: Option<&str>, window: Option<&str>) -> RotationRules {
    RotationRules { days, expression: expression.map(str::to_owned), window: window.map(str::to_owned) }
}

/// testSecret alone, on a temporary version without a value.
async fn test_of_the_configuration(overlap: &str, rules: RotationRules) -> Result<Outcome, RotationError> {
    let store = Store {
        stages: Mutex::new(stages()),
        current: "old".to_owned(),
        pending: None,
        rules,
        moves: Mutex::default(),
    };
    let step = Step::TestSecret;
    let event = RotationEvent { step, secret_id: NAME.to_owned(), version: version("new"), rotation_token: None };
    let (kind, stack) = (kind(), stack(&[("ROTATION_OVERLAP", overlap)]));
    let rotator = Rotator { kind: &kind, store: &store, stack: &stack };
    let result = rotator.perform(&event, Deadline::after(60 * SECOND), &mut StdRng::seed_from_u64(2)).await;
    result.map(|report| report.outcome)
}

#[tokio::test(start_paused = true)]
async fn no_schedule_ends_an_overlap_before_its_time() {
    for (overlap, too_often, often_enough) in [
        ("24h", rules(None, Some("rate(4 hours)"), None), rules(None, Some("rate(25 hours)"), None)),
        ("24h", rules(None, Some("rate(24 hours)"), None), rules(None, Some("rate(2 days)"), None)),
        ("24h", rules(None, Some("rate(1 day)"), Some("1h")), rules(None, Some("rate(2 days)"), Some("24h"))),
        ("23h", rules(None, Some("rate(1 day)"), Some("2h")), rules(None, Some("rate(1 day)"), Some("1h"))),
        ("3d", rules(Some(3), None, None), rules(Some(4), None, None)),
        // DescribeSecret tells both of one rate.
        ("3d", rules(Some(3), Some("rate(3 days)"), None), rules(Some(4), Some("rate(4 days)"), None)),
        ("30d", rules(None, Some("rate( 30 days )"), Some("3h")), rules(None, Some("rate(90 days)"), None)),
    ] {
        let error = test_of_the_configuration(overlap, too_often.clone()).await.unwrap_err();
        assert_eq!(error.name(), "InvalidPolicy", "{overlap} {too_often:?}");
        let told = error.to_string();
        assert!(told.contains("rotation:overlap") && told.contains("rotation-rules"), "what to do: {told}");
        let result = test_of_the_configuration(overlap, often_enough.clone()).await;
        assert_eq!(result, Ok(Outcome::ConfigurationTested), "{overlap} {often_enough:?}");
    }
    for rules in [rules(None, None, None), rules(None, Some("cron(0 8 1 * ? *)"), None)] {
        assert_eq!(test_of_the_configuration("30d", rules).await, Ok(Outcome::ConfigurationTested));
    }
    let often = rules(None, Some("rate(4 hours)"), None);
    assert_eq!(test_of_the_configuration("3h", often.clone()).await, Ok(Outcome::ConfigurationTested));
    assert_eq!(test_of_the_configuration("0s", often).await, Ok(Outcome::ConfigurationTested));
}
