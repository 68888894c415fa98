//! The actions, by the names under which they are asked for.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// An action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// What is there: versions, policy, overlap, keyring, schedule.
    Status,
    /// Whether the current value works.
    Verify,
    /// The value before becomes current again.
    Rollback,
    /// The overlap ends now.
    Revoke,
    /// A rotation that does not come to an end is given up.
    Abort,
    /// What is current has leaked, and is replaced at once.
    Compromise,
    /// What keeps rotations from working, and the command that repairs it.
    Doctor,
    /// Keys that no row needs any more leave the ring.
    Retire,
    /// Keys that disappeared from the ring by somebody else's hand come back.
    Restore,
    /// They are given up.
    Forget,
    /// A value that a person rotates is stored.
    Put,
    /// All secrets: what the schedule asks for.
    Sweep,
    /// All secrets: owners, dates and open problems, as JSON or as a page.
    Report,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Status,
        Self::Verify,
        Self::Rollback,
        Self::Revoke,
        Self::Abort,
        Self::Compromise,
        Self::Doctor,
        Self::Retire,
        Self::Restore,
        Self::Forget,
        Self::Put,
        Self::Sweep,
        Self::Report,
    ];

    /// The action's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Verify => "verify",
            Self::Rollback => "rollback",
            Self::Revoke => "revoke",
            Self::Abort => "abort",
            Self::Compromise => "compromise",
            Self::Doctor => "doctor",
            Self::Retire => "retire",
            Self::Restore => "restore",
            Self::Forget => "forget",
            Self::Put => "put",
            Self::Sweep => "sweep",
            Self::Report => "report",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Action {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|action| action.name() == text).ok_or(())
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
