//! What the application is asked, and with which token.

use super::*;

/// An application that accepts some tokens, and what it was asked.
pub(crate) struct Application {
    accepts: &'static [&'static str],
    asked: Mutex<Vec<(Operation, String)>>,
    settings: TargetSettings,
}

impl Application {
    pub(crate) fn accepting(accepts: &'static [&'static str]) -> AdminToken<Self> {
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
pub(crate) fn asked(kind: &AdminToken<Application>, asked: &[&str]) {
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
