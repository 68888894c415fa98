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
    /// Its step.
    pub step: Step,
    /// The call.
    pub call: Call,
    /// Before or after it took effect.
    pub side: Side,
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
    /// GetSecretValue of the secret that holds the token.
    Credential,
}

impl Call {
    /// Whether it goes to the application.
    #[must_use]
    pub fn to_application(self) -> bool {
        matches!(self, Self::Refresh | Self::Verify)
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
        write!(f, "#{} {} {:?} {:?}", self.invocation, self.step, self.side, self.call)
    }
}

/// What happens at a gate of the invocation that the rotation service waits for.
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
    /// Time passes.
    Wait(Duration),
    /// Somebody sets a tag of the secret, or takes it away.
    Tag(&'static str, Option<&'static str>),
}

/// When an invocation that was held up goes on, to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When the step has ended that the service waits for.
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
    /// Something that only secrets of this kind have.
    OfKind(&'static str),
}

/// Decides what happens.
pub trait Adversary {
    /// What happens at the gate with this number, counted over all invocations that the service waits for.
    fn at(&mut self, number: usize, gate: &Gate) -> Vec<Action>;

    /// What happens before the rotation with this number begins.
    fn before(&mut self, rotation: usize) -> Vec<Action>;

    /// How many rotations in a row are disturbed.
    fn rotations(&self) -> usize {
        1
    }
}

/// A fixed list of what happens at which gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The number of the gate, and what happens there.
    pub actions: Vec<(usize, Action)>,
    /// The number of the rotation, and what happens before it.
    pub between: Vec<(usize, Action)>,
    /// How many rotations in a row.
    pub rotations: usize,
}

impl Script {
    /// During one rotation.
    #[must_use]
    pub fn new(actions: impl Into<Vec<(usize, Action)>>) -> Self {
        Self { actions: actions.into(), between: vec![], rotations: 1 }
    }

    /// During so many rotations in a row.
    #[must_use]
    pub fn rotating(self, rotations: usize) -> Self {
        Self { rotations, ..self }
    }

    /// With something that happens before a rotation.
    #[must_use]
    pub fn before(mut self, rotation: usize, action: Action) -> Self {
        self.between.push((rotation, action));
        self
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rotation(s)", self.rotations)?;
        self.between.iter().try_for_each(|(number, action)| write!(f, "; before rotation {number} {action:?}"))?;
        self.actions.iter().try_for_each(|(number, action)| write!(f, "; at gate {number} {action:?}"))
    }
}

impl Adversary for Script {
    fn at(&mut self, number: usize, _: &Gate) -> Vec<Action> {
        self.actions.iter().filter(|(at, _)| *at == number).map(|(_, action)| *action).collect()
    }

    fn before(&mut self, rotation: usize) -> Vec<Action> {
        self.between.iter().filter(|(at, _)| *at == rotation).map(|(_, action)| *action).collect()
    }

    fn rotations(&self) -> usize {
        self.rotations
    }
}
