//! Encryption keys: every record stays readable in every schedule, and a kind that loses data is caught.

use std::time::Duration;

use rotation::keyring::KeyFormat;
use rotation::policy::Promotion;
use simulation::families::{Family, run_script};
use simulation::model::keyring::{
    ADDS_SECONDARY, Application, Broken, EMERGENCY, Keyring, MARKS_PRIMARY, MARKS_STAGED, NO_EMERGENCY,
};
use simulation::model::{Model as _, Shape};
use simulation::run::{Ended, Rotated, Simulator};
use simulation::scenario::{Defect, Sabotage, Scenario, Staleness, Start};
use simulation::schedule::{Action, Call, Edit, Gate, Script, Side};

use crate::support::{at_least, explore_all, finds, gate_after, long_random_histories};

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
            None if typical && application == Application::Told && scenario.start == Start::InUse => {
                Family::ALL.into_iter().filter(|family| *family != Family::EditAndDuplicate).collect()
            }
            // What goes on while a rotation is given up is the same for those that are left.
            None if typical && application == Application::CurrentOnly => {
                vec![Death, LostAnswer, GivenUp, Edit, Reload]
            }
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
fn records_stay_readable_with_one_fault_duplicate_and_edit() {
    at_least(40_000, explore_all(work()));
}

#[test]
fn every_record_stays_readable_in_long_random_histories() {
    let explored = long_random_histories::<Keyring>(4_000);
    for error in ["StagedTooYoung", "PendingTooOld", "ConsumersUnproven", "RollbackFailed"] {
        // Who replays one history does not meet them all.
        assert!(explored.schedules() < 400 || explored.errors.contains_key(error), "no history met {error}");
    }
}

/// Rotations in a row that nothing disturbs.
fn rotated(scenario: &Scenario<Keyring>, script: &Script) -> Ended {
    run_script(&Simulator::new().unwrap(), scenario, script).unwrap_or_else(|found| panic!("{found}"))
}

/// The refused rotation gave its version up, so that the retries of the service do not find it.
fn assert_too_young(ended: &Ended) {
    assert_eq!(ended.rotation, Rotated::Refused("UnknownVersion"));
    assert!(ended.errors.contains("StagedTooYoung"), "{:?}", ended.errors);
}

#[test]
fn an_application_that_reads_one_key_is_never_given_another() {
    let scenario = Keyring::scenario(Promotion::Staged, Application::NameOnly);
    assert_eq!(rotated(&scenario, &Script::new([])).rotation, Rotated::Done, "a key is staged");
    let ended = rotated(&scenario, &Script::new([]).rotating(2));
    assert_eq!(ended.rotation, Rotated::Refused("ConsumersUnproven"));
    assert_eq!(
        rotated(&scenario, &Script::new([]).before(0, EMERGENCY)).rotation,
        Rotated::Refused("ConsumersUnproven")
    );
}

#[test]
fn a_staged_key_is_promoted_only_when_every_cache_has_it() {
    for application in [Application::Silent, Application::Uncounted] {
        let scenario = Keyring::scenario(Promotion::Staged, application);
        let after = |wait| Script::new([]).rotating(2).before(1, Action::Wait(wait));
        assert_too_young(&rotated(&scenario, &after(HOUR / 2)));
        assert_eq!(rotated(&scenario, &after(HOUR * 2)).rotation, Rotated::Done);
        // Without a word from the service, the key may have become known a day later.
        let untold = scenario.with_staleness(Staleness::NeverRotated);
        assert_too_young(&rotated(&untold, &after(HOUR * 2)));
        assert_eq!(rotated(&untold, &after(HOUR * 26)).rotation, Rotated::Done);
    }
}

/// The function was admitted when the pending ring was just young enough, and moved AWSCURRENT a minute later; the service never
/// saw it succeed. An instance that read the secret just before has the staged key an hour after the move.
#[test]
fn staged_key_is_not_promoted_early_after_a_late_promotion() {
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
    assert_too_young(&almost);
    assert_eq!(rotated(&scenario, &script(HOUR * 2)).rotation, Rotated::Done);
}

#[test]
fn compromised_staged_key_is_replaced_and_never_primary() {
    for application in [Application::Told, Application::CurrentOnly, Application::Silent] {
        let scenario = Keyring::scenario(Promotion::Staged, application);
        let script =
            Script::new([]).rotating(3).before(1, Action::Wait(HOUR * 26)).before(1, Action::Edit(MARKS_STAGED));
        assert_eq!(rotated(&scenario, &script.before(2, Action::Wait(HOUR * 26))).rotation, Rotated::Done);
    }
}

#[test]
fn compromised_primary_is_replaced_at_once() {
    for promotion in [Promotion::Staged, Promotion::Immediate] {
        let scenario = Keyring::scenario(promotion, Application::Told);
        let script = Script::new([]).rotating(2).before(0, Action::Edit(MARKS_PRIMARY));
        assert_eq!(rotated(&scenario, &script).rotation, Rotated::Done);
    }
}

/// Somebody stores a key between the making of a ring and its storing, and the process dies there: the ring lacks the key, and
/// is given up.
#[test]
fn ring_made_from_another_does_not_stop_later_rotations() {
    let simulator = Simulator::new().unwrap();
    for promotion in [Promotion::Staged, Promotion::Immediate] {
        let scenario = Keyring::scenario(promotion, Application::Told);
        let put = gate_after(&simulator, &scenario, Call::Put, 0);
        rotated(&scenario, &Script::new([(put - 1, Action::Edit(ADDS_SECONDARY)), (put, Action::Die)]));
    }
}

/// A rotation stores its ring, and dies until it is given up; the ring stays pending.
fn dies_until_it_is_given_up(scenario: &Scenario<Keyring>) -> Script {
    let put = gate_after(&Simulator::new().unwrap(), scenario, Call::Put, 0);
    Script::new((put..put + 5).map(|gate| (gate, Action::Die)).collect::<Vec<_>>())
}

/// The ring from before would make the staged key primary, or put a key that nobody knows in the place of the primary key.
#[test]
fn pending_ring_of_another_emergency_is_given_up() {
    for application in [Application::Told, Application::Uncounted, Application::Silent] {
        let scenario = Keyring::scenario(Promotion::Staged, application);
        let script = dies_until_it_is_given_up(&scenario);
        let before = script.clone().before(1, EMERGENCY);
        let over = script.before(0, EMERGENCY).before(1, NO_EMERGENCY).before(2, Action::Wait(HOUR * 26));
        for script in [before, over] {
            let given_up = rotated(&scenario, &script.clone().rotating(2));
            assert_eq!(given_up.rotation, Rotated::Refused("UnknownVersion"), "{script}");
            assert!(given_up.errors.contains("CurrentChanged"), "{script}: {:?}", given_up.errors);
            // The model judges which keys are in use then.
            assert_eq!(rotated(&scenario, &script.clone().rotating(3)).rotation, Rotated::Done, "{script}");
        }
    }
}

/// Rotations in a row, and before or during the last one somebody writes the first value again.
fn resets(scenario: &Scenario<Keyring>) -> Vec<Script> {
    let waits = |script: Script| (1..4).fold(script, |script, work| script.before(work, Action::Wait(HOUR * 26)));
    let script = |actions: Vec<_>| waits(Script { prepared: 3, ..Script::new(actions).rotating(4) });
    let gates = rotated(scenario, &script(vec![])).gates.len();
    let before = [Edit::FirstValue, Edit::OtherMember]
        .map(|last| script(vec![]).before(3, Action::Edit(Edit::FirstValue)).before(3, Action::Edit(last)));
    let during = (0..gates).map(|gate| script(vec![(gate, Action::Edit(Edit::FirstValue))]));
    let dies = (0..gates).map(|gate| script(vec![(gate, Action::Edit(Edit::FirstValue)), (gate, Action::Die)]));
    before.into_iter().chain(during).chain(dies).collect()
}

#[test]
fn keys_that_a_first_value_takes_away_are_missed_and_come_back() {
    for application in [Application::Told, Application::Silent] {
        for format in [KeyFormat::Raw, KeyFormat::Fernet, KeyFormat::Tink] {
            let scenario = Keyring::written(Keyring::scenario(Promotion::Staged, application), Shape::Json, format);
            let scripts = resets(&scenario);
            let missed = scripts.iter().filter(|script| rotated(&scenario, script).errors.contains("KeysMissing"));
            assert!(missed.count() > scripts.len() / 4, "few of {} were missed", scripts.len());
        }
    }
}

#[test]
fn caught_a_rotation_that_goes_on_while_keys_are_missing() {
    let scenario = Keyring::scenario(Promotion::Staged, Application::Silent);
    let broken = scenario.sabotaged(Sabotage::ForgetsRing);
    let simulator = Simulator::new().unwrap();
    let found = resets(&scenario).iter().find_map(|script| run_script(&simulator, &broken, script).err());
    let found = found.expect("the sabotage was not noticed");
    assert!(found.violation.promise.contains("a rotation went on while keys are missing"), "{found}");
}

#[test]
fn emergency_during_a_rotation_never_ends_with_an_exposed_key() {
    for application in [Application::Told, Application::Uncounted, Application::Silent] {
        let scenario = Keyring::scenario(Promotion::Staged, application);
        let gates = rotated(&scenario, &Script::new([])).gates.len();
        let endings: Vec<_> = (0..gates)
            .map(|gate| rotated(&scenario, &Script::new([(gate, EMERGENCY)])).rotation)
            .chain((0..gates).map(|gate| rotated(&scenario, &Script::new([(gate, EMERGENCY)]).rotating(2)).rotation))
            .collect();
        for ending in [Rotated::Done, Rotated::Refused("UnknownVersion")] {
            assert!(endings.contains(&ending), "no emergency ended a rotation as {ending:?}");
        }
    }
}

#[test]
fn caught_a_kind_that_promotes_a_ring_from_before_an_emergency() {
    let scenario = Keyring::scenario(Promotion::Staged, Application::Told);
    let broken = Keyring::broken(scenario, Broken::IgnoresSuccession).sabotaged(Sabotage::BelievesWithoutProof);
    let script = dies_until_it_is_given_up(&scenario).rotating(2);
    rotated(&broken, &script);
    let found = run_script(&Simulator::new().unwrap(), &broken, &script.before(1, EMERGENCY))
        .expect_err("the sabotage was not noticed");
    assert!(found.violation.promise.contains("was to be replaced at once"), "{found}");
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

/// The script, and an instance that loads the ring when it has just become current for the last time.
fn one_loads_the_last_ring(scenario: &Scenario<Keyring>, mut script: Script) -> Script {
    let gates = rotated(scenario, &script).gates;
    let promoted = gates.iter().rposition(|gate| gate.call == Call::Move && gate.side == Side::After).unwrap();
    script.actions.push((promoted, Action::ReloadOne(0)));
    script
}

#[test]
fn caught_a_kind_that_ignores_the_age_of_a_staged_key() {
    let scenario = Keyring::scenario(Promotion::Staged, Application::Silent);
    let broken = Keyring::broken(scenario, Broken::IgnoresAge);
    // The clock of the service is behind by up to a second.
    let script = Script::new([]).rotating(2).before(1, Action::Wait(Duration::from_secs(5)));
    let script = one_loads_the_last_ring(&broken, script);
    let found = run_script(&Simulator::new().unwrap(), &broken, &script).expect_err("the sabotage was not noticed");
    assert!(found.violation.promise.contains("encrypts, and an instance does not know it yet"), "{found}");
    assert_too_young(&rotated(&scenario, &script));
}

/// What an emergency excuses, nothing excuses when it is over.
#[test]
fn caught_a_kind_that_promotes_a_fresh_key_after_an_emergency() {
    let scenario = Keyring::scenario(Promotion::Staged, Application::Silent);
    let broken = Keyring::broken(scenario, Broken::PromotesFresh);
    let script = Script::new([]).rotating(2).before(0, EMERGENCY).before(1, Action::Wait(HOUR * 26));
    let lasting = one_loads_the_last_ring(&scenario, script);
    let over = lasting.clone().before(1, NO_EMERGENCY);
    for (kind, script) in [(scenario, &lasting), (scenario, &over), (broken, &lasting)] {
        assert_eq!(rotated(&kind, script).rotation, Rotated::Done);
    }
    let found = run_script(&Simulator::new().unwrap(), &broken, &over).expect_err("the sabotage was not noticed");
    assert!(found.violation.promise.contains("encrypts, and an instance does not know it yet"), "{found}");
}

#[test]
fn caught_a_kind_that_holds_back_a_staged_key_in_every_cache() {
    let scenario = Keyring::scenario(Promotion::Staged, Application::Silent);
    let broken = Keyring::broken(scenario, Broken::HoldsBack);
    let script = Script::new([]).rotating(2).before(1, Action::Wait(HOUR * 2));
    assert_eq!(rotated(&scenario, &script).rotation, Rotated::Done);
    let found = run_script(&Simulator::new().unwrap(), &broken, &script).expect_err("the sabotage was not noticed");
    assert!(found.violation.promise.contains("nothing stood against the rotation"), "{found}");
}

#[test]
fn caught_a_kind_that_puts_back_a_ring_without_the_new_primary() {
    let scenario = Keyring::scenario(Promotion::Immediate, Application::Told).with_defect(Defect::DropsPromoted);
    let broken = scenario.sabotaged(Sabotage::AlwaysPutsBack);
    finds(scenario, broken, Family::Death, "no longer in the current keyring");
}

/// The function dies between any two moves of a put-back, and again while a retry goes on with it. Where no version had
/// `AWSPREVIOUS` before, nothing but the failed version's own stages tells a retry of it.
#[test]
fn a_put_back_that_dies_leaves_no_mark_on_the_failed_ring() {
    let scenario = Keyring::scenario(Promotion::Staged, Application::Told).with_defect(Defect::DropsPromoted);
    for scenario in [scenario, scenario.with_one_value()] {
        let gates = rotated(&scenario, &Script::new([])).gates;
        let moves = |gate: &Gate| gate.call == Call::Move;
        let failed = gates.iter().rposition(|gate| gate.call == Call::Verify).unwrap();
        let last = gates.iter().rposition(moves).unwrap();
        assert!(gates[failed..=last].iter().filter(|gate| moves(gate)).count() >= 2 * 4, "it was put back: {gates:?}");
        for dies in failed..=last {
            rotated(&scenario, &Script::new([(dies, Action::Die)]));
            for again in dies + 1..dies + 8 {
                rotated(&scenario, &Script::new([(dies, Action::Die), (again, Action::Die)]));
            }
        }
    }
}

#[test]
fn caught_a_kind_that_assumes_which_keys_are_held() {
    let scenario = Keyring::scenario(Promotion::Immediate, Application::Told).with_defect(Defect::Frozen);
    let broken = scenario.sabotaged(Sabotage::BelievesWithoutProof);
    finds(scenario, broken, Family::Death, "encrypts, and an instance does not know it yet");
}
