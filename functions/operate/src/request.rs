//! What the function is asked to do.

use std::time::SystemTime;

use aws_lambda_events::eventbridge::EventBridgeEvent;
use serde_json::Value;

use crate::action::Action;
use crate::actions::abort::Abort;
use crate::actions::compromise::Compromise;
use crate::actions::doctor::Doctor;
use crate::actions::forget::Forget;
use crate::actions::put::Put;
use crate::actions::restore::Restore;
use crate::actions::retire::Retire;
use crate::actions::revoke::Revoke;
use crate::actions::rollback::Rollback;
use crate::actions::status::Status;
use crate::actions::verify::Verify;
use crate::error::OperateError;
use crate::members::{Change, Inquiry, Members, invalid};

/// A request, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// What is there.
    Status(Status),
    /// Whether the current value works.
    Verify(Verify),
    /// The value before becomes current again.
    Rollback(Rollback),
    /// The overlap ends now.
    Revoke(Revoke),
    /// A rotation that does not come to an end is given up.
    Abort(Abort),
    /// What is current has leaked, and is replaced at once.
    Compromise(Compromise),
    /// What keeps rotations from working.
    Doctor(Doctor),
    /// Keys that no row needs any more leave the ring.
    Retire(Retire),
    /// Keys that disappeared from the ring come back.
    Restore(Restore),
    /// They are given up.
    Forget(Forget),
    /// A value that a person rotates is stored.
    Put(Put),
    /// All secrets.
    Sweep(Sweep),
    /// All secrets, for people.
    Report(Report),
}

/// A report that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Why, for the record.
    pub reason: Option<String>,
    /// Its form.
    pub format: Format,
    /// Where the report before this one stopped.
    pub from: Option<String>,
}

/// The form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Data.
    #[default]
    Json,
    /// One HTML page, as a text in the answer.
    Html,
}

impl Report {
    fn parse(members: &mut Members) -> Result<Self, OperateError> {
        let format = match members.format().as_deref() {
            None | Some("json") => Format::Json,
            Some("html") => Format::Html,
            Some(_) => return Err(invalid("format", "expected json or html")),
        };
        Ok(Self { reason: members.reason()?, format, from: members.from() })
    }
}

/// A sweep that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Why, for the record.
    pub reason: Option<String>,
    /// Where a sweep goes on that ran out of time.
    pub from: Option<String>,
    /// When a schedule asked for it.
    pub scheduled: Option<SystemTime>,
}

impl Sweep {
    fn parse(members: &mut Members) -> Result<Self, OperateError> {
        Ok(Self { reason: members.reason()?, from: members.from(), scheduled: None })
    }
}

impl Request {
    /// Reads an event such as `{"action":"status","secret_id":"shop/production/admin-token"}`.
    ///
    /// # Errors
    /// [`OperateError::InvalidRequest`] names the member and what it should be; a member that is not known is an error, and so is an
    /// action that changes something without a `reason`.
    pub fn parse(event: Value) -> Result<Self, OperateError> {
        // What EventBridge sends on a schedule.
        if let Ok(event) = serde_json::from_value::<EventBridgeEvent>(event.clone()) {
            if (event.source.as_str(), event.detail_type.as_str()) != ("aws.events", "Scheduled Event") {
                let problem = "expected a Scheduled Event of aws.events: only a schedule starts a sweep";
                return Err(invalid("detail-type", problem));
            }
            return Ok(Self::Sweep(Sweep { scheduled: event.time.map(SystemTime::from), ..Sweep::default() }));
        }
        let (action, mut members) = Members::read(event)?;
        let request = match action {
            Action::Status => Self::Status(Status::parse(&mut members)?),
            Action::Verify => Self::Verify(Verify::parse(&mut members)?),
            Action::Rollback => Self::Rollback(Rollback::parse(&mut members)?),
            Action::Revoke => Self::Revoke(Revoke::parse(&mut members)?),
            Action::Abort => Self::Abort(Abort::parse(&mut members)?),
            Action::Compromise => Self::Compromise(Compromise::parse(&mut members)?),
            Action::Doctor => Self::Doctor(Doctor::parse(&mut members)?),
            Action::Retire => Self::Retire(Retire::parse(&mut members)?),
            Action::Restore => Self::Restore(Restore::parse(&mut members)?),
            Action::Forget => Self::Forget(Forget::parse(&mut members)?),
            Action::Put => Self::Put(Put::parse(&mut members)?),
            Action::Sweep => Self::Sweep(Sweep::parse(&mut members)?),
            Action::Report => Self::Report(Report::parse(&mut members)?),
        };
        members.require_nothing_else()?;
        Ok(request)
    }

    /// Which action it is.
    #[must_use]
    pub fn action(&self) -> Action {
        match self {
            Self::Status(_) => Action::Status,
            Self::Verify(_) => Action::Verify,
            Self::Rollback(_) => Action::Rollback,
            Self::Revoke(_) => Action::Revoke,
            Self::Abort(_) => Action::Abort,
            Self::Compromise(_) => Action::Compromise,
            Self::Doctor(_) => Action::Doctor,
            Self::Retire(_) => Action::Retire,
            Self::Restore(_) => Action::Restore,
            Self::Forget(_) => Action::Forget,
            Self::Put(_) => Action::Put,
            Self::Sweep(_) => Action::Sweep,
            Self::Report(_) => Action::Report,
        }
    }

    /// The secret's name or ARN; empty for a sweep and a report.
    #[must_use]
    pub fn secret_id(&self) -> &str {
        self.parts().0
    }

    /// Why, for the record.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.parts().1
    }

    fn parts(&self) -> (&str, Option<&str>) {
        match self {
            Self::Status(Status(inquiry)) | Self::Verify(Verify(inquiry)) | Self::Doctor(Doctor(inquiry)) => {
                let Inquiry { secret_id, reason } = inquiry;
                (secret_id, reason.as_deref())
            }
            Self::Rollback(Rollback(change))
            | Self::Revoke(Revoke(change))
            | Self::Abort(Abort(change))
            | Self::Compromise(Compromise { change, .. })
            | Self::Retire(Retire { change, .. })
            | Self::Restore(Restore { change, .. })
            | Self::Forget(Forget { change, .. })
            | Self::Put(Put { change, .. }) => {
                let Change { secret_id, reason } = change;
                (secret_id, Some(reason))
            }
            Self::Sweep(sweep) => ("", sweep.reason.as_deref()),
            Self::Report(report) => ("", report.reason.as_deref()),
        }
    }
}
