//! What the function is asked to do.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use aws_lambda_events::eventbridge::EventBridgeEvent;
use rotation::census::Census;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::keyring::KeyId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::OperateError;
use crate::retire;

/// The actions, by the names under which they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// What is current is known to others, and is replaced at once.
    Compromise,
    /// What keeps rotations from working, and the command that repairs it.
    Doctor,
    /// Keys that no row needs any more leave the ring.
    Retire,
    /// Keys that disappeared from the ring by somebody else's hand come back.
    Restore,
    /// They are given up.
    Forget,
    /// All secrets: what the schedule asks for.
    Sweep,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 11] = [
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
        Self::Sweep,
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
            Self::Sweep => "sweep",
        }
    }

    /// Whether it changes something, and so wants to be recorded with a reason.
    #[must_use]
    pub fn changes(self) -> bool {
        !matches!(self, Self::Status | Self::Verify | Self::Doctor | Self::Sweep)
    }

    /// Whether it wants the secret's name once more: it cannot be undone, or replaces what is in use at once.
    #[must_use]
    pub fn wants_confirmation(self) -> bool {
        matches!(self, Self::Compromise | Self::Restore | Self::Forget)
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

/// The longest reason that is recorded, in characters.
const LONGEST_REASON: usize = 500;

/// A request, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub action: Action,
    /// The secret's name or ARN; empty for a sweep.
    pub secret_id: String,
    /// Why, for the record.
    pub reason: Option<String>,
    /// The secret's name once more, where the action wants it.
    pub confirm: Option<String>,
    /// Where a sweep goes on that ran out of time.
    pub from: Option<String>,
    /// What a retirement goes by.
    pub censuses: Option<[Census; 2]>,
    /// The keys that are given up.
    pub keys: BTreeSet<KeyId>,
    /// When a schedule asked for the sweep.
    pub scheduled: Option<SystemTime>,
}

impl Request {
    /// Reads an event such as `{"action":"status","secret_id":"shop/production/admin-token"}`.
    ///
    /// # Errors
    /// [`OperateError::InvalidRequest`] names the member and what it should be; a member that is not known is an error, and so is an
    /// action that changes something without a `reason`.
    pub fn parse(event: Value) -> Result<Self, OperateError> {
        let invalid =
            |member: &str, problem: String| OperateError::InvalidRequest { member: member.to_owned(), problem };
        // What EventBridge sends on a schedule.
        if let Ok(event) = serde_json::from_value::<EventBridgeEvent>(event.clone()) {
            let scheduled = (event.source.as_str(), event.detail_type.as_str()) == ("aws.events", "Scheduled Event");
            let sweep = Self {
                action: Action::Sweep,
                secret_id: String::new(),
                reason: None,
                confirm: None,
                from: None,
                censuses: None,
                keys: BTreeSet::new(),
                scheduled: event.time.map(SystemTime::from),
            };
            let problem = "expected a Scheduled Event of aws.events: only a schedule starts a sweep".to_owned();
            return if scheduled { Ok(sweep) } else { Err(invalid("detail-type", problem)) };
        }
        let Value::Object(mut members) = event else {
            return Err(invalid("(the event)", "expected a JSON object".to_owned()));
        };
        let censuses = retire::two_censuses(members.remove("censuses"))?;
        let keys = members.remove("keys").filter(|keys| !keys.is_null());
        let mut text = |member: &'static str| match members.remove(member) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text)),
            Some(_) => Err(invalid(member, "expected a text that is not empty".to_owned())),
        };
        let (action, secret_id) = (text("action")?, text("secret_id")?);
        let (reason, confirm, from) = (text("reason")?, text("confirm")?, text("from")?);
        if let Some(unknown) = members.keys().next() {
            let unknown: String = unknown.chars().take(64).collect();
            return Err(invalid(
                &unknown,
                "is not known; known are action, secret_id, reason, confirm, from, censuses, keys".to_owned(),
            ));
        }
        let names = Action::ALL.map(Action::name).join(", ");
        let action = action.and_then(|action| action.parse().ok());
        let action: Action = action.ok_or_else(|| invalid("action", format!("expected one of {names}")))?;
        let secret_id = match (action, secret_id) {
            (Action::Sweep, None) => String::new(),
            (Action::Sweep, Some(_)) => {
                return Err(invalid("secret_id", "a sweep looks at all secrets: leave it out".to_owned()));
            }
            (_, secret_id) => {
                secret_id.ok_or_else(|| invalid("secret_id", "expected a secret's name or ARN".to_owned()))?
            }
        };
        if from.is_some() && action != Action::Sweep {
            return Err(invalid("from", "is for a sweep only".to_owned()));
        }
        if confirm.is_some() && !action.wants_confirmation() {
            return Err(invalid("confirm", "is for compromise, restore and forget only".to_owned()));
        }
        let keys = match (action, keys.map(serde_json::from_value)) {
            (Action::Forget, Some(Ok(keys))) => keys,
            (Action::Forget, _) => {
                let problem = "expected the ids of the keys to be given up, such as [\"5e6f7081\"]: doctor names them";
                return Err(invalid("keys", problem.to_owned()));
            }
            (_, None) => BTreeSet::new(),
            (_, Some(_)) => return Err(invalid("keys", "is for forget only".to_owned())),
        };
        match (action, &censuses) {
            (Action::Retire, None) => {
                let problem = "expected the two censuses that speak for it, answers of reencrypt";
                return Err(invalid("censuses", problem.to_owned()));
            }
            (Action::Retire, Some(_)) | (_, None) => {}
            (_, Some(_)) => return Err(invalid("censuses", "is for retire only".to_owned())),
        }
        if secret_id.len() > 2048 {
            return Err(invalid("secret_id", "expected at most 2048 characters".to_owned()));
        }
        if action.changes() && reason.is_none() {
            return Err(invalid("reason", format!("{action} changes something: say why, for the record")));
        }
        if reason.as_ref().is_some_and(|reason| reason.chars().count() > LONGEST_REASON) {
            return Err(invalid("reason", format!("expected at most {LONGEST_REASON} characters")));
        }
        Ok(Self { action, secret_id, reason, confirm, from, censuses, keys, scheduled: None })
    }
}

/// The actions that this deployment of the function may be asked for (`ALLOWED_ACTIONS`): IAM cannot see into a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedActions(BTreeSet<Action>);

impl AllowedActions {
    const VARIABLE: &str = "ALLOWED_ACTIONS";

    /// Reads `ALLOWED_ACTIONS`, comma-separated.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] when it is not set, or names an action that there is not.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let wrong =
            |problem: String| RotationError::InvalidConfiguration { variable: Self::VARIABLE.to_owned(), problem };
        let names = Action::ALL.map(Action::name).join(", ");
        let actions = environment.require(Self::VARIABLE)?.split(',').map(|name| name.trim().parse().ok());
        let actions: Option<BTreeSet<Action>> = actions.collect();
        actions.map(Self).ok_or_else(|| wrong(format!("expected some of {names}, separated by commas")))
    }

    /// Whether the action is among them.
    ///
    /// # Errors
    /// [`OperateError::ActionNotAllowed`].
    pub fn check(&self, action: Action) -> Result<(), OperateError> {
        if self.0.contains(&action) {
            return Ok(());
        }
        let allowed: Vec<_> = self.0.iter().map(|action| action.name()).collect();
        Err(OperateError::ActionNotAllowed { action, allowed: allowed.join(", ") })
    }
}
