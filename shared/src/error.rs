//! The errors of a rotation. Each variant has one stable name for alarms, says what to do, and holds no secret value.

use std::time::{Duration, SystemTime};

use crate::key::KeyId;
use crate::time::format_timestamp;
use crate::versions::VersionId;

mod gives_up;
mod issuer;
mod keyring;
mod names;
mod restored;
mod store;
mod words;

pub(crate) use gives_up::GivesUp;
pub use issuer::IssuerError;
pub use keyring::{KeyringError, Place};
pub use restored::Restored;
pub use store::{StoreError, StoreErrorKind, innermost};

use words::{list, pending_elsewhere};

crate::named_errors! {
    [GivesUp]
    /// Why a step of a rotation failed.
    ///
    /// [`RotationError::name`] is the `errorType` of the invocation and the dimension `ErrorType` of the metric
    /// `RotationFailed`. The name does not change between releases. Messages name ARNs, version ids, members, tags and
    /// environment variables. They never hold a secret value or the body of an answer.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    #[non_exhaustive]
    pub enum RotationError {
        /// The event is not a rotation event.
        #[error("event member {field}: {problem}")]
        InvalidEvent {
            /// The member.
            field: &'static str,
            /// What is wrong with it.
            problem: String,
        },
        /// The function cannot use its environment.
        #[error("environment variable {variable}: {problem}")]
        InvalidConfiguration {
            /// The variable.
            variable: String,
            /// What is wrong, and what to write instead.
            problem: String,
        },
        /// A URL is not HTTPS and not on the loopback interface.
        #[error(
            "environment variable {variable}: an http:// URL would send the secret in clear text; use https:// (http:// is accepted for 127.0.0.1, [::1] and localhost only)"
        )]
        InsecureUrl {
            /// The variable.
            variable: String,
        },
        /// A tag of the secret asks for something that the stack does not allow.
        #[error("{setting}: {problem}")]
        InvalidPolicy {
            /// The tag or the environment variable.
            setting: String,
            /// What is wrong, and what is allowed.
            problem: String,
        },
        /// The secret's name does not begin with the prefix that this stack may rotate.
        #[error(
            "secret {name} is outside this stack's prefix {prefix} (environment variable SECRET_NAME_PREFIX): rename the secret, or rotate it with the stack that owns it"
        )]
        NameNotAllowed {
            /// The secret's name.
            name: String,
            /// The prefix.
            prefix: String,
        },
        /// The secret is scheduled for deletion.
        #[error(
            "secret {name} is scheduled for deletion: restore it with `aws secretsmanager restore-secret --secret-id {name}`, or cancel its rotation"
        )]
        ScheduledForDeletion {
            /// The secret's name.
            name: String,
        },
        /// The secret in this Region is a replica, and follows its primary secret.
        #[error("secret {name} is a replica of the one in {primary_region}: rotate it there")]
        ReplicaRegion {
            /// The secret's name.
            name: String,
            /// The Region that holds the primary.
            primary_region: String,
        },
        /// Rotation is switched off for the secret.
        #[error(
            "rotation is not enabled for secret {name}: somebody switched it off (aws secretsmanager cancel-rotate-secret), or another function rotated it; `aws secretsmanager describe-secret --secret-id {name}` tells which; only with that one is it switched on again"
        )]
        RotationNotEnabled {
            /// The secret's name.
            name: String,
        },
        /// The tag `rotation:hold` forbids a rotation for now.
        #[error("secret {name} is on hold until {} (rotation:hold): remove the tag to rotate earlier", format_timestamp(*.until))]
        OnHold {
            /// The secret's name.
            name: String,
            /// The end of the hold.
            until: SystemTime,
        } => InCreate,
        /// No version with the event's ClientRequestToken carries a staging label. DescribeSecret does not list
        /// versions without labels. So a version that lost its last label looks like a version that never existed.
        #[error(
            "version {version} carries no stage of this secret{}: its rotation never began, or is over (rolled back, or abandoned for another write); look for its first error in the log, then start a rotation with `aws secretsmanager rotate-secret`",
            pending_elsewhere(.holder)
        )]
        UnknownVersion {
            /// The version.
            version: VersionId,
            /// The version that carries `AWSPENDING` instead, if one does.
            holder: Option<VersionId>,
        },
        /// The event's version is neither pending nor current.
        #[error("version {version} is not AWSPENDING{}: this rotation is over, or was abandoned for another write; run rotate-secret again",
                pending_elsewhere(.holder))]
        NotPending {
            /// The version of the event.
            version: VersionId,
            /// The version that carries `AWSPENDING` instead, if one does.
            holder: Option<VersionId>,
        },
        /// The version was promoted, failed its verification, and was rolled back.
        #[error(
            "version {version} was promoted, did not verify and was rolled back; it will not be promoted again: find the cause in the log of that time, then run rotate-secret"
        )]
        RolledBack {
            /// The version.
            version: VersionId,
        },
        /// Another writer changed the secret during the rotation.
        #[error(
            "secret {name}, or its rotation:* tags, were changed during the rotation: the change stands, the pending version was given up; run rotate-secret again"
        )]
        CurrentChanged {
            /// The secret's name.
            name: String,
        } => Always,
        /// `AWSCURRENT` could not be moved from the version where it was read, and its new place is not visible yet.
        #[error(
            "AWSCURRENT of secret {name} moved while it was being promoted, and where to is not visible yet: the retry will see it"
        )]
        PromotionConflict {
            /// The secret's name.
            name: String,
        },
        /// A retry came so late that consumers would get less than half of the promised overlap.
        #[error("the pending version of secret {name} promises the old token only until {}, less than half of the overlap from now: it was given up, so that nobody is locked out; run rotate-secret again", format_timestamp(*.until))]
        OverlapTooShort {
            /// The secret's name.
            name: String,
            /// The end of the overlap as the pending version states it.
            until: SystemTime,
        } => Always,
        /// A retry came so late that the age of the keys in the pending version says nothing any more.
        #[error("the pending version of secret {name} was made at {}, too long ago to be promoted: it was given up; run rotate-secret again", format_timestamp(*.created))]
        PendingTooOld {
            /// The secret's name.
            name: String,
            /// When it was made.
            created: SystemTime,
        } => Always,
        /// The keyring in the value is not usable.
        #[error("the keyring is not usable: {0}")]
        Keyring(#[from] KeyringError),
        /// The value belongs to another kind. A rotation by this function would destroy it.
        #[error(
            "the value holds {found} ({sign}), and this function rotates {rotates}, which would destroy it: nothing was written; have the secret rotated by the function for its kind ({function}), or correct the tag rotation:field"
        )]
        WrongKind {
            /// The other kind's content.
            found: &'static str,
            /// The member, or the shape of the value, that shows the other kind.
            sign: String,
            /// The content that this function rotates.
            rotates: &'static str,
            /// The end of the name of the other kind's function.
            function: &'static str,
        } => UnlessTested,
        /// The value does not belong to this kind.
        #[error(
            "the value is no {expected}: {problem}; nothing was written: store one, or correct the tag rotation:field"
        )]
        InvalidValue {
            /// The kind's content and its form.
            expected: &'static str,
            /// What is wrong. It names members and never holds their values.
            problem: String,
        } => UnlessTested,
        /// The staged key is younger than the consumers' cache time.
        #[error("key {key} of secret {name} was staged less than the consumers' cache time ago, so some may not have it yet: rotate from {} on; or have every instance asked (TARGET_INSTANCES, without CONSUMERS_KEYRING_AWARE); or, in an emergency, tag the secret rotation:promotion=immediate", format_timestamp(*.from))]
        StagedTooYoung {
            /// The secret's name.
            name: String,
            /// The staged key.
            key: KeyId,
            /// The earliest time at which the key can be promoted.
            from: SystemTime,
        } => InCreate,
        /// Nothing proves that every server accepts the next token of a secret with staged tokens.
        #[error(
            "nothing proves that every server of secret {name} holds its next token (member {member}), so promoting it could lock clients out: nothing was written; have the function deliver bring the value to the secret's consumers (CONSUMED_SECRETS), or have every instance asked (TARGET_VERIFY_URL and TARGET_INSTANCES), then run rotate-secret again"
        )]
        NextTokenUnproven {
            /// The secret's name.
            name: String,
            /// The member with the next token.
            member: String,
        } => InCreate,
        /// A consumer of the secret does not have the current value yet.
        #[error("secret {name} is not delivered to all its consumers since {}: nothing was revoked, so that no consumer is locked out, and only a compromise has replaced the value; `rotation deliver {name}` says what is missing, then do this again", format_timestamp(*.since))]
        NotDelivered {
            /// The secret's name.
            name: String,
            /// Since when.
            since: SystemTime,
        } => InCreate,
        /// Keys are missing from the ring because another writer took them out.
        #[error("keys {} of secret {name} are missing: version {version} holds them (stage ROTATION-RING) and AWSCURRENT does not, so that what they encrypted cannot be read. Most often infrastructure code has written the first value again: have it leave the value alone (Terraform: `lifecycle {{ ignore_changes = [secret_string] }}`), then put the keys back with the action restore of operate. If they are gone on purpose, the action forget says so. Until then nothing is rotated", list(.keys))]
        KeysMissing {
            /// The secret's name.
            name: String,
            /// The version that holds the keys.
            version: VersionId,
            /// The missing keys.
            keys: Vec<KeyId>,
        } => UnlessTested,
        /// The secret has too few free staging labels for this rotation.
        #[error(
            "secret {name} uses {used} of its 20 staging labels, and {needed} more are needed: nothing was written. A sweep takes away those that actions left behind that died; what else nobody needs, see DescribeSecret, comes off with `aws secretsmanager update-secret-version-stage --secret-id {name} --version-stage LABEL --remove-from-version-id VERSION`. Never take ROTATION-ISSUED or ROTATION-ISSUING off: a credential would stay alive that nobody remembers; `rotation revoke {name}` ends them"
        )]
        TooFewStages {
            /// The secret's name.
            name: String,
            /// How many the secret uses.
            used: usize,
            /// How many more are needed.
            needed: usize,
        } => UnlessTested,
        /// The version with the last complete ring is unreadable, so a check for missing keys is impossible.
        #[error(
            "version {version} of secret {name} (stage ROTATION-RING) is no keyring of this format ({reason}), so that nothing tells whether keys are missing: if format or member were changed on purpose, the action forget of operate marks the current ring instead"
        )]
        MarkedRingUnreadable {
            /// The secret's name.
            name: String,
            /// The version with the last complete ring.
            version: VersionId,
            /// Why the version is unreadable.
            reason: Box<RotationError>,
        } => UnlessTested,
        /// No proof exists that consumers can decrypt with the keys of the new ring.
        #[error("a new primary key would make data unreadable for consumers that do not read the whole keyring: {problem}")]
        ConsumersUnproven {
            /// What is missing, and what to do.
            problem: String,
        },
        /// A proof of the pending ring failed: for one, it must decrypt what the current ring encrypts.
        #[error(
            "the keyring failed its proof: {problem}; a pending version is given up: run rotate-secret again, and report it if it happens again"
        )]
        KeyringUnproven {
            /// Which proof failed.
            problem: String,
        } => Always,
        /// The function could not read the credential for the target.
        #[error("the credential for the target could not be read from secret {secret}: {reason}")]
        CredentialUnavailable {
            /// The other secret.
            secret: String,
            /// Why.
            reason: Box<RotationError>,
        },
        /// The archive has no room for another key.
        #[error(
            "it would have {bytes} bytes and Secrets Manager takes 65536; it holds every key that became current, and lets go only of those that were retired KEY_ARCHIVE_RETENTION ago: take out the entries that are in no ring and that no backup needs, or name an empty secret in KEY_ARCHIVE_SECRET and keep this one; nothing was written"
        )]
        ArchiveFull {
            /// The size it would have.
            bytes: usize,
        },
        /// A key could not be written to the archive, or not be read back from it.
        #[error("the archive of keys, secret {secret}, cannot be used: {reason}")]
        ArchiveUnavailable {
            /// The archive.
            secret: String,
            /// Why.
            reason: Box<RotationError>,
        },
        /// The value of the archive has an unknown form, so the function does not overwrite it.
        #[error("its value is not as a rotation writes it: {problem}")]
        InvalidArchive {
            /// What is wrong with it.
            problem: String,
        },
        /// A version has no value where the step needs one.
        #[error(
            "version {version} has no value: if it is AWSPENDING, createSecret did not finish; run rotate-secret again"
        )]
        ValueMissing {
            /// The version.
            version: VersionId,
        },
        /// The invocation has too little time left to promote, verify and put the old value back.
        #[error("{} s are left and promoting needs {} s, so that a bad value can be put back: raise the function's timeout, or lower TARGET_TIMEOUT (of an issued credential ISSUER_TIMEOUT)", .left.as_secs(), .needed.as_secs_f64().ceil())]
        TimeTooShort {
            /// What is left.
            left: Duration,
            /// What is needed.
            needed: Duration,
        },
        /// The value is a JSON object, and no setting names the member to rotate.
        #[error(
            "the value is a JSON object, or looks like broken JSON: name the member to rotate with the tag rotation:field (or ROTATION_FIELD); rotating the whole value would destroy the other members"
        )]
        FieldNotChosen,
        /// A setting names a member, and the value is not a JSON object.
        #[error(
            "the value is not a JSON object ({problem}), so it has no member {field}: store a JSON object, or remove the tag rotation:field"
        )]
        NotAnObject {
            /// The member that was asked for.
            field: String,
            /// The value's shape.
            problem: &'static str,
        },
        /// The JSON secret lacks the member.
        #[error("the JSON value has no member {field}: add it, or correct the tag rotation:field (of an issued credential rotation:fields)")]
        FieldMissing {
            /// The member.
            field: String,
        },
        /// The member of the JSON secret is not a string, or is empty.
        #[error("member {field} of the JSON value is {problem}: expected a string that is not empty")]
        FieldNotText {
            /// The member.
            field: String,
            /// What it is.
            problem: &'static str,
        },
        /// The member occurs more than once in the JSON secret.
        #[error(
            "member {field} stands more than once in the JSON value: readers differ in which one they take; remove all but one"
        )]
        FieldRepeated {
            /// The member.
            field: String,
        },
        /// The current text value is empty.
        #[error(
            "the current value is empty: store a value, or run `aws secretsmanager rotate-secret`, which fills an empty JSON object where the secret never had another value"
        )]
        EmptyValue,
        /// An empty object replaced an earlier value.
        #[error(
            "the value of secret {name} is an empty object, and version {} had {}: nothing was written; put it back with `aws secretsmanager update-secret-version-stage --secret-id {name} --version-stage AWSCURRENT --remove-from-version-id {current} --move-to-version-id {}`, and have whatever writes the first value again leave it alone",
            .previous.as_ref().map_or("before it", VersionId::as_str),
            if .lost.is_empty() { "another value".to_owned() } else { .lost.join(", ") },
            .previous.as_ref().map_or("…", VersionId::as_str)
        )]
        ValueLost {
            /// The secret's name.
            name: String,
            /// The version with the empty object.
            current: VersionId,
            /// The members that are missing.
            lost: Vec<String>,
            /// The version that holds the missing members, if its staging label says so.
            previous: Option<VersionId>,
        } => UnlessTested,
        /// The new value is longer than Secrets Manager accepts.
        #[error(
            "the new value would have {bytes} bytes and Secrets Manager takes 65536: remove members that need not be in this secret, and retire keys that no row needs; nothing was written"
        )]
        ValueTooLarge {
            /// The size it would have.
            bytes: usize,
        },
        /// The pending value would rotate nothing: its token or keyring is already current.
        #[error(
            "version {version} holds the token or keyring that is already current, so nothing would be rotated: it was given up; run rotate-secret again"
        )]
        ValueUnchanged {
            /// The version.
            version: VersionId,
        } => Always,
        /// The application did not answer, or answered with server errors only.
        #[error(
            "the target did not answer {operation} in time ({problem}): check the application, its DNS name, and this function's subnets and security groups"
        )]
        TargetUnavailable {
            /// `refresh` or `verify`.
            operation: &'static str,
            /// The last failure.
            problem: String,
        },
        /// The application answered with a status that no retry changes.
        #[error("the target answered {operation} with status {status}: check TARGET_{}_URL", .operation.to_uppercase())]
        TargetFailed {
            /// `refresh` or `verify`.
            operation: &'static str,
            /// The HTTP status.
            status: u16,
        },
        /// The application redirects. The function never sends a token to the address of a redirect.
        #[error("the target answered {operation} with a redirect ({status}): a token is never sent to a place that an answer names; set TARGET_{}_URL to the final address", .operation.to_uppercase())]
        TargetRedirects {
            /// `refresh` or `verify`.
            operation: &'static str,
            /// The HTTP status.
            status: u16,
        },
        /// The application refuses a refresh with every token that the rotation may send.
        #[error(
            "the target refused the refresh with every token that it may know: does it read that secret, and is the header right (TARGET_HEADER)?"
        )]
        RefreshRefused,
        /// The application refuses the token that it should accept.
        #[error("the target refuses the {which} token{hint}")]
        TargetRefused {
            /// `pending`, `next`, `new` or `current`.
            which: &'static str,
            /// What to do.
            hint: &'static str,
        },
        /// The application accepts a random token.
        #[error(
            "the target accepts a random token, so its answer proves nothing: TARGET_VERIFY_URL must name an endpoint that requires the admin token"
        )]
        TargetAcceptsAnyToken,
        /// The application accepts a token that it should refuse.
        #[error(
            "the target still accepts a token that was revoked: does it read this secret, has every instance loaded it, and is TARGET_REFRESH_URL set? An instance that is not told drops the token when its cache expires"
        )]
        TargetAcceptsRevoked,
        /// Fewer instances answered than `TARGET_INSTANCES` says.
        #[error(
            "{seen} of {expected} instances answered {operation} in time: a missing one would not know the new value until its cache expires; check it, or correct TARGET_INSTANCES (answers without an instance id count as one)"
        )]
        InstanceMissing {
            /// `refresh` or `verify`.
            operation: &'static str,
            /// The number of distinct instance ids in the answers.
            seen: usize,
            /// `TARGET_INSTANCES`.
            expected: usize,
        },
        /// The verification after promotion failed.
        #[error("the promoted version {version} did not verify ({reason}); {restored}")]
        VerificationFailed {
            /// The version that failed.
            version: VersionId,
            /// Why.
            reason: Box<RotationError>,
            /// Whether the previous version is back.
            restored: Restored,
        },
        /// The issuer of a credential failed, or the credential did.
        #[error(transparent)]
        Issuer(#[from] IssuerError),
        /// A call to Secrets Manager failed.
        #[error(transparent)]
        Store(#[from] StoreError),
        /// The operating system gave no randomness.
        #[error("the operating system gave no randomness: nothing was changed, Secrets Manager will repeat the rotation")]
        NoRandomness,
    }
}

impl RotationError {
    /// The stable name: `errorType` of the invocation, `ErrorType` of the metric. It is the name of the variant, unless
    /// this method names another.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Keyring(_) => "KeyringInvalid",
            Self::VerificationFailed { restored, .. } if restored.leaves_failed_value() => "RollbackFailed",
            Self::Store(error) => error.name(),
            Self::Issuer(error) => error.name(),
            other => other.variant(),
        }
    }

    /// The steps in which the rotation must give its own pending version up.
    pub(crate) fn gives_up_pending(&self) -> GivesUp {
        match self {
            Self::Issuer(error) => error.gives_up_pending(),
            other => other.annotation(),
        }
    }
}
