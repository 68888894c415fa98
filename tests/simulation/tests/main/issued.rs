//! Issued credentials: what is alive at the provider is what the secret's versions name, in every schedule.

use std::time::Duration;

use simulation::families::{Family, run_script};
use simulation::model::Model as _;
use simulation::model::issued::Credential;
use simulation::run::Simulator;
use simulation::scenario::{Sabotage, Scenario, Staleness};
use simulation::schedule::{Action, Call, Edit, Script};

use crate::support::{at_least, explore_all, finds, gate_after, long_random_histories};

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

#[test]
fn caught_an_issuer_that_is_asked_again_without_a_look() {
    let scenario = Scenario::new(Credential);
    let promise = "issued again for a version that has one";
    finds(scenario, scenario.sabotaged(Sabotage::IssuesAgain), Family::Death, promise);
}

#[test]
fn caught_a_discard_of_what_the_version_holds() {
    let scenario = Scenario::new(Credential);
    let promise = "nothing stood against the rotation";
    finds(scenario, scenario.sabotaged(Sabotage::KeepsNothing), Family::Death, promise);
}

#[test]
fn caught_a_version_whose_mark_is_forgotten() {
    let scenario = Scenario::new(Credential);
    let promise = "a credential is alive that no version names";
    finds(scenario, scenario.sabotaged(Sabotage::ForgetsIssued), Family::Edit, promise);
}

#[test]
fn caught_an_attempt_that_is_not_recorded() {
    let scenario = Scenario::new(Credential);
    let promise = "a credential is alive that no version names";
    finds(scenario, scenario.sabotaged(Sabotage::ForgetsAttempt), Family::Death, promise);
}

/// A script in which `sabotage` breaks a promise, and nothing else does.
fn finds_in(script: &Script, sabotage: Sabotage, promise: &str) {
    let simulator = Simulator::new().unwrap();
    let scenario = Scenario::new(Credential);
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
    let scenario = Scenario::new(Credential);
    let issued = gate_after(&simulator, &scenario, Call::Issue, 0);
    let ended = run_script(&simulator, &scenario, &Script::new([(issued, Action::Die)])).unwrap();
    assert_eq!(ended.rotation, simulation::run::Rotated::Done);
}
