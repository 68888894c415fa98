//! What is made from the environment, once per process.

use std::collections::BTreeSet;
use std::time::Duration;

use admin_token::AdminToken;
use encryption_key::EncryptionKey;
use issued_credential::IssuedCredential;
use rotation::environment::Environment;
use rotation::error::RotationError;
use rotation::policy::StackPolicy;
use rotation::store::Described;
use rotation::target::http::HttpTarget;

use crate::action::Action;
use crate::actions::abort::DEFAULT_ABORT_AFTER;
use crate::error::OperateError;
use crate::instances::{Observations, ObservedTarget};
use crate::kinds::Kind;
use crate::scope::Scope;
use crate::services::Services;

/// How often the schedule asks for a sweep, unless the stack sets `SWEEP_PERIOD`.
pub const DEFAULT_SWEEP_PERIOD: Duration = Duration::from_secs(60 * 60);

/// The kinds, the services and the bounds of this deployment.
#[derive(Debug)]
pub struct Operator {
    pub(crate) allowed: AllowedActions,
    pub(crate) abort_after: Duration,
    pub(crate) scope: Scope,
    pub(crate) sweep_period: Duration,
    pub(crate) services: Services,
    pub(crate) stack: StackPolicy,
    pub(crate) observations: Observations,
    pub(crate) token: AdminToken<ObservedTarget<HttpTarget>>,
    /// `None` in a stack without an issuer.
    pub(crate) issued: Option<IssuedCredential>,
    pub(crate) keys: Result<EncryptionKey<ObservedTarget<HttpTarget>>, RotationError>,
}

impl Operator {
    /// Reads `ALLOWED_ACTIONS`, `ABORT_AFTER`, `SWEEP_TAG`, `SWEEP_PERIOD`, `NOTIFY_TOPIC_ARN`, `EVENT_TOPIC_ARN`, `LOG_GROUP`,
    /// `CLOUDTRAIL_LOG_GROUP`, and all variables of the rotation functions.
    ///
    /// # Errors
    /// An unusable variable, by name.
    pub fn from_environment(environment: &Environment) -> Result<Self, RotationError> {
        let observations = Observations::default();
        let observed = |target| ObservedTarget::new(target, observations.clone());
        // A stack without keys names no secret with a token; its target is the same.
        let target = match environment.get("TARGET_TOKEN_SECRET") {
            Some(_) => HttpTarget::with_token_from_environment(environment)?.map(|(target, _)| target),
            None => HttpTarget::from_environment(environment)?,
        };
        Ok(Self {
            allowed: AllowedActions::from_environment(environment)?,
            abort_after: environment.duration("ABORT_AFTER")?.unwrap_or(DEFAULT_ABORT_AFTER),
            scope: Scope::from_environment(environment)?,
            sweep_period: environment.duration("SWEEP_PERIOD")?.unwrap_or(DEFAULT_SWEEP_PERIOD),
            services: Services::from_environment(environment)?,
            stack: StackPolicy::from_environment(environment, &Kind::KNOWN.map(Kind::settings).concat())?,
            issued: match environment.get("ISSUER_FUNCTION") {
                Some(_) => Some(IssuedCredential::from_environment(environment)?),
                None => None,
            },
            token: AdminToken::new(target.map(observed)),
            keys: EncryptionKey::from_environment(environment).map(|keys| keys.map_target(observed)),
            observations,
        })
    }

    /// The bounds that the stack sets for secrets of a kind.
    pub(crate) fn stack_of(&self, kind: Kind) -> StackPolicy {
        self.stack.for_kind(kind.settings())
    }

    /// What the secret holds. A stack without an issuer knows nothing of issued credentials.
    pub(crate) fn kind_of(&self, secret: &Described) -> Option<Kind> {
        Kind::of(secret).map(|kind| if kind == Kind::Issued && self.issued.is_none() { Kind::Other } else { kind })
    }

    /// The keyrings' kind.
    ///
    /// # Errors
    /// What is wrong with its variables.
    pub(crate) fn keyring(&self) -> Result<&EncryptionKey<ObservedTarget<HttpTarget>>, RotationError> {
        self.keys.as_ref().map_err(Clone::clone)
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
