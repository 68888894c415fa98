//! A secret with consumers: how it is read, and how the labels of its delivery are written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rotation::delivery::{Undelivered, delivered_stage, delivered_to_stage, delivering_stage};
use rotation::document::{Document, is_empty_object};
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::lambda::AUDIT;
use rotation::marked_ring::MarkedRing;
use rotation::members::texts;
use rotation::moves::{if_readable, move_if_there, read_version};
use rotation::policy::RotationPolicy;
use rotation::store::{Described, SecretStore, StoreErrorKind};
use rotation::time::format_timestamp;
use rotation::versions::Stage;

use super::context::Run;
use crate::decision::labels::{Labels, Mark, Plan};
use crate::error::DeliverError;
use crate::kinds::SourceKind;
use crate::report::{ConsumerReport, Progress, SecretReport, State};
use crate::settings::Consumer;

/// The shortest part of a value that is looked for in texts of others.
const SHORTEST_SECRET: usize = 8;

/// A secret with consumers, as a run has read it.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    pub(super) consumers: &'a [Consumer],
    pub(super) kind: SourceKind<'a>,
    pub(super) policy: RotationPolicy,
    pub(super) secret: Described,
    pub(super) labels: Labels,
    pub(super) value: Document,
    pub(super) created: SystemTime,
    /// The time of the label, while the current value is being delivered.
    pub(super) began: Option<SystemTime>,
    /// Whether this run has attached the label. Then it is for this run to wait, and to start deployments.
    pub(super) is_ours: bool,
    /// The values of other versions that were read. A version never gets another value, so each is read once.
    values: BTreeMap<VersionId, Option<Document>>,
    /// How far each consumer is, in the order of the settings.
    pub(super) progress: Vec<Progress>,
    plan: Plan,
}

/// What was read of a secret.
#[derive(Debug)]
pub(super) enum ReadSource<'a> {
    /// It has a value.
    Value(Box<Source<'a>>),
    /// Nothing was ever stored in it.
    NoValue,
}

impl Source<'_> {
    /// `None` if the current value is delivered.
    fn undelivered(&self) -> Option<Undelivered> {
        let is_first = self.labels.delivered.is_none();
        self.began.map(|began| Undelivered { is_first, began: Some(began), created: self.created })
    }

    /// Whether a text of somebody else's holds a token or a key of the current value.
    pub(super) fn is_told_by(&self, text: &str) -> bool {
        let members = self.kind.members(&self.policy, &self.value);
        let held = members.iter().filter_map(|member| self.value.member(member).ok().flatten());
        // Of a value without a rotated member every text counts.
        let whole = if self.value.field().is_none() { texts(self.value.text()) } else { vec![] };
        let is_told = |part: &str| part.len() >= SHORTEST_SECRET && text.contains(part);
        // The keys of a ring stand in a list.
        held.chain(whole).any(|held| held.expose().split(',').any(|part| is_told(part.trim())))
    }

    pub(super) fn report(&self, now: SystemTime) -> SecretReport {
        let consumers = self.consumers.iter().zip(&self.progress);
        let consumers: Vec<_> =
            consumers.map(|(consumer, progress)| ConsumerReport::of(consumer.to_string(), progress)).collect();
        let undelivered = self.undelivered();
        let late_from = undelivered.and_then(|undelivered| undelivered.late_from(&self.policy));
        let begun = if undelivered.is_some() { State::Pending } else { State::Delivered };
        SecretReport {
            secret: self.name.to_owned(),
            state: consumers.iter().map(|consumer| consumer.state).max().unwrap_or(begun).max(begun),
            version: Some(self.labels.current.to_string()),
            since: undelivered.map(|undelivered| format_timestamp(undelivered.since())),
            late: late_from.is_some_and(|late_from| now > late_from),
            error: None,
            reason: None,
            consumers,
        }
    }
}

impl<S: SecretStore, E, F, N> Run<'_, S, E, F, N> {
    /// Reads a secret: its labels, its policy, its current value, and the value that decides whether it is delivered.
    /// Two calls, one or two more while the labels do not decide alone, and one while a keyring is not marked.
    ///
    /// # Errors
    /// [`RotationError::KeysMissing`] if the keyring lacks keys. Also, the secret cannot be read or understood.
    pub(super) async fn read<'s>(
        &'s self,
        name: &'s str,
        consumers: &'s [Consumer],
    ) -> Result<ReadSource<'s>, DeliverError> {
        let secret = self.ports.store.describe(name).await?;
        self.clock.set(secret.as_of);
        secret.require_usable()?;
        self.deliverer.stack.check_name(&secret.name)?;
        let kind = SourceKind::of(&self.deliverer.kinds, &secret)?;
        let policy = self.deliverer.stack.for_kind(kind.settings()).for_secret(&secret.tags, secret.as_of)?;
        let consumers_stage = delivered_to_stage(restarted(consumers));
        let Some(labels) = Labels::of(&secret.versions, consumers_stage) else { return Ok(ReadSource::NoValue) };
        let current = labels.current.clone();
        let value = read_version(self.ports.store, name, &current, self.deadline).await?;
        let value = value.ok_or_else(|| RotationError::ValueMissing { version: current.clone() })?;
        let pending = secret.versions.holder(&Stage::Pending).unwrap_or(&current);
        let may_be_empty = policy.field.is_some() || matches!(kind, SourceKind::ByHand);
        if may_be_empty && is_empty_object(&value.text) && secret.versions.only_ever(&[&current, pending]) {
            return Ok(ReadSource::NoValue);
        }
        let created = value.created;
        let value = kind.parse(&policy, value.text)?;
        // Somebody wrote an older ring. No consumer gets it: a copy that held the lost keys would lose them too.
        let marked = MarkedRing::of(self.ports.store, name, &secret, self.deadline);
        kind.require_all_keys(marked, &policy, (&current, &value)).await?;
        let mut source = Source {
            plan: Plan::Begin,
            progress: vec![Progress::Delivered; consumers.len()],
            began: None,
            is_ours: false,
            values: BTreeMap::new(),
            name,
            consumers,
            kind,
            policy,
            secret,
            labels,
            value,
            created,
        };
        let same = self.needs_nothing(&mut source).await?;
        source.plan = source.labels.plan(same);
        Ok(ReadSource::Value(Box::new(source)))
    }

    /// Whether consumers that hold one of the versions that decide need nothing more.
    async fn needs_nothing(&self, source: &mut Source<'_>) -> Result<bool, DeliverError> {
        let labels = source.labels.clone();
        for version in labels.compared().into_iter().chain(labels.between()) {
            let Some(held) = self.value_of(source, version).await? else { return Ok(false) };
            let now = self.clock.time();
            if !source.kind.needs_no_delivery(&source.policy, &held, &source.value, now).unwrap_or(false) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The value of a version of the secret; `None` if it has none, or one that nobody can read any more, or one that is
    /// not of this kind. One call, once.
    async fn value_of(&self, source: &mut Source<'_>, version: &VersionId) -> Result<Option<Document>, DeliverError> {
        if let Some(known) = source.values.get(version) {
            return Ok(known.clone());
        }
        let value = if_readable(self.ports.store.get(source.name, version).await)?;
        let value = value.and_then(|value| source.kind.parse(&source.policy, value.text).ok());
        source.values.insert(version.clone(), value.clone());
        Ok(value)
    }

    /// What the secret held: the values of all other versions with labels that were ever current. One call for each
    /// that was not read yet.
    pub(super) async fn history(&self, source: &mut Source<'_>) -> Result<Vec<Document>, DeliverError> {
        let versions = source.secret.versions.clone();
        let mut known: Vec<&VersionId> = versions
            .all()
            // A value that is only pending was never delivered, so a copy that holds it has it from elsewhere.
            .filter(|(version, stage)| **stage != Stage::Pending && **version != source.labels.current)
            .map(|(version, _)| version)
            .collect();
        known.dedup();
        let mut history = Vec::new();
        for version in known {
            history.extend(self.value_of(source, version).await?);
        }
        Ok(history)
    }

    /// Attaches the label of the delivery, as the labels and the values ask for.
    pub(super) async fn mark(&self, source: &mut Source<'_>) -> Result<(), DeliverError> {
        match source.plan.clone() {
            Plan::Delivered | Plan::DeliveredByValue { .. } => Ok(()),
            Plan::Begin => self.begin(source).await,
            Plan::Continue { began } => {
                source.began = Some(began);
                self.take_off_what_is_over(source).await;
                Ok(())
            }
            Plan::Follow(mark) => {
                let current = source.labels.current.clone();
                if !self.dry_run {
                    let (from, to) = (Some(&mark.version), Some(&current));
                    let moved = self.ports.store.move_stage(source.name, mark.stage.clone(), from, to).await;
                    moved.map_err(|error| conflict(source, error))?;
                }
                source.began = Some(mark.began);
                if let Some(first) = source.labels.delivering.first_mut() {
                    *first = Mark { version: current, ..mark };
                }
                self.take_off_what_is_over(source).await;
                Ok(())
            }
        }
    }

    /// Attaches `ROTATION-DELIVERING-<now>` to the current version, and takes off what it replaces. One call, and one
    /// for each label that goes.
    pub(super) async fn begin(&self, source: &mut Source<'_>) -> Result<(), DeliverError> {
        let stage = delivering_stage(self.clock.time());
        let began = whole_seconds(self.clock.time());
        let current = source.labels.current.clone();
        if !self.dry_run {
            if source.labels.delivering.iter().all(|mark| mark.stage != stage) {
                let of_end =
                    usize::from(source.labels.delivered.is_none()) + usize::from(source.labels.reached_all().is_none());
                source.secret.require_stages(1 + of_end)?;
            }
            let moved = self.ports.store.move_stage(source.name, stage.clone(), None, Some(&current)).await;
            moved.map_err(|error| conflict(source, error))?;
        }
        let version = current.as_str();
        if source.began.is_none() && !self.dry_run {
            let secret = source.name;
            tracing::info!(target: AUDIT, request_id = self.request_id, secret, version, result = "begun", "delivery");
        }
        (source.began, source.is_ours) = (Some(began), true);
        source.labels.delivering.retain(|mark| mark.stage != stage);
        source.labels.delivering.insert(0, Mark { version: current, stage, began });
        self.take_off_what_is_over(source).await;
        Ok(())
    }

    /// Takes off every label of a delivery that has begun but the newest, and `ROTATION-DELIVERED` if the current
    /// version is delivered to other consumers: this delivery counts from its own beginning, as the first one does.
    /// What cannot be taken off now, the next run takes.
    async fn take_off_what_is_over(&self, source: &mut Source<'_>) {
        let labels = &mut source.labels;
        let older = labels.delivering.split_off(1.min(labels.delivering.len()));
        let mut over: Vec<_> = older.into_iter().map(|mark| (mark.version, mark.stage)).collect();
        if labels.reached_all().is_none() && labels.delivered.as_ref() == Some(&labels.current) {
            over.extend(labels.delivered.take().map(|version| (version, delivered_stage())));
        }
        if self.dry_run {
            return;
        }
        for (version, stage) in over {
            let taken = move_if_there(self.ports.store, source.name, stage, Some(&version), None).await;
            if let Err(error) = taken {
                tracing::warn!(target: AUDIT, secret = source.name, %error, "a label was not taken off");
            }
        }
    }

    /// Whether the label that this run saw or attached is still where it was. If not, another run goes on, or another
    /// value is current. One call.
    pub(super) async fn is_still_marked(&self, source: &Source<'_>) -> Result<bool, DeliverError> {
        let now = self.ports.store.describe(source.name).await?;
        self.clock.set(now.as_of);
        let is_current = now.versions.holder(&Stage::Current) == Some(&source.labels.current);
        let labels = Labels::of(&now.versions, source.labels.consumers.clone());
        let newest = labels.and_then(|labels| labels.delivering.into_iter().next());
        Ok(is_current && newest.as_ref() == source.labels.delivering.first())
    }

    /// Ends the delivery of a secret whose consumers all have its value. Returns whether this run ended it. At most
    /// three calls, and one for each label that is left of other consumers.
    ///
    /// # Errors
    /// Another run was faster, or the service refuses a call. The next run ends it.
    pub(super) async fn end(&self, source: &mut Source<'_>) -> Result<bool, DeliverError> {
        if self.dry_run || source.progress.iter().any(|progress| *progress != Progress::Delivered) {
            return Ok(false);
        }
        let (store, current) = (self.ports.store, source.labels.current.clone());
        if source.labels.delivered.as_ref() != Some(&current) {
            // The move names the version from which this run saw it. Otherwise it could undo the end of a later delivery.
            let from = source.labels.delivered.as_ref();
            let moved = store.move_stage(source.name, delivered_stage(), from, Some(&current)).await;
            moved.map_err(|error| conflict(source, error))?;
            source.labels.delivered = Some(current.clone());
        }
        self.tell_consumers(source).await?;
        for mark in std::mem::take(&mut source.labels.delivering) {
            move_if_there(store, source.name, mark.stage, Some(&mark.version), None).await?;
        }
        let ended = source.began.take().is_some();
        if ended {
            let (secret, version) = (source.name, current.as_str());
            tracing::info!(target: AUDIT, request_id = self.request_id, secret, version, result = "done", "delivery");
        }
        Ok(ended)
    }

    /// Moves the label of the consumers to the current version, and takes off those of other consumers.
    async fn tell_consumers(&self, source: &mut Source<'_>) -> Result<(), DeliverError> {
        let (store, labels) = (self.ports.store, &source.labels);
        let (current, stage) = (labels.current.clone(), labels.consumers.clone());
        if labels.reached_all() != Some(&current) {
            let moved = store.move_stage(source.name, stage.clone(), labels.reached_all(), Some(&current)).await;
            moved.map_err(|error| conflict(source, error))?;
        }
        for (version, other) in labels.reached.iter().filter(|(_, other)| *other != stage) {
            move_if_there(store, source.name, other.clone(), Some(version), None).await?;
        }
        source.labels.reached = vec![(current, stage)];
        Ok(())
    }
}

/// The services and functions, in alphabetical order. A copy is compared in every run, so it needs no label.
fn restarted(consumers: &[Consumer]) -> BTreeSet<String> {
    let is_copy = |consumer: &&Consumer| matches!(consumer, Consumer::Copy { .. });
    consumers.iter().filter(|consumer| !is_copy(consumer)).map(ToString::to_string).collect()
}

/// The error of a label that another run has moved at the same moment.
fn conflict(source: &Source<'_>, error: rotation::store::StoreError) -> DeliverError {
    match error.kind {
        StoreErrorKind::Conflict => DeliverError::SourceChanged { name: source.name.to_owned() },
        _ => error.into(),
    }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}
