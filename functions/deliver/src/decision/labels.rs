//! What the staging labels of a secret ask for.

use std::time::SystemTime;

use rotation::delivery::{delivered_stage, delivered_to, delivering};
use rotation::event::VersionId;
use rotation::versions::{Stage, Versions};

/// A label `ROTATION-DELIVERING-<unix>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The version that carries it.
    pub version: VersionId,
    /// The label.
    pub stage: Stage,
    /// The time in it.
    pub began: SystemTime,
}

/// The labels of a delivery, on a secret with a current version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The current version.
    pub current: VersionId,
    /// The version that every consumer had when a delivery last ended.
    pub delivered: Option<VersionId>,
    /// The deliveries that have begun, the newest first. There is more than one only after a crash.
    pub delivering: Vec<Mark>,
    /// The label of the consumers that the settings name.
    pub consumers: Stage,
    /// The labels of the consumers that had the delivered version. There is more than one only after a crash.
    pub reached: Vec<(VersionId, Stage)>,
    /// The version that was current before.
    previous: Option<VersionId>,
}

/// What has to be done with the labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Every consumer had the current version. Only copies are compared.
    Delivered,
    /// Every consumer had a version that asks nothing less of it: the label moves when the copies are equal.
    DeliveredByValue {
        /// The version with the label.
        from: VersionId,
    },
    /// The delivery of the current version has begun at this time.
    Continue {
        /// The time.
        began: SystemTime,
    },
    /// The delivery of a version has begun that asks nothing less: its label moves, with its time.
    Follow(Mark),
    /// A delivery begins.
    Begin,
}

impl Labels {
    /// Reads the labels. `consumers` is the label of the consumers that the settings name. `None` if no version is
    /// current.
    #[must_use]
    pub fn of(versions: &Versions, consumers: Stage) -> Option<Self> {
        let current = versions.holder(&Stage::Current)?.clone();
        let mark = |mark: rotation::delivery::Delivering<'_>| Mark {
            version: mark.version.clone(),
            stage: mark.stage.clone(),
            began: mark.began,
        };
        let mut delivering: Vec<Mark> = delivering(versions).map(mark).collect();
        delivering.sort_by_key(|mark| std::cmp::Reverse(mark.began));
        Some(Self {
            delivered: versions.holder(&delivered_stage()).cloned(),
            previous: versions.holder(&Stage::Previous).filter(|previous| **previous != current).cloned(),
            reached: delivered_to(versions).map(|(version, stage)| (version.clone(), stage.clone())).collect(),
            delivering,
            consumers,
            current,
        })
    }

    /// The version with the label of the consumers that the settings name. `None` if the last delivery was to others.
    #[must_use]
    pub fn reached_all(&self) -> Option<&VersionId> {
        self.reached.iter().find(|(_, stage)| *stage == self.consumers).map(|(version, _)| version)
    }

    /// The version whose value decides, if the labels do not decide alone.
    #[must_use]
    pub fn compared(&self) -> Option<&VersionId> {
        let marked = self.delivering.first().map(|mark| &mark.version).or(self.delivered.as_ref());
        marked.filter(|version| **version != self.current)
    }

    /// The version that was current between the compared version and the current one, as far as the labels tell. A
    /// task that started meanwhile holds its value.
    #[must_use]
    pub fn between(&self) -> Option<&VersionId> {
        let compared = self.compared()?;
        self.previous.as_ref().filter(|previous| *previous != compared)
    }

    /// What has to be done. `same` tells whether consumers that hold the versions [`compared`](Self::compared) and
    /// [`between`](Self::between) need nothing more.
    #[must_use]
    pub fn plan(&self, same: bool) -> Plan {
        match (self.delivering.first(), &self.delivered) {
            (Some(mark), _) if mark.version == self.current => Plan::Continue { began: mark.began },
            (Some(mark), _) if same => Plan::Follow(mark.clone()),
            // A consumer that was added proves that it has the value, before a rotation relies on it.
            (None, _) if self.reached_all().is_none() => Plan::Begin,
            (None, Some(delivered)) if *delivered == self.current => Plan::Delivered,
            (None, Some(delivered)) if same => Plan::DeliveredByValue { from: delivered.clone() },
            _ => Plan::Begin,
        }
    }
}
