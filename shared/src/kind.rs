//! The one extension point: [`SecretKind`] holds everything that differs between kinds of secrets.
//!
//! # Add a kind
//!
//! Copy the example in the [crate's documentation](crate#a-kind-of-secret), and change it for the new kind. The list
//! below names every place that a kind has. In the code, search for `signing-secret` (a kind that has every part). In
//! the stack and in the documents, search for `admin-token` and `AdminToken`.
//!
//! In the code:
//!
//! 1. `functions/NAME/`: `Cargo.toml` and `src/main.rs` from `admin-token`, with two names changed. `src/lib.rs` has
//!    one `impl SecretKind`, and `from_environment`.
//! 2. `Cargo.toml` of the workspace: `members`, `default-members` (`sam build` builds them) and
//!    `[workspace.dependencies]`.
//! 3. [`SETTINGS`](SecretKind::SETTINGS): the kind's own tags, as constants of type [`Setting`], and the settings of
//!    [`policy`](crate::policy) that the kind has. [`VARIABLES`](SecretKind::VARIABLES): `["TARGET_"]` if the kind asks
//!    an application.
//! 4. [`members`](SecretKind::members), if a value keeps more than one member. [`parse`](SecretKind::parse) refuses
//!    every value that is not of the kind, with [`RotationError::InvalidValue`].
//! 5. Tests: copy `tests/signing-secret/tests/main.rs`, which has a store of 100 lines. A model in
//!    `tests/simulation/src/model` drives the kind through every schedule of faults (copy `third.rs`). The crate is a
//!    dependency of `tests/simulation`. A test in `tests/end-to-end/tests/main` rotates with the built function (copy
//!    `third_kind.rs`; for a member of another name, its plan sets `ALLOWED_FIELDS` in `environment`).
//!
//! Run it now: `cargo sandbox --env NAME:ALLOWED_FIELDS=MEMBER`, then `aws secretsmanager rotate-secret
//! --rotation-lambda-arn …:function:NAME`. `tests/README.md` has the whole commands.
//!
//! In the stack:
//!
//! 6. `template.yaml`: function, permission, secret, resource policy and schedule. Copy the five resources of
//!    `AdminToken` and keep their names alike. Add the member's name to `ALLOWED_FIELDS` of `Globals`, and the
//!    function's name to the parameters of `Monitoring`. A kind that asks no application sets the six variables
//!    `TARGET_*` to `!Ref AWS::NoValue`, as `ReencryptFunction` does. A kind without overlap or `verify` does the same
//!    with `ROTATION_OVERLAP` or `ROTATION_VERIFY`. The kind has parameters for its schedule, its window, its member,
//!    the members of adopted secrets, and each of its tags. Each parameter is in a group of `Metadata`. A kind that
//!    `operate` knows needs its variables in `OperateFunction` and `SweepFunction` too. A function's variables have 4 KB
//!    in all: keep `MaxLength` small.
//! 7. `infra/access.yaml`: a role (copy `AdminTokenRole`), its output, and the function's name in each list of
//!    functions. `infra/monitoring.yaml`: a parameter, and a metric in each alarm and widget. `FunctionSlowAlarm` has
//!    the metrics in its expression too.
//! 8. `tests/template`: the kind as a dev-dependency, its type in `kind_of` of `tests/main/settings.rs`, and a
//!    first value in `tests/main/permissions.rs`. Then run
//!    `cargo nextest run -p template kinds settings policies metrics documents`. The tests name every list that lacks the
//!    function, and every variable that the function would refuse. The costs in `infra/README.md` count the alarms'
//!    metrics; the test says the new number.
//! 9. `tests/verify/src/release.rs`: the binary, for the release. A test fails without it.
//!
//! A kind whose values somebody else makes (a provider's API keys, session cookies) has the methods
//! [`is_issued`](SecretKind::is_issued), [`issue`](SecretKind::issue), [`revoke`](SecretKind::revoke) and
//! [`discard`](SecretKind::discard) too, see [`crate::issue`]. `functions/issued-credential` is such a kind.
//!
//! For operators:
//!
//! 10. For a kind that `operate` does not know, `status`, `doctor` and `abort` act on the secret's description. The sweep
//!     watches the age and the `AWSPENDING` of every rotated secret. All other actions answer `NotManaged`. To add the
//!     value, the policy and more actions: in `functions/operate/src/kinds.rs` add a variant of `Kind` with its name
//!     and its settings, also to `KNOWN`, and an `impl OperatedKind`. The compiler then names the branches that
//!     `dispatch.rs` and `sweep/inspection.rs` lack. `operator.rs` makes the kind from the environment. Only a kind in
//!     `SourceKind` of `functions/deliver/src/kinds.rs` can have consumers.
//! 11. Documents: the tables of tags and variables in `shared/README.md`; a README of the function (copy that of
//!     `admin-token`); `infra/PARAMETERS.md`; the tables of functions in `README.md` and `ARCHITECTURE.md`;
//!     `NotManaged` in `functions/operate/README.md`.
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
use crate::versions::VersionId;

/// What the protocol knows about a secret when it calls a kind.
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
    /// When the current version was created. It is set only while the next value is made from the current one.
    pub current_created: Option<SystemTime>,
    /// The credential for the target, if another secret holds it, see [`SecretKind::credential`].
    pub credential: Option<&'a SecretText>,
    /// Whether every consumer is known to have the current value, because the function `deliver` has delivered it. It is
    /// set only while the next value is made from the current one.
    pub delivered: bool,
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
    /// The value before this rotation; `None` for the first value of a secret.
    pub old: Option<&'a Document>,
    /// The value that the application shall use from now on.
    pub new: &'a Document,
}

/// What became of a credential that shall be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// It does not work any more.
    Gone,
    /// It has to be asked for again.
    Later,
}

/// The point of a rotation at which the protocol calls a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The new value is pending.
    BeforePromotion,
    /// The new value is current. A failure in this phase puts the old value back.
    AfterPromotion,
    /// No rotation runs: "new" is the current value, and the configuration is tested with it.
    Configuration,
}

/// A kind of secret: how its values are made, brought into use and proven.
///
/// finishSecret has no method: promotion belongs to the protocol, and no kind can alter it. The protocol may call every
/// method any number of times for the same version.
pub trait SecretKind: Sync {
    /// The kind's settings, beside `rotation:field` and `rotation:hold`, which every kind has. The function refuses a
    /// secret with any other tag `rotation:*`, and a stack with any other variable `ROTATION_*`.
    const SETTINGS: Settings = &[];

    /// The first letters of the environment variables that the kind reads beside its settings. Examples: `TARGET_` (the
    /// kind asks an application), `CONSUMERS_`, `KEY_ARCHIVE_`. A variable of one of these groups is an error in a
    /// function whose kind does not list the group.
    const VARIABLES: &'static [&'static str] = &[];

    /// Whether the kind asks an application. If it does, the protocol reads both values for [`set`](Self::set), and the
    /// kind also has [`settle_time`](Self::settle_time) and `set`.
    fn has_target(&self) -> bool {
        false
    }

    /// The longest time that [`set`](Self::set) and [`test`](Self::test) together take while the application does not
    /// answer. The protocol promotes only if this much time is left, and enough to put the old value back.
    fn settle_time(&self) -> Duration {
        Duration::ZERO
    }

    /// The secret with the credential for the target, if the credential is not the rotated value. The protocol reads
    /// the secret's `AWSCURRENT`, and passes it in [`Subject::credential`].
    ///
    /// # Errors
    /// A secret named `name` cannot have a credential.
    fn credential(&self, _name: &str) -> Result<Option<SecretReference>, RotationError> {
        Ok(None)
    }

    /// Parses a value.
    ///
    /// # Errors
    /// Those of [`Document::parse`].
    fn parse(&self, policy: &RotationPolicy, text: SecretText) -> Result<Document, RotationError> {
        Document::parse(text, policy.field.as_ref())
    }

    /// Checks that the policy fits this kind and is consistent. `period` is the shortest time between two rotations of
    /// the schedule, and `None` if it is not known. The kind checks that its promises hold for that time.
    ///
    /// # Errors
    /// [`RotationError::InvalidPolicy`].
    fn check_configuration(&self, _: &RotationPolicy, _period: Option<Duration>) -> Result<(), RotationError> {
        Ok(())
    }

    /// Makes the first value of a secret that has none.
    ///
    /// # Errors
    /// The value cannot be represented.
    fn first(&self, subject: &Subject<'_>, rng: &mut StdRng) -> Result<Document, RotationError>;

    /// Makes the value that follows `current`. All randomness comes from `rng` and the time from `subject`.
    ///
    /// # Errors
    /// The current value is not of this kind.
    fn create(&self, subject: &Subject<'_>, current: &Document, rng: &mut StdRng) -> Result<Document, RotationError>;

    /// Whether somebody else makes the values, so that making one has an effect outside of the secret. Then the protocol
    /// calls [`issue`](Self::issue) where it would call [`first`](Self::first) and [`create`](Self::create), and keeps
    /// the labels of [`crate::issue`].
    fn is_issued(&self) -> bool {
        false
    }

    /// Makes the value that follows `current`, or the first value, with an effect outside of the secret. Only
    /// createSecret calls it, after it has looked for a value of an earlier try. No rehearsal and no test of the
    /// configuration calls it: these call [`create`](Self::create), which has no effect.
    ///
    /// # Errors
    /// Nothing was made, or it is not known what was made.
    fn issue(
        &self,
        subject: &Subject<'_>,
        current: Option<&Document>,
        _deadline: Deadline,
        rng: &mut StdRng,
    ) -> impl Future<Output = Result<Document, RotationError>> + Send {
        std::future::ready(match current {
            Some(current) => self.create(subject, current, rng),
            None => self.first(subject, rng),
        })
    }

    /// Takes back what was issued with `value`. It may be called any number of times for the same value.
    ///
    /// # Errors
    /// It is not known whether the credential is revoked.
    fn revoke(
        &self,
        _: &Subject<'_>,
        _value: &Document,
        _: Deadline,
    ) -> impl Future<Output = Result<Revocation, RotationError>> + Send {
        std::future::ready(Ok(Revocation::Gone))
    }

    /// Takes back everything that was issued for the version `of`, except what is in `keep`. It finds what an attempt
    /// made whose answer nobody has.
    ///
    /// # Errors
    /// It is not known whether everything is revoked.
    fn discard(
        &self,
        _: &Subject<'_>,
        _of: &VersionId,
        _keep: &[&Document],
        _: Deadline,
    ) -> impl Future<Output = Result<Revocation, RotationError>> + Send {
        std::future::ready(Ok(Revocation::Gone))
    }

    /// The members of a JSON value that belong to this kind. That is the rotated member alone, unless the kind keeps
    /// more. A text has none.
    ///
    /// A member is protected unless the old or the new value names it here. The protocol refuses to promote a value
    /// that changes a protected member. The list has to be short: any writer may change the listed members during a
    /// rotation.
    fn members(&self, _: &RotationPolicy, value: &Document) -> Vec<FieldName> {
        value.field().cloned().into_iter().collect()
    }

    /// Whether consumers that hold `delivered` need nothing more for `current`, at the time `now`. Then `current` counts
    /// as delivered, and no consumer is restarted for it. A kind may leave out members whose end the consumers know
    /// already: the end of an overlap, a retired key.
    ///
    /// # Errors
    /// A value is not of this kind.
    fn needs_no_delivery(
        &self,
        policy: &RotationPolicy,
        delivered: &Document,
        current: &Document,
        _now: SystemTime,
    ) -> Result<bool, RotationError> {
        if current.field().is_none() {
            return Ok(delivered.secret()? == current.secret()?);
        }
        let members = [delivered, current].map(|value| self.members(policy, value)).concat();
        for member in &members {
            if delivered.member(member)? != current.member(member)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The kind's own last check before promotion. `new`, made at `created`, must be made from `old`, differ from
    /// `old`, and still be fit to replace `old`.
    ///
    /// # Errors
    /// [`RotationError::CurrentChanged`], [`RotationError::ValueUnchanged`], [`RotationError::OverlapTooShort`] or
    /// [`RotationError::PendingTooOld`]. After each of them the protocol gives the pending version up.
    fn check_succession(
        &self,
        subject: &Subject<'_>,
        old: &Document,
        new: &Document,
        created: SystemTime,
    ) -> Result<(), RotationError>;

    /// Whether `old` may become current again after `new` was current. It may if `old` can undo everything that was
    /// done with `new`. If not, a promotion that fails its verification stands.
    fn may_be_put_back(&self, _: &Subject<'_>, _old: &Document, _new: &Document) -> bool {
        true
    }

    /// The part of `value` that must be in an archive before the value becomes current.
    ///
    /// # Errors
    /// The value is not of this kind, or the archive cannot be named.
    fn archive(&self, _: &Subject<'_>, _value: &Document) -> Result<Option<ToArchive>, RotationError> {
        Ok(None)
    }

    /// The keyring of a value, if the kind has one. The protocol notices every key that disappears from it, see
    /// [`crate::marked_ring`].
    ///
    /// # Errors
    /// The value is not of this kind.
    fn ring(&self, _: &RotationPolicy, _value: &Document) -> Result<Option<Keyring>, RotationError> {
        Ok(None)
    }

    /// The kind's own members of the report on a promotion, as members of a JSON object. They never hold a value.
    fn report(&self, _: &Subject<'_>, _old: Option<&Document>, _new: &Document) -> Map<String, Value> {
        Map::new()
    }

    /// The end of the time in which the application accepts the value before `current`, if the overlap began at
    /// `began`. `None` means that there is no overlap.
    fn overlap_end(&self, _: &Subject<'_>, _current: &Document, _began: SystemTime) -> Option<SystemTime> {
        None
    }

    /// Brings the new value to the application. A kind that asks none has nothing to do.
    ///
    /// # Errors
    /// The application did not load the value before `deadline`.
    fn set(
        &self,
        _: &Subject<'_>,
        _values: Values<'_>,
        _: Phase,
        _deadline: Deadline,
    ) -> impl Future<Output = Result<(), RotationError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Proves that the new value works, and that the proof means something.
    ///
    /// # Errors
    /// The new value does not work, or no proof was possible before `deadline`.
    fn test(
        &self,
        subject: &Subject<'_>,
        values: Values<'_>,
        phase: Phase,
        deadline: Deadline,
        rng: &mut StdRng,
    ) -> impl Future<Output = Result<(), RotationError>> + Send;
}
