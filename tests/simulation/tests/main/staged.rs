//! Staged tokens: no client is ever refused, and a rotation without the proof is caught.

use simulation::families::{Family, OperationFamily, run_random, run_script};
use simulation::model::Model as _;
use simulation::model::staged::{Broken, Proof, Staged};
use simulation::run::{Rotated, Simulator};
use simulation::scenario::{Sabotage, Scenario};
use simulation::schedule::{Action, Operation, Script};

use crate::support::{at_least, explore_all, explore_operations, finds, long_random_histories};

#[test]
fn no_client_is_refused_with_one_fault_duplicate_and_edit() {
    use Family::{Death, Duplicate, Edit, EditAndDeath, GivenUp, LostAnswer, Reload};
    let families = [Death, LostAnswer, GivenUp, Duplicate, Edit, EditAndDeath, Reload];
    let work = Staged::scenarios().into_iter().flat_map(|scenario| families.map(|family| (scenario, family)));
    at_least(4_000, explore_all(work.collect()));
}

#[test]
fn no_client_is_refused_in_long_random_histories() {
    let explored = long_random_histories::<Staged>(8_000);
    for error in ["NotDelivered", "TargetRefused", "CurrentChanged"] {
        // Who replays one history does not meet them all.
        assert!(explored.schedules() < 400 || explored.errors.contains_key(error), "no history met {error}");
    }
}

/// A compromise refuses clients until everything is started anew, and nothing else ever does.
#[test]
fn operations_refuse_no_client_but_a_compromise() {
    use OperationFamily::{BesideOther, BesideRotation, Death, Edit, LostAnswer, Reload, RotationMeanwhile, Twice};
    let scenario = Staged::scenario(Proof::Delivery);
    let operations = [Operation::Rollback, Operation::Revoke, Operation::Compromise];
    let work = operations.into_iter().flat_map(|operation| {
        [Death, LostAnswer, Reload, Twice, Edit, BesideRotation, RotationMeanwhile, BesideOther]
            .map(|family| (scenario, operation, family))
    });
    at_least(600, explore_operations(work.collect()));
}

#[test]
fn end_of_an_overlap_refuses_no_client() {
    use OperationFamily::{BeforeRotation, Death, Edit, LostAnswer, Reload, RotationMeanwhile, Twice};
    let scenarios = [Proof::Delivery, Proof::Servers].map(Staged::scenario);
    let work = scenarios.into_iter().flat_map(|scenario| {
        [Death, LostAnswer, Reload, Twice, Edit, BeforeRotation, RotationMeanwhile]
            .map(|family| (scenario, Operation::EndOverlap, family))
    });
    at_least(1_000, explore_operations(work.collect()));
}

#[test]
fn rotation_waits_for_delivery_and_then_goes_on() {
    let simulator = Simulator::new().unwrap();
    let scenario = Staged::scenario(Proof::Delivery);
    let two = Script::new([]).rotating(2);
    let run = |script: &Script| run_script(&simulator, &scenario, script).unwrap_or_else(|found| panic!("{found}"));
    assert!(run(&two).errors.contains("NotDelivered"));
    let delivered = run(&two.clone().before(1, Action::Reload));
    assert_eq!((delivered.rotation, delivered.errors.is_empty()), (Rotated::Done, true));
    // Everything but the end of the delivery.
    let steps = (0..5).fold(two, |script, _| script.before(1, Action::Deliver));
    assert!(run(&steps).errors.contains("NotDelivered"));
}

/// Searches random histories for the promise that the broken scenario breaks.
fn caught(broken: Scenario<Staged>) {
    let simulator = Simulator::new().unwrap();
    let found = (1..300).find_map(|seed| run_random(&simulator, &broken, seed).err());
    let found = found.expect("the sabotage was not noticed");
    assert!(found.violation.promise.contains("a client is refused"), "{found}");
}

#[test]
fn caught_a_rotation_that_does_not_wait_for_delivery() {
    caught(Staged::broken(Staged::scenario(Proof::Delivery), Broken::IgnoresDelivery));
}

#[test]
fn caught_a_next_token_that_is_promoted_without_proof() {
    caught(Staged::scenario(Proof::Servers).sabotaged(Sabotage::BelievesWithoutProof));
}

#[test]
fn caught_a_token_that_no_server_holds() {
    let scenario = Staged::scenario(Proof::Delivery);
    let broken = Staged::broken(scenario, Broken::PromotesFresh);
    finds(scenario, broken, Family::Reload, "a client is refused");
}
