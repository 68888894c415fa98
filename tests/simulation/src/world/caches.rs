//! What the instances load, by themselves or when they are asked to.

use std::time::Duration;

use rotation::versions::Stage;

use super::Inner;
use crate::model::Model;
use crate::scenario::{Defect, Staleness};
use crate::state::{Author, State};

impl<M: Model> Inner<M> {
    pub(super) fn load_from(&mut self, instance: usize, state: &State) {
        let defect = self.scenario.defect.filter(|_| self.is_broken(instance));
        let current = state.holder(&Stage::Current).and_then(|version| state.versions.get(version));
        let loaded = match defect {
            Some(Defect::Frozen) => None,
            Some(Defect::DropsPromoted) if current.is_some_and(|version| version.author != Author::Initial) => {
                Some(self.held_at_first[instance].clone())
            }
            // A value that cannot be loaded does not replace what is held.
            _ => self.scenario.model.loaded(state),
        };
        if let Some(loaded) = loaded {
            let accepts_revoked = self.scenario.defect == Some(Defect::AcceptsRevoked) && !self.healed && instance == 0;
            let held = std::mem::take(&mut self.instances[instance]);
            self.instances[instance] =
                if accepts_revoked { self.scenario.model.accumulated(held, loaded) } else { loaded };
        }
    }

    pub(crate) fn load_all(&mut self, state: &State) {
        for instance in 0..self.instances.len() {
            self.load_from(instance, state);
            self.loaded_at[instance] = self.now();
        }
    }

    /// What the caches do by themselves as time passes, one after another, before anything else happens.
    pub(crate) fn load_what_is_old(&mut self) {
        let Some(age) = self.scenario.model.cache_age().filter(|age| !age.is_zero()) else { return };
        let (now, state) = (self.now(), self.state());
        let mut due: Vec<_> = (0..self.instances.len()).map(|number| (self.loaded_at[number] + age, number)).collect();
        due.retain(|(due, _)| *due <= now);
        due.sort();
        for (due, instance) in due {
            self.looking_back = Some(due);
            self.load_from(instance, &state);
            self.check_clients();
            // It has loaded the same again since, each time that its cache was too old.
            let since = now.duration_since(due).unwrap_or_default().as_nanos() % age.as_nanos();
            self.loaded_at[instance] = now - Duration::from_nanos(u64::try_from(since).unwrap_or_default());
        }
        self.looking_back = None;
    }

    pub(crate) fn load(&mut self, instance: usize) {
        self.load_what_is_old();
        let state = match self.scenario.staleness {
            Staleness::LagEverywhere(lag) => self.as_of(&self.history, lag).1,
            _ => self.state(),
        };
        self.load_from(instance, &state);
        self.loaded_at[instance] = self.now();
        self.check_clients();
    }
}
