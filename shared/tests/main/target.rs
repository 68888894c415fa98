//! What a rotation makes of an application's answers, with a fake application and a clock that stands still until
//! everybody waits.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rotation::deadline::Deadline;
use rotation::error::RotationError;
use rotation::keyring::KeyId;
use rotation::secret::SecretText;
use rotation::target::{
    Answer, DEFAULT_TARGET_TIMEOUT, NeededKeys, Operation, ReportedKeys, Target, TargetSettings, Verdict, prove,
    prove_keys, refresh,
};
use tokio::time::Instant;

use crate::{environment, secret};

const OLD: &str = "old";
const NEW: &str = "new";
const RANDOM: &str = "random";
const NAME: &str = "shop/admin-token";
const LONG: Duration = Duration::from_secs(600);

/// One request that arrived.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    number: usize,
    operation: Operation,
    token: String,
    at: Duration,
}

enum Reply {
    At(Verdict, &'static str),
    Anonymous(Verdict),
    /// Accepted by an instance (without an id when it is empty), which decrypts with the first keys and encrypts with the
    /// second.
    Reports(&'static str, &'static [&'static str], &'static [&'static str]),
    Broken(&'static str),
    Slow(Duration, Verdict),
    Silence,
}
use Reply::{Anonymous, At, Broken, Reports, Silence, Slow};

mod instances;
mod refusal;

/// An application that answers by a rule.
struct Fake<F> {
    rule: F,
    settings: TargetSettings,
    calls: Mutex<Vec<Call>>,
    start: Instant,
}

impl<F: Fn(&Call) -> Reply + Sync> Fake<F> {
    fn new(instances: usize, timeout: Duration, rule: F) -> Self {
        let settings = TargetSettings { can_refresh: true, instances: NonZeroUsize::new(instances), timeout };
        Self { rule, settings, calls: Mutex::default(), start: Instant::now() }
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tokens(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.token).collect()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    async fn refresh(&self, tokens: &[&str], left: Duration) -> Result<(), RotationError> {
        let tokens: Vec<SecretText> = tokens.iter().map(|token| secret(token)).collect();
        refresh(self, NAME, &tokens.iter().collect::<Vec<_>>(), Deadline::after(left)).await
    }

    async fn prove(&self, left: Duration) -> Result<(), RotationError> {
        prove(self, NAME, &secret(NEW), &secret(RANDOM), refused(), Deadline::after(left)).await
    }

    async fn prove_keys(&self, needed: &NeededKeys) -> Result<(), RotationError> {
        prove_keys(self, NAME, &secret(NEW), needed, refused(), Deadline::after(LONG)).await
    }
}

fn ids<C: FromIterator<KeyId>>(ids: &[&str]) -> C {
    ids.iter().map(|id| id.parse().unwrap()).collect()
}

/// The keys of a ring, of which the first must be encrypted with.
fn needed() -> NeededKeys {
    NeededKeys { decrypts_with: ids(BOTH), encrypts_with: Some(ONE.parse().unwrap()), silence_is_accepted: false }
}

const ONE: &str = "00000001";
const TWO: &str = "00000002";
const BOTH: &[&str] = &[ONE, TWO];

fn unproven(problem: &str) -> Result<(), RotationError> {
    Err(RotationError::ConsumersUnproven { problem: problem.to_owned() })
}

impl<F: Fn(&Call) -> Reply + Sync> Target for Fake<F> {
    async fn ask(&self, operation: Operation, secret_name: &str, token: &SecretText) -> Result<Answer, String> {
        assert_eq!(secret_name, NAME);
        let call = {
            let mut calls = self.calls.lock().unwrap();
            let token = token.expose().to_owned();
            let call = Call { number: calls.len(), operation, token, at: self.start.elapsed() };
            calls.push(call.clone());
            call
        };
        match (self.rule)(&call) {
            At(verdict, instance) => Ok(Answer { verdict, instance: Some(instance.to_owned()), keys: None }),
            Anonymous(verdict) => Ok(Answer { verdict, instance: None, keys: None }),
            Reports(instance, decrypts_with, encrypts_with) => {
                let keys = ReportedKeys {
                    decrypts_with: ids(decrypts_with),
                    // Nothing said of it, where a test says nothing.
                    encrypts_with: (!encrypts_with.is_empty()).then(|| ids(encrypts_with)),
                };
                let instance = Some(instance.to_owned()).filter(|id| !id.is_empty());
                Ok(Answer { verdict: Verdict::Accepted, instance, keys: Some(keys) })
            }
            Broken(problem) => Err(problem.to_owned()),
            Slow(time, verdict) => {
                tokio::time::sleep(time).await;
                Ok(Answer { verdict, instance: None, keys: None })
            }
            Silence => std::future::pending().await,
        }
    }

    fn settings(&self) -> &TargetSettings {
        &self.settings
    }
}

fn refused() -> RotationError {
    RotationError::TargetRefused { which: "pending", hint: ": hint" }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

const INSTANCES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Accepts the new token and refuses all others.
fn only_new(token: &str) -> Verdict {
    if token == NEW { Verdict::Accepted } else { Verdict::Refused }
}

#[test]
fn a_status_has_one_verdict() {
    for status in 100..=999 {
        let expected = match status {
            200..=299 => Verdict::Accepted,
            300..=399 => Verdict::Redirect(status),
            401 | 403 => Verdict::Refused,
            429 | 500..=599 => Verdict::Unwell(status),
            _ => Verdict::Failed(status),
        };
        assert_eq!(Verdict::of_status(status), expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_instance_behind_a_balancer_is_refreshed() {
    for instances in 1..=5 {
        let fake =
            Fake::new(instances, seconds(10.0), |call| At(Verdict::Accepted, INSTANCES[call.number % instances]));
        fake.refresh(&[OLD, NEW], LONG).await.unwrap();
        let calls = fake.calls();
        assert_eq!(calls.len(), instances, "no request more than there are instances");
        assert!(calls.iter().all(|call| call.operation == Operation::Refresh && call.token == OLD));
        assert!(fake.elapsed() < seconds(1.0), "a healthy fleet is not waited for: {:?}", fake.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn every_instance_behind_a_balancer_proves_the_token() {
    for instances in 1..=5 {
        let fake =
            Fake::new(instances, seconds(10.0), |call| At(only_new(&call.token), INSTANCES[call.number % instances]));
        fake.prove(LONG).await.unwrap();
        let tokens = fake.tokens();
        assert_eq!(tokens, [&vec![NEW; instances][..], &[RANDOM]].concat());
        assert!(fake.calls().iter().all(|call| call.operation == Operation::Verify));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unjust_balancer_is_asked_until_each_instance_has_answered() {
    // Of 20 requests, one reaches the second instance.
    let fake = Fake::new(2, seconds(10.0), |call| {
        At(only_new(&call.token), if call.number == 19 { "rare" } else { "frequent" })
    });
    fake.prove(LONG).await.unwrap();
    assert_eq!(fake.calls().len(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_missing_instance_is_counted() {
    for seen in 1..5 {
        let missing = |operation| RotationError::InstanceMissing { operation, seen, expected: 5 };
        let refreshed = Fake::new(5, seconds(10.0), |call| At(Verdict::Accepted, INSTANCES[call.number % seen]));
        assert_eq!(refreshed.refresh(&[OLD, NEW], LONG).await, Err(missing("refresh")));
        assert_eq!(refreshed.elapsed(), seconds(10.0), "until the time is up");
        let proved = Fake::new(5, seconds(10.0), |call| At(only_new(&call.token), INSTANCES[call.number % seen]));
        assert_eq!(proved.prove(LONG).await, Err(missing("verify")));
        assert!(!proved.tokens().contains(&RANDOM.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn answers_without_an_instance_id_count_as_one_instance() {
    let fake = Fake::new(2, seconds(1.0), |_| Anonymous(Verdict::Accepted));
    let missing = RotationError::InstanceMissing { operation: "refresh", seen: 1, expected: 2 };
    assert_eq!(fake.refresh(&[OLD], LONG).await, Err(missing));

    let undeclared = Fake::new(0, seconds(1.0), |call| Anonymous(only_new(&call.token)));
    assert_eq!(undeclared.settings.instances, None);
    assert_eq!(undeclared.prove(LONG).await, Ok(()), "the first answer counts for all");
}

#[tokio::test(start_paused = true)]
async fn the_second_token_is_used_where_the_first_is_refused() {
    let fake = Fake::new(1, seconds(10.0), |call| At(only_new(&call.token), "a"));
    fake.refresh(&[OLD, NEW], LONG).await.unwrap();
    assert_eq!(fake.tokens(), [OLD, NEW]);
    assert_eq!(fake.elapsed(), Duration::ZERO, "without a pause");

    // Instances may differ in what they know: b was refreshed already and accepts the new one only.
    let differing = Fake::new(2, seconds(10.0), |call| match (call.number, call.token.as_str()) {
        (0, OLD) => At(Verdict::Accepted, "a"),
        (_, NEW) => At(Verdict::Accepted, "b"),
        _ => At(Verdict::Refused, "b"),
    });
    differing.refresh(&[OLD, NEW], LONG).await.unwrap();
    assert_eq!(differing.tokens(), [OLD, OLD, NEW]);
}

#[tokio::test(start_paused = true)]
async fn turn_taking_balancer_hides_no_instance_from_its_token() {
    // Each instance reads AWSCURRENT only and knows the old token or, reloaded already, the new one; a refresh that it
    // accepts makes it know the new one. All fleets of two to four, with every mix of the two.
    for instances in 2..=4 {
        for mix in 0..1_u32 << instances {
            let knows_new = Mutex::new((0..instances).map(|at| mix & (1 << at) != 0).collect::<Vec<_>>());
            let fake = Fake::new(instances, seconds(10.0), |call| {
                let at = call.number % instances;
                let knows_new = &mut knows_new.lock().unwrap()[at];
                let accepted = *knows_new == (call.token == NEW);
                *knows_new |= accepted;
                At(if accepted { Verdict::Accepted } else { Verdict::Refused }, INSTANCES[at])
            });
            assert_eq!(
                fake.refresh(&[OLD, NEW], LONG).await,
                Ok(()),
                "{instances} instances, {mix:b}: {:?}",
                fake.tokens()
            );
            assert!(fake.elapsed() < seconds(3.0), "{instances} instances, {mix:b}: {:?}", fake.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_every_token_is_refused_for_says_so() {
    let fake = Fake::new(1, seconds(10.0), |_| At(Verdict::Refused, "a"));
    assert_eq!(fake.refresh(&[OLD, NEW], LONG).await, Err(RotationError::RefreshRefused));
    assert_eq!(fake.elapsed(), seconds(10.0));
    let pairs: Vec<_> = fake.tokens().chunks(2).map(<[String]>::to_vec).collect();
    assert!(pairs.len() > 5 && pairs.iter().all(|pair| pair == &[OLD, NEW]), "both, again and again: {pairs:?}");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_cannot_be_refreshed_is_not_asked_to() {
    let mut fake = Fake::new(1, seconds(10.0), |_| Silence);
    fake.settings.can_refresh = false;
    assert_eq!(fake.refresh(&[OLD, NEW], LONG).await, Ok(()));
    assert_eq!(fake.calls(), []);
}

#[tokio::test(start_paused = true)]
async fn without_a_token_nobody_is_asked() {
    let fake = Fake::new(1, seconds(10.0), |_| Silence);
    assert_eq!(fake.refresh(&[], LONG).await, Err(RotationError::RefreshRefused));
    assert_eq!((fake.calls(), fake.elapsed()), (vec![], Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_redirect_ends_it_at_once() {
    for status in [300, 301, 302, 303, 304, 307, 308, 399] {
        let fake = Fake::new(1, seconds(10.0), |_| At(Verdict::of_status(status), "a"));
        let redirects = |operation| RotationError::TargetRedirects { operation, status };
        assert_eq!(fake.refresh(&[OLD, NEW], LONG).await, Err(redirects("refresh")));
        assert_eq!(fake.prove(LONG).await, Err(redirects("verify")));
        assert_eq!((fake.calls().len(), fake.elapsed()), (2, Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_no_retry_changes_ends_it_at_once() {
    for status in [400, 404, 405, 410, 418, 600, 101] {
        let fake = Fake::new(1, seconds(10.0), |_| At(Verdict::of_status(status), "a"));
        let failed = |operation| RotationError::TargetFailed { operation, status };
        assert_eq!(fake.refresh(&[OLD, NEW], LONG).await, Err(failed("refresh")));
        assert_eq!(fake.prove(LONG).await, Err(failed("verify")));
        assert_eq!((fake.calls().len(), fake.elapsed()), (2, Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn a_random_token_that_gets_a_strange_answer_proves_nothing() {
    for (verdict, expected) in [
        (Verdict::Redirect(302), RotationError::TargetRedirects { operation: "verify", status: 302 }),
        (Verdict::Failed(404), RotationError::TargetFailed { operation: "verify", status: 404 }),
    ] {
        let fake =
            Fake::new(1, seconds(10.0), |call| At(if call.token == NEW { Verdict::Accepted } else { verdict }, "a"));
        assert_eq!(fake.prove(LONG).await, Err(expected));
    }
    for reply in [|| Anonymous(Verdict::Unwell(500)), || Silence, || Broken("connection reset")] {
        let fake =
            Fake::new(1, seconds(10.0), |call| if call.token == NEW { At(Verdict::Accepted, "a") } else { reply() });
        assert_eq!(fake.prove(LONG).await.unwrap_err().name(), "TargetUnavailable");
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_that_is_unwell_or_starting_is_tried_again() {
    for reply in [
        || At(Verdict::Unwell(503), "a"),
        || At(Verdict::Unwell(429), "a"),
        || Broken("Connection refused"),
        || At(Verdict::Refused, "a"),
    ] {
        let fake =
            Fake::new(1, seconds(10.0), |call| if call.number % 4 == 3 { At(Verdict::Accepted, "a") } else { reply() });
        fake.refresh(&[OLD], LONG).await.unwrap();
        assert_eq!(fake.calls().len(), 4);
    }
    let fake = Fake::new(1, seconds(10.0), |call| match call.number {
        0..=2 | 4..=6 => At(Verdict::Unwell(503), "a"),
        _ => At(only_new(&call.token), "a"),
    });
    fake.prove(LONG).await.unwrap();
    assert_eq!(fake.tokens(), [NEW, NEW, NEW, NEW, RANDOM, RANDOM, RANDOM, RANDOM]);
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_from_50_milliseconds_to_a_second() {
    let fake = Fake::new(1, seconds(10.0), |_| At(Verdict::Unwell(503), "a"));
    let unavailable = RotationError::TargetUnavailable { operation: "refresh", problem: "status 503".to_owned() };
    assert_eq!(fake.refresh(&[OLD], LONG).await, Err(unavailable));
    let at: Vec<_> = fake.calls().into_iter().map(|call| call.at).collect();
    let pauses: Vec<_> = at.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000]);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_accepts_any_token_is_found_out() {
    let fake = Fake::new(1, seconds(10.0), |_| At(Verdict::Accepted, "a"));
    assert_eq!(fake.prove(LONG).await, Err(RotationError::TargetAcceptsAnyToken));
    assert_eq!(fake.tokens(), [NEW, RANDOM]);

    // Also when it is unwell first.
    let fake = Fake::new(1, seconds(10.0), |call| match call.number {
        1 => At(Verdict::Unwell(500), "a"),
        _ => At(Verdict::Accepted, "a"),
    });
    assert_eq!(fake.prove(LONG).await, Err(RotationError::TargetAcceptsAnyToken));
}

#[tokio::test(start_paused = true)]
async fn a_silent_target_is_unavailable_when_its_time_is_up() {
    let unavailable =
        |operation| RotationError::TargetUnavailable { operation, problem: "no answer in time".to_owned() };
    let fake = Fake::new(1, seconds(10.0), |_| Silence);
    assert_eq!(fake.refresh(&[OLD, NEW], LONG).await, Err(unavailable("refresh")));
    assert_eq!(fake.elapsed(), seconds(10.0));
    let fake = Fake::new(1, seconds(10.0), |_| Silence);
    assert_eq!(fake.prove(LONG).await, Err(unavailable("verify")));
    assert_eq!(fake.elapsed(), seconds(10.0));
}

#[tokio::test(start_paused = true)]
async fn the_last_problem_is_told() {
    let fake = Fake::new(1, seconds(2.0), |call| {
        if call.number == 0 { Broken("Connection refused") } else { Broken("certificate has expired") }
    });
    let error = fake.prove(LONG).await.unwrap_err();
    let problem = "certificate has expired".to_owned();
    assert_eq!(error, RotationError::TargetUnavailable { operation: "verify", problem });
}

#[tokio::test(start_paused = true)]
async fn no_target_takes_longer_than_the_deadline_or_its_own_timeout() {
    type Rule = fn(&Call) -> Reply;
    let rules: [Rule; 6] = [
        |_| Silence,
        |_| At(Verdict::Unwell(503), "a"),
        |_| At(Verdict::Refused, "a"),
        |_| Anonymous(Verdict::Accepted),
        |_| Slow(seconds(0.7), Verdict::Accepted),
        |call| if call.token == NEW { At(Verdict::Accepted, INSTANCES[call.number % 3]) } else { Silence },
    ];
    for rule in rules {
        for (timeout, left) in [(10.0, 600.0), (10.0, 4.0), (10.0, 0.03), (0.1, 600.0), (3.0, 4.0), (10.0, 0.0)] {
            let fake = Fake::new(3, seconds(timeout), rule);
            fake.refresh(&[OLD], seconds(left)).await.unwrap_err();
            assert_eq!(fake.elapsed(), seconds(f64::min(timeout, left)), "refresh, {timeout} {left}");
            let fake = Fake::new(3, seconds(timeout), rule);
            fake.prove(seconds(left)).await.unwrap_err();
            // Acceptance and refusal have the timeout each, and share the deadline.
            assert!(fake.elapsed() <= seconds(f64::min(2.0 * timeout, left)), "prove, {timeout} {left}");
        }
    }
}

#[test]
fn the_settings_are_read_and_bounded() {
    let read = |variables: &[(&str, &str)]| TargetSettings::from_environment(&environment(variables), true);
    let default = read(&[]).unwrap();
    assert_eq!(default, TargetSettings { can_refresh: true, instances: None, timeout: DEFAULT_TARGET_TIMEOUT });
    assert_eq!(read(&[("TARGET_INSTANCES", "3")]).unwrap().instances, NonZeroUsize::new(3));
    for (timeout, expected) in [("100ms", 100), ("240s", 240_000), ("4m", 240_000), ("2s 500ms", 2_500)] {
        assert_eq!(read(&[("TARGET_TIMEOUT", timeout)]).unwrap().timeout, Duration::from_millis(expected));
    }
    for (variable, value, message) in [
        ("TARGET_INSTANCES", "0", "expected a number of instances, at least 1"),
        ("TARGET_INSTANCES", "-1", "expected a number of instances, at least 1"),
        ("TARGET_INSTANCES", "two", "expected a number of instances, at least 1"),
        ("TARGET_TIMEOUT", "99ms", "expected 100ms to 240s, a bit less than a third of the function's timeout"),
        ("TARGET_TIMEOUT", "240s 1ms", "expected 100ms to 240s, a bit less than a third of the function's timeout"),
        ("TARGET_TIMEOUT", "10", "expected a duration such as 500ms, 10s or 24h"),
    ] {
        let error = read(&[(variable, value)]).unwrap_err();
        assert_eq!(error.to_string(), format!("environment variable {variable}: {message}"), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_leaves_its_reserve_and_never_grows() {
    let deadline = Deadline::after(seconds(10.0));
    assert_eq!(deadline.within(seconds(4.0), Duration::ZERO).left(), seconds(4.0));
    assert_eq!(deadline.within(seconds(60.0), seconds(3.0)).left(), seconds(7.0));
    assert_eq!(deadline.within(seconds(60.0), seconds(11.0)).left(), Duration::ZERO);
    assert!(deadline.pause(seconds(9.0)).await, "time is left");
    assert_eq!(deadline.left(), seconds(1.0));
    assert_eq!(deadline.bound(std::future::ready(7)).await, Some(7));
    assert!(!deadline.pause(seconds(5.0)).await, "cut short by the deadline");
    assert_eq!((deadline.left(), deadline.within(LONG, Duration::ZERO).left()), (Duration::ZERO, Duration::ZERO));
    assert_eq!(deadline.bound(std::future::pending::<()>()).await, None);
}
