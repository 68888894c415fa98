//! Schedules: what happens at which gate.

use std::fmt;
use std::time::Duration;

use rotation::event::Step;
use rotation::store::StoreErrorKind;

/// A moment at which a schedule may intervene: next to one call by one invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The invocation, counted from 0 in the order of their beginnings.
    pub invocation: u32,
    /// What it does.
    pub task: Task,
    /// The call.
    pub call: Call,
    /// Before or after it took effect.
    pub side: Side,
}

/// What an invocation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A step of a rotation.
    Step(Step),
    /// What an operator asked for.
    Operation(Operation),
    /// Work on the rows that are stored under a keyring.
    Worker(Worker),
}

/// Who works on rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    /// Encrypts them again under the primary key.
    Rewrap,
    /// Counts them by key.
    Census,
}

impl Task {
    /// The step, if it is one.
    #[must_use]
    pub fn step(self) -> Option<Step> {
        match self {
            Self::Step(step) => Some(step),
            Self::Operation(_) | Self::Worker(_) => None,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => write!(f, "{step}"),
            Self::Operation(operation) => write!(f, "{operation}"),
            Self::Worker(Worker::Rewrap) => f.write_str("rewrap"),
            Self::Worker(Worker::Census) => f.write_str("census"),
        }
    }
}

/// What an operator asks for, as far as it changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A rotation that does not come to its end is given up.
    Abort,
    /// The value before becomes current again.
    Rollback,
    /// The overlap ends now.
    Revoke,
    /// A sweep ends the overlap, if it is over.
    EndOverlap,
    /// What is current is known to others, and is replaced at once.
    Compromise,
    /// Keys that no row needs any more leave the ring.
    Retire,
    /// Keys that somebody else's hand took out of the ring come back.
    Restore,
}

impl Operation {
    /// All but [`Retire`](Self::Retire), which goes by rows, and [`Restore`](Self::Restore), which wants keys that are missing.
    pub const ALL: [Self; 5] = [Self::Abort, Self::Rollback, Self::Revoke, Self::EndOverlap, Self::Compromise];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Abort => "abort",
            Self::Rollback => "rollback",
            Self::Revoke => "revoke",
            Self::EndOverlap => "sweep",
            Self::Compromise => "compromise",
            Self::Retire => "retire",
            Self::Restore => "restore",
        })
    }
}

/// What is done with the secret, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A rotation, with the repetitions of the rotation service.
    Rotation,
    /// A rotation that dies at the gate of this number in its first attempt, and is not repeated.
    StuckRotation(usize),
    /// An operation.
    Operation(Operation),
}

/// A call to the store or the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// DescribeSecret.
    Describe,
    /// GetSecretValue.
    Get,
    /// PutSecretValue.
    Put,
    /// UpdateSecretVersionStage.
    Move,
    /// The application is told to load the secret.
    Refresh,
    /// The application is asked with a token.
    Verify,
    /// The issuer is asked for a credential.
    Issue,
    /// The issuer is asked to revoke credentials.
    Revoke,
    /// GetSecretValue of the secret that holds the token.
    Credential,
    /// ListSecretVersionIds.
    Versions,
    /// PutSecretValue under a stage of one's own.
    PutPrivate,
    /// RotateSecret.
    Rotate,
    /// A row is read.
    ReadRow,
    /// A row is written, if it still is as it was read.
    WriteRow,
}

impl Call {
    /// Whether it goes to the application, or to an issuer.
    #[must_use]
    pub fn to_application(self) -> bool {
        matches!(self, Self::Refresh | Self::Verify | Self::Issue | Self::Revoke)
    }
}

/// The two sides of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It has had no effect yet.
    Before,
    /// It has had its effect, and the answer is not known yet.
    After,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {} {:?} {:?}", self.invocation, self.task, self.side, self.call)
    }
}

/// What happens at a gate of the invocation that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The process dies there.
    Die,
    /// The service gives it up and begins again, but the process lives: it goes on when told.
    Lose(Until),
    /// The call fails with this error, or its answer is lost and this is what the function sees.
    Fail(StoreErrorKind),
    /// Somebody stores a value by hand.
    Edit(Edit),
    /// The application's instances load the secret because their caches are old.
    Reload,
    /// One instance does.
    ReloadOne(usize),
    /// The function `deliver` does its next step.
    Deliver,
    /// The same event, or one of another step, is delivered once more. That invocation runs up to its gate of this
    /// number, and goes on when told.
    Duplicate {
        /// The step.
        step: Step,
        /// How many gates it passes at once.
        gates: usize,
        /// When it goes on.
        until: Until,
    },
    /// An operation is asked for. It runs up to its gate of this number, and goes on when told.
    Begin {
        /// Which.
        operation: Operation,
        /// How many gates it passes at once.
        gates: usize,
        /// When it goes on.
        until: Until,
    },
    /// A whole rotation, which nothing disturbs.
    Rotate,
    /// Time passes.
    Wait(Duration),
    /// Somebody sets a tag of the secret, or takes it away.
    Tag(&'static str, Option<&'static str>),
}

/// When an invocation that was held up goes on, to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When the step, or the operation, has ended that is waited for.
    StepEnds,
    /// When the service waits for nothing more.
    RotationEnds,
    /// When the invocations that the service waits for have passed so many gates since the beginning.
    Gate(usize),
}

/// What a person stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Another member of a JSON secret.
    OtherMember,
    /// A secret of their own in the place of the one that is rotated. They tell the application.
    Secret,
    /// The first value again, as infrastructure code does that holds it.
    FirstValue,
    /// Something that only secrets of this kind have.
    OfKind(&'static str),
}

/// Decides what happens.
pub trait Adversary {
    /// What happens at the gate with this number, counted over all invocations that the service waits for.
    fn at(&mut self, number: usize, gate: &Gate) -> Vec<Action>;

    /// What happens before the work with this number begins.
    fn before(&mut self, work: usize) -> Vec<Action>;

    /// What is done, one after another.
    fn works(&self) -> Vec<Work> {
        vec![Work::Rotation]
    }

    /// So many works at the beginning bring the secret where the schedule wants it, and are not disturbed.
    fn prepared(&self) -> usize {
        0
    }
}

/// A fixed list of what happens at which gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The number of the gate, and what happens there.
    pub actions: Vec<(usize, Action)>,
    /// The number of the work, and what happens before it.
    pub between: Vec<(usize, Action)>,
    /// What is done, one after another.
    pub works: Vec<Work>,
    /// So many of them at the beginning are not disturbed.
    pub prepared: usize,
}

impl Script {
    /// During one rotation.
    #[must_use]
    pub fn new(actions: impl Into<Vec<(usize, Action)>>) -> Self {
        Self { actions: actions.into(), between: vec![], works: vec![Work::Rotation], prepared: 0 }
    }

    /// During so many rotations in a row.
    #[must_use]
    pub fn rotating(self, rotations: usize) -> Self {
        Self { works: vec![Work::Rotation; rotations], ..self }
    }

    /// During this work instead.
    #[must_use]
    pub fn doing(self, work: Work) -> Self {
        Self { works: vec![work], ..self }
    }

    /// After work that nothing disturbs.
    #[must_use]
    pub fn after(mut self, prepared: &[Work]) -> Self {
        self.works.splice(0..0, prepared.iter().copied());
        Self { prepared: self.prepared + prepared.len(), ..self }
    }

    /// With something that happens before a work.
    #[must_use]
    pub fn before(mut self, work: usize, action: Action) -> Self {
        self.between.push((work, action));
        self
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.works)?;
        if self.prepared > 0 {
            write!(f, ", the first {} undisturbed", self.prepared)?;
        }
        self.between.iter().try_for_each(|(number, action)| write!(f, "; before work {number} {action:?}"))?;
        self.actions.iter().try_for_each(|(number, action)| write!(f, "; at gate {number} {action:?}"))
    }
}

impl Adversary for Script {
    fn at(&mut self, number: usize, _: &Gate) -> Vec<Action> {
        self.actions.iter().filter(|(at, _)| *at == number).map(|(_, action)| *action).collect()
    }

    fn before(&mut self, work: usize) -> Vec<Action> {
        self.between.iter().filter(|(at, _)| *at == work).map(|(_, action)| *action).collect()
    }

    fn works(&self) -> Vec<Work> {
        self.works.clone()
    }

    fn prepared(&self) -> usize {
        self.prepared
    }
}
