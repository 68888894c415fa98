//! Encryption keys: every record stays readable in every schedule, and a kind that loses data is caught.

use std::time::Duration;

use faults::families::{Family, run_script};
use faults::model::keyring::{ADDS_SECONDARY, Application, Broken, Keyring, MARKS_PRIMARY, MARKS_STAGED};
use faults::model::{Model as _, Shape};
use faults::run::{Ended, Rotated, Simulator};
use faults::scenario::{Defect, Sabotage, Scenario, Staleness};
use faults::schedule::{Action, Call, Script, Side};
use rotation::keyring::KeyFormat;
use rotation::policy::Promotion;

use crate::support::{explore_all, finds, gate_after, long_random_histories};

const HOUR: Duration = Duration::from_secs(60 * 60);

fn work() -> Vec<(Scenario<Keyring>, Family)> {
    use Family::{Death, Edit, GivenUp, LostAnswer, Reload};
    let mut work = vec![];
    for scenario in Keyring::scenarios() {
        let Keyring { shape, format, promotion, application, .. } = scenario.model;
        let undisturbed = (scenario.defect, scenario.staleness) == (None, Staleness::None);
        let typical = (shape, format, promotion) == (Shape::Json, KeyFormat::Raw, Promotion::Staged) && undisturbed;
        let families = match scenario.defect {
            // A person's edit beside a broken application leaves nothing to say about either.
            Some(_) => vec![Death, LostAnswer, Reload],
            None if typical && application == Application::Silent => Family::ALL.to_vec(),
            None if typical && application == Application::Told => {
                Family::ALL.into_iter().filter(|family| *family != Family::EditAndDuplicate).collect()
            }
            None if typical => vec![Death, LostAnswer, GivenUp, Edit, Reload],
            None => vec![Death, LostAnswer, Edit, Reload],
        };
        work.extend(families.into_iter().map(|family| (scenario, family)));
        if typical && matches!(application, Application::Told | Application::Silent) {
            for lag in [250, 700, 1500] {
                let late = scenario.with_staleness(Staleness::Lag(Duration::from_millis(lag)));
                work.extend([Death, LostAnswer, Edit].map(|family| (late, family)));
            }
            let late_everywhere = scenario.with_staleness(Staleness::LagEverywhere(Duration::from_millis(250)));
            work.extend([Death, LostAnswer].map(|family| (late_everywhere, family)));
        }
    }
    work
}

#[test]
fn every_record_stays_readable_in_every_schedule_with_one_fault_one_duplicate_and_one_edit() {
    assert!(explore_all(work()) > 40_000, "the families have shrunk");
}

#[test]
fn every_record_stays_readable_in_long_random_histories() {
    let explored = long_random_histories::<Keyring>(6_000);
    for error in ["StagedTooYoung", "PendingTooOld", "ConsumersUnproven", "RollbackFailed"] {
        // Who replays one history does not meet them all.
        assert!(explored.schedules() < 1_000 || explored.errors.contains_key(error), "no history met {error}");
    }
}

/// Rotations in a row that nothing disturbs.
fn rotated(scenario: &Scenario<Keyring>, script: &Script) -> Ended {
    run_script(&Simulator::new().unwrap(), scenario, script).unwrap_or_else(|found| panic!("{found}"))
}

#[test]
fn an_application_that_reads_one_key_is_never_given_another() {
    let scenario = Keyring::scenario(Promotion::Staged, Application::NameOnly);
    assert_eq!(rotated(&scenario, &Script::new([])).rotation, Rotated::Done, "a key is staged");
    let ended = rotated(&scenario, &Script::new([]).rotating(2));
    assert_eq!(ended.rotation, Rotated::Refused("ConsumersUnproven"));
    let emergency = Script::new([]).before(0, Action::Tag("rotation:promotion", Some("immediate")));
    assert_eq!(rotated(&scenario, &emergency).rotation, Rotated::Refused("ConsumersUnproven"));
}

#[test]
fn a_staged_key_is_promoted_only_when_every_cache_has_it() {
    for application in [Application::Silent, Application::Uncounted] {
        let scenario = Keyring::scenario(Promotion::Staged, application);
        let after = |wait| Script::new([]).rotating(2).before(1, Action::Wait(wait));
        let too_young = Rotated::Refused("StagedTooYoung");
        assert_eq!(rotated(&scenario, &after(HOUR / 2)).rotation, too_young);
        assert_eq!(rotated(&scenario, &after(HOUR * 2)).rotation, Rotated::Done);
        // Without a word from the service, the key may have become known a day later.
        let untold = scenario.with_staleness(Staleness::NeverRotated);
        assert_eq!(rotated(&untold, &after(HOUR * 2)).rotation, too_young);
        assert_eq!(rotated(&untold, &after(HOUR * 26)).rotation, Rotated::Done);
    }
}

/// The function was admitted when the pending ring was just young enough, and moved AWSCURRENT a minute later; the service never
/// saw it succeed. An instance that read the secret just before has the staged key an hour after the move.
#[test]
fn a_staged_key_is_not_promoted_too_early_after_a_promotion_at_the_last_moment() {
    let scenario = Keyring::scenario(Promotion::Staged, Application::Silent);
    let script = |wait| {
        Script::new([
            (10, Action::Wait(HOUR * 24 - Duration::from_secs(5))),
            (31, Action::Wait(Duration::from_secs(55))),
            (31, Action::ReloadOne(0)),
            (32, Action::Die),
            (33, Action::Die),
            (34, Action::Die),
            (35, Action::Die),
            (57, Action::ReloadOne(1)),
        ])
        .rotating(2)
        .before(1, Action::Wait(wait))
    };
    let almost = rotated(&scenario, &script(HOUR - Duration::from_secs(55)));
    assert_eq!(almost.rotation, Rotated::Refused("StagedTooYoung"));
    assert_eq!(rotated(&scenario, &script(HOUR * 2)).rotation, Rotated::Done);
}

#[test]
fn a_staged_key_that_is_marked_as_compromised_is_replaced_and_never_becomes_primary() {
    for application in [Application::Told, Application::CurrentOnly, Application::Silent] {
        let scenario = Keyring::scenario(Promotion::Staged, application);
        let script =
            Script::new([]).rotating(3).before(1, Action::Wait(HOUR * 26)).before(1, Action::Edit(MARKS_STAGED));
        assert_eq!(rotated(&scenario, &script.before(2, Action::Wait(HOUR * 26))).rotation, Rotated::Done);
    }
}

#[test]
fn a_primary_key_that_is_marked_as_compromised_is_replaced_at_once() {
    for promotion in [Promotion::Staged, Promotion::Immediate] {
        let scenario = Keyring::scenario(promotion, Application::Told);
        let script = Script::new([]).rotating(2).before(0, Action::Edit(MARKS_PRIMARY));
        assert_eq!(rotated(&scenario, &script).rotation, Rotated::Done);
    }
}

/// Somebody stores a key between the making of a ring and its storing, and the process dies there: the ring lacks the key, and
/// is given up.
#[test]
fn a_ring_that_was_made_from_another_one_does_not_stop_later_rotations() {
    let simulator = Simulator::new().unwrap();
    for promotion in [Promotion::Staged, Promotion::Immediate] {
        let scenario = Keyring::scenario(promotion, Application::Told);
        let put = gate_after(&simulator, &scenario, Call::Put, 0);
        rotated(&scenario, &Script::new([(put - 1, Action::Edit(ADDS_SECONDARY)), (put, Action::Die)]));
    }
}

#[test]
fn caught_a_kind_that_drops_the_oldest_secondary_key() {
    let scenario = Keyring::scenario(Promotion::Staged, Application::Told);
    let broken = Keyring::broken(scenario, Broken::DropsOldest).sabotaged(Sabotage::BelievesWithoutProof);
    finds(scenario, broken, Family::Death, "was not made from");
}

#[test]
fn caught_a_kind_that_promotes_a_fresh_key() {
    let scenario = Keyring::scenario(Promotion::Staged, Application::Silent);
    let broken = Keyring::broken(scenario, Broken::PromotesFresh);
    finds(scenario, broken, Family::Reload, "encrypts, and an instance does not know it yet");
}

#[test]
fn caught_a_kind_that_ignores_the_age_of_a_staged_key() {
    let simulator = Simulator::new().unwrap();
    let scenario = Keyring::scenario(Promotion::Staged, Application::Silent);
    let broken = Keyring::broken(scenario, Broken::IgnoresAge);
    let twice = Script::new([]).rotating(2);
    let gates = rotated(&broken, &twice).gates;
    let promoted = gates.iter().rposition(|gate| gate.call == Call::Move && gate.side == Side::After).unwrap();
    let script = Script::new([(promoted, Action::ReloadOne(0))]).rotating(2);
    let found = run_script(&simulator, &broken, &script).expect_err("the sabotage was not noticed");
    assert!(found.violation.promise.contains("encrypts, and an instance does not know it yet"), "{found}");
    assert_eq!(rotated(&scenario, &script).rotation, Rotated::Refused("StagedTooYoung"));
}

#[test]
fn caught_a_kind_that_puts_a_ring_back_that_lacks_the_new_primary_key() {
    let scenario = Keyring::scenario(Promotion::Immediate, Application::Told).with_defect(Defect::DropsPromoted);
    let broken = scenario.sabotaged(Sabotage::AlwaysPutsBack);
    finds(scenario, broken, Family::Death, "no longer in the current keyring");
}

#[test]
fn caught_a_kind_that_believes_without_asking_which_keys_are_held() {
    let scenario = Keyring::scenario(Promotion::Immediate, Application::Told).with_defect(Defect::Frozen);
    let broken = scenario.sabotaged(Sabotage::BelievesWithoutProof);
    finds(scenario, broken, Family::Death, "encrypts, and an instance does not know it yet");
}
