//! What happens at the gates of an invocation that somebody waits for: faults, duplicates, edits, and who is held up.

use operate::error::OperateError;
use rotation::error::RotationError;
use rotation::event::VersionId;
use tokio::time::Instant;

use super::invocation::{Attended, HeldUp, Invocation, Progress, Rotating};
use super::{LONG, Service};
use crate::model::Model;
use crate::schedule::{Action, Call, Side, Until};

impl<M: Model> Service<'_, M> {
    /// Lets an invocation run to its next gate; the rotations that operations have asked for run as the scenario wants it.
    pub(super) async fn advance(&mut self, invocation: &mut Invocation<M>) -> Progress {
        let looks = invocation.at.is_some_and(|gate| gate.call == Call::Describe && gate.side == Side::Before);
        self.serve(looks, false).await;
        invocation.advance().await
    }

    /// Lets an invocation run to its end, with the schedule's interventions at its gates if it is `disturbed`. The error is a
    /// broken promise.
    pub(super) async fn attend(
        &mut self,
        mut main: Invocation<M>,
        version: Option<&VersionId>,
        disturbed: bool,
    ) -> Result<Attended, String> {
        let mut faulted = false;
        loop {
            match self.advance(&mut main).await {
                Progress::Ended(answer) => {
                    self.check_violation()?;
                    return Ok(Attended::Ended { answer, faulted });
                }
                Progress::At(gate) if disturbed => {
                    let number = self.gates.len();
                    self.gates.push(gate);
                    let (mut fate, mut fault) = (None, None);
                    let stood_since = Instant::now();
                    for action in self.adversary.at(number, &gate) {
                        self.untold |= gate.task.step().is_some();
                        self.world.lock().note(|| format!("! at gate {number} ({gate}): {action:?}"));
                        self.stragglers += usize::from(matches!(action, Action::Lose(_) | Action::Duplicate { .. }));
                        if matches!(action, Action::Die | Action::Lose(_) | Action::Fail(_)) {
                            self.faults += 1;
                        }
                        match action {
                            Action::Die | Action::Lose(_) => fate = Some(action),
                            Action::Fail(kind) => fault = Some(kind),
                            other => self.intervene(version, other).await,
                        }
                        self.check_violation()?;
                    }
                    match fate {
                        Some(Action::Lose(until)) => {
                            self.held_up.push(HeldUp { invocation: main, until });
                            return Ok(Attended::Killed);
                        }
                        Some(_) => return Ok(Attended::Killed),
                        None => {
                            self.go_on(|until| matches!(until, Until::Gate(at) if at <= number)).await;
                            self.check_violation()?;
                            self.disturbed |= stood_since.elapsed() >= LONG;
                            // Last, so that only the invocation which stands here meets it.
                            if let Some(kind) = fault {
                                self.world.inject(kind);
                                faulted = true;
                            }
                        }
                    }
                }
                Progress::At(_) => {}
            }
            self.check_violation()?;
        }
    }

    pub(super) async fn intervene(&mut self, version: Option<&VersionId>, action: Action) {
        self.alone &= matches!(action, Action::Wait(_) | Action::Reload | Action::ReloadOne(_) | Action::Deliver);
        match action {
            Action::Wait(time) => {
                self.disturbed = true;
                self.pass(time).await;
            }
            Action::Duplicate { step, gates, until } => {
                // An operator's own request is repeated by asking once more.
                let Some(version) = version else { return };
                self.duplicates += 1;
                let invocation = self.invoke(version, step);
                self.hold_up(invocation, gates, until).await;
            }
            Action::Begin { operation, gates, until } => {
                self.disturbed = true;
                let invocation = self.ask(operation);
                self.hold_up(invocation, gates, until).await;
            }
            Action::Rotate => {
                self.disturbed = true;
                let version = self.world.rotate_secret();
                let mut rotating = Rotating::new(version, None);
                while self.go_on_rotating(&mut rotating).await.is_none() {}
            }
            Action::Die | Action::Lose(_) | Action::Fail(_) => {}
            Action::Tag(..) => {
                // A value that was made before may not be what is asked for now.
                self.disturbed = true;
                self.act(action);
            }
            Action::Edit(_) | Action::Reload | Action::ReloadOne(_) | Action::Deliver => self.act(action),
        }
    }

    /// Lets an invocation run up to its gate of this number.
    pub(super) async fn hold_up(&mut self, mut invocation: Invocation<M>, gates: usize, until: Until) {
        for _ in 0..=gates {
            if let Progress::Ended(answer) = self.advance(&mut invocation).await {
                self.duplicate_ended_early = true;
                self.answered(&invocation.caller, &answer, false);
                return;
            }
        }
        self.held_up.push(HeldUp { invocation, until });
    }

    /// What people do, and caches.
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Edit(edit) => {
                self.edits += 1;
                self.disturbed = true;
                self.untold = true;
                self.world.edit(edit);
            }
            Action::Reload => self.world.reload(),
            Action::Deliver => self.world.deliver(),
            Action::ReloadOne(instance) => self.world.reload_one(instance),
            Action::Tag(name, value) => self.world.tag(name, value),
            _ => {}
        }
    }

    /// Lets those that were held up run to their ends, one after another.
    pub(super) async fn go_on(&mut self, which: impl Fn(Until) -> bool) {
        let (go, stay) = std::mem::take(&mut self.held_up).into_iter().partition(|held_up| which(held_up.until));
        self.held_up = stay;
        let go: Vec<HeldUp<M>> = go;
        for mut held_up in go {
            let answer = loop {
                if let Progress::Ended(answer) = self.advance(&mut held_up.invocation).await {
                    break answer;
                }
            };
            // What an operation does may stand against a rotation.
            self.disturbed |= held_up.invocation.task.step().is_none();
            self.answered(&held_up.invocation.caller, &answer, false);
            // It did not find its version working and put the old one back, whatever a retry may have found meanwhile. It
            // cannot know better: nothing in the secret says that the retry succeeded.
            if let Err(OperateError::Rotation(RotationError::VerificationFailed { .. })) = answer {
                self.disturbed = true;
            }
        }
    }
}
