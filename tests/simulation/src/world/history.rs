//! What the secret was like before.

use std::time::SystemTime;

use rotation::versions::Stage;

use super::Inner;
use crate::model::Model;
use crate::state::State;

impl<M: Model> Inner<M> {
    /// How often the secret was written to so far.
    pub(crate) fn writes(&self) -> usize {
        self.history.len()
    }

    /// The secret after so many writes.
    pub(crate) fn state_after(&self, writes: usize) -> &State {
        &self.history[writes.clamp(1, self.history.len()) - 1].1
    }

    /// When the secret was written to for the last time.
    pub(crate) fn last_changed(&self) -> SystemTime {
        self.history[self.history.len() - 1].0
    }

    /// Since when the current version is current.
    pub(crate) fn current_since(&self) -> SystemTime {
        let state = self.state();
        let current = state.holder(&Stage::Current);
        let since = self.history.iter().rev().take_while(|(_, then)| then.holder(&Stage::Current) == current);
        since.last().map_or(self.now(), |(since, _)| *since)
    }
}
