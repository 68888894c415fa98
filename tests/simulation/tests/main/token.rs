//! Admin tokens: the promises hold in every schedule, and schedules are known in which a broken protocol is caught.

use std::time::Duration;

use simulation::families::{Family, explore, run_script};
use simulation::model::token::{Application, Token};
use simulation::model::{Model as _, Shape};
use simulation::run::{Rotated, STEPS, Simulator};
use simulation::scenario::{Defect, Sabotage, Scenario, Staleness};
use simulation::schedule::{Action, Call, Edit, Script, Task, Until};

use crate::support::{at_least, explore_all, finds, gate_after, long_random_histories};

/// The answers of reads are so old: as long as the protocol waits for them, longer than its first pauses, and longer than all.
const LAGS: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(700), Duration::from_millis(1500)];

fn work() -> Vec<(Scenario<Token>, Family)> {
    use Family::{Death, Duplicate, Edit, EditAndDeath, EditAndDuplicate, LostAnswer};
    let mut work = vec![];
    for scenario in Token::scenarios() {
        // A person's edit beside a broken application leaves nothing to say about either.
        let edited = [Edit, EditAndDeath, EditAndDuplicate];
        // What a broken application refuses does not depend on the shape: the large families run with one.
        let large = [Family::GivenUp, Duplicate, Family::DuplicateAndDeath, Family::OneStaleReadAndDeath];
        let families = Family::ALL.into_iter().filter(|family| match (scenario.defect, scenario.model.shape) {
            (None, _) => true,
            (Some(_), Shape::Text) => !edited.contains(family),
            (Some(_), Shape::Json) => !edited.contains(family) && !large.contains(family),
        });
        work.extend(families.map(|family| (scenario, family)));
        if scenario.defect.is_some() {
            continue;
        }
        for lag in LAGS {
            let late = scenario.with_staleness(Staleness::Lag(lag));
            work.extend([Death, LostAnswer, Edit].map(|family| (late, family)));
        }
        if scenario.model.shape == Shape::Text {
            work.push((scenario.with_staleness(Staleness::Lag(LAGS[1])), Duplicate));
        }
        if matches!(scenario.model.application, Application::Reloading | Application::CurrentOnly) {
            let late_everywhere = scenario.with_staleness(Staleness::LagEverywhere(LAGS[0]));
            work.extend([Death, LostAnswer].map(|family| (late_everywhere, family)));
        }
        if scenario.model.application == Application::CurrentOnly {
            work.extend([Death, LostAnswer].map(|family| (scenario.in_turn(), family)));
        }
    }
    work
}

#[test]
fn promises_hold_with_one_fault_one_duplicate_and_one_edit() {
    at_least(100_000, explore_all(work()));
}

#[test]
fn promises_hold_in_long_random_histories() {
    long_random_histories::<Token>(12_000);
}

#[test]
fn caught_a_protocol_that_generates_anew_on_a_retry() {
    let scenario = Token::scenario(Shape::Text, Application::None);
    finds(scenario, scenario.sabotaged(Sabotage::PutOverwrites), Family::Death, "a value that was written has changed");
}

#[test]
fn caught_a_promotion_without_compare_and_swap() {
    let scenario = Token::scenario(Shape::Text, Application::None);
    finds(
        scenario,
        scenario.sabotaged(Sabotage::MoveIgnoresOrigin),
        Family::Edit,
        "which a person stored during the rotation",
    );
}

#[test]
fn caught_a_protocol_that_does_not_see_younger_versions() {
    let scenario = Token::scenario(Shape::Text, Application::None);
    finds(
        scenario,
        scenario.sabotaged(Sabotage::HidesAges),
        Family::EditAndDeath,
        "which a person stored during the rotation",
    );
}

#[test]
fn caught_a_kind_that_believes_without_proof() {
    let scenario = Token::scenario(Shape::Text, Application::Told).with_defect(Defect::Frozen);
    finds(scenario, scenario.sabotaged(Sabotage::BelievesWithoutProof), Family::Death, "an instance refuses its token");
}

#[test]
fn caught_a_rollback_that_leaves_the_version_pending() {
    let scenario = Token::scenario(Shape::Text, Application::CurrentOnly).with_defect(Defect::Frozen);
    finds(scenario, scenario.sabotaged(Sabotage::KeepsPending), Family::Death, "promoted again");
}

#[test]
fn caught_a_rollback_that_only_pretends() {
    let scenario = Token::scenario(Shape::Text, Application::CurrentOnly).with_defect(Defect::Frozen);
    finds(scenario, scenario.sabotaged(Sabotage::OnlyPretendsToRollBack), Family::Death, "not AWSCURRENT again");
}

#[test]
fn a_rotation_without_a_target_makes_eleven_calls() {
    let simulator = Simulator::new().unwrap();
    for shape in [Shape::Text, Shape::Json] {
        let ended = run_script(&simulator, &Token::scenario(shape, Application::None), &Script::new([])).unwrap();
        assert_eq!(ended.rotation, Rotated::Done);
        let calls = STEPS.map(|step| {
            let of_step = ended.calls.iter().filter(|gate| gate.task == Task::Step(step));
            of_step.map(|gate| gate.call).collect::<Vec<_>>()
        });
        use Call::{Describe, Get, Move, Put};
        let expected =
            [vec![Describe, Get, Put, Describe], vec![Describe], vec![Describe, Get], vec![Describe, Get, Get, Move]];
        assert_eq!(calls, expected);
        assert_eq!(ended.calls.len(), 11);
    }
}

/// The token before is in its overlap: clients hold it.
#[test]
fn a_rollback_that_died_anywhere_restores_the_previous_token() {
    let simulator = Simulator::new().unwrap();
    for application in [Application::Told, Application::CurrentOnly] {
        for defect in [Defect::Frozen, Defect::DropsPromoted] {
            let scenario = Token::scenario(Shape::Text, application).with_defect(defect);
            for family in [Family::Death, Family::LostAnswer] {
                explore(&simulator, &scenario, family, 1).unwrap_or_else(|found| panic!("{found}"));
            }
        }
    }
}

#[test]
fn half_done_rollback_is_finished_and_leaves_no_stage() {
    let simulator = Simulator::new().unwrap();
    for shape in [Shape::Text, Shape::Json] {
        let scenario = Token::scenario(shape, Application::Told).with_defect(Defect::DropsPromoted);
        let put_back = gate_after(&simulator, &scenario, Call::Move, 1);
        run_script(&simulator, &scenario, &Script::new([(put_back, Action::Die)]))
            .unwrap_or_else(|found| panic!("{found}"));
    }
}

/// The instance that the first of two tokens always comes to may be the one that knows only the second. The rotation may be
/// refused for that, and is then put back; nothing else may happen.
#[test]
fn strict_turns_cost_at_most_a_refusal() {
    let simulator = Simulator::new().unwrap();
    let scenario = Token::scenario(Shape::Text, Application::CurrentOnly).in_turn();
    let first_told = gate_after(&simulator, &scenario, Call::Refresh, 0);
    let ended = run_script(&simulator, &scenario, &Script::new([(first_told, Action::Die)]));
    ended.unwrap_or_else(|found| panic!("{found}"));
}

/// The application keeps a value that the next rotation knows nothing of, until its cache is too old.
#[test]
fn edit_and_death_after_promotion_cost_one_cache_time_at_most() {
    let simulator = Simulator::new().unwrap();
    let scenario = Token::scenario(Shape::Json, Application::CurrentOnly);
    let first_told = gate_after(&simulator, &scenario, Call::Refresh, 0);
    let script = Script::new([(first_told, Action::Edit(Edit::OtherMember)), (first_told, Action::Die)]);
    run_script(&simulator, &scenario, &script).unwrap_or_else(|found| panic!("{found}"));
}

/// PutSecretValue has no compare-and-swap. The rotation that lost the stage is refused, the late one gives it up, and nothing
/// that a person stored is replaced by either.
#[test]
fn put_after_the_next_rotation_began_costs_that_rotation_only() {
    let simulator = Simulator::new().unwrap();
    for application in [Application::None, Application::Told] {
        let scenario = Token::scenario(Shape::Text, application);
        let put = gate_after(&simulator, &scenario, Call::Put, 0) - 1;
        for later in 1..60 {
            let late_put = Action::Lose(Until::Gate(put + later));
            let script = Script::new([(put, Action::Edit(Edit::Secret)), (put, late_put)]).rotating(2);
            run_script(&simulator, &scenario, &script).unwrap_or_else(|found| panic!("{found}"));
        }
    }
}
