//! A sweep from its beginning to its end.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use rand::seq::SliceRandom as _;
use rotation::lambda::randomness;
use rotation::store::OperationStore;

use crate::error::OperateError;
use crate::sweep::context::Sweep;
use crate::sweep::digest::Window;
use crate::sweep::listing::DueChecks;
use crate::sweep::report::{Report, SweepResult};

/// Secrets that are checked at the same time.
const AT_ONCE: usize = 8;
/// Kept free at the end at least, so that a check that is under way comes to its end.
const RESERVE: Duration = Duration::from_secs(20);

impl Sweep<'_> {
    /// Covers all secrets. An error of one secret is told, and does not keep the others from being checked. The metrics are those of
    /// the function `function`.
    ///
    /// # Errors
    /// When the secrets cannot be listed.
    pub async fn perform<S: OperationStore>(&self, function: &str, store: &S) -> Result<SweepResult, OperateError> {
        let window = self.request.scheduled.map(|scheduled| Window::before(scheduled, self.operator.sweep_period));
        let mut report = Report::new(self.request_id, window);
        let mut rng = randomness()?;
        let reencryption = self.reencrypt(store, &mut report).await;
        let reserve = self.operator.longest_check().max(RESERVE).min(self.deadline.left() / 2);
        let mut due = DueChecks::default();
        let next = self.list_all(store, &mut report, (&mut due, &mut rng), reserve).await?;
        // In another order each time: where the time is not enough for all, it is not the same ones that are left out.
        due.secrets.shuffle(&mut rng);
        report.skip(due.left_out);
        let checks = stream::iter(due.secrets).map(|(secret, checks)| async move {
            let undelivered = if checks.delivery { self.check_delivery(store, &secret).await } else { Ok(None) };
            let result = self.check(store, &secret, checks, reserve).await;
            (secret, undelivered, result)
        });
        let mut checks = checks.buffer_unordered(AT_ONCE);
        while let Some((secret, undelivered, result)) = checks.next().await {
            report.add_delivery(&secret, undelivered);
            report.add(&secret, result);
        }
        drop(checks);
        Ok(report.finish(function, next, reencryption))
    }
}
