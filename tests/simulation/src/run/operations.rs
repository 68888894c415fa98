//! Operations: asked for, repeated until they are done, and judged by their answers.

use std::sync::Arc;

use operate::actions::abort::DEFAULT_ABORT_AFTER;
use operate::error::OperateError;
use rotation::issue::LONGEST_ATTEMPT;
use rotation::versions::Stage;

use super::invocation::{Answered, Attended};
use super::{BETWEEN_ATTEMPTS, Rotated, Service};
use crate::model::{Model, Refusal};
use crate::operations::{self, ABORT_AFTER};
use crate::ports::Caller;
use crate::scenario::Staleness;
use crate::schedule::{Operation, Until};

impl<M: Model> Service<'_, M> {
    /// An operation, with the schedule's interventions; after the last work nobody is held up any longer.
    pub(super) async fn operation(
        &mut self,
        operation: Operation,
        disturbed: bool,
        is_last: bool,
    ) -> Result<(), String> {
        tokio::time::advance(BETWEEN_ATTEMPTS).await;
        let invocation = self.ask(operation);
        let caller = Arc::clone(&invocation.caller);
        self.alone = self.held_up.is_empty() && self.background.is_empty();
        if let Attended::Ended { answer, .. } = self.attend(invocation, None, disturbed).await? {
            self.answered(&caller, &answer, self.alone);
            self.check_violation()?;
        }
        self.go_on(|until| is_last || until == Until::StepEnds).await;
        self.end_background().await;
        self.check_violation()
    }

    /// What was asked for is asked for once more, by a process that knows nothing of the others, until it is done, or
    /// refused by an honest answer.
    pub(super) async fn finish(&mut self, operation: Operation) -> Result<Rotated, String> {
        // An answer from the past may lead to a refusal, once.
        let mut stale = matches!(self.world.lock().scenario.staleness, Staleness::Once { .. });
        for _ in 0..4 {
            tokio::time::advance(BETWEEN_ATTEMPTS).await;
            self.refusals.clear();
            let invocation = self.ask(operation);
            let caller = Arc::clone(&invocation.caller);
            self.alone = true;
            let Attended::Ended { answer, .. } = self.attend(invocation, None, false).await? else { continue };
            self.end_background().await;
            self.answered(&caller, &answer, true);
            let Some(intent) = caller.intent() else { return Err(format!("{operation} did not look at the secret")) };
            self.check_violation()?;
            let Err(error) = answer else {
                return if operation == Operation::Rollback {
                    self.require_no_change(operation).await
                } else {
                    Ok(Rotated::Done)
                };
            };
            let of_rotation = match error {
                OperateError::RotationFailed { .. } | OperateError::NotFinished { .. } => self.refusal(),
                _ => Refusal::Wrong,
            };
            let refusal = operations::refusal(&self.world.lock(), &intent, error.name(), self.untold).max(of_rotation);
            match refusal {
                Refusal::Wrong if stale => {
                    stale = false;
                    continue;
                }
                Refusal::Wrong => return Err(format!("nothing stood against {operation}, and it ended with: {error}")),
                Refusal::ForGood => return Ok(Rotated::Refused(error.name())),
                Refusal::ForNow => {}
            }
            self.wait_after(&error).await?;
        }
        Err(format!("no repetition of {operation} succeeds"))
    }

    /// Waits until an operation that was refused for now may be asked for again.
    async fn wait_after(&mut self, error: &OperateError) -> Result<(), String> {
        match error {
            // It has made a credential that nobody holds, and has no room for another one.
            OperateError::NotFinished { .. } if self.refusals.contains_key("IssuerFailed") => {
                Box::pin(self.finish(Operation::Abort)).await?;
                self.pass(LONGEST_ATTEMPT).await;
            }
            OperateError::NotFinished { .. } => {
                self.pass(DEFAULT_ABORT_AFTER).await;
                self.world.reload();
            }
            OperateError::TooYoungToAbort { .. } => self.pass(ABORT_AFTER).await,
            OperateError::RotationOpen { .. } if self.world.lock().state().incomplete_rotation().is_none() => {
                self.pass(DEFAULT_ABORT_AFTER).await;
            }
            OperateError::RotationOpen { .. } => {
                let version = self.world.rotate_secret();
                if self.rotate_alone(&version).await? != Rotated::Done {
                    self.be_patient().await?;
                }
                // It has no room at the provider.
                if self.refusals.contains_key("IssuerFailed") {
                    Box::pin(self.finish(Operation::Abort)).await?;
                }
            }
            _ => self.be_patient().await?,
        }
        Ok(())
    }

    /// What is done is not done again.
    pub(super) async fn require_no_change(&mut self, operation: Operation) -> Result<Rotated, String> {
        let before = self.world.lock().state();
        self.operation(operation, false, true).await?;
        let after = self.world.lock().state();
        // An answer from the past may have led to a version that nobody uses.
        let stale = self.world.lock().scenario.staleness != Staleness::None;
        let same = before.without_records() == after.without_records()
            || (stale && before.holder(&Stage::Current) == after.holder(&Stage::Current));
        if same { Ok(Rotated::Done) } else { Err(format!("{operation} was done, and done again")) }
    }

    /// Judges what an operation has answered; `alone` when nothing else happened meanwhile.
    pub(super) fn answered(&mut self, caller: &Caller<M>, answer: &Answered, alone: bool) {
        let Some(intent) = caller.intent() else { return };
        let error = answer.as_ref().err().map(OperateError::name);
        self.answers.push((intent.operation, error));
        self.errors.extend(error);
        if answer.is_ok() {
            let mut world = self.world.lock();
            let judged = operations::judge(&mut world, &intent, alone);
            world.found(judged);
        }
    }
}
