//! A kind of secret that the machinery was not written for.

use simulation::families::Family;
use simulation::model::Model as _;
use simulation::model::third::Signing;
use simulation::scenario::{Defect, Sabotage, Scenario};

use crate::support::{at_least, explore_all, finds, long_random_histories};

#[test]
fn third_kind_passes_with_one_fault_duplicate_and_edit() {
    let mut work = vec![];
    for scenario in Signing::scenarios() {
        // A person's edit beside a broken application leaves nothing to say about either.
        let families: &[Family] = match scenario.defect {
            None => &Family::ALL,
            Some(_) => &[Family::Death, Family::LostAnswer, Family::Reload],
        };
        work.extend(families.iter().map(|family| (scenario, *family)));
    }
    at_least(10_000, explore_all(work));
}

#[test]
fn a_third_kind_passes_long_random_histories() {
    long_random_histories::<Signing>(2_000);
}

#[test]
fn caught_a_third_kind_that_believes_without_proof() {
    let scenario = Scenario::new(Signing).with_defect(Defect::Frozen);
    finds(scenario, scenario.sabotaged(Sabotage::BelievesWithoutProof), Family::Death, "succeeded with an application");
}
