//! What is particular to admin tokens: the next value, what stands beside it, and whom the application is asked about.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

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

mod delivery;
mod protocol;
mod target;

use self::protocol::Store;

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
