//! The one extension point: what is particular to a kind of secret.
//!
//! # Add a kind
//!
//! Copy the example in the [crate's documentation](crate#a-kind-of-secret), and change what the kind does otherwise. These are all
//! places that a kind has. In each of them search for `signing-secret` (a kind with everything) or for `encryption-key`.
//!
//! In the code:
//!
//! 1. `functions/NAME/`: `Cargo.toml` and `src/main.rs` from `admin-token`, with two names changed. `src/lib.rs` has one
//!    `impl SecretKind`, and `from_environment`.
//! 2. `Cargo.toml` of the workspace: `members`, `default-members` (what `sam build` builds) and `[workspace.dependencies]`.
//! 3. [`SETTINGS`](SecretKind::SETTINGS): the kind's own tags, as constants of type [`Setting`], and those of
//!    [`policy`](crate::policy) that it has. [`VARIABLES`](SecretKind::VARIABLES): `["TARGET_"]` when it asks an application.
//! 4. [`members`](SecretKind::members), when a value keeps more than one member. Refuse in [`parse`](SecretKind::parse) what is
//!    none of the kind's values, with [`RotationError::InvalidValue`].
//! 5. Tests: copy `tests/signing-secret/tests/main.rs`, which has a store of 100 lines. A model in `tests/faults/src/model` drives the kind
//!    through every schedule of faults.
//!
//! Run it now: `cargo sandbox`, then `aws secretsmanager rotate-secret --rotation-lambda-arn …:function:NAME`.
//!
//! In the stack:
//!
//! 6. `template.yaml`: function, permission, secret, resource policy and schedule (copy the five resources of `AdminToken` and keep
//!    their names alike); the member's name in `ALLOWED_FIELDS` of `Globals`; the function's name among the parameters of
//!    `Monitoring`. A kind that asks no application sets the six variables `TARGET_*` to `!Ref AWS::NoValue`, as
//!    `ReencryptFunction` does; without overlap or `verify`, `ROTATION_OVERLAP` or `ROTATION_VERIFY` too.
//! 7. `infra/access.yaml`: a role (copy `AdminTokenRole`), its output, and the function's name in each list of functions.
//!    `infra/monitoring.yaml`: a parameter, and a metric in each alarm and widget; `FunctionSlowAlarm` has them in its expression too.
//! 8. `tests/template`: the kind as a dev-dependency, and one line with its type in `tests/main/settings.rs`. Then
//!    `cargo nextest run -p template kinds settings policies metrics` names every list that lacks the function and every variable that
//!    it would refuse. The costs in the README count the alarms' metrics; the test says the new number.
//! 9. `tests/verify/src/release.rs`: the binary, to be released.
//!
//! For operators:
//!
//! 10. `operate` answers `NotManaged` for a kind that it does not know. `functions/operate/src/kinds.rs` tells a secret's kind by the name
//!     of its function, and says what an operator can do with it. The sweep watches the age and the `AWSPENDING` of every rotated secret.
//! 11. The tables of tags, variables and members in `shared/README.md` and in the README of the function.
//!
//! [`Setting`]: crate::policy::Setting

use std::future::Future;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use serde_json::{Map, Value};

use crate::admission::Admitted;
use crate::archive::ToArchive;
use crate::deadline::Deadline;
use crate::document::{Document, FieldName};
use crate::error::RotationError;
use crate::keyring::Keyring;
use crate::policy::{RotationPolicy, Settings};
use crate::secret::SecretText;

/// What the protocol knows about the secret when it asks a kind to do something.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The proof of admission.
    pub admitted: &'a Admitted,
    /// The secret's name.
    pub name: &'a str,
    /// The policy in force.
    pub policy: &'a RotationPolicy,
    /// The service's clock.
    pub now: SystemTime,
    /// When a rotation of the secret last succeeded.
    pub last_rotated: Option<SystemTime>,
    /// When the current version was created, while the next value is made from it.
    pub current_created: Option<SystemTime>,
    /// What the target is asked with, when that is in another secret, see [`SecretKind::credential`].
    pub credential: Option<&'a SecretText>,
}

/// A secret that a function reads and does not rotate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretReference {
    /// Name or ARN.
    pub id: String,
    /// The member of its JSON object; `None` means the whole text.
    pub field: Option<FieldName>,
}

/// The two values between which a rotation moves.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// What the application knew before this rotation; `None` for the first value of a secret.
    pub old: Option<&'a Document>,
    /// What it shall use.
    pub new: &'a Document,
}

/// Where in a rotation a kind is asked to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The new value is pending.
    BeforePromotion,
    /// The new value is current. A failure now puts the old one back.
    AfterPromotion,
    /// Nothing is being rotated: the "new" value is the current one, and the configuration is tested with it.
    Configuration,
}

/// A kind of secret: how its values are made, brought into use and proven.
///
/// There is no method for finishSecret: promotion belongs to the protocol, and no kind can alter it. Every method may
/// be called any number of times for the same version.
pub trait SecretKind: Sync {
    /// The kind's settings, beside `rotation:field` and `rotation:hold`, which every kind has. A secret with any other tag
    /// `rotation:*`, and a stack with any other variable `ROTATION_*`, is refused.
    const SETTINGS: Settings = &[];

    /// The environment variables that the kind reads beside its settings, by how they begin: `TARGET_` when it asks an application,
    /// `CONSUMERS_`, `KEY_ARCHIVE_`. A function is refused that has one of these and reads none of them.
    const VARIABLES: &'static [&'static str] = &[];

    /// Whether an application is asked: then the protocol reads both values for [`set`](Self::set).
    fn has_target(&self) -> bool;

    /// The longest time that [`set`](Self::set) and [`test`](Self::test) together take when the application does not
    /// answer. The protocol promotes only with this much time left, and enough to put the old value back.
    fn settle_time(&self) -> Duration;

    /// The secret with what the target is asked with, when that is not the value being rotated. The protocol reads its
    /// `AWSCURRENT`, and hands it on in [`Subject::credential`].
    ///
    /// # Errors
    /// When there can be none for a secret named `name`.
    fn credential(&self, _name: &str) -> Result<Option<SecretReference>, RotationError> {
        Ok(None)
    }

    /// Takes a value apart.
    ///
    /// # Errors
    /// Those of [`Document::parse`].
    fn parse(&self, policy: &RotationPolicy, text: SecretText) -> Result<Document, RotationError> {
        Document::parse(text, policy.field.as_ref())
    }

    /// Whether the policy fits this kind and itself, and whether promises are kept where the schedule may rotate again after
    /// `period`, which is absent where that is not known.
    ///
    /// # Errors
    /// [`RotationError::InvalidPolicy`].
    fn check_configuration(&self, _: &RotationPolicy, _period: Option<Duration>) -> Result<(), RotationError> {
        Ok(())
    }

    /// The first value of a secret that has none.
    ///
    /// # Errors
    /// A value that cannot be represented.
    fn first(&self, subject: &Subject<'_>, rng: &mut StdRng) -> Result<Document, RotationError>;

    /// The value that follows `current`. All randomness comes from `rng` and the time from `subject`.
    ///
    /// # Errors
    /// A current value that is not of this kind.
    fn create(&self, subject: &Subject<'_>, current: &Document, rng: &mut StdRng) -> Result<Document, RotationError>;

    /// The members of a JSON value that are this kind's: the rotated one alone, unless the kind keeps more. A text has none.
    ///
    /// The protocol refuses to promote a value that differs from the current one in any member that neither of them names here. So
    /// the list has to be short: what it names may be changed by anybody during a rotation.
    fn members(&self, _: &RotationPolicy, value: &Document) -> Vec<FieldName> {
        value.field().cloned().into_iter().collect()
    }

    /// The kind's own last look before promotion: whether `new`, made at `created`, was made from `old`, differs from it,
    /// and may still replace it.
    ///
    /// # Errors
    /// [`RotationError::CurrentChanged`], [`RotationError::ValueUnchanged`], [`RotationError::OverlapTooShort`] or
    /// [`RotationError::PendingTooOld`]: the pending version is given up.
    fn check_succession(
        &self,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        created: SystemTime,
    ) -> Result<(), RotationError>;

    /// Whether `old` may become current again after `new` was, because all that was done with `new` meanwhile can be
    /// undone with `old`. If not, a promotion that does not verify stands.
    fn may_be_put_back(&self, _: &Subject<'_>, _old: &Document, _new: &Document) -> bool {
        true
    }

    /// What of `value` has to be in an archive before the value becomes current.
    ///
    /// # Errors
    /// A value that is not of this kind, or an archive that cannot be named.
    fn archive(&self, _: &Subject<'_>, _value: &Document) -> Result<Option<ToArchive>, RotationError> {
        Ok(None)
    }

    /// The keyring of a value, if the kind has one: no key of it disappears unnoticed, see [`crate::marked_ring`].
    ///
    /// # Errors
    /// A value that is not of this kind.
    fn ring(&self, _: &RotationPolicy, _value: &Document) -> Result<Option<Keyring>, RotationError> {
        Ok(None)
    }

    /// What the report of a promotion says beside the protocol's own words, as members of a JSON object; never a value.
    fn report(&self, _: &Subject<'_>, _old: Option<&Document>, _new: &Document) -> Map<String, Value> {
        Map::new()
    }

    /// Until when the value before `current` is accepted, given that the overlap began at `began`; `None` when there is
    /// no overlap.
    fn overlap_end(&self, _: &Subject<'_>, _current: &Document, _began: SystemTime) -> Option<SystemTime> {
        None
    }

    /// Brings the new value to the application.
    ///
    /// # Errors
    /// When the application cannot be brought to load it before `deadline`.
    fn set(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), RotationError>> + Send;

    /// Proves that the new value works, and that the proof means something.
    ///
    /// # Errors
    /// When it does not, or that cannot be found out before `deadline`.
    fn test(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> impl Future<Output = Result<(), RotationError>> + Send;
}
