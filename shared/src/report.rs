//! What a step of a rotation did: the function's answer and its log line.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::event::Step;
use crate::versions::VersionId;

/// What a step did. It is the function's answer and its log line, and holds no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The secret's name.
    pub secret: String,
    /// The version of the rotation.
    pub version: VersionId,
    /// The step.
    pub step: Step,
    /// What happened.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The outcomes of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// createSecret stored a new value.
    Created,
    /// createSecret found the value that an earlier try had stored.
    Adopted,
    /// createSecret gave a secret without a value its first one.
    Initialised,
    /// The version is already current.
    NothingToDo,
    /// setSecret brought the value to the target.
    Set,
    /// There is no target to bring the value to.
    NoTarget,
    /// testSecret proved the value.
    Tested,
    /// testSecret ran alone, as a test of the configuration.
    ConfigurationTested,
    /// finishSecret promoted the version, and it verified.
    Promoted(Promotion),
    /// finishSecret found the version promoted by an earlier try, and it verified.
    PromotedEarlier(Promotion),
    /// finishSecret found the first value of the secret in place; no application knew a value before, so none is asked.
    FirstValue,
}

impl Outcome {
    /// What the kind adds to the report of a promotion, as JSON; `None` when that is nothing.
    pub(crate) fn of_kind(&self) -> Option<String> {
        let (Self::Promoted(promotion) | Self::PromotedEarlier(promotion)) = self else { return None };
        (!promotion.of_kind.is_empty()).then(|| serde_json::to_string(&promotion.of_kind).unwrap_or_default())
    }
}

/// What a promotion means to consumers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Promotion {
    /// Until when the previous value is accepted, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_accepted_until: Option<String>,
    /// Until when the value before that would have been accepted; this rotation ended it early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap_shortened_from: Option<String>,
    /// Seconds from the making of the value to now, by the service's clock.
    pub rotation_seconds: u64,
    /// What the kind adds, see [`SecretKind::report`](crate::kind::SecretKind::report).
    #[serde(flatten)]
    pub of_kind: Map<String, Value>,
}
