//! Whether the consumers of a secret have its current value, as actions and sweeps tell it.

use std::time::SystemTime;

use rotation::delivery::{self, is_delivered};
use rotation::error::RotationError;
use rotation::session::Session;
use rotation::store::OperationStore;
use rotation::time::format_timestamp;
use serde::Serialize;

use crate::findings::Findings;
use crate::kinds::OperatedKind;
use crate::session::{Operation, Snapshot};

/// A current value that a consumer lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undelivered {
    /// Since when.
    pub(crate) since: SystemTime,
    /// From when on it is late; `None` before the first delivery of the secret has begun.
    pub(crate) late_from: Option<SystemTime>,
    now: SystemTime,
    is_begun: bool,
}

impl Undelivered {
    fn of(snapshot: &Snapshot) -> Self {
        let undelivered = delivery::Undelivered::of(&snapshot.secret.versions, snapshot.created);
        Self {
            since: undelivered.since(),
            late_from: undelivered.late_from(&snapshot.policy),
            now: snapshot.secret.as_of,
            is_begun: undelivered.began.is_some(),
        }
    }

    /// Whether the delivery takes too long.
    pub(crate) fn is_late(&self) -> bool {
        self.late_from.is_some_and(|late_from| self.now > late_from)
    }
}

/// Whether the consumers of a secret have its current value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum DeliveryStatus {
    /// All have it.
    Delivered,
    /// A delivery has begun.
    Pending {
        since: String,
        late: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        late_from: Option<String>,
        repair: String,
    },
    /// None has begun.
    NotBegun {
        since: String,
        late: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        late_from: Option<String>,
        repair: String,
    },
}

impl DeliveryStatus {
    pub(crate) fn of(undelivered: Option<Undelivered>, secret: &str) -> Self {
        let Some(undelivered) = undelivered else { return Self::Delivered };
        let (since, late_from) = (format_timestamp(undelivered.since), undelivered.late_from.map(format_timestamp));
        let (late, repair) = (undelivered.is_late(), command(secret));
        if undelivered.is_begun {
            Self::Pending { since, late, late_from, repair }
        } else {
            Self::NotBegun { since, late, late_from, repair }
        }
    }
}

/// What to type: it delivers the secret, and prints what is missing.
pub(crate) fn command(secret: &str) -> String {
    format!("rotation deliver {secret}")
}

impl Findings {
    /// A delivery that is not late yet is no fault.
    pub(crate) fn delivery(&mut self, undelivered: Option<Undelivered>, secret: &str) {
        const CHECK: &str = "delivery";
        let Some(undelivered) = undelivered else { return self.good(CHECK, "every consumer has the current value") };
        let (since, repair) = (format_timestamp(undelivered.since), command(secret));
        let begun = if undelivered.is_begun { "" } else { ", and no delivery has begun" };
        let detail = format!("a consumer lacks the current value since {since}{begun}");
        if undelivered.is_late() {
            return self.bad(CHECK, format!("{detail}: no rotation begins, and nothing is revoked"), repair);
        }
        let late_from = undelivered.late_from.map(format_timestamp);
        let late_from = late_from.map_or(String::new(), |late_from| format!("; it is late from {late_from} on"));
        self.good(CHECK, format!("{detail}{late_from}: {repair}"));
    }
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Whether the stack names consumers of the secret.
    pub(crate) fn has_consumers(&self, snapshot: &Snapshot) -> bool {
        self.session.stack.has_consumers(&snapshot.secret.name)
    }

    /// What a consumer lacks; `None` for a secret without consumers, too.
    ///
    /// # Errors
    /// Those of [`is_delivered`].
    pub(crate) async fn undelivered(&self, snapshot: &Snapshot) -> Result<Option<Undelivered>, RotationError> {
        let (secret, policy, current) = (&snapshot.secret, &snapshot.policy, &snapshot.current);
        let Session { kind, store, secret_id, deadline, .. } = self.session;
        let delivered = !self.has_consumers(snapshot)
            || is_delivered(kind, store, (secret_id, secret), (policy, current), deadline).await?;
        Ok((!delivered).then(|| Undelivered::of(snapshot)))
    }

    /// Refuses to take away what a consumer may still use. A compromise does not lift it: whoever lacks the current value
    /// would be locked out.
    ///
    /// # Errors
    /// [`RotationError::NotDelivered`], and those of [`is_delivered`].
    pub(crate) async fn require_delivered(&self, snapshot: &Snapshot) -> Result<(), RotationError> {
        match self.undelivered(snapshot).await? {
            None => Ok(()),
            Some(Undelivered { since, .. }) => {
                Err(RotationError::NotDelivered { name: snapshot.secret.name.clone(), since })
            }
        }
    }
}
