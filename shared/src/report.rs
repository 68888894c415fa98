//! The result of a step: the function's answer and its log line.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::event::Step;
use crate::versions::VersionId;

/// The result of a step. It is the function's answer and its log line, and holds no secret value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The secret's name.
    pub secret: String,
    /// The version of the rotation.
    pub version: VersionId,
    /// The step.
    pub step: Step,
    /// The outcome of the step.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The outcomes of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// createSecret stored a new value.
    Created,
    /// createSecret found the value of an earlier try.
    Adopted,
    /// createSecret gave a secret without a value its first value.
    Initialised,
    /// The version is already current.
    NothingToDo,
    /// setSecret brought the value to the target.
    Set,
    /// There is no target that could load the value.
    NoTarget,
    /// testSecret proved the value.
    Tested,
    /// testSecret ran alone, as a test of the configuration.
    ConfigurationTested,
    /// finishSecret promoted the version, and the version passed its verification.
    Promoted(Promotion),
    /// finishSecret found the version promoted by an earlier try, and the version passed its verification.
    PromotedEarlier(Promotion),
    /// finishSecret found the first value of the secret in place. No application knew a value before, so nothing is
    /// verified.
    FirstValue,
}

impl Outcome {
    /// The kind's own members of the report on a promotion, as JSON; `None` if there are none.
    pub(crate) fn of_kind(&self) -> Option<String> {
        let (Self::Promoted(promotion) | Self::PromotedEarlier(promotion)) = self else { return None };
        (!promotion.of_kind.is_empty()).then(|| serde_json::to_string(&promotion.of_kind).unwrap_or_default())
    }
}

/// The consequences of a promotion for consumers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Promotion {
    /// The end of the time in which the application accepts the previous value, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_accepted_until: Option<String>,
    /// The end of the overlap of the value before the previous one. This rotation ended that overlap early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap_shortened_from: Option<String>,
    /// Seconds from the creation of the value to now, by the service's clock.
    pub rotation_seconds: u64,
    /// The kind's own members, see [`SecretKind::report`](crate::kind::SecretKind::report).
    #[serde(flatten)]
    pub of_kind: Map<String, Value>,
}
