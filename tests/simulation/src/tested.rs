//! The kind under test, or one that is broken on purpose.

use std::time::{Duration, SystemTime};

use operate::error::OperateError;
use operate::kinds::{KeyringKind, Kind, OperatedKind, Summary, TokenKind};
use rand::rngs::StdRng;
use rotation::archive::ToArchive;
use rotation::deadline::Deadline;
use rotation::document::{Document, FieldName};
use rotation::error::RotationError;
use rotation::keyring::Keyring;
use rotation::kind::{Phase, Revocation, SecretKind, SecretReference, Subject, Values};
use rotation::policy::{RotationPolicy, Settings};
use rotation::secret::SecretText;
use rotation::versions::VersionId;
use serde_json::{Map, Value};

use crate::model::Model;
use crate::scenario::Sabotage;

pub(crate) struct Tested<M, K> {
    pub(crate) kind: K,
    pub(crate) model: M,
    pub(crate) sabotage: Sabotage,
}

impl<M: Model, K: SecretKind> SecretKind for Tested<M, K> {
    const SETTINGS: Settings = K::SETTINGS;
    const VARIABLES: &'static [&'static str] = K::VARIABLES;

    fn has_target(&self) -> bool {
        self.kind.has_target()
    }

    fn settle_time(&self) -> Duration {
        self.kind.settle_time()
    }

    fn credential(&self, name: &str) -> Result<Option<SecretReference>, RotationError> {
        self.kind.credential(name)
    }

    fn parse(&self, policy: &RotationPolicy, text: SecretText) -> Result<Document, RotationError> {
        self.kind.parse(policy, text)
    }

    fn first(&self, subject: &Subject<'_>, rng: &mut StdRng) -> Result<Document, RotationError> {
        self.kind.first(subject, rng)
    }

    fn create(&self, subject: &Subject<'_>, current: &Document, rng: &mut StdRng) -> Result<Document, RotationError> {
        self.model.create(&self.kind, subject, current, rng)
    }

    fn is_issued(&self) -> bool {
        self.kind.is_issued()
    }

    async fn issue(
        &self,
        subject: &Subject<'_>,
        current: Option<&Document>,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<Document, RotationError> {
        self.kind.issue(subject, current, deadline, rng).await
    }

    async fn revoke(
        &self,
        subject: &Subject<'_>,
        value: &Document,
        deadline: Deadline,
    ) -> Result<Revocation, RotationError> {
        self.kind.revoke(subject, value, deadline).await
    }

    async fn discard(
        &self,
        subject: &Subject<'_>,
        of: &VersionId,
        keep: &[&Document],
        deadline: Deadline,
    ) -> Result<Revocation, RotationError> {
        let keep = if self.sabotage == Sabotage::KeepsNothing { &[] } else { keep };
        self.kind.discard(subject, of, keep, deadline).await
    }

    fn needs_no_delivery(
        &self,
        policy: &RotationPolicy,
        delivered: &Document,
        current: &Document,
        now: SystemTime,
    ) -> Result<bool, RotationError> {
        if self.sabotage == Sabotage::ComparesVersions {
            return Ok(delivered.text() == current.text());
        }
        self.kind.needs_no_delivery(policy, delivered, current, now)
    }

    fn members(&self, policy: &RotationPolicy, value: &Document) -> Vec<FieldName> {
        self.kind.members(policy, value)
    }

    fn check_succession(
        &self,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        created: SystemTime,
    ) -> Result<(), RotationError> {
        self.model.check_succession(&self.kind, subject, old, new, created)
    }

    fn may_be_put_back(&self, subject: &Subject<'_>, old: &Document, new: &Document) -> bool {
        self.sabotage == Sabotage::AlwaysPutsBack || self.kind.may_be_put_back(subject, old, new)
    }

    fn archive(&self, subject: &Subject<'_>, value: &Document) -> Result<Option<ToArchive>, RotationError> {
        if self.sabotage == Sabotage::ArchivesNothing {
            return Ok(None);
        }
        self.kind.archive(subject, value)
    }

    fn ring(&self, policy: &RotationPolicy, value: &Document) -> Result<Option<Keyring>, RotationError> {
        self.kind.ring(policy, value)
    }

    fn report(&self, subject: &Subject<'_>, old: Option<&Document>, new: &Document) -> Map<String, Value> {
        self.kind.report(subject, old, new)
    }

    fn overlap_end(&self, subject: &Subject<'_>, current: &Document, began: SystemTime) -> Option<SystemTime> {
        self.kind.overlap_end(subject, current, began)
    }

    async fn set(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
    ) -> Result<(), RotationError> {
        self.kind.set(subject, values, phase, deadline).await
    }

    async fn test(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        if self.sabotage == Sabotage::BelievesWithoutProof {
            return Ok(());
        }
        self.kind.test(subject, values, phase, deadline, rng).await
    }
}

impl<M: Model, K: OperatedKind> OperatedKind for Tested<M, K> {
    const KIND: Kind = K::KIND;
    const PROVEN_ALONE: Option<&'static str> = K::PROVEN_ALONE;
    const VERIFIED_AS: Phase = K::VERIFIED_AS;

    fn summary(&self, subject: &Subject<'_>, current: &Document) -> Result<Summary, RotationError> {
        self.kind.summary(subject, current)
    }

    fn same_in_use(&self, policy: &RotationPolicy, one: &Document, other: &Document) -> Result<bool, RotationError> {
        self.kind.same_in_use(policy, one, other)
    }

    fn holds_value_before(&self, policy: &RotationPolicy, current: &Document) -> Result<bool, RotationError> {
        self.kind.holds_value_before(policy, current)
    }

    fn replaces_at_once(&self, policy: &RotationPolicy) -> bool {
        self.kind.replaces_at_once(policy)
    }

    fn value_before(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        previous: Option<&Document>,
    ) -> Result<Option<Document>, OperateError> {
        self.kind.value_before(subject, current, previous)
    }
}

impl<M: Model, K: TokenKind> TokenKind for Tested<M, K> {
    fn previous_token(&self, value: &Document) -> Result<Option<SecretText>, RotationError> {
        self.kind.previous_token(value)
    }

    fn without_previous(&self, value: &Document) -> Result<Document, RotationError> {
        self.kind.without_previous(value)
    }

    fn next_token(&self, value: &Document) -> Result<Option<SecretText>, RotationError> {
        self.kind.next_token(value)
    }

    fn with_fresh_tokens(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        rng: &mut StdRng,
    ) -> Result<Document, RotationError> {
        self.kind.with_fresh_tokens(subject, current, rng)
    }

    async fn prove_next(
        &self,
        subject: &Subject<'_>,
        current: &Document,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> Result<(), RotationError> {
        self.kind.prove_next(subject, current, deadline, rng).await
    }

    async fn prove_refused(&self, name: &str, token: &SecretText, deadline: Deadline) -> Result<(), RotationError> {
        match self.kind.prove_refused(name, token, deadline).await {
            // The other instances refused it.
            Err(RotationError::TargetAcceptsRevoked) if self.sabotage == Sabotage::RefusalsOutvote => Ok(()),
            result => result,
        }
    }

    async fn is_refused(&self, name: &str, token: &SecretText, deadline: Deadline) -> Result<bool, RotationError> {
        if self.sabotage == Sabotage::BelievesRefused {
            return Ok(true);
        }
        self.kind.is_refused(name, token, deadline).await
    }
}

impl<M: Model, K: KeyringKind> KeyringKind for Tested<M, K> {
    fn keyring(&self, policy: &RotationPolicy, value: &Document) -> Result<Keyring, RotationError> {
        self.kind.keyring(policy, value)
    }

    fn as_compromised(&self, subject: &Subject<'_>, current: &Document) -> Result<Option<Document>, RotationError> {
        self.kind.as_compromised(subject, current)
    }

    fn censuses_apart(&self, policy: &RotationPolicy) -> Duration {
        self.kind.censuses_apart(policy)
    }
}
