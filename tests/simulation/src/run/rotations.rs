//! Rotations with the retries of the rotation service: disturbed ones, and those that run in the background.

use operate::error::OperateError;
use rotation::error::RotationError;
use rotation::event::{Step, VersionId};
use rotation::versions::Stage;

use super::invocation::{Attended, Failed, Progress, Rotating};
use super::{ATTEMPTS, BETWEEN_ATTEMPTS, BETWEEN_STEPS, Rotated, STEPS, Service};
use crate::model::{Model, Refusal};
use crate::scenario::RotationService;
use crate::schedule::{Call, Side, Until};

impl<M: Model> Service<'_, M> {
    /// A rotation that dies in its first attempt, and that nobody repeats.
    pub(super) async fn stuck_rotation(&mut self, gates: usize) {
        let version = self.world.rotate_secret();
        let mut rotating = Rotating::new(version, Some(gates));
        while self.go_on_rotating(&mut rotating).await.is_none() {}
    }

    /// Runs the rotations that operations have asked for: in turns with an operation that `looks` at the secret, or to their ends.
    pub(super) async fn serve(&mut self, looks: bool, to_their_ends: bool) {
        let (requested, service) = {
            let mut world = self.world.lock();
            (std::mem::take(&mut world.requested), world.scenario.service)
        };
        for version in requested {
            if self.background.iter().all(|rotating| rotating.version != version) {
                let dies_after = match service {
                    RotationService::FirstDies(gates) if !self.first_has_died => Some(gates),
                    _ => None,
                };
                self.first_has_died |= dies_after.is_some();
                self.background.push(Rotating::new(version, dies_after));
            }
        }
        let in_turns = service == RotationService::InTurns && !to_their_ends;
        if in_turns && !looks {
            return;
        }
        for mut rotating in std::mem::take(&mut self.background) {
            let mut ended = self.go_on_rotating(&mut rotating).await;
            while ended.is_none() && !(in_turns && rotating.takes_a_turn) {
                ended = self.go_on_rotating(&mut rotating).await;
            }
            if ended.is_none() {
                self.background.push(rotating);
            }
        }
    }

    pub(super) async fn end_background(&mut self) {
        self.serve(false, true).await;
    }

    /// Lets a rotation run to its next gate. How it has ended, when it has.
    pub(super) async fn go_on_rotating(&mut self, rotating: &mut Rotating<M>) -> Option<Rotated> {
        if rotating.dies_after == Some(0) {
            return Some(Rotated::Refused("Killed"));
        }
        let Some(step) = STEPS.get(rotating.step) else {
            if self.world.lock().state().is_at(&rotating.version, &Stage::Current) {
                self.world.rotation_succeeded();
                return Some(Rotated::Done);
            }
            return self.repeat(rotating, "RotationIncomplete").await;
        };
        if rotating.invocation.is_none() {
            tokio::time::advance(BETWEEN_STEPS).await;
        }
        let mut invocation = match rotating.invocation.take() {
            Some(invocation) => invocation,
            None => self.invoke(&rotating.version, *step),
        };
        match invocation.advance().await {
            Progress::At(gate) => {
                rotating.takes_a_turn = gate.call == Call::Move && gate.side == Side::After;
                rotating.dies_after = rotating.dies_after.map(|gates| gates - 1);
                rotating.invocation = Some(invocation);
                None
            }
            Progress::Ended(Ok(_)) => {
                rotating.takes_a_turn = true;
                rotating.step += 1;
                None
            }
            Progress::Ended(Err(error)) => self.repeat(rotating, error.name()).await,
        }
    }

    /// The next attempt of a rotation, if there is one.
    pub(super) async fn repeat(&mut self, rotating: &mut Rotating<M>, error: &'static str) -> Option<Rotated> {
        self.refused(&rotating.version, error);
        self.errors.insert(error);
        tokio::time::advance(BETWEEN_ATTEMPTS).await;
        rotating.attempt += 1;
        rotating.step = 0;
        (rotating.attempt == ATTEMPTS).then_some(Rotated::Refused(error))
    }

    /// A whole rotation that nothing disturbs.
    pub(super) async fn rotate_alone(&mut self, version: &VersionId) -> Result<Rotated, String> {
        self.refusals.clear();
        let mut rotating = Rotating::new(version.clone(), None);
        loop {
            let ended = self.go_on_rotating(&mut rotating).await;
            self.check_violation()?;
            if let Some(rotated) = ended {
                return Ok(rotated);
            }
        }
    }

    /// What to think of the refusal of the last rotation: each of its errors has to be an honest answer. A version that was
    /// given up is unknown afterwards; then the error counts that gave it up.
    pub(super) fn refusal(&self) -> Refusal {
        let alone = self.refusals.len() == 1;
        let telling = self.refusals.iter().filter(|(name, _)| alone || **name != "UnknownVersion");
        telling.map(|(_, refusal)| *refusal).min().unwrap_or(Refusal::Wrong)
    }

    /// An error that no fault explains, judged when it occurs.
    pub(super) fn refused(&mut self, version: &VersionId, name: &'static str) {
        let refusal = M::refusal(&self.world.lock(), version, name);
        let strictest = self.refusals.entry(name).or_insert(refusal);
        *strictest = refusal.min(*strictest);
    }

    /// A rotation with the schedule's interventions; after the last one nobody is held up any longer.
    pub(super) async fn disturbed_rotation(&mut self, last: bool) -> Result<(VersionId, Rotated), String> {
        let version = self.world.rotate_secret();
        let rotated = self.rotate(&version).await?;
        self.go_on(|until| last || until == Until::RotationEnds).await;
        self.check_violation()?;
        // With more of them, the service's attempts may run out.
        let must_be_done = self.world.lock().is_healthy() && !self.disturbed && self.faults + self.duplicates <= 2;
        match rotated {
            Rotated::Done if must_be_done => self.require_in_use(&version)?,
            Rotated::Refused(_) if must_be_done && self.refusal() == Refusal::Wrong => {
                return Err(format!("nothing stood against the rotation, and it ended as {rotated:?}"));
            }
            _ => {}
        }
        Ok((version, rotated))
    }

    /// A whole rotation, repeated with the same token when a step fails.
    pub(super) async fn rotate(&mut self, version: &VersionId) -> Result<Rotated, String> {
        let mut last = "Killed";
        self.refusals.clear();
        'attempts: for attempt in 0..ATTEMPTS {
            self.world.lock().note(|| format!("{version}, attempt {attempt}"));
            for step in STEPS {
                tokio::time::advance(BETWEEN_STEPS).await;
                let Err(failed) = self.step(version, step).await? else { continue };
                if let Failed::Error(name) = failed {
                    self.refused(version, name);
                }
                if let Failed::Error(name) | Failed::Fault(name) = failed {
                    last = name;
                    self.errors.insert(name);
                }
                tokio::time::advance(BETWEEN_ATTEMPTS).await;
                continue 'attempts;
            }
            if self.world.lock().state().is_at(version, &Stage::Current) {
                self.world.rotation_succeeded();
                return Ok(Rotated::Done);
            }
            last = "RotationIncomplete";
            self.refused(version, last);
        }
        Ok(Rotated::Refused(last))
    }

    /// One step that the service waits for. The outer error is a broken promise.
    pub(super) async fn step(&mut self, version: &VersionId, step: Step) -> Result<Result<(), Failed>, String> {
        let main = self.invoke(version, step);
        let (answer, faulted) = match self.attend(main, Some(version), true).await? {
            Attended::Killed => {
                self.go_on(|until| until == Until::StepEnds).await;
                self.check_violation()?;
                return Ok(Err(Failed::Killed));
            }
            Attended::Ended { answer, faulted } => (answer, faulted),
        };
        self.rollback_finished |= matches!(answer, Err(OperateError::Rotation(RotationError::RolledBack { .. })));
        if answer.is_ok() && step == Step::FinishSecret && self.held_up.is_empty() {
            self.require_in_use(version)?;
        }
        self.go_on(|until| until == Until::StepEnds).await;
        self.check_violation()?;
        let failed = if faulted { Failed::Fault } else { Failed::Error };
        Ok(answer.map(drop).map_err(|error| failed(error.name())))
    }
}
