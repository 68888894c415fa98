//! What the function answers.

use rotation::event::VersionId;
use serde::Serialize;

use crate::action::Action;
use crate::actions::abort::AbortAnswer;
use crate::actions::compromise::CompromiseAnswer;
use crate::actions::doctor::DoctorAnswer;
use crate::actions::forget::ForgetAnswer;
use crate::actions::put::PutAnswer;
use crate::actions::restore::RestoreAnswer;
use crate::actions::retire::RetireAnswer;
use crate::actions::revoke::RevokeAnswer;
use crate::actions::rollback::RollbackAnswer;
use crate::actions::status::StatusAnswer;
use crate::actions::verify::VerifyAnswer;
use crate::instances::InstanceReport;
use crate::report::ReportAnswer;
use crate::sweep::SweepAnswer;

/// The answer to a request.
#[derive(Clone, Debug, Serialize)]
pub struct Response {
    /// What was asked for.
    pub(crate) action: Action,
    /// The secret's name; a sweep and a report have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<String>,
    /// What the instances of the application answered meanwhile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) instances: Vec<InstanceReport>,
    /// What came of it.
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

/// What came of an action.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each variant is the answer of the action with its name")]
pub enum Outcome {
    Status(Box<StatusAnswer>),
    Verify(VerifyAnswer),
    Rollback(RollbackAnswer),
    Revoke(RevokeAnswer),
    Abort(AbortAnswer),
    Compromise(CompromiseAnswer),
    Doctor(DoctorAnswer),
    Retire(Box<RetireAnswer>),
    Restore(RestoreAnswer),
    Forget(ForgetAnswer),
    Put(PutAnswer),
    Sweep(Box<SweepAnswer>),
    Report(Box<ReportAnswer>),
}

impl Outcome {
    /// The version that is current, for the record.
    #[must_use]
    pub fn version(&self) -> Option<&VersionId> {
        match self {
            Self::Verify(VerifyAnswer { version, .. })
            | Self::Rollback(RollbackAnswer { version, .. })
            | Self::Revoke(RevokeAnswer { version, .. })
            | Self::Compromise(CompromiseAnswer { version, .. })
            | Self::Restore(RestoreAnswer { version, .. })
            | Self::Forget(ForgetAnswer { version, .. })
            | Self::Put(PutAnswer { version, .. }) => Some(version),
            Self::Retire(retired) => retired.version.as_ref(),
            Self::Status(_) | Self::Abort(_) | Self::Doctor(_) | Self::Sweep(_) | Self::Report(_) => None,
        }
    }

    /// The version that was rolled back, replaced, or given up, for the record.
    #[must_use]
    pub fn old_version(&self) -> Option<&VersionId> {
        match self {
            Self::Rollback(rolled_back) => rolled_back.rolled_back_from.as_ref(),
            Self::Compromise(compromised) => Some(&compromised.replaced),
            Self::Retire(retired) => retired.replaced.as_ref(),
            Self::Abort(aborted) => aborted.aborted.as_ref(),
            Self::Put(put) => put.replaced.as_ref(),
            Self::Status(_)
            | Self::Verify(_)
            | Self::Revoke(_)
            | Self::Doctor(_)
            | Self::Restore(_)
            | Self::Forget(_)
            | Self::Sweep(_)
            | Self::Report(_) => None,
        }
    }
}
