//! `sweep`: all secrets of the stack, every hour. What needs a look is seen in the listing; only that costs further calls.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rotation::deadline::Deadline;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::keyring::KEY_SETTINGS;
use rotation::kind::SecretKind;
use rotation::lambda::{AUDIT, randomness};
use rotation::marked_ring;
use rotation::store::{Described, ListFilter, OperationStore, Page, StoreError, StoreErrorKind};
use rotation::target::Target as _;
use rotation::telemetry::{Datum, Unit};
use rotation::time::format_timestamp;
use rotation::token::TOKEN_SETTINGS;
use rotation::versions::Stage;
use serde_json::{Value, json};

use crate::actions::Answer;
use crate::digest::{Digest, Window};
use crate::error::OperateError;
use crate::operable::Operable;
use crate::request::Action;
use crate::secret::{Desk, Seen, new_version, open_rotation, unfinished};
use crate::services::{Reencryption, Started};
use crate::tidy::is_untidy;
use crate::{Managed, Operator};

/// Secrets that are looked at more closely at the same time.
const AT_ONCE: usize = 8;
/// Kept free at the end at least, so that a closer look that is under way comes to its end.
const RESERVE: Duration = Duration::from_secs(20);
/// The longest that the start of a re-encryption may take; it is a quarter of a sweep's time at most.
const REENCRYPTION: Duration = Duration::from_secs(60);
/// A revocation refreshes, proves, refreshes and proves once more, and proves that a token is dead.
const SETTLES: u32 = 3;
/// A promotion is verified again for so long after it.
const RECENT: Duration = Duration::from_secs(24 * 60 * 60);
/// Nothing is revoked by itself so soon after a change: consumers and people may be in the middle of something.
const QUIET: Duration = Duration::from_secs(60 * 60);
/// For so long after its end a sweep tries to end an overlap. Then it is somebody's own way back, or an alarm has long said so.
const TRIED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Waits before a secret is looked at again whose calls were throttled.
const THROTTLED_PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];
/// The most secrets that one sweep looks at more closely: 1.5 KB of memory each were measured.
const MOST_CLOSER: usize = 20_000;
/// The most secrets that an answer names of each kind.
const NAMED: usize = 100;

const SWEEP_TAG: &str = "SWEEP_TAG";
/// The longest key and value of a tag (Secrets Manager API reference, Tag).
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;

/// Whether a filter of ListSecrets takes this text and means it: what begins with `!` it means the reverse of (Secrets Manager API
/// reference, Filter).
fn is_filter(text: &str, longest: usize) -> bool {
    let taken = |c: char| c.is_ascii_alphanumeric() || " :_@/+=.-!".contains(c);
    (1..=longest).contains(&text.len()) && text.chars().all(taken) && !text.starts_with('!')
}

/// The secrets that a sweep looks at, as the stack chooses them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// A tag that they have, with this value if there is one (`SWEEP_TAG`).
    tag: Option<(String, Option<String>)>,
}

impl Scope {
    /// Reads `SWEEP_TAG`: `key` or `key=value`, in characters that a filter of ListSecrets takes.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`].
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let Some(text) = environment.get(SWEEP_TAG) else { return Ok(Self::default()) };
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
        if !is_filter(key, LONGEST_KEY) || value.is_some_and(|value| !is_filter(value, LONGEST_VALUE)) {
            let problem = format!(
                "expected key or key=value, at most {LONGEST_KEY} and {LONGEST_VALUE} ASCII letters, digits, blanks and :_@/+=.-! \
                 and no ! at their beginning: ListSecrets filters by nothing else"
            );
            return Err(RotationError::InvalidConfiguration { variable: SWEEP_TAG.to_owned(), problem });
        }
        Ok(Self { tag: Some((key.to_owned(), value.map(str::to_owned))) })
    }

    fn filter(&self, prefix: Option<&str>) -> ListFilter {
        let (tag_key, tag_value) = self.tag.clone().unzip();
        ListFilter { prefix: prefix.map(str::to_owned), tag_key, tag_value: tag_value.flatten() }
    }

    /// The service finds beginnings, and keys and values in different tags.
    fn contains(&self, secret: &Described, prefix: Option<&str>) -> bool {
        let named = prefix.is_none_or(|prefix| secret.name.starts_with(prefix));
        let tagged = self.tag.as_ref().is_none_or(|(key, value)| {
            secret.tags.get(key).is_some_and(|tagged| value.as_ref().is_none_or(|value| value == tagged))
        });
        named && tagged
    }
}

/// What a sweep found.
#[derive(Debug, Default)]
struct Found {
    /// Lambda's id of the request, for the audit record.
    request_id: String,
    secrets: u64,
    managed: u64,
    age_max: Duration,
    overdue_max: Duration,
    overdue: Vec<String>,
    stuck: Vec<String>,
    stuck_count: u64,
    unfinished: Vec<Value>,
    unfinished_count: u64,
    verified: u64,
    unproven: u64,
    skipped: u64,
    revoked: Vec<String>,
    revoked_count: u64,
    overlap_expired: u64,
    old_token_accepted: u64,
    keys_missing: Vec<String>,
    keys_missing_count: u64,
    problems: Vec<Value>,
    failed: u64,
}

/// What became of a closer look at one secret.
enum Looked {
    /// Nothing is wrong with it.
    Well {
        /// Whether it was proven to work; nothing when it was not asked, because its rotation is long ago.
        proven: Option<bool>,
        /// What is to be said of its last rotation.
        told: String,
        /// The overlap is over; it is ended when the secret has not been changed for a while.
        postponed: bool,
    },
    /// The overlap was over, and was ended; which version is current since. Or a revocation was proven.
    Revoked(Option<String>),
    Failed {
        error: OperateError,
        problem: Problem,
    },
    /// There was no time left for it.
    Skipped,
}

/// What a secret has a problem with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    /// Its current value does not work, or cannot be read.
    Value,
    /// Its overlap could not be ended.
    Overlap,
    /// Keys have disappeared from its ring, or nothing can tell whether they have.
    Ring,
}

impl Problem {
    fn of_ring(error: &RotationError) -> Self {
        match error {
            RotationError::KeysMissing { .. } | RotationError::MarkedRingUnreadable { .. } => Self::Ring,
            _ => Self::Value,
        }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Value => "does not verify",
            Self::Overlap => "overlap not ended",
            Self::Ring => "keys are missing",
        }
    }
}

fn name(names: &mut Vec<String>, secret: &Described) {
    if names.len() < NAMED {
        names.push(secret.name.clone());
    }
}

/// How long ago a time was, by the service's clock, which tells whole seconds: what has just been lies in its future.
fn since(secret: &Described, time: Option<SystemTime>) -> Option<Duration> {
    time.map(|time| secret.as_of.duration_since(time).unwrap_or_default())
}

/// What a sweep is asked for.
#[derive(Debug)]
pub(crate) struct Sweep {
    /// The page to begin with.
    pub(crate) from: Option<String>,
    /// The time since the sweep before, when a schedule asked for it.
    pub(crate) window: Option<Window>,
    pub(crate) request_id: String,
    pub(crate) deadline: Deadline,
}

/// Looks at all secrets. An error of one secret is told, and does not keep the others from being seen.
///
/// # Errors
/// When the secrets cannot be listed.
pub(crate) async fn sweep<S: OperationStore>(
    function: &str,
    operator: &Operator,
    store: &S,
    Sweep { from, window, request_id, deadline }: Sweep,
) -> Result<(Answer, Vec<Datum>, Option<Digest>), OperateError> {
    let mut found = Found { request_id, ..Found::default() };
    let mut digest = window.map(Digest::new);
    let mut rng = randomness()?;
    let reencryption = reencrypt(operator, store, &mut found, digest.as_mut(), deadline).await;
    let reserve = operator.longest_look().max(RESERVE).min(deadline.left() / 2);
    let mut closer = Closer::default();
    let next =
        see_all(operator, store, (&mut found, digest.as_mut()), (&mut closer, &mut rng), from, (deadline, reserve));
    let next = next.await?;
    // In another order each time: where the time is not enough for all, it is not the same ones that are left out.
    closer.secrets.shuffle(&mut rng);
    found.skipped = closer.left_out;
    let looks = stream::iter(closer.secrets).map(|(secret, wanted)| async move {
        let looked = look(operator, store, &secret, wanted, (deadline, reserve)).await;
        (secret, looked)
    });
    let mut looks = looks.buffer_unordered(AT_ONCE);
    while let Some((secret, looked)) = looks.next().await {
        found.add(&secret, looked, digest.as_mut());
    }
    drop(looks);
    let complete = next.is_none() && found.skipped == 0;
    let metrics = found.metrics(function, complete);
    let mut told = found.answer(complete, next);
    told.extend(reencryption.map(|told| ("reencryption".to_owned(), told)));
    Ok((told, metrics, digest))
}

/// The secrets that want a closer look.
#[derive(Default)]
struct Closer {
    secrets: Vec<(Described, Look)>,
    left_out: u64,
}

impl Closer {
    /// Takes a secret in. When there is no room, any one of all of them is left out.
    fn add(&mut self, secret: Described, look: Look, rng: &mut StdRng) {
        if self.secrets.len() < MOST_CLOSER {
            self.secrets.push((secret, look));
            return;
        }
        self.left_out += 1;
        let all = MOST_CLOSER.saturating_add(usize::try_from(self.left_out).unwrap_or(usize::MAX));
        if let Some(place) = self.secrets.get_mut(rng.random_range(0..all)) {
            *place = (secret, look);
        }
    }
}

/// Lists all secrets, takes note of what the listing tells, and collects those that want a closer look. Where to go on, when it could not
/// come to the end.
///
/// # Errors
/// When not even the first page can be listed.
async fn see_all<S: OperationStore>(
    operator: &Operator,
    store: &S,
    (found, mut digest): (&mut Found, Option<&mut Digest>),
    (closer, rng): (&mut Closer, &mut StdRng),
    from: Option<String>,
    (deadline, reserve): (Deadline, Duration),
) -> Result<Option<String>, OperateError> {
    let prefix = operator.stack.name_prefix();
    let filter = operator.scope.filter(prefix);
    let mut next = from;
    let mut seen_any = false;
    loop {
        let page = match list(store, &filter, next.as_deref(), deadline).await {
            Ok(page) => page,
            // What was found so far is told all the same, and where to go on.
            Err(error) if seen_any => {
                tracing::error!(target: AUDIT, error_type = error.name(), %error, "the sweep stops");
                return Ok(next);
            }
            Err(error) => return Err(error.into()),
        };
        seen_any = true;
        for secret in page.secrets {
            if operator.scope.contains(&secret, prefix)
                && let Some(look) = found.see(operator, &secret, digest.as_deref_mut())
            {
                closer.add(secret, look, rng);
            }
        }
        next = page.next;
        if next.is_none() || deadline.left() < reserve {
            return Ok(next);
        }
    }
}

/// Has rows follow their key. It comes before the listing, so that no sweep is too short for it. What it tells of that; nothing when there
/// is nothing to do.
async fn reencrypt<S: OperationStore>(
    operator: &Operator,
    store: &S,
    found: &mut Found,
    mut digest: Option<&mut Digest>,
    deadline: Deadline,
) -> Option<Value> {
    let reencryption = operator.services.reencryption()?;
    let deadline = deadline.within(REENCRYPTION.min(deadline.left() / 4), Duration::ZERO);
    let follow = follow(operator, store, reencryption, (&found.request_id, digest.as_deref_mut()), deadline);
    let followed = deadline.bound(follow).await;
    followed.unwrap_or_else(|| Err(reencryption.not_started("no answer in time".to_owned()))).unwrap_or_else(|error| {
        let secret = reencryption.secret.as_str();
        found.failed += 1;
        found.tell_problem(secret, "rows are not re-encrypted", &error, digest);
        Some(json!({ "secret": secret, "problem": error.to_string() }))
    })
}

/// Sees to it that the archive has every key of the ring, and starts the re-encryption of the rows when the ring has keys that they may be
/// under.
async fn follow<S: OperationStore>(
    operator: &Operator,
    store: &S,
    reencryption: &Reencryption,
    (request_id, digest): (&str, Option<&mut Digest>),
    deadline: Deadline,
) -> Result<Option<Value>, OperateError> {
    let kind = operator.keys.as_ref().map_err(Clone::clone)?;
    let stack = &operator.stack.for_kind(KEY_SETTINGS);
    let desk = Desk { kind, store, stack, secret_id: reencryption.secret.as_str(), deadline };
    let secret = store.describe(&reencryption.secret).await?;
    if secret.versions.holder(&Stage::Current).is_none() {
        // There is no key yet, and no row.
        return Ok(None);
    }
    // Neither the archive nor the rows need the application.
    let seen = match desk.see_value(secret).await {
        // An empty object, which the first rotation fills.
        Err(OperateError::Rotation(RotationError::EmptyValue)) => return Ok(None),
        seen => seen?,
    };
    // Also those that were in use before there was an archive, or that a person put into the ring.
    if let Some(archive) = kind.archive(&seen.subject(), &seen.current)? {
        archive.keep(store, deadline).await?;
    }
    let old_keys = kind.ring(&seen.policy, &seen.current)?.map_or(0, |ring| ring.secondary().len());
    if old_keys == 0 || open_rotation(&seen.secret).is_some() {
        return Ok(None);
    }
    let (secret, version) = (&seen.secret.name, &seen.current_id);
    let whole = desk.require_all_keys(&seen).await;
    let mut told = json!({ "secret": secret, "version": version, "oldKeys": old_keys, "started": false });
    if let Err(error) = whole {
        told["because"] = json!(error.to_string());
        return Ok(Some(told));
    }
    // Whoever keeps an older ring could not read what a worker writes under a key that became primary at once. When that was, no stage
    // tells for certain; it was not after the last change.
    let cache_time = kind.cache_time();
    if since(&seen.secret, seen.secret.last_changed).is_some_and(|changed| changed < cache_time) {
        told["because"] = json!("consumers may not have read it since it was changed");
        // A rotation is over after a day. What changes the secret since then, tags for example, may go on doing so.
        if since(&seen.secret, Some(seen.created)).is_some_and(|age| age > cache_time + RECENT) {
            tracing::warn!(target: AUDIT, secret, "rows do not follow while something changes the secret");
            digest.into_iter().for_each(|digest| digest.waits(secret));
        }
        return Ok(Some(told));
    }
    match operator.services.reencrypt(reencryption, &seen.secret, version, deadline).await? {
        Started::Now(execution) => {
            tracing::info!(target: AUDIT, request_id, secret, action = "reencrypt", %version, execution, result = "begun", "operation");
            (told["started"], told["execution"]) = (json!(true), json!(execution));
        }
        Started::Before(execution) => told["execution"] = json!(execution),
        Started::Ended { execution, status, at } => {
            tracing::warn!(target: AUDIT, secret, execution, status, "rows do not follow");
            digest.into_iter().for_each(|digest| digest.not_followed(secret, &execution, &status, at));
            (told["execution"], told["ended"]) = (json!(execution), json!(status));
        }
    }
    Ok(Some(told))
}

/// One page of the listing; when the service throttles it, once more after a while.
async fn list<S: OperationStore>(
    store: &S,
    filter: &ListFilter,
    from: Option<&str>,
    deadline: Deadline,
) -> Result<Page, StoreError> {
    let mut pauses = THROTTLED_PAUSES.into_iter();
    loop {
        match (store.list(filter, from).await, pauses.next()) {
            (Err(error), Some(pause)) if error.kind == StoreErrorKind::Throttled && deadline.pause(pause).await => {}
            (result, _) => return result,
        }
    }
}

/// Why a secret is looked at more closely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    /// It was rotated not long ago.
    recent: bool,
    /// Its overlap may be over, or was ended without a proof.
    overlap: bool,
    /// Its current ring is not the one that is marked as complete.
    ring: bool,
    /// Actions that died have left stages behind.
    untidy: bool,
}

impl Look {
    fn if_any(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

impl Found {
    /// Takes note of what the listing tells of a secret. Whether it wants a closer look.
    fn see(&mut self, operator: &Operator, secret: &Described, mut digest: Option<&mut Digest>) -> Option<Look> {
        self.secrets += 1;
        let managed = Managed::of(secret).filter(|_| !secret.deleted && secret.replica_of.is_none())?;
        // Also where somebody has switched rotation off in the middle of it. One that was changed a moment ago may be in the
        // hands of an action that is under way.
        let left = since(secret, secret.last_changed).is_some_and(|changed| changed >= operator.abort_after);
        if let Some(action) = unfinished(secret).filter(|_| left) {
            tracing::warn!(target: AUDIT, secret = secret.name, action = action.name(), "unfinished");
            self.unfinished_count += 1;
            if self.unfinished.len() < NAMED {
                self.unfinished.push(json!({ "secret": secret.name, "action": action }));
            }
            digest.iter_mut().for_each(|digest| digest.unfinished(secret, action.name(), operator.abort_after));
        }
        let ring = managed == Managed::Keys && is_ring_unmarked(secret);
        let untidy = is_untidy(secret);
        if !secret.rotation_enabled {
            return Look { ring, untidy, ..Look::default() }.if_any();
        }
        self.managed += 1;
        let age = since(secret, secret.last_rotated);
        self.age_max = self.age_max.max(age.unwrap_or_default());
        if let Some(overdue) = since(secret, secret.next_rotation).filter(|overdue| !overdue.is_zero()) {
            self.overdue_max = self.overdue_max.max(overdue);
            tracing::warn!(target: AUDIT, secret = secret.name, hours = overdue.as_secs() / 3_600, "overdue");
            name(&mut self.overdue, secret);
            digest.iter_mut().for_each(|digest| digest.overdue(secret));
        }
        if open_rotation(secret).is_some() {
            // How old a rotation is, a listing does not tell; the last change is not older.
            if left {
                tracing::warn!(target: AUDIT, secret = secret.name, "stuck");
                self.stuck_count += 1;
                name(&mut self.stuck, secret);
                digest.iter_mut().for_each(|digest| digest.stuck(secret, operator.abort_after));
            }
            return Look { ring, untidy, ..Look::default() }.if_any();
        }
        let recent = age.is_some_and(|age| age < RECENT);
        let revocable = managed == Managed::Token;
        let overlap = revocable && (overlap_may_be_over(operator, secret) || (left && is_being_revoked(secret)));
        Look { recent, overlap, ring, untidy }.if_any()
    }

    fn add(&mut self, secret: &Described, looked: Looked, mut digest: Option<&mut Digest>) {
        match looked {
            Looked::Well { proven, told, postponed } => {
                self.verified += u64::from(proven == Some(true));
                self.unproven += u64::from(proven == Some(false));
                self.overlap_expired += u64::from(postponed);
                digest.iter_mut().for_each(|digest| digest.rotated(secret, &told));
            }
            Looked::Revoked(version) => {
                self.revoked_count += 1;
                let reason = "the overlap is over";
                let request_id = self.request_id.as_str();
                tracing::info!(target: AUDIT, request_id, secret = secret.name, action = "revoke", reason, version, result = "done", "operation");
                name(&mut self.revoked, secret);
                digest.iter_mut().for_each(|digest| digest.revoked(secret));
            }
            Looked::Skipped => self.skipped += 1,
            Looked::Failed { error, problem } => {
                self.failed += u64::from(problem == Problem::Value);
                self.overlap_expired += u64::from(problem == Problem::Overlap);
                if problem == Problem::Ring {
                    self.keys_missing_count += 1;
                    name(&mut self.keys_missing, secret);
                }
                self.old_token_accepted +=
                    u64::from(error == OperateError::Rotation(RotationError::TargetAcceptsRevoked));
                self.tell_problem(&secret.name, problem.told(), &error, digest);
            }
        }
    }

    fn tell_problem(&mut self, secret: &str, what: &str, error: &OperateError, mut digest: Option<&mut Digest>) {
        tracing::error!(target: AUDIT, secret, error_type = error.name(), %error, "{what}");
        if self.problems.len() < NAMED {
            let problem = json!({ "secret": secret, "error": error.name(), "message": error.to_string() });
            self.problems.push(problem);
        }
        digest.iter_mut().for_each(|digest| digest.problem(secret, what, error));
    }

    /// The fleet's metrics, each under the function's name: one account may have several stacks, and the heartbeat of one must not
    /// stand for another's. It is left out when the sweep did not come to the end.
    fn metrics(&self, function: &str, complete: bool) -> Vec<Datum> {
        let datum =
            |name, value, unit| Datum { name, dimensions: vec![("Function", function.to_owned())], value, unit };
        let hours = |time: Duration| time.as_secs_f64() / 3_600.0;
        #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 secrets")]
        let count = |number: u64| number as f64;
        let mut data = vec![
            datum("SecretAgeMax", hours(self.age_max), Unit::Hours),
            datum("HoursOverdueMax", hours(self.overdue_max), Unit::Hours),
            datum("StuckPending", count(self.stuck_count), Unit::Count),
            datum("NotVerified", count(self.failed), Unit::Count),
            datum("OverlapExpired", count(self.overlap_expired), Unit::Count),
            datum("OldTokenAccepted", count(self.old_token_accepted), Unit::Count),
            datum("UnfinishedOperations", count(self.unfinished_count), Unit::Count),
            datum("KeysMissing", count(self.keys_missing_count), Unit::Count),
        ];
        if complete {
            data.push(datum("SweepCompleted", 1.0, Unit::Count));
        }
        data
    }

    fn answer(self, complete: bool, next: Option<String>) -> Answer {
        let members = [
            ("secrets", json!(self.secrets)),
            ("managed", json!(self.managed)),
            ("verified", json!(self.verified)),
            ("unproven", json!(self.unproven)),
            ("revoked", json!(self.revoked_count)),
            ("revokedSecrets", json!(self.revoked)),
            ("overlapsExpired", json!(self.overlap_expired)),
            ("overdue", json!(self.overdue)),
            ("stuck", json!(self.stuck)),
            ("unfinished", json!(self.unfinished)),
            ("keysMissing", json!(self.keys_missing)),
            ("failed", json!(self.failed)),
            ("problems", json!(self.problems)),
            ("skipped", json!(self.skipped)),
            ("complete", json!(complete)),
            ("continueFrom", json!(next)),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Whether the current ring is not the one that is marked as complete, or none is.
fn is_ring_unmarked(secret: &Described) -> bool {
    let current = secret.versions.holder(&Stage::Current);
    current.is_some() && secret.versions.holder(&marked_ring::stage()) != current
}

/// Whether the listing leaves it open that an overlap is over which nobody has ended.
fn overlap_may_be_over(operator: &Operator, secret: &Described) -> bool {
    let previous = secret.versions.holder(&Stage::Previous);
    if previous.is_none() || previous == secret.versions.holder(&Stage::Current) {
        return false;
    }
    // What is wrong with a policy is told when the value is looked at.
    let Ok(policy) = operator.stack.for_kind(TOKEN_SETTINGS).for_secret(&secret.tags, secret.as_of) else {
        return false;
    };
    let began = secret.last_rotated.or(secret.last_changed);
    since(secret, began).is_some_and(|age| age >= policy.overlap && age < policy.overlap + TRIED_FOR)
}

/// Whether the overlap has ended, by the value itself.
fn overlap_is_over<K: Operable>(kind: &K, seen: &Seen) -> bool {
    let end = seen.overlap_end(kind);
    match seen.current.field() {
        // A JSON value says itself whether there is one; AWSPREVIOUS may be a person's own way back.
        Some(_) => end.is_some_and(|end| end < seen.secret.as_of),
        None => {
            seen.secret.versions.holder(&Stage::Previous).is_some() && end.is_none_or(|end| end < seen.secret.as_of)
        }
    }
}

/// Whether a revocation was not proven, and is not part of a compromise, which its own action has to finish.
fn is_being_revoked(secret: &Described) -> bool {
    unfinished(secret) == Some(Action::Revoke)
}

/// A closer look at one secret; when the service throttles it, once more after a while.
async fn look<S: OperationStore>(
    operator: &Operator,
    store: &S,
    secret: &Described,
    wanted: Look,
    (deadline, reserve): (Deadline, Duration),
) -> Looked {
    let mut pauses = THROTTLED_PAUSES.into_iter();
    loop {
        if deadline.left() < reserve {
            return Looked::Skipped;
        }
        let secret_id = secret.name.as_str();
        let looked = match Managed::of(secret) {
            Some(Managed::Token) => {
                let (kind, stack) = (&operator.token, &operator.stack.for_kind(TOKEN_SETTINGS));
                look_at(&Desk { kind, store, stack, secret_id, deadline }, secret, wanted, operator.abort_after).await
            }
            Some(Managed::Keys) => match &operator.keys {
                Err(error) => Looked::Failed { error: error.clone().into(), problem: Problem::Value },
                Ok(kind) => {
                    let stack = &operator.stack.for_kind(KEY_SETTINGS);
                    look_at(&Desk { kind, store, stack, secret_id, deadline }, secret, wanted, operator.abort_after)
                        .await
                }
            },
            None => return Looked::Skipped,
        };
        let Looked::Failed { error, .. } = &looked else { return looked };
        if is_silence(error) {
            let target = operator.token.target();
            operator.views.give_up(target.and_then(|target| target.authority(&secret.name)));
        }
        if deadline.left().is_zero() {
            // It says nothing of the secret.
            return Looked::Skipped;
        }
        let throttled = matches!(error, OperateError::Rotation(error) if is_throttled(error));
        match pauses.next() {
            Some(pause) if throttled && deadline.pause(pause).await => {}
            _ => return looked,
        }
    }
}

/// Whether the application, or one of its instances, did not answer, which says nothing of this secret.
fn is_silence(error: &OperateError) -> bool {
    let reason = match error {
        OperateError::Rotation(reason) => reason,
        OperateError::CurrentDoesNotVerify(reason) => reason.as_ref(),
        _ => return false,
    };
    matches!(reason, RotationError::TargetUnavailable { .. } | RotationError::InstanceMissing { .. })
}

fn is_throttled(error: &RotationError) -> bool {
    match error {
        RotationError::Store(error) => error.kind == StoreErrorKind::Throttled,
        RotationError::CredentialUnavailable { reason, .. } | RotationError::ArchiveUnavailable { reason, .. } => {
            is_throttled(reason)
        }
        _ => false,
    }
}

/// Takes away what actions left behind that died, and says whether keys are missing from the current ring; one that is whole is marked when the secret is in nobody's hands: a rotation
/// may still be put back, and a retirement has moved the mark before it makes its ring current.
async fn look_after<K: Operable, S: OperationStore>(
    desk: &Desk<'_, K, S>,
    quiet: Duration,
) -> Result<(), OperateError> {
    let seen = match desk.look_value().await {
        // An empty object, which the first rotation fills.
        Err(OperateError::Rotation(RotationError::EmptyValue)) => return Ok(()),
        seen => seen?,
    };
    if let Err(error) = desk.tidy(&seen).await {
        let secret = seen.secret.name.as_str();
        tracing::warn!(secret, %error, "stages that tell nothing any more were not taken away");
    }
    desk.require_all_keys(&seen).await?;
    if since(&seen.secret, seen.secret.last_changed).is_some_and(|changed| changed >= quiet) {
        desk.keep_ring(&seen).await?;
    }
    Ok(())
}

async fn look_at<K: Operable, S: OperationStore>(
    desk: &Desk<'_, K, S>,
    secret: &Described,
    wanted: Look,
    quiet: Duration,
) -> Looked {
    let mut rng = match randomness() {
        Ok(rng) => rng,
        Err(error) => return Looked::Failed { error: error.into(), problem: Problem::Value },
    };
    if (wanted.ring || wanted.untidy)
        && let Err(error) = look_after(desk, quiet).await
    {
        let problem = match &error {
            OperateError::Rotation(error) => Problem::of_ring(error),
            _ => Problem::Value,
        };
        return Looked::Failed { error, problem };
    }
    if !wanted.recent && !wanted.overlap {
        return Looked::Well { proven: None, told: String::new(), postponed: false };
    }
    let failed = |overlap| {
        let problem = if overlap { Problem::Overlap } else { Problem::Value };
        move |error| Looked::Failed { error, problem }
    };
    // What the listing says may be some minutes old: before anything is said against a secret, or taken away, it is described.
    let mut seen = desk.see(secret.clone()).await;
    let wants = |seen: &Result<Seen, OperateError>| match (wanted, seen) {
        (Look { overlap: true, .. }, Ok(seen)) => overlap_is_over(desk.kind, seen) || is_being_revoked(&seen.secret),
        (_, seen) => seen.is_err(),
    };
    if wants(&seen) {
        seen = desk.look().await;
    }
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => return failed(wanted.overlap)(error),
    };
    let mut postponed = false;
    if wanted.overlap {
        if overlap_is_over(desk.kind, &seen) {
            let quiet = since(&seen.secret, seen.secret.last_changed).is_some_and(|changed| changed >= QUIET);
            if quiet && open_rotation(&seen.secret).is_none() {
                let revoked = desk.revoke_seen(seen, &new_version(&mut rng), &mut rng).await;
                let version = |answer: Answer| answer["version"].as_str().map(str::to_owned);
                return revoked.map_or_else(failed(true), |answer| Looked::Revoked(version(answer)));
            }
            postponed = true;
        } else {
            match desk.finish_revocation(&seen, &mut rng).await {
                Err(error) => return failed(true)(error),
                Ok(true) => return Looked::Revoked(None),
                Ok(false) => {}
            }
        }
    }
    if wanted.recent
        && let Err(error) = verify_again(desk, &seen, &mut rng).await
    {
        return failed(false)(error);
    }
    let told = told_of_overlap(desk.kind, &seen);
    Looked::Well { proven: wanted.recent.then(|| !desk.proofs().is_empty()), told, postponed }
}

/// Proves what was promoted not long ago; what fails is looked at once more.
async fn verify_again<K: Operable, S: OperationStore>(
    desk: &Desk<'_, K, S>,
    seen: &Seen,
    rng: &mut StdRng,
) -> Result<(), OperateError> {
    match desk.verify(seen, rng).await.map_err(OperateError::from) {
        // Another look at the secret would be no answer either.
        Err(error) if is_silence(&error) => Err(error),
        Err(_) => Ok(desk.verify(&desk.look().await?, rng).await?),
        verified => verified,
    }
}

/// What is to be said of a rotation's overlap.
fn told_of_overlap<K: Operable>(kind: &K, seen: &Seen) -> String {
    match seen.overlap_end(kind).filter(|_| K::REVOCABLE) {
        Some(end) if end > seen.secret.as_of => format!("the old token is accepted until {}", format_timestamp(end)),
        Some(_) => "the overlap with the old token is over".to_owned(),
        None if K::REVOCABLE => "the old token is not accepted any more".to_owned(),
        None => "what the old keys encrypted stays readable".to_owned(),
    }
}

impl Operator {
    /// The longest that a closer look takes, when the application does not answer.
    fn longest_look(&self) -> Duration {
        let of_keys = self.keys.as_ref().map_or(Duration::ZERO, SecretKind::settle_time);
        self.token.settle_time().max(of_keys) * SETTLES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(tag: &str) -> Result<Scope, RotationError> {
        Scope::from_environment(&[(SWEEP_TAG.to_owned(), tag.to_owned())].into_iter().collect())
    }

    #[test]
    fn a_sweep_tag_that_listsecrets_does_not_take_is_refused() {
        for (tag, key, value) in [
            ("service", "service", None),
            ("cost centre=a=b", "cost centre", Some("a=b")),
            ("owner=team@example.com!", "owner", Some("team@example.com!")),
        ] {
            let expected = Some((key.to_owned(), value.map(str::to_owned)));
            assert_eq!(scope(tag).map(|scope| scope.tag), Ok(expected), "{tag}");
        }
        let long = format!("{}=x", "k".repeat(129));
        for tag in ["service=caf\u{e9}", "a,b", "!service", "service=!shop", "=shop", "service=", "k[0]=v", &long] {
            let refused = scope(tag).map(|scope| scope.tag);
            assert!(
                matches!(&refused, Err(RotationError::InvalidConfiguration { variable, .. }) if variable == SWEEP_TAG),
                "{tag}: {refused:?}"
            );
        }
    }
}
