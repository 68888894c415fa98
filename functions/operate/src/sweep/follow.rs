//! How the stored rows follow their key: the archive has every key of the ring, and rows under old keys are re-encrypted.

use std::time::Duration;

use rotation::error::RotationError;
use rotation::kind::SecretKind as _;
use rotation::lambda::AUDIT;
use rotation::session::Session;
use rotation::store::OperationStore;
use rotation::versions::Stage;

use crate::error::OperateError;
use crate::kinds::{KeyringKind as _, Kind};
use crate::marker::open_rotation;
use crate::services::{self, Started};
use crate::session::{Operation, Snapshot};
use crate::sweep::context::Sweep;
use crate::sweep::report::{Due, Reencryption, Report};
use crate::sweep::timing::{RECENT, since};

/// The longest that the start of a re-encryption may take; it is a quarter of a sweep's time at most.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Sweep<'_> {
    /// Has rows follow their key. It comes before the listing, so that no sweep is too short for it. What it tells of that; nothing when
    /// there is nothing to do.
    pub(super) async fn reencrypt<S: OperationStore>(&self, store: &S, report: &mut Report) -> Option<Reencryption> {
        let reencryption = self.operator.services.reencryption()?;
        let deadline = self.deadline.within(TIMEOUT.min(self.deadline.left() / 4), Duration::ZERO);
        let follow = Sweep { deadline, ..*self };
        let followed = deadline.bound(follow.follow(store, reencryption, report)).await;
        let followed = followed.unwrap_or_else(|| Err(reencryption.not_started("no answer in time".to_owned())));
        followed.unwrap_or_else(|error| {
            let secret = reencryption.secret.clone();
            report.add_reencryption_problem(&secret, &error);
            Some(Reencryption::Problem { secret, problem: error.to_string() })
        })
    }

    /// Archives every key of the ring, and starts the re-encryption of the rows when the ring has secondary keys.
    async fn follow<S: OperationStore>(
        &self,
        store: &S,
        reencryption: &services::Reencryption,
        report: &mut Report,
    ) -> Result<Option<Reencryption>, OperateError> {
        let kind = self.operator.keyring()?;
        let stack = &self.operator.stack_of(Kind::Keyring);
        let (secret_id, deadline) = (reencryption.secret.as_str(), self.deadline);
        let operation = Operation::new(Session { kind, store, stack, secret_id, deadline });
        let secret = store.describe(secret_id).await?;
        if secret.versions.holder(&Stage::Current).is_none() {
            // There is no key yet, and no row.
            return Ok(None);
        }
        // Neither the archive nor the rows need the application.
        let snapshot = match operation.value_snapshot_of(secret).await {
            // An empty object, which the first rotation fills.
            Err(OperateError::Rotation(RotationError::EmptyValue)) => return Ok(None),
            snapshot => snapshot?,
        };
        // Also those that were in use before there was an archive, or that a person put into the ring.
        if let Some(archive) = kind.archive(&snapshot.subject(), &snapshot.current)? {
            archive.keep(store, deadline).await?;
        }
        let old_keys = kind.keyring(&snapshot.policy, &snapshot.current)?.secondary().len();
        if old_keys == 0 || open_rotation(&snapshot.secret).is_some() {
            return Ok(None);
        }
        let due = Due {
            secret: snapshot.secret.name.clone(),
            version: snapshot.current_id.clone(),
            old_keys,
            started: false,
            because: None,
            execution: None,
            ended: None,
        };
        if let Err(error) = operation.require_all_keys(&snapshot).await {
            return Ok(Some(Reencryption::Due(Due { because: Some(error.to_string()), ..due })));
        }
        if let Err(error) = operation.require_delivered(&snapshot).await {
            return Ok(Some(Reencryption::Due(Due { because: Some(error.to_string()), ..due })));
        }
        // A consumer that keeps an older ring could not read what a worker writes under a key that became primary at once. When that was,
        // no stage tells for certain; it was not after the last change.
        let cache_time = kind.cache_time();
        if since(&snapshot.secret, snapshot.secret.last_changed).is_some_and(|changed| changed < cache_time) {
            // A rotation is over after a day. What changes the secret since then, tags for example, may go on doing so.
            if since(&snapshot.secret, Some(snapshot.created)).is_some_and(|age| age > cache_time + RECENT) {
                tracing::warn!(target: AUDIT, secret = due.secret, "rows do not follow while something changes the secret");
                report.tell(|digest| digest.waits(&due.secret));
            }
            let because = Some("consumers may not have read it since it was changed".to_owned());
            return Ok(Some(Reencryption::Due(Due { because, ..due })));
        }
        self.start(reencryption, &snapshot, due, report).await.map(Some)
    }

    /// Starts an execution, unless one is at work for this version, or failed for it.
    async fn start(
        &self,
        reencryption: &services::Reencryption,
        snapshot: &Snapshot,
        mut due: Due,
        report: &mut Report,
    ) -> Result<Reencryption, OperateError> {
        let (services, version) = (&self.operator.services, &snapshot.current_id);
        match services.reencrypt(reencryption, &snapshot.secret, version, self.deadline).await? {
            Started::Now(execution) => {
                let request_id = self.request_id;
                tracing::info!(target: AUDIT, request_id, secret = due.secret, action = "reencrypt", %version, execution, result = "begun", "operation");
                (due.started, due.execution) = (true, Some(execution));
            }
            Started::Before(execution) => due.execution = Some(execution),
            Started::Ended { execution, status, at } => {
                tracing::warn!(target: AUDIT, secret = due.secret, execution, status, "rows do not follow");
                report.tell(|digest| digest.not_followed(&due.secret, &execution, &status, at));
                (due.execution, due.ended) = (Some(execution), Some(status));
            }
        }
        Ok(Reencryption::Due(due))
    }
}
