//! Whether the current value has reached every consumer of a secret, by staging labels.
//!
//! The function `deliver` writes the labels. Everything else only reads them:
//!
//! - `ROTATION-DELIVERING-<unix>` is on the version that is being delivered. A deployment that was created after that
//!   time reads the version.
//! - `ROTATION-DELIVERED` is on the version that every consumer has. It counts only while nothing is being delivered.
//! - `ROTATION-DELIVERED-TO-<digits>` tells `deliver` which consumers those were. Nobody else reads it.
//!
//! A delivery that begins attaches the first label, and takes nothing away. A delivery that ends moves the second label
//! and then removes the first one. So a crash at any moment leaves "not delivered", and the next run of `deliver`
//! repairs it.
//!
//! Delivered means delivered by value: a current version that asks nothing new of its consumers is delivered, see
//! [`SecretKind::needs_no_delivery`]. An edit of another member and the end of an overlap restart nobody.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::deadline::Deadline;
use crate::document::Document;
use crate::error::RotationError;
use crate::kind::SecretKind;
use crate::moves::{if_readable, read_version};
use crate::policy::RotationPolicy;
use crate::store::{Described, SecretStore};
use crate::versions::{DELIVERED, DELIVERED_TO, DELIVERING, Stage, VersionId, Versions, digest};

/// The beginning of the label of a version whose value has leaked. The action `compromise` attaches it.
pub const COMPROMISED: &str = "ROTATION-COMPROMISED";

/// The label of the version that every consumer has.
#[must_use]
pub fn delivered_stage() -> Stage {
    Stage::Other(DELIVERED.to_owned())
}

/// The label of a version whose delivery began at `began`, in whole seconds.
#[must_use]
pub fn delivering_stage(began: SystemTime) -> Stage {
    let seconds = began.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Stage::Other(format!("{DELIVERING}{seconds}"))
}

/// The label of these consumers.
pub fn delivered_to_stage<T: AsRef<str>>(consumers: impl IntoIterator<Item = T>) -> Stage {
    Stage::Other(format!("{DELIVERED_TO}{}", &digest(consumers)[..8]))
}

/// The labels of consumers, and their versions. There is more than one only after a crash.
pub fn delivered_to(versions: &Versions) -> impl Iterator<Item = (&VersionId, &Stage)> {
    versions.all().filter(|(_, stage)| stage.as_str().starts_with(DELIVERED_TO))
}

/// A delivery that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivering<'a> {
    /// The version that is being delivered.
    pub version: &'a VersionId,
    /// Its label.
    pub stage: &'a Stage,
    /// When it began, or when the last copy was written.
    pub began: SystemTime,
}

/// The deliveries of a described secret that have begun and not ended. There is more than one only after a crash.
pub fn delivering(versions: &Versions) -> impl Iterator<Item = Delivering<'_>> {
    versions.all().filter_map(|(version, stage)| {
        let seconds = stage.as_str().strip_prefix(DELIVERING)?.parse().ok()?;
        let began = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        Some(Delivering { version, stage, began })
    })
}

/// What the labels of a described secret say about its current version. No read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery<'a> {
    /// Every consumer has the current version.
    Delivered,
    /// Every consumer has this version, and nothing is being delivered. The values decide.
    DeliveredBefore(&'a VersionId),
    /// The current value is not delivered. `began` is the earliest beginning of a delivery, if one has begun.
    NotDelivered {
        /// When the delivery began; `None` if none has begun.
        began: Option<SystemTime>,
    },
}

impl<'a> Delivery<'a> {
    /// Reads the labels.
    #[must_use]
    pub fn of(versions: &'a Versions) -> Self {
        let began = delivering(versions).map(|delivery| delivery.began).min();
        match versions.holder(&delivered_stage()) {
            Some(_) if began.is_some() => Self::NotDelivered { began },
            None => Self::NotDelivered { began },
            Some(delivered) if versions.holder(&Stage::Current) == Some(delivered) => Self::Delivered,
            Some(delivered) => Self::DeliveredBefore(delivered),
        }
    }
}

/// The least time after which a delivery is late. A deployment takes minutes, however short the overlap is.
const LEAST_LATE: Duration = Duration::from_secs(15 * 60);

/// A current version that is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// Whether no version of the secret was ever delivered.
    pub is_first: bool,
    /// When its delivery began, if one has begun.
    pub began: Option<SystemTime>,
    /// When the version was created.
    pub created: SystemTime,
}

impl Undelivered {
    /// Reads the labels. `created` is the time of the current version.
    #[must_use]
    pub fn of(versions: &Versions, created: SystemTime) -> Self {
        let began = delivering(versions).map(|delivery| delivery.began).min();
        Self { is_first: versions.holder(&delivered_stage()).is_none(), began, created }
    }

    /// Since when: since the creation of the version, or since the beginning of the delivery if that is earlier. The
    /// value may be older than its version, because an edit of another member makes a new one. The first delivery
    /// counts from its beginning: a secret that gets its first consumers has been current for long.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        match self.began {
            Some(began) if self.is_first => began,
            began => began.map_or(self.created, |began| began.min(self.created)),
        }
    }

    /// From when on the delivery is late: a quarter of the overlap after [`since`](Self::since), and at least 15
    /// minutes. Three quarters are left to repair it before the application refuses the previous token. `None` before
    /// the first delivery has begun.
    #[must_use]
    pub fn late_from(&self, policy: &RotationPolicy) -> Option<SystemTime> {
        let counts = !self.is_first || self.began.is_some();
        counts.then(|| self.since() + (policy.overlap / 4).max(LEAST_LATE))
    }
}

/// Whether the current version carries the label of a value that has leaked. Such a value is replaced although it is
/// not delivered.
#[must_use]
pub fn is_compromised(versions: &Versions) -> bool {
    let current = versions.holder(&Stage::Current);
    let label = |stage: &Stage| stage.as_str().strip_prefix(COMPROMISED).is_some_and(|rest| rest.starts_with('-'));
    current.is_some_and(|current| versions.stages(current).any(label))
}

/// Whether every consumer has what `current`, the value of `AWSCURRENT`, asks of it. A delivered value that is gone, that
/// nobody can read any more, or that is not of this kind does not tell. At most one read; a retried read takes up to three more.
///
/// # Errors
/// The service refuses the read.
pub async fn is_delivered<K: SecretKind, S: SecretStore>(
    kind: &K,
    store: &S,
    (secret_id, secret): (&str, &Described),
    (policy, current): (&RotationPolicy, &Document),
    deadline: Deadline,
) -> Result<bool, RotationError> {
    let version = match Delivery::of(&secret.versions) {
        Delivery::Delivered => return Ok(true),
        Delivery::NotDelivered { .. } => return Ok(false),
        Delivery::DeliveredBefore(version) => version,
    };
    let delivered = if_readable(read_version(store, secret_id, version, deadline).await)?;
    let Some(delivered) = delivered else { return Ok(false) };
    let needs_none = |value: &Document| kind.needs_no_delivery(policy, value, current, secret.as_of);
    // The secret's layout or policy may have changed since. Then the next delivery repairs it.
    Ok(kind.parse(policy, delivered.text).and_then(|value| needs_none(&value)).unwrap_or(false))
}
