//! The port to the application that uses the secret. A rotation has every instance refresh, and proves which tokens the
//! instances accept.

pub mod http;
pub mod refusal;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::Value;

use crate::deadline::Deadline;
use crate::environment::{Environment, invalid};
use crate::error::RotationError;
use crate::keyring::KeyId;
use crate::secret::SecretText;

/// The longest time for a refresh or a verification of all instances, unless the stack sets `TARGET_TIMEOUT`.
pub const DEFAULT_TARGET_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// An application's answer to one authorised request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The answer's meaning for the token.
    pub verdict: Verdict,
    /// The id of the instance that answered, if the answer has one.
    pub instance: Option<String>,
    /// The reported keys, if the request asked for them and the answer has any.
    pub keys: Option<ReportedKeys>,
}

/// The keys that an instance uses, as it reports them: `key_ids` and `primary_key_ids` in a JSON object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportedKeys {
    /// The keys that the instance decrypts with.
    pub decrypts_with: BTreeSet<KeyId>,
    /// The keys that the instance encrypts with: one for each of its keyrings. `None` if it does not report them.
    pub encrypts_with: Option<BTreeSet<KeyId>>,
}

impl ReportedKeys {
    /// Reads an answer; `None` if it has no `key_ids`. The report leaves out ids that cannot be parsed, and is empty if
    /// `key_ids` is not an array.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let Ok(Value::Object(report)) = serde_json::from_slice(body) else { return None };
        let ids = |member: &str| -> Option<BTreeSet<KeyId>> {
            let listed = report.get(member)?.as_array().into_iter().flatten();
            Some(listed.filter_map(|id| id.as_str()?.parse().ok()).collect())
        };
        let encrypts_with = ids("primary_key_ids");
        ids("key_ids").map(|decrypts_with| Self { decrypts_with, encrypts_with })
    }
}

/// The keys that every instance must report before it counts as proven for a keyring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NeededKeys {
    /// The keys that the instance must decrypt with.
    pub decrypts_with: BTreeSet<KeyId>,
    /// The key that the instance must encrypt with, if it reports its primary keys.
    pub encrypts_with: Option<KeyId>,
    /// Whether an application that reports no keys at all counts as proven, because the stack declares so.
    pub silence_is_accepted: bool,
}

impl NeededKeys {
    /// The reason why an instance with this report is not proven; `None` if it is proven.
    fn lacking(&self, instance: &str, reported: Option<&ReportedKeys>) -> Option<String> {
        let Some(reported) = reported else {
            let silent = "the target reports no key_ids: let the application report the keys that it reads, or declare with CONSUMERS_KEYRING_AWARE=true that every consumer reads the whole keyring";
            return (!self.silence_is_accepted).then(|| silent.to_owned());
        };
        let who = if instance.is_empty() { "the target".to_owned() } else { format!("instance {instance}") };
        let missing: Vec<String> =
            self.decrypts_with.difference(&reported.decrypts_with).map(ToString::to_string).collect();
        if !missing.is_empty() {
            return Some(format!("{who} does not report {}: it must load the keyring first", missing.join(", ")));
        }
        let other = |id: &KeyId| reported.encrypts_with.as_ref().is_some_and(|with| !with.contains(id));
        self.encrypts_with.filter(other).map(|id| format!("{who} does not encrypt with the new primary key {id}"))
    }
}

/// The meaning of an answer for the token of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A status of 200 to 299.
    Accepted,
    /// 401 or 403.
    Refused,
    /// 300 to 399: the function never sends the token to the redirect's address.
    Redirect(u16),
    /// 429 and 500 to 599: another try may succeed.
    Unwell(u16),
    /// Any other status.
    Failed(u16),
}

impl Verdict {
    /// The verdict of an HTTP status (RFC 9110 §15).
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Accepted,
            401 | 403 => Self::Refused,
            300..=399 => Self::Redirect(status),
            429 | 500..=599 => Self::Unwell(status),
            _ => Self::Failed(status),
        }
    }
}

/// The kinds of requests to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Load the secret again, now.
    Refresh,
    /// Any request that requires the token.
    Verify,
    /// The same request as `Verify`. The function also reads the keys that the instance reports in its answer.
    Keys,
}

impl Operation {
    /// The operation's name in errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Verify | Self::Keys => "verify",
        }
    }
}

/// The application, as a rotation uses it.
pub trait Target: Sync {
    /// Sends one request with `token`, over a connection of its own, so that a load balancer may choose the instance.
    /// `Err` says why there was no answer; it holds no secret value.
    fn ask(
        &self,
        operation: Operation,
        secret_name: &str,
        token: &SecretText,
    ) -> impl Future<Output = Result<Answer, String>> + Send;

    /// The settings of the target.
    fn settings(&self) -> &TargetSettings;

    /// The authority that receives requests for this secret. Secrets with the same authority share one application.
    /// `None` if all secrets share one application, or if there is no authority.
    fn authority(&self, _secret_name: &str) -> Option<String> {
        None
    }

    /// Whether the application has used up the time for its other secrets without an answer. If so, the caller does not
    /// wait again: a request without an immediate answer counts as not answered.
    fn is_given_up(&self, _secret_name: &str) -> bool {
        false
    }
}

/// The settings of the stack's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSettings {
    /// Whether the function can tell the application to load the secret again (`TARGET_REFRESH_URL`).
    pub can_refresh: bool,
    /// The number of instances behind the address (`TARGET_INSTANCES`). With `None`, the first answer counts for all.
    pub instances: Option<NonZeroUsize>,
    /// The longest time for a refresh, and for a verification, of all instances (`TARGET_TIMEOUT`).
    pub timeout: Duration,
}

impl TargetSettings {
    /// Reads `TARGET_INSTANCES` and `TARGET_TIMEOUT`.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`].
    pub fn from_environment(environment: &Environment, can_refresh: bool) -> Result<Self, RotationError> {
        let timeout = environment.duration("TARGET_TIMEOUT")?.unwrap_or(DEFAULT_TARGET_TIMEOUT);
        if !(Duration::from_millis(100)..=Duration::from_secs(240)).contains(&timeout) {
            return Err(invalid(
                "TARGET_TIMEOUT",
                "expected 100ms to 240s, a bit less than a third of the function's timeout",
            ));
        }
        let instances = environment.parse("TARGET_INSTANCES", "a number of instances, at least 1")?;
        Ok(Self { can_refresh, instances, timeout })
    }

    fn expected_instances(&self) -> usize {
        self.instances.map_or(1, NonZeroUsize::get)
    }
}

/// Tells every instance to load the secret again.
///
/// A request is authorised with the first of `tokens`. If the instance refuses that token, the next one is tried,
/// because instances may know different tokens. Each token is tried as many times in a row as there are instances.
/// Behind a round-robin balancer, alternating tokens could meet the wrong instance every time.
///
/// # Errors
/// [`RotationError::RefreshRefused`], [`RotationError::InstanceMissing`], [`RotationError::TargetUnavailable`],
/// [`RotationError::TargetFailed`], [`RotationError::TargetRedirects`].
pub async fn refresh(
    target: &impl Target,
    secret_name: &str,
    tokens: &[&SecretText],
    deadline: Deadline,
) -> Result<(), RotationError> {
    if !target.settings().can_refresh {
        return Ok(());
    }
    let mut round = Round::new(target, Operation::Refresh, secret_name, deadline);
    let instances = target.settings().expected_instances();
    let turns: Vec<_> = tokens.iter().flat_map(|token| std::iter::repeat_n(*token, instances)).collect();
    for (turn, token) in (1..).zip(turns.iter().cycle()) {
        let asked = round.ask(token).await?;
        if round.complete() {
            return Ok(());
        }
        // After a refusal the next request follows at once, until every token has had its turns.
        if asked != Asked::Refused || turn % turns.len() == 0 {
            round.pause(RotationError::RefreshRefused).await?;
        }
    }
    // Without a token, no request can be authorised.
    Err(RotationError::RefreshRefused)
}

/// Proves that every instance accepts `token`, and that a random token is refused. A target that accepts any token
/// proves nothing.
///
/// # Errors
/// `refused` if an instance still refuses `token` at the end of the time, [`RotationError::TargetAcceptsAnyToken`], and
/// those of [`refresh`].
pub async fn prove(
    target: &impl Target,
    secret_name: &str,
    token: &SecretText,
    random: &SecretText,
    refused: RotationError,
    deadline: Deadline,
) -> Result<(), RotationError> {
    let mut accepting = Round::new(target, Operation::Verify, secret_name, deadline);
    loop {
        accepting.ask(token).await?;
        if accepting.complete() {
            break;
        }
        accepting.pause(refused.clone()).await?;
    }
    let mut refusing = Round::new(target, Operation::Verify, secret_name, deadline);
    loop {
        match refusing.ask(random).await? {
            Asked::Accepted => return Err(RotationError::TargetAcceptsAnyToken),
            Asked::Refused => return Ok(()),
            Asked::NoAnswer => refusing.pause(refused.clone()).await?,
        }
    }
}

/// Proves that every instance works with a keyring, by the keys that the instance reports to a request with `token`.
///
/// # Errors
/// [`RotationError::ConsumersUnproven`] if an instance still lacks a key at the end of the time. `refused` if an
/// instance refuses `token`. Also, the errors of [`refresh`].
pub async fn prove_keys(
    target: &impl Target,
    secret_name: &str,
    token: &SecretText,
    needed: &NeededKeys,
    refused: RotationError,
    deadline: Deadline,
) -> Result<(), RotationError> {
    let mut round = Round { needed: Some(needed), ..Round::new(target, Operation::Keys, secret_name, deadline) };
    loop {
        round.ask(token).await?;
        if round.complete() {
            return Ok(());
        }
        let lacking = round.lacking.values().next().cloned();
        let lacking = lacking.map(|problem| RotationError::ConsumersUnproven { problem });
        round.pause(lacking.unwrap_or_else(|| refused.clone())).await?;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Accepted,
    Refused,
    NoAnswer,
}

/// Repeats an operation until enough distinct instances accepted, or until the time is up.
struct Round<'a, T> {
    target: &'a T,
    operation: Operation,
    secret_name: &'a str,
    deadline: Deadline,
    needed: Option<&'a NeededKeys>,
    /// For each instance, the keys that its last answer lacked.
    lacking: BTreeMap<String, String>,
    accepted_by: BTreeSet<String>,
    refused_by: BTreeSet<String>,
    turn: usize,
    pause: Duration,
    last: Asked,
    /// The id in the last answer, if it had one.
    last_instance: Option<String>,
    last_problem: String,
}

impl<'a, T: Target> Round<'a, T> {
    fn new(target: &'a T, operation: Operation, secret_name: &'a str, deadline: Deadline) -> Self {
        Self {
            target,
            operation,
            secret_name,
            deadline: deadline.within(target.settings().timeout, Duration::ZERO),
            needed: None,
            lacking: BTreeMap::new(),
            accepted_by: BTreeSet::new(),
            refused_by: BTreeSet::new(),
            turn: 0,
            pause: FIRST_PAUSE,
            last: Asked::NoAnswer,
            last_instance: None,
            last_problem: "there was no time to ask".to_owned(),
        }
    }

    async fn ask(&mut self, token: &SecretText) -> Result<Asked, RotationError> {
        let operation = self.operation.name();
        let asked = self.target.ask(self.operation, self.secret_name, token);
        let answer = match self.deadline.bound(asked).await {
            None => Err("no answer in time".to_owned()),
            Some(answer) => answer,
        };
        self.last_instance = answer.as_ref().ok().and_then(|answer| answer.instance.clone());
        self.last = match answer {
            Err(problem) => {
                self.last_problem = problem;
                Asked::NoAnswer
            }
            Ok(Answer { verdict, instance, keys }) => match verdict {
                // Answers without an id count as one instance.
                Verdict::Accepted => {
                    let instance = instance.unwrap_or_default();
                    let lacking = self.needed.and_then(|needed| needed.lacking(&instance, keys.as_ref()));
                    self.lacking.remove(&instance);
                    if let Some(lacking) = lacking {
                        self.lacking.insert(instance.clone(), lacking);
                        self.accepted_by.remove(&instance);
                        self.refused_by.insert(instance);
                        self.last = Asked::Refused;
                        return Ok(self.last);
                    }
                    self.refused_by.remove(&instance);
                    self.accepted_by.insert(instance);
                    Asked::Accepted
                }
                // An instance that is refreshed may refuse the other tokens.
                Verdict::Refused => {
                    self.refused_by.extend(instance.filter(|instance| !self.is_done(instance)));
                    Asked::Refused
                }
                Verdict::Redirect(status) => return Err(RotationError::TargetRedirects { operation, status }),
                Verdict::Failed(status) => return Err(RotationError::TargetFailed { operation, status }),
                Verdict::Unwell(status) => {
                    self.last_problem = format!("status {status}");
                    Asked::NoAnswer
                }
            },
        };
        Ok(self.last)
    }

    /// Whether the instance has been refreshed, with any of the tokens.
    fn is_done(&self, instance: &str) -> bool {
        self.operation == Operation::Refresh && self.accepted_by.contains(instance)
    }

    fn complete(&self) -> bool {
        // Instances that report every key do not outvote an instance that lacks one.
        self.accepted_by.len() >= self.target.settings().expected_instances() && self.lacking.is_empty()
    }

    /// The wait before the next try. It doubles each time, up to a bound.
    fn longer_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }

    /// Whether the last request got no answer, and another try would get none.
    fn is_in_vain(&self) -> bool {
        self.last == Asked::NoAnswer && self.target.is_given_up(self.secret_name)
    }

    /// Waits before the next try, longer each time. At the end of the time, the error says which instances were missing
    /// or refused.
    async fn pause(&mut self, refused: RotationError) -> Result<(), RotationError> {
        let (operation, seen, expected) =
            (self.operation.name(), self.accepted_by.len(), self.target.settings().expected_instances());
        // Every instance gets its turn without a pause. With a pause, a duplicate of this invocation with the same
        // pauses could meet the same instance forever, behind a round-robin balancer.
        self.turn += 1;
        if self.last == Asked::Accepted && !self.turn.is_multiple_of(expected) && !self.deadline.left().is_zero() {
            return Ok(());
        }
        let pause = self.longer_pause();
        if !self.is_in_vain() && self.deadline.pause(pause).await {
            return Ok(());
        }
        // The error names the obstacle, whichever instance answered last.
        let is_done = self.last_instance.as_deref().is_some_and(|instance| self.is_done(instance));
        Err(match self.last {
            Asked::Refused if !is_done => refused,
            _ if !self.refused_by.is_empty() => refused,
            Asked::NoAnswer if seen == 0 => {
                RotationError::TargetUnavailable { operation, problem: self.last_problem.clone() }
            }
            Asked::NoAnswer | Asked::Accepted | Asked::Refused => {
                RotationError::InstanceMissing { operation, seen, expected }
            }
        })
    }
}
