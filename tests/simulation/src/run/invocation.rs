//! Invocations, which are polled by hand from one gate to the next.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use operate::error::OperateError;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rotation::deadline::Deadline;
use rotation::event::{RotationEvent, Step, VersionId};
use rotation::protocol::Rotator;

use super::Service;
use crate::model::Model;
use crate::operations::{Operator, TIMEOUT};
use crate::ports::{Caller, SimulatedTarget, Store};
use crate::schedule::{Gate, Operation, Task, Until};
use crate::tested::Tested;
use crate::world::{Tags, World};

/// What was done, or why not.
pub(super) type Answered = Result<String, OperateError>;

/// A running invocation.
pub(super) struct Invocation<M: Model> {
    pub(super) number: u32,
    pub(super) task: Task,
    pub(super) caller: Arc<Caller<M>>,
    /// The gate at which it stands.
    pub(super) at: Option<Gate>,
    pub(super) world: Arc<World<M>>,
    pub(super) future: Pin<Box<dyn Future<Output = Answered>>>,
}

pub(super) enum Progress {
    At(Gate),
    Ended(Answered),
}

impl<M: Model> Invocation<M> {
    /// Lets it run to its next gate, or to its end. While it sleeps, the clock moves on by itself.
    pub(super) async fn advance(&mut self) -> Progress {
        let progress = poll_fn(|context| match (self.future.as_mut().poll(context), self.world.arrived()) {
            (Poll::Ready(answer), _) => Poll::Ready(Progress::Ended(answer)),
            (Poll::Pending, Some(gate)) => Poll::Ready(Progress::At(gate)),
            (Poll::Pending, None) => Poll::Pending,
        })
        .await;
        self.at = match progress {
            Progress::At(gate) => Some(gate),
            Progress::Ended(_) => None,
        };
        if let Progress::Ended(answer) = &progress {
            self.world.lock().note(|| match answer {
                Ok(done) => format!("#{} {} ends: {done}", self.number, self.task),
                Err(error) => format!("#{} {} fails: {error}", self.number, self.task),
            });
        }
        progress
    }
}

impl<M: Model> Rotating<M> {
    pub(super) fn new(version: VersionId, dies_after: Option<usize>) -> Self {
        Self { version, attempt: 0, step: 0, invocation: None, dies_after, takes_a_turn: false }
    }
}

pub(super) struct HeldUp<M: Model> {
    pub(super) invocation: Invocation<M>,
    pub(super) until: Until,
}

/// How an invocation ended for whoever waited for it.
pub(super) enum Attended {
    Killed,
    /// `faulted` when the schedule let a call fail.
    Ended {
        answer: Answered,
        faulted: bool,
    },
}

/// A rotation that nothing disturbs, as the service runs it gate by gate.
pub(super) struct Rotating<M: Model> {
    pub(super) version: VersionId,
    pub(super) attempt: usize,
    pub(super) step: usize,
    pub(super) invocation: Option<Invocation<M>>,
    /// So many gates later it dies, and is not repeated.
    pub(super) dies_after: Option<usize>,
    /// A step has ended, or a stage was moved in this moment.
    pub(super) takes_a_turn: bool,
}

/// Why a step did not succeed, as the service sees it.
pub(super) enum Failed {
    Killed,
    /// With this error, after a call that the schedule let fail.
    Fault(&'static str),
    Error(&'static str),
}

impl<M: Model> Service<'_, M> {
    pub(super) fn caller(&mut self, task: Task, version: Option<&VersionId>) -> Arc<Caller<M>> {
        let invocation = self.invocations;
        self.invocations += 1;
        let world = Arc::clone(&self.world);
        let admitted_at = world.lock().writes();
        Arc::new(Caller {
            world,
            invocation,
            task,
            version: version.cloned(),
            admitted_at,
            tags: Mutex::new(Tags::new()),
            intent: Mutex::new(None),
        })
    }

    /// Somebody asks for an operation.
    pub(super) fn ask(&mut self, operation: Operation) -> Invocation<M> {
        if !self.begun.contains(&operation) {
            self.begun.push(operation);
        }
        let task = Task::Operation(operation);
        let caller = self.caller(task, None);
        let (number, world) = (caller.invocation, Arc::clone(&self.world));
        let model = world.lock().scenario.model;
        let operating = model.operate(Operator { caller: Arc::clone(&caller), operation });
        let future = Box::pin(async { operating.await.map(|()| "done".to_owned()) });
        Invocation { number, task, caller, at: None, world, future }
    }

    pub(super) fn invoke(&mut self, version: &VersionId, step: Step) -> Invocation<M> {
        let task = Task::Step(step);
        let caller = self.caller(task, Some(version));
        let (number, world, version) = (caller.invocation, Arc::clone(&self.world), version.clone());
        let stepping = Arc::clone(&caller);
        let future = async move {
            let scenario = stepping.world.lock().scenario;
            let deadline = Deadline::after(TIMEOUT);
            let kind = scenario.model.kind(SimulatedTarget::new(&stepping, scenario.model));
            let kind = Tested { kind, model: scenario.model, sabotage: scenario.sabotage };
            let store = Store { caller: stepping, deadline };
            let event = RotationEvent { step, secret_id: "shop/secret".to_owned(), version, rotation_token: None };
            let stack = scenario.stack(&kind)?;
            let mut rng = StdRng::seed_from_u64(u64::from(number));
            let rotator = Rotator { kind: &kind, store: &store, stack: &stack };
            Ok(format!("{:?}", rotator.perform(&event, deadline, &mut rng).await?.outcome))
        };
        Invocation { number, task, caller, at: None, world, future: Box::pin(future) }
    }
}
