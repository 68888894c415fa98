//! What operators ask for: the promises hold beside faults, people, rotations and one another, and what was begun is finished.

use std::time::Duration;

use rotation::keyring::KeyFormat;
use rotation::policy::Promotion::{Immediate, Staged};
use rotation::store::StoreErrorKind;
use simulation::families::OperationFamily::{self, *};
use simulation::families::{run_script, script_of};
use simulation::model::keyring::{self, Keyring};
use simulation::model::token::{Application, Token};
use simulation::model::{Model, Shape};
use simulation::run::{Ended, Rotated, Simulator};
use simulation::scenario::{Defect, RotationService, Sabotage, Scenario, Staleness};
use simulation::schedule::{self, Action, Adversary, Call, Gate, Operation, Script, Side, Task, Until, Work};

use crate::support::{at_least, explore_operations, finds_of, long_random_histories_operated};

/// The answers of reads are so old: as long as the protocol waits for them, longer than its first pauses, and longer than all.
pub(crate) const LAGS: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(700), Duration::from_millis(1500)];

/// Those in which one thing happens, at one gate.
const SMALL: [OperationFamily; 5] = [Death, LostAnswer, Edit, RotationMeanwhile, Reload];

pub(crate) type ToExplore<M> = Vec<(Scenario<M>, Operation, OperationFamily)>;

pub(crate) fn add<M: Model>(work: &mut ToExplore<M>, scenario: Scenario<M>, families: &[OperationFamily]) {
    for operation in M::OPERATIONS {
        for family in families {
            // What is stuck for minutes is known to every read; and only one of them asks for a rotation.
            let told = (*operation, *family) != (Operation::Abort, OneStaleRead);
            let asks = *family != RotationDies || *operation == Operation::Compromise;
            if told && asks {
                work.push((scenario, *operation, *family));
            }
        }
    }
}

fn tokens() -> ToExplore<Token> {
    use Application::{CurrentOnly, None, Reloading, Told};
    let mut work = vec![];
    for shape in [Shape::Text, Shape::Json] {
        for application in [None, Told, Reloading, CurrentOnly] {
            let scenario = Token::scenario(shape, application);
            add(&mut work, scenario, &SMALL);
            add(&mut work, scenario, &[RotationDies]);
            add(&mut work, scenario.leaving_rotations(), &[RotationMeanwhile]);
            add(&mut work, scenario.with_service(RotationService::InTurns), &[Death, Edit]);
        }
        let quiet = Token::scenario(shape, None);
        add(&mut work, quiet, &[Twice, EditAndDeath, OneStaleRead, BesideRotation]);
        add(&mut work, quiet.leaving_rotations(), &[BesideRotation]);
        for lag in LAGS {
            for application in [None, Told] {
                let late = Token::scenario(shape, application).with_staleness(Staleness::Lag(lag));
                add(&mut work, late, &[Death, Edit]);
            }
        }
        add(&mut work, quiet.with_staleness(Staleness::Lag(LAGS[1])), &[LostAnswer]);
        for defect in [Defect::Frozen, Defect::DropsPromoted, Defect::AcceptsRevoked] {
            add(&mut work, Token::scenario(shape, Told).with_defect(defect), &[Death, LostAnswer]);
        }
        for defect in [Defect::Frozen, Defect::AcceptsRevoked] {
            add(&mut work, Token::scenario(shape, CurrentOnly).with_defect(defect), &[Death]);
        }
    }
    add(
        &mut work,
        Token::scenario(Shape::Json, Told),
        &[Twice, TwiceAndDeath, EditAndDeath, BesideRotation, BesideOther],
    );
    add(&mut work, Token::scenario(Shape::Json, None).leaving_rotations(), &[BesideOther]);
    add(&mut work, Token::scenario(Shape::Text, CurrentOnly), &[Twice]);
    work
}

/// Of an application that ends overlaps by itself, and of one that has to be told; beside rotations that end well, and that are put back.
fn ends_of_overlaps() -> ToExplore<Token> {
    use Application::{CurrentOnly, Reloading, Told};
    let of = |scenario: Scenario<Token>, families: &'static [OperationFamily]| {
        families.iter().map(move |family| (scenario, Operation::EndOverlap, *family))
    };
    let mut work = vec![];
    for shape in [Shape::Text, Shape::Json] {
        for application in [Told, Reloading, CurrentOnly] {
            let scenario = Token::scenario(shape, application);
            work.extend(of(scenario, &[Twice, TwiceAndDeath, EditAndDeath, BeforeRotation]));
        }
        for defect in [Defect::Frozen, Defect::DropsPromoted, Defect::AcceptsRevoked] {
            work.extend(of(Token::scenario(shape, Told).with_defect(defect), &[BeforeRotation, RotationMeanwhile]));
        }
        work.extend(of(Token::scenario(shape, Told), &[BesideOther, OneStaleRead]));
    }
    work
}

fn keys() -> ToExplore<Keyring> {
    use keyring::Application::{CurrentOnly, Silent, Told};
    let text = |application| Keyring::written(Keyring::scenario(Immediate, application), Shape::Text, KeyFormat::Raw);
    let staged = Keyring::scenario(Staged, Told);
    let mut work = vec![];
    for scenario in
        [staged, Keyring::scenario(Staged, Silent), Keyring::scenario(Immediate, Told), text(Told), text(Silent)]
    {
        add(&mut work, scenario, &[Death, Edit, RotationMeanwhile]);
        add(&mut work, scenario.leaving_rotations(), &[RotationMeanwhile]);
    }
    add(&mut work, Keyring::scenario(Staged, CurrentOnly), &[Death]);
    add(&mut work, staged, &[LostAnswer, Reload, RotationDies]);
    add(&mut work, Keyring::scenario(Staged, Silent), &[Twice]);
    add(&mut work, text(Silent), &[LostAnswer, RotationDies, EditAndDeath, TwiceAndDeath, BesideRotation, BesideOther]);
    for lag in LAGS {
        add(&mut work, text(Silent).with_staleness(Staleness::Lag(lag)), &[Death, Edit]);
    }
    add(&mut work, staged.with_staleness(Staleness::Lag(LAGS[2])), &[Death]);
    for defect in [Defect::Frozen, Defect::DropsPromoted] {
        add(&mut work, staged.with_defect(defect), &[Death]);
    }
    work
}

#[test]
fn what_operators_ask_for_keeps_every_promise_of_tokens() {
    at_least(30_000, explore_operations(tokens()));
}

#[test]
fn sweep_keeps_every_promise_beside_whatever_else_happens() {
    at_least(10_000, explore_operations(ends_of_overlaps()));
}

#[test]
fn what_operators_ask_for_keeps_every_promise_of_keys() {
    at_least(4_000, explore_operations(keys()));
}

#[test]
fn operations_keep_every_promise_of_tokens_in_long_histories() {
    use Application::{CurrentOnly, None, Reloading, Told};
    let of = |shape| [None, Told, Reloading, CurrentOnly].map(|application| Token::scenario(shape, application));
    long_random_histories_operated(3_000, &[of(Shape::Text), of(Shape::Json)].concat());
}

#[test]
fn operations_keep_every_promise_of_keys_in_long_histories() {
    use keyring::Application::{Silent, Told};
    let text = |application| Keyring::written(Keyring::scenario(Immediate, application), Shape::Text, KeyFormat::Raw);
    let staged = [Told, Silent].map(|application| Keyring::scenario(Staged, application));
    long_random_histories_operated(500, &[staged, [text(Told), text(Silent)]].concat());
}

/// A run that ended with every promise kept.
pub(crate) fn kept<M: Model>(scenario: Scenario<M>, script: &Script) -> Ended {
    run_script(&Simulator::new().unwrap(), &scenario, script).unwrap_or_else(|found| panic!("{found}"))
}

/// The gate before the `which`th call of this kind by the operation itself.
pub(crate) fn gate_of<M: Model>(scenario: Scenario<M>, script: &Script, call: Call, which: usize) -> usize {
    let gates = kept(scenario, script).gates;
    let mut of_call = gates.iter().enumerate().filter(|(_, gate)| gate.call == call && gate.side == Side::Before);
    of_call.nth(which).unwrap().0
}

/// The application knows nothing but the token that was rolled back: the next try has to tell it with that one.
#[test]
fn rollback_that_died_before_telling_is_finished_by_the_next() {
    for shape in [Shape::Text, Shape::Json] {
        let scenario = Token::scenario(shape, Application::CurrentOnly);
        let script = script_of(Operation::Rollback);
        let told = gate_of(scenario, &script, Call::Refresh, 0);
        kept(scenario, &Script { actions: vec![(told, Action::Die)], ..script });
    }
}

/// Nobody repeats the rotation: what it left is replaced by another one.
#[test]
fn compromise_that_died_after_promotion_is_finished_later() {
    for shape in [Shape::Text, Shape::Json] {
        let dies = RotationService::FirstDies(22);
        let scenario = Token::scenario(shape, Application::None).with_service(dies);
        let ended = kept(scenario, &script_of(Operation::Compromise));
        assert_eq!(ended.rotation, Rotated::Done);
        let answers: Vec<_> = ended.answers.iter().map(|(_, error)| *error).collect();
        assert_eq!(answers, [Some("NotFinished"), Some("NotFinished"), None]);
    }
}

/// It looked at the secret two rotations ago. A put under a stage takes it from whatever version has it.
#[test]
fn late_rollback_does_not_undo_the_last_one() {
    for shape in [Shape::Text, Shape::Json] {
        let scenario = Token::scenario(shape, Application::None);
        let ended = kept(scenario, &Script::new([])).gates.len() - 1;
        let late = Action::Begin { operation: Operation::Rollback, gates: 4, until: Until::Gate(usize::MAX) };
        let mut script = Script::new([(ended, late)]).rotating(2);
        script.works.push(Work::Operation(Operation::Rollback));
        let answers = kept(scenario, &script).answers;
        let in_time = (Operation::Rollback, None);
        assert_eq!(answers.get(..2), Some(&[in_time, (Operation::Rollback, Some("CurrentChanged"))][..]));
    }
}

/// Another request for the same was faster, and made its value from what a person had stored: that is what it has to be put back
/// to when it does not verify.
#[test]
fn late_rollback_puts_back_only_what_it_replaced() {
    let scenario = Token::scenario(Shape::Text, Application::CurrentOnly);
    let rollback = Work::Operation(Operation::Rollback);
    let late = Action::Begin { operation: Operation::Rollback, gates: 2, until: Until::Gate(usize::MAX) };
    let last = kept(scenario, &Script::new([]).doing(rollback)).gates.len() - 1;
    let mut script = Script::new([(0, late), (last, Action::Edit(schedule::Edit::Secret))]).doing(rollback);
    script.works.push(rollback);
    let gates = kept(scenario, &script).gates;
    let told = gates.iter().rposition(|gate| gate.call == Call::Move && gate.side == Side::After).unwrap() + 1;
    script.actions.push((told, Action::Die));
    kept(scenario, &script);
}

/// A rotation begins by asking with the current token, which the application does not know.
#[test]
fn compromise_after_a_half_done_rollback_tells_the_target_first() {
    for shape in [Shape::Text, Shape::Json] {
        let scenario = Token::scenario(shape, Application::CurrentOnly);
        let script = script_of(Operation::Rollback);
        let told = gate_of(scenario, &script, Call::Refresh, 0);
        let mut script = Script { actions: vec![(told, Action::Die)], ..script };
        script.works.push(Work::Operation(Operation::Compromise));
        let answers = kept(scenario, &script).answers;
        assert_eq!(answers.first(), Some(&(Operation::Compromise, None)));
    }
}

/// The move was accepted: however late reads show it, it is not reported as a change by somebody else, and a rollback that is
/// asked for again does not undo itself.
#[test]
fn what_reads_show_late_is_done_all_the_same() {
    for shape in [Shape::Text, Shape::Json] {
        let late = Token::scenario(shape, Application::None).with_staleness(Staleness::Lag(LAGS[2]));
        for operation in [Operation::Rollback, Operation::Revoke] {
            assert_eq!(kept(late, &script_of(operation)).answers.first(), Some(&(operation, None)));
        }
    }
}

/// It has come to its end. On a version that is not current it would be taken up again.
#[test]
fn published_value_leaves_no_ended_rotation_open() {
    for application in [Application::None, Application::Told] {
        let scenario = Token::scenario(Shape::Json, application).leaving_rotations();
        for operation in [Operation::Rollback, Operation::Revoke, Operation::Compromise] {
            let ended = kept(scenario, &script_of(operation));
            assert!(ended.answers.iter().all(|(_, error)| error.is_none()), "{:?}", ended.answers);
        }
    }
}

/// `AWSPREVIOUS` belongs to the rotation then, which goes back by it.
#[test]
fn late_revocation_takes_nothing_from_a_faster_rotation() {
    let scenario = Token::scenario(Shape::Json, Application::None).leaving_rotations();
    let script = script_of(Operation::Revoke);
    let published = gate_of(scenario, &script, Call::PutPrivate, 0);
    let ended = kept(scenario, &Script { actions: vec![(published, Action::Rotate)], ..script });
    assert_eq!(ended.answers.first(), Some(&(Operation::Revoke, Some("CurrentChanged"))));
}

#[test]
fn caught_a_revocation_that_is_forgotten_before_its_proof() {
    for shape in [Shape::Text, Shape::Json] {
        let scenario = Token::scenario(shape, Application::Told).with_defect(Defect::AcceptsRevoked);
        let broken = scenario.sabotaged(Sabotage::ForgetsRevoked);
        finds_of(scenario, broken, (Operation::Revoke, Death), "an old token is accepted");
    }
}

#[test]
fn caught_an_overlap_that_is_ended_without_proof() {
    for shape in [Shape::Text, Shape::Json] {
        let scenario = Token::scenario(shape, Application::Told).with_defect(Defect::AcceptsRevoked);
        let broken = scenario.sabotaged(Sabotage::BelievesRefused);
        finds_of(scenario, broken, (Operation::EndOverlap, Death), "an old token is accepted");
    }
}

#[test]
fn caught_an_end_of_an_overlap_that_ends_another_one() {
    for family in [BeforeRotation, RotationMeanwhile] {
        let scenario = Token::scenario(Shape::Text, Application::Told);
        let broken = scenario.sabotaged(Sabotage::RemovesAnyPrevious);
        finds_of(scenario, broken, (Operation::EndOverlap, family), "refuse the previous token");
    }
}

#[test]
fn caught_a_rollback_that_undoes_itself() {
    for shape in [Shape::Text, Shape::Json] {
        let scenario = Token::scenario(shape, Application::Told);
        let broken = scenario.sabotaged(Sabotage::ForgetsRollback);
        finds_of(scenario, broken, (Operation::Rollback, Death), "what was in use before is not");
    }
    let scenario = Keyring::scenario(Staged, keyring::Application::Told);
    let broken = scenario.sabotaged(Sabotage::ForgetsRollback);
    finds_of(scenario, broken, (Operation::Rollback, Death), "what was in use before is not");
}

#[test]
fn caught_a_compromise_that_does_not_wait_for_success() {
    let scenario = Token::scenario(Shape::Json, Application::Told).with_service(RotationService::InTurns);
    let broken = scenario.sabotaged(Sabotage::SucceedsEarly);
    finds_of(scenario, broken, (Operation::Compromise, Death), "was taken away before the rotation had succeeded");
}

#[test]
fn caught_a_value_that_is_published_without_compare_and_swap() {
    use Application::{None, Told};
    for (application, operation) in
        [(None, Operation::Rollback), (None, Operation::Revoke), (Told, Operation::EndOverlap)]
    {
        let scenario = Token::scenario(Shape::Json, application);
        let broken = scenario.sabotaged(Sabotage::MoveIgnoresOrigin);
        finds_of(scenario, broken, (operation, Edit), "does not have the other members of person");
    }
}

#[test]
fn caught_a_proof_in_which_refusals_outvote_an_acceptance() {
    let scenario = Token::scenario(Shape::Json, Application::Told).with_defect(Defect::AcceptsRevoked);
    let broken = scenario.sabotaged(Sabotage::RefusalsOutvote);
    for operation in [Operation::Revoke, Operation::Compromise] {
        finds_of(scenario, broken, (operation, Death), "an old token is accepted");
    }
}

#[test]
fn caught_an_abort_that_leaves_the_rotation_open() {
    let scenario = Token::scenario(Shape::Text, Application::Told);
    let broken = scenario.sabotaged(Sabotage::KeepsPending);
    finds_of(scenario, broken, (Operation::Abort, Death), "an abort succeeded, and a rotation is open");
}

/// Whenever a rollback is about to make its value current, this happens.
struct Hinders {
    action: Action,
    /// The invocation that has stored its value.
    stored: Option<u32>,
}

impl Hinders {
    fn with(action: Action) -> Self {
        Self { action, stored: None }
    }
}

impl Adversary for Hinders {
    fn at(&mut self, _: usize, gate: &Gate) -> Vec<Action> {
        if gate.task != Task::Operation(Operation::Rollback) {
            return vec![];
        }
        match (gate.call, gate.side) {
            (Call::PutPrivate, Side::After) => self.stored = Some(gate.invocation),
            (Call::Move, Side::Before) if self.stored == Some(gate.invocation) => {
                self.stored = None;
                return vec![self.action];
            }
            _ => {}
        }
        vec![]
    }

    fn before(&mut self, work: usize) -> Vec<Action> {
        // An hour between two requests; and an edit, so that no rollback is the repetition of one before.
        if work > 1 {
            vec![Action::Wait(Duration::from_secs(60 * 60)), Action::Edit(schedule::Edit::OtherMember)]
        } else {
            vec![]
        }
    }

    fn works(&self) -> Vec<Work> {
        let rollbacks = vec![Work::Operation(Operation::Rollback); 12];
        [vec![Work::Rotation], rollbacks, vec![Work::Rotation]].concat()
    }

    fn prepared(&self) -> usize {
        1
    }
}

/// An edit that comes in between, a process that dies, a service that does not answer: a secret has 20 staging labels.
#[test]
fn failed_rollbacks_use_up_no_staging_labels() {
    let hindrances =
        [Action::Edit(schedule::Edit::OtherMember), Action::Die, Action::Fail(StoreErrorKind::Unreachable)];
    let simulator = Simulator::new().unwrap();
    for action in hindrances {
        for application in [Application::None, Application::Told] {
            let scenario = Token::scenario(Shape::Json, application);
            simulator.run(&scenario, &mut Hinders::with(action), true).unwrap_or_else(|violation| {
                panic!("{action:?}: {}\n{}", violation.promise, violation.trace.join("\n"))
            });
        }
        let scenario = Keyring::scenario(Staged, keyring::Application::Told);
        simulator
            .run(&scenario, &mut Hinders::with(action), true)
            .unwrap_or_else(|violation| panic!("{action:?}: {}\n{}", violation.promise, violation.trace.join("\n")));
    }
}

#[test]
fn caught_an_operation_that_leaves_its_marks_behind() {
    let broken = Token::scenario(Shape::Json, Application::None).sabotaged(Sabotage::KeepsMarks);
    let mut hinders = Hinders::with(Action::Edit(schedule::Edit::OtherMember));
    let violation = Simulator::new().unwrap().run(&broken, &mut hinders, false).map(|ended| ended.answers);
    let violation = violation.expect_err("it was not noticed");
    assert!(violation.promise.contains("the staging labels are used up"), "{}", violation.promise);
}
