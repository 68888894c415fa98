//! Issued credentials: what is alive at the provider is what the secret's versions name, in every schedule.

use std::time::Duration;

use simulation::families::OperationFamily::{
    BesideOther, BesideRotation, EditAndDeath, OneStaleRead, RotationDies, RotationMeanwhile, Twice, TwiceAndDeath,
};
use simulation::families::{Family, OperationFamily, explore_operation, run_script, script_of};
use simulation::model::Model as _;
use simulation::model::issued::Credential;
use simulation::run::Simulator;
use simulation::scenario::{RotationService, Sabotage, Scenario, Staleness};
use simulation::schedule::{Action, Call, Edit, Operation, Script, Until, Work};

use crate::operations::{LAGS, ToExplore, add, kept};
use crate::support::{
    at_least, explore_all, explore_operations, finds, gate_after, long_random_histories, long_random_histories_operated,
};

#[test]
fn no_credential_is_orphaned_or_revoked_while_it_is_used() {
    let mut work = vec![];
    for scenario in Credential::scenarios() {
        work.extend(Family::ALL.iter().map(|family| (scenario, *family)));
        let late = scenario.with_staleness(Staleness::Lag(Duration::from_millis(700)));
        work.extend([Family::Death, Family::LostAnswer].map(|family| (late, family)));
    }
    at_least(10_000, explore_all(work));
}

#[test]
fn no_credential_is_orphaned_in_long_random_histories() {
    long_random_histories::<Credential>(2_000);
}

fn operated() -> ToExplore<Credential> {
    let (many, two) = (Scenario::new(Credential::Many), Scenario::new(Credential::Two));
    let mut work = vec![];
    for scenario in [many, two] {
        add(
            &mut work,
            scenario,
            &[
                OperationFamily::Death,
                OperationFamily::LostAnswer,
                OperationFamily::Edit,
                RotationMeanwhile,
                RotationDies,
                BesideOther,
            ],
        );
        add(
            &mut work,
            scenario.with_service(RotationService::InTurns),
            &[OperationFamily::Death, OperationFamily::Edit],
        );
        add(&mut work, scenario.leaving_rotations(), &[RotationMeanwhile]);
    }
    add(&mut work, many, &[Twice, TwiceAndDeath, EditAndDeath, BesideRotation, OneStaleRead]);
    add(&mut work, many.leaving_rotations(), &[BesideRotation]);
    for lag in LAGS {
        add(&mut work, many.with_staleness(Staleness::Lag(lag)), &[OperationFamily::Death, OperationFamily::Edit]);
    }
    work
}

#[test]
fn what_operators_ask_for_keeps_every_promise_of_credentials() {
    at_least(10_000, explore_operations(operated()));
}

#[test]
fn operations_keep_every_promise_of_credentials_in_histories() {
    long_random_histories_operated(1_000, &[Credential::Many, Credential::Two].map(Scenario::new));
}

#[test]
fn caught_an_issuer_that_is_asked_again_without_a_look() {
    let scenario = Scenario::new(Credential::Many);
    let promise = "issued again for a version that has one";
    finds(scenario, scenario.sabotaged(Sabotage::IssuesAgain), Family::Death, promise);
}

#[test]
fn caught_a_discard_of_what_the_version_holds() {
    let scenario = Scenario::new(Credential::Many);
    let promise = "nothing stood against the rotation";
    finds(scenario, scenario.sabotaged(Sabotage::KeepsNothing), Family::Death, promise);
}

#[test]
fn caught_a_version_whose_mark_is_forgotten() {
    let scenario = Scenario::new(Credential::Many);
    let promise = "a credential is alive that no version names";
    finds(scenario, scenario.sabotaged(Sabotage::ForgetsIssued), Family::Edit, promise);
}

#[test]
fn caught_an_attempt_that_is_not_recorded() {
    let scenario = Scenario::new(Credential::Many);
    let promise = "a credential is alive that no version names";
    finds(scenario, scenario.sabotaged(Sabotage::ForgetsAttempt), Family::Death, promise);
}

/// A script in which `sabotage` breaks a promise, and nothing else does.
fn finds_in(script: &Script, sabotage: Sabotage, promise: &str) {
    let simulator = Simulator::new().unwrap();
    let scenario = Scenario::new(Credential::Many);
    run_script(&simulator, &scenario, script).unwrap_or_else(|found| panic!("without sabotage: {found}"));
    let found = run_script(&simulator, &scenario.sabotaged(sabotage), script).unwrap_err();
    assert!(found.violation.promise.contains(promise), "{found}");
}

#[test]
fn caught_a_revocation_within_the_overlap() {
    finds_in(&Script::new([]).rotating(2), Sabotage::AgesEverything, "revoked within its overlap");
}

#[test]
fn caught_a_revocation_of_the_current_credential() {
    let edited = Script::new([]).rotating(2).before(1, Action::Edit(Edit::OtherMember));
    let later = edited.before(1, Action::Wait(Duration::from_secs(25 * 60 * 60)));
    finds_in(&later, Sabotage::ComparesVersions, "the current credential was revoked");
}

#[test]
fn a_crash_after_the_issue_costs_no_rotation() {
    let simulator = Simulator::new().unwrap();
    let scenario = Scenario::new(Credential::Many);
    let issued = gate_after(&simulator, &scenario, Call::Issue, 0);
    let ended = run_script(&simulator, &scenario, &Script::new([(issued, Action::Die)])).unwrap();
    assert_eq!(ended.rotation, simulation::run::Rotated::Done);
}

/// Without sabotage the search is one of [`operated`].
fn catches(
    sound: Scenario<Credential>,
    sabotage: Sabotage,
    (operation, family): (Operation, OperationFamily),
    promise: &str,
) {
    let broken = sound.sabotaged(sabotage);
    let found = explore_operation(&Simulator::new().unwrap(), &broken, operation, family, 1);
    let found = found.expect_err("the sabotage was not noticed");
    assert!(found.violation.promise.contains(promise), "{found}");
}

#[test]
fn caught_a_revocation_that_overlooks_a_faster_rollback() {
    let many = Scenario::new(Credential::Many);
    let search = (Operation::Rollback, BesideOther);
    catches(many, Sabotage::TakesPreviousBlindly, search, "the current credential was revoked");
}

#[test]
fn caught_a_rollback_that_overlooks_a_faster_revocation() {
    let many = Scenario::new(Credential::Many);
    catches(many, Sabotage::LeavesPrevious, (Operation::Rollback, BesideOther), "the current credential was revoked");
}

/// At one of its gates the rollback has moved `AWSCURRENT`, and waits for the answer of the issuer.
#[test]
fn caught_a_revocation_of_what_a_rollback_may_put_back() {
    let (simulator, scenario) = (Simulator::new().unwrap(), Scenario::new(Credential::Many));
    let beside = |gates| {
        let begin = Action::Begin { operation: Operation::Rollback, gates, until: Until::StepEnds };
        Script { actions: vec![(0, begin)], ..script_of(Operation::Revoke) }
    };
    let searched = |scenario: Scenario<Credential>| {
        let ended = (0..40).map(|gates| run_script(&simulator, &scenario, &beside(gates)));
        let found = ended.filter_map(Result::err).map(|found| found.violation.promise);
        found.filter(|promise| promise.contains("was revoked that may be put back")).count()
    };
    assert_eq!(searched(scenario), 0);
    assert_ne!(searched(scenario.sabotaged(Sabotage::ForgetsRollback)), 0);
}

#[test]
fn caught_a_revocation_that_does_not_wait_for_success() {
    let many = Scenario::new(Credential::Many);
    let promise = "a credential was revoked that may be put back";
    catches(many, Sabotage::SucceedsEarly, (Operation::Revoke, BesideRotation), promise);
    let in_turns = many.with_service(RotationService::InTurns);
    catches(in_turns, Sabotage::SucceedsEarly, (Operation::Compromise, OperationFamily::Death), promise);
}

#[test]
fn caught_orphans_that_nobody_discards() {
    let two = Scenario::new(Credential::Two);
    let promise = "a credential is alive that no version names";
    catches(two, Sabotage::KeepsOrphans, (Operation::Compromise, RotationDies), promise);
}

#[test]
fn caught_a_rollback_that_forgets_what_it_replaced() {
    let many = Scenario::new(Credential::Many);
    let promise = "a credential is alive that no version names";
    catches(many, Sabotage::ForgetsIssued, (Operation::Rollback, OperationFamily::Death), promise);
}

/// Its answer is not waited for any more, and the repetition has succeeded.
#[test]
fn a_late_rotation_does_not_go_back_to_what_was_revoked() {
    let simulator = Simulator::new().unwrap();
    let scenario = Scenario::new(Credential::Many);
    let proves = gate_after(&simulator, &scenario, Call::Verify, 4) - 1;
    let mut script = Script::new([(proves, Action::Lose(Until::RotationEnds))]);
    script.works.push(Work::Operation(Operation::Revoke));
    let gates = run_script(&simulator, &scenario, &script).unwrap().gates;
    let late = Until::Gate(gates.len() - 1);
    script.actions = vec![(proves, Action::Lose(late)), (gates.len() - 1, Action::Wait(Duration::from_secs(30)))];
    run_script(&simulator, &scenario, &script).unwrap_or_else(|found| panic!("without sabotage: {found}"));
    let found = run_script(&simulator, &scenario.sabotaged(Sabotage::SaysAllWorks), &script).unwrap_err();
    assert!(found.violation.promise.contains("the current credential is dead"), "{found}");
}

#[test]
fn a_compromise_finds_room_within_the_overlap() {
    for (credential, operation) in [(Credential::Two, Operation::Compromise), (Credential::Two, Operation::Revoke)] {
        let ended = kept(Scenario::new(credential), &script_of(operation));
        assert!(ended.answers.iter().all(|(_, error)| error.is_none()), "{:?}", ended.answers);
    }
}
