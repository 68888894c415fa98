//! The families of schedules for what operators ask for.

use std::time::Duration;

use super::{Explored, Explorer, Found, dies, edited, fails, reloaded, telling};
use crate::model::Model;
use crate::operations::ABORT_AFTER;
use crate::run::Simulator;
use crate::scenario::{RotationService, Scenario, Staleness};
use crate::schedule::{Action, Call, Gate, Operation, Script, Side, Until, Work};

/// A set of schedules for one operation. In each of them, when all is over, everything that was asked for is asked for once
/// more, and has to be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperationFamily {
    /// The process dies at a gate.
    Death,
    /// A call fails without effect, or its answer is lost.
    LostAnswer,
    /// The same is asked for twice: the first stands at a gate while the second runs up to a gate, or to its end.
    Twice,
    /// The same, and the first dies at its gate.
    TwiceAndDeath,
    /// Somebody stores a value by hand at a gate.
    Edit,
    /// Somebody stores a value by hand at a gate, and the process dies at the same or a later gate.
    EditAndDeath,
    /// A rotation stands at a gate while the operation runs up to a gate, or to its end; it goes on when the step, or the
    /// rotation, has ended.
    BesideRotation,
    /// A whole rotation happens at a gate.
    RotationMeanwhile,
    /// The operation stands at a gate while a rotation begins, and goes on at a gate of the rotation.
    BeforeRotation,
    /// The operation stands at a gate while each other one runs up to a gate, or to its end.
    BesideOther,
    /// The instances load the secret at a gate because their caches are old.
    Reload,
    /// One read is answered from the past, and the process may die at a gate.
    OneStaleRead,
    /// The rotation that the operation asks for dies at one of its gates.
    RotationDies,
}

impl OperationFamily {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Death,
        Self::LostAnswer,
        Self::Twice,
        Self::TwiceAndDeath,
        Self::Edit,
        Self::EditAndDeath,
        Self::BesideRotation,
        Self::RotationMeanwhile,
        Self::BeforeRotation,
        Self::BesideOther,
        Self::Reload,
        Self::OneStaleRead,
        Self::RotationDies,
    ];
}

/// An overlap is over, and the secret was not changed for a while.
const OVERLAP_IS_OVER: Duration = Duration::from_secs(26 * 60 * 60);

/// The operation, after what makes it mean something: there is a previous value, what is to be aborted is stuck, and an overlap that a
/// sweep ends is over.
#[must_use]
pub fn script_of(operation: Operation) -> Script {
    let script = Script::new([]).doing(Work::Operation(operation));
    match operation {
        Operation::Abort => {
            script.after(&[Work::Rotation, Work::StuckRotation(9)]).before(2, Action::Wait(ABORT_AFTER * 2))
        }
        Operation::EndOverlap => {
            // Whoever has to hold the value has it by then.
            script.after(&[Work::Rotation]).before(1, Action::Reload).before(1, Action::Wait(OVERLAP_IS_OVER))
        }
        _ => script.after(&[Work::Rotation]),
    }
}

/// Runs the schedules of a family: one in `share` of the places where something happens, and all of them with 1.
///
/// # Errors
/// The first schedule in which a promise did not hold, with its trace.
pub fn explore_operation<M: Model>(
    simulator: &Simulator,
    scenario: &Scenario<M>,
    operation: Operation,
    family: OperationFamily,
    share: usize,
) -> Result<Explored, Box<Found>> {
    let mut explorer = Explorer::new(simulator, scenario, script_of(operation), share);
    explorer.operation_family(operation, family)?;
    Ok(explorer.explored)
}

/// The gates between which something happens: after a call is as good as before the next one.
fn turning_points(gates: &[Gate]) -> Vec<(usize, Gate)> {
    let mut points = telling(gates);
    points.retain(|(number, gate)| gate.side == Side::Before || number + 1 == gates.len());
    points
}

impl<M: Model> Explorer<'_, M> {
    fn operation_family(&mut self, operation: Operation, family: OperationFamily) -> Result<(), Box<Found>> {
        let ended = self.run([])?;
        let (all, calls) = (ended.gates, ended.calls);
        let points = turning_points(&all);
        let scenario = self.scenario;
        let model = &scenario.model;
        match family {
            OperationFamily::Death => self.each(&points, dies),
            OperationFamily::LostAnswer => self.each(&telling(&all), fails),
            OperationFamily::Twice => self.beside(&points, operation, &[Until::StepEnds], |_| vec![]),
            OperationFamily::TwiceAndDeath => {
                self.beside(&points, operation, &[Until::StepEnds], |number| vec![(number, Action::Die)])
            }
            OperationFamily::Edit => self.each(&points, |number, _| edited(model, number)),
            OperationFamily::EditAndDeath => self.each(&points, |number, _| {
                let later: Vec<_> = points.iter().map(|(later, _)| *later).filter(|later| *later >= number).collect();
                let then_dies =
                    |edit: Vec<_>| later.iter().map(move |later| [&edit[..], &[(*later, Action::Die)]].concat());
                edited(model, number).into_iter().flat_map(then_dies).collect()
            }),
            OperationFamily::BesideRotation => {
                self.script = Script { works: vec![Work::Rotation; 2], prepared: 1, ..Script::new([]) };
                let points = turning_points(&self.run([])?.gates);
                self.beside(&points, operation, &[Until::StepEnds, Until::RotationEnds], |_| vec![])
            }
            OperationFamily::BeforeRotation => self.before_rotation(),
            OperationFamily::RotationMeanwhile => self.each(&points, |number, _| vec![vec![(number, Action::Rotate)]]),
            OperationFamily::BesideOther => {
                let mut others = M::OPERATIONS.iter().copied().filter(|other| *other != operation);
                others.try_for_each(|other| self.beside(&points, other, &[Until::StepEnds], |_| vec![]))
            }
            OperationFamily::Reload => self.each(&points, |number, _| reloaded(model, number)),
            OperationFamily::OneStaleRead => self.stale_reads(&calls, &points),
            OperationFamily::RotationDies => {
                // A rotation has about as many gates as the one before the operation.
                let gates = calls.iter().filter(|gate| gate.task.step().is_some()).count();
                for gate in self.some(0..gates) {
                    self.scenario.service = RotationService::FirstDies(gate);
                    self.run([])?;
                }
                Ok(())
            }
        }
    }

    /// What goes on is at the gates of the rotation, which are counted from the one where the operation stands.
    fn before_rotation(&mut self) -> Result<(), Box<Found>> {
        self.script.works.push(Work::Rotation);
        let gates = self.run([])?.gates;
        let own = gates.iter().take_while(|gate| gate.task.step().is_none()).count();
        let of_rotation = gates.len() - own;
        for number in (0..own).step_by(2) {
            for gate in self.some((0..of_rotation).step_by(2)) {
                self.run([(number, Action::Lose(Until::Gate(number + 1 + gate)))])?;
            }
        }
        Ok(())
    }

    fn stale_reads(&mut self, calls: &[Gate], points: &[(usize, Gate)]) -> Result<(), Box<Found>> {
        let reads = calls.iter().filter(|gate| matches!(gate.call, Call::Describe | Call::Get | Call::Versions));
        for (read, back) in (0..reads.count()).flat_map(|read| [(read, 1), (read, 2), (read, 3)]) {
            self.scenario.staleness = Staleness::Once { read, back };
            if !self.takes() {
                continue;
            }
            self.run([])?;
            for (number, _) in points.iter().step_by(3) {
                self.run([(*number, Action::Die)])?;
            }
        }
        Ok(())
    }

    /// At every gate the other operation begins, and runs up to every gate of its own.
    fn beside(
        &mut self,
        points: &[(usize, Gate)],
        operation: Operation,
        untils: &[Until],
        and: impl Fn(usize) -> Vec<(usize, Action)>,
    ) -> Result<(), Box<Found>> {
        for until in untils {
            for (number, _) in self.some(points) {
                // Every second gate is before a call.
                for gates in (0..MOST_GATES).step_by(2) {
                    let begin = Action::Begin { operation, gates, until: *until };
                    let actions: Vec<_> = [(*number, begin)].into_iter().chain(and(*number)).collect();
                    if self.run(actions)?.duplicate_ended_early {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Where an operation asks an application again and again, or waits for a rotation, more gates are like those before.
const MOST_GATES: usize = 60;
