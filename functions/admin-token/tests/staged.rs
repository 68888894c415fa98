//! Staged tokens: a JSON secret holds its next token one period ahead, for servers that read their environment only when
//! they start.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as promised")]

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
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
use rotation::event::{Step, VersionId};
use rotation::kind::{Phase, SecretKind, Subject, Values};
use rotation::policy::{RotationPolicy, StackPolicy};
use rotation::secret::SecretText;
use rotation::target::{Answer, Operation, Target, TargetSettings, Verdict};
use rotation::testing::Stages;
use rotation::time::parse_timestamp;
use rotation::token::TOKEN_SETTINGS;
use rotation::versions::Stage;
use serde_json::json;

const NAME: &str = "shop/admin-token";
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const FIRST: &str = r#"{ "port": 8080, "ADMIN_TOKEN": "first", "z": [1e400] }"#;
const STAGED: &str = r#"{ "ADMIN_TOKEN": "first", "ADMIN_TOKEN_NEXT": "second" }"#;

fn now() -> SystemTime {
    parse_timestamp("2026-11-01T12:00:00Z").unwrap()
}

/// A rotation under a policy, and whether the current value is delivered.
struct Rotation {
    admitted: Admitted,
    policy: RotationPolicy,
    delivered: bool,
}

impl Rotation {
    fn of(tags: &[(&str, &str)]) -> Self {
        let environment: Environment = [("ALLOWED_FIELDS", "ADMIN_TOKEN")].into_iter().collect();
        let stack = StackPolicy::from_environment(&environment, TOKEN_SETTINGS).unwrap();
        let tags: BTreeMap<_, _> = tags.iter().map(|(tag, value)| ((*tag).to_owned(), (*value).to_owned())).collect();
        let policy = stack.for_secret(&tags, now()).unwrap();
        let version = |id: &str| VersionId::new(id.to_owned());
        let stages = [("old", Stage::Current), ("new", Stage::Pending)].map(|(id, stage)| (stage, version(id)));
        let stages: Stages = stages.into_iter().collect();
        let admission = stages.listed().admit(&version("new"), Step::CreateSecret);
        let Ok(Admission::Perform(admitted)) = admission else { panic!("{admission:?}") };
        Self { admitted, policy, delivered: false }
    }

    fn staged() -> Self {
        Self::of(&[("rotation:field", "ADMIN_TOKEN"), ("rotation:promotion", "staged")])
    }

    fn immediate() -> Self {
        Self::of(&[("rotation:field", "ADMIN_TOKEN")])
    }

    fn delivered(self) -> Self {
        Self { delivered: true, ..self }
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
            delivered: self.delivered,
        }
    }

    fn create(&self, current: &Document) -> Result<Document, RotationError> {
        self.create_with(&AdminToken::<Application>::new(None), current, 1)
    }

    fn create_with<T: Target + Send>(
        &self,
        kind: &AdminToken<T>,
        current: &Document,
        seed: u64,
    ) -> Result<Document, RotationError> {
        kind.create(&self.at(now()), current, &mut StdRng::seed_from_u64(seed))
    }

    fn succeeds(&self, at: SystemTime, old: &Document, new: &Document) -> Result<(), RotationError> {
        AdminToken::<Application>::new(None).check_succession(&self.at(at), old, new, now())
    }
}

fn parse(text: &str) -> Document {
    Document::parse(SecretText::new(text.to_owned()), FieldName::new("ADMIN_TOKEN").as_ref()).unwrap()
}

/// The string in `ADMIN_TOKEN` with this suffix.
fn member(value: &Document, suffix: &str) -> Option<String> {
    let member = value.member(&FieldName::new(&format!("ADMIN_TOKEN{suffix}")).unwrap()).unwrap();
    member.map(|member| member.expose().to_owned())
}

fn changed() -> RotationError {
    RotationError::CurrentChanged { name: NAME.to_owned() }
}

/// Instances behind one address, each with the tokens that it accepts, and what they were asked.
struct Application {
    accepts: Vec<Vec<String>>,
    asked: Mutex<Vec<(Operation, String)>>,
    settings: TargetSettings,
}

impl Application {
    fn of(accepts: &[&[&str]], can_refresh: bool) -> AdminToken<Self> {
        let instances = NonZeroUsize::new(accepts.len()).filter(|_| accepts.len() > 1);
        let settings = TargetSettings { can_refresh, instances, timeout: Duration::from_secs(2) };
        let accepts = accepts.iter().map(|tokens| tokens.iter().map(|token| (*token).to_owned()).collect()).collect();
        AdminToken::new(Some(Self { accepts, asked: Mutex::default(), settings }))
    }
}

impl Target for Application {
    async fn ask(&self, operation: Operation, _: &str, token: &SecretText) -> Result<Answer, String> {
        let mut asked = self.asked.lock().unwrap();
        let instance = asked.len() % self.accepts.len();
        asked.push((operation, token.expose().to_owned()));
        let accepted = self.accepts[instance].iter().any(|known| known == token.expose());
        let verdict = if accepted { Verdict::Accepted } else { Verdict::Refused };
        Ok(Answer { verdict, instance: Some(instance.to_string()), keys: None })
    }

    fn settings(&self) -> &TargetSettings {
        &self.settings
    }
}

fn asked(kind: &AdminToken<Application>) -> Vec<(Operation, String)> {
    kind.target().unwrap().asked.lock().unwrap().clone()
}

#[test]
fn first_rotation_only_stages_a_next_token() {
    let rotation = Rotation::staged();
    let new = rotation.create(&parse(FIRST)).unwrap();
    let next = member(&new, "_NEXT").unwrap();
    assert_eq!(next.len(), 64);
    let expected = format!(r#"{{ "port": 8080, "ADMIN_TOKEN": "first", "ADMIN_TOKEN_NEXT": "{next}", "z": [1e400] }}"#);
    assert_eq!(new.text().expose(), expected);
    assert_eq!(rotation.succeeds(now(), &parse(FIRST), &new), Ok(()));
    assert_eq!(rotation.succeeds(now() + 90 * DAY, &parse(FIRST), &new), Ok(()), "no overlap depends on its age");
}

#[test]
fn first_rotation_leaves_an_open_overlap_as_it_is() {
    let rest = r#""ADMIN_TOKEN_PREVIOUS":"zeroth","ADMIN_TOKEN_PREVIOUS_UNTIL":"2026-11-02T00:00:00Z"}"#;
    let rotation = Rotation::staged();
    let current = parse(&format!(r#"{{"ADMIN_TOKEN":"first",{rest}"#));
    let new = rotation.create(&current).unwrap();
    assert!(new.text().expose().ends_with(rest), "{}", new.text().expose());
    let kind = AdminToken::<Application>::new(None);
    let end = |value| kind.overlap_end(&rotation.at(now()), value, now());
    assert_eq!(end(&new), end(&current));
    let revoked = AdminToken::<Application>::without_previous(&new).unwrap();
    assert_eq!(rotation.succeeds(now(), &current, &revoked), Err(changed()), "somebody took the previous token away");
}

#[test]
fn next_token_becomes_current_and_a_fresh_one_is_staged() {
    let rotation = Rotation::staged().delivered();
    let mut current = parse(STAGED);
    for seed in 1..=5 {
        let (token, next) = (member(&current, "").unwrap(), member(&current, "_NEXT").unwrap());
        let kind = AdminToken::<Application>::new(None);
        let new = rotation.create_with(&kind, &current, seed).unwrap();
        assert_eq!(rotation.succeeds(now(), &current, &new), Ok(()));
        assert_eq!((member(&new, ""), member(&new, "_PREVIOUS")), (Some(next.clone()), Some(token.clone())));
        assert_eq!(member(&new, "_PREVIOUS_UNTIL").as_deref(), Some("2026-11-02T12:00:00Z"));
        let fresh = member(&new, "_NEXT").unwrap();
        assert!(![token, next].contains(&fresh));
        current = new;
    }
}

#[test]
fn first_value_has_a_next_token_too() {
    let rotation = Rotation::staged();
    let kind = AdminToken::<Application>::new(None);
    let first = kind.first(&rotation.at(now()), &mut StdRng::seed_from_u64(1)).unwrap();
    let (token, next) = (member(&first, "").unwrap(), member(&first, "_NEXT").unwrap());
    assert_ne!(token, next);
    assert_eq!(first.text().expose(), format!(r#"{{"ADMIN_TOKEN":"{token}","ADMIN_TOKEN_NEXT":"{next}"}}"#));
}

#[test]
fn next_token_is_not_promoted_without_a_proof() {
    let (rotation, current) = (Rotation::staged(), parse(STAGED));
    let unproven = RotationError::NextTokenUnproven { name: NAME.to_owned(), member: "ADMIN_TOKEN_NEXT".to_owned() };
    assert_eq!(rotation.create(&current).unwrap_err(), unproven);
    // One answer that counts for all instances proves nothing.
    let uncounted = Application::of(&[&["second"]], false);
    assert_eq!(rotation.create_with(&uncounted, &current, 1).unwrap_err(), unproven);
    let counted = Application::of(&[&["second"], &["second"]], false);
    assert_eq!(member(&rotation.create_with(&counted, &current, 1).unwrap(), "").as_deref(), Some("second"));
    assert_eq!(member(&rotation.delivered().create(&current).unwrap(), "").as_deref(), Some("second"));
}

#[test]
fn next_token_that_is_the_token_already_is_staged_anew() {
    let rotation = Rotation::staged();
    let current = parse(r#"{"ADMIN_TOKEN":"first","ADMIN_TOKEN_NEXT":"first"}"#);
    let new = rotation.create(&current).unwrap();
    assert_eq!(member(&new, "").as_deref(), Some("first"));
    assert_ne!(member(&new, "_NEXT").as_deref(), Some("first"));
    assert_eq!(rotation.succeeds(now(), &current, &new), Ok(()));
}

#[test]
fn immediate_promotion_drops_the_next_token() {
    let rotation = Rotation::immediate();
    let new = rotation.create(&parse(STAGED)).unwrap();
    assert!(!["first", "second"].contains(&&*member(&new, "").unwrap()));
    assert_eq!((member(&new, "_NEXT"), member(&new, "_PREVIOUS").as_deref()), (None, Some("first")));
    assert_eq!(rotation.succeeds(now(), &parse(STAGED), &new), Ok(()));
}

#[test]
fn pending_value_of_another_promotion_is_given_up() {
    let (staged, immediate) = (Rotation::staged().delivered(), Rotation::immediate());
    for current in [parse(FIRST), parse(STAGED)] {
        let of_staged = staged.create(&current).unwrap();
        assert_eq!(immediate.succeeds(now(), &current, &of_staged), Err(changed()));
        let of_immediate = immediate.create(&current).unwrap();
        assert_eq!(staged.succeeds(now(), &current, &of_immediate), Err(changed()));
    }
}

#[test]
fn value_that_another_next_token_was_made_for_may_not_follow() {
    let rotation = Rotation::staged().delivered();
    let new = rotation.create(&parse(STAGED)).unwrap();
    for edited in [
        STAGED.replace("second", "somebody's"),
        STAGED.replace("first", "somebody's"),
        FIRST.to_owned(),
        r#"{"ADMIN_TOKEN":"first","ADMIN_TOKEN_NEXT":"first"}"#.to_owned(),
    ] {
        assert_eq!(rotation.succeeds(now(), &parse(&edited), &new), Err(changed()), "{edited}");
    }
    let same = RotationError::ValueUnchanged { version: rotation.admitted.version().clone() };
    assert_eq!(rotation.succeeds(now(), &parse(STAGED), &parse(STAGED)), Err(same));
    // Its next token is nobody's yet.
    let known = parse(&new.text().expose().replace(&member(&new, "_NEXT").unwrap(), "first"));
    assert_eq!(rotation.succeeds(now(), &parse(STAGED), &known), Err(changed()));
}

#[test]
fn late_promotion_of_a_next_token_keeps_half_the_overlap() {
    let rotation = Rotation::staged().delivered();
    let new = rotation.create(&parse(STAGED)).unwrap();
    assert_eq!(rotation.succeeds(now() + 12 * HOUR, &parse(STAGED), &new), Ok(()));
    let late = rotation.succeeds(now() + 13 * HOUR, &parse(STAGED), &new).unwrap_err();
    assert_eq!(late.name(), "OverlapTooShort");
}

#[test]
fn staged_is_refused_for_a_text_and_without_an_overlap() {
    let text = Rotation::of(&[("rotation:promotion", "staged")]);
    let field = [("rotation:field", "ADMIN_TOKEN"), ("rotation:promotion", "staged"), ("rotation:overlap", "0s")];
    let current = Document::parse(SecretText::new("token".to_owned()), None).unwrap();
    for (rotation, current, named) in [
        (text, current, "rotation:promotion: is staged, and a text"),
        (Rotation::of(&field), parse(STAGED), "rotation:overlap (ROTATION_OVERLAP): is 0s"),
    ] {
        let kind = AdminToken::<Application>::new(None);
        let in_test = kind.check_configuration(&rotation.policy, None).unwrap_err();
        let in_create = rotation.create(&current).unwrap_err();
        let at_first = kind.first(&rotation.at(now()), &mut StdRng::seed_from_u64(1)).unwrap_err();
        for error in [in_test, in_create, at_first] {
            assert_eq!(error.name(), "InvalidPolicy");
            assert!(error.to_string().starts_with(named), "{error}");
        }
    }
}

#[test]
fn next_token_that_is_no_text_is_named() {
    let current = parse(r#"{"ADMIN_TOKEN":"first","ADMIN_TOKEN_NEXT":null}"#);
    let error = Rotation::staged().create(&current).unwrap_err();
    assert_eq!(
        error.to_string(),
        "member ADMIN_TOKEN_NEXT of the JSON value is null: expected a string that is not empty"
    );
}

#[test]
fn consumers_need_each_new_token_and_next_token() {
    let rotation = Rotation::staged();
    let kind = AdminToken::<Application>::new(None);
    let needs = |delivered: &str, current: &str, at| {
        !kind.needs_no_delivery(&rotation.policy, &parse(delivered), &parse(current), at).unwrap()
    };
    assert!(!needs(STAGED, STAGED, now()));
    assert!(!needs(STAGED, &STAGED.replace("{ ", r#"{ "port": 1, "#), now()), "another member");
    assert!(needs(FIRST, STAGED, now()), "a next token");
    assert!(needs(STAGED, FIRST, now()), "a next token that is withdrawn");
    assert!(needs(STAGED, &STAGED.replace("second", "third"), now()));
    assert!(needs(STAGED, &STAGED.replace("first", "second"), now()));
    let in_overlap = STAGED
        .replace(" }", r#", "ADMIN_TOKEN_PREVIOUS": "zeroth", "ADMIN_TOKEN_PREVIOUS_UNTIL": "2026-11-02T00:00:00Z" }"#);
    assert!(needs(&in_overlap, STAGED, now()), "a revocation");
    assert!(!needs(&in_overlap, STAGED, now() + DAY), "the end of an overlap");
}

#[test]
fn report_says_whether_a_token_was_promoted() {
    let (rotation, kind) = (Rotation::staged().delivered(), AdminToken::<Application>::new(None));
    let report = |old: &str| {
        let new = rotation.create(&parse(old)).unwrap();
        serde_json::Value::Object(kind.report(&rotation.at(now()), Some(&parse(old)), &new))
    };
    assert_eq!(report(FIRST), json!({ "nextTokenStaged": true, "tokenPromoted": false }));
    assert_eq!(report(STAGED), json!({ "nextTokenStaged": true, "tokenPromoted": true }));
    let immediate = Rotation::immediate();
    assert!(kind.report(&immediate.at(now()), Some(&parse(FIRST)), &parse(FIRST)).is_empty());
}

#[test]
fn fresh_tokens_replace_all_that_were_exposed() {
    let text = format!(
        "{}{}",
        STAGED.trim_end_matches(" }"),
        r#", "ADMIN_TOKEN_PREVIOUS": "zeroth", "ADMIN_TOKEN_PREVIOUS_UNTIL": "2026-11-02T00:00:00Z", "x": 1 }"#
    );
    for (rotation, staged) in [(Rotation::staged(), true), (Rotation::immediate(), false)] {
        let mut rng = StdRng::seed_from_u64(1);
        let fresh = AdminToken::<Application>::with_fresh_tokens(&rotation.at(now()), &parse(&text), &mut rng).unwrap();
        let shown = fresh.text().expose();
        for exposed in ["first", "second", "zeroth", "UNTIL"] {
            assert!(!shown.contains(exposed), "{shown}");
        }
        assert!(shown.ends_with(r#", "x": 1 }"#), "{shown}");
        assert_eq!(member(&fresh, "_NEXT").is_some(), staged);
    }
}

async fn test(kind: &AdminToken<Application>, old: Option<&str>, new: &str, phase: Phase) -> Result<(), RotationError> {
    let rotation = Rotation::staged();
    let (old, new) = (old.map(parse), parse(new));
    let values = Values { old: old.as_ref(), new: &new };
    let mut rng = StdRng::seed_from_u64(1);
    kind.test(&rotation.at(now()), values, phase, Deadline::after(HOUR), &mut rng).await
}

const THIRD: &str = r#"{"ADMIN_TOKEN":"second","ADMIN_TOKEN_NEXT":"third","ADMIN_TOKEN_PREVIOUS":"first","ADMIN_TOKEN_PREVIOUS_UNTIL":"2026-11-02T12:00:00Z"}"#;

#[tokio::test(start_paused = true)]
async fn every_instance_has_to_accept_the_next_token_before_promotion() {
    let both = Application::of(&[&["first", "second"], &["first", "second"]], false);
    assert_eq!(test(&both, Some(STAGED), THIRD, Phase::BeforePromotion).await, Ok(()));
    let one = Application::of(&[&["first", "second"], &["first"]], false);
    let error = test(&one, Some(STAGED), THIRD, Phase::BeforePromotion).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the target refuses the next token, which every instance holds that was started since the last rotation: restart the others, and have every instance accept the member NAME_NEXT; then run the same again"
    );
    // The first rotation asks for the token that is in use.
    let unstaged = Application::of(&[&["first"], &["first"]], false);
    assert_eq!(test(&unstaged, Some(FIRST), STAGED, Phase::BeforePromotion).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn promoted_token_is_proven_and_the_fresh_next_one_is_not() {
    let started_before = Application::of(&[&["first", "second"], &["first", "second"]], false);
    assert_eq!(test(&started_before, Some(STAGED), THIRD, Phase::AfterPromotion).await, Ok(()));
    assert_eq!(test(&started_before, None, THIRD, Phase::Configuration).await, Ok(()));
    assert!(asked(&started_before).iter().all(|(_, token)| token != "third"));
    let neither = Application::of(&[&[], &[]], false);
    for (old, phase) in [(Some(STAGED), Phase::AfterPromotion), (None, Phase::Configuration)] {
        assert_eq!(test(&neither, old, THIRD, phase).await.unwrap_err().name(), "TargetRefused");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_refreshed_before_promotion() {
    let kind = Application::of(&[&["first", "second"], &["first", "second"]], true);
    let rotation = Rotation::staged();
    let (old, new) = (parse(STAGED), parse(THIRD));
    let values = Values { old: Some(&old), new: &new };
    let subject = rotation.at(now());
    let set = |phase| kind.set(&subject, values, phase, Deadline::after(HOUR));
    set(Phase::BeforePromotion).await.unwrap();
    assert_eq!(asked(&kind), []);
    set(Phase::AfterPromotion).await.unwrap();
    assert_eq!(asked(&kind).len(), 2, "where the stack has a refresh URL");
}
