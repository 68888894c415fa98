//! The closer check of one secret.

use std::time::Duration;

use issued_credential::IssuedCredential;
use issued_credential::issuer::Issuer;
use rand::rngs::StdRng;
use rotation::error::RotationError;
use rotation::issue::{InUse, Until};
use rotation::kind::SecretKind;
use rotation::lambda::randomness;
use rotation::rollback::refuses_credential;
use rotation::session::Session;
use rotation::store::{Described, OperationStore, StoreErrorKind};
use rotation::target::Target as _;
use rotation::time::format_timestamp;
use rotation::versions::Stage;

use crate::error::OperateError;
use crate::kinds::{KeyringKind, Kind, OperatedKind, TokenKind};
use crate::operator::Operator;
use crate::session::{Operation, Snapshot};
use crate::sweep::context::Sweep;
use crate::sweep::listing::Checks;
use crate::sweep::overlap::OverlapEnd;
use crate::sweep::report::{CheckResult, Failure, Part};
use crate::sweep::timing::{THROTTLED_PAUSES, since};

/// A revocation refreshes, proves, refreshes and proves once more, and proves that a token is dead.
const SETTLES: u32 = 3;

impl Operator {
    /// The longest that a check takes, when the application does not answer.
    pub(super) fn longest_check(&self) -> Duration {
        let of_keys = self.keys.as_ref().map_or(Duration::ZERO, SecretKind::settle_time);
        let of_issued = self.issued.as_ref().map_or(Duration::ZERO, SecretKind::settle_time);
        self.token.settle_time().max(of_keys).max(of_issued) * SETTLES
    }
}

impl Failure {
    fn of_value(error: impl Into<OperateError>) -> Self {
        Self { error: error.into(), of: Part::Value }
    }

    fn of_overlap(error: impl Into<OperateError>) -> Self {
        Self { error: error.into(), of: Part::Overlap }
    }

    fn of_ring(error: OperateError) -> Self {
        let of = match &error {
            OperateError::Rotation(RotationError::KeysMissing { .. } | RotationError::MarkedRingUnreadable { .. }) => {
                Part::Ring
            }
            _ => Part::Value,
        };
        Self { error, of }
    }
}

/// Nothing is wrong with a secret whose value was not checked.
const UNCHECKED: CheckResult =
    CheckResult::Well { proven: None, overlap: String::new(), accepted_until: None, postponed: false };

impl Sweep<'_> {
    /// Checks one secret; when the service throttles that, once more after a while.
    pub(super) async fn check<S: OperationStore>(
        &self,
        store: &S,
        secret: &Described,
        checks: Checks,
        reserve: Duration,
    ) -> CheckResult {
        let mut pauses = THROTTLED_PAUSES.into_iter();
        loop {
            if self.deadline.left() < reserve {
                return CheckResult::Skipped;
            }
            let failure = match self.check_once(store, secret, checks).await {
                Ok(result) => return result,
                Err(failure) => failure,
            };
            if is_silence(&failure.error) {
                let target = self.operator.token.target();
                self.operator.observations.give_up(target.and_then(|target| target.authority(&secret.name)));
            }
            if self.deadline.left().is_zero() {
                // It says nothing of the secret.
                return CheckResult::Skipped;
            }
            let throttled = matches!(&failure.error, OperateError::Rotation(error) if is_throttled(error));
            match pauses.next() {
                Some(pause) if throttled && self.deadline.pause(pause).await => {}
                _ => return CheckResult::Failed(failure),
            }
        }
    }

    async fn check_once<S: OperationStore>(
        &self,
        store: &S,
        secret: &Described,
        checks: Checks,
    ) -> Result<CheckResult, Failure> {
        let (secret_id, deadline, quiet) = (secret.name.as_str(), self.deadline, self.operator.abort_after);
        let mut rng = randomness().map_err(Failure::of_value)?;
        let Some(of) = self.operator.kind_of(secret) else { return Ok(UNCHECKED) };
        let stack = &self.operator.stack_of(of);
        match of {
            Kind::Token => {
                let kind = &self.operator.token;
                let operation = Operation::new(Session { kind, store, stack, secret_id, deadline });
                operation.check_token(secret, checks, quiet, &mut rng).await
            }
            Kind::Keyring => {
                let kind = self.operator.keyring().map_err(Failure::of_value)?;
                let operation = Operation::new(Session { kind, store, stack, secret_id, deadline });
                operation.check_keyring(secret, checks, quiet, &mut rng).await
            }
            Kind::Issued if let Some(kind) = &self.operator.issued => {
                let operation = Operation::new(Session { kind, store, stack, secret_id, deadline });
                operation.check_issued(checks, quiet, &mut rng).await
            }
            Kind::Issued | Kind::Other => Ok(UNCHECKED),
        }
    }
}

/// Whether the application, or one of its instances, did not answer, which says nothing of this secret. No check gives that reason inside
/// another error: only what puts a value back does, and no check does so. The other errors with a reason are of reads.
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

impl<K: TokenKind, S: OperationStore> Operation<'_, K, S> {
    async fn check_token(
        &self,
        secret: &Described,
        checks: Checks,
        quiet: Duration,
        rng: &mut StdRng,
    ) -> Result<CheckResult, Failure> {
        if checks.leftovers {
            self.check_stages(quiet).await?;
        }
        if !checks.value && !checks.overlap {
            return Ok(UNCHECKED);
        }
        let (snapshot, postponed) = if checks.overlap {
            match self.end_overlap(secret, rng).await.map_err(Failure::of_overlap)? {
                OverlapEnd::Ended(version) => return Ok(CheckResult::Revoked(version)),
                OverlapEnd::ReplacementWaits => {
                    let overlap =
                        "fresh tokens are current, and servers that were started before refuse them".to_owned();
                    return Ok(CheckResult::Well { proven: None, overlap, accepted_until: None, postponed: true });
                }
                OverlapEnd::Stays { snapshot, postponed } => (*snapshot, postponed),
            }
        } else {
            (self.listed_snapshot(secret).await.map_err(Failure::of_value)?, false)
        };
        let proven = self.prove(&snapshot, checks, rng).await?;
        let end = snapshot.overlap_end(self.session.kind);
        let accepted_until = end.filter(|end| *end > snapshot.secret.as_of);
        let overlap = match (accepted_until, end) {
            (Some(end), _) => format!("the old token is accepted until {}", format_timestamp(end)),
            (None, Some(_)) => "the overlap with the old token is over".to_owned(),
            (None, None) => "the old token is not accepted any more".to_owned(),
        };
        Ok(CheckResult::Well { proven, overlap, accepted_until, postponed })
    }
}

impl<K: KeyringKind, S: OperationStore> Operation<'_, K, S> {
    async fn check_keyring(
        &self,
        secret: &Described,
        checks: Checks,
        quiet: Duration,
        rng: &mut StdRng,
    ) -> Result<CheckResult, Failure> {
        if checks.ring || checks.leftovers {
            self.check_stages(quiet).await?;
        }
        if !checks.value {
            return Ok(UNCHECKED);
        }
        let snapshot = self.listed_snapshot(secret).await.map_err(Failure::of_value)?;
        let proven = self.prove(&snapshot, checks, rng).await?;
        let overlap = "what the old keys encrypted stays readable".to_owned();
        Ok(CheckResult::Well { proven, overlap, accepted_until: None, postponed: false })
    }
}

impl<I: Issuer, S: OperationStore> Operation<'_, IssuedCredential<I>, S> {
    /// Revokes what nobody uses any more, when the secret has not been changed for a while, and proves the current credential.
    async fn check_issued(&self, checks: Checks, quiet: Duration, rng: &mut StdRng) -> Result<CheckResult, Failure> {
        if checks.leftovers {
            self.check_stages(quiet).await?;
        }
        if !checks.value && !checks.overlap {
            return Ok(UNCHECKED);
        }
        // What the listing says may be some minutes old.
        let snapshot = self.snapshot().await.map_err(Failure::of_value)?;
        let end = snapshot.overlap_end(self.session.kind).filter(|end| *end > snapshot.secret.as_of);
        let changed = snapshot.secret.last_changed;
        let waits = self.has_to_wait(&snapshot).await.map_err(Failure::of_overlap)?;
        let mut later = false;
        if let (true, false, Some(changed)) = (checks.overlap, waits, changed) {
            let until = Until::OverlapSince(changed);
            let in_use = InUse { current: Some((&snapshot.current, snapshot.created)), until };
            let unused = self.session.revoke_unused(&snapshot, &snapshot.subject(), in_use, rng).await;
            let unused = unused.map_err(|error| match refuses_credential(&error) {
                // The one in use, which is asked about before an older one is revoked.
                true => Failure::of_value(error),
                false => Failure::of_overlap(error),
            })?;
            if unused.gone > 0 {
                return Ok(CheckResult::Revoked(None));
            }
            later = unused.later > 0;
        }
        let postponed = later || checks.overlap && waits && end.is_none();
        let accepted_until = end.filter(|_| snapshot.secret.versions.holder(&Stage::Previous).is_some());
        let proven = self.prove(&snapshot, checks, rng).await?;
        let next = snapshot.secret.next_rotation;
        let overlap = match self.session.kind.expires(&snapshot.current) {
            Some(expires) if next.is_none_or(|next| next >= expires) => {
                format!("the credential ends at {}, before the next rotation", format_timestamp(expires))
            }
            Some(expires) => format!("the credential ends at {}", format_timestamp(expires)),
            None => "the issuer named no end of the credential".to_owned(),
        };
        Ok(CheckResult::Well { proven, overlap, accepted_until, postponed })
    }
}

impl<K: OperatedKind, S: OperationStore> Operation<'_, K, S> {
    /// Reads a secret as it was listed. What the listing says may be some minutes old: before anything is said against a secret, it is
    /// described.
    async fn listed_snapshot(&self, listed: &Described) -> Result<Snapshot, OperateError> {
        match self.snapshot_of(listed.clone()).await {
            Ok(snapshot) => Ok(snapshot),
            Err(_) => self.snapshot().await,
        }
    }

    /// Takes away the staging labels of actions that died, and refuses a current ring that lacks keys. A complete ring is marked when
    /// nobody is at work with the secret. Before that, a rotation may still be put back, and a retirement moves the mark before it makes
    /// its ring current.
    async fn check_stages(&self, quiet: Duration) -> Result<(), Failure> {
        let snapshot = match self.value_snapshot().await {
            // An empty object, which the first rotation fills.
            Err(OperateError::Rotation(RotationError::EmptyValue)) => return Ok(()),
            snapshot => snapshot.map_err(Failure::of_ring)?,
        };
        if let Err(error) = self.tidy(&snapshot).await {
            let secret = snapshot.secret.name.as_str();
            tracing::warn!(secret, %error, "stages that tell nothing any more were not taken away");
        }
        self.require_all_keys(&snapshot).await.map_err(|error| Failure::of_ring(error.into()))?;
        if since(&snapshot.secret, snapshot.secret.last_changed).is_some_and(|changed| changed >= quiet) {
            self.keep_ring(&snapshot).await.map_err(|error| Failure::of_ring(error.into()))?;
        }
        Ok(())
    }

    /// Proves what was promoted not long ago; what fails is read and proven once more. Whether anything was proven; nothing when that is
    /// not to be checked.
    async fn prove(&self, snapshot: &Snapshot, checks: Checks, rng: &mut StdRng) -> Result<Option<bool>, Failure> {
        if !checks.value {
            return Ok(None);
        }
        match self.verify(snapshot, rng).await.map_err(OperateError::from) {
            Ok(()) => {}
            // Another read of the secret would be no answer either.
            Err(error) if is_silence(&error) => return Err(Failure::of_value(error)),
            Err(_) => {
                let snapshot = self.snapshot().await.map_err(Failure::of_value)?;
                self.verify(&snapshot, rng).await.map_err(Failure::of_value)?;
            }
        }
        Ok(Some(self.proof().verified))
    }
}
