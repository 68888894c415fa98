//! `sweep`: all secrets of the stack, every hour. What needs a look is seen in the listing; only that costs further calls.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::error::RotationError;
use rotation::lambda::AUDIT;
use rotation::policy::{KEY_SETTINGS, TOKEN_SETTINGS};
use rotation::store::{Described, OperationStore};
use rotation::telemetry::{Datum, Unit};
use serde_json::{Value, json};

use crate::actions::Answer;
use crate::error::OperateError;
use crate::secret::{Desk, open_rotation};
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
    unproven: u64,
    skipped: u64,
    problems: Vec<Value>,
    failed: u64,
}

/// What became of a closer look at one secret.
enum Looked {
    Verified,
    /// Nobody is asked, and the value does not prove itself.
    Unproven,
    Failed(OperateError),
    /// There was no time left for it.
    Skipped,
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
    let complete = loop {
        let page = store.list(operator.stack.name_prefix(), next.as_deref()).await?;
        let closer: Vec<&Described> = page.secrets.iter().filter(|secret| found.see(operator, secret)).collect();
        let looks = stream::iter(closer).map(|secret| async move {
            if deadline.left() < RESERVE {
                return (secret, Looked::Skipped);
            }
            (secret, look(operator, store, secret, deadline).await.unwrap_or_else(Looked::Failed))
        });
        let mut looks = looks.buffer_unordered(AT_ONCE);
        while let Some((secret, looked)) = looks.next().await {
            found.add(secret, looked);
        }
        if found.skipped > 0 {
            // This page once more.
            break false;
        }
        next = page.next;
        if next.is_none() || deadline.left() < RESERVE {
            break next.is_none();
        }
    };
    let metrics = found.metrics(complete);
    Ok((found.answer(complete, next), metrics))
}

impl Found {
    /// Takes note of what the listing tells of a secret. Whether it wants a closer look.
    fn see(&mut self, operator: &Operator, secret: &Described) -> bool {
        self.secrets += 1;
        let active = secret.rotation_enabled && !secret.deleted && secret.replica_of.is_none();
        if Managed::of(secret).is_none() || !active {
            return false;
        }
        self.managed += 1;
        let age = since(secret, secret.last_rotated);
        self.age_max = self.age_max.max(age.unwrap_or_default());
        if let Some(overdue) = since(secret, secret.next_rotation).filter(|overdue| !overdue.is_zero()) {
            self.overdue_max = self.overdue_max.max(overdue);
            tracing::warn!(target: AUDIT, secret = secret.name, hours = overdue.as_secs() / 3_600, "overdue");
            name(&mut self.overdue, secret);
        }
        if open_rotation(secret).is_some() {
            // How old a rotation is, a listing does not tell; the last change is not older.
            if since(secret, secret.last_changed).is_some_and(|changed| changed >= operator.abort_after) {
                tracing::warn!(target: AUDIT, secret = secret.name, "stuck");
                self.stuck_count += 1;
                name(&mut self.stuck, secret);
            }
            return false;
        }
        age.is_some_and(|age| age < RECENT)
    }

    fn add(&mut self, secret: &Described, looked: Looked) {
        match looked {
            Looked::Verified => self.verified += 1,
            Looked::Unproven => self.unproven += 1,
            Looked::Skipped => self.skipped += 1,
            Looked::Failed(error) => {
                self.failed += 1;
                tracing::error!(target: AUDIT, secret = secret.name, error_type = error.name(), %error, "does not verify");
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
            datum("NotVerified", count(self.failed), Unit::Count),
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
            ("overdue", json!(self.overdue)),
            ("stuck", json!(self.stuck)),
            ("failed", json!(self.failed)),
            ("problems", json!(self.problems)),
            ("complete", json!(complete)),
            ("continueFrom", json!(next)),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Verifies the current value of a secret.
async fn look<S: OperationStore>(
    operator: &Operator,
    store: &S,
    secret: &Described,
    deadline: Deadline,
) -> Result<Looked, OperateError> {
    let mut rng = StdRng::try_from_os_rng().map_err(|_| RotationError::NoRandomness)?;
    let secret_id = secret.name.as_str();
    let told = match Managed::of(secret) {
        Some(Managed::Token) => {
            let (kind, stack) = (&operator.token, &operator.stack.for_kind(TOKEN_SETTINGS));
            Desk { kind, store, stack, secret_id, deadline }.verify_current(&mut rng).await?
        }
        Some(Managed::Keys) => {
            let stack = &operator.stack.for_kind(KEY_SETTINGS);
            let kind = operator.keys.as_ref().map_err(Clone::clone)?;
            Desk { kind, store, stack, secret_id, deadline }.verify_current(&mut rng).await?
        }
        None => return Ok(Looked::Unproven),
    };
    Ok(if told["verified"] == true { Looked::Verified } else { Looked::Unproven })
}
