//! `sweep`: all secrets of the stack, every hour. What needs a look is seen in the listing; only that costs further calls.

use std::time::{Duration, SystemTime};

use admin_token::AdminToken;
use futures_util::StreamExt as _;
use futures_util::stream;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::error::RotationError;
use rotation::policy::{KEY_SETTINGS, MAX_OVERLAP, TOKEN_SETTINGS};
use rotation::store::{Described, OperationStore};
use rotation::target::http::HttpTarget;
use rotation::telemetry::{Datum, Unit};
use rotation::versions::Stage;
use serde_json::{Value, json};

use crate::actions::Answer;
use crate::error::OperateError;
use crate::secret::{Desk, QUIET, open_rotation};
use crate::{Managed, Operator};

/// Secrets that are looked at more closely at the same time.
const AT_ONCE: usize = 8;
/// Kept free at the end: a closer look that is under way comes to its end.
const RESERVE: Duration = Duration::from_secs(20);
/// A promotion is verified again for so long after it.
const RECENT: Duration = Duration::from_secs(24 * 60 * 60);
/// The most secrets that an answer names of each kind.
const NAMED: usize = 100;

/// What a sweep found.
#[derive(Debug, Default)]
struct Found {
    secrets: u64,
    managed: u64,
    age_max: Duration,
    overdue_max: Duration,
    overdue: Vec<String>,
    stuck: Vec<String>,
    stuck_count: u64,
    verified: u64,
    revoked: Vec<String>,
    overlap_expired: u64,
    old_token_accepted: u64,
    problems: Vec<Value>,
    failed: u64,
}

/// What became of a closer look at one secret.
enum Looked {
    Verified,
    Revoked,
    /// Whether it was an overlap that could not be ended.
    Failed(OperateError, bool),
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

/// Looks at all secrets, from the page `from` on. An error of one secret is told, and does not keep the others from being seen.
///
/// # Errors
/// When the secrets cannot be listed.
pub(crate) async fn sweep<S: OperationStore>(
    operator: &Operator,
    store: &S,
    from: Option<String>,
    deadline: Deadline,
) -> Result<(Answer, Vec<Datum>), OperateError> {
    let mut found = Found::default();
    let mut next = from;
    let rest = loop {
        let page = store.list(operator.stack.name_prefix(), next.as_deref()).await?;
        let closer: Vec<&Described> = page.secrets.iter().filter(|secret| found.see(operator, secret)).collect();
        let looks = stream::iter(closer).map(|secret| async move {
            (
                secret,
                look(operator, store, secret, deadline)
                    .await
                    .unwrap_or_else(|(error, overlap)| Looked::Failed(error, overlap)),
            )
        });
        let mut looks = looks.buffer_unordered(AT_ONCE);
        while let Some((secret, looked)) = looks.next().await {
            found.add(secret, looked);
        }
        next = page.next;
        if next.is_none() || deadline.left() < RESERVE {
            break next;
        }
    };
    let metrics = found.metrics(rest.is_none());
    Ok((found.answer(rest), metrics))
}

impl Found {
    /// Takes note of what the listing tells of a secret. Whether it wants a closer look.
    fn see(&mut self, operator: &Operator, secret: &Described) -> bool {
        self.secrets += 1;
        let active = secret.rotation_enabled && !secret.deleted && secret.replica_of.is_none();
        let Some(kind) = Managed::of(secret).filter(|_| active) else { return false };
        self.managed += 1;
        let age = since(secret, secret.last_rotated);
        self.age_max = self.age_max.max(age.unwrap_or_default());
        if let Some(overdue) = since(secret, secret.next_rotation).filter(|overdue| !overdue.is_zero()) {
            self.overdue_max = self.overdue_max.max(overdue);
            name(&mut self.overdue, secret);
        }
        if open_rotation(secret).is_some() {
            // How old a rotation is, a listing does not tell; the last change is not older.
            if since(secret, secret.last_changed).is_some_and(|changed| changed >= operator.abort_after) {
                self.stuck_count += 1;
                name(&mut self.stuck, secret);
            }
            return false;
        }
        age.is_some_and(|age| age < RECENT) || (kind == Managed::Token && overlap_may_be_over(secret))
    }

    fn add(&mut self, secret: &Described, looked: Looked) {
        match looked {
            Looked::Verified => self.verified += 1,
            Looked::Revoked => name(&mut self.revoked, secret),
            Looked::Failed(error, overlap) => {
                self.failed += 1;
                self.overlap_expired += u64::from(overlap);
                let accepted = matches!(error, OperateError::Rotation(RotationError::TargetAccepts));
                self.old_token_accepted += u64::from(accepted);
                if self.problems.len() < NAMED {
                    let problem = json!({ "secret": secret.name, "error": error.name(), "message": error.to_string() });
                    self.problems.push(problem);
                }
            }
        }
    }

    /// The fleet's metrics. The heartbeat is left out when the sweep did not come to the end.
    fn metrics(&self, complete: bool) -> Vec<Datum> {
        let datum = |name, value, unit| Datum { name, dimensions: vec![], value, unit };
        let hours = |time: Duration| time.as_secs_f64() / 3_600.0;
        #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 secrets")]
        let count = |number: u64| number as f64;
        let mut data = vec![
            datum("SecretAgeMax", hours(self.age_max), Unit::Hours),
            datum("HoursOverdueMax", hours(self.overdue_max), Unit::Hours),
            datum("StuckPending", count(self.stuck_count), Unit::Count),
            datum("OverlapExpired", count(self.overlap_expired), Unit::Count),
            datum("OldTokenAccepted", count(self.old_token_accepted), Unit::Count),
        ];
        if complete {
            data.push(datum("SweepCompleted", 1.0, Unit::Count));
        }
        data
    }

    fn answer(self, rest: Option<String>) -> Answer {
        let members = [
            ("secrets", json!(self.secrets)),
            ("managed", json!(self.managed)),
            ("verified", json!(self.verified)),
            ("revoked", json!(self.revoked)),
            ("overdue", json!(self.overdue)),
            ("stuck", json!(self.stuck)),
            ("failed", json!(self.failed)),
            ("problems", json!(self.problems)),
            ("continueFrom", json!(rest)),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Whether an overlap may have ended that nobody has ended: something was promoted, the longest overlap is not long over, and
/// nothing has changed for a while. What a revocation leaves behind has no `AWSPREVIOUS`.
fn overlap_may_be_over(secret: &Described) -> bool {
    let quiet = since(secret, secret.last_changed).is_some_and(|changed| changed >= QUIET);
    let recent = since(secret, secret.last_rotated).is_some_and(|rotated| rotated < MAX_OVERLAP + RECENT);
    secret.versions.holder(&Stage::Previous).is_some() && quiet && recent
}

async fn look<S: OperationStore>(
    operator: &Operator,
    store: &S,
    secret: &Described,
    deadline: Deadline,
) -> Result<Looked, (OperateError, bool)> {
    let plain = |error: OperateError| (error, false);
    let mut rng = StdRng::try_from_os_rng().map_err(|_| plain(RotationError::NoRandomness.into()))?;
    let secret_id = secret.name.as_str();
    match Managed::of(secret) {
        Some(Managed::Token) => {
            let (kind, stack) = (&operator.token, &operator.stack.for_kind(TOKEN_SETTINGS));
            token(&Desk { kind, store, stack, secret_id, deadline }, &mut rng).await
        }
        Some(Managed::Keys) => {
            let stack = &operator.stack.for_kind(KEY_SETTINGS);
            let kind = operator.keys.as_ref().map_err(|error| plain(error.clone().into()))?;
            let desk = Desk { kind, store, stack, secret_id, deadline };
            desk.verify_current(&mut rng).await.map(|_| Looked::Verified).map_err(plain)
        }
        None => Ok(Looked::Verified),
    }
}

/// Ends the overlap of a token when it is over, else verifies the token.
async fn token<S: OperationStore>(
    desk: &Desk<'_, AdminToken<HttpTarget>, S>,
    rng: &mut StdRng,
) -> Result<Looked, (OperateError, bool)> {
    let seen = desk.look().await.map_err(|error| (error, false))?;
    if seen.overlap_is_over(desk.kind) {
        return desk.revoke(rng).await.map(|_| Looked::Revoked).map_err(|error| (error, true));
    }
    desk.verify(&seen, rng).await.map(|()| Looked::Verified).map_err(|error| (error.into(), false))
}
