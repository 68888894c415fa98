//! What a schedule runs against: the secret and its application, the weather, and whether something is broken on purpose.

use std::fmt;
use std::time::Duration;

use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::kind::SecretKind;
use rotation::policy::StackPolicy;
use rotation::testing::PrivatePut;

use crate::model::{Model, Shape};

/// What is wrong with the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// It says that it loads the secret, and does not.
    Frozen,
    /// It loads a new value while that is pending, and knows only the one from before the rotation when it is current.
    DropsPromoted,
    /// One of its instances goes on accepting every token that it has ever accepted.
    AcceptsRevoked,
}

/// When the rotation service runs a rotation that an operation has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationService {
    /// To its end, before the operation goes on.
    AtOnce,
    /// In turns with the operation, whenever that looks at the secret: until a step has ended, or a stage was moved.
    InTurns,
    /// The first one dies at its gate of this number, and is not repeated; others run at once.
    FirstDies(usize),
}

/// How the load balancer in front of the instances chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancer {
    /// Evenly, without a period: other requests come in between.
    Mixed,
    /// Strictly in turn: nobody else asks.
    InTurn,
}

/// Where the secret stands when the rotation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It has a current and a previous value.
    InUse,
    /// It has its first value, and no previous one.
    FirstValue,
    /// It has never had a value.
    Empty,
}

/// How old the answers of reads may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staleness {
    /// Reads see every write before them.
    None,
    /// Every read by the function shows the secret as it was so long ago.
    Lag(Duration),
    /// Every read, by the function and by the application, shows the secret as it was so long ago.
    LagEverywhere(Duration),
    /// One read by the function, counted from 0, shows the secret as it was so many writes ago.
    Once {
        /// Which read.
        read: usize,
        /// How many writes it misses.
        back: usize,
    },
    /// DescribeSecret never says when a rotation last succeeded.
    NeverRotated,
    /// DescribeSecret says when the rotation before the last one succeeded.
    RotatedBefore,
}

/// What is broken on purpose, to see that the invariants notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    None,
    /// A put replaces the value of a token that was used before: what a rotation that generates anew on a retry relies on.
    PutOverwrites,
    /// `AWSCURRENT` moves wherever it is: no compare-and-swap.
    MoveIgnoresOrigin,
    /// The protocol does not see that the current version is younger than its own.
    HidesAges,
    /// The kind believes that every value works, without asking.
    BelievesWithoutProof,
    /// The kind says of every value that it may be put back.
    AlwaysPutsBack,
    /// `AWSPENDING` stays on a version that was rolled back.
    KeepsPending,
    /// The rollback does not move `AWSCURRENT`, and says that it did.
    OnlyPretendsToRollBack,
    /// The mark on the version with a revoked token is not kept: what a revocation would forget that drops it before the proof.
    ForgetsRevoked,
    /// The marks on the version that a rollback made are not seen.
    ForgetsRollback,
    /// The service says that a rotation has succeeded as soon as its version is current.
    SucceedsEarly,
    /// Of a token that some instance refuses the kind believes that all do.
    RefusalsOutvote,
    /// Of every token the kind believes that the application refuses it already, without asking.
    BelievesRefused,
    /// An operation takes `AWSPREVIOUS` off whatever version has it.
    RemovesAnyPrevious,
    /// A worker writes a row whatever has become of it since it was read: no compare-and-swap.
    RewrapsWhateverIsThere,
    /// A worker goes on with the ring of its beginning for hours.
    OutlivesItsTimeout,
    /// A keyring that was put back does not tell when.
    ForgetsPutBack,
    /// What an operation marks its version with is never taken off.
    KeepsMarks,
    /// The mark of the last complete ring is not kept.
    ForgetsRing,
    /// Keys become primary that are in no archive.
    ArchivesNothing,
    /// Keys are retired after one census: the first is the second one, dated back.
    CountsOnce,
    /// Keys are retired after two censuses that follow each other closely: the first is dated back.
    CountsTooSoon,
    /// Keys are retired though rows cannot be opened.
    IgnoresUnknown,
    /// A worker does not look at what the table has made of what it wrote.
    IgnoresTriggers,
    /// Keys are retired by censuses however old: the second is dated anew.
    BelievesOldCensuses,
    /// An issuer is asked again for a version that has its credential.
    IssuesAgain,
    /// What an issuer made for a version is discarded, whether the version holds it or not.
    KeepsNothing,
    /// The mark of a version whose credential is not revoked is not kept.
    ForgetsIssued,
    /// The record of an attempt to issue is not kept.
    ForgetsAttempt,
    /// An issuer says that it has discarded what nobody holds, and does not.
    KeepsOrphans,
    /// Whoever takes `AWSPREVIOUS` away does not notice that it was moved meanwhile.
    TakesPreviousBlindly,
    /// A rollback leaves `AWSPREVIOUS` where it is until `AWSCURRENT` moves.
    LeavesPrevious,
    /// An issuer says that every credential works that a version holds.
    SaysAllWorks,
    /// Two values with the same credential count as different ones.
    ComparesVersions,
    /// Every version seems to be two days older than it is.
    AgesEverything,
    /// Keys are retired though transactions were open that no census saw.
    IgnoresOpenTransactions,
}

/// One combination of all these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario<M> {
    /// The kind of secret, and who uses it.
    pub model: M,
    /// What is wrong with the application, if anything.
    pub defect: Option<Defect>,
    /// How its load balancer chooses.
    pub balancer: Balancer,
    /// Where the secret stands at first.
    pub start: Start,
    /// How old the answers of reads may be.
    pub staleness: Staleness,
    /// When the service runs a rotation that an operation has asked for.
    pub service: RotationService,
    /// What a put under a stage of one's own does to an open rotation.
    pub private_put: PrivatePut,
    /// What is broken on purpose.
    pub sabotage: Sabotage,
}

impl<M: Model> Scenario<M> {
    /// A secret in use, reads without delay, nothing broken.
    #[must_use]
    pub fn new(model: M) -> Self {
        Self {
            model,
            defect: None,
            balancer: Balancer::Mixed,
            start: Start::InUse,
            staleness: Staleness::None,
            service: RotationService::AtOnce,
            private_put: PrivatePut::Abandons,
            sabotage: Sabotage::None,
        }
    }

    /// With a broken application.
    #[must_use]
    pub fn with_defect(self, defect: Defect) -> Self {
        Self { defect: Some(defect), ..self }
    }

    /// Behind a load balancer that goes strictly round.
    #[must_use]
    pub fn in_turn(self) -> Self {
        Self { balancer: Balancer::InTurn, ..self }
    }

    /// With a secret that has its first value.
    #[must_use]
    pub fn with_one_value(self) -> Self {
        Self { start: Start::FirstValue, ..self }
    }

    /// With a secret that has no value yet.
    #[must_use]
    pub fn empty(self) -> Self {
        Self { start: Start::Empty, ..self }
    }

    /// With old answers.
    #[must_use]
    pub fn with_staleness(self, staleness: Staleness) -> Self {
        Self { staleness, ..self }
    }

    /// With a rotation service that takes its time, or dies.
    #[must_use]
    pub fn with_service(self, service: RotationService) -> Self {
        Self { service, ..self }
    }

    /// With a service that leaves an open rotation alone when a value is put under a stage of one's own.
    #[must_use]
    pub fn leaving_rotations(self) -> Self {
        Self { private_put: PrivatePut::Leaves, ..self }
    }

    /// With something broken on purpose.
    #[must_use]
    pub fn sabotaged(self, sabotage: Sabotage) -> Self {
        Self { sabotage, ..self }
    }

    pub(crate) fn stack<K: SecretKind>(&self, _: &K) -> Result<StackPolicy, RotationError> {
        let field = (self.model.shape() == Shape::Json).then_some(("ROTATION_FIELD", M::FIELD));
        let variables = field.into_iter().chain(self.model.variables());
        StackPolicy::from_environment(&variables.collect::<Environment>(), K::SETTINGS)
    }
}

impl<M: Model> fmt::Display for Scenario<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.model)?;
        if let Some(defect) = self.defect {
            write!(f, " ({defect:?})")?;
        }
        if self.balancer == Balancer::InTurn {
            write!(f, ", instances in turn")?;
        }
        match self.start {
            Start::InUse => {}
            Start::FirstValue => write!(f, ", no previous value")?,
            Start::Empty => write!(f, ", no value yet")?,
        }
        if self.staleness != Staleness::None {
            write!(f, ", {:?}", self.staleness)?;
        }
        if self.service != RotationService::AtOnce {
            write!(f, ", rotation service {:?}", self.service)?;
        }
        if self.private_put == PrivatePut::Leaves {
            write!(f, ", private puts leave rotations")?;
        }
        if self.sabotage != Sabotage::None {
            write!(f, ", sabotage {:?}", self.sabotage)?;
        }
        Ok(())
    }
}
