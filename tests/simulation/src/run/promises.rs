//! What must hold when a rotation has ended.

use rotation::event::VersionId;
use rotation::marked_ring;
use rotation::versions::Stage;

use super::{ATTEMPTS, Rotated, Service};
use crate::model::{Model, Shape};

impl<M: Model> Service<'_, M> {
    pub(super) fn check_violation(&self) -> Result<(), String> {
        self.world.lock().violation.clone().map_or(Ok(()), Err)
    }

    /// A rotation that succeeded is in use.
    pub(super) fn require_in_use(&mut self, version: &VersionId) -> Result<(), String> {
        let world = self.world.lock();
        let state = world.state();
        if !state.is_at(version, &Stage::Current) {
            // Somebody stored another value after the promotion.
            return if self.disturbed { Ok(()) } else { Err(format!("{version} succeeded and is not AWSCURRENT")) };
        }
        M::judge_success(&world)?;
        drop(world);
        self.rotations += 1;
        Ok(())
    }

    /// A rotation that a broken application refused has left no trace.
    pub(super) fn require_put_back(&self, version: &VersionId, rotated: &Rotated) -> Result<(), String> {
        let world = self.world.lock();
        let state = world.state();
        let left = state.stages_of(version);
        if *rotated == Rotated::Done {
            return Err("the rotation succeeded with an application that does not know the new value".to_owned());
        }
        let stands = state.is_at(version, &Stage::Current) && world.scenario.model.may_stand();
        if !stands && state.value_at(&Stage::Current) != world.first.as_ref() {
            return Err("the value from before the rotation is not AWSCURRENT again".to_owned());
        }
        if !world.promises.was_rolled_back(version) {
            return Ok(());
        }
        if left.contains(&Stage::Pending) {
            return Err("AWSPENDING is still on the version that was rolled back".to_owned());
        }
        // The last call of a rollback takes AWSPREVIOUS off the failed version. When that one is lost, the version looks
        // like any other that was replaced, and nobody may touch it.
        if left.contains(&Stage::Previous) && (self.faults == 0 || self.rollback_finished) {
            return Err("AWSPREVIOUS is still on the version that was rolled back".to_owned());
        }
        // Its staged key stands nowhere else. Whoever put another value there, or was still at work, may have moved it.
        let undisturbed = self.edits == 0 && self.stragglers == 0;
        if left.contains(&marked_ring::stage()) && undisturbed && self.faults < ATTEMPTS {
            return Err("ROTATION-RING is still on the version that was rolled back".to_owned());
        }
        // In a text secret it is the token of the overlap that is open.
        let in_overlap = world.scenario.model.shape() == Shape::Text && !stands;
        // A straggler that verifies while another one puts the old version back takes the record away.
        if in_overlap && undisturbed && state.holder(&Stage::Previous) != world.first_previous.as_ref() {
            let holder = state.holder(&Stage::Previous);
            return Err(format!("AWSPREVIOUS is not where it was before the rotation, but on {holder:?}"));
        }
        Ok(())
    }
}
