//! What is particular to one kind of secret: its values, the application that uses it, what a person stores, and the promises
//! that only this kind makes. A kind of secret is one file here, and a test that runs the families with it.

pub mod issued;
pub mod keyring;
pub mod staged;
pub mod third;
pub mod token;

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use issued_credential::issuer::Issuer;
use operate::error::OperateError;
use rand::Rng as _;
use rand::rngs::StdRng;
use rotation::aws::FunctionErrorKind;
use rotation::census::Census;
use rotation::document::Document;
use rotation::error::RotationError;
use rotation::event::VersionId;
use rotation::kind::{SecretKind, Subject};
use rotation::target::{ReportedKeys, Target, TargetSettings};
use serde_json::Value;

use crate::invariants::{Change, Checked};
use crate::operations::{Name, Operating, Operator};
use crate::scenario::Scenario;
use crate::schedule::{Action, Edit, Operation, Task};
use crate::state::State;
use crate::world::Inner;

/// The token that the application wants, of a kind that is not asked with the value being rotated.
pub(crate) const CREDENTIAL: &str = "token-of-the-operator";
/// The secret that holds it.
pub(crate) const CREDENTIAL_SECRET: &str = "shop/operator-token";
/// The secret in which keys are archived.
pub(crate) const ARCHIVE_SECRET: &str = "shop/secret-archive";

/// What the value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The whole value is the secret.
    Text,
    /// The secret is in members of an object that has others.
    Json,
}

/// Whom an invocation asks: the application, and who issues credentials.
pub trait Port: Target + Issuer + Send {}

impl<T: Target + Issuer + Send> Port for T {}

/// A kind of secret in the hands of one application. The value says which.
pub trait Model: Copy + PartialEq + fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// The kind under test.
    type Kind<T: Port>: SecretKind;
    /// What one instance of the application holds.
    type Instance: Clone + Default + Send;
    /// What has to be remembered in order to judge what comes.
    type Memory: Default + Send;

    /// The member of a JSON secret that is rotated.
    const FIELD: &'static str;

    /// Every scenario in which reads are not stale and nothing is sabotaged.
    fn scenarios() -> Vec<Scenario<Self>>;

    /// What the value looks like.
    fn shape(self) -> Shape;

    /// The stack's variables `ROTATION_*`, beside the member.
    fn variables(self) -> Vec<(&'static str, &'static str)>;

    /// The secret's own tags.
    fn tags(self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// The kind, with whom it asks.
    fn kind<T: Port>(self, target: Option<T>) -> Self::Kind<T>;

    /// The value before all rotations, and the one before that (`number` 0), made at `created`.
    fn initial(self, number: u64, created: SystemTime) -> String;

    /// What else stands on the secret before all rotations.
    fn begin(self, _: &mut State) {}

    /// What a person may store.
    fn edits(self) -> &'static [Edit];

    /// What a person stores in the place of `old`. The edit of another member is not asked for here, if there is one.
    fn edited(self, edit: Edit, old: Option<&Arc<str>>, number: u64, now: SystemTime) -> String;

    /// How many instances the application has.
    fn instances(self) -> usize;

    /// How many of them the load balancer chooses from: the first ones.
    fn asked_instances(self) -> usize {
        self.instances()
    }

    /// How the stack's target is set up; `None` when nobody is asked.
    fn target(self) -> Option<TargetSettings>;

    /// What an instance without a defect holds once it has loaded the secret; `None` when it cannot be loaded.
    fn loaded(self, state: &State) -> Option<Self::Instance>;

    /// Whether an instance lets a request with `token` pass.
    fn accepts(self, held: &Self::Instance, token: &str, now: SystemTime) -> bool;

    /// Whether an instance loads the secret again when it is asked with a token that it does not know.
    fn reloads_when_asked(self) -> bool {
        false
    }

    /// What the provider does that this request asks for: the answer of its issuer, and a promise that does not hold.
    fn issue(_: &mut Inner<Self>, _request: &Value, _by: (Task, usize)) -> (Issued, Checked) {
        (Err(FunctionErrorKind::Missing), Err("nobody issues secrets of this kind".to_owned()))
    }

    /// The keys that an instance reports.
    fn reports(self, _: &Self::Instance) -> Option<ReportedKeys> {
        None
    }

    /// How long an instance keeps what it has read, if that matters; at zero it reads before each use.
    fn cache_age(self) -> Option<Duration> {
        None
    }

    /// Whether a broken application has the defect in this one of its instances.
    fn is_broken_in(self, _instance: usize) -> bool {
        true
    }

    /// Promise 4: whether `new` was made from `old`.
    fn is_made_from(self, new: &str, old: &str) -> bool;

    /// What is asked for of a secret of this kind. What follows, up to [`operation_refusal`](Self::operation_refusal), is of use only
    /// when something is.
    const OPERATIONS: &'static [Operation] = &[];

    /// Performs an operation on a secret of this kind.
    fn operate(self, _: Operator<Self>) -> Operating {
        let error = OperateError::NotManaged { name: String::new(), function: None };
        Box::pin(std::future::ready(Err(error)))
    }

    /// By which censuses keys are retired.
    fn censuses(_: &Inner<Self>) -> Option<[Census; 2]> {
        None
    }

    /// The token, or the primary key, that is in use by the value.
    fn in_use(self, _value: &Arc<str>) -> Option<Name> {
        None
    }

    /// What is known to others when the value is.
    fn exposed_with(self, value: &Arc<str>) -> BTreeSet<Name> {
        self.in_use(value).into_iter().collect()
    }

    /// The tokens in a value: its own, and the previous one.
    fn tokens(self, _value: &Arc<str>) -> BTreeSet<Name> {
        BTreeSet::new()
    }

    /// What a rollback goes back to; `None` when there is nothing.
    fn back(self, _: &State) -> Option<Name> {
        None
    }

    /// Whether the value says of this that it is known to others.
    fn is_marked(self, _value: &Arc<str>, _name: &Name) -> bool {
        false
    }

    /// Whether an operation may make `new` of `old`.
    fn is_made_by(self, _: Operation, _new: &str, _old: &str) -> bool {
        false
    }

    /// What an instance holds that has loaded `new` and forgets nothing of `old`.
    fn accumulated(self, _old: Self::Instance, new: Self::Instance) -> Self::Instance {
        new
    }

    /// `AWSPREVIOUS` was taken off its version by an operation, without a change of the current value.
    fn previous_taken_away(_: &mut Inner<Self>) {}

    /// Whether every instance of the application knows what is in use.
    fn knows_current(_: &Inner<Self>) -> bool {
        true
    }

    /// What holds when an operation has answered that it is done, and nothing else is under way.
    ///
    /// # Errors
    /// The promise that does not hold.
    fn judge_operation(_: &Inner<Self>, _: Operation) -> Checked {
        Ok(())
    }

    /// What to think of an operation that has just been refused with `error` though nothing disturbed it.
    fn operation_refusal(_: &Inner<Self>, _: Operation, _error: &str) -> Refusal {
        Refusal::Wrong
    }

    /// Takes note of a change of the current value, and judges it.
    ///
    /// # Errors
    /// The promise that does not hold.
    fn remember(world: &mut Inner<Self>, change: &Change<'_>) -> Checked;

    /// What holds at every moment: after every effect, whenever an instance has loaded the secret, and when time has passed.
    ///
    /// # Errors
    /// The promise that does not hold.
    fn judge(world: &mut Inner<Self>) -> Checked;

    /// What holds when the rotation to the value of AWSCURRENT has succeeded.
    ///
    /// # Errors
    /// The promise that does not hold.
    fn judge_success(world: &Inner<Self>) -> Checked;

    /// Takes note of a rotation that the service has seen succeed, and whose version is current.
    fn rotation_succeeded(_: &mut Inner<Self>) {}

    /// Whether a promotion that a broken application did not pass may stand.
    fn may_stand(self) -> bool {
        false
    }

    /// What to think of a rotation to `version` that has just been refused with `error` though nothing disturbed it.
    fn refusal(_: &Inner<Self>, _version: &VersionId, _error: &str) -> Refusal {
        Refusal::Wrong
    }

    /// What happens by chance before the next one of several rotations.
    fn between(self, _: &mut StdRng) -> Vec<Action> {
        vec![]
    }

    /// For how long nothing happens, by chance.
    fn pause(self, rng: &mut StdRng) -> Duration {
        Duration::from_secs(3600 * rng.random_range(1..30))
    }

    /// How long after a refusal the next rotation is tried, when every cache has become too old.
    fn patience(self) -> Duration {
        Duration::from_secs(60 * 60)
    }

    /// How many rotations in a row a random history has at most.
    fn most_rotations(self) -> usize {
        3
    }

    /// What the caches of the application may do at any moment.
    fn reloads(self) -> &'static [Action] {
        &[Action::Reload]
    }

    /// The caches of all instances have become too old.
    fn reload(world: &mut Inner<Self>) {
        let state = world.state();
        world.load_all(&state);
    }

    /// The function `deliver` does its next step.
    fn deliver(_: &mut Inner<Self>) {}

    /// The kind's own step; one that is broken on purpose does something else.
    ///
    /// # Errors
    /// Those of the kind.
    fn create<K: SecretKind>(
        self,
        kind: &K,
        subject: &Subject<'_>,
        current: &Document,
        rng: &mut StdRng,
    ) -> Result<Document, RotationError> {
        kind.create(subject, current, rng)
    }

    /// The kind's own check; one that is broken on purpose does something else.
    ///
    /// # Errors
    /// Those of the kind.
    fn check_succession<K: SecretKind>(
        self,
        kind: &K,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        created: SystemTime,
    ) -> Result<(), RotationError> {
        kind.check_succession(subject, old, new, created)
    }
}

/// What an issuer answers.
pub type Issued = Result<String, FunctionErrorKind>;

/// What to think of a refusal that nothing disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The rotation had to succeed.
    Wrong,
    /// It was too early; a later one has to succeed.
    ForNow,
    /// This application can never be rotated so.
    ForGood,
}

/// A target that can be told to load the secret.
pub(crate) fn told(instances: Option<usize>) -> Option<TargetSettings> {
    let instances = instances.and_then(NonZeroUsize::new);
    Some(TargetSettings { can_refresh: true, instances, timeout: Duration::from_secs(2) })
}

/// A JSON secret with these members, and others.
pub(crate) fn object(members: &str) -> String {
    format!(r#"{{ "port": 8080, {members}, "note": "a b" }}"#)
}

/// A member of a JSON value that is a string.
pub(crate) fn member(value: &str, name: &str) -> Option<Arc<str>> {
    let value: serde_json::Value = serde_json::from_str(value).ok()?;
    value.get(name)?.as_str().map(Arc::from)
}
